// Which chunks belong to a file, for whoever looks for those that belong to none.
#include <stdlib.h>

#include "fathom/fs_cluster.h"
#include "meta.h"

enum { PAGE = 64 };

struct owner {
    uint64_t data, reach;
    fm_fs_layout layout;
};

struct fm_fs_meta_owners {
    struct owner *items; // ascending by data
    size_t count, capacity;
    uint64_t restored; // numbers below this are from before the names were restored; 0: they never were
};

struct page {
    fm_fs_meta_owners *owners;
    char kind;
    struct fm_fs_meta_key from; // included
    size_t count;               // of items
    size_t kept;                // owners before this page
};

static fm_status add(fm_fs_meta_owners *owners, uint64_t data, uint64_t reach, const fm_fs_layout *layout)
{
    if (owners->count == owners->capacity) {
        size_t capacity = owners->capacity ? 2 * owners->capacity : 256;
        struct owner *moved = fm_base_mem_realloc(owners->items, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for the owners of chunks");
        owners->items = moved;
        owners->capacity = capacity;
    }
    owners->items[owners->count++] = (struct owner){data, reach, *layout};
    return FM_OK;
}

static fm_status take_item(struct page *page, const fm_fs_kv_item *item)
{
    const uint8_t *key = item->key.data;
    const uint8_t *value = item->value.data;
    fm_fs_node node;
    if (page->kind == 'I') {
        FM_TRY(fm_fs_meta_node_decode(fm_fs_meta_number_at(key + 1), item->value, &node));
        return S_ISREG(node.mode) && node.reach ? add(page->owners, node.data, node.reach, &node.layout)
                                                : FM_OK;
    }
    if (item->value.size != FM_FS_META_DATA_WORK_BYTES || fm_get_le32(value) != FM_FS_META_WORK_DATA)
        return FM_OK; // its node tells of its chunks
    fm_fs_meta_layout_get(value + 12, &node.layout);
    return add(page->owners, fm_fs_meta_number_at(key + 9), fm_get_le64(value + 4), &node.layout);
}

static fm_status read_page(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct page *page = op->more;
    const uint8_t behind[1] = {(uint8_t)(page->kind + 1)};
    fm_fs_kv_item items[PAGE];
    page->owners->count = page->kept; // this may be another run
    FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&page->from), (fm_fs_kv_bytes){behind, 1}, PAGE, 0, items,
                          &page->count));
    for (size_t i = 0; i < page->count; i++)
        FM_TRY(take_item(page, &items[i]));
    if (page->count) {
        const fm_fs_kv_bytes *last = &items[page->count - 1].key;
        memcpy(page->from.bytes, last->data, last->size);
        page->from.bytes[last->size] = 0; // the first key behind it
        page->from.size = last->size + 1;
    }
    return FM_OK;
}

static fm_status read_all(fm_fs_meta *meta, fm_fs_meta_owners *owners, char kind)
{
    struct page page = {.owners = owners, .kind = kind, .from = {.bytes = {(uint8_t)kind}, .size = 1}};
    struct fm_fs_meta_op op = {.meta = meta, .body = read_page, .more = &page};
    do {
        page.kept = owners->count;
        FM_TRY(fm_fs_meta_read(&op));
    } while (page.count == PAGE);
    return FM_OK;
}

static fm_status read_restored(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct fm_fs_meta_owners *owners = op->more;
    const struct fm_fs_meta_key key = {.bytes = "O", .size = 1};
    fm_fs_kv_bytes value;
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_NONE, &value));
    owners->restored = value.size == FM_FS_META_RESTORED_BYTES ? fm_get_le64(value.data) : 0;
    return FM_OK;
}

static int compare(const void *a, const void *b)
{
    const struct owner *x = a;
    const struct owner *y = b;
    return x->data < y->data ? -1 : x->data > y->data;
}

fm_status fm_fs_meta_owners_read(fm_fs_meta *meta, fm_fs_meta_owners **out_owners)
{
    if (meta->remote)
        return fm_base_error_set(FM_ERR_UNSUPPORTED,
                                 "the owners of chunks can be read beside the names' store alone");
    fm_fs_meta_owners *owners = fm_base_mem_zalloc(1, sizeof *owners);
    if (!owners)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the owners of chunks");
    struct fm_fs_meta_op op = {.meta = meta, .body = read_restored, .more = owners};
    // The collector's work last: what leaves a file becomes work in the same transaction.
    fm_status status = read_all(meta, owners, 'I');
    if (status == FM_OK)
        status = read_all(meta, owners, 'G');
    if (status == FM_OK)
        status = fm_fs_meta_read(&op);
    if (status < 0) {
        fm_fs_meta_owners_free(owners);
        return status;
    }
    if (owners->count)
        qsort(owners->items, owners->count, sizeof *owners->items, compare);
    *out_owners = owners;
    return FM_OK;
}

void fm_fs_meta_owners_free(fm_fs_meta_owners *owners)
{
    if (!owners)
        return;
    fm_base_mem_free(owners->items);
    fm_base_mem_free(owners);
}

int fm_fs_meta_owners_has(const fm_fs_meta_owners *owners, uint32_t chain, const uint8_t *id)
{
    uint64_t data = fm_fs_meta_number_at(id + 2);
    uint32_t index = (uint32_t)id[12] << 24 | (uint32_t)id[13] << 16 | (uint32_t)id[14] << 8 | id[15];
    size_t low = 0;
    size_t high = owners->count;
    if (id[0] || id[1] || id[10] || id[11])
        return 1; // of another tenant
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (owners->items[middle].data < data)
            low = middle + 1;
        else
            high = middle;
    }
    // More than one: a file's data became the collector's while the names were read.
    for (; low < owners->count && owners->items[low].data == data; low++) {
        const struct owner *owner = &owners->items[low];
        const fm_fs_node node = {.data = data, .layout = owner->layout};
        uint8_t own[FM_FS_CHUNK_ID_BYTES];
        uint32_t at;
        fm_fs_meta_chunk(&node, index, &at, own);
        if (at == chain && (uint64_t)index * owner->layout.chunk_bytes < owner->reach)
            return 1;
    }
    return 0;
}

int fm_fs_meta_owners_is_earlier(const fm_fs_meta_owners *owners, const uint8_t *id)
{
    return fm_fs_meta_number_at(id + 2) < owners->restored;
}
