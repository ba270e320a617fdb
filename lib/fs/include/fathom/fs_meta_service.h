/**
 * @file fs_meta_service.h
 * The names of a cluster over the network: a stateless service that answers for the store, its users, and the client that
 * makes it look like the store itself.
 *
 *     FM_TRY(fm_fs_meta_serve("/data/c", &options, &service));   // where the store is: several at once, each alike
 *     FM_TRY(fm_fs_meta_service_run(service));                   // until fm_fs_meta_service_stop()
 *     fm_fs_meta_service_free(service);
 *
 *     FM_TRY(fm_fs_meta_connect(&options, &meta));               // elsewhere: every call of fs_meta.h on it asks a service
 *
 * ## Several services
 * A service keeps nothing that another one would need. A client uses one and goes to the next when that one is gone or slow;
 * it asks again with the same (client, slot, sequence), and the store's record of it keeps every change from happening twice,
 * or late. So a service may be killed at any moment and costs its clients a pause.
 *
 * ## Who asks
 * Connections prove that they know the *names' key*, which follows from the cluster's key and tells nothing of it. Then comes
 * a token. The service looks up whose it is: **uid, gid and groups are those of the token's user, whatever a request
 * claims**; a request in another user's name is refused (FM_ERR_PERM). Two tokens may speak for everybody, as a mount must:
 * one of a user with uid 0, and the administrator's, which follows from the cluster's key and is sent by whoever has
 * that. A user's contents are checked at every call, not only when he opens a file: what he lost the right to he cannot finish.
 *
 * A token goes to the service as it is, over a connection that proves who speaks and hides nothing: over a network that others
 * can listen to, use TLS (the file `tls` of the cluster's directory).
 *
 * Tokens are random; the store has their hashes alone, with the time when they end. A token that was withdrawn is refused
 * within FM_FS_META_RECHECK_MS.
 *
 * What the names protect is the names. Chunks are open to whoever has the cluster's key, as in 3FS.
 *
 * Threads: a connected fm_fs_meta is used by any number, up to `connections` at a time, others wait. A service is one
 * thread's, but for fm_fs_meta_service_stop(); it starts threads for its transactions and for the collector.
 */
#ifndef FATHOM_FS_META_SERVICE_H
#define FATHOM_FS_META_SERVICE_H

#include "fathom/fs_meta.h"

#ifdef __cplusplus
extern "C" {
#endif

struct fm_net_key;
struct fm_net_tls;

enum {
    FM_FS_META_SERVERS_MAX = 16,
    FM_FS_META_RECHECK_MS = 5000, /**< how long a service believes in a token that it has looked up */
    FM_FS_USER_NAME_MAX = 63,
    FM_FS_USER_GROUPS_MAX = 64,
    FM_FS_TOKEN_BYTES = 64 /**< of a token's text, its 0 included */
};

/* Users: on the store itself (FM_ERR_UNSUPPORTED on a connected fm_fs_meta) */

typedef struct fm_fs_user {
    char name[FM_FS_USER_NAME_MAX + 1]; /**< letters, digits, '.', '_', '-' */
    uint32_t uid, gid;
    uint32_t group_count;
    uint32_t groups[FM_FS_USER_GROUPS_MAX]; /**< further ones */
} fm_fs_user;

/** Adds a user, or changes the one with that uid; its tokens stay. FM_ERR_EXISTS: another uid has the name. FM_ERR_ARG. */
FM_API FM_MUST_USE fm_status fm_fs_meta_user_set(fm_fs_meta *meta, const fm_fs_user *user);
/** Removes a user with all tokens. FM_ERR_NOT_FOUND. */
FM_API FM_MUST_USE fm_status fm_fs_meta_user_remove(fm_fs_meta *meta, uint32_t uid);
/** Up to `max` (at most 64) users with a uid from `from` on, ascending. Fewer: there are no more. */
FM_API FM_MUST_USE fm_status fm_fs_meta_user_list(fm_fs_meta *meta, uint64_t from, fm_fs_user *users,
                                                  size_t max, size_t *out_count);
/** FM_ERR_NOT_FOUND. */
FM_API FM_MUST_USE fm_status fm_fs_meta_user_find(fm_fs_meta *meta, const char *name, fm_fs_user *out_user);
/** Makes a token of a user, valid for `valid_ns` (0: for ever). It is not stored and cannot be shown again. */
FM_API FM_MUST_USE fm_status fm_fs_meta_token_new(fm_fs_meta *meta, uint32_t uid, uint64_t valid_ns,
                                                  char out_token[FM_FS_TOKEN_BYTES]);
/** Withdraws all tokens of a user. */
FM_API FM_MUST_USE fm_status fm_fs_meta_tokens_remove(fm_fs_meta *meta, uint32_t uid);
/** Whose a token is. FM_ERR_NET_AUTH: nobody's, or it has ended. */
FM_API FM_MUST_USE fm_status fm_fs_meta_token_user(fm_fs_meta *meta, const char *token, fm_fs_user *out_user);

/* Keys that follow from the cluster's */

/** What clients of the names prove themselves with: for machines that shall not have the cluster's key. */
FM_API void fm_fs_meta_key_derive(const struct fm_net_key *cluster, struct fm_net_key *out_names);
/** The administrator's token. */
FM_API void fm_fs_meta_admin_token(const struct fm_net_key *cluster, char out_token[FM_FS_TOKEN_BYTES]);

/* Serving */

/** Zero it and set `size`; what is 0 has its default. */
typedef struct fm_fs_meta_serve_options {
    size_t size;
    const char *listen; /**< an address of fathom/net.h. unix:DIR/names-socket */
    const char *store;  /**< as fm_fs_kv_open() names stores. What DIR/names.conf says, or lmdb:DIR/names */
    uint32_t threads;   /**< transactions at once, at most 256. 32: LMDB commits them in groups */
} fm_fs_meta_serve_options;

typedef struct fm_fs_meta_service fm_fs_meta_service;

/** A service of the names of the cluster in `dir`. The cluster must be up: removed chunks are collected by the service.
 *  Errors are those of fm_fs_volume_open() and fm_net_loop_listen(). */
FM_API FM_MUST_USE fm_status fm_fs_meta_serve(const char *dir, const fm_fs_meta_serve_options *options,
                                              fm_fs_meta_service **out_service);
/** Where it listens, with the port that was chosen. */
FM_API const char *fm_fs_meta_service_address(const fm_fs_meta_service *service);
/** As fm_fs_cluster_metrics(). */
FM_API FM_MUST_USE fm_status fm_fs_meta_service_metrics(fm_fs_meta_service *service, const char *address,
                                                        const char **out_address);
FM_API FM_MUST_USE fm_status fm_fs_meta_service_run(fm_fs_meta_service *service);
/** Any thread, and signal handlers. */
FM_API void fm_fs_meta_service_stop(fm_fs_meta_service *service);
/** NULL is allowed. */
FM_API void fm_fs_meta_service_free(fm_fs_meta_service *service);

/** What a service has done; any thread. */
typedef struct fm_fs_meta_service_counts {
    uint64_t requests, failures, refused; /**< refused: for want of a token, or in another's name */
    uint64_t connections;                 /**< open now */
    uint64_t busy_ns;                     /**< of the threads, summed */
    uint64_t collected;                   /**< pieces of the collector's work */
} fm_fs_meta_service_counts;
FM_API void fm_fs_meta_service_count(fm_fs_meta_service *service, fm_fs_meta_service_counts *out_counts);

/* Asking */

/** Zero it and set the first four; what is 0 has its default. */
typedef struct fm_fs_meta_connect_options {
    size_t size;
    const char *servers;          /**< addresses with commas between them, at most FM_FS_META_SERVERS_MAX */
    const struct fm_net_key *key; /**< the names' */
    const char *token;
    uint32_t connections;   /**< at most 64. 32 */
    int64_t timeout_ms;     /**< of a call, over all its tries. 30000 */
    int64_t try_ms;         /**< after which another service is tried. 5000 */
    struct fm_net_tls *tls; /**< of services on the network; kept as long as it is needed. NULL: none */
} fm_fs_meta_connect_options;

/**
 * Names that are asked of services. Beside the errors of fs_meta.h, calls fail with FM_ERR_UNAVAILABLE (no service answered
 * in time; nothing was changed), FM_ERR_FS_MAYBE (nobody knows whether it was), FM_ERR_NET_AUTH (the key, or the token),
 * FM_ERR_VERSION. Backups are made where the store is (FM_ERR_UNSUPPORTED); collecting is the services' (nothing is done).
 */
FM_API FM_MUST_USE fm_status fm_fs_meta_connect(const fm_fs_meta_connect_options *options,
                                                fm_fs_meta **out_meta);
/** Whose the token is, as a service said last; `*out_trusted` 1: it may ask in everybody's name. FM_ERR_STATE: not connected. */
FM_API FM_MUST_USE fm_status fm_fs_meta_whoami(fm_fs_meta *meta, fm_fs_user *out_user, int *out_trusted);

#ifdef __cplusplus
}
#endif
#endif
