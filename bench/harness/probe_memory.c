#include "probe_kernels.h"

#include "fm_bench.h"

#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

typedef uint64_t vector __attribute__((vector_size(16)));

enum {
    STEP = 256, // bytes of one stream before the walk turns to the next: 4 lines
    // Bytes that a prefetch runs ahead. Below 256 the read probe loses up to a fifth, above 1024 nothing is gained.
    AHEAD = 512,
    LINE = 64,
    STEP_VECTORS = STEP / sizeof(vector),
};

static size_t advance(fm_bench_lane *lane)
{
    size_t from = lane->cursor;
    lane->cursor = from + FM_BENCH_STREAM_CHUNK < lane->stream_bytes ? from + FM_BENCH_STREAM_CHUNK : 0;
    return from;
}

static inline void prefetch_step(const char *at)
{
    for (int line = 0; line < STEP; line += LINE)
        __builtin_prefetch(at + AHEAD + line, 0, 3);
}

double fm_bench_chunk_read(fm_bench_lane *lane)
{
    vector sum[4] = {{0}};
    size_t begin = advance(lane);
    for (size_t offset = begin; offset < begin + FM_BENCH_STREAM_CHUNK; offset += STEP) {
        const char *at = lane->memory + offset;
        for (int stream = 0; stream < FM_BENCH_STREAMS; stream++, at += lane->stream_bytes) {
            const vector *from = (const vector *)at;
            prefetch_step(at);
            for (size_t i = 0; i < STEP_VECTORS; i += 4) {
                sum[0] ^= from[i];
                sum[1] ^= from[i + 1];
                sum[2] ^= from[i + 2];
                sum[3] ^= from[i + 3];
            }
        }
    }
    sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
    FM_BENCH_KEEP(sum[0][0] ^ sum[0][1]);
    return (double)FM_BENCH_STREAMS * FM_BENCH_STREAM_CHUNK;
}

static inline void copy_step(vector *to, const vector *from, int streamed)
{
    for (size_t i = 0; i < STEP_VECTORS; i++) {
#ifdef __SSE2__
        if (streamed) {
            _mm_stream_si128((__m128i *)(to + i), (__m128i)from[i]);
            continue;
        }
#endif
        to[i] = from[i];
    }
    // Keeps the compiler from making the loop a call of memcpy(), which picks its kind of stores by itself.
    __asm__ volatile("" : : : "memory");
}

// The lower half of each stream is copied to its upper half, so that read and written lines come round as late as lines
// that are only read.
static inline double copy(fm_bench_lane *lane, int streamed)
{
    size_t half = lane->stream_bytes / 2;
    size_t begin = advance(lane) / 2;
    for (size_t offset = begin; offset < begin + FM_BENCH_STREAM_CHUNK / 2; offset += STEP) {
        char *at = lane->memory + offset;
        for (int stream = 0; stream < FM_BENCH_STREAMS; stream++, at += lane->stream_bytes) {
            prefetch_step(at);
            copy_step((vector *)(at + half), (const vector *)at, streamed);
        }
    }
#ifdef __SSE2__
    if (streamed)
        _mm_sfence();
#endif
    return (double)FM_BENCH_STREAMS * FM_BENCH_STREAM_CHUNK; // half of it read, half of it written
}

double fm_bench_chunk_copy(fm_bench_lane *lane)
{
    return copy(lane, 0);
}

double fm_bench_chunk_copy_streamed(fm_bench_lane *lane)
{
    return copy(lane, 1);
}
