#include "shape.h"

#include <string.h>

static inline int literal_is_at(const struct fm_trace_shape *shape, const char *text)
{
    return memcmp(shape->literal, text, shape->length) == 0;
}

static inline const char *string_end(const char *text, const char *end)
{
    while (text < end && *text != '"' && *text != '\\')
        text++;
    return text;
}

static inline const char *brackets_end(const char *text, const char *end)
{
    int depth = 1, in_string = 0;
    for (; text < end && *text != '\\'; text++) {
        in_string ^= *text == '"';
        if (in_string)
            continue;
        depth += (*text == '{' || *text == '[') - (*text == '}' || *text == ']');
        if (depth == 0)
            return text + 1;
    }
    return NULL;
}

#include "shape_walk.h"

const char *fm_trace_shape_walk_ref(struct fm_trace_shapes *shapes, const char *text, const char *end,
                                    struct fm_trace_event *out_event, const struct fm_trace_shape **out_end)
{
    return walk(shapes, text, end, out_event, out_end);
}
