#include "pond_fleet.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/log.h"

#define RELAUNCH_NS ((uint64_t)5000000000)  // between commands: what they start needs time to join
#define LONELY_NS   ((uint64_t)30000000000) // without any executor, after which people are told

enum {
    DEATHS_EACH = 8
}; // of an executor's place, beside one for each task, after which something is wrong with all

void fm_pond_fleet_init(fm_pond_fleet *fleet, const fm_pond_run *run)
{
    const fm_pond_run_options *options = &run->options;
    *fleet = (fm_pond_fleet){.run = run};
    fleet->local_max = options->executors < 0                   ? 0
                       : options->executors > FM_POND_LOCAL_MAX ? FM_POND_LOCAL_MAX
                                                                : options->executors;
    fleet->remote_max = options->launch || options->slurm ? options->launch_count : 0;
    for (int fd = 0; fd < FM_POND_DESCRIPTORS_MAX; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            fleet->open_before[fd / 8] |= (uint8_t)(1 << fd % 8);
    // The lock of the work folder goes with the driver alone.
    if (run->lock < FM_POND_DESCRIPTORS_MAX)
        fleet->open_before[run->lock / 8] &= (uint8_t) ~(1 << run->lock % 8);
}

static void be_child(const fm_pond_fleet *fleet)
{
    // The parent's connections must end when it does, whoever of its children live.
    for (int fd = 3; fd < FM_POND_DESCRIPTORS_MAX; fd++)
        if (!(fleet->open_before[fd / 8] & (1 << fd % 8)))
            close(fd);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN); // the driver's to answer; it ends its executors
    signal(SIGTERM, SIG_DFL);
    const fm_net_security security = {.mode = FM_NET_SAME_USER};
    fm_status status = fm_pond_executor_serve(fleet->local_address, &security);
    _exit(status < 0);
}

static fm_status fork_one(fm_pond_fleet *fleet, int slot)
{
    fflush(NULL); // or what is buffered would come twice
    pid_t pid = fork();
    if (pid < 0)
        return fm_base_error_set_errno(FM_ERR_LIMIT, errno, "an executor cannot be forked");
    if (pid == 0)
        be_child(fleet);
    fleet->children[slot] = pid;
    return FM_OK;
}

static fm_status tend_local(fm_pond_fleet *fleet, size_t tasks)
{
    size_t alive = 0;
    for (int i = 0; i < fleet->local_max; i++) {
        int result = 0;
        if (fleet->children[i] && waitpid(fleet->children[i], &result, WNOHANG) == fleet->children[i]) {
            fleet->children[i] = 0;
            fleet->died += !WIFEXITED(result) || WEXITSTATUS(result) != 0;
        }
        alive += fleet->children[i] != 0;
    }
    if (fleet->died > (uint64_t)fleet->local_max * DEATHS_EACH + tasks)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "executors die as soon as they start (%llu have)",
                                 (unsigned long long)fleet->died);
    for (int i = 0; i < fleet->local_max && alive < tasks; i++)
        if (!fleet->children[i]) {
            FM_TRY(fork_one(fleet, i));
            alive++;
        }
    return FM_OK;
}

static fm_status tend_remote(fm_pond_fleet *fleet, size_t tasks)
{
    uint64_t now = fm_base_clock_ns();
    // Those that Slurm runs again join without having been asked for.
    uint64_t coming = fleet->started > fleet->joined ? fleet->started - fleet->joined : 0;
    uint64_t have = (uint64_t)fleet->connected + coming;
    uint64_t wanted = tasks < (size_t)fleet->remote_max ? tasks : (uint64_t)fleet->remote_max;
    if (fleet->connected || !fleet->lonely_ns)
        fleet->lonely_ns = now;
    if (now - fleet->lonely_ns > LONELY_NS) {
        fm_log_warn("pond", "no executor has joined at %s for half a minute", fleet->remote_address);
        fleet->lonely_ns = now;
    }
    if (have >= wanted || (fleet->launched_ns && now - fleet->launched_ns < RELAUNCH_NS))
        return FM_OK;
    if (fleet->started > (uint64_t)fleet->remote_max * DEATHS_EACH + tasks)
        return fleet->connected
                   ? FM_OK
                   : fm_base_error_set(FM_ERR_UNAVAILABLE,
                                       "executors elsewhere end as soon as they join (%llu have)",
                                       (unsigned long long)fleet->joined);
    char id[64];
    FM_TRY(fm_pond_launch_start(fleet->run, fleet->remote_address, (int)(wanted - have), id, sizeof id));
    fm_pond_text_add(&fleet->ids, "%s\n", id);
    fleet->started += wanted - have;
    fleet->launched_ns = fm_base_clock_ns();
    return FM_OK;
}

fm_status fm_pond_fleet_tend(fm_pond_fleet *fleet, size_t tasks)
{
    FM_TRY(tend_local(fleet, tasks));
    return fleet->remote_max && fleet->remote_address[0] ? tend_remote(fleet, tasks) : FM_OK;
}

void fm_pond_fleet_kill(fm_pond_fleet *fleet)
{
    for (int i = 0; i < fleet->local_max; i++)
        if (fleet->children[i])
            kill(fleet->children[i], SIGKILL);
    for (int i = 0; i < fleet->local_max; i++)
        if (fleet->children[i])
            waitpid(fleet->children[i], NULL, 0);
}

void fm_pond_fleet_stop(fm_pond_fleet *fleet)
{
    for (char *rest = fleet->ids.text, *id; (id = strsep(&rest, "\n"));)
        fm_pond_launch_stop(fleet->run, id);
    fm_pond_text_clear(&fleet->ids);
}
