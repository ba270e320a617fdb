// What blocks are owed: bytes that the journal holds and that are not in their places yet. And who shares a block.
#include "chunk_store_private.h"

struct fm_fs_patch *fm_fs_patch_new(fm_fs_store *store, uint32_t from, fm_fs_buffer *bytes)
{
    struct fm_fs_patch *patch = fm_base_mem_alloc(sizeof *patch);
    if (!patch)
        return NULL;
    *patch = (struct fm_fs_patch){.refs = 1, .from = from, .bytes = fm_fs_buffer_ref(bytes)};
    store->owed_bytes += bytes->size;
    return patch;
}

void fm_fs_patch_drop(fm_fs_store *store, struct fm_fs_patch *patch)
{
    if (!patch || --patch->refs)
        return;
    store->owed_bytes -= patch->bytes->size;
    fm_fs_buffer_drop(patch->bytes);
    fm_base_mem_free(patch);
}

static struct fm_fs_overlay *overlay_new(uint32_t room)
{
    struct fm_fs_overlay *overlay = fm_base_mem_alloc(sizeof *overlay + room * sizeof(struct fm_fs_patch *));
    if (overlay)
        *overlay = (struct fm_fs_overlay){.refs = 1};
    return overlay;
}

static void overlay_add(struct fm_fs_overlay *overlay, struct fm_fs_patch *patch)
{
    patch->refs++;
    overlay->patches[overlay->count++] = patch;
}

struct fm_fs_overlay *fm_fs_overlay_ref(struct fm_fs_overlay *overlay)
{
    if (overlay)
        overlay->refs++;
    return overlay;
}

void fm_fs_overlay_drop(fm_fs_store *store, struct fm_fs_overlay *overlay)
{
    if (!overlay || --overlay->refs)
        return;
    for (uint32_t i = 0; i < overlay->count; i++)
        fm_fs_patch_drop(store, overlay->patches[i]);
    fm_base_mem_free(overlay);
}

static int covers(const struct fm_fs_patch *patch, const struct fm_fs_patch *other)
{
    return patch->from <= other->from && patch->from + patch->bytes->size >= other->from + other->bytes->size;
}

struct fm_fs_overlay *fm_fs_overlay_with(const struct fm_fs_overlay *old, struct fm_fs_patch *patch)
{
    struct fm_fs_overlay *overlay = overlay_new((old ? old->count : 0) + 1);
    if (!overlay)
        return NULL;
    for (uint32_t i = 0; old && i < old->count; i++)
        if (!covers(patch, old->patches[i]))
            overlay_add(overlay, old->patches[i]);
    overlay_add(overlay, patch);
    return overlay;
}

static int has(const struct fm_fs_overlay *overlay, const struct fm_fs_patch *patch)
{
    for (uint32_t i = 0; i < overlay->count; i++)
        if (overlay->patches[i] == patch)
            return 1;
    return 0;
}

void fm_fs_overlay_settle(fm_fs_store *store, fm_fs_chunk_copy *copy, const struct fm_fs_overlay *paid)
{
    struct fm_fs_overlay *old = copy->overlay;
    struct fm_fs_overlay *rest = NULL;
    if (!old)
        return;
    for (uint32_t i = 0; i < old->count; i++) {
        if (has(paid, old->patches[i]))
            continue;
        if (!rest)
            rest = overlay_new(old->count);
        if (!rest)
            return; // what is owed still will be written once more
        overlay_add(rest, old->patches[i]);
    }
    copy->overlay = rest;
    fm_fs_overlay_drop(store, old);
}

void fm_fs_overlay_lay(const struct fm_fs_overlay *overlay, uint8_t *bytes, uint32_t from, uint32_t size)
{
    for (uint32_t i = 0; overlay && i < overlay->count; i++) {
        const struct fm_fs_patch *patch = overlay->patches[i];
        uint32_t end = patch->from + (uint32_t)patch->bytes->size;
        uint32_t first = patch->from > from ? patch->from : from;
        uint32_t last = end < from + size ? end : from + size;
        if (first < last)
            memcpy(bytes + (first - from), patch->bytes->data + (first - patch->from), last - first);
    }
}

/* Shares */

void fm_fs_share_unlist(struct fm_fs_share *share)
{
    if (!share->before)
        return;
    share->before->after = share->after;
    share->after->before = share->before;
    share->before = share->after = NULL;
}

void fm_fs_share_list(fm_fs_store *store, struct fm_fs_share *share, int first)
{
    fm_fs_share_unlist(share);
    struct fm_fs_share *before = first ? &store->owing : store->owing.before;
    share->before = before;
    share->after = before->after;
    before->after->before = share;
    before->after = share;
}

static struct fm_fs_share *share_of(fm_fs_store *store, const fm_fs_chunk_id *id, fm_fs_chunk_copy *copy)
{
    if (copy->share)
        return copy->share;
    struct fm_fs_share *share = fm_base_mem_zalloc(1, sizeof *share);
    if (!share)
        return NULL;
    share->store = store;
    share->id = *id;
    share->copies = 1;
    share->reach = copy->size;
    copy->share = share;
    return share;
}

fm_status fm_fs_share_owe(fm_fs_store *store, const fm_fs_chunk_id *id, fm_fs_chunk_copy *base,
                          fm_fs_chunk_copy *copy, struct fm_fs_patch *patch)
{
    struct fm_fs_share *share = share_of(store, id, base ? base : copy);
    struct fm_fs_overlay *old = base ? base->overlay : NULL;
    struct fm_fs_overlay *overlay = NULL;
    if (share)
        overlay = patch ? fm_fs_overlay_with(old, patch) : fm_fs_overlay_ref(old);
    if (!share || (patch && !overlay))
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a change of a chunk");
    if (base && base != copy) {
        copy->share = share;
        share->copies++;
    }
    fm_fs_overlay_drop(store, copy->overlay);
    copy->overlay = overlay;
    if (copy->size > share->reach)
        share->reach = copy->size;
    if (!overlay)
        return FM_OK;
    if (overlay->count >= FM_FS_OVERLAY_MAX / 2)
        store->land_soon = 1;
    if (!share->landing && (!share->before || store->land_soon))
        fm_fs_share_list(store, share, store->land_soon);
    return FM_OK;
}

void fm_fs_share_end(fm_fs_chunk_copy *copy)
{
    fm_fs_share_unlist(copy->share);
    fm_base_mem_free(copy->share);
    copy->share = NULL;
}

int fm_fs_share_leave(fm_fs_store *store, fm_fs_chunk_copy *copy)
{
    struct fm_fs_share *share = copy->share;
    if (!share)
        return 1;
    share->lsn = store->lsn;
    if (--share->copies)
        return 0;
    fm_fs_share_end(copy);
    return 1;
}
