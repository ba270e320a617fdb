#include "disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chunk_store.h"
#include "fathom/file.h"

struct disk {
    fm_fs_disk base;
    fm_net_loop *loop;
    fm_fs_ring *ring;
    int folder; // locked
    int fds[FM_FS_STORE_FILES];
    int direct;
    char path[512];
    fm_net_timer finish;       // completes what was done at once
    fm_fs_disk_io *done_first; // in order
    fm_fs_disk_io *done_last;
    fm_fs_disk_io *wait_first; // for room in the ring
    fm_fs_disk_io *wait_last;
};

static void push(fm_fs_disk_io **first, fm_fs_disk_io **last, fm_fs_disk_io *io)
{
    io->next = NULL;
    if (*first)
        (*last)->next = io;
    else
        *first = io;
    *last = io;
}

static fm_fs_disk_io *pop(fm_fs_disk_io **first)
{
    fm_fs_disk_io *io = *first;
    if (io)
        *first = io->next;
    return io;
}

static fm_status failed(const struct disk *disk, const fm_fs_disk_io *io, int error)
{
    static const char *const doing[] = {
        [FM_FS_DISK_READ] = "read", [FM_FS_DISK_WRITE] = "write", [FM_FS_DISK_SYNC] = "sync"};
    return fm_base_file_error(error, "%s: %s file %u at %llu", disk->path, doing[io->kind], io->file,
                              (unsigned long long)io->offset);
}

static void finish(void *context)
{
    struct disk *disk = context;
    fm_fs_disk_io *io = disk->done_first; // those that are added meanwhile wait for the next turn
    disk->done_first = NULL;
    while (io) {
        fm_fs_disk_io *next = io->next;
        io->done(io);
        io = next;
    }
}

static void finish_later(struct disk *disk, fm_fs_disk_io *io, fm_status status)
{
    io->status = status;
    push(&disk->done_first, &disk->done_last, io);
    if (disk->done_first == io && fm_net_timer_start(disk->loop, &disk->finish, 0) < 0)
        finish(disk); // no memory for a timer: told early rather than never
}

// A blocking operation. What is beyond the end of a file reads as zeros.
static fm_status do_now(struct disk *disk, fm_fs_disk_io *io, size_t done)
{
    int fd = disk->fds[io->file];
    if (io->kind == FM_FS_DISK_SYNC)
        return fdatasync(fd) == 0 ? FM_OK : failed(disk, io, errno);
    while (done < io->size) {
        uint8_t *data = (uint8_t *)io->data + done;
        off_t at = (off_t)(io->offset + done);
        ssize_t moved = io->kind == FM_FS_DISK_READ ? pread(fd, data, io->size - done, at)
                                                    : pwrite(fd, data, io->size - done, at);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved < 0)
            return failed(disk, io, errno);
        if (moved == 0 && io->kind == FM_FS_DISK_WRITE)
            return failed(disk, io, EIO);
        if (moved == 0) {
            memset(data, 0, io->size - done);
            break;
        }
        done += (size_t)moved;
    }
    if (io->durable && fdatasync(fd) != 0)
        return failed(disk, io, errno);
    return FM_OK;
}

static void ring_done(void *context, fm_fs_disk_io *io, int result)
{
    struct disk *disk = context;
    fm_status status = FM_OK;
    if (result == -EAGAIN || result == -EINTR)
        status = do_now(disk, io, 0);
    else if (result < 0)
        status = failed(disk, io, -result);
    else if (io->kind != FM_FS_DISK_SYNC && (size_t)result < io->size)
        status =
            do_now(disk, io, (size_t)result / FM_FS_PAGE * FM_FS_PAGE); // the end of the file, or a short one
    io->status = status;
    io->done(io);
    while (disk->wait_first &&
           fm_fs_ring_submit(disk->ring, disk->fds[disk->wait_first->file], disk->wait_first, 0))
        pop(&disk->wait_first);
}

static void disk_submit(fm_fs_disk *base, fm_fs_disk_io *io)
{
    struct disk *disk = (struct disk *)base;
    if (io->kind != FM_FS_DISK_SYNC && io->size == 0)
        finish_later(disk, io, FM_OK);
    else if (io->kind == FM_FS_DISK_PUNCH)
        finish_later(disk, io,
                     fallocate(disk->fds[io->file], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               (off_t)io->offset, (off_t)io->size) == 0
                         ? FM_OK
                         : failed(disk, io, errno));
    else if (!disk->ring)
        finish_later(disk, io, do_now(disk, io, 0));
    else if (disk->wait_first || !fm_fs_ring_submit(disk->ring, disk->fds[io->file], io, 0))
        push(&disk->wait_first, &disk->wait_last, io);
}

static uint64_t disk_size(fm_fs_disk *base, unsigned file)
{
    struct stat stat;
    return fstat(((struct disk *)base)->fds[file], &stat) == 0 ? (uint64_t)stat.st_size : 0;
}

static const struct fm_fs_disk_ops ops = {disk_submit, disk_size};

static void name_of(unsigned file, char name[32])
{
    static const char *const fixed[] = {"journal-0", "journal-1", "checkpoint-0", "checkpoint-1"};
    if (file < 4)
        snprintf(name, 32, "%s", fixed[file]);
    else
        snprintf(name, 32, "blocks-%uk", 64u << (file - 4));
}

static fm_status open_files(struct disk *disk, unsigned flags)
{
    char name[32];
    disk->direct = !(flags & FM_FS_DISK_BUFFERED);
    for (unsigned i = 0; i < FM_FS_STORE_FILES; i++) {
        name_of(i, name);
        int wanted = O_RDWR | O_CREAT | O_CLOEXEC;
        disk->fds[i] = openat(disk->folder, name, wanted | (disk->direct ? O_DIRECT : 0), 0600);
        if (disk->fds[i] < 0 && errno == EINVAL && disk->direct) {
            disk->direct = 0; // a file system without O_DIRECT
            disk->fds[i] = openat(disk->folder, name, wanted, 0600);
        }
        if (disk->fds[i] < 0)
            return fm_base_file_error(errno, "%s/%s", disk->path, name);
    }
    return fsync(disk->folder) == 0 ? FM_OK : fm_base_file_error(errno, "%s: sync", disk->path);
}

fm_status fm_fs_disk_open(fm_net_loop *loop, const char *path, uint64_t capacity_bytes, unsigned flags,
                          fm_fs_disk **out_disk)
{
    FM_TRY(fm_base_dir_create(path));
    struct disk *disk = fm_base_mem_zalloc(1, sizeof *disk);
    if (!disk)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a disk");
    disk->base = (fm_fs_disk){&ops, capacity_bytes};
    disk->loop = loop;
    disk->finish = (fm_net_timer){.fire = finish, .context = disk};
    snprintf(disk->path, sizeof disk->path, "%s", path);
    for (int i = 0; i < FM_FS_STORE_FILES; i++)
        disk->fds[i] = -1;
    fm_status status = FM_OK;
    disk->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (disk->folder < 0)
        status = fm_base_file_error(errno, "%s", path);
    else if (flock(disk->folder, LOCK_EX | LOCK_NB) != 0)
        status = fm_base_error_set(FM_ERR_BUSY, "%s: another process has this target open", path);
    if (status == FM_OK)
        status = open_files(disk, flags);
    if (status < 0) {
        fm_fs_disk_close(&disk->base);
        return status;
    }
    if (!(flags & FM_FS_DISK_BLOCKING))
        disk->ring = fm_fs_ring_new(loop, ring_done, disk);
    *out_disk = &disk->base;
    return FM_OK;
}

void fm_fs_disk_close(fm_fs_disk *base)
{
    struct disk *disk = (struct disk *)base;
    if (!disk)
        return;
    fm_fs_ring_free(disk->ring);
    fm_net_timer_stop(disk->loop, &disk->finish);
    for (int i = 0; i < FM_FS_STORE_FILES; i++)
        if (disk->fds[i] >= 0)
            close(disk->fds[i]);
    if (disk->folder >= 0)
        close(disk->folder);
    fm_base_mem_free(disk);
}

const char *fm_fs_disk_engine(const fm_fs_disk *base)
{
    const struct disk *disk = (const struct disk *)base;
    if (disk->ring)
        return disk->direct ? "io_uring, O_DIRECT" : "io_uring";
    return disk->direct ? "blocking calls, O_DIRECT" : "blocking calls";
}
