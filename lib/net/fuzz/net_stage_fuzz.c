// Bytes of a peer through the frame decoder: first all at once, then in pieces of any size. Both must tell
// the same.
//
// Byte 0: 1 = a caller receives (replies), 2 = checksums are mended first, so that what lies behind them is
// reached, 4 = there is a shared area.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/crc.h"
#include "fathom/mem.h"
#include "fm_gen.h"

#include "net_stage.h"

enum { PAYLOAD_MAX = 4096, GRANULES = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend(uint8_t *wire, size_t size)
{
    for (size_t at = 0; size - at >= NET_FRAME_BYTES;) {
        uint8_t *head = wire + at;
        size_t args_bytes = fm_get_le32(head + 20);
        size_t payload_bytes = fm_get_le16(head + 6) & NET_FLAG_SHARED ? 0 : fm_get_le32(head + 24);
        size_t left = size - at - NET_FRAME_BYTES;
        if (args_bytes > left)
            return;
        uint8_t *payload = head + NET_FRAME_BYTES + args_bytes;
        left -= args_bytes;
        if (payload_bytes > 0 && payload_bytes <= left)
            fm_put_le32(head + 28, fm_base_crc32c(0, payload, payload_bytes));
        fm_put_le32(head + 60,
                    fm_base_crc32c(fm_base_crc32c(0, head, 60), head + NET_FRAME_BYTES, args_bytes));
        if (payload_bytes > left)
            return;
        at += NET_FRAME_BYTES + args_bytes + payload_bytes;
    }
}

// A digest of everything the stage tells about a stream that comes in pieces of at most `piece_max`.
static uint64_t digest(const uint8_t *wire, size_t size, int what, fm_gen *gen, int64_t piece_max)
{
    static uint8_t landing[PAYLOAD_MAX];
    struct net_stage stage = {
        .limits = {what & 1 ? NET_REPLY : NET_REQUEST, 1000, PAYLOAD_MAX, what & 4 ? GRANULES : 0}};
    uint64_t result = 0;
    stage.bytes = fm_base_mem_alloc(NET_STAGE_BYTES);
    if (!stage.bytes)
        abort();
    fm_status status = FM_OK;
    for (size_t at = 0; at < size && status == FM_OK;) {
        struct iovec pieces[2];
        int count = fm_net_stage_space(&stage, pieces);
        size_t want = (size_t)fm_gen_int(gen, 1, piece_max);
        size_t given = 0;
        for (int i = 0; i < count && at < size && given < want; i++) {
            size_t part = pieces[i].iov_len < want - given ? pieces[i].iov_len : want - given;
            part = part < size - at ? part : size - at;
            memcpy(pieces[i].iov_base, wire + at, part);
            at += part;
            given += part;
        }
        fm_net_stage_received(&stage, given);
        for (enum net_stage_event event = NET_STAGE_HEAD; status == FM_OK && event != NET_STAGE_MORE;) {
            status = fm_net_stage_step(&stage, &event);
            if (status < 0 || event == NET_STAGE_MORE)
                continue;
            uint32_t crc = event == NET_STAGE_HEAD ? fm_base_crc32c(0, stage.args, stage.frame.args_bytes)
                           : stage.landing         ? fm_base_crc32c(0, landing, stage.frame.payload_bytes)
                                                   : 0;
            if (event == NET_STAGE_END && crc != stage.frame.payload_crc && stage.landing)
                abort();
            result = result * 0x100000001B3u + stage.frame.id + crc + (uint64_t)event;
            if (stage.frame.place.first + stage.frame.place.count > GRANULES)
                abort();
            if (event == NET_STAGE_HEAD && net_frame_has_payload_behind(&stage.frame))
                fm_net_stage_land(&stage, stage.frame.id % 3 ? landing : NULL);
        }
    }
    fm_base_mem_free(stage.bytes);
    return result * 31 + (uint64_t)-status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    fm_gen gen = fm_gen_seeded(data[1]);
    uint8_t *wire = fm_base_mem_alloc(size);
    if (!wire)
        abort();
    memcpy(wire, data + 1, size - 1);
    if (data[0] & 2)
        mend(wire, size - 1);
    uint64_t whole = digest(wire, size - 1, data[0], &gen, INT32_MAX);
    if (digest(wire, size - 1, data[0], &gen, 1 + data[1] * 4) != whole)
        abort();
    fm_base_mem_free(wire);
    return 0;
}
