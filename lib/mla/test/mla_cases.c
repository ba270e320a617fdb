#include "mla_cases.h"

#include "mla_private.h"

#include "fm_test.h"

#include "fathom/numfmt.h"

#include <math.h>

void fm_mla_test_install_emulated(struct fm_mla_kernels *kernels);

enum { POISON = 0xFF }; // all ones are a NaN in every format here

const struct mla_bound mla_bound_out = {8e-4, 2.01 / 128, 5e-6};
const struct mla_bound mla_bound_lse = {1e-6, 8.01 / 65536, 1e-9};
const struct mla_bound mla_bound_f32 = {2e-6, 2e-5, 1e-11};

struct mla_array mla_array_make(fm_gen *gen, fm_dtype dtype, int ndim, const int64_t *shape)
{
    struct mla_array array = {.tensor = {.dtype = dtype, .ndim = ndim}};
    int64_t stride = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        array.tensor.shape[i] = shape[i];
        array.tensor.stride[i] = stride;
        stride = stride * shape[i] + fm_gen_int(gen, 0, 3);
    }
    array.bytes = (size_t)(stride + 1) * (size_t)fm_base_dtype_bits(dtype) / 8;
    array.memory = fm_base_mem_alloc(array.bytes);
    assert_non_null(array.memory);
    memset(array.memory, POISON, array.bytes);
    array.tensor.data = array.memory;
    return array;
}

void mla_array_free(struct mla_array *array)
{
    fm_base_mem_free(array->memory);
}

static int64_t place(const fm_tensor *tensor, const int64_t *index)
{
    int64_t at = 0;
    for (int i = 0; i < tensor->ndim; i++)
        at += index[i] * tensor->stride[i];
    return at;
}

double mla_at(const fm_tensor *tensor, const int64_t *index)
{
    int64_t at = place(tensor, index);
    if (tensor->dtype == FM_DTYPE_F32)
        return (double)((const float *)tensor->data)[at];
    if (tensor->dtype == FM_DTYPE_BF16)
        return (double)fm_bf16_to_f32(((const fm_bf16 *)tensor->data)[at]);
    return (double)fm_fp16_to_f32(((const fm_fp16 *)tensor->data)[at]);
}

void mla_put(const fm_tensor *tensor, const int64_t *index, double value)
{
    int64_t at = place(tensor, index);
    if (tensor->dtype == FM_DTYPE_F32)
        ((float *)tensor->data)[at] = (float)value;
    else if (tensor->dtype == FM_DTYPE_BF16)
        ((fm_bf16 *)tensor->data)[at] = fm_f32_to_bf16((float)value);
    else
        ((fm_fp16 *)tensor->data)[at] = fm_f32_to_fp16((float)value);
}

// Steps through all indices, row-major; starts from zeros. False behind the last.
static int step(const fm_tensor *tensor, int64_t *index)
{
    for (int i = tensor->ndim - 1; i >= 0; i--) {
        if (++index[i] < tensor->shape[i])
            return 1;
        index[i] = 0;
    }
    return 0;
}

void mla_array_fill(fm_gen *gen, struct mla_array *array, double size)
{
    int64_t index[FM_TENSOR_NDIM_MAX] = {0};
    if (!fm_base_tensor_count(&array->tensor))
        return;
    do {
        double value = size * (double)fm_gen_normal(gen);
        mla_put(&array->tensor, index, fmin(fmax(value, -1), 1));
    } while (step(&array->tensor, index));
}

void mla_array_gaps_untouched(const struct mla_array *array)
{
    size_t element = (size_t)fm_base_dtype_bits(array->tensor.dtype) / 8;
    uint8_t *inside = fm_base_mem_zalloc(array->bytes + 1, 1);
    assert_non_null(inside);
    int64_t index[FM_TENSOR_NDIM_MAX] = {0};
    if (fm_base_tensor_count(&array->tensor))
        do {
            memset(inside + (size_t)place(&array->tensor, index) * element, 1, element);
        } while (step(&array->tensor, index));
    for (size_t i = 0; i < array->bytes; i++)
        if (!inside[i] && array->memory[i] != POISON)
            fail_msg("byte %zu lies between elements and was written", i);
    fm_base_mem_free(inside);
}

void mla_array_equal(const struct mla_array *a, const struct mla_array *b, const char *what)
{
    int64_t index[FM_TENSOR_NDIM_MAX] = {0};
    if (!fm_base_tensor_count(&a->tensor))
        return;
    do {
        double x = mla_at(&a->tensor, index), y = mla_at(&b->tensor, index);
        if (!(isnan(x) && isnan(y)) && (x != y || signbit(x) != signbit(y)))
            fail_msg("%s: [%lld, %lld, %lld, ...] is %.9g and %.9g", what, (long long)index[0],
                     (long long)index[1], (long long)index[2], x, y);
    } while (step(&a->tensor, index));
}

void mla_array_near(const struct mla_array *got, const double *expected, struct mla_bound bound,
                    const char *what)
{
    double dot = 0, squares = 0;
    int64_t index[FM_TENSOR_NDIM_MAX] = {0};
    if (!fm_base_tensor_count(&got->tensor))
        return;
    do {
        double x = mla_at(&got->tensor, index), y = *expected++;
        int special = !isfinite(x) || !isfinite(y);
        int same = isnan(x) ? isnan(y) : x == y;
        double error = fabs(x - y);
        if (special ? !same : error > bound.absolute && error > bound.relative * (fabs(y) + 1e-6))
            fail_msg("%s: [%lld, %lld, %lld, %lld] is %.9g; expected %.9g", what, (long long)index[0],
                     (long long)index[1], (long long)index[2], (long long)index[3], x, y);
        if (!special) {
            dot += x * y;
            squares += x * x + y * y;
        }
    } while (step(&got->tensor, index));
    if (squares > 0 && 1 - 2 * dot / squares > bound.cosine)
        fail_msg("%s: 1 - cos is %g; expected at most %g", what, 1 - 2 * dot / squares, bound.cosine);
}

double mla_exact_row(int d_qk, int d_v, const double *q, int64_t count, const double *keys,
                     const double *values, double scale, const float *sink, double *out)
{
    double max = -(double)INFINITY, sum = 0;
    double *s = fm_base_mem_alloc((size_t)(count + 1) * sizeof *s);
    assert_non_null(s);
    for (int64_t j = 0; j < count; j++) {
        s[j] = 0;
        for (int i = 0; i < d_qk; i++)
            s[j] += q[i] * keys[j * d_qk + i];
        s[j] *= scale;
        max = fmax(max, s[j]);
    }
    for (int i = 0; i < d_v; i++)
        out[i] = 0;
    for (int64_t j = 0; j < count; j++) {
        double p = exp(s[j] - max);
        sum += p;
        for (int i = 0; i < d_v; i++)
            out[i] += p * values[j * d_v + i];
    }
    fm_base_mem_free(s);
    if (!count)
        return (double)INFINITY;
    double lse = max + log(sum), share = sink ? 1 + exp((double)*sink - lse) : 1;
    for (int i = 0; i < d_v; i++)
        out[i] /= sum * share;
    return lse;
}

int mla_is_there(fm_isa isa)
{
    fm_isa least = isa == MLA_EMULATED ? FM_ISA_AVX512 : isa;
    return fm_base_cpu_isa(least) >= least;
}

const char *mla_level_name(fm_isa isa)
{
    return isa == MLA_EMULATED ? "emulated tiles" : fm_base_isa_name(isa);
}

fm_mla_context *mla_open(fm_isa isa, int threads)
{
    fm_mla_context *context;
    fm_isa most = isa == MLA_EMULATED ? FM_ISA_AVX512 : isa;
    assert_ok(fm_mla_context_open(
        &(fm_mla_options){.size = sizeof(fm_mla_options), .threads = threads, .capped = 1, .isa_max = most},
        &context));
#if defined(__x86_64__)
    if (isa == MLA_EMULATED && mla_is_there(isa))
        fm_mla_test_install_emulated(&context->kernels);
#endif
    return context;
}
