#include "mla_source.h"

static void begin_ahead(struct fm_mla_space *space, const struct fm_mla_pages *pages)
{
    space->ahead.count = space->ahead.key = space->ahead.at = 0;
    space->ahead.bytes = (int)pages->head_bytes;
}

static int64_t table_slot(const struct fm_mla_table_source *from, int64_t at)
{
    int64_t offset, page = fm_mla_pages_split(from->pages, at, &offset);
    return (int64_t)from->table[page] * from->pages->page + offset;
}

// Moves on by up to `most` keys; returns how many.
static int table_step(struct fm_mla_table_source *from, struct fm_mla_space *space, int most, int ahead)
{
    int keys = (int)fm_mla_min(from->end - from->source.at, most);
    if (keys <= 0)
        return 0;
    from->source.at += keys;
    begin_ahead(space, from->pages);
    ahead = (int)fm_mla_min(from->end - from->source.at, ahead);
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
    int keys = table_step(from, space, FM_MLA_CHUNK, FM_MLA_CHUNK);
    for (int t = 0; t < keys; t++)
        fm_mla_pages_read(from->pages, kernels, table_slot(from, at + t), from->head,
                          space->k + (size_t)t * line);
    return keys;
}

// Key number t of a stretch.
static void put_bf16(const struct fm_mla_pages *pages, const struct fm_mla_kernels *kernels, int64_t slot,
                     int head, int t, struct fm_mla_space *space)
{
    space->places.keys[t] = space->places.values[t] =
        fm_mla_pages_bf16(pages, kernels, slot, head, space->keys + (size_t)t * fm_mla_key_line(pages->d_qk));
}

int fm_mla_table_next_bf16(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                           struct fm_mla_space *space, int most, int ahead)
{
    struct fm_mla_table_source *from = (struct fm_mla_table_source *)source;
    int64_t at = source->at;
    int keys = table_step(from, space, most, ahead);
    for (int t = 0; t < keys; t++)
        put_bf16(from->pages, kernels, table_slot(from, at + t), from->head, t, space);
    return keys;
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

static void list_ahead(const struct fm_mla_list_source *from, struct fm_mla_space *space, int most)
{
    const struct fm_mla_pages *pages = from->pages[0];
    int64_t at = from->source.at, slot;
    begin_ahead(space, pages);
    while (space->ahead.count < most && (slot = list_step(from, &at, &pages)) >= 0)
        space->ahead.keys[space->ahead.count++] = fm_mla_pages_key(pages, slot, 0);
}

int fm_mla_list_next_bf16(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                          struct fm_mla_space *space, int most, int ahead)
{
    const struct fm_mla_list_source *from = (const struct fm_mla_list_source *)source;
    const struct fm_mla_pages *pages;
    int64_t slot;
    int keys = 0;
    while (keys < most && (slot = list_step(from, &source->at, &pages)) >= 0)
        put_bf16(pages, kernels, slot, 0, keys++, space);
    list_ahead(from, space, ahead);
    return keys;
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
    list_ahead(from, space, FM_MLA_CHUNK);
    return keys;
}
