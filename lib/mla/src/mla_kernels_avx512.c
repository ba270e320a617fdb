/*
 * Tiles of 6 rows x 32 columns, or 12 x 16 where columns are few: 12 chains for even indices and 12 for odd ones, which
 * cover the latency of two FMA units and leave registers for B and a broadcast of A.
 */
#include "mla_private.h"

#include "mla_exp.h"
#include "mla_turn_avx512.h"

#include <immintrin.h>

#include "fathom/kernel.h"

enum { LANES = 16, TILE_ROWS = 6 };
#define TILE_PARITIES    2
#define TILE_ROWS_MAX    12
#define TILE_VECTORS_MAX 2

typedef __m512 V;
typedef __m512i I;
typedef __mmask16 M;

#define v_load(from)        _mm512_loadu_ps(from)
#define v_store(to, x)      _mm512_storeu_ps(to, x)
#define v_set1(x)           _mm512_set1_ps(x)
#define v_add(x, y)         _mm512_add_ps(x, y)
#define v_sub(x, y)         _mm512_sub_ps(x, y)
#define v_mul(x, y)         _mm512_mul_ps(x, y)
#define v_fma(x, y, z)      _mm512_fmadd_ps(x, y, z)
#define v_larger(x, y)      _mm512_max_ps(x, y) // y where either is NaN
#define v_bits(x)           _mm512_castps_si512(x)
#define v_of_bits(x)        _mm512_castsi512_ps(x)
#define v_select(m, x, y)   _mm512_mask_blend_ps(m, y, x)
#define v_zero_where(m, x)  _mm512_maskz_mov_ps(_knot_mask16(m), x)
#define v_fp16_of(x)        _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define i_load(from)        _mm512_loadu_si512(from)
#define i_load_u16(from)    _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from)))
#define i_load_u8(from)     _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(from)))
#define v_load_fp16(from)   _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from)))
#define v_of_int(x)         _mm512_cvtepi32_ps(x)
#define i_or(x, y)          _mm512_or_si512(x, y)
#define i_set1(x)           _mm512_set1_epi32(x)
#define i_add(x, y)         _mm512_add_epi32(x, y)
#define i_and(x, y)         _mm512_and_si512(x, y)
#define i_shift_left(x, n)  _mm512_slli_epi32(x, n)
#define i_shift_right(x, n) _mm512_srli_epi32(x, n)
#define i_greater(x, y)     _mm512_cmpgt_epi32_mask(x, y)
#define m_less(x, y)        _mm512_cmp_ps_mask(x, y, _CMP_LT_OQ)
#define m_equal(x, y)       _mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ)
#define m_nan(x)            _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q)
#define m_not(m)            _knot_mask16(m)

// y * 2^n, which is exact; the low bits of `shifted` hold the integer n, too.
#define v_times_power(y, n, shifted) _mm512_scalef_ps(y, n)

#include "mla_kernels_body.h"

static void multiply(const struct fm_mla_product *product)
{
    int along = product->a_index == 1;
    for (size_t column = 0; column < (size_t)product->columns; column += FM_MLA_STRIP) {
        int wide = (size_t)product->columns - column >= FM_MLA_STRIP;
        if (wide && along)
            tiles(product, column, TILE_ROWS, 2, 1);
        else if (wide)
            tiles(product, column, TILE_ROWS, 2, 0);
        else if (along)
            tiles(product, column, 2 * TILE_ROWS, 1, 1);
        else
            tiles(product, column, 2 * TILE_ROWS, 1, 0);
    }
}

static void transpose(const float *x, size_t x_stride, size_t n, float *out, size_t out_stride)
{
    for (size_t at = 0; at < n; at += LANES, out += LANES * out_stride) {
        __m512i row[LANES], turned[LANES];
        FM_UNROLL for (size_t r = 0; r < LANES; r++) row[r] = _mm512_loadu_si512(x + r * x_stride + at);
        fm_mla_turn(row, turned);
        FM_UNROLL for (size_t i = 0; i < LANES; i++) _mm512_storeu_si512(out + i * out_stride, turned[i]);
    }
}

void fm_mla_install_avx512(struct fm_mla_kernels *kernels)
{
    *kernels = (struct fm_mla_kernels){
        .isa = FM_ISA_AVX512,
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
        .few_dots = fm_mla_few_dots_avx512,
        .narrow_e4m3 = fm_mla_narrow_e4m3_avx512,
        .few_values = fm_mla_few_values_avx512,
    };
}
