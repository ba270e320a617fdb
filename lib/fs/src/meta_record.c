// Keys and values of the names.
#include "meta.h"

static void put_be64(uint8_t *to, uint64_t value)
{
    fm_put_le64(to, __builtin_bswap64(value));
}

uint64_t fm_fs_meta_number_at(const uint8_t *bytes)
{
    return __builtin_bswap64(fm_get_le64(bytes));
}

struct fm_fs_meta_key fm_fs_meta_key(char kind, uint64_t number)
{
    struct fm_fs_meta_key key = {.size = 9};
    key.bytes[0] = (uint8_t)kind;
    put_be64(key.bytes + 1, number);
    return key;
}

struct fm_fs_meta_key fm_fs_meta_key_two(char kind, uint64_t number, uint64_t other)
{
    struct fm_fs_meta_key key = fm_fs_meta_key(kind, number);
    put_be64(key.bytes + 9, other);
    key.size = 17;
    return key;
}

struct fm_fs_meta_key fm_fs_meta_key_name(char kind, uint64_t number, const char *name)
{
    struct fm_fs_meta_key key = fm_fs_meta_key(kind, number);
    size_t length = strnlen(name, sizeof key.bytes - 9);
    memcpy(key.bytes + 9, name, length);
    key.size += length;
    return key;
}

void fm_fs_meta_span(char kind, uint64_t number, struct fm_fs_meta_key *out_lo, struct fm_fs_meta_key *out_hi)
{
    *out_lo = fm_fs_meta_key(kind, number);
    *out_hi = fm_fs_meta_key(kind, number + 1); // numbers stay far below 2^64
}

fm_fs_kv_bytes fm_fs_meta_bytes(const struct fm_fs_meta_key *key)
{
    return (fm_fs_kv_bytes){key->bytes, key->size};
}

fm_status fm_fs_meta_get(fm_fs_kv_tx *tx, const struct fm_fs_meta_key *key, fm_fs_kv_lock lock,
                         fm_fs_kv_bytes *out_value)
{
    static const uint8_t nothing[1];
    fm_fs_kv_item item = {.key = fm_fs_meta_bytes(key)};
    FM_TRY(fm_fs_kv_get(tx, &item, 1, lock));
    *out_value = (fm_fs_kv_bytes){0};
    if (item.found) // an empty value may come as a null pointer
        *out_value = item.value.data ? item.value : (fm_fs_kv_bytes){nothing, 0};
    return FM_OK;
}

fm_status fm_fs_meta_put(fm_fs_kv_tx *tx, const struct fm_fs_meta_key *key, const void *value, size_t size)
{
    return fm_fs_kv_put(tx, fm_fs_meta_bytes(key), (fm_fs_kv_bytes){value, size});
}

fm_status fm_fs_meta_delete(fm_fs_kv_tx *tx, const struct fm_fs_meta_key *key)
{
    return fm_fs_kv_delete(tx, fm_fs_meta_bytes(key));
}

void fm_fs_meta_layout_put(uint8_t *to, const fm_fs_layout *layout)
{
    fm_put_le32(to, layout->chunk_bytes);
    fm_put_le32(to + 4, layout->stripe);
    fm_put_le32(to + 8, layout->chains);
    fm_put_le32(to + 12, layout->base);
}

void fm_fs_meta_layout_get(const uint8_t *from, fm_fs_layout *out_layout)
{
    *out_layout = (fm_fs_layout){fm_get_le32(from), fm_get_le32(from + 4), fm_get_le32(from + 8),
                                 fm_get_le32(from + 12)};
}

fm_status fm_fs_meta_node_decode(uint64_t ino, fm_fs_kv_bytes value, fm_fs_node *out_node)
{
    const uint8_t *from = value.data;
    if (value.size != FM_FS_META_NODE_BYTES || fm_get_le32(from) != FM_FS_META_FORMAT)
        return fm_base_error_set(FM_ERR_FORMAT, "inode %llu: its record of %zu bytes is not one",
                                 (unsigned long long)ino, value.size);
    *out_node = (fm_fs_node){.ino = ino,
                             .mode = fm_get_le32(from + 4),
                             .nlink = fm_get_le32(from + 8),
                             .uid = fm_get_le32(from + 12),
                             .gid = fm_get_le32(from + 16),
                             .flags = fm_get_le32(from + 20),
                             .rdev = fm_get_le64(from + 24),
                             .size = fm_get_le64(from + 32),
                             .atime_ns = (int64_t)fm_get_le64(from + 40),
                             .mtime_ns = (int64_t)fm_get_le64(from + 48),
                             .ctime_ns = (int64_t)fm_get_le64(from + 56),
                             .version = fm_get_le64(from + 64),
                             .parent = fm_get_le64(from + 72),
                             .project = fm_get_le64(from + 80),
                             .data = fm_get_le64(from + 88),
                             .reach = fm_get_le64(from + 96)};
    fm_fs_meta_layout_get(from + 104, &out_node->layout);
    if (S_ISREG(out_node->mode)) {
        out_node->cuts = out_node->rdev;
        out_node->rdev = 0;
    }
    return FM_OK;
}

fm_status fm_fs_meta_load(fm_fs_kv_tx *tx, uint64_t ino, fm_fs_kv_lock lock, fm_fs_node *out_node)
{
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key('I', ino);
    FM_TRY(fm_fs_meta_get(tx, &key, lock, &value));
    if (!value.data)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "inode %llu does not exist", (unsigned long long)ino);
    return fm_fs_meta_node_decode(ino, value, out_node);
}

void fm_fs_meta_node_encode(const fm_fs_node *node, uint8_t to[FM_FS_META_NODE_BYTES])
{
    fm_put_le32(to, FM_FS_META_FORMAT);
    fm_put_le32(to + 4, node->mode);
    fm_put_le32(to + 8, node->nlink);
    fm_put_le32(to + 12, node->uid);
    fm_put_le32(to + 16, node->gid);
    fm_put_le32(to + 20, node->flags);
    fm_put_le64(to + 24, S_ISREG(node->mode) ? node->cuts : node->rdev);
    fm_put_le64(to + 32, node->size);
    fm_put_le64(to + 40, (uint64_t)node->atime_ns);
    fm_put_le64(to + 48, (uint64_t)node->mtime_ns);
    fm_put_le64(to + 56, (uint64_t)node->ctime_ns);
    fm_put_le64(to + 64, node->version);
    fm_put_le64(to + 72, node->parent);
    fm_put_le64(to + 80, node->project);
    fm_put_le64(to + 88, node->data);
    fm_put_le64(to + 96, node->reach);
    fm_fs_meta_layout_put(to + 104, &node->layout);
}

fm_status fm_fs_meta_store(fm_fs_kv_tx *tx, const fm_fs_node *node)
{
    uint8_t to[FM_FS_META_NODE_BYTES];
    struct fm_fs_meta_key key = fm_fs_meta_key('I', node->ino);
    fm_fs_meta_node_encode(node, to);
    return fm_fs_meta_put(tx, &key, to, sizeof to);
}

fm_status fm_fs_meta_entry_get(fm_fs_kv_tx *tx, uint64_t dir, const char *name, fm_fs_kv_lock lock,
                               uint64_t *out_ino)
{
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key_name('D', dir, name);
    FM_TRY(fm_fs_meta_get(tx, &key, lock, &value));
    if (value.data && value.size != FM_FS_META_DIRENT_BYTES)
        return fm_base_error_set(FM_ERR_FORMAT, "the entry %s of inode %llu has %zu bytes", name,
                                 (unsigned long long)dir, value.size);
    *out_ino = value.data ? fm_get_le64(value.data) : 0;
    return FM_OK;
}

fm_status fm_fs_meta_entry_put(fm_fs_kv_tx *tx, uint64_t dir, const char *name, const fm_fs_node *node)
{
    uint8_t value[FM_FS_META_DIRENT_BYTES];
    struct fm_fs_meta_key key = fm_fs_meta_key_name('D', dir, name);
    fm_put_le64(value, node->ino);
    fm_put_le32(value + 8, node->mode & S_IFMT);
    return fm_fs_meta_put(tx, &key, value, sizeof value);
}

fm_status fm_fs_meta_entry_delete(fm_fs_kv_tx *tx, uint64_t dir, const char *name)
{
    struct fm_fs_meta_key key = fm_fs_meta_key_name('D', dir, name);
    return fm_fs_meta_delete(tx, &key);
}

fm_status fm_fs_meta_any(fm_fs_kv_tx *tx, char kind, uint64_t number, int *out_any)
{
    struct fm_fs_meta_key lo;
    struct fm_fs_meta_key hi;
    fm_fs_kv_item item;
    size_t count;
    fm_fs_meta_span(kind, number, &lo, &hi);
    FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), 1, 0, &item, &count));
    *out_any = count > 0;
    return FM_OK;
}
