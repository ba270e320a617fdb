#include "fm_test.h"

#include "fathom/fs_kvcache.h"

static void assert_key(const fm_fs_kvcache_key *key, const char *hex)
{
    char text[65];
    for (int i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", key->bytes[i]);
    assert_string_equal(text, hex);
}

// The expected digests are those of another implementation of SHA-256.
static void keys_are_sha256_of_parent_and_block(void **state)
{
    (void)state;
    static const struct {
        size_t size;
        const char *hex;
    } cases[] = {
        {0, "e68b0c72b1aff9488294900ba6cc1e99075122a8d0c122eb42da506f9c2321a4"},
        {23, "b0943fe5106cf49bfb0d701381d1dadcd8f4ddfbc98a0835d492a3a3676194e7"},
        {24, "00404de7c352c1c6645254ba3adeb78c34835c0afd08218df5e384b630db0a22"},
        {31, "7c8ced99f3d4aaf55a0feb6b4c3dbd70f1614495c7e91a8fb0fc0fb0a8912bc9"},
        {32, "c0a0918c5af61b09df72588abb71856d25ef6b443574e2a7feae17d1d48f6cb7"},
        {33, "07cede398c896d79ccc30df7ea1ef3bc6b68deddbb29dcb3f75438c4a5f765a4"},
        {200, "9a7f54a7b31391d99468861df2da429724c829e4c921eb03c0d733eb7333b42a"},
    };
    fm_fs_kvcache_key first;
    uint8_t block[200];
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (uint8_t)(7 * i);
    fm_fs_kvcache_key_next(NULL, "abc", 3, &first);
    assert_key(&first, "365aa7d8f7f9402c4b9434502b4cc89ddb09fe50d7cd95b493b834c62d5a5370");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_fs_kvcache_key key;
        fm_fs_kvcache_key_next(&first, block, cases[i].size, &key);
        assert_key(&key, cases[i].hex);
        key = first; // in place
        fm_fs_kvcache_key_next(&key, block, cases[i].size, &key);
        assert_key(&key, cases[i].hex);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keys_are_sha256_of_parent_and_block)};
    return fm_test_run("kvcache_key", tests);
}
