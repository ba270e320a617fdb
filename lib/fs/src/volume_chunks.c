// A volume's connections, and transfers of many chunks at once over one of them.
#include "volume.h"

#include <string.h>

fm_status fm_fs_volume_take(fm_fs_volume *volume, fm_fs_chunks **out_chunks)
{
    fm_status status = FM_OK;
    fm_fs_chunks *chunks = NULL;
    pthread_mutex_lock(&volume->lock);
    while (!volume->idle_count && volume->made_count == volume->options.connections)
        pthread_cond_wait(&volume->idle, &volume->lock);
    if (volume->idle_count) {
        chunks = volume->connections[--volume->idle_count];
    } else {
        status = fm_fs_chunks_open(volume->dir, &chunks);
        volume->made_count += status == FM_OK;
    }
    pthread_mutex_unlock(&volume->lock);
    if (status == FM_OK)
        *out_chunks = chunks;
    return status;
}

void fm_fs_volume_leave(fm_fs_volume *volume, fm_fs_chunks *chunks)
{
    pthread_mutex_lock(&volume->lock);
    volume->connections[volume->idle_count++] = chunks;
    pthread_cond_signal(&volume->idle);
    pthread_mutex_unlock(&volume->lock);
}

struct batch {
    fm_fs_chunks *chunks;
    const fm_fs_node *node;
    enum fm_fs_volume_action action;
    int64_t timeout_ns;
    fm_fs_client_io ios[FM_FS_VOLUME_BATCH];
    struct fm_fs_volume_part parts[FM_FS_VOLUME_BATCH];
    // READ: where each part goes. Its references stay: a call that has just ended drops its own only after io_done().
    fm_fs_buffer to[FM_FS_VOLUME_BATCH];
    const uint8_t *from[FM_FS_VOLUME_BATCH]; // WRITE: where each is; NULL: zeros
    size_t count, running;
    int hole; // a READ found less than it asked for
};

static void io_done(fm_fs_client_io *io)
{
    struct batch *batch = io->context;
    if (--batch->running == 0)
        batch->chunks->done = 1;
}

static fm_status prepare(struct batch *batch, size_t i)
{
    fm_fs_client_io *io = &batch->ios[i];
    const struct fm_fs_volume_part *part = &batch->parts[i];
    *io = (fm_fs_client_io){.timeout_ns = batch->timeout_ns, .done = io_done, .context = batch};
    fm_fs_meta_chunk(batch->node, part->index, &io->chain, io->id.bytes);
    io->offset = part->offset;
    io->size = part->size;
    switch (batch->action) {
    case FM_FS_VOLUME_READ:
        io->kind = FM_FS_CLIENT_READ;
        io->into = &batch->to[i];
        break;
    case FM_FS_VOLUME_WRITE:
        io->kind = FM_FS_CLIENT_WRITE;
        io->data = fm_fs_buffer_new(part->size);
        if (!io->data)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %u bytes of a chunk", part->size);
        if (batch->from[i])
            memcpy(io->data->data, batch->from[i], part->size);
        else
            memset(io->data->data, 0, part->size);
        break;
    case FM_FS_VOLUME_REMOVE:
        io->kind = FM_FS_CLIENT_REMOVE;
        break;
    }
    return FM_OK;
}

// What a read brought; what it did not bring is zeros.
static void take_bytes(struct batch *batch, size_t i)
{
    const struct fm_fs_volume_part *part = &batch->parts[i];
    fm_fs_client_io *io = &batch->ios[i];
    uint8_t *to = batch->to[i].data;
    size_t got = io->bytes ? io->bytes->size : 0;
    if (got && io->bytes != &batch->to[i])
        memcpy(to, io->bytes->data, got);
    memset(to + got, 0, part->size - got);
    batch->hole |= got < part->size;
    fm_fs_buffer_drop(io->bytes);
    io->bytes = NULL;
}

static fm_status run(struct batch *batch)
{
    fm_status status = FM_OK;
    size_t prepared = 0;
    while (prepared < batch->count && status == FM_OK) {
        status = prepare(batch, prepared++);
    }
    if (status == FM_OK) {
        batch->running = batch->count;
        batch->chunks->done = 0;
        for (size_t i = 0; i < batch->count; i++)
            fm_fs_client_start(batch->chunks->client, &batch->ios[i]);
        status = fm_fs_chunks_wait(batch->chunks);
        for (size_t i = 0; i < batch->count; i++) {
            if (status == FM_OK && batch->ios[i].status < 0)
                status = fm_base_error_set(batch->ios[i].status, "chunk %u of inode %llu on chain %u: %s",
                                           batch->parts[i].index, (unsigned long long)batch->node->ino,
                                           batch->ios[i].chain, fm_base_status_text(batch->ios[i].status));
            if (batch->action == FM_FS_VOLUME_READ && batch->ios[i].status == FM_OK)
                take_bytes(batch, i);
        }
    }
    for (size_t i = 0; i < prepared; i++)
        fm_fs_buffer_drop(batch->ios[i].data);
    return status;
}

// Adds the part of a piece that begins at `done`; how long it is.
static uint32_t add_part(struct batch *batch, const struct fm_fs_volume_piece *piece, size_t done)
{
    const uint64_t chunk = batch->node->layout.chunk_bytes;
    uint64_t at = piece->offset + done;
    uint64_t left = chunk - at % chunk;
    uint32_t size = (uint32_t)(left < piece->size - done ? left : piece->size - done);
    batch->parts[batch->count] =
        (struct fm_fs_volume_part){(uint32_t)(at / chunk), (uint32_t)(at % chunk), size};
    batch->to[batch->count] = (fm_fs_buffer){
        .refs = 1, .size = size, .room = size, .data = piece->into ? piece->into + done : NULL};
    batch->from[batch->count++] = piece->bytes ? piece->bytes + done : NULL;
    return size;
}

static fm_status run_all(struct batch *batch, const struct fm_fs_volume_piece *pieces, size_t count)
{
    size_t done = 0;
    for (size_t i = 0; i < count;) {
        batch->count = 0;
        while (i < count && batch->count < FM_FS_VOLUME_BATCH) {
            done += add_part(batch, &pieces[i], done);
            if (done == pieces[i].size) {
                i++;
                done = 0;
            }
        }
        FM_TRY(run(batch));
    }
    return FM_OK;
}

// What were holes to a reader may be what somebody has cut off just then.
static fm_status check_holes(fm_fs_volume *volume, const fm_fs_node *node)
{
    fm_fs_node now;
    FM_TRY(fm_fs_meta_node(volume->meta, node->ino, &now));
    if (fm_fs_cut_between(node, &now))
        return fm_base_error_set(FM_ERR_STATE, "inode %llu was cut while it was read",
                                 (unsigned long long)node->ino);
    return FM_OK;
}

static fm_status transfer(fm_fs_volume *volume, const fm_fs_node *node, enum fm_fs_volume_action action,
                          const struct fm_fs_volume_piece *pieces, size_t count)
{
    struct batch batch = {.node = node, .action = action, .timeout_ns = volume->options.timeout_ms * 1000000};
    for (size_t i = 0; i < count; i++) {
        uint64_t last = pieces[i].offset + pieces[i].size - 1;
        if (last / node->layout.chunk_bytes > UINT32_MAX)
            return fm_base_error_set(FM_ERR_LIMIT, "byte %llu of a file with chunks of %u bytes",
                                     (unsigned long long)last, node->layout.chunk_bytes);
    }
    FM_TRY(fm_fs_volume_take(volume, &batch.chunks));
    fm_status status = run_all(&batch, pieces, count);
    fm_fs_volume_leave(volume, batch.chunks);
    return status == FM_OK && batch.hole ? check_holes(volume, node) : status;
}

fm_status fm_fs_volume_transfer(fm_fs_volume *volume, const fm_fs_node *node, enum fm_fs_volume_action action,
                                uint64_t offset, uint64_t length, void *to, const void *from)
{
    const struct fm_fs_volume_piece piece = {.offset = offset, .size = length, .bytes = from, .into = to};
    return length ? transfer(volume, node, action, &piece, 1) : FM_OK;
}

fm_status fm_fs_volume_read_pieces(fm_fs_volume *volume, const fm_fs_node *node,
                                   const struct fm_fs_volume_piece *pieces, size_t count)
{
    return transfer(volume, node, FM_FS_VOLUME_READ, pieces, count);
}

/* What volume_cut.h asks for */

static fm_status look(void *context, uint64_t ino, fm_fs_node *out_node)
{
    return fm_fs_meta_node(((struct fm_fs_volume_asker *)context)->volume->meta, ino, out_node);
}

static fm_status extend(void *context, const fm_fs_node *node, uint64_t end, fm_fs_node *out_node)
{
    fm_fs_meta *meta = ((struct fm_fs_volume_asker *)context)->volume->meta;
    return fm_fs_meta_extend(meta, node->ino, node->data, end, node->cuts, out_node);
}

static fm_status fence(void *context, const fm_fs_node *node, fm_fs_node *out_node)
{
    fm_fs_meta *meta = ((struct fm_fs_volume_asker *)context)->volume->meta;
    return fm_fs_meta_fence(meta, node->ino, node->data, out_node);
}

static fm_status cut(void *context, const fm_fs_node *node, uint64_t size, fm_fs_node *out_node)
{
    const struct fm_fs_volume_asker *asker = context;
    return fm_fs_meta_truncate(asker->volume->meta, asker->who, node->ino, node->data, size, node->cuts,
                               out_node);
}

static fm_status run_ios(void *context, fm_fs_client_io *ios, size_t count)
{
    fm_fs_volume *volume = ((struct fm_fs_volume_asker *)context)->volume;
    struct batch batch = {.running = count};
    FM_TRY(fm_fs_volume_take(volume, &batch.chunks));
    batch.chunks->done = 0;
    for (size_t i = 0; i < count; i++) {
        ios[i].timeout_ns = volume->options.timeout_ms * 1000000;
        ios[i].done = io_done;
        ios[i].context = &batch;
        fm_fs_client_start(batch.chunks->client, &ios[i]);
    }
    fm_status status = fm_fs_chunks_wait(batch.chunks);
    fm_fs_volume_leave(volume, batch.chunks);
    return status;
}

struct fm_fs_cut_ways fm_fs_volume_ways(struct fm_fs_volume_asker *asker)
{
    return (struct fm_fs_cut_ways){look, extend, fence, cut, run_ios, asker};
}
