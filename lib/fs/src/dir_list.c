// The plain-directory back end: lists. The kernel gives entries in an order of its own, so all are read and
// sorted.
#include "dir_fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/mem.h"

struct dir_list {
    fm_fs_list base;
    fm_fs_entry *entries;
    size_t count;
    size_t capacity;
    size_t next;
    fm_arena names;
};

static fm_fs_type entry_type(int dir, const struct dirent *entry)
{
    struct stat info;
    switch (entry->d_type) {
    case DT_REG:
        return FM_FS_TYPE_FILE;
    case DT_DIR:
        return FM_FS_TYPE_DIR;
    case DT_LNK:
        return FM_FS_TYPE_LINK;
    case DT_UNKNOWN: // some media keep no types in directories
        if (fstatat(dir, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0)
            return fm_fs_dir_type(info.st_mode);
        return FM_FS_TYPE_OTHER;
    default:
        return FM_FS_TYPE_OTHER;
    }
}

static fm_status append(struct dir_list *list, int dir, const struct dirent *entry)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        fm_fs_entry *moved = fm_base_mem_realloc(list->entries, capacity, sizeof *moved);
        if (!moved)
            return FM_ERR_NOMEM;
        list->entries = moved;
        list->capacity = capacity;
    }
    const char *name = fm_base_arena_strndup(&list->names, entry->d_name, strlen(entry->d_name));
    if (!name)
        return FM_ERR_NOMEM;
    list->entries[list->count++] = (fm_fs_entry){.name = name, .type = entry_type(dir, entry)};
    return FM_OK;
}

static fm_status read_all(fm_fs *fs, struct dir_list *list, DIR *dir, const char *path)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry)
            return errno ? fm_fs_dir_error(fs, errno, "list", path) : FM_OK;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (append(list, dirfd(dir), entry) < 0)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory to list %s", path);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const fm_fs_entry *)a)->name, ((const fm_fs_entry *)b)->name);
}

fm_status fm_fs_dir_list_open(fm_fs *fs, const char *path, fm_fs_list **out_list)
{
    int fd = fm_fs_dir_open_below((struct dir_fs *)fs, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fm_fs_dir_open_error(fs, errno, "list", path);
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int err = errno;
        close(fd);
        return fm_fs_dir_error(fs, err, "list", path);
    }
    struct dir_list *list = fm_base_mem_zalloc(1, sizeof *list);
    if (!list) {
        closedir(dir);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to list %s", path);
    }
    fm_status status = read_all(fs, list, dir, path);
    closedir(dir);
    if (status < 0) {
        fm_fs_dir_list_close(&list->base);
        return status;
    }
    if (list->count > 0)
        qsort(list->entries, list->count, sizeof *list->entries, by_name);
    *out_list = &list->base;
    return FM_OK;
}

fm_status fm_fs_dir_list_next(fm_fs_list *base, const fm_fs_entry **out_entry)
{
    struct dir_list *list = (struct dir_list *)base;
    *out_entry = list->next < list->count ? &list->entries[list->next++] : NULL;
    return FM_OK;
}

void fm_fs_dir_list_close(fm_fs_list *base)
{
    struct dir_list *list = (struct dir_list *)base;
    fm_base_arena_clear(&list->names);
    fm_base_mem_free(list->entries);
    fm_base_mem_free(list);
}
