/**
 * @file pond_batch.h
 * Functions on batches: found, and run between two relations of a task.
 */
#ifndef POND_BATCH_H
#define POND_BATCH_H

#include "fathom/pond.h"
#include "pond_text.h"

typedef struct fm_pond_found {
    fm_pond_function function;
    void *context;
    char version[64]; /**< as registered; of a shared object, a digest of its file */
} fm_pond_found;

/** A registered function, or "file.so:symbol". FM_ERR_NOT_FOUND: neither. */
FM_MUST_USE fm_status fm_pond_function_find(const char *name, fm_pond_found *out_found);

#ifdef FM_HAVE_DUCKDB
#include "pond_session.h"

/** Runs the function over the rows of `from` and puts its rows into the new table `into`. */
FM_MUST_USE fm_status fm_pond_batch_run(const fm_pond_session *session, const char *name, const char *from,
                                        const char *into, const char *schema, int64_t partition);
/** Writes the bytes of the only column of `from` to a new file. */
FM_MUST_USE fm_status fm_pond_batch_write_raw(const fm_pond_session *session, const char *from,
                                              const char *path, uint64_t *out_rows);
#endif

#endif
