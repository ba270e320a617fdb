// `fathom fs cluster ...`: a whole cluster in one process, from one directory.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd_fs.h"
#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/table.h"

struct cluster_options {
    int64_t targets, replicas, nodes, target_bytes;
    const char *store, *tls_cert, *tls_key, *tls_ca, *metrics, *log;
    int detach;
    double timeout_s;
};

#define FIELD(name) offsetof(struct cluster_options, name)
#define TIMEOUT_OPTION(standard, text)                                                                     \
    {                                                                                                      \
        "timeout", FM_OPTION_REAL, FIELD(timeout_s), .value = standard, .unit = "s", .min = 0, .max = 1e6, \
                                                     .help = text                                          \
    }

/* init */

static const fm_option init_schema[] = {
    {"targets", FM_OPTION_INT, FIELD(targets), .value = "0", .min = 0, .max = FM_FS_CLUSTER_TARGETS_MAX,
     .help = "places that keep chunks, a directory each; 0: 3"},
    {"replicas", FM_OPTION_INT, FIELD(replicas), .value = "0", .min = 0, .max = FM_FS_CLUSTER_REPLICAS_MAX,
     .help = "of each chunk; the targets are a multiple of them; 0: 3, or the targets if fewer"},
    {"nodes", FM_OPTION_INT, FIELD(nodes), .value = "0", .min = 0, .max = FM_FS_CLUSTER_TARGETS_MAX,
     .help = "on which the targets are, as many on each; replicas of a chunk are on different ones; 0: one a "
             "target"},
    {"target-bytes", FM_OPTION_SIZE, FIELD(target_bytes), .value = "0", .min = 0, .max = 0x1p50,
     .help = "the most that a target may hold; 0: 64 GiB"},
    {"store", FM_OPTION_STRING, FIELD(store), .metavar = "STORE",
     .help = "of the cluster's state, for managers that are served apart: lmdb:DIR or postgresql:CONNINFO; "
             "default: lmdb:DIR/meta"},
    FM_CMD_FS_TLS_OPTIONS("no TLS"),
    {0},
};

static fm_status run_init(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct cluster_options *options = given;
    const fm_fs_cluster_options cluster = {.size = sizeof cluster,
                                           .targets = (uint32_t)options->targets,
                                           .replicas = (uint32_t)options->replicas,
                                           .target_bytes = (uint64_t)options->target_bytes,
                                           .nodes = (uint32_t)options->nodes,
                                           .store = options->store,
                                           .tls_cert = options->tls_cert,
                                           .tls_key = options->tls_key,
                                           .tls_ca = options->tls_ca};
    return fm_fs_cluster_init(invocation->operands[0], &cluster);
}

static const fm_command init_command = {
    .name = "init",
    .summary = "make a cluster in a directory",
    .operands = "DIR",
    .details =
        "DIR gets the cluster's key (keep it as one keeps a password) and its state. Nothing runs yet.\n"
        "Put targets on other disks by links: ln -s /mnt/disk2/t DIR/target-2\n"
        "Where certificates are given, DIR/tls names them, and members and clients on different machines "
        "speak TLS.\n"
        "  fathom fs cluster init --targets 6 --replicas 3 /data/cluster",
    .options = init_schema,
    .options_size = sizeof(struct cluster_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_init,
};

/* up */

// `ready` (or -1) is told by one byte when the cluster is up, by a message when it cannot be.
static fm_status serve(const char *dir, const char *metrics, int ready)
{
    fm_fs_cluster *cluster = NULL;
    fm_status status = fm_fs_cluster_up(dir, &cluster);
    if (status == FM_OK && (status = fm_cmd_fs_metrics(cluster, metrics)) < 0)
        fm_fs_cluster_down(cluster);
    if (status < 0) {
        if (ready >= 0 && write(ready, fm_error_message(), strlen(fm_error_message())) < 0)
            return status; // the parent sees that nothing came
        return status;
    }
    if (ready < 0)
        fm_cmd_fs_say("%s is up; Ctrl-C or 'fathom fs cluster stop %s' ends it", dir, dir);
    return fm_cmd_fs_serve_until_signal(cluster, ready);
}

// What the detached process was told to do with its standard streams: nothing may hold the terminal.
static fm_status leave_terminal(const char *dir)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/log", dir);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (log < 0 || null < 0)
        return fm_base_file_error(errno, "%s", log < 0 ? path : "/dev/null");
    if (setsid() < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        return fm_base_file_error(errno, "leaving the terminal");
    close(log);
    close(null);
    return FM_OK;
}

static fm_status detach(const char *dir, const char *metrics)
{
    int ready[2];
    char told[1024];
    if (pipe2(ready, O_CLOEXEC) != 0)
        return fm_base_file_error(errno, "pipe");
    pid_t child = fork();
    if (child < 0)
        return fm_base_file_error(errno, "fork");
    if (child == 0) {
        close(ready[0]);
        fm_status status = leave_terminal(dir);
        if (status < 0 && write(ready[1], fm_error_message(), strlen(fm_error_message())) < 0)
            _exit(1);
        if (status == FM_OK)
            status = serve(dir, metrics, ready[1]);
        _exit(status < 0);
    }
    close(ready[1]);
    size_t size = 0;
    ssize_t got;
    while (size < sizeof told - 1 && (got = read(ready[0], told + size, sizeof told - 1 - size)) > 0)
        size += (size_t)got;
    told[size] = 0;
    close(ready[0]);
    if (size == 1 && told[0] == 0)
        return FM_OK;
    waitpid(child, NULL, 0);
    return fm_base_error_set(FM_ERR_STATE, "%s", size ? told : "the cluster's process ended at once");
}

static const fm_option up_schema[] = {
    {"detach", FM_OPTION_FLAG, FIELD(detach), .value = "false",
     .help = "return once it is up and leave it running; its messages go to DIR/log"},
    FM_CMD_FS_SERVICE_OPTIONS,
    {0},
};

static fm_status run_up(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct cluster_options *options = given;
    const char *dir = invocation->operands[0];
    FM_TRY(fm_cmd_fs_log_begin(options->log));
    return options->detach ? detach(dir, options->metrics) : serve(dir, options->metrics, -1);
}

static const fm_command up_command = {
    .name = "up",
    .summary = "serve the cluster in a directory, until a signal or 'stop'",
    .operands = "DIR",
    .details = "Manager and storage run in this one process and listen on the UNIX socket DIR/socket.",
    .options = up_schema,
    .options_size = sizeof(struct cluster_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_up,
};

/* stop */

static const fm_option stop_schema[] = {
    TIMEOUT_OPTION("30", "how long to wait for its end"),
    {0},
};

static fm_status run_stop(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct cluster_options *options = given;
    const char *dir = invocation->operands[0];
    uint64_t begin = fm_base_clock_ns();
    int first;
    FM_TRY(fm_fs_cluster_process(dir, &first));
    if (!first)
        return FM_OK; // what was asked for holds
    if (kill(first, SIGTERM) != 0)
        return fm_base_file_error(errno, "process %d", first);
    for (int pid = first; pid == first; fm_base_clock_sleep_ns(20000000)) {
        if ((double)(fm_base_clock_ns() - begin) * 1e-9 > options->timeout_s)
            return fm_base_error_set(FM_ERR_TIMEOUT, "%s: process %d does not end", dir, pid);
        FM_TRY(fm_fs_cluster_process(dir, &pid));
    }
    return FM_OK;
}

static const fm_command stop_command = {
    .name = "stop",
    .summary = "end the cluster in a directory; one that is down is no failure",
    .operands = "DIR",
    .options = stop_schema,
    .options_size = sizeof(struct cluster_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_stop,
};

/* status */

static const fm_option status_schema[] = {
    TIMEOUT_OPTION("10", "how long to wait for its manager"),
    {0},
};

static uint32_t count_serving(const fm_fs_cluster_chain *chain)
{
    uint32_t serving = 0;
    for (uint32_t m = 0; m < chain->count; m++)
        serving += strcmp(chain->members[m].state, "serving") == 0;
    return serving;
}

static fm_status show_json(const fm_fs_cluster_state *state, int pid)
{
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_bool(&json, "up", state != NULL);
    if (pid)
        fm_base_json_int(&json, "process", pid);
    if (state) {
        fm_base_json_int(&json, "version", (int64_t)state->version);
        fm_base_json_begin(&json, "chains", '[');
        fm_cmd_fs_chains_json(&json, state);
        fm_base_json_end(&json);
        fm_base_json_begin(&json, "nodes", '[');
        for (uint32_t n = 0; n < state->node_count; n++) {
            fm_base_json_begin(&json, NULL, '{');
            fm_base_json_int(&json, "id", state->nodes[n].id);
            fm_base_json_string(&json, "address", state->nodes[n].address);
            fm_base_json_bool(&json, "draining", state->nodes[n].draining);
            fm_base_json_end(&json);
        }
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static void show_text(const char *dir, const fm_fs_cluster_state *state, int pid)
{
    uint32_t whole = 0, readable = 0;
    for (uint32_t c = 0; c < state->chain_count; c++) {
        uint32_t serving = count_serving(&state->chains[c]);
        whole += serving == state->chains[c].count;
        readable += serving > 0;
    }
    printf("%s is up", dir);
    if (pid)
        printf(", process %d", pid);
    printf(": %u of %u chains serve, %u with all replicas\n", readable, state->chain_count, whole);
    for (uint32_t c = 0; c < state->chain_count; c++) {
        const fm_fs_cluster_chain *chain = &state->chains[c];
        if (count_serving(chain) == chain->count)
            continue;
        printf("chain %u:", chain->id);
        for (uint32_t m = 0; m < chain->count; m++)
            printf("%s target %u %s", m ? "," : "", chain->members[m].target, chain->members[m].state);
        printf("\n");
    }
}

static fm_status run_status(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct cluster_options *options = given;
    const char *dir = invocation->operands[0];
    fm_fs_cluster_state state;
    fm_fs_chunks *chunks;
    int pid;
    FM_TRY(fm_fs_cluster_process(dir, &pid));
    if (!pid) {
        *out_exit = 1;
        if (invocation->json)
            return show_json(NULL, 0);
        printf("%s is down\n", dir);
        return FM_OK;
    }
    FM_TRY(fm_fs_chunks_open(dir, &chunks));
    fm_status status = fm_fs_chunks_state(chunks, (int64_t)(options->timeout_s * 1000), &state);
    if (status == FM_OK && invocation->json)
        status = show_json(&state, pid);
    else if (status == FM_OK)
        show_text(dir, &state, pid);
    fm_fs_chunks_close(chunks);
    return status;
}

static const fm_command status_command = {
    .name = "status",
    .summary = "whether a cluster is up, and which chains lack replicas",
    .operands = "DIR",
    .details = "Exits with 1 when it is down.",
    .options = status_schema,
    .options_size = sizeof(struct cluster_options),
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_status,
};

static const fm_command *const children[] = {&init_command, &up_command, &status_command, &stop_command,
                                             NULL};

const fm_command fm_cmd_fs_cluster = {
    .name = "cluster",
    .summary = "a whole cluster in one process, from one directory",
    .children = children,
};
