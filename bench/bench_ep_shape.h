/* What the benchmarks of ep share, whether ranks are threads or processes: DeepSeek-V3's shapes, their cases, a sum. */
#ifndef BENCH_EP_SHAPE_H
#define BENCH_EP_SHAPE_H

#include "fathom/ep.h"
#include "fm_bench.h"

enum {
    EP_BENCH_RANKS_MAX = 4,
    EP_BENCH_HIDDEN = 7168,
    EP_BENCH_SCALES = EP_BENCH_HIDDEN / FM_EP_SCALE_BLOCK,
    EP_BENCH_EXPERTS = 256,
    EP_BENCH_TOPK = 8
};

/** What a case measures; the two together are a round. */
typedef enum ep_work { EP_DISPATCH = 1, EP_COMBINE = 2 } ep_work;

typedef struct ep_shape {
    int ranks, tokens;
    unsigned work; /**< of ep_work */
    int rounds;    /**< in one run, so that waking the ranks does not count */
} ep_shape;

/** Adds the cases: dispatch.fp8.<transport><ranks>x<tokens>x<hidden>, combine.bf16. and round. likewise. `of` has the callbacks
 * and peers, the first of which the rounds are to beat; the rest is filled in, `argument` with the ep_shape. */
fm_status ep_bench_add_shapes(fm_bench *bench, const char *transport, const fm_bench_case *of);

/** sum [hidden] = row, or sum + row. */
void ep_bench_sum_row(const fm_bf16 *row, int is_first, float *sum);

#endif
