#include "pond_target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "pond_fs.h"

enum {
    SMALL_FILE_BYTES = 1 << 20, // what is read whole: a manifest
    COPY_BYTES = 4 << 20
};

fm_status fm_pond_target_open(const char *given, fm_pond_target *out_target)
{
    fm_pond_target target = {0};
    const char *path = given;
    fm_status status = FM_OK;
    if (fm_pond_fs_is(given)) {
        status = fm_pond_fs_open(given, FM_FS_CREATE, &target.fs, &path);
        if (status == FM_OK)
            status = fm_pond_fs_local(target.fs, path, &target.path);
        if (status == FM_OK && target.path.length) {
            fm_fs_close(target.fs);
            target.fs = NULL;
        }
    }
    if (status == FM_OK && !target.path.length)
        fm_pond_text_add(&target.path, "%s", path);
    while (target.path.length > 1 && target.path.text[target.path.length - 1] == '/')
        target.path.text[--target.path.length] = '\0';
    if (status == FM_OK)
        status = fm_pond_text_status(&target.path);
    if (status < 0)
        fm_pond_target_close(&target);
    else
        *out_target = target;
    return status;
}

void fm_pond_target_close(fm_pond_target *target)
{
    fm_fs_close(target->fs);
    fm_pond_text_clear(&target->path);
    target->fs = NULL;
}

fm_status fm_pond_target_look(const fm_pond_target *target, const char *path, fm_pond_target_kind *out_kind)
{
    if (!target->fs) {
        struct stat info;
        if (stat(path, &info) != 0 && errno != ENOENT)
            return fm_base_file_error(errno, "%s", path);
        *out_kind = stat(path, &info) != 0  ? FM_POND_NOTHING
                    : S_ISDIR(info.st_mode) ? FM_POND_FOLDER
                                            : FM_POND_OTHER;
        return FM_OK;
    }
    fm_fs_info info;
    fm_status status = fm_fs_stat(target->fs, path, &info);
    if (status < 0 && status != FM_ERR_NOT_FOUND)
        return status;
    *out_kind = status == FM_ERR_NOT_FOUND    ? FM_POND_NOTHING
                : info.type == FM_FS_TYPE_DIR ? FM_POND_FOLDER
                                              : FM_POND_OTHER;
    return FM_OK;
}

fm_status fm_pond_target_is_empty(const fm_pond_target *target, const char *folder, int *out_empty)
{
    int empty = 1;
    if (target->fs) {
        fm_fs_list *list;
        const fm_fs_entry *entry;
        fm_status status = fm_fs_list_open(target->fs, folder, &list);
        if (status == FM_OK) {
            status = fm_fs_list_next(list, &entry);
            empty = status == FM_OK && !entry;
            fm_fs_list_close(list);
        }
        if (status < 0 && status != FM_ERR_NOT_FOUND)
            return status;
        *out_empty = empty;
        return FM_OK;
    }
    DIR *open_folder = opendir(folder);
    if (!open_folder && errno != ENOENT)
        return fm_base_file_error(errno, "%s", folder);
    for (struct dirent *entry; open_folder && (entry = readdir(open_folder));)
        empty &= strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    if (open_folder)
        closedir(open_folder);
    *out_empty = empty;
    return FM_OK;
}

fm_status fm_pond_target_read(const fm_pond_target *target, const char *path, char **out_bytes,
                              size_t *out_length)
{
    void *bytes = NULL;
    char *text = NULL;
    size_t length = 0;
    fm_status status = target->fs ? fm_fs_read_all(target->fs, path, SMALL_FILE_BYTES, &bytes, &length)
                                  : fm_base_file_read(path, SMALL_FILE_BYTES, &text, &length);
    if (status < 0 && status != FM_ERR_NOT_FOUND)
        return status;
    *out_bytes = status < 0 ? NULL : target->fs ? bytes : text;
    *out_length = length;
    return FM_OK;
}

fm_status fm_pond_target_save(const fm_pond_target *target, const char *path, const void *bytes,
                              size_t length)
{
    return target->fs ? fm_fs_write_all(target->fs, path, bytes, length, 0)
                      : fm_base_file_save(path, bytes, length);
}

fm_status fm_pond_target_make_folder(const fm_pond_target *target, const char *path)
{
    return target->fs ? fm_fs_mkdir(target->fs, path, FM_FS_PARENTS) : fm_base_dir_create(path);
}

static fm_status sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fm_base_file_error(errno, "%s", path);
    int failed = fsync(fd);
    int err = errno;
    close(fd);
    return failed ? fm_base_file_error(err, "%s", path) : FM_OK;
}

static fm_status copy_here(int source, const char *to)
{
    int target = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    fm_status status = target < 0 ? fm_base_file_error(errno, "%s", to) : FM_OK;
    for (ssize_t moved = 1; status == FM_OK && moved != 0;) {
        moved = sendfile(target, source, NULL, (size_t)64 << 20);
        if (moved < 0 && errno != EINTR)
            status = fm_base_file_error(errno, "%s", to);
    }
    if (target >= 0 && close(target) != 0 && status == FM_OK)
        status = fm_base_file_error(errno, "%s", to);
    return status;
}

static fm_status copy_there(const fm_pond_target *target, int source, const char *from, const char *to)
{
    fm_fs_writer *writer;
    char *block = fm_base_mem_alloc(COPY_BYTES);
    if (!block)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to copy a file");
    fm_status status = fm_fs_writer_open(target->fs, to, 0, &writer);
    if (status == FM_OK) {
        ssize_t got;
        while ((got = read(source, block, COPY_BYTES)) != 0 && status == FM_OK) {
            if (got < 0 && errno != EINTR)
                status = fm_base_file_error(errno, "%s", from);
            else if (got > 0)
                status = fm_fs_writer_write(writer, block, (size_t)got);
        }
        if (status == FM_OK)
            status = fm_fs_writer_commit(writer);
        else
            fm_fs_writer_discard(writer);
    }
    fm_base_mem_free(block);
    return status;
}

fm_status fm_pond_target_put(const fm_pond_target *target, const char *from, const char *to)
{
    if (!target->fs && link(from, to) == 0)
        return sync_path(to);
    if (!target->fs && errno == EEXIST)
        return FM_OK;
    int source = open(from, O_RDONLY | O_CLOEXEC);
    if (source < 0)
        return fm_base_file_error(errno, "%s", from);
    fm_status status = target->fs ? copy_there(target, source, from, to) : copy_here(source, to);
    close(source);
    return status < 0 || target->fs ? status : sync_path(to);
}

fm_status fm_pond_target_sync_folder(const fm_pond_target *target, const char *path)
{
    return target->fs ? fm_fs_dir_sync(target->fs, path) : sync_path(path);
}

fm_status fm_pond_target_remove(const fm_pond_target *target, const char *path)
{
    if (!target->fs)
        return fm_base_dir_remove(path);
    fm_status status = fm_fs_remove_all(target->fs, path);
    return status == FM_ERR_NOT_FOUND ? FM_OK : status;
}

static fm_status move(const fm_pond_target *target, const char *from, const char *to)
{
    if (target->fs)
        return fm_fs_rename(target->fs, from, to, 0);
    return rename(from, to) != 0 ? fm_base_file_error(errno, "%s", to) : FM_OK;
}

fm_status fm_pond_target_replace(const fm_pond_target *target, const char *draft, const char *path)
{
    // Where two names can change places, nobody ever sees neither folder.
    if (!target->fs && renameat2(AT_FDCWD, draft, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
        return fm_base_dir_remove(draft);
    fm_pond_text old = {0};
    fm_pond_text_add(&old, "%s.old", draft);
    fm_status status = fm_pond_text_status(&old);
    if (status == FM_OK)
        status = move(target, path, old.text);
    if (status == FM_OK || status == FM_ERR_NOT_FOUND)
        status = move(target, draft, path);
    if (status == FM_OK)
        status = fm_pond_target_remove(target, old.text);
    fm_pond_text_clear(&old);
    return status;
}
