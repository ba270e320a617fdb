#include "json_index.h"

#include <immintrin.h>

struct masks {
    uint64_t quote, backslash, bracket;
};

static inline uint64_t equal(__m256i low, __m256i high, char c)
{
    __m256i wanted = _mm256_set1_epi8(c);
    uint32_t bits_low = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, wanted));
    uint32_t bits_high = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, wanted));
    return bits_low | (uint64_t)bits_high << 32;
}

static inline struct masks classify(const char *text)
{
    __m256i low = _mm256_loadu_si256((const __m256i *)text);
    __m256i high = _mm256_loadu_si256((const __m256i *)(text + 32));
    // '[' and '{', and ']' and '}', differ in bit 5 alone.
    __m256i bit = _mm256_set1_epi8(0x20);
    __m256i low_braces = _mm256_or_si256(low, bit), high_braces = _mm256_or_si256(high, bit);
    return (struct masks){equal(low, high, '"'), equal(low, high, '\\'),
                          equal(low_braces, high_braces, '{') | equal(low_braces, high_braces, '}')};
}

size_t fm_trace_index_avx2(const char *text, size_t from, size_t length, struct fm_trace_index_state *state,
                           uint32_t *out)
{
    uint32_t *to = out;
    for (size_t i = from; i < length; i += 64) {
        uint64_t inside = length - i >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << (length - i)) - 1;
        struct masks masks = classify(text + i);
        uint64_t escaped = fm_trace_index_escapes(masks.backslash & inside, &state->escaped);
        uint64_t quote = masks.quote & inside & ~escaped;
        uint64_t in_string = fm_trace_index_parity(quote) ^ state->in_string;
        state->in_string = (uint64_t)((int64_t)in_string >> 63);
        uint64_t bits = quote | (masks.bracket & inside & ~in_string);
        // Eight at a time without a branch for each; what is written beyond the count is overwritten next.
        uint32_t *next = to + __builtin_popcountll(bits);
        while (bits) {
            for (int k = 0; k < 8; k++) {
                to[k] = (uint32_t)i + (uint32_t)__builtin_ctzll(bits | UINT64_C(1) << 63);
                bits &= bits - 1;
            }
            to += 8;
        }
        to = next;
        if (length - i <
            64) // a backslash at the very end escapes what follows the text, not what follows the block
            state->escaped = escaped >> (length - i) & 1;
    }
    return (size_t)(to - out);
}
