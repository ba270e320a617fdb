/*
 * Weights for inference in BF16 and FP8, packed as gemm's kernels read them, all in one region: large pages serve it, and
 * whether it fits into memory is known before anything is read. Weights of models that no file holds are drawn here, too.
 *
 * kv_b is multiplied by heads: in FP8 each head's keys and values are packed in BF16, which is what attention is held in.
 */
#include "model_low.h"
#include "model_private.h"

#include <math.h>
#include <stdio.h>
#include <sys/mman.h>

#include "fathom/file.h"
#include "fathom/numfmt.h"
#include "fathom/rng.h"

/* What large pages of x86 and of most others have; the region begins at one. */
enum { LARGE_PAGE = 2 << 20 };

struct packing {
    fm_model *model;
    size_t used;
    int measure; // count bytes alone
    int drawn;   // weights come from no file
    uint64_t seed, drawn_count;
};

static int is_packed(const fm_model *model, const char *name, const struct fm_model_weight *weight)
{
    const struct fm_model_low *low = model->compute.low;
    if (!weight->rows || fm_model_low_dtype(low, weight) == FM_DTYPE_F32 || strstr(name, "kv_b_proj"))
        return 0;
    return weight != &model->weights.embed || model->config.tied_head;
}

static fm_status no_memory(const char *name)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for %s", name);
}

// Codes of 2 to 448, as 99 of 100 are where numbers are normal and the largest of a block is 448; a scale of
// 1 / (152 sqrt(columns)), 152 being their root mean square, keeps sums near 1.
static void draw_e4m3(fm_rng *rng, int64_t count, int64_t columns, int64_t scale_count, uint8_t *codes,
                      float *scales)
{
    float scale = 1 / (152 * sqrtf((float)columns));
    fm_base_rng_fill(rng, codes, (size_t)count);
    for (int64_t i = 0; i < count; i++) {
        codes[i] |= 0x40;
        codes[i] ^= (codes[i] & 0x7f) == 0x7f; // a NaN
    }
    for (int64_t i = 0; i < scale_count; i++)
        scales[i] = scale * (0.75f + 0.5f * fm_rng_float(rng));
}

// Random signs and fractions with one exponent, so that magnitudes are within a factor of two and sums near 1: bits need no
// arithmetic, of which gigabytes of numbers would be many.
static void draw_floats(fm_rng *rng, int64_t count, int64_t columns, fm_dtype dtype, void *to)
{
    uint32_t exponent = (uint32_t)(127 + (int)floorf(0.5f * log2f(0.75f / (float)columns))) << 23;
    fm_base_rng_fill(rng, to, (size_t)count * (dtype == FM_DTYPE_BF16 ? 2 : 4));
    if (dtype == FM_DTYPE_BF16)
        for (uint16_t *bits = to, *end = bits + count; bits < end; bits++)
            *bits = (uint16_t)((*bits & 0x807f) | exponent >> 16);
    else
        for (uint32_t *bits = to, *end = bits + count; bits < end; bits++)
            *bits = (*bits & 0x807fffff) | exponent;
}

// Fills the weight's own memory: matrices as they are multiplied, vectors with ones.
static fm_status draw(struct packing *packing, const char *name, struct fm_model_weight *weight)
{
    fm_rng rng = fm_base_rng_begin(packing->seed, packing->drawn_count++);
    int64_t rows = weight->rows ? weight->rows : 1, columns = weight->columns;
    fm_dtype dtype = fm_model_low_dtype(packing->model->compute.low, weight);
    int f8 = weight->rows && dtype == FM_DTYPE_F8_E4M3 && !strstr(name, "kv_b_proj");
    if (!weight->rows)
        dtype = FM_DTYPE_F32;
    else if (!f8 && dtype == FM_DTYPE_F8_E4M3)
        dtype = FM_DTYPE_BF16;
    size_t element = (size_t)fm_base_dtype_bits(dtype) / 8, codes = 0, bytes = 0;
    int64_t scale_stride = (columns + FM_MODEL_SCALE_BLOCK - 1) / FM_MODEL_SCALE_BLOCK,
            scale_count = (rows + FM_MODEL_SCALE_BLOCK - 1) / FM_MODEL_SCALE_BLOCK * scale_stride;
    FM_TRY(fm_mul_size((size_t)rows * element, (size_t)columns, &codes));
    codes = fm_round_up(codes, FM_CACHE_LINE);
    bytes = codes + (f8 ? (size_t)scale_count * sizeof(float) : 0);
    weight->memory = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    if (!weight->memory)
        return no_memory(name);
    weight->matrix = (struct fm_model_matrix){.dtype = dtype, .data = weight->memory, .stride = columns};
    if (!weight->rows) {
        weight->vector = weight->memory;
        for (int64_t i = 0; i < columns; i++)
            weight->vector[i] = strstr(name, "bias") ? 0.0f : 1.0f;
    } else if (f8) {
        float *scales = (float *)(void *)((char *)weight->memory + codes);
        draw_e4m3(&rng, rows * columns, columns, scale_count, weight->memory, scales);
        weight->matrix.scales = scales;
        weight->matrix.scale_stride = scale_stride;
    } else {
        draw_floats(&rng, rows * columns, columns, dtype, weight->memory);
    }
    return FM_OK;
}

static fm_status pack_one(void *context, const char *name, struct fm_model_weight *weight)
{
    struct packing *packing = context;
    fm_model *model = packing->model;
    size_t bytes;
    int packed = is_packed(model, name, weight);
    if (packing->drawn && !packing->measure)
        FM_TRY(draw(packing, name, weight));
    if (!packed)
        return FM_OK;
    FM_TRY(fm_model_low_pack_bytes(model->compute.low, weight, &bytes));
    if (!packing->measure)
        FM_TRY(fm_model_low_pack(model->compute.low, weight, (char *)model->region + packing->used, bytes));
    packing->used += fm_round_up(bytes, FM_GEMM_BLOB_ALIGN);
    if (packing->drawn && !packing->measure && weight != &model->weights.embed) {
        fm_base_mem_free(weight->memory); // the packed copy is all that is read
        weight->memory = NULL;
        weight->matrix.data = NULL;
    }
    return FM_OK;
}

// A head's keys as [kv_lora, nope], and its values as [value, kv_lora].
static fm_gemm_operand head_operand(const fm_model_config *c, int of_values, const fm_bf16 *rows)
{
    return (fm_gemm_operand){
        .dtype = FM_DTYPE_BF16, .data = rows, .stride = c->kv_lora, .transposed = !of_values};
}

static fm_status pack_heads(struct packing *packing, struct fm_model_layer *layer)
{
    fm_model *model = packing->model;
    const fm_model_config *c = &model->config;
    struct fm_model_low *low = model->compute.low;
    int height = c->nope > c->value ? c->nope : c->value;
    struct fm_model_mark mark = fm_model_scratch_mark(&low->scratch);
    float *wide = fm_model_scratch_take(&low->scratch, (size_t)height * (size_t)c->kv_lora);
    fm_bf16 *rows =
        (fm_bf16 *)fm_model_scratch_take(&low->scratch, ((size_t)height * (size_t)c->kv_lora + 1) / 2);
    fm_status status = wide && rows ? FM_OK : no_memory("the heads of kv_b");
    if (!packing->measure && status == FM_OK) {
        layer->kv_heads = fm_base_mem_zalloc(2 * (size_t)c->heads, sizeof *layer->kv_heads);
        status = layer->kv_heads ? FM_OK : no_memory("the heads of kv_b");
    }
    for (int i = 0; i < 2 * c->heads && status == FM_OK; i++) {
        int of_values = i >= c->heads, count = of_values ? c->value : c->nope;
        int64_t first = (int64_t)(i % c->heads) * (c->nope + c->value) + (of_values ? c->nope : 0);
        int64_t n = of_values ? c->value : c->kv_lora, k = of_values ? c->kv_lora : c->nope;
        fm_gemm_operand operand = head_operand(c, of_values, rows);
        size_t bytes = 0;
        status = fm_gemm_weights_pack_size(n, k, &operand, &bytes);
        size_t begin = packing->used;
        packing->used += fm_round_up(bytes, FM_GEMM_BLOB_ALIGN);
        if (packing->measure || status < 0)
            continue;
        char *blob = (char *)model->region + begin;
        fm_model_low_widen(&layer->kv_b, first, count, wide);
        fm_base_f32_to_bf16(wide, (size_t)count * (size_t)c->kv_lora, rows);
        status = fm_gemm_weights_pack(low->gemm, n, k, &operand, blob, bytes);
        if (status == FM_OK)
            status = fm_gemm_weights_open(blob, bytes, &layer->kv_heads[i]);
    }
    fm_model_scratch_release(&low->scratch, mark);
    return status;
}

static fm_status pack_all(struct packing *packing)
{
    fm_model *model = packing->model;
    packing->used = 0;
    FM_TRY(fm_model_weights_each(&model->config, &model->weights, model->predict, pack_one, packing));
    if (!model->compute.low || model->compute.low->dtype != FM_DTYPE_F8_E4M3)
        return FM_OK;
    for (int i = 0; i < model->config.layers; i++)
        FM_TRY(pack_heads(packing, &model->weights.layers[i]));
    if (model->predict)
        FM_TRY(pack_heads(packing, &model->weights.predictors[0].layer));
    return FM_OK;
}

// Says before loading what loading would find out slowly.
static fm_status take_region(fm_model *model, size_t bytes)
{
    uint64_t available;
    FM_TRY(fm_base_space_memory(&available));
    if (bytes > available)
        return fm_base_error_set(FM_ERR_LIMIT,
                                 "the weights in %s take %.1f GiB of memory; %.1f GiB are available",
                                 fm_base_dtype_name(model->compute.low->dtype), (double)bytes / (1 << 30),
                                 (double)available / (1 << 30));
    bytes = fm_round_up(bytes, LARGE_PAGE);
    model->region = fm_base_mem_aligned(bytes, LARGE_PAGE);
    if (!model->region)
        return no_memory("the weights");
    (void)madvise(model->region, bytes, MADV_HUGEPAGE); // small pages do as well, more slowly
    return FM_OK;
}

static fm_status build(struct packing *packing)
{
    fm_model *model = packing->model;
    if (model->compute.low) {
        packing->measure = 1;
        FM_TRY(pack_all(packing));
        FM_TRY(take_region(model, packing->used));
    }
    packing->measure = 0;
    FM_TRY(pack_all(packing));
    if (model->config.tied_head)
        model->weights.head = model->weights.embed;
    return FM_OK;
}

fm_status fm_model_pack(fm_model *model)
{
    struct packing packing = {.model = model};
    return model->compute.low ? build(&packing) : FM_OK;
}

fm_status fm_model_draw(fm_model *model, uint64_t seed)
{
    struct packing packing = {.model = model, .seed = seed, .drawn = 1};
    return build(&packing);
}
