// The sum of weighted rows on any CPU.
#include "ep_sum_body.h"

void fm_ep_sum_ref(const fm_bf16 *const *rows, const float *weights, int count, int hidden, fm_bf16 *out)
{
    sum_rows(rows, weights, count, hidden, out);
}
