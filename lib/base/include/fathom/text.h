/**
 * @file text.h
 * Text for people: numbers in units that they read at a glance, bars, and the columns that UTF-8 takes on a terminal.
 *
 * Any thread may call these; they keep no state and depend on no locale.
 */
#ifndef FATHOM_TEXT_H
#define FATHOM_TEXT_H

#include <stddef.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A short text by value: printf("%s\n", fm_base_text_bytes(size).text). */
typedef struct fm_text {
    char text[128];
} fm_text;

/*
 * Numbers are shown with three significant digits, whole ones below 1000 exactly: "7", "0.250", "12.3 k", "999 M".
 * Infinities and NaN are "inf", "-inf" and "nan".
 */

/** A count with an SI prefix: "12.3 M". */
FM_API fm_text fm_base_text_count(double count);
/** A number of bytes with a binary prefix: "512 B", "1.50 GiB". */
FM_API fm_text fm_base_text_bytes(double bytes);
/** A duration given in nanoseconds: "250 ns", "1.20 ms", "59.9 s", "1 min 05 s", "2 h 30 min", "3 d 04 h". */
FM_API fm_text fm_base_text_duration(double ns);
/** A bar of `columns` columns (1 to 40) filled to `fraction` (0 to 1) in steps of an eighth of a column: "███▌    ". */
FM_API fm_text fm_base_text_bar(double fraction, int columns);

/** Columns that UTF-8 text takes on a terminal: one a character, two for East Asian wide characters and emoji, none for
 * combining marks. Bytes that are not UTF-8 count one each. */
FM_API size_t fm_base_text_columns(const char *text);
/** The bytes of the longest beginning of `text` that takes at most `columns` columns and splits no character. */
FM_API size_t fm_base_text_fit(const char *text, size_t columns);
/** Makes text from outside safe to show, in place: control characters become spaces, bytes that are not UTF-8 '?'. */
FM_API void fm_base_text_clean(char *text);

/** The width of the terminal behind a file descriptor; 0 when it is no terminal or does not tell. */
FM_API int fm_base_text_terminal(int fd);

#ifdef __cplusplus
}
#endif
#endif
