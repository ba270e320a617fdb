// Rows copied past the caches for AVX2.
#include "ep_copy_body.h"

void fm_ep_copy_avx2(void *to, const void *from, size_t bytes, const void *next)
{
    stream_row(to, from, bytes, next);
}
