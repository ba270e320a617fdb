// What a mount counts: its requests, how long they took, what went wrong; and the text that Prometheus gets of it.
#include "mount_fuse.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fathom/clock.h"
#include "fs_cluster_private.h"
#include "metrics.h"
#include "ring_hub.h"

/* Requests. Each is called through a function that counts it; X(name, parameters, arguments) */

#define INFO struct fuse_file_info *info
#define REQUESTS(X)                                                                                         \
    X(lookup, (fuse_req_t request, fuse_ino_t parent, const char *name), (request, parent, name))           \
    X(getattr, (fuse_req_t request, fuse_ino_t ino, INFO), (request, ino, info))                            \
    X(setattr, (fuse_req_t request, fuse_ino_t ino, struct stat * attr, int to_set, INFO),                  \
      (request, ino, attr, to_set, info))                                                                   \
    X(readlink, (fuse_req_t request, fuse_ino_t ino), (request, ino))                                       \
    X(mknod, (fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev),            \
      (request, parent, name, mode, rdev))                                                                  \
    X(mkdir, (fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode),                        \
      (request, parent, name, mode))                                                                        \
    X(unlink, (fuse_req_t request, fuse_ino_t parent, const char *name), (request, parent, name))           \
    X(rmdir, (fuse_req_t request, fuse_ino_t parent, const char *name), (request, parent, name))            \
    X(symlink, (fuse_req_t request, const char *target, fuse_ino_t parent, const char *name),               \
      (request, target, parent, name))                                                                      \
    X(rename,                                                                                               \
      (fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *to_name,         \
       unsigned flags),                                                                                     \
      (request, parent, name, to, to_name, flags))                                                          \
    X(link, (fuse_req_t request, fuse_ino_t ino, fuse_ino_t parent, const char *name),                      \
      (request, ino, parent, name))                                                                         \
    X(open, (fuse_req_t request, fuse_ino_t ino, INFO), (request, ino, info))                               \
    X(create, (fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, INFO),                 \
      (request, parent, name, mode, info))                                                                  \
    X(read, (fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, INFO),                          \
      (request, ino, size, offset, info))                                                                   \
    X(write, (fuse_req_t request, fuse_ino_t ino, const char *bytes, size_t size, off_t offset, INFO),      \
      (request, ino, bytes, size, offset, info))                                                            \
    X(flush, (fuse_req_t request, fuse_ino_t ino, INFO), (request, ino, info))                              \
    X(fsync, (fuse_req_t request, fuse_ino_t ino, int only_data, INFO), (request, ino, only_data, info))    \
    X(release, (fuse_req_t request, fuse_ino_t ino, INFO), (request, ino, info))                            \
    X(fallocate, (fuse_req_t request, fuse_ino_t ino, int mode, off_t offset, off_t length, INFO),          \
      (request, ino, mode, offset, length, info))                                                           \
    X(lseek, (fuse_req_t request, fuse_ino_t ino, off_t offset, int whence, INFO),                          \
      (request, ino, offset, whence, info))                                                                 \
    X(copy_file_range,                                                                                      \
      (fuse_req_t request, fuse_ino_t ino, off_t offset, INFO, fuse_ino_t to, off_t to_offset,              \
       struct fuse_file_info * to_info, size_t length, int flags),                                          \
      (request, ino, offset, info, to, to_offset, to_info, length, flags))                                  \
    X(opendir, (fuse_req_t request, fuse_ino_t ino, INFO), (request, ino, info))                            \
    X(readdir, (fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, INFO),                       \
      (request, ino, size, offset, info))                                                                   \
    X(readdirplus, (fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, INFO),                   \
      (request, ino, size, offset, info))                                                                   \
    X(releasedir, (fuse_req_t request, fuse_ino_t ino, INFO), (request, ino, info))                         \
    X(fsyncdir, (fuse_req_t request, fuse_ino_t ino, int only_data, INFO), (request, ino, only_data, info)) \
    X(statfs, (fuse_req_t request, fuse_ino_t ino), (request, ino))                                         \
    X(setxattr,                                                                                             \
      (fuse_req_t request, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags),    \
      (request, ino, name, value, size, flags))                                                             \
    X(getxattr, (fuse_req_t request, fuse_ino_t ino, const char *name, size_t size),                        \
      (request, ino, name, size))                                                                           \
    X(listxattr, (fuse_req_t request, fuse_ino_t ino, size_t size), (request, ino, size))                   \
    X(removexattr, (fuse_req_t request, fuse_ino_t ino, const char *name), (request, ino, name))            \
    X(getlk, (fuse_req_t request, fuse_ino_t ino, INFO, struct flock * lock), (request, ino, info, lock))   \
    X(setlk, (fuse_req_t request, fuse_ino_t ino, INFO, struct flock * lock, int sleeps),                   \
      (request, ino, info, lock, sleeps))                                                                   \
    X(flock, (fuse_req_t request, fuse_ino_t ino, INFO, int kind), (request, ino, info, kind))              \
    X(ioctl,                                                                                                \
      (fuse_req_t request, fuse_ino_t ino, unsigned command, void *argument, INFO, unsigned flags,          \
       const void *in, size_t in_size, size_t out_size),                                                    \
      (request, ino, command, argument, info, flags, in, in_size, out_size))

#define KIND(name, parameters, arguments) KIND_##name,
enum { REQUESTS(KIND) KINDS };

#define NAME(name, parameters, arguments) #name,
static const char *const names[] = {REQUESTS(NAME)};

// Seconds; a factor of 4 tells what matters: memory, another process, a disk, a failure of one.
static const double bounds[] = {64e-6, 256e-6, 1e-3, 4e-3, 16e-3, 64e-3, 0.25, 1, 4};
enum { BOUNDS = sizeof bounds / sizeof *bounds };

enum { ERRNOS = 256 }; // Linux has 133

struct fm_fs_mount_counts {
    uint64_t took[KINDS][BOUNDS + 1]; // requests by how long they took; this and all below atomic
    uint64_t ns[KINDS];
    uint64_t errors[ERRNOS];
    uint64_t read_bytes, written_bytes, missed_bytes;
};

static struct fuse_lowlevel_ops done_by; // the same in every mount

static void add(uint64_t *to, uint64_t more)
{
    __atomic_fetch_add(to, more, __ATOMIC_RELAXED);
}

static uint64_t get(const uint64_t *from)
{
    return __atomic_load_n(from, __ATOMIC_RELAXED);
}

static void took(struct fm_fs_mount_counts *counts, int kind, uint64_t ns)
{
    unsigned bucket = 0;
    while (bucket < BOUNDS && (double)ns > bounds[bucket] * 1e9)
        bucket++;
    add(&counts->took[kind][bucket], 1);
    add(&counts->ns[kind], ns);
}

#define COUNTED(name, parameters, arguments)                                 \
    static void counted_##name parameters                                    \
    {                                                                        \
        struct fm_fs_mount_counts *counts = fm_fs_mount_of(request)->counts; \
        uint64_t begun_ns = fm_base_clock_ns();                              \
        done_by.name arguments;                                              \
        took(counts, KIND_##name, fm_base_clock_ns() - begun_ns);            \
    }
REQUESTS(COUNTED)

#define REPLACE(name, parameters, arguments) \
    done_by.name = ops->name;                \
    ops->name = counted_##name;

void fm_fs_mount_count_requests(struct fuse_lowlevel_ops *ops){REQUESTS(REPLACE)}

fm_status fm_fs_mount_counts_new(struct fm_fs_mount_counts **out_counts)
{
    *out_counts = fm_base_mem_zalloc(1, sizeof **out_counts);
    return *out_counts ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for what a mount counts");
}

int fm_fs_mount_reply_error(fuse_req_t request, int err)
{
    if (err > 0 && err < ERRNOS)
        add(&fm_fs_mount_of(request)->counts->errors[err], 1);
    return fuse_reply_err(request, err);
}

void fm_fs_mount_count_read(fm_fs_mount *mount, size_t bytes)
{
    add(&mount->counts->read_bytes, bytes);
}

void fm_fs_mount_count_missed(fm_fs_mount *mount, size_t bytes)
{
    add(&mount->counts->missed_bytes, bytes);
}

void fm_fs_mount_count_written(fm_fs_mount *mount, size_t bytes)
{
    add(&mount->counts->written_bytes, bytes);
}

/* Text */

static void write_requests(const struct fm_fs_mount_counts *counts, struct fm_fs_metrics_text *text)
{
    fm_fs_metrics_begin(
        text, "mount_request_seconds", "histogram",
        "Requests of the kernel, by how long they took until they were answered, or set aside.");
    for (int kind = 0; kind < KINDS; kind++) {
        uint64_t buckets[BOUNDS + 1];
        for (int i = 0; i <= BOUNDS; i++)
            buckets[i] = get(&counts->took[kind][i]);
        fm_fs_metrics_histogram(text, "mount_request_seconds", "request", names[kind], bounds, buckets,
                                BOUNDS, (double)get(&counts->ns[kind]) * 1e-9);
    }
    fm_fs_metrics_begin(text, "mount_errors_total", "counter",
                        "Requests that were answered by an error, a name that is not there included.");
    for (int err = 1; err < ERRNOS; err++) {
        uint64_t count = get(&counts->errors[err]);
        char number[16];
        const char *name = strerrorname_np(err);
        snprintf(number, sizeof number, "%d", err);
        if (count)
            fm_fs_metrics_value(text, "mount_errors_total", "error", name ? name : number, (double)count);
    }
}

// Files that are open, and of these those that were locked here.
static void count_files(fm_fs_mount *mount, unsigned *out_open, unsigned *out_locked, unsigned *out_waits)
{
    *out_open = *out_locked = *out_waits = 0;
    pthread_mutex_lock(&mount->lock);
    for (size_t i = 0; i < FM_FS_MOUNT_BUCKETS; i++)
        for (const struct fm_fs_mount_file *file = mount->files[i]; file; file = file->next) {
            *out_open += file->opens > 0;
            *out_locked += __atomic_load_n(&file->locked, __ATOMIC_RELAXED) ||
                           __atomic_load_n(&file->flocked, __ATOMIC_RELAXED);
        }
    *out_waits = mount->wait_count;
    pthread_mutex_unlock(&mount->lock);
}

static void write_metrics(void *context, struct fm_fs_metrics_text *text)
{
    fm_fs_mount *mount = context;
    const struct fm_fs_mount_counts *counts = mount->counts;
    struct fm_fs_hub_census census = {0};
    unsigned opens;
    unsigned locked;
    unsigned waits;
    count_files(mount, &opens, &locked, &waits);
    if (mount->hub)
        fm_fs_hub_count(mount->hub, &census);
    write_requests(counts, text);
    fm_fs_metrics_one(text, "mount_read_bytes_total", "counter", "Bytes that the kernel was given.",
                      (double)get(&counts->read_bytes));
    fm_fs_metrics_one(text, "mount_missed_bytes_total", "counter",
                      "Bytes of these that were not in the mount's memory.",
                      (double)get(&counts->missed_bytes));
    fm_fs_metrics_one(text, "mount_written_bytes_total", "counter", "Bytes that were taken from the kernel.",
                      (double)get(&counts->written_bytes));
    fm_fs_metrics_one(text, "mount_dirty_bytes", "gauge", "Bytes that wait to be written.",
                      (double)__atomic_load_n(&mount->dirty, __ATOMIC_RELAXED));
    fm_fs_metrics_one(text, "mount_cache_bytes", "gauge", "Memory that holds what was read.",
                      (double)fm_fs_cache_bytes(mount->cache));
    fm_fs_metrics_one(text, "mount_open_files", "gauge", "Files that are open.", opens);
    fm_fs_metrics_one(text, "mount_locked_files", "gauge", "Open files that were locked here.", locked);
    fm_fs_metrics_one(text, "mount_lock_waiters", "gauge", "Requests that wait for a lock.", waits);
    fm_fs_metrics_one(text, "mount_lease_age_seconds", "gauge",
                      "Since the lease on locks and removed files was renewed.",
                      (double)(fm_base_clock_ns() - get(&mount->renewed_ns)) * 1e-9);
    fm_fs_metrics_one(text, "mount_ring_clients", "gauge", "Programs with rings.", census.sessions);
    fm_fs_metrics_one(text, "mount_rings", "gauge", "Their rings.", census.rings);
    fm_fs_metrics_one(text, "mount_ring_operations", "gauge", "Their operations that are under way.",
                      census.under_way);
    if (mount->cluster) // this is its thread
        fm_fs_cluster_metrics_text(mount->cluster, text);
}

static void *run_loop(void *context)
{
    // It fails only for want of memory; then scrapers are answered no more, and see that.
    return fm_net_loop_run(context) < 0 ? context : NULL;
}

static fm_status start_loop(fm_fs_mount *mount)
{
    FM_TRY(fm_net_loop_new(NULL, &mount->metrics_loop));
    return fm_fs_metrics_open(mount->metrics_loop, mount->options.metrics, write_metrics, mount,
                              &mount->metrics);
}

fm_status fm_fs_mount_metrics_start(fm_fs_mount *mount, fm_net_loop *loop)
{
    if (!mount->options.metrics || !*mount->options.metrics)
        return FM_OK;
    if (loop)
        return fm_fs_metrics_open(loop, mount->options.metrics, write_metrics, mount, &mount->metrics);
    FM_TRY(start_loop(mount));
    mount->metrics_runs = pthread_create(&mount->metrics_thread, NULL, run_loop, mount->metrics_loop) == 0;
    return mount->metrics_runs ? FM_OK : fm_base_error_set(FM_ERR_LIMIT, "no thread for metrics");
}

void fm_fs_mount_metrics_stop(fm_fs_mount *mount)
{
    if (mount->metrics_runs) {
        fm_net_loop_stop(mount->metrics_loop);
        pthread_join(mount->metrics_thread, NULL);
        mount->metrics_runs = 0;
    }
    fm_fs_metrics_close(mount->metrics);
    mount->metrics = NULL;
    fm_net_loop_free(mount->metrics_loop);
    mount->metrics_loop = NULL;
}

const char *fm_fs_mount_metrics(const fm_fs_mount *mount)
{
    return mount->metrics ? fm_fs_metrics_address(mount->metrics) : NULL;
}
