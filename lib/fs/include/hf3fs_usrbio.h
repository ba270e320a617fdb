/**
 * @file hf3fs_usrbio.h
 * Reads and writes through memory that a program shares with a mount's process: the interface of 3FS's USRBIO, source for
 * source, so that what was written for it compiles and runs here unchanged (github.com/deepseek-ai/3FS,
 * src/lib/api/hf3fs_usrbio.h). It works where `fathom fs mount` serves.
 *
 *     struct hf3fs_ior ring;
 *     struct hf3fs_iov buffer;
 *     struct hf3fs_cqe done[64];
 *     hf3fs_iorcreate4(&ring, "/mnt/c", 64, true, 0, 0, -1, 0);         // for reading, up to 64 at once
 *     hf3fs_iovcreate(&buffer, "/mnt/c", 64 << 20, 0, -1);              // where the bytes go
 *     hf3fs_reg_fd(fd, 0);                                              // an open file of the mount
 *     for (int i = 0; i < 64; i++)
 *         hf3fs_prep_io(&ring, &buffer, true, buffer.base + (i << 20), fd, places[i], 1 << 20, NULL);
 *     hf3fs_submit_ios(&ring);
 *     hf3fs_wait_for_ios(&ring, done, 64, 64, NULL);
 *
 * Structs are the caller's, on any kind of storage, and stay where they are between creation and destruction. Fields are
 * for reading alone. Functions give 0 or a count, or a negative errno value, unless they say otherwise.
 *
 * ## What is as in 3FS and what is not
 * - A read gives as many bytes as the file has there; holes are zeros, or -ENODATA with HF3FS_IOR_FORBID_READ_HOLES. All
 *   reads see committed bytes: HF3FS_IOR_ALLOW_READ_UNCOMMITTED changes nothing. What a write has acknowledged is durable.
 * - An operation's failure is in its result: -EBADF (no registered file), -EACCES (opened otherwise; another user's memory),
 *   -EINVAL (memory that is not registered, or not there; a block's border inside; a place beyond 2^63), -EROFS, -ENOSPC,
 *   -EDQUOT, -ESTALE (the file was removed), -ENODATA, -ETIMEDOUT (the cluster does not answer), -EIO, -ENOMEM.
 * - When the mount's process ends, waiting fails with -ENOTCONN, as do later calls; nobody waits for ever. When a program
 *   ends in any way, nothing of it stays behind: its memory has no names. So it is not found in /dev/shm, either.
 * - hf3fs_iovopen() finds memory that a living program of the same user has made; destroying what was opened ends only that.
 * - Nothing polls: operations that were prepared wait for hf3fs_submit_ios().
 *
 * ## Threads
 * One thread at a time prepares and submits in a ring, and one at a time waits in it; they may be two. All else: any. After
 * fork() the child makes rings of its own; registered files it may use in them.
 */
#ifndef HF3FS_USRBIO_H
#define HF3FS_USRBIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HF3FS_API __attribute__((visibility("default")))

#define HF3FS_SUPER_MAGIC 0x8f3f5fff

typedef void *hf3fs_iov_handle;

/** Memory that is shared with the mount's process, for the bytes of operations. */
struct hf3fs_iov {
    uint8_t *base;
    hf3fs_iov_handle iovh; /**< NULL: wrapped */

    char id[16]; /**< names it to other programs of the user; drawn at random */
    char mount_point[256];
    size_t size;
    size_t block_size; /**< an operation lies in one block of so many bytes; 0: anywhere */
    int numa;
};

typedef void *hf3fs_ior_handle;

/** A ring of operations and their results. */
struct hf3fs_ior {
    struct hf3fs_iov iov;
    hf3fs_ior_handle iorh;

    char mount_point[256];
    bool for_read;
    /** Above 0: operations are taken in batches of exactly so many (fewer wait for more). 0: as many as there are. Below 0: at
     *  most so many at a time, and fewer only when `timeout` milliseconds have passed since the first was seen. */
    int io_depth;
    int priority; /**< below 0: before others; above 0: after others */
    int timeout;
    uint64_t flags;
};

/** What became of an operation. */
struct hf3fs_cqe {
    int32_t index; /**< as hf3fs_prep_io() gave it */
    int32_t reserved;
    int64_t result; /**< bytes, or a negative errno value */
    const void *userdata;
};

/** Whether the open file lies in a mount that serves this interface. */
HF3FS_API bool hf3fs_is_hf3fs(int fd);

/** The mount that the existing `path` lies in. The length of its name with the final 0, which is written when `size` is
 *  enough; -1: none. */
HF3FS_API int hf3fs_extract_mount_point(char *hf3fs_mount_point, int size, const char *path);

/** Makes memory of `size` bytes, on NUMA node `numa` if it is not negative. -ENOENT: nothing serves there; -EINVAL, -ENOMEM,
 *  -EMFILE. */
HF3FS_API int hf3fs_iovcreate(struct hf3fs_iov *iov, const char *hf3fs_mount_point, size_t size,
                              size_t block_size, int numa);
/** Maps what another program has made. -ENOENT: nobody has, or it was unlinked; -EACCES; -EINVAL: it is smaller. */
HF3FS_API int hf3fs_iovopen(struct hf3fs_iov *iov, const uint8_t id[16], const char *hf3fs_mount_point,
                            size_t size, size_t block_size, int numa);
/** Nobody finds it by its id any more; whoever has it goes on. */
HF3FS_API void hf3fs_iovunlink(struct hf3fs_iov *iov);
/** Operations in it must have come to their end. */
HF3FS_API void hf3fs_iovdestroy(struct hf3fs_iov *iov);
/** Memory that this program has already, by hf3fs_iovcreate() in it or in its parent. It is not destroyed. */
HF3FS_API int hf3fs_iovwrap(struct hf3fs_iov *iov, void *base, const uint8_t id[16],
                            const char *hf3fs_mount_point, size_t size, size_t block_size, int numa);

/** Bytes of shared memory that a ring takes. */
HF3FS_API size_t hf3fs_ior_size(int entries);

/** Makes a ring for `entries` operations at once, 1 to 65536, all of them reads or all of them writes. `io_depth` may not be
 *  larger. Errors as hf3fs_iovcreate(). */
HF3FS_API int hf3fs_iorcreate(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries,
                              bool for_read, int io_depth, int numa);
HF3FS_API int hf3fs_iorcreate2(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries,
                               bool for_read, int io_depth, int priority, int numa);
HF3FS_API int hf3fs_iorcreate3(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries,
                               bool for_read, int io_depth, int priority, int timeout, int numa);

#define HF3FS_IOR_ALLOW_READ_UNCOMMITTED 1
#define HF3FS_IOR_FORBID_READ_HOLES      2
HF3FS_API int hf3fs_iorcreate4(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries,
                               bool for_read, int io_depth, int timeout, int numa, uint64_t flags);

/** What was taken already comes to its end in the memory; its results are lost. */
HF3FS_API void hf3fs_iordestroy(struct hf3fs_ior *ior);

/** Lets rings use the open file. A number <= 0 that stands for it in hf3fs_prep_io(), where `fd` itself does, too; or an errno
 *  value above 0: EBADF (not of such a mount), EINVAL (`fd` is registered), EMFILE. The file stays registered when `fd` is
 *  closed, and `fd` taken until then. */
HF3FS_API int hf3fs_reg_fd(int fd, uint64_t flags);
HF3FS_API void hf3fs_dereg_fd(int fd);

/** How many operations the ring holds at once. */
HF3FS_API int hf3fs_io_entries(const struct hf3fs_ior *ior);

/** Prepares to move `len` bytes between `ptr` in `iov` and byte `off` of the file. The operation's index; -EINVAL (`read` is not
 *  the ring's, not within `iov`, no bytes), -EBADF, -EACCES (the file was opened otherwise), -EAGAIN (the ring is full: wait),
 *  -ENOTCONN. */
HF3FS_API int hf3fs_prep_io(const struct hf3fs_ior *ior, const struct hf3fs_iov *iov, bool read, void *ptr,
                            int fd, size_t off, uint64_t len, const void *userdata);
HF3FS_API int hf3fs_submit_ios(const struct hf3fs_ior *ior);
/** Takes up to `cqec` results. Waits until there are `min_results` (at most `cqec`), or until the calendar time `abs_timeout`
 *  (NULL: for ever). How many, 0 too; -EINVAL, -ENOTCONN. */
HF3FS_API int hf3fs_wait_for_ios(const struct hf3fs_ior *ior, struct hf3fs_cqe *cqes, int cqec,
                                 int min_results, const struct timespec *abs_timeout);

/** Gives the file `target` of such a mount another name. 0 or an errno value. */
HF3FS_API int hf3fs_hardlink(const char *target, const char *link_name);
/** Makes the ranges [start[i], end[i]) of the file holes, at most 1000. 0 or an errno value. */
HF3FS_API int hf3fs_punchhole(int fd, int n, const size_t *start, const size_t *end, size_t flags);

#ifdef __cplusplus
}
#endif
#endif
