// What a service does for a request. The numbers and flags of each method are as meta_remote_calls.c sets them.
#include "meta_serve.h"

#include <stdio.h>

#include "fathom/clock.h"

struct serving {
    fm_fs_meta *meta;
    const struct fm_fs_meta_identity *identity;
    const fm_fs_who *who; // NULL: the superuser
    const struct fm_fs_meta_request *request;
    struct fm_fs_meta_answer *answer;
    uint8_t *payload;
};

/* Who */

// Takes as long for every wrong token, so that the time tells nothing of the right one.
static int equal(const char *a, const char *b)
{
    unsigned char differs = 0;
    for (size_t i = 0; i < FM_FS_TOKEN_BYTES; i++)
        differs |= (unsigned char)a[i] ^ (unsigned char)b[i];
    return !differs;
}

fm_status fm_fs_meta_identify(fm_fs_meta *meta, const char *admin_token, const char *token,
                              struct fm_fs_meta_identity *out_identity)
{
    struct fm_fs_meta_identity identity = {.known = 1, .checked_ns = fm_base_clock_ns()};
    char admin[FM_FS_TOKEN_BYTES] = "";
    if (strlen(token) >= sizeof identity.token)
        return fm_base_error_set(FM_ERR_NET_AUTH, "a token of %zu bytes; expected at most %zu", strlen(token),
                                 sizeof identity.token - 1);
    snprintf(identity.token, sizeof identity.token, "%s", token);
    snprintf(admin, sizeof admin, "%s", admin_token);
    if (equal(identity.token, admin)) {
        identity.trusted = 1;
        snprintf(identity.user.name, sizeof identity.user.name, "administrator");
    } else {
        FM_TRY(fm_fs_meta_token_user(meta, token, &identity.user));
        identity.trusted = identity.user.uid == 0;
    }
    *out_identity = identity;
    return FM_OK;
}

// The user's uid and groups are the token's. A request for the superuser, which a client's own bookkeeping makes, is the user's.
static fm_status find_who(const struct fm_fs_meta_identity *identity,
                          const struct fm_fs_meta_request *request, fm_fs_who *who, const fm_fs_who **out_who)
{
    const fm_fs_user *user = &identity->user;
    if (identity->trusted) {
        *who = (fm_fs_who){.uid = request->uid,
                           .gid = request->gid,
                           .groups = request->groups,
                           .group_count = request->group_count};
        *out_who = request->super ? NULL : who;
        return FM_OK;
    }
    if (!request->super && request->uid != user->uid)
        return fm_base_error_set(FM_ERR_PERM,
                                 "the token is %s's, user %u; the request is in the name of user %u",
                                 user->name, user->uid, request->uid);
    *who = (fm_fs_who){
        .uid = user->uid, .gid = user->gid, .groups = user->groups, .group_count = user->group_count};
    *out_who = who;
    return FM_OK;
}

// A mount checks when a file is opened, as POSIX has it. Others are asked each time; owners may always, as over NFS, because
// who makes a file may write it whatever its mode.
static fm_status may_reach(const struct serving *serving, unsigned want)
{
    fm_fs_node node;
    if (serving->identity->trusted)
        return FM_OK;
    FM_TRY(fm_fs_meta_node(serving->meta, serving->request->numbers[0], &node));
    return fm_fs_meta_is_owner(serving->who, &node) ? FM_OK : fm_fs_meta_access(serving->who, &node, want);
}

/* Methods that are more than a call */

static fm_status serve_list(const struct serving *serving)
{
    const struct fm_fs_meta_request *request = serving->request;
    size_t count;
    if (request->numbers[1] > FM_FS_META_PAGE_MAX)
        return fm_base_error_set(FM_ERR_ARG, "a page of %llu entries",
                                 (unsigned long long)request->numbers[1]);
    fm_fs_meta_entry *entries = fm_base_mem_zalloc(FM_FS_META_PAGE_MAX, sizeof *entries);
    if (!entries)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a page");
    fm_status status = fm_fs_meta_list(serving->meta, serving->who, request->numbers[0],
                                       request->flags[0] ? request->name : NULL, entries,
                                       (size_t)request->numbers[1], &count);
    if (status == FM_OK)
        serving->answer->payload_bytes = fm_fs_meta_page_encode(entries, count, serving->payload);
    fm_base_mem_free(entries);
    return status;
}

static fm_status serve_setattr(const struct serving *serving)
{
    const struct fm_fs_meta_request *request = serving->request;
    fm_fs_node values;
    if (request->payload_bytes != FM_FS_META_WIRE_NODE)
        return fm_base_error_set(FM_ERR_FORMAT, "attributes of %zu bytes", request->payload_bytes);
    FM_TRY(fm_fs_meta_wire_node_get(request->payload, &values));
    return fm_fs_meta_setattr(serving->meta, serving->who, request->numbers[0], request->flags[0], &values,
                              &serving->answer->node);
}

static fm_status serve_layout(const struct serving *serving)
{
    const uint64_t *numbers = serving->request->numbers;
    if ((numbers[1] | numbers[2] | numbers[3]) > UINT32_MAX)
        return fm_base_error_set(FM_ERR_ARG, "a layout with numbers above %u", UINT32_MAX);
    const fm_fs_layout layout = {(uint32_t)numbers[1], (uint32_t)numbers[2], (uint32_t)numbers[3],
                                 serving->request->flags[0]};
    return fm_fs_meta_layout_set(serving->meta, serving->who, numbers[0], &layout);
}

static fm_status serve_readlink(const struct serving *serving)
{
    char target[FM_FS_META_LINK_MAX + 1];
    FM_TRY(fm_fs_meta_readlink(serving->meta, serving->request->numbers[0], target));
    serving->answer->payload_bytes = strlen(target);
    memcpy(serving->payload, target, strlen(target));
    return FM_OK;
}

static fm_status serve_inline_read(const struct serving *serving)
{
    const uint64_t *numbers = serving->request->numbers;
    if (numbers[2] > FM_FS_META_INLINE_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%llu inline bytes", (unsigned long long)numbers[2]);
    FM_TRY(may_reach(serving, 4));
    return fm_fs_meta_inline_read(serving->meta, numbers[0], numbers[1], serving->payload, (size_t)numbers[2],
                                  &serving->answer->payload_bytes, &serving->answer->node);
}

struct findings {
    uint8_t *to;
    size_t used;
};

static void keep_finding(void *context, const char *text)
{
    struct findings *findings = context;
    size_t length = strlen(text) + 1;
    if (length > FM_FS_META_WIRE_PAYLOAD - findings->used)
        return; // counted all the same
    memcpy(findings->to + findings->used, text, length);
    findings->used += length;
}

static fm_status serve_check(const struct serving *serving)
{
    fm_fs_meta_census census;
    struct findings findings = {serving->payload, 64};
    if (!serving->identity->trusted)
        return fm_base_error_set(FM_ERR_PERM, "only the administrator checks the names");
    FM_TRY(fm_fs_meta_check(serving->meta, keep_finding, &findings, &census));
    const uint64_t numbers[8] = {census.files,   census.directories, census.links,       census.others,
                                 census.entries, census.bytes,       census.collectable, census.findings};
    for (int i = 0; i < 8; i++)
        fm_put_le64(serving->payload + 8 * i, numbers[i]);
    serving->answer->payload_bytes = findings.used;
    return FM_OK;
}

static fm_status serve_quota_get(const struct serving *serving)
{
    fm_fs_quota quota;
    FM_TRY(fm_fs_meta_quota_get(serving->meta, serving->request->numbers[0], &quota));
    serving->answer->numbers[0] = quota.bytes_max;
    serving->answer->numbers[1] = quota.inodes_max;
    serving->answer->numbers[2] = quota.bytes;
    serving->answer->numbers[3] = quota.inodes;
    return FM_OK;
}

/* All methods, by what they are about */

int fm_fs_meta_answers_bulk(uint32_t method)
{
    return method == FM_FS_META_LIST || method == FM_FS_META_READLINK || method == FM_FS_META_XATTR_GET ||
           method == FM_FS_META_XATTR_LIST || method == FM_FS_META_INLINE_READ ||
           method == FM_FS_META_CHECK || method == FM_FS_META_LOCK_TEST;
}

static fm_status serve_names(const struct serving *serving)
{
    fm_fs_meta *meta = serving->meta;
    const fm_fs_who *who = serving->who;
    const struct fm_fs_meta_request *request = serving->request;
    const uint64_t *numbers = request->numbers;
    fm_fs_node *node = &serving->answer->node;
    int made = 0;
    fm_status status;
    switch (request->method) {
    case FM_FS_META_NODE:
        return fm_fs_meta_node(meta, numbers[0], node);
    case FM_FS_META_LOOKUP:
        return fm_fs_meta_lookup(meta, who, numbers[0], request->name, node);
    case FM_FS_META_RESOLVE:
        return fm_fs_meta_resolve(meta, who, numbers[0], request->name, request->flags[0] != 0, node);
    case FM_FS_META_READLINK:
        return serve_readlink(serving);
    case FM_FS_META_LIST:
        return serve_list(serving);
    case FM_FS_META_CREATE:
        status = fm_fs_meta_create(meta, who, numbers[0], request->name, request->flags[0], numbers[1],
                                   request->flags[1] != 0, node, &made);
        serving->answer->numbers[0] = made ? 1 : 0;
        return status;
    case FM_FS_META_SYMLINK:
        return fm_fs_meta_symlink(meta, who, numbers[0], request->name, request->other, node);
    case FM_FS_META_LINK:
        return fm_fs_meta_link(meta, who, numbers[0], numbers[1], request->name, node);
    case FM_FS_META_UNLINK:
        return fm_fs_meta_unlink(meta, who, numbers[0], request->name);
    case FM_FS_META_RMDIR:
        return fm_fs_meta_rmdir(meta, who, numbers[0], request->name);
    case FM_FS_META_REMOVE_ALL:
        return fm_fs_meta_remove_all(meta, who, numbers[0], request->name);
    default: // RENAME
        return fm_fs_meta_rename(meta, who, numbers[0], request->name, numbers[1], request->other,
                                 request->flags[0]);
    }
}

static fm_status serve_attributes(const struct serving *serving)
{
    fm_fs_meta *meta = serving->meta;
    const fm_fs_who *who = serving->who;
    const struct fm_fs_meta_request *request = serving->request;
    const uint64_t *numbers = request->numbers;
    size_t *bytes = &serving->answer->payload_bytes;
    switch (request->method) {
    case FM_FS_META_SETATTR:
        return serve_setattr(serving);
    case FM_FS_META_LAYOUT:
        return serve_layout(serving);
    case FM_FS_META_XATTR_GET:
        return fm_fs_meta_xattr_get(meta, who, numbers[0], request->name, serving->payload,
                                    FM_FS_META_WIRE_PAYLOAD, bytes);
    case FM_FS_META_XATTR_SET:
        return fm_fs_meta_xattr_set(meta, who, numbers[0], request->name, request->payload,
                                    request->payload_bytes, request->flags[0]);
    case FM_FS_META_XATTR_REMOVE:
        return fm_fs_meta_xattr_remove(meta, who, numbers[0], request->name);
    case FM_FS_META_XATTR_LIST:
        return fm_fs_meta_xattr_list(meta, numbers[0], (char *)serving->payload, FM_FS_META_WIRE_PAYLOAD,
                                     bytes);
    case FM_FS_META_QUOTA_SET:
        return fm_fs_meta_quota_set(meta, who, numbers[0],
                                    &(fm_fs_quota){.bytes_max = numbers[1], .inodes_max = numbers[2]});
    case FM_FS_META_QUOTA_GET:
        return serve_quota_get(serving);
    default:
        return serve_check(serving);
    }
}

static fm_status serve_contents(const struct serving *serving)
{
    fm_fs_meta *meta = serving->meta;
    const struct fm_fs_meta_request *request = serving->request;
    const uint64_t *numbers = request->numbers;
    fm_fs_node *node = &serving->answer->node;
    switch (request->method) {
    case FM_FS_META_INLINE_READ:
        return serve_inline_read(serving);
    case FM_FS_META_INLINE_WRITE:
        FM_TRY(may_reach(serving, 2));
        return fm_fs_meta_inline_write(meta, numbers[0], numbers[1], request->payload, request->payload_bytes,
                                       node);
    case FM_FS_META_SPILL:
        FM_TRY(may_reach(serving, 2));
        return fm_fs_meta_spill(meta, numbers[0], numbers[1], node);
    case FM_FS_META_EXTEND:
        FM_TRY(may_reach(serving, 2));
        return fm_fs_meta_extend(meta, numbers[0], numbers[1], numbers[2], numbers[3], node);
    case FM_FS_META_FENCE:
        FM_TRY(may_reach(serving, 2));
        return fm_fs_meta_fence(meta, numbers[0], numbers[1], node);
    case FM_FS_META_TRUNCATE:
        FM_TRY(may_reach(serving, 2));
        return fm_fs_meta_truncate(meta, serving->who, numbers[0], numbers[1], numbers[2], numbers[3], node);
    case FM_FS_META_HOLD:
        return fm_fs_meta_hold(meta, numbers[0], numbers[1], node);
    case FM_FS_META_RELEASE:
        return fm_fs_meta_release(meta, numbers[0], numbers[1]);
    default: // LEASE
        return fm_fs_meta_lease_other(meta, numbers[0], numbers[1]);
    }
}

static fm_status serve_lock(const struct serving *serving)
{
    const struct fm_fs_meta_request *request = serving->request;
    struct fm_fs_meta_answer *answer = serving->answer;
    fm_fs_lock lock;
    fm_fs_lock conflict;
    int granted;
    if (request->payload_bytes != FM_FS_META_LOCK_BYTES)
        return fm_base_error_set(FM_ERR_FORMAT, "a lock of %zu bytes", request->payload_bytes);
    fm_fs_meta_lock_decode(request->payload, &lock);
    FM_TRY(may_reach(serving, 4));
    if (request->method == FM_FS_META_LOCK) {
        FM_TRY(fm_fs_meta_lock(serving->meta, request->numbers[0], &lock, &granted, &answer->node));
        answer->numbers[0] = granted ? 1 : 0;
        return FM_OK;
    }
    FM_TRY(fm_fs_meta_lock_test(serving->meta, request->numbers[0], &lock, &conflict));
    fm_fs_meta_lock_encode(&conflict, serving->payload);
    answer->payload_bytes = FM_FS_META_LOCK_BYTES;
    return FM_OK;
}

static fm_status serve(const struct serving *serving)
{
    uint32_t method = serving->request->method;
    if (method >= FM_FS_META_NODE && method <= FM_FS_META_RENAME)
        return serve_names(serving);
    if ((method >= FM_FS_META_SETATTR && method <= FM_FS_META_XATTR_LIST) || method == FM_FS_META_QUOTA_SET ||
        method == FM_FS_META_QUOTA_GET || method == FM_FS_META_CHECK)
        return serve_attributes(serving);
    if ((method >= FM_FS_META_INLINE_READ && method <= FM_FS_META_LEASE) || method == FM_FS_META_FENCE)
        return serve_contents(serving);
    if (method == FM_FS_META_LOCK || method == FM_FS_META_LOCK_TEST)
        return serve_lock(serving);
    return fm_base_error_set(FM_ERR_UNSUPPORTED, "method %u is not known to this service", method);
}

fm_status fm_fs_meta_serve_request(fm_fs_meta *meta, const struct fm_fs_meta_identity *identity,
                                   const struct fm_fs_meta_request *request,
                                   struct fm_fs_meta_answer *out_answer, uint8_t *payload)
{
    fm_fs_who who;
    struct serving serving = {
        .meta = meta, .identity = identity, .request = request, .answer = out_answer, .payload = payload};
    const int removes = request->method == FM_FS_META_UNLINK || request->method == FM_FS_META_REMOVE_ALL ||
                        request->method == FM_FS_META_RENAME;
    const fm_fs_who slot = {.client = request->client,
                            .slot = request->slot,
                            .sequence = request->sequence,
                            .session = removes ? request->numbers[3] : 0};
    *out_answer = (struct fm_fs_meta_answer){0};
    FM_TRY(find_who(identity, request, &who, &serving.who));
    fm_fs_meta_serve_for(&slot);
    fm_status status = serve(&serving);
    fm_fs_meta_serve_for(NULL);
    return status;
}
