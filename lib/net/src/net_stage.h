// The receiving half of a connection: bytes in, frames out. Pure state, no I/O: what a socket and a fuzzer
// drive alike.
#ifndef NET_STAGE_H
#define NET_STAGE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "fathom/status.h"

#include "net_frame.h"

enum {
    // One receive takes in many small messages. More would cost bulk: what lies here is copied once more.
    NET_STAGE_BYTES = 64 << 10,
};

enum net_stage_event {
    NET_STAGE_MORE, // nothing until more bytes come
    NET_STAGE_HEAD, // `frame` and `args` are valid until the next step; land its payload, if one follows
    NET_STAGE_END,  // the payload of `frame` is complete and checked, or skipped
};

/*
 *     bytes:  | done with | begin ... a partial header, or frames not looked at yet ... end | free |
 *
 * `bytes` may be taken away while begin == end and given back before the next receive: idle connections need
 * no stage.
 */
struct net_stage {
    uint8_t *bytes; // NET_STAGE_BYTES
    uint32_t begin, end;
    struct net_frame_limits limits;
    fm_net_seal *seal; // NULL: not keyed

    struct net_frame frame;
    const uint8_t *args;
    int in_payload;
    uint8_t *landing; // NULL: skip the payload
    uint32_t landed;  // bytes of the payload received
    uint32_t crc;
};

// Where the next receive should put its bytes; returns the number of pieces. Only after a step gave
// NET_STAGE_MORE.
int fm_net_stage_space(struct net_stage *stage, struct iovec out_pieces[2]);
// That many bytes were put there.
void fm_net_stage_received(struct net_stage *stage, size_t size);
// The next event. FM_ERR_FORMAT, FM_ERR_VERSION, FM_ERR_LIMIT, FM_ERR_NET_AUTH end the connection.
FM_MUST_USE fm_status fm_net_stage_step(struct net_stage *stage, enum net_stage_event *out_event);
// After NET_STAGE_HEAD of a frame with a payload, before the next step: payload_bytes of memory, or NULL to
// skip it.
void fm_net_stage_land(struct net_stage *stage, void *landing);

#endif
