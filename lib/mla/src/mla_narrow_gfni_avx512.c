/* E4M3 to BF16 for CPUs with GFNI: two products of bit matrices make both bytes of 64 codes at once. */
#include "mla_private.h"

#include "fathom/kernel.h"
#include "fathom/numfmt.h"

#include <immintrin.h>

enum { CODES = 64, WORDS = 32 };

// Output bit i of each byte is the parity of its bits that byte 7 - i of the matrix selects. Of a code s eeee mmm the high
// byte becomes s000 0eee, the low one e mmm 0000.
enum { SIGN = 0x80, E3 = 0x40, E2 = 0x20, E1 = 0x10, E0 = 0x08, M2 = 0x04, M1 = 0x02, M0 = 0x01 };
#define ROWS(b7, b6, b5, b4, b3, b2, b1, b0)                                                         \
    _mm512_set1_epi64((int64_t)((uint64_t)(b0) << 56 | (uint64_t)(b1) << 48 | (uint64_t)(b2) << 40 | \
                                (uint64_t)(b3) << 32 | (uint64_t)(b4) << 24 | (uint64_t)(b5) << 16 | \
                                (uint64_t)(b6) << 8 | (uint64_t)(b7)))

// Whether all 64 codes are numbers and normal: then exponents can be moved. An increment brings the NaN to 0.
FM_INLINE int all_normal(__m512i codes)
{
    __m512i index = _mm512_and_si512(_mm512_add_epi8(codes, _mm512_set1_epi8(1)), _mm512_set1_epi8(0x7F));
    return !_mm512_cmple_epu8_mask(index, _mm512_set1_epi8(8));
}

void fm_mla_narrow_e4m3_gfni(const uint8_t *codes, size_t n, float scale, uint16_t *out)
{
    enum { LEAST = -100, MOST = 100 }; // powers that leave all values within BF16's normal numbers
    const __m512i to_high = ROWS(SIGN, 0, 0, 0, 0, E3, E2, E1), to_low = ROWS(E0, M2, M1, M0, 0, 0, 0, 0);
    const __m512i quarters =
        _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7); // so that lanes interleave to the given order
    const uint32_t bits = fm_f32_bits(scale);
    const int power = (int)(bits >> 23) - 127;
    size_t i = 0;
    if ((bits & 0x7FFFFF) == 0 && power >= LEAST && power <= MOST) {
        const __m512i offset = _mm512_set1_epi16((short)((120 + power) * 128));
        for (; i + CODES <= n; i += CODES) {
            __m512i x = _mm512_loadu_si512(codes + i);
            if (!all_normal(x)) {
                fm_mla_narrow_e4m3_avx512(codes + i, CODES, scale, out + i);
                continue;
            }
            x = _mm512_permutexvar_epi64(quarters, x);
            __m512i high = _mm512_gf2p8affine_epi64_epi8(x, to_high, 0);
            __m512i low = _mm512_gf2p8affine_epi64_epi8(x, to_low, 0);
            _mm512_storeu_si512(out + i, _mm512_add_epi16(_mm512_unpacklo_epi8(low, high), offset));
            _mm512_storeu_si512(out + i + WORDS, _mm512_add_epi16(_mm512_unpackhi_epi8(low, high), offset));
        }
    }
    if (i < n)
        fm_mla_narrow_e4m3_avx512(codes + i, n - i, scale, out + i);
}
