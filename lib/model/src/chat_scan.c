/* Text and tags of a template, with Jinja's rules for white space: `-` beside a tag takes all of it away on that side;
 * one newline behind a statement or comment goes (trim_blocks), as does what stands between the start of a line and a
 * statement or comment (lstrip_blocks). */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

#include "chat_private.h"

fm_status fm_model_chat_scan_error(const struct chat_scan *scan, fm_status status, const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    return fm_base_error_set(status, "%s:%d: %s", scan->name, scan->line, text);
}

static int starts(const struct chat_scan *scan, size_t at, const char *sign)
{
    size_t length = strlen(sign);
    return scan->length - at >= length && memcmp(scan->text + at, sign, length) == 0;
}

static int is_space(char c)
{
    return isspace((unsigned char)c) != 0;
}

static void advance(struct chat_scan *scan, size_t to)
{
    for (; scan->at < to; scan->at++)
        scan->line += scan->text[scan->at] == '\n';
}

// Cuts what the tag that begins at `end` takes of the data before it.
static size_t cut_before(const struct chat_scan *scan, size_t begin, size_t end)
{
    if (end >= scan->length)
        return end;
    if (end + 2 < scan->length && scan->text[end + 2] == '-') {
        while (end > begin && is_space(scan->text[end - 1]))
            end--;
        return end;
    }
    if (scan->text[end + 1] == '{')
        return end;
    size_t line = end;
    while (line > begin && (scan->text[line - 1] == ' ' || scan->text[line - 1] == '\t'))
        line--;
    return line == 0 || scan->text[line - 1] == '\n' ? line : end;
}

static void skip_after_tag(struct chat_scan *scan)
{
    size_t to = scan->at;
    if (scan->strip_next)
        while (to < scan->length && is_space(scan->text[to]))
            to++;
    else if (scan->trim_next && to < scan->length && scan->text[to] == '\n')
        to++;
    advance(scan, to);
    scan->strip_next = scan->trim_next = 0;
}

static fm_status skip_comment(struct chat_scan *scan)
{
    size_t to = scan->at + 2;
    while (to < scan->length && !starts(scan, to, "#}"))
        to++;
    if (to >= scan->length)
        return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "a comment is not ended by '#}'");
    scan->strip_next = scan->text[to - 1] == '-' && to > scan->at + 2;
    scan->trim_next = 1;
    advance(scan, to + 2);
    return FM_OK;
}

static fm_status open_tag(struct chat_scan *scan, enum chat_piece *out_piece)
{
    int statement = scan->text[scan->at + 1] == '%';
    scan->end = statement ? "%}" : "}}";
    advance(scan, scan->at + 2);
    if (scan->at < scan->length && scan->text[scan->at] == '-')
        scan->at++;
    else if (scan->at < scan->length && scan->text[scan->at] == '+')
        return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED, "'{%c+' is not supported",
                                        statement ? '%' : '{');
    *out_piece = statement ? CHAT_PIECE_STATEMENT : CHAT_PIECE_EXPRESSION;
    return fm_model_chat_scan_token(scan);
}

fm_status fm_model_chat_scan_piece(struct chat_scan *scan, enum chat_piece *out_piece,
                                   struct chat_text *out_data)
{
    for (;;) {
        skip_after_tag(scan);
        size_t begin = scan->at, end = begin;
        while (end < scan->length && !starts(scan, end, "{{") && !starts(scan, end, "{%") &&
               !starts(scan, end, "{#"))
            end++;
        size_t data_end = cut_before(scan, begin, end);
        // Jinja drops the newline that ends a template.
        if (end == scan->length && data_end > begin && scan->text[data_end - 1] == '\n')
            data_end--;
        *out_data = (struct chat_text){scan->text + begin, data_end - begin};
        *out_piece = data_end > begin ? CHAT_PIECE_DATA : CHAT_PIECE_NOTHING;
        advance(scan, end);
        if (data_end > begin || end >= scan->length)
            return FM_OK;
        if (scan->text[end + 1] != '#')
            return open_tag(scan, out_piece);
        FM_TRY(skip_comment(scan));
    }
}

// The escapes of Python that templates use; bytes beyond ASCII stand for themselves.
static fm_status scan_string(struct chat_scan *scan)
{
    char quote = scan->text[scan->at];
    size_t end = scan->at + 1, written = 0;
    while (end < scan->length && scan->text[end] != quote)
        end += scan->text[end] == '\\' ? 2 : 1;
    if (end >= scan->length)
        return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "a text is not ended by %c", quote);
    char *bytes = fm_base_arena_alloc(scan->arena, end - scan->at);
    if (!bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to read %s", scan->name);
    for (size_t i = scan->at + 1; i < end; i++) {
        char c = scan->text[i];
        if (c == '\\') {
            static const char known[] = "ntr\\'\"", meant[] = "\n\t\r\\'\"";
            const char *found = memchr(known, scan->text[++i], sizeof known - 1);
            if (!found)
                return fm_model_chat_scan_error(
                    scan, FM_ERR_UNSUPPORTED,
                    "the escape \\%c is not supported; known are \\n \\t \\r \\\\ "
                    "\\' \\\"",
                    scan->text[i]);
            c = meant[found - known];
        }
        bytes[written++] = c;
    }
    scan->token = CHAT_TOKEN_STRING;
    scan->value = (struct chat_text){bytes, written};
    advance(scan, end + 1);
    return FM_OK;
}

static fm_status scan_number(struct chat_scan *scan)
{
    size_t end = scan->at;
    scan->number = 0;
    for (; end < scan->length && isdigit((unsigned char)scan->text[end]); end++)
        if (__builtin_mul_overflow(scan->number, 10, &scan->number) ||
            __builtin_add_overflow(scan->number, scan->text[end] - '0', &scan->number))
            return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "a number is beyond 2^63");
    if (end < scan->length && scan->text[end] == '.' && end + 1 < scan->length &&
        isdigit((unsigned char)scan->text[end + 1]))
        return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED, "numbers with a point are not supported");
    scan->token = CHAT_TOKEN_INT;
    scan->value = (struct chat_text){scan->text + scan->at, end - scan->at};
    scan->at = end;
    return FM_OK;
}

// True where the tag ends here; reads over its end.
static int scan_end(struct chat_scan *scan)
{
    size_t dash = starts(scan, scan->at, "-");
    if (!starts(scan, scan->at + dash, scan->end))
        return 0;
    scan->token = CHAT_TOKEN_END;
    scan->value = (struct chat_text){scan->text + scan->at, dash + 2};
    scan->strip_next = (int)dash;
    scan->trim_next = scan->end[0] == '%';
    scan->at += dash + 2;
    return 1;
}

fm_status fm_model_chat_scan_token(struct chat_scan *scan)
{
    size_t to = scan->at;
    while (to < scan->length && is_space(scan->text[to]))
        to++;
    advance(scan, to);
    if (scan->at >= scan->length)
        return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "a tag is not ended by '%s'", scan->end);
    if (scan_end(scan))
        return FM_OK;
    char c = scan->text[scan->at];
    if (c == '\'' || c == '"')
        return scan_string(scan);
    if (isdigit((unsigned char)c))
        return scan_number(scan);
    if (isalpha((unsigned char)c) || c == '_') {
        while (to < scan->length && (isalnum((unsigned char)scan->text[to]) || scan->text[to] == '_'))
            to++;
        scan->token = CHAT_TOKEN_WORD;
    } else {
        static const char *const doubles[] = {"==", "!=", "<=", ">=", "//", "**"};
        to++;
        for (size_t i = 0; i < sizeof doubles / sizeof doubles[0]; i++)
            if (starts(scan, scan->at, doubles[i]))
                to = scan->at + 2;
        scan->token = CHAT_TOKEN_SIGN;
    }
    scan->value = (struct chat_text){scan->text + scan->at, to - scan->at};
    scan->at = to;
    return FM_OK;
}

int fm_model_chat_scan_at(const struct chat_scan *scan, const char *word)
{
    return (scan->token == CHAT_TOKEN_WORD || scan->token == CHAT_TOKEN_SIGN) && chat_is(scan->value, word);
}

fm_status fm_model_chat_scan_expect(struct chat_scan *scan, const char *word)
{
    if (!fm_model_chat_scan_at(scan, word))
        return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "'%.*s' where '%s' is expected",
                                        (int)scan->value.length, scan->value.bytes, word);
    return fm_model_chat_scan_token(scan);
}
