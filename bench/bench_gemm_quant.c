#include "bench_gemm_quant.h"

#include "bench_gemm_case.h"

#include "fathom/gemm_quant.h"
#include "fathom/mem.h"
#include "fathom/numfmt.h"

#include <string.h>

// Quantisers of BF16 to E4M3, bound by memory: 2 bytes read and 1 written for each number, scales aside.
enum way { ROWS, BLOCKS, TURNED, SWIGLU, BACK, WAYS };

struct argument {
    enum way way;
    int64_t rows, k;
};

struct quantising {
    struct argument argument;
    fm_gemm_context *one, *all;
    fm_bf16 *values, *back;
    fm_e4m3 *codes;
    float *scales;
    fm_gemm_quantised to;
};

static void teardown(void *state)
{
    struct quantising *job = state;
    fm_gemm_context_close(job->one);
    fm_gemm_context_close(job->all);
    fm_base_mem_free(job->values);
    fm_base_mem_free(job->back);
    fm_base_mem_free(job->codes);
    fm_base_mem_free(job->scales);
    fm_base_mem_free(job);
}

static fm_status run(void *state, int threads)
{
    struct quantising *job = state;
    const struct argument *argument = &job->argument;
    fm_gemm_context *context = threads == 1 ? job->one : job->all;
    int64_t rows = argument->rows, k = argument->k;
    const int64_t offsets[] = {0, rows};
    fm_gemm_operand from = {.dtype = FM_DTYPE_BF16, .data = job->values, .stride = k};
    fm_gemm_swiglu swiglu = {
        .dtype = FM_DTYPE_BF16, .gate = job->values, .up = job->values + k / 2, .stride = k};
    fm_gemm_operand quantised = fm_gemm_quantised_operand(&job->to);
    switch (argument->way) {
    case TURNED:
        return fm_gemm_quantise_transposed(context, 1, offsets, k, &from, &job->to);
    case SWIGLU:
        return fm_gemm_swiglu_quantise(context, rows, k / 2, &swiglu, &job->to);
    case BACK:
        return fm_gemm_dequantise(context, rows, k, &quantised, FM_DTYPE_BF16, job->back, k);
    default:
        return fm_gemm_quantise(context, rows, k, &from, &job->to);
    }
}

static fm_status fill(const fm_bench_setup *given, void *state)
{
    struct quantising *job = state;
    const struct argument *argument = &job->argument;
    size_t count = (size_t)(argument->rows * argument->k);
    // Those of AMX are those of AVX-512.
    fm_isa isa = fm_base_cpu_isa(FM_ISA_AVX512);
    FM_TRY(bench_gemm_contexts_open(isa, given->threads_max, &job->one, &job->all));
    float *values = fm_bench_alloc(count * sizeof *values);
    job->values = fm_bench_alloc(count * sizeof *job->values);
    job->back = fm_bench_alloc(count * sizeof *job->back);
    job->codes = fm_bench_alloc(count);
    job->scales = fm_bench_alloc(count / 128 * sizeof *job->scales + 64);
    if (!values || !job->values || !job->back || !job->codes || !job->scales) {
        fm_base_mem_free(values);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu numbers", count);
    }
    fm_bench_fill_floats(given->seed, values, count);
    fm_base_f32_to_bf16(values, count, job->values);
    fm_base_mem_free(values);
    memset(job->back, 0, count * sizeof *job->back);
    memset(job->codes, 0, count);
    int turned = argument->way == TURNED;
    int64_t k = argument->way == SWIGLU ? argument->k / 2 : turned ? argument->rows : argument->k;
    job->to = (fm_gemm_quantised){.dtype = FM_DTYPE_F8_E4M3,
                                  .data = job->codes,
                                  .stride = k,
                                  .scales = job->scales,
                                  .scale_stride = (k + 127) / 128,
                                  .scale_rows = argument->way == BLOCKS ? 128 : 1};
    if (argument->way != BACK)
        return FM_OK;
    job->argument.way = ROWS;
    FM_TRY(run(job, 1));
    job->argument.way = BACK;
    return FM_OK;
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    return bench_gemm_setup(given, sizeof(struct argument), sizeof(struct quantising), fill, teardown,
                            out_state);
}

static uint64_t hash(const void *state)
{
    const struct quantising *job = state;
    size_t count = (size_t)(job->argument.rows * job->argument.k);
    if (job->argument.way == BACK)
        return fm_bench_hash(0, job->back, count * sizeof *job->back);
    size_t codes = job->argument.way == SWIGLU ? count / 2 : count;
    size_t scales = job->argument.way == BLOCKS ? codes / 128 / 128 : codes / 128;
    return fm_bench_hash(fm_bench_hash(0, job->codes, codes), job->scales, scales * sizeof *job->scales);
}

fm_status bench_gemm_quant_add(fm_bench *bench)
{
    static const char *const names[WAYS] = {"quantise.1x128.4096x7168", "quantise.128x128.4096x7168",
                                            "quantise.128x1.4096x7168", "quantise.swiglu.4096x4096",
                                            "dequantise.1x128.4096x7168"};
    static struct argument arguments[WAYS];
    for (int way = 0; way < WAYS; way++) {
        arguments[way] = (struct argument){(enum way)way, 4096, way == SWIGLU ? 4096 : 7168};
        double numbers = (double)(arguments[way].rows * arguments[way].k);
        fm_bench_case item = {
            .name = names[way],
            .argument = &arguments[way],
            .limit = FM_BENCH_COPY,
            .bytes = numbers * (way == SWIGLU ? 2.5 : 3),
            .setup = setup,
            .run = run,
            .hash = hash,
            .teardown = teardown,
            .goals = {{FM_BENCH_FRACTION, .must = 0.80}},
        };
        if (way == BACK)
            memset(item.goals, 0, sizeof item.goals);
        FM_TRY(fm_bench_add(bench, &item));
    }
    return FM_OK;
}
