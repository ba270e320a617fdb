/**
 * @file disk_file.h
 * The disk of a target as files in a directory: O_DIRECT where the file system has it, io_uring where the kernel
 * allows it, blocking calls elsewhere.
 */
#ifndef FATHOM_DISK_FILE_H
#define FATHOM_DISK_FILE_H

#include "fs_runtime.h"

#include "fathom/net.h"

enum { FM_FS_DISK_BLOCKING = 1, FM_FS_DISK_BUFFERED = 2 };

// Opens the files in `path`, a directory that is made if it is missing. Completions come in the loop. `flags`:
// FM_FS_DISK_BLOCKING, no io_uring; FM_FS_DISK_BUFFERED, no O_DIRECT. FM_ERR_IO, FM_ERR_PERM, FM_ERR_BUSY (another
// process has it), FM_ERR_NOMEM.
fm_status fm_fs_disk_open(fm_net_loop *loop, const char *path, uint64_t capacity_bytes, unsigned flags,
                          fm_fs_disk **out_disk);
// Waits for what the kernel still does; none of it is told any more.
void fm_fs_disk_close(fm_fs_disk *disk);
const char *fm_fs_disk_engine(const fm_fs_disk *disk); // "io_uring, O_DIRECT" and so on

// uring/disk_uring.c: the queue behind it. NULL where there is no io_uring.
typedef struct fm_fs_ring fm_fs_ring;
fm_fs_ring *fm_fs_ring_new(fm_net_loop *loop, void (*done)(void *context, fm_fs_disk_io *io, int result),
                           void *context);
void fm_fs_ring_free(fm_fs_ring *ring);
// 0: it is full, try again after a completion.
int fm_fs_ring_submit(fm_fs_ring *ring, int fd, fm_fs_disk_io *io, size_t done_bytes);

#endif
