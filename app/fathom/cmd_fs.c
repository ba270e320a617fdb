// `fathom fs ...`: the replicated file system.
#include "cmd_fs.h"

static const fm_command *const children[] = {
    &fm_cmd_fs_cluster,
    NULL,
};

const fm_command fm_cmd_fs = {
    .name = "fs",
    .summary = "the replicated file system: its cluster, members and files",
    .children = children,
};
