#include "pond_input.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/file.h"
#include "pond_output.h"

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of files");
}

static fm_status add_file(fm_pond_input *input, const char *path, uint64_t bytes)
{
    if (input->count == input->capacity) {
        size_t capacity = input->capacity ? 2 * input->capacity : 16;
        fm_pond_file *files = fm_base_mem_realloc(input->files, capacity, sizeof *files);
        if (!files)
            return no_memory();
        input->files = files;
        input->capacity = capacity;
    }
    const char *copy = fm_base_arena_strndup(&input->paths, path, strlen(path));
    if (!copy)
        return no_memory();
    input->files[input->count++] = (fm_pond_file){copy, input->bytes, bytes};
    if (__builtin_add_overflow(input->bytes, bytes, &input->bytes))
        return fm_base_error_set(FM_ERR_LIMIT, "%s: the files are larger than 2^64 bytes together", path);
    return FM_OK;
}

static int is_finished(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return entry->d_name[0] != '.' && entry->d_name[0] != '_' &&
           !(length > 4 && strcmp(entry->d_name + length - 4, ".tmp") == 0);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static fm_status add_folder(fm_pond_input *input, const char *path)
{
    struct dirent **entries = NULL;
    int count = scandir(path, &entries, is_finished, by_name);
    if (count < 0)
        return fm_base_file_error(errno, "%s", path);
    fm_status status = FM_OK;
    for (int i = 0; i < count; i++) {
        char *name = NULL;
        struct stat info;
        if (status == FM_OK && asprintf(&name, "%s/%s", path, entries[i]->d_name) < 0) {
            name = NULL;
            status = no_memory();
        }
        if (status == FM_OK && stat(name, &info) != 0)
            status = fm_base_file_error(errno, "%s", name);
        else if (status == FM_OK && S_ISREG(info.st_mode))
            status = add_file(input, name, (uint64_t)info.st_size);
        free(name);
        free(entries[i]);
    }
    free(entries);
    return status;
}

fm_status fm_pond_input_add(fm_pond_input *input, const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return fm_base_file_error(errno, "%s", path);
    if (S_ISDIR(info.st_mode))
        return add_folder(input, path);
    if (!S_ISREG(info.st_mode))
        return fm_base_error_set(FM_ERR_ARG, "%s is neither a file nor a folder of files", path);
    return add_file(input, path, (uint64_t)info.st_size);
}

fm_status fm_pond_input_check(const fm_pond_input *input, uint32_t record_bytes)
{
    for (size_t i = 0; i < input->count; i++)
        if (input->files[i].bytes % record_bytes)
            return fm_base_error_set(
                FM_ERR_FORMAT, "%s has %llu bytes; expected a multiple of %u, the size of a record",
                input->files[i].path, (unsigned long long)input->files[i].bytes, record_bytes);
    return FM_OK;
}

void fm_pond_input_clear(fm_pond_input *input)
{
    fm_base_mem_free(input->files);
    fm_base_arena_clear(&input->paths);
    memset(input, 0, sizeof *input);
}

static size_t cached_pages(const fm_pond_file *file, size_t sample, size_t *out_seen)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t pages = (size_t)(file->bytes / page), cached = 0;
    int fd = pages ? open(file->path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    char *map = mmap(NULL, pages * page, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return 0;
    for (size_t i = 0; i < sample; i++) {
        unsigned char state = 0;
        if (mincore(map + pages * i / sample * page, page, &state) == 0) {
            cached += state & 1;
            ++*out_seen;
        }
    }
    munmap(map, pages * page);
    return cached;
}

int fm_pond_input_cached(const fm_pond_input *input)
{
    enum { FILES = 16, PAGES = 64 };
    size_t step = input->count / FILES + 1, cached = 0, seen = 0;
    for (size_t i = 0; i < input->count; i += step)
        cached += cached_pages(&input->files[i], PAGES, &seen);
    return 2 * cached >= seen;
}

fm_status fm_pond_input_read_fd(int fd, const char *path, uint64_t at, void *to, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(fd, (char *)to + done, size - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fm_base_file_error(errno, "%s", path);
        if (got == 0)
            return fm_base_error_set(FM_ERR_FORMAT, "%s has become shorter than %llu bytes", path,
                                     (unsigned long long)at + size);
        done += (size_t)got;
    }
    return FM_OK;
}

// The part of one file; directly as far as pages are whole, in the file and in memory.
static fm_status read_part(const fm_pond_input *input, const fm_pond_file *file, uint64_t at, char *to,
                           size_t size)
{
    size_t direct = input->direct && at % FM_POND_DIRECT == 0 && (uintptr_t)to % FM_POND_DIRECT == 0
                        ? size - size % FM_POND_DIRECT
                        : 0;
    if (direct) {
        int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
        if (fd < 0) {
            direct = 0; // a file system without it
        } else {
            fm_status status = fm_pond_input_read_fd(fd, file->path, at, to, direct);
            close(fd);
            FM_TRY(status);
        }
    }
    if (direct == size)
        return FM_OK;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fm_base_file_error(errno, "%s", file->path);
    fm_status status = fm_pond_input_read_fd(fd, file->path, at + direct, to + direct, size - direct);
    close(fd);
    return status;
}

fm_status fm_pond_input_read(const fm_pond_input *input, uint64_t at, void *to, size_t size)
{
    // The last file that begins at or before `at`.
    size_t low = 0, high = input->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (input->files[middle].begin <= at)
            low = middle;
        else
            high = middle;
    }
    char *into = to;
    while (size > 0) {
        const fm_pond_file *file = &input->files[low++];
        uint64_t inside = at - file->begin;
        uint64_t left = file->bytes - inside;
        size_t part = left < size ? (size_t)left : size;
        if (part)
            FM_TRY(read_part(input, file, inside, into, part));
        into += part;
        at += part;
        size -= part;
    }
    return FM_OK;
}
