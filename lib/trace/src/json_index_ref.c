#include "json_index.h"

size_t fm_trace_index_ref(const char *text, size_t from, size_t length, struct fm_trace_index_state *state,
                          uint32_t *out)
{
    size_t count = 0;
    uint64_t in_string = state->in_string, escaped = state->escaped;
    for (size_t i = from; i < length; i++) {
        char c = text[i];
        if (c == '"' && !escaped) {
            out[count++] = (uint32_t)i;
            in_string = ~in_string;
        } else if ((c == '{' || c == '}' || c == '[' || c == ']') && !in_string) {
            out[count++] = (uint32_t)i;
        }
        escaped = c == '\\' && !escaped;
    }
    state->in_string = in_string;
    state->escaped = escaped;
    return count;
}
