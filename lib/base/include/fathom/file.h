/**
 * @file file.h
 * Files and folders: read or mapped whole, written so that readers find the old or the new content and never a part,
 * made and removed with what they hold; and how much room is left.
 *
 * Every failure names the path. Which code a system error becomes is said at fm_base_file_error(). Any thread may call
 * these; one draft belongs to one thread at a time.
 */
#ifndef FATHOM_FILE_H
#define FATHOM_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Sets "<text>: <strerror(err)>" as the thread's message and returns the code that the errno value `err` stands for:
 * ENOENT FM_ERR_NOT_FOUND; EEXIST FM_ERR_EXISTS; EACCES, EPERM, EROFS FM_ERR_PERM; ENOSPC, EDQUOT FM_ERR_SPACE; EFBIG
 * FM_ERR_LIMIT; ENOMEM FM_ERR_NOMEM; every other FM_ERR_IO.
 */
FM_API fm_status fm_base_file_error(int err, const char *format, ...) FM_PRINTF(2, 3);

/**
 * Reads all of a file, or of standard input when `path` is NULL, into a block that the caller frees with
 * fm_base_mem_free(). Pipes and files of unknown size are read to their end. FM_ERR_LIMIT when there are more than
 * `bytes_max` bytes.
 */
FM_API FM_MUST_USE fm_status fm_base_file_read(const char *path, size_t bytes_max, char **out_bytes,
                                               size_t *out_length);

/** A file mapped read-only; zero-initialised, or of an empty file, it holds NULL and 0. */
typedef struct fm_file_map {
    const void *bytes;
    size_t length;
} fm_file_map;

/**
 * Maps a regular file. The bytes are the file's own: a program that cuts the file short meanwhile makes reading beyond its
 * end a SIGBUS, so map only files that are replaced as drafts replace them.
 */
FM_API FM_MUST_USE fm_status fm_base_file_map(const char *path, fm_file_map *out_map);
/** Unmaps, and empties the struct. */
FM_API void fm_base_file_unmap(fm_file_map *map);

/**
 * A file in the making: it lies beside `path` as "<path>.<pid>.<number>.tmp" until it is committed, and takes the name
 * `path` in one step then. It has the permissions of a new file; a symbolic link of that name is replaced, not followed.
 * Zero-initialised, a draft is nothing, and discarding it does nothing.
 */
typedef struct fm_file_draft {
    char *path;       /**< private */
    char *draft_path; /**< private; NULL: no draft is open */
    int fd;
} fm_file_draft;

FM_API FM_MUST_USE fm_status fm_base_file_begin(fm_file_draft *draft, const char *path);
/** Writes at any place; what is never written reads as zeros. */
FM_API FM_MUST_USE fm_status fm_base_file_write(fm_file_draft *draft, uint64_t offset, const void *bytes,
                                                size_t size);
/** Makes the content durable, then its name: fsync, rename, fsync of the folder. Ends the draft; when it fails, it is
 * removed and what `path` named before stays, except that after a failure to sync the folder the new file is in place
 * and may be the old one again after a crash. FM_ERR_STATE when no draft is open. */
FM_API FM_MUST_USE fm_status fm_base_file_commit(fm_file_draft *draft);
/** Ends the draft and removes it. */
FM_API void fm_base_file_discard(fm_file_draft *draft);

/** All four in one: `path` holds these bytes, or what it held before. */
FM_API FM_MUST_USE fm_status fm_base_file_save(const char *path, const void *bytes, size_t size);

/** Makes a folder and those above it; one that is there already is success. FM_ERR_EXISTS when it is another thing. */
FM_API FM_MUST_USE fm_status fm_base_dir_create(const char *path);
/** Removes a file, or a folder with everything below it; nothing there is success. Symbolic links are removed, not
 * followed, and what is mounted below is not entered: removing fails there (FM_ERR_IO). */
FM_API FM_MUST_USE fm_status fm_base_dir_remove(const char *path);

/** Bytes that a user without privileges may still write to the file system that holds `path`: a folder of data, or
 * /dev/shm for shared memory (which needs room in memory as well). */
FM_API FM_MUST_USE fm_status fm_base_space_disk(const char *path, uint64_t *out_bytes);
/**
 * Bytes of memory that new work may take without swapping: MemAvailable of /proc/meminfo, or what the memory limit of this
 * process's control group (version 1 or 2) or of one above it leaves, whichever is less. File pages that the kernel can
 * drop count as free. FM_ERR_UNAVAILABLE where /proc/meminfo does not tell.
 */
FM_API FM_MUST_USE fm_status fm_base_space_memory(uint64_t *out_bytes);

#ifdef __cplusplus
}
#endif
#endif
