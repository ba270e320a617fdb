/*
 * Tiles of 6 rows x 32 columns: 12 chains for e and 12 for o, which cover the latency of two FMA units, and leave
 * registers for two vectors of B and one broadcast of A.
 */
#include "gemm_turn_avx512.h"

#include <immintrin.h>

enum { ROWS = FM_GEMM_TILE_ROWS, VECTORS = 2, LANES = 16 };

FM_INLINE void step_products(const float *a, size_t a_stride, const float *b, int rows,
                             __m512 sum[ROWS][VECTORS])
{
    __m512 even[ROWS][VECTORS], odd[ROWS][VECTORS];
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < VECTORS; v++)
        {
            even[r][v] = _mm512_setzero_ps();
            odd[r][v] = _mm512_setzero_ps();
        }
    }
    for (int i = 0; i < FM_GEMM_STEP; i += 2) {
        const float *row = b + (size_t)i * FM_GEMM_STRIP;
        __m512 b0 = _mm512_loadu_ps(row), b1 = _mm512_loadu_ps(row + LANES);
        FM_UNROLL for (int r = 0; r < rows; r++)
        {
            __m512 value = _mm512_set1_ps(a[(size_t)r * a_stride + (size_t)i]);
            even[r][0] = _mm512_fmadd_ps(value, b0, even[r][0]);
            even[r][1] = _mm512_fmadd_ps(value, b1, even[r][1]);
        }
        b0 = _mm512_loadu_ps(row + FM_GEMM_STRIP);
        b1 = _mm512_loadu_ps(row + FM_GEMM_STRIP + LANES);
        FM_UNROLL for (int r = 0; r < rows; r++)
        {
            __m512 value = _mm512_set1_ps(a[(size_t)r * a_stride + (size_t)i + 1]);
            odd[r][0] = _mm512_fmadd_ps(value, b0, odd[r][0]);
            odd[r][1] = _mm512_fmadd_ps(value, b1, odd[r][1]);
        }
    }
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < VECTORS; v++)
        {
            sum[r][v] = _mm512_add_ps(sum[r][v], _mm512_add_ps(even[r][v], odd[r][v]));
        }
    }
}

FM_INLINE void tile(const struct fm_gemm_block *block, size_t first, int rows)
{
    const float *a = block->a + first * block->a_stride;
    float *acc = block->acc + first * block->acc_stride;
    __m512 sum[ROWS][VECTORS];
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < VECTORS; v++)
        {
            if (block->a_scales) // wanted at the end
                _mm_prefetch((const char *)(acc + (size_t)r * block->acc_stride + v * LANES), _MM_HINT_T0);
            sum[r][v] = block->a_scales ? _mm512_setzero_ps()
                                        : _mm512_loadu_ps(acc + (size_t)r * block->acc_stride + v * LANES);
        }
    }
    for (int step = 0; step < block->steps; step++)
        step_products(a + (size_t)step * FM_GEMM_STEP, block->a_stride,
                      block->b + (size_t)step * FM_GEMM_STEP * FM_GEMM_STRIP, rows, sum);
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < VECTORS; v++)
        {
            float *to = acc + (size_t)r * block->acc_stride + v * LANES;
            if (block->a_scales) {
                __m512 scale = _mm512_mul_ps(_mm512_set1_ps(block->a_scales[first + (size_t)r]),
                                             _mm512_loadu_ps(block->b_scales + v * LANES));
                sum[r][v] = _mm512_fmadd_ps(sum[r][v], scale, _mm512_loadu_ps(to));
            }
            _mm512_storeu_ps(to, sum[r][v]);
        }
    }
}

static void multiply(const struct fm_gemm_block *block)
{
    size_t rows = (size_t)block->rows, height;
    for (size_t row = 0; row < rows; row += height) {
        height = fm_gemm_tile_height(rows - row);
        fm_gemm_block_prefetch(block, row, height);
        switch (height) {
        case 1:
            tile(block, row, 1);
            break;
        case 2:
            tile(block, row, 2);
            break;
        case 3:
            tile(block, row, 3);
            break;
        case 4:
            tile(block, row, 4);
            break;
        case 5:
            tile(block, row, 5);
            break;
        case 6:
            tile(block, row, 6);
            break;
        default:
            break;
        }
    }
}

// A lane of 32 bits is a column's pair: the even k in the low half, which a shift makes f32, the odd one in the high.
static void unpack_bf16(const uint8_t *panel, int64_t pairs, float *out)
{
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    for (int64_t pair = 0; pair < pairs; pair++) {
        __m512i codes = _mm512_loadu_si512(panel + pair * 64);
        float *to = out + pair * 2 * FM_GEMM_STRIP;
        _mm512_storeu_si512(to, _mm512_slli_epi32(codes, 16));
        _mm512_storeu_si512(to + FM_GEMM_STRIP, _mm512_and_si512(codes, high));
    }
}

// The codes in the upper bytes, as halves: e4m3's exponent and mantissa, moved down by one bit, are those of an fp16 that
// is 2^-8 of it, subnormals too. All ones, the NaN, would become a number.
FM_INLINE __m512i halves(__m512i codes)
{
    const __m512i magnitude = _mm512_set1_epi16(0x7F00);
    __m512i bits = _mm512_and_si512(codes, magnitude);
    __m512i half =
        _mm512_or_si512(_mm512_andnot_si512(_mm512_set1_epi16(0x7FFF), codes), _mm512_srli_epi16(bits, 1));
    __mmask32 nan = _mm512_cmpeq_epi16_mask(bits, magnitude);
    return _mm512_mask_mov_epi16(half, nan, _mm512_set1_epi16(0x7E00));
}

// VPERMPS takes the low four bits of a lane.
static void unpack_e2m1(const uint8_t *panel, int64_t pairs, float *out)
{
    const __m512 values =
        _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
    for (int64_t pair = 0; pair < pairs; pair++) {
        __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(panel + pair * 16)));
        float *to = out + pair * 2 * FM_GEMM_STRIP;
        _mm512_storeu_ps(to, _mm512_permutexvar_ps(codes, values));
        _mm512_storeu_ps(to + FM_GEMM_STRIP, _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), values));
    }
}

static void widen_bf16(const fm_bf16 *from, size_t count, float *out)
{
    for (size_t i = 0; i < count; i += LANES) {
        __mmask16 lanes = (__mmask16)(count - i < LANES ? (1u << (count - i)) - 1 : 0xFFFF);
        __m512i codes = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from + i));
        _mm512_mask_storeu_epi32(out + i, lanes, _mm512_slli_epi32(codes, 16));
    }
}

static void widen_e4m3(const fm_e4m3 *from, size_t count, float *out)
{
    const __m512 unscale =
        _mm512_set1_ps(256); // VCVTPH2PS takes fp16 subnormals as they are whatever DAZ says
    for (size_t i = 0; i < count; i += (size_t)2 * LANES) {
        __mmask32 lanes = count - i < (size_t)2 * LANES ? (1u << (count - i)) - 1 : ~0u;
        __m512i codes = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(lanes, from + i));
        __m512i half = halves(_mm512_slli_epi16(codes, 8));
        __m512 low = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(half)), unscale);
        __m512 high = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)), unscale);
        _mm512_mask_storeu_ps(out + i, (__mmask16)lanes, low);
        _mm512_mask_storeu_ps(out + i + LANES, (__mmask16)(lanes >> LANES), high);
    }
}

static void scale_strip(float *strip, int64_t rows, const float *scales)
{
    __m512 s0 = _mm512_loadu_ps(scales), s1 = _mm512_loadu_ps(scales + LANES);
    for (float *row = strip; row < strip + rows * FM_GEMM_STRIP; row += FM_GEMM_STRIP) {
        _mm512_storeu_ps(row, _mm512_mul_ps(_mm512_loadu_ps(row), s0));
        _mm512_storeu_ps(row + LANES, _mm512_mul_ps(_mm512_loadu_ps(row + LANES), s1));
    }
}

static void scale_line(float *line, int64_t count, float scale)
{
    __m512 factor = _mm512_set1_ps(scale);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        _mm512_storeu_ps(line + i, _mm512_mul_ps(_mm512_loadu_ps(line + i), factor));
    __mmask16 rest = (__mmask16)((1u << (count - i)) - 1);
    _mm512_mask_storeu_ps(line + i, rest, _mm512_mul_ps(_mm512_maskz_loadu_ps(rest, line + i), factor));
}

static void transpose(const float *from, size_t from_stride, float *to, size_t to_stride)
{
    turn_square(from, from_stride, to, to_stride);
}

void fm_gemm_install_avx512(struct fm_gemm_kernels *kernels)
{
    *kernels = (struct fm_gemm_kernels){
        .isa = FM_ISA_AVX512,
        .flushes = 1,
        .multiply = multiply,
        .unpack_bf16 = unpack_bf16,
        .unpack_e2m1 = unpack_e2m1,
        .widen_bf16 = widen_bf16,
        .widen_e4m3 = widen_e4m3,
        .scale_strip = scale_strip,
        .scale_line = scale_line,
        .transpose = transpose,
    };
}
