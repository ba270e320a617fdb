#include "json_index.h"

#include <immintrin.h>

static inline uint32_t *store_positions(uint32_t *to, uint64_t bits, __m512i base)
{
    const __m512i step = _mm512_set1_epi32(16);
    for (int k = 0; k < 4; k++) {
        __mmask16 lanes = (__mmask16)(bits >> (16 * k));
        _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(lanes, base));
        to += __builtin_popcount(lanes);
        base = _mm512_add_epi32(base, step);
    }
    return to;
}

size_t fm_trace_index_avx512(const char *text, size_t from, size_t length, struct fm_trace_index_state *state,
                             uint32_t *out)
{
    uint32_t *to = out;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (size_t i = from; i < length; i += 64) {
        uint64_t inside = length - i >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << (length - i)) - 1;
        __m512i bytes = _mm512_maskz_loadu_epi8(inside, text + i);
        uint64_t backslash = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\\'));
        uint64_t escaped = fm_trace_index_escapes(backslash, &state->escaped);
        uint64_t quote = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('"')) & ~escaped;
        // '[' and '{', and ']' and '}', differ in bit 5 alone.
        __m512i braces = _mm512_or_si512(bytes, _mm512_set1_epi8(0x20));
        uint64_t bracket = _mm512_cmpeq_epi8_mask(braces, _mm512_set1_epi8('{')) |
                           _mm512_cmpeq_epi8_mask(braces, _mm512_set1_epi8('}'));
        uint64_t in_string = fm_trace_index_parity(quote) ^ state->in_string;
        state->in_string = (uint64_t)((int64_t)in_string >> 63);
        __m512i base = _mm512_add_epi32(lanes, _mm512_set1_epi32((int)i));
        to = store_positions(to, quote | (bracket & ~in_string), base);
        if (length - i <
            64) // a backslash at the very end escapes what follows the text, not what follows the block
            state->escaped = escaped >> (length - i) & 1;
    }
    return (size_t)(to - out);
}
