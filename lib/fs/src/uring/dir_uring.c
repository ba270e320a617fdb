// The plain-directory back end: queues on io_uring. The only file that knows liburing.
#include "dir_fs.h"

#include <errno.h>
#include <liburing.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "fathom/mem.h"

enum {
    // The kernel moves at most 2 GiB less a page in one call; a power of two below it keeps pieces aligned.
    PIECE_BYTES_MAX = 1 << 30
};

/*
 * liburing maps and unmaps rings by system calls of its own, which ThreadSanitizer does not see: a ring
 * that one thread opens where another has closed one looks to it like memory that both use. Closing
 * releases and opening acquires this counter, which tells it the order that the kernel keeps.
 */
static atomic_uint rings_opened_and_closed;

struct uring_queue {
    fm_fs_queue base;
    struct io_uring ring;
    unsigned depth;
};

static void prepare(struct io_uring_sqe *sqe, fm_fs_io *io)
{
    int fd = ((struct dir_file *)io->file)->fd;
    size_t left = io->length - io->done;
    unsigned piece = left < PIECE_BYTES_MAX ? (unsigned)left : PIECE_BYTES_MAX;
    switch (io->kind) {
    case FM_FS_IO_READ:
        io_uring_prep_read(sqe, fd, (char *)io->buffer + io->done, piece, io->offset + io->done);
        break;
    case FM_FS_IO_WRITE:
        io_uring_prep_write(sqe, fd, (const char *)io->buffer + io->done, piece, io->offset + io->done);
        break;
    case FM_FS_IO_SYNC:
        io_uring_prep_fsync(sqe, fd, 0);
        break;
    }
    io_uring_sqe_set_data(sqe, io);
}

static void start_pending(struct uring_queue *queue)
{
    while (queue->base.pending.head && queue->base.in_flight < queue->depth) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);
        if (!sqe)
            return; // earlier ones were not submitted yet; they go first
        prepare(sqe, fm_fs_io_list_pop(&queue->base.pending));
        queue->base.in_flight++;
    }
}

// Takes one completion: the operation is finished, or goes back to have the rest of it done.
static void complete(struct uring_queue *queue, fm_fs_io *io, int result)
{
    static const char *const doing[] = {
        [FM_FS_IO_READ] = "read", [FM_FS_IO_WRITE] = "write", [FM_FS_IO_SYNC] = "sync"};
    queue->base.in_flight--;
    if (result == -EINTR || result == -EAGAIN) {
        fm_fs_io_list_push_head(&queue->base.pending, io);
        return;
    }
    if (result == 0 && io->kind == FM_FS_IO_WRITE)
        result = -EIO; // a write that moves nothing would be tried for ever
    if (result < 0) {
        fm_fs_queue_finish(&queue->base, io,
                           fm_fs_dir_error(io->file->fs, -result, doing[io->kind], io->file->path));
        return;
    }
    io->done += (size_t)result;
    if (result > 0 && io->done < io->length)
        fm_fs_io_list_push_head(&queue->base.pending, io);
    else
        fm_fs_queue_finish(&queue->base, io, FM_OK);
}

static void collect(struct uring_queue *queue)
{
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&queue->ring, &cqe) == 0) {
        fm_fs_io *io = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&queue->ring, cqe);
        complete(queue, io, result);
    }
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// Waits for `count` completions until `deadline_ns` (-1: none). 0 or a negative errno value.
static int wait_for(struct uring_queue *queue, unsigned count, int64_t deadline_ns)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec limit;
    int64_t left = deadline_ns < 0 ? 0 : deadline_ns - now_ns();
    if (left < 0)
        left = 0;
    limit.tv_sec = left / 1000000000;
    limit.tv_nsec = left % 1000000000;
    return io_uring_wait_cqes(&queue->ring, &cqe, count, deadline_ns < 0 ? NULL : &limit, NULL);
}

// Operations that the kernel has. The others of `in_flight` lie in the ring unsubmitted, when a submit has
// failed.
static size_t in_kernel(const struct uring_queue *queue)
{
    return queue->base.in_flight - io_uring_sq_ready(&queue->ring);
}

// How many completions to sleep for. With more to start, half of those in flight: the device stays busy,
// and a system call serves many operations.
static unsigned sleep_for(const struct uring_queue *queue, size_t want)
{
    size_t missing = want - queue->base.finished.count;
    size_t some = queue->base.pending.head ? (in_kernel(queue) + 1) / 2 : in_kernel(queue);
    return (unsigned)(missing < some ? missing : some);
}

static fm_status uring_advance(fm_fs_queue *base, size_t want, int timeout_ms)
{
    struct uring_queue *queue = (struct uring_queue *)base;
    int64_t deadline_ns = timeout_ms < 0 ? -1 : now_ns() + (int64_t)timeout_ms * 1000000;
    for (;;) {
        collect(queue);
        start_pending(queue);
        int result = io_uring_submit(&queue->ring);
        collect(queue); // what lies in the page cache is finished already
        if (base->finished.count >= want || (!base->pending.head && base->in_flight == 0) ||
            (deadline_ns >= 0 && now_ns() >= deadline_ns))
            return FM_OK;
        if (in_kernel(queue) > 0) // whatever a submit complained of, first take what is under way
            result = wait_for(queue, sleep_for(queue, want), deadline_ns);
        if (result < 0 && result != -EINTR && result != -ETIME)
            return fm_base_error_set_errno(FM_ERR_IO, -result, "io_uring refuses work");
    }
}

static void uring_close(fm_fs_queue *base)
{
    struct uring_queue *queue = (struct uring_queue *)base;
    // The kernel writes to the callers' buffers until the last completion, so every one is waited for.
    while (in_kernel(queue) > 0) {
        struct io_uring_cqe *cqe;
        (void)io_uring_wait_cqe(&queue->ring, &cqe);
        collect(queue);
    }
    for (fm_fs_io *io; (io = fm_fs_io_list_pop(&base->pending));) // the rest of short reads
        io->status = FM_ERR_CANCELLED;
    atomic_fetch_add_explicit(&rings_opened_and_closed, 1, memory_order_release);
    io_uring_queue_exit(&queue->ring);
    fm_base_mem_free(queue);
}

static const struct fm_fs_queue_ops uring_ops = {"io_uring", uring_advance, uring_close};

fm_status fm_fs_dir_uring_open(fm_fs *fs, unsigned depth, fm_fs_queue **out_queue)
{
    (void)fs;
    struct uring_queue *queue = fm_base_mem_zalloc(1, sizeof *queue);
    if (!queue)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a queue");
    queue->base.ops = &uring_ops;
    queue->depth = depth;
    // A kernel or sandbox without io_uring, or one out of descriptors or locked memory: the blocking engine
    // needs none.
    if (io_uring_queue_init(depth, &queue->ring, 0) < 0) {
        fm_base_mem_free(queue);
        return FM_ERR_UNSUPPORTED;
    }
    atomic_fetch_add_explicit(&rings_opened_and_closed, 1, memory_order_acquire);
    // Linux 5.11: waits take a time limit without an operation of their own. It has every operation used
    // here, too.
    if (!(queue->ring.features & IORING_FEAT_EXT_ARG)) {
        io_uring_queue_exit(&queue->ring);
        fm_base_mem_free(queue);
        return FM_ERR_UNSUPPORTED;
    }
    *out_queue = &queue->base;
    return FM_OK;
}
