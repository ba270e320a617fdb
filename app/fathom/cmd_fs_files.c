// `fathom fs cp|mkdir|mv|rm`: files into, out of and within clusters.
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cmd_fs.h"
#include "cmd_fs_place.h"
#include "cmd_fs_spot.h"
#include "fathom/file.h"
#include "fathom/fs.h"
#include "fathom/mem.h"

struct file_options {
    int recursive, parents;
};

#define FIELD(name) offsetof(struct file_options, name)

/* cp */

enum {
    // Several chunks of the usual 1 MiB, so that they travel side by side.
    COPY_BYTES = 8 << 20
};

struct copy {
    fm_fs *from, *to;
    char *buffer;
    struct pair { // directories whose contents are still to be copied
        char *from, *to;
    } * dirs;
    size_t count, capacity;
    uint64_t files, bytes, skipped;
};

static fm_status copy_file(struct copy *copy, const char *from, const char *to)
{
    fm_fs_file *file;
    fm_fs_writer *writer;
    size_t read = COPY_BYTES;
    FM_TRY(fm_fs_file_open(copy->from, from, FM_FS_READ, &file));
    fm_status status = fm_fs_writer_open(copy->to, to, 0, &writer);
    if (status < 0) {
        fm_fs_file_close(file);
        return status;
    }
    for (uint64_t offset = 0; status == FM_OK && read == COPY_BYTES; offset += read) {
        status = fm_fs_file_read(file, copy->buffer, COPY_BYTES, offset, &read);
        if (status == FM_OK)
            status = fm_fs_writer_write(writer, copy->buffer, read);
        copy->bytes += status == FM_OK ? read : 0;
    }
    fm_fs_file_close(file);
    if (status < 0) {
        fm_fs_writer_discard(writer);
        return status;
    }
    copy->files++;
    return fm_fs_writer_commit(writer);
}

static fm_status push(struct copy *copy, const char *from, const char *to)
{
    if (copy->count == copy->capacity) {
        size_t capacity = copy->capacity ? 2 * copy->capacity : 32;
        struct pair *moved = fm_base_mem_realloc(copy->dirs, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory to copy a tree");
        copy->dirs = moved;
        copy->capacity = capacity;
    }
    struct pair pair = {fm_base_mem_strdup(from), fm_base_mem_strdup(to)};
    if (!pair.from || !pair.to) {
        fm_base_mem_free(pair.from);
        fm_base_mem_free(pair.to);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to copy a tree");
    }
    copy->dirs[copy->count++] = pair;
    return FM_OK;
}

// A link to a file is copied as what it points to; one to a directory could lead anywhere, and is left out.
static fm_status copy_entry(struct copy *copy, const char *from, const char *to, fm_fs_type type)
{
    fm_fs_info info = {.type = type};
    if (type == FM_FS_TYPE_LINK && fm_fs_stat(copy->from, from, &info) < 0)
        info.type = FM_FS_TYPE_OTHER;
    if (type == FM_FS_TYPE_DIR)
        return push(copy, from, to);
    if (info.type == FM_FS_TYPE_FILE)
        return copy_file(copy, from, to);
    fprintf(stderr, "fathom: left out %s: no file that can be copied\n", from);
    copy->skipped++;
    return FM_OK;
}

static fm_status copy_dir(struct copy *copy, const char *from, const char *to)
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    fm_status status = fm_fs_mkdir(copy->to, to, FM_FS_PARENTS);
    if (status < 0)
        return status;
    FM_TRY(fm_fs_list_open(copy->from, from, &list));
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        char below[FM_FS_PATH_MAX + 1];
        char to_below[FM_FS_PATH_MAX + 1];
        status = fm_cmd_spot_join(from, entry->name, below);
        if (status == FM_OK)
            status = fm_cmd_spot_join(to, entry->name, to_below);
        if (status == FM_OK)
            status = copy_entry(copy, below, to_below, entry->type);
        if (status < 0)
            break;
    }
    fm_fs_list_close(list);
    return status;
}

static fm_status copy_tree(struct copy *copy, const char *from, const char *to)
{
    fm_status status = push(copy, from, to);
    while (copy->count) {
        struct pair pair = copy->dirs[--copy->count];
        if (status == FM_OK)
            status = copy_dir(copy, pair.from, pair.to);
        fm_base_mem_free(pair.from);
        fm_base_mem_free(pair.to);
    }
    fm_base_mem_free(copy->dirs);
    copy->dirs = NULL;
    copy->capacity = 0;
    return status;
}

// Copies one operand to `to`, or into it when it is a directory.
static fm_status copy_one(struct copy *copy, const fm_cmd_spot *from, const fm_cmd_spot *to, int recursive,
                          int into)
{
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_info info;
    snprintf(path, sizeof path, "%s", to->path);
    FM_TRY(fm_fs_stat(from->fs, from->path, &info));
    if (into && *from->name)
        FM_TRY(fm_cmd_spot_join(to->path, from->name, path));
    copy->from = from->fs;
    copy->to = to->fs;
    if (info.type == FM_FS_TYPE_DIR && !recursive)
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "%s is a directory; -r copies directories", from->path);
    return info.type == FM_FS_TYPE_DIR ? copy_tree(copy, from->path, path)
                                       : copy_file(copy, from->path, path);
}

fm_status fm_cmd_fs_copy(fm_fs *from, const char *from_path, fm_fs *to, const char *to_path)
{
    struct copy copy = {.from = from, .to = to, .buffer = fm_base_mem_alloc(COPY_BYTES)};
    fm_fs_info info;
    if (!copy.buffer)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a buffer of %d bytes", COPY_BYTES);
    fm_status status = fm_fs_stat(from, from_path, &info);
    if (status == FM_OK)
        status = info.type == FM_FS_TYPE_DIR ? copy_tree(&copy, from_path, to_path)
                                             : copy_file(&copy, from_path, to_path);
    if (status == FM_OK && copy.skipped)
        status = fm_base_error_set(FM_ERR_STATE, "%s holds what cannot be copied", from_path);
    fm_base_mem_free(copy.buffer);
    return status;
}

static fm_status copy_all(const fm_invocation *invocation, const struct file_options *options,
                          struct copy *copy)
{
    fm_cmd_spot to;
    fm_fs_info info;
    int last = invocation->operand_count - 1;
    FM_TRY(fm_cmd_spot_open(&to, invocation->operands[last]));
    int into = fm_fs_stat(to.fs, to.path, &info) == FM_OK && info.type == FM_FS_TYPE_DIR;
    fm_status status = FM_OK;
    if (last > 1 && !into)
        status = fm_base_error_set(FM_ERR_FS_NOT_DIR, "%s is not a directory; expected one for %d sources",
                                   invocation->operands[last], last);
    for (int i = 0; i < last && status == FM_OK; i++) {
        fm_cmd_spot from;
        status = fm_cmd_spot_open(&from, invocation->operands[i]);
        if (status < 0)
            break;
        status = copy_one(copy, &from, &to, options->recursive, into);
        fm_fs_close(from.fs);
    }
    fm_fs_close(to.fs);
    return status;
}

static fm_status run_cp(const fm_invocation *invocation, const void *options, int *out_exit)
{
    struct copy copy = {.buffer = fm_base_mem_alloc(COPY_BYTES)};
    if (!copy.buffer)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a buffer of %d bytes", COPY_BYTES);
    fm_status status = copy_all(invocation, options, &copy);
    fm_base_mem_free(copy.buffer);
    if (status == FM_OK && copy.skipped)
        *out_exit = 1;
    return status;
}

static const fm_option cp_schema[] = {
    {"recursive", FM_OPTION_FLAG, FIELD(recursive), .value = "false", .letter = 'r',
     .help = "copy directories with all below them"},
    {0},
};

const fm_command fm_cmd_fs_cp = {
    .name = "cp",
    .summary = "copy files into, out of and between clusters",
    .operands = "SOURCE... DESTINATION",
    .details =
        "CLUSTER:/PATH is a place in the cluster whose directory is CLUSTER, everything else a path of this\n"
        "machine. Each file appears at its destination whole, or not at all.\n"
        "  fathom fs cp -r corpus /data/cluster:/datasets",
    .options = cp_schema,
    .options_size = sizeof(struct file_options),
    .operands_min = 2,
    .operands_max = -1,
    .run = run_cp,
};

/* mkdir, mv, rm */

static fm_status run_mkdir(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct file_options *options = given;
    (void)out_exit;
    for (int i = 0; i < invocation->operand_count; i++) {
        fm_cmd_spot spot;
        if (!fm_cmd_place_is(invocation->operands[i]))
            return fm_base_error_set(FM_ERR_ARG, "%s is no place in a cluster; expected CLUSTER:/PATH",
                                     invocation->operands[i]);
        FM_TRY(fm_cmd_spot_open(&spot, invocation->operands[i]));
        fm_status status = fm_fs_mkdir(spot.fs, spot.path, options->parents ? FM_FS_PARENTS : 0);
        fm_fs_close(spot.fs);
        FM_TRY(status);
    }
    return FM_OK;
}

static const fm_option mkdir_schema[] = {
    {"parents", FM_OPTION_FLAG, FIELD(parents), .value = "false", .letter = 'p',
     .help = "make missing parents too; what is there is fine"},
    {0},
};

const fm_command fm_cmd_fs_mkdir = {
    .name = "mkdir",
    .summary = "make directories in a cluster",
    .operands = "CLUSTER:/PATH...",
    .options = mkdir_schema,
    .options_size = sizeof(struct file_options),
    .operands_min = 1,
    .operands_max = -1,
    .run = run_mkdir,
};

static fm_status run_mv(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    (void)out_exit;
    fm_cmd_place from;
    fm_cmd_place to;
    fm_fs_node node;
    FM_TRY(fm_cmd_place_open(invocation->operands[0], &from));
    fm_status status = fm_cmd_place_open(invocation->operands[1], &to);
    if (status < 0) {
        fm_cmd_place_close(&from);
        return status;
    }
    status = fm_cmd_place_split(&from);
    if (status == FM_OK && from.volume != to.volume)
        status = fm_base_error_set(FM_ERR_FS_CROSS, "two clusters; copy from one to the other");
    if (status == FM_OK && fm_cmd_place_node(&to, 1, &node) == FM_OK && S_ISDIR(node.mode)) {
        to.parent = node.ino;
        memcpy(to.name, from.name, sizeof to.name);
    } else if (status == FM_OK) {
        status = fm_cmd_place_split(&to);
    }
    if (status == FM_OK)
        status = fm_fs_meta_rename(from.meta, &from.who, from.parent, from.name, to.parent, to.name, 0);
    fm_cmd_place_close(&to);
    fm_cmd_place_close(&from);
    return status;
}

const fm_command fm_cmd_fs_mv = {
    .name = "mv",
    .summary = "rename a file or directory within a cluster, or move it into a directory",
    .operands = "CLUSTER:/FROM CLUSTER:/TO",
    .operands_min = 2,
    .operands_max = 2,
    .run = run_mv,
};

static fm_status remove_one(const char *text, int recursive)
{
    fm_cmd_place place;
    fm_fs_node node;
    size_t done;
    FM_TRY(fm_cmd_place_open(text, &place));
    fm_status status = fm_cmd_place_split(&place);
    if (status == FM_OK)
        status = fm_cmd_place_node(&place, 0, &node);
    if (status == FM_OK && S_ISDIR(node.mode) && !recursive)
        status =
            fm_base_error_set(FM_ERR_FS_IS_DIR, "/%s is a directory; -r removes directories", place.path);
    if (status == FM_OK)
        status = fm_fs_meta_remove_all(place.meta, &place.who, place.parent, place.name);
    // The name is gone; the chunks go now if the cluster can be reached, else with somebody's next removal.
    if (status == FM_OK && fm_fs_volume_collect(place.volume, 1000000, &done) < 0)
        fprintf(stderr, "fathom: %s is removed; its chunks are removed later: %s\n", text,
                fm_error_message());
    fm_cmd_place_close(&place);
    return status;
}

static fm_status run_rm(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct file_options *options = given;
    (void)out_exit;
    for (int i = 0; i < invocation->operand_count; i++)
        FM_TRY(remove_one(invocation->operands[i], options->recursive));
    return FM_OK;
}

static const fm_option rm_schema[] = {
    {"recursive", FM_OPTION_FLAG, FIELD(recursive), .value = "false", .letter = 'r',
     .help = "remove directories with all below them"},
    {0},
};

const fm_command fm_cmd_fs_rm = {
    .name = "rm",
    .summary = "remove files, links and directories of a cluster",
    .operands = "CLUSTER:/PATH...",
    .details = "A directory's name goes at once, with all below it; what it held is removed afterwards.",
    .options = rm_schema,
    .options_size = sizeof(struct file_options),
    .operands_min = 1,
    .operands_max = -1,
    .run = run_rm,
};
