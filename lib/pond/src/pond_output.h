/**
 * @file pond_output.h
 * A large file of known size, written at any place by several threads, past the page cache where the file system can.
 */
#ifndef POND_OUTPUT_H
#define POND_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/file.h"
#include "fathom/status.h"

/** What direct transfers are aligned to, in the file and in memory: no disk here has larger blocks. */
enum { FM_POND_DIRECT = 4096 };

/** Zero-initialise. */
typedef struct fm_pond_output {
    fm_file_draft draft;
    const char *path; /**< borrowed */
    int direct;       /**< a second descriptor of the draft, O_DIRECT; -1: none */
} fm_pond_output;

/** Begins `path` with `bytes` reserved. FM_ERR_SPACE where they do not fit; as fm_base_file_begin(). */
FM_MUST_USE fm_status fm_pond_output_begin(fm_pond_output *output, const char *path, uint64_t bytes);
/** Writes at `at`; any thread. What lies at an address that is congruent to `at` modulo FM_POND_DIRECT goes directly to disk
 * but for ragged pages at both ends. */
FM_MUST_USE fm_status fm_pond_output_write(fm_pond_output *output, uint64_t at, const void *bytes,
                                           size_t size);
/** As fm_base_file_commit(). */
FM_MUST_USE fm_status fm_pond_output_commit(fm_pond_output *output);
void fm_pond_output_discard(fm_pond_output *output);

/** Writes exactly `size` bytes. `path` is for the message. */
FM_MUST_USE fm_status fm_pond_output_write_fd(int fd, const char *path, uint64_t at, const void *bytes,
                                              size_t size);

/** A nameless file in `folder`, which is gone when it is closed or the process ends, in whichever way. Direct where the file
 * system can. */
FM_MUST_USE fm_status fm_pond_scratch_open(const char *folder, int *out_fd);

/** Bytes of the files in a folder and below; 0 for what cannot be read. */
uint64_t fm_pond_folder_bytes(const char *path);
/** Removes a folder in the making. What goes wrong is logged; the thread's message stays as it is. */
void fm_pond_folder_discard(const char *path);

/** Memory for bulk data: aligned to 2 MiB and on huge pages where the kernel gives them, since records are gathered from
 * all over it. NULL when there is none; free with fm_base_mem_free(). */
void *fm_pond_bulk_alloc(size_t size) FM_MUST_USE;

#endif
