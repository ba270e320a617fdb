/**
 * @file pond_fs.h
 * Data on `fs`: fs:SPEC//PATH is PATH in the file system that fm_fs_open() opens by SPEC.
 *
 * DuckDB reads and writes files of this machine. Where a file system knows under which name the kernel sees its files, that name
 * stands for them; else (and with FM_POND_FS=copy in the environment) a task fetches what it reads, and results are copied.
 */
#ifndef POND_FS_H
#define POND_FS_H

#include "fathom/fs.h"
#include "pond_text.h"

/** Whether a path is of that form. */
int fm_pond_fs_is(const char *path);

/** Opens the file system of a path and finds where in it the path leads (a part of `url`; "." for the root). FM_ERR_ARG: no "//". */
FM_MUST_USE fm_status fm_pond_fs_open(const char *url, unsigned flags, fm_fs **out_fs, const char **out_path);

/** The name by which the kernel knows `path`; nothing is added where files are to be copied. */
FM_MUST_USE fm_status fm_pond_fs_local(fm_fs *fs, const char *path, fm_pond_text *out);

typedef fm_status (*fm_pond_fs_found)(void *context, const char *path, const fm_fs_info *info);
/** Calls found() for each file that a path names: a file; a folder, for all below it whose names do not begin with '.' or '_'; or a
 * pattern. FM_ERR_NOT_FOUND: a pattern without a match, or no such file. */
FM_MUST_USE fm_status fm_pond_fs_find(fm_fs *fs, const char *path, fm_pond_fs_found found, void *context);

/** The first `size` bytes of a file, or fewer. */
FM_MUST_USE fm_status fm_pond_fs_head(const char *url, void *buffer, size_t size, size_t *out_length);

/** What a task has fetched. Zero-initialise. */
typedef struct fm_pond_fetched {
    struct fm_pond_fetched_file *files;
    size_t count, capacity, next;
    char *folder; /**< NULL before the first */
} fm_pond_fetched;

/** Adds `sql` to `out` with local names for strings that are paths on fs, whose files are fetched into `folder` where they are not
 * there yet. */
FM_MUST_USE fm_status fm_pond_fs_fetch(fm_pond_fetched *fetched, const char *folder, const char *sql,
                                       fm_pond_text *out);
/** Puts paths on fs back into a message that names fetched files. */
void fm_pond_fs_name(const fm_pond_fetched *fetched, const char *message, fm_pond_text *out);
/** Removes what was fetched. */
void fm_pond_fs_forget(fm_pond_fetched *fetched);

#endif
