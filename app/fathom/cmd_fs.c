// `fathom fs ...`: the replicated file system.
#include "cmd_fs.h"

static const fm_command *const children[] = {
    &fm_cmd_fs_cluster, &fm_cmd_fs_serve,   &fm_cmd_fs_chain,
    &fm_cmd_fs_target,  &fm_cmd_fs_node,    &fm_cmd_fs_ls,
    &fm_cmd_fs_stat,    &fm_cmd_fs_du,      &fm_cmd_fs_tree,
    &fm_cmd_fs_cp,      &fm_cmd_fs_mkdir,   &fm_cmd_fs_mv,
    &fm_cmd_fs_rm,      &fm_cmd_fs_layout,  &fm_cmd_fs_quota,
    &fm_cmd_fs_fsck,    &fm_cmd_fs_mount,   &fm_cmd_fs_backup,
    &fm_cmd_fs_restore, &fm_cmd_fs_user,    &fm_cmd_fs_chown,
    &fm_cmd_fs_chmod,   &fm_cmd_fs_dataset, &fm_cmd_fs_checkpoint,
    &fm_cmd_fs_kv,      &fm_cmd_fs_bench,   NULL,
};

const fm_command fm_cmd_fs = {
    .name = "fs",
    .summary = "the replicated file system: its cluster, members and files",
    .children = children,
};
