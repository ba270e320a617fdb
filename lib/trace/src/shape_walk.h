/*
 * The walk over a tree of shapes, the same for all instruction sets. Who includes this defines before
 *
 *     int literal_is_at(const struct fm_trace_shape *shape, const char *text): whether the shape's text stands here;
 *     const char *string_end(const char *text, const char *end): the first quote or backslash at or behind `text`, or some
 *                                                                 place at or behind `end`;
 *     const char *brackets_end(const char *text, const char *end): behind the bracket that closes the one before `text`; NULL
 *                                                                   when there is none, or a backslash on the way or soon
 *                                                                   behind.
 */
#include "json_number.h"
#include "shape.h"

/* Behind a number or word; where it began when there is none. */
FM_TRACE_INLINE const char *scalar_end(const char *p)
{
    uint64_t others = fm_trace_other_digits(fm_trace_key_of(p, 8));
    p += others ? __builtin_ctzll(others) >> 3 : 8;
    while (__builtin_expect(fm_trace_is_scalar(*p), 0))
        p++;
    return p;
}

/* The shape among `*level` and its others whose text stands at `p`; it becomes the first of them. */
FM_TRACE_INLINE struct fm_trace_shape *find_shape(struct fm_trace_shape **level, const char *p)
{
    struct fm_trace_shape *shape = *level, **link = level;
    for (; shape; link = &shape->other, shape = *link)
        if (literal_is_at(shape, p)) {
            if (link != level) {
                *link = shape->other;
                shape->other = *level;
                *level = shape;
            }
            return shape;
        }
    return NULL;
}

/* A whole number; NULL when it is something else, which the decoder knows what to do with. */
FM_TRACE_INLINE const char *take_whole(const char *p, int64_t *out_value)
{
    return fm_trace_take_integer(p, out_value, &p) == 0 ? p : NULL;
}

FM_TRACE_INLINE const char *take_factor(const char *p, int64_t so_far, int64_t *out_product)
{
    int64_t factor;
    if (fm_trace_take_integer(p, &factor, &p) < 0 || factor < 0)
        return NULL;
    *out_product = fm_trace_product(so_far, factor);
    return p;
}

/* The value behind a shape's text. Returns the first byte behind it, or NULL. */
FM_TRACE_INLINE const char *take_value(const struct fm_trace_shape *shape, const char *p, const char *end,
                                       struct fm_trace_event *event)
{
    const char *q;
    switch (shape->kind) {
    case FM_TRACE_SHAPE_NAME:
        q = string_end(p, end);
        event->name = (struct fm_trace_span){p, (uint32_t)(q - p), 1};
        return q;
    case FM_TRACE_SHAPE_STRING:
        return string_end(p, end);
    case FM_TRACE_SHAPE_BRACKETS:
        return brackets_end(p, end);
    case FM_TRACE_SHAPE_ID_STRING:
        q = string_end(p, end);
        event->id = (struct fm_trace_span){p, (uint32_t)(q - p), 1};
        return q;
    case FM_TRACE_SHAPE_ID_NUMBER:
        q = scalar_end(p);
        event->id = (struct fm_trace_span){p, (uint32_t)(q - p), 0};
        return q > p ? q : NULL;
    case FM_TRACE_SHAPE_SCALAR:
        q = scalar_end(p);
        return q > p ? q : NULL;
    case FM_TRACE_SHAPE_TIME:
        event->has_ts = 1;
        return fm_trace_take_microseconds(p, &event->ts_ns, &p) == 0 ? p : NULL;
    case FM_TRACE_SHAPE_DURATION:
        event->has_duration = 1;
        return fm_trace_take_microseconds(p, &event->duration_ns, &p) == 0 ? p : NULL;
    case FM_TRACE_SHAPE_CORRELATION:
        return take_whole(p, &event->correlation);
    case FM_TRACE_SHAPE_STREAM:
        event->has_stream = 1;
        return take_whole(p, &event->stream);
    case FM_TRACE_SHAPE_DEVICE:
        event->has_device = 1;
        return take_whole(p, &event->device);
    case FM_TRACE_SHAPE_BYTES:
        return take_whole(p, &event->bytes);
    case FM_TRACE_SHAPE_FIRST_BLOCKS:
        return take_factor(p, 1, &event->blocks);
    case FM_TRACE_SHAPE_MORE_BLOCKS:
        return take_factor(p, event->blocks, &event->blocks);
    case FM_TRACE_SHAPE_FIRST_THREADS:
        return take_factor(p, 1, &event->threads);
    case FM_TRACE_SHAPE_MORE_THREADS:
        return take_factor(p, event->threads, &event->threads);
    case FM_TRACE_SHAPE_ARGS:
        event->args = (struct fm_trace_span){p, 0, 0};
        return p;
    case FM_TRACE_SHAPE_ARGS_END:
        event->args.length = (uint32_t)(p - event->args.bytes);
        return p;
    default:
        return p;
    }
}

static inline const char *walk(struct fm_trace_shapes *shapes, const char *p, const char *end,
                               struct fm_trace_event *event, const struct fm_trace_shape **out_end)
{
    struct fm_trace_shape **level = &shapes->first;
    memset(event, 0, sizeof *event);
    for (;;) {
        struct fm_trace_shape *shape = find_shape(level, p);
        if (!shape)
            return NULL;
        p += shape->length;
        if (shape->kind == FM_TRACE_SHAPE_END) {
            *out_end = shape;
            return p;
        }
        p = take_value(shape, p, end, event);
        if (!p || p >= end)
            return NULL;
        level = &shape->then;
    }
}
