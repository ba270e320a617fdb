// The services of a cluster: all in one process, or each in its own.
#include "fathom/fs_cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster_client.h"
#include "disk_file.h"
#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/fs_placement.h"
#include "fs_chunks_private.h"
#include "fs_cluster_private.h"
#include "fs_cluster_process.h"
#include "host.h"
#include "manager.h"
#include "storage.h"

static const int64_t ms = 1000000;
static const uint64_t TARGET_BYTES = (uint64_t)64 << 30;

struct service { // a storage node
    fm_fs_runtime *runtime;
    fm_fs_storage *storage;
};

struct fm_fs_cluster {
    struct fm_fs_cluster_managers managers;
    fm_net_key key;
    fm_net_tls *tls;
    int lock;
    fm_fs_kv *kv;
    fm_fs_host *host;
    fm_fs_runtime *manager_runtime;
    fm_fs_manager *manager;
    fm_fs_disk *disks[FM_FS_CLUSTER_TARGETS_MAX];
    uint32_t targets[FM_FS_CLUSTER_TARGETS_MAX]; // of the disks
    uint32_t disk_count;
    fm_fs_metrics *metrics;
    uint64_t sync_bytes_per_s;
    struct service services[FM_FS_CLUSTER_TARGETS_MAX];
    uint32_t service_count;
    fm_fs_client *client; // of this process, or NULL
};

/* Init */

static fm_status complete(const char *dir, const fm_fs_cluster_options *given,
                          struct fm_fs_cluster_conf *conf, const char **out_store,
                          struct fm_fs_cluster_tls *out_tls)
{
    fm_fs_cluster_options options = {.size = sizeof options};
    if (given && (given->size < sizeof given->size || given->size > sizeof options))
        return fm_base_error_set(FM_ERR_ARG, "options->size is %zu; expected at most %zu", given->size,
                                 sizeof options);
    if (given)
        memcpy(&options, given, given->size);
    *out_store = options.store;
    *out_tls =
        (struct fm_fs_cluster_tls){.cert = options.tls_cert, .key = options.tls_key, .ca = options.tls_ca};
    conf->targets = options.targets ? options.targets : 3;
    conf->replicas = options.replicas ? options.replicas : conf->targets < 3 ? conf->targets : 3;
    conf->nodes = options.nodes ? options.nodes : conf->targets;
    conf->target_bytes = options.target_bytes ? options.target_bytes : TARGET_BYTES;
    if (conf->targets > FM_FS_CLUSTER_TARGETS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%s: %u targets; expected at most %d", dir, conf->targets,
                                 FM_FS_CLUSTER_TARGETS_MAX);
    if (conf->replicas > FM_FS_CLUSTER_REPLICAS_MAX || conf->targets % conf->replicas != 0)
        return fm_base_error_set(
            FM_ERR_ARG, "%s: %u replicas on %u targets; expected at most %d, and targets a multiple of them",
            dir, conf->replicas, conf->targets, FM_FS_CLUSTER_REPLICAS_MAX);
    if (conf->nodes < conf->replicas || conf->targets % conf->nodes != 0)
        return fm_base_error_set(
            FM_ERR_ARG,
            "%s: %u targets on %u nodes; expected as many on each, and at least %u nodes, one for "
            "each replica",
            dir, conf->targets, conf->nodes, conf->replicas);
    return FM_OK;
}

struct chains { // of a cluster that is made
    const struct fm_fs_cluster_conf *conf;
    uint32_t places[FM_FS_CLUSTER_TARGETS_MAX]; // as fm_fs_placement_solve() gives them
};

static fm_status write_chains(fm_fs_kv_tx *tx, void *context)
{
    const struct chains *chains = context;
    const struct fm_fs_cluster_conf *conf = chains->conf;
    uint32_t of_node = conf->targets / conf->nodes;
    uint32_t used[FM_FS_CLUSTER_TARGETS_MAX] = {0}; // targets of each node
    int has = 0;
    FM_TRY(fm_fs_manager_has_state(tx, &has));
    if (has)
        return fm_base_error_set(FM_ERR_EXISTS,
                                 "the store holds a cluster's state already; name an empty one");
    for (uint32_t c = 0; c < conf->targets / conf->replicas; c++) {
        fm_fs_chain chain = {.id = c + 1, .version = 1, .count = conf->replicas};
        for (uint32_t r = 0; r < conf->replicas; r++) {
            uint32_t node = chains->places[c * conf->replicas + r];
            uint32_t target = node * of_node + used[node]++ + 1;
            chain.members[r] = (fm_fs_member){target, fm_fs_cluster_node_of(conf, target), FM_FS_SERVING};
        }
        FM_TRY(fm_fs_manager_put_chain(tx, &chain));
    }
    return FM_OK;
}

static fm_status init_meta(const char *dir, struct fm_fs_cluster_conf *conf, const char *store)
{
    char spec[FM_FS_CLUSTER_PATH_MAX + 8];
    struct chains chains = {.conf = conf};
    fm_fs_kv *kv;
    FM_TRY(fm_fs_placement_solve(conf->nodes, conf->targets / conf->nodes, conf->replicas, chains.places));
    snprintf(spec, sizeof spec, "lmdb:%s/meta", dir);
    FM_TRY(fm_fs_kv_open(store ? store : spec, NULL, &kv));
    fm_status status = fm_fs_kv_run(kv, 0, write_chains, &chains);
    fm_fs_kv_close(kv);
    return status;
}

fm_status fm_fs_cluster_init(const char *dir, const fm_fs_cluster_options *options)
{
    struct fm_fs_cluster_conf conf;
    char path[FM_FS_CLUSTER_PATH_MAX];
    struct stat there;
    fm_net_key key;
    const char *store = NULL;
    struct fm_fs_cluster_tls tls;
    FM_TRY(complete(dir, options, &conf, &store, &tls));
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
    FM_TRY(fm_fs_cluster_tls_write(dir, &tls));
    FM_TRY(fm_fs_cluster_path(dir, "meta", key_path));
    FM_TRY(fm_base_dir_remove(key_path));
    FM_TRY(init_meta(dir, &conf, store));
    return fm_fs_cluster_conf_write(dir, &conf);
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

// One process on a machine is the manager of this number.
static fm_status take_lock(fm_fs_cluster *cluster, const char *dir, uint32_t manager)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    char name[32] = "lock";
    char pid[32];
    if (manager != 1)
        snprintf(name, sizeof name, "lock-%u", manager);
    FM_TRY(fm_fs_cluster_path(dir, name, path));
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
    struct stat there;
    char path[FM_FS_CLUSTER_PATH_MAX];
    char pid[32] = "";
    FM_TRY(fm_fs_cluster_path(dir, "key", path));
    if (stat(path, &there) != 0)
        return fm_base_file_error(errno, "%s: there is no cluster; its key", path);
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

static fm_status open_disk(fm_fs_cluster *cluster, const char *dir, uint32_t target, uint64_t bytes,
                           fm_fs_storage_disk *out_disk)
{
    char name[32];
    char path[FM_FS_CLUSTER_PATH_MAX];
    fm_fs_disk **disk = &cluster->disks[cluster->disk_count];
    snprintf(name, sizeof name, "target-%u", target);
    FM_TRY(fm_fs_cluster_path(dir, name, path));
    FM_TRY(fm_fs_disk_open(fm_fs_host_loop(cluster->host), path, bytes, 0, disk));
    cluster->targets[cluster->disk_count++] = target;
    // A directory that is empty is a new disk: it is formatted, and filled from the other replicas.
    *out_disk = (fm_fs_storage_disk){.target = target, .disk = *disk, .format = 1};
    if (getrandom(out_disk->identity, sizeof out_disk->identity, 0) != (ssize_t)sizeof out_disk->identity)
        return fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    return FM_OK;
}

static fm_status start_node(fm_fs_cluster *cluster, const char *dir, uint32_t node, const uint32_t *targets,
                            uint32_t count, uint64_t bytes)
{
    fm_fs_storage_disk disks[FM_FS_CLUSTER_TARGETS_MAX];
    struct service *service = &cluster->services[cluster->service_count++];
    for (uint32_t i = 0; i < count; i++)
        FM_TRY(open_disk(cluster, dir, targets[i], bytes, &disks[i]));
    FM_TRY(fm_fs_host_node(cluster->host, node, serve_storage, service, &service->runtime));
    const fm_fs_storage_options options = {.address = fm_fs_host_announcement(cluster->host),
                                           .managers = cluster->managers.nodes,
                                           .manager_count = cluster->managers.count,
                                           .incarnation = fm_base_clock_unix_ns(),
                                           .heartbeat_ns = 200 * ms,
                                           .lease_ns = 2000 * ms,
                                           .call_timeout_ns = 5000 * ms,
                                           .scrub_ns = 1000 * ms,
                                           .forget_ns = 1000 * ms,
                                           .sync_bytes_per_s = cluster->sync_bytes_per_s,
                                           .pool = fm_fs_host_pool(cluster->host)};
    return fm_fs_storage_new(service->runtime, &options, disks, count, &service->storage);
}

static fm_status start_manager(fm_fs_cluster *cluster, const char *dir, uint32_t node, const char *store)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    char spec[FM_FS_CLUSTER_PATH_MAX + 8];
    FM_TRY(take_lock(cluster, dir, node));
    FM_TRY(fm_fs_cluster_path(dir, "meta", path));
    if (!store && access(path, F_OK) != 0) // opened, it would be an empty one
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s: the cluster's state is not there; name its store",
                                 path);
    snprintf(spec, sizeof spec, "lmdb:%s", path);
    FM_TRY(fm_fs_kv_open(store ? store : spec, NULL, &cluster->kv));
    FM_TRY(fm_fs_host_new(&cluster->key, cluster->tls, cluster->kv, &cluster->host));
    FM_TRY(fm_fs_host_node(cluster->host, node, serve_manager, cluster, &cluster->manager_runtime));
    const fm_fs_manager_options options = {
        .lease_ns = 3000 * ms, .tick_ns = 100 * ms, .node_timeout_ns = 6000 * ms};
    return fm_fs_manager_new(cluster->manager_runtime, &options, &cluster->manager);
}

// The targets that cluster.conf gives a node.
static uint32_t targets_of(const struct fm_fs_cluster_conf *conf, uint32_t node, uint32_t *out_targets)
{
    uint32_t count = 0;
    for (uint32_t target = 1; target <= conf->targets; target++)
        if (fm_fs_cluster_node_of(conf, target) == node)
            out_targets[count++] = target;
    return count;
}

static fm_status new_cluster(const char *dir, const struct fm_fs_cluster_tls *tls,
                             fm_fs_cluster **out_cluster)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    fm_fs_cluster *cluster = fm_base_mem_zalloc(1, sizeof *cluster);
    if (!cluster)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a cluster");
    cluster->lock = -1;
    *out_cluster = cluster;
    FM_TRY(fm_fs_cluster_path(dir, "key", path));
    FM_TRY(fm_net_key_read(path, &cluster->key));
    return fm_fs_cluster_tls_open(dir, tls, &cluster->tls);
}

/* All in one */

static fm_status start_all(fm_fs_cluster *cluster, const char *dir)
{
    struct fm_fs_cluster_conf conf;
    char path[FM_FS_CLUSTER_PATH_MAX];
    char address[FM_FS_ADDRESS_MAX + 1];
    FM_TRY(fm_fs_cluster_conf_read(dir, &conf));
    FM_TRY(fm_fs_cluster_path(dir, "managers", path));
    if (access(path, F_OK) == 0)
        return fm_base_error_set(FM_ERR_STATE,
                                 "%s: its managers are named by a file; serve each service apart", dir);
    cluster->managers = (struct fm_fs_cluster_managers){.count = 1, .nodes = {1}};
    FM_TRY(start_manager(cluster, dir, 1, NULL));
    FM_TRY(fm_fs_cluster_socket(dir, "socket", address));
    FM_TRY(fm_fs_host_listen(cluster->host, address, NULL));
    for (uint32_t node = FM_FS_FIRST_STORAGE; node < FM_FS_FIRST_STORAGE + conf.nodes; node++) {
        uint32_t targets[FM_FS_CLUSTER_TARGETS_MAX];
        uint32_t count = targets_of(&conf, node, targets);
        FM_TRY(start_node(cluster, dir, node, targets, count, conf.target_bytes));
    }
    return FM_OK;
}

fm_status fm_fs_cluster_up(const char *dir, fm_fs_cluster **out_cluster)
{
    fm_fs_cluster *cluster = NULL;
    struct fm_fs_cluster_conf conf;
    FM_TRY(fm_fs_cluster_conf_read(dir, &conf)); // says best what is missing
    fm_status status = new_cluster(dir, NULL, &cluster);
    if (status == FM_OK)
        status = start_all(cluster, dir);
    if (status < 0) {
        fm_fs_cluster_down(cluster);
        return status;
    }
    *out_cluster = cluster;
    return FM_OK;
}

/* One service */

static fm_status listen_at(fm_fs_cluster *cluster, const char *address, const char *local)
{
    FM_TRY(fm_fs_host_listen(cluster->host, address, local));
    const char *bound = fm_fs_host_address(cluster->host);
    fm_net_address parsed;
    FM_TRY(fm_net_address_parse(bound, &parsed));
    if (strcmp(parsed.host, "*") == 0 || strcmp(parsed.host, "0.0.0.0") == 0 ||
        strcmp(parsed.host, "::") == 0)
        return fm_base_error_set(FM_ERR_ARG, "%s: others cannot reach that; name this machine's address",
                                 address);
    if (strlen(bound) > FM_FS_ADDRESS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: expected an address of at most %d bytes", bound,
                                 FM_FS_ADDRESS_MAX);
    return FM_OK;
}

static fm_status serve_one_manager(fm_fs_cluster *cluster, const char *dir,
                                   const fm_fs_serve_options *options)
{
    const struct fm_fs_cluster_managers *managers = &cluster->managers;
    uint32_t place = 0;
    while (place < managers->count && managers->nodes[place] != options->node)
        place++;
    if (place == managers->count)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%s: %u is no manager there; expected one of the file managers, "
                                 "or 1 without it",
                                 dir, options->node);
    FM_TRY(start_manager(cluster, dir, options->node, options->store));
    return listen_at(cluster, options->listen ? options->listen : managers->addresses[place], NULL);
}

static fm_status serve_one_node(fm_fs_cluster *cluster, const char *dir, const fm_fs_serve_options *options)
{
    struct fm_fs_cluster_conf conf = {0};
    uint32_t own[FM_FS_CLUSTER_TARGETS_MAX];
    const uint32_t *targets = options->targets;
    uint32_t count = options->target_count;
    uint64_t bytes = options->target_bytes;
    char address[FM_FS_ADDRESS_MAX + 1];
    char name[32];
    if (options->node < FM_FS_FIRST_STORAGE || count > FM_FS_CLUSTER_TARGETS_MAX)
        return fm_base_error_set(FM_ERR_ARG,
                                 "node %u with %u targets; expected a node from %d on, at most %d",
                                 options->node, count, FM_FS_FIRST_STORAGE, FM_FS_CLUSTER_TARGETS_MAX);
    if (!targets || !bytes) {
        fm_status status = fm_fs_cluster_conf_read(dir, &conf);
        if (status < 0 && (status != FM_ERR_NOT_FOUND || !targets))
            return status;
        bytes = bytes ? bytes : conf.target_bytes ? conf.target_bytes : TARGET_BYTES;
    }
    if (!targets) {
        count = targets_of(&conf, options->node, own);
        targets = own;
    }
    if (!count)
        return fm_base_error_set(FM_ERR_ARG, "%s: cluster.conf gives node %u no targets; name them", dir,
                                 options->node);
    cluster->sync_bytes_per_s = options->sync_bytes_per_s;
    FM_TRY(fm_fs_host_new(&cluster->key, cluster->tls, NULL, &cluster->host));
    for (uint32_t i = 0; i < cluster->managers.count; i++)
        FM_TRY(fm_fs_host_know(cluster->host, cluster->managers.nodes[i], cluster->managers.addresses[i]));
    snprintf(name, sizeof name, "socket-%u", options->node);
    fm_status status = fm_fs_cluster_socket(dir, name, address);
    if (!options->listen)
        FM_TRY(status);
    // A service on the network is reached over a UNIX socket as well by who is on its machine.
    int tcp = options->listen && strncmp(options->listen, "unix:", 5) != 0;
    FM_TRY(listen_at(cluster, options->listen ? options->listen : address,
                     tcp && status == FM_OK ? address : NULL));
    return start_node(cluster, dir, options->node, targets, count, bytes);
}

fm_status fm_fs_cluster_serve(const char *dir, const fm_fs_serve_options *given, fm_fs_cluster **out_cluster)
{
    fm_fs_serve_options options = {.size = sizeof options};
    fm_fs_cluster *cluster = NULL;
    if (given->size < sizeof given->size || given->size > sizeof options)
        return fm_base_error_set(FM_ERR_ARG, "options->size is %zu; expected at most %zu", given->size,
                                 sizeof options);
    memcpy(&options, given, given->size);
    if (options.role != FM_FS_MANAGER && options.role != FM_FS_STORAGE)
        return fm_base_error_set(FM_ERR_ARG, "role %d; expected FM_FS_MANAGER or FM_FS_STORAGE",
                                 (int)options.role);
    const struct fm_fs_cluster_tls tls = {
        .cert = options.tls_cert, .key = options.tls_key, .ca = options.tls_ca};
    fm_status status = new_cluster(dir, &tls, &cluster);
    if (status == FM_OK)
        status = fm_fs_cluster_managers_read(dir, &cluster->managers);
    if (status == FM_OK)
        status = options.role == FM_FS_MANAGER ? serve_one_manager(cluster, dir, &options)
                                               : serve_one_node(cluster, dir, &options);
    if (status < 0) {
        fm_fs_cluster_down(cluster);
        return status;
    }
    *out_cluster = cluster;
    return FM_OK;
}

fm_status fm_fs_cluster_client(fm_fs_cluster *cluster, fm_fs_client **out_client, fm_net_loop **out_loop)
{
    fm_fs_runtime *runtime;
    fm_fs_client_options options = {.managers = cluster->managers.nodes,
                                    .manager_count = cluster->managers.count,
                                    .call_timeout_ns = 5000 * ms};
    FM_TRY(fm_fs_chunks_client_id(&options.id));
    FM_TRY(fm_fs_host_node(cluster->host, FM_FS_CLIENT_NODE, NULL, NULL, &runtime));
    FM_TRY(fm_fs_client_new(runtime, &options, &cluster->client));
    *out_client = cluster->client;
    *out_loop = fm_fs_host_loop(cluster->host);
    return FM_OK;
}

const char *fm_fs_cluster_address(const fm_fs_cluster *cluster)
{
    return fm_fs_host_address(cluster->host);
}

fm_status fm_fs_cluster_run(fm_fs_cluster *cluster)
{
    return fm_net_loop_run(fm_fs_host_loop(cluster->host));
}

void fm_fs_cluster_stop(fm_fs_cluster *cluster)
{
    fm_net_loop_stop(fm_fs_host_loop(cluster->host));
}

void fm_fs_cluster_metrics_text(const fm_fs_cluster *cluster, struct fm_fs_metrics_text *text)
{
    struct fm_fs_cluster_process process = {.manager = cluster->manager,
                                            .storage_count = cluster->service_count,
                                            .target_count = cluster->disk_count};
    for (uint32_t i = 0; i < cluster->service_count; i++) {
        process.storage[i] = cluster->services[i].storage;
        process.nodes[i] = cluster->services[i].runtime->node;
    }
    for (uint32_t i = 0; i < cluster->disk_count; i++) {
        process.targets[i] = cluster->targets[i];
        process.capacities[i] = cluster->disks[i]->capacity_bytes;
    }
    fm_fs_cluster_metrics_write(&process, text);
}

static void write_metrics(void *context, struct fm_fs_metrics_text *text)
{
    fm_fs_cluster_metrics_text(context, text);
}

fm_status fm_fs_cluster_metrics(fm_fs_cluster *cluster, const char *address, const char **out_address)
{
    if (cluster->metrics)
        return fm_base_error_set(FM_ERR_STATE, "metrics are at %s already",
                                 fm_fs_metrics_address(cluster->metrics));
    FM_TRY(fm_fs_metrics_open(fm_fs_host_loop(cluster->host), address, write_metrics, cluster,
                              &cluster->metrics));
    *out_address = fm_fs_metrics_address(cluster->metrics);
    return FM_OK;
}

void fm_fs_cluster_down(fm_fs_cluster *cluster)
{
    if (!cluster)
        return;
    fm_fs_metrics_close(cluster->metrics);
    fm_fs_host_end(cluster->host);
    // What the kernel still writes comes to its end before the memory goes.
    for (uint32_t i = 0; i < cluster->disk_count; i++)
        fm_fs_disk_close(cluster->disks[i]);
    for (uint32_t i = 0; i < cluster->service_count; i++)
        fm_fs_storage_free(cluster->services[i].storage);
    fm_fs_manager_free(cluster->manager);
    fm_fs_client_free(cluster->client);
    fm_fs_host_free(cluster->host);
    fm_fs_kv_close(cluster->kv);
    fm_net_key_clear(&cluster->key);
    fm_net_tls_free(cluster->tls);
    if (cluster->lock >= 0)
        close(cluster->lock);
    fm_base_mem_free(cluster);
}
