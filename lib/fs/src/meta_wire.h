/**
 * @file meta_wire.h
 * What clients of the names and their service (fathom/fs_meta_service.h) say to each other, over lib/net. One shape serves
 * all methods; each uses the fields that it needs. Numbers are little-endian.
 *
 *     request's args             OFFSET SIZE
 *     version: 1                      0    4
 *     slot of the client              4    4
 *     the client                      8    8
 *     its slot's sequence            16    8
 *     whom the client claims to      24    4    uid
 *       ask for                      28    4    gid
 *     further groups, how many       32    2
 *     bytes of the first name        34    2    without its 0
 *     bytes of the second            36    2
 *     superuser: 1                   38    2
 *     numbers                        40   32    four of 8
 *     flags                          72    8    two of 4
 *                                    80         groups 4 each, the names, each with a 0 behind it
 *
 *     reply's args
 *     version: 1                      0    4
 *     0                               4    4
 *     numbers                         8   32    four of 8
 *     a node                         40  128    ino 8, then as meta.h has it
 *
 * Bulk (an attribute's value, inline bytes, a page of a directory) is the payload. A page's entries are: bytes of the name 4,
 * the name, ino 8, the node 120.
 *
 * A service refuses requests of a version that it does not know (FM_ERR_VERSION), and a client such replies: services are
 * brought up to date before clients, and know the version before theirs for as long as one release has both.
 */
#ifndef FATHOM_META_WIRE_H
#define FATHOM_META_WIRE_H

#include "meta.h"

enum {
    FM_FS_META_WIRE_VERSION = 1,
    FM_FS_META_WIRE_GROUPS = 256,
    FM_FS_META_WIRE_NAME = 4096,  // bytes of a name, path or target, its 0 included
    FM_FS_META_WIRE_ARGS = 12288, // the most that a request's args take
    FM_FS_META_WIRE_REPLY = 168,
    FM_FS_META_WIRE_NODE = 8 + FM_FS_META_NODE_BYTES,
    FM_FS_META_WIRE_PAYLOAD = FM_FS_META_XATTR_MAX, // the most, either way
    FM_FS_META_WIRE_TOKEN = 64                      // the most bytes of a token's text
};

// On the wire: never renumbered. What the numbers and flags of each are, meta_remote_calls.c and meta_serve.c say alike.
enum fm_fs_meta_method {
    FM_FS_META_HELLO = 1, // the token, before all else
    FM_FS_META_NODE,
    FM_FS_META_LOOKUP,
    FM_FS_META_RESOLVE,
    FM_FS_META_READLINK,
    FM_FS_META_LIST,
    FM_FS_META_CREATE,
    FM_FS_META_SYMLINK,
    FM_FS_META_LINK,
    FM_FS_META_UNLINK,
    FM_FS_META_RMDIR,
    FM_FS_META_REMOVE_ALL,
    FM_FS_META_RENAME,
    FM_FS_META_SETATTR,
    FM_FS_META_LAYOUT,
    FM_FS_META_XATTR_GET,
    FM_FS_META_XATTR_SET,
    FM_FS_META_XATTR_REMOVE,
    FM_FS_META_XATTR_LIST,
    FM_FS_META_INLINE_READ,
    FM_FS_META_INLINE_WRITE,
    FM_FS_META_SPILL,
    FM_FS_META_EXTEND,
    FM_FS_META_TRUNCATE,
    FM_FS_META_HOLD,
    FM_FS_META_RELEASE,
    FM_FS_META_LEASE,
    FM_FS_META_QUOTA_SET,
    FM_FS_META_QUOTA_GET,
    FM_FS_META_CHECK,
    FM_FS_META_LOCK, // these two: the lock as the payload, as meta.h has it, and the one in the way back
    FM_FS_META_LOCK_TEST,
    FM_FS_META_FENCE,
    FM_FS_META_METHODS // one behind the last
};

struct fm_fs_meta_request {
    uint32_t method;
    uint32_t slot;
    uint64_t client, sequence;
    uint32_t uid, gid, group_count;
    const uint32_t *groups;
    int super;
    uint64_t numbers[4];
    uint32_t flags[2];
    const char *name, *other; // NULL stands for ""; decoded: never NULL, point into the args
    const void *payload;
    size_t payload_bytes;
};

struct fm_fs_meta_answer {
    uint64_t numbers[4];
    fm_fs_node node;
    size_t payload_bytes; // of what lies in the payload's buffer
};

// FM_ERR_LIMIT: a name or the groups do not fit.
fm_status fm_fs_meta_request_encode(const struct fm_fs_meta_request *request, uint8_t *out_args,
                                    size_t *out_bytes);
// FM_ERR_FORMAT, FM_ERR_VERSION. The request points into `args` and `groups`; its method and payload are not set.
fm_status fm_fs_meta_request_decode(const void *args, size_t bytes, uint32_t groups[FM_FS_META_WIRE_GROUPS],
                                    struct fm_fs_meta_request *out_request);
void fm_fs_meta_answer_encode(const struct fm_fs_meta_answer *answer,
                              uint8_t out_args[FM_FS_META_WIRE_REPLY]);
fm_status fm_fs_meta_answer_decode(const void *args, size_t bytes, struct fm_fs_meta_answer *out_answer);

void fm_fs_meta_wire_node_put(uint8_t to[FM_FS_META_WIRE_NODE], const fm_fs_node *node);
fm_status fm_fs_meta_wire_node_get(const uint8_t from[FM_FS_META_WIRE_NODE], fm_fs_node *out_node);
// At most FM_FS_META_PAGE_MAX entries, which FM_FS_META_WIRE_PAYLOAD bytes hold whatever their names. Returns the bytes.
size_t fm_fs_meta_page_encode(const fm_fs_meta_entry *entries, size_t count, uint8_t *to);
fm_status fm_fs_meta_page_decode(const uint8_t *from, size_t bytes, fm_fs_meta_entry *entries, size_t max,
                                 size_t *out_count);

#endif
