// The journal: records gather while a batch is on its way; one batch at a time is written, durable by itself, so that many
// changes share a flush.
#include "chunk_store_private.h"

enum {
    IDLE,
    WRITING, // a batch
    NOTHING, // all is durable; those who wait are told later
    // Records that nobody waits for are flushed when so many bytes have gathered.
    LAZY_BYTES = 64 << 10,
    // By which a journal's file grows. A flush of what makes a file longer costs the file system a commit of its own.
    GROWTH_BYTES = 1 << 20
};

static void flushed(fm_fs_disk_io *io);

static unsigned journal_file(const fm_fs_store *store)
{
    return (unsigned)(store->generation & 1);
}

fm_status fm_fs_journal_add(fm_fs_store *store, const uint8_t *record, size_t size, uint64_t *out_lsn)
{
    if (store->broken)
        return fm_base_error_set(store->broken, "the chunk store stopped after a failed flush");
    FM_TRY(fm_fs_store_bytes_add(&store->batch, record, size));
    store->batch_records++;
    store->lsn++;
    if (out_lsn)
        *out_lsn = store->lsn;
    return FM_OK;
}

fm_status fm_fs_journal_add_patch(fm_fs_store *store, const uint8_t *record, size_t size,
                                  const struct fm_fs_patch *patch, uint64_t *out_lsn)
{
    if (!patch)
        return fm_fs_journal_add(store, record, size, out_lsn);
    FM_TRY(fm_fs_store_bytes_room(&store->batch, size + patch->bytes->size));
    FM_TRY(fm_fs_journal_add(store, record, size, out_lsn));
    return fm_fs_store_bytes_add(&store->batch, patch->bytes->data, patch->bytes->size);
}

static void submit(fm_fs_store *store, int step)
{
    store->flush_step = step;
    store->flush_io = (fm_fs_disk_io){.kind = FM_FS_DISK_WRITE,
                                      .file = journal_file(store),
                                      .durable = 1,
                                      .done = flushed,
                                      .context = store};
    if (step == WRITING) {
        store->flush_io.offset = store->journal_at;
        store->flush_io.data = store->flush_bytes->data;
        store->flush_io.size = store->flush_bytes->room;
    }
    fm_fs_disk_submit(store->disk, &store->flush_io);
}

// Whole records up to FM_FS_BATCH_BYTES, at least one.
static size_t cut(const fm_fs_store *store, uint32_t *out_records)
{
    size_t size = 0;
    uint32_t records = 0;
    while (size < store->batch.size) {
        size_t next = size + 3 + fm_get_le16(store->batch.data + size + 1);
        if (next > FM_FS_BATCH_BYTES)
            break;
        size = next;
        records++;
    }
    *out_records = records;
    return size;
}

// What is written for a batch of so many bytes: zeros behind it where the file grows.
static size_t room_of_batch(fm_fs_store *store, size_t size)
{
    uint64_t end = store->journal_at + size;
    uint64_t grown = fm_round_up(end, GROWTH_BYTES);
    if (end <= store->disk->ops->size(store->disk, journal_file(store)))
        return size;
    if (grown > store->options.journal_bytes)
        grown = store->options.journal_bytes;
    return grown > end ? (size_t)(grown - store->journal_at) : size;
}

static fm_status write_batch(fm_fs_store *store)
{
    struct fm_fs_batch batch = {
        .generation = store->generation, .first = store->durable + 1, .durable = store->durable};
    size_t size = cut(store, &batch.records);
    batch.bytes = (uint32_t)size;
    size_t room = room_of_batch(store, fm_round_up(FM_FS_BATCH_HEADER + size, FM_FS_PAGE));
    store->flush_bytes = fm_fs_buffer_new(room);
    if (!store->flush_bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a batch of the journal");
    memset(store->flush_bytes->data + FM_FS_BATCH_HEADER + size, 0, room - FM_FS_BATCH_HEADER - size);
    store->flush_bytes->size = FM_FS_BATCH_HEADER + size;
    memcpy(store->flush_bytes->data + FM_FS_BATCH_HEADER, store->batch.data, size);
    fm_fs_batch_seal(store->flush_bytes->data, &batch);
    store->batch.size -= size;
    memmove(store->batch.data, store->batch.data + size, store->batch.size);
    store->batch_records -= batch.records;
    store->flushing = store->durable + batch.records;
    submit(store, WRITING);
    return FM_OK;
}

static int is_wanted(const fm_fs_store *store)
{
    return store->waiting_first || store->flushes || store->checkpoint_need > store->durable ||
           store->batch.size >= LAZY_BYTES ||
           (store->freed_count > 0 && store->batch.size > 0 &&
            store->used_bytes > store->disk->capacity_bytes / 8 * 7);
}

void fm_fs_journal_kick(fm_fs_store *store)
{
    if (store->flush_step || store->broken || !store->open || !is_wanted(store))
        return;
    if (!store->checkpoint_step && store->journal_at >= store->options.journal_bytes) {
        store->generation++;
        store->journal_at = 0;
        fm_fs_store_checkpoint(store, store->durable);
        if (store->broken)
            return;
    }
    if (store->batch_records) {
        fm_status status = write_batch(store);
        if (status < 0)
            fm_fs_journal_fail(store, status);
    } else {
        store->flushing = store->durable;
        submit(store, NOTHING);
    }
}

// Tells those who wait for a record up to `lsn`.
static void tell(fm_fs_store *store, uint64_t lsn, fm_status status)
{
    while (store->waiting_first && store->waiting_first->lsn <= lsn) {
        fm_fs_apply *apply = store->waiting_first;
        store->waiting_first = apply->next;
        fm_fs_store_apply_end(store, apply, status);
    }
    fm_fs_flush *kept = NULL;
    fm_fs_flush *flush = store->flushes;
    store->flushes = NULL;
    while (flush) {
        fm_fs_flush *next = flush->next;
        if (flush->lsn <= lsn) {
            flush->status = status;
            flush->done(flush);
        } else {
            flush->next = kept;
            kept = flush;
        }
        flush = next;
    }
    while (kept) {
        fm_fs_flush *next = kept->next;
        kept->next = store->flushes;
        store->flushes = kept;
        kept = next;
    }
}

void fm_fs_journal_fail(fm_fs_store *store, fm_status status)
{
    store->broken = status;
    tell(store, UINT64_MAX, status);
}

static void flushed(fm_fs_disk_io *io)
{
    fm_fs_store *store = io->context;
    if (store->flush_step == WRITING) {
        store->journal_at += fm_round_up(store->flush_bytes->size, FM_FS_PAGE);
        fm_fs_buffer_drop(store->flush_bytes);
        store->flush_bytes = NULL;
    }
    if (io->status < 0) {
        store->flush_step = IDLE;
        fm_fs_journal_fail(store, io->status);
        return;
    }
    store->flush_step = IDLE;
    store->durable = store->flushing;
    fm_fs_store_block_release(store);
    tell(store, store->durable, FM_OK);
    fm_fs_store_checkpoint_poll(store);
    fm_fs_store_land(store);
    fm_fs_journal_kick(store);
}

void fm_fs_store_flush(fm_fs_store *store, fm_fs_flush *flush)
{
    flush->lsn = store->lsn;
    flush->next = store->flushes;
    store->flushes = flush;
    fm_fs_journal_kick(store);
}
