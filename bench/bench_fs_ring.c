// The limit that chunks are measured against: io_uring on a file, and nothing else.
#include "bench_fs.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fathom/mem.h"

#ifdef FM_HAVE_IO_URING
#include <liburing.h>

enum { WAKE = 8 }; // results that a tuned one waits for

struct fm_bench_fs_raw {
    struct io_uring ring;
    unsigned depth, flags;
    int fd;
    int ready, fixed;
    const void *registered;
};

fm_status fm_bench_fs_raw_open_as(const char *path, unsigned depth, unsigned flags, fm_bench_fs_raw **out_raw)
{
    fm_bench_fs_raw *raw = fm_base_mem_zalloc(1, sizeof *raw);
    if (!raw)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a ring");
    raw->depth = depth;
    raw->flags = flags;
    raw->fd =
        open(path, O_RDWR | O_CREAT | (flags & FM_BENCH_FS_RAW_CACHED ? 0 : O_DIRECT) | O_CLOEXEC, 0600);
    // Where it is tuned this makes sure that there is io_uring, and the ring of the thread that runs comes later.
    int error = raw->fd < 0 ? -1 : io_uring_queue_init(depth, &raw->ring, 0);
    if (error < 0) {
        if (raw->fd >= 0)
            close(raw->fd);
        fm_base_mem_free(raw);
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "%s: no io_uring here for it", path);
    }
    raw->ready = 1;
    *out_raw = raw;
    return FM_OK;
}

fm_status fm_bench_fs_raw_open(const char *path, unsigned depth, fm_bench_fs_raw **out_raw)
{
    return fm_bench_fs_raw_open_as(path, depth, 0, out_raw);
}

// As fast as io_uring goes: completions in the thread that waits for them, and what the kernel can know beforehand.
static fm_status tune(fm_bench_fs_raw *raw, void *buffers, unsigned size)
{
    const struct iovec memory = {buffers, (size_t)raw->depth * size};
    if (!(raw->flags & FM_BENCH_FS_RAW_TUNED) || raw->registered == buffers)
        return FM_OK;
    io_uring_queue_exit(&raw->ring);
    raw->ready = io_uring_queue_init(raw->depth, &raw->ring,
                                     IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN) == 0 ||
                 io_uring_queue_init(raw->depth, &raw->ring, 0) == 0;
    if (!raw->ready)
        return fm_base_error_set(FM_ERR_IO, "no second ring");
    raw->fixed = io_uring_register_buffers(&raw->ring, &memory, 1) == 0 &&
                 io_uring_register_files(&raw->ring, &raw->fd, 1) == 0;
    raw->registered = buffers;
    return FM_OK;
}

static void prepare(fm_bench_fs_raw *raw, enum fm_bench_fs_way way, void *data, unsigned size,
                    uint64_t offset, unsigned slot)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->ring);
    int fd = raw->fixed ? 0 : raw->fd; // the only one that is registered
    int writes = way != FM_BENCH_FS_READ;
    if (raw->fixed && writes)
        io_uring_prep_write_fixed(sqe, fd, data, size, offset, 0);
    else if (raw->fixed)
        io_uring_prep_read_fixed(sqe, fd, data, size, offset, 0);
    else if (writes)
        io_uring_prep_write(sqe, fd, data, size, offset);
    else
        io_uring_prep_read(sqe, fd, data, size, offset);
    if (raw->fixed)
        sqe->flags |= IOSQE_FIXED_FILE;
    if (way == FM_BENCH_FS_WRITE_DURABLE)
        sqe->rw_flags = RWF_DSYNC;
    sqe->user_data = slot;
}

fm_status fm_bench_fs_raw_run(fm_bench_fs_raw *raw, enum fm_bench_fs_way way, const uint64_t *offsets,
                              unsigned count, unsigned size, void *buffers)
{
    struct io_uring_cqe *cqe;
    unsigned next = 0;
    unsigned done = 0;
    unsigned free_slots[256];
    unsigned free_count = raw->depth < 256 ? raw->depth : 256;
    FM_TRY(tune(raw, buffers, size));
    for (unsigned i = 0; i < free_count; i++)
        free_slots[i] = i;
    while (done < count) {
        while (free_count > 0 && next < count) {
            unsigned slot = free_slots[--free_count];
            prepare(raw, way, (uint8_t *)buffers + (size_t)slot * size, size, offsets[next++], slot);
        }
        unsigned wake = raw->flags & FM_BENCH_FS_RAW_TUNED ? WAKE : 1;
        if (io_uring_submit_and_wait(&raw->ring, next - done < wake ? next - done : wake) < 0)
            return fm_base_error_set(FM_ERR_IO, "io_uring: submitting failed");
        while (io_uring_peek_cqe(&raw->ring, &cqe) == 0) {
            int moved = cqe->res;
            free_slots[free_count++] = (unsigned)cqe->user_data;
            io_uring_cqe_seen(&raw->ring, cqe);
            done++;
            if (moved != (int)size)
                return fm_base_error_set(FM_ERR_IO, "io_uring moved %d of %u bytes", moved, size);
        }
    }
    if (way == FM_BENCH_FS_WRITE && fdatasync(raw->fd) != 0)
        return fm_base_error_set(FM_ERR_IO, "the flush failed");
    return FM_OK;
}

void fm_bench_fs_raw_close(fm_bench_fs_raw *raw)
{
    if (!raw)
        return;
    if (raw->ready)
        io_uring_queue_exit(&raw->ring);
    close(raw->fd);
    fm_base_mem_free(raw);
}
#else
fm_status fm_bench_fs_raw_open_as(const char *path, unsigned depth, unsigned flags, fm_bench_fs_raw **out_raw)
{
    (void)depth;
    (void)flags;
    (void)out_raw;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "%s: built without io_uring", path);
}

fm_status fm_bench_fs_raw_open(const char *path, unsigned depth, fm_bench_fs_raw **out_raw)
{
    return fm_bench_fs_raw_open_as(path, depth, 0, out_raw);
}

fm_status fm_bench_fs_raw_run(fm_bench_fs_raw *raw, enum fm_bench_fs_way way, const uint64_t *offsets,
                              unsigned count, unsigned size, void *buffers)
{
    (void)raw;
    (void)way;
    (void)offsets;
    (void)count;
    (void)size;
    (void)buffers;
    return FM_ERR_UNAVAILABLE;
}

void fm_bench_fs_raw_close(fm_bench_fs_raw *raw)
{
    (void)raw;
}
#endif
