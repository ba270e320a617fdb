/* Clusters by the addresses of their managers: a directory of a client's own, as the cluster's library wants one. */
#ifndef FM_CMD_FS_REACH_H
#define FM_CMD_FS_REACH_H

#include "fathom/status.h"

typedef struct fm_cmd_fs_reach_options {
    const char *meta;  /* "ADDRESS,..." of services of the names, or "postgresql:CONNINFO" */
    const char *key;   /* file of the cluster's key */
    const char *token; /* file of a user's token; NULL: the administrator's, which follows from the key */
    const char *tls;   /* file like a cluster's `tls`, with paths from the root; NULL: none */
} fm_cmd_fs_reach_options;

typedef struct fm_cmd_fs_reach {
    char dir[4096];
    int is_made; /* for this process, and of links to the files that were given */
} fm_cmd_fs_reach;

/**
 * `cluster` is a cluster's directory, which is taken as it is, or its managers' addresses: "ADDRESS,ADDRESS" of the managers 1,
 * 2 and so on, or "NODE=ADDRESS,..." where they have other numbers. FM_ERR_ARG: neither, or options are missing that
 * addresses need, or are given that a directory answers.
 */
fm_status fm_cmd_fs_reach_open(const char *cluster, const fm_cmd_fs_reach_options *options,
                               fm_cmd_fs_reach *out_reach);
/* Removes what was made; once, by the last process that uses it. */
void fm_cmd_fs_reach_close(fm_cmd_fs_reach *reach);

#endif
