// Rows copied past the caches on any CPU.
#include "ep_copy_body.h"

void fm_ep_copy_ref(void *to, const void *from, size_t bytes, const void *next)
{
    stream_row(to, from, bytes, next);
}
