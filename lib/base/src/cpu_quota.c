#include "cpu_quota.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

// Reads up to two numbers; "max" and a missing file read as none. Returns how many there were.
static int read_numbers(const char *path, double out_numbers[2])
{
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    int count = fscanf(file, "%lf %lf", &out_numbers[0], &out_numbers[1]);
    fclose(file);
    return count > 0 ? count : 0;
}

// The limit set on one group; 0 when there is none. v2 has cpu.max ("<quota> <period>" or "max <period>"), v1
// a file for each.
static double group_limit(const char *directory)
{
    char path[PATH_MAX + 32];
    double quota[2];
    double period[2];
    snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (read_numbers(path, quota) == 2 && quota[0] > 0 && quota[1] > 0)
        return quota[0] / quota[1];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", directory);
    if (read_numbers(path, quota) != 1 || quota[0] <= 0) // -1: no limit
        return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory);
    return read_numbers(path, period) == 1 && period[0] > 0 ? quota[0] / period[0] : 0;
}

// The tightest limit on the way from `group` ("/a/b", modified) up to the root below `mount`.
static double tightest_limit(const char *mount, char *group)
{
    double tightest = 0;
    for (;;) {
        char directory[PATH_MAX];
        int length = snprintf(directory, sizeof directory, "%s%s", mount, group);
        double limit = length < (int)sizeof directory ? group_limit(directory) : 0;
        if (limit > 0 && (tightest == 0 || limit < tightest))
            tightest = limit;
        char *slash = strrchr(group, '/');
        if (!slash)
            return tightest;
        *slash = 0;
    }
}

static int names_cpu(char *controllers)
{
    char *rest = NULL;
    for (char *name = strtok_r(controllers, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
        if (strcmp(name, "cpu") == 0)
            return 1;
    return 0;
}

double fm_base_cpu_quota_read(const char *list, const char *mount)
{
    FILE *file = fopen(list, "re");
    if (!file)
        return 0;
    double tightest = 0;
    char line[PATH_MAX + 256];
    while (fgets(line, sizeof line, file)) {
        // <id>:<controllers>:<path>; v2 has no controllers here.
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(++controllers, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        char directory[PATH_MAX];
        int v2 = *controllers == 0;
        if (!v2 && !names_cpu(controllers))
            continue;
        snprintf(directory, sizeof directory, "%s%s", mount, v2 ? "" : "/cpu");
        double limit = tightest_limit(directory, group);
        if (limit > 0 && (tightest == 0 || limit < tightest))
            tightest = limit;
    }
    fclose(file);
    return tightest;
}
