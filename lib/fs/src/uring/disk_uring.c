// io_uring for the disks of targets. What is submitted while the loop handles events goes to the kernel in one call.
#include "disk_file.h"

#include <liburing.h>
#include <sys/epoll.h>
#include <sys/uio.h>

enum {
    DEPTH = 128,
    // A disk may finish all that it has at once and idle then. So the loop has a turn after the first results, that they go
    // their way and what comes of them is begun, before the others are looked at.
    FIRST = 8,
    // What was submitted waits for more of it, to share a call to the kernel, until it would keep the disk waiting; less when
    // the disk has nothing else.
    HELD_BYTES = 32 << 10,
    HELD_IDLE_BYTES = 16 << 10
};

struct fm_fs_ring {
    struct io_uring ring;
    fm_net_loop *loop;
    fm_net_watch watch;
    fm_net_timer flush;
    int flushing;   // the timer is set
    int collecting; // what is submitted meanwhile goes to the kernel at its end
    unsigned in_flight;
    int dry;     // there were no more results
    size_t held; // bytes that are submitted and not known to the kernel
    void (*done)(void *context, fm_fs_disk_io *io, int result);
    void *context;
};

static void collect(void *context, uint32_t events)
{
    fm_fs_ring *ring = context;
    struct io_uring_cqe *cqe;
    (void)events;
    unsigned left = ring->dry ? FIRST : DEPTH;
    ring->collecting = 1;
    for (; left > 0 && io_uring_peek_cqe(&ring->ring, &cqe) == 0; left--) {
        fm_fs_disk_io *io = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&ring->ring, cqe);
        ring->in_flight--;
        ring->done(ring->context, io, result);
    }
    ring->dry = left > 0;
    ring->collecting = 0;
    ring->held = 0;
    io_uring_submit(&ring->ring);
}

static void flush(void *context)
{
    fm_fs_ring *ring = context;
    ring->flushing = 0;
    ring->held = 0;
    io_uring_submit(&ring->ring);
}

fm_fs_ring *fm_fs_ring_new(fm_net_loop *loop, void (*done)(void *context, fm_fs_disk_io *io, int result),
                           void *context)
{
    fm_fs_ring *ring = fm_base_mem_zalloc(1, sizeof *ring);
    if (!ring)
        return NULL;
    if (io_uring_queue_init(DEPTH, &ring->ring, 0) < 0) {
        fm_base_mem_free(ring);
        return NULL;
    }
    ring->loop = loop;
    ring->done = done;
    ring->context = context;
    ring->flush = (fm_net_timer){.fire = flush, .context = ring};
    ring->watch =
        (fm_net_watch){.fd = ring->ring.ring_fd, .events = EPOLLIN, .ready = collect, .context = ring};
    if (fm_net_watch_start(loop, &ring->watch) < 0) {
        io_uring_queue_exit(&ring->ring);
        fm_base_mem_free(ring);
        return NULL;
    }
    return ring;
}

void fm_fs_ring_free(fm_fs_ring *ring)
{
    struct io_uring_cqe *cqe;
    if (!ring)
        return;
    fm_net_watch_stop(ring->loop, &ring->watch);
    fm_net_timer_stop(ring->loop, &ring->flush);
    io_uring_submit(&ring->ring);
    for (; ring->in_flight > 0 && io_uring_wait_cqe(&ring->ring, &cqe) == 0; ring->in_flight--)
        io_uring_cqe_seen(&ring->ring, cqe);
    io_uring_queue_exit(&ring->ring);
    fm_base_mem_free(ring);
}

int fm_fs_ring_submit(fm_fs_ring *ring, int fd, fm_fs_disk_io *io, size_t done_bytes)
{
    // Never more than the completion queue holds.
    struct io_uring_sqe *sqe = ring->in_flight < DEPTH ? io_uring_get_sqe(&ring->ring) : NULL;
    if (!sqe)
        return 0;
    uint8_t *data = io->data ? (uint8_t *)io->data + done_bytes : NULL; // none for a flush
    unsigned size = (unsigned)(io->size - done_bytes);                  // at most a chunk
    if (io->kind == FM_FS_DISK_READ)
        io_uring_prep_read(sqe, fd, data, size, io->offset + done_bytes);
    else if (io->kind == FM_FS_DISK_WRITE)
        io_uring_prep_write(sqe, fd, data, size, io->offset + done_bytes);
    else
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    if (io->durable)
        sqe->rw_flags = RWF_DSYNC;
    io_uring_sqe_set_data(sqe, io);
    ring->in_flight++;
    ring->held += size;
    int idle = ring->in_flight == io_uring_sq_ready(&ring->ring);
    if (ring->held >= (idle ? HELD_IDLE_BYTES : HELD_BYTES)) {
        ring->held = 0;
        io_uring_submit(&ring->ring);
        return 1;
    }
    if (!ring->flushing && !ring->collecting) {
        ring->flushing = 1;
        if (fm_net_timer_start(ring->loop, &ring->flush, 0) < 0)
            flush(ring);
    }
    return 1;
}
