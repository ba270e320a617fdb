// The wire format of the names: see meta_wire.h. Every byte that arrives is somebody else's.
#include "meta_wire.h"

enum { HEAD = 80 };

static size_t length_of(const char *name)
{
    return name ? strlen(name) : 0;
}

fm_status fm_fs_meta_request_encode(const struct fm_fs_meta_request *request, uint8_t *out_args,
                                    size_t *out_bytes)
{
    size_t name = length_of(request->name);
    size_t other = length_of(request->other);
    if (name >= FM_FS_META_WIRE_NAME || other >= FM_FS_META_WIRE_NAME)
        return fm_base_error_set(FM_ERR_LIMIT, "a name or path of %zu bytes; expected at most %d",
                                 name > other ? name : other, FM_FS_META_WIRE_NAME - 1);
    if (request->group_count > FM_FS_META_WIRE_GROUPS)
        return fm_base_error_set(FM_ERR_LIMIT, "a user in %u groups; expected at most %d",
                                 request->group_count, FM_FS_META_WIRE_GROUPS);
    fm_put_le32(out_args, FM_FS_META_WIRE_VERSION);
    fm_put_le32(out_args + 4, request->slot);
    fm_put_le64(out_args + 8, request->client);
    fm_put_le64(out_args + 16, request->sequence);
    fm_put_le32(out_args + 24, request->uid);
    fm_put_le32(out_args + 28, request->gid);
    fm_put_le16(out_args + 32, (uint16_t)request->group_count);
    fm_put_le16(out_args + 34, (uint16_t)name);
    fm_put_le16(out_args + 36, (uint16_t)other);
    fm_put_le16(out_args + 38, request->super ? 1 : 0);
    for (int i = 0; i < 4; i++)
        fm_put_le64(out_args + 40 + 8 * i, request->numbers[i]);
    fm_put_le32(out_args + 72, request->flags[0]);
    fm_put_le32(out_args + 76, request->flags[1]);
    uint8_t *at = out_args + HEAD;
    for (uint32_t i = 0; i < request->group_count; i++, at += 4)
        fm_put_le32(at, request->groups[i]);
    memcpy(at, name ? request->name : "", name + 1);
    memcpy(at + name + 1, other ? request->other : "", other + 1);
    *out_bytes = (size_t)(at - out_args) + name + other + 2;
    return FM_OK;
}

// A text of `length` bytes with a 0 behind it, and none in it.
static int is_text(const char *text, size_t length)
{
    return strnlen(text, length + 1) == length;
}

fm_status fm_fs_meta_request_decode(const void *args, size_t bytes, uint32_t space[FM_FS_META_WIRE_GROUPS],
                                    struct fm_fs_meta_request *out_request)
{
    const uint8_t *from = args;
    if (bytes < 4)
        return fm_base_error_set(FM_ERR_FORMAT, "a request of %zu bytes; expected at least %d", bytes, HEAD);
    if (fm_get_le32(from) != FM_FS_META_WIRE_VERSION)
        return fm_base_error_set(FM_ERR_VERSION, "a request of version %u; this service knows version %d",
                                 fm_get_le32(from), FM_FS_META_WIRE_VERSION);
    if (bytes < HEAD)
        return fm_base_error_set(FM_ERR_FORMAT, "a request of %zu bytes; expected at least %d", bytes, HEAD);
    size_t groups = fm_get_le16(from + 32);
    size_t name = fm_get_le16(from + 34);
    size_t other = fm_get_le16(from + 36);
    const char *texts = (const char *)from + HEAD + 4 * groups;
    if (groups > FM_FS_META_WIRE_GROUPS || name >= FM_FS_META_WIRE_NAME || other >= FM_FS_META_WIRE_NAME ||
        bytes != HEAD + 4 * groups + name + other + 2 || !is_text(texts, name) ||
        !is_text(texts + name + 1, other))
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "a request of %zu bytes with %zu groups and names of %zu and %zu bytes",
                                 bytes, groups, name, other);
    *out_request = (struct fm_fs_meta_request){.slot = fm_get_le32(from + 4),
                                               .client = fm_get_le64(from + 8),
                                               .sequence = fm_get_le64(from + 16),
                                               .uid = fm_get_le32(from + 24),
                                               .gid = fm_get_le32(from + 28),
                                               .group_count = (uint32_t)groups,
                                               .groups = space,
                                               .super = fm_get_le16(from + 38) == 1,
                                               .flags = {fm_get_le32(from + 72), fm_get_le32(from + 76)},
                                               .name = texts,
                                               .other = texts + name + 1};
    for (int i = 0; i < 4; i++)
        out_request->numbers[i] = fm_get_le64(from + 40 + 8 * i);
    for (size_t i = 0; i < groups; i++)
        space[i] = fm_get_le32(from + HEAD + 4 * i);
    return FM_OK;
}

void fm_fs_meta_wire_node_put(uint8_t to[FM_FS_META_WIRE_NODE], const fm_fs_node *node)
{
    fm_put_le64(to, node->ino);
    fm_fs_meta_node_encode(node, to + 8);
}

fm_status fm_fs_meta_wire_node_get(const uint8_t from[FM_FS_META_WIRE_NODE], fm_fs_node *out_node)
{
    return fm_fs_meta_node_decode(
        fm_get_le64(from), (fm_fs_kv_bytes){.data = from + 8, .size = FM_FS_META_NODE_BYTES}, out_node);
}

void fm_fs_meta_answer_encode(const struct fm_fs_meta_answer *answer, uint8_t out_args[FM_FS_META_WIRE_REPLY])
{
    fm_put_le32(out_args, FM_FS_META_WIRE_VERSION);
    fm_put_le32(out_args + 4, 0);
    for (int i = 0; i < 4; i++)
        fm_put_le64(out_args + 8 + 8 * i, answer->numbers[i]);
    fm_fs_meta_wire_node_put(out_args + 40, &answer->node);
}

fm_status fm_fs_meta_answer_decode(const void *args, size_t bytes, struct fm_fs_meta_answer *out_answer)
{
    const uint8_t *from = args;
    if (bytes >= 4 && fm_get_le32(from) != FM_FS_META_WIRE_VERSION)
        return fm_base_error_set(FM_ERR_VERSION, "a reply of version %u; this client knows version %d",
                                 fm_get_le32(from), FM_FS_META_WIRE_VERSION);
    if (bytes != FM_FS_META_WIRE_REPLY)
        return fm_base_error_set(FM_ERR_FORMAT, "a reply of %zu bytes; expected %d", bytes,
                                 FM_FS_META_WIRE_REPLY);
    for (int i = 0; i < 4; i++)
        out_answer->numbers[i] = fm_get_le64(from + 8 + 8 * i);
    return fm_fs_meta_wire_node_get(from + 40, &out_answer->node);
}

_Static_assert(FM_FS_META_PAGE_MAX *(4 + FM_FS_META_NAME_MAX + FM_FS_META_WIRE_NODE) <=
                   FM_FS_META_WIRE_PAYLOAD,
               "every page fits");

size_t fm_fs_meta_page_encode(const fm_fs_meta_entry *entries, size_t count, uint8_t *to)
{
    uint8_t *at = to;
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(entries[i].name);
        fm_put_le32(at, (uint32_t)length);
        memcpy(at + 4, entries[i].name, length);
        fm_fs_meta_wire_node_put(at + 4 + length, &entries[i].node);
        at += 4 + length + FM_FS_META_WIRE_NODE;
    }
    return (size_t)(at - to);
}

fm_status fm_fs_meta_page_decode(const uint8_t *from, size_t bytes, fm_fs_meta_entry *entries, size_t max,
                                 size_t *out_count)
{
    size_t at = 0;
    size_t count = 0;
    while (at < bytes) {
        size_t length = bytes - at < 4 ? SIZE_MAX : fm_get_le32(from + at);
        if (count == max || length > FM_FS_META_NAME_MAX || bytes - at < 4 + length + FM_FS_META_WIRE_NODE ||
            memchr(from + at + 4, 0, length))
            return fm_base_error_set(FM_ERR_FORMAT, "a page of a directory that is malformed at byte %zu",
                                     at);
        memcpy(entries[count].name, from + at + 4, length);
        entries[count].name[length] = 0;
        FM_TRY(fm_fs_meta_wire_node_get(from + at + 4 + length, &entries[count].node));
        at += 4 + length + FM_FS_META_WIRE_NODE;
        count++;
    }
    *out_count = count;
    return FM_OK;
}
