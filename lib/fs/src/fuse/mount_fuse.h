/**
 * @file mount_fuse.h
 * A mount and its requests. Inode numbers are the kernel's, too, and are never used again, so no table of nodes is kept;
 * only of the files that are open here.
 */
#ifndef FATHOM_MOUNT_FUSE_H
#define FATHOM_MOUNT_FUSE_H

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>
#include <pthread.h>

#include "fathom/fs_mount.h"
#include "fathom/mem.h"

enum { FM_FS_MOUNT_BUCKETS = 256, FM_FS_MOUNT_GROUPS = 64 };

// A file that is open here.
struct fm_fs_mount_file {
    struct fm_fs_mount_file *next; // in its bucket
    uint64_t ino;
    unsigned opens;
    int held;    // its last name was removed here
    int written; // since the time of change was told
};

struct fm_fs_mount {
    fm_fs_mount_options options;
    fm_fs_volume *volume;
    fm_fs_meta *meta;
    uint64_t client; // in whose name removed open files are held
    struct fuse_session *session;
    int mounted, signals;
    pthread_t keeper;
    int keeping;
    pthread_mutex_t lock; // all below
    pthread_cond_t wake;
    int ending;
    unsigned held;
    struct fm_fs_mount_file *files[FM_FS_MOUNT_BUCKETS];
};

// Who asks, with the further groups of the asking process.
struct fm_fs_mount_who {
    fm_fs_who who;
    uint32_t groups[FM_FS_MOUNT_GROUPS];
};

// mount_fuse.c

fm_fs_mount *fm_fs_mount_of(fuse_req_t request);
void fm_fs_mount_who(fuse_req_t request, struct fm_fs_mount_who *out_who);
int fm_fs_mount_errno(fm_status status);
void fm_fs_mount_stat(const fm_fs_node *node, struct stat *out_stat);
void fm_fs_mount_reply_entry(fuse_req_t request, const fm_fs_node *node);
void fm_fs_mount_reply_status(fuse_req_t request, fm_status status);
// The open file `ino`; NULL: it is not open here. With `lock` held.
struct fm_fs_mount_file *fm_fs_mount_file(fm_fs_mount *mount, uint64_t ino);
// Before a name is removed: if the node is open here and this is its last name, it is held.
fm_status fm_fs_mount_keep(fm_fs_mount *mount, uint64_t parent, const char *name);

// mount_names.c, mount_files.c: fill in their requests
void fm_fs_mount_names(struct fuse_lowlevel_ops *ops);
void fm_fs_mount_files(struct fuse_lowlevel_ops *ops);

#endif
