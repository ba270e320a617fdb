#include "mla_source.h"

static void begin_ahead(struct fm_mla_space *space, const struct fm_mla_pages *pages)
{
    space->ahead.count = space->ahead.key = space->ahead.at = 0;
    space->ahead.bytes = (int)pages->head_bytes;
}

static int64_t table_slot(const struct fm_mla_table_source *from, int64_t at)
{
    return (int64_t)from->table[at / from->pages->page] * from->pages->page + at % from->pages->page;
}

// Moves on by a chunk; returns its keys.
static int table_step(struct fm_mla_table_source *from, struct fm_mla_space *space)
{
    int keys = (int)fm_mla_min(from->end - from->source.at, FM_MLA_CHUNK);
    if (keys <= 0)
        return 0;
    from->source.at += keys;
    begin_ahead(space, from->pages);
    int ahead = (int)fm_mla_min(from->end - from->source.at, FM_MLA_CHUNK);
    for (int t = 0; t < ahead; t++)
        space->ahead.keys[space->ahead.count++] =
            fm_mla_pages_key(from->pages, table_slot(from, from->source.at + t), from->head);
    return keys;
}

int fm_mla_table_next(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                      struct fm_mla_space *space)
{
    struct fm_mla_table_source *from = (struct fm_mla_table_source *)source;
    size_t line = fm_mla_line((size_t)from->pages->d_qk);
    int64_t at = source->at;
    int keys = table_step(from, space);
    for (int t = 0; t < keys; t++)
        fm_mla_pages_read(from->pages, kernels, table_slot(from, at + t), from->head,
                          space->k + (size_t)t * line);
    return keys;
}

// Key number t of a chunk; FP8 goes through a part of the workspace that only the backward pass uses.
static const uint8_t *few_key(const struct fm_mla_pages *pages, const struct fm_mla_kernels *kernels,
                              int64_t slot, int head, int t, struct fm_mla_space *space)
{
    // An odd number of cache lines from key to key, so that they use all cache sets.
    size_t line = (((size_t)pages->d_qk * sizeof(uint16_t) + 63) / 64 | 1) * 32;
    return fm_mla_pages_bf16(pages, kernels, slot, head, (uint16_t *)(void *)space->dk + (size_t)t * line);
}

// Addresses behind the last key must be readable, too.
static void fill_up(const uint8_t *keys[FM_MLA_CHUNK], int count)
{
    for (int t = count; count > 0 && t < FM_MLA_CHUNK; t++)
        keys[t] = keys[0];
}

int fm_mla_table_next_few(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                          struct fm_mla_space *space, const uint8_t *keys[FM_MLA_CHUNK])
{
    struct fm_mla_table_source *from = (struct fm_mla_table_source *)source;
    int64_t at = source->at;
    int count = table_step(from, space);
    for (int t = 0; t < count; t++)
        keys[t] = few_key(from->pages, kernels, table_slot(from, at + t), from->head, t, space);
    fill_up(keys, count);
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

// The next valid entry from *at on, which moves behind it; -1 at the end.
static int64_t list_step(const struct fm_mla_list_source *from, int64_t *at,
                         const struct fm_mla_pages **out_pages)
{
    while (*at < from->end) {
        int64_t slot = list_slot(from, (*at)++, out_pages);
        if (slot >= 0)
            return slot;
    }
    return -1;
}

static void list_ahead(const struct fm_mla_list_source *from, struct fm_mla_space *space)
{
    const struct fm_mla_pages *pages = from->pages[0];
    int64_t at = from->source.at, slot;
    begin_ahead(space, pages);
    while (space->ahead.count < FM_MLA_CHUNK && (slot = list_step(from, &at, &pages)) >= 0)
        space->ahead.keys[space->ahead.count++] = fm_mla_pages_key(pages, slot, 0);
}

int fm_mla_list_next_few(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                         struct fm_mla_space *space, const uint8_t *keys[FM_MLA_CHUNK])
{
    const struct fm_mla_list_source *from = (const struct fm_mla_list_source *)source;
    const struct fm_mla_pages *pages;
    int64_t slot;
    int count = 0;
    while (count < FM_MLA_CHUNK && (slot = list_step(from, &source->at, &pages)) >= 0) {
        keys[count] = few_key(pages, kernels, slot, 0, count, space);
        count++;
    }
    fill_up(keys, count);
    list_ahead(from, space);
    return count;
}

int fm_mla_list_next(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                     struct fm_mla_space *space)
{
    const struct fm_mla_list_source *from = (const struct fm_mla_list_source *)source;
    const struct fm_mla_pages *pages;
    size_t line = fm_mla_line((size_t)from->pages[0]->d_qk);
    int64_t slot;
    int keys = 0;
    while (keys < FM_MLA_CHUNK && (slot = list_step(from, &source->at, &pages)) >= 0)
        fm_mla_pages_read(pages, kernels, slot, 0, space->k + (size_t)keys++ * line);
    list_ahead(from, space);
    return keys;
}
