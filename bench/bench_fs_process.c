// Clusters and mounts in processes of their own, which end with the benchmark's.
#include "bench_fs.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/fs_cluster.h"
#include "fathom/fs_mount.h"

pid_t fm_bench_fs_cluster_start(const char *dir)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    fm_fs_cluster *cluster;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (fm_fs_cluster_up(dir, &cluster) < 0 || fm_fs_cluster_run(cluster) < 0)
        _exit(1);
    _exit(0);
}

void fm_bench_fs_cluster_end(pid_t cluster)
{
    if (cluster <= 0)
        return;
    kill(cluster, SIGKILL);
    waitpid(cluster, NULL, 0);
}

static void serve(const char *cluster, const char *dir, const fm_fs_mount_options *options, int ready)
{
    fm_fs_mount *mount;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fm_status status = fm_fs_mount_open(cluster, dir, options, &mount);
    if (write(ready, &status, sizeof status) != sizeof status || status < 0)
        _exit(1);
    status = fm_fs_mount_run(mount);
    fm_fs_mount_close(mount);
    _exit(status < 0);
}

fm_status fm_bench_fs_mount_start(const char *cluster, const char *dir, const fm_fs_mount_options *options,
                                  pid_t *out_mount)
{
    int ready[2];
    fm_status status = FM_ERR_IO;
    if (mkdir(dir, 0755) != 0 || pipe(ready) != 0)
        return fm_base_error_set(FM_ERR_IO, "no directory or pipe for the mount");
    *out_mount = fork();
    if (*out_mount == 0)
        serve(cluster, dir, options, ready[1]);
    close(ready[1]);
    if (read(ready[0], &status, sizeof status) != sizeof status)
        status = FM_ERR_UNAVAILABLE;
    close(ready[0]);
    return status < 0 ? fm_base_error_set(FM_ERR_UNAVAILABLE, "the cluster cannot be mounted here") : FM_OK;
}

void fm_bench_fs_mount_end(pid_t mount, const char *dir)
{
    if (mount <= 0)
        return;
    kill(mount, SIGTERM);
    waitpid(mount, NULL, 0);
    (void)umount2(dir, MNT_DETACH); // if the process did not end well
}
