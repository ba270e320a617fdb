// `fathom fs kv ...`: the cache of attention keys and values, by hand.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "cmd_fs.h"
#include "cmd_fs_spot.h"
#include "fathom/file.h"
#include "fathom/fs_kvcache.h"
#include "fathom/mem.h"
#include "fathom/text.h"

enum {
    BLOCK_MAX = 1 << 20, // what stands for a block: tokens
    VALUE_MAX = 64 << 20
};

struct kv_options {
    const char *parent;
    int64_t bytes_max;
    double age_s;
};

#define FIELD(name) offsetof(struct kv_options, name)
#define SIZE_OPTION                                                                                \
    {                                                                                              \
        "bytes-max", FM_OPTION_SIZE, FIELD(bytes_max), .value = "16G", .min = 4096, .max = 0x1p60, \
                                                       .help = "the most that the folder may hold" \
    }

static fm_status read_key(const char *text, fm_fs_kvcache_key *out_key)
{
    size_t digits = 2 * sizeof out_key->bytes;
    if (strlen(text) != digits || strspn(text, "0123456789abcdef") != digits)
        return fm_base_error_set(FM_ERR_ARG, "'%s' is no key; expected %zu hexadecimal digits", text, digits);
    for (size_t i = 0; i < sizeof out_key->bytes; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            return fm_base_error_set(FM_ERR_ARG, "'%s' is no key", text);
        out_key->bytes[i] = (uint8_t)byte;
    }
    return FM_OK;
}

static void show_key(const fm_fs_kvcache_key *key)
{
    for (size_t i = 0; i < sizeof key->bytes; i++)
        printf("%02x", key->bytes[i]);
    printf("\n");
}

struct use {
    const fm_invocation *invocation;
    const struct kv_options *options;
    int *out_exit;
};

static fm_status with_cache(const struct use *use,
                            fm_status (*act)(fm_fs_kvcache *cache, const struct use *use))
{
    fm_cmd_spot folder;
    fm_fs_info info;
    fm_fs_kvcache *cache;
    const struct kv_options *given = use->options;
    fm_fs_kvcache_options options = {.size = sizeof options};
    if (given) {
        options.bytes_max = (uint64_t)given->bytes_max;
        options.age_max_ns = (uint64_t)(given->age_s * 1e9);
    }
    FM_TRY(fm_cmd_spot_open(&folder, use->invocation->operands[0]));
    // Only a put makes a cache; what merely looks is told that there is none.
    fm_status status = given && given->parent ? FM_OK : fm_fs_stat(folder.fs, folder.path, &info);
    if (status == FM_OK)
        status = fm_fs_kvcache_open(folder.fs, folder.path, &options, &cache);
    if (status == FM_OK) {
        status = act(cache, use);
        fm_fs_kvcache_close(cache);
    }
    fm_fs_close(folder.fs);
    return status;
}

/* stats */

static fm_status stats(fm_fs_kvcache *cache, const struct use *use)
{
    fm_fs_kvcache_info info;
    fm_fs_kvcache_info_get(cache, &info);
    if (!use->invocation->json) {
        printf("%" PRIu64 " values in %" PRIu64 " segments, %s\n", info.entries, info.segments,
               fm_base_text_bytes((double)info.bytes).text);
        return FM_OK;
    }
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_int(&json, "values", (int64_t)info.entries);
    fm_base_json_int(&json, "segments", (int64_t)info.segments);
    fm_base_json_int(&json, "bytes", (int64_t)info.bytes);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status run_stats(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    const struct use use = {invocation, NULL, out_exit};
    return with_cache(&use, stats);
}

static const fm_command stats_command = {
    .name = "stats",
    .summary = "how many values a cache holds",
    .operands = "FOLDER",
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_stats,
};

/* put */

static fm_status put(fm_fs_kvcache *cache, const struct use *use)
{
    const char *const *operands = (const char *const *)use->invocation->operands;
    fm_fs_kvcache_key parent;
    fm_fs_kvcache_key key;
    char *block;
    char *value;
    size_t block_bytes;
    size_t value_bytes;
    int has_parent = *use->options->parent != 0;
    if (has_parent)
        FM_TRY(read_key(use->options->parent, &parent));
    FM_TRY(fm_base_file_read(operands[1], BLOCK_MAX, &block, &block_bytes));
    fm_fs_kvcache_key_next(has_parent ? &parent : NULL, block, block_bytes, &key);
    fm_base_mem_free(block);
    FM_TRY(fm_base_file_read(operands[2], VALUE_MAX, &value, &value_bytes));
    fm_status status = fm_fs_kvcache_put(cache, &key, value, value_bytes);
    fm_base_mem_free(value);
    FM_TRY(status);
    show_key(&key);
    return FM_OK;
}

static fm_status run_put(const fm_invocation *invocation, const void *options, int *out_exit)
{
    const struct use use = {invocation, options, out_exit};
    return with_cache(&use, put);
}

static const fm_option put_schema[] = {
    {"parent", FM_OPTION_STRING, FIELD(parent), .value = "", .metavar = "KEY",
     .help = "of the block before it; none: it is the first"},
    SIZE_OPTION,
    {0},
};

static const fm_command put_command = {
    .name = "put",
    .summary = "store a value under the key of a block, and show the key",
    .operands = "FOLDER BLOCK VALUE",
    .details =
        "BLOCK is the file that stands for the block, its tokens for example: the key is SHA-256 over the\n"
        "parent's key and it. Room is made as it is needed.\n"
        "  fathom fs kv put /data/cluster:/kv tokens.bin keys-and-values.bin",
    .options = put_schema,
    .options_size = sizeof(struct kv_options),
    .operands_min = 3,
    .operands_max = 3,
    .run = run_put,
};

/* get, match */

static fm_status get(fm_fs_kvcache *cache, const struct use *use)
{
    fm_fs_kvcache_key key;
    size_t size;
    FM_TRY(read_key(use->invocation->operands[1], &key));
    FM_TRY(fm_fs_kvcache_size(cache, &key, &size));
    char *value = fm_base_mem_alloc(size);
    if (!value)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a value of %zu bytes", size);
    fm_status status = fm_fs_kvcache_get(cache, &key, value, size, &size);
    if (status == FM_OK && fwrite(value, 1, size, stdout) != size)
        status = fm_base_error_set(FM_ERR_IO, "writing to standard output");
    fm_base_mem_free(value);
    return status;
}

static fm_status run_get(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    const struct use use = {invocation, NULL, out_exit};
    return with_cache(&use, get);
}

static const fm_command get_command = {
    .name = "get",
    .summary = "write the value of a key to standard output",
    .operands = "FOLDER KEY",
    .operands_min = 2,
    .operands_max = 2,
    .run = run_get,
};

static fm_status match(fm_fs_kvcache *cache, const struct use *use)
{
    size_t known = 0;
    for (int i = 1; i < use->invocation->operand_count; i++) {
        fm_fs_kvcache_key key;
        size_t found;
        FM_TRY(read_key(use->invocation->operands[i], &key));
        FM_TRY(fm_fs_kvcache_match(cache, &key, 1, &found));
        if (!found)
            break;
        known++;
    }
    printf("%zu\n", known);
    return FM_OK;
}

static fm_status run_match(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    const struct use use = {invocation, NULL, out_exit};
    return with_cache(&use, match);
}

static const fm_command match_command = {
    .name = "match",
    .summary = "how many of the keys, from the first on, are there",
    .operands = "FOLDER KEY...",
    .operands_min = 2,
    .operands_max = -1,
    .run = run_match,
};

/* evict */

static fm_status evict(fm_fs_kvcache *cache, const struct use *use)
{
    fm_fs_kvcache_info before;
    fm_fs_kvcache_info after;
    (void)use;
    fm_fs_kvcache_info_get(cache, &before);
    FM_TRY(fm_fs_kvcache_trim(cache));
    fm_fs_kvcache_info_get(cache, &after);
    fprintf(stderr, "fathom: %" PRIu64 " segments of %" PRIu64 " were removed\n",
            before.segments - after.segments, before.segments);
    return FM_OK;
}

static fm_status run_evict(const fm_invocation *invocation, const void *options, int *out_exit)
{
    const struct use use = {invocation, options, out_exit};
    return with_cache(&use, evict);
}

static const fm_option evict_schema[] = {
    {"age", FM_OPTION_REAL, FIELD(age_s), .required = 1, .unit = "s", .min = 1e-9, .max = 1e9,
     .help = "remove what was not put for so long"},
    SIZE_OPTION,
    {0},
};

static const fm_command evict_command = {
    .name = "evict",
    .summary = "remove the segments in which everything is too old",
    .operands = "FOLDER",
    .options = evict_schema,
    .options_size = sizeof(struct kv_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_evict,
};

static const fm_command *const children[] = {
    &stats_command, &put_command, &get_command, &match_command, &evict_command, &fm_cmd_fs_kv_replay, NULL};

const fm_command fm_cmd_fs_kv = {
    .name = "kv",
    .summary = "a cache of attention keys and values",
    .children = children,
};
