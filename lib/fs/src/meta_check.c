// The check of the names: one moment of the store, read in one transaction, against what must hold of it.
#include "meta_remote.h"

#include <stdarg.h>
#include <stdio.h>

enum {
    PAGE = 256,
    FINDINGS_MAX = 1000, // told; all are counted
    TEXT_BYTES = 160
};

enum reached { UNKNOWN, ON_THE_WAY, REACHED, UNREACHED };

struct seen {
    fm_fs_node node;
    uint64_t names, subdirectories;
    int waits; // for the collector
    enum reached reached;
};

struct census {
    fm_fs_meta_census counts;
    struct seen *seen; // ascending by ino
    size_t seen_count, seen_capacity;
    char (*texts)[TEXT_BYTES];
    size_t text_count;
};

static void find(struct census *census, const char *format, ...) FM_PRINTF(2, 3);
static void find(struct census *census, const char *format, ...)
{
    va_list arguments;
    census->counts.findings++;
    if (census->text_count == FINDINGS_MAX)
        return;
    va_start(arguments, format);
    vsnprintf(census->texts[census->text_count++], TEXT_BYTES, format, arguments);
    va_end(arguments);
}

static struct seen *seen_of(const struct census *census, uint64_t ino)
{
    size_t low = 0;
    size_t high = census->seen_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (census->seen[middle].node.ino < ino)
            low = middle + 1;
        else
            high = middle;
    }
    return low < census->seen_count && census->seen[low].node.ino == ino ? &census->seen[low] : NULL;
}

static fm_status visit_node(struct census *census, const fm_fs_kv_item *item, uint64_t ino)
{
    fm_fs_node node;
    if (fm_fs_meta_node_decode(ino, item->value, &node) < 0) {
        find(census, "inode %llu: its record is malformed", (unsigned long long)ino);
        return FM_OK;
    }
    if (census->seen_count == census->seen_capacity) {
        size_t capacity = census->seen_capacity ? 2 * census->seen_capacity : 256;
        struct seen *moved = fm_base_mem_realloc(census->seen, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory to check %zu inodes", capacity);
        census->seen = moved;
        census->seen_capacity = capacity;
    }
    census->seen[census->seen_count++] = (struct seen){.node = node};
    census->counts.files += S_ISREG(node.mode) ? 1 : 0;
    census->counts.directories += S_ISDIR(node.mode) ? 1 : 0;
    census->counts.links += S_ISLNK(node.mode) ? 1 : 0;
    census->counts.others += S_ISREG(node.mode) || S_ISDIR(node.mode) || S_ISLNK(node.mode) ? 0 : 1;
    census->counts.bytes += S_ISREG(node.mode) ? node.size : 0;
    return FM_OK;
}

static fm_status visit_entry(struct census *census, const fm_fs_kv_item *item, uint64_t dir)
{
    int length = (int)item->key.size - 9;
    const char *name = (const char *)item->key.data + 9;
    struct seen *parent = seen_of(census, dir);
    census->counts.entries++;
    if (item->value.size != FM_FS_META_DIRENT_BYTES) {
        find(census, "entry %.*s of inode %llu is malformed", length, name, (unsigned long long)dir);
        return FM_OK;
    }
    uint64_t ino = fm_get_le64(item->value.data);
    uint32_t type = fm_get_le32((const uint8_t *)item->value.data + 8);
    struct seen *child = seen_of(census, ino);
    if (!parent || !S_ISDIR(parent->node.mode))
        find(census, "entry %.*s is in inode %llu, which is no directory", length, name,
             (unsigned long long)dir);
    if (!child) {
        find(census, "entry %.*s of inode %llu names inode %llu, which does not exist", length, name,
             (unsigned long long)dir, (unsigned long long)ino);
        return FM_OK;
    }
    child->names++;
    if ((child->node.mode & S_IFMT) != type)
        find(census, "entry %.*s of inode %llu has another type than inode %llu", length, name,
             (unsigned long long)dir, (unsigned long long)ino);
    if (S_ISDIR(child->node.mode) && parent)
        parent->subdirectories++;
    if (S_ISDIR(child->node.mode) && child->node.parent != dir)
        find(census, "directory %llu has its name in inode %llu and its parent in inode %llu",
             (unsigned long long)ino, (unsigned long long)dir, (unsigned long long)child->node.parent);
    return FM_OK;
}

static fm_status visit_work(struct census *census, const fm_fs_kv_item *item, uint64_t due)
{
    (void)due;
    uint32_t kind = item->value.size >= 4 ? fm_get_le32(item->value.data) : 0;
    census->counts.collectable++;
    if (item->key.size != 17 || kind < FM_FS_META_WORK_NODE || kind > FM_FS_META_WORK_DATA) {
        find(census, "work for the collector is malformed");
        return FM_OK;
    }
    uint64_t number = fm_fs_meta_number_at((const uint8_t *)item->key.data + 9);
    struct seen *seen = kind == FM_FS_META_WORK_DATA ? NULL : seen_of(census, number);
    if (seen)
        seen->waits = 1;
    else if (kind != FM_FS_META_WORK_DATA)
        find(census, "inode %llu waits for the collector and does not exist", (unsigned long long)number);
    return FM_OK;
}

static fm_status visit_content(struct census *census, const fm_fs_kv_item *item, uint64_t ino)
{
    const struct seen *seen = seen_of(census, ino);
    if (!seen || !(seen->node.flags & FM_FS_NODE_INLINE))
        find(census, "%zu inline bytes of inode %llu, which has none", item->value.size,
             (unsigned long long)ino);
    else if (seen->node.size < item->value.size)
        find(census, "inode %llu is shorter than its %zu inline bytes", (unsigned long long)ino,
             item->value.size);
    return FM_OK;
}

static fm_status visit_xattr(struct census *census, const fm_fs_kv_item *item, uint64_t ino)
{
    const struct seen *seen = seen_of(census, ino);
    (void)item;
    if (!seen || !(seen->node.flags & FM_FS_NODE_XATTRS))
        find(census, "an attribute of inode %llu, which has none", (unsigned long long)ino);
    return FM_OK;
}

static fm_status visit_session(struct census *census, const fm_fs_kv_item *item, uint64_t ino)
{
    (void)item;
    if (!seen_of(census, ino))
        find(census, "inode %llu is held open and does not exist", (unsigned long long)ino);
    return FM_OK;
}

static fm_status visit_quota(struct census *census, const fm_fs_kv_item *item, uint64_t dir)
{
    uint64_t bytes = 0;
    uint64_t inodes = 0;
    if (item->value.size != FM_FS_META_QUOTA_BYTES || !seen_of(census, dir)) {
        find(census, "the quota of inode %llu is malformed, or nobody's", (unsigned long long)dir);
        return FM_OK;
    }
    for (size_t i = 0; i < census->seen_count; i++) {
        const fm_fs_node *node = &census->seen[i].node;
        if (node->project != dir || node->nlink == 0)
            continue;
        bytes += S_ISREG(node->mode) ? node->size : 0;
        inodes++;
    }
    const uint8_t *quota = item->value.data;
    if (fm_get_le64(quota + 16) != bytes || fm_get_le64(quota + 24) != inodes)
        find(census, "quota of inode %llu: %llu bytes and %llu inodes, but there are %llu and %llu",
             (unsigned long long)dir, (unsigned long long)fm_get_le64(quota + 16),
             (unsigned long long)fm_get_le64(quota + 24), (unsigned long long)bytes,
             (unsigned long long)inodes);
    return FM_OK;
}

// Visits every key of one kind.
static fm_status each(fm_fs_kv_tx *tx, struct census *census, char kind,
                      fm_status (*visit)(struct census *census, const fm_fs_kv_item *item, uint64_t number))
{
    struct fm_fs_meta_key lo = {.size = 1};
    struct fm_fs_meta_key hi = {.size = 1};
    fm_fs_kv_item items[PAGE];
    size_t count = PAGE;
    lo.bytes[0] = (uint8_t)kind;
    hi.bytes[0] = (uint8_t)(kind + 1);
    while (count == PAGE) {
        FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), PAGE, 0, items, &count));
        for (size_t i = 0; i < count; i++) {
            if (items[i].key.size < 9)
                find(census, "a key of kind %c is malformed", kind);
            else
                FM_TRY(
                    visit(census, &items[i], fm_fs_meta_number_at((const uint8_t *)items[i].key.data + 1)));
        }
        if (count) {
            lo.size = items[count - 1].key.size;
            memcpy(lo.bytes, items[count - 1].key.data, lo.size);
            lo.bytes[lo.size++] = 0;
        }
    }
    return FM_OK;
}

// Whether parents lead from the directory to the root, or to a tree that was removed.
static enum reached reach(const struct census *census, struct seen *from)
{
    struct seen *seen = from;
    enum reached result = UNREACHED;
    while (seen && seen->reached == UNKNOWN) {
        seen->reached = ON_THE_WAY;
        if (seen->node.ino == FM_FS_META_ROOT || (seen->node.nlink == 0 && seen->waits))
            result = REACHED;
        else
            seen = seen_of(census, seen->node.parent);
        if (result == REACHED)
            break;
    }
    if (seen && (seen->reached == REACHED || seen->reached == UNREACHED))
        result = seen->reached;
    for (seen = from; seen && seen->reached == ON_THE_WAY; seen = seen_of(census, seen->node.parent))
        seen->reached = result;
    return result;
}

static void judge(struct census *census, struct seen *seen)
{
    const fm_fs_node *node = &seen->node;
    unsigned long long ino = node->ino;
    int is_root = node->ino == FM_FS_META_ROOT;
    if (node->nlink == 0) {
        if (seen->names)
            find(census, "inode %llu was removed and has %llu names", ino, (unsigned long long)seen->names);
        if (!seen->waits)
            find(census, "inode %llu has no names and nobody collects it", ino);
        return;
    }
    if (seen->waits)
        find(census, "inode %llu waits for the collector and has %u names", ino, node->nlink);
    if (!S_ISDIR(node->mode)) {
        if (seen->names != node->nlink)
            find(census, "inode %llu has %llu names and a link count of %u", ino,
                 (unsigned long long)seen->names, node->nlink);
        return;
    }
    if (seen->names != (is_root ? 0 : 1))
        find(census, "directory %llu has %llu names", ino, (unsigned long long)seen->names);
    if (node->nlink != 2 + seen->subdirectories)
        find(census, "directory %llu has %llu subdirectories and a link count of %u", ino,
             (unsigned long long)seen->subdirectories, node->nlink);
    if (reach(census, seen) != REACHED)
        find(census, "directory %llu is not reached from the root", ino);
}

static fm_status check(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct census *census = op->more;
    census->counts = (fm_fs_meta_census){0};
    census->seen_count = 0;
    census->text_count = 0;
    FM_TRY(each(tx, census, 'I', visit_node));
    FM_TRY(each(tx, census, 'D', visit_entry));
    FM_TRY(each(tx, census, 'G', visit_work));
    FM_TRY(each(tx, census, 'B', visit_content));
    FM_TRY(each(tx, census, 'X', visit_xattr));
    FM_TRY(each(tx, census, 'S', visit_session));
    FM_TRY(each(tx, census, 'Q', visit_quota));
    if (!seen_of(census, FM_FS_META_ROOT))
        find(census, "the root does not exist");
    for (size_t i = 0; i < census->seen_count; i++)
        judge(census, &census->seen[i]);
    return FM_OK;
}

fm_status fm_fs_meta_check(fm_fs_meta *meta, fm_fs_meta_finding finding, void *context,
                           fm_fs_meta_census *out_census)
{
    if (meta->remote)
        return fm_fs_meta_remote_check(meta, finding, context, out_census);
    struct census census = {.texts = fm_base_mem_zalloc(FINDINGS_MAX, TEXT_BYTES)};
    struct fm_fs_meta_op op = {.meta = meta, .body = check, .more = &census};
    if (!census.texts)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the findings");
    fm_status status = fm_fs_meta_read(&op);
    for (size_t i = 0; i < census.text_count && status == FM_OK && finding; i++)
        finding(context, census.texts[i]);
    if (status == FM_OK)
        *out_census = census.counts;
    fm_base_mem_free(census.texts);
    fm_base_mem_free(census.seen);
    return status;
}
