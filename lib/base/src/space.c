#include "space.h"

#include "fathom/file.h"
#include "fathom/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

fm_status fm_base_space_disk(const char *path, uint64_t *out_bytes)
{
    struct statvfs info;
    if (statvfs(path, &info) < 0)
        return fm_base_file_error(errno, "cannot read the free space of %s", path);
    *out_bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return FM_OK;
}

/* The content of a small file of /proc or /sys as text; "" when it cannot be read, which there means: no such limit. */
static void read_text(char *out_text, size_t size, const char *path)
{
    FILE *file = fopen(path, "re");
    size_t length = file ? fread(out_text, 1, size - 1, file) : 0;
    out_text[length] = 0;
    if (file)
        fclose(file);
}

/* The number after `key` at the start of a line of `text` (of the first line for key ""); 0 when there is none. */
static int find_number(const char *text, const char *key, uint64_t *out_number)
{
    size_t length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0)
            return sscanf(line + length, "%" SCNu64, out_number) == 1;
    }
    return 0;
}

/* The names of one version of control groups. */
struct cgroup_files {
    const char *mount;
    const char *limit;
    const char *usage;
    const char *droppable; // key in memory.stat
};

/* What the limit of the group whose folder is `folder` leaves; UINT64_MAX without a limit. */
static uint64_t left_in_group(const char *folder, const struct cgroup_files *files)
{
    char path[PATH_MAX], text[8192]; // memory.stat has some 60 short lines
    uint64_t limit, usage, droppable;
    snprintf(path, sizeof path, "%s/%s", folder, files->limit);
    read_text(text, sizeof text, path);
    if (!find_number(text, "", &limit)) // "max", or no such file
        return UINT64_MAX;
    snprintf(path, sizeof path, "%s/%s", folder, files->usage);
    read_text(text, sizeof text, path);
    if (!find_number(text, "", &usage))
        return limit;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    read_text(text, sizeof text, path);
    if (!find_number(text, files->droppable, &droppable) || droppable > usage)
        droppable = 0;
    usage -= droppable;
    return usage < limit ? limit - usage : 0;
}

/* The least that the group `group` and those above it leave. Of a container, the folders near the root may not be
 * there under these names, but that of the mount always is. */
static uint64_t left_in_groups(const char *root, const char *group, const struct cgroup_files *files)
{
    char folder[PATH_MAX];
    int length = snprintf(folder, sizeof folder, "%s%s%s", root, files->mount, group);
    size_t mount_length = strlen(root) + strlen(files->mount);
    uint64_t least = UINT64_MAX;
    while (length > 0 && (size_t)length < sizeof folder) {
        uint64_t left = left_in_group(folder, files);
        least = left < least ? left : least;
        char *slash = strrchr(folder + mount_length, '/');
        if (!slash)
            break;
        *slash = 0;
    }
    return least;
}

fm_status fm_base_space_memory_below(const char *root, uint64_t *out_bytes)
{
    static const struct cgroup_files version_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                                  "memory.usage_in_bytes", "total_inactive_file "};
    static const struct cgroup_files version_2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                                  "inactive_file "};
    char path[PATH_MAX], text[8192];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    read_text(text, sizeof text, path);
    uint64_t least;
    if (!find_number(text, "MemAvailable:", &least))
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "%s does not tell MemAvailable", path);
    least *= 1024;

    // Lines "<hierarchy>:<controllers>:<group>"; version 2 has no controllers in its one line.
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    read_text(text, sizeof text, path);
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        int is_memory = strcmp(controllers, ":memory") == 0;
        if (!is_memory && controllers[1])
            continue;
        uint64_t left = left_in_groups(root, group, is_memory ? &version_1 : &version_2);
        least = left < least ? left : least;
    }
    *out_bytes = least;
    return FM_OK;
}

fm_status fm_base_space_memory(uint64_t *out_bytes)
{
    return fm_base_space_memory_below("", out_bytes);
}
