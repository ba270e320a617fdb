/**
 * @file mem_fs.h
 * A back end in memory, simple enough to be believed. Tests use it in three ways: as the model that the
 * real back ends must agree with; as a disk whose power is cut, which loses what was not synced; and as a
 * disk that fails.
 */
#ifndef FM_MEM_FS_H
#define FM_MEM_FS_H

#include "fm_gen.h"
#include "fs_backend.h"

/** An empty file system; fm_fs_close() frees it. Never fails. One thread at a time. */
fm_fs *fm_fs_mem_new(void);

/** Operations carried out so far; closing is none. */
size_t fm_fs_mem_operations(const fm_fs *fs);

/** Operation number `n` (1-based, from now on) and all later ones fail with FM_ERR_IO. A write that is
 *  number `n` is half done. 0: none fails. */
void fm_fs_mem_fail_at(fm_fs *fs, size_t n);

/**
 * What a power cut leaves. Of the changes to each directory since its last sync, `gen` chooses which are
 * undone; a rename within a directory is one change. Each file has its last synced content, or its present
 * one, or a part of the present one. What is left is durable, and no operation fails any more. Open files
 * and lists must be closed.
 */
void fm_fs_mem_power_cut(fm_fs *fs, fm_gen *gen);

#endif
