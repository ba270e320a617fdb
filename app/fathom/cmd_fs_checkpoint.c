// `fathom fs checkpoint ...`: numbered versions of a set of files, each there whole or not at all.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd_fs.h"
#include "cmd_fs_spot.h"
#include "fathom/fs_checkpoint.h"
#include "fathom/text.h"

struct checkpoint_options {
    int64_t step, keep;
};

#define FIELD(name) offsetof(struct checkpoint_options, name)

static fm_status read_step(const char *text, uint64_t *out_step)
{
    char *end;
    *out_step = strtoull(text, &end, 10);
    if (end == text || *text == '-' || *end)
        return fm_base_error_set(FM_ERR_ARG, "'%s' is no step; expected a number", text);
    return FM_OK;
}

/* begin, publish */

static fm_status begin(const fm_cmd_spot *folder, uint64_t step, char staging[FM_FS_PATH_MAX + 1])
{
    FM_TRY(fm_fs_checkpoint_begin(folder->fs, folder->path, step));
    return fm_fs_checkpoint_staging_path(folder->path, step, staging);
}

static fm_status run_begin(const fm_invocation *invocation, const void *options, int *out_exit)
{
    char staging[FM_FS_PATH_MAX + 1];
    fm_cmd_spot folder;
    uint64_t step;
    (void)options;
    (void)out_exit;
    FM_TRY(read_step(invocation->operands[1], &step));
    FM_TRY(fm_cmd_spot_open(&folder, invocation->operands[0]));
    fm_status status = begin(&folder, step, staging);
    fm_fs_close(folder.fs);
    FM_TRY(status);
    const char *name = strrchr(staging, '/');
    printf("%s/%s\n", invocation->operands[0], name ? name + 1 : staging);
    return FM_OK;
}

static const fm_command begin_command = {
    .name = "begin",
    .summary = "make the place where many ranks write a version, and show it",
    .operands = "FOLDER STEP",
    .details = "Each rank copies its shards there; then one publishes.\n"
               "  fathom fs checkpoint begin /data/cluster:/ckpt 1000\n"
               "  fathom fs cp shard-7.safetensors /data/cluster:/ckpt/.staging-000001000\n"
               "  fathom fs checkpoint publish /data/cluster:/ckpt 1000",
    .operands_min = 2,
    .operands_max = 2,
    .run = run_begin,
};

static fm_status stage(const fm_cmd_spot *folder, uint64_t step, const char *source)
{
    char staging[FM_FS_PATH_MAX + 1];
    char to[FM_FS_PATH_MAX + 1];
    fm_cmd_spot from;
    FM_TRY(fm_fs_checkpoint_staging_path(folder->path, step, staging));
    FM_TRY(fm_cmd_spot_open(&from, source));
    fm_status status = *from.name ? fm_cmd_spot_join(staging, from.name, to)
                                  : fm_base_error_set(FM_ERR_ARG, "%s has no name", source);
    if (status == FM_OK)
        status = fm_cmd_fs_copy(from.fs, from.path, folder->fs, to);
    fm_fs_close(from.fs);
    return status;
}

static fm_status run_publish(const fm_invocation *invocation, const void *options, int *out_exit)
{
    char staging[FM_FS_PATH_MAX + 1];
    fm_cmd_spot folder;
    uint64_t step;
    (void)options;
    (void)out_exit;
    FM_TRY(read_step(invocation->operands[1], &step));
    FM_TRY(fm_cmd_spot_open(&folder, invocation->operands[0]));
    fm_status status = invocation->operand_count > 2 ? begin(&folder, step, staging) : FM_OK;
    for (int i = 2; i < invocation->operand_count && status == FM_OK; i++)
        status = stage(&folder, step, invocation->operands[i]);
    if (status == FM_OK)
        status = fm_fs_checkpoint_publish(folder.fs, folder.path, step);
    fm_fs_close(folder.fs);
    return status;
}

static const fm_command publish_command = {
    .name = "publish",
    .summary = "let a version appear, whole",
    .operands = "FOLDER STEP [SOURCE...]",
    .details = "Without sources, what ranks have written since 'begin'; with them, copies of those.\n"
               "  fathom fs checkpoint publish /data/cluster:/ckpt 1000 out/model out/optimizer",
    .operands_min = 2,
    .operands_max = -1,
    .run = run_publish,
};

/* list */

struct size {
    uint64_t files, bytes;
};

// What lies below a version, level by level: versions are seldom deeper than a directory for each kind of state.
static fm_status add_up(fm_fs *fs, const char *dir, int depth, struct size *size)
{
    enum { DEPTH_MAX = 32 };
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_list *list;
    const fm_fs_entry *entry;
    fm_fs_info info;
    FM_TRY(fm_fs_list_open(fs, dir, &list));
    fm_status status;
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        status = fm_cmd_spot_join(dir, entry->name, path);
        if (status == FM_OK && entry->type == FM_FS_TYPE_DIR && depth < DEPTH_MAX)
            status = add_up(fs, path, depth + 1, size);
        else if (status == FM_OK && (status = fm_fs_stat(fs, path, &info)) == FM_OK) {
            size->files++;
            size->bytes += info.size;
        }
        if (status < 0)
            break;
    }
    fm_fs_list_close(list);
    return status;
}

static fm_status show_versions(const fm_cmd_spot *folder, fm_json *json)
{
    uint64_t at_most = UINT64_MAX;
    uint64_t step;
    for (;;) {
        char path[FM_FS_PATH_MAX + 1];
        struct size size = {0};
        fm_status status = fm_fs_checkpoint_find(folder->fs, folder->path, at_most, &step);
        if (status == FM_ERR_NOT_FOUND && at_most != UINT64_MAX)
            return FM_OK;
        FM_TRY(status);
        FM_TRY(fm_fs_checkpoint_path(folder->path, step, path));
        FM_TRY(add_up(folder->fs, path, 0, &size));
        if (json) {
            fm_base_json_begin(json, NULL, '{');
            fm_base_json_int(json, "step", (int64_t)step);
            fm_base_json_int(json, "files", (int64_t)size.files);
            fm_base_json_int(json, "bytes", (int64_t)size.bytes);
            fm_base_json_end(json);
        } else {
            printf("%12" PRIu64 " %6" PRIu64 " files %10s\n", step, size.files,
                   fm_base_text_bytes((double)size.bytes).text);
        }
        if (step == 0)
            return FM_OK;
        at_most = step - 1;
    }
}

static fm_status run_list(const fm_invocation *invocation, const void *options, int *out_exit)
{
    fm_cmd_spot folder;
    fm_json json = {0};
    (void)options;
    (void)out_exit;
    FM_TRY(fm_cmd_spot_open(&folder, invocation->operands[0]));
    fm_base_json_begin(&json, NULL, '[');
    fm_status status = show_versions(&folder, invocation->json ? &json : NULL);
    fm_base_json_end(&json);
    fm_fs_close(folder.fs);
    fm_status shown = fm_base_json_finish(&json, status == FM_OK && invocation->json ? stdout : NULL);
    return status < 0 ? status : shown;
}

static const fm_command list_command = {
    .name = "list",
    .summary = "show the complete versions, the newest first",
    .operands = "FOLDER",
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_list,
};

/* restore, prune */

static fm_status restore(const fm_cmd_spot *folder, const fm_cmd_spot *to,
                         const struct checkpoint_options *options)
{
    char path[FM_FS_PATH_MAX + 1];
    char half[FM_FS_PATH_MAX + 1];
    fm_fs_info info;
    uint64_t at_most = options->step < 0 ? UINT64_MAX : (uint64_t)options->step;
    uint64_t step;
    FM_TRY(fm_fs_checkpoint_find(folder->fs, folder->path, at_most, &step));
    if (options->step >= 0 && step != at_most)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s has no complete version %" PRIu64, folder->path,
                                 at_most);
    if (fm_fs_stat(to->fs, to->path, &info) == FM_OK)
        return fm_base_error_set(FM_ERR_EXISTS, "%s is there; expected a name that is not", to->path);
    if (snprintf(half, sizeof half, "%s.part", to->path) >= (int)sizeof half)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: a path that is too long", to->path);
    FM_TRY(fm_fs_checkpoint_path(folder->path, step, path));
    fm_status status = fm_fs_remove_all(to->fs, half); // of an attempt that was cut short
    if (status < 0 && status != FM_ERR_NOT_FOUND)
        return status;
    FM_TRY(fm_cmd_fs_copy(folder->fs, path, to->fs, half));
    FM_TRY(fm_fs_rename(to->fs, half, to->path, 0));
    fprintf(stderr, "fathom: version %" PRIu64 " is restored\n", step);
    return FM_OK;
}

static fm_status run_restore(const fm_invocation *invocation, const void *given, int *out_exit)
{
    fm_cmd_spot folder;
    fm_cmd_spot to;
    (void)out_exit;
    FM_TRY(fm_cmd_spot_open(&folder, invocation->operands[0]));
    fm_status status = fm_cmd_spot_open(&to, invocation->operands[1]);
    if (status == FM_OK) {
        status = restore(&folder, &to, given);
        fm_fs_close(to.fs);
    }
    fm_fs_close(folder.fs);
    return status;
}

static const fm_option restore_schema[] = {
    {"step", FM_OPTION_INT, FIELD(step), .value = "-1", .min = -1, .max = 0x1p62,
     .help = "the version; -1: the newest complete one"},
    {0},
};

static const fm_command restore_command = {
    .name = "restore",
    .summary = "copy a version out, under a name that appears when it is whole",
    .operands = "FOLDER DESTINATION",
    .details = "  fathom fs checkpoint restore /data/cluster:/ckpt out/resumed",
    .options = restore_schema,
    .options_size = sizeof(struct checkpoint_options),
    .operands_min = 2,
    .operands_max = 2,
    .run = run_restore,
};

static fm_status run_prune(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct checkpoint_options *options = given;
    fm_cmd_spot folder;
    (void)out_exit;
    FM_TRY(fm_cmd_spot_open(&folder, invocation->operands[0]));
    fm_status status = fm_fs_checkpoint_prune(folder.fs, folder.path, (size_t)options->keep);
    fm_fs_close(folder.fs);
    return status;
}

static const fm_option prune_schema[] = {
    {"keep", FM_OPTION_INT, FIELD(keep), .required = 1, .min = 1, .max = 0x1p40,
     .help = "how many of the newest stay"},
    {0},
};

static const fm_command prune_command = {
    .name = "prune",
    .summary = "remove all versions but the newest; each is gone at once",
    .operands = "FOLDER",
    .options = prune_schema,
    .options_size = sizeof(struct checkpoint_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_prune,
};

static const fm_command *const children[] = {&begin_command,   &publish_command, &list_command,
                                             &restore_command, &prune_command,   NULL};

const fm_command fm_cmd_fs_checkpoint = {
    .name = "checkpoint",
    .summary = "numbered versions of a set of files, each there whole or not at all",
    .children = children,
};
