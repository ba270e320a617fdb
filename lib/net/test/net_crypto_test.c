#include "fm_test.h"

#include "net_crypto.h"

static const char text[] = "The quick brown fox jumps over the lazy dog";

static void count_up(uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)i;
}

// Expected values come from an implementation of AES, GHASH, HMAC and HKDF that shares nothing with OpenSSL,
// and that reproduces the published test vectors of SP 800-38D.
static void tags_are_gmac_by_frame_and_part(void **state)
{
    (void)state;
    static const uint8_t expected[4][NET_TAG_BYTES] = {
        {0xd5, 0xd4, 0xfe, 0x7a, 0xc6, 0xfc, 0xcd, 0x23, 0x99, 0xf1, 0x9f, 0x3d, 0x7a, 0x8c, 0xf2, 0xa3},
        {0x72, 0x1f, 0xb1, 0xaf, 0xc1, 0x66, 0x2b, 0x4a, 0xf2, 0xa2, 0xf2, 0x82, 0x5b, 0x6d, 0x87, 0x34},
        {0x11, 0xd7, 0x90, 0xcf, 0x31, 0x28, 0x4c, 0x1c, 0x3d, 0xa1, 0x4c, 0x7f, 0x32, 0x3b, 0xca, 0x4b},
        {0x1e, 0x76, 0x93, 0xce, 0x8e, 0x64, 0xf8, 0xe5, 0x01, 0x14, 0xb9, 0x41, 0x4d, 0x41, 0x59, 0x82},
    };
    uint8_t key[NET_SEAL_KEY_BYTES];
    count_up(key, sizeof key);
    fm_net_seal *seal;
    assert_ok(fm_net_seal_new(key, (const uint8_t *)"salt", &seal));
    uint8_t tag[NET_TAG_BYTES];
    for (int i = 0; i < 4; i++) {
        fm_net_seal_begin(seal, i % 2 ? NET_PART_PAYLOAD : NET_PART_HEAD);
        // In pieces of growing size, which must not matter.
        for (size_t at = 0, piece = 1; at < sizeof text - 1; at += piece, piece += 3) {
            size_t left = sizeof text - 1 - at;
            fm_net_seal_update(seal, text + at, left < piece ? left : piece);
        }
        assert_ok(fm_net_seal_end(seal, tag));
        assert_memory_equal(tag, expected[i], sizeof tag);
        if (i == 1) {
            fm_net_seal_advance(seal);
            fm_net_seal_advance(seal);
        }
    }
    fm_net_seal_free(seal);
    fm_net_seal_free(NULL);
}

static void hmac_and_hkdf(void **state)
{
    (void)state;
    static const uint8_t mac[NET_HASH_BYTES] = {
        0xf8, 0x7a, 0xd2, 0x56, 0x15, 0x1f, 0xc7, 0xb4, 0xc5, 0xdf, 0xfa, 0x4a, 0xdb, 0x3e, 0xbe, 0x91,
        0x1a, 0x8e, 0xeb, 0x8a, 0x8e, 0xbd, 0xee, 0x3c, 0x2a, 0x4a, 0x8e, 0x5f, 0x5e, 0xc0, 0x2c, 0x32};
    static const uint8_t derived[36] = {0x64, 0xcc, 0x2a, 0x23, 0xb7, 0xa1, 0xda, 0x43, 0x10,
                                        0x42, 0x03, 0x50, 0x40, 0x5f, 0xdf, 0x5d, 0x63, 0x2c,
                                        0xb9, 0xbd, 0xa3, 0x70, 0x0d, 0x75, 0x3e, 0x96, 0xcb,
                                        0xcf, 0xeb, 0x81, 0xd4, 0x49, 0x62, 0x59, 0xe7, 0x07};
    uint8_t key[NET_HASH_BYTES];
    uint8_t out[36];
    count_up(key, sizeof key);
    const struct net_bytes pieces[] = {{text, 10}, {text + 10, 0}, {text + 10, sizeof text - 11}};
    assert_ok(fm_net_crypto_hmac(key, pieces, 3, out));
    assert_memory_equal(out, mac, sizeof mac);
    assert_ok(fm_net_crypto_hkdf(key, "salt", 4, "info", out, sizeof out));
    assert_memory_equal(out, derived, sizeof derived);
}

static void comparing_and_clearing(void **state)
{
    (void)state;
    uint8_t a[40];
    uint8_t b[40];
    assert_ok(fm_net_crypto_random(a, sizeof a));
    assert_ok(fm_net_crypto_random(b, sizeof b));
    assert_false(fm_net_crypto_equal(a, b, sizeof a)); // 2^-320
    memcpy(b, a, sizeof a);
    assert_true(fm_net_crypto_equal(a, b, sizeof a));
    b[39] ^= 1;
    assert_false(fm_net_crypto_equal(a, b, sizeof a));
    fm_net_crypto_clear(a, sizeof a);
    for (size_t i = 0; i < sizeof a; i++)
        assert_int_equal(a[i], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tags_are_gmac_by_frame_and_part),
        cmocka_unit_test(hmac_and_hkdf),
        cmocka_unit_test(comparing_and_clearing),
    };
    return fm_test_run("net.crypto", tests);
}
