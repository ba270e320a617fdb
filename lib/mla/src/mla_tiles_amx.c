/*
 * Products of BF16 on tiles of 16 x 16 sums, two by two: two tiles of A, two of B and four sums, all eight that there
 * are. B is a strip of 32 columns that stays in the first-level cache while A streams past.
 */
#include "mla_private.h"

#include "mla_turn_avx512.h"

#include "fathom/kernel.h"
#include "fathom/tiles.h"

#include <immintrin.h>
#include <string.h>

enum { TILE = 16, LANES = 16, CODES = FM_MLA_TILE_CODES, LINE = 64 };

static void enter(void)
{
    struct fm_tile_config config = fm_tile_config_whole();
    fm_tile_configure(&config);
}

static void leave(void)
{
    fm_tile_release();
}

// Sums that the next two rows of tiles are added to.
FM_INLINE void ask_for_sums(const float *c, size_t stride, int step, int steps)
{
    enum { ROWS = 2 * TILE };
    for (int row = step * ROWS / steps; row < (step + 1) * ROWS / steps; row++) {
        _mm_prefetch((const char *)(c + (size_t)row * stride), _MM_HINT_T0);
        _mm_prefetch((const char *)(c + (size_t)row * stride + TILE), _MM_HINT_T0);
    }
}

// Rows of tiles from `row` on. The last step stores each sum as soon as it is complete: four stores in a row would wait
// for each other.
FM_INLINE void multiply_rows(const struct fm_mla_tile_product *product, int row, int two_rows,
                             int two_columns)
{
    const int steps = (product->depth + FM_MLA_STEP - 1) / FM_MLA_STEP;
    const size_t stride = product->c_stride, bytes = stride * sizeof(float);
    const uint8_t *a_0 = product->a[row / TILE], *a_1 = two_rows ? product->a[row / TILE + 1] : a_0;
    const size_t bytes_0 = product->a_bytes[row / TILE],
                 bytes_1 = two_rows ? product->a_bytes[row / TILE + 1] : bytes_0;
    const uint16_t *b = product->b;
    float *c_0 = product->c + (size_t)row * stride, *c_1 = c_0 + TILE * stride;
    const float *next = product->rows - row > 2 * TILE ? c_0 + 2 * TILE * stride : product->c_next;
    if (product->fresh) {
        FM_TILE_ZERO(0);
        FM_TILE_ZERO(1);
        FM_TILE_ZERO(2);
        FM_TILE_ZERO(3);
        next = NULL;
    } else {
        FM_TILE_LOAD(0, c_0, bytes);
        if (two_columns)
            FM_TILE_LOAD(1, c_0 + TILE, bytes);
        if (two_rows)
            FM_TILE_LOAD(2, c_1, bytes);
        if (two_rows && two_columns)
            FM_TILE_LOAD(3, c_1 + TILE, bytes);
    }
    for (int step = 0; step < steps; step++) {
        int last = step == steps - 1;
        FM_TILE_LOAD(6, b, LINE);
        FM_TILE_STREAM(4, a_0 + (size_t)step * LINE, bytes_0);
        FM_TILE_MULTIPLY(0, 4, 6);
        if (two_columns) {
            FM_TILE_LOAD(7, b + CODES, LINE);
            FM_TILE_MULTIPLY(1, 4, 7);
        }
        if (last)
            FM_TILE_STORE(0, c_0, bytes);
        if (two_rows) {
            FM_TILE_STREAM(5, a_1 + (size_t)step * LINE, bytes_1);
            FM_TILE_MULTIPLY(2, 5, 6);
        }
        if (last && two_columns)
            FM_TILE_STORE(1, c_0 + TILE, bytes);
        if (two_rows && two_columns)
            FM_TILE_MULTIPLY(3, 5, 7);
        if (last && two_rows)
            FM_TILE_STORE(2, c_1, bytes);
        b += two_columns ? 2 * CODES : CODES;
        if (next)
            ask_for_sums(next, stride, step, steps);
        if (product->ahead)
            fm_mla_ahead_ask(product->ahead, product->ahead_lines);
    }
    if (two_rows && two_columns)
        FM_TILE_STORE(3, c_1 + TILE, bytes);
}

// A branch for each shape, so that no step has any.
static void multiply(const struct fm_mla_tile_product *product)
{
    int wide = product->columns > TILE;
    for (int row = 0; row < product->rows; row += 2 * TILE) {
        int both = product->rows - row > TILE;
        if (both && wide)
            multiply_rows(product, row, 1, 1);
        else if (both)
            multiply_rows(product, row, 1, 0);
        else if (wide)
            multiply_rows(product, row, 0, 1);
        else
            multiply_rows(product, row, 0, 0);
    }
}

// Two vectors of f32 that BF16 holds exactly: their upper halves.
FM_INLINE __m512i upper_halves(__m512i low, __m512i high)
{
    const __m512i odd = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31,
                                         29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(low, odd, high);
}

// The upper halves of `even` as the low words, of `odd` as the high ones.
FM_INLINE __m512i paired(__m512i even, __m512i odd)
{
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    return _mm512_or_si512(_mm512_srli_epi32(even, 16), _mm512_and_si512(odd, high));
}

static void pack_columns(const float *lines, size_t stride, int depth, uint16_t *out, size_t out_step)
{
    for (int at = 0; at < depth; at += FM_MLA_STEP, out += out_step) {
        __m512i row[TILE], pair[TILE];
        FM_UNROLL for (size_t r = 0; r < TILE; r++)
        {
            const float *from = lines + r * stride + at;
            __m512i low = _mm512_loadu_si512(from);
            __m512i high = depth - at > LANES ? _mm512_loadu_si512(from + LANES) : _mm512_setzero_si512();
            row[r] = upper_halves(low, high);
        }
        fm_mla_turn(row, pair);
        FM_UNROLL for (size_t i = 0; i < TILE; i++) _mm512_storeu_si512(out + i * 2 * LANES, pair[i]);
    }
}

static void pack_lines(const float *lines, size_t stride, int rows, int depth, uint16_t *out, size_t out_line)
{
    for (int r = 0; r < rows; r++, lines += stride, out += out_line)
        for (int at = 0; at < depth; at += FM_MLA_STEP) {
            int left = depth - at;
            const __mmask16 low = left < LANES ? (__mmask16)((1U << left) - 1) : 0xFFFF;
            const __mmask16 high = left < LANES       ? 0
                                   : left < 2 * LANES ? (__mmask16)((1U << (left - LANES)) - 1)
                                                      : 0xFFFF;
            _mm512_storeu_si512(out + at, upper_halves(_mm512_maskz_loadu_epi32(low, lines + at),
                                                       _mm512_maskz_loadu_epi32(high, lines + at + LANES)));
        }
}

static void pack_pairs(const float *b, size_t stride, int depth, int columns, uint16_t *out)
{
    for (int at = 0; at < depth; at += FM_MLA_STEP)
        for (int half = 0; half < columns / TILE; half++)
            for (int i = at; i < at + FM_MLA_STEP; i += 2, out += 2 * LANES) {
                const float *from = b + (size_t)i * stride + (size_t)half * LANES;
                __m512i even = i < depth ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
                __m512i odd = i + 1 < depth ? _mm512_loadu_si512(from + stride) : _mm512_setzero_si512();
                _mm512_storeu_si512(out, paired(even, odd));
            }
}

static void pack_turned(const float *p, size_t stride, int count, uint16_t *out, size_t out_line)
{
    for (int at = 0; at < count; at += FM_MLA_STEP) {
        __m512i pair[TILE], row[TILE];
        FM_UNROLL for (int i = 0; i < TILE; i++)
        {
            const float *from = p + (size_t)(at + 2 * i) * stride;
            __m512i even = at + 2 * i < count ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
            __m512i odd = at + 2 * i + 1 < count ? _mm512_loadu_si512(from + stride) : _mm512_setzero_si512();
            pair[i] = paired(even, odd);
        }
        fm_mla_turn(pair, row);
        FM_UNROLL for (size_t r = 0; r < TILE; r++) _mm512_storeu_si512(out + r * out_line + at, row[r]);
    }
}

// 32 columns of a pair of rows; `half`: only 16 are there. NULL is a row of zeros.
FM_INLINE void interleave(const uint8_t *even, const uint8_t *odd, int half, uint16_t *out)
{
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7,
                                         38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    const __mmask16 there = half ? 0x00FF : 0xFFFF;
    __m512i x = even ? _mm512_maskz_loadu_epi32(there, even) : _mm512_setzero_si512();
    __m512i y = odd ? _mm512_maskz_loadu_epi32(there, odd) : _mm512_setzero_si512();
    _mm512_storeu_si512(out, _mm512_permutex2var_epi16(x, low, y));
    if (!half)
        _mm512_storeu_si512(out + CODES, _mm512_permutex2var_epi16(x, high, y));
}

static void pack_rows(const uint8_t *const *rows, int count, int columns, uint16_t *out, size_t out_strip,
                      struct fm_mla_ahead *ahead, int lines)
{
    for (int first = 0; first < count; first += FM_MLA_STEP)
        for (int column = 0; column < columns; column += FM_MLA_STRIP) {
            int half = columns - column < FM_MLA_STRIP;
            uint16_t *to = out + (size_t)(column / FM_MLA_STRIP) * out_strip +
                           (size_t)(first / FM_MLA_STEP) * (half ? 1 : 2) * CODES;
            fm_mla_ahead_ask(ahead, lines);
            for (int i = first; i < first + FM_MLA_STEP; i += 2, to += 2 * LANES)
                interleave(i < count ? rows[i] + (size_t)column * 2 : NULL,
                           i + 1 < count ? rows[i + 1] + (size_t)column * 2 : NULL, half, to);
        }
}

static int all_finite(const uint8_t *const *rows, int count, int columns)
{
    const __m512i exponent = _mm512_set1_epi16(0x7F80);
    __mmask32 found = 0;
    for (int r = 0; r < count; r++)
        for (int column = 0; column < columns; column += FM_MLA_STRIP) {
            __mmask16 there = columns - column < FM_MLA_STRIP ? 0x00FF : 0xFFFF;
            __m512i codes = _mm512_maskz_loadu_epi32(there, rows[r] + (size_t)column * 2);
            found |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(codes, exponent), exponent);
        }
    return !found;
}

void fm_mla_install_amx(struct fm_mla_kernels *kernels)
{
    kernels->isa = FM_ISA_AMX;
    kernels->tiles = (struct fm_mla_tile_kernels){
        .enter = enter,
        .leave = leave,
        .multiply = multiply,
        .pack_columns = pack_columns,
        .pack_lines = pack_lines,
        .pack_pairs = pack_pairs,
        .pack_turned = pack_turned,
        .pack_rows = pack_rows,
        .finite = all_finite,
    };
}
