#include "file_access.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/mem.h"

static fm_status failed(const char *what, const char *path)
{
    int err = errno;
    fm_status status = err == ENOENT                    ? FM_ERR_NOT_FOUND
                       : err == ENOSPC || err == EDQUOT ? FM_ERR_SPACE
                                                        : FM_ERR_IO;
    return fm_base_error_set_errno(status, err, "cannot %s %s", what, path);
}

/** read() until `size` bytes are there or the file ends; -1 with errno. */
static ssize_t read_full(int fd, char *to, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(fd, to + done, size - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

static fm_status read_all(int fd, const char *name, size_t bytes_max, char **out_text, size_t *out_length)
{
    // A byte more than the size that is told shows the end without growing; pipes and growing files do grow.
    struct stat info;
    size_t capacity = 1 << 16;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size >= 0 &&
        (size_t)info.st_size <= bytes_max)
        capacity = (size_t)info.st_size + 1;
    char *text = NULL;
    size_t length = 0;
    for (;;) {
        char *moved = fm_base_mem_realloc(text, capacity, 1);
        if (!moved) {
            fm_base_mem_free(text);
            return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory for %zu bytes", name, capacity);
        }
        text = moved;
        ssize_t got = read_full(fd, text + length, capacity - length);
        if (got < 0) {
            fm_status status = failed("read", name);
            fm_base_mem_free(text);
            return status;
        }
        length += (size_t)got;
        if (length > bytes_max) {
            fm_base_mem_free(text);
            return fm_base_error_set(FM_ERR_LIMIT, "%s has more than %zu bytes", name, bytes_max);
        }
        if (length < capacity)
            break;
        capacity *= 2;
    }
    *out_text = text;
    *out_length = length;
    return FM_OK;
}

fm_status fm_base_file_read(const char *path, size_t bytes_max, char **out_text, size_t *out_length)
{
    if (!path)
        return read_all(STDIN_FILENO, "<standard input>", bytes_max, out_text, out_length);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return failed("open", path);
    fm_status status = read_all(fd, path, bytes_max, out_text, out_length);
    close(fd);
    return status;
}

fm_status fm_base_file_map(const char *path, struct fm_file_map *out_map)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return failed("open", path);
    struct stat info;
    fm_status status = FM_OK;
    struct fm_file_map map = {0};
    if (fstat(fd, &info) < 0) {
        status = failed("read", path);
    } else if (!S_ISREG(info.st_mode)) {
        status = fm_base_error_set(FM_ERR_IO, "%s is not a regular file", path);
    } else if (info.st_size > 0) { // an empty file cannot be mapped
        map.length = (size_t)info.st_size;
        map.bytes = mmap(NULL, map.length, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map.bytes == MAP_FAILED)
            status = failed("map", path);
    }
    close(fd);
    if (status == FM_OK)
        *out_map = map;
    return status;
}

void fm_base_file_unmap(struct fm_file_map *map)
{
    if (map->length)
        munmap(map->bytes, map->length);
    *map = (struct fm_file_map){0};
}

static void forget(struct fm_file_draft *draft)
{
    fm_base_mem_free(draft->path);
    fm_base_mem_free(draft->draft_path);
    *draft = (struct fm_file_draft){0};
}

fm_status fm_base_file_begin(struct fm_file_draft *draft, const char *path)
{
    static atomic_uint next; // relaxed: only makes names differ
    size_t room = strlen(path) + 32;
    draft->path = fm_base_mem_strdup(path);
    draft->draft_path = fm_base_mem_alloc(room);
    if (!draft->path || !draft->draft_path) {
        forget(draft);
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory to write it", path);
    }
    // A killed program's draft may bear the same name; it is left alone, for its owner may be another
    // machine.
    do {
        unsigned number = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed);
        snprintf(draft->draft_path, room, "%s.%d.%u.tmp", path, (int)getpid(), number);
        draft->fd = open(draft->draft_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (draft->fd < 0 && errno == EEXIST);
    if (draft->fd >= 0)
        return FM_OK;
    fm_status status = failed("create", draft->draft_path);
    forget(draft);
    return status;
}

fm_status fm_base_file_write(struct fm_file_draft *draft, uint64_t offset, const void *bytes, size_t size)
{
    const char *from = bytes;
    while (size > 0) {
        ssize_t wrote = pwrite(draft->fd, from, size, (off_t)offset);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return failed("write", draft->draft_path);
        from += wrote;
        offset += (uint64_t)wrote;
        size -= (size_t)wrote;
    }
    return FM_OK;
}

/** A rename is durable once its folder is. Overwrites `path`. */
static fm_status sync_folder(char *path)
{
    const char *folder = dirname(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return failed("open", folder);
    // Some file systems refuse to sync folders; those have nothing to sync there.
    fm_status status = fsync(fd) < 0 && errno != EINVAL ? failed("sync", folder) : FM_OK;
    close(fd);
    return status;
}

fm_status fm_base_file_commit(struct fm_file_draft *draft)
{
    fm_status status = fsync(draft->fd) < 0 ? failed("sync", draft->draft_path) : FM_OK;
    if (close(draft->fd) < 0 && status == FM_OK)
        status = failed("close", draft->draft_path);
    if (status == FM_OK && rename(draft->draft_path, draft->path) < 0)
        status = failed("replace", draft->path);
    if (status < 0)
        unlink(draft->draft_path);
    else
        status = sync_folder(draft->path);
    forget(draft);
    return status;
}

void fm_base_file_discard(struct fm_file_draft *draft)
{
    if (draft->draft_path) {
        close(draft->fd);
        unlink(draft->draft_path);
        forget(draft);
    }
}
