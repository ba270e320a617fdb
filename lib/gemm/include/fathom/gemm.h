/**
 * @file gemm.h
 * Matrix products D = C + A B^T in BF16, and in FP8 (E4M3) and FP4 (E2M1) with fine-grained scales: dense, batched, and
 * grouped for mixtures of experts. The contract is that of DeepGEMM, without its alignments: any m, n and k, groups of
 * any number of rows, scales row-major.
 *
 *     fm_gemm_context *gemm;
 *     fm_gemm_weights weights;
 *     FM_TRY(fm_gemm_context_open(&(fm_gemm_options){.size = sizeof(fm_gemm_options), .threads = 8}, &gemm));
 *     FM_TRY(fm_gemm_weights_plain(n, k, &b, &weights));           // or packed once: fm_gemm_weights_pack()
 *     FM_TRY(fm_gemm_dense(gemm, m, &a, &weights, &d));
 *     fm_gemm_context_close(gemm);
 *
 * What makes FP8 and FP4 of wider numbers is in gemm_quant.h.
 *
 * Shapes. A is [m, k], B is [n, k], C and D are [m, n]; A and B may be stored transposed, which gives the forms that
 * DeepGEMM calls nt (neither), nn (B stored [k, n]), tn (A stored [k, m]) and tt. m, n and k may be 0: nothing is
 * computed for m or n of 0, and D = C (or 0) for k of 0. Each is at most FM_GEMM_EXTENT_MAX. Strides count elements,
 * and the gaps that they leave are neither read nor written. Pointers need no more alignment than their element type
 * has (a packed blob needs FM_GEMM_BLOB_ALIGN).
 *
 * Formats. A and B are both BF16, without scales, or each is E4M3 or E2M1 with scales. What is multiplied is code times
 * scale. A scale is an f32, or a power of two (UE8M0), and belongs to 128 consecutive k of a row (1x128, activations)
 * or of 128 consecutive rows (128x128, weights); or it is a UE8M0 and belongs to 32 consecutive k of a row (1x32, the MX
 * formats). Either operand may have any of them. C and D are both BF16 or both F32.
 *
 * Arithmetic: one summation order at every ISA level, number of threads, batch size, grouping and packing, so that
 * results are equal bit for bit; a row gives the same whether it comes alone or among others.
 *
 *     step      32 consecutive k, from a multiple of 32, zeros beyond k:
 *               e = 0, then e = fma(a[i], b[i], e) over i = 0, 2, 4, ... 30;  o likewise over i = 1, 3, ... 31
 *     chain     acc = 0, then acc = acc + (e + o) step after step, to the end of k
 *     promoted  for each 128 consecutive k: p = 0, then p = p + (e + o) over its steps;
 *               acc = fma(p, scale of A * scale of B, acc), the product of scales rounded to f32
 *     end       D = acc, or C + acc; to BF16 it rounds to nearest even
 *
 * BF16 sums in a chain. In the other formats a[i] is the code, times its scale where that is one of 32 (for the
 * promotion its scale is then 1), and sums are promoted, with one exception. A *folds* when its scales are of 32
 * or when all of its scales are powers of two from 2^-50 to 2^50, stored as f32 or as UE8M0; so does a single row of
 * A. Where both the row of A and B fold, a[i] and b[i] are codes times scales, which BF16 holds exactly, and are summed
 * in a chain: there is nothing to promote, and within that range nothing under- or overflows either.
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
 * contexts. A call runs on the calling thread and up to threads - 1 more: of an OpenMP team, or of the team that the
 * options name. A build without OpenMP and without such a team computes the same on the calling thread alone. All
 * arguments of a call stay the caller's.
 *
 * Failure. Arguments are checked before anything is computed, and D is untouched when a call fails. Beside the errors
 * named below every function reports FM_ERR_ARG for a null pointer, and for a negative size; FM_ERR_LIMIT for an
 * extent above FM_GEMM_EXTENT_MAX and for a matrix that is larger than the address space.
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
/** Consecutive k that share a scale in the MX formats. */
#define FM_GEMM_SCALE_BLOCK_MX 32
/** A cache line: of the address of a packed blob. */
#define FM_GEMM_BLOB_ALIGN 64
/** A context has a workspace of about 1.5 MiB for each thread. */
#define FM_GEMM_THREADS_MAX 1024

typedef enum fm_gemm_device {
    FM_GEMM_CPU,
} fm_gemm_device;

/**
 * Threads of the caller's. run() calls body(argument, i) once for each i from 0 to threads - 1, each on a thread of its
 * own or one after the other, and returns when all have returned. `threads` is at most that of the options.
 */
typedef struct fm_gemm_team {
    void *state;
    void (*run)(void *state, int threads, void (*body)(void *argument, int index), void *argument);
} fm_gemm_team;

/** Zero-initialise, then set `size` to sizeof(fm_gemm_options); fields that are 0 take the default. */
typedef struct fm_gemm_options {
    size_t size;
    int threads; /**< at most so many; 0: fm_base_cpu_threads() */
    fm_gemm_device device;
    int capped; /**< not 0: run at level `isa_max` at most. To compare levels; FM_ISA does it for a process */
    fm_isa isa_max;
    const fm_gemm_team *team; /**< copied; NULL: OpenMP */
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
 * A matrix of `rows` x k, A (rows = m) or B (rows = n). Element (r, i) is number `r * stride + i` of data, or
 * `i * stride + r` when transposed; the stride is at least the length of what is contiguous. E2M1 lies two elements to
 * a byte, the even one in the low half, and its stride is even. The scale of element (r, i) is number
 * `(r / scale_rows) * scale_stride + i / scale_k` of scales, with a stride of at least ceil(k / scale_k).
 */
typedef struct fm_gemm_operand {
    fm_dtype dtype; /**< FM_DTYPE_BF16, FM_DTYPE_F8_E4M3 or FM_DTYPE_F4_E2M1 */
    int transposed;
    const void *data; /**< may be NULL where the matrix is empty */
    int64_t stride;
    const void *scales; /**< not looked at for BF16, nor is anything below */
    int64_t scale_stride;
    int scale_rows; /**< 1 or FM_GEMM_SCALE_BLOCK */
    int scale_k; /**< FM_GEMM_SCALE_BLOCK, 0 for the same, or FM_GEMM_SCALE_BLOCK_MX with UE8M0 and rows of 1 */
    fm_dtype scale_dtype; /**< FM_DTYPE_F32, 0 for the same, or FM_DTYPE_F8_UE8M0 */
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
    int folds;             /**< its scales, as said above */
} fm_gemm_weights;

/**
 * Views a matrix as it lies. Every product rearranges it on the way, once for each 480 rows of A: for one-off use,
 * or for large m. FM_ERR_UNSUPPORTED: dtype. FM_ERR_ARG: stride, scale_stride or scale_rows.
 */
FM_API fm_status fm_gemm_weights_plain(int64_t n, int64_t k, const fm_gemm_operand *b,
                                       fm_gemm_weights *out_weights) FM_MUST_USE;

/**
 * Packing: a blob holds the codes of B as they are, E4M3 in a byte each and E2M1 in half of one, in the order that
 * kernels read, and its scales. The same bytes come out on every machine and from any number of threads, and serve every
 * ISA level. A blob is little-endian and has a version; it may be stored, and used where a file is mapped.
 * fm_gemm_weights_pack() fills `blob` (aligned to FM_GEMM_BLOB_ALIGN) with exactly the bytes that
 * fm_gemm_weights_pack_size() tells, on the context's threads: each writes the part that it will later be the first to
 * read, so that on a NUMA machine fresh pages lie near it. Both fail as fm_gemm_weights_plain() does; FM_ERR_ARG, too,
 * for a blob that is misaligned or of another size.
 */
FM_API fm_status fm_gemm_weights_pack_size(int64_t n, int64_t k, const fm_gemm_operand *b,
                                           size_t *out_bytes) FM_MUST_USE;
FM_API fm_status fm_gemm_weights_pack(fm_gemm_context *context, int64_t n, int64_t k,
                                      const fm_gemm_operand *b, void *blob, size_t bytes) FM_MUST_USE;

/**
 * Views a blob. Its header is checked, its codes are not read (any bytes are codes). FM_ERR_ARG: misaligned.
 * FM_ERR_FORMAT: not such a blob, cut short, or a damaged header. FM_ERR_VERSION: of another version.
 */
FM_API fm_status fm_gemm_weights_open(const void *blob, size_t bytes,
                                      fm_gemm_weights *out_weights) FM_MUST_USE;

/** D[m, n] = C + A B^T. FM_ERR_UNSUPPORTED: a dtype of A, B or D that is none of the above, or BF16 against another.
 *  FM_ERR_ARG: a stride, scale_stride, scale_rows or scale_k. */
FM_API fm_status fm_gemm_dense(fm_gemm_context *context, int64_t m, const fm_gemm_operand *a,
                               const fm_gemm_weights *b, const fm_gemm_result *d) FM_MUST_USE;

/** One of a batch. */
typedef struct fm_gemm_product {
    int64_t m;
    fm_gemm_operand a;
    fm_gemm_weights b;
    fm_gemm_result d;
} fm_gemm_product;

/**
 * `count` products that have nothing to do with each other, of any shapes and dtypes; no D may overlap another. The
 * products over heads of MLA are such batches, with a product for each head h of H:
 *
 *     "bhr,hdr->bhd"   A = data + h * r, stride H * r;  B[h] = [d, r];              D = data + h * d, stride H * d
 *     "bhd,hdr->bhr"   A = data + h * d, stride H * d;  B[h] = [d, r], transposed;  D = data + h * r, stride H * r
 *
 * Fails as fm_gemm_dense() does, naming the product by its number. FM_ERR_NOMEM: no memory for a list.
 */
FM_API fm_status fm_gemm_batched(fm_gemm_context *context, int count,
                                 const fm_gemm_product *products) FM_MUST_USE;

/**
 * Gradients of grouped weights: D[g] = C[g] + A_g B_g^T, where A_g and B_g are the columns (k) from offsets[g] to
 * offsets[g + 1] - 1 of A, [m, offsets[groups]], and B, [n, offsets[groups]]. For a layer Y = X W^T the gradient of
 * expert g's W takes dY as A and X as B, both stored [tokens, ...], that is, transposed. D[g] is D's data
 * `g * d_group_stride` elements on, and so C[g]; an empty group gives C[g], or 0. With scales each group is a matrix of
 * its own: its blocks of k begin at its first column, and group g's first column of scales is the sum of
 * ceil(size / scale_k) over the groups before it, as fm_gemm_quantise_transposed() writes them.
 * Fails as fm_gemm_dense() does. FM_ERR_ARG: offsets that decrease or begin below 0, or that are odd where E2M1 lies
 * along k; a d_group_stride below m * stride of D. FM_ERR_NOMEM: no memory for a list.
 */
FM_API fm_status fm_gemm_grouped_k(fm_gemm_context *context, int groups, const int64_t *offsets, int64_t m,
                                   int64_t n, const fm_gemm_operand *a, const fm_gemm_operand *b,
                                   const fm_gemm_result *d, int64_t d_group_stride) FM_MUST_USE;

/*
 * Grouped: `groups` matrices B of one shape and dtype, b[0] ... b[groups - 1], and rows of A that each belong to one of
 * them or to none. Rows of D (and C) have the numbers of the rows of A. Rows of no group are neither read nor written.
 * All three fail as fm_gemm_dense() does, and with FM_ERR_ARG where the shapes or dtypes of b differ.
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
