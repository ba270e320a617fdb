/*
 * The plain-directory back end: removing a tree.
 *
 * The tree's top is renamed to a temporary name, so that its name is gone at once, and this is made
 * durable, so that no power cut brings back a tree half emptied. Then the tree is emptied flat: each
 * directory found in the top has its own directories moved up into the top, under temporary names, and its
 * files removed; then it is empty and goes. So a tree of any depth takes three descriptors and no
 * recursion, at the price of one rename a directory.
 */
#include "dir_fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// Opens a directory, not a link to one, for reading its entries. NULL with errno.
static DIR *open_entries(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int err = errno;
        close(fd);
        errno = err;
    }
    return dir;
}

static const char *next_name(DIR *dir)
{
    for (;;) {
        const struct dirent *entry = readdir(dir);
        if (!entry)
            return NULL;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            return entry->d_name;
    }
}

// Whether unlinkat(name) failed because `name` is a directory. Linux says EISDIR, POSIX allows EPERM.
static int is_directory(int dir, const char *name, int err)
{
    struct stat info;
    return err == EISDIR ||
           (err == EPERM && fstatat(dir, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(info.st_mode));
}

// Removes directory `name` of `top` after its files were removed and its directories moved up. 0, or an
// errno value.
static int dissolve(int top, const char *name)
{
    if (unlinkat(top, name, AT_REMOVEDIR) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return errno;
    DIR *dir = open_entries(top, name);
    if (!dir)
        return errno;
    int err = 0;
    const char *entry;
    while (!err && (entry = next_name(dir))) {
        if (unlinkat(dirfd(dir), entry, 0) == 0)
            continue;
        err = errno;
        if (!is_directory(dirfd(dir), entry, err))
            continue;
        char tmp[FM_FS_TMP_NAME_BYTES];
        fm_fs_tmp_name(tmp);
        err = renameat(dirfd(dir), entry, top, tmp) < 0 ? errno : 0;
    }
    closedir(dir);
    // ENOTEMPTY now means that readdir skipped what was there while entries went; the next pass takes the
    // rest.
    if (!err && unlinkat(top, name, AT_REMOVEDIR) < 0 && errno != ENOTEMPTY && errno != EEXIST)
        err = errno;
    return err;
}

// Empties the directory in passes, because entries come up into it while it is read. 0, or an errno value.
static int empty(DIR *dir)
{
    int top = dirfd(dir);
    for (int found = 1; found;) {
        found = 0;
        rewinddir(dir);
        const char *name;
        while ((name = next_name(dir))) {
            found = 1;
            if (unlinkat(top, name, 0) == 0)
                continue;
            int err = errno;
            if (is_directory(top, name, err))
                err = dissolve(top, name);
            if (err && err != ENOENT)
                return err;
        }
    }
    return 0;
}

// Makes the names in directory `dir`, an O_PATH descriptor, durable. 0, or an errno value.
static int sync_names(int dir)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int err = TEMP_FAILURE_RETRY(fsync(fd)) < 0 ? errno : 0;
    close(fd);
    return err;
}

static fm_status remove_tree(const fm_fs *fs, int parent, const char *path)
{
    char tmp[FM_FS_TMP_NAME_BYTES];
    fm_fs_tmp_name(tmp);
    if (renameat(parent, fm_fs_path_leaf(path), parent, tmp) < 0)
        return fm_fs_dir_error(fs, errno, "remove", path);
    int err = sync_names(parent);
    DIR *dir = err ? NULL : open_entries(parent, tmp);
    if (!err)
        err = dir ? empty(dir) : errno;
    if (dir)
        closedir(dir);
    if (!err && unlinkat(parent, tmp, AT_REMOVEDIR) < 0)
        err = errno;
    if (!err)
        return FM_OK;
    char doing[64];
    snprintf(doing, sizeof doing, "empty %s, which was", tmp);
    return fm_fs_dir_error(fs, err, doing, path);
}

fm_status fm_fs_dir_remove_all(fm_fs *fs, const char *path)
{
    int parent = fm_fs_dir_open_parent((struct dir_fs *)fs, path);
    if (parent < 0)
        return fm_fs_dir_open_error(fs, errno, "remove", path);
    fm_status status = FM_OK;
    if (unlinkat(parent, fm_fs_path_leaf(path), 0) < 0) {
        int err = errno;
        status = is_directory(parent, fm_fs_path_leaf(path), err) ? remove_tree(fs, parent, path)
                                                                  : fm_fs_dir_error(fs, err, "remove", path);
    }
    close(parent);
    return status;
}
