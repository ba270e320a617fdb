/**
 * @file mla_cases.h
 * Random tensors with gaps, and attention in double precision.
 */
#ifndef MLA_CASES_H
#define MLA_CASES_H

#include "fathom/mla.h"

#include "fm_gen.h"

/** A tensor in memory of its own; every byte that is no element is poisoned (NaN in every format). */
struct mla_array {
    fm_tensor tensor;
    uint8_t *memory;
    size_t bytes;
};

/** Random strides with gaps; all poison. */
struct mla_array mla_array_make(fm_gen *gen, fm_dtype dtype, int ndim, const int64_t *shape);
/** Normal values times `size`, clamped to [-1, 1]. */
void mla_array_fill(fm_gen *gen, struct mla_array *array, double size);
void mla_array_free(struct mla_array *array);
double mla_at(const fm_tensor *tensor, const int64_t *index);
void mla_put(const fm_tensor *tensor, const int64_t *index, double value);
/** Fails unless all that lies between the elements is poison still. */
void mla_array_gaps_untouched(const struct mla_array *array);
/** Fails unless the elements are equal bit for bit, or both NaN. */
void mla_array_equal(const struct mla_array *a, const struct mla_array *b, const char *what);

/** How far results may be off: an element fails when both are exceeded; and the whole when 1 - cos is. Infinities and
 *  NaN must be where they are expected. */
struct mla_bound {
    double absolute, relative, cosine;
};
/** FlashMLA's, for out and for lse. */
extern const struct mla_bound mla_bound_out, mla_bound_lse, mla_bound_f32;
void mla_array_near(const struct mla_array *got, const double *expected, struct mla_bound bound,
                    const char *what);

/**
 * A row of attention: q[d_qk]; key j is keys + j * d_qk, its value values + j * d_v. Writes out[d_v]; returns lse.
 * sink NULL: none.
 */
double mla_exact_row(int d_qk, int d_v, const double *q, int64_t count, const double *keys,
                     const double *values, double scale, const float *sink, double *out);

/** A level beyond those there are: the kernels for AMX over emulated tiles. */
#define MLA_EMULATED FM_ISA_COUNT

/** At a level at most. MLA_EMULATED needs AVX-512, which those kernels use, too: it is that level, or less, without. */
fm_mla_context *mla_open(fm_isa isa, int threads);
/** Whether a level can be opened here. */
int mla_is_there(fm_isa isa);
const char *mla_level_name(fm_isa isa);

#endif
