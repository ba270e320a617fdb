// The sum of weighted rows for AVX-512.
#include "ep_sum_body.h"

void fm_ep_sum_avx512(const fm_ep_sum *sum, int hidden, const fm_ep_sum *next, int stream, fm_bf16 *out)
{
    sum_rows(sum, hidden, next, stream, out);
}
