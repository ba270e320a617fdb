/**
 * @file pond_input.h
 * Files that are read as one stream of bytes, at any place, by several threads.
 */
#ifndef POND_INPUT_H
#define POND_INPUT_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/mem.h"
#include "fathom/status.h"

typedef struct fm_pond_file {
    const char *path;
    uint64_t begin; /**< where in the stream it begins */
    uint64_t bytes;
} fm_pond_file;

/** Zero-initialise. */
typedef struct fm_pond_input {
    fm_pond_file *files;
    size_t count, capacity;
    uint64_t bytes;
    int direct; /**< read past the page cache where alignment allows */
    fm_arena paths;
} fm_pond_input;

/** Takes the files, and those of folders in the order of their names (not those of folders below, nor names that begin
 * with '.' or '_' or end in ".tmp", which are files in the making). Fails as the calls of the system do, naming the path. */
FM_MUST_USE fm_status fm_pond_input_add(fm_pond_input *input, const char *path);
/** Every file is a whole number of records: else FM_ERR_FORMAT, naming it. */
FM_MUST_USE fm_status fm_pond_input_check(const fm_pond_input *input, uint32_t record_bytes);
void fm_pond_input_clear(fm_pond_input *input);

/** Whether most of it lies in the page cache, by a sample of its pages. */
int fm_pond_input_cached(const fm_pond_input *input);

/** Reads exactly `size` bytes of the stream. FM_ERR_FORMAT: a file has become shorter. */
FM_MUST_USE fm_status fm_pond_input_read(const fm_pond_input *input, uint64_t at, void *to, size_t size);

/** Reads exactly `size` bytes of a file. `path` is for the message. */
FM_MUST_USE fm_status fm_pond_input_read_fd(int fd, const char *path, uint64_t at, void *to, size_t size);

#endif
