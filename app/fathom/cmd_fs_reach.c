#include "cmd_fs_reach.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/net.h"

enum { TEXT_MAX = 4096, MANAGERS_MAX = 100 };

static int is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

// The lines of a cluster's `managers`. FM_ERR_ARG: `list` is no list of addresses.
static fm_status managers_of(const char *list, char out_text[TEXT_MAX])
{
    char whole[TEXT_MAX];
    size_t used = 0;
    unsigned number = 0;
    char *next = whole;
    fm_net_address parsed;
    if (snprintf(whole, sizeof whole, "%s", list) >= (int)sizeof whole)
        return fm_base_error_set(FM_ERR_ARG, "addresses of %zu bytes; expected less than %d", strlen(list),
                                 TEXT_MAX);
    for (char *item; (item = strsep(&next, ",")) != NULL;) {
        char *equals = strchr(item, '=');
        char *end = NULL;
        unsigned long given = equals ? strtoul(item, &end, 10) : number + 1;
        const char *address = equals ? equals + 1 : item;
        if ((equals && (end != equals || end == item)) || given < 1 || given > MANAGERS_MAX ||
            fm_net_address_parse(address, &parsed) < 0)
            return fm_base_error_set(FM_ERR_ARG,
                                     "%s: expected a cluster's directory, or its managers as "
                                     "HOST:PORT,HOST:PORT (of the managers 1, "
                                     "2, ...) or NODE=HOST:PORT,...",
                                     list);
        number = (unsigned)given;
        int length = snprintf(out_text + used, TEXT_MAX - used, "%u %s\n", number, address);
        if (length < 0 || (size_t)length >= TEXT_MAX - used)
            return fm_base_error_set(FM_ERR_ARG, "too many addresses");
        used += (size_t)length;
    }
    return FM_OK;
}

static fm_status save(const char *dir, const char *name, const char *text)
{
    char path[TEXT_MAX + 32];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return fm_base_file_save(path, text, strlen(text));
}

// A link, so that a secret has one place only.
static fm_status point(const char *dir, const char *name, const char *file)
{
    char path[TEXT_MAX + 32];
    if (!file)
        return FM_OK;
    char *whole = realpath(file, NULL);
    if (!whole)
        return fm_base_file_error(errno, "%s", file);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int failed = symlink(whole, path);
    free(whole);
    return failed ? fm_base_file_error(errno, "%s", path) : FM_OK;
}

static fm_status fill(const char *dir, const char *managers, const fm_cmd_fs_reach_options *options)
{
    char names[TEXT_MAX];
    const char *prefix = strncmp(options->meta, "postgresql:", 11) == 0 ? "" : "meta:";
    if (snprintf(names, sizeof names, "%s%s", prefix, options->meta) >= (int)sizeof names)
        return fm_base_error_set(FM_ERR_ARG, "--meta has more than %d bytes", TEXT_MAX);
    FM_TRY(save(dir, "managers", managers));
    FM_TRY(save(dir, "names.conf", names));
    FM_TRY(point(dir, "key", options->key));
    FM_TRY(point(dir, "token", options->token));
    return point(dir, "tls", options->tls);
}

fm_status fm_cmd_fs_reach_open(const char *cluster, const fm_cmd_fs_reach_options *options,
                               fm_cmd_fs_reach *out_reach)
{
    fm_cmd_fs_reach reach = {.is_made = 0};
    char managers[TEXT_MAX];
    if (is_directory(cluster)) {
        if (options->meta || options->key || options->token || options->tls)
            return fm_base_error_set(FM_ERR_ARG,
                                     "%s is a cluster's directory, which has what --meta, --key, --token and "
                                     "--tls tell; they belong to managers' addresses",
                                     cluster);
        if (snprintf(reach.dir, sizeof reach.dir, "%s", cluster) >= (int)sizeof reach.dir)
            return fm_base_error_set(FM_ERR_ARG, "a path of %zu bytes", strlen(cluster));
        *out_reach = reach;
        return FM_OK;
    }
    FM_TRY(managers_of(cluster, managers));
    if (!options->key || !options->meta)
        return fm_base_error_set(
            FM_ERR_ARG, "managers' addresses need --key, a copy of the cluster's key, and --meta, the "
                        "addresses of 'fathom fs serve meta' or the store of the names");
    const char *parent = getenv("TMPDIR");
    if (snprintf(reach.dir, sizeof reach.dir, "%s/fathom-reach-XXXXXX",
                 parent && *parent ? parent : "/tmp") >= (int)sizeof reach.dir)
        return fm_base_error_set(FM_ERR_LIMIT, "TMPDIR is too long");
    if (!mkdtemp(reach.dir))
        return fm_base_file_error(errno, "%s", reach.dir);
    reach.is_made = 1;
    fm_status status = fill(reach.dir, managers, options);
    if (status < 0)
        fm_cmd_fs_reach_close(&reach);
    else
        *out_reach = reach;
    return status;
}

void fm_cmd_fs_reach_close(fm_cmd_fs_reach *reach)
{
    if (!reach->is_made)
        return;
    // What cannot be removed are links in a temporary directory.
    fm_status status = fm_base_dir_remove(reach->dir);
    (void)status;
    reach->is_made = 0;
}
