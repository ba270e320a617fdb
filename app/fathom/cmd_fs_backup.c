// `fathom fs backup|restore`: a cluster's names in a file.
#include <inttypes.h>
#include <stdio.h>

#include "cmd_fs.h"
#include "fathom/fs_volume.h"

static fm_status say(uint64_t records)
{
    printf("%" PRIu64 " records\n", records);
    return FM_OK;
}

static fm_status run_backup(const fm_invocation *invocation, const void *options, int *out_exit)
{
    fm_fs_volume *volume;
    uint64_t records = 0;
    (void)options;
    (void)out_exit;
    FM_TRY(fm_fs_volume_open(invocation->operands[0], NULL, &volume));
    fm_status status = fm_fs_meta_backup(fm_fs_volume_meta(volume), invocation->operands[1], &records);
    fm_fs_volume_close(volume);
    return status < 0 ? status : say(records);
}

const fm_command fm_cmd_fs_backup = {
    .name = "backup",
    .summary = "write a cluster's names to a file while they are in use",
    .operands = "CLUSTER FILE",
    .details =
        "FILE holds directories, files' attributes, small files' contents and where the others' chunks are:\n"
        "one moment of all. The chunks themselves stay in the cluster, which keeps replicas of them.",
    .operands_min = 2,
    .operands_max = 2,
    .run = run_backup,
};

static fm_status run_restore(const fm_invocation *invocation, const void *options, int *out_exit)
{
    uint64_t records = 0;
    (void)options;
    (void)out_exit;
    FM_TRY(fm_fs_volume_restore(invocation->operands[0], invocation->operands[1], &records));
    return say(records);
}

const fm_command fm_cmd_fs_restore = {
    .name = "restore",
    .summary = "bring a cluster's names back from a file",
    .operands = "CLUSTER FILE",
    .details = "The cluster's store of names must be empty: move CLUSTER/names away first. Nobody may use "
               "the names\n"
               "meanwhile. What was written after the backup is gone from the names; its chunks are neither\n"
               "reused nor removed, until 'fathom fs fsck' is told so.",
    .operands_min = 2,
    .operands_max = 2,
    .run = run_restore,
};
