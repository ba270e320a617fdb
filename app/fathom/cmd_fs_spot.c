#include "cmd_fs_spot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cmd_fs_place.h"
#include "fathom/file.h"
#include "fathom/mem.h"

static fm_status open_fs(fm_cmd_spot *spot, const char *scheme, const char *dir, size_t dir_length,
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
static fm_status open_local(fm_cmd_spot *spot, const char *text)
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

fm_status fm_cmd_spot_open(fm_cmd_spot *spot, const char *text)
{
    const char *colon = fm_cmd_place_is(text) ? strstr(text, ":/") : NULL;
    if (colon)
        return open_fs(spot, "cluster:", text, (size_t)(colon - text), colon + 1);
    return open_local(spot, text);
}

fm_status fm_cmd_spot_join(const char *dir, const char *name, char out_path[FM_FS_PATH_MAX + 1])
{
    int length = strcmp(dir, ".") == 0 ? snprintf(out_path, FM_FS_PATH_MAX + 1, "%s", name)
                                       : snprintf(out_path, FM_FS_PATH_MAX + 1, "%s/%s", dir, name);
    if (length > FM_FS_PATH_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s/%s is longer than %d bytes", dir, name, FM_FS_PATH_MAX);
    return FM_OK;
}
