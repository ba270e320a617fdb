/*
 * Checkpoints, written while changes go on. A checkpoint begins with a new journal, and what it says of a chunk may
 * already contain changes of that journal: replaying them once more leads to the same end. It counts, by its
 * header, when it is durable and so is every record that it may contain.
 *
 * The floor and requests (sessions) are written first and at once. If a chunk's change came into the checkpoint without the request
 * that made it, or the other way round, and the journal's record were lost, a request could be made twice or never.
 */
#include "chunk_store_private.h"

#include "fathom/crc.h"

enum { IDLE, BODY, BODY_END, WAIT, SYNC_BODY, HEADER, SYNC_HEADER, PIECE_BYTES = 256 << 10 };

static const char magic[8] = {'F', 'M', 'C', 'H', 'K', 'P', '0', '0' + FM_FS_STORE_VERSION};

static void step(fm_fs_disk_io *io);

static void submit(fm_fs_store *store, enum fm_fs_disk_kind kind, int next)
{
    store->checkpoint_step = next;
    store->checkpoint_io = (fm_fs_disk_io){.kind = kind,
                                           .file = 2 + (unsigned)(store->checkpoint_generation & 1),
                                           .done = step,
                                           .context = store};
    if (kind == FM_FS_DISK_WRITE) {
        store->checkpoint_io.offset = next == HEADER ? 0 : store->checkpoint_at;
        store->checkpoint_io.data = store->checkpoint_io_bytes->data;
        store->checkpoint_io.size = store->checkpoint_io_bytes->room;
    }
    fm_fs_disk_submit(store->disk, &store->checkpoint_io);
}

static fm_status add_first(fm_fs_store *store)
{
    uint8_t record[FM_FS_RECORD_MAX];
    FM_TRY(fm_fs_store_bytes_add(&store->checkpoint_out, record, fm_fs_record_floor(record, store->floor)));
    FM_TRY(fm_fs_store_bytes_add(&store->checkpoint_out, record,
                                 fm_fs_record_clients(record, store->forgotten_client)));
    for (uint32_t i = 0; i < store->session_count; i++)
        FM_TRY(fm_fs_store_bytes_add(&store->checkpoint_out, record,
                                     fm_fs_record_session(record, &store->sessions[i])));
    return FM_OK;
}

static fm_status add_patch(fm_fs_store *store, const uint8_t *record, size_t size,
                           const struct fm_fs_patch *patch)
{
    FM_TRY(fm_fs_store_bytes_add(&store->checkpoint_out, record, size));
    if (!patch)
        return FM_OK;
    return fm_fs_store_bytes_add(&store->checkpoint_out, patch->bytes->data, patch->bytes->size);
}

static fm_status add_chunk(fm_fs_store *store, const fm_fs_chunk *chunk)
{
    uint8_t record[FM_FS_RECORD_MAX];
    const struct fm_fs_overlay *owed = chunk->committed ? chunk->committed->overlay : NULL;
    if (chunk->committed)
        FM_TRY(fm_fs_store_bytes_add(
            &store->checkpoint_out, record,
            fm_fs_record_copy(record, FM_FS_RECORD_REPLACE, &chunk->id, chunk->committed, NULL)));
    for (uint32_t i = 0; owed && i < owed->count && !FM_FS_PLANT(FM_FS_PLANT_OWED_FORGOTTEN); i++)
        FM_TRY(add_patch(store, record, fm_fs_record_owed(record, &chunk->id, owed->patches[i]),
                         owed->patches[i]));
    if (!chunk->pending)
        return FM_OK;
    // A pending version has patches of the committed one, and its own, if it has one, behind them. The last of those may come
    // twice.
    owed = chunk->pending->overlay;
    const struct fm_fs_patch *last = owed ? owed->patches[owed->count - 1] : NULL;
    if (chunk->pending->share)
        return add_patch(store, record, fm_fs_record_patch(record, &chunk->id, chunk->pending, last, NULL),
                         last);
    return fm_fs_store_bytes_add(
        &store->checkpoint_out, record,
        fm_fs_record_copy(record, FM_FS_RECORD_APPLY, &chunk->id, chunk->pending, NULL));
}

static fm_status take_piece(fm_fs_store *store, size_t size)
{
    struct fm_fs_store_bytes *out = &store->checkpoint_out;
    store->checkpoint_io_bytes = fm_fs_buffer_new(size);
    if (!store->checkpoint_io_bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a checkpoint");
    if (size)
        memcpy(store->checkpoint_io_bytes->data, out->data, size);
    store->checkpoint_crc = fm_base_crc32c(store->checkpoint_crc, out->data, size);
    store->checkpoint_bytes += size;
    out->size -= size;
    if (size)
        memmove(out->data, out->data + size, out->size);
    return FM_OK;
}

static fm_status write_piece(fm_fs_store *store)
{
    int more = 1;
    while (store->checkpoint_out.size < PIECE_BYTES) {
        const fm_fs_chunk *chunk =
            fm_fs_store_after(store, store->checkpoint_any ? &store->checkpoint_after : NULL);
        if (!chunk) {
            more = 0;
            break;
        }
        FM_TRY(add_chunk(store, chunk));
        store->checkpoint_after = chunk->id;
        store->checkpoint_any = 1;
    }
    size_t size = store->checkpoint_out.size;
    if (more)
        size -= size % FM_FS_PAGE;
    FM_TRY(take_piece(store, size));
    submit(store, FM_FS_DISK_WRITE, more ? BODY : BODY_END);
    return FM_OK;
}

static fm_status write_header(fm_fs_store *store)
{
    store->checkpoint_io_bytes = fm_fs_buffer_new(FM_FS_PAGE);
    if (!store->checkpoint_io_bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a checkpoint's header");
    uint8_t *to = store->checkpoint_io_bytes->data;
    memset(to, 0, FM_FS_PAGE);
    memcpy(to, magic, 8);
    fm_put_le64(to + 8, store->checkpoint_generation);
    fm_put_le64(to + 16, store->checkpoint_lsn);
    fm_put_le64(to + 24, store->checkpoint_bytes);
    memcpy(to + 32, store->identity, 16);
    fm_put_le64(to + 48, store->checkpoint_need);
    fm_put_le32(to + 56, store->checkpoint_crc);
    fm_put_le32(to + 60, fm_base_crc32c(0, to, 60));
    submit(store, FM_FS_DISK_WRITE, HEADER);
    return FM_OK;
}

int fm_fs_store_checkpoint_header(const uint8_t *from, struct fm_fs_store_header *out_header)
{
    if (memcmp(from, magic, 7) != 0 || from[7] < '1' || from[7] > '9' ||
        fm_base_crc32c(0, from, 60) != fm_get_le32(from + 60))
        return 0;
    *out_header = (struct fm_fs_store_header){.generation = fm_get_le64(from + 8),
                                              .lsn = fm_get_le64(from + 16),
                                              .bytes = fm_get_le64(from + 24),
                                              .durable = fm_get_le64(from + 48),
                                              .crc = fm_get_le32(from + 56),
                                              .version = from[7] - (unsigned)'0'};
    memcpy(out_header->identity, from + 32, 16);
    return 1;
}

static void end(fm_fs_store *store)
{
    store->checkpoint_step = IDLE;
    store->checkpoint_need = 0;
    fm_base_mem_free(store->checkpoint_out.data);
    store->checkpoint_out = (struct fm_fs_store_bytes){0};
    if (!store->open)
        fm_fs_store_open_checkpointed(store);
}

static void fail(fm_fs_store *store, fm_status status)
{
    fm_fs_journal_fail(store, status);
    if (!store->open)
        fm_fs_store_open_end(store, status);
}

void fm_fs_store_checkpoint(fm_fs_store *store, uint64_t lsn)
{
    store->checkpoint_generation = store->generation;
    store->checkpoint_lsn = lsn;
    store->checkpoint_need = 0;
    store->checkpoint_at = FM_FS_PAGE;
    store->checkpoint_bytes = 0;
    store->checkpoint_crc = 0;
    store->checkpoint_any = 0;
    fm_status status = add_first(store);
    if (status == FM_OK)
        status = write_piece(store);
    if (status < 0)
        fail(store, status);
}

void fm_fs_store_checkpoint_poll(fm_fs_store *store)
{
    if (store->checkpoint_step == WAIT && store->durable >= store->checkpoint_need)
        submit(store, FM_FS_DISK_SYNC, SYNC_BODY);
}

static void step(fm_fs_disk_io *io)
{
    fm_fs_store *store = io->context;
    fm_status status = io->status;
    int was = store->checkpoint_step;
    fm_fs_buffer_drop(store->checkpoint_io_bytes);
    store->checkpoint_io_bytes = NULL;
    if (status < 0) {
        fail(store, status);
        return;
    }
    switch (was) {
    case BODY:
        store->checkpoint_at += io->size;
        status = write_piece(store);
        break;
    case BODY_END:
        store->checkpoint_need = store->lsn;
        store->checkpoint_step = WAIT;
        fm_fs_journal_kick(store);
        fm_fs_store_checkpoint_poll(store);
        break;
    case SYNC_BODY:
        status = write_header(store);
        break;
    case HEADER:
        submit(store, FM_FS_DISK_SYNC, SYNC_HEADER);
        break;
    case SYNC_HEADER:
        end(store);
        fm_fs_journal_kick(store);
        break;
    default:
        break;
    }
    if (status < 0)
        fail(store, status);
}
