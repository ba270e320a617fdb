#include "file_access.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/mem.h"

static fm_status open_failed(const char *path)
{
    int err = errno;
    return fm_base_error_set_errno(err == ENOENT ? FM_ERR_NOT_FOUND : FM_ERR_IO, err, "cannot open %s", path);
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
            int err = errno;
            fm_base_mem_free(text);
            return fm_base_error_set_errno(FM_ERR_IO, err, "cannot read %s", name);
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
        return open_failed(path);
    fm_status status = read_all(fd, path, bytes_max, out_text, out_length);
    close(fd);
    return status;
}
