/*
 * Opening: the newest sound checkpoint, then its journal, then the next journal if a checkpoint was being taken.
 *
 * A journal ends at the first batch that is not sound. After a crash that is the batch that was on its way, of which
 * any part may be there. It is also what a rotten page in the middle would look like, and then acknowledged changes
 * would be gone unnoticed: so what lies behind is searched for a batch that says that more had been durable.
 */
#include "chunk_store_private.h"

#include "fathom/crc.h"

enum { HEADER_0, HEADER_1, BODY, JOURNAL, SYNC, PIECE_BYTES = 256 << 10 };

struct fm_fs_store_opening {
    int step;
    int second; // the journal that follows is replayed
    fm_fs_buffer *piece;
    fm_fs_disk_io io;
    int sound[2];
    int used[2]; // whether the page of the header is not zero
    struct fm_fs_store_header headers[2];
    int best;
    uint64_t at;
    uint64_t left;
    uint32_t crc;
    struct fm_fs_store_bytes carry;
    uint64_t journal_end;
    int searching;
    uint64_t journal_size; // of the file
    uint64_t second_lsn;   // of the record before the journal that follows
};

static void step(fm_fs_disk_io *io);

static void submit(fm_fs_store *store, enum fm_fs_disk_kind kind, unsigned file, uint64_t offset, size_t size,
                   int next)
{
    struct fm_fs_store_opening *opening = store->opening;
    opening->step = next;
    opening->io = (fm_fs_disk_io){.kind = kind,
                                  .file = file,
                                  .offset = offset,
                                  .size = size,
                                  .data = opening->piece->data,
                                  .done = step,
                                  .context = store};
    fm_fs_disk_submit(store->disk, &opening->io);
}

fm_status fm_fs_store_open_begin(fm_fs_store *store)
{
    struct fm_fs_store_opening *opening = fm_base_mem_zalloc(1, sizeof *opening);
    if (!opening)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to open a chunk store");
    store->opening = opening;
    opening->best = -1;
    opening->piece = fm_fs_buffer_new(PIECE_BYTES);
    if (!opening->piece)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to open a chunk store");
    submit(store, FM_FS_DISK_READ, 2, 0, FM_FS_PAGE, HEADER_0);
    return FM_OK;
}

void fm_fs_store_open_free(fm_fs_store *store)
{
    if (!store->opening)
        return;
    fm_fs_buffer_drop(store->opening->piece);
    fm_base_mem_free(store->opening->carry.data);
    fm_base_mem_free(store->opening);
    store->opening = NULL;
}

void fm_fs_store_open_end(fm_fs_store *store, fm_status status)
{
    if (status < 0)
        store->broken = status;
    else
        store->open = 1;
    fm_fs_store_open_free(store);
    store->options.opened(store->options.context, status);
}

static void forget_all(fm_fs_store *store)
{
    fm_fs_store_tree_free(store);
    store->live_count = 0;
    store->pending_count = 0;
    store->creating_count = 0;
    store->session_count = 0;
    store->forgotten_client = 0;
    store->newest_client = 0;
    fm_fs_store_session_drop(store, 0);
}

static void read_body(fm_fs_store *store)
{
    struct fm_fs_store_opening *opening = store->opening;
    size_t size = opening->left < PIECE_BYTES ? fm_round_up(opening->left, FM_FS_PAGE) : PIECE_BYTES;
    submit(store, FM_FS_DISK_READ, 2 + (unsigned)opening->best, opening->at, size, BODY);
}

static void begin_body(fm_fs_store *store, int which)
{
    struct fm_fs_store_opening *opening = store->opening;
    opening->best = which;
    opening->at = FM_FS_PAGE;
    opening->left = opening->headers[which].bytes;
    opening->crc = 0;
    opening->carry.size = 0;
    store->generation = opening->headers[which].generation;
    store->lsn = store->durable = opening->headers[which].lsn;
    memcpy(store->identity, opening->headers[which].identity, 16);
    read_body(store);
}

static void choose(fm_fs_store *store)
{
    struct fm_fs_store_opening *opening = store->opening;
    int which = opening->sound[1];
    for (int i = 0; i < 2; i++)
        if (opening->sound[i] && opening->headers[i].version > FM_FS_STORE_VERSION) {
            fm_fs_store_open_end(
                store, fm_base_error_set(FM_ERR_VERSION,
                                         "the chunk store has version %u of its format; this release knows "
                                         "versions up to %d",
                                         opening->headers[i].version, FM_FS_STORE_VERSION));
            return;
        }
    if (opening->sound[0] && opening->sound[1])
        which = opening->headers[1].generation > opening->headers[0].generation;
    if (opening->sound[0] || opening->sound[1]) {
        begin_body(store, which);
    } else if (opening->used[0] || opening->used[1]) {
        fm_fs_store_open_end(
            store,
            fm_base_error_set(FM_ERR_FORMAT, "the disk holds no checkpoint of a chunk store that is sound"));
    } else if (!store->options.format) {
        fm_fs_store_open_end(store, fm_base_error_set(FM_ERR_NOT_FOUND, "the disk holds no chunk store"));
    } else {
        memcpy(store->identity, store->options.identity, 16);
        store->generation = 1;
        store->checkpoints_due = 1;
        fm_fs_store_checkpoint(store, 0);
    }
}

static void take_header(fm_fs_store *store, int which)
{
    struct fm_fs_store_opening *opening = store->opening;
    for (int i = 0; i < FM_FS_PAGE; i++)
        opening->used[which] |= opening->piece->data[i];
    opening->sound[which] = fm_fs_store_checkpoint_header(opening->piece->data, &opening->headers[which]) &&
                            (opening->headers[which].generation & 1) == (uint64_t)which;
}

// Replays what is whole in `carry`.
static fm_status replay(fm_fs_store *store, struct fm_fs_store_bytes *carry)
{
    size_t at = 0;
    for (size_t used = 1; used && carry->size; at += used)
        FM_TRY(fm_fs_record_replay(store, carry->data + at, carry->size - at, &used));
    carry->size -= at;
    if (at)
        memmove(carry->data, carry->data + at, carry->size);
    return FM_OK;
}

static void read_journal(fm_fs_store *store)
{
    struct fm_fs_store_opening *opening = store->opening;
    uint64_t left = opening->journal_size - opening->at;
    submit(store, FM_FS_DISK_READ, (unsigned)(store->generation & 1), opening->at,
           left < PIECE_BYTES ? (size_t)left : PIECE_BYTES, JOURNAL);
}

static void begin_journal(fm_fs_store *store)
{
    store->opening->at = 0;
    store->opening->journal_end = 0;
    store->opening->searching = 0;
    store->opening->journal_size =
        fm_round_up(store->disk->ops->size(store->disk, (unsigned)(store->generation & 1)), FM_FS_PAGE);
    store->opening->carry.size = 0;
    read_journal(store);
}

static fm_status take_body(fm_fs_store *store)
{
    struct fm_fs_store_opening *opening = store->opening;
    size_t size = opening->left < opening->io.size ? opening->left : opening->io.size;
    opening->crc = fm_base_crc32c(opening->crc, opening->piece->data, size);
    FM_TRY(fm_fs_store_bytes_add(&opening->carry, opening->piece->data, size));
    opening->left -= size;
    opening->at += opening->io.size;
    fm_status status = opening->carry.size ? replay(store, &opening->carry) : FM_OK;
    if (status == FM_ERR_NOMEM)
        return status;
    if (status == FM_OK && opening->left > 0) {
        read_body(store);
        return FM_OK;
    }
    if (status == FM_OK && opening->crc == opening->headers[opening->best].crc && opening->carry.size == 0) {
        begin_journal(store);
        return FM_OK;
    }
    // This checkpoint has rotted. The one before it, with both journals, says the same.
    int other = !opening->best;
    if (opening->sound[opening->best] && opening->sound[other] &&
        opening->headers[other].generation + 1 == opening->headers[opening->best].generation) {
        opening->sound[opening->best] = 0;
        forget_all(store);
        begin_body(store, other);
        return FM_OK;
    }
    return fm_base_error_set(FM_ERR_FORMAT, "the chunk store's checkpoint does not have its checksum");
}

static fm_status lost(const fm_fs_store *store)
{
    return fm_base_error_set(FM_ERR_IO, "the chunk store's journal has a hole behind record %llu",
                             (unsigned long long)store->lsn);
}

// Takes sound batches off the front of `carry`. `final`: the file ends behind it.
static fm_status take_batches(fm_fs_store *store, int final)
{
    struct fm_fs_store_opening *opening = store->opening;
    struct fm_fs_store_bytes *carry = &opening->carry;
    struct fm_fs_batch batch;
    size_t at = 0;
    while (carry->size - at >= FM_FS_PAGE) {
        uint8_t *from = carry->data + at;
        size_t left = carry->size - at;
        int sound = fm_fs_batch_read(from, left, &batch) && batch.generation == store->generation;
        if (opening->searching) {
            if (sound && batch.first > store->lsn && batch.durable > store->lsn)
                return lost(store);
            at += FM_FS_PAGE;
            continue;
        }
        if (sound && batch.first == store->lsn + 1) {
            struct fm_fs_store_bytes records = {from + FM_FS_BATCH_HEADER, batch.bytes, batch.bytes};
            FM_TRY(replay(store, &records));
            store->lsn += batch.records;
            size_t size = fm_round_up(FM_FS_BATCH_HEADER + batch.bytes, FM_FS_PAGE);
            at += size;
            opening->journal_end += size;
        } else if (final || left >= FM_FS_BATCH_BYTES + 2 * FM_FS_PAGE) {
            opening->searching = 1; // it is whole and not the next one
        } else {
            break; // it may not be whole
        }
    }
    carry->size -= at;
    if (at)
        memmove(carry->data, carry->data + at, carry->size);
    return FM_OK;
}

static fm_status mark_copy(fm_fs_store *store, const fm_fs_chunk_copy *copy)
{
    return copy && copy->size ? fm_fs_store_block_mark(store, copy->size_class, copy->block) : FM_OK;
}

static fm_status mark_blocks(fm_fs_store *store)
{
    for (const fm_fs_chunk *chunk = fm_fs_store_after(store, NULL); chunk;
         chunk = fm_fs_store_after(store, &chunk->id)) {
        const fm_fs_chunk_copy *committed = chunk->committed;
        const fm_fs_chunk_copy *pending = chunk->pending;
        FM_TRY(mark_copy(store, committed));
        int shares = pending && pending->share && committed && committed->share == pending->share;
        if (pending && pending->overlay && !shares)
            return fm_base_error_set(FM_ERR_FORMAT, "a patch of block %u, which its chunk does not have",
                                     pending->block);
        if (!shares)
            FM_TRY(mark_copy(store, pending));
    }
    return FM_OK;
}

// Both checkpoints are of this version before anything else happens, or an older release would find one that it takes for
// the newest.
static int is_old(const struct fm_fs_store_opening *opening, int which)
{
    return opening->sound[which] && opening->headers[which].version < FM_FS_STORE_VERSION;
}

static void take_another(fm_fs_store *store)
{
    store->generation++;
    store->journal_at = 0;
    fm_fs_store_checkpoint(store, store->lsn);
}

void fm_fs_store_open_checkpointed(fm_fs_store *store)
{
    if (--store->checkpoints_due)
        take_another(store);
    else
        fm_fs_store_open_end(store, FM_OK);
}

// Both journals are replayed and, with the data, durable.
static fm_status finish(fm_fs_store *store)
{
    struct fm_fs_store_opening *opening = store->opening;
    uint64_t second_lsn = opening->second_lsn;
    int again = opening->second;
    if (opening->headers[opening->best].durable > store->lsn)
        return lost(store);
    // Whatever follows it in the chain has a floor that is as high, or will be filled from here.
    fm_fs_store_forget(store, store->floor, SIZE_MAX);
    FM_TRY(mark_blocks(store));
    store->durable = store->lsn;
    store->journal_at = opening->journal_end;
    store->checkpoints_due = is_old(opening, opening->best) ? 2 : is_old(opening, !opening->best);
    if (store->checkpoints_due) {
        if (again)
            fm_fs_store_checkpoint(store, second_lsn);
        else
            take_another(store);
        return FM_OK;
    }
    store->open = 1;
    if (again)
        fm_fs_store_checkpoint(store, second_lsn);
    fm_fs_store_open_end(store, store->broken);
    return FM_OK;
}

static fm_status end_journal(fm_fs_store *store)
{
    struct fm_fs_store_opening *opening = store->opening;
    if (!opening->second) {
        // The journal that follows, if a checkpoint was being taken.
        opening->second = 1;
        opening->second_lsn = store->lsn;
        uint64_t end = opening->journal_end;
        store->generation++;
        begin_journal(store);
        opening->left = end; // of the first one, in case that there is no second
        return FM_OK;
    }
    if (store->lsn == opening->second_lsn) {
        store->generation--;
        opening->journal_end = opening->left;
        opening->second = 0;
    }
    // What was read may lie in a cache of the system still, when only the program had ended.
    submit(store, FM_FS_DISK_SYNC, 0, 0, 0, SYNC);
    return FM_OK;
}

static fm_status take_journal(fm_fs_store *store)
{
    struct fm_fs_store_opening *opening = store->opening;
    FM_TRY(fm_fs_store_bytes_add(&opening->carry, opening->piece->data, opening->io.size));
    opening->at += opening->io.size;
    int final = opening->at >= opening->journal_size;
    FM_TRY(take_batches(store, final));
    if (!final) {
        read_journal(store);
        return FM_OK;
    }
    return end_journal(store);
}

static void step(fm_fs_disk_io *io)
{
    fm_fs_store *store = io->context;
    fm_status status = io->status;
    if (status == FM_OK) {
        switch (store->opening->step) {
        case HEADER_0:
            take_header(store, 0);
            submit(store, FM_FS_DISK_READ, 3, 0, FM_FS_PAGE, HEADER_1);
            break;
        case HEADER_1:
            take_header(store, 1);
            choose(store);
            break;
        case BODY:
            status = take_body(store);
            break;
        case JOURNAL:
            status = take_journal(store);
            break;
        default:
            if (io->file < 3)
                submit(store, FM_FS_DISK_SYNC, io->file + 1, 0, 0, SYNC);
            else
                status = finish(store);
            break;
        }
    }
    if (status < 0)
        fm_fs_store_open_end(store, status);
}
