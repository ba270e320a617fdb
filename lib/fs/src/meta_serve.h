/**
 * @file meta_serve.h
 * One request of a client of the names: who it is, and what it gets. Everything about it is checked here, for the client may
 * be anybody with the names' key.
 */
#ifndef FATHOM_META_SERVE_H
#define FATHOM_META_SERVE_H

#include "fathom/fs_meta_service.h"
#include "meta_wire.h"

// Whom a connection's token stands for.
struct fm_fs_meta_identity {
    int known;   // a token came, and was somebody's
    int trusted; // speaks for everybody
    fm_fs_user user;
    uint64_t checked_ns; // by fm_base_clock_ns()
    char token[FM_FS_TOKEN_BYTES];
};

// Looks a token up. `admin_token` is the administrator's. FM_ERR_NET_AUTH, and those of the store.
fm_status fm_fs_meta_identify(fm_fs_meta *meta, const char *admin_token, const char *token,
                              struct fm_fs_meta_identity *out_identity);
// Whether the method's answer has a payload: then `payload` below has FM_FS_META_WIRE_PAYLOAD bytes.
int fm_fs_meta_answers_bulk(uint32_t method);
// FM_ERR_PERM: in another's name; FM_ERR_UNSUPPORTED: an unknown method; and those of the call.
fm_status fm_fs_meta_serve_request(fm_fs_meta *meta, const struct fm_fs_meta_identity *identity,
                                   const struct fm_fs_meta_request *request,
                                   struct fm_fs_meta_answer *out_answer, uint8_t *payload);

#endif
