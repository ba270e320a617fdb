// The embedded cluster: one process, one directory. Node 1 is the manager; target t is on node 100 + t.
#include "fathom/fs_cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk_file.h"
#include "fathom/clock.h"
#include "fathom/file.h"
#include "fs_cluster_private.h"
#include "host.h"
#include "manager.h"
#include "storage.h"

enum { FIRST_NODE = 100, CONF_BYTES_MAX = 256 };

static const int64_t ms = 1000000;

struct service { // a storage node
    fm_fs_cluster *cluster;
    fm_fs_runtime *runtime;
    fm_fs_disk *disk;
    fm_fs_storage *storage;
};

struct fm_fs_cluster {
    struct fm_fs_cluster_conf conf;
    fm_net_key key;
    int lock;
    fm_fs_kv *kv;
    fm_fs_host *host;
    fm_fs_runtime *manager_runtime;
    fm_fs_manager *manager;
    struct service services[FM_FS_CLUSTER_TARGETS_MAX];
};

fm_status fm_fs_cluster_path(const char *dir, const char *name, char *out_path)
{
    int length = snprintf(out_path, FM_FS_CLUSTER_PATH_MAX, "%s/%s", dir, name);
    if (length < 0 || length >= FM_FS_CLUSTER_PATH_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: expected at most %d characters", dir,
                                 FM_FS_CLUSTER_PATH_MAX - 32);
    return FM_OK;
}

fm_status fm_fs_cluster_conf_read(const char *dir, struct fm_fs_cluster_conf *out_conf)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    char *text;
    size_t length;
    FM_TRY(fm_fs_cluster_path(dir, "cluster.conf", path));
    FM_TRY(fm_base_file_read(path, CONF_BYTES_MAX, &text, &length));
    struct fm_fs_cluster_conf conf = {0};
    char line[CONF_BYTES_MAX + 1];
    memcpy(line, text, length);
    line[length] = 0;
    fm_base_mem_free(text);
    unsigned long long bytes = 0;
    int got = sscanf(line, "fathom-cluster-1 targets %u replicas %u target_bytes %llu", &conf.targets,
                     &conf.replicas, &bytes);
    conf.target_bytes = bytes;
    if (got != 3 || conf.targets < 1 || conf.targets > FM_FS_CLUSTER_TARGETS_MAX || conf.replicas < 1 ||
        conf.targets % conf.replicas != 0)
        return fm_base_error_set(
            FM_ERR_FORMAT, "%s: expected \"fathom-cluster-1 targets N replicas R target_bytes B\"", path);
    *out_conf = conf;
    return FM_OK;
}

/* Init */

static fm_status complete(const char *dir, const fm_fs_cluster_options *options,
                          struct fm_fs_cluster_conf *conf)
{
    static const fm_fs_cluster_options none = {.size = sizeof none};
    const fm_fs_cluster_options *given = options ? options : &none;
    conf->targets = given->targets ? given->targets : 3;
    conf->replicas = given->replicas ? given->replicas : conf->targets < 3 ? conf->targets : 3;
    conf->target_bytes = given->target_bytes ? given->target_bytes : (uint64_t)64 << 30;
    if (conf->targets > FM_FS_CLUSTER_TARGETS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%s: %u targets; expected at most %d", dir, conf->targets,
                                 FM_FS_CLUSTER_TARGETS_MAX);
    if (conf->replicas > FM_FS_CLUSTER_REPLICAS_MAX || conf->targets % conf->replicas != 0)
        return fm_base_error_set(
            FM_ERR_ARG, "%s: %u replicas on %u targets; expected at most %d, and targets a multiple of them",
            dir, conf->replicas, conf->targets, FM_FS_CLUSTER_REPLICAS_MAX);
    return FM_OK;
}

static fm_status write_chains(fm_fs_kv_tx *tx, void *context)
{
    const struct fm_fs_cluster_conf *conf = context;
    for (uint32_t c = 0; c < conf->targets / conf->replicas; c++) {
        fm_fs_chain chain = {.id = c + 1, .version = 1, .count = conf->replicas};
        for (uint32_t r = 0; r < conf->replicas; r++) {
            uint32_t target = c * conf->replicas + r + 1;
            chain.members[r] = (fm_fs_member){target, FIRST_NODE + target, FM_FS_SERVING};
        }
        FM_TRY(fm_fs_manager_put_chain(tx, &chain));
    }
    return FM_OK;
}

static fm_status init_meta(const char *dir, struct fm_fs_cluster_conf *conf)
{
    char spec[FM_FS_CLUSTER_PATH_MAX + 8];
    fm_fs_kv *kv;
    snprintf(spec, sizeof spec, "lmdb:%s/meta", dir);
    FM_TRY(fm_fs_kv_open(spec, NULL, &kv));
    fm_status status = fm_fs_kv_run(kv, 0, write_chains, conf);
    fm_fs_kv_close(kv);
    return status;
}

fm_status fm_fs_cluster_init(const char *dir, const fm_fs_cluster_options *options)
{
    struct fm_fs_cluster_conf conf;
    char path[FM_FS_CLUSTER_PATH_MAX];
    char text[CONF_BYTES_MAX];
    struct stat there;
    fm_net_key key;
    FM_TRY(complete(dir, options, &conf));
    FM_TRY(fm_base_dir_create(dir));
    FM_TRY(fm_fs_cluster_path(dir, "cluster.conf", path));
    if (stat(path, &there) == 0)
        return fm_base_error_set(FM_ERR_EXISTS, "%s: there is a cluster already", dir);
    char key_path[FM_FS_CLUSTER_PATH_MAX];
    FM_TRY(fm_fs_cluster_path(dir, "key", key_path));
    // What an init that was cut short has left is made anew: the configuration, written last, is what counts.
    FM_TRY(fm_base_dir_remove(key_path));
    FM_TRY(fm_net_key_generate(&key));
    fm_status status = fm_net_key_write(key_path, &key);
    fm_net_key_clear(&key);
    FM_TRY(status);
    FM_TRY(fm_fs_cluster_path(dir, "meta", key_path));
    FM_TRY(fm_base_dir_remove(key_path));
    FM_TRY(init_meta(dir, &conf));
    int length = snprintf(text, sizeof text, "fathom-cluster-1 targets %u replicas %u target_bytes %llu\n",
                          conf.targets, conf.replicas, (unsigned long long)conf.target_bytes);
    return fm_base_file_save(path, text, (size_t)length);
}

/* Up */

static void serve_manager(void *context, fm_fs_request *request)
{
    fm_fs_cluster *cluster = context;
    fm_fs_manager_serve(cluster->manager, request);
}

static void serve_storage(void *context, fm_fs_request *request)
{
    struct service *service = context;
    fm_fs_storage_serve(service->storage, request);
}

static fm_status take_lock(fm_fs_cluster *cluster, const char *dir)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    char pid[32];
    FM_TRY(fm_fs_cluster_path(dir, "lock", path));
    cluster->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (cluster->lock < 0)
        return fm_base_file_error(errno, "%s", path);
    if (flock(cluster->lock, LOCK_EX | LOCK_NB) != 0)
        return fm_base_error_set(FM_ERR_BUSY, "%s: the cluster is up already", dir);
    int length = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if (ftruncate(cluster->lock, 0) != 0 || pwrite(cluster->lock, pid, (size_t)length, 0) != length)
        return fm_base_file_error(errno, "%s", path);
    return FM_OK;
}

fm_status fm_fs_cluster_process(const char *dir, int *out_pid)
{
    struct fm_fs_cluster_conf conf;
    char path[FM_FS_CLUSTER_PATH_MAX];
    char pid[32] = "";
    FM_TRY(fm_fs_cluster_conf_read(dir, &conf));
    FM_TRY(fm_fs_cluster_path(dir, "lock", path));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int held = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) != 0;
    if (held && pread(fd, pid, sizeof pid - 1, 0) < 0)
        held = 0;
    if (fd >= 0)
        close(fd);
    *out_pid = held ? atoi(pid) : 0;
    return FM_OK;
}

static fm_status start_target(fm_fs_cluster *cluster, const char *dir, uint32_t target)
{
    static const uint32_t managers[] = {1};
    struct service *service = &cluster->services[target - 1];
    char name[32];
    char path[FM_FS_CLUSTER_PATH_MAX];
    snprintf(name, sizeof name, "target-%u", target);
    FM_TRY(fm_fs_cluster_path(dir, name, path));
    FM_TRY(
        fm_fs_disk_open(fm_fs_host_loop(cluster->host), path, cluster->conf.target_bytes, 0, &service->disk));
    FM_TRY(fm_fs_host_node(cluster->host, FIRST_NODE + target, serve_storage, service, &service->runtime));
    // A directory that is empty is a new disk: it is formatted, and filled from the other replicas.
    fm_fs_storage_disk disk = {.target = target, .disk = service->disk, .format = 1};
    if (getrandom(disk.identity, sizeof disk.identity, 0) != (ssize_t)sizeof disk.identity)
        return fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    const fm_fs_storage_options options = {.address = fm_fs_host_address(cluster->host),
                                           .managers = managers,
                                           .manager_count = 1,
                                           .incarnation = fm_base_clock_unix_ns(),
                                           .heartbeat_ns = 200 * ms,
                                           .lease_ns = 2000 * ms,
                                           .call_timeout_ns = 5000 * ms,
                                           .scrub_ns = 1000 * ms};
    return fm_fs_storage_new(service->runtime, &options, &disk, 1, &service->storage);
}

static fm_status start(fm_fs_cluster *cluster, const char *dir)
{
    char path[FM_FS_CLUSTER_PATH_MAX + 8];
    FM_TRY(take_lock(cluster, dir));
    FM_TRY(fm_fs_cluster_path(dir, "key", path));
    FM_TRY(fm_net_key_read(path, &cluster->key));
    snprintf(path, sizeof path, "lmdb:%s/meta", dir);
    FM_TRY(fm_fs_kv_open(path, NULL, &cluster->kv));
    FM_TRY(fm_fs_host_new(&cluster->key, cluster->kv, &cluster->host));
    // Clients connect from other directories: the address that the nodes tell is a whole path.
    char *whole = realpath(dir, NULL);
    if (!whole)
        return fm_base_file_error(errno, "%s", dir);
    int length = snprintf(path, sizeof path, "unix:%s/socket", whole);
    free(whole);
    if (length > FM_FS_ADDRESS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: expected a path of at most %d bytes", dir,
                                 FM_FS_ADDRESS_MAX - (int)strlen("unix:/socket"));
    FM_TRY(fm_fs_host_listen(cluster->host, path));
    FM_TRY(fm_fs_host_node(cluster->host, 1, serve_manager, cluster, &cluster->manager_runtime));
    const fm_fs_manager_options options = {
        .lease_ns = 3000 * ms, .tick_ns = 100 * ms, .node_timeout_ns = 6000 * ms};
    FM_TRY(fm_fs_manager_new(cluster->manager_runtime, &options, &cluster->manager));
    for (uint32_t target = 1; target <= cluster->conf.targets; target++)
        FM_TRY(start_target(cluster, dir, target));
    return FM_OK;
}

fm_status fm_fs_cluster_up(const char *dir, fm_fs_cluster **out_cluster)
{
    struct fm_fs_cluster_conf conf;
    FM_TRY(fm_fs_cluster_conf_read(dir, &conf));
    fm_fs_cluster *cluster = fm_base_mem_zalloc(1, sizeof *cluster);
    if (!cluster)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a cluster");
    cluster->conf = conf;
    cluster->lock = -1;
    fm_status status = start(cluster, dir);
    if (status < 0) {
        fm_fs_cluster_down(cluster);
        return status;
    }
    *out_cluster = cluster;
    return FM_OK;
}

fm_status fm_fs_cluster_run(fm_fs_cluster *cluster)
{
    return fm_net_loop_run(fm_fs_host_loop(cluster->host));
}

void fm_fs_cluster_stop(fm_fs_cluster *cluster)
{
    fm_net_loop_stop(fm_fs_host_loop(cluster->host));
}

void fm_fs_cluster_down(fm_fs_cluster *cluster)
{
    if (!cluster)
        return;
    fm_fs_host_end(cluster->host);
    for (uint32_t i = 0; i < FM_FS_CLUSTER_TARGETS_MAX; i++) {
        // What the kernel still writes comes to its end before the memory goes.
        fm_fs_disk_close(cluster->services[i].disk);
        fm_fs_storage_free(cluster->services[i].storage);
    }
    fm_fs_manager_free(cluster->manager);
    fm_fs_host_free(cluster->host);
    fm_fs_kv_close(cluster->kv);
    fm_net_key_clear(&cluster->key);
    if (cluster->lock >= 0)
        close(cluster->lock);
    fm_base_mem_free(cluster);
}
