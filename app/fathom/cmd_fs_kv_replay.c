// `fathom fs kv replay`: a trace of requests against a cache.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#include "cmd_fs.h"
#include "cmd_fs_spot.h"
#include "fathom/file.h"
#include "fathom/fs_kvtrace.h"
#include "fathom/interrupt.h"
#include "fathom/mem.h"
#include "fathom/progress.h"
#include "fathom/text.h"

// Larger than any published trace.
#define TRACE_BYTES_MAX ((size_t)4 << 30)

struct replay_options {
    const char *trace;
    int64_t requests, seed, block_bytes, bytes_max, segment_bytes, clients;
    double speed;
};

#define FIELD(name) offsetof(struct replay_options, name)

struct replay {
    const struct replay_options *options;
    fm_fs_kvtrace trace;
    uint64_t best, lru; // blocks that can be found: by any cache; by one of this size
    fm_fs_kvcache_info before;
    fm_fs_kvtrace_result result;
    fm_progress progress;
};

static fm_status load(const struct replay_options *options, fm_fs_kvtrace *out_trace)
{
    char *text;
    size_t length;
    size_t requests = (size_t)options->requests;
    if (!*options->trace)
        return fm_fs_kvtrace_draw((uint64_t)options->seed, requests ? requests : 1000, out_trace);
    FM_TRY(fm_base_file_read(options->trace, TRACE_BYTES_MAX, &text, &length));
    fm_status status = fm_fs_kvtrace_parse(text, length, options->trace, out_trace);
    fm_base_mem_free(text);
    if (status == FM_OK && requests)
        fm_fs_kvtrace_cut(out_trace, requests);
    return status;
}

static fm_status note_progress(void *context, size_t done)
{
    struct replay *replay = context;
    fm_base_progress_update(&replay->progress, done);
    return fm_base_interrupt_check();
}

static fm_status run_on(struct replay *replay, const fm_cmd_spot *folder)
{
    const struct replay_options *given = replay->options;
    fm_fs_kvcache *cache;
    fm_fs_kvcache_options cache_options = {.size = sizeof cache_options,
                                           .bytes_max = (uint64_t)given->bytes_max,
                                           .segment_bytes = (uint64_t)given->segment_bytes};
    fm_fs_kvtrace_replay_options options = {.size = sizeof options,
                                            .block_bytes = (size_t)given->block_bytes,
                                            .clients = (unsigned)given->clients,
                                            .speed = given->speed,
                                            .progress = note_progress,
                                            .progress_context = replay};
    FM_TRY(fm_fs_kvtrace_hits(&replay->trace, UINT64_MAX, &replay->best));
    FM_TRY(fm_fs_kvtrace_hits(&replay->trace, (uint64_t)given->bytes_max / (uint64_t)given->block_bytes,
                              &replay->lru));
    FM_TRY(fm_fs_kvcache_open(folder->fs, folder->path, &cache_options, &cache));
    fm_fs_kvcache_info_get(cache, &replay->before);
    fm_base_progress_begin(&replay->progress, "replay", "requests", replay->trace.count);
    fm_status status = fm_base_interrupt_install();
    if (status == FM_OK) {
        status = fm_fs_kvtrace_replay(cache, &replay->trace, &options, &replay->result);
        fm_base_interrupt_restore();
    }
    fm_base_progress_finish(&replay->progress, status);
    fm_fs_kvcache_close(cache);
    return status;
}

static fm_text seconds(double s)
{
    return fm_base_text_duration(s * 1e9);
}

static void show_latency(const char *name, const fm_fs_kvtrace_latency *latency)
{
    printf("%-22s %s p50, %s p99, %s at most\n", name, seconds(latency->p50).text, seconds(latency->p99).text,
           seconds(latency->max).text);
}

static double of_blocks(const struct replay *replay, uint64_t blocks)
{
    return replay->result.blocks ? (double)blocks / (double)replay->result.blocks : 0;
}

static void show(const struct replay *replay)
{
    const fm_fs_kvtrace_result *result = &replay->result;
    printf("%" PRIu64 " requests, %" PRIu64 " blocks of %s, in %s\n", result->requests, result->blocks,
           fm_base_text_bytes((double)replay->options->block_bytes).text, seconds(result->seconds).text);
    if (replay->before.entries)
        printf("the cache held %" PRIu64 " values before\n", replay->before.entries);
    printf("%-22s %.1f %% of blocks; least recently used, of this size: %.1f %%; of any size: %.1f %%\n",
           "found", 100 * of_blocks(replay, result->hits), 100 * of_blocks(replay, replay->lru),
           100 * of_blocks(replay, replay->best));
    printf("%-22s %s/s\n", "got", fm_base_text_bytes(result->get_bytes_per_s).text);
    printf("%-22s %s/s\n", "put", fm_base_text_bytes(result->put_bytes_per_s).text);
    show_latency("gets of a request", &result->get);
    show_latency("puts of a request", &result->put_latency);
    if (replay->options->speed > 0)
        printf("%-22s %s at most\n", "begun too late by", seconds(result->late).text);
}

static void write_latency(fm_json *json, const char *name, const fm_fs_kvtrace_latency *latency)
{
    fm_base_json_begin(json, name, '{');
    fm_base_json_real(json, "p50", latency->p50);
    fm_base_json_real(json, "p99", latency->p99);
    fm_base_json_real(json, "max", latency->max);
    fm_base_json_end(json);
}

static fm_status write_json(const struct replay *replay)
{
    const fm_fs_kvtrace_result *result = &replay->result;
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_int(&json, "requests", (int64_t)result->requests);
    fm_base_json_int(&json, "blocks", (int64_t)result->blocks);
    fm_base_json_int(&json, "block_bytes", replay->options->block_bytes);
    fm_base_json_int(&json, "values_before", (int64_t)replay->before.entries);
    fm_base_json_int(&json, "hits", (int64_t)result->hits);
    fm_base_json_int(&json, "puts", (int64_t)result->put);
    fm_base_json_int(&json, "wrong", (int64_t)result->wrong);
    fm_base_json_real(&json, "hit_ratio", of_blocks(replay, result->hits));
    fm_base_json_real(&json, "hit_ratio_lru", of_blocks(replay, replay->lru));
    fm_base_json_real(&json, "hit_ratio_best", of_blocks(replay, replay->best));
    fm_base_json_real(&json, "seconds", result->seconds);
    fm_base_json_real(&json, "get_bytes_per_s", result->get_bytes_per_s);
    fm_base_json_real(&json, "put_bytes_per_s", result->put_bytes_per_s);
    write_latency(&json, "get_s", &result->get);
    write_latency(&json, "put_s", &result->put_latency);
    fm_base_json_real(&json, "late_s", result->late);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status run_replay(const fm_invocation *invocation, const void *given, int *out_exit)
{
    struct replay replay = {.options = given};
    fm_cmd_spot folder;
    (void)out_exit;
    FM_TRY(load(replay.options, &replay.trace));
    fm_status status = fm_cmd_spot_open(&folder, invocation->operands[0]);
    if (status == FM_OK) {
        status = run_on(&replay, &folder);
        fm_fs_close(folder.fs);
    }
    fm_fs_kvtrace_free(&replay.trace);
    FM_TRY(status);
    if (invocation->json)
        FM_TRY(write_json(&replay));
    else
        show(&replay);
    if (replay.result.wrong)
        return fm_base_error_set(FM_ERR_INTERNAL, "%" PRIu64 " values were not what had been put",
                                 replay.result.wrong);
    return FM_OK;
}

static const fm_option replay_schema[] = {
    {"trace", FM_OPTION_STRING, FIELD(trace), .value = "", .metavar = "FILE",
     .help = "JSON lines as Mooncake and Qwen-Bailian publish them; default: drawn from the seed"},
    {"requests", FM_OPTION_INT, FIELD(requests), .value = "0", .min = 0, .max = 0xffffff,
     .help = "replay only so many; 0: the file's, or draw 1000"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 0x1p62,
     .help = "of a trace that is drawn"},
    {"block-bytes", FM_OPTION_SIZE, FIELD(block_bytes), .value = "576K", .min = 16, .max = 0x1p31,
     .help = "of a block's value; 576K: 512 tokens in one layer of DeepSeek-V3, 576 numbers of 2 bytes each"},
    {"bytes-max", FM_OPTION_SIZE, FIELD(bytes_max), .value = "16G", .min = 4096, .max = 0x1p60,
     .help = "the most that the folder may hold"},
    {"segment-bytes", FM_OPTION_SIZE, FIELD(segment_bytes), .value = "0", .min = 0, .max = 0x1p32,
     .help = "of a file of the cache; 0: its default, which holds blocks of up to 64 MiB"},
    {"clients", FM_OPTION_INT, FIELD(clients), .value = "4", .min = 1, .max = 1024,
     .help = "threads, each with a request at a time"},
    {"speed", FM_OPTION_REAL, FIELD(speed), .value = "0", .min = 0, .max = 1e9,
     .help = "how many times as fast as the trace's timestamps; 0: as fast as it goes"},
    {0},
};

const fm_command fm_cmd_fs_kv_replay = {
    .name = "replay",
    .summary = "replay a trace of requests: hit ratio, bandwidth, latency",
    .operands = "FOLDER",
    .details =
        "Each request matches its blocks, gets those that are known and puts the others; what is read is\n"
        "compared with what was put. Without a file, a trace is drawn that has the shape of Mooncake's "
        "public\n"
        "conversation trace. Begin with an empty folder. Bandwidth is over the time in which at least one\n"
        "client was getting (or putting).\n"
        "  fathom fs kv replay /data/cluster:/kv --bytes-max 4G\n"
        "  fathom fs kv replay /mnt/nvme/kv --trace conversation_trace.jsonl --block-bytes 64K --clients 16",
    .options = replay_schema,
    .options_size = sizeof(struct replay_options),
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_replay,
};
