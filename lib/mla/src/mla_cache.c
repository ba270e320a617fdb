#include "mla_private.h"

#include "fathom/mem.h"
#include "fathom/numfmt.h"

#include <math.h>
#include <string.h>

enum {
    LATENT_584 = 448, // E4M3 codes of a token of FP8_584
    ROTARY_584 = 64,
    GROUP_584 = 64,
    DATA_584 = LATENT_584 + 2 * ROTARY_584,
    SCALES_584 = 8, // bytes: 7 and one of padding
    PAGE_UNIT_584 = 576,
};

static fm_status check_form(const char *name, const fm_mla_cache *cache)
{
    FM_TRY(fm_mla_args_dim("d_qk", cache->d_qk));
    FM_TRY(fm_mla_args_dim("d_v", cache->d_v));
    if (cache->d_v > cache->d_qk)
        return fm_base_error_set(FM_ERR_ARG, "d_v of %s is %d; expected at most its d_qk, %d", name,
                                 cache->d_v, cache->d_qk);
    FM_TRY(fm_mla_args_extent("page", cache->page, 1, INT32_MAX));
    FM_TRY(fm_mla_args_extent("h_kv", cache->h_kv, 1, FM_MLA_HEADS_MAX));
    switch (cache->form) {
    case FM_MLA_FORM_F32:
    case FM_MLA_FORM_BF16:
    case FM_MLA_FORM_FP16:
        return FM_OK;
    case FM_MLA_FORM_FP8:
        if (cache->group < 0 || cache->group > FM_MLA_GROUP_MAX || cache->group % FM_MLA_LANES)
            return fm_base_error_set(FM_ERR_ARG,
                                     "group of %s is %d; expected a multiple of %d up to %d, or 0", name,
                                     cache->group, FM_MLA_LANES, FM_MLA_GROUP_MAX);
        return FM_OK;
    case FM_MLA_FORM_FP8_584:
        if (cache->d_qk != LATENT_584 + ROTARY_584 || cache->d_v != cache->d_qk || cache->h_kv != 1)
            return fm_base_error_set(
                FM_ERR_UNSUPPORTED, "%s in FP8_584 has d_qk %d, d_v %d and h_kv %d; expected %d, %d and 1",
                name, cache->d_qk, cache->d_v, cache->h_kv, LATENT_584 + ROTARY_584, LATENT_584 + ROTARY_584);
        return FM_OK;
    default:
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "form of %s is %d; expected one of fm_mla_form", name,
                                 (int)cache->form);
    }
}

// Of a checked form. The sizes fit: a token has at most 4 KiB for each of at most 2^12 heads, and a page 2^31 tokens.
static struct fm_mla_pages layout_of(const fm_mla_cache *cache)
{
    struct fm_mla_pages pages = {
        .form = cache->form, .page = cache->page, .d_qk = cache->d_qk, .d_v = cache->d_v};
    pages.shift = cache->page & (cache->page - 1) ? -1 : __builtin_ctz((unsigned)cache->page);
    size_t d_qk = (size_t)cache->d_qk, d_v = (size_t)cache->d_v, page = (size_t)cache->page;
    switch (cache->form) {
    case FM_MLA_FORM_F32:
        pages.head_bytes = d_qk * sizeof(float);
        break;
    case FM_MLA_FORM_FP8:
        pages.group = cache->group ? cache->group : FM_MLA_GROUP_MAX;
        pages.groups = (int)fm_mla_ceil_div(cache->d_v, pages.group);
        pages.head_bytes = d_v + (size_t)pages.groups * sizeof(float) + (d_qk - d_v) * sizeof(fm_bf16);
        break;
    case FM_MLA_FORM_FP8_584:
        pages.head_bytes = DATA_584;
        break;
    default:
        pages.head_bytes = d_qk * sizeof(fm_bf16);
        break;
    }
    pages.token_bytes = pages.head_bytes * (size_t)cache->h_kv;
    pages.block_bytes = pages.token_bytes * page;
    if (cache->form == FM_MLA_FORM_FP8_584)
        pages.block_bytes =
            (pages.block_bytes + page * SCALES_584 + PAGE_UNIT_584 - 1) / PAGE_UNIT_584 * PAGE_UNIT_584;
    return pages;
}

fm_status fm_mla_cache_page_bytes(const fm_mla_cache *cache, size_t *out_bytes)
{
    if (!cache || !out_bytes)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected an address",
                                 cache ? "out_bytes" : "cache");
    FM_TRY(check_form("cache", cache));
    *out_bytes = layout_of(cache).block_bytes;
    return FM_OK;
}

fm_status fm_mla_cache_check(const char *name, const fm_mla_cache *cache)
{
    if (!cache)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected a cache", name);
    FM_TRY(check_form(name, cache));
    FM_TRY(fm_mla_args_extent("blocks", cache->blocks, 0, FM_MLA_EXTENT_MAX));
    int64_t page_bytes = (int64_t)layout_of(cache).block_bytes, bytes;
    int64_t stride = cache->block_stride ? cache->block_stride : page_bytes;
    if (stride < page_bytes || stride % 4)
        return fm_base_error_set(FM_ERR_ARG,
                                 "block_stride of %s is %lld; expected a multiple of 4 of at least %lld",
                                 name, (long long)cache->block_stride, (long long)page_bytes);
    if (__builtin_mul_overflow(cache->blocks, stride, &bytes) || bytes > PTRDIFF_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s has %lld pages of %lld bytes: larger than memory", name,
                                 (long long)cache->blocks, (long long)stride);
    if (!cache->data && cache->blocks)
        return fm_base_error_set(FM_ERR_ARG, "data of %s is null; expected %lld pages", name,
                                 (long long)cache->blocks);
    size_t align = cache->form == FM_MLA_FORM_BF16 || cache->form == FM_MLA_FORM_FP16 ? 2 : 4;
    if ((uintptr_t)cache->data % align)
        return fm_base_error_set(FM_ERR_ARG, "%s is at %p; expected a multiple of %zu bytes", name,
                                 cache->data, align);
    return FM_OK;
}

fm_dtype fm_mla_cache_dtype(const fm_mla_cache *cache)
{
    if (cache->form == FM_MLA_FORM_F32)
        return FM_DTYPE_F32;
    return cache->form == FM_MLA_FORM_FP16 ? FM_DTYPE_F16 : FM_DTYPE_BF16;
}

enum fm_mla_round fm_mla_round_of(fm_dtype dtype)
{
    if (dtype == FM_DTYPE_F32)
        return FM_MLA_ROUND_NONE;
    return dtype == FM_DTYPE_F16 ? FM_MLA_ROUND_FP16 : FM_MLA_ROUND_BF16;
}

struct fm_mla_pages fm_mla_pages_of(const fm_mla_cache *cache)
{
    struct fm_mla_pages pages = layout_of(cache);
    pages.data = cache->data;
    pages.slots = cache->blocks * cache->page;
    if (cache->block_stride)
        pages.block_bytes = (size_t)cache->block_stride;
    return pages;
}

size_t fm_mla_cache_span(const fm_mla_cache *cache)
{
    // Behind the last page's own bytes may lie pages of other layers, or what is no cache at all.
    return cache && cache->blocks ? (size_t)(cache->blocks - 1) * fm_mla_pages_of(cache).block_bytes +
                                        layout_of(cache).block_bytes
                                  : 0;
}

// A token in its page; offset of its scales, too, for FP8_584.
static uint8_t *token_at(const struct fm_mla_pages *pages, int64_t slot, int head, uint8_t **out_scales)
{
    int64_t in_page, page = fm_mla_pages_split(pages, slot, &in_page);
    size_t offset = (size_t)in_page;
    uint8_t *block = pages->data + (size_t)page * pages->block_bytes;
    *out_scales = block + (size_t)pages->page * DATA_584 + offset * SCALES_584;
    return block + offset * pages->token_bytes + (size_t)head * pages->head_bytes;
}

const uint8_t *fm_mla_pages_key(const struct fm_mla_pages *pages, int64_t slot, int head)
{
    uint8_t *scales;
    return token_at(pages, slot, head, &scales);
}

static void read_fp8(const struct fm_mla_pages *pages, const struct fm_mla_kernels *kernels,
                     const uint8_t *token, float *out)
{
    size_t d_v = (size_t)pages->d_v, group = (size_t)pages->group;
    const uint8_t *scales = token + d_v;
    kernels->widen_e4m3(token, d_v, out);
    for (size_t at = 0, g = 0; at < d_v; at += group, g++) {
        float scale;
        memcpy(&scale, scales + g * sizeof scale, sizeof scale);
        kernels->scale_bf16(out + at, d_v - at < group ? d_v - at : group, scale);
    }
    const uint8_t *rotary = scales + (size_t)pages->groups * sizeof(float);
    kernels->widen_bf16(rotary, (size_t)(pages->d_qk - pages->d_v), out + d_v);
}

static void read_584(const struct fm_mla_kernels *kernels, const uint8_t *token, const uint8_t *scales,
                     float *out)
{
    kernels->widen_e4m3(token, LATENT_584, out);
    for (size_t g = 0; g < LATENT_584 / GROUP_584; g++)
        kernels->scale_bf16(out + g * GROUP_584, GROUP_584, fm_ue8m0_to_f32(scales[g]));
    kernels->widen_bf16(token + LATENT_584, ROTARY_584, out + LATENT_584);
}

void fm_mla_pages_read(const struct fm_mla_pages *pages, const struct fm_mla_kernels *kernels, int64_t slot,
                       int head, float *out)
{
    uint8_t *scales, *token = token_at(pages, slot, head, &scales);
    size_t d_qk = (size_t)pages->d_qk;
    switch (pages->form) {
    case FM_MLA_FORM_F32:
        memcpy(out, token, d_qk * sizeof *out);
        break;
    case FM_MLA_FORM_FP16:
        kernels->widen_fp16(token, d_qk, out);
        break;
    case FM_MLA_FORM_FP8:
        read_fp8(pages, kernels, token, out);
        break;
    case FM_MLA_FORM_FP8_584:
        read_584(kernels, token, scales, out);
        break;
    default:
        kernels->widen_bf16(token, d_qk, out);
        break;
    }
}

const uint8_t *fm_mla_pages_bf16(const struct fm_mla_pages *pages, const struct fm_mla_kernels *kernels,
                                 int64_t slot, int head, uint16_t *out)
{
    uint8_t *scales, *token = token_at(pages, slot, head, &scales);
    if (pages->form == FM_MLA_FORM_BF16)
        return token;
    int is_584 = pages->form == FM_MLA_FORM_FP8_584;
    size_t codes = is_584 ? LATENT_584 : (size_t)pages->d_v,
           group = is_584 ? GROUP_584 : (size_t)pages->group;
    const uint8_t *rotary = token + codes + (is_584 ? 0 : (size_t)pages->groups * sizeof(float));
    for (size_t at = 0, g = 0; at < codes; at += group, g++) {
        float scale;
        if (is_584)
            scale = fm_ue8m0_to_f32(scales[g]);
        else
            memcpy(&scale, token + codes + g * sizeof scale, sizeof scale);
        kernels->narrow_e4m3(token + at, codes - at < group ? codes - at : group, scale, out + at);
    }
    memcpy(out + codes, rotary, ((size_t)pages->d_qk - codes) * sizeof *out);
    return (const uint8_t *)out;
}

// The least power of two that is at least amax / 448 and 1e-4; NaN when there is one.
static float scale_for(const float *values, size_t n)
{
    float amax = 0;
    for (size_t i = 0; i < n; i++)
        if (isfinite(values[i]) && fabsf(values[i]) > amax)
            amax = fabsf(values[i]);
    float least = amax / FM_E4M3_MAX;
    return fm_ue8m0_to_f32(fm_f32_to_ue8m0_ceil(least > 1e-4F ? least : 1e-4F));
}

// Codes of n values with one scale, which is returned.
static float quantise(const float *values, size_t n, fm_e4m3 *out)
{
    float scale = scale_for(values, n), scaled[FM_MLA_GROUP_MAX];
    for (size_t i = 0; i < n; i++)
        scaled[i] = values[i] / scale;
    fm_base_f32_to_e4m3(scaled, n, out);
    return scale;
}

static void write_fp8(const struct fm_mla_pages *pages, const float *row, uint8_t *token)
{
    size_t d_v = (size_t)pages->d_v, group = (size_t)pages->group;
    uint8_t *scales = token + d_v;
    for (size_t at = 0, g = 0; at < d_v; at += group, g++) {
        float scale = quantise(row + at, d_v - at < group ? d_v - at : group, token + at);
        memcpy(scales + g * sizeof scale, &scale, sizeof scale);
    }
    fm_base_f32_to_bf16(row + d_v, (size_t)(pages->d_qk - pages->d_v),
                        (void *)(scales + (size_t)pages->groups * sizeof(float)));
}

static void write_584(const float *row, uint8_t *token, uint8_t *scales)
{
    for (size_t g = 0; g < LATENT_584 / GROUP_584; g++)
        scales[g] = fm_f32_to_ue8m0_exact(quantise(row + g * GROUP_584, GROUP_584, token + g * GROUP_584));
    scales[SCALES_584 - 1] = 0;
    fm_base_f32_to_bf16(row + LATENT_584, ROTARY_584, (void *)(token + LATENT_584));
}

static void write_token(const struct fm_mla_pages *pages, int64_t slot, int head, const float *row)
{
    uint8_t *scales, *token = token_at(pages, slot, head, &scales);
    size_t d_qk = (size_t)pages->d_qk;
    switch (pages->form) {
    case FM_MLA_FORM_F32:
        memcpy(token, row, d_qk * sizeof *row);
        break;
    case FM_MLA_FORM_FP16:
        fm_base_f32_to_fp16(row, d_qk, (void *)token);
        break;
    case FM_MLA_FORM_FP8:
        write_fp8(pages, row, token);
        break;
    case FM_MLA_FORM_FP8_584:
        write_584(row, token, scales);
        break;
    default:
        fm_base_f32_to_bf16(row, d_qk, (void *)token);
        break;
    }
}

static fm_status check_slots(const char *name, const fm_mla_cache *cache, const int64_t *slots, int64_t n)
{
    if (n && !slots)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected %lld slots", name, (long long)n);
    int64_t count = cache->blocks * cache->page;
    for (int64_t i = 0; i < n; i++)
        if (slots[i] < -1 || slots[i] >= count)
            return fm_base_error_set(FM_ERR_ARG, "%s[%lld] is %lld; expected -1, or a slot below %lld", name,
                                     (long long)i, (long long)slots[i], (long long)count);
    return FM_OK;
}

static fm_status check_rows(const fm_mla_context *context, const fm_mla_cache *cache, const int64_t *slots,
                            const fm_tensor *rows)
{
    if (!context)
        return fm_base_error_set(FM_ERR_ARG, "context is null; expected one that is open");
    FM_TRY(fm_mla_cache_check("cache", cache));
    if (!rows)
        return fm_base_error_set(FM_ERR_ARG, "rows is null; expected a tensor");
    int64_t n = rows->ndim == 3 ? rows->shape[0] : 0;
    FM_TRY(fm_mla_args_extent("the number of rows", n, 0, FM_MLA_EXTENT_MAX));
    FM_TRY(fm_mla_args_tensor("rows", rows, FM_MLA_FLOATS, 3, (int64_t[]){n, cache->h_kv, cache->d_qk}, 1));
    FM_TRY(check_slots("slots", cache, slots, n));
    return fm_mla_args_apart_bytes("rows", rows, "cache", cache->data, fm_mla_cache_span(cache));
}

struct copying {
    struct fm_mla_pages from, to;
    const struct fm_mla_kernels *kernels;
    const int64_t *from_slots, *to_slots;
    const fm_tensor *rows;
    int h_kv;
};

static int64_t row_at(const fm_tensor *rows, int64_t i, int head)
{
    return i * rows->stride[0] + head * rows->stride[1];
}

static void append_one(void *arg, int64_t i, struct fm_mla_space *space)
{
    const struct copying *job = arg;
    for (int head = 0; job->to_slots[i] >= 0 && head < job->h_kv; head++) {
        fm_mla_row_read(job->kernels, job->rows, row_at(job->rows, i, head), (size_t)job->to.d_qk,
                        space->lines);
        write_token(&job->to, job->to_slots[i], head, space->lines);
    }
}

static void read_one(void *arg, int64_t i, struct fm_mla_space *space)
{
    const struct copying *job = arg;
    size_t d_qk = (size_t)job->from.d_qk;
    for (int head = 0; head < job->h_kv; head++) {
        if (job->from_slots[i] >= 0)
            fm_mla_pages_read(&job->from, job->kernels, job->from_slots[i], head, space->lines);
        else
            memset(space->lines, 0, d_qk * sizeof *space->lines);
        fm_mla_row_write(job->rows, row_at(job->rows, i, head), d_qk, space->lines);
    }
}

static void convert_one(void *arg, int64_t i, struct fm_mla_space *space)
{
    const struct copying *job = arg;
    if (job->from_slots[i] < 0 || job->to_slots[i] < 0)
        return;
    for (int head = 0; head < job->h_kv; head++) {
        fm_mla_pages_read(&job->from, job->kernels, job->from_slots[i], head, space->lines);
        write_token(&job->to, job->to_slots[i], head, space->lines);
    }
}

// Tokens one after the other, so that of two rows for one slot the later stays. Copies are quick beside attention.
static void copy_all(fm_mla_context *context, int64_t n, struct copying *job,
                     void (*one)(void *arg, int64_t i, struct fm_mla_space *space))
{
    uint32_t mode = fm_base_fp_enter();
    job->kernels = &context->kernels;
    for (int64_t i = 0; i < n; i++)
        one(job, i, context->spaces);
    fm_base_fp_leave(mode);
}

fm_status fm_mla_cache_append(fm_mla_context *context, const fm_mla_cache *cache, const int64_t *slots,
                              const fm_tensor *rows)
{
    FM_TRY(check_rows(context, cache, slots, rows));
    copy_all(
        context, rows->shape[0],
        &(struct copying){.to = fm_mla_pages_of(cache), .to_slots = slots, .rows = rows, .h_kv = cache->h_kv},
        append_one);
    return FM_OK;
}

fm_status fm_mla_cache_read(fm_mla_context *context, const fm_mla_cache *cache, const int64_t *slots,
                            const fm_tensor *rows)
{
    FM_TRY(check_rows(context, cache, slots, rows));
    copy_all(context, rows->shape[0],
             &(struct copying){
                 .from = fm_mla_pages_of(cache), .from_slots = slots, .rows = rows, .h_kv = cache->h_kv},
             read_one);
    return FM_OK;
}

fm_status fm_mla_cache_convert(fm_mla_context *context, int64_t n, const fm_mla_cache *from,
                               const int64_t *from_slots, const fm_mla_cache *to, const int64_t *to_slots)
{
    if (!context)
        return fm_base_error_set(FM_ERR_ARG, "context is null; expected one that is open");
    FM_TRY(fm_mla_args_extent("n", n, 0, FM_MLA_EXTENT_MAX));
    FM_TRY(fm_mla_cache_check("from", from));
    FM_TRY(fm_mla_cache_check("to", to));
    if (from->h_kv != to->h_kv || from->d_qk != to->d_qk)
        return fm_base_error_set(FM_ERR_ARG,
                                 "h_kv and d_qk are %d and %d in from, %d and %d in to; expected the same",
                                 from->h_kv, from->d_qk, to->h_kv, to->d_qk);
    if (from->data && from->data == to->data)
        return fm_base_error_set(FM_ERR_ARG, "from and to are the same memory; expected two caches");
    FM_TRY(check_slots("from_slots", from, from_slots, n));
    FM_TRY(check_slots("to_slots", to, to_slots, n));
    copy_all(context, n,
             &(struct copying){.from = fm_mla_pages_of(from),
                               .to = fm_mla_pages_of(to),
                               .from_slots = from_slots,
                               .to_slots = to_slots,
                               .h_kv = from->h_kv},
             convert_one);
    return FM_OK;
}
