#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/crc.h"

#include "net_stage.h"

enum { FRAMES = 12, WIRE_BYTES = 1 << 20 };

// A stream of frames as a caller would send them, and what they carry.
struct stream {
    uint8_t *wire;
    size_t size;
    struct net_frame frames[FRAMES];
    size_t args_at[FRAMES];
    size_t payload_at[FRAMES];
    size_t end_at[FRAMES];
    int skipped[FRAMES];
};

static fm_net_seal *new_seal(void)
{
    uint8_t key[NET_SEAL_KEY_BYTES] = {9};
    fm_net_seal *seal;
    assert_ok(fm_net_seal_new(key, (const uint8_t *)"wxyz", &seal));
    return seal;
}

static void append(struct stream *stream, int i, fm_gen *gen, fm_net_seal *seal)
{
    struct net_frame *frame = &stream->frames[i];
    *frame = (struct net_frame){.kind = NET_REQUEST,
                                .id = (uint64_t)i,
                                .args_bytes = (uint32_t)fm_gen_size(gen, 0, NET_ARGS_BYTES_LIMIT),
                                .payload_bytes = (uint32_t)fm_gen_size(gen, 0, 40000)};
    stream->skipped[i] = fm_gen_chance(gen, 0.2);
    uint8_t *head = stream->wire + stream->size;
    stream->args_at[i] = stream->size + NET_FRAME_BYTES;
    stream->payload_at[i] = stream->args_at[i] + frame->args_bytes;
    stream->size = stream->end_at[i] = stream->payload_at[i] + frame->payload_bytes;
    fm_gen_fill(gen, head + NET_FRAME_BYTES, stream->size - stream->args_at[i]);
    const uint8_t *payload = stream->wire + stream->payload_at[i];
    frame->payload_crc = fm_base_crc32c(0, payload, frame->payload_bytes);
    if (seal && frame->payload_bytes) {
        fm_net_seal_begin(seal, NET_PART_PAYLOAD);
        fm_net_seal_update(seal, payload, frame->payload_bytes);
        assert_ok(fm_net_seal_end(seal, frame->payload_tag));
    }
    assert_ok(fm_net_frame_encode(frame, head + NET_FRAME_BYTES, seal, head));
}

static struct stream new_stream(fm_gen *gen, fm_net_seal *seal)
{
    struct stream stream = {.wire = fm_base_mem_alloc(WIRE_BYTES)};
    assert_non_null(stream.wire);
    for (int i = 0; i < FRAMES; i++)
        append(&stream, i, gen, seal);
    return stream;
}

static void begin_stage(struct net_stage *stage, fm_net_seal *seal)
{
    *stage = (struct net_stage){.limits = {NET_REQUEST, NET_ARGS_BYTES_LIMIT, 40000, 0}, .seal = seal};
    stage->bytes = fm_base_mem_alloc(NET_STAGE_BYTES);
    assert_non_null(stage->bytes);
}

// Feeds the wire in pieces of any size; counts frames that ended, and fills `landings` with what landed.
static fm_status feed(struct net_stage *stage, const struct stream *stream, fm_gen *gen, int *out_frames)
{
    static uint8_t landing[40000];
    *out_frames = 0;
    for (size_t at = 0; at < stream->size;) {
        struct iovec pieces[2];
        int count = fm_net_stage_space(stage, pieces);
        size_t want = (size_t)fm_gen_size(gen, 1, 100000);
        size_t given = 0;
        for (int i = 0; i < count && given < want && at < stream->size; i++) {
            size_t size = want - given < pieces[i].iov_len ? want - given : pieces[i].iov_len;
            size = size < stream->size - at ? size : stream->size - at;
            memcpy(pieces[i].iov_base, stream->wire + at, size);
            at += size;
            given += size;
        }
        fm_net_stage_received(stage, given);
        for (;;) {
            enum net_stage_event event;
            FM_TRY(fm_net_stage_step(stage, &event));
            if (event == NET_STAGE_MORE)
                break;
            int i = *out_frames;
            assert_true(stage->frame.id == (uint64_t)i);
            if (event == NET_STAGE_HEAD) {
                assert_int_equal(stage->frame.payload_bytes, stream->frames[i].payload_bytes);
                assert_memory_equal(stage->args, stream->wire + stream->args_at[i], stage->frame.args_bytes);
                if (stage->frame.payload_bytes)
                    fm_net_stage_land(stage, stream->skipped[i] ? NULL : landing);
            } else if (!stream->skipped[i]) {
                assert_memory_equal(landing, stream->wire + stream->payload_at[i],
                                    stage->frame.payload_bytes);
            }
            if (event == NET_STAGE_END || stage->frame.payload_bytes == 0)
                ++*out_frames;
        }
    }
    return FM_OK;
}

static void any_pieces(fm_gen *gen)
{
    int keyed = fm_gen_chance(gen, 0.5);
    fm_net_seal *sending = keyed ? new_seal() : NULL;
    fm_net_seal *receiving = keyed ? new_seal() : NULL;
    struct stream stream = new_stream(gen, sending);
    struct net_stage stage;
    int frames;
    begin_stage(&stage, receiving);
    assert_ok(feed(&stage, &stream, gen, &frames));
    assert_int_equal(frames, FRAMES);
    assert_int_equal(stage.begin, stage.end);
    fm_base_mem_free(stage.bytes);
    fm_base_mem_free(stream.wire);
    fm_net_seal_free(sending);
    fm_net_seal_free(receiving);
}

static void frames_arrive_whatever_the_pieces(void **state)
{
    (void)state;
    fm_gen_property(60, any_pieces);
}

// A changed bit stops the stream at the frame that holds it, except in a payload that nobody wanted.
static void changed_bit(fm_gen *gen)
{
    int keyed = fm_gen_chance(gen, 0.5);
    fm_net_seal *sending = keyed ? new_seal() : NULL;
    fm_net_seal *receiving = keyed ? new_seal() : NULL;
    struct stream stream = new_stream(gen, sending);
    int hit = (int)fm_gen_int(gen, 0, FRAMES - 1);
    size_t begin = hit ? stream.end_at[hit - 1] : 0;
    size_t end = stream.skipped[hit] ? stream.payload_at[hit] : stream.end_at[hit];
    stream.wire[begin + (size_t)fm_gen_int(gen, 0, (int64_t)(end - begin) - 1)] ^=
        (uint8_t)(1 << fm_gen_int(gen, 0, 7));
    struct net_stage stage;
    int frames;
    begin_stage(&stage, receiving);
    fm_status status = feed(&stage, &stream, gen, &frames);
    // A length that grew may also wait for bytes that do not come.
    assert_true(status < 0 || stage.begin != stage.end);
    assert_int_equal(frames, hit);
    fm_base_mem_free(stage.bytes);
    fm_base_mem_free(stream.wire);
    fm_net_seal_free(sending);
    fm_net_seal_free(receiving);
}

static void a_changed_bit_stops_the_stream(void **state)
{
    (void)state;
    fm_gen_property(200, changed_bit);
}

// Who changes a payload can keep its CRC, which is linear, but not its tag.
static void a_change_that_keeps_the_checksum_fails_by_the_tag(void **state)
{
    (void)state;
    static const uint8_t zeros[4] = {0};
    fm_gen gen = fm_gen_seeded(1);
    for (int change = 0; change < 2; change++) {
        fm_net_seal *sending = new_seal();
        fm_net_seal *receiving = new_seal();
        struct stream stream = {.wire = fm_base_mem_alloc(WIRE_BYTES)};
        while (stream.frames[0].payload_bytes < 8 || stream.skipped[0]) {
            fm_net_seal_free(sending);
            sending = new_seal();
            stream.size = 0;
            append(&stream, 0, &gen, sending);
        }
        uint8_t *payload = stream.wire + stream.payload_at[0];
        if (change) {
            // The remainder of a difference, put behind it, makes its whole remainder 0.
            const uint8_t difference[4] = {1, 2, 3, 4};
            uint8_t remainder[4];
            fm_put_le32(remainder, fm_base_crc32c(0, difference, 4) ^ fm_base_crc32c(0, zeros, 4));
            for (int i = 0; i < 4; i++) {
                payload[i] ^= difference[i];
                payload[4 + i] ^= remainder[i];
            }
            assert_int_equal(fm_base_crc32c(0, payload, stream.frames[0].payload_bytes),
                             stream.frames[0].payload_crc);
        }
        struct net_stage stage;
        int frames;
        begin_stage(&stage, receiving);
        fm_status status = feed(&stage, &stream, &gen, &frames);
        assert_int_equal(status, change ? FM_ERR_NET_AUTH : FM_OK);
        assert_int_equal(frames, !change);
        fm_base_mem_free(stage.bytes);
        fm_base_mem_free(stream.wire);
        fm_net_seal_free(sending);
        fm_net_seal_free(receiving);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_arrive_whatever_the_pieces),
        cmocka_unit_test(a_changed_bit_stops_the_stream),
        cmocka_unit_test(a_change_that_keeps_the_checksum_fails_by_the_tag),
    };
    return fm_test_run("net.stage", tests);
}
