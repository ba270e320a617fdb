// The limit that chunks are measured against: io_uring on a file, and nothing else.
#include "bench_fs.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fathom/mem.h"

#ifdef FM_HAVE_IO_URING
#include <liburing.h>

struct fm_bench_fs_raw {
    struct io_uring ring;
    unsigned depth;
    int fd;
};

fm_status fm_bench_fs_raw_open(const char *path, unsigned depth, fm_bench_fs_raw **out_raw)
{
    fm_bench_fs_raw *raw = fm_base_mem_zalloc(1, sizeof *raw);
    if (!raw)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a ring");
    raw->depth = depth;
    raw->fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    int error = raw->fd < 0 ? -1 : io_uring_queue_init(depth, &raw->ring, 0);
    if (error < 0) {
        if (raw->fd >= 0)
            close(raw->fd);
        fm_base_mem_free(raw);
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "%s: no io_uring with O_DIRECT here", path);
    }
    *out_raw = raw;
    return FM_OK;
}

fm_status fm_bench_fs_raw_run(fm_bench_fs_raw *raw, enum fm_bench_fs_way way, const uint64_t *offsets,
                              unsigned count, unsigned size, void *buffers)
{
    struct io_uring_cqe *cqe;
    unsigned next = 0;
    unsigned done = 0;
    unsigned free_slots[256];
    unsigned free_count = raw->depth < 256 ? raw->depth : 256;
    for (unsigned i = 0; i < free_count; i++)
        free_slots[i] = i;
    while (done < count) {
        while (free_count > 0 && next < count) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->ring);
            unsigned slot = free_slots[--free_count];
            uint8_t *data = (uint8_t *)buffers + (size_t)slot * size;
            if (way == FM_BENCH_FS_READ)
                io_uring_prep_read(sqe, raw->fd, data, size, offsets[next++]);
            else
                io_uring_prep_write(sqe, raw->fd, data, size, offsets[next++]);
            if (way == FM_BENCH_FS_WRITE_DURABLE)
                sqe->rw_flags = RWF_DSYNC;
            sqe->user_data = slot;
        }
        if (io_uring_submit_and_wait(&raw->ring, 1) < 0)
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
    io_uring_queue_exit(&raw->ring);
    close(raw->fd);
    fm_base_mem_free(raw);
}
#else
fm_status fm_bench_fs_raw_open(const char *path, unsigned depth, fm_bench_fs_raw **out_raw)
{
    (void)depth;
    (void)out_raw;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "%s: built without io_uring", path);
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
