// Queues: what all engines share, and the blocking engine that needs nothing but a back end's file slots.
#include "fs_backend.h"

#include <stdlib.h>
#include <string.h>

#include "fathom/mem.h"

enum {
    DEPTH_MAX = 4096 // io_uring allows 32768 entries; beyond some hundred no device gains, and each costs
                     // locked memory
};

static void io_list_init(struct fm_fs_io_list *list)
{
    *list = (struct fm_fs_io_list){.tail = &list->head};
}

void fm_fs_io_list_push(struct fm_fs_io_list *list, fm_fs_io *io)
{
    io->next_ = NULL;
    *list->tail = io;
    list->tail = &io->next_;
    list->count++;
}

void fm_fs_io_list_push_head(struct fm_fs_io_list *list, fm_fs_io *io)
{
    io->next_ = list->head;
    if (!list->head)
        list->tail = &io->next_;
    list->head = io;
    list->count++;
}

fm_fs_io *fm_fs_io_list_pop(struct fm_fs_io_list *list)
{
    fm_fs_io *io = list->head;
    if (!io)
        return NULL;
    list->head = io->next_;
    if (!list->head)
        list->tail = &list->head;
    list->count--;
    io->next_ = NULL;
    return io;
}

void fm_fs_queue_finish(fm_fs_queue *queue, fm_fs_io *io, fm_status status)
{
    io->status = status;
    if (status < 0)
        queue->failed = io;
    fm_fs_io_list_push(&queue->finished, io);
}

static fm_status carry_out(fm_fs_io *io)
{
    const struct fm_fs_ops *ops = io->file->fs->ops;
    switch (io->kind) {
    case FM_FS_IO_READ:
        return ops->file_read(io->file, io->buffer, io->length, io->offset, &io->done);
    case FM_FS_IO_WRITE:
        FM_TRY(ops->file_write(io->file, io->buffer, io->length, io->offset));
        io->done = io->length;
        return FM_OK;
    case FM_FS_IO_SYNC:
        return ops->file_sync(io->file);
    }
    return FM_ERR_INTERNAL; // fm_fs_queue_submit() let only these pass
}

static fm_status blocking_advance(fm_fs_queue *queue, size_t want, int timeout_ms)
{
    (void)want;
    (void)timeout_ms;
    for (fm_fs_io *io; (io = fm_fs_io_list_pop(&queue->pending));)
        fm_fs_queue_finish(queue, io, carry_out(io));
    return FM_OK;
}

static void blocking_close(fm_fs_queue *queue)
{
    fm_base_mem_free(queue);
}

static const struct fm_fs_queue_ops blocking_ops = {"blocking", blocking_advance, blocking_close};

static fm_status blocking_open(fm_fs_queue **out_queue)
{
    fm_fs_queue *queue = fm_base_mem_alloc(sizeof *queue);
    if (!queue) {
        fm_base_error_set(FM_ERR_NOMEM, "no memory for a queue");
        return FM_ERR_NOMEM;
    }
    *queue = (fm_fs_queue){.ops = &blocking_ops};
    *out_queue = queue;
    return FM_OK;
}

fm_status fm_fs_queue_open(fm_fs *fs, unsigned depth, fm_fs_queue **out_queue)
{
    const char *choice = getenv("FM_FS_QUEUE");
    fm_fs_queue *queue = NULL;
    if (depth < 1 || depth > DEPTH_MAX)
        return fm_base_error_set(FM_ERR_ARG, "depth is %u; expected 1 to %d", depth, DEPTH_MAX);
    if (choice && *choice && strcmp(choice, "blocking") != 0)
        return fm_base_error_set(FM_ERR_ARG, "FM_FS_QUEUE is \"%s\"; expected \"blocking\" or nothing",
                                 choice);
    fm_status status = FM_ERR_UNSUPPORTED;
    if (fs->ops->queue_open && !(choice && *choice))
        status = fs->ops->queue_open(fs, depth, &queue);
    if (status == FM_ERR_UNSUPPORTED)
        status = blocking_open(&queue);
    if (status < 0)
        return status;
    queue->fs = fs;
    io_list_init(&queue->pending);
    io_list_init(&queue->finished);
    *out_queue = queue;
    return FM_OK;
}

void fm_fs_queue_close(fm_fs_queue *queue)
{
    if (!queue)
        return;
    for (fm_fs_io *io; (io = fm_fs_io_list_pop(&queue->pending));)
        io->status = FM_ERR_CANCELLED;
    queue->ops->close(queue);
}

const char *fm_fs_queue_engine(const fm_fs_queue *queue)
{
    return queue->ops->name;
}

static fm_status check_io(const fm_fs_queue *queue, const fm_fs_io *io)
{
    if (!io->file || io->file->fs != queue->fs)
        return fm_base_error_set(FM_ERR_ARG, "the file is %s", io->file ? "of another file system" : "NULL");
    switch (io->kind) {
    case FM_FS_IO_READ:
        return fm_fs_file_check(io->file, FM_FS_READ, io->buffer, io->length, io->offset);
    case FM_FS_IO_WRITE:
        return fm_fs_file_check(io->file, FM_FS_WRITE, io->buffer, io->length, io->offset);
    case FM_FS_IO_SYNC:
        return FM_OK;
    }
    return fm_base_error_set(
        FM_ERR_ARG, "kind is %d; expected FM_FS_IO_READ, FM_FS_IO_WRITE or FM_FS_IO_SYNC", (int)io->kind);
}

fm_status fm_fs_queue_submit(fm_fs_queue *queue, fm_fs_io *ios, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        fm_status status = check_io(queue, &ios[i]);
        if (status < 0)
            return fm_base_error_prefix(status, "operation %zu", i);
    }
    for (size_t i = 0; i < count; i++) {
        fm_fs_io *io = &ios[i];
        io->done = 0;
        if (io->length == 0 && io->kind != FM_FS_IO_SYNC)
            fm_fs_queue_finish(queue, io, FM_OK);
        else
            fm_fs_io_list_push(&queue->pending, io);
    }
    return queue->ops->advance(queue, 0, 0);
}

fm_status fm_fs_queue_wait(fm_fs_queue *queue, size_t min, int timeout_ms, fm_fs_io **out_done, size_t max,
                           size_t *out_count)
{
    size_t want = min < max ? min : max;
    // Also when enough are there already: what is pending takes the places that they left.
    FM_TRY(queue->ops->advance(queue, want, timeout_ms));
    size_t count = 0;
    while (count < max && queue->finished.head)
        out_done[count++] = fm_fs_io_list_pop(&queue->finished);
    *out_count = count;
    return FM_OK;
}

fm_status fm_fs_queue_run(fm_fs_queue *queue, fm_fs_io *ios, size_t count)
{
    size_t outstanding = queue->pending.count + queue->in_flight + queue->finished.count;
    if (outstanding > 0)
        return fm_base_error_set(FM_ERR_STATE, "%zu earlier operations of the queue are still outstanding",
                                 outstanding);
    queue->failed = NULL;
    FM_TRY(fm_fs_queue_submit(queue, ios, count));
    FM_TRY(queue->ops->advance(queue, count, -1));
    while (fm_fs_io_list_pop(&queue->finished))
        ;
    return queue->failed ? queue->failed->status : FM_OK;
}
