#include "pond_output.h"

#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fathom/log.h"
#include "fathom/mem.h"

// What a direct write of one call takes at most, so that several threads' writes take turns at the disk.
enum { DIRECT_WRITE_MAX = 8 << 20, HUGE_PAGE = 2 << 20 };

fm_status fm_pond_output_begin(fm_pond_output *output, const char *path, uint64_t bytes)
{
    char name[64];
    *output = (fm_pond_output){.path = path, .direct = -1};
    FM_TRY(fm_base_file_begin(&output->draft, path));
    int err = bytes ? posix_fallocate(output->draft.fd, 0, (off_t)bytes) : 0;
    if (err) {
        fm_base_file_discard(&output->draft);
        return fm_base_file_error(err, "%s: %llu bytes", path, (unsigned long long)bytes);
    }
    snprintf(name, sizeof name, "/proc/self/fd/%d", output->draft.fd);
    output->direct = open(name, O_WRONLY | O_DIRECT | O_CLOEXEC);
    return FM_OK;
}

fm_status fm_pond_output_write_fd(int fd, const char *path, uint64_t at, const void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        size_t part = size - done < DIRECT_WRITE_MAX ? size - done : DIRECT_WRITE_MAX;
        ssize_t put = pwrite(fd, (const char *)bytes + done, part, (off_t)(at + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fm_base_file_error(errno, "%s", path);
        done += (size_t)put;
    }
    return FM_OK;
}

fm_status fm_pond_output_write(fm_pond_output *output, uint64_t at, const void *bytes, size_t size)
{
    const char *from = bytes;
    int aligned = ((uintptr_t)from - at) % FM_POND_DIRECT == 0;
    size_t head = (size_t)(-at % FM_POND_DIRECT);
    if (output->direct < 0 || !aligned || size < head + FM_POND_DIRECT)
        return fm_pond_output_write_fd(output->draft.fd, output->path, at, from, size);
    size_t middle = (size - head) - (size - head) % FM_POND_DIRECT;
    if (head)
        FM_TRY(fm_pond_output_write_fd(output->draft.fd, output->path, at, from, head));
    FM_TRY(fm_pond_output_write_fd(output->direct, output->path, at + head, from + head, middle));
    size_t done = head + middle;
    return fm_pond_output_write_fd(output->draft.fd, output->path, at + done, from + done, size - done);
}

static void close_direct(fm_pond_output *output)
{
    if (output->draft.draft_path && output->direct >= 0)
        close(output->direct);
    output->direct = -1;
}

fm_status fm_pond_output_commit(fm_pond_output *output)
{
    close_direct(output);
    return fm_base_file_commit(&output->draft);
}

void fm_pond_output_discard(fm_pond_output *output)
{
    close_direct(output);
    fm_base_file_discard(&output->draft);
}

fm_status fm_pond_scratch_open(const char *folder, int *out_fd)
{
    int fd = open(folder, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EINVAL)
        fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        char *name = NULL;
        if (asprintf(&name, "%s/fathom-sort-XXXXXX", folder) < 0)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for a name");
        fd = mkostemp(name, O_CLOEXEC);
        if (fd >= 0)
            unlink(name);
        free(name);
    }
    if (fd < 0)
        return fm_base_file_error(errno, "%s", folder);
    *out_fd = fd;
    return FM_OK;
}

uint64_t fm_pond_folder_bytes(const char *path)
{
    DIR *folder = opendir(path);
    uint64_t bytes = 0;
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char name[PATH_MAX];
        struct stat info;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            snprintf(name, sizeof name, "%s/%s", path, entry->d_name) >= (int)sizeof name ||
            lstat(name, &info) != 0)
            continue;
        bytes += S_ISDIR(info.st_mode) ? fm_pond_folder_bytes(name) : (uint64_t)info.st_size;
    }
    if (folder)
        closedir(folder);
    return bytes;
}

void fm_pond_folder_discard(const char *path)
{
    char message[1024];
    snprintf(message, sizeof message, "%s", fm_error_message());
    if (fm_base_dir_remove(path) < 0)
        fm_log_warn("pond", "%s", fm_error_message());
    fm_base_error_set(FM_OK, "%s", message);
}

void *fm_pond_bulk_alloc(size_t size)
{
    if (size < HUGE_PAGE)
        return fm_base_mem_aligned(size ? size : 1, FM_POND_DIRECT);
    void *block = fm_base_mem_aligned(size, HUGE_PAGE);
    // Advice: without huge pages all works, slower.
    if (block)
        madvise(block, fm_round_up(size, HUGE_PAGE), MADV_HUGEPAGE);
    return block;
}
