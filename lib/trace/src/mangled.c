#include "mangled.h"

#include <string.h>

// What nests deeper is cut off: no kernel's own name does.
enum { DEPTH_MAX = 64 };

struct writer {
    char *to;
    size_t used, room;
    char levels[DEPTH_MAX]; // 'N': a nested name; 'I': template arguments
    int depth;
};

static void put(struct writer *writer, const char *bytes, size_t length)
{
    size_t left = writer->room - 1 - writer->used;
    length = length < left ? length : left;
    memcpy(writer->to + writer->used, bytes, length);
    writer->used += length;
}

/* What stands between two names or values: the parts of a nested name, or the arguments of a template. */
static void separate(struct writer *writer, int is_part)
{
    char last = writer->used ? writer->to[writer->used - 1] : '<';
    if (last == '<')
        return;
    if (is_part)
        put(writer, "::", 2);
    else
        put(writer, ", ", 2);
}

/* <length> <identifier>; the byte behind it, or NULL when it is cut short. */
static const char *take_identifier(struct writer *writer, const char *p, int *in_name)
{
    size_t length = 0, left;
    for (; *p >= '0' && *p <= '9' && length < 1 << 20; p++)
        length = 10 * length + (size_t)(*p - '0');
    left = strnlen(p, length);
    separate(writer, *in_name);
    put(writer, p, left);
    *in_name = writer->depth > 0 && writer->levels[writer->depth - 1] == 'N';
    return left < length ? NULL : p + length;
}

/* L <type> <value> E with a type of one letter: its value. */
static const char *take_literal(struct writer *writer, const char *p)
{
    const char *value = p + 2, *end = value + strspn(value, "n0123456789");
    separate(writer, 0);
    put(writer, *value == 'n' ? "-" : "", *value == 'n');
    value += *value == 'n';
    put(writer, value, (size_t)(end - value));
    return *end == 'E' ? end + 1 : end;
}

/* S_, S12_, T_, T0_, or two letters for something of std. */
static const char *skip_reference(const char *p)
{
    const char *end = p + 1 + strspn(p + 1, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    if (*end == '_')
        return end + 1;
    return p[1] ? p + 2 : p + 1;
}

int fm_trace_unmangle(const char *name, char *to, size_t room)
{
    struct writer writer = {.to = to, .room = room};
    int in_name = 0; // the next identifier continues a nested name
    if (name[0] != '_' || name[1] != 'Z')
        return 0;
    for (const char *p = name + 2; p && *p;) {
        if (*p >= '0' && *p <= '9') {
            p = take_identifier(&writer, p, &in_name);
            continue;
        }
        if (*p == 'L' && p[1] >= 'a' && p[1] <= 'z') {
            p = take_literal(&writer, p);
            continue;
        }
        if (*p == 'S' || *p == 'T') {
            p = skip_reference(p);
            continue;
        }
        if (*p == 'N' || *p == 'I') {
            if (writer.depth == DEPTH_MAX)
                break;
            writer.levels[writer.depth++] = *p;
            put(&writer, "<", *p == 'I');
            in_name = 0;
        } else if (*p == 'E' && writer.depth > 0) {
            put(&writer, ">", writer.levels[--writer.depth] == 'I');
            in_name = writer.depth > 0 && writer.levels[writer.depth - 1] == 'N';
        }
        p++;
    }
    to[writer.used] = 0;
    return 1;
}
