/* Texts held once each, known by a number: names, categories, IDs. */
#ifndef FM_TRACE_TEXT_POOL_H
#define FM_TRACE_TEXT_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/mem.h"

struct fm_trace_pool_slot;

/* A spelling met lately: most events repeat one. */
struct fm_trace_pool_recent {
    const char *bytes;
    uint32_t length;
    uint32_t text;
};

enum {
    FM_TRACE_POOL_RECENT = 1024
}; // distinct names of a step are fewer; 16 KiB stay in the first-level cache

/* Zero-initialise. */
struct fm_trace_text_pool {
    fm_arena bytes;
    const char **texts; /* by number */
    uint32_t *lengths;
    size_t count, capacity;
    struct fm_trace_pool_slot *slots; /* open addressing over spellings and texts */
    size_t slot_count, slots_used;
    struct fm_trace_pool_recent recent[FM_TRACE_POOL_RECENT];
};

/**
 * The number of the text that `spelling` (what stands between the quotes in JSON) means. Two spellings of one text have one
 * number. FM_ERR_NOMEM; FM_ERR_LIMIT at 2^32 - 2 texts.
 */
FM_MUST_USE fm_status fm_trace_pool_intern(struct fm_trace_text_pool *pool, const char *spelling,
                                           size_t length, uint32_t *out_text);
/* The number of a text as it is, without escapes to be resolved. The same failures. */
FM_MUST_USE fm_status fm_trace_pool_intern_text(struct fm_trace_text_pool *pool, const char *text,
                                                size_t length, uint32_t *out_text);
void fm_trace_pool_clear(struct fm_trace_text_pool *pool);

/* Resolves the escapes of a JSON string into `to`, which has room for `length` bytes; returns the bytes written. Escapes
 * that are none stay as they are; U+0000 and lone surrogates become U+FFFD. */
size_t fm_trace_unescape(const char *spelling, size_t length, char *to);

#endif
