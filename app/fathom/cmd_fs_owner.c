// `fathom fs chown|chmod`: whose a file of a cluster is, and what others may.
#include <errno.h>
#include <stdlib.h>

#include "cmd_fs.h"
#include "cmd_fs_place.h"

static fm_status set(const char *text, unsigned what, const fm_fs_node *values)
{
    fm_cmd_place place;
    fm_fs_node node;
    FM_TRY(fm_cmd_place_open(text, &place));
    fm_status status = fm_cmd_place_node(&place, 1, &node);
    if (status == FM_OK)
        status = fm_fs_meta_setattr(place.meta, &place.who, node.ino, what, values, &node);
    fm_cmd_place_close(&place);
    return status;
}

// A number in `text`, ended by 0 or `end`; `*out_rest` is behind it.
static fm_status read_number(const char *text, int base, unsigned long max, char end, uint32_t *out_number,
                             const char **out_rest)
{
    char *rest;
    errno = 0;
    unsigned long value = strtoul(text, &rest, base);
    if (rest == text || *text == '-' || errno || value > max || (*rest && *rest != end))
        return fm_base_error_set(
            FM_ERR_ARG, "'%s' is not what was expected: UID, UID:GID, or an octal mode up to 7777", text);
    *out_number = (uint32_t)value;
    *out_rest = rest;
    return FM_OK;
}

static fm_status run_chown(const fm_invocation *invocation, const void *options, int *out_exit)
{
    fm_fs_node values = {0};
    const char *rest;
    unsigned what = FM_FS_META_UID;
    (void)options;
    (void)out_exit;
    FM_TRY(read_number(invocation->operands[0], 10, UINT32_MAX, ':', &values.uid, &rest));
    if (*rest == ':') {
        FM_TRY(read_number(rest + 1, 10, UINT32_MAX, 0, &values.gid, &rest));
        what |= FM_FS_META_GID;
    }
    for (int i = 1; i < invocation->operand_count; i++)
        FM_TRY(set(invocation->operands[i], what, &values));
    return FM_OK;
}

const fm_command fm_cmd_fs_chown = {
    .name = "chown",
    .summary = "give files and directories of a cluster to a user",
    .operands = "UID[:GID] CLUSTER:/PATH...",
    .details = "  fathom fs chown 1000:100 /data/cluster:/users/ada",
    .operands_min = 2,
    .operands_max = -1,
    .run = run_chown,
};

static fm_status run_chmod(const fm_invocation *invocation, const void *options, int *out_exit)
{
    fm_fs_node values = {0};
    const char *rest;
    (void)options;
    (void)out_exit;
    FM_TRY(read_number(invocation->operands[0], 8, 07777, 0, &values.mode, &rest));
    for (int i = 1; i < invocation->operand_count; i++)
        FM_TRY(set(invocation->operands[i], FM_FS_META_MODE, &values));
    return FM_OK;
}

const fm_command fm_cmd_fs_chmod = {
    .name = "chmod",
    .summary = "set the permissions of files and directories of a cluster",
    .operands = "MODE CLUSTER:/PATH...",
    .details = "  fathom fs chmod 1777 /data/cluster:/tmp",
    .operands_min = 2,
    .operands_max = -1,
    .run = run_chmod,
};
