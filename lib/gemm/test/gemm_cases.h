/**
 * @file gemm_cases.h
 * Random operands with their exact values, for tests of products.
 */
#ifndef GEMM_CASES_H
#define GEMM_CASES_H

#include "fathom/gemm.h"

#include "fm_gen.h"

/** An operand of rows x k in memory of its own; gaps of strides are poisoned with NaN codes. */
struct gemm_matrix {
    fm_gemm_operand operand;
    int64_t rows, k;
    void *data, *scales;
};

/** Which f32 scales are powers of two. */
enum gemm_powers { GEMM_NO_POWERS, GEMM_SOME_POWERS, GEMM_POWERS };

/** As in fm_gemm_operand. */
struct gemm_format {
    fm_dtype dtype;
    int transposed, scale_rows, scale_k;
    fm_dtype scale_dtype;
    enum gemm_powers powers;
};

/** BF16 if `wide`, else any of the formats with scales. */
struct gemm_format gemm_format_any(fm_gen *gen, int wide);

/** What `values` of a matrix are drawn from. */
enum gemm_values {
    GEMM_NORMAL, /**< what a model's tensors look like */
    GEMM_EXTREME /**< any code: NaN, infinities, subnormals; scales of any bits */
};

struct gemm_matrix gemm_matrix_make(fm_gen *gen, int64_t rows, int64_t k, const struct gemm_format *format,
                                    enum gemm_values values);
void gemm_matrix_free(struct gemm_matrix *matrix);
/** Code times scale. */
double gemm_matrix_at(const struct gemm_matrix *matrix, int64_t row, int64_t i);

/** D of rows x n and C, both in memory of their own, D poisoned throughout, gaps and a margin of `guard` bytes too. */
struct gemm_output {
    fm_gemm_result result;
    int64_t rows, n;
    uint8_t *data, *c;
    size_t bytes;
};

struct gemm_output gemm_output_make(fm_gen *gen, int64_t rows, int64_t n, fm_dtype dtype, int with_c);
void gemm_output_free(struct gemm_output *output);
float gemm_output_at(const struct gemm_output *output, int64_t row, int64_t column);
float gemm_output_c(const struct gemm_output *output, int64_t row, int64_t column);
/** Fails unless every byte of row `row` is as it was; row -1: all that lies outside of D. */
void gemm_output_untouched(const struct gemm_output *output, int64_t row);
/** Fails unless the elements are equal bit for bit, or both NaN. */
void gemm_output_equal(const struct gemm_output *a, const struct gemm_output *b, const char *what);

/** Fails unless the element is within rounding of C plus the product of two rows, summed in double precision. */
void gemm_output_near(const struct gemm_output *output, int64_t row, int64_t column,
                      const struct gemm_matrix *a, int64_t a_row, const struct gemm_matrix *b, int64_t b_row);

fm_gemm_context *gemm_open(fm_isa isa, int threads);
/** `b` packed; free with fm_base_mem_free(). */
void *gemm_pack(const struct gemm_matrix *b, fm_gemm_weights *out_weights);

#endif
