// Which rows are copied past the caches, and by which kernel.
#include <string.h>

#include "ep_private.h"
#include "fathom/cpu.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

enum { STREAM_LINE = 64, L2_UNKNOWN = 1 << 20 };

fm_ep_copy_kernel fm_ep_copy_choose(size_t bytes)
{
    size_t l2 = fm_base_cpu_get()->l2_bytes;
    if (bytes <= (l2 > 0 ? l2 : L2_UNKNOWN))
        return NULL;
#if defined(__x86_64__)
    switch (fm_base_cpu_isa(FM_ISA_AVX512)) {
    case FM_ISA_AVX512:
        return fm_ep_copy_avx512;
    case FM_ISA_AVX2:
        return fm_ep_copy_avx2;
    default:
        break;
    }
#endif
    return fm_ep_copy_ref;
}

void fm_ep_copy_row(fm_ep_copy_kernel stream, void *to, const void *from, size_t bytes, const void *next)
{
    size_t head = -(uintptr_t)to % STREAM_LINE; // up to the first whole line
    if (!stream || bytes < head + STREAM_LINE) {
        for (size_t i = 0; i < bytes; i += STREAM_LINE)
            __builtin_prefetch((const char *)next + i, 0, 2);
        memcpy(to, from, bytes);
        return;
    }
    size_t middle = (bytes - head) / STREAM_LINE * STREAM_LINE, tail = bytes - head - middle;
    char *out = to;
    const char *in = from;
    memcpy(out, in, head);
    stream(out + head, in + head, middle, next);
    memcpy(out + head + middle, in + head + middle, tail);
}

void fm_ep_copy_fence(void)
{
#if defined(__x86_64__)
    _mm_sfence();
#endif
}
