/*
 * Users, and the tokens by which they prove themselves. In the store beside the names:
 *
 *     KEY              VALUE
 *     U uid(8)         a user: gid 4, groups 4, name 64 (0 behind it), each group 4
 *     T uid(8) hash    a token: when it ends 8 (nanoseconds since 1970; 0: never)
 *
 * A token's text is "fm1-UID-" and 40 hexadecimal digits of 20 random bytes. So much randomness needs no slow hash: nobody
 * can try them all. The store has SHA-256 of the text.
 */
#include "meta.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "fathom/fs_kvcache.h"
#include "fathom/fs_meta_service.h"
#include "fathom/net.h"
#include "meta_remote.h"

enum {
    SECRET_BYTES = 20,
    HASH_BYTES = 32,
    HEAD_BYTES = 8 + FM_FS_USER_NAME_MAX + 1,
    USER_BYTES = HEAD_BYTES + 4 * FM_FS_USER_GROUPS_MAX,
    PAGE = 64
};

/* Records */

static size_t user_encode(const fm_fs_user *user, uint8_t to[USER_BYTES])
{
    memset(to, 0, USER_BYTES);
    fm_put_le32(to, user->gid);
    fm_put_le32(to + 4, user->group_count);
    memcpy(to + 8, user->name, strlen(user->name));
    for (uint32_t i = 0; i < user->group_count; i++)
        fm_put_le32(to + HEAD_BYTES + 4 * i, user->groups[i]);
    return HEAD_BYTES + 4 * (size_t)user->group_count;
}

static fm_status user_decode(uint32_t uid, fm_fs_kv_bytes value, fm_fs_user *out_user)
{
    const uint8_t *from = value.data;
    uint32_t count = value.size >= HEAD_BYTES ? fm_get_le32(from + 4) : 0;
    if (value.size < HEAD_BYTES || count > FM_FS_USER_GROUPS_MAX || value.size != HEAD_BYTES + 4 * count ||
        from[HEAD_BYTES - 1])
        return fm_base_error_set(FM_ERR_FORMAT, "the record of user %u is malformed", uid);
    *out_user = (fm_fs_user){.uid = uid, .gid = fm_get_le32(from), .group_count = count};
    memcpy(out_user->name, from + 8, sizeof out_user->name);
    for (uint32_t i = 0; i < count; i++)
        out_user->groups[i] = fm_get_le32(from + HEAD_BYTES + 4 * i);
    return FM_OK;
}

static fm_status user_load(fm_fs_kv_tx *tx, uint32_t uid, fm_fs_user *out_user)
{
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key('U', uid);
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_SHARE, &value));
    if (!value.data)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "there is no user %u", uid);
    return user_decode(uid, value, out_user);
}

static fm_status check_store(const fm_fs_meta *meta)
{
    return meta->remote ? fm_fs_meta_remote_refuse("users and tokens") : FM_OK;
}

/* Users */

// Calls `visit` for the users with a uid from `from` on; it returns 1 to end.
static fm_status each_user(fm_fs_kv_tx *tx, uint64_t from,
                           int (*visit)(void *context, const fm_fs_user *user), void *context)
{
    struct fm_fs_meta_key lo = fm_fs_meta_key('U', from);
    struct fm_fs_meta_key hi = fm_fs_meta_key('U', UINT64_MAX);
    fm_fs_kv_item items[PAGE];
    size_t count = PAGE;
    while (count == PAGE) {
        FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), PAGE, 0, items, &count));
        for (size_t i = 0; i < count; i++) {
            fm_fs_user user;
            uint64_t uid = fm_fs_meta_number_at((const uint8_t *)items[i].key.data + 1);
            FM_TRY(user_decode((uint32_t)uid, items[i].value, &user));
            lo = fm_fs_meta_key('U', uid + 1);
            if (visit(context, &user))
                return FM_OK;
        }
    }
    return FM_OK;
}

struct search {
    const char *name;
    fm_fs_user *users;
    size_t max, count;
};

static int take_user(void *context, const fm_fs_user *user)
{
    struct search *search = context;
    if (search->name && strcmp(search->name, user->name) != 0)
        return 0;
    search->users[search->count++] = *user;
    return search->count == search->max;
}

static fm_status list_users(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct search *search = op->more;
    search->count = 0;
    return each_user(tx, op->ino, take_user, search);
}

fm_status fm_fs_meta_user_list(fm_fs_meta *meta, uint64_t from, fm_fs_user *users, size_t max,
                               size_t *out_count)
{
    struct search search = {.users = users, .max = max};
    struct fm_fs_meta_op op = {.meta = meta, .body = list_users, .ino = from, .more = &search};
    FM_TRY(check_store(meta));
    if (!users || max < 1 || max > PAGE)
        return fm_base_error_set(FM_ERR_ARG, "a page of %zu users; expected 1 to %d", max, PAGE);
    FM_TRY(fm_fs_meta_read(&op));
    *out_count = search.count;
    return FM_OK;
}

fm_status fm_fs_meta_user_find(fm_fs_meta *meta, const char *name, fm_fs_user *out_user)
{
    fm_fs_user user;
    struct search search = {.name = name, .users = &user, .max = 1};
    struct fm_fs_meta_op op = {.meta = meta, .body = list_users, .more = &search};
    FM_TRY(check_store(meta));
    FM_TRY(fm_fs_meta_read(&op));
    if (!search.count)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "there is no user %s", name);
    *out_user = user;
    return FM_OK;
}

static fm_status set_user(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const fm_fs_user *user = op->more;
    fm_fs_user other;
    uint8_t record[USER_BYTES];
    struct search search = {.name = user->name, .users = &other, .max = 1};
    struct fm_fs_meta_key key = fm_fs_meta_key('U', user->uid);
    FM_TRY(each_user(tx, 0, take_user, &search));
    if (search.count && other.uid != user->uid)
        return fm_base_error_set(FM_ERR_EXISTS, "%s is user %u already", user->name, other.uid);
    return fm_fs_meta_put(tx, &key, record, user_encode(user, record));
}

fm_status fm_fs_meta_user_set(fm_fs_meta *meta, const fm_fs_user *user)
{
    fm_fs_user copy = *user;
    struct fm_fs_meta_op op = {.meta = meta, .body = set_user, .more = &copy};
    FM_TRY(check_store(meta));
    size_t length = strnlen(user->name, sizeof user->name);
    size_t fine = 0;
    while (fine < length && (isalnum((unsigned char)user->name[fine]) || strchr("._-", user->name[fine])))
        fine++;
    if (!length || length > FM_FS_USER_NAME_MAX || fine != length ||
        user->group_count > FM_FS_USER_GROUPS_MAX)
        return fm_base_error_set(FM_ERR_ARG,
                                 "user \"%.64s\" in %u groups; expected a name of letters, digits, '.', '_', "
                                 "'-', at most %d of them, and at most %d groups",
                                 user->name, user->group_count, FM_FS_USER_NAME_MAX, FM_FS_USER_GROUPS_MAX);
    return fm_fs_meta_run(&op);
}

// A transaction's worth; `made` says that there are more.
static fm_status drop_tokens(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct fm_fs_meta_key lo;
    struct fm_fs_meta_key hi;
    fm_fs_kv_item items[PAGE];
    size_t count;
    fm_fs_meta_span('T', op->ino, &lo, &hi);
    FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), PAGE, 0, items, &count));
    for (size_t i = 0; i < count; i++)
        FM_TRY(fm_fs_kv_delete(tx, items[i].key));
    op->made = count == PAGE;
    return FM_OK;
}

fm_status fm_fs_meta_tokens_remove(fm_fs_meta *meta, uint32_t uid)
{
    struct fm_fs_meta_op op = {.meta = meta, .body = drop_tokens, .ino = uid};
    FM_TRY(check_store(meta));
    do
        FM_TRY(fm_fs_meta_run(&op));
    while (op.made);
    return FM_OK;
}

static fm_status drop_user(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    fm_fs_user user;
    struct fm_fs_meta_key key = fm_fs_meta_key('U', op->ino);
    FM_TRY(user_load(tx, (uint32_t)op->ino, &user));
    return fm_fs_meta_delete(tx, &key);
}

fm_status fm_fs_meta_user_remove(fm_fs_meta *meta, uint32_t uid)
{
    struct fm_fs_meta_op op = {.meta = meta, .body = drop_user, .ino = uid, .once = 1};
    FM_TRY(check_store(meta));
    FM_TRY(fm_fs_meta_run(&op)); // a token counts only beside its user
    return fm_fs_meta_tokens_remove(meta, uid);
}

/* Tokens */

static struct fm_fs_meta_key token_key(uint32_t uid, const char *token)
{
    fm_fs_kvcache_key hash;
    struct fm_fs_meta_key key = fm_fs_meta_key('T', uid);
    fm_fs_kvcache_key_next(NULL, token, strlen(token), &hash);
    memcpy(key.bytes + key.size, hash.bytes, HASH_BYTES);
    key.size += HASH_BYTES;
    return key;
}

static void hexadecimal(const uint8_t *bytes, size_t count, char *to)
{
    for (size_t i = 0; i < count; i++)
        snprintf(to + 2 * i, 3, "%02x", bytes[i]);
}

struct token {
    const char *text;
    uint64_t ends;
    fm_fs_user user;
};

static fm_status put_token(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct token *token = op->more;
    uint8_t ends[8];
    struct fm_fs_meta_key key = token_key((uint32_t)op->ino, token->text);
    FM_TRY(user_load(tx, (uint32_t)op->ino, &token->user));
    fm_put_le64(ends, token->ends ? (uint64_t)op->now_ns + token->ends : 0);
    return fm_fs_meta_put(tx, &key, ends, sizeof ends);
}

fm_status fm_fs_meta_token_new(fm_fs_meta *meta, uint32_t uid, uint64_t valid_ns,
                               char out_token[FM_FS_TOKEN_BYTES])
{
    uint8_t secret[SECRET_BYTES];
    char text[FM_FS_TOKEN_BYTES];
    struct token token = {.text = text, .ends = valid_ns};
    struct fm_fs_meta_op op = {.meta = meta, .body = put_token, .ino = uid, .more = &token};
    FM_TRY(check_store(meta));
    if (getrandom(secret, sizeof secret, 0) != (ssize_t)sizeof secret)
        return fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    int length = snprintf(text, sizeof text, "fm1-%u-", uid);
    hexadecimal(secret, sizeof secret, text + length);
    FM_TRY(fm_fs_meta_run(&op));
    memcpy(out_token, text, sizeof text);
    return FM_OK;
}

static fm_status look_token(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct token *token = op->more;
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = token_key((uint32_t)op->ino, token->text);
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_NONE, &value));
    uint64_t ends = value.size == 8 ? fm_get_le64(value.data) : 0;
    if (value.size != 8 || (ends && ends <= (uint64_t)op->now_ns))
        return fm_base_error_set(FM_ERR_NET_AUTH,
                                 value.size == 8 ? "the token has ended" : "nobody has this token");
    fm_status status = user_load(tx, (uint32_t)op->ino, &token->user);
    return status == FM_ERR_NOT_FOUND ? fm_base_error_set(FM_ERR_NET_AUTH, "the token's user was removed")
                                      : status;
}

fm_status fm_fs_meta_token_user(fm_fs_meta *meta, const char *token, fm_fs_user *out_user)
{
    struct token wanted = {.text = token};
    unsigned long uid;
    char *end = NULL;
    FM_TRY(check_store(meta));
    if (strncmp(token, "fm1-", 4) != 0 || !isdigit((unsigned char)token[4]) ||
        (uid = strtoul(token + 4, &end, 10)) > UINT32_MAX || *end != '-')
        return fm_base_error_set(FM_ERR_NET_AUTH, "this is no token; expected \"fm1-UID-...\"");
    struct fm_fs_meta_op op = {.meta = meta, .body = look_token, .ino = uid, .more = &wanted};
    FM_TRY(fm_fs_meta_read(&op));
    *out_user = wanted.user;
    return FM_OK;
}

/* Keys that follow from the cluster's */

// SHA-256 over the secret, which has a fixed length, and a label: nobody gets from one to another, or back.
static fm_fs_kvcache_key derive(const fm_net_key *cluster, const char *label)
{
    fm_fs_kvcache_key secret;
    fm_fs_kvcache_key derived;
    memcpy(secret.bytes, cluster->secret, sizeof secret.bytes);
    fm_fs_kvcache_key_next(&secret, label, strlen(label), &derived);
    return derived;
}

void fm_fs_meta_key_derive(const fm_net_key *cluster, fm_net_key *out_names)
{
    fm_fs_kvcache_key secret = derive(cluster, "fathom names: key");
    fm_fs_kvcache_key id = derive(cluster, "fathom names: id");
    memcpy(out_names->secret, secret.bytes, sizeof out_names->secret);
    memcpy(out_names->cluster_id, id.bytes, sizeof out_names->cluster_id);
}

void fm_fs_meta_admin_token(const fm_net_key *cluster, char out_token[FM_FS_TOKEN_BYTES])
{
    fm_fs_kvcache_key secret = derive(cluster, "fathom names: administrator");
    memcpy(out_token, "admin-", 7);
    hexadecimal(secret.bytes, SECRET_BYTES, out_token + 6);
}
