// Changes and reads. The other parts: chunk_tree.c, chunk_alloc.c, chunk_session.c, chunk_patch.c, chunk_overlay.c,
// chunk_land.c, chunk_journal.c, chunk_checkpoint.c, chunk_open.c, chunk_record.c.
#include "chunk_store_private.h"

#include "fathom/crc.h"

enum { FAIL = 1, READ_BASE, WRITE_DATA, WAIT_SYNC, WAIT_RECORD };

static void apply_step(fm_fs_disk_io *io);
static void class_synced(fm_fs_disk_io *io);
static void read_done(fm_fs_disk_io *io);

fm_status fm_fs_store_new(fm_fs_disk *disk, const fm_fs_store_options *options, fm_fs_store **out_store)
{
    fm_fs_store *store = fm_base_mem_zalloc(1, sizeof *store);
    if (!store)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a chunk store");
    store->disk = disk;
    store->options = *options;
    if (!store->options.journal_bytes)
        store->options.journal_bytes = 16 << 20;
    if (!store->options.sessions)
        store->options.sessions = FM_FS_SESSIONS_MAX;
    if (!store->options.land_bytes)
        store->options.land_bytes = 1 << 20;
    store->owing.before = store->owing.after = &store->owing;
    store->live_applies.live_before = store->live_applies.live_after = &store->live_applies;
    store->live_reads.live_before = store->live_reads.live_after = &store->live_reads;
    fm_status status = fm_fs_store_open_begin(store);
    if (status < 0) {
        fm_fs_store_free(store);
        return status;
    }
    *out_store = store;
    return FM_OK;
}

static void apply_forget(fm_fs_store *store, fm_fs_apply *apply)
{
    apply->live_before->live_after = apply->live_after;
    apply->live_after->live_before = apply->live_before;
    fm_fs_buffer_drop(apply->work);
    fm_fs_overlay_drop(store, apply->overlay);
    fm_fs_chunk_copy_drop(store, apply->base);
    fm_fs_chunk_copy_drop(store, apply->fresh);
    apply->work = NULL;
    apply->overlay = NULL;
    apply->base = NULL;
    apply->fresh = NULL;
}

static void read_forget(fm_fs_store *store, fm_fs_chunk_read *read)
{
    read->live_before->live_after = read->live_after;
    read->live_after->live_before = read->live_before;
    fm_fs_overlay_drop(store, read->overlay);
    fm_fs_chunk_copy_drop(store, read->copy);
    read->overlay = NULL;
    read->copy = NULL;
}

void fm_fs_store_free(fm_fs_store *store)
{
    if (!store)
        return;
    store->open = 0; // blocks are not given back any more
    while (store->live_applies.live_after != &store->live_applies)
        apply_forget(store, store->live_applies.live_after);
    while (store->live_reads.live_after != &store->live_reads) {
        fm_fs_chunk_read *read = store->live_reads.live_after;
        if (read->bytes != read->into) // whose owner may be gone before
            fm_fs_buffer_drop(read->bytes);
        read_forget(store, read);
    }
    fm_fs_store_land_free(store);
    fm_fs_store_open_free(store);
    fm_fs_store_tree_free(store);
    for (int i = 0; i < FM_FS_CHUNK_CLASSES; i++) {
        fm_base_mem_free(store->classes[i].used);
        fm_base_mem_free(store->classes[i].shift);
    }
    fm_base_mem_free(store->freed);
    fm_base_mem_free(store->removed);
    fm_base_mem_free(store->sessions);
    fm_base_mem_free(store->session_heads);
    fm_base_mem_free(store->batch.data);
    fm_base_mem_free(store->checkpoint_out.data);
    fm_fs_buffer_drop(store->flush_bytes);
    fm_fs_buffer_drop(store->checkpoint_io_bytes);
    fm_base_mem_free(store);
}

const uint8_t *fm_fs_store_identity(const fm_fs_store *store)
{
    return store->identity;
}

fm_status fm_fs_store_health(const fm_fs_store *store)
{
    return store->broken;
}

uint64_t fm_fs_store_used_bytes(const fm_fs_store *store)
{
    return store->used_bytes;
}

size_t fm_fs_store_count(const fm_fs_store *store)
{
    return store->live_count;
}

size_t fm_fs_store_pending_count(const fm_fs_store *store)
{
    return store->pending_count;
}

size_t fm_fs_store_creating_count(const fm_fs_store *store)
{
    return store->creating_count;
}

/* Changes */

void fm_fs_store_apply_end(fm_fs_store *store, fm_fs_apply *apply, fm_status status)
{
    apply_forget(store, apply);
    apply->status = status;
    apply->done(apply);
}

static void apply_submit(fm_fs_store *store, fm_fs_apply *apply, enum fm_fs_disk_kind kind,
                         const fm_fs_chunk_copy *copy, uint32_t from, size_t size, int step)
{
    apply->step = step;
    apply->io =
        (fm_fs_disk_io){.kind = kind,
                        .file = 4 + (copy ? copy->size_class : 0u),
                        // FM_FS_CHUNK_CLASS_MIN is 2^16.
                        .offset = copy ? ((uint64_t)copy->block << (16 + copy->size_class)) + from : 0,
                        .size = fm_round_up(size, FM_FS_PAGE),
                        .data = apply->work ? apply->work->data + (from - apply->work_from) : NULL,
                        .done = apply_step,
                        .context = apply};
    fm_fs_disk_submit(store->disk, &apply->io);
}

// The failure is told once this function has returned.
static void apply_fail_later(fm_fs_store *store, fm_fs_apply *apply, fm_status status)
{
    apply->status = status;
    apply_submit(store, apply, FM_FS_DISK_READ, NULL, apply->work_from, 0, FAIL);
}

// Journals where the new version is, and makes it what the memory says.
static fm_status apply_record(fm_fs_store *store, fm_fs_apply *apply)
{
    uint8_t record[FM_FS_RECORD_MAX];
    int replaces = apply->kind == FM_FS_APPLY_REPLACE || apply->kind == FM_FS_APPLY_REPLACE_REMOVED;
    fm_fs_session session = {
        .tag = apply->tag, .id = apply->id, .version = apply->version, .chain_version = apply->chain_version};
    const fm_fs_session *remembered = apply->tag.client ? &session : NULL;
    fm_status status = FM_OK;
    fm_fs_chunk *chunk = fm_fs_store_make(store, &apply->id);
    if (!chunk)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a chunk");
    if (apply->fresh->share && chunk->committed != apply->base)
        return fm_base_error_set(FM_ERR_STATE, "a chunk was replaced while a change of it was made");
    if (remembered)
        fm_fs_store_session_set(store, remembered, &status);
    FM_TRY(status);
    fm_fs_chunk_copy *fresh = apply->fresh;
    if (fresh->share) {
        const struct fm_fs_patch *patch =
            apply->patch_from < apply->patch_to ? fresh->overlay->patches[fresh->overlay->count - 1] : NULL;
        size_t size = fm_fs_record_patch(record, &apply->id, fresh, patch, remembered);
        FM_TRY(fm_fs_journal_add_patch(store, record, size, patch, &apply->lsn));
    } else {
        size_t size = fm_fs_record_copy(record, replaces ? FM_FS_RECORD_REPLACE : FM_FS_RECORD_APPLY,
                                        &apply->id, fresh, remembered);
        FM_TRY(fm_fs_journal_add(store, record, size, &apply->lsn));
    }
    apply->fresh = NULL;
    if (replaces) {
        fm_fs_store_set_pending(store, chunk, NULL);
        fm_fs_store_set_committed(store, chunk, fresh);
    } else {
        fm_fs_store_set_pending(store, chunk, fresh);
    }
    return FM_OK;
}

// The data is durable (or there is none). Waits for the record.
void fm_fs_store_apply_durable(fm_fs_store *store, fm_fs_apply *apply)
{
    fm_status status = apply_record(store, apply);
    if (status < 0) {
        apply_fail_later(store, apply, status);
        return;
    }
    if (FM_FS_PLANT(FM_FS_PLANT_ACK_BEFORE_FLUSH)) {
        apply->status = FM_OK;
        apply_submit(store, apply, FM_FS_DISK_READ, NULL, apply->work_from, 0, FAIL);
        return;
    }
    apply->step = WAIT_RECORD;
    apply->next = NULL;
    if (store->waiting_first)
        store->waiting_last->next = apply;
    else
        store->waiting_first = apply;
    store->waiting_last = apply;
    fm_fs_journal_kick(store);
}

static void class_sync(fm_fs_store *store, unsigned size_class)
{
    struct fm_fs_store_class *blocks = &store->classes[size_class];
    if (blocks->syncing || !blocks->written)
        return;
    blocks->syncing = 1;
    blocks->in_sync = blocks->written;
    blocks->written = NULL;
    blocks->io = (fm_fs_disk_io){
        .kind = FM_FS_DISK_SYNC, .file = 4 + size_class, .done = class_synced, .context = store};
    fm_fs_disk_submit(store->disk, &blocks->io);
}

static void class_synced(fm_fs_disk_io *io)
{
    fm_fs_store *store = io->context;
    struct fm_fs_store_class *blocks = &store->classes[io->file - 4];
    fm_fs_apply *apply = blocks->in_sync;
    blocks->syncing = 0;
    blocks->in_sync = NULL;
    if (io->status < 0 && !store->broken)
        fm_fs_journal_fail(store, io->status);
    while (apply) {
        fm_fs_apply *next = apply->next;
        if (store->broken)
            fm_fs_store_apply_end(store, apply, store->broken);
        else
            fm_fs_store_apply_durable(store, apply);
        apply = next;
    }
    class_sync(store, io->file - 4);
}

void fm_fs_store_apply_write(fm_fs_store *store, fm_fs_apply *apply, uint32_t from)
{
    apply_submit(store, apply, FM_FS_DISK_WRITE, apply->fresh, from, apply->fresh->size - from, WRITE_DATA);
}

// `work` holds the contents: takes a block and writes them there.
static fm_status apply_write(fm_fs_store *store, fm_fs_apply *apply, uint32_t size)
{
    apply->fresh = fm_fs_chunk_copy_new(size, fm_fs_chunk_class(size));
    if (!apply->fresh)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a chunk of %u bytes", size);
    apply->fresh->version = apply->version;
    apply->fresh->chain_version = apply->chain_version;
    if (!size) {
        fm_fs_chunk_copy_sum(apply->fresh, NULL);
        fm_fs_store_apply_durable(store, apply);
        return FM_OK;
    }
    fm_fs_chunk_copy_sum(apply->fresh, apply->work->data);
    // What is all of the chunk is held to the sum that it came with by the same pass.
    int differs = apply->work == apply->data && apply->data->summed &&
                  fm_fs_store_crc(store, apply->fresh, apply->data->data, 0, size) != apply->data->crc;
    apply->fresh->size = 0; // a copy with a size would give back a block if none can be had
    if (differs)
        return fm_base_error_set(FM_ERR_FORMAT, "a change does not have the CRC32C that it came with");
    FM_TRY(fm_fs_store_block_take(store, apply->fresh->size_class, &apply->fresh->block));
    apply->fresh->size = size;
    fm_fs_store_apply_write(store, apply, 0);
    return FM_OK;
}

static uint32_t size_after(const fm_fs_apply *apply)
{
    uint32_t old = apply->base ? apply->base->size : 0;
    uint64_t end = (uint64_t)apply->offset + (apply->data ? apply->data->size : 0);
    if (apply->kind == FM_FS_APPLY_TRUNCATE)
        return apply->size;
    if (apply->kind == FM_FS_APPLY_REPLACE || apply->kind == FM_FS_APPLY_WHOLE || end > old)
        return end > UINT32_MAX ? UINT32_MAX : (uint32_t)end;
    return old;
}

// The committed bytes, if any were needed, are in `work`: lays the change over them.
static fm_status apply_merge(fm_fs_store *store, fm_fs_apply *apply)
{
    uint32_t size = size_after(apply);
    uint32_t old = apply->base ? apply->base->size : 0;
    uint8_t *bytes = apply->work->data;
    if (old < size)
        memset(bytes + old, 0, size - old);
    if (apply->kind == FM_FS_APPLY_WRITE && apply->data && apply->data->size)
        memcpy(bytes + apply->offset, apply->data->data, apply->data->size);
    apply->work->size = size;
    memset(bytes + size, 0, fm_round_up(size, FM_FS_PAGE) - size);
    return apply_write(store, apply, size);
}

// The bytes of the base from `work_from` to `work_to`, as far as there are any.
static uint32_t base_bytes(const fm_fs_apply *apply)
{
    uint32_t end = apply->base->size < apply->work_to ? apply->base->size : apply->work_to;
    return end - apply->work_from;
}

static void read_base(fm_fs_store *store, fm_fs_apply *apply)
{
    apply->overlay = fm_fs_overlay_ref(apply->base->overlay);
    apply_submit(store, apply, FM_FS_DISK_READ, apply->base, apply->work_from, base_bytes(apply), READ_BASE);
}

static fm_status apply_laid(fm_fs_store *store, fm_fs_apply *apply)
{
    return apply->patch_to ? fm_fs_patch_apply(store, apply, size_after(apply)) : apply_merge(store, apply);
}

static fm_status apply_begin(fm_fs_store *store, fm_fs_apply *apply)
{
    const fm_fs_chunk *chunk = fm_fs_store_find(store, &apply->id);
    if (store->broken)
        return fm_base_error_set(store->broken, "the chunk store stopped after a failed flush");
    if (apply->kind == FM_FS_APPLY_REMOVE || apply->kind == FM_FS_APPLY_REPLACE_REMOVED) {
        apply->fresh = fm_fs_chunk_copy_new(0, 0);
        if (!apply->fresh)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for a chunk's removal");
        apply->fresh->removed = 1;
        apply->fresh->version = apply->version;
        apply->fresh->chain_version = apply->chain_version;
        fm_fs_chunk_copy_sum(apply->fresh, NULL);
        fm_fs_store_apply_durable(store, apply);
        return FM_OK;
    }
    if (chunk && chunk->committed && apply->kind != FM_FS_APPLY_REPLACE && apply->kind != FM_FS_APPLY_WHOLE) {
        apply->base = chunk->committed;
        apply->base->refs++;
    }
    uint32_t size = size_after(apply);
    uint32_t old = apply->base ? apply->base->size : 0;
    if (size > FM_FS_CHUNK_BYTES_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a chunk of %u bytes; expected at most %d", size,
                                 FM_FS_CHUNK_BYTES_MAX);
    int is_patch = fm_fs_patch_plan(apply, size);
    if (!is_patch) {
        apply->patch_to = 0;
        apply->work_from = 0;
        apply->work_to = old > size ? old : size;
    }
    if (!is_patch && apply->data && apply->offset == 0 && apply->data->size == size) {
        apply->work = fm_fs_buffer_ref(apply->data); // all of it is new
        return apply_write(store, apply, size);
    }
    apply->work = fm_fs_buffer_from(store->options.pool, apply->work_to - apply->work_from);
    if (!apply->work)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a chunk of %u bytes", size);
    if (is_patch ? fm_fs_patch_needs_base(apply) : old > 0)
        read_base(store, apply);
    else
        return apply_laid(store, apply);
    return FM_OK;
}

void fm_fs_store_apply(fm_fs_store *store, fm_fs_apply *apply)
{
    apply->store = store;
    apply->status = FM_OK;
    apply->live_before = store->live_applies.live_before;
    apply->live_after = &store->live_applies;
    apply->live_before->live_after = apply;
    store->live_applies.live_before = apply;
    fm_status status = apply_begin(store, apply);
    if (status < 0)
        apply_fail_later(store, apply, status);
}

static void apply_step(fm_fs_disk_io *io)
{
    fm_fs_apply *apply = io->context;
    fm_fs_store *store = apply->store;
    fm_status status = io->status;
    if (apply->step == FAIL) {
        fm_fs_store_apply_end(store, apply, apply->status);
        return;
    }
    if (status == FM_OK && store->broken)
        status = store->broken;
    if (status == FM_OK && apply->step == READ_BASE) {
        fm_fs_overlay_lay(apply->overlay, apply->work->data, apply->work_from, base_bytes(apply));
        status = fm_fs_chunk_copy_check(apply->base, apply->work->data, apply->work_from, base_bytes(apply));
        if (status == FM_OK)
            status = apply_laid(store, apply);
        if (status < 0)
            apply_fail_later(store, apply, status);
        return;
    }
    if (status < 0) {
        fm_fs_store_apply_end(store, apply, status);
        return;
    }
    if (FM_FS_PLANT(FM_FS_PLANT_DATA_UNSYNCED)) {
        fm_fs_store_apply_durable(store, apply);
        return;
    }
    unsigned size_class = apply->fresh->size_class;
    apply->step = WAIT_SYNC;
    apply->next = store->classes[size_class].written;
    store->classes[size_class].written = apply;
    class_sync(store, size_class);
}

fm_status fm_fs_store_commit(fm_fs_store *store, const fm_fs_chunk_id *id, uint64_t version,
                             uint32_t chain_version)
{
    uint8_t record[FM_FS_RECORD_MAX];
    fm_fs_chunk *chunk = fm_fs_store_get(store, id);
    if (!chunk || !chunk->pending || chunk->pending->version != version)
        return fm_base_error_set(FM_ERR_STATE, "version %llu of a chunk is not pending",
                                 (unsigned long long)version);
    FM_TRY(fm_fs_journal_add(store, record, fm_fs_record_commit(record, id, version, chain_version), NULL));
    fm_fs_store_promote(store, chunk, chain_version);
    fm_fs_journal_kick(store);
    return FM_OK;
}

/* Reads */

static void read_end(fm_fs_chunk_read *read, fm_status status)
{
    read_forget(read->store, read);
    if (read->bytes && read->bytes == read->into)
        fm_fs_buffer_ref(read->into);
    if (status < 0) {
        fm_fs_buffer_drop(read->bytes);
        read->bytes = NULL;
    }
    read->status = status;
    read->done(read);
}

static void read_submit(fm_fs_chunk_read *read);

static void read_done(fm_fs_disk_io *io)
{
    fm_fs_chunk_read *read = io->context;
    fm_status status = io->status < 0 ? io->status : read->status;
    if (status == FM_OK && read->size) {
        const fm_fs_chunk_copy *copy = read->copy;
        uint32_t grain = fm_fs_chunk_grain(copy->size_class);
        uint32_t end = (uint32_t)fm_round_up((size_t)read->offset + read->size, grain);
        uint8_t *bytes = read->bytes->data;
        uint32_t skip = read->offset - read->from;
        if (end > copy->size)
            end = copy->size;
        if (!FM_FS_PLANT(FM_FS_PLANT_OVERLAY_IGNORED))
            fm_fs_overlay_lay(read->overlay, bytes, read->from, end - read->from);
        status = fm_fs_chunk_copy_check(copy, bytes, read->from, end - read->from);
        if (status < 0 && read->bytes == read->into) {
            // Whose memory it is may have changed it meanwhile. What the disk holds shows in a buffer that is nobody else's.
            read->into = NULL;
            read_submit(read);
            return;
        }
        if (skip)
            memmove(bytes, bytes + skip, read->size);
        read->crc = fm_fs_store_crc(read->store, copy, bytes, read->offset, read->size);
        memset(bytes + read->size, 0, fm_round_up(read->size, FM_FS_PAGE) - read->size);
        read->bytes->size = read->size;
        fm_fs_buffer_summed(read->bytes, read->crc);
    }
    read_end(read, status);
}

// Whether the disk can write what belongs to the read, and nothing else, where the caller wants it.
static int fits_into(const fm_fs_chunk_read *read, size_t end)
{
    const fm_fs_buffer *into = read->into;
    return into && read->size && read->from == read->offset && end == (size_t)read->offset + read->size &&
           read->size % FM_FS_PAGE == 0 && read->size <= into->room &&
           (uintptr_t)into->data % FM_FS_PAGE == 0;
}

static void read_submit(fm_fs_chunk_read *read)
{
    fm_fs_store *store = read->store;
    const fm_fs_chunk_copy *copy = read->copy;
    size_t end = fm_round_up((size_t)read->offset + read->size, fm_fs_chunk_grain(copy->size_class));
    if (end > copy->size)
        end = copy->size;
    read->io = (fm_fs_disk_io){
        .kind = FM_FS_DISK_READ, .file = 4u + copy->size_class, .done = read_done, .context = read};
    read->bytes = fits_into(read, end)
                      ? read->into
                      : fm_fs_buffer_from(store->options.pool, read->size ? end - read->from : 0);
    if (!read->bytes)
        read->status = fm_base_error_set(FM_ERR_NOMEM, "no memory to read %u bytes", read->size);
    if (read->bytes && read->size) {
        read->io.offset = ((uint64_t)copy->block << (16 + copy->size_class)) + read->from;
        read->io.size = fm_round_up(end - read->from, FM_FS_PAGE);
        read->io.data = read->bytes->data;
    }
    fm_fs_disk_submit(store->disk, &read->io);
}

void fm_fs_store_read(fm_fs_store *store, fm_fs_chunk_read *read)
{
    fm_fs_chunk_copy *copy = read->copy;
    copy->refs++;
    read->overlay = fm_fs_overlay_ref(copy->overlay);
    read->store = store;
    read->status = FM_OK;
    read->bytes = NULL;
    read->crc = 0;
    read->live_before = store->live_reads.live_before;
    read->live_after = &store->live_reads;
    read->live_before->live_after = read;
    store->live_reads.live_before = read;
    uint32_t left = read->offset < copy->size ? copy->size - read->offset : 0;
    if (read->size > left)
        read->size = left;
    read->from = read->offset - read->offset % fm_fs_chunk_grain(copy->size_class);
    read_submit(read);
}
