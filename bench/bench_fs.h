/* What the parts of bench_fs share. */
#ifndef FM_BENCH_FS_H
#define FM_BENCH_FS_H

#include <sys/types.h>

#include "fathom/fs_mount.h"
#include "fm_bench.h"

enum { FM_BENCH_FS_PATH = 512 };

/** Makes a folder on the disk that is measured: below TMPDIR, or /tmp. `out_folder` has FM_BENCH_FS_PATH bytes. */
fm_status fm_bench_fs_folder(char *out_folder);
void fm_bench_fs_folder_remove(const char *folder);
/** Of cases whose runs must stay few. */
fm_status fm_bench_fs_nothing_before(void *state);

/** Reads or writes at `offsets` (count of them, `size` bytes each) by io_uring with O_DIRECT, `depth` at once, into or from
 * `buffers` (depth of `size` bytes); after writes one flush, or each is durable by itself (O_DSYNC).
 * FM_ERR_UNAVAILABLE: no io_uring here. bench_fs_ring.c */
enum fm_bench_fs_way { FM_BENCH_FS_READ, FM_BENCH_FS_WRITE, FM_BENCH_FS_WRITE_DURABLE };
typedef struct fm_bench_fs_raw fm_bench_fs_raw;
fm_status fm_bench_fs_raw_open(const char *path, unsigned depth, fm_bench_fs_raw **out_raw);
fm_status fm_bench_fs_raw_run(fm_bench_fs_raw *raw, enum fm_bench_fs_way way, const uint64_t *offsets,
                              unsigned count, unsigned size, void *buffers);
void fm_bench_fs_raw_close(fm_bench_fs_raw *raw);

enum {
    FM_BENCH_FS_RAW_TUNED =
        1, /**< memory and file registered, completions in the thread, eight of them waited for */
    FM_BENCH_FS_RAW_CACHED = 2 /**< through the page cache */
};
fm_status fm_bench_fs_raw_open_as(const char *path, unsigned depth, unsigned flags,
                                  fm_bench_fs_raw **out_raw);

/** Mounts on the new directory `dir` a file system that answers each read at once: one file, "file", of `bytes`. It runs in a
 * process of its own until SIGTERM. FM_ERR_UNAVAILABLE: no FUSE here. bench_fs_null.c */
fm_status fm_bench_fs_null_start(const char *dir, uint64_t bytes, pid_t *out_pid);

/** Serves the cluster in `dir` in a process of its own, which ends with this one. -1: none. bench_fs_process.c */
pid_t fm_bench_fs_cluster_start(const char *dir);
/** Kills it; what is not positive is ignored. */
void fm_bench_fs_cluster_end(pid_t cluster);
/** Mounts it on the new directory `dir`, likewise. FM_ERR_UNAVAILABLE: no FUSE here. */
fm_status fm_bench_fs_mount_start(const char *cluster, const char *dir, const fm_fs_mount_options *options,
                                  pid_t *out_mount);
/** Ends it, or the null file system; what is not positive is ignored. */
void fm_bench_fs_mount_end(pid_t mount, const char *dir);

fm_status fm_bench_fs_store_cases(fm_bench *bench);   /* bench_fs_store.c */
fm_status fm_bench_fs_cluster_cases(fm_bench *bench); /* bench_fs_cluster.c */
fm_status fm_bench_fs_usrbio_cases(fm_bench *bench);  /* bench_fs_usrbio.c */
fm_status fm_bench_fs_queue_cases(fm_bench *bench);   /* bench_fs_queue.c */
fm_status fm_bench_fs_mount_cases(fm_bench *bench);   /* bench_fs_mount.c */
fm_status fm_bench_fs_names_cases(fm_bench *bench);   /* bench_fs_names.c */
fm_status fm_bench_fs_kvcache_cases(fm_bench *bench); /* bench_fs_kvcache.c */

#endif
