/**
 * @file gemm.h
 * Matrix products D = C + A B^T in BF16, and in FP8 (E4M3) with fine-grained f32 scales: dense, and grouped for
 * mixtures of experts. The contract is that of DeepGEMM, without its alignments: any m, n and k, groups of any number
 * of rows, scales row-major.
 *
 *     fm_gemm_context *gemm;
 *     fm_gemm_weights weights;
 *     FM_TRY(fm_gemm_context_open(&(fm_gemm_options){.size = sizeof(fm_gemm_options), .threads = 8}, &gemm));
 *     FM_TRY(fm_gemm_weights_plain(n, k, &b, &weights));           // or packed once: fm_gemm_weights_pack()
 *     FM_TRY(fm_gemm_dense(gemm, m, &a, &weights, &d));
 *     fm_gemm_context_close(gemm);
 *
 * Shapes. A is [m, k], B is [n, k], C and D are [m, n]; A and B may be stored transposed, which gives the forms that
 * DeepGEMM calls nt (neither), nn (B stored [k, n]), tn (A stored [k, m]) and tt. m, n and k may be 0: nothing is
 * computed for m or n of 0, and D = C (or 0) for k of 0. Each is at most FM_GEMM_EXTENT_MAX. Strides count elements,
 * and the gaps that they leave are neither read nor written. Pointers need no more alignment than their element type
 * has (a packed blob needs FM_GEMM_BLOB_ALIGN).
 *
 * Formats. A and B are both BF16 without scales, or both E4M3 with f32 scales: one for each 128 consecutive k of each
 * row (1x128, activations), or of 128 consecutive rows (128x128, weights), either for either operand. What is
 * multiplied is code times scale. C and D are both BF16 or both F32.
 *
 * Arithmetic: one summation order at every ISA level, number of threads, batch size, grouping and packing, so that
 * results are equal bit for bit; a row gives the same whether it comes alone or among others.
 *
 *     step    32 consecutive k, from a multiple of 32, zeros beyond k:
 *             e = 0, then e = fma(a[i], b[i], e) over i = 0, 2, 4, ... 30;  o likewise over i = 1, 3, ... 31
 *     BF16    acc = 0, then acc = acc + (e + o) step after step
 *     E4M3    for each 128 consecutive k: p = 0, then p = p + (e + o) over its steps;
 *             acc = fma(p, scale of A * scale of B, acc), the product of scales rounded to f32
 *     end     D = acc, or C + acc; to BF16 it rounds to nearest even
 *
 * Every operation is f32, rounded to nearest even, and takes subnormals as zero and gives zero for them, signs kept
 * (a result counts as subnormal when it is below 2^-126 after rounding to 24 bits). This is what the TDPBF16PS
 * instruction of AMX computes; the caller's floating-point mode does not matter and does not change. NaN and
 * infinities follow IEEE 754; which NaN comes out is open. Scales are used as they are: zero, negative, infinite and
 * NaN ones included.
 *
 * Aliasing: C may be D (same pointer and stride). No other operand may overlap D, nor may the rows of D each other.
 *
 * Threads. A context serves one call at a time; any number of contexts work side by side. Weights may be shared by all
 * contexts. A call runs on the calling thread and up to threads - 1 more of an OpenMP team; a build without OpenMP
 * computes the same on the calling thread alone. All arguments of a call stay the caller's.
 *
 * Failure. Arguments are checked before anything is computed, and D is untouched when a call fails. Beside the errors
 * named below every function reports FM_ERR_ARG for a null pointer, and for a negative size; FM_ERR_LIMIT for an
 * extent above FM_GEMM_EXTENT_MAX and for a matrix that is larger than the address space.
 *
 * What this version computes: BF16 and E4M3 with f32 scales, on the CPU, at levels ref, avx2 and avx512.
 */
#ifndef FATHOM_GEMM_H
#define FATHOM_GEMM_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/cpu.h"
#include "fathom/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Of m, n and k: keeps every index inside a matrix within 64 bits, and every row's bytes within 32. */
#define FM_GEMM_EXTENT_MAX ((int64_t)1 << 30)
/** Consecutive k that share a scale, and rows that share one in the 128x128 form. */
#define FM_GEMM_SCALE_BLOCK 128
/** A cache line: of the address of a packed blob. */
#define FM_GEMM_BLOB_ALIGN 64
/** A context has a workspace of about 1.5 MiB for each thread. */
#define FM_GEMM_THREADS_MAX 1024

typedef enum fm_gemm_device {
    FM_GEMM_CPU,
} fm_gemm_device;

/** Zero-initialise, then set `size` to sizeof(fm_gemm_options); fields that are 0 take the default. */
typedef struct fm_gemm_options {
    size_t size;
    int threads; /**< at most so many; 0: fm_base_cpu_threads() */
    fm_gemm_device device;
    int capped; /**< not 0: run at level `isa_max` at most. To compare levels; FM_ISA does it for a process */
    fm_isa isa_max;
} fm_gemm_options;

typedef struct fm_gemm_context fm_gemm_context;

/** NULL options: all defaults. FM_ERR_ARG: `size`, threads, device or level out of range. FM_ERR_NOMEM. */
FM_API fm_status fm_gemm_context_open(const fm_gemm_options *options,
                                      fm_gemm_context **out_context) FM_MUST_USE;
/** NULL is allowed. Not while a call runs. */
FM_API void fm_gemm_context_close(fm_gemm_context *context);
/** The level that the context's kernels are written for. */
FM_API fm_isa fm_gemm_context_isa(const fm_gemm_context *context);

/**
 * A matrix of `rows` x k, A (rows = m) or B (rows = n). Element (r, i) is `data[r * stride + i]`, or
 * `data[i * stride + r]` when transposed; the stride is at least the length of what is contiguous. The scale of E4M3
 * element (r, i) is `scales[(r / scale_rows) * scale_stride + i / 128]`, with a stride of at least ceil(k / 128).
 */
typedef struct fm_gemm_operand {
    fm_dtype dtype; /**< FM_DTYPE_BF16 or FM_DTYPE_F8_E4M3 */
    int transposed;
    const void *data; /**< may be NULL where the matrix is empty */
    int64_t stride;
    const float *scales; /**< E4M3 only; not looked at for BF16, nor are the two below */
    int64_t scale_stride;
    int scale_rows; /**< 1 or FM_GEMM_SCALE_BLOCK */
} fm_gemm_operand;

/** D, and C where there is one: element (i, j) is `data[i * stride + j]`, with a stride of at least n. */
typedef struct fm_gemm_result {
    fm_dtype dtype; /**< FM_DTYPE_BF16 or FM_DTYPE_F32; of C, too */
    void *data;
    int64_t stride;
    const void *c; /**< NULL: none. May be `data` */
    int64_t c_stride;
} fm_gemm_result;

/**
 * B, with its shape: a view of a matrix as it lies, or of a packed blob. It owns nothing; what it views must outlive
 * it, unchanged. The fields are for the library; copying it is fine.
 */
typedef struct fm_gemm_weights {
    fm_gemm_operand operand; /**< of a blob: dtype and scales alone */
    int64_t n, k;
    const uint8_t *panels; /**< of a blob; else NULL */
} fm_gemm_weights;

/**
 * Views a matrix as it lies. Every product rearranges it on the way, once for each 480 rows of A: for one-off use,
 * or for large m. FM_ERR_UNSUPPORTED: dtype. FM_ERR_ARG: stride, scale_stride or scale_rows.
 */
FM_API fm_status fm_gemm_weights_plain(int64_t n, int64_t k, const fm_gemm_operand *b,
                                       fm_gemm_weights *out_weights) FM_MUST_USE;

/**
 * Packing: a blob holds the codes of B as they are, E4M3 in a byte each, in the order that kernels read, and its
 * scales. The same bytes come out on every machine, and serve every ISA level. A blob is little-endian and has a
 * version; it may be stored, and used where a file is mapped. fm_gemm_weights_pack() fills `blob` (aligned to
 * FM_GEMM_BLOB_ALIGN) with exactly the bytes that fm_gemm_weights_pack_size() tells. Both fail as
 * fm_gemm_weights_plain() does; FM_ERR_ARG, too, for a blob that is misaligned or of another size.
 */
FM_API fm_status fm_gemm_weights_pack_size(int64_t n, int64_t k, const fm_gemm_operand *b,
                                           size_t *out_bytes) FM_MUST_USE;
FM_API fm_status fm_gemm_weights_pack(int64_t n, int64_t k, const fm_gemm_operand *b, void *blob,
                                      size_t bytes) FM_MUST_USE;

/**
 * Views a blob. Its header is checked, its codes are not read (any bytes are codes). FM_ERR_ARG: misaligned.
 * FM_ERR_FORMAT: not such a blob, cut short, or a damaged header. FM_ERR_VERSION: of another version.
 */
FM_API fm_status fm_gemm_weights_open(const void *blob, size_t bytes,
                                      fm_gemm_weights *out_weights) FM_MUST_USE;

/** D[m, n] = C + A B^T. FM_ERR_UNSUPPORTED: the dtypes of A and B differ, or are none of the above, or D's is none.
 *  FM_ERR_ARG: a stride, scale_stride or scale_rows. */
FM_API fm_status fm_gemm_dense(fm_gemm_context *context, int64_t m, const fm_gemm_operand *a,
                               const fm_gemm_weights *b, const fm_gemm_result *d) FM_MUST_USE;

/*
 * Grouped: `groups` matrices B of one shape and dtype, b[0] ... b[groups - 1], and rows of A that each belong to one of
 * them or to none. Rows of D (and C) have the numbers of the rows of A. Rows of no group are neither read nor written.
 * All three fail as fm_gemm_dense() does, and with FM_ERR_ARG where the shapes of b or dtypes differ.
 */

/**
 * Group g has the rows offsets[g] ... offsets[g + 1] - 1 of A, so `offsets` has groups + 1 entries; m is the number of
 * rows of A and D. Groups of any size, empty ones too, with no padding. FM_ERR_ARG: offsets that decrease, or leave
 * [0, m].
 */
FM_API fm_status fm_gemm_grouped(fm_gemm_context *context, int groups, const int64_t *offsets, int64_t m,
                                 const fm_gemm_operand *a, const fm_gemm_weights *b,
                                 const fm_gemm_result *d) FM_MUST_USE;

/**
 * Row i of A belongs to group ids[i], in any order; -1: to none. FM_ERR_ARG: an id below -1 or not below `groups`.
 * FM_ERR_NOMEM: no memory for the list of rows, 8 bytes a row.
 */
FM_API fm_status fm_gemm_grouped_by_id(fm_gemm_context *context, int groups, const int32_t *ids, int64_t m,
                                       const fm_gemm_operand *a, const fm_gemm_weights *b,
                                       const fm_gemm_result *d) FM_MUST_USE;

/**
 * A and D are [groups, m_max, ...] with one stride throughout: group g has the rows g * m_max + i, of which the first
 * masked_m[g] are computed. FM_ERR_ARG: a masked_m[g] outside [0, m_max].
 */
FM_API fm_status fm_gemm_grouped_masked(fm_gemm_context *context, int groups, const int32_t *masked_m,
                                        int64_t m_max, const fm_gemm_operand *a, const fm_gemm_weights *b,
                                        const fm_gemm_result *d) FM_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
