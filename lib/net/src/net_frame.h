/*
 * The wire format, version 1. A connection is a handshake (net_shake.h) and then frames, each
 *
 *     | header, 80 bytes | args | payload |
 *
 * with nothing between or behind. All numbers are little-endian.
 *
 *     OFFSET  SIZE  FIELD
 *          0     4  magic: "FMN" and 0xF5 (not ASCII, not valid UTF-8: no text protocol begins so)
 *          4     1  version that the handshake agreed on
 *          5     1  kind: 1 request, 2 reply
 *          6     2  flags: 1 (reply with a negative status): args are the text of an error; 2: the payload lies in the
 *                   call's place in the shared area (net_area.h) and not behind the args; others 0
 *          8     8  id: chosen by the caller, not in use by another outstanding call; a reply repeats it
 *         16     4  request: method; reply: status, two's complement, 0 or negative
 *         20     4  bytes of args
 *         24     4  bytes of payload; 0 in a reply with a negative status
 *         28     4  CRC32C of the payload; 0 when it is empty
 *         32     8  request: microseconds that its caller still waits, 0 for ever; reply: 0
 *         40    16  tag of the payload; 0 when it is empty or the connection is not keyed
 *         56     2  request: first granule of the call's place in the shared area; otherwise 0
 *         58     2  request: granules of the place, 0 when it has none; otherwise 0
 *         60     4  CRC32C of bytes 0..59 and of the args
 *         64    16  tag of bytes 0..63 and of the args; 0 when the connection is not keyed
 *         80
 *
 * The tag of a payload lies in the header and so is covered by the header's: a receiver verifies header and
 * args before it acts on either, and the payload before it hands it on. A payload in the shared area has no tag: who
 * could change it is a process of the same user, who could as well read the key, and its CRC is in the header.
 */
#ifndef NET_FRAME_H
#define NET_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#include "net_area.h"
#include "net_crypto.h"

enum {
    NET_FRAME_BYTES = 80,
    NET_VERSION = 1,
    // A receiver must hold a header and its args at once; its stage has 64 KiB.
    NET_ARGS_BYTES_LIMIT = 32 << 10,
    NET_PAYLOAD_BYTES_LIMIT = 1 << 30,
};

enum net_kind {
    NET_REQUEST = 1,
    NET_REPLY = 2,
};

enum {
    NET_FLAG_MESSAGE = 1,
    NET_FLAG_SHARED = 2,
};

struct net_frame {
    uint8_t kind;
    uint16_t flags;
    uint64_t id;
    uint32_t code; // method or status
    uint32_t args_bytes;
    uint32_t payload_bytes;
    uint32_t payload_crc;
    uint64_t timeout_us;
    struct net_place place; // request
    uint8_t payload_tag[NET_TAG_BYTES];
};

// Whether the payload follows on the socket.
static inline int net_frame_has_payload_behind(const struct net_frame *frame)
{
    return frame->payload_bytes != 0 && !(frame->flags & NET_FLAG_SHARED);
}

// What a receiver lets through.
struct net_frame_limits {
    uint8_t kind; // the one kind that this end receives
    uint32_t args_bytes_max;
    uint32_t payload_bytes_max;
    uint32_t granules; // of the shared area; 0: there is none
};

// Writes a header, and advances the seal to the next frame. `seal` is NULL on a connection that is not keyed.
// FM_ERR_INTERNAL when OpenSSL fails.
FM_MUST_USE fm_status fm_net_frame_encode(const struct net_frame *frame, const void *args, fm_net_seal *seal,
                                          uint8_t out_bytes[NET_FRAME_BYTES]);
// Reads and checks what can be checked before the args are there. FM_ERR_FORMAT, FM_ERR_VERSION,
// FM_ERR_LIMIT.
FM_MUST_USE fm_status fm_net_frame_decode(const uint8_t bytes[NET_FRAME_BYTES],
                                          const struct net_frame_limits *limits, struct net_frame *out_frame);
// Checks the CRC and the tag over header and args; does not advance the seal. FM_ERR_FORMAT, FM_ERR_NET_AUTH.
FM_MUST_USE fm_status fm_net_frame_verify(const uint8_t bytes[NET_FRAME_BYTES], const void *args,
                                          size_t args_bytes, fm_net_seal *seal);

// Continues the CRC of a payload, which it returns, and the tag that was begun, over the next bytes.
uint32_t fm_net_frame_digest(uint32_t crc, fm_net_seal *seal, const void *bytes, size_t size);

#endif
