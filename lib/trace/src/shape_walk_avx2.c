#include "shape.h"

#include <immintrin.h>

/* A bit for each byte of 64 that is the same in both. */
static inline uint64_t same(const char *a, const char *b)
{
    __m256i low =
        _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)a), _mm256_loadu_si256((const __m256i *)b));
    __m256i high = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(a + 32)),
                                     _mm256_loadu_si256((const __m256i *)(b + 32)));
    return (uint32_t)_mm256_movemask_epi8(low) | (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32;
}

static inline int literal_is_at(const struct fm_trace_shape *shape, const char *text)
{
    return (shape->present & ~same(shape->literal, text)) == 0;
}

static inline const char *string_end(const char *text, const char *end)
{
    const __m256i quote = _mm256_set1_epi8('"'), backslash = _mm256_set1_epi8('\\');
    for (; text < end; text += 32) {
        __m256i bytes = _mm256_loadu_si256((const __m256i *)text);
        __m256i found = _mm256_or_si256(_mm256_cmpeq_epi8(bytes, quote), _mm256_cmpeq_epi8(bytes, backslash));
        uint32_t bits = (uint32_t)_mm256_movemask_epi8(found);
        if (bits)
            return text + __builtin_ctz(bits);
    }
    return text;
}

struct marks {
    uint64_t quote, backslash, open, close;
};

static inline uint64_t equal(__m256i low, __m256i high, char c)
{
    __m256i wanted = _mm256_set1_epi8(c);
    uint32_t bits_low = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, wanted));
    uint32_t bits_high = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, wanted));
    return bits_low | (uint64_t)bits_high << 32;
}

static inline struct marks marks_of(const char *text)
{
    __m256i low = _mm256_loadu_si256((const __m256i *)text);
    __m256i high = _mm256_loadu_si256((const __m256i *)(text + 32));
    // '[' and '{', and ']' and '}', differ in bit 5 alone.
    __m256i bit = _mm256_set1_epi8(0x20);
    __m256i low_braces = _mm256_or_si256(low, bit), high_braces = _mm256_or_si256(high, bit);
    return (struct marks){equal(low, high, '"'), equal(low, high, '\\'), equal(low_braces, high_braces, '{'),
                          equal(low_braces, high_braces, '}')};
}

#include "shape_brackets.h"
#include "shape_walk.h"

const char *fm_trace_shape_walk_avx2(struct fm_trace_shapes *shapes, const char *text, const char *end,
                                     struct fm_trace_event *out_event, const struct fm_trace_shape **out_end)
{
    return walk(shapes, text, end, out_event, out_end);
}
