#include "fathom/run_id.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Start time in clock ticks since boot, field 22 of /proc/<pid>/stat; -1 when there is no such process.
static long long start_time(long pid)
{
    char path[64];
    char line[2048];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[length] = 0;
    // The second field is the program's name in parentheses and may hold spaces and parentheses itself.
    const char *field = strrchr(line, ')');
    for (int i = 2; field && i < 22; i++)
        field = strchr(field + 1, ' ');
    return field ? strtoll(field + 1, NULL, 10) : -1;
}

static int parse_id(const char *id, long *out_pid, long long *out_start)
{
    int used = 0;
    return sscanf(id, "%ld-%lld%n", out_pid, out_start, &used) == 2 && used == (int)strlen(id) &&
           used<FM_RUN_ID_BYTES && * out_pid> 0 && *out_start >= 0;
}

static char own_id[FM_RUN_ID_BYTES];
static pthread_once_t own_once = PTHREAD_ONCE_INIT;

static void find_own_id(void)
{
    long pid;
    long long start;
    const char *given = getenv("FM_RUN_ID");
    if (given && parse_id(given, &pid, &start)) {
        snprintf(own_id, sizeof own_id, "%s", given);
        return;
    }
    snprintf(own_id, sizeof own_id, "%ld-%lld", (long)getpid(), start_time(getpid()));
    setenv("FM_RUN_ID", own_id, 1);
}

const char *fm_base_run_id(void)
{
    pthread_once(&own_once, find_own_id);
    return own_id;
}

fm_status fm_base_run_name(const char *what, char *out_name, size_t size)
{
    int length = snprintf(NULL, 0, "fathom.%s.%s", fm_base_run_id(), what);
    if ((size_t)length >= size)
        return fm_base_error_set(FM_ERR_LIMIT, "the name fathom.%s.%s needs %d bytes, there are %zu",
                                 fm_base_run_id(), what, length + 1, size);
    snprintf(out_name, size, "fathom.%s.%s", fm_base_run_id(), what);
    return FM_OK;
}

fm_status fm_base_run_of_name(const char *name, char *out_id)
{
    const char *id = strncmp(name, "fathom.", 7) == 0 ? name + 7 : NULL;
    const char *end = id ? strchr(id, '.') : NULL;
    char copy[FM_RUN_ID_BYTES];
    long pid;
    long long start;
    if (end && end - id < FM_RUN_ID_BYTES) {
        memcpy(copy, id, (size_t)(end - id));
        copy[end - id] = 0;
        if (parse_id(copy, &pid, &start)) {
            memcpy(out_id, copy, sizeof copy);
            return FM_OK;
        }
    }
    return fm_base_error_set(FM_ERR_FORMAT, "\"%s\" is not the name of something a run made", name);
}

int fm_base_run_alive(const char *id)
{
    long pid;
    long long start;
    return parse_id(id, &pid, &start) && start_time(pid) == start;
}
