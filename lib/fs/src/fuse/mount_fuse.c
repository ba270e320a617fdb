// Mounting, serving, unmounting, and what all requests share.
#include "mount_fuse.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/log.h"

enum {
    TRANSFER_MAX = FM_FS_CACHE_RANGE_MAX, // what FUSE moves in one request, at most
    READAHEAD_BYTES = 8 << 20, // a quarter faster than half as much, and twice as much is no faster
    KEEPER_MS = 1000,
    COLLECT = 64,     // pieces of the collector's work a second
    THREADS_MAX = 64, // requests at once: most of them wait for the disk
    THREADS_IDLE = 10,
    // Requests of readahead at once: the kernel's own 12 are less than what disks take.
    BACKGROUND_MAX = 64,
    CACHE_BYTES = 256 << 20,
    LEASE_MS = 60000,
    RENEWALS = 6 // of the lease, in its time
};

fm_fs_mount *fm_fs_mount_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

void fm_fs_mount_who(fuse_req_t request, struct fm_fs_mount_who *out_who)
{
    const struct fuse_ctx *context = fuse_req_ctx(request);
    gid_t groups[FM_FS_MOUNT_GROUPS];
    int count = context->uid ? fuse_req_getgroups(request, FM_FS_MOUNT_GROUPS, groups) : 0;
    if (count > FM_FS_MOUNT_GROUPS) // it says how many there are
        count = FM_FS_MOUNT_GROUPS;
    for (int i = 0; i < count; i++)
        out_who->groups[i] = groups[i];
    out_who->who = (fm_fs_who){.uid = context->uid,
                               .gid = context->gid,
                               .groups = out_who->groups,
                               .group_count = count > 0 ? (uint32_t)count : 0};
}

int fm_fs_mount_errno(fm_status status)
{
    static const struct {
        fm_status status;
        int err;
    } table[] = {
        {FM_OK, 0},
        {FM_ERR_NOT_FOUND, ENOENT},
        {FM_ERR_EXISTS, EEXIST},
        {FM_ERR_PERM, EPERM},
        {FM_ERR_FS_ACCESS, EACCES},
        {FM_ERR_FS_NOT_DIR, ENOTDIR},
        {FM_ERR_FS_IS_DIR, EISDIR},
        {FM_ERR_FS_NOT_EMPTY, ENOTEMPTY},
        {FM_ERR_FS_QUOTA, EDQUOT},
        {FM_ERR_FS_CROSS, EXDEV},
        {FM_ERR_SPACE, ENOSPC},
        {FM_ERR_NOMEM, ENOMEM},
        {FM_ERR_ARG, EINVAL},
        {FM_ERR_LIMIT, ENAMETOOLONG},
        {FM_ERR_UNSUPPORTED, EOPNOTSUPP},
        {FM_ERR_TIMEOUT, ETIMEDOUT},
        {FM_ERR_FS_MAYBE, ETIMEDOUT},
        {FM_ERR_BUSY, EBUSY},
        {FM_ERR_FS_CONFLICT, EAGAIN},
        {FM_ERR_STATE, EAGAIN},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].status == status)
            return table[i].err;
    return EIO;
}

static struct timespec time_of(int64_t ns)
{
    int64_t rest = ns % 1000000000;
    if (rest < 0) // before 1970: the nanoseconds still count forwards
        rest += 1000000000;
    return (struct timespec){(time_t)((ns - rest) / 1000000000), (long)rest};
}

void fm_fs_mount_stat(const fm_fs_node *node, struct stat *out_stat)
{
    *out_stat = (struct stat){.st_ino = node->ino,
                              .st_mode = node->mode,
                              .st_nlink = node->nlink,
                              .st_uid = node->uid,
                              .st_gid = node->gid,
                              .st_rdev = node->rdev,
                              .st_size = (off_t)node->size,
                              .st_blksize = TRANSFER_MAX,
                              .st_blocks = (blkcnt_t)((node->size + 511) / 512),
                              .st_atim = time_of(node->atime_ns),
                              .st_mtim = time_of(node->mtime_ns),
                              .st_ctim = time_of(node->ctime_ns)};
}

void fm_fs_mount_entry(const fm_fs_mount *mount, const fm_fs_node *node, struct fuse_entry_param *out_entry)
{
    *out_entry = (struct fuse_entry_param){
        .ino = node->ino, .attr_timeout = FM_FS_MOUNT_ATTR_S, .entry_timeout = mount->options.names_ms / 1e3};
    fm_fs_mount_stat(node, &out_entry->attr);
}

void fm_fs_mount_reply_entry(fuse_req_t request, const fm_fs_node *node)
{
    struct fuse_entry_param entry;
    fm_fs_mount_entry(fm_fs_mount_of(request), node, &entry);
    fuse_reply_entry(request, &entry);
}

void fm_fs_mount_reply_status(fuse_req_t request, fm_status status)
{
    fm_fs_mount_reply_error(request, fm_fs_mount_errno(status));
}

fm_status fm_fs_mount_renew(fm_fs_mount *mount)
{
    const uint64_t lease_ns = (uint64_t)mount->options.lease_ms * 1000000;
    uint64_t now = fm_base_clock_ns();
    uint64_t before = __atomic_load_n(&mount->renewed_ns, __ATOMIC_RELAXED);
    FM_TRY(fm_fs_meta_lease(mount->meta, mount->client, fm_base_clock_unix_ns() + lease_ns));
    // Others may have taken its locks in between.
    if (before && now - before >= lease_ns) {
        fm_log_warn("fs", "the mount's lease had ended: what was locked here is lost");
        fm_fs_mount_lose_locks(mount);
    }
    __atomic_store_n(&mount->renewed_ns, now, __ATOMIC_RELAXED);
    return FM_OK;
}

// Renews the lease while anything is held, and collects.
static void *keep(void *context)
{
    fm_fs_mount *mount = context;
    const uint64_t renew_ns = (uint64_t)mount->options.lease_ms * 1000000 / RENEWALS;
    pthread_mutex_lock(&mount->lock);
    while (!mount->ending) {
        uint64_t until_ns = fm_base_clock_unix_ns() + (uint64_t)KEEPER_MS * 1000000;
        struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
        pthread_cond_timedwait(&mount->wake, &mount->lock, &until);
        int ending = mount->ending;
        pthread_mutex_unlock(&mount->lock);
        size_t done;
        fm_status status = FM_OK;
        if (fm_base_clock_ns() - __atomic_load_n(&mount->renewed_ns, __ATOMIC_RELAXED) >= renew_ns)
            status = fm_fs_mount_renew(mount); // a failure is tried again a second later, as are those below
        if (status < 0)
            fm_log_warn("fs", "the mount's lease is not renewed: %s", fm_error_message());
        fm_fs_mount_tend(mount);
        if (status == FM_OK && !ending && !mount->options.read_only)
            status = fm_fs_volume_collect(mount->volume, COLLECT, &done);
        pthread_mutex_lock(&mount->lock);
    }
    pthread_mutex_unlock(&mount->lock);
    return NULL;
}

/* Mounting */

static void on_init(void *context, struct fuse_conn_info *conn)
{
    (void)context;
    conn->max_write = TRANSFER_MAX;
    conn->max_readahead = READAHEAD_BYTES;
    conn->max_background = BACKGROUND_MAX;
    conn->congestion_threshold = BACKGROUND_MAX * 3 / 4; // as the kernel has it
    conn->time_gran = 1;
    // Pages are dropped when a file is opened that somebody else has changed, not whenever its time is another: its time is
    // another after each write of this mount's own, too.
    conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
    if (conn->capable & FUSE_CAP_READDIRPLUS)
        conn->want |= FUSE_CAP_READDIRPLUS;
    if (conn->capable & FUSE_CAP_IOCTL_DIR)
        conn->want |= FUSE_CAP_IOCTL_DIR;
    if (conn->capable & FUSE_CAP_PARALLEL_DIROPS)
        conn->want |= FUSE_CAP_PARALLEL_DIROPS;
}

// libfuse tells why a mount failed on standard error alone; libraries here do not print.
static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;
static char said[256];

static void note(enum fuse_log_level level, const char *format, va_list arguments) FM_PRINTF(2, 0);
static void note(enum fuse_log_level level, const char *format, va_list arguments)
{
    (void)level;
    pthread_mutex_lock(&said_lock);
    vsnprintf(said, sizeof said, format, arguments);
    said[strcspn(said, "\n")] = 0;
    pthread_mutex_unlock(&said_lock);
}

static fm_status cannot(const char *dir)
{
    pthread_mutex_lock(&said_lock);
    fm_status status = fm_base_error_set(FM_ERR_UNAVAILABLE, "cannot mount on %s: %s", dir,
                                         *said ? said : "FUSE does not say why");
    pthread_mutex_unlock(&said_lock);
    return status;
}

// The kernel reads 128 KiB ahead unless the mount's device is told otherwise, which only root may. It is found by its path,
// without asking the mount, which nobody serves yet. Where it cannot be told reading is slower, and that is all.
static void read_ahead(const char *real)
{
    char line[2 * PATH_MAX];
    char device[32] = "";
    char numbers[32];
    char where[PATH_MAX];
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    while (mounts && fgets(line, sizeof line, mounts))
        if (sscanf(line, "%*d %*d %31s %*s %4095s", numbers, where) == 2 && strcmp(where, real) == 0)
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

static struct fuse_lowlevel_ops requests = {.init = on_init};

static void gather_requests(void)
{
    fm_fs_mount_names(&requests);
    fm_fs_mount_files(&requests);
    fm_fs_mount_locks(&requests);
    fm_fs_mount_ioctl(&requests);
    fm_fs_mount_count_requests(&requests);
}

static fm_status mount_on(fm_fs_mount *mount, const char *dir)
{
    static pthread_once_t gathered = PTHREAD_ONCE_INIT;
    char options[128];
    char program[] = "fathom";
    char flag[] = "-o";
    snprintf(options, sizeof options, "fsname=fathom,subtype=fathom,default_permissions%s%s",
             mount->options.allow_other ? ",allow_other" : "", mount->options.read_only ? ",ro" : "");
    char *argv[] = {program, flag, options};
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    pthread_once(&gathered, gather_requests);
    fuse_set_log_func(note);
    mount->session = fuse_session_new(&args, &requests, sizeof requests, mount);
    fuse_opt_free_args(&args);
    char *real = realpath(dir, NULL); // once it is mounted this would ask the mount
    if (!mount->session || fuse_session_mount(mount->session, dir) != 0) {
        free(real);
        return cannot(dir);
    }
    mount->mounted = 1;
    if (real)
        read_ahead(real);
    free(real);
    if (fuse_set_signal_handlers(mount->session) != 0)
        return fm_base_error_set(FM_ERR_STATE, "signals that end a mount cannot be handled");
    mount->signals = 1;
    return FM_OK;
}

fm_status fm_fs_mount_open(const char *cluster, const char *dir, const fm_fs_mount_options *options,
                           fm_fs_mount **out_mount)
{
    fm_fs_volume_options volume = {.size = sizeof volume, .connections = 8};
    if (!dir || (options && options->size != sizeof *options))
        return fm_base_error_set(FM_ERR_ARG, "dir is %s and options->size %zu; expected %zu",
                                 dir ? "given" : "NULL", options ? options->size : 0, sizeof *options);
    fm_fs_mount *mount = fm_base_mem_zalloc(1, sizeof *mount);
    if (!mount)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a mount");
    mount->paged = fm_base_mem_zalloc(FM_FS_MOUNT_PAGED, sizeof *mount->paged);
    if (!mount->paged) {
        fm_base_mem_free(mount);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a mount");
    }
    if (options)
        mount->options = *options;
    if (!mount->options.lease_ms)
        mount->options.lease_ms = LEASE_MS;
    if (!mount->options.cache_bytes)
        mount->options.cache_bytes = CACHE_BYTES;
    if (mount->options.connections)
        volume.connections = mount->options.connections;
    pthread_mutex_init(&mount->lock, NULL);
    pthread_cond_init(&mount->wake, NULL);
    pthread_cond_init(&mount->waiting, NULL);
    fm_status status = fm_fs_cache_new(mount->options.cache_bytes, &mount->cache);
    if (status == FM_OK)
        status = fm_fs_mount_counts_new(&mount->counts);
    if (status == FM_OK && mount->options.serve_cluster)
        status = fm_fs_mount_cluster_start(mount, cluster);
    if (status == FM_OK)
        status = fm_fs_volume_open(cluster, &volume, &mount->volume);
    if (status == FM_OK &&
        getrandom(&mount->client, sizeof mount->client, 0) != (ssize_t)sizeof mount->client)
        status = fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    if (status == FM_OK) {
        mount->meta = fm_fs_volume_meta(mount->volume);
        status = fm_fs_mount_locks_begin(mount);
        if (status == FM_OK)
            status = fm_fs_mount_renew(mount);
        if (status == FM_OK)
            status = mount_on(mount, dir);
    }
    if (status == FM_OK)
        status = fm_fs_mount_rings_start(mount, dir);
    if (status < 0) {
        fm_fs_mount_close(mount);
        return status;
    }
    *out_mount = mount;
    return FM_OK;
}

static int serve(struct fuse_session *session)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 12)
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    if (!config)
        return -ENOMEM;
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

fm_status fm_fs_mount_run(fm_fs_mount *mount)
{
    if (pthread_create(&mount->keeper, NULL, keep, mount) != 0)
        return fm_base_error_set(FM_ERR_NOMEM, "no thread for a mount");
    mount->keeping = 1;
    FM_TRY(fm_fs_mount_locks_run(mount));
    int result = serve(mount->session);
    // A signal's number is no failure: it is how a mount is ended.
    return result < 0 ? fm_base_error_set_errno(FM_ERR_IO, -result, "serving the mount") : FM_OK;
}

void fm_fs_mount_close(fm_fs_mount *mount)
{
    if (!mount)
        return;
    pthread_mutex_lock(&mount->lock);
    mount->ending = 1;
    pthread_cond_signal(&mount->wake);
    pthread_mutex_unlock(&mount->lock);
    if (mount->keeping)
        pthread_join(mount->keeper, NULL);
    if (mount->signals)
        fuse_remove_signal_handlers(mount->session);
    if (mount->mounted)
        fuse_session_unmount(mount->session);
    if (!mount->cluster) // otherwise with the cluster's loop
        fm_fs_mount_metrics_stop(mount);
    fm_fs_mount_rings_stop(mount);
    fm_fs_mount_locks_end(mount);
    if (mount->session)
        fuse_session_destroy(mount->session);
    fm_fs_mount_files_end(mount);
    // What this mount held and had locked is let go: nobody has it open any more.
    if (mount->renewed_ns && fm_fs_meta_lease(mount->meta, mount->client, 0) < 0)
        mount->held = 0;
    fm_fs_mount_locks_free(mount);
    fm_fs_volume_close(mount->volume);
    fm_fs_mount_cluster_stop(mount);
    pthread_cond_destroy(&mount->wake);
    pthread_cond_destroy(&mount->waiting);
    pthread_mutex_destroy(&mount->lock);
    fm_fs_cache_free(mount->cache);
    fm_base_mem_free(mount->counts);
    fm_base_mem_free(mount->paged);
    fm_base_mem_free(mount);
}
