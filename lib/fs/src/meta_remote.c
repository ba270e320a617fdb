// The way to the services of the names: connections, each used by one thread at a time, and what is done when one fails.
#include "meta_remote.h"

#include <stdio.h>
#include <sys/random.h>

#include "fathom/clock.h"
#include "fathom/fs_meta_service.h"
#include "fathom/net.h"

enum {
    LANES_MAX = 64,
    // Between tries when every service was asked: a service that restarts listens again within some of these.
    PAUSE_FIRST_MS = 10,
    PAUSE_LAST_MS = 500
};

static const int64_t ms = 1000000;

// A connection, and a slot: one request at a time.
struct lane {
    struct fm_fs_meta_remote *remote;
    struct lane *next; // of those that nobody uses
    fm_net_loop *loop;
    fm_net_conn *conn;
    uint32_t slot, server;
    uint64_t sequence;
    int greeted; // the service knows the token
    int done;
    fm_net_reply reply; // as it came; args in `args`
    uint8_t args[FM_FS_META_WIRE_REPLY];
};

struct fm_fs_meta_remote {
    char addresses[FM_FS_META_SERVERS_MAX][FM_NET_ADDRESS_BYTES];
    uint32_t servers;
    fm_net_key key;
    fm_net_tls *tls;
    char token[FM_FS_TOKEN_BYTES];
    int64_t timeout_ns, try_ns;
    uint64_t client;
    fm_fs_user user; // of the token
    int trusted;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    struct lane *free;
    uint32_t lanes, lanes_max;
};

/* Lanes */

static fm_status lane_new(struct fm_fs_meta_remote *remote, struct lane **out_lane)
{
    struct lane *lane = fm_base_mem_zalloc(1, sizeof *lane);
    if (!lane)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a connection to the names");
    lane->remote = remote;
    lane->slot = remote->lanes;
    // Spread over the services, and over clients that have the same list.
    lane->server = (uint32_t)((remote->client + lane->slot) % remote->servers);
    *out_lane = lane;
    return FM_OK;
}

static fm_status take(struct fm_fs_meta_remote *remote, struct lane **out_lane)
{
    fm_status status = FM_OK;
    pthread_mutex_lock(&remote->lock);
    while (!remote->free && remote->lanes == remote->lanes_max)
        pthread_cond_wait(&remote->idle, &remote->lock);
    if (remote->free) {
        *out_lane = remote->free;
        remote->free = remote->free->next;
    } else {
        status = lane_new(remote, out_lane);
        remote->lanes += status == FM_OK;
    }
    pthread_mutex_unlock(&remote->lock);
    return status;
}

static void leave(struct lane *lane)
{
    struct fm_fs_meta_remote *remote = lane->remote;
    pthread_mutex_lock(&remote->lock);
    lane->next = remote->free;
    remote->free = lane;
    pthread_cond_signal(&remote->idle);
    pthread_mutex_unlock(&remote->lock);
}

void fm_fs_meta_remote_free(struct fm_fs_meta_remote *remote)
{
    char message[1024];
    if (!remote)
        return;
    // Who frees after a failure wants to know of that one, not of what the end of the connections says.
    snprintf(message, sizeof message, "%s", fm_error_message());
    while (remote->free) {
        struct lane *lane = remote->free;
        remote->free = lane->next;
        fm_net_loop_free(lane->loop);
        fm_base_mem_free(lane);
    }
    fm_net_key_clear(&remote->key);
    fm_net_tls_free(remote->tls);
    memset(remote->token, 0, sizeof remote->token);
    pthread_cond_destroy(&remote->idle);
    pthread_mutex_destroy(&remote->lock);
    fm_base_mem_free(remote);
    fm_base_error_set(FM_ERR_CANCELLED, "%s", message);
}

/* One call */

static void on_down(void *context, fm_net_conn *conn, fm_status status)
{
    struct lane *lane = context;
    (void)status;
    if (lane->conn != conn)
        return; // one that was given up
    lane->conn = NULL;
    lane->greeted = 0;
}

static void on_done(void *context, const fm_net_reply *reply)
{
    struct lane *lane = context;
    lane->done = 1;
    lane->reply = *reply;
    lane->reply.args = lane->args;
    // A longer one is no reply that anybody here understands; its size says so.
    if (reply->args_bytes && reply->args_bytes <= sizeof lane->args)
        memcpy(lane->args, reply->args, reply->args_bytes);
}

static fm_status connect_lane(struct lane *lane)
{
    const fm_net_connect_options options = {
        .size = sizeof options,
        .down = on_down,
        .context = lane,
        .security = {FM_NET_KEYED, &lane->remote->key, lane->remote->tls}};
    lane->greeted = 0;
    if (!lane->loop)
        FM_TRY(fm_net_loop_new(NULL, &lane->loop));
    return fm_net_loop_connect(lane->loop, lane->remote->addresses[lane->server], &options, &lane->conn);
}

// Asks the service that the lane is connected to. `*out_fate` says what a failure means.
static fm_status call(struct lane *lane, const struct fm_fs_meta_request *request, int64_t timeout_ns,
                      void *buffer, size_t capacity, fm_net_fate *out_fate)
{
    uint8_t args[FM_FS_META_WIRE_ARGS];
    struct iovec piece = {.iov_len = request->payload_bytes};
    fm_net_call asked = {.method = request->method,
                         .body = {.args = args, .payload = &piece, .payload_count = piece.iov_len ? 1 : 0},
                         .reply_buffer = buffer,
                         .reply_bytes = capacity,
                         .timeout_ns = timeout_ns,
                         .done = on_done,
                         .context = lane};
    *out_fate = FM_NET_UNSENT;
    // The network only reads it; a struct iovec cannot say so.
    memcpy(&piece.iov_base, &request->payload, sizeof piece.iov_base);
    FM_TRY(fm_fs_meta_request_encode(request, args, &asked.body.args_bytes));
    lane->done = 0;
    FM_TRY(fm_net_conn_call(lane->conn, &asked));
    fm_status status = FM_OK;
    while (!lane->done && status == FM_OK)
        status = fm_net_loop_progress(lane->loop, timeout_ns);
    if (status < 0) { // nothing works on it any more; what was asked comes to its end here
        fm_net_loop_free(lane->loop);
        lane->loop = NULL;
        lane->conn = NULL;
        *out_fate = FM_NET_UNKNOWN;
        return status;
    }
    *out_fate = lane->reply.fate;
    return lane->reply.status;
}

// The answer to a token: whether it is trusted, uid, gid, and the groups.
static fm_status learn_who(const struct lane *lane, const uint8_t *groups)
{
    struct fm_fs_meta_remote *remote = lane->remote;
    struct fm_fs_meta_answer answer;
    fm_fs_user user = {.group_count = (uint32_t)(lane->reply.payload_bytes / 4)};
    FM_TRY(fm_fs_meta_answer_decode(lane->reply.args, lane->reply.args_bytes, &answer));
    user.uid = (uint32_t)answer.numbers[1];
    user.gid = (uint32_t)answer.numbers[2];
    for (uint32_t i = 0; i < user.group_count; i++)
        user.groups[i] = fm_get_le32(groups + 4 * i);
    pthread_mutex_lock(&remote->lock);
    remote->user = user;
    remote->trusted = answer.numbers[0] == 1;
    pthread_mutex_unlock(&remote->lock);
    return FM_OK;
}

static fm_status try_once(struct lane *lane, const struct fm_fs_meta_request *request, int64_t timeout_ns,
                          void *buffer, size_t capacity, fm_net_fate *out_fate)
{
    *out_fate = FM_NET_UNSENT;
    if (!lane->conn)
        FM_TRY(connect_lane(lane));
    if (!lane->greeted) {
        const struct fm_fs_meta_request hello = {.method = FM_FS_META_HELLO, .name = lane->remote->token};
        uint8_t groups[4 * FM_FS_USER_GROUPS_MAX];
        fm_net_fate fate;
        fm_status status = call(lane, &hello, timeout_ns, groups, sizeof groups, &fate);
        if (status == FM_OK)
            status = learn_who(lane, groups);
        // That the service refuses the token is its answer to the request, too.
        *out_fate = fate == FM_NET_ANSWERED ? FM_NET_ANSWERED : FM_NET_UNSENT;
        FM_TRY(status);
        lane->greeted = 1;
    }
    return call(lane, request, timeout_ns, buffer, capacity, out_fate);
}

static int changes_something(uint32_t method)
{
    switch (method) {
    case FM_FS_META_NODE:
    case FM_FS_META_LOOKUP:
    case FM_FS_META_RESOLVE:
    case FM_FS_META_READLINK:
    case FM_FS_META_LIST:
    case FM_FS_META_XATTR_GET:
    case FM_FS_META_XATTR_LIST:
    case FM_FS_META_INLINE_READ:
    case FM_FS_META_QUOTA_GET:
    case FM_FS_META_CHECK:
        return 0;
    default:
        return 1;
    }
}

// Whether another try, elsewhere, may end better.
static int is_passing(fm_status status, fm_net_fate fate)
{
    if (fate == FM_NET_ANSWERED)
        return status == FM_ERR_UNAVAILABLE || status == FM_ERR_FS_MAYBE || status == FM_ERR_BUSY ||
               status == FM_ERR_CANCELLED;
    return status != FM_ERR_ARG && status != FM_ERR_LIMIT && status != FM_ERR_NOMEM &&
           status != FM_ERR_NET_AUTH && status != FM_ERR_VERSION;
}

// Goes to the next service; after a round of them it waits, so that nobody is asked without pause.
static void go_on(struct lane *lane, uint32_t tries)
{
    uint32_t rounds = tries / lane->remote->servers;
    lane->server = (lane->server + 1) % lane->remote->servers;
    if (lane->conn) {
        fm_net_conn *conn = lane->conn;
        lane->conn = NULL;
        lane->greeted = 0;
        fm_net_conn_close(conn);
    }
    if (tries % lane->remote->servers != 0)
        return;
    int64_t pause = (int64_t)PAUSE_FIRST_MS << (rounds < 8 ? rounds : 8);
    fm_base_clock_sleep_ns((uint64_t)(pause < PAUSE_LAST_MS ? pause : PAUSE_LAST_MS) * 1000000);
}

static fm_status ask(struct lane *lane, const struct fm_fs_meta_request *request, void *buffer,
                     size_t capacity)
{
    const struct fm_fs_meta_remote *remote = lane->remote;
    int64_t end_ns = (int64_t)fm_base_clock_ns() + remote->timeout_ns;
    int unknown = 0;
    for (uint32_t tries = 1;; tries++) {
        int64_t left = end_ns - (int64_t)fm_base_clock_ns();
        fm_net_fate fate;
        fm_status status =
            try_once(lane, request, left < remote->try_ns ? (left > ms ? left : ms) : remote->try_ns, buffer,
                     capacity, &fate);
        if (status == FM_OK || !is_passing(status, fate))
            return status;
        unknown |= fate == FM_NET_UNKNOWN || status == FM_ERR_FS_MAYBE;
        if ((int64_t)fm_base_clock_ns() >= end_ns) {
            int maybe = unknown && changes_something(request->method);
            return fm_base_error_prefix(maybe ? FM_ERR_FS_MAYBE : FM_ERR_UNAVAILABLE,
                                        "no service of the names answers, %s last after %u tries",
                                        remote->addresses[lane->server], tries);
        }
        go_on(lane, tries);
    }
}

fm_status fm_fs_meta_ask(fm_fs_meta *meta, const fm_fs_who *who, struct fm_fs_meta_request *request,
                         struct fm_fs_meta_answer *out_answer, void *buffer, size_t capacity)
{
    struct fm_fs_meta_remote *remote = meta->remote;
    struct lane *lane = NULL;
    FM_TRY(take(remote, &lane));
    request->super = !who;
    request->uid = who ? who->uid : 0;
    request->gid = who ? who->gid : 0;
    request->groups = who ? who->groups : NULL;
    request->group_count = who ? who->group_count : 0;
    request->client = remote->client;
    request->slot = lane->slot;
    request->sequence = ++lane->sequence;
    fm_status status = ask(lane, request, buffer, capacity);
    if (status == FM_OK)
        status = fm_fs_meta_answer_decode(lane->reply.args, lane->reply.args_bytes, out_answer);
    if (status == FM_OK)
        out_answer->payload_bytes = lane->reply.payload_bytes;
    leave(lane);
    return status;
}

fm_status fm_fs_meta_whoami(fm_fs_meta *meta, fm_fs_user *out_user, int *out_trusted)
{
    struct fm_fs_meta_remote *remote = meta->remote;
    if (!remote)
        return fm_base_error_set(FM_ERR_STATE, "these names are not asked of a service");
    pthread_mutex_lock(&remote->lock);
    *out_user = remote->user;
    *out_trusted = remote->trusted;
    pthread_mutex_unlock(&remote->lock);
    return FM_OK;
}

/* Connecting */

static fm_status read_servers(struct fm_fs_meta_remote *remote, const char *text)
{
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, ",");
        fm_net_address address;
        if (remote->servers == FM_FS_META_SERVERS_MAX)
            return fm_base_error_set(FM_ERR_LIMIT, "%s: expected at most %d services", text,
                                     FM_FS_META_SERVERS_MAX);
        char *to = remote->addresses[remote->servers++];
        if (length >= FM_NET_ADDRESS_BYTES)
            return fm_base_error_set(FM_ERR_ARG, "%s: an address of %zu bytes", text, length);
        memcpy(to, at, length);
        to[length] = 0;
        FM_TRY(fm_net_address_parse(to, &address));
        at += length + (at[length] == ',');
    }
    return remote->servers ? FM_OK
                           : fm_base_error_set(FM_ERR_ARG, "no service of the names is told: expected "
                                                           "addresses with commas between them");
}

static fm_status prepare(struct fm_fs_meta_remote *remote, const fm_fs_meta_connect_options *options)
{
    if (!options->servers || !options->key || !options->token ||
        strlen(options->token) >= sizeof remote->token)
        return fm_base_error_set(FM_ERR_ARG,
                                 "servers, key and token must be given, a token of at most %zu bytes",
                                 sizeof remote->token - 1);
    remote->key = *options->key;
    remote->tls = fm_net_tls_ref(options->tls);
    snprintf(remote->token, sizeof remote->token, "%s", options->token);
    remote->lanes_max = options->connections ? options->connections : 32;
    if (remote->lanes_max > LANES_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%u connections; expected at most %d", remote->lanes_max,
                                 LANES_MAX);
    remote->timeout_ns = (options->timeout_ms > 0 ? options->timeout_ms : 30000) * ms;
    remote->try_ns = (options->try_ms > 0 ? options->try_ms : 5000) * ms;
    if (getrandom(&remote->client, sizeof remote->client, 0) != (ssize_t)sizeof remote->client)
        return fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    remote->client |= 1; // never 0, which says that there is no slot
    return read_servers(remote, options->servers);
}

fm_status fm_fs_meta_connect(const fm_fs_meta_connect_options *options, fm_fs_meta **out_meta)
{
    fm_fs_node root;
    if (!options || options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "options->size is %zu; expected %zu",
                                 options ? options->size : 0, sizeof *options);
    fm_fs_meta *meta = fm_base_mem_zalloc(1, sizeof *meta);
    struct fm_fs_meta_remote *remote = fm_base_mem_zalloc(1, sizeof *remote);
    if (!meta || !remote) {
        fm_base_mem_free(meta);
        fm_base_mem_free(remote);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the names");
    }
    pthread_mutex_init(&meta->lock, NULL);
    pthread_cond_init(&meta->slot_free, NULL);
    pthread_mutex_init(&remote->lock, NULL);
    pthread_cond_init(&remote->idle, NULL);
    meta->remote = remote;
    fm_status status = prepare(remote, options);
    if (status == FM_OK) // a wrong key or token is told now
        status = fm_fs_meta_remote_node(meta, FM_FS_META_ROOT, &root);
    if (status < 0) {
        fm_fs_meta_close(meta);
        return status;
    }
    *out_meta = meta;
    return FM_OK;
}
