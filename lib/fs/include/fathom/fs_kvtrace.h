/**
 * @file fs_kvtrace.h
 * Traces of requests to a language model, as caches of keys and values see them: read from a file of the public format, or
 * drawn from a seed; how many of their blocks a cache of some size can find; and replayed against a cache
 * (fathom/fs_kvcache.h).
 *
 *     fm_fs_kvtrace trace;
 *     fm_fs_kvtrace_result result;
 *     fm_fs_kvtrace_replay_options options = {.size = sizeof options, .clients = 8};
 *     FM_TRY(fm_fs_kvtrace_draw(1, 1000, &trace));
 *     FM_TRY(fm_fs_kvtrace_hits(&trace, UINT64_MAX, &best));           // of trace.block_count blocks
 *     FM_TRY(fm_fs_kvtrace_replay(cache, &trace, &options, &result));
 *     fm_fs_kvtrace_free(&trace);
 *
 * ## The format
 * JSON, an object a line, as Mooncake (Qin et al., FAST '25) and Qwen-Bailian (Wang et al., ATC '25) publish them:
 *
 *     {"timestamp": 27482, "input_length": 1955, "output_length": 52, "hash_ids": [46, 47, 48, 2353]}
 *
 * `hash_ids` name the blocks of the input (Mooncake: 512 tokens each, Bailian: 16), the last one included if it is not
 * full. An id stands for its block and all that is before it, so equal ids are equal beginnings. `timestamp` counts
 * milliseconds, or seconds in lines that have a `chat_id` (Bailian), and never goes back. Other members are ignored.
 *
 * ## What is drawn
 * The shape of Mooncake's conversation trace. Its paper's table 2 has 12031 requests in an hour, 12035 input and 343 output
 * tokens on average, and a cache ratio of 40 %; its appendix blocks of 512 tokens. The quantiles that are drawn from
 * (lengths, how many requests ago a beginning was used last, new blocks behind a known beginning) and what the first 500 to
 * 12031 requests of it can find (16 % to 37 % of their blocks; 21 % in an LRU cache of 10000 blocks, 33 % of 30000) were
 * computed from the published file; fs/test/kvtrace_draw_test.c holds what is drawn against them. One block begins all
 * requests, as a system prompt does. A request goes on from a beginning with probability 1/2, from before the trace's start
 * at first, where nothing is found.
 *
 * ## Threads
 * A trace is only read; any number of threads may share one. Errors are those of fs.h and what is said here.
 */
#ifndef FATHOM_FS_KVTRACE_H
#define FATHOM_FS_KVTRACE_H

#include "fathom/fs_kvcache.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_fs_kvtrace_request {
    uint64_t time_us; /**< since the trace's time 0; ascending */
    uint32_t input_tokens, output_tokens;
    size_t first; /**< its blocks are blocks[first] to blocks[first + count - 1] */
    size_t count;
} fm_fs_kvtrace_request;

typedef struct fm_fs_kvtrace {
    fm_fs_kvtrace_request *requests;
    size_t count;
    uint32_t *blocks; /**< of all requests; numbered from 0 in the order in which they appear first */
    size_t block_count;
    uint32_t distinct; /**< different ones among them */
} fm_fs_kvtrace;

/** Reads a trace from `length` bytes of `text`; `name` stands for the file in messages. FM_ERR_FORMAT: "NAME:LINE:" and what
 *  is wrong there; FM_ERR_LIMIT: 2^32 blocks or more. */
FM_API FM_MUST_USE fm_status fm_fs_kvtrace_parse(const char *text, size_t length, const char *name,
                                                 fm_fs_kvtrace *out_trace);
/** Draws one of `requests` (at least 1) requests; equal seeds draw equal traces, and longer ones begin as shorter ones. */
FM_API FM_MUST_USE fm_status fm_fs_kvtrace_draw(uint64_t seed, size_t requests, fm_fs_kvtrace *out_trace);
/** Keeps the first `requests` requests; no effect if there are not more. */
FM_API void fm_fs_kvtrace_cut(fm_fs_kvtrace *trace, size_t requests);
FM_API void fm_fs_kvtrace_free(fm_fs_kvtrace *trace);

/** How many blocks a cache finds that holds `capacity` blocks and drops the one used longest ago: for each request those
 *  before the first that is not there. It looks at all of a request's blocks in turn and then has them.
 *  UINT64_MAX: it drops none, which is the best that any cache can do. */
FM_API FM_MUST_USE fm_status fm_fs_kvtrace_hits(const fm_fs_kvtrace *trace, uint64_t capacity,
                                                uint64_t *out_hits);

/** Zero it and set `size`; what is 0 has its default. */
typedef struct fm_fs_kvtrace_replay_options {
    size_t size; /**< sizeof(fm_fs_kvtrace_replay_options) */
    size_t
        block_bytes; /**< of a value, at least 16. 589824: a layer of DeepSeek-V3, 512 tokens of 576 numbers (512 of the
                             latent, 64 of the rotated key) of 2 bytes; all 61 layers have 35979264 */
    unsigned clients; /**< threads, each with a request at a time; at most 1024. 1 */
    double speed;     /**< 0: each request as soon as a client is free; else at its time divided by this */
    /** Called now and then by one thread at a time; a failure ends the replay with it. May be NULL. */
    fm_status (*progress)(void *context, size_t requests_done);
    void *progress_context;
} fm_fs_kvtrace_replay_options;

/** A distribution of requests' latencies, in seconds; zeros where there was none. */
typedef struct fm_fs_kvtrace_latency {
    double p50, p99, max;
} fm_fs_kvtrace_latency;

typedef struct fm_fs_kvtrace_result {
    uint64_t requests, blocks;
    uint64_t hits;  /**< blocks that were found, from each request's first on without a gap, and read */
    uint64_t put;   /**< blocks that were not, and were stored */
    uint64_t wrong; /**< of those read: not what had been stored. Anything but 0 is a defect */
    double seconds; /**< from begin to end */
    double get_seconds, put_seconds;         /**< in which at least one client was getting, putting */
    double get_bytes_per_s, put_bytes_per_s; /**< over those; 0 where there was nothing */
    fm_fs_kvtrace_latency get;         /**< of match and read together, of the requests that found a block */
    fm_fs_kvtrace_latency put_latency; /**< of all puts of a request together, of those that had any */
    double late; /**< with `speed`: the most by which a request began too late, in seconds */
} fm_fs_kvtrace_result;

/**
 * Replays a trace: for each request matches its blocks, gets those that are known, and puts the others, in order. Values are
 * random numbers that depend on the block; whatever is read is compared whole, outside the times. Starts `clients` threads
 * and joins them. FM_ERR_ARG; else what the cache fails with.
 */
FM_API FM_MUST_USE fm_status fm_fs_kvtrace_replay(fm_fs_kvcache *cache, const fm_fs_kvtrace *trace,
                                                  const fm_fs_kvtrace_replay_options *options,
                                                  fm_fs_kvtrace_result *out_result);

#ifdef __cplusplus
}
#endif
#endif
