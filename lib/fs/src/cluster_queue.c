// Queues on a cluster: many operations under way over one connection, moved on by the owner's own calls.
#include <string.h>

#include "cluster_fs.h"
#include "fathom/clock.h"
#include "volume_move.h"

enum {
    // Parts of operations that travel at once: enough for the disks, and each holds a chunk's worth of memory at most.
    PARTS_MIN = 16,
    PARTS_MAX = 256,
    GROWTHS_MAX = 2 // then others cut the file again and again
};

struct slot {
    fm_fs_move move;
    fm_fs_io *io;
    struct cluster_queue *queue;
    struct slot *next;
};

struct cluster_queue {
    fm_fs_queue base;
    fm_fs_volume *volume;
    fm_fs_mover *mover;
    struct slot *slots;
    struct slot *unused;
    struct slot *later; // not without waiting: done when nothing else is under way
    unsigned depth;
};

static void finish(struct slot *slot, fm_status status)
{
    struct cluster_queue *queue = slot->queue;
    fm_fs_io *io = slot->io;
    static const char *const doing[] = {
        [FM_FS_IO_READ] = "read", [FM_FS_IO_WRITE] = "write", [FM_FS_IO_SYNC] = "sync"};
    if (status < 0)
        status =
            fm_base_error_prefix(fm_fs_cluster_said(status), "cannot %s %s", doing[io->kind], io->file->path);
    slot->next = queue->unused;
    queue->unused = slot;
    queue->base.in_flight--;
    fm_fs_queue_finish(&queue->base, io, status);
}

static void moved(fm_fs_move *move)
{
    struct slot *slot = move->context;
    slot->io->done = move->moved;
    finish(slot, move->status);
}

static int is_write_of(const fm_fs_io *io, uint64_t ino)
{
    return io->kind == FM_FS_IO_WRITE && ((const struct cluster_file *)io->file)->ino == ino;
}

// How far the queue's writes reach in the file: it grows for all of them at once.
static uint64_t reach_of(const struct cluster_queue *queue, uint64_t ino)
{
    uint64_t reach = 0;
    for (unsigned i = 0; i < queue->depth; i++) {
        const fm_fs_move *move = &queue->slots[i].move;
        if (queue->slots[i].io && move->writes && !move->unsettled && move->ino == ino &&
            move->offset + move->length > reach)
            reach = move->offset + move->length;
    }
    for (const fm_fs_io *io = queue->base.pending.head; io; io = io->next_)
        if (is_write_of(io, ino) && io->offset + io->length > reach)
            reach = io->offset + io->length;
    return reach;
}

static void slow(void *context, fm_fs_move *move)
{
    struct cluster_queue *queue = context;
    struct slot *slot = move->context;
    if (move->writes && !move->unsettled && move->slowed <= GROWTHS_MAX &&
        fm_fs_volume_grow(queue->volume, move->ino, reach_of(queue, move->ino)) == FM_OK) {
        fm_fs_mover_add(queue->mover, move);
        fm_fs_mover_pump(queue->mover);
        return;
    }
    slot->next = queue->later;
    queue->later = slot;
}

// What has to wait: inline files that are written, files that were cut meanwhile, and names on a server.
static void do_later(struct cluster_queue *queue)
{
    while (queue->later) {
        struct slot *slot = queue->later;
        queue->later = slot->next;
        fm_fs_move_carry_out(queue->volume, &slot->move);
        moved(&slot->move);
    }
}

static void start(struct cluster_queue *queue, fm_fs_io *io)
{
    struct cluster_file *file = (struct cluster_file *)io->file;
    if (io->kind == FM_FS_IO_SYNC) { // bytes are durable when they are written; the time of change is told
        fm_fs_queue_finish(&queue->base, io, io->file->fs->ops->file_sync(io->file));
        return;
    }
    struct slot *slot = queue->unused;
    queue->unused = slot->next;
    queue->base.in_flight++;
    slot->io = io;
    slot->move = (fm_fs_move){.ino = file->ino,
                              .writes = io->kind == FM_FS_IO_WRITE,
                              .priority = FM_FS_MOVE_NORMAL,
                              .buffer = io->buffer,
                              .length = io->length,
                              .offset = io->offset,
                              .done = moved,
                              .context = slot};
    if (slot->move.writes)
        __atomic_store_n(&file->written, 1, __ATOMIC_RELAXED);
    fm_fs_mover_add(queue->mover, &slot->move);
}

static void start_pending(struct cluster_queue *queue)
{
    while (queue->unused && queue->base.pending.head)
        start(queue, fm_fs_io_list_pop(&queue->base.pending));
    fm_fs_mover_pump(queue->mover);
}

static fm_status cluster_advance(fm_fs_queue *base, size_t want, int timeout_ms)
{
    struct cluster_queue *queue = (struct cluster_queue *)base;
    const int64_t forever_ns = (int64_t)1000000000;
    uint64_t now = fm_base_clock_ns();
    uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : now + (uint64_t)timeout_ms * 1000000;
    for (;;) {
        start_pending(queue);
        size_t late = 0;
        for (struct slot *slot = queue->later; slot; slot = slot->next)
            late++;
        if (late && late == base->in_flight)
            do_later(queue);
        now = fm_base_clock_ns();
        int ready = base->finished.count >= want || (!base->pending.head && base->in_flight == 0);
        int over = ready || now >= deadline;
        int64_t wait = over                                    ? 0
                       : deadline - now < (uint64_t)forever_ns ? (int64_t)(deadline - now)
                                                               : forever_ns;
        FM_TRY(fm_net_loop_progress(fm_fs_mover_loop(queue->mover), wait));
        if (over) {
            start_pending(queue);
            return FM_OK;
        }
    }
}

static void cluster_queue_free(struct cluster_queue *queue)
{
    fm_fs_mover_free(queue->mover);
    fm_base_mem_free(queue->slots);
    fm_base_mem_free(queue);
}

static void cluster_queue_close(fm_fs_queue *base)
{
    struct cluster_queue *queue = (struct cluster_queue *)base;
    while (queue->later) { // not begun
        queue->later->io->status = FM_ERR_CANCELLED;
        base->in_flight--;
        queue->later = queue->later->next;
    }
    while (base->in_flight > 0 &&
           fm_net_loop_progress(fm_fs_mover_loop(queue->mover), (int64_t)1000000000) == FM_OK)
        if (queue->later)
            do_later(queue);
    cluster_queue_free(queue);
}

static const struct fm_fs_queue_ops cluster_queue_ops = {"cluster", cluster_advance, cluster_queue_close};

fm_status fm_fs_cluster_queue_open(fm_fs *fs, unsigned depth, fm_fs_queue **out_queue)
{
    const struct cluster_fs *cluster = (const struct cluster_fs *)fs;
    struct cluster_queue *queue = fm_base_mem_zalloc(1, sizeof *queue);
    if (!queue)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a queue");
    queue->base.ops = &cluster_queue_ops;
    queue->volume = cluster->volume;
    queue->depth = depth;
    queue->slots = fm_base_mem_zalloc(depth, sizeof *queue->slots);
    const fm_fs_mover_options options = {.volume = queue->volume,
                                         .parts = depth < PARTS_MIN   ? PARTS_MIN
                                                  : depth > PARTS_MAX ? PARTS_MAX
                                                                      : depth,
                                         .slow = slow,
                                         .context = queue};
    fm_status status = queue->slots ? fm_fs_mover_new(&options, &queue->mover)
                                    : fm_base_error_set(FM_ERR_NOMEM, "no memory for a queue of %u", depth);
    if (status < 0) {
        cluster_queue_free(queue);
        return status;
    }
    for (unsigned i = 0; i < depth; i++) {
        queue->slots[i].queue = queue;
        queue->slots[i].next = queue->unused;
        queue->unused = &queue->slots[i];
    }
    *out_queue = &queue->base;
    return FM_OK;
}
