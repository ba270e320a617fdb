/*
 * Where brackets close, 64 bytes at a time. Who includes this defines before
 *
 *     struct marks marks_of(const char *text): where there are quotes, backslashes and brackets, a bit for each of 64 bytes.
 */
#include "json_index.h"

static inline const char *brackets_end(const char *text, const char *end)
{
    uint64_t in_string = 0;
    int depth = 1;
    for (; text < end; text += 64) {
        struct marks marks = marks_of(text);
        if (marks.backslash)
            return NULL;
        uint64_t inside = fm_trace_index_parity(marks.quote) ^ in_string;
        in_string = (uint64_t)((int64_t)inside >> 63);
        marks.open &= ~inside;
        marks.close &= ~inside;
        // Only where as many close as are open the last one may.
        int closed = 0;
        if (__builtin_popcountll(marks.close) >= depth)
            for (uint64_t left = marks.close; left; left &= left - 1) {
                int at = __builtin_ctzll(left);
                closed++;
                if (depth + __builtin_popcountll(marks.open & ((UINT64_C(1) << at) - 1)) == closed)
                    return text + at + 1;
            }
        depth += __builtin_popcountll(marks.open) - __builtin_popcountll(marks.close);
    }
    return NULL;
}
