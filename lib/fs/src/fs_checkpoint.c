#include "fathom/fs_checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/mem.h"
#include "fs_backend.h"

static const char staging_prefix[] = ".staging-";
static const char version_prefix[] = "step-";

enum {
    // Wide enough that any run's names sort as its steps do; larger steps are right all the same, find
    // compares numbers.
    STEP_DIGITS = 9,
    NAME_BYTES = sizeof staging_prefix + 20 // 2^64 has 20 digits
};

static fm_status path_of(const char *folder, const char *prefix, uint64_t step, char *out_path)
{
    char dir[FM_FS_PATH_MAX + 1];
    char name[NAME_BYTES];
    FM_TRY(fm_fs_path_canonical(folder, "folder", dir));
    snprintf(name, sizeof name, "%s%0*" PRIu64, prefix, STEP_DIGITS, step);
    return fm_fs_path_join(dir, name, out_path);
}

fm_status fm_fs_checkpoint_staging_path(const char *folder, uint64_t step, char out_path[FM_FS_PATH_MAX + 1])
{
    return path_of(folder, staging_prefix, step, out_path);
}

fm_status fm_fs_checkpoint_path(const char *folder, uint64_t step, char out_path[FM_FS_PATH_MAX + 1])
{
    return path_of(folder, version_prefix, step, out_path);
}

// Whether the entry is a published version. Only the one spelling that path_of() gives a step counts.
static int is_version(const fm_fs_entry *entry, uint64_t *out_step)
{
    char name[NAME_BYTES];
    size_t prefix = strlen(version_prefix);
    if (entry->type != FM_FS_TYPE_DIR || strncmp(entry->name, version_prefix, prefix) != 0)
        return 0;
    uint64_t step = strtoull(entry->name + prefix, NULL, 10);
    snprintf(name, sizeof name, "%s%0*" PRIu64, version_prefix, STEP_DIGITS, step);
    *out_step = step;
    return strcmp(name, entry->name) == 0;
}

// Calls `visit` for each entry of `dir` until it fails.
static fm_status each_entry(fm_fs *fs, const char *dir,
                            fm_status (*visit)(void *context, const char *path, const fm_fs_entry *entry),
                            void *context)
{
    char path[FM_FS_PATH_MAX + 1];
    char canonical[FM_FS_PATH_MAX + 1];
    fm_fs_list *list;
    const fm_fs_entry *entry;
    FM_TRY(fm_fs_path_canonical(dir, "folder", canonical));
    FM_TRY(fm_fs_list_open(fs, dir, &list));
    fm_status status;
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        status = fm_fs_path_join(canonical, entry->name, path);
        if (status == FM_OK)
            status = visit(context, path, entry);
        if (status < 0)
            break;
    }
    fm_fs_list_close(list);
    return status;
}

static fm_status remove_left_over(void *context, const char *path, const fm_fs_entry *entry)
{
    if (strncmp(entry->name, staging_prefix, strlen(staging_prefix)) == 0 ||
        strncmp(entry->name, FM_FS_TMP_PREFIX, strlen(FM_FS_TMP_PREFIX)) == 0)
        return fm_fs_remove_all(context, path);
    return FM_OK;
}

// Makes the names of `path`'s directories durable, from the root down.
static fm_status sync_parents(fm_fs *fs, const char *path)
{
    char prefix[FM_FS_PATH_MAX + 1];
    FM_TRY(fm_fs_path_canonical(path, "folder", prefix));
    if (!*prefix)
        return FM_OK;
    FM_TRY(fm_fs_dir_sync(fs, "."));
    for (char *slash = strchr(prefix, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        FM_TRY(fm_fs_dir_sync(fs, prefix));
        *slash = '/';
    }
    return FM_OK;
}

static fm_status is_there(fm_fs *fs, const char *path, int *out_there)
{
    fm_fs_info info;
    fm_status status = fm_fs_stat(fs, path, &info);
    if (status < 0 && status != FM_ERR_NOT_FOUND)
        return status;
    *out_there = status == FM_OK;
    return FM_OK;
}

fm_status fm_fs_checkpoint_begin(fm_fs *fs, const char *folder, uint64_t step)
{
    char path[FM_FS_PATH_MAX + 1];
    int there;
    FM_TRY(fm_fs_checkpoint_path(folder, step, path));
    FM_TRY(fm_fs_mkdir(fs, folder, FM_FS_PARENTS));
    FM_TRY(sync_parents(fs, folder));
    FM_TRY(is_there(fs, path, &there));
    if (there)
        return fm_base_error_set(FM_ERR_EXISTS, "checkpoint %s is published already", path);
    FM_TRY(each_entry(fs, folder, remove_left_over, fs));
    FM_TRY(fm_fs_checkpoint_staging_path(folder, step, path));
    return fm_fs_mkdir(fs, path, 0);
}

fm_status fm_fs_checkpoint_refer(fm_fs *fs, const char *folder, uint64_t step, uint64_t from,
                                 const char *name)
{
    char below[FM_FS_PATH_MAX + 1];
    char staging[FM_FS_PATH_MAX + 1];
    char old[FM_FS_PATH_MAX + 1];
    char parent[FM_FS_PATH_MAX + 1];
    fm_fs_info info;
    FM_TRY(fm_fs_path_canonical(name, "name", below));
    FM_TRY(fm_fs_checkpoint_path(folder, from, old));
    FM_TRY(fm_fs_checkpoint_staging_path(folder, step, staging));
    FM_TRY(fm_fs_stat(fs, staging, &info)); // a version that nobody began is not made here
    FM_TRY(fm_fs_path_join(old, below, old));
    FM_TRY(fm_fs_stat(fs, old, &info));
    FM_TRY(fm_fs_path_join(staging, below, staging));
    fm_fs_path_parent(staging, parent);
    FM_TRY(fm_fs_mkdir(fs, parent, FM_FS_PARENTS));
    return fm_fs_link(fs, old, staging);
}

// Directories that are still to be synced: a stack, so that depth costs memory and not the call stack.
struct sync_walk {
    fm_fs *fs;
    char **dirs;
    size_t count;
    size_t capacity;
    size_t files;
};

static fm_status push_dir(struct sync_walk *walk, const char *path)
{
    if (walk->count == walk->capacity) {
        size_t capacity = walk->capacity ? 2 * walk->capacity : 16;
        char **moved = fm_base_mem_realloc(walk->dirs, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory to publish %s", path);
        walk->dirs = moved;
        walk->capacity = capacity;
    }
    char *copy = fm_base_mem_strdup(path);
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to publish %s", path);
    walk->dirs[walk->count++] = copy;
    return FM_OK;
}

static fm_status sync_entry(void *context, const char *path, const fm_fs_entry *entry)
{
    struct sync_walk *walk = context;
    fm_fs_file *file;
    if (entry->type == FM_FS_TYPE_DIR)
        return push_dir(walk, path);
    if (entry->type != FM_FS_TYPE_FILE)
        return fm_base_error_set(
            FM_ERR_STATE, "%s is neither a file nor a directory; a checkpoint holds nothing else", path);
    walk->files++;
    FM_TRY(fm_fs_file_open(walk->fs, path, FM_FS_READ, &file));
    fm_status status = fm_fs_file_sync(file);
    fm_fs_file_close(file);
    return status;
}

static fm_status sync_tree(fm_fs *fs, const char *top)
{
    struct sync_walk walk = {.fs = fs};
    fm_status status = push_dir(&walk, top);
    while (status == FM_OK && walk.count > 0) {
        char *dir = walk.dirs[--walk.count];
        status = each_entry(fs, dir, sync_entry, &walk);
        if (status == FM_OK)
            status = fm_fs_dir_sync(fs, dir);
        fm_base_mem_free(dir);
    }
    while (walk.count > 0)
        fm_base_mem_free(walk.dirs[--walk.count]);
    fm_base_mem_free(walk.dirs);
    if (status == FM_OK && walk.files == 0)
        return fm_base_error_set(FM_ERR_STATE, "%s holds no file; expected what is to be published", top);
    return status;
}

fm_status fm_fs_checkpoint_publish(fm_fs *fs, const char *folder, uint64_t step)
{
    char staging[FM_FS_PATH_MAX + 1];
    char version[FM_FS_PATH_MAX + 1];
    char latest[FM_FS_PATH_MAX + 1];
    char text[NAME_BYTES + 1];
    int there;
    FM_TRY(fm_fs_checkpoint_staging_path(folder, step, staging));
    FM_TRY(fm_fs_checkpoint_path(folder, step, version));
    fm_fs_path_parent(version, latest);
    FM_TRY(fm_fs_path_join(latest, "latest", latest));
    FM_TRY(is_there(fs, version, &there));
    if (!there) {
        FM_TRY(sync_tree(fs, staging));
        // Not an exclusive rename: not every medium has one, and the publisher is alone.
        FM_TRY(fm_fs_rename(fs, staging, version, 0));
    }
    FM_TRY(fm_fs_dir_sync(fs, folder));
    snprintf(text, sizeof text, "%s\n", fm_fs_path_leaf(version));
    return fm_fs_write_all(fs, latest, text, strlen(text), 0);
}

struct search {
    uint64_t at_most;
    uint64_t best;
    int found;
};

static fm_status search_version(void *context, const char *path, const fm_fs_entry *entry)
{
    struct search *search = context;
    uint64_t step;
    (void)path;
    if (is_version(entry, &step) && step <= search->at_most && (!search->found || step > search->best)) {
        search->best = step;
        search->found = 1;
    }
    return FM_OK;
}

fm_status fm_fs_checkpoint_find(fm_fs *fs, const char *folder, uint64_t at_most, uint64_t *out_step)
{
    struct search search = {.at_most = at_most};
    FM_TRY(each_entry(fs, folder, search_version, &search));
    if (!search.found)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s holds no complete checkpoint up to step %" PRIu64,
                                 folder, at_most);
    *out_step = search.best;
    return FM_OK;
}

struct prune {
    fm_fs *fs;
    uint64_t oldest_kept;
};

static fm_status remove_old(void *context, const char *path, const fm_fs_entry *entry)
{
    const struct prune *prune = context;
    uint64_t step;
    return is_version(entry, &step) && step < prune->oldest_kept ? fm_fs_remove_all(prune->fs, path) : FM_OK;
}

fm_status fm_fs_checkpoint_prune(fm_fs *fs, const char *folder, size_t keep)
{
    struct prune prune = {.fs = fs};
    uint64_t at_most = UINT64_MAX;
    if (keep < 1)
        return fm_base_error_set(FM_ERR_ARG, "keep is 0; expected at least 1");
    for (size_t i = 0; i < keep; i++) {
        fm_status status = fm_fs_checkpoint_find(fs, folder, at_most, &prune.oldest_kept);
        if (status == FM_ERR_NOT_FOUND || (status == FM_OK && prune.oldest_kept == 0))
            return FM_OK; // nothing is older than what is kept
        FM_TRY(status);
        at_most = prune.oldest_kept - 1;
    }
    // The versions that stay must be there for good before the others go: one may have been published by a
    // run that was killed before it synced.
    FM_TRY(fm_fs_dir_sync(fs, folder));
    return each_entry(fs, folder, remove_old, &prune);
}
