/*
 * Pages are copied into one matrix of keys; S = Q K^T, softmax, O = P V, each a primitive on all heads at once.
 */
#include "bench_mla.h"

#include "fm_bench.h"

#include "fathom/mem.h"
#include "fathom/numfmt.h"

#include <math.h>
#include <string.h>

#if defined(FM_HAVE_DNNL)

#include <dnnl.h>
#include <omp.h>

enum { ARGS_MAX = 4 };

struct step {
    dnnl_primitive_t primitive;
    dnnl_exec_arg_t args[ARGS_MAX];
    int count;
};

struct fm_bench_mla_dnnl {
    int heads, f32;
    int64_t keys;
    const fm_mla_cache *cache;
    const int32_t *block_table;
    const fm_tensor *q;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    void *k, *q_copy, *p;
    float *s, *out;
    dnnl_memory_t memories[8];
    int memory_count;
    struct step dots, softmax, round, values;
};

static fm_status checked(dnnl_status_t status, const char *what)
{
    return status == dnnl_success
               ? FM_OK
               : fm_base_error_set(FM_ERR_UNAVAILABLE, "libdnnl: %s: status %d", what, (int)status);
}

static fm_status add_memory(struct fm_bench_mla_dnnl *peer, const dnnl_memory_desc_t *desc, void *data,
                            dnnl_memory_t *out_memory)
{
    FM_TRY(checked(dnnl_memory_create(out_memory, desc, peer->engine, data), "memory"));
    peer->memories[peer->memory_count++] = *out_memory;
    return FM_OK;
}

static fm_status matrix(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
                        dnnl_data_type_t type, dnnl_memory_desc_t *out_desc)
{
    dnnl_dims_t dims = {rows, columns}, strides = {row_stride, column_stride};
    return checked(dnnl_memory_desc_init_by_strides(out_desc, 2, dims, type, strides), "matrix");
}

static fm_status finish_step(struct fm_bench_mla_dnnl *peer, dnnl_primitive_desc_t desc, struct step *step)
{
    (void)peer;
    fm_status status = checked(dnnl_primitive_create(&step->primitive, desc), "primitive");
    dnnl_primitive_desc_destroy(desc);
    return status;
}

static fm_status make_product(struct fm_bench_mla_dnnl *peer, const dnnl_memory_desc_t *a, void *a_data,
                              const dnnl_memory_desc_t *b, void *b_data, const dnnl_memory_desc_t *c,
                              void *c_data, struct step *step)
{
    dnnl_matmul_desc_t product;
    dnnl_primitive_desc_t desc;
    dnnl_memory_t memory[3];
    FM_TRY(checked(dnnl_matmul_desc_init(&product, a, b, NULL, c), "matmul"));
    FM_TRY(checked(dnnl_primitive_desc_create(&desc, &product, NULL, peer->engine, NULL), "matmul"));
    FM_TRY(finish_step(peer, desc, step));
    FM_TRY(add_memory(peer, a, a_data, &memory[0]));
    FM_TRY(add_memory(peer, b, b_data, &memory[1]));
    FM_TRY(add_memory(peer, c, c_data, &memory[2]));
    step->args[0] = (dnnl_exec_arg_t){DNNL_ARG_SRC, memory[0]};
    step->args[1] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, memory[1]};
    step->args[2] = (dnnl_exec_arg_t){DNNL_ARG_DST, memory[2]};
    step->count = 3;
    return FM_OK;
}

static fm_status make_softmax(struct fm_bench_mla_dnnl *peer, const dnnl_memory_desc_t *s, struct step *step)
{
    dnnl_softmax_desc_t softmax;
    dnnl_primitive_desc_t desc;
    dnnl_memory_t memory = peer->memories[peer->memory_count - 1]; // of S
    FM_TRY(checked(dnnl_softmax_forward_desc_init(&softmax, dnnl_forward_inference, s, 1), "softmax"));
    FM_TRY(checked(dnnl_primitive_desc_create(&desc, &softmax, NULL, peer->engine, NULL), "softmax"));
    FM_TRY(finish_step(peer, desc, step));
    step->args[0] = (dnnl_exec_arg_t){DNNL_ARG_SRC, memory};
    step->args[1] = (dnnl_exec_arg_t){DNNL_ARG_DST, memory};
    step->count = 2;
    return FM_OK;
}

static fm_status make_rounding(struct fm_bench_mla_dnnl *peer, const dnnl_memory_desc_t *s,
                               const dnnl_memory_desc_t *p, struct step *step)
{
    dnnl_primitive_desc_t desc;
    dnnl_memory_t memory = peer->memories[peer->memory_count - 1], rounded;
    FM_TRY(checked(dnnl_reorder_primitive_desc_create(&desc, s, peer->engine, p, peer->engine, NULL),
                   "reorder"));
    FM_TRY(finish_step(peer, desc, step));
    FM_TRY(add_memory(peer, p, peer->p, &rounded));
    step->args[0] = (dnnl_exec_arg_t){DNNL_ARG_FROM, memory};
    step->args[1] = (dnnl_exec_arg_t){DNNL_ARG_TO, rounded};
    step->count = 2;
    return FM_OK;
}

static fm_status make_steps(struct fm_bench_mla_dnnl *peer)
{
    int64_t h = peer->heads, n = peer->keys, d_qk = peer->cache->d_qk, d_v = peer->cache->d_v;
    dnnl_data_type_t type = peer->f32 ? dnnl_f32 : dnnl_bf16;
    dnnl_memory_desc_t q, kt, v, s, p, o;
    FM_TRY(checked(dnnl_engine_create(&peer->engine, dnnl_cpu, 0), "engine"));
    FM_TRY(checked(dnnl_stream_create(&peer->stream, peer->engine, dnnl_stream_default_flags), "stream"));
    FM_TRY(matrix(h, d_qk, d_qk, 1, type, &q));
    FM_TRY(matrix(d_qk, n, 1, d_qk, type, &kt));
    FM_TRY(matrix(n, d_v, d_qk, 1, type, &v));
    FM_TRY(matrix(h, n, n, 1, dnnl_f32, &s));
    FM_TRY(matrix(h, n, n, 1, type, &p));
    FM_TRY(matrix(h, d_v, d_v, 1, dnnl_f32, &o));
    FM_TRY(make_product(peer, &q, peer->q_copy, &kt, peer->k, &s, peer->s, &peer->dots));
    FM_TRY(make_softmax(peer, &s, &peer->softmax));
    if (!peer->f32)
        FM_TRY(make_rounding(peer, &s, &p, &peer->round));
    return make_product(peer, &p, peer->f32 ? peer->s : peer->p, &v, peer->k, &o, peer->out, &peer->values);
}

fm_status fm_bench_mla_dnnl_open(int heads, int64_t keys, const fm_mla_cache *cache,
                                 const int32_t *block_table, const fm_tensor *q, int f32,
                                 fm_bench_mla_dnnl **out_peer)
{
    struct fm_bench_mla_dnnl *peer = fm_base_mem_zalloc(1, sizeof *peer);
    if (!peer)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a peer");
    *peer = (struct fm_bench_mla_dnnl){
        .heads = heads, .f32 = f32, .keys = keys, .cache = cache, .block_table = block_table, .q = q};
    size_t element = f32 ? sizeof(float) : sizeof(fm_bf16), rows = (size_t)heads;
    peer->k = fm_bench_alloc((size_t)keys * (size_t)cache->d_qk * element);
    peer->q_copy = fm_bench_alloc(rows * (size_t)cache->d_qk * element);
    peer->p = fm_bench_alloc(rows * (size_t)keys * sizeof(fm_bf16));
    peer->s = fm_bench_alloc(rows * (size_t)keys * sizeof *peer->s);
    peer->out = fm_bench_alloc(rows * (size_t)cache->d_v * sizeof *peer->out);
    fm_status status = peer->k && peer->q_copy && peer->p && peer->s && peer->out
                           ? make_steps(peer)
                           : fm_base_error_set(FM_ERR_NOMEM, "no memory for a peer");
    if (status != FM_OK) {
        fm_bench_mla_dnnl_close(peer);
        return status;
    }
    *out_peer = peer;
    return FM_OK;
}

static void take(const struct fm_bench_mla_dnnl *peer, const void *from, int64_t at, size_t count, void *to)
{
    if (peer->f32)
        fm_base_bf16_to_f32((const fm_bf16 *)from + at, count, to);
    else
        memcpy(to, (const fm_bf16 *)from + at, count * sizeof(fm_bf16));
}

static fm_status run_step(const struct fm_bench_mla_dnnl *peer, const struct step *step)
{
    return checked(dnnl_primitive_execute(step->primitive, peer->stream, step->count, step->args), "execute");
}

fm_status fm_bench_mla_dnnl_run(fm_bench_mla_dnnl *peer, int threads)
{
    int64_t d_qk = peer->cache->d_qk, page = peer->cache->page;
    size_t element = peer->f32 ? sizeof(float) : sizeof(fm_bf16);
    omp_set_num_threads(threads);
    for (int64_t at = 0; at < peer->keys; at += page) {
        int64_t count = peer->keys - at < page ? peer->keys - at : page;
        take(peer, peer->cache->data, peer->block_table[at / page] * page * d_qk, (size_t)(count * d_qk),
             (uint8_t *)peer->k + (size_t)(at * d_qk) * element);
    }
    take(peer, peer->q->data, 0, (size_t)(peer->heads * d_qk), peer->q_copy);
    FM_TRY(run_step(peer, &peer->dots));
    const float scale = (float)(1 / sqrt((double)d_qk));
    for (int64_t i = 0; i < peer->heads * peer->keys; i++)
        peer->s[i] *= scale;
    FM_TRY(run_step(peer, &peer->softmax));
    if (!peer->f32)
        FM_TRY(run_step(peer, &peer->round));
    FM_TRY(run_step(peer, &peer->values));
    return checked(dnnl_stream_wait(peer->stream), "wait");
}

const float *fm_bench_mla_dnnl_out(const fm_bench_mla_dnnl *peer)
{
    return peer->out;
}

void fm_bench_mla_dnnl_close(fm_bench_mla_dnnl *peer)
{
    if (!peer)
        return;
    struct step *steps[] = {&peer->dots, &peer->softmax, &peer->round, &peer->values};
    for (int i = 0; i < 4; i++)
        if (steps[i]->primitive)
            dnnl_primitive_destroy(steps[i]->primitive);
    for (int i = 0; i < peer->memory_count; i++)
        dnnl_memory_destroy(peer->memories[i]);
    if (peer->stream)
        dnnl_stream_destroy(peer->stream);
    if (peer->engine)
        dnnl_engine_destroy(peer->engine);
    fm_base_mem_free(peer->k);
    fm_base_mem_free(peer->q_copy);
    fm_base_mem_free(peer->p);
    fm_base_mem_free(peer->s);
    fm_base_mem_free(peer->out);
    fm_base_mem_free(peer);
}

#else

fm_status fm_bench_mla_dnnl_open(int heads, int64_t keys, const fm_mla_cache *cache,
                                 const int32_t *block_table, const fm_tensor *q, int f32,
                                 fm_bench_mla_dnnl **out_peer)
{
    (void)heads;
    (void)keys;
    (void)cache;
    (void)block_table;
    (void)q;
    (void)f32;
    (void)out_peer;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "built without libdnnl");
}

fm_status fm_bench_mla_dnnl_run(fm_bench_mla_dnnl *peer, int threads)
{
    (void)peer;
    (void)threads;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "built without libdnnl");
}

const float *fm_bench_mla_dnnl_out(const fm_bench_mla_dnnl *peer)
{
    (void)peer;
    return NULL;
}

void fm_bench_mla_dnnl_close(fm_bench_mla_dnnl *peer)
{
    (void)peer;
}

#endif
