/*
 * What reads weights with AVX-512: rows that are so few that codes are converted in registers and never stored, and the
 * unpacking of E4M3. Included twice, without and with AVX512_VBMI and GFNI.
 */
#include "gemm_private.h"

#include <immintrin.h>

#include "fathom/kernel.h"

enum { LANES = 16 };

// 64 bytes of codes as f32: vector 2 p + h has k number h of pair p.
struct quad {
    __m512 at[4];
};

// Of each row, over a step.
struct chains {
    __m512 even[FM_GEMM_FEW], odd[FM_GEMM_FEW];
};

// A lane of 32 bits is a column's pair: the even k in the low half, which a shift makes f32, the odd one in the high.
FM_INLINE __m512 even_of(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}

FM_INLINE __m512 odd_of(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xFFFF0000)));
}

#if defined(__AVX512VBMI__) && defined(__GFNI__)
#define HAS_MATRICES 1

// The bytes of the bf16 that each of 128 codes is, without sign: exact, subnormals and NaN too. From 8 on a code's bits
// are those of the bf16's exponent, less 120, and mantissa.
#define BF16_OF(code) (((code) << 4) + (120 << 7))
#define OF_EIGHT(byte, code)                                                                              \
    byte(BF16_OF(code)), byte(BF16_OF((code) + 1)), byte(BF16_OF((code) + 2)), byte(BF16_OF((code) + 3)), \
        byte(BF16_OF((code) + 4)), byte(BF16_OF((code) + 5)), byte(BF16_OF((code) + 6)),                  \
        byte(BF16_OF((code) + 7))
#define OF_ALL(byte)                                                                                     \
    {                                                                                                    \
        byte(0), byte(0x3B00), byte(0x3B80), byte(0x3BC0), byte(0x3C00), byte(0x3C20), byte(0x3C40),     \
            byte(0x3C60), OF_EIGHT(byte, 8), OF_EIGHT(byte, 16), OF_EIGHT(byte, 24), OF_EIGHT(byte, 32), \
            OF_EIGHT(byte, 40), OF_EIGHT(byte, 48), OF_EIGHT(byte, 56), OF_EIGHT(byte, 64),              \
            OF_EIGHT(byte, 72), OF_EIGHT(byte, 80), OF_EIGHT(byte, 88), OF_EIGHT(byte, 96),              \
            OF_EIGHT(byte, 104), OF_EIGHT(byte, 112), byte(BF16_OF(120)), byte(BF16_OF(121)),            \
            byte(BF16_OF(122)), byte(BF16_OF(123)), byte(BF16_OF(124)), byte(BF16_OF(125)),              \
            byte(BF16_OF(126)), byte(0x7FF0)                                                             \
    }
#define LOW_BYTE(bits)  ((bits)&0xFF)
#define HIGH_BYTE(bits) ((bits) >> 8)

static const _Alignas(FM_CACHE_LINE) uint8_t low_bytes[128] = OF_ALL(LOW_BYTE);
static const _Alignas(FM_CACHE_LINE) uint8_t high_bytes[128] = OF_ALL(HIGH_BYTE);

struct tables {
    __m512i low[2], high[2];
};

FM_INLINE struct tables tables_make(void)
{
    struct tables tables;
    for (int half = 0; half < 2; half++) {
        tables.low[half] = _mm512_load_si512(low_bytes + (size_t)64 * half);
        tables.high[half] = _mm512_load_si512(high_bytes + (size_t)64 * half);
    }
    return tables;
}

// As BF16, pairs of k side by side: what a row of a tile is.
FM_INLINE void decode_pairs(__m512i codes, const struct tables *tables, __m512i *pair_0, __m512i *pair_1)
{
    __m512i low = _mm512_permutex2var_epi8(tables->low[0], codes, tables->low[1]);
    __m512i high = _mm512_permutex2var_epi8(tables->high[0], codes, tables->high[1]);
    // high | (codes & 0x80)
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), 0xF8);
    *pair_0 = _mm512_unpacklo_epi8(low, high);
    *pair_1 = _mm512_unpackhi_epi8(low, high);
}

FM_INLINE struct quad decode(__m512i codes, const struct tables *tables)
{
    __m512i pair_0, pair_1;
    decode_pairs(codes, tables, &pair_0, &pair_1);
    return (struct quad){{even_of(pair_0), odd_of(pair_0), even_of(pair_1), odd_of(pair_1)}};
}

// Codes that are neither subnormal nor NaN become BF16 by bit matrices, in fewer instructions than by tables; a zero
// counts as subnormal. Output bit i is the parity of the code and byte 7 - i of a matrix: the low byte has the last four
// bits on top; the high one has the sign, the next bit, four times its complement, and the two bits below.
#define LOW_MATRIX  0x0000000001020408
#define HIGH_MATRIX 0x1020404040404080
#define HIGH_ADDEND 0x3C

// Twice a code, so that the sign is gone, and 2: subnormals become 2 to 16, NaN 0. The least of some codes tells whether
// the matrices serve them all.
enum { LEAST_NORMAL = 2 * 8 + 2 };

FM_INLINE struct quad decode_normal(__m512i codes, __m512i *least)
{
    __m512i twice = _mm512_add_epi8(_mm512_add_epi8(codes, codes), _mm512_set1_epi8(2));
    *least = _mm512_min_epu8(*least, twice);
    __m512i low = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(LOW_MATRIX), 0);
    __m512i high = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(HIGH_MATRIX), HIGH_ADDEND);
    __m512i pair_0 = _mm512_unpacklo_epi8(low, high), pair_1 = _mm512_unpackhi_epi8(low, high);
    return (struct quad){{even_of(pair_0), odd_of(pair_0), even_of(pair_1), odd_of(pair_1)}};
}

FM_INLINE int all_normal(__m512i least)
{
    return _mm512_cmplt_epu8_mask(least, _mm512_set1_epi8(LEAST_NORMAL)) == 0;
}

static void unpack_pairs(const uint8_t *panel, int64_t pairs, uint16_t *out)
{
    struct tables tables = tables_make();
    for (int64_t pair = 0; pair < pairs; pair += 2) {
        __m512i pair_0, pair_1;
        decode_pairs(_mm512_loadu_si512(panel + pair * 32), &tables, &pair_0, &pair_1);
        _mm512_storeu_si512(out + pair * 32, pair_0);
        _mm512_storeu_si512(out + pair * 32 + 32, pair_1);
    }
}

#else
#define HAS_MATRICES 0

struct tables {
    char none;
};

FM_INLINE struct tables tables_make(void)
{
    return (struct tables){0};
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

// VCVTPH2PS takes fp16 subnormals as they are whatever DAZ says.
FM_INLINE __m512 wide(__m256i half)
{
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256));
}

FM_INLINE struct quad decode(__m512i codes, const struct tables *tables)
{
    (void)tables;
    codes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), codes); // pair after pair
    __m512i even = halves(_mm512_slli_epi16(codes, 8)), odd = halves(codes);
    return (struct quad){{wide(_mm512_castsi512_si256(even)), wide(_mm512_castsi512_si256(odd)),
                          wide(_mm512_extracti64x4_epi64(even, 1)), wide(_mm512_extracti64x4_epi64(odd, 1))}};
}

// No bit matrices here.
FM_INLINE struct quad decode_normal(__m512i codes, __m512i *least)
{
    (void)least;
    return decode(codes, NULL);
}

FM_INLINE int all_normal(__m512i least)
{
    (void)least;
    return 1;
}

#endif

static void unpack_e4m3(const uint8_t *panel, int64_t pairs, float *out)
{
    struct tables tables = tables_make();
    for (int64_t pair = 0; pair < pairs; pair += 2) {
        struct quad quad = decode(_mm512_loadu_si512(panel + pair * 32), &tables);
        FM_UNROLL for (int i = 0; i < 4; i++)
        {
            _mm512_storeu_ps(out + (2 * pair + i) * FM_GEMM_STRIP, quad.at[i]);
        }
    }
}

// 64 bytes of a panel, of 4 k in E4M3 and of 2 in BF16, added to the chains of e and o.
FM_INLINE void add_products(struct quad quad, int is_bf16, const float *a, size_t a_stride, int rows,
                            struct chains *chains)
{
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        const float *row = a + (size_t)r * a_stride;
        chains->even[r] = _mm512_fmadd_ps(_mm512_set1_ps(row[0]), quad.at[0], chains->even[r]);
        chains->odd[r] = _mm512_fmadd_ps(_mm512_set1_ps(row[1]), quad.at[1], chains->odd[r]);
    }
    if (is_bf16)
        return;
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        const float *row = a + (size_t)r * a_stride;
        chains->even[r] = _mm512_fmadd_ps(_mm512_set1_ps(row[2]), quad.at[2], chains->even[r]);
        chains->odd[r] = _mm512_fmadd_ps(_mm512_set1_ps(row[3]), quad.at[3], chains->odd[r]);
    }
}

enum how { FROM_BF16, BY_TABLES, BY_MATRICES };

// A step of a panel. False: matrices do not serve its codes, and the chains are worth nothing.
FM_INLINE int add_step(enum how how, const uint8_t *codes, const uint8_t *ahead, const struct tables *tables,
                       const float *a, size_t a_stride, int rows, struct chains *chains)
{
    const int is_bf16 = how == FROM_BF16;
    const int lines = is_bf16 ? 16 : 8; // cache lines
    const int k_of_line = is_bf16 ? 2 : 4;
    __m512i least = _mm512_set1_epi8(-1);
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        chains->even[r] = _mm512_setzero_ps();
        chains->odd[r] = _mm512_setzero_ps();
    }
    for (int line = 0; line < lines; line++) {
        __m512i bytes = _mm512_loadu_si512(codes + (size_t)line * FM_CACHE_LINE);
        _mm_prefetch((const char *)ahead + (size_t)line * FM_CACHE_LINE, _MM_HINT_T0);
        struct quad quad;
        if (is_bf16) {
            quad.at[0] = even_of(bytes);
            quad.at[1] = odd_of(bytes);
        } else {
            quad = how == BY_TABLES ? decode(bytes, tables) : decode_normal(bytes, &least);
        }
        add_products(quad, is_bf16, a + (size_t)line * (size_t)k_of_line, a_stride, rows, chains);
    }
    return how != BY_MATRICES || all_normal(least);
}

// What to ask for while a panel is multiplied: the block of the panel that comes half a round later, so that as much is under
// way as memory takes to answer, and little of it waits in the first-level cache.
FM_INLINE const uint8_t *asked_for(const struct fm_gemm_few *few, int number, int is_bf16)
{
    const int block_bytes = is_bf16 ? 4096 : 2048;
    int later = number + FM_GEMM_STREAMS / 2;
    if (later < few->count)
        return few->panels[later];
    return few->panels[later - few->count < few->count ? later - few->count : number] + block_bytes;
}

// Matrices are tried as long as they have failed at less than an eighth of the steps: codes that are of all sizes, as no
// quantised weights are, then cost little more than tables alone.
struct tries {
    int steps, failed;
};

FM_INLINE void add_codes(const uint8_t *codes, const uint8_t *ahead, const struct tables *tables,
                         const float *a, size_t a_stride, int rows, struct chains *chains,
                         struct tries *tries)
{
    int tried = HAS_MATRICES && 8 * tries->failed <= tries->steps++;
    if (tried && add_step(BY_MATRICES, codes, ahead, tables, a, a_stride, rows, chains))
        return;
    tries->failed += tried;
    add_step(BY_TABLES, codes, ahead, tables, a, a_stride, rows, chains);
}

// A block of one panel. Folded sums are those of codes, times a power of two step by step, which is exact: they are
// what codes times scales would sum up to.
FM_INLINE void few_panel(const struct fm_gemm_few *few, int number, int rows, int is_bf16,
                         struct tries *tries)
{
    const size_t step_bytes = is_bf16 ? 1024 : 512;
    const uint8_t *codes = few->panels[number], *ahead = asked_for(few, number, is_bf16);
    float *acc = few->acc + few->columns[number];
    struct tables tables = tables_make();
    __m512 sum[FM_GEMM_FEW], scale[FM_GEMM_FEW];
    int promoted = !is_bf16 && !few->folds;
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        sum[r] = promoted ? _mm512_setzero_ps() : _mm512_loadu_ps(acc + (size_t)r * few->acc_stride);
        if (!is_bf16)
            scale[r] = _mm512_mul_ps(_mm512_set1_ps(few->a_scales[r]),
                                     _mm512_loadu_ps(few->b_scales + (size_t)number * LANES));
    }
    for (int step = 0; step < few->steps; step++, codes += step_bytes, ahead += step_bytes) {
        struct chains chains;
        const float *a = few->a + (size_t)step * FM_GEMM_STEP;
        if (is_bf16)
            add_step(FROM_BF16, codes, ahead, &tables, a, few->a_stride, rows, &chains);
        else
            add_codes(codes, ahead, &tables, a, few->a_stride, rows, &chains, tries);
        FM_UNROLL for (int r = 0; r < rows; r++)
        {
            __m512 both = _mm512_add_ps(chains.even[r], chains.odd[r]);
            sum[r] = !is_bf16 && few->folds ? _mm512_fmadd_ps(both, scale[r], sum[r])
                                            : _mm512_add_ps(sum[r], both);
        }
    }
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        float *to = acc + (size_t)r * few->acc_stride;
        _mm512_storeu_ps(to, promoted ? _mm512_fmadd_ps(sum[r], scale[r], _mm512_loadu_ps(to)) : sum[r]);
    }
}

#define FEW_CASE(n)                                         \
    case n:                                                 \
        for (int number = 0; number < few->count; number++) \
            few_panel(few, number, n, is_bf16, &tries);     \
        break

FM_INLINE void few_rows(const struct fm_gemm_few *few, int is_bf16)
{
    struct tries tries = {0};
    switch (few->rows) {
        FEW_CASE(1);
        FEW_CASE(2);
        FEW_CASE(3);
        FEW_CASE(4);
        FEW_CASE(5);
        FEW_CASE(6);
        FEW_CASE(7);
        FEW_CASE(8);
    default:
        break;
    }
}

static void few_bf16(const struct fm_gemm_few *few)
{
    few_rows(few, 1);
}

static void few_e4m3(const struct fm_gemm_few *few)
{
    few_rows(few, 0);
}
