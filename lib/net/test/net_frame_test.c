#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/crc.h"

#include "net_frame.h"

static const struct net_frame_limits requests = {NET_REQUEST, 1000, 100000, 0};
static const struct net_frame_limits sharing[] = {{NET_REQUEST, 1000, 100000, 16},
                                                  {NET_REPLY, 1000, 100000, 16}};
static const struct net_frame_limits replies = {NET_REPLY, 1000, 100000, 0};

static fm_net_seal *new_seal(void)
{
    uint8_t key[NET_SEAL_KEY_BYTES] = {1, 2, 3};
    fm_net_seal *seal;
    assert_ok(fm_net_seal_new(key, (const uint8_t *)"abcd", &seal));
    return seal;
}

static struct net_frame any_frame(fm_gen *gen)
{
    struct net_frame frame = {
        .kind = fm_gen_chance(gen, 0.5) ? NET_REQUEST : NET_REPLY,
        .id = fm_gen_u64(gen),
        .args_bytes = (uint32_t)fm_gen_size(gen, 0, 1000),
        .payload_bytes = (uint32_t)fm_gen_size(gen, 0, 100000),
    };
    if (frame.kind == NET_REQUEST) {
        frame.code = (uint32_t)fm_gen_u64(gen);
        frame.timeout_us = fm_gen_u64(gen);
    } else if (fm_gen_chance(gen, 0.5)) {
        frame.code = (uint32_t)-fm_gen_int(gen, 1, 2000);
        frame.flags = (uint16_t)fm_gen_int(gen, 0, 1);
        frame.payload_bytes = 0;
    }
    if (frame.payload_bytes) {
        frame.payload_crc = (uint32_t)fm_gen_u64(gen);
        fm_gen_fill(gen, frame.payload_tag, sizeof frame.payload_tag);
    }
    if (frame.kind == NET_REQUEST && fm_gen_chance(gen, 0.5)) {
        frame.place.count = (uint16_t)fm_gen_int(gen, 1, 16);
        frame.place.first = (uint16_t)fm_gen_int(gen, 0, 16 - frame.place.count);
    }
    if (frame.payload_bytes &&
        (frame.kind == NET_REPLY || frame.payload_bytes <= net_place_bytes(frame.place)) &&
        fm_gen_chance(gen, 0.5))
        frame.flags |= NET_FLAG_SHARED;
    return frame;
}

static void round_trip(fm_gen *gen)
{
    struct net_frame frame = any_frame(gen);
    uint8_t args[1000];
    fm_gen_fill(gen, args, frame.args_bytes);
    fm_net_seal *sending = fm_gen_chance(gen, 0.5) ? new_seal() : NULL;
    fm_net_seal *receiving = sending ? new_seal() : NULL;
    uint8_t bytes[NET_FRAME_BYTES];
    assert_ok(fm_net_frame_encode(&frame, args, sending, bytes));
    struct net_frame back;
    assert_ok(fm_net_frame_decode(bytes, &sharing[frame.kind == NET_REPLY], &back));
    assert_int_equal(back.place.first, frame.place.first);
    assert_int_equal(back.place.count, frame.place.count);
    assert_int_equal(back.kind, frame.kind);
    assert_int_equal(back.flags, frame.flags);
    assert_true(back.id == frame.id && back.timeout_us == frame.timeout_us);
    assert_int_equal(back.code, frame.code);
    assert_int_equal(back.args_bytes, frame.args_bytes);
    assert_int_equal(back.payload_bytes, frame.payload_bytes);
    assert_int_equal(back.payload_crc, frame.payload_crc);
    assert_memory_equal(back.payload_tag, frame.payload_tag, NET_TAG_BYTES);
    assert_ok(fm_net_frame_verify(bytes, args, frame.args_bytes, receiving));

    // Any one bit, in the header or the args, and it is not the same frame.
    size_t bit = (size_t)fm_gen_int(gen, 0, 8 * (int64_t)(NET_FRAME_BYTES + frame.args_bytes) - 1);
    uint8_t *byte = bit / 8 < NET_FRAME_BYTES ? &bytes[bit / 8] : &args[bit / 8 - NET_FRAME_BYTES];
    *byte ^= (uint8_t)(1 << bit % 8);
    assert_true(fm_net_frame_verify(bytes, args, frame.args_bytes, receiving) < 0);
    fm_net_seal_free(sending);
    fm_net_seal_free(receiving);
}

static void frames_round_trip(void **state)
{
    (void)state;
    fm_gen_property(500, round_trip);
}

// An attacker can mend the checksum, but not the tag.
static void changed_fields_with_a_mended_checksum_fail(void **state)
{
    (void)state;
    struct net_frame frame = {.kind = NET_REQUEST, .id = 7, .code = 3, .args_bytes = 5};
    for (size_t i = 0; i < NET_FRAME_BYTES; i++) {
        fm_net_seal *sending = new_seal();
        fm_net_seal *receiving = new_seal();
        uint8_t bytes[NET_FRAME_BYTES];
        assert_ok(fm_net_frame_encode(&frame, "hello", sending, bytes));
        bytes[i] ^= 0x10;
        uint32_t crc = fm_base_crc32c(fm_base_crc32c(0, bytes, 60), "hello", 5);
        if (i < 60 || i >= 64)
            fm_put_le32(bytes + 60, crc);
        fm_status status = fm_net_frame_verify(bytes, "hello", 5, receiving);
        assert_int_equal(status, i >= 60 && i < 64 ? FM_ERR_FORMAT : FM_ERR_NET_AUTH);
        fm_net_seal_free(sending);
        fm_net_seal_free(receiving);
    }
}

static void a_frame_is_valid_once_and_in_its_place(void **state)
{
    (void)state;
    struct net_frame frame = {.kind = NET_REQUEST, .id = 7};
    fm_net_seal *sending = new_seal();
    fm_net_seal *receiving = new_seal();
    uint8_t first[NET_FRAME_BYTES];
    uint8_t second[NET_FRAME_BYTES];
    assert_ok(fm_net_frame_encode(&frame, NULL, sending, first));
    assert_ok(fm_net_frame_encode(&frame, NULL, sending, second));
    assert_fails(fm_net_frame_verify(second, NULL, 0, receiving), FM_ERR_NET_AUTH, "tag"); // one was dropped
    assert_ok(fm_net_frame_verify(first, NULL, 0, receiving));
    fm_net_seal_advance(receiving);
    assert_fails(fm_net_frame_verify(first, NULL, 0, receiving), FM_ERR_NET_AUTH, "tag"); // replayed
    assert_ok(fm_net_frame_verify(second, NULL, 0, receiving));
    // A keyed receiver takes nothing without a tag, one that is not keyed nothing with one.
    assert_fails(fm_net_frame_verify(first, NULL, 0, NULL), FM_ERR_NET_AUTH, "tag");
    assert_ok(fm_net_frame_encode(&frame, NULL, NULL, first));
    assert_fails(fm_net_frame_verify(first, NULL, 0, receiving), FM_ERR_NET_AUTH, "tag");
    fm_net_seal_free(sending);
    fm_net_seal_free(receiving);
}

static void the_layout_is_pinned(void **state)
{
    (void)state;
    static const uint8_t expected[NET_FRAME_BYTES] = {
        'F',  'M',  'N',  0xF5, 1,    1,    0,    0, 8, 7, 6,    5,    4,    3,
        2,    1,    0xEF, 0xBE, 0xAD, 0xDE, 2,    0, 0, 0, 0x10, 0x20, 0x30, 0,
        0x44, 0x33, 0x22, 0x11, 0x40, 0x42, 0x0F, 0, 0, 0, 0,    0,
    };
    struct net_frame frame = {.kind = NET_REQUEST,
                              .id = 0x0102030405060708,
                              .code = 0xDEADBEEF,
                              .args_bytes = 2,
                              .payload_bytes = 0x302010,
                              .payload_crc = 0x11223344,
                              .timeout_us = 1000000};
    uint8_t bytes[NET_FRAME_BYTES];
    assert_ok(fm_net_frame_encode(&frame, "ab", NULL, bytes));
    assert_memory_equal(bytes, expected, 60);
    assert_int_equal(fm_get_le32(bytes + 60), fm_base_crc32c(fm_base_crc32c(0, expected, 60), "ab", 2));
    assert_memory_equal(bytes + 64, expected + 40, 16); // zeros
}

static void bad_headers_are_told_apart(void **state)
{
    (void)state;
    struct net_frame frame = {.kind = NET_REQUEST, .args_bytes = 1000, .payload_bytes = 100000};
    struct net_frame out;
    uint8_t good[NET_FRAME_BYTES];
    uint8_t bytes[NET_FRAME_BYTES];
    uint8_t args[1000] = {0};
    assert_ok(fm_net_frame_encode(&frame, args, NULL, good));
    assert_ok(fm_net_frame_decode(good, &requests, &out));
#define WITH(offset, value) (memcpy(bytes, good, sizeof good), bytes[offset] = (value), bytes)
    assert_fails(fm_net_frame_decode(WITH(0, 'G'), &requests, &out), FM_ERR_FORMAT,
                 "no frame: begins with 47 4d 4e f5");
    assert_fails(fm_net_frame_decode(WITH(4, 2), &requests, &out), FM_ERR_VERSION, "version 2; expected 1");
    assert_fails(fm_net_frame_decode(good, &replies, &out), FM_ERR_FORMAT, "kind 1; expected 2");
    assert_fails(fm_net_frame_decode(WITH(6, 1), &requests, &out), FM_ERR_FORMAT, "flags 0x1");
    assert_fails(fm_net_frame_decode(WITH(20, 0xE9), &requests, &out), FM_ERR_LIMIT,
                 "1001 bytes of args; at most 1000");
    assert_fails(fm_net_frame_decode(WITH(27, 1), &requests, &out), FM_ERR_LIMIT,
                 "bytes of payload; at most 100000");
    assert_fails(fm_net_frame_decode(WITH(58, 1), &requests, &out), FM_ERR_FORMAT, "in a shared area of 0");
    assert_fails(fm_net_frame_decode(WITH(56, 1), &requests, &out), FM_ERR_FORMAT, "in a shared area of 0");
    assert_fails(fm_net_frame_decode(WITH(58, 17), &sharing[0], &out), FM_ERR_FORMAT, "17 granules from 0");
    assert_fails(fm_net_frame_decode(WITH(59, 0xFF), &sharing[0], &out), FM_ERR_FORMAT,
                 "in a shared area of 16");
    assert_fails(fm_net_frame_decode(WITH(56, 1), &sharing[0], &out), FM_ERR_FORMAT, "0 granules from 1");
    assert_fails(fm_net_frame_decode(WITH(6, 2), &requests, &out), FM_ERR_FORMAT, "0 shared granules");
    assert_fails(fm_net_frame_decode(WITH(6, 2), &sharing[0], &out), FM_ERR_FORMAT, "0 shared granules");
    frame.place.count = 1; // and the payload needs two
    assert_ok(fm_net_frame_encode(&frame, args, NULL, good));
    assert_ok(fm_net_frame_decode(good, &sharing[0], &out));
    assert_fails(fm_net_frame_decode(WITH(6, 2), &sharing[0], &out), FM_ERR_FORMAT, "1 shared granules");
    assert_ok(fm_net_frame_decode(WITH(58, 2), &sharing[0], &out));
    frame = (struct net_frame){.kind = NET_REPLY};
    assert_ok(fm_net_frame_encode(&frame, args, NULL, good));
    assert_ok(fm_net_frame_decode(good, &replies, &out));
    assert_fails(fm_net_frame_decode(WITH(58, 1), &sharing[1], &out), FM_ERR_FORMAT, "1 granules from 0");
    assert_fails(fm_net_frame_decode(WITH(6, 2), &sharing[1], &out), FM_ERR_FORMAT,
                 "0 bytes of payload in a place");
    assert_fails(fm_net_frame_decode(WITH(16, 1), &replies, &out), FM_ERR_FORMAT, "reply with status 1");
    assert_fails(fm_net_frame_decode(WITH(6, 1), &replies, &out), FM_ERR_FORMAT, "flags 0x1");
    assert_fails(fm_net_frame_decode(WITH(28, 1), &replies, &out), FM_ERR_FORMAT,
                 "checksum of an empty payload");
    assert_fails(fm_net_frame_decode(WITH(32, 1), &replies, &out), FM_ERR_FORMAT, "reply with status 0");
#undef WITH
    frame = (struct net_frame){.kind = NET_REPLY, .code = (uint32_t)FM_ERR_BUSY, .payload_bytes = 1};
    assert_ok(fm_net_frame_encode(&frame, args, NULL, good));
    assert_fails(fm_net_frame_decode(good, &replies, &out), FM_ERR_FORMAT,
                 "reply with status -12, 1 bytes of payload");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_round_trip),
        cmocka_unit_test(changed_fields_with_a_mended_checksum_fail),
        cmocka_unit_test(a_frame_is_valid_once_and_in_its_place),
        cmocka_unit_test(the_layout_is_pinned),
        cmocka_unit_test(bad_headers_are_told_apart),
    };
    return fm_test_run("net.frame", tests);
}
