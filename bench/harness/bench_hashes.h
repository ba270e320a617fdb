/**
 * @file bench_hashes.h
 * The committed hashes of results: a text file with a line "<bench> <case> <16 hexadecimal digits>" for each, sorted.
 * Lines that begin with '#' are comments; they are not kept.
 */
#ifndef BENCH_HASHES_H
#define BENCH_HASHES_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/mem.h"
#include "fathom/status.h"

typedef struct fm_bench_hash_line {
    const char *bench;
    const char *name;
    uint64_t hash;
} fm_bench_hash_line;

/** Zero-initialise. */
typedef struct fm_bench_hashes {
    fm_bench_hash_line *lines;
    size_t count;
    fm_arena names;
} fm_bench_hashes;

/** A file that does not exist is an empty one. FM_ERR_FORMAT (file and line), FM_ERR_NOMEM, and as
 * fm_base_file_read(). */
FM_MUST_USE fm_status fm_bench_hashes_load(const char *path, fm_bench_hashes *out_hashes);
/** Replaces the file in one step. Fails as fm_base_file_save() does. */
FM_MUST_USE fm_status fm_bench_hashes_save(const fm_bench_hashes *hashes, const char *path);
void fm_bench_hashes_clear(fm_bench_hashes *hashes);

/** NULL when there is none. */
const fm_bench_hash_line *fm_bench_hashes_find(const fm_bench_hashes *hashes, const char *bench,
                                               const char *name);
/** Adds or replaces, in order. FM_ERR_NOMEM. */
FM_MUST_USE fm_status fm_bench_hashes_set(fm_bench_hashes *hashes, const char *bench, const char *name,
                                          uint64_t hash);

#endif
