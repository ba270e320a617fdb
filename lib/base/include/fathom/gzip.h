/**
 * @file gzip.h
 * A file read as a stream, plain or compressed by gzip: the first two bytes tell which.
 *
 *     fm_gzip *stream;
 *     FM_TRY(fm_base_gzip_open("trace.json.gz", &stream));
 *     do {
 *         FM_TRY(fm_base_gzip_read(stream, buffer, sizeof buffer, &got));     // close it on failure, too
 *         ...
 *     } while (got > 0);
 *     fm_base_gzip_close(stream);
 *
 * Files of several gzip members, one after the other, are read as one. One stream belongs to one thread.
 */
#ifndef FATHOM_GZIP_H
#define FATHOM_GZIP_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_gzip fm_gzip;

/** Opens a file, or standard input for "-". FM_ERR_NOT_FOUND, FM_ERR_PERM, FM_ERR_IO, FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_base_gzip_open(const char *path, fm_gzip **out_stream);
/**
 * Reads up to `size` (at least 1) bytes of content; 0 at the end. Content in front of damage is handed out before the
 * damage is reported: FM_ERR_FORMAT when the compressed data are malformed, cut short or fail their check sum (message:
 * the offset in the file); FM_ERR_IO; FM_ERR_NOMEM. After a failure only closing is left.
 */
FM_API FM_MUST_USE fm_status fm_base_gzip_read(fm_gzip *stream, void *to, size_t size, size_t *out_got);
/** Bytes of the file itself that have been taken so far: for progress. */
FM_API uint64_t fm_base_gzip_taken(const fm_gzip *stream);
/** Closes; NULL is allowed. */
FM_API void fm_base_gzip_close(fm_gzip *stream);

#ifdef __cplusplus
}
#endif
#endif
