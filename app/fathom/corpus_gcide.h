/* The Collaborative International Dictionary of English, as Debian's dict-gcide packs it, made into plain text. */
#ifndef FM_CORPUS_GCIDE_H
#define FM_CORPUS_GCIDE_H

#include <stddef.h>

#include "fathom/status.h"

/** Takes one document, 0-terminated; anything but FM_OK stops. */
typedef fm_status (*fm_app_document)(void *context, const char *text, size_t length);

/**
 * Cuts a dictionary's text into entries and cleans each: the header is left out, source tags, pronunciations and the marks
 * of cross references go, letter codes such as ['e] and stray Latin-1 become UTF-8, hard wraps are undone. An entry is
 * lines: its head, then a line a paragraph.
 */
FM_MUST_USE fm_status fm_app_gcide_entries(const char *text, size_t length, fm_app_document document,
                                           void *context);

#endif
