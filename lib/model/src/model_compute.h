/* What every operator computes with: the kernels, the team, scratch memory, and matrix products over all storage types.
 *
 * A matrix is a view of rows as they are stored, BF16 and scaled E4M3 included: products convert on the way, so weights
 * are multiplied as they lie in a mapped file. All results are f32. Element (i, j) of a product is the fused sum over k in
 * rising order, whatever the blocking, the instruction set and the number of threads. */
#ifndef FM_MODEL_COMPUTE_H
#define FM_MODEL_COMPUTE_H

#include "fathom/mem.h"
#include "fathom/tensor.h"
#include "model_kernels.h"

/** Consecutive columns, and rows, that share a scale of an E4M3 weight. */
enum { FM_MODEL_SCALE_BLOCK = 128 };

/** Row i, column p: data[i * stride + p], or data[p * stride + i] when transposed. */
struct fm_model_matrix {
    fm_dtype dtype; // F32, BF16 or F8_E4M3
    int transposed;
    const void *data;
    int64_t stride;
    const float *scales; // E4M3: of (i, p) is scales[(row + i) / 128 * scale_stride + p / 128], as stored
    int64_t scale_stride;
    int64_t row; // of the stored matrix at which `data` begins; transposed: the column's part is 0
};

static inline struct fm_model_matrix fm_model_rows(const float *data, int64_t stride)
{
    return (struct fm_model_matrix){.dtype = FM_DTYPE_F32, .data = data, .stride = stride};
}

static inline struct fm_model_matrix fm_model_transposed(const float *data, int64_t stride)
{
    return (struct fm_model_matrix){.dtype = FM_DTYPE_F32, .data = data, .stride = stride, .transposed = 1};
}

/** The same matrix seen the other way. */
static inline struct fm_model_matrix fm_model_flip(struct fm_model_matrix matrix)
{
    matrix.transposed = !matrix.transposed;
    return matrix;
}

/** Memory of one step: taken piece by piece, given back to a mark. Blocks are kept, so later steps allocate nothing. */
struct fm_model_scratch {
    struct block {
        float *floats;
        size_t capacity;
    } * blocks;
    int count, current;
    size_t used; // of the current block
};
struct fm_model_mark {
    int block;
    size_t used;
};

/** `count` floats, not initialised, aligned to a cache line; NULL without memory. */
float *fm_model_scratch_take(struct fm_model_scratch *scratch, size_t count);
/** The same, zeroed. */
float *fm_model_scratch_zero(struct fm_model_scratch *scratch, size_t count);
/** `size` zeroed bytes. */
void *fm_model_scratch_bytes(struct fm_model_scratch *scratch, size_t size);
struct fm_model_mark fm_model_scratch_mark(const struct fm_model_scratch *scratch);
void fm_model_scratch_release(struct fm_model_scratch *scratch, struct fm_model_mark mark);
void fm_model_scratch_free(struct fm_model_scratch *scratch);

struct fm_model_low;
struct fm_model_queue;

struct fm_model_compute {
    const struct fm_model_kernels *kernels;
    struct fm_model_low *low;     // products of weights in BF16 or FP8; NULL: f32
    struct fm_model_queue *queue; // where gradients of weights wait; NULL: they are computed at once
    int threads;
    float **packs; // one packing buffer a thread
};

/** `dtype`: F32, BF16 or F8_E4M3, of products with weights. */
FM_MUST_USE fm_status fm_model_compute_open(int threads, fm_dtype dtype,
                                            struct fm_model_compute *out_compute);
void fm_model_compute_close(struct fm_model_compute *compute);

/** Part [begin, end) of a piece of work, by thread `thread` of the team. */
typedef void (*fm_model_work)(void *context, int64_t begin, int64_t end, int thread);
/**
 * Shares [0, count) among the team in parts of `grain` (the last may be smaller); work too small for that runs here. Not
 * from inside a work.
 */
void fm_model_share(const struct fm_model_compute *compute, int64_t count, int64_t grain, fm_model_work work,
                    void *context);

/** Parts [i, i + 1) of [0, count), each by a thread of its own, part i by the same one always. Where there are fewer threads
 *  than parts they take several. */
void fm_model_each(const struct fm_model_compute *compute, int count, fm_model_work work, void *context);

/** C[m, n] (+)= A[m, k] B[n, k]^T by the whole team. */
void fm_model_matmul(const struct fm_model_compute *compute, int64_t m, int64_t n, int64_t k,
                     const struct fm_model_matrix *a, const struct fm_model_matrix *b, float *c,
                     int64_t c_stride, int accumulate);
/** The same by this thread alone, `thread` of the team: for use inside a work. */
void fm_model_matmul_alone(const struct fm_model_compute *compute, int thread, int64_t m, int64_t n,
                           int64_t k, const struct fm_model_matrix *a, const struct fm_model_matrix *b,
                           float *c, int64_t c_stride, int accumulate);

#endif
