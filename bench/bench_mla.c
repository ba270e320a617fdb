#include "bench_mla.h"

#include "fm_bench.h"

#include "fathom/mem.h"
#include "fathom/mla.h"
#include "fathom/numfmt.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum kind {
    DECODE, // dense
    SPARSE, // by indices
    FORWARD,
    BACKWARD,
};

struct argument {
    enum kind kind;
    fm_isa isa;
    fm_mla_form form;
    int heads;
    int64_t keys; // of a sequence; of prefill the queries, too
    int batch;    // sequences; of more than one, keys fill whole pages
    int topk;
    fm_bench_mode mode;
    double must, hope;         // of the limit, on AVX-512
    double amx_must, amx_hope; // on AMX
};

// One layer of a request, or of a batch of them.
struct attention {
    struct argument argument;
    fm_mla_context *one, *all;
    fm_mla_plan *plan;
    fm_mla_cache cache;
    size_t cache_bytes;
    int32_t *table, *indices;
    int32_t *lengths;
    fm_tensor q, k, v, out, lse, d_out, dq, dk, dv;
    fm_bench_mla_dnnl *peers[2]; // in BF16 and in f32; NULL: not here
};

enum { PAGE = 64, D_LATENT = 576, D_LATENT_V = 512, D_QK = 192, D_V = 128 };

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
}

// Contiguous; random values in [-1, 1) where there is a seed, else touched.
static fm_status make_tensor(uint64_t seed, fm_dtype dtype, int ndim, const int64_t *shape,
                             fm_tensor *out_tensor)
{
    size_t bytes = 0;
    FM_TRY(fm_base_tensor_bytes(dtype, ndim, shape, &bytes));
    void *data = fm_bench_alloc(bytes);
    if (!data)
        return no_memory();
    memset(data, 0xA5, bytes);
    FM_TRY(fm_base_tensor_init(out_tensor, dtype, ndim, shape, data));
    size_t count = (size_t)fm_base_tensor_count(out_tensor);
    float *values = seed ? fm_base_mem_alloc(count * sizeof *values) : NULL;
    if (values) {
        fm_bench_fill_floats(seed, values, count);
        fm_base_f32_to_bf16(values, count, data);
    }
    fm_base_mem_free(values);
    return seed && !values ? no_memory() : FM_OK;
}

static fm_status open_context(const struct argument *argument, int threads, fm_mla_context **out_context)
{
    return fm_mla_context_open(
        &(fm_mla_options){
            .size = sizeof(fm_mla_options), .threads = threads, .capped = 1, .isa_max = argument->isa},
        out_context);
}

static void teardown(void *state)
{
    struct attention *attention = state;
    fm_tensor *tensors[] = {&attention->q,   &attention->k,   &attention->v,
                            &attention->out, &attention->lse, &attention->d_out,
                            &attention->dq,  &attention->dk,  &attention->dv};
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        fm_base_mem_free(tensors[i]->data);
    fm_base_mem_free(attention->cache.data);
    fm_base_mem_free(attention->table);
    fm_base_mem_free(attention->indices);
    fm_base_mem_free(attention->lengths);
    fm_bench_mla_dnnl_close(attention->peers[0]);
    fm_bench_mla_dnnl_close(attention->peers[1]);
    fm_mla_plan_free(attention->plan);
    fm_mla_context_close(attention->one);
    fm_mla_context_close(attention->all);
    fm_base_mem_free(attention);
}

// Pages in random places, or a list of random tokens.
static fm_status make_places(const fm_bench_setup *given, struct attention *attention)
{
    const struct argument *argument = &attention->argument;
    int64_t blocks = attention->cache.blocks;
    int sparse = argument->kind == SPARSE;
    int64_t count = sparse ? argument->topk : blocks;
    int32_t *places = fm_base_mem_zalloc((size_t)count, sizeof *places);
    uint32_t *random = fm_base_mem_alloc((size_t)count * sizeof *random);
    *(sparse ? &attention->indices : &attention->table) = places;
    if (!places || !random) {
        fm_base_mem_free(random);
        return no_memory();
    }
    fm_bench_fill(given->seed + 9, random, (size_t)count * sizeof *random);
    for (int64_t i = 0; i < count; i++)
        places[i] = (int32_t)(sparse ? random[i] % (uint64_t)argument->keys : (uint64_t)i);
    for (int64_t i = count - 1; !sparse && i > 0; i--) {
        int64_t j = random[i] % (i + 1);
        int32_t kept = places[i];
        places[i] = places[j];
        places[j] = kept;
    }
    fm_base_mem_free(random);
    return FM_OK;
}

// The keys of one sequence, to the slots that follow those of the ones before it.
static fm_status fill_sequence(const fm_bench_setup *given, struct attention *attention, int sequence)
{
    int64_t keys = attention->argument.keys;
    int64_t *slots = fm_base_mem_alloc((size_t)keys * sizeof *slots);
    fm_tensor rows = {0};
    fm_status status = slots ? make_tensor(given->seed + 1 + 100 * (uint64_t)sequence, FM_DTYPE_BF16, 3,
                                           (int64_t[]){keys, 1, D_LATENT}, &rows)
                             : no_memory();
    for (int64_t i = 0; slots && i < keys; i++)
        slots[i] = sequence * keys + i;
    if (status == FM_OK)
        status = fm_mla_cache_append(attention->one, &attention->cache, slots, &rows);
    fm_base_mem_free(rows.data);
    fm_base_mem_free(slots);
    return status;
}

static fm_status fill_cache(const fm_bench_setup *given, struct attention *attention)
{
    const struct argument *argument = &attention->argument;
    fm_mla_cache *cache = &attention->cache;
    *cache = (fm_mla_cache){.form = argument->form,
                            .page = PAGE,
                            .h_kv = 1,
                            .d_qk = D_LATENT,
                            .d_v = D_LATENT_V,
                            .blocks = argument->batch * ((argument->keys + PAGE - 1) / PAGE)};
    FM_TRY(fm_mla_cache_page_bytes(cache, &attention->cache_bytes));
    attention->cache_bytes *= (size_t)cache->blocks;
    cache->data = fm_bench_alloc(attention->cache_bytes);
    if (!cache->data)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "no %zu MiB of memory for the cache",
                                 attention->cache_bytes >> 20);
    for (int i = 0; i < argument->batch; i++)
        FM_TRY(fill_sequence(given, attention, i));
    return FM_OK;
}

static fm_status fill_decode(const fm_bench_setup *given, struct attention *attention)
{
    const struct argument *argument = &attention->argument;
    int heads = argument->heads, batch = argument->batch;
    fm_mla_shape shape = {.batch = batch, .s_q = 1, .h_q = heads, .h_kv = 1, .d_v = D_LATENT_V};
    fm_mla_split split = {0};
    for (int i = 0; i < batch; i++)
        attention->lengths[i] = (int32_t)argument->keys;
    if (argument->kind == SPARSE)
        FM_TRY(fm_mla_plan_sparse(&shape, argument->topk, NULL, 0, NULL, &split, &attention->plan));
    else
        FM_TRY(fm_mla_plan_dense(&shape, attention->lengths, &split, &attention->plan));
    FM_TRY(fill_cache(given, attention));
    FM_TRY(make_places(given, attention));
    FM_TRY(make_tensor(given->seed + 2, FM_DTYPE_BF16, 4, (int64_t[]){batch, 1, heads, D_LATENT},
                       &attention->q));
    FM_TRY(make_tensor(0, FM_DTYPE_BF16, 4, (int64_t[]){batch, 1, heads, D_LATENT_V}, &attention->out));
    return make_tensor(0, FM_DTYPE_F32, 3, (int64_t[]){batch, heads, 1}, &attention->lse);
}

static fm_mla_prefill_args prefill_args(const struct attention *attention)
{
    return (fm_mla_prefill_args){.q = &attention->q,
                                 .k = &attention->k,
                                 .v = &attention->v,
                                 .batch = 1,
                                 .cu_seqlens_q = attention->lengths,
                                 .cu_seqlens_k = attention->lengths,
                                 .causal = 1,
                                 .out = &attention->out,
                                 .lse = &attention->lse};
}

static fm_status fill_prefill(const fm_bench_setup *given, struct attention *attention)
{
    const struct argument *argument = &attention->argument;
    int64_t qk[] = {argument->keys, argument->heads, D_QK}, v[] = {argument->keys, argument->heads, D_V};
    attention->lengths[1] = (int32_t)argument->keys;
    FM_TRY(make_tensor(given->seed, FM_DTYPE_BF16, 3, qk, &attention->q));
    FM_TRY(make_tensor(given->seed + 1, FM_DTYPE_BF16, 3, qk, &attention->k));
    FM_TRY(make_tensor(given->seed + 2, FM_DTYPE_BF16, 3, v, &attention->v));
    FM_TRY(make_tensor(0, FM_DTYPE_BF16, 3, v, &attention->out));
    FM_TRY(make_tensor(0, FM_DTYPE_F32, 2, qk, &attention->lse));
    if (argument->kind == FORWARD)
        return FM_OK;
    FM_TRY(make_tensor(given->seed + 3, FM_DTYPE_BF16, 3, v, &attention->d_out));
    FM_TRY(make_tensor(0, FM_DTYPE_BF16, 3, qk, &attention->dq));
    FM_TRY(make_tensor(0, FM_DTYPE_BF16, 3, qk, &attention->dk));
    FM_TRY(make_tensor(0, FM_DTYPE_BF16, 3, v, &attention->dv));
    fm_mla_prefill_args args = prefill_args(attention);
    return fm_mla_prefill_forward(attention->one, &args);
}

static fm_status fill(const fm_bench_setup *given, struct attention *attention)
{
    const struct argument *argument = &attention->argument;
    FM_TRY(open_context(argument, 1, &attention->one));
    FM_TRY(open_context(argument, given->threads_max, &attention->all));
    if (fm_mla_context_isa(attention->one) != argument->isa)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "no %s here: %s", fm_base_isa_name(argument->isa),
                                 fm_base_cpu_isa_reason(argument->isa));
    attention->lengths = fm_base_mem_zalloc((size_t)argument->batch + 1, sizeof *attention->lengths);
    if (!attention->lengths)
        return no_memory();
    int decode = argument->kind == DECODE || argument->kind == SPARSE;
    return decode ? fill_decode(given, attention) : fill_prefill(given, attention);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct attention *attention = fm_base_mem_zalloc(1, sizeof *attention);
    if (!attention)
        return no_memory();
    attention->argument = *(const struct argument *)given->argument;
    fm_status status = fill(given, attention);
    if (status != FM_OK) {
        teardown(attention);
        return status;
    }
    *out_state = attention;
    return FM_OK;
}

// A decoder's cache comes from memory: the other layers' lie between two uses.
static fm_status make_cold(void *state)
{
    struct attention *attention = state;
    fm_bench_evict(attention->cache.data, attention->cache_bytes);
    return FM_OK;
}

static fm_status run(void *state, int threads)
{
    struct attention *attention = state;
    fm_mla_context *context = threads == 1 ? attention->one : attention->all;
    fm_mla_prefill_args args = prefill_args(attention);
    if (attention->argument.kind == FORWARD)
        return fm_mla_prefill_forward(context, &args);
    if (attention->argument.kind == BACKWARD)
        return fm_mla_prefill_backward(context, &args, &attention->d_out, &attention->dq, &attention->dk,
                                       &attention->dv);
    return fm_mla_decode(
        context, attention->plan,
        &(fm_mla_decode_args){.q = &attention->q,
                              .cache = &attention->cache,
                              .block_table = attention->table,
                              .max_blocks = attention->cache.blocks / attention->argument.batch,
                              .indices = attention->indices,
                              .out = &attention->out,
                              .lse = &attention->lse});
}

// A result that is far from ours is no peer's.
static fm_status compare(const struct attention *attention, const fm_bench_mla_dnnl *peer)
{
    const float *theirs = fm_bench_mla_dnnl_out(peer);
    const fm_bf16 *ours = attention->out.data;
    for (int64_t i = 0; i < fm_base_tensor_count(&attention->out); i++)
        if (!(fabsf(fm_bf16_to_f32(ours[i]) - theirs[i]) < 0.02F))
            return fm_base_error_set(FM_ERR_INTERNAL, "result %lld is %g and libdnnl's %g", (long long)i,
                                     (double)fm_bf16_to_f32(ours[i]), (double)theirs[i]);
    return FM_OK;
}

static fm_status run_peer(struct attention *attention, int f32, int threads)
{
    fm_bench_mla_dnnl **peer = &attention->peers[f32];
    if (!*peer) {
        FM_TRY(fm_bench_mla_dnnl_open(attention->argument.heads, attention->argument.keys, &attention->cache,
                                      attention->table, &attention->q, f32, peer));
        FM_TRY(fm_bench_mla_dnnl_run(*peer, threads));
        FM_TRY(run(attention, threads));
        FM_TRY(compare(attention, *peer));
    }
    return fm_bench_mla_dnnl_run(*peer, threads);
}

static fm_status run_dnnl_bf16(void *state, int threads)
{
    return run_peer(state, 0, threads);
}

static fm_status run_dnnl_f32(void *state, int threads)
{
    return run_peer(state, 1, threads);
}

static uint64_t hash_of(uint64_t seed, const fm_tensor *tensor)
{
    return fm_bench_hash(seed, tensor->data, (size_t)fm_base_tensor_count(tensor) * sizeof(fm_bf16));
}

static uint64_t hash(const void *state)
{
    const struct attention *attention = state;
    if (attention->argument.kind != BACKWARD)
        return hash_of(0, &attention->out);
    return hash_of(hash_of(hash_of(0, &attention->dq), &attention->dk), &attention->dv);
}

static const char *const kind_names[] = {"decode", "sparse", "forward", "backward"};

static const char *form_name(const struct argument *argument)
{
    return argument->form == FM_MLA_FORM_FP8 ? "fp8" : "bf16";
}

static double flops_of(const struct argument *argument)
{
    double keys = (double)argument->keys, heads = argument->heads;
    switch (argument->kind) {
    case DECODE:
        return 2 * argument->batch * heads * keys * (D_LATENT + D_LATENT_V);
    case SPARSE:
        return 2 * heads * argument->topk * (D_LATENT + D_LATENT_V);
    case FORWARD:
        return heads * keys * (keys + 1) * (D_QK + D_V);
    default:
        return heads * keys * (keys + 1) * (3 * D_QK + 2 * D_V);
    }
}

// Bound by reading the cache, of which tiles leave more to do.
static int is_bound_by_reading(const struct argument *argument)
{
    int decode = argument->kind == DECODE || argument->kind == SPARSE;
    return decode && argument->heads <= (argument->isa == FM_ISA_AMX ? 16 : 2);
}

static int has_peers(const struct argument *argument)
{
    return argument->kind == DECODE && argument->form == FM_MLA_FORM_BF16 && argument->batch == 1 &&
           argument->isa != FM_ISA_AVX2;
}

static int set_goals(const struct argument *argument, fm_bench_goal *goals)
{
    int amx = argument->isa == FM_ISA_AMX, count = 0;
    double must = amx ? argument->amx_must : argument->must, hope = amx ? argument->amx_hope : argument->hope;
    if (must <= 0 || argument->isa == FM_ISA_AVX2)
        return 0;
    goals[count++] = (fm_bench_goal){FM_BENCH_FRACTION, .must = must, .hope = hope};
    if (has_peers(argument))
        goals[count++] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "libdnnl bf16", .must = 1.5, .hope = 4};
    if (argument->heads > 2)
        goals[count++] =
            (fm_bench_goal){.metric = FM_BENCH_SCALING, .must = 0.92, .threads = FM_BENCH_ALL_THREADS};
    return count;
}

static fm_status add(fm_bench *bench, const struct argument *argument)
{
    int decode = argument->kind == DECODE || argument->kind == SPARSE;
    int reading = is_bound_by_reading(argument), later = argument->mode == FM_BENCH_IN_FULL;
    double token_bytes = argument->form == FM_MLA_FORM_FP8 ? 656 : 1152;
    char name[64], batch[16] = "";
    if (argument->batch > 1)
        snprintf(batch, sizeof batch, ".b%d", argument->batch);
    snprintf(name, sizeof name, "%s.%s.%s.h%d.%lld%s", kind_names[argument->kind], form_name(argument),
             fm_base_isa_name(argument->isa), argument->heads,
             (long long)(argument->kind == SPARSE ? argument->topk : argument->keys), batch);
    fm_bench_case item = {
        .name = name,
        .argument = argument,
        .limit = reading ? FM_BENCH_READ : fm_bench_limit_of_isa(argument->isa),
        .flops = reading ? 0 : flops_of(argument),
        .bytes = reading ? argument->batch * (double)argument->keys * token_bytes : 0,
        .mode =
            argument->isa == FM_ISA_AMX && later ? FM_BENCH_IN_QUICK : argument->mode, // fast enough there
        .setup = setup,
        .before = decode ? make_cold : NULL,
        .run = run,
        .hash = hash,
        .teardown = teardown,
    };
    (void)set_goals(argument, item.goals);
    if (has_peers(argument)) {
        item.peers[0] = (fm_bench_peer){.name = "libdnnl bf16", .run = run_dnnl_bf16};
        item.peers[1] = (fm_bench_peer){.name = "libdnnl f32", .run = run_dnnl_f32};
    }
    return fm_bench_add(bench, &item);
}

// DeepSeek-V3's shapes: a request of one layer, and 128 of them; of prefill some of its heads. Goals are fractions of what the level's
// own multiply-adds, or reading, allow.
static const struct argument arguments[] = {
    {DECODE, 0, FM_MLA_FORM_BF16, 16, 200, 1, 0, FM_BENCH_IN_SMOKE, 0, 0, 0, 0},
    {SPARSE, 0, FM_MLA_FORM_FP8, 16, 300, 1, 100, FM_BENCH_IN_SMOKE, 0, 0, 0, 0},
    {FORWARD, 0, FM_MLA_FORM_BF16, 1, 100, 1, 0, FM_BENCH_IN_SMOKE, 0, 0, 0, 0},
    {BACKWARD, 0, FM_MLA_FORM_BF16, 1, 100, 1, 0, FM_BENCH_IN_SMOKE, 0, 0, 0, 0},
    {DECODE, 0, FM_MLA_FORM_BF16, 128, 4096, 1, 0, FM_BENCH_IN_QUICK, 0.60, 0.75, 0.35, 0.60},
    {DECODE, 0, FM_MLA_FORM_BF16, 128, 16384, 1, 0, FM_BENCH_IN_FULL, 0.60, 0.75, 0.35, 0.60},
    {DECODE, 0, FM_MLA_FORM_BF16, 16, 4096, 1, 0, FM_BENCH_IN_QUICK, 0.45, 0.60, 0.60, 0.85},
    {DECODE, 0, FM_MLA_FORM_BF16, 16, 16384, 1, 0, FM_BENCH_IN_FULL, 0.45, 0.60, 0.60, 0.85},
    {DECODE, 0, FM_MLA_FORM_BF16, 1, 16384, 1, 0, FM_BENCH_IN_QUICK, 0.30, 0.60, 0.60, 0.85},
    {DECODE, 0, FM_MLA_FORM_FP8, 1, 16384, 1, 0, FM_BENCH_IN_QUICK, 0.18, 0.60, 0, 0},
    {DECODE, 0, FM_MLA_FORM_FP8, 128, 4096, 1, 0, FM_BENCH_IN_QUICK, 0.60, 0.75, 0.32, 0.55},
    {DECODE, 0, FM_MLA_FORM_FP8, 128, 16384, 1, 0, FM_BENCH_IN_FULL, 0.60, 0.75, 0.32, 0.55},
    {DECODE, 0, FM_MLA_FORM_BF16, 128, 4096, 128, 0, FM_BENCH_IN_FULL, 0.60, 0.75, 0.35, 0.60},
    {SPARSE, 0, FM_MLA_FORM_FP8, 128, 32768, 1, 2048, FM_BENCH_IN_QUICK, 0.50, 0.75, 0.30, 0.50},
    {FORWARD, 0, FM_MLA_FORM_BF16, 2, 1024, 1, 0, FM_BENCH_IN_QUICK, 0.45, 0.65, 0, 0},
    {FORWARD, 0, FM_MLA_FORM_BF16, 2, 4096, 1, 0, FM_BENCH_IN_FULL, 0.60, 0.75, 0.35, 0.55},
    {BACKWARD, 0, FM_MLA_FORM_BF16, 2, 1024, 1, 0, FM_BENCH_IN_QUICK, 0.45, 0.65, 0, 0},
    {BACKWARD, 0, FM_MLA_FORM_BF16, 2, 4096, 1, 0, FM_BENCH_IN_FULL, 0.60, 0.75, 0.28, 0.45},
};
enum { ARGUMENTS = sizeof arguments / sizeof *arguments };

static fm_status cases(fm_bench *bench)
{
    enum { LEVELS = 3 };
    static struct argument of_level[LEVELS][ARGUMENTS];
    static const fm_isa levels[LEVELS] = {FM_ISA_AMX, FM_ISA_AVX512, FM_ISA_AVX2};
    for (int level = 0; level < LEVELS; level++)
        for (int i = 0; i < ARGUMENTS; i++) {
            of_level[level][i] = arguments[i];
            of_level[level][i].isa = levels[level];
            FM_TRY(add(bench, &of_level[level][i]));
        }
    return FM_OK;
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {
        "mla", "Measures lib/mla: attention in decode, prefill and training", cases};
    return fm_bench_main(&program, argc, argv);
}
