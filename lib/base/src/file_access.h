/* Whole files: read, mapped, and written so that a reader finds the old or the new one, never a part. */
#ifndef FILE_ACCESS_H
#define FILE_ACCESS_H

#include <stddef.h>

#include "fathom/status.h"

/** Reads all of a file, or of standard input when `path` is NULL, into a block that the caller frees.
 *  FM_ERR_NOT_FOUND, FM_ERR_IO, FM_ERR_NOMEM; FM_ERR_LIMIT when there are more than `bytes_max`. */
FM_MUST_USE fm_status fm_base_file_read(const char *path, size_t bytes_max, char **out_text,
                                        size_t *out_length);

#endif
