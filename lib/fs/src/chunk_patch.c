/*
 * Small changes. One goes into the journal with its bytes, and the new version has its predecessor's block:
 *
 *     contents of a version = bytes of its block, with its overlay of patches laid over them in order
 *
 * The journal's flush is all that makes it durable. The patch is written to its place later (chunk_land.c), when no version
 * without it can be asked for any more, here or after a crash; a crash in the middle of that leaves any bytes there, and
 * replay has the overlay again. So a patch goes from the overlay only when its place is durable, and a checkpoint carries those that
 * have not gone.
 *
 * A longer append writes its pages into the room of the block, where no version has any, and syncs them before it is journalled;
 * the page in which its predecessor ends is a patch, unless that is a whole one.
 *
 * Replaying a patch gives the new version the overlay of the committed one, if that has the same block, and the patch. What the
 * committed version has in the checkpoint may be later than the record: then patches that come again are laid over themselves, in
 * their order, and what was patched last in a place is what it has. A record with a block of its own begins anew.
 */
#include "chunk_store_private.h"

#include "fathom/crc.h"

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

// Where the pages begin that no version has had.
static uint32_t room_of(const fm_fs_chunk_copy *base)
{
    return (uint32_t)fm_round_up(base->size, FM_FS_PAGE);
}

// Whether the pages behind the base's are nobody's: a change that was given up may have been there, and come back after a crash.
static int can_extend(const fm_fs_chunk_copy *base, uint32_t offset)
{
    return offset >= base->size && (!base->share || base->share->reach <= base->size);
}

int fm_fs_patch_plan(fm_fs_apply *apply, uint32_t size)
{
    const fm_fs_chunk_copy *base = apply->base;
    if (apply->kind != FM_FS_APPLY_WRITE || !base || !base->size || !apply->data || !apply->data->size ||
        fm_fs_chunk_class(size) != base->size_class)
        return 0;
    uint32_t grain = fm_fs_chunk_grain(base->size_class);
    uint32_t end = apply->offset + (uint32_t)apply->data->size;
    uint32_t from = least(apply->offset, base->size); // a gap becomes zeros
    apply->patch_from = from - from % FM_FS_PAGE;
    apply->patch_to = least((uint32_t)fm_round_up(end, FM_FS_PAGE), size);
    apply->work_from = from - from % grain;
    apply->work_to = least((uint32_t)fm_round_up(end, grain), size);
    if (apply->patch_to - apply->patch_from > FM_FS_PATCH_BYTES && can_extend(base, apply->offset))
        apply->patch_to = room_of(base);
    return apply->patch_to - apply->patch_from <= FM_FS_PATCH_BYTES &&
           (!base->overlay || base->overlay->count < FM_FS_OVERLAY_MAX) &&
           apply->store->owed_bytes < FM_FS_OWED_BYTES;
}

int fm_fs_patch_needs_base(const fm_fs_apply *apply)
{
    uint32_t end = apply->offset + (uint32_t)apply->data->size;
    uint32_t old = apply->base->size;
    return (apply->work_from < apply->offset && apply->work_from < old) ||
           (end < apply->work_to && end < old);
}

// Lays the change over what was read.
static void merge(const fm_fs_apply *apply)
{
    fm_fs_buffer *work = apply->work;
    uint32_t known = least(apply->base->size, apply->work_to) - apply->work_from;
    memset(work->data + known, 0, work->room - known);
    memcpy(work->data + (apply->offset - apply->work_from), apply->data->data, apply->data->size);
}

static fm_fs_chunk_copy *successor(const fm_fs_apply *apply, uint32_t size)
{
    const fm_fs_chunk_copy *base = apply->base;
    fm_fs_chunk_copy *fresh = fm_fs_chunk_copy_new(size, base->size_class);
    if (!fresh)
        return NULL;
    fresh->version = apply->version;
    fresh->chain_version = apply->chain_version;
    fresh->block = base->block;
    uint32_t grain = fm_fs_chunk_grain(base->size_class);
    memcpy(fresh->grain_crc, base->grain_crc, base->grains * sizeof base->grain_crc[0]);
    for (uint32_t at = apply->work_from; at < apply->work_to; at += grain)
        fresh->grain_crc[at / grain] =
            fm_base_crc32c(0, apply->work->data + (at - apply->work_from), least(grain, apply->work_to - at));
    fm_fs_chunk_copy_sum(fresh, NULL);
    return fresh;
}

static struct fm_fs_patch *make_patch(fm_fs_store *store, const fm_fs_apply *apply)
{
    uint32_t size = apply->patch_to - apply->patch_from;
    if (size == apply->work->size)
        return fm_fs_patch_new(store, apply->patch_from, apply->work);
    fm_fs_buffer *bytes = fm_fs_buffer_from(store->options.pool, size);
    if (!bytes)
        return NULL;
    memcpy(bytes->data, apply->work->data + (apply->patch_from - apply->work_from), size);
    struct fm_fs_patch *patch = fm_fs_patch_new(store, apply->patch_from, bytes);
    fm_fs_buffer_drop(bytes);
    return patch;
}

fm_status fm_fs_patch_apply(fm_fs_store *store, fm_fs_apply *apply, uint32_t size)
{
    merge(apply);
    fm_fs_chunk_copy *fresh = successor(apply, size);
    int has_patch = apply->patch_from < apply->patch_to;
    struct fm_fs_patch *patch = has_patch ? make_patch(store, apply) : NULL;
    fm_status status = FM_OK;
    if (!fresh || (has_patch && !patch))
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a change of a chunk");
    if (status == FM_OK)
        status = fm_fs_share_owe(store, &apply->id, apply->base, fresh, patch);
    fm_fs_patch_drop(store, patch);
    if (status < 0) {
        fm_base_mem_free(fresh); // it has no part in the block yet
        return status;
    }
    apply->fresh = fresh;
    if (apply->patch_to < size && apply->patch_to == room_of(apply->base))
        fm_fs_store_apply_write(store, apply, apply->patch_to);
    else
        fm_fs_store_apply_durable(store, apply);
    return FM_OK;
}

static fm_status wrong(const char *what)
{
    return fm_base_error_set(FM_ERR_FORMAT, "a patch of the chunk store has %s", what);
}

static fm_status replay(fm_fs_store *store, const fm_fs_chunk_id *id, fm_fs_chunk_copy *base,
                        fm_fs_chunk_copy *copy, const uint8_t *from, size_t size)
{
    uint32_t at = size >= 4 ? fm_get_le32(from) : 0;
    size_t end = at + (size - 4);
    if (size < 4 || at % FM_FS_PAGE || end > copy->size)
        return wrong("a range that its chunk does not have");
    if (size == 4)
        return base ? fm_fs_share_owe(store, id, base, copy, NULL) : FM_OK;
    fm_fs_buffer *bytes = fm_fs_buffer_new(size - 4);
    if (!bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a patch");
    memcpy(bytes->data, from + 4, size - 4);
    struct fm_fs_patch *patch = fm_fs_patch_new(store, at, bytes);
    fm_fs_buffer_drop(bytes);
    fm_status status = patch ? fm_fs_share_owe(store, id, base, copy, patch)
                             : fm_base_error_set(FM_ERR_NOMEM, "no memory for a patch");
    fm_fs_patch_drop(store, patch);
    return status;
}

fm_status fm_fs_patch_replay(fm_fs_store *store, fm_fs_chunk *chunk, fm_fs_chunk_copy *copy,
                             const uint8_t *from, size_t size)
{
    fm_fs_chunk_copy *base = chunk->committed;
    int is_shared = base && base->size && base->size_class == copy->size_class && base->block == copy->block;
    return replay(store, &chunk->id, is_shared ? base : NULL, copy, from, size);
}

fm_status fm_fs_owed_replay(fm_fs_store *store, fm_fs_chunk *chunk, const uint8_t *from, size_t size)
{
    if (!chunk || !chunk->committed || !chunk->committed->size)
        return wrong("no chunk");
    return replay(store, &chunk->id, chunk->committed, chunk->committed, from, size);
}
