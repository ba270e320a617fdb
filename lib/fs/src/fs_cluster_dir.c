// The directory of a cluster: what is written there, and read back with care.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "fathom/file.h"
#include "fathom/net.h"
#include "fs_cluster_private.h"

enum { TEXT_BYTES_MAX = 4096 };

fm_status fm_fs_cluster_path(const char *dir, const char *name, char *out_path)
{
    if (!*dir) // would be the root of this machine
        return fm_base_error_set(FM_ERR_ARG, "an empty path; expected a cluster's directory");
    int length = snprintf(out_path, FM_FS_CLUSTER_PATH_MAX, "%s/%s", dir, name);
    if (length < 0 || length >= FM_FS_CLUSTER_PATH_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: expected at most %d characters", dir,
                                 FM_FS_CLUSTER_PATH_MAX - 32);
    return FM_OK;
}

fm_status fm_fs_cluster_socket(const char *dir, const char *name, char *out_address)
{
    fm_net_address address;
    char *whole = realpath(dir, NULL);
    if (!whole)
        return fm_base_file_error(errno, "%s", dir);
    char text[FM_FS_CLUSTER_PATH_MAX + 8];
    int length = snprintf(text, sizeof text, "unix:%s/%s", whole, name);
    free(whole);
    if (length > FM_FS_ADDRESS_MAX || fm_net_address_parse(text, &address) < 0)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: its path is too long for a UNIX socket in it", dir);
    memcpy(out_address, text, (size_t)length + 1);
    return FM_OK;
}

// The file's text with a 0 behind it.
static fm_status read_text(const char *dir, const char *name, char *out_text)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    char *text;
    size_t length;
    FM_TRY(fm_fs_cluster_path(dir, name, path));
    FM_TRY(fm_base_file_read(path, TEXT_BYTES_MAX - 1, &text, &length));
    memcpy(out_text, text, length);
    out_text[length] = 0;
    fm_base_mem_free(text);
    return FM_OK;
}

fm_status fm_fs_cluster_conf_read(const char *dir, struct fm_fs_cluster_conf *out_conf)
{
    struct fm_fs_cluster_conf conf = {0};
    char text[TEXT_BYTES_MAX];
    unsigned long long bytes = 0;
    FM_TRY(read_text(dir, "cluster.conf", text));
    int got = sscanf(text, "fathom-cluster-1 targets %u replicas %u target_bytes %llu nodes %u",
                     &conf.targets, &conf.replicas, &bytes, &conf.nodes);
    conf.target_bytes = bytes;
    if (got != 4 || conf.targets < 1 || conf.targets > FM_FS_CLUSTER_TARGETS_MAX || conf.replicas < 1 ||
        conf.targets % conf.replicas != 0 || conf.nodes < 1 || conf.targets % conf.nodes != 0)
        return fm_base_error_set(
            FM_ERR_FORMAT,
            "%s/cluster.conf: expected \"fathom-cluster-1 targets N replicas R target_bytes B nodes K\"",
            dir);
    *out_conf = conf;
    return FM_OK;
}

fm_status fm_fs_cluster_conf_write(const char *dir, const struct fm_fs_cluster_conf *conf)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    char text[256];
    FM_TRY(fm_fs_cluster_path(dir, "cluster.conf", path));
    int length =
        snprintf(text, sizeof text, "fathom-cluster-1 targets %u replicas %u target_bytes %llu nodes %u\n",
                 conf->targets, conf->replicas, (unsigned long long)conf->target_bytes, conf->nodes);
    return fm_base_file_save(path, text, (size_t)length);
}

static fm_status read_manager(const char *dir, const char *line, int number,
                              struct fm_fs_cluster_managers *managers)
{
    uint32_t i = managers->count;
    fm_net_address address;
    char end;
    int got = -1;
    if (i < FM_FS_MANAGERS_MAX)
        // The width is FM_FS_ADDRESS_MAX.
        got = sscanf(line, "%u %127s %c", &managers->nodes[i], managers->addresses[i], &end);
    if (got != 2 || managers->nodes[i] < 1 || managers->nodes[i] >= FM_FS_FIRST_STORAGE ||
        fm_net_address_parse(managers->addresses[i], &address) < 0)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s/managers:%d: expected \"NODE ADDRESS\" with a node below %d, at most %d "
                                 "lines",
                                 dir, number, FM_FS_FIRST_STORAGE, FM_FS_MANAGERS_MAX);
    managers->count++;
    return FM_OK;
}

fm_status fm_fs_cluster_managers_read(const char *dir, struct fm_fs_cluster_managers *out_managers)
{
    struct fm_fs_cluster_managers managers = {0};
    char text[TEXT_BYTES_MAX];
    int number = 0;
    fm_status status = read_text(dir, "managers", text);
    if (status == FM_ERR_NOT_FOUND) {
        managers.count = 1;
        managers.nodes[0] = 1;
        FM_TRY(fm_fs_cluster_socket(dir, "socket", managers.addresses[0]));
        *out_managers = managers;
        return FM_OK;
    }
    FM_TRY(status);
    for (char *line = text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = 0;
        number++;
        if (line[strspn(line, " \t")])
            FM_TRY(read_manager(dir, line, number, &managers));
    }
    if (!managers.count)
        return fm_base_error_set(FM_ERR_FORMAT, "%s/managers: expected a line \"NODE ADDRESS\"", dir);
    *out_managers = managers;
    return FM_OK;
}

static int tls_is_given(const struct fm_fs_cluster_tls *files)
{
    return files && (files->cert || files->key || files->ca);
}

static fm_status tls_new(const struct fm_fs_cluster_tls *files, fm_net_tls **out_tls)
{
    const fm_net_tls_options options = {sizeof options, files->cert, files->key,
                                        files->ca,      files->crl,  files->name};
    return fm_net_tls_new(&options, out_tls);
}

enum { TLS_CERT, TLS_KEY, TLS_CA, TLS_CRL, TLS_NAME, TLS_LINES };

// A line "cert PATH" or "name NAME" of the file `tls`; a path that does not begin at the root begins at the directory.
static fm_status read_tls_line(const char *dir, const char *line, int number,
                               char values[TLS_LINES][FM_FS_CLUSTER_PATH_MAX])
{
    static const char *const names[TLS_LINES] = {"cert ", "key ", "ca ", "crl ", "name "};
    for (int i = 0; i < TLS_LINES; i++) {
        size_t length = strlen(names[i]);
        if (strncmp(line, names[i], length) != 0 || !line[length] || values[i][0])
            continue;
        if (i != TLS_NAME && line[length] != '/')
            return fm_fs_cluster_path(dir, line + length, values[i]);
        if (strlen(line + length) >= FM_FS_CLUSTER_PATH_MAX)
            break;
        memcpy(values[i], line + length, strlen(line + length) + 1);
        return FM_OK;
    }
    return fm_base_error_set(FM_ERR_FORMAT,
                             "%s/tls:%d: expected once each \"cert PATH\", \"key PATH\" and \"ca PATH\", and "
                             "at most once \"crl PATH\" and \"name NAME\"",
                             dir, number);
}

fm_status fm_fs_cluster_tls_open(const char *dir, const struct fm_fs_cluster_tls *given, fm_net_tls **out_tls)
{
    char text[TEXT_BYTES_MAX] = "";
    char values[TLS_LINES][FM_FS_CLUSTER_PATH_MAX] = {"", "", "", "", ""};
    int number = 0;
    fm_status status = read_text(dir, "tls", text);
    if (status == FM_ERR_NOT_FOUND && !tls_is_given(given)) {
        *out_tls = NULL;
        return FM_OK;
    }
    if (status != FM_ERR_NOT_FOUND)
        FM_TRY(status);
    for (char *line = text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = 0;
        number++;
        if (line[strspn(line, " \t")])
            FM_TRY(read_tls_line(dir, line, number, values));
    }
    struct fm_fs_cluster_tls files = {values[TLS_CERT], values[TLS_KEY], values[TLS_CA],
                                      values[TLS_CRL][0] ? values[TLS_CRL] : NULL,
                                      values[TLS_NAME][0] ? values[TLS_NAME] : NULL};
    if (!tls_is_given(given))
        return fm_base_error_prefix(tls_new(&files, out_tls), "%s/tls", dir);
    files.cert = given->cert;
    files.key = given->key;
    files.ca = given->ca;
    return tls_new(&files, out_tls);
}

fm_status fm_fs_cluster_tls_write(const char *dir, const struct fm_fs_cluster_tls *given)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    char text[TEXT_BYTES_MAX];
    fm_net_tls *tls;
    if (!tls_is_given(given))
        return FM_OK;
    FM_TRY(tls_new(given, &tls));
    fm_net_tls_free(tls);
    const char *const files[] = {given->cert, given->key, given->ca};
    char *whole[3] = {NULL, NULL, NULL};
    fm_status status = FM_OK;
    for (int i = 0; i < 3 && status == FM_OK; i++)
        if (!(whole[i] = realpath(files[i], NULL)))
            status = fm_base_file_error(errno, "%s", files[i]);
    int length = status < 0
                     ? 0
                     : snprintf(text, sizeof text, "cert %s\nkey %s\nca %s\n", whole[0], whole[1], whole[2]);
    for (int i = 0; i < 3; i++)
        free(whole[i]);
    FM_TRY(status);
    if (length >= TEXT_BYTES_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: the paths of its certificates are too long", dir);
    FM_TRY(fm_fs_cluster_path(dir, "tls", path));
    return fm_base_file_save(path, text, (size_t)length);
}
