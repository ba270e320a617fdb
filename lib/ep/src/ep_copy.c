// Copying rows past the caches.
#include <string.h>

#include "ep_private.h"
#include "fathom/cpu.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

enum { STREAM_LINE = 64, L2_UNKNOWN = 1 << 20 };

int fm_ep_copy_streams(size_t bytes)
{
    size_t l2 = fm_base_cpu_get()->l2_bytes;
    return bytes > (l2 > 0 ? l2 : L2_UNKNOWN);
}

void fm_ep_copy_row(void *to, const void *from, size_t bytes, int stream)
{
#if defined(__x86_64__)
    // Whole lines only: a part of one would be read back from memory.
    if (stream && (uintptr_t)to % STREAM_LINE == 0 && bytes % STREAM_LINE == 0) {
        __m128i *out = to;
        const __m128i *in = from;
        for (size_t i = 0; i < bytes / sizeof *in; i += 4) {
            __m128i a = _mm_loadu_si128(in + i), b = _mm_loadu_si128(in + i + 1);
            __m128i c = _mm_loadu_si128(in + i + 2), d = _mm_loadu_si128(in + i + 3);
            _mm_stream_si128(out + i, a);
            _mm_stream_si128(out + i + 1, b);
            _mm_stream_si128(out + i + 2, c);
            _mm_stream_si128(out + i + 3, d);
        }
        return;
    }
#endif
    (void)stream;
    memcpy(to, from, bytes);
}

void fm_ep_copy_fence(void)
{
#if defined(__x86_64__)
    _mm_sfence();
#endif
}
