/* Bytes that ought to be text. */
#ifndef FM_CORPUS_TEXT_H
#define FM_CORPUS_TEXT_H

#include <stddef.h>

#include "fathom/status.h"

/** Bytes of the UTF-8 character at `at`, from 1 to 4; 0: there is none (strictly: no overlong forms, no surrogates). */
size_t fm_app_utf8_size(const char *at, const char *end);
/** The UTF-8 form of a byte that is a Latin-1 letter. */
void fm_app_latin1_put(unsigned char byte, char out[2]);

/**
 * Makes text of bytes: what is no UTF-8 is taken as Latin-1, and control characters become spaces. `*out_text` is NULL where nothing
 * had to be changed; else the caller frees it with fm_base_mem_free(). FM_ERR_FORMAT: this is no text: a byte 0, or more than a
 * tenth of it would have to be changed. Messages begin with `name`.
 */
FM_MUST_USE fm_status fm_app_text_repair(const char *name, const char *bytes, size_t length, char **out_text,
                                         size_t *out_length);

#endif
