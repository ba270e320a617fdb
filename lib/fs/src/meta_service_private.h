/**
 * @file meta_service_private.h
 * A service of names that somebody has opened: what fm_fs_meta_serve() and tests stand on.
 */
#ifndef FATHOM_META_SERVICE_PRIVATE_H
#define FATHOM_META_SERVICE_PRIVATE_H

#include "fathom/fs_meta_service.h"

// What a service stands on. Zero: nothing is collected.
struct fm_fs_meta_hosting {
    fm_status (*collect)(void *context, size_t max, size_t *out_done); // each second
    void (*end)(void *context);                                        // when the service has ended
    void *context;
    int64_t recheck_ms;     // 0: FM_FS_META_RECHECK_MS
    struct fm_net_tls *tls; // over the network; NULL: none
};

// `meta` must have a store and outlive the service. `cluster` is the cluster's key. After a failure `end` was not called.
fm_status fm_fs_meta_service_new(fm_fs_meta *meta, const struct fm_net_key *cluster, const char *listen,
                                 uint32_t threads, const struct fm_fs_meta_hosting *hosting,
                                 fm_fs_meta_service **out_service);

#endif
