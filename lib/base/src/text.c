#include "fathom/text.h"

#include "utf8.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static fm_text with_prefix(double value, double step, const char *const *units, int count)
{
    int unit = 0;
    // What would be rounded to the next unit's 1 belongs there: "1.00 k", never "1000".
    for (; isfinite(value) && fabs(value) >= step - 0.5 && unit + 1 < count; unit++)
        value /= step;
    double size = fabs(value);
    int decimals = size < 0.9995 ? 3 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
    if (unit == 0 && size == floor(size))
        decimals = 0; // nothing was rounded
    fm_text text;
    snprintf(text.text, sizeof text.text, "%.*f%s%s", decimals, value, units[unit][0] ? " " : "",
             units[unit]);
    return text;
}

fm_text fm_base_text_count(double count)
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P", "E"};
    return with_prefix(count, 1000, units, 7);
}

fm_text fm_base_text_bytes(double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    return with_prefix(bytes, 1024, units, 7);
}

fm_text fm_base_text_duration(double ns)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};
    const double second = 1e9;
    if (!(fabs(ns) < 59.95 * second) && isfinite(ns)) {
        fm_text text;
        const char *sign = ns < 0 ? "-" : "";
        double seconds = fabs(ns) / second;
        if (seconds < 3599.5)
            snprintf(text.text, sizeof text.text, "%s%d min %02d s", sign, (int)round(seconds) / 60,
                     (int)round(seconds) % 60);
        else if (seconds < 86370)
            snprintf(text.text, sizeof text.text, "%s%d h %02d min", sign, (int)round(seconds / 60) / 60,
                     (int)round(seconds / 60) % 60);
        else
            snprintf(text.text, sizeof text.text, "%s%.0f d %02.0f h", sign,
                     floor(round(seconds / 3600) / 24), fmod(round(seconds / 3600), 24));
        return text;
    }
    return with_prefix(ns, 1000, units, 4);
}

fm_text fm_base_text_bar(double fraction, int columns)
{
    const int columns_max = 40; // of three bytes each, in an fm_text
    fm_text text;
    columns = columns < 1 ? 1 : columns > columns_max ? columns_max : columns;
    fraction = fraction > 0 ? fraction < 1 ? fraction : 1 : 0; // NaN is 0
    int eighths = (int)(fraction * 8 * columns + 0.5);
    char *at = text.text;
    for (int i = 0; i < columns; i++, eighths -= 8) {
        // U+2588 is the full block; the seven that follow get thinner.
        if (eighths > 0) {
            memcpy(at, "\xE2\x96", 2);
            at[2] = (char)(0x88 + (eighths < 8 ? 8 - eighths : 0));
            at += 3;
        } else {
            *at++ = ' ';
        }
    }
    *at = 0;
    return text;
}

struct range {
    uint32_t first, last;
};

static int in_ranges(uint32_t code, const struct range *ranges, size_t count)
{
    for (size_t i = 0; i < count && code >= ranges[i].first; i++)
        if (code <= ranges[i].last)
            return 1;
    return 0;
}

/* Columns of a character: the blocks of Unicode whose characters are wide, or combine with the one before. */
static size_t columns_of(uint32_t code)
{
    static const struct range none[] = {
        {0x0300, 0x036F}, {0x0483, 0x0489}, {0x0591, 0x05BD},  {0x064B, 0x065F}, {0x1AB0, 0x1AFF},
        {0x1DC0, 0x1DFF}, {0x200B, 0x200F}, {0x2060, 0x2064},  {0x20D0, 0x20FF}, {0xFE00, 0xFE0F},
        {0xFE20, 0xFE2F}, {0xFEFF, 0xFEFF}, {0xE0100, 0xE01EF}};
    static const struct range wide[] = {
        {0x1100, 0x115F},   {0x2E80, 0x303E},   {0x3041, 0x4DBF},   {0x4E00, 0xA4CF},
        {0xA960, 0xA97F},   {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},
        {0xFF01, 0xFF60},   {0xFFE0, 0xFFE6},   {0x16FE0, 0x18CFF}, {0x1B000, 0x1B2FF},
        {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F900, 0x1F9FF}, {0x20000, 0x3FFFD}};
    if (code < 0x300)
        return 1;
    return in_ranges(code, none, sizeof none / sizeof none[0])   ? 0
           : in_ranges(code, wide, sizeof wide / sizeof wide[0]) ? 2
                                                                 : 1;
}

/* The character at `text`: its bytes, and its columns. A byte that begins none is a character of its own. */
static size_t next_character(const char *text, size_t *out_columns)
{
    size_t length = fm_utf8_character(text, strnlen(text, 4));
    *out_columns = 1;
    if (length < 2)
        return 1;
    uint32_t code = (unsigned char)text[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++)
        code = code << 6 | ((unsigned char)text[i] & 0x3Fu);
    *out_columns = columns_of(code);
    return length;
}

size_t fm_base_text_columns(const char *text)
{
    size_t columns = 0, character;
    while (*text) {
        text += next_character(text, &character);
        columns += character;
    }
    return columns;
}

size_t fm_base_text_fit(const char *text, size_t columns)
{
    const char *at = text;
    while (*at) {
        size_t character;
        size_t length = next_character(at, &character);
        if (character > columns)
            break;
        columns -= character;
        at += length;
    }
    return (size_t)(at - text);
}

void fm_base_text_clean(char *text)
{
    while (*text) {
        unsigned char first = (unsigned char)*text;
        size_t length = fm_utf8_character(text, strnlen(text, 4));
        // C0, DEL, and C1, which is 0xC2 0x80 to 0xC2 0x9F: terminals act on all of them.
        int control =
            first < ' ' || first == 127 || (first == 0xC2 && length == 2 && (unsigned char)text[1] < 0xA0);
        if (length == 0)
            *text = '?';
        else if (control)
            memset(text, ' ', length);
        text += length ? length : 1;
    }
}

int fm_base_text_terminal(int fd)
{
    struct winsize size;
    return isatty(fd) && ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}
