/* The structural index of a piece of JSON: where its quotes and brackets are. The reader walks the index instead of the
 * text, so that long strings and skipped values cost it nothing. */
#ifndef FM_TRACE_JSON_INDEX_H
#define FM_TRACE_JSON_INDEX_H

#include <stddef.h>
#include <stdint.h>

/* Where a piece stands relative to the text before it. Zero: outside strings. */
struct fm_trace_index_state {
    uint64_t in_string; /* all ones inside a string, else 0 */
    uint64_t escaped;   /* 1 when the next byte follows an odd run of backslashes */
};

/* Bytes that must be readable behind the text, and entries that the output must have room for beyond `length`. */
enum { FM_TRACE_INDEX_SLACK = 64 };

/**
 * Writes the offsets of all unescaped quotes, and of the brackets {}[] outside strings, that lie in text[from, length), in
 * order; returns how many. `out` has room for length - from + FM_TRACE_INDEX_SLACK entries, and `text` is readable for FM_TRACE_INDEX_SLACK bytes behind its
 * end. Backslashes count in and outside strings alike.
 */
typedef size_t (*fm_trace_index_kernel)(const char *text, size_t from, size_t length,
                                        struct fm_trace_index_state *state, uint32_t *out);

size_t fm_trace_index_ref(const char *text, size_t from, size_t length, struct fm_trace_index_state *state,
                          uint32_t *out);
size_t fm_trace_index_avx2(const char *text, size_t from, size_t length, struct fm_trace_index_state *state,
                           uint32_t *out);
size_t fm_trace_index_avx512(const char *text, size_t from, size_t length, struct fm_trace_index_state *state,
                             uint32_t *out);

/* The best kernel of this machine. */
fm_trace_index_kernel fm_trace_index_choose(void);

/* A mask of 64 bytes: bits of `backslash` that are themselves escaped do not escape. Returns the escaped bytes. */
static inline uint64_t fm_trace_index_escapes(uint64_t backslash, uint64_t *escaped_carry)
{
    if (backslash == 0) {
        uint64_t escaped = *escaped_carry;
        *escaped_carry = 0;
        return escaped;
    }
    // Runs of backslashes that start at an odd place carry into the place behind them when an addition is made of their
    // odd starts; the sum tells runs of odd and of even length apart (Langdale and Lemire, 2019).
    backslash &= ~*escaped_carry;
    uint64_t follows = backslash << 1 | *escaped_carry;
    const uint64_t even = 0x5555555555555555;
    uint64_t odd_starts = backslash & ~even & ~follows;
    uint64_t sequences;
    *escaped_carry = __builtin_add_overflow(odd_starts, backslash, &sequences);
    return (even ^ (sequences << 1)) & follows;
}

/* Bit i of the result is the parity of bits 0 to i: from quotes to what lies inside them. */
static inline uint64_t fm_trace_index_parity(uint64_t bits)
{
    for (int shift = 1; shift < 64; shift *= 2)
        bits ^= bits << shift;
    return bits;
}

#endif
