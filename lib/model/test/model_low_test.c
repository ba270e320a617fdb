// Products in BF16 and FP8 against those in f32: as far off as rounding both sides takes them.
#include "fm_test.h"

#include <math.h>

#include "fathom/rng.h"
#include "model_low.h"

enum { ROWS = 37, N = 200, K = 160 };

struct fixture {
    struct fm_model_weight weight;
    float values[N * K], gradient[N * K], x[ROWS * K], dy[ROWS * N];
};

static struct fixture *drawn(void)
{
    struct fixture *f = fm_base_mem_zalloc(1, sizeof *f);
    fm_rng rng = fm_base_rng_begin(4, 4);
    for (int i = 0; i < N * K; i++)
        f->values[i] = (float)fm_rng_normal(&rng) * 0.05f;
    for (int i = 0; i < ROWS * K; i++)
        f->x[i] = (float)fm_rng_normal(&rng);
    for (int i = 0; i < ROWS * N; i++)
        f->dy[i] = (float)fm_rng_normal(&rng) * 1e-3f;
    f->weight = (struct fm_model_weight){.rows = N,
                                         .columns = K,
                                         .matrix = fm_model_rows(f->values, K),
                                         .values = f->values,
                                         .gradient = f->gradient};
    return f;
}

// The noise in `have` over the size of what is expected: [m, n] of sums over k of a[i, p] b[p, j], by strides.
static double noise(const float *have, int m, int n, int k, const float *a, int ai, int ap, const float *b,
                    int bp, int bj)
{
    double off = 0, size = 0;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int p = 0; p < k; p++)
                sum += (double)a[i * ai + p * ap] * (double)b[p * bp + j * bj];
            off += ((double)have[i * n + j] - sum) * ((double)have[i * n + j] - sum);
            size += sum * sum;
        }
    return sqrt(off / size);
}

static void check(fm_dtype dtype, double least, double most)
{
    struct fixture *f = drawn();
    struct fm_model_low *low;
    float out[ROWS * N], dx[ROWS * K];
    assert_ok(fm_model_low_open(dtype, 1, &low));
    fm_model_low_forward(low, ROWS, f->x, &f->weight, out);
    fm_model_low_back(low, ROWS, &f->weight, f->dy, dx, 0);
    fm_model_low_weight(low, ROWS, f->x, &f->weight, f->dy);
    assert_ok(fm_model_low_check(low));
    double each[3] = {noise(out, ROWS, N, K, f->x, K, 1, f->values, 1, K),
                      noise(dx, ROWS, K, N, f->dy, N, 1, f->values, K, 1),
                      noise(f->gradient, N, K, ROWS, f->dy, 1, N, f->x, K, 1)};
    for (int i = 0; i < 3; i++)
        if (!(each[i] > least && each[i] < most))
            fail_msg("product %d: noise %g", i, each[i]);
    assert_int_equal(low->products[dtype], 3);
    // Packed weights give what rounding on the way gives.
    float again[ROWS * N];
    size_t bytes;
    assert_ok(fm_model_low_pack_bytes(low, &f->weight, &bytes));
    void *blob = fm_base_mem_aligned(bytes, FM_GEMM_BLOB_ALIGN);
    assert_ok(fm_model_low_pack(low, &f->weight, blob, bytes));
    fm_model_low_forward(low, ROWS, f->x, &f->weight, again);
    assert_ok(fm_model_low_check(low));
    assert_memory_equal(again, out, sizeof out);
    fm_base_mem_free(blob);
    fm_model_low_close(low);
    fm_base_mem_free(f);
}

static void bf16_is_off_by_its_rounding(void **state)
{
    (void)state;
    check(FM_DTYPE_BF16, 1e-4, 4e-3);
}

static void fp8_is_off_by_its_rounding(void **state)
{
    (void)state;
    check(FM_DTYPE_F8_E4M3, 1e-2, 5e-2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bf16_is_off_by_its_rounding),
                                       cmocka_unit_test(fp8_is_off_by_its_rounding)};
    return fm_test_run("model_low", tests);
}
