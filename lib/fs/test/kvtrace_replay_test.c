#include "fm_test.h"

#include <string.h>

#include "fathom/clock.h"
#include "fathom/fs_kvtrace.h"
#include "mem_fs.h"

enum { REQUESTS = 400, BLOCK = 64, RECORD = BLOCK + 64 };

static fm_fs_kvcache *open_cache(fm_fs *fs, uint64_t bytes_max)
{
    fm_fs_kvcache *cache;
    fm_fs_kvcache_options options = {.size = sizeof options, .bytes_max = bytes_max};
    assert_ok(fm_fs_kvcache_open(fs, "kv", &options, &cache));
    return cache;
}

// Several clients need this: the model in memory is for one thread.
static fm_fs *open_dir(const char *name)
{
    char path[4200];
    fm_fs *fs;
    snprintf(path, sizeof path, "%s/%s", fm_test_tmpdir(), name);
    assert_ok(fm_fs_open(path, FM_FS_CREATE, &fs));
    return fs;
}

static fm_fs_kvtrace drawn(void)
{
    fm_fs_kvtrace trace;
    assert_ok(fm_fs_kvtrace_draw(3, REQUESTS, &trace));
    return trace;
}

static void a_large_cache_finds_all_that_can_be_found(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_kvtrace trace = drawn();
    fm_fs_kvcache *cache = open_cache(fs, (uint64_t)trace.distinct * RECORD * 2);
    fm_fs_kvtrace_replay_options options = {.size = sizeof options, .block_bytes = BLOCK};
    fm_fs_kvtrace_result result;
    uint64_t best;
    assert_ok(fm_fs_kvtrace_hits(&trace, UINT64_MAX, &best));
    assert_ok(fm_fs_kvtrace_replay(cache, &trace, &options, &result));
    assert_int_equal(result.requests, REQUESTS);
    assert_int_equal(result.hits, best);
    assert_int_equal(result.put, trace.block_count - best);
    assert_int_equal(result.wrong, 0);
    assert_true(result.get_seconds > 0 && result.put_seconds > 0);
    assert_true(result.get_seconds + result.put_seconds <= result.seconds);
    assert_true(result.get.p50 > 0 && result.get.p99 >= result.get.p50 && result.get.max >= result.get.p99);
    assert_true(result.put_latency.max > 0 && result.late == 0);
    assert_ok(fm_fs_kvtrace_replay(cache, &trace, &options, &result)); // all is there
    assert_true(result.hits == trace.block_count && result.put == 0 && result.wrong == 0);
    assert_true(result.put_latency.max == 0 && result.put_bytes_per_s == 0);
    fm_fs_kvcache_close(cache);
    fm_fs_kvtrace_free(&trace);
    fm_fs_close(fs);
}

// With room for a part, hits lie between nothing and the best, and values are right, from several threads as well.
static void a_small_cache_finds_less(void **state)
{
    (void)state;
    fm_fs *fs = open_dir("small");
    fm_fs_kvtrace trace = drawn();
    fm_fs_kvtrace_result result;
    fm_fs_kvtrace_replay_options options = {.size = sizeof options, .block_bytes = BLOCK, .clients = 4};
    uint64_t best;
    fm_fs_kvcache *cache = open_cache(fs, (uint64_t)trace.distinct * RECORD / 4);
    assert_ok(fm_fs_kvtrace_hits(&trace, UINT64_MAX, &best));
    assert_ok(fm_fs_kvtrace_replay(cache, &trace, &options, &result));
    assert_int_equal(result.requests, REQUESTS);
    assert_int_equal(result.wrong, 0);
    assert_int_equal(result.hits + result.put, trace.block_count);
    assert_in_range(result.hits, 1, best);
    fm_fs_kvcache_close(cache);
    fm_fs_kvtrace_free(&trace);
    fm_fs_close(fs);
}

// What is kept when room is made is worth it: nearly as much is found as by dropping what was used longest ago. (One client,
// so each run is alike: 93 %.)
static void it_finds_nearly_as_much_as_lru(void **state)
{
    (void)state;
    enum { CAPACITY = 10000 };
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_kvcache *cache = open_cache(fs, (uint64_t)CAPACITY * RECORD);
    fm_fs_kvtrace trace;
    fm_fs_kvtrace_replay_options options = {.size = sizeof options, .block_bytes = BLOCK};
    fm_fs_kvtrace_result result;
    uint64_t lru;
    assert_ok(fm_fs_kvtrace_draw(3, 12031, &trace));
    assert_ok(fm_fs_kvtrace_hits(&trace, CAPACITY, &lru));
    assert_ok(fm_fs_kvtrace_replay(cache, &trace, &options, &result));
    assert_true((double)result.hits >= 0.85 * (double)lru);
    fm_fs_kvcache_close(cache);
    fm_fs_kvtrace_free(&trace);
    fm_fs_close(fs);
}

// Another program has put something else under the key of a block.
static void a_wrong_value_is_counted(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_kvcache *cache = open_cache(fs, 1 << 20);
    fm_fs_kvtrace trace = drawn();
    fm_fs_kvtrace_replay_options options = {.size = sizeof options, .block_bytes = BLOCK};
    fm_fs_kvtrace_result result;
    fm_fs_kvcache_key key;
    uint8_t name[16] = {0};
    uint8_t value[BLOCK] = {1};
    name[8] = BLOCK;
    fm_fs_kvcache_key_next(NULL, name, sizeof name, &key);
    assert_ok(fm_fs_kvcache_put(cache, &key, value, sizeof value));
    fm_fs_kvtrace_cut(&trace, 10);
    assert_ok(fm_fs_kvtrace_replay(cache, &trace, &options, &result));
    assert_int_equal(result.wrong, 10); // block 0 begins each request
    fm_fs_kvcache_close(cache);
    fm_fs_kvtrace_free(&trace);
    fm_fs_close(fs);
}

static void times_are_kept(void **state)
{
    (void)state;
    fm_fs *fs = open_dir("times");
    fm_fs_kvcache *cache = open_cache(fs, 1 << 20);
    fm_fs_kvtrace trace = drawn();
    fm_fs_kvtrace_cut(&trace, 20);
    double last_s = (double)trace.requests[19].time_us * 1e-6;
    fm_fs_kvtrace_replay_options options = {
        .size = sizeof options, .block_bytes = BLOCK, .clients = 2, .speed = last_s / 0.05};
    fm_fs_kvtrace_result result;
    assert_ok(fm_fs_kvtrace_replay(cache, &trace, &options, &result));
    assert_true(result.seconds >= 0.049);
    assert_int_equal(result.requests, 20);
    fm_fs_kvcache_close(cache);
    fm_fs_kvtrace_free(&trace);
    fm_fs_close(fs);
}

static fm_status stop_at(void *context, size_t done)
{
    return done == *(const size_t *)context ? fm_base_error_set(FM_ERR_CANCELLED, "stopped at %zu", done)
                                            : FM_OK;
}

static void failures_end_it(void **state)
{
    (void)state;
    fm_fs *fs = open_dir("failures");
    fm_fs_kvcache *cache = open_cache(fs, 1 << 20);
    fm_fs_kvtrace trace = drawn();
    fm_fs_kvtrace_result result = {.requests = 77};
    size_t stop = 5;
    fm_fs_kvtrace_replay_options options = {.size = sizeof options,
                                            .block_bytes = BLOCK,
                                            .clients = 3,
                                            .progress = stop_at,
                                            .progress_context = &stop};
    assert_fails(fm_fs_kvtrace_replay(cache, &trace, &options, &result), FM_ERR_CANCELLED, "stopped at 5");
    options = (fm_fs_kvtrace_replay_options){.size = sizeof options, .block_bytes = 1 << 20};
    assert_fails(fm_fs_kvtrace_replay(cache, &trace, &options, &result), FM_ERR_LIMIT, "a segment holds");
    options.block_bytes = 15;
    assert_fails(fm_fs_kvtrace_replay(cache, &trace, &options, &result), FM_ERR_ARG, "block_bytes is 15");
    options = (fm_fs_kvtrace_replay_options){.size = sizeof options, .clients = 1025};
    assert_fails(fm_fs_kvtrace_replay(cache, &trace, &options, &result), FM_ERR_ARG, "clients 1025");
    options = (fm_fs_kvtrace_replay_options){.size = 3};
    assert_fails(fm_fs_kvtrace_replay(cache, &trace, &options, &result), FM_ERR_ARG, "options->size");
    assert_int_equal(result.requests, 77);
    fm_fs_kvcache_close(cache);
    fm_fs_kvtrace_free(&trace);
    fm_fs_close(fs);
}

struct lack {
    fm_fs *fs;
    fm_fs_kvtrace trace;
};

// Leaves no folder behind, so that each attempt makes as many allocations.
static fm_status replay_some(void *context)
{
    const struct lack *lack = context;
    fm_fs_kvtrace_result result;
    fm_fs_kvcache *cache;
    fm_fs_kvcache_options cache_options = {.size = sizeof cache_options, .bytes_max = 1 << 20};
    fm_fs_kvtrace_replay_options options = {.size = sizeof options, .block_bytes = BLOCK};
    FM_TRY(fm_fs_kvcache_open(lack->fs, "kv", &cache_options, &cache));
    fm_status status = fm_fs_kvtrace_replay(cache, &lack->trace, &options, &result);
    fm_fs_kvcache_close(cache);
    fm_status removed = fm_fs_remove_all(lack->fs, "kv");
    return status < 0 ? status : removed;
}

static void lack_of_memory_is_survived(void **state)
{
    (void)state;
    static const char text[] =
        "{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 1, \"hash_ids\": [1, 2]}\n";
    struct lack lack = {.fs = open_dir("lack")};
    assert_ok(fm_fs_kvtrace_parse(text, sizeof text - 1, "two blocks", &lack.trace));
    fm_test_each_alloc_fails(replay_some, &lack);
    fm_fs_kvtrace_free(&lack.trace);
    fm_fs_close(lack.fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_large_cache_finds_all_that_can_be_found),
        cmocka_unit_test(a_small_cache_finds_less),
        cmocka_unit_test(it_finds_nearly_as_much_as_lru),
        cmocka_unit_test(a_wrong_value_is_counted),
        cmocka_unit_test(times_are_kept),
        cmocka_unit_test(failures_end_it),
        cmocka_unit_test(lack_of_memory_is_survived),
    };
    return fm_test_run("kvtrace_replay", tests);
}
