/* The verbs of `fathom fs`, each group in a file of its own. */
#ifndef FM_CMD_FS_H
#define FM_CMD_FS_H

#include "commands.h"
#include "fathom/doc.h"
#include "fathom/fs.h"
#include "fathom/fs_cluster.h"

extern const fm_command fm_cmd_fs_cluster;    /* cmd_fs_cluster.c */
extern const fm_command fm_cmd_fs_serve;      /* cmd_fs_serve.c */
extern const fm_command fm_cmd_fs_serve_meta; /* cmd_fs_meta.c */
extern const fm_command fm_cmd_fs_user;       /* cmd_fs_user.c */
extern const fm_command fm_cmd_fs_node;       /* cmd_fs_members.c */
extern const fm_command fm_cmd_fs_target;
extern const fm_command fm_cmd_fs_chain;
extern const fm_command fm_cmd_fs_ls; /* cmd_fs_look.c */
extern const fm_command fm_cmd_fs_stat;
extern const fm_command fm_cmd_fs_du;
extern const fm_command fm_cmd_fs_tree;
extern const fm_command fm_cmd_fs_layout;
extern const fm_command fm_cmd_fs_cp; /* cmd_fs_files.c */
extern const fm_command fm_cmd_fs_mkdir;
extern const fm_command fm_cmd_fs_mv;
extern const fm_command fm_cmd_fs_rm;
extern const fm_command fm_cmd_fs_dataset;    /* cmd_fs_dataset.c */
extern const fm_command fm_cmd_fs_checkpoint; /* cmd_fs_checkpoint.c */
extern const fm_command fm_cmd_fs_kv;         /* cmd_fs_kv.c */
extern const fm_command fm_cmd_fs_kv_replay;  /* cmd_fs_kv_replay.c */
extern const fm_command fm_cmd_fs_chown;      /* cmd_fs_owner.c */
extern const fm_command fm_cmd_fs_chmod;
extern const fm_command fm_cmd_fs_fsck; /* cmd_fs_check.c */
extern const fm_command fm_cmd_fs_quota;
extern const fm_command fm_cmd_fs_bench;  /* cmd_fs_bench.c */
extern const fm_command fm_cmd_fs_backup; /* cmd_fs_backup.c */
extern const fm_command fm_cmd_fs_restore;
extern const fm_command fm_cmd_fs_mount; /* cmd_fs_mount.c */

/** The options of certificates, into a struct whose FIELD()s they are. `text` says what holds without. */
#define FM_CMD_FS_TLS_OPTIONS(text)                                                                   \
    {"tls-cert", FM_OPTION_STRING, FIELD(tls_cert), .metavar = "FILE",                                \
     .help = "certificate in PEM for TLS over the network, with tls-key and tls-ca; default: " text}, \
        {"tls-key", FM_OPTION_STRING, FIELD(tls_key), .metavar = "FILE",                              \
         .help = "its private key, in PEM and without a password"},                                   \
    {                                                                                                 \
        "tls-ca", FM_OPTION_STRING, FIELD(tls_ca),                                                    \
            .metavar = "FILE", .help = "certificate of the CA that has signed the members' ones"      \
    }

/** The options of all services, for a struct whose FIELD()s `metrics` and `log` they are. */
#define FM_CMD_FS_SERVICE_OPTIONS                                                           \
    {                                                                                       \
        "metrics",                                                                          \
        FM_OPTION_STRING,                                                                   \
        FIELD(metrics),                                                                     \
        .value = "",                                                                        \
        .metavar = "ADDRESS",                                                               \
        .help = "answer Prometheus at http://ADDRESS/metrics; default: not"},               \
    {                                                                                       \
        "log", FM_OPTION_CHOICE, FIELD(log),                                                \
            .value = "text", .choices = "text|json",                                        \
            .help = "lines on standard error: text, or an object a line; FM_LOG says which" \
    }

/** Takes the option `log`. In JSON the levels are info and above unless FM_LOG says otherwise. cmd_fs_log.c */
fm_status fm_cmd_fs_log_begin(const char *format);
/** A sentence about a service's life: "fathom: ..." for people, a line of the log in JSON. */
void fm_cmd_fs_say(const char *format, ...) FM_PRINTF(1, 2);

/** Has a cluster answer scrapers at `address` ("": nobody), and says where. cmd_fs_serve.c */
fm_status fm_cmd_fs_metrics(fm_fs_cluster *cluster, const char *address);

/** Serves until SIGINT, SIGTERM or fm_fs_cluster_stop(), and ends the cluster. `ready` (or -1) is told by a byte 0 that
 * it serves, and closed. */
fm_status fm_cmd_fs_serve_until_signal(fm_fs_cluster *cluster, int ready);

/** Copies a file, or a directory with all below it. FM_ERR_STATE: it holds other things, too. cmd_fs_files.c */
fm_status fm_cmd_fs_copy(fm_fs *from, const char *from_path, fm_fs *to, const char *to_path);

/** Writes each chain with its members into the array that was begun. cmd_fs_members.c */
void fm_cmd_fs_chains_json(fm_json *json, const fm_fs_cluster_state *state);

/** Says to standard output why a chain, a node or a target stands as it does. FM_ERR_NOT_FOUND. cmd_fs_explain.c */
fm_status fm_cmd_fs_explain_chain(const fm_fs_cluster_state *state, uint32_t chain);
fm_status fm_cmd_fs_explain_node(const fm_fs_cluster_state *state, uint32_t node);
fm_status fm_cmd_fs_explain_target(const fm_fs_cluster_state *state, uint32_t target);

#endif
