/**
 * @file pond_text.h
 * Text that grows: SQL, messages, keys.
 */
#ifndef POND_TEXT_H
#define POND_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

/** Zero-initialise. An allocation that fails is remembered: check fm_pond_text_status() once, at the end. */
typedef struct fm_pond_text {
    char *text; /**< 0-terminated; NULL before the first */
    size_t length, capacity;
    int failed;
} fm_pond_text;

void fm_pond_text_add(fm_pond_text *text, const char *format, ...) FM_PRINTF(2, 3);
void fm_pond_text_add_bytes(fm_pond_text *text, const char *bytes, size_t length);
/** As an SQL string: quotes around it, quotes inside doubled. */
void fm_pond_text_add_quoted(fm_pond_text *text, const char *value);
/** FM_ERR_NOMEM once something could not be added. */
FM_MUST_USE fm_status fm_pond_text_status(const fm_pond_text *text);
void fm_pond_text_clear(fm_pond_text *text);

/** Where an SQL string, quoted name or bracket that begins at `at` ends; `at` + 1 for anything else. `*at` is not 0. */
const char *fm_pond_text_skip(const char *at);

/** "create_sort_key(...)" for ORDER BY terms: a BLOB that compares as the rows do. */
void fm_pond_text_add_sort_key(fm_pond_text *text, const char *terms);

/** A hash of text in 128 bits as 32 hexadecimal digits. For names of what depends on content; no protection against intent. */
void fm_pond_text_digest(const char *text, size_t length, char out_digest[33]);

#endif
