/*
 * Tiles of 6 rows x 16 columns: 12 chains in registers, those of even indices first and then those of odd ones, since 16
 * registers do not hold both.
 */
#include "mla_private.h"

#include "mla_exp.h"

#include <immintrin.h>

#include "fathom/kernel.h"

enum { LANES = 8, TILE_ROWS = 6 };
#define TILE_PARITIES    1
#define TILE_ROWS_MAX    6
#define TILE_VECTORS_MAX 2

typedef __m256 V;
typedef __m256i I;
typedef __m256 M; // all ones where true

#define v_load(from)        _mm256_loadu_ps(from)
#define v_store(to, x)      _mm256_storeu_ps(to, x)
#define v_set1(x)           _mm256_set1_ps(x)
#define v_add(x, y)         _mm256_add_ps(x, y)
#define v_sub(x, y)         _mm256_sub_ps(x, y)
#define v_mul(x, y)         _mm256_mul_ps(x, y)
#define v_fma(x, y, z)      _mm256_fmadd_ps(x, y, z)
#define v_larger(x, y)      _mm256_max_ps(x, y) // y where either is NaN
#define v_bits(x)           _mm256_castps_si256(x)
#define v_of_bits(x)        _mm256_castsi256_ps(x)
#define v_select(m, x, y)   _mm256_blendv_ps(y, x, m)
#define v_zero_where(m, x)  _mm256_andnot_ps(m, x)
#define v_fp16_of(x)        _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define i_load(from)        _mm256_loadu_si256((const __m256i *)(from))
#define i_load_u16(from)    _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from)))
#define i_load_u8(from)     _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from)))
#define v_load_fp16(from)   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from)))
#define v_of_int(x)         _mm256_cvtepi32_ps(x)
#define i_or(x, y)          _mm256_or_si256(x, y)
#define i_set1(x)           _mm256_set1_epi32(x)
#define i_add(x, y)         _mm256_add_epi32(x, y)
#define i_and(x, y)         _mm256_and_si256(x, y)
#define i_shift_left(x, n)  _mm256_slli_epi32(x, n)
#define i_shift_right(x, n) _mm256_srli_epi32(x, n)
#define i_greater(x, y)     _mm256_castsi256_ps(_mm256_cmpgt_epi32(x, y))
#define m_less(x, y)        _mm256_cmp_ps(x, y, _CMP_LT_OQ)
#define m_equal(x, y)       _mm256_cmp_ps(x, y, _CMP_EQ_OQ)
#define m_nan(x)            _mm256_cmp_ps(x, x, _CMP_UNORD_Q)
#define m_not(m)            _mm256_xor_ps(m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))

// y * 2^n, which is exact; the low bits of `shifted` hold the integer n, too.
#define v_times_power(y, n, shifted) \
    v_mul(y, v_of_bits(i_shift_left(i_add(v_bits(shifted), i_set1(127)), 23)))

#include "mla_kernels_body.h"

static void multiply(const struct fm_mla_product *product)
{
    int along = product->a_index == 1;
    for (size_t column = 0; column < (size_t)product->columns; column += FM_MLA_LANES) {
        if (along)
            tiles(product, column, TILE_ROWS, 2, 1);
        else
            tiles(product, column, TILE_ROWS, 2, 0);
    }
}

static void transpose(const float *x, size_t x_stride, size_t n, float *out, size_t out_stride)
{
    for (size_t at = 0; at < n; at += LANES, out += LANES * out_stride)
        for (size_t half = 0; half < FM_MLA_LANES; half += LANES) {
            __m256 row[LANES], pair[LANES], quad[LANES];
            FM_UNROLL for (size_t r = 0; r < LANES; r++) row[r] =
                _mm256_loadu_ps(x + (half + r) * x_stride + at);
            FM_UNROLL for (int r = 0; r < LANES; r += 2)
            {
                pair[r] = _mm256_unpacklo_ps(row[r], row[r + 1]);
                pair[r + 1] = _mm256_unpackhi_ps(row[r], row[r + 1]);
            }
            FM_UNROLL for (int r = 0; r < LANES; r += 4)
            {
                quad[r] = _mm256_shuffle_ps(pair[r], pair[r + 2], 0x44);
                quad[r + 1] = _mm256_shuffle_ps(pair[r], pair[r + 2], 0xEE);
                quad[r + 2] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], 0x44);
                quad[r + 3] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], 0xEE);
            }
            FM_UNROLL for (size_t i = 0; i < 4; i++)
            {
                float *to = out + i * out_stride + half;
                _mm256_storeu_ps(to, _mm256_permute2f128_ps(quad[i], quad[4 + i], 0x20));
                _mm256_storeu_ps(to + 4 * out_stride, _mm256_permute2f128_ps(quad[i], quad[4 + i], 0x31));
            }
        }
}

void fm_mla_install_avx2(struct fm_mla_kernels *kernels)
{
    *kernels = (struct fm_mla_kernels){
        .isa = FM_ISA_AVX2,
        .multiply = multiply,
        .softmax = softmax,
        .softmax_back = softmax_back,
        .widen_bf16 = widen_bf16,
        .widen_fp16 = widen_fp16,
        .widen_e4m3 = widen_e4m3,
        .scale_bf16 = scale_bf16,
        .scale = scale,
        .add_scaled = add_scaled,
        .transpose = transpose,
    };
}
