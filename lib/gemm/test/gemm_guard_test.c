/* Operands and results between pages that nobody may touch: nothing is read or written outside of a matrix. */
#include "gemm_fences.h"

#include "fathom/gemm_quant.h"
#include "fathom/numfmt.h"

enum { GROUPS = 3 };

// Rows for which owner is negative, and the gaps between rows, must be as they were.
static void check_poison(const fm_gemm_result *d, int64_t rows, int64_t n, const int32_t *owner)
{
    size_t size = (size_t)fm_base_dtype_bits(d->dtype) / 8, stride = (size_t)d->stride * size;
    const uint8_t *bytes = d->data;
    for (int64_t row = 0; row < rows; row++) {
        size_t from = owner && owner[row] < 0 ? 0 : (size_t)n * size;
        size_t to = row + 1 < rows ? stride : (size_t)n * size;
        for (size_t at = from; at < to; at++)
            if (bytes[(size_t)row * stride + at] != POISON)
                fail_msg("row %lld: byte %zu, which is not of D, was written", (long long)row, at);
    }
}

/* Products. */

struct scene {
    int form; // what divides the rows of A, or k
    struct gemm_matrix a, b[GROUPS];
    struct gemm_output d;
    int64_t offsets[GROUPS + 1], blocks;
    int32_t owner[3 * 129], masked_m[GROUPS];
};

enum { DENSE, OFFSETS, IDS, MASKED, BY_K, FORMS };

static void check_product(struct call *call, const struct scene *scene, const fm_gemm_result *d)
{
    check_poison(d, scene->d.rows, scene->d.n,
                 scene->form == DENSE || scene->form == BY_K ? NULL : scene->owner);
    check_same(&call->expected[0], d->data, extent(d->dtype, scene->d.rows, scene->d.n, d->stride));
}

static void run_product(struct call *call, fm_gemm_context *context, struct fences *fences)
{
    const struct scene *scene = call->of;
    fm_gemm_operand a = fence_matrix(fences, &scene->a, scene->a.k, 0);
    fm_gemm_result d = fence_output(fences, &scene->d);
    fm_gemm_weights b[GROUPS];
    for (int g = 0; g < (scene->form == DENSE ? 1 : GROUPS); g++)
        b[g] = fence_weights(fences, context, &scene->b[g], call->packed);
    int64_t m = scene->a.rows;
    if (scene->form == DENSE)
        assert_ok(fm_gemm_dense(context, m, &a, b, &d));
    else if (scene->form == OFFSETS)
        assert_ok(fm_gemm_grouped(context, GROUPS, scene->offsets, m, &a, b, &d));
    else if (scene->form == IDS)
        assert_ok(fm_gemm_grouped_by_id(context, GROUPS, scene->owner, m, &a, b, &d));
    else
        assert_ok(fm_gemm_grouped_masked(context, GROUPS, scene->masked_m, m / GROUPS, &a, b, &d));
    check_product(call, scene, &d);
}

static void run_by_k(struct call *call, fm_gemm_context *context, struct fences *fences)
{
    const struct scene *scene = call->of;
    int64_t k = scene->offsets[GROUPS], m = scene->a.rows;
    fm_gemm_operand a = fence_matrix(fences, &scene->a, k, scene->blocks);
    fm_gemm_operand b = fence_matrix(fences, scene->b, k, scene->blocks);
    fm_gemm_result d = fence_output(fences, &scene->d);
    assert_ok(
        fm_gemm_grouped_k(context, GROUPS, scene->offsets, m, scene->b[0].rows, &a, &b, &d, m * d.stride));
    check_product(call, scene, &d);
}

static void divide_rows(fm_gen *gen, struct scene *scene, int64_t m)
{
    int64_t each = m / GROUPS;
    scene->offsets[0] = fm_gen_int(gen, 0, m);
    for (int g = 0; g < GROUPS; g++) {
        scene->offsets[g + 1] = fm_gen_int(gen, scene->offsets[g], m);
        scene->masked_m[g] = (int32_t)fm_gen_int(gen, 0, each);
    }
    for (int64_t row = 0; row < m; row++) {
        scene->owner[row] = (int32_t)fm_gen_int(gen, -1, GROUPS - 1);
        for (int g = 0; g < GROUPS && scene->form == OFFSETS; g++)
            if (row >= scene->offsets[g] && row < scene->offsets[g + 1])
                scene->owner[row] = g;
        if (scene->form == OFFSETS && (row < scene->offsets[0] || row >= scene->offsets[GROUPS]))
            scene->owner[row] = -1;
        if (scene->form == MASKED)
            scene->owner[row] = row % each < scene->masked_m[row / each] ? 0 : -1;
    }
}

static void divide_k(fm_gen *gen, struct scene *scene)
{
    scene->offsets[0] = 2 * fm_gen_int(gen, 0, 2);
    for (int g = 0; g < GROUPS; g++) {
        int64_t size = fm_gen_chance(gen, 0.3) ? 0 : 2 * fm_gen_int(gen, 1, 70);
        scene->offsets[g + 1] = scene->offsets[g] + size;
        scene->blocks += (size + 127) / 128;
    }
}

// Sizes whose last vector, panel, strip or block is full, has one more, or lacks one, and others.
static int64_t tail(fm_gen *gen)
{
    static const int64_t edges[] = {1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 65, 127, 128, 129};
    return fm_gen_chance(gen, 0.5) ? edges[fm_gen_int(gen, 0, 13)] : fm_gen_int(gen, 1, 129);
}

static void product_between_fences(fm_gen *gen, int form, int transposed)
{
    struct scene scene = {.form = form};
    struct gemm_format a = gemm_format_any(gen, fm_gen_chance(gen, 0.3)), b = a;
    int64_t m = tail(gen), n = tail(gen), k = tail(gen);
    a.transposed = transposed & 1;
    b.transposed = transposed >> 1;
    if (form == MASKED)
        m = (m + GROUPS - 1) / GROUPS * GROUPS;
    if (form == BY_K) {
        divide_k(gen, &scene);
        a.scale_k = b.scale_k = 0;
        a.scale_rows = b.scale_rows = 1;
        k = (scene.offsets[GROUPS] / 128 + scene.blocks + 1) * 128; // enough columns of scales
    } else {
        divide_rows(gen, &scene, m);
    }
    scene.a = gemm_matrix_make(gen, m, k, &a, GEMM_NORMAL);
    for (int g = 0; g < GROUPS; g++)
        scene.b[g] = gemm_matrix_make(gen, n, k, &b, GEMM_NORMAL);
    scene.d =
        gemm_output_make(gen, form == BY_K ? GROUPS * m : m, n,
                         fm_gen_chance(gen, 0.5) ? FM_DTYPE_F32 : FM_DTYPE_BF16, fm_gen_chance(gen, 0.5));
    everywhere(
        &(struct call){.run = form == BY_K ? run_by_k : run_product, .of = &scene, .packs = form != BY_K});
    gemm_matrix_free(&scene.a);
    for (int g = 0; g < GROUPS; g++)
        gemm_matrix_free(&scene.b[g]);
    gemm_output_free(&scene.d);
}

static void any_dense(fm_gen *gen)
{
    for (int transposed = 0; transposed < 4; transposed++)
        product_between_fences(gen, DENSE, transposed);
}

static void any_grouped(fm_gen *gen)
{
    for (int form = OFFSETS; form < FORMS; form++)
        product_between_fences(gen, form, (int)fm_gen_int(gen, 0, 3));
}

static void dense_products_keep_within_their_matrices(void **state)
{
    (void)state;
    fm_gen_property(4, any_dense);
}

static void grouped_products_keep_within_their_matrices(void **state)
{
    (void)state;
    fm_gen_property(4, any_grouped);
}

/* Quantisers. */

enum {
    QUANTISE,
    REQUANTISE,
    TURN,
    DEQUANTISE,
    SWIGLU,
    SWIGLU_QUANTISE,
    SWIGLU_BACKWARD,
    WAYS,
    LONGEST = 130
};

struct making {
    int way;
    int64_t rows, k;
    struct gemm_matrix codes; // to requantise, and to dequantise
    fm_dtype dtype;           // of what is neither codes nor scales
    const float *f32;         // enough plain numbers for every matrix here
    const fm_bf16 *bf16;
    struct gemm_format to;
    int64_t offsets[GROUPS + 1], blocks;
};

// Rows of k numbers.
static void *fence_plain(struct fences *fences, const struct making *making, int64_t k, int64_t stride)
{
    const void *from = making->dtype == FM_DTYPE_F32 ? (const void *)making->f32 : (const void *)making->bf16;
    return fence_copy(fences, from, extent(making->dtype, making->rows, k, stride));
}

struct target {
    fm_gemm_quantised to;
    size_t bytes, scale_bytes;
};

// [rows, k] with `across` columns of scales; 0: as many as k needs.
static struct target fence_target(struct fences *fences, const struct gemm_format *format, int64_t rows,
                                  int64_t k, int64_t across)
{
    struct target target = {.to = {.dtype = format->dtype,
                                   .stride = k + 4 + k % 2,
                                   .scale_rows = format->scale_rows,
                                   .scale_k = format->scale_k,
                                   .scale_dtype = format->scale_dtype,
                                   .powers = format->powers == GEMM_POWERS}};
    int64_t scale_k = format->scale_k ? format->scale_k : 128;
    across = across ? across : (k + scale_k - 1) / scale_k;
    fm_dtype scale = format->scale_dtype == FM_DTYPE_F8_UE8M0 ? FM_DTYPE_F8_UE8M0 : FM_DTYPE_F32;
    target.to.scale_stride = across + 1;
    target.bytes = extent(format->dtype, rows, k, target.to.stride);
    target.scale_bytes =
        extent(scale, (rows + format->scale_rows - 1) / format->scale_rows, across, target.to.scale_stride);
    target.to.data = fence(fences, target.bytes);
    target.to.scales = fence(fences, target.scale_bytes);
    return target;
}

static void check_target(struct call *call, int part, const struct target *target)
{
    check_same(&call->expected[part], target->to.data, target->bytes);
    check_same(&call->expected[part + 1], target->to.scales, target->scale_bytes);
}

static void run_quantiser(struct call *call, fm_gemm_context *context, struct fences *fences)
{
    const struct making *making = call->of;
    int64_t rows = making->rows, k = making->k;
    int turned = making->way == TURN;
    struct target target = turned ? fence_target(fences, &making->to, k, rows, making->blocks)
                                  : fence_target(fences, &making->to, rows, k, 0);
    fm_gemm_operand from = {.dtype = making->dtype, .stride = k + 5};
    if (making->way == QUANTISE || turned)
        from.data = fence_plain(fences, making, k, from.stride);
    else
        from = fence_matrix(fences, &making->codes, k, 0);
    if (turned)
        assert_ok(fm_gemm_quantise_transposed(context, GROUPS, making->offsets, k, &from, &target.to));
    else
        assert_ok(fm_gemm_quantise(context, rows, k, &from, &target.to));
    check_target(call, 0, &target);
}

static void run_to_plain(struct call *call, fm_gemm_context *context, struct fences *fences)
{
    const struct making *making = call->of;
    int64_t rows = making->rows, k = making->k;
    fm_gemm_result out = {.dtype = making->dtype, .stride = k + 3};
    size_t bytes = extent(out.dtype, rows, k, out.stride);
    out.data = fence(fences, bytes);
    if (making->way == DEQUANTISE) {
        fm_gemm_operand from = fence_matrix(fences, &making->codes, k, 0);
        assert_ok(fm_gemm_dequantise(context, rows, k, &from, out.dtype, out.data, out.stride));
    } else {
        fm_gemm_swiglu swiglu = {.dtype = making->dtype, .stride = 2 * k + 3, .limit = 1.5f};
        swiglu.gate = fence_plain(fences, making, k, swiglu.stride);
        swiglu.up = fence_plain(fences, making, k, swiglu.stride);
        assert_ok(fm_gemm_swiglu_run(context, rows, k, &swiglu, out.dtype, out.data, out.stride));
    }
    check_poison(&out, rows, k, NULL);
    check_same(&call->expected[0], out.data, bytes);
}

static void run_swiglu_quantise(struct call *call, fm_gemm_context *context, struct fences *fences)
{
    const struct making *making = call->of;
    int64_t rows = making->rows, k = making->k;
    fm_gemm_swiglu swiglu = {.dtype = making->dtype, .stride = k + 1};
    swiglu.gate = fence_plain(fences, making, k, swiglu.stride);
    swiglu.up = fence_plain(fences, making, k, swiglu.stride);
    swiglu.weights = fence_copy(fences, making->f32, (size_t)rows * sizeof(float));
    struct target target = fence_target(fences, &making->to, rows, k, 0);
    assert_ok(fm_gemm_swiglu_quantise(context, rows, k, &swiglu, &target.to));
    check_target(call, 0, &target);
}

static void run_swiglu_backward(struct call *call, fm_gemm_context *context, struct fences *fences)
{
    const struct making *making = call->of;
    int64_t rows = making->rows, k = making->k, scale_k = making->to.scale_k ? making->to.scale_k : 128;
    fm_gemm_swiglu swiglu = {.dtype = making->dtype, .stride = k + 1};
    swiglu.gate = fence_plain(fences, making, k, swiglu.stride);
    swiglu.up = fence_plain(fences, making, k, swiglu.stride);
    swiglu.weights = fence_copy(fences, making->f32, (size_t)rows * sizeof(float));
    const void *dh = fence_plain(fences, making, k, k + 2);
    struct target by_row = fence_target(fences, &making->to, rows, 2 * k, 0);
    struct target columns = fence_target(fences, &making->to, 2 * k, rows, making->blocks);
    struct target h = fence_target(fences, &making->to, k, rows, making->blocks);
    fm_gemm_result plain = {.dtype = making->dtype, .stride = 2 * k + 1};
    size_t bytes = extent(plain.dtype, rows, 2 * k, plain.stride),
           weight_bytes = (size_t)rows * sizeof(float);
    plain.data = fence(fences, bytes);
    float *weights = fence(fences, weight_bytes);
    fm_gemm_swiglu_gradient to = {.dtype = plain.dtype,
                                  .data = plain.data,
                                  .stride = plain.stride,
                                  .rows = k % scale_k ? NULL : &by_row.to,
                                  .columns = &columns.to,
                                  .h = &h.to,
                                  .weights = weights};
    assert_ok(
        fm_gemm_swiglu_backward(context, GROUPS, making->offsets, k, &swiglu, making->dtype, dh, k + 2, &to));
    check_target(call, 0, &by_row);
    check_target(call, 2, &columns);
    check_target(call, 4, &h);
    check_same(&call->expected[6], plain.data, bytes);
    check_same(&call->expected[7], weights, weight_bytes);
}

static void any_quantiser(fm_gen *gen)
{
    enum { NUMBERS = LONGEST * (2 * LONGEST + 8) };
    static float f32[NUMBERS];
    static fm_bf16 bf16[NUMBERS];
    for (int i = 0; i < NUMBERS; i++) {
        f32[i] = fm_gen_normal(gen);
        bf16[i] = fm_f32_to_bf16(f32[i]);
    }
    for (int way = 0; way < WAYS; way++) {
        struct making making = {.way = way, .rows = tail(gen), .k = tail(gen), .f32 = f32, .bf16 = bf16};
        making.dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_F32 : FM_DTYPE_BF16;
        making.to = gemm_format_any(gen, 0);
        if (way >= SWIGLU || way == TURN)
            making.to.scale_rows = 1;
        int64_t scale_k = making.to.scale_k ? making.to.scale_k : 128;
        if (way == TURN || way == SWIGLU_BACKWARD) {
            making.rows = 0;
            for (int g = 0; g < GROUPS; g++) {
                making.offsets[g] = making.rows;
                making.rows +=
                    making.to.dtype == FM_DTYPE_F4_E2M1 ? 2 * fm_gen_int(gen, 0, 21) : fm_gen_int(gen, 0, 43);
                making.blocks += (making.rows - making.offsets[g] + scale_k - 1) / scale_k;
            }
            making.offsets[GROUPS] = making.rows;
        }
        struct gemm_format codes = gemm_format_any(gen, 0);
        making.codes = gemm_matrix_make(gen, making.rows, making.k, &codes, GEMM_NORMAL);
        static void (*const runs[WAYS])(struct call *, fm_gemm_context *, struct fences *) = {
            run_quantiser, run_quantiser,       run_quantiser,      run_to_plain,
            run_to_plain,  run_swiglu_quantise, run_swiglu_backward};
        everywhere(&(struct call){.run = runs[way], .of = &making});
        gemm_matrix_free(&making.codes);
    }
}

static void quantisers_keep_within_their_matrices(void **state)
{
    (void)state;
    fm_gen_property(5, any_quantiser);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_products_keep_within_their_matrices),
        cmocka_unit_test(grouped_products_keep_within_their_matrices),
        cmocka_unit_test(quantisers_keep_within_their_matrices),
    };
    return fm_test_run("gemm_guard", tests);
}
