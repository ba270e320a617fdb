/*
 * Copying a row past the caches, written once for all instruction sets: each source that includes this is compiled with its
 * level's flags. Whole lines at whole lines only: a part of one would be read back from memory.
 */
#ifndef FM_EP_COPY_BODY_H
#define FM_EP_COPY_BODY_H

#include <string.h>

#include "ep_private.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { STREAM_LINE = 64 };

static inline void stream_line(char *to, const char *from)
{
#if defined(__AVX512F__)
    _mm512_stream_si512((void *)to, _mm512_loadu_si512(from));
#elif defined(__AVX__)
    __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)from);
    __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)from + 1);
    _mm256_stream_si256((__m256i *)(void *)to, a);
    _mm256_stream_si256((__m256i *)(void *)to + 1, b);
#elif defined(__x86_64__)
    for (int i = 0; i < STREAM_LINE / (int)sizeof(__m128i); i++)
        _mm_stream_si128((__m128i *)(void *)to + i, _mm_loadu_si128((const __m128i *)(const void *)from + i));
#else
    memcpy(to, from, STREAM_LINE);
#endif
}

/** While a row is copied the next one is fetched: the hardware, which does not look beyond a page, would not. */
static inline void stream_row(void *to, const void *from, size_t bytes, const void *next)
{
    const char *in = from, *after = next;
    char *out = to;
    for (size_t i = 0; i < bytes; i += STREAM_LINE) {
        __builtin_prefetch(after + i, 0,
                           2); // into the second level: the first is too small for two rows and a stack
        stream_line(out + i, in + i);
    }
}

#endif
