#include "pond_fs.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "pond_output.h"

enum { COPY_BYTES = 4 << 20 }; // at a time: several chunks of a cluster

struct fm_pond_fetched_file {
    char *url, *local;
};

int fm_pond_fs_is(const char *path)
{
    return strncmp(path, "fs:", 3) == 0;
}

fm_status fm_pond_fs_open(const char *url, unsigned flags, fm_fs **out_fs, const char **out_path)
{
    const char *spec = url + strlen("fs:"), *end = NULL;
    for (const char *at = spec; (at = strstr(at, "//")); at++)
        end = at;
    if (!end || end == spec)
        return fm_base_error_set(FM_ERR_ARG, "'%s'; expected fs:SPEC//PATH, such as fs:dir:/data//in/*.csv",
                                 url);
    char *copy = fm_base_mem_strdup(spec);
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a path");
    copy[end - spec] = '\0';
    fm_status status = fm_fs_open(copy, flags, out_fs);
    fm_base_mem_free(copy);
    if (status == FM_OK)
        *out_path = end[2] ? end + 2 : ".";
    return status;
}

fm_status fm_pond_fs_local(fm_fs *fs, const char *path, fm_pond_text *out)
{
    const char *how = getenv("FM_POND_FS");
    char local[FM_FS_PATH_MAX + 1];
    if (how && strcmp(how, "copy") == 0)
        return FM_OK;
    fm_status status = fm_fs_local_path(fs, path, local, sizeof local);
    if (status == FM_ERR_UNSUPPORTED)
        return FM_OK;
    if (status == FM_OK)
        fm_pond_text_add(out, "%s", local);
    return status < 0 ? status : fm_pond_text_status(out);
}

/* Patterns */

struct search {
    fm_fs *fs;
    fm_pond_fs_found found;
    void *context;
    size_t count;
};

static fm_status join(const char *folder, const char *name, size_t length, fm_pond_text *out)
{
    fm_pond_text_add(out, "%s%s%.*s", folder, *folder ? "/" : "", (int)length, name);
    return fm_pond_text_status(out);
}

static fm_status take(struct search *search, const char *path);

static fm_status take_folder(struct search *search, const char *folder)
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    FM_TRY(fm_fs_list_open(search->fs, *folder ? folder : ".", &list));
    fm_status status;
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        fm_pond_text path = {0};
        if (entry->name[0] == '.' || entry->name[0] == '_')
            continue;
        status = join(folder, entry->name, strlen(entry->name), &path);
        if (status == FM_OK)
            status = take(search, path.text);
        fm_pond_text_clear(&path);
        if (status < 0)
            break;
    }
    fm_fs_list_close(list);
    return status;
}

static fm_status take(struct search *search, const char *path)
{
    fm_fs_info info;
    FM_TRY(fm_fs_stat(search->fs, *path ? path : ".", &info));
    if (info.type == FM_FS_TYPE_DIR)
        return take_folder(search, strcmp(path, ".") == 0 ? "" : path);
    search->count++;
    return search->found(search->context, path, &info);
}

static fm_status follow(struct search *search, const char *folder, const char *rest);

// Names in `folder` that match the component.
static fm_status follow_pattern(struct search *search, const char *folder, const char *component,
                                const char *rest)
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    FM_TRY(fm_fs_list_open(search->fs, *folder ? folder : ".", &list));
    fm_status status;
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        fm_pond_text path = {0};
        if (fnmatch(component, entry->name, FNM_PERIOD) != 0)
            continue;
        status = join(folder, entry->name, strlen(entry->name), &path);
        if (status == FM_OK)
            status = follow(search, path.text, rest);
        fm_pond_text_clear(&path);
        // What a match does not have below it is no match.
        if (status == FM_ERR_NOT_FOUND || status == FM_ERR_FS_NOT_DIR)
            status = FM_OK;
        if (status < 0)
            break;
    }
    fm_fs_list_close(list);
    return status;
}

// The components of a pattern below `folder`.
static fm_status follow(struct search *search, const char *folder, const char *rest)
{
    rest += strspn(rest, "/");
    size_t length = strcspn(rest, "/");
    char component[FM_FS_NAME_MAX + 1];
    if (!*rest)
        return take(search, folder);
    if (length > FM_FS_NAME_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a name of %zu bytes; expected at most %d", length,
                                 FM_FS_NAME_MAX);
    memcpy(component, rest, length);
    component[length] = '\0';
    if (strpbrk(component, "*?["))
        return follow_pattern(search, folder, component, rest + length);
    fm_pond_text path = {0};
    fm_status status = join(folder, component, length, &path);
    if (status == FM_OK)
        status = follow(search, path.text, rest + length);
    fm_pond_text_clear(&path);
    return status;
}

fm_status fm_pond_fs_find(fm_fs *fs, const char *path, fm_pond_fs_found found, void *context)
{
    struct search search = {.fs = fs, .found = found, .context = context};
    if (!strpbrk(path, "*?["))
        return take(&search, path);
    FM_TRY(follow(&search, "", path));
    return search.count ? FM_OK : fm_base_error_set(FM_ERR_NOT_FOUND, "%s: no file matches", path);
}

/* Bytes */

fm_status fm_pond_fs_head(const char *url, void *buffer, size_t size, size_t *out_length)
{
    fm_fs *fs;
    fm_fs_file *file;
    const char *path;
    FM_TRY(fm_pond_fs_open(url, 0, &fs, &path));
    fm_status status = fm_fs_file_open(fs, path, FM_FS_READ, &file);
    if (status == FM_OK) {
        status = fm_fs_file_read(file, buffer, size, 0, out_length);
        fm_fs_file_close(file);
    }
    fm_fs_close(fs);
    return status;
}

static fm_status write_all(int fd, const char *bytes, size_t size, const char *path)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = write(fd, bytes + done, size - done);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fm_base_file_error(errno, "%s", path);
        done += (size_t)put;
    }
    return FM_OK;
}

static fm_status copy_bytes(fm_fs_file *file, int fd, const char *path)
{
    char *block = fm_base_mem_alloc(COPY_BYTES);
    if (!block)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to copy a file");
    fm_status status = FM_OK;
    size_t length = COPY_BYTES;
    for (uint64_t at = 0; status == FM_OK && length == COPY_BYTES; at += length) {
        status = fm_fs_file_read(file, block, COPY_BYTES, at, &length);
        if (status == FM_OK)
            status = write_all(fd, block, length, path);
    }
    fm_base_mem_free(block);
    return status;
}

static fm_status fetch_file(const char *url, const char *to)
{
    fm_fs *fs;
    fm_fs_file *file = NULL;
    const char *path;
    FM_TRY(fm_pond_fs_open(url, 0, &fs, &path));
    fm_status status = fm_fs_file_open(fs, path, FM_FS_READ, &file);
    int fd = status == FM_OK ? open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    if (status == FM_OK && fd < 0)
        status = fm_base_file_error(errno, "%s", to);
    if (status == FM_OK)
        status = copy_bytes(file, fd, to);
    if (fd >= 0 && close(fd) != 0 && status == FM_OK)
        status = fm_base_file_error(errno, "%s", to);
    fm_fs_file_close(file);
    fm_fs_close(fs);
    return status < 0 ? fm_base_error_prefix(status, "%s", url) : FM_OK;
}

/* What a task fetches */

static fm_status add_fetched(fm_pond_fetched *fetched, const char *url)
{
    if (fetched->count == fetched->capacity) {
        size_t capacity = fetched->capacity ? 2 * fetched->capacity : 16;
        struct fm_pond_fetched_file *files = fm_base_mem_realloc(fetched->files, capacity, sizeof *files);
        if (!files)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu files", capacity);
        fetched->files = files;
        fetched->capacity = capacity;
    }
    fm_pond_text local = {0};
    // A folder for each, since names may be equal; the name stays, whose ending says what the file is.
    fm_pond_text_add(&local, "%s/%zu", fetched->folder, fetched->count);
    fm_status status = fm_pond_text_status(&local);
    if (status == FM_OK)
        status = fm_base_dir_create(local.text);
    fm_pond_text_add(&local, "%s", strrchr(url, '/'));
    if (status == FM_OK)
        status = fm_pond_text_status(&local);
    if (status == FM_OK)
        status = fetch_file(url, local.text);
    char *copy = status == FM_OK ? fm_base_mem_strdup(url) : NULL;
    if (status == FM_OK && !copy)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a name");
    if (status < 0) {
        fm_pond_text_clear(&local);
        return status;
    }
    fetched->files[fetched->count++] = (struct fm_pond_fetched_file){copy, local.text};
    return FM_OK;
}

// Paths come in the same order time and again: the search begins where the last one ended.
static fm_status find_fetched(fm_pond_fetched *fetched, const char *url, const char **out_local)
{
    for (size_t i = 0; i < fetched->count; i++) {
        size_t at = (fetched->next + i) % fetched->count;
        if (strcmp(fetched->files[at].url, url) == 0) {
            fetched->next = at + 1;
            *out_local = fetched->files[at].local;
            return FM_OK;
        }
    }
    FM_TRY(add_fetched(fetched, url));
    fetched->next = fetched->count;
    *out_local = fetched->files[fetched->count - 1].local;
    return FM_OK;
}

// Where an SQL string ends, in which quotes are doubled; its content goes to `plain`.
static const char *take_string(const char *at, fm_pond_text *plain)
{
    for (at++; *at && (*at != '\'' || at[1] == '\''); at++) {
        fm_pond_text_add_bytes(plain, at, 1);
        at += *at == '\'';
    }
    return at + (*at == '\'');
}

fm_status fm_pond_fs_fetch(fm_pond_fetched *fetched, const char *folder, const char *sql, fm_pond_text *out)
{
    if (!fetched->folder && !(fetched->folder = fm_base_mem_strdup(folder)))
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a name");
    for (const char *at = sql; *at;) {
        if (*at != '\'') {
            size_t length = strcspn(at, "'");
            fm_pond_text_add_bytes(out, at, length);
            at += length;
            continue;
        }
        fm_pond_text plain = {0};
        const char *end = take_string(at, &plain), *local = NULL;
        fm_status status = fm_pond_text_status(&plain);
        if (status == FM_OK && plain.text && fm_pond_fs_is(plain.text) && plain.text[3])
            status = find_fetched(fetched, plain.text, &local);
        fm_pond_text_clear(&plain);
        FM_TRY(status);
        if (local)
            fm_pond_text_add_quoted(out, local);
        else
            fm_pond_text_add_bytes(out, at, (size_t)(end - at));
        at = end;
    }
    return fm_pond_text_status(out);
}

void fm_pond_fs_name(const fm_pond_fetched *fetched, const char *message, fm_pond_text *out)
{
    size_t folder_length = fetched->folder ? strlen(fetched->folder) : 0;
    for (const char *at = message; *at;) {
        char *end;
        size_t number = fetched->count;
        if (folder_length && strncmp(at, fetched->folder, folder_length) == 0 && at[folder_length] == '/')
            number = strtoul(at + folder_length + 1, &end, 10);
        if (number < fetched->count) {
            fm_pond_text_add(out, "%s", fetched->files[number].url);
            at += strlen(fetched->files[number].local);
        } else {
            fm_pond_text_add_bytes(out, at++, 1);
        }
    }
}

void fm_pond_fs_forget(fm_pond_fetched *fetched)
{
    if (fetched->count || fetched->folder)
        fm_pond_folder_discard(fetched->folder);
    for (size_t i = 0; i < fetched->count; i++) {
        fm_base_mem_free(fetched->files[i].url);
        fm_base_mem_free(fetched->files[i].local);
    }
    fm_base_mem_free(fetched->files);
    fm_base_mem_free(fetched->folder);
    *fetched = (fm_pond_fetched){0};
}
