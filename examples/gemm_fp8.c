// Multiplies activations with weights in FP8, and tells how far that is from the product of the numbers themselves.
#include <math.h>
#include <stdio.h>

#include "fathom/gemm_quant.h"
#include "fathom/mem.h"

enum { M = 4, N = 256, K = 512, BLOCK = FM_GEMM_SCALE_BLOCK, BLOCKS = K / BLOCK };

// Weights in 128x128 blocks, packed as a model would keep them. The caller frees *out_blob.
static fm_status pack(fm_gemm_context *gemm, const float *values, void **out_blob, size_t *out_bytes)
{
    static uint8_t codes[N * K];
    static float scales[N / BLOCK * BLOCKS];
    fm_gemm_operand from = {.dtype = FM_DTYPE_F32, .data = values, .stride = K};
    fm_gemm_quantised to = {.dtype = FM_DTYPE_F8_E4M3,
                            .data = codes,
                            .stride = K,
                            .scales = scales,
                            .scale_stride = BLOCKS,
                            .scale_rows = BLOCK};
    FM_TRY(fm_gemm_quantise(gemm, N, K, &from, &to));
    fm_gemm_operand b = fm_gemm_quantised_operand(&to);
    FM_TRY(fm_gemm_weights_pack_size(N, K, &b, out_bytes));
    void *blob = fm_base_mem_aligned(*out_bytes, FM_GEMM_BLOB_ALIGN);
    if (!blob)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the weights");
    fm_status status = fm_gemm_weights_pack(gemm, N, K, &b, blob, *out_bytes);
    if (status != FM_OK) {
        fm_base_mem_free(blob);
        return status;
    }
    *out_blob = blob;
    return FM_OK;
}

// Activations per token, in blocks of 128; then D = A B^T.
static fm_status multiply(fm_gemm_context *gemm, const float *values, const void *blob, size_t bytes,
                          float *d)
{
    static uint8_t codes[M * K];
    static float scales[M * BLOCKS];
    fm_gemm_operand from = {.dtype = FM_DTYPE_F32, .data = values, .stride = K};
    fm_gemm_quantised to = {.dtype = FM_DTYPE_F8_E4M3,
                            .data = codes,
                            .stride = K,
                            .scales = scales,
                            .scale_stride = BLOCKS,
                            .scale_rows = 1};
    FM_TRY(fm_gemm_quantise(gemm, M, K, &from, &to));
    fm_gemm_operand a = fm_gemm_quantised_operand(&to);
    fm_gemm_weights weights;
    FM_TRY(fm_gemm_weights_open(blob, bytes, &weights));
    return fm_gemm_dense(gemm, M, &a, &weights,
                         &(fm_gemm_result){.dtype = FM_DTYPE_F32, .data = d, .stride = N});
}

// 0 where the product is exact: 1 - 2 sum(xy) / sum(x^2 + y^2).
static double distance(const float *a, const float *b, const float *d)
{
    double both = 0, squares = 0;
    for (int row = 0; row < M; row++)
        for (int column = 0; column < N; column++) {
            double x = 0, y = (double)d[row * N + column];
            for (int i = 0; i < K; i++)
                x += (double)a[row * K + i] * (double)b[column * K + i];
            both += x * y;
            squares += x * x + y * y;
        }
    return 1 - 2 * both / squares;
}

static fm_status compare(fm_gemm_context *gemm)
{
    static float a[M * K], b[N * K], d[M * N];
    for (int i = 0; i < M * K; i++)
        a[i] = sinf((float)(i * i % 1009));
    for (int i = 0; i < N * K; i++)
        b[i] = cosf((float)(i * 7 % 4001));
    void *blob = NULL;
    size_t bytes = 0;
    FM_TRY(pack(gemm, b, &blob, &bytes));
    fm_status status = multiply(gemm, a, blob, bytes, d);
    fm_base_mem_free(blob);
    if (status == FM_OK)
        printf("%d x %d weights in %zu bytes; the product is off by %.1e\n", N, K, bytes, distance(a, b, d));
    return status;
}

int main(void)
{
    fm_gemm_context *gemm;
    fm_status status = fm_gemm_context_open(NULL, &gemm);
    if (status == FM_OK) {
        status = compare(gemm);
        fm_gemm_context_close(gemm);
    }
    if (status < 0)
        fprintf(stderr, "gemm_fp8: %s\n", fm_error_message());
    return status < 0;
}
