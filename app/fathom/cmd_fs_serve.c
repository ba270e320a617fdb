// `fathom fs serve ...`: one service of a cluster in a process of its own.
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd_fs.h"
#include "fathom/file.h"

static fm_fs_cluster *running;

static void on_signal(int signal_number)
{
    (void)signal_number;
    fm_fs_cluster_stop(running); // NOLINT(bugprone-signal-handler): its contract allows it
}

fm_status fm_cmd_fs_serve_until_signal(fm_fs_cluster *cluster, int ready)
{
    const struct sigaction action = {.sa_handler = on_signal};
    const struct sigaction none = {.sa_handler = SIG_IGN};
    fm_status status = FM_OK;
    running = cluster;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (ready >= 0) {
        if (write(ready, "", 1) < 0)
            status = fm_base_file_error(errno, "telling that the cluster is up");
        close(ready);
    }
    if (status == FM_OK)
        status = fm_fs_cluster_run(cluster);
    // It is ending already; a signal must not find what is being freed.
    sigaction(SIGINT, &none, NULL);
    sigaction(SIGTERM, &none, NULL);
    running = NULL;
    fm_fs_cluster_down(cluster);
    return status;
}

struct serve_options {
    const char *listen, *store, *targets, *tls_cert, *tls_key, *tls_ca, *metrics, *log;
    int64_t node, target_bytes, sync_rate;
};

#define FIELD(name) offsetof(struct serve_options, name)

fm_status fm_cmd_fs_metrics(fm_fs_cluster *cluster, const char *address)
{
    const char *where;
    if (!*address)
        return FM_OK;
    FM_TRY(fm_fs_cluster_metrics(cluster, address, &where));
    fm_cmd_fs_say("metrics at http://%s/metrics", where);
    return FM_OK;
}

static fm_status serve(const char *dir, const fm_fs_serve_options *options, const struct serve_options *given)
{
    fm_fs_cluster *cluster;
    FM_TRY(fm_cmd_fs_log_begin(given->log));
    FM_TRY(fm_fs_cluster_serve(dir, options, &cluster));
    fm_status status = fm_cmd_fs_metrics(cluster, given->metrics);
    if (status < 0) {
        fm_fs_cluster_down(cluster);
        return status;
    }
    fm_cmd_fs_say("node %u serves at %s", options->node, fm_fs_cluster_address(cluster));
    return fm_cmd_fs_serve_until_signal(cluster, -1);
}

/* Manager */

static const fm_option manager_schema[] = {
    {"node", FM_OPTION_INT, FIELD(node), .value = "1", .min = 1, .max = 100,
     .help = "which of the managers this is"},
    {"listen", FM_OPTION_STRING, FIELD(listen), .metavar = "ADDRESS",
     .help = "where, as host:port or unix:PATH; default: what DIR/managers says of it, or unix:DIR/socket"},
    {"store", FM_OPTION_STRING, FIELD(store), .metavar = "STORE",
     .help = "the cluster's state, as lmdb:DIR or postgresql:CONNINFO; default: lmdb:DIR/meta"},
    FM_CMD_FS_TLS_OPTIONS("what DIR/tls names"),
    FM_CMD_FS_SERVICE_OPTIONS,
    {0},
};

static fm_status run_manager(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct serve_options *options = given;
    const fm_fs_serve_options service = {.size = sizeof service,
                                         .role = FM_FS_MANAGER,
                                         .node = (uint32_t)options->node,
                                         .listen = options->listen,
                                         .store = options->store,
                                         .tls_cert = options->tls_cert,
                                         .tls_key = options->tls_key,
                                         .tls_ca = options->tls_ca};
    return serve(invocation->operands[0], &service, options);
}

static const fm_command manager_command = {
    .name = "mgmtd",
    .summary = "serve as a cluster manager, until a signal",
    .operands = "DIR",
    .details =
        "DIR is what 'fathom fs cluster init' made. With several managers, DIR/managers has a line\n"
        "\"NODE ADDRESS\" for each, the same on every machine, and they share the store; one of them leads.\n"
        "  fathom fs serve mgmtd /data/cluster --node 2",
    .options = manager_schema,
    .options_size = sizeof(struct serve_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_manager,
};

/* Storage */

static const fm_option storage_schema[] = {
    {"node", FM_OPTION_INT, FIELD(node), .required = 1, .min = 101, .max = INT32_MAX - 1,
     .help = "which node this is; 'init' begins with 101"},
    {"listen", FM_OPTION_STRING, FIELD(listen), .metavar = "ADDRESS",
     .help = "where, as host:port or unix:PATH; default: unix:DIR/socket-NODE, which serves this machine in "
             "any case"},
    {"targets", FM_OPTION_STRING, FIELD(targets), .metavar = "LIST",
     .help = "of this node, as 4,5,6; default: those that 'init' gave it"},
    {"target-bytes", FM_OPTION_SIZE, FIELD(target_bytes), .value = "0", .min = 0, .max = 0x1p50,
     .help = "the most that a target may hold; 0: as 'init' was told, or 64 GiB"},
    {"sync-rate", FM_OPTION_SIZE, FIELD(sync_rate), .value = "0", .min = 0, .max = 0x1p50,
     .help = "bytes a second that filling another replica sends at most; 0: as fast as it can"},
    FM_CMD_FS_TLS_OPTIONS("what DIR/tls names"),
    FM_CMD_FS_SERVICE_OPTIONS,
    {0},
};

// "4,5,6"
static fm_status read_targets(const char *text, uint32_t *out_targets, uint32_t *out_count)
{
    uint32_t count = 0;
    const char *at = text;
    for (;;) {
        char *end;
        errno = 0;
        unsigned long value = strtoul(at, &end, 10);
        if (end == at || *at == '-' || errno || value < 1 || value > UINT32_MAX ||
            (*end != ',' && *end != 0) || count == FM_FS_CLUSTER_TARGETS_MAX)
            return fm_base_error_set(FM_ERR_ARG,
                                     "targets is '%s'; expected at most %d numbers from 1 on, as 4,5,6", text,
                                     FM_FS_CLUSTER_TARGETS_MAX);
        out_targets[count++] = (uint32_t)value;
        if (*end == 0)
            break;
        at = end + 1;
    }
    *out_count = count;
    return FM_OK;
}

static fm_status run_storage(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct serve_options *options = given;
    uint32_t targets[FM_FS_CLUSTER_TARGETS_MAX];
    fm_fs_serve_options service = {.size = sizeof service,
                                   .role = FM_FS_STORAGE,
                                   .node = (uint32_t)options->node,
                                   .listen = options->listen,
                                   .target_bytes = (uint64_t)options->target_bytes,
                                   .sync_bytes_per_s = (uint64_t)options->sync_rate,
                                   .tls_cert = options->tls_cert,
                                   .tls_key = options->tls_key,
                                   .tls_ca = options->tls_ca};
    if (options->targets) {
        FM_TRY(read_targets(options->targets, targets, &service.target_count));
        service.targets = targets;
    }
    return serve(invocation->operands[0], &service, options);
}

static const fm_command storage_command = {
    .name = "storage",
    .summary = "serve the targets of a node, until a signal",
    .operands = "DIR",
    .details = "DIR holds the cluster's key, on another machine than its managers' also the file managers, "
               "and gets\n"
               "target-<id>/ for each target. Kill it at any time: what was acknowledged is safe.\n"
               "  fathom fs serve storage /data/cluster --node 101",
    .options = storage_schema,
    .options_size = sizeof(struct serve_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_storage,
};

static const fm_command *const children[] = {&manager_command, &storage_command, &fm_cmd_fs_serve_meta, NULL};

const fm_command fm_cmd_fs_serve = {
    .name = "serve",
    .summary = "one service of a cluster in a process of its own",
    .children = children,
};
