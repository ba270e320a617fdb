/**
 * @file fs_manifest.h
 * The file format of dataset manifests, version 1. Little-endian.
 *
 *     OFFSET  SIZE  WHAT
 *     0       8     magic "FMDATSET"
 *     8       4     version, 1
 *     12      4     number of files, at least 1
 *     16      ...   for each file:
 *       0       8     its size in bytes, at most 2^63 - 1
 *       8       2     n: bytes of its name, 1 to 4095
 *       10      n     its name: a canonical path relative to the manifest's directory
 *       10+n    1     0, so that names can be used where they lie
 *     end-4   4     CRC32C of everything before it
 */
#ifndef FATHOM_FS_MANIFEST_H
#define FATHOM_FS_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#define FM_FS_MANIFEST_MAGIC   "FMDATSET"
#define FM_FS_MANIFEST_VERSION 1
enum {
    FM_FS_MANIFEST_HEADER_BYTES = 16,
    FM_FS_MANIFEST_RECORD_BYTES = 11, // a record without its name
    FM_FS_MANIFEST_CRC_BYTES = 4
};

struct fm_fs_manifest_file {
    uint64_t size;
    const char *name; // points into the parsed bytes
};

// Checks `length` bytes and makes the table of files, which the caller frees with fm_base_mem_free(); the
// bytes must outlive it. `source` names the manifest in messages. FM_ERR_FORMAT, FM_ERR_VERSION,
// FM_ERR_NOMEM.
fm_status fm_fs_manifest_parse(const void *bytes, size_t length, const char *source,
                               struct fm_fs_manifest_file **out_files, size_t *out_count);

#endif
