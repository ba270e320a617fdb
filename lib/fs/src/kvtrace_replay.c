// Traces replayed against a cache, by threads that each serve a request at a time.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/rng.h"
#include "kvtrace.h"

enum {
    CLIENTS_MAX = 1024,
    BLOCK_BYTES = 512 * 576 * 2, // as the header derives it
    BLOCK_BYTES_MIN = 16,
    // Values start at as many places of the random bytes, 8 apart.
    STARTS = 8192,
    // What a client reads or puts at once: enough to keep a disk busy, little enough for hundreds of clients.
    WINDOW_BYTES = 32 << 20,
    WINDOW_BLOCKS = 256
};

// Adds up the time in which at least one client is at something. `lock` of the replay is held.
struct meter {
    unsigned active;
    uint64_t since_ns, busy_ns;
};

struct replay {
    fm_fs_kvcache *cache;
    const fm_fs_kvtrace *trace;
    fm_fs_kvtrace_replay_options options;
    uint8_t *random; // block_bytes, and what lies behind the starts
    size_t window;   // blocks that a client reads or puts at once
    uint64_t begin_ns;
    pthread_mutex_t lock;
    size_t next, done; // requests
    struct meter get, put;
    uint64_t *get_ns, *put_ns; // by request; 0: had none
    uint64_t late_ns;
    fm_fs_kvtrace_result result;
    fm_status status;
    char message[512];
};

struct client {
    struct replay *replay;
    pthread_t thread;
    uint8_t *buffers;
    fm_fs_kvcache_key *keys;
    fm_fs_kvcache_block *blocks;
};

/* Values */

static const uint8_t *random_of(const struct replay *replay, uint32_t block)
{
    return replay->random + (size_t)(fm_base_rng_at(2, 0, block) % STARTS) * 8;
}

static void fill_value(const struct replay *replay, uint32_t block, uint8_t *value)
{
    memcpy(value, random_of(replay, block), replay->options.block_bytes);
    fm_put_le64(value, block); // two may have the same start
}

static int is_value(const struct replay *replay, uint32_t block, const uint8_t *value)
{
    return fm_get_le64(value) == block &&
           memcmp(value + 8, random_of(replay, block) + 8, replay->options.block_bytes - 8) == 0;
}

static void key_of(const struct replay *replay, uint32_t block, fm_fs_kvcache_key *out_key)
{
    uint8_t name[16]; // the size belongs to it, so that replays with several can share a folder
    fm_put_le64(name, block);
    fm_put_le64(name + 8, replay->options.block_bytes);
    fm_fs_kvcache_key_next(NULL, name, sizeof name, out_key);
}

/* Times */

static uint64_t begin(struct replay *replay, struct meter *meter)
{
    pthread_mutex_lock(&replay->lock);
    uint64_t now = fm_base_clock_ns();
    if (meter->active++ == 0)
        meter->since_ns = now;
    pthread_mutex_unlock(&replay->lock);
    return now;
}

static uint64_t end(struct replay *replay, struct meter *meter, uint64_t begun_ns)
{
    uint64_t now = fm_base_clock_ns();
    pthread_mutex_lock(&replay->lock);
    // Another may have entered later and taken the lock first.
    if (--meter->active == 0 && now > meter->since_ns)
        meter->busy_ns += now - meter->since_ns;
    pthread_mutex_unlock(&replay->lock);
    return now - begun_ns;
}

static size_t at_most(size_t count, size_t limit)
{
    return count < limit ? count : limit;
}

/* Requests */

// Reads the leading `known` blocks, as far as they are there; `*out_hits` are.
static fm_status get_blocks(struct client *client, const fm_fs_kvtrace_request *request, size_t known,
                            size_t *out_hits, uint64_t *ns)
{
    struct replay *replay = client->replay;
    size_t hits = 0;
    for (size_t from = 0; from < known && hits == from;) {
        size_t count = at_most(known - from, replay->window);
        size_t found;
        uint64_t wrong = 0;
        for (size_t i = 0; i < count; i++)
            client->blocks[i] = (fm_fs_kvcache_block){client->keys[from + i],
                                                      client->buffers + i * replay->options.block_bytes,
                                                      replay->options.block_bytes, 0};
        uint64_t begun = begin(replay, &replay->get);
        fm_status status = fm_fs_kvcache_read(replay->cache, client->blocks, count, &found);
        *ns += end(replay, &replay->get, begun);
        FM_TRY(status);
        for (size_t i = 0; i < count && client->blocks[i].size; i++, hits++)
            wrong +=
                client->blocks[i].size != replay->options.block_bytes ||
                !is_value(replay, replay->trace->blocks[request->first + from + i], client->blocks[i].buffer);
        from += count;
        pthread_mutex_lock(&replay->lock);
        replay->result.wrong += wrong;
        pthread_mutex_unlock(&replay->lock);
    }
    *out_hits = hits;
    return FM_OK;
}

static fm_status put_blocks(const struct client *client, const fm_fs_kvtrace_request *request, size_t from,
                            uint64_t *ns)
{
    struct replay *replay = client->replay;
    size_t size = replay->options.block_bytes;
    while (from < request->count) {
        size_t count = at_most(request->count - from, replay->window);
        for (size_t i = 0; i < count; i++) {
            client->blocks[i] = (fm_fs_kvcache_block){
                .key = client->keys[from + i], .buffer = client->buffers + i * size, .size = size};
            fill_value(replay, replay->trace->blocks[request->first + from + i], client->blocks[i].buffer);
        }
        uint64_t begun = begin(replay, &replay->put);
        fm_status status = fm_fs_kvcache_write(replay->cache, client->blocks, count);
        *ns += end(replay, &replay->put, begun);
        FM_TRY(status);
        from += count;
    }
    return FM_OK;
}

static fm_status serve(struct client *client, size_t number)
{
    struct replay *replay = client->replay;
    const fm_fs_kvtrace_request *request = &replay->trace->requests[number];
    uint64_t get_ns = 0;
    uint64_t put_ns = 0;
    size_t known;
    size_t hits = 0;
    for (size_t i = 0; i < request->count; i++)
        key_of(replay, replay->trace->blocks[request->first + i], &client->keys[i]);
    uint64_t begun = begin(replay, &replay->get);
    fm_status status = fm_fs_kvcache_match(replay->cache, client->keys, request->count, &known);
    get_ns += end(replay, &replay->get, begun);
    if (status == FM_OK)
        status = get_blocks(client, request, known, &hits, &get_ns);
    if (status == FM_OK)
        status = put_blocks(client, request, hits, &put_ns);
    FM_TRY(status);
    pthread_mutex_lock(&replay->lock);
    replay->result.hits += hits;
    replay->result.put += request->count - hits;
    replay->get_ns[number] = hits ? get_ns : 0;
    replay->put_ns[number] = put_ns;
    replay->done++;
    if (replay->options.progress)
        status = replay->options.progress(replay->options.progress_context, replay->done);
    pthread_mutex_unlock(&replay->lock);
    return status;
}

// Waits for the request's time.
static void wait_for(struct replay *replay, const fm_fs_kvtrace_request *request)
{
    uint64_t due = replay->begin_ns + (uint64_t)((double)request->time_us * 1e3 / replay->options.speed);
    uint64_t now = fm_base_clock_ns();
    if (now < due) {
        fm_base_clock_sleep_ns(due - now);
        return;
    }
    pthread_mutex_lock(&replay->lock);
    if (now - due > replay->late_ns)
        replay->late_ns = now - due;
    pthread_mutex_unlock(&replay->lock);
}

static void *run_client(void *context)
{
    struct client *client = context;
    struct replay *replay = client->replay;
    for (;;) {
        pthread_mutex_lock(&replay->lock);
        size_t number = replay->status == FM_OK ? replay->next++ : replay->trace->count;
        pthread_mutex_unlock(&replay->lock);
        if (number >= replay->trace->count)
            return NULL;
        if (replay->options.speed > 0)
            wait_for(replay, &replay->trace->requests[number]);
        fm_status status = serve(client, number);
        if (status == FM_OK)
            continue;
        pthread_mutex_lock(&replay->lock);
        if (replay->status == FM_OK) {
            replay->status = status;
            snprintf(replay->message, sizeof replay->message, "%s", fm_error_message());
        }
        pthread_mutex_unlock(&replay->lock);
        return NULL;
    }
}

/* The whole */

static int by_value(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

// Of those that are not 0; sorts them.
static fm_fs_kvtrace_latency latency_of(uint64_t *ns, size_t count)
{
    size_t zeros = 0;
    qsort(ns, count, sizeof *ns, by_value);
    while (zeros < count && ns[zeros] == 0)
        zeros++;
    ns += zeros;
    count -= zeros;
    if (!count)
        return (fm_fs_kvtrace_latency){0};
    size_t half = count / 2;
    size_t hundredth = count / 100;
    return (fm_fs_kvtrace_latency){.p50 = (double)ns[half] * 1e-9,
                                   .p99 = (double)ns[count - 1 - hundredth] * 1e-9,
                                   .max = (double)ns[count - 1] * 1e-9};
}

static void finish(struct replay *replay, uint64_t ended_ns, fm_fs_kvtrace_result *out_result)
{
    fm_fs_kvtrace_result *result = &replay->result;
    double size = (double)replay->options.block_bytes;
    result->requests = replay->done;
    result->blocks = replay->trace->block_count;
    result->seconds = (double)(ended_ns - replay->begin_ns) * 1e-9;
    result->get_seconds = (double)replay->get.busy_ns * 1e-9;
    result->put_seconds = (double)replay->put.busy_ns * 1e-9;
    if (result->hits)
        result->get_bytes_per_s = (double)result->hits * size / result->get_seconds;
    if (result->put)
        result->put_bytes_per_s = (double)result->put * size / result->put_seconds;
    result->get = latency_of(replay->get_ns, replay->trace->count);
    result->put_latency = latency_of(replay->put_ns, replay->trace->count);
    result->late = (double)replay->late_ns * 1e-9;
    *out_result = *result;
}

static fm_status run(struct replay *replay, struct client *clients)
{
    unsigned started = 0;
    replay->begin_ns = fm_base_clock_ns();
    for (; started < replay->options.clients; started++)
        if (pthread_create(&clients[started].thread, NULL, run_client, &clients[started]) != 0) {
            pthread_mutex_lock(&replay->lock);
            replay->status = FM_ERR_LIMIT;
            snprintf(replay->message, sizeof replay->message, "no thread for client %u", started);
            pthread_mutex_unlock(&replay->lock);
            break;
        }
    for (unsigned i = 0; i < started; i++)
        pthread_join(clients[i].thread, NULL);
    return replay->status < 0 ? fm_base_error_set(replay->status, "%s", replay->message) : FM_OK;
}

static void clients_free(struct client *clients, unsigned count)
{
    for (unsigned i = 0; clients && i < count; i++) {
        fm_base_mem_free(clients[i].buffers);
        fm_base_mem_free(clients[i].keys);
        fm_base_mem_free(clients[i].blocks);
    }
    fm_base_mem_free(clients);
}

static struct client *clients_new(struct replay *replay, size_t blocks_max)
{
    unsigned count = replay->options.clients;
    struct client *clients = fm_base_mem_zalloc(count, sizeof *clients);
    for (unsigned i = 0; clients && i < count; i++) {
        clients[i].replay = replay;
        clients[i].buffers = fm_base_mem_zalloc(replay->window, replay->options.block_bytes);
        clients[i].keys = fm_base_mem_zalloc(blocks_max + 1, sizeof *clients[i].keys);
        clients[i].blocks = fm_base_mem_zalloc(replay->window, sizeof *clients[i].blocks);
        if (!clients[i].buffers || !clients[i].keys || !clients[i].blocks) {
            clients_free(clients, count);
            return NULL;
        }
    }
    return clients;
}

static fm_status prepare_and_run(struct replay *replay, fm_fs_kvtrace_result *out_result)
{
    size_t blocks_max = 0;
    size_t random_bytes = replay->options.block_bytes + (size_t)STARTS * 8;
    size_t count = replay->trace->count;
    for (size_t i = 0; i < count; i++)
        if (replay->trace->requests[i].count > blocks_max)
            blocks_max = replay->trace->requests[i].count;
    replay->window = at_most(WINDOW_BYTES / replay->options.block_bytes, WINDOW_BLOCKS);
    replay->window = replay->window ? replay->window : 1;
    replay->random = fm_base_mem_alloc(random_bytes);
    replay->get_ns = fm_base_mem_zalloc(count + 1, sizeof *replay->get_ns);
    replay->put_ns = fm_base_mem_zalloc(count + 1, sizeof *replay->put_ns);
    struct client *clients = clients_new(replay, blocks_max);
    fm_status status = FM_OK;
    if (!replay->random || !replay->get_ns || !replay->put_ns || !clients) {
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for %u clients with blocks of %zu bytes",
                                   replay->options.clients, replay->options.block_bytes);
    } else {
        fm_rng rng = fm_base_rng_begin(1, 0);
        fm_base_rng_fill(&rng, replay->random, random_bytes);
        status = run(replay, clients);
        if (status == FM_OK)
            finish(replay, fm_base_clock_ns(), out_result);
    }
    clients_free(clients, replay->options.clients);
    fm_base_mem_free(replay->put_ns);
    fm_base_mem_free(replay->get_ns);
    fm_base_mem_free(replay->random);
    return status;
}

fm_status fm_fs_kvtrace_replay(fm_fs_kvcache *cache, const fm_fs_kvtrace *trace,
                               const fm_fs_kvtrace_replay_options *options, fm_fs_kvtrace_result *out_result)
{
    struct replay replay = {.cache = cache, .trace = trace};
    if (!cache || !trace || !out_result || (options && options->size != sizeof *options))
        return fm_base_error_set(FM_ERR_ARG, "a pointer is NULL, or options->size is not %zu",
                                 sizeof *options);
    if (options)
        replay.options = *options;
    if (!replay.options.block_bytes)
        replay.options.block_bytes = BLOCK_BYTES;
    if (!replay.options.clients)
        replay.options.clients = 1;
    if (replay.options.block_bytes < BLOCK_BYTES_MIN || replay.options.block_bytes > UINT32_MAX ||
        replay.options.clients > CLIENTS_MAX || !(replay.options.speed >= 0))
        return fm_base_error_set(
            FM_ERR_ARG,
            "block_bytes is %zu, clients %u, speed %g; expected %d to 2^32 - 1, 1 to %d, 0 or more",
            replay.options.block_bytes, replay.options.clients, replay.options.speed, BLOCK_BYTES_MIN,
            CLIENTS_MAX);
    pthread_mutex_init(&replay.lock, NULL);
    fm_status status = prepare_and_run(&replay, out_result);
    pthread_mutex_destroy(&replay.lock);
    return status;
}
