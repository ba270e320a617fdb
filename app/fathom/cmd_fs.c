// `fathom fs ...`: the replicated file system.
#include "cmd_fs.h"

static const fm_command *const children[] = {
    &fm_cmd_fs_cluster, &fm_cmd_fs_serve, &fm_cmd_fs_chain, &fm_cmd_fs_target, &fm_cmd_fs_node, NULL,
};

const fm_command fm_cmd_fs = {
    .name = "fs",
    .summary = "the replicated file system: its cluster, members and files",
    .children = children,
};
