// The sum of weighted rows for AVX2.
#include "ep_sum_body.h"

void fm_ep_sum_avx2(const fm_bf16 *const *rows, const float *weights, int count, int hidden, fm_bf16 *out)
{
    sum_rows(rows, weights, count, hidden, out);
}
