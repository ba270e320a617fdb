// `fathom fs mount`: a cluster's files under a directory of this machine.
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd_fs.h"
#include "cmd_fs_reach.h"
#include "fathom/file.h"
#include "fathom/fs_mount.h"

struct mount_options {
    int detach, read_only, allow_other, up;
    int64_t cache, names;
    const char *metrics, *log;
    fm_cmd_fs_reach_options reach;
};

#define FIELD(name) offsetof(struct mount_options, name)

// Tells whoever waits at `pipe` (or -1) that it serves, by a byte 0, or why not.
static void tell(int pipe, fm_status status)
{
    const char *text = status < 0 ? fm_error_message() : "";
    if (pipe >= 0 && write(pipe, text, status < 0 ? strlen(text) : 1) < 0)
        return; // nobody waits any more
}

static fm_status serve(const char *cluster, const fm_invocation *invocation,
                       const struct mount_options *given, int ready)
{
    const fm_fs_mount_options options = {.size = sizeof options,
                                         .allow_other = given->allow_other,
                                         .read_only = given->read_only,
                                         .serve_cluster = given->up,
                                         .cache_bytes = (uint64_t)given->cache,
                                         .metrics = given->metrics,
                                         .names_ms = (uint32_t)given->names};
    fm_fs_mount *mount;
    fm_status status = fm_fs_mount_open(cluster, invocation->operands[1], &options, &mount);
    tell(ready, status);
    if (status < 0)
        return status;
    if (ready >= 0)
        close(ready);
    fm_cmd_fs_say("%s is mounted on %s; Ctrl-C or umount ends it", invocation->operands[0],
                  invocation->operands[1]);
    if (fm_fs_mount_metrics(mount))
        fm_cmd_fs_say("metrics at http://%s/metrics", fm_fs_mount_metrics(mount));
    status = fm_fs_mount_run(mount);
    fm_fs_mount_close(mount);
    return status;
}

// What it says goes to the cluster's log from now on.
static fm_status leave_terminal(const char *cluster)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/log", cluster);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return fm_base_file_error(errno, "/dev/null");
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int said = log >= 0 ? log : null; // a directory in which it may not write is no reason not to mount
    if (setsid() < 0 || dup2(null, 0) < 0 || dup2(said, 1) < 0 || dup2(said, 2) < 0)
        return fm_base_file_error(errno, "leaving the terminal");
    if (log >= 0)
        close(log);
    close(null);
    return FM_OK;
}

// Takes what was made for the reach with it.
static fm_status detach(fm_cmd_fs_reach *reach, const fm_invocation *invocation,
                        const struct mount_options *options)
{
    int ready[2];
    char told[1024];
    size_t size = 0;
    ssize_t got;
    if (pipe2(ready, O_CLOEXEC) != 0)
        return fm_base_file_error(errno, "pipe");
    pid_t child = fork();
    if (child < 0)
        return fm_base_file_error(errno, "fork");
    if (child == 0) {
        close(ready[0]);
        fm_status status = leave_terminal(reach->dir);
        if (status < 0)
            tell(ready[1], status);
        else
            status = serve(reach->dir, invocation, options, ready[1]);
        fm_cmd_fs_reach_close(reach);
        _exit(status < 0);
    }
    reach->is_made = 0; // it is the child's now
    close(ready[1]);
    while (size < sizeof told - 1 && (got = read(ready[0], told + size, sizeof told - 1 - size)) > 0)
        size += (size_t)got;
    told[size] = 0;
    close(ready[0]);
    if (size == 1 && told[0] == 0)
        return FM_OK;
    waitpid(child, NULL, 0);
    return fm_base_error_set(FM_ERR_STATE, "%s", size ? told : "the mount's process ended at once");
}

static fm_status run_mount(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct mount_options *options = given;
    (void)out_exit;
    fm_cmd_fs_reach reach;
    FM_TRY(fm_cmd_fs_log_begin(options->log));
    FM_TRY(fm_cmd_fs_reach_open(invocation->operands[0], &options->reach, &reach));
    fm_status status = FM_OK;
    if (options->up && reach.is_made)
        status = fm_base_error_set(FM_ERR_ARG, "--up runs a cluster in its directory; %s is not one",
                                   invocation->operands[0]);
    else
        status =
            options->detach ? detach(&reach, invocation, options) : serve(reach.dir, invocation, options, -1);
    fm_cmd_fs_reach_close(&reach);
    return status;
}

static const fm_option mount_schema[] = {
    {"detach", FM_OPTION_FLAG, FIELD(detach), .value = "false",
     .help = "return once it is mounted and leave it running, until umount; its messages go to CLUSTER/log"},
    {"read-only", FM_OPTION_FLAG, FIELD(read_only), .value = "false", .help = "let nobody change anything"},
    {"allow-other", FM_OPTION_FLAG, FIELD(allow_other), .value = "false",
     .help = "let other users in, too; who is not root needs user_allow_other in /etc/fuse.conf"},
    {"up", FM_OPTION_FLAG, FIELD(up), .value = "false",
     .help = "run the cluster, which is not up, in this process, as fathom fs cluster up does"},
    {"cache", FM_OPTION_SIZE, FIELD(cache), .value = "256M", .min = 2 << 20, .max = (int64_t)1 << 40,
     .help = "memory for what was read, beside the kernel's"},
    {"names", FM_OPTION_INT, FIELD(names), .value = "0", .unit = "ms", .min = 0, .max = 3600000,
     .help = "the kernel answers for names so long by itself; what other mounts rename or remove is seen as "
             "late"},
    {"meta", FM_OPTION_STRING, FIELD(reach.meta), .metavar = "ADDRESS,...",
     .help = "with managers' addresses: where 'fathom fs serve meta' listens, or postgresql:CONNINFO"},
    {"key", FM_OPTION_STRING, FIELD(reach.key), .metavar = "FILE",
     .help = "with managers' addresses: a copy of the cluster's key"},
    {"token", FM_OPTION_STRING, FIELD(reach.token), .metavar = "FILE",
     .help = "with managers' addresses: a user's token; default: the administrator's"},
    {"tls", FM_OPTION_STRING, FIELD(reach.tls), .metavar = "FILE",
     .help = "with managers' addresses: a file like DIR/tls, with paths from the root"},
    FM_CMD_FS_SERVICE_OPTIONS,
    {0},
};

const fm_command fm_cmd_fs_mount = {
    .name = "mount",
    .summary = "mount a cluster on a directory",
    .operands = "CLUSTER DIR",
    .details =
        "CLUSTER is the directory of a cluster that is up, or is brought up by --up; or the addresses of "
        "its managers, HOST:PORT,HOST:PORT of 1, 2, ... or NODE=HOST:PORT,... Runs in front until "
        "Ctrl-C or umount.\n"
        "A mount whose process was killed is taken away by 'umount -l DIR'; then mount again.\n"
        "  fathom fs mount --detach /data/cluster /mnt/cluster\n"
        "  fathom fs mount 10.0.0.1:7000 --meta 10.0.0.1:7100 --key /etc/fathom/key /mnt/cluster",
    .options = mount_schema,
    .options_size = sizeof(struct mount_options),
    .operands_min = 2,
    .operands_max = 2,
    .run = run_mount,
};
