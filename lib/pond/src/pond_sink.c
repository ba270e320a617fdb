/*
 * A sink's tasks leave their files in the work folder like all others. When all are done, links of them (copies, on another file
 * system) are made in a folder beside the target, which takes the target's name. The manifest in it says which tasks made it, so
 * that a sink that is there already is known for what it is.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/file.h"
#include "pond_output.h"
#include "pond_run.h"

#define MANIFEST "_manifest.json"

static const char *const extensions[] = {"", "parquet", "csv", "json", "txt", "", "", "", "bin"};
static const char *const task_files[] = {"", "out.parquet", "out.csv", "out.json", "out.txt", "", "",
                                         "", "out.bin"};

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

static fm_status copy_bytes(int from, int to, const char *path)
{
    for (;;) {
        ssize_t moved = sendfile(to, from, NULL, (size_t)64 << 20);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0)
            return moved < 0 ? fm_base_file_error(errno, "%s", path) : FM_OK;
    }
}

static fm_status copy_file(const char *from, const char *to)
{
    int source = open(from, O_RDONLY | O_CLOEXEC);
    if (source < 0)
        return fm_base_file_error(errno, "%s", from);
    int target = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    fm_status status = target < 0 ? fm_base_file_error(errno, "%s", to) : copy_bytes(source, target, to);
    close(source);
    if (target >= 0 && close(target) != 0 && status == FM_OK)
        status = fm_base_file_error(errno, "%s", to);
    return status;
}

static fm_status place_file(const char *from, const char *to)
{
    if (link(from, to) != 0) {
        if (errno == EEXIST)
            return FM_OK; // by this very task: its key is part of the name, or the folder is new
        FM_TRY(copy_file(from, to));
    }
    return sync_path(to);
}

// The folder tree of a hive-partitioned task, with names that say which task made them.
static fm_status place_tree(const char *from, const char *to, const char *prefix)
{
    DIR *folder = opendir(from);
    if (!folder)
        return errno == ENOENT ? FM_OK : fm_base_file_error(errno, "%s", from); // a task without rows
    fm_status status = fm_base_dir_create(to);
    for (struct dirent *entry; status == FM_OK && (entry = readdir(folder));) {
        struct stat info;
        fm_pond_text source = {0}, target = {0};
        if (entry->d_name[0] == '.')
            continue;
        fm_pond_text_add(&source, "%s/%s", from, entry->d_name);
        status = fm_pond_text_status(&source);
        int is_folder = status == FM_OK && stat(source.text, &info) == 0 && S_ISDIR(info.st_mode);
        fm_pond_text_add(&target, is_folder ? "%s/%s%s" : "%s/%s-%s", to, is_folder ? "" : prefix,
                         entry->d_name);
        if (status == FM_OK)
            status = fm_pond_text_status(&target);
        if (status == FM_OK)
            status = is_folder ? place_tree(source.text, target.text, prefix)
                               : place_file(source.text, target.text);
        fm_pond_text_clear(&source);
        fm_pond_text_clear(&target);
    }
    closedir(folder);
    return status;
}

static fm_status place_task(const fm_pond_run *run, int number, int task, const char *folder)
{
    const fm_pond_stage *stage = &run->physical.stages[number];
    const fm_pond_op *op = &run->plan->nodes[stage->node].op;
    const char *key = run->stages[number].made[task].key;
    fm_pond_text from = {0}, to = {0}, prefix = {0};
    if (op->mode == FM_POND_APPEND)
        fm_pond_text_add(&prefix, "part-%.8s-%05d", key, task);
    else
        fm_pond_text_add(&prefix, "part-%05d", task);
    fm_pond_text_add(&from, "%s/%s/%s", run->tasks.text, key, op->schema ? "parts" : task_files[op->format]);
    if (op->schema)
        fm_pond_text_add(&to, "%s", folder);
    else
        fm_pond_text_add(&to, "%s/%s.%s", folder, prefix.text ? prefix.text : "", extensions[op->format]);
    fm_status status = fm_pond_text_status(&from);
    if (status == FM_OK)
        status = fm_pond_text_status(&to);
    if (status == FM_OK)
        status = op->schema ? place_tree(from.text, to.text, prefix.text) : place_file(from.text, to.text);
    fm_pond_text_clear(&from);
    fm_pond_text_clear(&to);
    fm_pond_text_clear(&prefix);
    return status;
}

// {"sink": a digest of the keys of its tasks, "rows"}
static void write_manifest(const fm_pond_run *run, int number, fm_pond_text *out)
{
    const fm_pond_stage_run *stage = &run->stages[number];
    fm_pond_text keys = {0};
    char digest[33];
    uint64_t rows = 0;
    for (int i = 0; i < run->physical.stages[number].tasks; i++) {
        fm_pond_text_add(&keys, "%s", stage->made[i].key);
        rows += stage->made[i].rows;
    }
    fm_pond_text_digest(keys.text ? keys.text : "", keys.length, digest);
    fm_pond_text_add(out, "{\"sink\": \"%s\", \"files\": %d, \"rows\": %llu}\n", digest,
                     run->physical.stages[number].tasks, (unsigned long long)rows);
    out->failed |= keys.failed;
    fm_pond_text_clear(&keys);
}

static int has_manifest(const char *folder, const fm_pond_text *manifest)
{
    fm_pond_text path = {0};
    char *text = NULL;
    size_t length = 0;
    fm_pond_text_add(&path, "%s/" MANIFEST, folder);
    int same = path.text && access(path.text, R_OK) == 0 &&
               fm_base_file_read(path.text, 1 << 20, &text, &length) == FM_OK && length == manifest->length &&
               memcmp(text, manifest->text, length) == 0;
    fm_base_mem_free(text);
    fm_pond_text_clear(&path);
    return same;
}

static int is_empty(const char *folder)
{
    DIR *open_folder = opendir(folder);
    int empty = 1;
    if (!open_folder)
        return 1;
    for (struct dirent *entry; (entry = readdir(open_folder));)
        empty &= strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(open_folder);
    return empty;
}

fm_status fm_pond_sink_check(const fm_pond_run *run, int number)
{
    const fm_pond_op *op = &run->plan->nodes[run->physical.stages[number].node].op;
    struct stat info;
    if (stat(op->paths[0], &info) == 0 && !S_ISDIR(info.st_mode))
        return fm_base_error_set(FM_ERR_EXISTS, "%s is a file; a sink writes a folder", op->paths[0]);
    fm_pond_text path = {0};
    fm_pond_text_add(&path, "%s/" MANIFEST, op->paths[0]);
    int ours = path.text && access(path.text, F_OK) == 0;
    fm_pond_text_clear(&path);
    if (op->mode == FM_POND_ERROR && !is_empty(op->paths[0]) && !ours)
        return fm_base_error_set(FM_ERR_EXISTS, "%s is not empty; expected mode overwrite or append",
                                 op->paths[0]);
    return FM_OK;
}

// The folder takes the target's name; what had it is removed then.
static fm_status exchange(const char *draft, const char *target)
{
    fm_pond_text old = {0};
    fm_pond_text_add(&old, "%s.old", draft);
    fm_status status = fm_pond_text_status(&old);
    if (status == FM_OK && rename(target, old.text) != 0 && errno != ENOENT)
        status = fm_base_file_error(errno, "%s", target);
    if (status == FM_OK && rename(draft, target) != 0)
        status = fm_base_file_error(errno, "%s", target);
    if (status == FM_OK)
        status = fm_base_dir_remove(old.text);
    fm_pond_text_clear(&old);
    return status;
}

static fm_status fill_folder(const fm_pond_run *run, int number, const char *folder,
                             const fm_pond_text *manifest)
{
    fm_pond_text path = {0};
    FM_TRY(fm_base_dir_create(folder));
    for (int i = 0; i < run->physical.stages[number].tasks; i++)
        FM_TRY(place_task(run, number, i, folder));
    fm_pond_text_add(&path, "%s/" MANIFEST, folder);
    fm_status status = fm_pond_text_status(&path);
    if (status == FM_OK)
        status = fm_base_file_save(path.text, manifest->text, manifest->length);
    fm_pond_text_clear(&path);
    return status < 0 ? status : sync_path(folder);
}

fm_status fm_pond_sink_commit(fm_pond_run *run, int number)
{
    const fm_pond_op *op = &run->plan->nodes[run->physical.stages[number].node].op;
    fm_pond_text manifest = {0}, draft = {0};
    write_manifest(run, number, &manifest);
    size_t length = strlen(op->paths[0]);
    while (length > 1 && op->paths[0][length - 1] == '/')
        length--;
    fm_pond_text_add(&draft, "%.*s.%d.tmp", (int)length, op->paths[0], (int)getpid());
    fm_status status = fm_pond_text_status(&manifest);
    if (status == FM_OK)
        status = fm_pond_text_status(&draft);
    if (status == FM_OK && !has_manifest(op->paths[0], &manifest)) {
        if (op->mode == FM_POND_APPEND) {
            status = fill_folder(run, number, op->paths[0], &manifest);
        } else if (op->mode == FM_POND_ERROR && !is_empty(op->paths[0])) {
            status = fm_base_error_set(FM_ERR_EXISTS,
                                       "%s holds what another sink has written; expected mode overwrite "
                                       "or append",
                                       op->paths[0]);
        } else {
            status = fill_folder(run, number, draft.text, &manifest);
            if (status == FM_OK)
                status = exchange(draft.text, op->paths[0]);
            if (status < 0)
                fm_pond_folder_discard(draft.text);
        }
    }
    fm_pond_text_clear(&manifest);
    fm_pond_text_clear(&draft);
    return status;
}
