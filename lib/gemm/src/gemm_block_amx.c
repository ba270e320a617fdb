/*
 * Tiles of 16 rows x 16 columns, two by two: two of A, two of B and four sums, all eight that there are. B's two panels
 * stay in the first-level cache while A streams past.
 */
#include "gemm_private.h"

#include "fathom/tiles.h"

#include <immintrin.h>
#include <string.h>

enum { TILE = 16, LANES = 16, STEP_CODES = FM_GEMM_STEP * FM_GEMM_PANEL };

static void enter(void)
{
    struct fm_tile_config config = fm_tile_config_whole();
    fm_tile_configure(&config);
}

static void leave(void)
{
    fm_tile_release();
}

static void promote(const struct fm_gemm_block *block, int first, const float *partial)
{
    int rows = block->rows - first < 2 * TILE ? block->rows - first : 2 * TILE;
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < FM_GEMM_STRIP; v += LANES) {
            float *to = block->acc + (size_t)(first + r) * block->acc_stride + v;
            __m512 scale = _mm512_mul_ps(_mm512_set1_ps(block->a_scales[first + r]),
                                         _mm512_loadu_ps(block->b_scales + v));
            __m512 sum = _mm512_loadu_ps(partial + (size_t)r * FM_GEMM_STRIP + v);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(sum, scale, _mm512_loadu_ps(to)));
        }
}

// 32 rows from `first` on, or 16 where there are no more, added to sums that lie at `to`.
static void multiply_rows(const struct fm_gemm_tiles *tiles, int first, int both, int fresh, float *to,
                          size_t to_stride)
{
    const uint16_t *a_0 = tiles->a + (size_t)first * tiles->a_stride, *a_1 = a_0 + TILE * tiles->a_stride;
    const uint16_t *b_0 = tiles->b[0], *b_1 = tiles->b[1];
    const size_t a_bytes = tiles->a_stride * sizeof *a_0, to_bytes = to_stride * sizeof *to;
    float *to_1 = to + TILE * to_stride;
    if (fresh) {
        FM_TILE_ZERO(0);
        FM_TILE_ZERO(1);
        FM_TILE_ZERO(2);
        FM_TILE_ZERO(3);
    } else {
        FM_TILE_LOAD(0, to, to_bytes);
        FM_TILE_LOAD(1, to + TILE, to_bytes);
        if (both) {
            FM_TILE_LOAD(2, to_1, to_bytes);
            FM_TILE_LOAD(3, to_1 + TILE, to_bytes);
        }
    }
    for (int step = 0; step < tiles->block.steps; step++) {
        FM_TILE_LOAD(6, b_0 + (size_t)step * STEP_CODES, 64);
        FM_TILE_STREAM(4, a_0 + (size_t)step * FM_GEMM_STEP, a_bytes);
        FM_TILE_MULTIPLY(0, 4, 6);
        FM_TILE_LOAD(7, b_1 + (size_t)step * STEP_CODES, 64);
        FM_TILE_MULTIPLY(1, 4, 7);
        if (!both)
            continue;
        FM_TILE_STREAM(5, a_1 + (size_t)step * FM_GEMM_STEP, a_bytes);
        FM_TILE_MULTIPLY(2, 5, 6);
        FM_TILE_MULTIPLY(3, 5, 7);
    }
    FM_TILE_STORE(0, to, to_bytes);
    FM_TILE_STORE(1, to + TILE, to_bytes);
    if (both) {
        FM_TILE_STORE(2, to_1, to_bytes);
        FM_TILE_STORE(3, to_1 + TILE, to_bytes);
    }
}

// Promotion of rows is done while the next ones are multiplied, so that it has the vector units to itself.
static void multiply_tiles(const struct fm_gemm_tiles *tiles)
{
    const struct fm_gemm_block *block = &tiles->block;
    _Alignas(64) float partial[2][2 * TILE * FM_GEMM_STRIP];
    int side = 0;
    for (int row = 0; row < block->rows; row += 2 * TILE) {
        int left = block->rows - row, both = left > TILE;
        fm_gemm_block_prefetch(block, (size_t)row, (size_t)(left < 2 * TILE ? left : 2 * TILE));
        if (!block->a_scales) {
            multiply_rows(tiles, row, both, 0, block->acc + (size_t)row * block->acc_stride,
                          block->acc_stride);
            continue;
        }
        multiply_rows(tiles, row, both, 1, partial[side], FM_GEMM_STRIP);
        side = !side;
        if (row)
            promote(block, row - 2 * TILE, partial[side]);
    }
    if (block->a_scales && block->rows > 0)
        promote(block, (block->rows - 1) / (2 * TILE) * (2 * TILE), partial[!side]);
}

// f32 that BF16 holds exactly: their upper halves.
static void narrow_line(const float *from, int64_t count, uint16_t *out)
{
    for (int64_t i = 0; i < count; i += LANES) {
        __m512i bits = _mm512_srli_epi32(_mm512_loadu_si512(from + i), 16);
        _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtepi32_epi16(bits));
    }
}

static void narrow_strip(const float *strip, int64_t pairs, uint16_t *tiles[2])
{
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    for (int64_t pair = 0; pair < pairs; pair++)
        for (int half = 0; half < 2; half++) {
            const float *even = strip + 2 * pair * FM_GEMM_STRIP + (size_t)half * LANES;
            __m512i low = _mm512_srli_epi32(_mm512_loadu_si512(even), 16);
            __m512i odd = _mm512_and_si512(_mm512_loadu_si512(even + FM_GEMM_STRIP), high);
            _mm512_storeu_si512(tiles[half] + pair * 2 * LANES, _mm512_or_si512(low, odd));
        }
}

void fm_gemm_install_amx(struct fm_gemm_kernels *kernels)
{
    kernels->isa = FM_ISA_AMX;
    kernels->enter = enter;
    kernels->leave = leave;
    kernels->multiply_tiles = multiply_tiles;
    kernels->narrow_line = narrow_line;
    kernels->narrow_strip = narrow_strip;
}
