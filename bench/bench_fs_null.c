// A FUSE file system that does nothing: what the kernel, libfuse and the way through them cost whoever has the bytes at once.
#include "bench_fs.h"

#ifdef FM_HAVE_FUSE
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

// As in lib/fs/src/fuse/mount_fuse.c: the same requests reach both.
enum { TRANSFER_MAX = 1 << 20, READAHEAD_BYTES = 8 << 20, THREADS_MAX = 64, THREADS_IDLE = 10, FILE_INO = 2 };

static uint64_t file_bytes;
static char transfer[TRANSFER_MAX];

static void on_init(void *context, struct fuse_conn_info *conn)
{
    (void)context;
    conn->max_write = TRANSFER_MAX;
    conn->max_readahead = READAHEAD_BYTES;
    conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
}

static struct stat attributes(fuse_ino_t ino)
{
    return (struct stat){.st_ino = ino,
                         .st_mode = ino == FILE_INO ? S_IFREG | 0644 : S_IFDIR | 0755,
                         .st_nlink = 1,
                         .st_size = ino == FILE_INO ? (off_t)file_bytes : 0,
                         .st_blksize = TRANSFER_MAX};
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    const struct fuse_entry_param entry = {.ino = FILE_INO, .attr_timeout = 1, .attr = attributes(FILE_INO)};
    if (parent == FUSE_ROOT_ID && strcmp(name, "file") == 0)
        fuse_reply_entry(request, &entry);
    else
        fuse_reply_err(request, ENOENT);
}

static void on_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    const struct stat attr = attributes(ino);
    (void)info;
    fuse_reply_attr(request, &attr, 1);
}

static void on_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    info->keep_cache = 1;
    fuse_reply_open(request, info);
}

static void on_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *info)
{
    (void)ino;
    (void)info;
    uint64_t left = (uint64_t)offset < file_bytes ? file_bytes - (uint64_t)offset : 0;
    fuse_reply_buf(request, transfer, left < size ? left : size);
}

// The kernel's readahead, which a mount may set for its device as root.
static void read_ahead(const char *dir)
{
    char line[2 * PATH_MAX];
    char device[32] = "";
    char numbers[32];
    char where[PATH_MAX];
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    while (mounts && fgets(line, sizeof line, mounts))
        if (sscanf(line, "%*d %*d %31s %*s %4095s", numbers, where) == 2 && strcmp(where, dir) == 0)
            memcpy(device, numbers, sizeof device);
    if (mounts)
        fclose(mounts);
    snprintf(where, sizeof where, "/sys/class/bdi/%s/read_ahead_kb", device);
    FILE *told = *device ? fopen(where, "we") : NULL;
    if (told) {
        fprintf(told, "%d", READAHEAD_BYTES >> 10);
        fclose(told);
    }
}

static struct fuse_session *begin(const char *dir)
{
    static const struct fuse_lowlevel_ops ops = {
        .init = on_init, .lookup = on_lookup, .getattr = on_getattr, .open = on_open, .read = on_read};
    char program[] = "null";
    char flag[] = "-o";
    char options[] = "fsname=null,subtype=null,default_permissions";
    char *argv[] = {program, flag, options};
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    struct fuse_session *session = fuse_session_new(&args, &ops, sizeof ops, NULL);
    fuse_opt_free_args(&args);
    if (session && fuse_session_mount(session, dir) != 0) {
        fuse_session_destroy(session);
        return NULL;
    }
    read_ahead(dir);
    return session;
}

static int serve(struct fuse_session *session)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 12)
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
    fuse_loop_cfg_set_idle_threads(config, THREADS_IDLE);
    int result = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    return result;
#else
    struct fuse_loop_config config = {.max_idle_threads = THREADS_IDLE};
    return fuse_session_loop_mt(session, &config);
#endif
}

fm_status fm_bench_fs_null_start(const char *dir, uint64_t bytes, pid_t *out_pid)
{
    int ready[2];
    char told = 0;
    char real[PATH_MAX];
    if (mkdir(dir, 0755) != 0 || !realpath(dir, real) || pipe(ready) != 0)
        return fm_base_error_set(FM_ERR_IO, "no directory or pipe for the null file system");
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        file_bytes = bytes;
        fm_bench_fill(1, transfer, sizeof transfer);
        struct fuse_session *session = begin(real);
        told = session != NULL;
        if (write(ready[1], &told, 1) != 1 || !session || fuse_set_signal_handlers(session) != 0)
            _exit(1);
        int result = serve(session);
        fuse_session_unmount(session);
        _exit(result < 0);
    }
    close(ready[1]);
    if (pid > 0 && read(ready[0], &told, 1) != 1)
        told = 0;
    close(ready[0]);
    *out_pid = pid;
    return told ? FM_OK : fm_base_error_set(FM_ERR_UNAVAILABLE, "FUSE does not let this process mount");
}
#else
fm_status fm_bench_fs_null_start(const char *dir, uint64_t bytes, pid_t *out_pid)
{
    (void)dir;
    (void)bytes;
    (void)out_pid;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "built without libfuse3");
}
#endif
