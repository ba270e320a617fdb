// Random reads of a dataset, one batch ahead of the training that takes them.
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/fs_dataset.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "fathom/span.h"
#include "stage_files.h"

enum { READS_AT_ONCE = 64, SAMPLE_STREAM = 2, TOKEN = sizeof(int32_t) };

/** A batch and which one it is; -1: none. */
struct batch {
    int64_t step;
    int32_t *ids;
};

struct fm_sampler {
    fm_sampling sampling;
    fm_fs_dataset *dataset; // the thread's, once it runs
    int64_t *begins;        // of each file, in tokens; one more for the end
    size_t files;
    fm_fs_range *ranges;
    size_t range_count, range_capacity;
    pthread_t thread;
    int started;
    // Shared:
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct batch ready, taken; // the thread fills `ready` when `wanted` is another
    int64_t wanted;
    int waiting, stop; // a caller waits for what is being read
    fm_status status;
    char message[512];
    fm_sampler_figures figures;
};

static fm_status add_range(fm_sampler *s, const fm_fs_range *range)
{
    if (s->range_count == s->range_capacity) {
        size_t capacity = 2 * s->range_capacity + (size_t)s->sampling.sequences;
        fm_fs_range *grown = fm_base_mem_realloc(s->ranges, capacity, sizeof *grown);
        if (!grown)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu reads", capacity);
        s->ranges = grown;
        s->range_capacity = capacity;
    }
    s->ranges[s->range_count++] = *range;
    return FM_OK;
}

static size_t file_of(const fm_sampler *s, int64_t token)
{
    size_t low = 0, high = s->files;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (s->begins[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// A sequence is one range, or several where it runs over the end of a file.
static fm_status add_sequence(fm_sampler *s, int64_t at, int32_t *ids)
{
    int64_t left = s->sampling.width;
    for (size_t file = file_of(s, at); left > 0; file++) {
        int64_t there = s->begins[file + 1] - at, part = there < left ? there : left;
        if (part <= 0)
            continue;
        const fm_fs_range range = {file, (uint64_t)(at - s->begins[file]) * TOKEN, (size_t)part * TOKEN, ids};
        FM_TRY(add_range(s, &range));
        at += part;
        ids += part;
        left -= part;
    }
    return FM_OK;
}

static fm_status read_batch(fm_sampler *s, int64_t step, int32_t *ids)
{
    FM_SPAN_ARGS(span, "read samples", "fs", "step", "bytes");
    int64_t places = s->begins[s->files] - s->sampling.width + 1;
    s->range_count = 0;
    for (int i = 0; i < s->sampling.sequences; i++) {
        uint64_t drawn = fm_base_rng_at(s->sampling.seed, SAMPLE_STREAM,
                                        (uint64_t)step * (uint64_t)s->sampling.sequences + (uint64_t)i);
        FM_TRY(add_sequence(s, (int64_t)(fm_rng_to_double(drawn) * (double)places),
                            ids + (int64_t)i * s->sampling.width));
    }
    span.args[0] = step;
    span.args[1] = (int64_t)s->sampling.sequences * s->sampling.width * TOKEN;
    return fm_fs_dataset_read(s->dataset, s->ranges, s->range_count);
}

static void *run(void *context)
{
    fm_sampler *s = context;
    fm_base_span_set_thread(-1, "samples");
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->stop && (s->status < 0 || s->wanted == s->ready.step))
            pthread_cond_wait(&s->changed, &s->lock);
        if (s->stop)
            break;
        int64_t step = s->wanted;
        int awaited = s->waiting;
        s->ready.step = -1;
        pthread_mutex_unlock(&s->lock);
        uint64_t begin = fm_base_clock_ns();
        fm_status status = read_batch(s, step, s->ready.ids);
        uint64_t took = fm_base_clock_ns() - begin;
        pthread_mutex_lock(&s->lock);
        s->status = status;
        if (status < 0)
            snprintf(s->message, sizeof s->message, "%s", fm_error_message());
        uint64_t bytes = (uint64_t)s->sampling.sequences * (uint64_t)s->sampling.width * TOKEN;
        s->figures.bytes += bytes;
        s->figures.ahead_bytes += awaited || s->waiting ? 0 : bytes;
        s->figures.read_ns += took;
        s->ready.step = step;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static fm_status measure_files(fm_sampler *s)
{
    int64_t total = 0;
    s->files = fm_fs_dataset_count(s->dataset);
    s->begins = fm_base_mem_zalloc(s->files + 1, sizeof *s->begins);
    size_t cells = (size_t)s->sampling.sequences * (size_t)s->sampling.width;
    s->ready.ids = fm_base_mem_zalloc(cells, sizeof(int32_t));
    s->taken.ids = fm_base_mem_zalloc(cells, sizeof(int32_t));
    if (!s->begins || !s->ready.ids || !s->taken.ids)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a batch of %zu tokens", cells);
    for (size_t i = 0; i < s->files; i++) {
        uint64_t bytes = fm_fs_dataset_size(s->dataset, i);
        if (bytes % TOKEN)
            return fm_base_error_set(FM_ERR_FORMAT, "%s has %llu bytes; expected 32-bit tokens",
                                     fm_fs_dataset_name(s->dataset, i), (unsigned long long)bytes);
        s->begins[i] = total;
        total += (int64_t)(bytes / TOKEN);
    }
    s->begins[s->files] = total;
    if (total < s->sampling.width)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s/%s has %lld tokens; expected at least %d for one sequence: use a larger "
                                 "corpus or a smaller length",
                                 s->sampling.stage, s->sampling.name, (long long)total, s->sampling.width);
    return FM_OK;
}

fm_status fm_app_sampler_open(fm_fs *fs, const fm_sampling *sampling, fm_sampler **out_sampler)
{
    char manifest[FM_STAGE_PATH_BYTES];
    fm_sampler *s = fm_base_mem_zalloc(1, sizeof *s);
    if (!s)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a sampler");
    *s = (fm_sampler){.sampling = *sampling,
                      .ready.step = -1,
                      .taken.step = -1,
                      .wanted = -1,
                      .lock = PTHREAD_MUTEX_INITIALIZER,
                      .changed = PTHREAD_COND_INITIALIZER};
    snprintf(manifest, sizeof manifest, "%s/%s.manifest", sampling->stage, sampling->name);
    fm_status status = fm_fs_dataset_open(fs, manifest, READS_AT_ONCE, &s->dataset);
    if (status == FM_OK)
        status = measure_files(s);
    if (status == FM_OK) {
        int err = pthread_create(&s->thread, NULL, run, s);
        s->started = err == 0;
        if (err)
            status = fm_base_error_set_errno(FM_ERR_LIMIT, err, "a thread that reads samples");
    }
    if (status < 0)
        fm_app_sampler_close(s);
    else
        *out_sampler = s;
    return status;
}

fm_status fm_app_sampler_next(fm_sampler *s, int64_t step, const int32_t **out_ids)
{
    pthread_mutex_lock(&s->lock);
    uint64_t begin = fm_base_clock_ns();
    s->waiting = s->ready.step != step;
    while (s->status == FM_OK && s->ready.step != step) {
        if (s->ready.step >= 0 || s->wanted < 0) { // it read another one, or none yet
            s->wanted = step;
            pthread_cond_broadcast(&s->changed);
        }
        pthread_cond_wait(&s->changed, &s->lock);
    }
    s->waiting = 0;
    s->figures.waited_ns += fm_base_clock_ns() - begin;
    fm_status status = s->status;
    if (status == FM_OK) {
        struct batch batch = s->taken;
        s->taken = s->ready;
        s->ready = batch;
        s->ready.step = -1;
        s->wanted = step + 1;
        *out_ids = s->taken.ids;
        pthread_cond_broadcast(&s->changed);
    } else {
        fm_base_error_set(status, "%s", s->message);
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

int64_t fm_app_sampler_tokens(const fm_sampler *s)
{
    return s->begins[s->files];
}

fm_sampler_figures fm_app_sampler_figures(fm_sampler *s)
{
    pthread_mutex_lock(&s->lock);
    fm_sampler_figures figures = s->figures;
    pthread_mutex_unlock(&s->lock);
    return figures;
}

void fm_app_sampler_close(fm_sampler *s)
{
    if (!s)
        return;
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->stop = 1;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    fm_fs_dataset_close(s->dataset);
    fm_base_mem_free(s->begins);
    fm_base_mem_free(s->ranges);
    fm_base_mem_free(s->ready.ids);
    fm_base_mem_free(s->taken.ids);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    fm_base_mem_free(s);
}
