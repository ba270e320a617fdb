/**
 * @file dir_fs.h
 * The plain-directory back end: what its files share.
 *
 * Every access goes through the root's descriptor, one of two resolvers, and the *at() calls on the last
 * component, so that no path and no symbolic link leads out of the root, whoever renames what meanwhile.
 */
#ifndef FATHOM_DIR_FS_H
#define FATHOM_DIR_FS_H

#include "fs_backend.h"

#include <sys/stat.h>
#include <sys/types.h>

struct dir_fs {
    fm_fs base;
    int root;         // O_PATH
    int have_openat2; // else every path is walked
    char *root_path;  // absolute, without a '/' at its end: "" for "/"
};

struct dir_file {
    fm_fs_file base;
    int fd;
};

// dir_resolve.c

// Opens canonical `path` below the root as open(2) does, following links that stay below. A descriptor, or
// -1 with errno; EXDEV means that a link leads out.
int fm_fs_dir_open_below(const struct dir_fs *fs, const char *path, int flags, mode_t mode);

// Whether this kernel lets us use openat2(2) on the root: it came with Linux 5.6, and some sandboxes forbid
// it.
int fm_fs_dir_probe_openat2(int root);

// Opens the directory that holds canonical, non-root `path` with O_PATH. As above.
int fm_fs_dir_open_parent(const struct dir_fs *fs, const char *path);

// dir_fs.c

// The status for `err`, with the message "cannot <doing> <root>/<path>: <why>".
fm_status fm_fs_dir_error(const fm_fs *fs, int err, const char *doing, const char *path);
// The same for a failed open below the root, where EXDEV means that a link leads out.
fm_status fm_fs_dir_open_error(const fm_fs *fs, int err, const char *doing, const char *path);
fm_fs_type fm_fs_dir_type(mode_t mode);
void fm_fs_dir_info(const struct stat *from, fm_fs_info *out_info);

// dir_file.c, dir_list.c, dir_remove.c, dir_uring.c: slots of the table

fm_status fm_fs_dir_file_open(fm_fs *fs, const char *path, unsigned flags, fm_fs_file **out_file);
void fm_fs_dir_file_close(fm_fs_file *file);
fm_status fm_fs_dir_file_stat(fm_fs_file *file, fm_fs_info *out_info);
fm_status fm_fs_dir_file_read(fm_fs_file *file, void *buffer, size_t length, uint64_t offset,
                              size_t *out_length);
fm_status fm_fs_dir_file_write(fm_fs_file *file, const void *data, size_t length, uint64_t offset);
fm_status fm_fs_dir_file_truncate(fm_fs_file *file, uint64_t size);
fm_status fm_fs_dir_file_sync(fm_fs_file *file);
fm_status fm_fs_dir_list_open(fm_fs *fs, const char *path, fm_fs_list **out_list);
fm_status fm_fs_dir_list_next(fm_fs_list *list, const fm_fs_entry **out_entry);
void fm_fs_dir_list_close(fm_fs_list *list);
fm_status fm_fs_dir_remove_all(fm_fs *fs, const char *path);
fm_status fm_fs_dir_uring_open(fm_fs *fs, unsigned depth, fm_fs_queue **out_queue);

#endif
