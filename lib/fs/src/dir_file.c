// The plain-directory back end: open files.
#include "dir_fs.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "fathom/mem.h"

static int open_flags(unsigned flags)
{
    int mode = !(flags & FM_FS_WRITE) ? O_RDONLY : flags & FM_FS_READ ? O_RDWR : O_WRONLY;
    // O_NONBLOCK: a pipe in the directory must not hang us.
    return mode | O_NONBLOCK | O_NOCTTY | (flags & FM_FS_CREATE ? O_CREAT : 0) |
           (flags & FM_FS_EXCLUSIVE ? O_EXCL : 0) | (flags & FM_FS_TRUNCATE ? O_TRUNC : 0);
}

// Makes sure that it is a regular file's descriptor, and takes O_NONBLOCK off again, which io_uring obeys.
static fm_status check_regular(const fm_fs *fs, int fd, const char *path)
{
    struct stat info;
    if (fstat(fd, &info) < 0)
        return fm_fs_dir_error(fs, errno, "look at", path);
    if (S_ISDIR(info.st_mode))
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "cannot open %s/%s: it is a directory",
                                 ((const struct dir_fs *)fs)->root_path, path);
    if (!S_ISREG(info.st_mode))
        return fm_base_error_set(FM_ERR_UNSUPPORTED,
                                 "cannot open %s/%s: it is neither a file nor a directory",
                                 ((const struct dir_fs *)fs)->root_path, path);
    if (fcntl(fd, F_SETFL, 0) < 0)
        return fm_fs_dir_error(fs, errno, "open", path);
    return FM_OK;
}

fm_status fm_fs_dir_file_open(fm_fs *fs, const char *path, unsigned flags, fm_fs_file **out_file)
{
    struct dir_file *file = fm_base_mem_zalloc(1, sizeof *file);
    if (!file)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to open %s", path);
    file->fd = fm_fs_dir_open_below((struct dir_fs *)fs, path, open_flags(flags), 0666);
    fm_status status =
        file->fd < 0 ? fm_fs_dir_open_error(fs, errno, "open", path) : check_regular(fs, file->fd, path);
    if (status < 0) {
        if (file->fd >= 0)
            close(file->fd);
        fm_base_mem_free(file);
        return status;
    }
    if (flags & FM_FS_RANDOM)
        (void)posix_fadvise(file->fd, 0, 0, POSIX_FADV_RANDOM); // a hint; a medium may not know it
    *out_file = &file->base;
    return FM_OK;
}

void fm_fs_dir_file_close(fm_fs_file *file)
{
    close(((struct dir_file *)file)->fd);
    fm_base_mem_free(file);
}

fm_status fm_fs_dir_file_stat(fm_fs_file *file, fm_fs_info *out_info)
{
    struct stat info;
    if (fstat(((struct dir_file *)file)->fd, &info) < 0)
        return fm_fs_dir_error(file->fs, errno, "look at", file->path);
    fm_fs_dir_info(&info, out_info);
    return FM_OK;
}

fm_status fm_fs_dir_file_read(fm_fs_file *file, void *buffer, size_t length, uint64_t offset,
                              size_t *out_length)
{
    int fd = ((struct dir_file *)file)->fd;
    size_t done = 0;
    while (done < length) {
        ssize_t got = pread(fd, (char *)buffer + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fm_fs_dir_error(file->fs, errno, "read", file->path);
        if (got == 0)
            break;
        done += (size_t)got;
    }
    *out_length = done;
    return FM_OK;
}

fm_status fm_fs_dir_file_write(fm_fs_file *file, const void *data, size_t length, uint64_t offset)
{
    int fd = ((struct dir_file *)file)->fd;
    size_t done = 0;
    while (done < length) {
        ssize_t put = pwrite(fd, (const char *)data + done, length - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) // 0 would be tried for ever
            return fm_fs_dir_error(file->fs, put < 0 ? errno : EIO, "write", file->path);
        done += (size_t)put;
    }
    if (file->flags & FM_FS_EAGER)
        (void)sync_file_range(fd, (off_t)offset, (off_t)length,
                              SYNC_FILE_RANGE_WRITE); // begins, and does not wait
    return FM_OK;
}

fm_status fm_fs_dir_file_truncate(fm_fs_file *file, uint64_t size)
{
    if (TEMP_FAILURE_RETRY(ftruncate(((struct dir_file *)file)->fd, (off_t)size)) < 0)
        return fm_fs_dir_error(file->fs, errno, "truncate", file->path);
    return FM_OK;
}

fm_status fm_fs_dir_file_sync(fm_fs_file *file)
{
    // fsync and not fdatasync: both write the size, and a later repair of the time stamps is not worth a
    // second promise.
    if (TEMP_FAILURE_RETRY(fsync(((struct dir_file *)file)->fd)) < 0)
        return fm_fs_dir_error(file->fs, errno, "sync", file->path);
    return FM_OK;
}
