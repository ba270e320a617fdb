#include "mla_cases.h"

#include "fm_test.h"

#include "fathom/numfmt.h"

#include <math.h>

static fm_mla_cache make_cache(fm_mla_cache cache)
{
    size_t bytes = 0;
    assert_ok(fm_mla_cache_page_bytes(&cache, &bytes));
    bytes *= (size_t)cache.blocks;
    cache.data = fm_base_mem_aligned(bytes, 64);
    assert_non_null(cache.data);
    memset(cache.data, 0xFF, bytes);
    return cache;
}

static const fm_mla_cache form_656 = {
    .form = FM_MLA_FORM_FP8, .page = 3, .h_kv = 1, .d_qk = 576, .d_v = 512, .blocks = 2};
static const fm_mla_cache form_584 = {
    .form = FM_MLA_FORM_FP8_584, .page = 3, .h_kv = 1, .d_qk = 512, .d_v = 512, .blocks = 2};

// The codes of a group and its scale stand for these values: the scale is the least power of two that lets them fit, the
// codes are the nearest.
static void check_group(const uint8_t *codes, float scale, const fm_tensor *rows, int64_t row, int64_t from,
                        int64_t n)
{
    double amax = 0;
    for (int64_t i = 0; i < n; i++)
        amax = fmax(amax, fabs(mla_at(rows, (int64_t[]){row, 0, from + i})));
    double least = fmax(amax / 448, (double)1e-4F);
    int exponent;
    assert_true(frexp((double)scale, &exponent) == 0.5);
    assert_true((double)scale >= least * (1 - 1e-7) && (double)scale < least * 2);
    for (int64_t i = 0; i < n; i++) {
        double value = mla_at(rows, (int64_t[]){row, 0, from + i});
        double got = (double)fm_e4m3_to_f32(codes[i]) * (double)scale;
        assert_true(fabs(got - value) <= fmax(fabs(value) / 16, 0x1p-10 * (double)scale));
    }
}

static void the_656_byte_form_is_as_published(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(1);
    fm_mla_cache cache = make_cache(form_656);
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    struct mla_array rows = mla_array_make(&gen, FM_DTYPE_F32, 3, (int64_t[]){2, 1, 576});
    mla_array_fill(&gen, &rows, 0.3);
    mla_put(&rows.tensor, (int64_t[]){0, 0, 3}, 1e-9);
    assert_ok(fm_mla_cache_append(context, &cache, (int64_t[]){4, -1}, &rows.tensor));
    const uint8_t *token = (const uint8_t *)cache.data + (size_t)4 * 656;
    for (int g = 0; g < 4; g++) {
        float scale;
        memcpy(&scale, token + 512 + 4 * g, sizeof scale);
        check_group(token + 128 * g, scale, &rows.tensor, 0, 128 * g, 128);
    }
    for (int i = 0; i < 64; i++) {
        fm_bf16 code;
        memcpy(&code, token + 528 + 2 * i, sizeof code);
        assert_int_equal(code, fm_f32_to_bf16((float)mla_at(&rows.tensor, (int64_t[]){0, 0, 512 + i})));
    }
    const uint8_t *bytes = cache.data;
    for (size_t i = 0; i < (size_t)6 * 656; i++)
        if (i < (size_t)4 * 656 || i >= (size_t)5 * 656)
            assert_int_equal(bytes[i], 0xFF);
    fm_mla_context_close(context);
    fm_base_mem_free(cache.data);
    mla_array_free(&rows);
}

static void the_584_byte_form_is_as_published(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(2);
    size_t page_bytes = 0;
    assert_ok(fm_mla_cache_page_bytes(&form_584, &page_bytes));
    assert_int_equal(page_bytes, 2304); // 3 * 584 up to a multiple of 576
    fm_mla_cache cache = make_cache(form_584);
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    struct mla_array rows = mla_array_make(&gen, FM_DTYPE_BF16, 3, (int64_t[]){1, 1, 512});
    mla_array_fill(&gen, &rows, 0.3);
    assert_ok(fm_mla_cache_append(context, &cache, (int64_t[]){5}, &rows.tensor));
    const uint8_t *page = (const uint8_t *)cache.data + page_bytes, *token = page + (size_t)2 * 576;
    const uint8_t *scales = page + (size_t)3 * 576 + (size_t)2 * 8;
    for (int g = 0; g < 7; g++)
        check_group(token + 64 * g, fm_ue8m0_to_f32(scales[g]), &rows.tensor, 0, 64 * g, 64);
    assert_int_equal(scales[7], 0);
    for (int i = 0; i < 64; i++) {
        fm_bf16 code;
        memcpy(&code, token + 448 + 2 * i, sizeof code);
        assert_true((double)fm_bf16_to_f32(code) == mla_at(&rows.tensor, (int64_t[]){0, 0, 448 + i}));
    }
    fm_mla_context_close(context);
    fm_base_mem_free(cache.data);
    mla_array_free(&rows);
}

// What is read, appended to another cache of that form and read again is the same.
static void round_trip(fm_gen *gen)
{
    static const fm_mla_form forms[] = {FM_MLA_FORM_F32, FM_MLA_FORM_BF16, FM_MLA_FORM_FP16, FM_MLA_FORM_FP8,
                                        FM_MLA_FORM_FP8_584};
    fm_mla_cache cache = {.form = forms[fm_gen_int(gen, 0, 4)],
                          .page = (int)fm_gen_int(gen, 1, 5),
                          .h_kv = (int)fm_gen_int(gen, 1, 3),
                          .d_v = 16 * (int)fm_gen_int(gen, 1, 20),
                          .blocks = 3};
    cache.d_qk = cache.d_v + 16 * (int)fm_gen_int(gen, 0, 3);
    if (cache.form == FM_MLA_FORM_FP8)
        cache.group = 16 * (int)fm_gen_int(gen, 0, 8);
    if (cache.form == FM_MLA_FORM_FP8_584) {
        cache.d_qk = cache.d_v = 512;
        cache.h_kv = 1;
    }
    int64_t slots[4] = {fm_gen_int(gen, 0, cache.page * 3 - 1), -1, fm_gen_int(gen, 0, cache.page * 3 - 1),
                        -1};
    slots[2] = slots[2] == slots[0] ? -1 : slots[2];
    fm_mla_cache first = make_cache(cache), second = make_cache(cache);
    fm_mla_context *context = mla_open((fm_isa)fm_gen_int(gen, 0, 2), 1);
    int64_t shape[] = {4, cache.h_kv, cache.d_qk};
    struct mla_array rows = mla_array_make(gen, FM_DTYPE_F32, 3, shape);
    struct mla_array once = mla_array_make(gen, FM_DTYPE_F32, 3, shape);
    struct mla_array twice = mla_array_make(gen, FM_DTYPE_F32, 3, shape);
    mla_array_fill(gen, &rows, 0.3);
    assert_ok(fm_mla_cache_append(context, &first, slots, &rows.tensor));
    assert_ok(fm_mla_cache_read(context, &first, slots, &once.tensor));
    assert_ok(fm_mla_cache_convert(context, 4, &first, slots, &second, slots));
    assert_ok(fm_mla_cache_read(context, &second, slots, &twice.tensor));
    mla_array_equal(&once, &twice, "a second trip");
    mla_array_gaps_untouched(&once);
    for (int64_t i = 0; i < 4; i++)
        for (int64_t h = 0; h < cache.h_kv; h++)
            for (int64_t x = 0; x < cache.d_qk; x++) {
                double value = mla_at(&rows.tensor, (int64_t[]){i, h, x});
                double got = mla_at(&once.tensor, (int64_t[]){i, h, x});
                assert_true(fabs(got - (slots[i] < 0 ? 0 : value)) <= fabs(value) / 16 + 0x1p-10 * 0x1p-8);
            }
    fm_mla_context_close(context);
    fm_base_mem_free(first.data);
    fm_base_mem_free(second.data);
    mla_array_free(&rows);
    mla_array_free(&once);
    mla_array_free(&twice);
}

static void every_form_gives_back_what_it_was_given(void **state)
{
    (void)state;
    fm_gen_property(60, round_trip);
}

// Values that no scale makes fit; a scale that is not a power of two, as other writers may leave.
static void odd_values_and_scales_have_a_meaning(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(4);
    fm_mla_cache cache = make_cache(form_656);
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    struct mla_array rows = mla_array_make(&gen, FM_DTYPE_F32, 3, (int64_t[]){1, 1, 576});
    mla_array_fill(&gen, &rows, 0.3);
    mla_put(&rows.tensor, (int64_t[]){0, 0, 1}, (double)NAN);
    mla_put(&rows.tensor, (int64_t[]){0, 0, 2}, (double)INFINITY);
    assert_ok(fm_mla_cache_append(context, &cache, (int64_t[]){0}, &rows.tensor));
    float scale = 0.3F;
    memcpy((uint8_t *)cache.data + 512 + 4, &scale, sizeof scale);
    const uint8_t *codes = cache.data;
    struct mla_array back = mla_array_make(&gen, FM_DTYPE_F32, 3, (int64_t[]){1, 1, 576});
    for (int isa = 0; isa < 3; isa++) {
        fm_mla_context *other = mla_open((fm_isa)isa, 1);
        assert_ok(fm_mla_cache_read(other, &cache, (int64_t[]){0}, &back.tensor));
        assert_true(isnan(mla_at(&back.tensor, (int64_t[]){0, 0, 1})));
        assert_true(isfinite(mla_at(&back.tensor, (int64_t[]){0, 0, 0})));
        assert_true(mla_at(&back.tensor, (int64_t[]){0, 0, 2}) >
                    0.5); // 448 times the scale of the finite ones
        for (int64_t i = 128; i < 256; i++) {
            float exact = fm_e4m3_to_f32(codes[i]) * scale;
            assert_true(mla_at(&back.tensor, (int64_t[]){0, 0, i}) ==
                        (double)fm_bf16_to_f32(fm_f32_to_bf16(exact)));
        }
        fm_mla_context_close(other);
    }
    fm_mla_context_close(context);
    fm_base_mem_free(cache.data);
    mla_array_free(&rows);
    mla_array_free(&back);
}

static void bad_caches_are_refused(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(4);
    size_t bytes;
    fm_mla_cache cache = form_656;
    cache.d_v = 640;
    assert_fails(fm_mla_cache_page_bytes(&cache, &bytes), FM_ERR_ARG, "d_v of cache is 640");
    cache = form_656;
    cache.group = 24;
    assert_fails(fm_mla_cache_page_bytes(&cache, &bytes), FM_ERR_ARG, "group of cache is 24");
    cache = form_584;
    cache.d_v = 448;
    assert_fails(fm_mla_cache_page_bytes(&cache, &bytes), FM_ERR_UNSUPPORTED, "FP8_584");
    cache.d_qk = 1040;
    assert_fails(fm_mla_cache_page_bytes(&cache, &bytes), FM_ERR_LIMIT, "d_qk is 1040");
    assert_fails(fm_mla_cache_page_bytes(NULL, &bytes), FM_ERR_ARG, "cache is null");

    cache = make_cache(form_656);
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    struct mla_array rows = mla_array_make(&gen, FM_DTYPE_F32, 3, (int64_t[]){2, 1, 576});
    mla_array_fill(&gen, &rows, 0.3);
    assert_fails(fm_mla_cache_append(context, &cache, (int64_t[]){0, 6}, &rows.tensor), FM_ERR_ARG,
                 "slots[1] is 6; expected -1, or a slot below 6");
    assert_fails(fm_mla_cache_append(context, &cache, NULL, &rows.tensor), FM_ERR_ARG, "slots is null");
    assert_fails(fm_mla_cache_append(NULL, &cache, (int64_t[]){0, 1}, &rows.tensor), FM_ERR_ARG, "context");
    fm_mla_cache bad = cache;
    bad.block_stride = 10;
    assert_fails(fm_mla_cache_append(context, &bad, (int64_t[]){0, 1}, &rows.tensor), FM_ERR_ARG,
                 "block_stride");
    bad = cache;
    bad.data = (uint8_t *)cache.data + 2;
    assert_fails(fm_mla_cache_append(context, &bad, (int64_t[]){0, 1}, &rows.tensor), FM_ERR_ARG,
                 "multiple of 4");
    bad.data = NULL;
    assert_fails(fm_mla_cache_append(context, &bad, (int64_t[]){0, 1}, &rows.tensor), FM_ERR_ARG,
                 "data of cache");
    bad = cache;
    bad.blocks = INT64_MAX;
    assert_fails(fm_mla_cache_append(context, &bad, (int64_t[]){0, 1}, &rows.tensor), FM_ERR_LIMIT, "blocks");
    assert_fails(fm_mla_cache_convert(context, 1, &cache, (int64_t[]){0}, &cache, (int64_t[]){1}), FM_ERR_ARG,
                 "same memory");
    fm_mla_context_close(context);
    fm_base_mem_free(cache.data);
    mla_array_free(&rows);
}

// Of a layer whose pages lie among those of others: what lies behind its last page is not its own.
static void rows_may_lie_behind_the_last_page(void **state)
{
    enum { STRIDE_PAGES = 3, BLOCKS = 2, WIDTH = 16, PAGE = 4, PAGE_FLOATS = PAGE * WIDTH };
    float memory[(BLOCKS * STRIDE_PAGES + 1) * PAGE_FLOATS] = {0};
    int64_t shape[3] = {1, 1, WIDTH};
    fm_tensor rows;
    fm_mla_cache cache = {.form = FM_MLA_FORM_F32,
                          .page = PAGE,
                          .h_kv = 1,
                          .d_qk = WIDTH,
                          .d_v = WIDTH,
                          .blocks = BLOCKS,
                          .block_stride = STRIDE_PAGES * PAGE_FLOATS * sizeof(float),
                          .data = memory + PAGE_FLOATS};
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    float *behind = memory + PAGE_FLOATS + STRIDE_PAGES * PAGE_FLOATS + PAGE_FLOATS;
    (void)state;
    behind[0] = 5;
    assert_ok(fm_base_tensor_init(&rows, FM_DTYPE_F32, 3, shape, behind));
    assert_ok(fm_mla_cache_append(context, &cache, (int64_t[]){PAGE}, &rows));
    assert_true(memory[PAGE_FLOATS + STRIDE_PAGES * PAGE_FLOATS] == 5);
    assert_ok(fm_base_tensor_init(&rows, FM_DTYPE_F32, 3, shape, behind - 1));
    assert_fails(fm_mla_cache_append(context, &cache, (int64_t[]){PAGE}, &rows), FM_ERR_ARG, "overlaps");
    fm_mla_context_close(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_656_byte_form_is_as_published),
        cmocka_unit_test(the_584_byte_form_is_as_published),
        cmocka_unit_test(every_form_gives_back_what_it_was_given),
        cmocka_unit_test(odd_values_and_scales_have_a_meaning),
        cmocka_unit_test(bad_caches_are_refused),
        cmocka_unit_test(rows_may_lie_behind_the_last_page),
    };
    return fm_test_run("mla_cache", tests);
}
