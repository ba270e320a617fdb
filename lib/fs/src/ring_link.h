/**
 * @file ring_link.h
 * A program's connection to the process of a mount.
 */
#ifndef FATHOM_RING_LINK_H
#define FATHOM_RING_LINK_H

#include "ring.h"

struct fm_fs_link;

// The connection to the mount that `fd` is a file of; one is made where there is none, or where it broke. 0 or a negative
// errno value: -ENOENT (nothing serves there).
int fm_fs_link_take(int fd, struct fm_fs_link **out_link);
// The same for the mount's directory.
int fm_fs_link_take_at(const char *mount_point, struct fm_fs_link **out_link);
struct fm_fs_link *fm_fs_link_ref(struct fm_fs_link *link);
void fm_fs_link_leave(struct fm_fs_link *link); // NULL is allowed
// Numbers connections of this program.
unsigned fm_fs_link_serial(const struct fm_fs_link *link);
// To be watched for POLLHUP.
int fm_fs_link_fd(const struct fm_fs_link *link);

// Asks, with a descriptor (-1: none), and takes the answer with up to two (-1 where none came; theirs is the caller).
// 0, or the answer's error, or -ENOTCONN.
int fm_fs_link_ask(struct fm_fs_link *link, struct fm_fs_ring_ask *ask, int fd, uint64_t *out_value,
                   int out_fds[2]);

#endif
