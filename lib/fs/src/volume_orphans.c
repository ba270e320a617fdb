// Chunks that no file owns: what a client's last writes may leave behind that come after the collector, or a restored backup.
#include <string.h>

#include "fathom/fs_cluster.h"
#include "volume.h"

enum { PAGE = 1024 };

struct look {
    fm_fs_chunks *chunks;
    int64_t timeout_ms;
    fm_fs_orphans what;
    fm_fs_volume_orphan found;
    void *context;
    fm_fs_meta_owners *owners;
    uint64_t count, orphans;
    uint8_t ids[PAGE][FM_FS_CHUNK_ID_BYTES];
};

// A chunk that had no owner when the names were read: it may have been removed since it was listed.
static fm_status take_orphan(struct look *look, uint32_t chain, const uint8_t *id)
{
    uint8_t byte;
    uint32_t got;
    fm_status status = fm_fs_chunks_read(look->chunks, chain, id, 0, &byte, 1, look->timeout_ms, &got, NULL);
    if (status == FM_ERR_NOT_FOUND)
        return FM_OK;
    FM_TRY(status);
    unsigned flags = fm_fs_meta_owners_is_earlier(look->owners, id) ? FM_FS_ORPHAN_EARLIER : 0;
    if (look->what == FM_FS_ORPHANS_REMOVE_ALL || (look->what == FM_FS_ORPHANS_REMOVE && !flags)) {
        FM_TRY(fm_fs_chunks_remove(look->chunks, chain, id, look->timeout_ms));
        flags |= FM_FS_ORPHAN_REMOVED;
    }
    look->orphans++;
    if (look->found)
        look->found(look->context, chain, id, flags);
    return FM_OK;
}

// The names are read after each page of ids: a chunk's file is there before the chunk is.
static fm_status look_through(struct look *look, fm_fs_meta *meta, uint32_t chain)
{
    uint8_t after[FM_FS_CHUNK_ID_BYTES];
    uint32_t count = PAGE;
    for (int first = 1; count == PAGE; first = 0) {
        FM_TRY(fm_fs_chunks_list(look->chunks, chain, first ? NULL : after, look->ids, PAGE, look->timeout_ms,
                                 &count));
        int unknown = 0;
        for (uint32_t i = 0; i < count && look->owners; i++)
            unknown |= !fm_fs_meta_owners_has(look->owners, chain, look->ids[i]);
        if (unknown || !look->owners) {
            fm_fs_meta_owners_free(look->owners);
            look->owners = NULL;
            FM_TRY(fm_fs_meta_owners_read(meta, &look->owners));
        }
        for (uint32_t i = 0; i < count; i++)
            if (!fm_fs_meta_owners_has(look->owners, chain, look->ids[i]))
                FM_TRY(take_orphan(look, chain, look->ids[i]));
        look->count += count;
        if (count)
            memcpy(after, look->ids[count - 1], sizeof after);
    }
    return FM_OK;
}

fm_status fm_fs_volume_orphans(fm_fs_volume *volume, fm_fs_orphans what, fm_fs_volume_orphan found,
                               void *context, uint64_t *out_chunks, uint64_t *out_orphans)
{
    fm_fs_cluster_state state;
    uint32_t *chains = NULL;
    struct look *look = fm_base_mem_zalloc(1, sizeof *look);
    if (!look)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to look for chunks");
    *look = (struct look){
        .timeout_ms = volume->options.timeout_ms, .what = what, .found = found, .context = context};
    fm_status status = fm_fs_volume_take(volume, &look->chunks);
    if (status == FM_OK)
        status = fm_fs_chunks_state(look->chunks, look->timeout_ms, &state);
    uint32_t count = status == FM_OK ? state.chain_count : 0;
    if (status == FM_OK && !(chains = fm_base_mem_zalloc(count + 1, sizeof *chains)))
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to look through %u chains", count);
    for (uint32_t c = 0; c < count && status == FM_OK; c++)
        chains[c] = state.chains[c].id; // the state is valid until the next call
    for (uint32_t c = 0; c < count && status == FM_OK; c++)
        status = look_through(look, volume->meta, chains[c]);
    if (look->chunks)
        fm_fs_volume_leave(volume, look->chunks);
    if (status == FM_OK) {
        *out_chunks = look->count;
        *out_orphans = look->orphans;
    }
    fm_fs_meta_owners_free(look->owners);
    fm_base_mem_free(chains);
    fm_base_mem_free(look);
    return status;
}
