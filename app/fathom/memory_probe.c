#include "memory_probe.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "fathom/clock.h"
#include "fathom/mem.h"

enum {
    // One sequential stream leaves a third of a core's bandwidth unused (a core's prefetchers follow
    // several); eight
    // far-apart ones reach what weights and caches can be read at.
    STREAMS = 8,
    PREFETCH_BYTES = 1024,
    THREADS_MAX = 256,
};
// Of each thread. Four times the last-level cache that a virtual machine of this size can use.
static const size_t BUFFER_BYTES = (size_t)64 << 20;

struct reader {
    pthread_t thread;
    const uint64_t *buffer;
    pthread_barrier_t *barrier;
    uint64_t sum; // keeps the reads alive
};

static uint64_t read_once(const uint64_t *buffer)
{
    const size_t words = BUFFER_BYTES / STREAMS / sizeof *buffer;
    uint64_t sums[STREAMS] = {0};
    for (size_t i = 0; i < words; i += 8) {
        for (int s = 0; s < STREAMS; s++) {
            const uint64_t *line = buffer + (size_t)s * words + i;
            __builtin_prefetch((const char *)line + PREFETCH_BYTES);
            for (int w = 0; w < 8; w++)
                sums[s] += line[w];
        }
    }
    uint64_t sum = 0;
    for (int s = 0; s < STREAMS; s++)
        sum += sums[s];
    return sum;
}

// Two barriers a pass: the measuring thread takes its times between them. A pass without work ends the loop.
static void *read_passes(void *context)
{
    struct reader *reader = context;
    for (;;) {
        pthread_barrier_wait(reader->barrier);
        if (!reader->buffer)
            return NULL;
        reader->sum += read_once(reader->buffer);
        pthread_barrier_wait(reader->barrier);
    }
}

static double best_pass(struct reader *readers, int threads, pthread_barrier_t *barrier, double time_ms)
{
    uint64_t begin = fm_base_clock_ns();
    double best = 0;
    do {
        uint64_t from = fm_base_clock_ns();
        pthread_barrier_wait(barrier);
        pthread_barrier_wait(barrier);
        double rate = (double)BUFFER_BYTES * threads / (double)(fm_base_clock_ns() - from);
        best = rate > best ? rate : best;
    } while ((double)(fm_base_clock_ns() - begin) < time_ms * 1e6);
    for (int i = 0; i < threads; i++)
        readers[i].buffer = NULL;
    pthread_barrier_wait(barrier);
    return best;
}

fm_status fm_app_memory_read_rate(int threads, double time_ms, double *out_gb_per_s)
{
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    struct reader readers[THREADS_MAX];
    uint64_t *memory = fm_base_mem_aligned(BUFFER_BYTES * (size_t)threads, 4096);
    if (!memory)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the bandwidth probe (%zu MiB)",
                                 BUFFER_BYTES * (size_t)threads >> 20);
    // Written, so that every page is real and not the shared page of zeros.
    for (size_t i = 0; i < BUFFER_BYTES * (size_t)threads / sizeof *memory; i++)
        memory[i] = i * 0x9E3779B97F4A7C15u;
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    int started = 0;
    for (; started < threads; started++) {
        readers[started] = (struct reader){.buffer = memory + BUFFER_BYTES / sizeof *memory * (size_t)started,
                                           .barrier = &barrier};
        if (pthread_create(&readers[started].thread, NULL, read_passes, &readers[started]) != 0)
            break;
    }
    if (started <
        threads) { // those that wait at the barrier cannot be released by fewer: they end with the process
        for (int i = 0; i < started; i++)
            pthread_cancel(readers[i].thread);
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "only %d of %d threads could be started", started,
                                 threads);
    }
    *out_gb_per_s = best_pass(readers, threads, &barrier, time_ms);
    for (int i = 0; i < threads; i++)
        pthread_join(readers[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    fm_base_mem_free(memory);
    return FM_OK;
}
