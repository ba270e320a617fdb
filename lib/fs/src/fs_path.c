#include "fs_backend.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

fm_status fm_fs_path_canonical(const char *path, const char *what, char out_path[FM_FS_PATH_MAX + 1])
{
    char canonical[FM_FS_PATH_MAX + 1];
    size_t used = 0;
    if (!path || !*path)
        return fm_base_error_set(FM_ERR_ARG, "%s is %s; expected a path below the root (\".\" is the root)",
                                 what, path ? "empty" : "NULL");
    if (*path == '/')
        return fm_base_error_set(
            FM_ERR_ARG, "%s is \"%s\"; expected a path relative to the root of the file system", what, path);
    for (const char *at = path; *at;) {
        size_t length = strcspn(at, "/");
        if (length == 2 && at[0] == '.' && at[1] == '.')
            return fm_base_error_set(FM_ERR_ARG, "%s is \"%s\"; expected a path without \"..\"", what, path);
        if (length > FM_FS_NAME_MAX)
            return fm_base_error_set(FM_ERR_LIMIT, "%s has a component of %zu bytes; expected at most %d",
                                     what, length, FM_FS_NAME_MAX);
        if (length > 0 && !(length == 1 && at[0] == '.')) {
            if (used + (used > 0) + length > FM_FS_PATH_MAX)
                return fm_base_error_set(FM_ERR_LIMIT, "%s has more than %d bytes", what, FM_FS_PATH_MAX);
            if (used > 0)
                canonical[used++] = '/';
            memcpy(canonical + used, at, length);
            used += length;
        }
        at += length + (at[length] == '/');
    }
    memcpy(out_path, canonical, used);
    out_path[used] = 0;
    return FM_OK;
}

const char *fm_fs_path_leaf(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void fm_fs_path_parent(const char *path, char out_parent[FM_FS_PATH_MAX + 1])
{
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    memcpy(out_parent, path, length);
    out_parent[length] = 0;
}

fm_status fm_fs_path_join(const char *dir, const char *name, char out_path[FM_FS_PATH_MAX + 1])
{
    size_t dir_length = strlen(dir);
    size_t name_length = strlen(name);
    if (dir_length + (dir_length > 0) + name_length > FM_FS_PATH_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a path of %zu bytes; expected at most %d: %s/%s",
                                 dir_length + 1 + name_length, FM_FS_PATH_MAX, dir, name);
    char *at = mempcpy(out_path, dir, dir_length);
    if (dir_length > 0)
        *at++ = '/';
    memcpy(at, name, name_length + 1);
    return FM_OK;
}

void fm_fs_tmp_name(char out_name[FM_FS_TMP_NAME_BYTES])
{
    // Relaxed: only the values must differ. The odd factor spreads neighbouring inputs over all digits
    // (Knuth's golden ratio).
    static atomic_ullong counter;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t mix = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    mix ^= (uint64_t)getpid() << 40;
    mix += atomic_fetch_add_explicit(&counter, 1, memory_order_relaxed) * 0x9E3779B97F4A7C15u;
    mix = (mix ^ (mix >> 29)) * 0x9E3779B97F4A7C15u;
    snprintf(out_name, FM_FS_TMP_NAME_BYTES, FM_FS_TMP_PREFIX "%016llx", (unsigned long long)mix);
}
