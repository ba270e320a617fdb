#include "corpus_text.h"

#include <string.h>

#include "fathom/mem.h"

size_t fm_app_utf8_size(const char *at, const char *end)
{
    const unsigned char *byte = (const unsigned char *)at;
    size_t left = (size_t)(end - at);
    size_t size = left == 0          ? 0
                  : byte[0] < 0x80   ? 1
                  : byte[0] < 0xC2   ? 0
                  : byte[0] < 0xE0   ? 2
                  : byte[0] < 0xF0   ? 3
                  : byte[0] <= 0xF4u ? 4
                                     : 0;
    if (size > left)
        return 0;
    for (size_t i = 1; i < size; i++)
        if ((byte[i] & 0xC0) != 0x80)
            return 0;
    // The second byte decides about overlong forms, surrogates and what lies beyond U+10FFFF.
    if ((byte[0] == 0xE0 && byte[1] < 0xA0) || (byte[0] == 0xED && byte[1] > 0x9F) ||
        (byte[0] == 0xF0 && byte[1] < 0x90) || (byte[0] == 0xF4 && byte[1] > 0x8F))
        return 0;
    return size;
}

void fm_app_latin1_put(unsigned char byte, char out[2])
{
    out[0] = (char)(0xC0 | byte >> 6);
    out[1] = (char)(0x80 | (byte & 0x3F));
}

static int is_control(unsigned char byte)
{
    return (byte < 32 && byte != '\n' && byte != '\r' && byte != '\t' && byte != '\f') || byte == 127;
}

// Bytes that a repair would change.
static size_t count_odd(const char *bytes, const char *end)
{
    size_t odd = 0;
    while (bytes < end) {
        size_t size = fm_app_utf8_size(bytes, end);
        odd += size == 0 || (size == 1 && is_control((unsigned char)*bytes));
        bytes += size ? size : 1;
    }
    return odd;
}

fm_status fm_app_text_repair(const char *name, const char *bytes, size_t length, char **out_text,
                             size_t *out_length)
{
    const char *end = bytes + length, *zero = length ? memchr(bytes, 0, length) : NULL;
    if (zero)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s: byte %zu is 0, so this is no text; expected text files in UTF-8, plain "
                                 "or gzip",
                                 name, (size_t)(zero - bytes));
    size_t odd = count_odd(bytes, end), put = 0;
    if (odd > length / 10)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s: %zu of %zu bytes are neither UTF-8 nor text in it; expected text files "
                                 "in UTF-8, plain or gzip (iconv converts others)",
                                 name, odd, length);
    *out_text = NULL;
    if (odd == 0)
        return FM_OK;
    char *text = fm_base_mem_alloc(length + odd + 1);
    if (!text)
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory for %zu bytes", name, length + odd);
    while (bytes < end) {
        size_t size = fm_app_utf8_size(bytes, end);
        if (size == 0) {
            fm_app_latin1_put((unsigned char)*bytes++, text + put);
            put += 2;
        } else if (size == 1) {
            text[put++] = *bytes;
            if (is_control((unsigned char)*bytes++))
                text[put - 1] = ' ';
        } else {
            memcpy(text + put, bytes, size);
            put += size;
            bytes += size;
        }
    }
    text[put] = '\0';
    *out_text = text;
    *out_length = put;
    return FM_OK;
}
