#include "bench_gemm.h"

#include "fm_bench.h"

#include "fathom/gemm_quant.h"
#include "fathom/mem.h"

#if defined(FM_HAVE_DNNL)
#include <dnnl.h>
#include <omp.h>
#endif
#if defined(FM_HAVE_OPENBLAS)
#include <cblas.h>
#endif

struct bench_gemm_peers {
    int64_t m, n, k;
    fm_gemm_operand a, b;
    fm_gemm_context *one, *all;
    uint16_t *a_bf16, *b_bf16, *d_bf16; // of oneDNN
    float *a_f32, *b_f32, *d_f32;       // of OpenBLAS
#if defined(FM_HAVE_DNNL)
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_memory_t a_memory, b_memory, b_packed, d_memory;
    dnnl_primitive_t packed, plain;
#endif
};

void bench_gemm_peers_close(struct bench_gemm_peers *peers)
{
    if (!peers)
        return;
#if defined(FM_HAVE_DNNL)
    dnnl_primitive_t primitives[] = {peers->packed, peers->plain};
    for (int i = 0; i < 2; i++)
        if (primitives[i])
            dnnl_primitive_destroy(primitives[i]);
    dnnl_memory_t memories[] = {peers->a_memory, peers->b_memory, peers->b_packed, peers->d_memory};
    for (int i = 0; i < 4; i++)
        if (memories[i])
            dnnl_memory_destroy(memories[i]);
    if (peers->stream)
        dnnl_stream_destroy(peers->stream);
    if (peers->engine)
        dnnl_engine_destroy(peers->engine);
#endif
    fm_gemm_context_close(peers->one);
    fm_gemm_context_close(peers->all);
    fm_base_mem_free(peers->a_bf16);
    fm_base_mem_free(peers->b_bf16);
    fm_base_mem_free(peers->d_bf16);
    fm_base_mem_free(peers->a_f32);
    fm_base_mem_free(peers->b_f32);
    fm_base_mem_free(peers->d_f32);
    fm_base_mem_free(peers);
}

static fm_status widen(struct bench_gemm_peers *peers, fm_dtype dtype, void *a, void *b, int threads)
{
    fm_gemm_context *context = threads == 1 ? peers->one : peers->all;
    FM_TRY(fm_gemm_dequantise(context, peers->m, peers->k, &peers->a, dtype, a, peers->k));
    return fm_gemm_dequantise(context, peers->n, peers->k, &peers->b, dtype, b, peers->k);
}

#if defined(FM_HAVE_DNNL)

static fm_status tried(dnnl_status_t status, const char *what)
{
    if (status != dnnl_success)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "oneDNN cannot %s here (status %d)", what, (int)status);
    return FM_OK;
}

// D = A B with B given as [k, n], plain or in any layout.
static fm_status make_matmul(struct bench_gemm_peers *peers, const dnnl_memory_desc_t *b,
                             dnnl_primitive_t *out, dnnl_memory_desc_t *out_b)
{
    const dnnl_dims_t a_dims = {peers->m, peers->k}, d_dims = {peers->m, peers->n};
    dnnl_memory_desc_t a, d;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t description;
    FM_TRY(tried(dnnl_memory_desc_init_by_tag(&a, 2, a_dims, dnnl_bf16, dnnl_ab), "describe A"));
    FM_TRY(tried(dnnl_memory_desc_init_by_tag(&d, 2, d_dims, dnnl_bf16, dnnl_ab), "describe D"));
    FM_TRY(tried(dnnl_matmul_desc_init(&matmul, &a, b, NULL, &d), "describe a product"));
    FM_TRY(tried(dnnl_primitive_desc_create(&description, &matmul, NULL, peers->engine, NULL),
                 "multiply in BF16"));
    *out_b = *dnnl_primitive_desc_query_md(description, dnnl_query_weights_md, 0);
    dnnl_status_t status = dnnl_primitive_create(out, description);
    dnnl_primitive_desc_destroy(description);
    FM_TRY(tried(status, "make a product"));
    if (!peers->a_memory) {
        FM_TRY(tried(dnnl_memory_create(&peers->a_memory, &a, peers->engine, peers->a_bf16), "take A"));
        FM_TRY(tried(dnnl_memory_create(&peers->d_memory, &d, peers->engine, peers->d_bf16), "take D"));
    }
    return FM_OK;
}

static fm_status reorder(struct bench_gemm_peers *peers, const dnnl_memory_desc_t *from,
                         const dnnl_memory_desc_t *to)
{
    dnnl_primitive_desc_t description;
    dnnl_primitive_t primitive;
    FM_TRY(
        tried(dnnl_memory_create(&peers->b_packed, to, peers->engine, DNNL_MEMORY_ALLOCATE), "hold weights"));
    FM_TRY(
        tried(dnnl_reorder_primitive_desc_create(&description, from, peers->engine, to, peers->engine, NULL),
              "describe a reorder"));
    dnnl_status_t status = dnnl_primitive_create(&primitive, description);
    dnnl_primitive_desc_destroy(description);
    FM_TRY(tried(status, "make a reorder"));
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, peers->b_memory}, {DNNL_ARG_TO, peers->b_packed}};
    status = dnnl_primitive_execute(primitive, peers->stream, 2, args);
    if (status == dnnl_success)
        status = dnnl_stream_wait(peers->stream);
    dnnl_primitive_destroy(primitive);
    return tried(status, "reorder weights");
}

static fm_status open_dnnl(struct bench_gemm_peers *peers)
{
    const dnnl_dims_t dims = {peers->k, peers->n}, strides = {1, peers->k};
    dnnl_memory_desc_t plain, any, chosen, same;
    FM_TRY(tried(dnnl_engine_create(&peers->engine, dnnl_cpu, 0), "start"));
    FM_TRY(tried(dnnl_stream_create(&peers->stream, peers->engine, dnnl_stream_default_flags), "start"));
    FM_TRY(tried(dnnl_memory_desc_init_by_strides(&plain, 2, dims, dnnl_bf16, strides), "describe B"));
    FM_TRY(tried(dnnl_memory_desc_init_by_tag(&any, 2, dims, dnnl_bf16, dnnl_format_tag_any), "describe B"));
    FM_TRY(tried(dnnl_memory_create(&peers->b_memory, &plain, peers->engine, peers->b_bf16), "take B"));
    FM_TRY(make_matmul(peers, &any, &peers->packed, &chosen));
    FM_TRY(make_matmul(peers, &plain, &peers->plain, &same));
    return reorder(peers, &plain, &chosen);
}

static fm_status execute(struct bench_gemm_peers *peers, dnnl_primitive_t primitive, dnnl_memory_t b,
                         int threads)
{
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, peers->a_memory}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, peers->d_memory}};
    omp_set_num_threads(threads);
    FM_TRY(tried(dnnl_primitive_execute(primitive, peers->stream, 3, args), "multiply"));
    return tried(dnnl_stream_wait(peers->stream), "multiply");
}

fm_status bench_gemm_dnnl(struct bench_gemm_peers *peers, int threads)
{
    return execute(peers, peers->packed, peers->b_packed, threads);
}

fm_status bench_gemm_dequantise_dnnl(struct bench_gemm_peers *peers, int threads)
{
    FM_TRY(widen(peers, FM_DTYPE_BF16, peers->a_bf16, peers->b_bf16, threads));
    return execute(peers, peers->plain, peers->b_memory, threads);
}

#else

static fm_status open_dnnl(struct bench_gemm_peers *peers)
{
    (void)peers;
    return FM_OK;
}

fm_status bench_gemm_dnnl(struct bench_gemm_peers *peers, int threads)
{
    (void)peers, (void)threads;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "this build lacks oneDNN");
}

fm_status bench_gemm_dequantise_dnnl(struct bench_gemm_peers *peers, int threads)
{
    return bench_gemm_dnnl(peers, threads);
}

#endif

fm_status bench_gemm_openblas(struct bench_gemm_peers *peers, int threads)
{
#if defined(FM_HAVE_OPENBLAS)
    openblas_set_num_threads(threads);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)peers->m, (int)peers->n, (int)peers->k, 1,
                peers->a_f32, (int)peers->k, peers->b_f32, (int)peers->k, 0, peers->d_f32, (int)peers->n);
    return FM_OK;
#else
    (void)peers, (void)threads;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "this build lacks OpenBLAS");
#endif
}

static fm_status fill(struct bench_gemm_peers *peers, int threads_max)
{
    size_t a = (size_t)(peers->m * peers->k), b = (size_t)(peers->n * peers->k),
           d = (size_t)(peers->m * peers->n);
    FM_TRY(
        fm_gemm_context_open(&(fm_gemm_options){.size = sizeof(fm_gemm_options), .threads = 1}, &peers->one));
    FM_TRY(fm_gemm_context_open(&(fm_gemm_options){.size = sizeof(fm_gemm_options), .threads = threads_max},
                                &peers->all));
    peers->a_bf16 = fm_bench_alloc(2 * a);
    peers->b_bf16 = fm_bench_alloc(2 * b);
    peers->d_bf16 = fm_bench_alloc(2 * d);
    peers->a_f32 = fm_bench_alloc(4 * a);
    peers->b_f32 = fm_bench_alloc(4 * b);
    peers->d_f32 = fm_bench_alloc(4 * d);
    if (!peers->a_bf16 || !peers->b_bf16 || !peers->d_bf16 || !peers->a_f32 || !peers->b_f32 || !peers->d_f32)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the peers' operands");
    FM_TRY(widen(peers, FM_DTYPE_BF16, peers->a_bf16, peers->b_bf16, threads_max));
    FM_TRY(widen(peers, FM_DTYPE_F32, peers->a_f32, peers->b_f32, threads_max));
    return open_dnnl(peers);
}

fm_status bench_gemm_peers_open(int64_t m, int64_t n, const fm_gemm_operand *a, const fm_gemm_operand *b,
                                int64_t k, int threads_max, struct bench_gemm_peers **out_peers)
{
    struct bench_gemm_peers *peers = fm_base_mem_zalloc(1, sizeof *peers);
    if (!peers)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the peers");
    peers->m = m;
    peers->n = n;
    peers->k = k;
    peers->a = *a;
    peers->b = *b;
    fm_status status = fill(peers, threads_max);
    if (status != FM_OK) {
        bench_gemm_peers_close(peers);
        return status;
    }
    *out_peers = peers;
    return FM_OK;
}
