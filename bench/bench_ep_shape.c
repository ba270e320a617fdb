// The cases of ep's benchmarks and what their peers have in common.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench_ep_shape.h"

enum { LANES = 16 };

typedef float f32x16 __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t u32x16 __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef uint16_t u16x16 __attribute__((vector_size(LANES * sizeof(uint16_t))));

void ep_bench_sum_row(const fm_bf16 *row, int is_first, float *sum)
{
    for (int i = 0; i < EP_BENCH_HIDDEN; i += LANES) {
        u16x16 codes;
        memcpy(&codes, row + i, sizeof codes);
        u32x16 bits = __builtin_convertvector(codes, u32x16) << 16;
        f32x16 values, old = {0};
        memcpy(&values, &bits, sizeof values);
        if (!is_first)
            memcpy(&old, sum + i, sizeof old);
        old += values;
        memcpy(sum + i, &old, sizeof old);
    }
}

/** Ranks that a token goes to, on average: the expected number of distinct groups hit by 8 of 256 experts. */
static double mean_ranks(int ranks)
{
    double miss = 1;
    int local = EP_BENCH_EXPERTS / ranks;
    for (int k = 0; k < EP_BENCH_TOPK; k++)
        miss *= (double)(EP_BENCH_EXPERTS - local - k) / (EP_BENCH_EXPERTS - k);
    return ranks * (1 - miss);
}

static const ep_shape shapes[] = {{2, 128, EP_DISPATCH, 16},
                                  {2, 4096, EP_DISPATCH, 1},
                                  {4, 128, EP_DISPATCH, 16},
                                  {4, 4096, EP_DISPATCH, 1},
                                  {2, 128, EP_COMBINE, 8},
                                  {2, 4096, EP_COMBINE, 1},
                                  {4, 128, EP_COMBINE, 8},
                                  {4, 4096, EP_COMBINE, 1},
                                  {2, 128, EP_DISPATCH | EP_COMBINE, 8},
                                  {2, 4096, EP_DISPATCH | EP_COMBINE, 1},
                                  {4, 128, EP_DISPATCH | EP_COMBINE, 8},
                                  {4, 4096, EP_DISPATCH | EP_COMBINE, 1}};

/** Bytes of a token's row that a run cannot but move, for each rank that the token goes to and once more: dispatch reads it once
 * and writes it there, combine reads it there and writes the sum. */
static double row_bytes(unsigned work)
{
    return (work & EP_DISPATCH ? EP_BENCH_HIDDEN + EP_BENCH_SCALES * 4.0 : 0) +
           (work & EP_COMBINE ? EP_BENCH_HIDDEN * 2.0 : 0);
}

fm_status ep_bench_add_shapes(fm_bench *bench, const char *transport, const fm_bench_case *of)
{
    static const char *const kinds[] = {
        [EP_DISPATCH] = "dispatch.fp8", [EP_COMBINE] = "combine.bf16", [EP_DISPATCH | EP_COMBINE] = "round"};
    static char names[sizeof shapes / sizeof shapes[0]][48]; // the harness keeps the pointers
    int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const ep_shape *s = &shapes[i];
        snprintf(names[i], sizeof names[i], "%s.%s%dx%dx%d", kinds[s->work], transport, s->ranks, s->tokens,
                 EP_BENCH_HIDDEN);
        fm_bench_case one = *of;
        one.name = names[i];
        one.argument = s;
        one.limit = FM_BENCH_COPY;
        one.bytes =
            (double)s->rounds * s->ranks * s->tokens * row_bytes(s->work) * (1 + mean_ranks(s->ranks));
        one.clock = FM_BENCH_WALL;
        one.mode = s->tokens > 128 ? FM_BENCH_IN_QUICK : FM_BENCH_IN_SMOKE;
        one.threads = s->ranks < cpus ? s->ranks : cpus; // the probe's; ranks share cores
        if (s->work == (EP_DISPATCH | EP_COMBINE))
            one.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = of->peers[0].name, .must = 2};
        else
            one.goals[0] = (fm_bench_goal){FM_BENCH_FRACTION, .must = 0.8};
        FM_TRY(fm_bench_add(bench, &one));
    }
    return FM_OK;
}
