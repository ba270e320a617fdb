/* Whole files: read, mapped, and written so that a reader finds the old or the new one, never a part. */
#ifndef FILE_ACCESS_H
#define FILE_ACCESS_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

/** Reads all of a file, or of standard input when `path` is NULL, into a block that the caller frees.
 *  FM_ERR_NOT_FOUND, FM_ERR_IO, FM_ERR_NOMEM; FM_ERR_LIMIT when there are more than `bytes_max`. */
FM_MUST_USE fm_status fm_base_file_read(const char *path, size_t bytes_max, char **out_text,
                                        size_t *out_length);

/** A file mapped read-only. Zero-initialised, it holds nothing. */
struct fm_file_map {
    void *bytes;
    size_t length;
};

/** Maps a regular file. FM_ERR_NOT_FOUND, FM_ERR_IO. */
FM_MUST_USE fm_status fm_base_file_map(const char *path, struct fm_file_map *out_map);
void fm_base_file_unmap(struct fm_file_map *map);

/**
 * A file being written under another name beside `path`, which it replaces when it is committed.
 * Zero-initialise. Failures are FM_ERR_IO, FM_ERR_NOT_FOUND (no such folder), FM_ERR_SPACE, FM_ERR_NOMEM.
 */
struct fm_file_draft {
    char *path;
    char *draft_path; // NULL: nothing is open
    int fd;
};

FM_MUST_USE fm_status fm_base_file_begin(struct fm_file_draft *draft, const char *path);
FM_MUST_USE fm_status fm_base_file_write(struct fm_file_draft *draft, uint64_t offset, const void *bytes,
                                         size_t size);
/** Makes the file durable and visible under its name. Discards it on failure. */
FM_MUST_USE fm_status fm_base_file_commit(struct fm_file_draft *draft);
/** Removes what was written. */
void fm_base_file_discard(struct fm_file_draft *draft);

#endif
