/*
 * Memory that the two ends of a connection on one machine share, for bulk. It belongs to the caller, who made it: for a
 * call with a large payload, or room for a large reply, the caller sets a place in it aside until the reply has come. The
 * request names the place; the payload lies there, and so may the reply's. So nothing but payloads is in the area: headers,
 * and who may write where and when, stay on the socket and in each end's own memory.
 *
 * An end believes nothing that it finds there. It copies a payload to its own memory first and checks the copy, and where
 * a place is and how long comes from a header that was verified, or from its own books. The area's size is sealed, so that
 * no peer can make it shorter under a reader.
 */
#ifndef NET_AREA_H
#define NET_AREA_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "fathom/status.h"

enum {
    // What a place is a multiple of: large enough that a place is found in a few steps, small enough that the payloads of
    // NET_AREA_PAYLOAD_MIN do not waste more than half of it.
    NET_AREA_GRANULE = 64 << 10,
    // Payloads from here on go through the area; for smaller ones the socket is as fast. Measured by bench_net.
    NET_AREA_PAYLOAD_MIN = 32 << 10,
    // What an end accepts, 64 MiB: an address range, not memory, until it is used.
    NET_AREA_GRANULES_MAX = 1024,
};

struct net_place {
    uint16_t first, count; // granules; count 0: none
};

struct net_area {
    uint8_t *bytes;
    uint32_t granules;
    uint64_t used[NET_AREA_GRANULES_MAX / 64]; // the caller's book of places: a bit each
};

// Makes an area; out_fd is for the peer, and may be closed once it was sent. FM_ERR_UNAVAILABLE where the system has none,
// FM_ERR_NOMEM.
FM_MUST_USE fm_status fm_net_area_new(uint32_t granules, struct net_area **out_area, int *out_fd);
// Maps what a peer sent, which must be of that size, sealed, and of ordinary memory. FM_ERR_FORMAT, FM_ERR_NOMEM.
FM_MUST_USE fm_status fm_net_area_map(int fd, uint32_t granules, struct net_area **out_area);
void fm_net_area_free(struct net_area *area);

// Sets a place of `bytes` aside, the lowest that there is, so that few pages are used and those are warm. None when the
// area is full or too small.
struct net_place fm_net_area_take(struct net_area *area, size_t bytes);
void fm_net_area_give_back(struct net_area *area, struct net_place place);

static inline size_t net_place_bytes(struct net_place place)
{
    return (size_t)place.count * NET_AREA_GRANULE;
}

// Copies a payload to its place, and continues its CRC32C if `crc` is not NULL.
void fm_net_area_put(const struct net_area *area, struct net_place place, const struct iovec *pieces,
                     size_t count, uint32_t *crc);
// Copies the first bytes of a place to `landing`, and returns the CRC32C of the copy.
uint32_t fm_net_area_get(const struct net_area *area, struct net_place place, void *landing, size_t bytes);

#endif
