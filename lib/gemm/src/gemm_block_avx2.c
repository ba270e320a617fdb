/*
 * Tiles of 6 rows x 16 columns: 12 chains, first those of e, then those of o, since 16 registers do not hold both.
 */
#include "gemm_private.h"

#include <immintrin.h>

#include "fathom/kernel.h"

enum { ROWS = FM_GEMM_TILE_ROWS, VECTORS = 2, LANES = 8 };

// e (or, from an odd start, o) of a step.
FM_INLINE void chains(const float *a, size_t a_stride, const float *b, int rows, __m256 sum[ROWS][VECTORS])
{
    __m256 chain[ROWS][VECTORS];
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < VECTORS; v++)
        {
            chain[r][v] = _mm256_setzero_ps();
        }
    }
    for (int i = 0; i < FM_GEMM_STEP; i += 2) {
        const float *row = b + (size_t)i * FM_GEMM_STRIP;
        __m256 b0 = _mm256_loadu_ps(row), b1 = _mm256_loadu_ps(row + LANES);
        FM_UNROLL for (int r = 0; r < rows; r++)
        {
            __m256 value = _mm256_broadcast_ss(a + (size_t)r * a_stride + i);
            chain[r][0] = _mm256_fmadd_ps(value, b0, chain[r][0]);
            chain[r][1] = _mm256_fmadd_ps(value, b1, chain[r][1]);
        }
    }
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < VECTORS; v++)
        {
            sum[r][v] = chain[r][v];
        }
    }
}

FM_INLINE void tile(const struct fm_gemm_block *block, size_t first, size_t column, int rows)
{
    const float *a = block->a + first * block->a_stride;
    const float *b = block->b + column;
    float *acc = block->acc + first * block->acc_stride + column;
    __m256 sum[ROWS][VECTORS];
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < VECTORS; v++)
        {
            sum[r][v] = block->a_scales ? _mm256_setzero_ps()
                                        : _mm256_loadu_ps(acc + (size_t)r * block->acc_stride + v * LANES);
        }
    }
    for (int i = 0; i < block->steps * FM_GEMM_STEP; i += FM_GEMM_STEP) {
        const float *row = b + (size_t)i * FM_GEMM_STRIP;
        __m256 even[ROWS][VECTORS], odd[ROWS][VECTORS];
        chains(a + i, block->a_stride, row, rows, even);
        chains(a + i + 1, block->a_stride, row + FM_GEMM_STRIP, rows, odd);
        FM_UNROLL for (int r = 0; r < rows; r++)
        {
            FM_UNROLL for (int v = 0; v < VECTORS; v++)
            {
                sum[r][v] = _mm256_add_ps(sum[r][v], _mm256_add_ps(even[r][v], odd[r][v]));
            }
        }
    }
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < VECTORS; v++)
        {
            float *to = acc + (size_t)r * block->acc_stride + v * LANES;
            if (block->a_scales) {
                __m256 scale = _mm256_mul_ps(_mm256_set1_ps(block->a_scales[first + (size_t)r]),
                                             _mm256_loadu_ps(block->b_scales + column + v * LANES));
                sum[r][v] = _mm256_fmadd_ps(sum[r][v], scale, _mm256_loadu_ps(to));
            }
            _mm256_storeu_ps(to, sum[r][v]);
        }
    }
}

static void half_strip(const struct fm_gemm_block *block, size_t column)
{
    size_t rows = (size_t)block->rows, height;
    for (size_t row = 0; row < rows; row += height) {
        height = fm_gemm_tile_height(rows - row);
        if (column == 0)
            fm_gemm_block_prefetch(block, row, height);
        switch (height) {
        case 1:
            tile(block, row, column, 1);
            break;
        case 2:
            tile(block, row, column, 2);
            break;
        case 3:
            tile(block, row, column, 3);
            break;
        case 4:
            tile(block, row, column, 4);
            break;
        case 5:
            tile(block, row, column, 5);
            break;
        case 6:
            tile(block, row, column, 6);
            break;
        default:
            break;
        }
    }
}

static void multiply(const struct fm_gemm_block *block)
{
    half_strip(block, 0);
    half_strip(block, FM_GEMM_PANEL);
}

// A lane of 32 bits is a column's pair: the even k in the low half, which a shift makes f32, the odd one in the high.
static void unpack_bf16(const uint8_t *panel, int64_t pairs, float *out)
{
    const __m256i high = _mm256_set1_epi32((int)0xFFFF0000);
    for (int64_t pair = 0; pair < pairs; pair++) {
        float *to = out + pair * 2 * FM_GEMM_STRIP;
        for (int v = 0; v < VECTORS; v++) {
            __m256i codes = _mm256_loadu_si256((const __m256i *)(panel + pair * 64 + v * 32));
            _mm256_storeu_si256((__m256i *)(to + v * LANES), _mm256_slli_epi32(codes, 16));
            _mm256_storeu_si256((__m256i *)(to + FM_GEMM_STRIP + v * LANES), _mm256_and_si256(codes, high));
        }
    }
}

// The codes in the upper bytes, as halves: e4m3's exponent and mantissa, moved down by one bit, are those of an fp16 that
// is 2^-8 of it, subnormals too. All ones, the NaN, would become a number.
FM_INLINE __m256i halves(__m256i codes)
{
    const __m256i magnitude = _mm256_set1_epi16(0x7F00);
    __m256i bits = _mm256_and_si256(codes, magnitude);
    __m256i half =
        _mm256_or_si256(_mm256_andnot_si256(_mm256_set1_epi16(0x7FFF), codes), _mm256_srli_epi16(bits, 1));
    __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(bits, magnitude), _mm256_set1_epi16(0x7E00));
    return _mm256_or_si256(half, nan);
}

// VCVTPH2PS takes fp16 subnormals as they are whatever DAZ says.
FM_INLINE void store_halves(__m256i half, float *pair_0, float *pair_1)
{
    const __m256 unscale = _mm256_set1_ps(256);
    _mm256_storeu_ps(pair_0, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), unscale));
    _mm256_storeu_ps(pair_1, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)), unscale));
}

// 32 bytes are two pairs of 8 columns, 4 columns at a time.
static void unpack_e4m3(const uint8_t *panel, int64_t pairs, float *out)
{
    for (int64_t pair = 0; pair < pairs; pair += 2)
        for (int half = 0; half < 2; half++) {
            __m256i codes = _mm256_loadu_si256((const __m256i *)(panel + pair * 32 + half * 32));
            float *to = out + pair * 2 * FM_GEMM_STRIP + (size_t)half * LANES;
            codes = _mm256_permute4x64_epi64(codes, _MM_SHUFFLE(3, 1, 2, 0));
            store_halves(halves(_mm256_slli_epi16(codes, 8)), to, to + (size_t)2 * FM_GEMM_STRIP);
            store_halves(halves(codes), to + FM_GEMM_STRIP, to + (size_t)3 * FM_GEMM_STRIP);
        }
}

// The low four bits of each lane.
FM_INLINE __m256 e2m1(__m256i codes)
{
    const __m256 magnitudes = _mm256_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6); // takes the low three
    __m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(8)), 28);
    return _mm256_or_ps(_mm256_permutevar8x32_ps(magnitudes, codes), _mm256_castsi256_ps(sign));
}

static void unpack_e2m1(const uint8_t *panel, int64_t pairs, float *out)
{
    for (int64_t pair = 0; pair < pairs; pair++)
        for (int v = 0; v < VECTORS; v++) {
            __m256i codes =
                _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(panel + pair * 16 + v * LANES)));
            float *to = out + pair * 2 * FM_GEMM_STRIP + (size_t)v * LANES;
            _mm256_storeu_ps(to, e2m1(codes));
            _mm256_storeu_ps(to + FM_GEMM_STRIP, e2m1(_mm256_srli_epi32(codes, 4)));
        }
}

static void widen_bf16(const fm_bf16 *from, size_t count, float *out)
{
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        __m256i codes = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from + i)));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_slli_epi32(codes, 16));
    }
    for (; i < count; i++)
        out[i] = fm_bf16_to_f32(from[i]);
}

static void widen_e4m3(const fm_e4m3 *from, size_t count, float *out)
{
    size_t i = 0;
    for (; i + (size_t)2 * LANES <= count; i += (size_t)2 * LANES) {
        __m256i codes = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(from + i)));
        store_halves(halves(_mm256_slli_epi16(codes, 8)), out + i, out + i + LANES);
    }
    for (; i < count; i++)
        out[i] = fm_e4m3_to_f32(from[i]);
}

static void scale_strip(float *strip, int64_t rows, const float *scales)
{
    for (int64_t i = 0; i < rows * FM_GEMM_STRIP; i += LANES)
        _mm256_storeu_ps(strip + i, _mm256_mul_ps(_mm256_loadu_ps(strip + i),
                                                  _mm256_loadu_ps(scales + i % FM_GEMM_STRIP)));
}

static void scale_line(float *line, int64_t count, float scale)
{
    __m256 factor = _mm256_set1_ps(scale);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        _mm256_storeu_ps(line + i, _mm256_mul_ps(_mm256_loadu_ps(line + i), factor));
    for (; i < count; i++)
        line[i] *= scale;
}

static void transpose(const float *from, size_t from_stride, float *to, size_t to_stride)
{
    for (size_t i = 0; i < FM_GEMM_SQUARE; i += LANES)
        for (size_t j = 0; j < FM_GEMM_SQUARE; j += LANES) {
            __m256 row[LANES], pair[LANES], quad[LANES];
            for (size_t r = 0; r < LANES; r++)
                row[r] = _mm256_loadu_ps(from + (i + r) * from_stride + j);
            for (size_t r = 0; r < LANES; r += 2) {
                pair[r] = _mm256_unpacklo_ps(row[r], row[r + 1]);
                pair[r + 1] = _mm256_unpackhi_ps(row[r], row[r + 1]);
            }
            for (size_t r = 0; r < LANES; r += 4) {
                quad[r] = _mm256_shuffle_ps(pair[r], pair[r + 2], _MM_SHUFFLE(1, 0, 1, 0));
                quad[r + 1] = _mm256_shuffle_ps(pair[r], pair[r + 2], _MM_SHUFFLE(3, 2, 3, 2));
                quad[r + 2] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], _MM_SHUFFLE(1, 0, 1, 0));
                quad[r + 3] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], _MM_SHUFFLE(3, 2, 3, 2));
            }
            for (size_t r = 0; r < 4; r++) {
                float *out = to + (j + r) * to_stride + i;
                _mm256_storeu_ps(out, _mm256_permute2f128_ps(quad[r], quad[r + 4], 0x20));
                _mm256_storeu_ps(out + 4 * to_stride, _mm256_permute2f128_ps(quad[r], quad[r + 4], 0x31));
            }
        }
}

void fm_gemm_install_avx2(struct fm_gemm_kernels *kernels)
{
    *kernels = (struct fm_gemm_kernels){
        .isa = FM_ISA_AVX2,
        .flushes = 1,
        .multiply = multiply,
        .unpack_bf16 = unpack_bf16,
        .unpack_e4m3 = unpack_e4m3,
        .unpack_e2m1 = unpack_e2m1,
        .widen_bf16 = widen_bf16,
        .widen_e4m3 = widen_e4m3,
        .scale_strip = scale_strip,
        .scale_line = scale_line,
        .transpose = transpose,
    };
}
