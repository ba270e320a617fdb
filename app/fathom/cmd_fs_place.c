#include "cmd_fs_place.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fathom/mem.h"

int fm_cmd_place_is(const char *text)
{
    return strstr(text, ":/") != NULL;
}

fm_status fm_cmd_place_open(const char *text, fm_cmd_place *out_place)
{
    const char *colon = strstr(text, ":/");
    fm_arena arena = {0};
    *out_place = (fm_cmd_place){0};
    char *dir = fm_base_arena_strndup(&arena, text, colon ? (size_t)(colon - text) : strlen(text));
    out_place->path = fm_base_mem_strdup(colon ? colon + 2 : "");
    fm_status status = dir && out_place->path ? fm_fs_volume_open(dir, NULL, &out_place->volume)
                                              : fm_base_error_set(FM_ERR_NOMEM, "no memory for %s", text);
    fm_base_arena_clear(&arena);
    if (status < 0) {
        fm_base_mem_free(out_place->path);
        return status;
    }
    status = fm_fs_volume_self(out_place->volume, &out_place->user);
    if (status < 0) {
        fm_cmd_place_close(out_place);
        return status;
    }
    out_place->meta = fm_fs_volume_meta(out_place->volume);
    out_place->who = (fm_fs_who){.uid = out_place->user.uid,
                                 .gid = out_place->user.gid,
                                 .groups = out_place->user.groups,
                                 .group_count = out_place->user.group_count};
    for (size_t length = strlen(out_place->path); length && out_place->path[length - 1] == '/';)
        out_place->path[--length] = 0;
    return FM_OK;
}

void fm_cmd_place_close(fm_cmd_place *place)
{
    fm_fs_volume_close(place->volume);
    fm_base_mem_free(place->path);
}

static fm_status about(const fm_cmd_place *place, fm_status status)
{
    return status == FM_OK ? FM_OK : fm_base_error_prefix(status, "/%s", place->path);
}

fm_status fm_cmd_place_node(const fm_cmd_place *place, int follow, fm_fs_node *out_node)
{
    return about(
        place, fm_fs_meta_resolve(place->meta, &place->who, FM_FS_META_ROOT, place->path, follow, out_node));
}

fm_status fm_cmd_place_split(fm_cmd_place *place)
{
    char *slash = strrchr(place->path, '/');
    const char *name = slash ? slash + 1 : place->path;
    fm_fs_node parent;
    if (!*name)
        return fm_base_error_set(FM_ERR_ARG, "this is the root; expected something below it");
    if (strlen(name) >= sizeof place->name)
        return fm_base_error_set(FM_ERR_LIMIT, "/%s: a name of %zu bytes", place->path, strlen(name));
    memcpy(place->name, name, strlen(name) + 1);
    if (slash)
        *slash = 0;
    fm_status status =
        fm_fs_meta_resolve(place->meta, &place->who, FM_FS_META_ROOT, slash ? place->path : "", 1, &parent);
    if (slash)
        *slash = '/';
    FM_TRY(about(place, status));
    place->parent = parent.ino;
    return FM_OK;
}

fm_status fm_cmd_place_each(const fm_cmd_place *place, uint64_t dir,
                            fm_status (*visit)(void *context, const fm_fs_meta_entry *entry), void *context)
{
    enum { PAGE = 32 };
    char after[FM_FS_META_NAME_MAX + 1];
    size_t count = PAGE;
    fm_fs_meta_entry *page = fm_base_mem_zalloc(PAGE, sizeof *page);
    fm_status status = page ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory to list a directory");
    for (int first = 1; status == FM_OK && count == PAGE; first = 0) {
        status = fm_fs_meta_list(place->meta, &place->who, dir, first ? NULL : after, page, PAGE, &count);
        if (status == FM_OK && count)
            memcpy(after, page[count - 1].name, sizeof after);
        for (size_t i = 0; status == FM_OK && i < count; i++)
            status = visit(context, &page[i]);
    }
    fm_base_mem_free(page);
    return status;
}

void fm_cmd_place_mode(uint32_t mode, char out_text[11])
{
    static const char letters[] = "rwxrwxrwx";
    out_text[0] = S_ISDIR(mode)    ? 'd'
                  : S_ISLNK(mode)  ? 'l'
                  : S_ISFIFO(mode) ? 'p'
                  : S_ISSOCK(mode) ? 's'
                  : S_ISCHR(mode)  ? 'c'
                  : S_ISBLK(mode)  ? 'b'
                                   : '-';
    for (int i = 0; i < 9; i++)
        out_text[1 + i] = mode >> (8 - i) & 1 ? letters[i] : '-';
    if (mode & S_ISUID)
        out_text[3] = out_text[3] == 'x' ? 's' : 'S';
    if (mode & S_ISGID)
        out_text[6] = out_text[6] == 'x' ? 's' : 'S';
    if (mode & S_ISVTX)
        out_text[9] = out_text[9] == 'x' ? 't' : 'T';
    out_text[10] = 0;
}

void fm_cmd_place_time(int64_t ns, char out_text[40])
{
    int64_t rest = ns % 1000000000;
    time_t seconds = (time_t)((ns - rest) / 1000000000 - (rest < 0));
    struct tm tm;
    rest += rest < 0 ? 1000000000 : 0;
    if (!localtime_r(&seconds, &tm)) {
        snprintf(out_text, 40, "%lld", (long long)ns);
        return;
    }
    size_t used = strftime(out_text, 30, "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(out_text + used, 40 - used, ".%09lld", (long long)rest);
}
