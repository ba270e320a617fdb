// Where a cluster's names are: a store that this process opens, or services that it asks. And such a service.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/fs_meta_service.h"
#include "meta_service_private.h"
#include "volume.h"

enum { CONF_BYTES_MAX = 4096 };

static const char at_services[] = "meta:";

// The first line of a file of the directory. FM_ERR_NOT_FOUND.
static fm_status read_line(const char *dir, const char *name, char *out_line, size_t capacity)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    char *text;
    size_t length;
    FM_TRY(fm_fs_cluster_path(dir, name, path));
    FM_TRY(fm_base_file_read(path, CONF_BYTES_MAX - 1, &text, &length));
    size_t used = 0;                                     // the file's last line may have no end
    while (used < length && !strchr("\r\n", text[used])) // which a 0 ends as well
        used++;
    int written = snprintf(out_line, capacity, "%.*s", (int)used, text);
    fm_base_mem_free(text);
    if (written < 0 || (size_t)written >= capacity)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: a line of %d bytes; expected at most %zu", path, written,
                                 capacity - 1);
    return FM_OK;
}

fm_status fm_fs_volume_names_find(const char *dir, const char *store, struct fm_fs_volume_names *out_names)
{
    struct fm_fs_volume_names names = {.services = 0};
    char path[FM_FS_CLUSTER_PATH_MAX];
    char line[CONF_BYTES_MAX];
    const size_t prefix = strlen(at_services);
    FM_TRY(fm_fs_cluster_path(dir, "names", path));
    fm_status status = FM_OK;
    if (store)
        snprintf(line, sizeof line, "%s", store);
    else
        status = read_line(dir, "names.conf", line, sizeof line);
    if (status == FM_ERR_NOT_FOUND) {
        snprintf(names.spec, sizeof names.spec, "lmdb:%s", path);
        names.may_be_made = access(path, F_OK) != 0;
    } else {
        FM_TRY(status);
        names.services = strncmp(line, at_services, prefix) == 0;
        names.may_be_made = !names.services;
        memcpy(names.spec, line + (names.services ? prefix : 0),
               strlen(line) + 1 - (names.services ? prefix : 0));
    }
    *out_names = names;
    return FM_OK;
}

// The names' key: from the cluster's, or where that is not to be, as it was given out. And the token: a user's, or with the
// cluster's key the administrator's.
static fm_status find_proof(const char *dir, fm_net_key *out_key, char out_token[FM_FS_TOKEN_BYTES])
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    fm_net_key cluster;
    FM_TRY(fm_fs_cluster_path(dir, "key", path));
    fm_status has_key = fm_net_key_read(path, &cluster);
    if (has_key == FM_OK) {
        fm_fs_meta_key_derive(&cluster, out_key);
        fm_fs_meta_admin_token(&cluster, out_token);
        fm_net_key_clear(&cluster);
    } else {
        FM_TRY(fm_fs_cluster_path(dir, "names.key", path));
        FM_TRY(fm_net_key_read(path, out_key));
    }
    fm_status status = read_line(dir, "token", out_token, FM_FS_TOKEN_BYTES);
    return status == FM_ERR_NOT_FOUND && has_key == FM_OK ? FM_OK : status;
}

fm_status fm_fs_volume_names_ask(fm_fs_volume *volume, const char *servers)
{
    fm_net_key key;
    char token[FM_FS_TOKEN_BYTES];
    fm_net_tls *tls = NULL;
    FM_TRY(find_proof(volume->dir, &key, token));
    fm_status status = fm_fs_cluster_tls_open(volume->dir, NULL, &tls);
    const fm_fs_meta_connect_options options = {.size = sizeof options,
                                                .servers = servers,
                                                .key = &key,
                                                .token = token,
                                                .timeout_ms = volume->options.timeout_ms,
                                                .tls = tls};
    if (status == FM_OK)
        status = fm_fs_meta_connect(&options, &volume->meta);
    fm_net_tls_free(tls);
    fm_net_key_clear(&key);
    memset(token, 0, sizeof token);
    return status;
}

/* A service */

static fm_status collect(void *context, size_t max, size_t *out_done)
{
    return fm_fs_volume_collect(context, max, out_done);
}

static void end(void *context)
{
    fm_fs_volume_close(context);
}

static fm_status serve(const char *dir, fm_fs_volume *volume, const fm_fs_meta_serve_options *options,
                       fm_fs_meta_service **out_service)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    char address[FM_FS_ADDRESS_MAX + 1];
    fm_net_key key;
    struct fm_fs_meta_hosting hosting = {.collect = collect, .end = end, .context = volume};
    FM_TRY(fm_fs_cluster_path(dir, "key", path));
    if (!options->listen)
        FM_TRY(fm_fs_cluster_socket(dir, "names-socket", address));
    FM_TRY(fm_fs_cluster_tls_open(dir, NULL, &hosting.tls));
    fm_status status = fm_net_key_read(path, &key);
    if (status == FM_OK)
        status = fm_fs_meta_service_new(volume->meta, &key, options->listen ? options->listen : address,
                                        options->threads, &hosting, out_service);
    fm_net_tls_free(hosting.tls);
    fm_net_key_clear(&key);
    return status;
}

fm_status fm_fs_meta_serve(const char *dir, const fm_fs_meta_serve_options *options,
                           fm_fs_meta_service **out_service)
{
    fm_fs_volume *volume;
    struct fm_fs_volume_names names;
    if (!options || options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "options->size is %zu; expected %zu",
                                 options ? options->size : 0, sizeof *options);
    FM_TRY(fm_fs_volume_names_find(dir, options->store, &names));
    if (names.services) { // that line is for this directory's clients; the store is the usual one
        char path[FM_FS_CLUSTER_PATH_MAX];
        FM_TRY(fm_fs_cluster_path(dir, "names", path));
        snprintf(names.spec, sizeof names.spec, "lmdb:%s", path);
    }
    FM_TRY(fm_fs_volume_open_at(dir, names.spec, NULL, &volume));
    fm_status status = serve(dir, volume, options, out_service);
    if (status < 0)
        fm_fs_volume_close(volume);
    return status;
}
