// Built in the place of uring/disk_uring.c where there is no liburing: every disk then works by blocking calls.
#include "disk_file.h"

fm_fs_ring *fm_fs_ring_new(fm_net_loop *loop, void (*done)(void *context, fm_fs_disk_io *io, int result),
                           void *context)
{
    (void)loop, (void)done, (void)context;
    return NULL;
}

void fm_fs_ring_free(fm_fs_ring *ring)
{
    (void)ring;
}

int fm_fs_ring_submit(fm_fs_ring *ring, int fd, fm_fs_disk_io *io, size_t done_bytes)
{
    (void)ring, (void)fd, (void)io, (void)done_bytes;
    return 0;
}
