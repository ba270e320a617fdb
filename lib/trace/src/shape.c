#include "shape.h"

#include <string.h>

#include "fathom/cpu.h"
#include "fathom/mem.h"
#include "json_number.h"

enum {
    SHAPES_MAX = 1024,   // 104 KiB; those of a profile are some dozens, which stay in the first-level cache
    OTHERS_MAX = 64,     // at one place: to try more takes as long as to decode the event
    TOKENS_MAX = 96,     // texts of an event; one with more is of a shape of its own
    GAP_MAX = 16,        // bytes between two events, some white space and a comma
    TRIES = 4096,        // after which it is judged whether shapes are worth their tries,
    PAUSE_EVENTS = 65536 // and for how long they are left alone when they are not
};

fm_trace_shape_kernel fm_trace_shape_choose(void)
{
#if defined(__x86_64__)
    fm_isa isa = fm_base_cpu_isa(FM_ISA_AVX512);
    if (isa == FM_ISA_AVX512)
        return fm_trace_shape_walk_avx512;
    if (isa == FM_ISA_AVX2)
        return fm_trace_shape_walk_avx2;
#endif
    return fm_trace_shape_walk_ref;
}

int fm_trace_shapes_try(struct fm_trace_shapes *shapes)
{
    if (shapes->pause) {
        shapes->pause--;
        return 0;
    }
    if (++shapes->tried == TRIES) {
        shapes->pause = shapes->met < TRIES / 2 ? PAUSE_EVENTS : 0;
        shapes->tried = shapes->met = 0;
    }
    return 1;
}

/* An event in pieces: texts with what stands behind each. */
struct lesson {
    const char *p, *end;
    const char *literal;        // where the text at hand began
    struct fm_trace_event seen; // its category, as far as the decoder knows it at this place
    int keep_args;
    int count;
    struct {
        const char *at;
        size_t length;
        enum fm_trace_shape_kind kind;
    } tokens[TOKENS_MAX];
};

/* Beside the kinds of values: the value is text of the shape, the same in all its events; it makes the event no shape. */
enum { FIXED = -1, REFUSED = -2 };

/* Ends the text at hand here. */
static int cut(struct lesson *lesson, enum fm_trace_shape_kind kind)
{
    size_t length = (size_t)(lesson->p - lesson->literal);
    // A byte of 0 may be where the text ends: no text of a shape may run on behind it.
    if (lesson->count == TOKENS_MAX || memchr(lesson->literal, 0, length))
        return 0;
    lesson->tokens[lesson->count].at = lesson->literal;
    lesson->tokens[lesson->count].length = length;
    lesson->tokens[lesson->count++].kind = kind;
    return 1;
}

static void skip_space(struct lesson *lesson)
{
    while (lesson->p < lesson->end && fm_trace_is_space(*lesson->p))
        lesson->p++;
}

static int take_char(struct lesson *lesson, char c)
{
    if (lesson->p >= lesson->end || *lesson->p != c)
        return 0;
    lesson->p++;
    return 1;
}

/* A string, whose kind is FIXED or that of the value between its quotes. */
static int take_string(struct lesson *lesson, int kind)
{
    if (kind == REFUSED || !take_char(lesson, '"') ||
        (kind != FIXED && !cut(lesson, (enum fm_trace_shape_kind)kind)))
        return 0;
    while (lesson->p < lesson->end && *lesson->p != '"' && *lesson->p != '\\')
        lesson->p++;
    if (kind != FIXED)
        lesson->literal = lesson->p;
    return take_char(lesson, '"');
}

/* Whether all of the scalar is a number of its kind. */
static int is_number(const char *begin, const char *end, enum fm_trace_shape_kind kind)
{
    int64_t value;
    const char *behind;
    if (kind == FM_TRACE_SHAPE_TIME || kind == FM_TRACE_SHAPE_DURATION)
        return fm_trace_microseconds(begin, &value, &behind) == 0 && behind == end;
    return fm_trace_integer(begin, &value, &behind) == 0 && behind == end &&
           (value >= 0 || kind < FM_TRACE_SHAPE_FIRST_BLOCKS);
}

static int take_scalar(struct lesson *lesson, int kind)
{
    const char *begin = lesson->p;
    if (kind == REFUSED || (kind != FIXED && !cut(lesson, (enum fm_trace_shape_kind)kind)))
        return 0;
    while (lesson->p < lesson->end && fm_trace_is_scalar(*lesson->p))
        lesson->p++;
    if (lesson->p == begin || lesson->p == lesson->end)
        return 0;
    if (kind == FIXED)
        return 1;
    lesson->literal = lesson->p;
    return kind < FM_TRACE_SHAPE_TIME || is_number(begin, lesson->p, (enum fm_trace_shape_kind)kind);
}

/* A value in brackets, of no interest, whose first one is text of the shape. The decoder, too, only counts brackets. */
static int take_brackets(struct lesson *lesson)
{
    int depth = 1, in_string = 0;
    lesson->p++;
    if (!cut(lesson, FM_TRACE_SHAPE_BRACKETS))
        return 0;
    for (; lesson->p < lesson->end; lesson->p++) {
        char c = *lesson->p;
        if (c == '\\')
            return 0;
        in_string ^= c == '"';
        if (in_string)
            continue;
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        if (depth == 0) {
            lesson->literal = ++lesson->p;
            return 1;
        }
    }
    return 0;
}

/* What a value is to be taken as, by its key: kinds of it as a string, as a scalar, and in brackets; in a list of numbers, of
 * the first one and of the others. */
struct role {
    int string, scalar, brackets, more;
};

static const struct role any_role = {FM_TRACE_SHAPE_STRING, FM_TRACE_SHAPE_SCALAR, FM_TRACE_SHAPE_BRACKETS,
                                     REFUSED};

struct named_role {
    const char *key;
    struct role role;
};

static struct role role_of(const struct named_role *roles, size_t count, const char *key, size_t length)
{
    for (size_t i = 0; i < count; i++) {
        size_t own = strlen(roles[i].key);
        // The decoder tells keys by their length and first eight bytes, so what is the same to it is so here.
        if (own == length && memcmp(roles[i].key, key, length < 8 ? length : 8) == 0)
            return roles[i].role;
    }
    return any_role;
}

#define ROLE_FIXED                     \
    {                                  \
        FIXED, FIXED, REFUSED, REFUSED \
    }
#define ROLE(string, value)             \
    {                                   \
        string, value, REFUSED, REFUSED \
    }

static struct role event_role(const char *key, size_t length)
{
    static const struct named_role roles[] = {
        {"ph", ROLE_FIXED},
        {"cat", ROLE_FIXED},
        {"pid", ROLE_FIXED},
        {"tid", ROLE_FIXED},
        {"name", ROLE(FM_TRACE_SHAPE_NAME, REFUSED)},
        {"id", ROLE(FM_TRACE_SHAPE_ID_STRING, FM_TRACE_SHAPE_ID_NUMBER)},
        {"id2", ROLE(FM_TRACE_SHAPE_ID_STRING, FM_TRACE_SHAPE_ID_NUMBER)},
        {"ts", ROLE(REFUSED, FM_TRACE_SHAPE_TIME)},
        {"dur", ROLE(REFUSED, FM_TRACE_SHAPE_DURATION)},
        {"args", {REFUSED, REFUSED, FM_TRACE_SHAPE_ARGS, REFUSED}},
    };
    return role_of(roles, sizeof roles / sizeof *roles, key, length);
}

static struct role argument_role(const char *key, size_t length)
{
    static const struct named_role roles[] = {
        {"correlation", ROLE(REFUSED, FM_TRACE_SHAPE_CORRELATION)},
        {"stream", ROLE(REFUSED, FM_TRACE_SHAPE_STREAM)},
        {"device", ROLE(REFUSED, FM_TRACE_SHAPE_DEVICE)},
        {"bytes", ROLE(REFUSED, FM_TRACE_SHAPE_BYTES)},
        {"grid", {REFUSED, REFUSED, FM_TRACE_SHAPE_FIRST_BLOCKS, FM_TRACE_SHAPE_MORE_BLOCKS}},
        {"block", {REFUSED, REFUSED, FM_TRACE_SHAPE_FIRST_THREADS, FM_TRACE_SHAPE_MORE_THREADS}},
    };
    return role_of(roles, sizeof roles / sizeof *roles, key, length);
}

/* [x, y, z]. The product of none is 1, and that of something else 0: neither is met. */
static int take_numbers(struct lesson *lesson, const struct role *role)
{
    if (!take_char(lesson, '['))
        return 0;
    for (int kind = role->brackets;; kind = role->more) {
        skip_space(lesson);
        if (!take_scalar(lesson, kind))
            return 0;
        skip_space(lesson);
        if (take_char(lesson, ']'))
            return 1;
        if (!take_char(lesson, ','))
            return 0;
    }
}

static int take_object(struct lesson *lesson, struct role (*role_of_key)(const char *key, size_t length));

static int take_arguments(struct lesson *lesson)
{
    // What the decoder reads of the arguments depends on the category that it has met before them.
    int ignored = fm_trace_event_ignores_arguments(&lesson->seen);
    if (*lesson->p != '{')
        return 0;
    if (lesson->keep_args) {
        if (!cut(lesson, FM_TRACE_SHAPE_ARGS))
            return 0;
        lesson->literal = lesson->p;
    }
    if (!(ignored ? take_brackets(lesson) : take_object(lesson, argument_role)))
        return 0;
    if (lesson->keep_args) {
        if (!cut(lesson, FM_TRACE_SHAPE_ARGS_END))
            return 0;
        lesson->literal = lesson->p;
    }
    return 1;
}

static int take_value(struct lesson *lesson, const struct role *role)
{
    char c = lesson->p < lesson->end ? *lesson->p : 0;
    if (c == '"')
        return take_string(lesson, role->string);
    if (c != '{' && c != '[')
        return take_scalar(lesson, role->scalar);
    switch (role->brackets) {
    case REFUSED:
        return 0;
    case FM_TRACE_SHAPE_ARGS:
        return take_arguments(lesson);
    case FM_TRACE_SHAPE_BRACKETS:
        return take_brackets(lesson);
    default:
        return take_numbers(lesson, role);
    }
}

static int take_member(struct lesson *lesson, struct role (*role_of_key)(const char *key, size_t length))
{
    const char *key = lesson->p + 1;
    if (!take_string(lesson, FIXED))
        return 0;
    size_t length = (size_t)(lesson->p - 1 - key);
    skip_space(lesson);
    if (!take_char(lesson, ':'))
        return 0;
    skip_space(lesson);
    struct role role = role_of_key(key, length);
    const char *value = lesson->p;
    if (!take_value(lesson, &role))
        return 0;
    if (role_of_key == event_role && length == 3 && memcmp(key, "cat", 3) == 0) {
        int quoted = *value == '"';
        lesson->seen.category =
            (struct fm_trace_span){value + quoted, (uint32_t)(lesson->p - value - 2 * quoted), quoted};
    }
    return 1;
}

static int take_object(struct lesson *lesson, struct role (*role_of_key)(const char *key, size_t length))
{
    if (!take_char(lesson, '{'))
        return 0;
    skip_space(lesson);
    if (take_char(lesson, '}'))
        return 1;
    for (;;) {
        if (!take_member(lesson, role_of_key))
            return 0;
        skip_space(lesson);
        if (take_char(lesson, '}'))
            return 1;
        if (!take_char(lesson, ','))
            return 0;
        skip_space(lesson);
    }
}

/* The event in pieces; 0 when it is of no shape. */
static int take_event(struct lesson *lesson)
{
    const char *text = lesson->p;
    skip_space(lesson);
    // Who looks for the first event of a part does so at its bracket.
    if (!take_char(lesson, ','))
        return 0;
    skip_space(lesson);
    return lesson->p - text <= GAP_MAX && take_object(lesson, event_role) && lesson->p == lesson->end &&
           cut(lesson, FM_TRACE_SHAPE_END);
}

/* The shape with this text on a level, or a new one; NULL when there are too many of them. */
static struct fm_trace_shape *put(struct fm_trace_shapes *shapes, struct fm_trace_shape **level,
                                  const char *text, size_t length, enum fm_trace_shape_kind kind)
{
    int others = 0;
    struct fm_trace_shape **link = level;
    for (struct fm_trace_shape *found; (found = *link); link = &found->other, others++)
        if (found->length == length && found->kind == kind && memcmp(found->literal, text, length) == 0) {
            // To the front: another one, whose text is the beginning of this one's, may stand in its way.
            *link = found->other;
            found->other = *level;
            *level = found;
            return found;
        }
    if (others == OTHERS_MAX || shapes->count == SHAPES_MAX)
        return NULL;
    struct fm_trace_shape *shape = &shapes->all[shapes->count++];
    *shape = (struct fm_trace_shape){.length = (uint8_t)length, .kind = (uint8_t)kind, .other = *level};
    shape->present = length == 64 ? ~UINT64_C(0) : (UINT64_C(1) << length) - 1;
    memcpy(shape->literal, text, length);
    *level = shape;
    return shape;
}

/* One piece of an event. Returns its last shape. */
static struct fm_trace_shape *put_token(struct fm_trace_shapes *shapes, struct fm_trace_shape **level,
                                        const char *text, size_t length, enum fm_trace_shape_kind kind)
{
    struct fm_trace_shape *shape;
    while (length > FM_TRACE_LITERAL_BYTES) {
        shape = put(shapes, level, text, FM_TRACE_LITERAL_BYTES, FM_TRACE_SHAPE_TEXT);
        if (!shape)
            return NULL;
        level = &shape->then;
        text += FM_TRACE_LITERAL_BYTES;
        length -= FM_TRACE_LITERAL_BYTES;
    }
    return put(shapes, level, text, length, kind);
}

static void put_event(struct fm_trace_shapes *shapes, const struct lesson *lesson, char phase, uint32_t track,
                      uint32_t category)
{
    struct fm_trace_shape **level = &shapes->first, *shape = NULL;
    for (int i = 0; i < lesson->count; i++) {
        shape =
            put_token(shapes, level, lesson->tokens[i].at, lesson->tokens[i].length, lesson->tokens[i].kind);
        if (!shape)
            return;
        level = &shape->then;
    }
    shape->phase = phase;
    shape->track = track;
    shape->category = category;
}

fm_status fm_trace_shapes_learn(struct fm_trace_shapes *shapes, const char *text, const char *end,
                                const struct fm_trace_event *event, uint32_t track, uint32_t category)
{
    struct lesson lesson = {.p = text, .end = end, .literal = text, .keep_args = shapes->keep_args};
    if (!take_event(&lesson))
        return FM_OK;
    if (!shapes->all) {
        shapes->all = fm_base_mem_alloc(SHAPES_MAX * sizeof *shapes->all);
        if (!shapes->all)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for the shapes of events");
    }
    // A full tree is of shapes that are met no more, or that are too many: begun anew, the next events say which.
    if (shapes->count > SHAPES_MAX - TOKENS_MAX) {
        shapes->count = 0;
        shapes->first = NULL;
    }
    put_event(shapes, &lesson, event->phase, track, category);
    return FM_OK;
}

void fm_trace_shapes_clear(struct fm_trace_shapes *shapes)
{
    fm_base_mem_free(shapes->all);
    *shapes = (struct fm_trace_shapes){0};
}
