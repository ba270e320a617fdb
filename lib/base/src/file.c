#include "fathom/file.h"

#include "fathom/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static fm_status code_of(int err)
{
    switch (err) {
    case ENOENT:
        return FM_ERR_NOT_FOUND;
    case EEXIST:
        return FM_ERR_EXISTS;
    case EACCES:
    case EPERM:
    case EROFS:
        return FM_ERR_PERM;
    case ENOSPC:
    case EDQUOT:
        return FM_ERR_SPACE;
    case EFBIG:
        return FM_ERR_LIMIT;
    case ENOMEM:
        return FM_ERR_NOMEM;
    default:
        return FM_ERR_IO;
    }
}

fm_status fm_base_file_error(int err, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fm_base_error_set_errno(code_of(err), err, "%s", text);
}

static fm_status failed(const char *verb, const char *path)
{
    return fm_base_file_error(errno, "cannot %s %s", verb, path);
}

/* read() until `size` bytes are there or the file ends; -1 with errno. */
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

static fm_status read_all(int fd, const char *name, size_t bytes_max, char **out_bytes, size_t *out_length)
{
    // A byte more than the size that is told shows the end without growing; pipes and growing files do grow.
    struct stat info;
    size_t capacity = 1 << 16;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 &&
        (uint64_t)info.st_size <= bytes_max)
        capacity = (size_t)info.st_size + 1;
    char *bytes = NULL;
    size_t length = 0;
    for (;;) {
        char *moved = fm_base_mem_realloc(bytes, capacity, 1);
        if (!moved) {
            fm_base_mem_free(bytes);
            return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory for %zu bytes", name, capacity);
        }
        bytes = moved;
        ssize_t got = read_full(fd, bytes + length, capacity - length);
        if (got < 0) {
            fm_status status = failed("read", name);
            fm_base_mem_free(bytes);
            return status;
        }
        length += (size_t)got;
        if (length > bytes_max) {
            fm_base_mem_free(bytes);
            return fm_base_error_set(FM_ERR_LIMIT, "%s has more than %zu bytes", name, bytes_max);
        }
        if (length < capacity)
            break;
        capacity *= 2;
    }
    *out_bytes = bytes;
    *out_length = length;
    return FM_OK;
}

fm_status fm_base_file_read(const char *path, size_t bytes_max, char **out_bytes, size_t *out_length)
{
    if (!path)
        return read_all(STDIN_FILENO, "<standard input>", bytes_max, out_bytes, out_length);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return failed("open", path);
    fm_status status = read_all(fd, path, bytes_max, out_bytes, out_length);
    close(fd);
    return status;
}

fm_status fm_base_file_map(const char *path, fm_file_map *out_map)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return failed("open", path);
    struct stat info;
    fm_status status = FM_OK;
    fm_file_map map = {0};
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

void fm_base_file_unmap(fm_file_map *map)
{
    void *bytes;
    memcpy(&bytes, &map->bytes, sizeof bytes); // munmap() takes a pointer to what is not const
    if (map->length)
        munmap(bytes, map->length);
    *map = (fm_file_map){0};
}

static void forget(fm_file_draft *draft)
{
    fm_base_mem_free(draft->path);
    fm_base_mem_free(draft->draft_path);
    *draft = (fm_file_draft){0};
}

fm_status fm_base_file_begin(fm_file_draft *draft, const char *path)
{
    static atomic_uint next; // relaxed: it only makes names differ
    size_t room = strlen(path) + sizeof ".-2147483648.4294967295.tmp";
    fm_file_draft made = {.path = fm_base_mem_strdup(path), .draft_path = fm_base_mem_alloc(room)};
    if (!made.path || !made.draft_path) {
        forget(&made);
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory to write it", path);
    }
    // A draft of that name may be there: left by a killed program, or in use on another machine of equal process ID.
    do {
        unsigned int number = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed);
        snprintf(made.draft_path, room, "%s.%d.%u.tmp", path, (int)getpid(), number);
        made.fd = open(made.draft_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (made.fd < 0 && errno == EEXIST);
    if (made.fd < 0) {
        fm_status status = failed("create", made.draft_path);
        forget(&made);
        return status;
    }
    *draft = made;
    return FM_OK;
}

fm_status fm_base_file_write(fm_file_draft *draft, uint64_t offset, const void *bytes, size_t size)
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

/* A rename is durable once its folder is. Overwrites `path`. */
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

fm_status fm_base_file_commit(fm_file_draft *draft)
{
    if (!draft->draft_path)
        return fm_base_error_set(FM_ERR_STATE, "no draft is open");
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

void fm_base_file_discard(fm_file_draft *draft)
{
    if (!draft->draft_path)
        return;
    close(draft->fd);
    unlink(draft->draft_path);
    forget(draft);
}

fm_status fm_base_file_save(const char *path, const void *bytes, size_t size)
{
    fm_file_draft draft = {0};
    FM_TRY(fm_base_file_begin(&draft, path));
    fm_status status = fm_base_file_write(&draft, 0, bytes, size);
    if (status < 0) {
        fm_base_file_discard(&draft);
        return status;
    }
    return fm_base_file_commit(&draft);
}

/* Makes every folder that a prefix of `path` names, which is changed and restored on the way. */
static fm_status create_prefixes(char *path)
{
    for (char *end = path + 1;; end++) {
        if (*end && *end != '/')
            continue;
        char after = *end;
        *end = 0;
        if (mkdir(path, 0777) < 0 && errno != EEXIST)
            return failed("create folder", path);
        *end = after;
        if (!after)
            return FM_OK;
    }
}

fm_status fm_base_dir_create(const char *path)
{
    if (!path[0])
        return fm_base_error_set(FM_ERR_ARG, "cannot create a folder whose name is empty");
    char *copy = fm_base_mem_strdup(path);
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory to create it", path);
    fm_status status = create_prefixes(copy);
    struct stat info;
    if (status == FM_OK && stat(path, &info) < 0)
        status = failed("read", path);
    else if (status == FM_OK && !S_ISDIR(info.st_mode))
        status = fm_base_error_set(FM_ERR_EXISTS, "%s exists and is not a folder", path);
    fm_base_mem_free(copy);
    return status;
}

/* What one step of the walk asks for. */
static fm_status remove_entry(const FTSENT *entry)
{
    switch (entry->fts_info) {
    case FTS_D: // before its content
        return FM_OK;
    case FTS_DP: // after it
        return rmdir(entry->fts_path) < 0 ? failed("remove", entry->fts_path) : FM_OK;
    case FTS_DNR:
    case FTS_ERR:
    case FTS_NS:
        if (entry->fts_level == FTS_ROOTLEVEL && entry->fts_errno == ENOENT)
            return FM_OK;
        return fm_base_file_error(entry->fts_errno, "cannot remove %s", entry->fts_path);
    default:
        return unlink(entry->fts_path) < 0 ? failed("remove", entry->fts_path) : FM_OK;
    }
}

fm_status fm_base_dir_remove(const char *path)
{
    char *copy = fm_base_mem_strdup(path);
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory to remove it", path);
    char *const roots[] = {copy, NULL};
    fm_status status = FM_OK;
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
    if (!walk)
        status = failed("remove", path);
    while (walk && status == FM_OK) {
        errno = 0;
        const FTSENT *entry = fts_read(walk);
        if (!entry) {
            if (errno)
                status = failed("remove", path);
            break;
        }
        status = remove_entry(entry);
    }
    if (walk)
        fts_close(walk);
    fm_base_mem_free(copy);
    return status;
}
