// What each call on names elsewhere asks for. The numbers and flags of each method are as meta_serve.c reads them.
#include "meta_remote.h"

#define ASKING(name, ...) struct fm_fs_meta_request request = {.method = FM_FS_META_##name, __VA_ARGS__}

static fm_status ask_node(fm_fs_meta *meta, const fm_fs_who *who, struct fm_fs_meta_request *request,
                          fm_fs_node *out_node)
{
    struct fm_fs_meta_answer answer;
    FM_TRY(fm_fs_meta_ask(meta, who, request, &answer, NULL, 0));
    *out_node = answer.node;
    return FM_OK;
}

static fm_status ask_done(fm_fs_meta *meta, const fm_fs_who *who, struct fm_fs_meta_request *request)
{
    struct fm_fs_meta_answer answer;
    return fm_fs_meta_ask(meta, who, request, &answer, NULL, 0);
}

// For the files that lose their last name: which client may have them open itself.
static uint64_t leased(fm_fs_meta *meta)
{
    return __atomic_load_n(&meta->leased, __ATOMIC_RELAXED);
}

/* Looking */

fm_status fm_fs_meta_remote_node(fm_fs_meta *meta, uint64_t ino, fm_fs_node *out_node)
{
    ASKING(NODE, .numbers = {ino});
    return ask_node(meta, NULL, &request, out_node);
}

fm_status fm_fs_meta_remote_lookup(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                                   fm_fs_node *out_node)
{
    ASKING(LOOKUP, .numbers = {parent}, .name = name);
    return ask_node(meta, who, &request, out_node);
}

fm_status fm_fs_meta_remote_resolve(fm_fs_meta *meta, const fm_fs_who *who, uint64_t from, const char *path,
                                    int follow, fm_fs_node *out_node)
{
    ASKING(RESOLVE, .numbers = {from}, .flags = {follow ? 1 : 0}, .name = path);
    return ask_node(meta, who, &request, out_node);
}

fm_status fm_fs_meta_remote_readlink(fm_fs_meta *meta, uint64_t ino, char out_target[FM_FS_META_LINK_MAX + 1])
{
    char target[FM_FS_META_LINK_MAX + 1];
    struct fm_fs_meta_answer answer;
    ASKING(READLINK, .numbers = {ino});
    FM_TRY(fm_fs_meta_ask(meta, NULL, &request, &answer, target, FM_FS_META_LINK_MAX));
    memcpy(out_target, target, answer.payload_bytes);
    out_target[answer.payload_bytes] = 0;
    return FM_OK;
}

fm_status fm_fs_meta_remote_list(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir, const char *after,
                                 fm_fs_meta_entry *entries, size_t max, size_t *out_count)
{
    struct fm_fs_meta_answer answer;
    ASKING(LIST, .numbers = {dir, max}, .flags = {after != NULL}, .name = after);
    uint8_t *page = fm_base_mem_alloc(FM_FS_META_WIRE_PAYLOAD);
    if (!page)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to list a directory");
    fm_status status = fm_fs_meta_ask(meta, who, &request, &answer, page, FM_FS_META_WIRE_PAYLOAD);
    if (status == FM_OK)
        status = fm_fs_meta_page_decode(page, answer.payload_bytes, entries, max, out_count);
    fm_base_mem_free(page);
    return status;
}

/* Names */

fm_status fm_fs_meta_remote_create(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                                   uint32_t mode, uint64_t rdev, int exclusive, fm_fs_node *out_node,
                                   int *out_made)
{
    struct fm_fs_meta_answer answer;
    ASKING(CREATE, .numbers = {parent, rdev}, .flags = {mode, exclusive ? 1 : 0}, .name = name);
    FM_TRY(fm_fs_meta_ask(meta, who, &request, &answer, NULL, 0));
    *out_node = answer.node;
    if (out_made)
        *out_made = answer.numbers[0] == 1;
    return FM_OK;
}

fm_status fm_fs_meta_remote_symlink(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                                    const char *target, fm_fs_node *out_node)
{
    ASKING(SYMLINK, .numbers = {parent}, .name = name, .other = target);
    return ask_node(meta, who, &request, out_node);
}

fm_status fm_fs_meta_remote_link(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, uint64_t parent,
                                 const char *name, fm_fs_node *out_node)
{
    ASKING(LINK, .numbers = {ino, parent}, .name = name);
    return ask_node(meta, who, &request, out_node);
}

fm_status fm_fs_meta_remote_remove(fm_fs_meta *meta, enum fm_fs_meta_method method, const fm_fs_who *who,
                                   uint64_t parent, const char *name)
{
    struct fm_fs_meta_request request = {
        .method = method, .numbers = {parent, 0, 0, leased(meta)}, .name = name};
    return ask_done(meta, who, &request);
}

fm_status fm_fs_meta_remote_rename(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                                   uint64_t to_parent, const char *to_name, unsigned flags)
{
    ASKING(RENAME, .numbers = {parent, to_parent, 0, leased(meta)}, .flags = {flags}, .name = name,
           .other = to_name);
    return ask_done(meta, who, &request);
}

/* Attributes */

fm_status fm_fs_meta_remote_setattr(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, unsigned set,
                                    const fm_fs_node *values, fm_fs_node *out_node)
{
    uint8_t node[FM_FS_META_WIRE_NODE];
    fm_fs_meta_wire_node_put(node, values);
    ASKING(SETATTR, .numbers = {ino}, .flags = {set}, .payload = node, .payload_bytes = sizeof node);
    return ask_node(meta, who, &request, out_node);
}

fm_status fm_fs_meta_remote_layout_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir,
                                       const fm_fs_layout *layout)
{
    ASKING(LAYOUT, .numbers = {dir, layout->chunk_bytes, layout->stripe, layout->chains},
           .flags = {layout->base});
    return ask_done(meta, who, &request);
}

// Attributes are asked for whole: their size comes with them, and whether they fit is told here as the store tells it.
static fm_status ask_sized(fm_fs_meta *meta, const fm_fs_who *who, struct fm_fs_meta_request *request,
                           void *to, size_t capacity, size_t *out_size)
{
    struct fm_fs_meta_answer answer;
    uint8_t *all = fm_base_mem_alloc(FM_FS_META_WIRE_PAYLOAD);
    if (!all)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for an attribute");
    fm_status status = fm_fs_meta_ask(meta, who, request, &answer, all, FM_FS_META_WIRE_PAYLOAD);
    if (status == FM_OK && capacity && answer.payload_bytes > capacity)
        status = fm_base_error_set(FM_ERR_LIMIT, "%zu bytes; there is room for %zu", answer.payload_bytes,
                                   capacity);
    if (status == FM_OK && capacity && answer.payload_bytes)
        memcpy(to, all, answer.payload_bytes);
    if (status == FM_OK)
        *out_size = answer.payload_bytes;
    fm_base_mem_free(all);
    return status;
}

fm_status fm_fs_meta_remote_xattr_get(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, const char *name,
                                      void *value, size_t capacity, size_t *out_size)
{
    ASKING(XATTR_GET, .numbers = {ino}, .name = name);
    return ask_sized(meta, who, &request, value, capacity, out_size);
}

fm_status fm_fs_meta_remote_xattr_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, const char *name,
                                      const void *value, size_t size, unsigned flags)
{
    ASKING(XATTR_SET, .numbers = {ino}, .flags = {flags}, .name = name, .payload = value,
           .payload_bytes = size);
    return ask_done(meta, who, &request);
}

fm_status fm_fs_meta_remote_xattr_remove(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino,
                                         const char *name)
{
    ASKING(XATTR_REMOVE, .numbers = {ino}, .name = name);
    return ask_done(meta, who, &request);
}

fm_status fm_fs_meta_remote_xattr_list(fm_fs_meta *meta, uint64_t ino, char *names, size_t capacity,
                                       size_t *out_size)
{
    ASKING(XATTR_LIST, .numbers = {ino});
    return ask_sized(meta, NULL, &request, names, capacity, out_size);
}

/* Contents */

fm_status fm_fs_meta_remote_inline_read(fm_fs_meta *meta, uint64_t ino, uint64_t offset, void *buffer,
                                        size_t length, size_t *out_read, fm_fs_node *out_node)
{
    struct fm_fs_meta_answer answer;
    size_t most = length < FM_FS_META_INLINE_MAX ? length : FM_FS_META_INLINE_MAX; // no file has more inline
    ASKING(INLINE_READ, .numbers = {ino, offset, most});
    FM_TRY(fm_fs_meta_ask(meta, NULL, &request, &answer, buffer, most));
    *out_read = answer.payload_bytes;
    *out_node = answer.node;
    return FM_OK;
}

fm_status fm_fs_meta_remote_inline_write(fm_fs_meta *meta, uint64_t ino, uint64_t offset, const void *bytes,
                                         size_t length, fm_fs_node *out_node)
{
    ASKING(INLINE_WRITE, .numbers = {ino, offset}, .payload = bytes, .payload_bytes = length);
    return ask_node(meta, NULL, &request, out_node);
}

fm_status fm_fs_meta_remote_spill(fm_fs_meta *meta, uint64_t ino, uint64_t version, fm_fs_node *out_node)
{
    ASKING(SPILL, .numbers = {ino, version});
    return ask_node(meta, NULL, &request, out_node);
}

fm_status fm_fs_meta_remote_extend(fm_fs_meta *meta, uint64_t ino, uint64_t data, uint64_t end, uint64_t cuts,
                                   fm_fs_node *out_node)
{
    ASKING(EXTEND, .numbers = {ino, data, end, cuts});
    return ask_node(meta, NULL, &request, out_node);
}

fm_status fm_fs_meta_remote_fence(fm_fs_meta *meta, uint64_t ino, uint64_t data, fm_fs_node *out_node)
{
    ASKING(FENCE, .numbers = {ino, data});
    return ask_node(meta, NULL, &request, out_node);
}

fm_status fm_fs_meta_remote_truncate(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, uint64_t data,
                                     uint64_t size, uint64_t cuts, fm_fs_node *out_node)
{
    ASKING(TRUNCATE, .numbers = {ino, data, size, cuts});
    return ask_node(meta, who, &request, out_node);
}

fm_status fm_fs_meta_remote_session(fm_fs_meta *meta, enum fm_fs_meta_method method, uint64_t client,
                                    uint64_t number, fm_fs_node *out_node)
{
    struct fm_fs_meta_request request = {.method = method, .numbers = {client, number}};
    fm_fs_node node;
    FM_TRY(ask_node(meta, NULL, &request, &node));
    if (out_node)
        *out_node = node;
    return FM_OK;
}

fm_status fm_fs_meta_remote_lock(fm_fs_meta *meta, uint64_t ino, const fm_fs_lock *wanted, int *out_granted,
                                 fm_fs_node *out_node)
{
    uint8_t lock[FM_FS_META_LOCK_BYTES];
    struct fm_fs_meta_answer answer;
    fm_fs_meta_lock_encode(wanted, lock);
    ASKING(LOCK, .numbers = {ino}, .payload = lock, .payload_bytes = sizeof lock);
    FM_TRY(fm_fs_meta_ask(meta, NULL, &request, &answer, NULL, 0));
    *out_granted = answer.numbers[0] == 1;
    *out_node = answer.node;
    return FM_OK;
}

fm_status fm_fs_meta_remote_lock_test(fm_fs_meta *meta, uint64_t ino, const fm_fs_lock *wanted,
                                      fm_fs_lock *out_conflict)
{
    uint8_t lock[FM_FS_META_LOCK_BYTES];
    uint8_t conflict[FM_FS_META_LOCK_BYTES];
    struct fm_fs_meta_answer answer;
    fm_fs_meta_lock_encode(wanted, lock);
    ASKING(LOCK_TEST, .numbers = {ino}, .payload = lock, .payload_bytes = sizeof lock);
    FM_TRY(fm_fs_meta_ask(meta, NULL, &request, &answer, conflict, sizeof conflict));
    if (answer.payload_bytes != sizeof conflict)
        return fm_base_error_set(FM_ERR_FORMAT, "a lock of %zu bytes", answer.payload_bytes);
    fm_fs_meta_lock_decode(conflict, out_conflict);
    return FM_OK;
}

/* Quotas, checking */

fm_status fm_fs_meta_remote_quota_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir,
                                      const fm_fs_quota *quota)
{
    ASKING(QUOTA_SET, .numbers = {dir, quota->bytes_max, quota->inodes_max});
    return ask_done(meta, who, &request);
}

fm_status fm_fs_meta_remote_quota_get(fm_fs_meta *meta, uint64_t ino, fm_fs_quota *out_quota)
{
    struct fm_fs_meta_answer answer;
    ASKING(QUOTA_GET, .numbers = {ino});
    FM_TRY(fm_fs_meta_ask(meta, NULL, &request, &answer, NULL, 0));
    *out_quota = (fm_fs_quota){.bytes_max = answer.numbers[0],
                               .inodes_max = answer.numbers[1],
                               .bytes = answer.numbers[2],
                               .inodes = answer.numbers[3]};
    return FM_OK;
}

// The census is the payload: its numbers, 8 each, and then the findings, each ended by a 0.
fm_status fm_fs_meta_remote_check(fm_fs_meta *meta, fm_fs_meta_finding finding, void *context,
                                  fm_fs_meta_census *out_census)
{
    enum { NUMBERS = 8 };
    struct fm_fs_meta_answer answer;
    ASKING(CHECK, .name = NULL);
    uint8_t *told = fm_base_mem_alloc(FM_FS_META_WIRE_PAYLOAD + 1);
    if (!told)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a check");
    fm_status status = fm_fs_meta_ask(meta, NULL, &request, &answer, told, FM_FS_META_WIRE_PAYLOAD);
    if (status == FM_OK && answer.payload_bytes < NUMBERS * 8)
        status = fm_base_error_set(FM_ERR_FORMAT, "a census of %zu bytes", answer.payload_bytes);
    if (status == FM_OK) {
        uint64_t numbers[NUMBERS];
        for (int i = 0; i < NUMBERS; i++)
            numbers[i] = fm_get_le64(told + 8 * i);
        *out_census = (fm_fs_meta_census){numbers[0], numbers[1], numbers[2], numbers[3],
                                          numbers[4], numbers[5], numbers[6], numbers[7]};
        told[answer.payload_bytes] = 0;
        const char *end = (const char *)told + answer.payload_bytes;
        for (const char *at = (const char *)told + NUMBERS * 8; at < end && finding; at += strlen(at) + 1)
            finding(context, at);
    }
    fm_base_mem_free(told);
    return status;
}

fm_status fm_fs_meta_remote_refuse(const char *what)
{
    return fm_base_error_set(FM_ERR_UNSUPPORTED, "%s can be had only where the store of the names is", what);
}
