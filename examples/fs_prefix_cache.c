// What a server of a language model keeps of prompts it has seen: blocks by the hash of the tokens up to their end. Run it
// twice: the second time it finds what the first one put.
//
//     fs_prefix_cache [DIR]        DIR is made when it is missing; default fs-prefix-cache
#include <stdio.h>
#include <string.h>

#include "fathom/fs_kvcache.h"

enum { TOKENS = 256, BLOCK_TOKENS = 64, BLOCKS = TOKENS / BLOCK_TOKENS, BLOCK_BYTES = 4096 };

static fm_status serve(fm_fs_kvcache *cache)
{
    int tokens[TOKENS];
    unsigned char block[BLOCK_BYTES];
    fm_fs_kvcache_key keys[BLOCKS];
    size_t known;
    for (int i = 0; i < TOKENS; i++)
        tokens[i] = i * i;
    for (int i = 0; i < BLOCKS; i++)
        fm_fs_kvcache_key_next(i ? &keys[i - 1] : NULL, tokens + BLOCK_TOKENS * i,
                               BLOCK_TOKENS * sizeof *tokens, &keys[i]);
    FM_TRY(fm_fs_kvcache_match(cache, keys, BLOCKS, &known));
    for (size_t i = 0; i < known; i++) {
        size_t size;
        FM_TRY(fm_fs_kvcache_get(cache, &keys[i], block, sizeof block, &size));
    }
    for (size_t i = known; i < BLOCKS; i++) {
        memset(block, (int)i, sizeof block); // what the model would compute
        FM_TRY(fm_fs_kvcache_put(cache, &keys[i], block, sizeof block));
    }
    printf("%zu of %d blocks were known\n", known, BLOCKS);
    return FM_OK;
}

int main(int argc, char **argv)
{
    fm_fs *fs;
    fm_fs_kvcache *cache;
    const fm_fs_kvcache_options options = {.size = sizeof options, .bytes_max = 64 << 20};
    fm_status status = fm_fs_open(argc > 1 ? argv[1] : "fs-prefix-cache", FM_FS_CREATE, &fs);
    if (status == FM_OK) {
        status = fm_fs_kvcache_open(fs, "kv", &options, &cache);
        if (status == FM_OK) {
            status = serve(cache);
            fm_fs_kvcache_close(cache);
        }
        fm_fs_close(fs);
    }
    if (status < 0)
        fprintf(stderr, "fs_prefix_cache: %s\n", fm_error_message());
    return status < 0;
}
