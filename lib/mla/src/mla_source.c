#include "mla_source.h"

enum { PREFETCH_AHEAD = FM_MLA_CHUNK }; // places between a key that is asked for and the one that is widened

static int64_t table_slot(const struct fm_mla_table_source *from, int64_t at)
{
    return (int64_t)from->table[at / from->pages->page] * from->pages->page + at % from->pages->page;
}

int fm_mla_table_next(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                      struct fm_mla_space *space)
{
    const struct fm_mla_table_source *from = (const struct fm_mla_table_source *)source;
    int keys = (int)fm_mla_min(from->end - source->at, FM_MLA_CHUNK);
    size_t line = fm_mla_line((size_t)from->pages->d_qk);
    for (int t = 0; t < keys; t++) {
        int64_t at = source->at + t;
        if (at + PREFETCH_AHEAD < from->end)
            fm_mla_pages_prefetch(from->pages, table_slot(from, at + PREFETCH_AHEAD), from->head);
        fm_mla_pages_read(from->pages, kernels, table_slot(from, at), from->head,
                          space->k + (size_t)t * line);
    }
    source->at += keys;
    return keys;
}

int fm_mla_table_next_few(struct fm_mla_source *source, const uint8_t *keys[FM_MLA_CHUNK])
{
    const struct fm_mla_table_source *from = (const struct fm_mla_table_source *)source;
    int count = (int)fm_mla_min(from->end - source->at, FM_MLA_CHUNK);
    for (int t = 0; t < count; t++) {
        int64_t at = source->at + t;
        if (at + PREFETCH_AHEAD < from->end)
            fm_mla_pages_prefetch(from->pages, table_slot(from, at + PREFETCH_AHEAD), from->head);
        keys[t] = fm_mla_pages_key(from->pages, table_slot(from, at), from->head);
    }
    for (int t = count; count > 0 && t < FM_MLA_CHUNK; t++)
        keys[t] = keys[0];
    source->at += count;
    return count;
}

// The slot of an entry, or -1; *out_pages: of which cache.
static int64_t list_slot(const struct fm_mla_list_source *from, int64_t at,
                         const struct fm_mla_pages **out_pages)
{
    int extra = at >= from->first_extra;
    int64_t slot = from->lists[extra][extra ? at - from->first_extra : at];
    *out_pages = from->pages[extra];
    return slot >= 0 && slot < (*out_pages)->slots ? slot : -1;
}

static void prefetch_entry(const struct fm_mla_list_source *from, int64_t at)
{
    const struct fm_mla_pages *pages;
    int64_t slot = at < from->end ? list_slot(from, at, &pages) : -1;
    if (slot >= 0)
        fm_mla_pages_prefetch(pages, slot, 0);
}

int fm_mla_list_next_few(struct fm_mla_source *source, const uint8_t *keys[FM_MLA_CHUNK])
{
    const struct fm_mla_list_source *from = (const struct fm_mla_list_source *)source;
    int count = 0;
    for (; source->at < from->end && count < FM_MLA_CHUNK; source->at++) {
        const struct fm_mla_pages *pages;
        prefetch_entry(from, source->at + PREFETCH_AHEAD);
        int64_t slot = list_slot(from, source->at, &pages);
        if (slot >= 0)
            keys[count++] = fm_mla_pages_key(pages, slot, 0);
    }
    for (int t = count; count > 0 && t < FM_MLA_CHUNK; t++)
        keys[t] = keys[0];
    return count;
}

int fm_mla_list_next(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                     struct fm_mla_space *space)
{
    const struct fm_mla_list_source *from = (const struct fm_mla_list_source *)source;
    int keys = 0;
    size_t line = fm_mla_line((size_t)from->pages[0]->d_qk);
    for (; source->at < from->end && keys < FM_MLA_CHUNK; source->at++) {
        const struct fm_mla_pages *pages;
        prefetch_entry(from, source->at + PREFETCH_AHEAD);
        int64_t slot = list_slot(from, source->at, &pages);
        if (slot >= 0)
            fm_mla_pages_read(pages, kernels, slot, 0, space->k + (size_t)keys++ * line);
    }
    return keys;
}
