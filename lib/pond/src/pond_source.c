#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/file.h"
#include "pond_fs.h"
#include "pond_stage.h"

struct list {
    fm_arena *arena;
    fm_pond_source_file *files; // of the heap while it grows
    size_t count, capacity;
};

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of files");
}

static fm_status add(struct list *list, const char *path, uint64_t bytes, uint64_t mtime_ns)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        fm_pond_source_file *files = fm_base_mem_realloc(list->files, capacity, sizeof *files);
        if (!files)
            return no_memory();
        list->files = files;
        list->capacity = capacity;
    }
    const char *copy = fm_base_arena_strndup(list->arena, path, strlen(path));
    if (!copy)
        return no_memory();
    list->files[list->count++] = (fm_pond_source_file){copy, bytes, mtime_ns};
    return FM_OK;
}

static fm_status add_file(struct list *list, const char *path, const struct stat *info)
{
    return add(list, path, (uint64_t)info->st_size,
               (uint64_t)info->st_mtim.tv_sec * 1000000000u + (uint64_t)info->st_mtim.tv_nsec);
}

// A folder's files, and those of folders below it. Names that begin with '.' or '_' are not data (drafts, manifests).
static fm_status add_folder(struct list *list, const char *path)
{
    DIR *folder = opendir(path);
    if (!folder)
        return fm_base_file_error(errno, "%s", path);
    fm_status status = FM_OK;
    for (struct dirent *entry; status == FM_OK && (entry = readdir(folder));) {
        fm_pond_text name = {0};
        struct stat info;
        if (entry->d_name[0] == '.' || entry->d_name[0] == '_')
            continue;
        fm_pond_text_add(&name, "%s/%s", path, entry->d_name);
        status = fm_pond_text_status(&name);
        if (status == FM_OK && stat(name.text, &info) != 0)
            status = fm_base_file_error(errno, "%s", name.text);
        else if (status == FM_OK)
            status = S_ISDIR(info.st_mode) ? add_folder(list, name.text) : add_file(list, name.text, &info);
        fm_pond_text_clear(&name);
    }
    closedir(folder);
    return status;
}

static fm_status add_path(struct list *list, const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return fm_base_file_error(errno, "%s", path);
    return S_ISDIR(info.st_mode) ? add_folder(list, path) : add_file(list, path, &info);
}

struct fs_list {
    struct list *list;
    fm_fs *fs;
    const char *url;    // what was given
    size_t spec_length; // of it, up to the path
};

static fm_status add_found(void *context, const char *path, const fm_fs_info *info)
{
    const struct fs_list *fs_list = context;
    fm_pond_text name = {0};
    fm_status status = fm_pond_fs_local(fs_list->fs, path, &name);
    if (status == FM_OK && !name.length)
        fm_pond_text_add(&name, "%.*s%s", (int)fs_list->spec_length, fs_list->url, path);
    if (status == FM_OK)
        status = fm_pond_text_status(&name);
    if (status == FM_OK)
        status = add(fs_list->list, name.text, info->size, (uint64_t)info->mtime_ns);
    fm_pond_text_clear(&name);
    return status;
}

// Files on fs are known by the names that the kernel has for them, or as fs:SPEC//PATH.
static fm_status add_on_fs(struct list *list, const char *url)
{
    struct fs_list fs_list = {.list = list, .url = url};
    const char *path;
    FM_TRY(fm_pond_fs_open(url, 0, &fs_list.fs, &path));
    fs_list.spec_length = strlen(url) - (strcmp(path, ".") == 0 ? 0 : strlen(path));
    fm_status status = fm_pond_fs_find(fs_list.fs, path, add_found, &fs_list);
    fm_fs_close(fs_list.fs);
    return status < 0 ? fm_base_error_prefix(status, "%s", url) : FM_OK;
}

static fm_status add_pattern(struct list *list, const char *pattern)
{
    glob_t found;
    if (fm_pond_fs_is(pattern))
        return add_on_fs(list, pattern);
    if (!strpbrk(pattern, "*?["))
        return add_path(list, pattern);
    int result = glob(pattern, 0, NULL, &found);
    if (result == GLOB_NOMATCH)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s: no file matches", pattern);
    if (result != 0)
        return fm_base_error_set(FM_ERR_IO, "%s: cannot look for files", pattern);
    fm_status status = FM_OK;
    for (size_t i = 0; i < found.gl_pathc && status == FM_OK; i++)
        status = add_path(list, found.gl_pathv[i]);
    globfree(&found);
    return status;
}

static int by_path(const void *a, const void *b)
{
    const fm_pond_source_file *x = a, *y = b;
    return strcmp(x->path, y->path);
}

fm_status fm_pond_source_find(const fm_pond_op *op, fm_arena *arena, fm_pond_source_file **out_files,
                              size_t *out_count)
{
    struct list list = {.arena = arena};
    fm_status status = FM_OK;
    for (size_t i = 0; i < op->path_count && status == FM_OK; i++)
        status = add_pattern(&list, op->paths[i]);
    if (status == FM_OK && list.count == 0)
        status = fm_base_error_set(FM_ERR_NOT_FOUND, "%s holds no files", op->paths[0]);
    if (status == FM_OK) {
        qsort(list.files, list.count, sizeof *list.files, by_path);
        *out_files = fm_base_arena_alloc(arena, list.count * sizeof **out_files);
        if (*out_files)
            memcpy(*out_files, list.files, list.count * sizeof *list.files);
        else
            status = no_memory();
        *out_count = list.count;
    }
    fm_base_mem_free(list.files);
    return status;
}

// The next name of "{'a': 'BIGINT', ...}", without its quotes; NULL at the end.
static const char *next_name(const char *at, const char **out_name, size_t *out_length)
{
    at += strspn(at, "{, ");
    if (*at != '\'')
        return NULL;
    const char *end = fm_pond_text_skip(at);
    *out_name = at + 1;
    *out_length = (size_t)(end - at - 2);
    at = end + strspn(end, ": ");
    return *at == '\'' ? fm_pond_text_skip(at) : at;
}

// The next field of a CSV line, without its quotes; NULL at the end.
static const char *next_field(const char *at, const char **out_field, size_t *out_length)
{
    if (!*at)
        return NULL;
    if (*at == '"') {
        const char *end = fm_pond_text_skip(at);
        *out_field = at + 1;
        *out_length = (size_t)(end - at) - (end[-1] == '"' && end - at > 1 ? 2 : 1);
        return end + (*end == ',');
    }
    size_t length = strcspn(at, ",");
    *out_field = at;
    *out_length = length;
    at += length;
    return at + (*at == ',');
}

static fm_status check_header(const char *path, const char *line, const char *schema)
{
    const char *name = "", *field = "", *names = schema, *fields = line;
    size_t name_length = 0, field_length = 0;
    for (int column = 1;; column++) {
        names = next_name(names, &name, &name_length);
        fields = next_field(fields, &field, &field_length);
        if (!names && !fields)
            return FM_OK;
        if (!names)
            return fm_base_error_set(FM_ERR_FORMAT, "%s:1: column %d is '%.*s'; expected %d columns", path,
                                     column, (int)field_length, field, column - 1);
        if (!fields || name_length != field_length || strncasecmp(name, field, name_length) != 0)
            return fm_base_error_set(FM_ERR_FORMAT, "%s:1: column %d is '%.*s'; expected '%.*s'", path,
                                     column, fields ? (int)field_length : 0, field, (int)name_length, name);
    }
}

static fm_status read_head(const char *path, char *buffer, size_t size, size_t *out_length)
{
    if (fm_pond_fs_is(path))
        return fm_pond_fs_head(path, buffer, size, out_length);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, buffer, size) : -1;
    int err = errno;
    if (fd >= 0)
        close(fd);
    if (got < 0)
        return fm_base_file_error(err, "%s", path);
    *out_length = (size_t)got;
    return FM_OK;
}

fm_status fm_pond_source_check_headers(const fm_pond_dataset *dataset, const char *schema)
{
    enum { LINE_BYTES = 1 << 16 }; // what a header takes at most
    char *line = fm_base_mem_alloc(LINE_BYTES);
    if (!line)
        return no_memory();
    fm_status status = FM_OK;
    for (size_t i = 0; i < dataset->file_count && status == FM_OK; i++) {
        const char *path = dataset->files[i].path;
        size_t length = strlen(path);
        // Compressed files are opened by DuckDB alone.
        if (length < 4 || strcasecmp(path + length - 4, ".csv") != 0)
            continue;
        size_t got = 0;
        status = read_head(path, line, LINE_BYTES - 1, &got);
        if (status < 0 || got == 0)
            continue; // empty: no rows, no header
        line[got] = '\0';
        line[strcspn(line, "\r\n")] = '\0';
        // A byte-order mark is no part of the first name.
        status = check_header(path, strncmp(line, "\xEF\xBB\xBF", 3) == 0 ? line + 3 : line, schema);
    }
    fm_base_mem_free(line);
    return status;
}
