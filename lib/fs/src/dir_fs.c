// The plain-directory back end: the root, and names.
#include "dir_fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/mem.h"

static fm_status status_of(int err)
{
    switch (err) {
    case ENOENT:
        return FM_ERR_NOT_FOUND;
    case EEXIST:
        return FM_ERR_EXISTS;
    case ENOTDIR:
        return FM_ERR_FS_NOT_DIR;
    case EISDIR:
        return FM_ERR_FS_IS_DIR;
    case ENOTEMPTY:
        return FM_ERR_FS_NOT_EMPTY;
    case ENOSPC:
    case EDQUOT:
        return FM_ERR_SPACE;
    case EACCES:
    case EPERM:
    case EROFS:
        return FM_ERR_PERM;
    case ENAMETOOLONG:
    case ELOOP:
    case EMFILE:
    case ENFILE:
    case EFBIG:
    case EMLINK:
        return FM_ERR_LIMIT;
    case ENOMEM:
        return FM_ERR_NOMEM;
    case EBUSY:
    case ETXTBSY:
    case EAGAIN:
        return FM_ERR_BUSY;
    case EXDEV:
    case EOPNOTSUPP:
    case ENOSYS:
    case ENXIO: // a pipe that nobody reads, a socket, a device that is gone
        return FM_ERR_UNSUPPORTED;
    default:
        return FM_ERR_IO;
    }
}

fm_status fm_fs_dir_error(const fm_fs *fs, int err, const char *doing, const char *path)
{
    return fm_base_error_set_errno(status_of(err), err, "cannot %s %s/%s", doing,
                                   ((const struct dir_fs *)fs)->root_path, path);
}

fm_status fm_fs_dir_open_error(const fm_fs *fs, int err, const char *doing, const char *path)
{
    if (err == EXDEV)
        return fm_base_error_set(FM_ERR_PERM, "cannot %s %s/%s: a symbolic link leads out of the root", doing,
                                 ((const struct dir_fs *)fs)->root_path, path);
    return fm_fs_dir_error(fs, err, doing, path);
}

fm_fs_type fm_fs_dir_type(mode_t mode)
{
    return S_ISREG(mode)   ? FM_FS_TYPE_FILE
           : S_ISDIR(mode) ? FM_FS_TYPE_DIR
           : S_ISLNK(mode) ? FM_FS_TYPE_LINK
                           : FM_FS_TYPE_OTHER;
}

void fm_fs_dir_info(const struct stat *from, fm_fs_info *out_info)
{
    *out_info = (fm_fs_info){
        .type = fm_fs_dir_type(from->st_mode),
        .size = S_ISREG(from->st_mode) ? (uint64_t)from->st_size : 0,
        .mtime_ns = (int64_t)from->st_mtim.tv_sec * 1000000000 + from->st_mtim.tv_nsec,
        .id = from->st_ino,
    };
}

static fm_status open_error(int err, const char *where)
{
    return fm_base_error_set_errno(status_of(err), err, "cannot open %s", where);
}

// Fills root_path with a copy that fm_base_mem counts.
static fm_status keep_root_path(struct dir_fs *dir, const char *where)
{
    char *absolute = realpath(where, NULL);
    if (!absolute)
        return open_error(errno, where);
    if (strcmp(absolute, "/") == 0)
        *absolute = 0;
    dir->root_path = fm_base_mem_strdup(absolute);
    free(absolute);
    return dir->root_path ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory to open %s", where);
}

static void dir_close(fm_fs *fs)
{
    struct dir_fs *dir = (struct dir_fs *)fs;
    if (dir->root >= 0)
        close(dir->root);
    fm_base_mem_free(dir->root_path);
    fm_base_mem_free(dir);
}

static fm_status dir_open(const char *where, unsigned flags, fm_fs **out_fs)
{
    if (flags & FM_FS_CREATE)
        FM_TRY(fm_base_dir_create(where));
    struct dir_fs *dir = fm_base_mem_alloc(sizeof *dir);
    if (!dir)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to open %s", where);
    *dir = (struct dir_fs){.base.ops = &fm_fs_dir_ops};
    dir->root = open(where, O_PATH | O_DIRECTORY | O_CLOEXEC);
    fm_status status = dir->root < 0 ? open_error(errno, where) : keep_root_path(dir, where);
    if (status < 0) {
        dir_close(&dir->base);
        return status;
    }
    dir->have_openat2 = fm_fs_dir_probe_openat2(dir->root);
    *out_fs = &dir->base;
    return FM_OK;
}

static fm_status dir_stat(fm_fs *fs, const char *path, fm_fs_info *out_info)
{
    struct stat info;
    int fd = fm_fs_dir_open_below((struct dir_fs *)fs, path, O_PATH, 0);
    if (fd < 0)
        return fm_fs_dir_open_error(fs, errno, "look at", path);
    int failed = fstat(fd, &info) < 0;
    int err = errno;
    close(fd);
    if (failed)
        return fm_fs_dir_error(fs, err, "look at", path);
    fm_fs_dir_info(&info, out_info);
    return FM_OK;
}

enum name_call { NAME_MKDIR, NAME_UNLINK, NAME_RMDIR };

// The calls that take the directory's descriptor and the last component.
static fm_status call_on_name(fm_fs *fs, const char *path, enum name_call call, const char *doing)
{
    const char *leaf = fm_fs_path_leaf(path);
    int parent = fm_fs_dir_open_parent((struct dir_fs *)fs, path);
    if (parent < 0)
        return fm_fs_dir_open_error(fs, errno, doing, path);
    int failed = call == NAME_MKDIR ? mkdirat(parent, leaf, 0777)
                                    : unlinkat(parent, leaf, call == NAME_RMDIR ? AT_REMOVEDIR : 0);
    int err = errno;
    close(parent);
    if (!failed)
        return FM_OK;
    if (call == NAME_RMDIR && err == EEXIST) // POSIX lets rmdir say this for ENOTEMPTY
        err = ENOTEMPTY;
    return fm_fs_dir_error(fs, err, doing, path);
}

static fm_status dir_mkdir(fm_fs *fs, const char *path)
{
    return call_on_name(fs, path, NAME_MKDIR, "make directory");
}

static fm_status dir_unlink(fm_fs *fs, const char *path)
{
    return call_on_name(fs, path, NAME_UNLINK, "remove");
}

static fm_status dir_rmdir(fm_fs *fs, const char *path)
{
    return call_on_name(fs, path, NAME_RMDIR, "remove directory");
}

static fm_status rename_error(const struct dir_fs *dir, int err, const char *from, const char *to,
                              unsigned flags)
{
    fm_status status = status_of(err);
    if (err == EEXIST && !(flags & FM_FS_EXCLUSIVE)) // POSIX lets rename say this for ENOTEMPTY
        status = FM_ERR_FS_NOT_EMPTY;
    if (err == EINVAL)
        status = FM_ERR_ARG;
    return fm_base_error_set_errno(status, err, "cannot rename %s to %s in %s", from, to, dir->root_path);
}

// EINVAL means two things: the medium knows no exclusive rename, or a directory would move into itself. In
// the second case the plain path shows it, unless links hide it.
static int moves_into_itself(const char *from, const char *to)
{
    size_t length = strlen(from);
    return strncmp(from, to, length) == 0 && to[length] == '/';
}

static fm_status dir_rename(fm_fs *fs, const char *from, const char *to, unsigned flags)
{
    const struct dir_fs *dir = (struct dir_fs *)fs;
    int old_parent = fm_fs_dir_open_parent(dir, from);
    if (old_parent < 0)
        return fm_fs_dir_open_error(fs, errno, "rename", from);
    int new_parent = fm_fs_dir_open_parent(dir, to);
    if (new_parent < 0) {
        int err = errno;
        close(old_parent);
        return fm_fs_dir_open_error(fs, err, "rename to", to);
    }
    int failed = renameat2(old_parent, fm_fs_path_leaf(from), new_parent, fm_fs_path_leaf(to),
                           flags & FM_FS_EXCLUSIVE ? RENAME_NOREPLACE : 0) < 0;
    int err = errno;
    close(new_parent);
    close(old_parent);
    if (!failed)
        return FM_OK;
    if (err == EINVAL && (flags & FM_FS_EXCLUSIVE) && !moves_into_itself(from, to))
        return fm_base_error_set(
            FM_ERR_UNSUPPORTED,
            "cannot rename %s to %s: the medium of %s/ knows no rename that does not replace", from, to,
            dir->root_path);
    return rename_error(dir, err, from, to, flags);
}

// By the descriptor of the file, whose path was resolved below the root: linkat() itself would follow links anywhere.
static fm_status link_descriptor(const struct dir_fs *dir, int fd, const char *from, const char *to)
{
    char by_number[64];
    struct stat info;
    if (fstat(fd, &info) < 0)
        return fm_fs_dir_error(&dir->base, errno, "look at", from);
    if (S_ISDIR(info.st_mode))
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "cannot link %s in %s: it is a directory", from,
                                 dir->root_path);
    int parent = fm_fs_dir_open_parent(dir, to);
    if (parent < 0)
        return fm_fs_dir_open_error(&dir->base, errno, "link to", to);
    snprintf(by_number, sizeof by_number, "/proc/self/fd/%d", fd);
    int failed = linkat(AT_FDCWD, by_number, parent, fm_fs_path_leaf(to), AT_SYMLINK_FOLLOW) < 0;
    int err = errno;
    close(parent);
    if (failed && (err == EXDEV || err == EPERM || err == EMLINK || err == EOPNOTSUPP))
        return fm_base_error_set_errno(FM_ERR_UNSUPPORTED, err, "cannot give %s the name %s in %s", from, to,
                                       dir->root_path);
    return failed ? fm_fs_dir_error(&dir->base, err, "link", from) : FM_OK;
}

static fm_status dir_link(fm_fs *fs, const char *from, const char *to)
{
    const struct dir_fs *dir = (struct dir_fs *)fs;
    int fd = fm_fs_dir_open_below(dir, from, O_PATH, 0);
    if (fd < 0)
        return fm_fs_dir_open_error(fs, errno, "link", from);
    fm_status status = link_descriptor(dir, fd, from, to);
    close(fd);
    return status;
}

static fm_status dir_dir_sync(fm_fs *fs, const char *path)
{
    int fd = fm_fs_dir_open_below((struct dir_fs *)fs, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fm_fs_dir_open_error(fs, errno, "sync directory", path);
    int failed = TEMP_FAILURE_RETRY(fsync(fd)) < 0;
    int err = errno;
    close(fd);
    return failed ? fm_fs_dir_error(fs, err, "sync directory", path) : FM_OK;
}

static fm_status dir_local_path(fm_fs *fs, const char *path, char *out_path, size_t size)
{
    const char *root = ((struct dir_fs *)fs)->root_path;
    const char *between = *path || !*root ? "/" : "";
    size_t bytes = strlen(root) + strlen(between) + strlen(path) + 1;
    if (bytes > size)
        return fm_base_error_set(FM_ERR_LIMIT, "the local path of %s takes %zu bytes; there is room for %zu",
                                 path, bytes, size);
    snprintf(out_path, size, "%s%s%s", root, between, path);
    return FM_OK;
}

const struct fm_fs_ops fm_fs_dir_ops = {
    .scheme = "dir",
    .open = dir_open,
    .close = dir_close,
    .stat = dir_stat,
    .mkdir = dir_mkdir,
    .unlink = dir_unlink,
    .rmdir = dir_rmdir,
    .remove_all = fm_fs_dir_remove_all,
    .rename = dir_rename,
    .link = dir_link,
    .dir_sync = dir_dir_sync,
    .local_path = dir_local_path,
    .list_open = fm_fs_dir_list_open,
    .list_next = fm_fs_dir_list_next,
    .list_close = fm_fs_dir_list_close,
    .file_open = fm_fs_dir_file_open,
    .file_close = fm_fs_dir_file_close,
    .file_stat = fm_fs_dir_file_stat,
    .file_read = fm_fs_dir_file_read,
    .file_write = fm_fs_dir_file_write,
    .file_truncate = fm_fs_dir_file_truncate,
    .file_sync = fm_fs_dir_file_sync,
#ifdef FM_HAVE_IO_URING
    .queue_open = fm_fs_dir_uring_open,
#endif
};
