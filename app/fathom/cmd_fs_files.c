// `fathom fs cp|mkdir|mv|rm`: files into, out of and within clusters.
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cmd_fs.h"
#include "cmd_fs_place.h"
#include "fathom/file.h"
#include "fathom/fs.h"
#include "fathom/mem.h"

struct file_options {
    int recursive, parents;
};

#define FIELD(name) offsetof(struct file_options, name)

// A path in a file system: in a cluster's, or in a directory of this machine.
struct spot {
    fm_fs *fs;
    char path[FM_FS_PATH_MAX + 1]; // "." for the root
    char name[FM_FS_NAME_MAX + 1]; // the last component; "" when there is none
};

static fm_status open_fs(struct spot *spot, const char *scheme, const char *dir, size_t dir_length,
                         const char *path)
{
    fm_arena arena = {0};
    size_t length = strlen(scheme) + dir_length;
    char *spec = fm_base_arena_alloc(&arena, length + 1);
    if (!spec)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to open %s", path);
    memcpy(spec, scheme, strlen(scheme));
    memcpy(spec + strlen(scheme), dir, dir_length);
    spec[length] = 0;
    fm_status status = fm_fs_open(spec, 0, &spot->fs);
    fm_base_arena_clear(&arena);
    FM_TRY(status);
    while (*path == '/')
        path++;
    int written = snprintf(spot->path, sizeof spot->path, "%s", *path ? path : ".");
    while (written > 1 && spot->path[written - 1] == '/')
        spot->path[--written] = 0;
    const char *slash = strrchr(spot->path, '/');
    const char *name = slash ? slash + 1 : spot->path;
    if (written >= (int)sizeof spot->path || strlen(name) > FM_FS_NAME_MAX) {
        fm_fs_close(spot->fs);
        return fm_base_error_set(FM_ERR_LIMIT, "%s: a name or path that is too long", path);
    }
    snprintf(spot->name, sizeof spot->name, "%s", strcmp(name, ".") == 0 ? "" : name);
    return FM_OK;
}

// A path of this machine: the directory it lies in, resolved, is the root; so ".." and links above do not matter.
static fm_status open_local(struct spot *spot, const char *text)
{
    struct stat info;
    char *real = NULL;
    const char *slash = strrchr(text, '/');
    const char *name = slash ? slash + 1 : text;
    if (stat(text, &info) == 0 && S_ISDIR(info.st_mode)) {
        real = realpath(text, NULL);
        if (!real)
            return fm_base_file_error(errno, "%s", text);
        fm_status status = open_fs(spot, "dir:", real, strlen(real), ".");
        const char *last = strrchr(real, '/');
        if (status == FM_OK)
            snprintf(spot->name, sizeof spot->name, "%s", last ? last + 1 : real);
        free(real);
        return status;
    }
    fm_arena arena = {0};
    char *parent = fm_base_arena_strndup(&arena, text, slash ? (size_t)(slash - text) + 1 : 0);
    real = realpath(parent && *parent ? parent : ".", NULL);
    fm_status status = real ? open_fs(spot, "dir:", real, strlen(real), name)
                            : fm_base_file_error(errno, "%s", parent && *parent ? parent : ".");
    free(real);
    fm_base_arena_clear(&arena);
    return status;
}

static fm_status open_spot(struct spot *spot, const char *text)
{
    const char *colon = fm_cmd_place_is(text) ? strstr(text, ":/") : NULL;
    if (colon)
        return open_fs(spot, "cluster:", text, (size_t)(colon - text), colon + 1);
    return open_local(spot, text);
}

static fm_status join(const char *dir, const char *name, char out_path[FM_FS_PATH_MAX + 1])
{
    int length = strcmp(dir, ".") == 0 ? snprintf(out_path, FM_FS_PATH_MAX + 1, "%s", name)
                                       : snprintf(out_path, FM_FS_PATH_MAX + 1, "%s/%s", dir, name);
    if (length > FM_FS_PATH_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s/%s is longer than %d bytes", dir, name, FM_FS_PATH_MAX);
    return FM_OK;
}

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
        status = join(from, entry->name, below);
        if (status == FM_OK)
            status = join(to, entry->name, to_below);
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
static fm_status copy_one(struct copy *copy, const struct spot *from, const struct spot *to, int recursive,
                          int into)
{
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_info info;
    snprintf(path, sizeof path, "%s", to->path);
    FM_TRY(fm_fs_stat(from->fs, from->path, &info));
    if (into && *from->name)
        FM_TRY(join(to->path, from->name, path));
    copy->from = from->fs;
    copy->to = to->fs;
    if (info.type == FM_FS_TYPE_DIR && !recursive)
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "%s is a directory; -r copies directories", from->path);
    return info.type == FM_FS_TYPE_DIR ? copy_tree(copy, from->path, path)
                                       : copy_file(copy, from->path, path);
}

static fm_status copy_all(const fm_invocation *invocation, const struct file_options *options,
                          struct copy *copy)
{
    struct spot to;
    fm_fs_info info;
    int last = invocation->operand_count - 1;
    FM_TRY(open_spot(&to, invocation->operands[last]));
    int into = fm_fs_stat(to.fs, to.path, &info) == FM_OK && info.type == FM_FS_TYPE_DIR;
    fm_status status = FM_OK;
    if (last > 1 && !into)
        status = fm_base_error_set(FM_ERR_FS_NOT_DIR, "%s is not a directory; expected one for %d sources",
                                   invocation->operands[last], last);
    for (int i = 0; i < last && status == FM_OK; i++) {
        struct spot from;
        status = open_spot(&from, invocation->operands[i]);
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
        struct spot spot;
        if (!fm_cmd_place_is(invocation->operands[i]))
            return fm_base_error_set(FM_ERR_ARG, "%s is no place in a cluster; expected CLUSTER:/PATH",
                                     invocation->operands[i]);
        FM_TRY(open_spot(&spot, invocation->operands[i]));
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
