// The front end: checks arguments, brings paths into canonical form, and hands over to the back end.
#include "fs_backend.h"

#include <string.h>

#include "fathom/mem.h"

static const struct fm_fs_ops *const backends[] = {&fm_fs_dir_ops, &fm_fs_cluster_ops, NULL};

static fm_status check_flags(const char *function, unsigned flags, unsigned allowed)
{
    if (flags & ~allowed)
        return fm_base_error_set(FM_ERR_ARG, "%s: flags are 0x%x; expected only bits of 0x%x", function,
                                 flags, allowed);
    return FM_OK;
}

// The scheme of "scheme:rest" has at least two letters, digits, '+', '-' or '.' and begins with a letter; 0
// when `spec` is a plain path.
static size_t scheme_length(const char *spec)
{
    size_t length = strspn(spec, "abcdefghijklmnopqrstuvwxyz0123456789+-.");
    return length >= 2 && spec[0] >= 'a' && spec[length] == ':' ? length : 0;
}

fm_status fm_fs_open(const char *spec, unsigned flags, fm_fs **out_fs)
{
    FM_TRY(check_flags("fm_fs_open", flags, FM_FS_CREATE));
    if (!spec || !*spec)
        return fm_base_error_set(FM_ERR_ARG, "spec is %s; expected dir:PATH or PATH",
                                 spec ? "empty" : "NULL");
    size_t scheme = scheme_length(spec);
    const char *where = scheme ? spec + scheme + 1 : spec;
    if (!*where)
        return fm_base_error_set(FM_ERR_ARG, "spec is \"%s\"; expected a path after the colon", spec);
    for (const struct fm_fs_ops *const *each = backends; *each; each++) {
        const struct fm_fs_ops *ops = *each;
        if (scheme && (strlen(ops->scheme) != scheme || memcmp(ops->scheme, spec, scheme) != 0))
            continue; // a plain path goes to the first back end
        return ops->open(where, flags, out_fs);
    }
    return fm_base_error_set(FM_ERR_UNSUPPORTED,
                             "no file system is known by the scheme \"%.*s\" of \"%s\"; expected dir:PATH, "
                             "cluster:DIR or PATH (a path "
                             "that begins so is written \"./%s\")",
                             (int)scheme, spec, spec, spec);
}

void fm_fs_close(fm_fs *fs)
{
    if (fs)
        fs->ops->close(fs);
}

fm_status fm_fs_stat(fm_fs *fs, const char *path, fm_fs_info *out_info)
{
    char name[FM_FS_PATH_MAX + 1];
    FM_TRY(fm_fs_path_canonical(path, "path", name));
    return fs->ops->stat(fs, name, out_info);
}

// Makes each prefix of `path` in turn; what exists already shows itself as a directory or not at the next
// component.
static fm_status make_parents(fm_fs *fs, char *path)
{
    for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        fm_status status = fs->ops->mkdir(fs, path);
        *slash = '/';
        if (status < 0 && status != FM_ERR_EXISTS)
            return status;
    }
    return FM_OK;
}

fm_status fm_fs_mkdir(fm_fs *fs, const char *path, unsigned flags)
{
    char name[FM_FS_PATH_MAX + 1];
    FM_TRY(check_flags("fm_fs_mkdir", flags, FM_FS_PARENTS));
    FM_TRY(fm_fs_path_canonical(path, "path", name));
    if (flags & FM_FS_PARENTS)
        FM_TRY(make_parents(fs, name));
    fm_status status = *name ? fs->ops->mkdir(fs, name) : fm_base_error_set(FM_ERR_EXISTS, "the root exists");
    if (status != FM_ERR_EXISTS || !(flags & FM_FS_PARENTS))
        return status;
    fm_fs_info info;
    FM_TRY(fs->ops->stat(fs, name, &info));
    if (info.type != FM_FS_TYPE_DIR)
        return fm_base_error_set(FM_ERR_EXISTS, "%s exists and is not a directory", name);
    return FM_OK;
}

// For calls that change a name: the root has none.
static fm_status canonical_not_root(const char *path, const char *what, char out_path[FM_FS_PATH_MAX + 1])
{
    FM_TRY(fm_fs_path_canonical(path, what, out_path));
    if (!*out_path)
        return fm_base_error_set(FM_ERR_ARG, "%s is \"%s\", the root; expected something below it", what,
                                 path);
    return FM_OK;
}

fm_status fm_fs_unlink(fm_fs *fs, const char *path)
{
    char name[FM_FS_PATH_MAX + 1];
    FM_TRY(canonical_not_root(path, "path", name));
    return fs->ops->unlink(fs, name);
}

fm_status fm_fs_rmdir(fm_fs *fs, const char *path)
{
    char name[FM_FS_PATH_MAX + 1];
    FM_TRY(canonical_not_root(path, "path", name));
    return fs->ops->rmdir(fs, name);
}

fm_status fm_fs_remove_all(fm_fs *fs, const char *path)
{
    char name[FM_FS_PATH_MAX + 1];
    FM_TRY(canonical_not_root(path, "path", name));
    return fs->ops->remove_all(fs, name);
}

fm_status fm_fs_rename(fm_fs *fs, const char *from, const char *to, unsigned flags)
{
    char old_name[FM_FS_PATH_MAX + 1];
    char new_name[FM_FS_PATH_MAX + 1];
    FM_TRY(check_flags("fm_fs_rename", flags, FM_FS_EXCLUSIVE));
    FM_TRY(canonical_not_root(from, "from", old_name));
    FM_TRY(canonical_not_root(to, "to", new_name));
    return fs->ops->rename(fs, old_name, new_name, flags);
}

fm_status fm_fs_link(fm_fs *fs, const char *from, const char *to)
{
    char old_name[FM_FS_PATH_MAX + 1];
    char new_name[FM_FS_PATH_MAX + 1];
    FM_TRY(canonical_not_root(from, "from", old_name));
    FM_TRY(canonical_not_root(to, "to", new_name));
    if (!fs->ops->link)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "%s file systems give files one name", fs->ops->scheme);
    return fs->ops->link(fs, old_name, new_name);
}

fm_status fm_fs_dir_sync(fm_fs *fs, const char *path)
{
    char name[FM_FS_PATH_MAX + 1];
    FM_TRY(fm_fs_path_canonical(path, "path", name));
    return fs->ops->dir_sync(fs, name);
}

fm_status fm_fs_local_path(fm_fs *fs, const char *path, char *out_path, size_t size)
{
    char name[FM_FS_PATH_MAX + 1];
    FM_TRY(fm_fs_path_canonical(path, "path", name));
    if (!fs->ops->local_path)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "files of \"%s:\" have no path on this machine",
                                 fs->ops->scheme);
    return fs->ops->local_path(fs, name, out_path, size);
}

fm_status fm_fs_list_open(fm_fs *fs, const char *path, fm_fs_list **out_list)
{
    char name[FM_FS_PATH_MAX + 1];
    fm_fs_list *list;
    FM_TRY(fm_fs_path_canonical(path, "path", name));
    FM_TRY(fs->ops->list_open(fs, name, &list));
    list->fs = fs;
    *out_list = list;
    return FM_OK;
}

fm_status fm_fs_list_next(fm_fs_list *list, const fm_fs_entry **out_entry)
{
    return list->fs->ops->list_next(list, out_entry);
}

void fm_fs_list_close(fm_fs_list *list)
{
    if (list)
        list->fs->ops->list_close(list);
}

fm_status fm_fs_file_open(fm_fs *fs, const char *path, unsigned flags, fm_fs_file **out_file)
{
    const unsigned for_writing = FM_FS_CREATE | FM_FS_EXCLUSIVE | FM_FS_TRUNCATE | FM_FS_EAGER;
    char name[FM_FS_PATH_MAX + 1];
    FM_TRY(check_flags("fm_fs_file_open", flags, FM_FS_READ | FM_FS_WRITE | FM_FS_RANDOM | for_writing));
    if (!(flags & (FM_FS_READ | FM_FS_WRITE)) || (!(flags & FM_FS_WRITE) && (flags & for_writing)) ||
        ((flags & FM_FS_EXCLUSIVE) && !(flags & FM_FS_CREATE)))
        return fm_base_error_set(FM_ERR_ARG,
                                 "flags are 0x%x; expected FM_FS_READ or FM_FS_WRITE; FM_FS_CREATE, "
                                 "FM_FS_TRUNCATE and FM_FS_EAGER "
                                 "need FM_FS_WRITE, FM_FS_EXCLUSIVE needs FM_FS_CREATE",
                                 flags);
    FM_TRY(fm_fs_path_canonical(path, "path", name));
    if (!*name)
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "path is \"%s\", the root; expected a file", path);
    char *kept = fm_base_mem_strdup(name);
    if (!kept)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to open %s", name);
    fm_fs_file *file;
    fm_status status = fs->ops->file_open(fs, name, flags, &file);
    if (status < 0) {
        fm_base_mem_free(kept);
        return status;
    }
    file->fs = fs;
    file->flags = flags;
    file->path = kept;
    *out_file = file;
    return FM_OK;
}

void fm_fs_file_close(fm_fs_file *file)
{
    if (!file)
        return;
    char *path = file->path;
    file->fs->ops->file_close(file);
    fm_base_mem_free(path);
}

fm_status fm_fs_file_check(const fm_fs_file *file, unsigned mode, const void *buffer, size_t length,
                           uint64_t offset)
{
    if (!(file->flags & mode))
        return fm_base_error_set(FM_ERR_STATE, "%s is not open for %s", file->path,
                                 mode == FM_FS_READ ? "reading" : "writing");
    if (offset > INT64_MAX || length > INT64_MAX - offset)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: %zu bytes at offset %llu end beyond 2^63 - 1", file->path,
                                 length, (unsigned long long)offset);
    if (!buffer && length > 0)
        return fm_base_error_set(FM_ERR_ARG, "%s: the buffer for %zu bytes is NULL", file->path, length);
    return FM_OK;
}

fm_status fm_fs_file_stat(fm_fs_file *file, fm_fs_info *out_info)
{
    return file->fs->ops->file_stat(file, out_info);
}

fm_status fm_fs_file_read(fm_fs_file *file, void *buffer, size_t length, uint64_t offset, size_t *out_length)
{
    FM_TRY(fm_fs_file_check(file, FM_FS_READ, buffer, length, offset));
    if (length == 0) {
        *out_length = 0;
        return FM_OK;
    }
    return file->fs->ops->file_read(file, buffer, length, offset, out_length);
}

fm_status fm_fs_file_write(fm_fs_file *file, const void *data, size_t length, uint64_t offset)
{
    FM_TRY(fm_fs_file_check(file, FM_FS_WRITE, data, length, offset));
    return length == 0 ? FM_OK : file->fs->ops->file_write(file, data, length, offset);
}

fm_status fm_fs_file_truncate(fm_fs_file *file, uint64_t size)
{
    FM_TRY(fm_fs_file_check(file, FM_FS_WRITE, NULL, 0, size));
    return file->fs->ops->file_truncate(file, size);
}

fm_status fm_fs_file_sync(fm_fs_file *file)
{
    return file->fs->ops->file_sync(file);
}
