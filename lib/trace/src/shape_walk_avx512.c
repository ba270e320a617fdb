#include "shape.h"

#include <immintrin.h>

static inline int literal_is_at(const struct fm_trace_shape *shape, const char *text)
{
    return _mm512_mask_cmpneq_epi8_mask(shape->present, _mm512_loadu_si512(text),
                                        _mm512_loadu_si512(shape->literal)) == 0;
}

static inline const char *string_end(const char *text, const char *end)
{
    for (; text < end; text += 64) {
        __m512i bytes = _mm512_loadu_si512(text);
        uint64_t bits = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('"')) |
                        _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\\'));
        if (bits)
            return text + __builtin_ctzll(bits);
    }
    return text;
}

struct marks {
    uint64_t quote, backslash, open, close;
};

static inline struct marks marks_of(const char *text)
{
    __m512i bytes = _mm512_loadu_si512(text);
    // '[' and '{', and ']' and '}', differ in bit 5 alone.
    __m512i braces = _mm512_or_si512(bytes, _mm512_set1_epi8(0x20));
    return (struct marks){_mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('"')),
                          _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\\')),
                          _mm512_cmpeq_epi8_mask(braces, _mm512_set1_epi8('{')),
                          _mm512_cmpeq_epi8_mask(braces, _mm512_set1_epi8('}'))};
}

#include "shape_brackets.h"
#include "shape_walk.h"

const char *fm_trace_shape_walk_avx512(struct fm_trace_shapes *shapes, const char *text, const char *end,
                                       struct fm_trace_event *out_event,
                                       const struct fm_trace_shape **out_end)
{
    return walk(shapes, text, end, out_event, out_end);
}
