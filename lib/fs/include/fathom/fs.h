/**
 * @file fs.h
 * Files: named byte arrays under one root, on a plain directory or on a Fathom cluster behind the same calls.
 *
 *     fm_fs *fs;
 *     fm_fs_file *file;
 *     FM_TRY(fm_fs_open("dir:/data/corpus", FM_FS_CREATE, &fs));
 *     FM_TRY(fm_fs_mkdir(fs, "shards", FM_FS_PARENTS));
 *     FM_TRY(fm_fs_write_all(fs, "shards/0.bin", bytes, length, 0));      // whole or not at all, durable
 *     FM_TRY(fm_fs_file_open(fs, "shards/0.bin", FM_FS_READ, &file));
 *     FM_TRY(fm_fs_file_read(file, buffer, 4096, 65536, &got));           // 4096 bytes at offset 65536
 *     fm_fs_file_close(file);
 *     fm_fs_close(fs);
 *
 * Many reads at once go through a queue (fm_fs_queue_*), large outputs through a writer (fm_fs_writer_*).
 * On top of these stand fathom/fs_dataset.h (random samples) and fathom/fs_checkpoint.h (atomic versions).
 *
 * ## Paths
 * A path names something below the root: components of 1 to 255 bytes, joined by '/', at most 4095 bytes in
 * all. Bytes are not interpreted. "." is the root; empty and "." components are skipped, so that "a//b/" is
 * "a/b". An empty path, an absolute one, and any ".." component are refused with FM_ERR_ARG. Symbolic links
 * that lie in a directory already are followed, except as the last component of unlink, rename and
 * remove_all; one that leads out of the root (an absolute one always does) fails with FM_ERR_PERM.
 * Permissions are checked as for any program; what is made gets those that the umask leaves.
 *
 * ## What every back end promises
 * - Names: each call that makes, renames or removes a name is atomic; everyone sees the state before it or
 *   the state after it. A change survives a power cut once fm_fs_dir_sync() of its directory has returned;
 *   before that, a power cut may undo it and leave later ones.
 * - Data: a read that begins after a write has returned sees what was written, from any handle in any
 *   process. Writes that overlap in time and place leave a mixture. Bytes never written read as zero. Data
 *   and size survive a power cut once fm_fs_file_sync() has returned.
 * - Size: a handle sees its own growth at once. Other handles may see it late, but not later than
 *   fm_fs_file_sync() or fm_fs_file_close() on the writing side.
 * - Removal: do not read a file after its name was removed or replaced. A directory lets you; a cluster
 *   need not.
 *
 * A program that relies on these alone runs unchanged on every back end.
 *
 * ## Errors
 * Any function may fail with FM_ERR_ARG (a bad path, flag or buffer), FM_ERR_NOMEM, FM_ERR_IO, FM_ERR_PERM
 * (access rights, a read-only medium, a link out of the root), FM_ERR_LIMIT (name or file too long, too many
 * links or open files) and FM_ERR_BUSY (a mount point, a running program), and on a cluster with
 * FM_ERR_UNAVAILABLE and FM_ERR_TIMEOUT. Functions that take a path may fail with FM_ERR_NOT_FOUND (a
 * component is missing) and FM_ERR_FS_NOT_DIR (a component above the last is not a directory). Functions that
 * store something may fail with FM_ERR_SPACE (device or quota full). The rest is said at each function.
 *
 * ## Threads and ownership
 * An fm_fs and an fm_fs_file may be used by any number of threads at once. A list, a queue and a writer
 * belong to one thread at a time. Close what was opened on an fm_fs before the fm_fs. Handles do not
 * survive fork(): the child leaves them alone. No threads are started here; io_uring lets the kernel work
 * on submitted operations in the background.
 */
#ifndef FATHOM_FS_H
#define FATHOM_FS_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FM_FS_NAME_MAX 255  /**< bytes in a component, as POSIX and 3FS have it */
#define FM_FS_PATH_MAX 4095 /**< bytes in a path; with the terminating 0 it fits Linux's PATH_MAX */

/** Flags; each function says which it takes and refuses the others with FM_ERR_ARG. */
enum {
    FM_FS_READ = 1,      /**< open for reading */
    FM_FS_WRITE = 2,     /**< open for writing */
    FM_FS_CREATE = 4,    /**< make it when it is missing */
    FM_FS_EXCLUSIVE = 8, /**< the name must be free: FM_ERR_EXISTS otherwise */
    FM_FS_TRUNCATE = 16, /**< begin with length 0 */
    FM_FS_PARENTS = 32,  /**< make missing parents too; what is there already is fine */
    FM_FS_NO_SYNC = 64,  /**< atomic, but a power cut may lose it: for what can be made again */
    FM_FS_RANDOM = 128,  /**< reads will be at any places: nothing is read ahead of them */
    FM_FS_EAGER =
        256 /**< what fm_fs_file_write() has written goes to the medium soon, not when memory fills */
};

typedef struct fm_fs fm_fs;
typedef struct fm_fs_file fm_fs_file;
typedef struct fm_fs_list fm_fs_list;
typedef struct fm_fs_queue fm_fs_queue;
typedef struct fm_fs_writer fm_fs_writer;

typedef enum fm_fs_type {
    FM_FS_TYPE_FILE,
    FM_FS_TYPE_DIR,
    FM_FS_TYPE_LINK, /**< only in lists: fm_fs_stat() follows links */
    FM_FS_TYPE_OTHER /**< a device, socket or pipe that lies in a directory; not to be opened */
} fm_fs_type;

typedef struct fm_fs_info {
    fm_fs_type type;
    uint64_t size;    /**< bytes of a file; 0 for everything else */
    int64_t mtime_ns; /**< last change of content, nanoseconds since 1970-01-01 UTC */
    uint64_t id;      /**< within one medium: equal for two names exactly when they are the same file */
} fm_fs_info;

/**
 * Opens the file system that `spec` names:
 *
 *     dir:PATH      the directory PATH (absolute, or relative to the current directory of this moment)
 *     cluster:DIR   the files of the cluster whose directory is DIR (fathom/fs_cluster.h), which must be up
 *     PATH          as dir:PATH; a relative PATH with a ':' before its first '/' needs "dir:" or "./" in front
 *
 * `flags`: 0 or FM_FS_CREATE (makes the directory with its parents). FM_ERR_UNSUPPORTED: another scheme;
 * the message names the known ones. FM_ERR_NOT_FOUND, FM_ERR_FS_NOT_DIR.
 */
FM_API FM_MUST_USE fm_status fm_fs_open(const char *spec, unsigned flags, fm_fs **out_fs);
/** Closes it; NULL is allowed. All its files, lists, queues and writers must be closed. */
FM_API void fm_fs_close(fm_fs *fs);

/** What `path` is; follows links. */
FM_API FM_MUST_USE fm_status fm_fs_stat(fm_fs *fs, const char *path, fm_fs_info *out_info);

/** Makes a directory. `flags`: 0 or FM_FS_PARENTS. FM_ERR_EXISTS: the name is taken (with FM_FS_PARENTS: by
 *  something that is not a directory). */
FM_API FM_MUST_USE fm_status fm_fs_mkdir(fm_fs *fs, const char *path, unsigned flags);

/** Removes a file or a link. FM_ERR_FS_IS_DIR. */
FM_API FM_MUST_USE fm_status fm_fs_unlink(fm_fs *fs, const char *path);
/** Removes an empty directory. FM_ERR_FS_NOT_EMPTY, FM_ERR_FS_NOT_DIR. */
FM_API FM_MUST_USE fm_status fm_fs_rmdir(fm_fs *fs, const char *path);
/**
 * Removes a file, a link (not what it points to), or a directory with all below it. The name is gone at
 * once and atomically: a directory is first renamed to a temporary name beside it (see fm_fs_writer_open())
 * and then emptied, so that nobody ever sees half of it under its name, not even after a power cut. When
 * emptying fails, the message says where the rest lies.
 */
FM_API FM_MUST_USE fm_status fm_fs_remove_all(fm_fs *fs, const char *path);

/**
 * Gives `from` the name `to`, atomically. Without flags an existing `to` is replaced: a file by a file, an
 * empty directory by a directory. FM_FS_EXCLUSIVE: FM_ERR_EXISTS when `to` is taken. Also FM_ERR_FS_IS_DIR
 * (a directory would be replaced by a file), FM_ERR_FS_NOT_DIR (the other way round), FM_ERR_FS_NOT_EMPTY,
 * FM_ERR_ARG (a directory into itself), FM_ERR_UNSUPPORTED (across a mount point, or the medium knows no
 * exclusive rename).
 */
FM_API FM_MUST_USE fm_status fm_fs_rename(fm_fs *fs, const char *from, const char *to, unsigned flags);

/**
 * Gives the file `from` the name `to` as well: both are the same file, which goes with its last name. `from` may be a link,
 * which is followed. FM_ERR_EXISTS: `to` is taken. FM_ERR_FS_IS_DIR: `from` is a directory. FM_ERR_UNSUPPORTED: across a
 * mount point, or the medium knows no second names.
 */
FM_API FM_MUST_USE fm_status fm_fs_link(fm_fs *fs, const char *from, const char *to);

/** Makes the names in directory `path` durable: what was made, renamed and removed in it survives a power
 *  cut. */
FM_API FM_MUST_USE fm_status fm_fs_dir_sync(fm_fs *fs, const char *path);

/**
 * The absolute path under which this machine's kernel knows `path`, for programs that cannot read through
 * this library (DuckDB, mmap); it need not exist. Whoever opens it follows links out of the root, too.
 * FM_ERR_UNSUPPORTED: the back end has none. FM_ERR_LIMIT: longer than `size` - 1 bytes.
 */
FM_API FM_MUST_USE fm_status fm_fs_local_path(fm_fs *fs, const char *path, char *out_path, size_t size);

typedef struct fm_fs_entry {
    const char *name; /**< one component; valid until the next call on the list */
    fm_fs_type type;
} fm_fs_entry;

/** Lists a directory in ascending order of the names' bytes, without "." and "..". What is made or removed
 *  meanwhile may or may not appear. Memory may grow with the number of entries. FM_ERR_FS_NOT_DIR. */
FM_API FM_MUST_USE fm_status fm_fs_list_open(fm_fs *fs, const char *path, fm_fs_list **out_list);
/** The next entry, owned by the list; NULL after the last. */
FM_API FM_MUST_USE fm_status fm_fs_list_next(fm_fs_list *list, const fm_fs_entry **out_entry);
/** NULL is allowed. */
FM_API void fm_fs_list_close(fm_fs_list *list);

/**
 * Opens a file. `flags`: FM_FS_READ, FM_FS_WRITE or both; with FM_FS_WRITE also FM_FS_CREATE,
 * FM_FS_EXCLUSIVE (needs FM_FS_CREATE), FM_FS_TRUNCATE and FM_FS_EAGER; FM_FS_RANDOM. Never waits on a pipe:
 * FM_ERR_UNSUPPORTED for what is neither file nor directory. FM_ERR_FS_IS_DIR, FM_ERR_EXISTS.
 */
FM_API FM_MUST_USE fm_status fm_fs_file_open(fm_fs *fs, const char *path, unsigned flags,
                                             fm_fs_file **out_file);
/** Closes it; NULL is allowed. No operation on it may be running. Whoever needs to know that the data is
 *  safe calls fm_fs_file_sync() first: closing reports nothing. */
FM_API void fm_fs_file_close(fm_fs_file *file);

/** What the open file is. */
FM_API FM_MUST_USE fm_status fm_fs_file_stat(fm_fs_file *file, fm_fs_info *out_info);
/** Reads `length` bytes at `offset`. `*out_length` is less than `length` only where the file ends, 0 at or
 *  beyond its end. FM_ERR_STATE: not open for reading. */
FM_API FM_MUST_USE fm_status fm_fs_file_read(fm_fs_file *file, void *buffer, size_t length, uint64_t offset,
                                             size_t *out_length);
/** Writes all `length` bytes at `offset`; the file grows as needed. When it fails, any part of them may
 *  have been written. FM_ERR_STATE: not open for writing. */
FM_API FM_MUST_USE fm_status fm_fs_file_write(fm_fs_file *file, const void *data, size_t length,
                                              uint64_t offset);
/** Makes the file `size` bytes long: cut, or extended with zeros. FM_ERR_STATE. */
FM_API FM_MUST_USE fm_status fm_fs_file_truncate(fm_fs_file *file, uint64_t size);
/** Makes the file's data and size durable: all that was written before this call, by any handle. Its name
 *  is made durable by fm_fs_dir_sync(). After a failure, what was written since the last success must be
 *  taken as lost. */
FM_API FM_MUST_USE fm_status fm_fs_file_sync(fm_fs_file *file);

typedef enum fm_fs_io_kind { FM_FS_IO_READ, FM_FS_IO_WRITE, FM_FS_IO_SYNC } fm_fs_io_kind;

/**
 * One operation of a queue. The caller sets the fields down to `kind`. From fm_fs_queue_submit() until the
 * operation comes back, the struct and the buffer belong to the queue and must stay where they are.
 */
typedef struct fm_fs_io {
    fm_fs_file *file; /**< of the queue's file system; open until the operation comes back */
    void *buffer;     /**< `length` bytes; a write only reads them; NULL for a sync */
    size_t length;    /**< 0 for a sync */
    uint64_t offset;
    void *user;         /**< the caller's; never looked at */
    fm_fs_io_kind kind; /**< FM_FS_IO_SYNC covers the writes that came back before it was submitted */
    fm_status status;   /**< out: FM_OK, or what fm_fs_file_read() and its like would have returned */
    size_t done;        /**< out: bytes moved; a read that ends at the end of the file is short and FM_OK */
    struct fm_fs_io *next_; /**< private */
} fm_fs_io;

/**
 * A queue that keeps up to `depth` (1 to 4096) operations in flight; it takes any number and starts the
 * others as these finish. A directory uses io_uring where the library was built with it and the kernel
 * allows it. A cluster moves the bytes of all of them at once over a connection of the queue's own; they go on while one
 * of the queue's functions runs, and waiting is what they are to be called for. Only what changes the names waits for
 * them in fm_fs_queue_submit() and fm_fs_queue_wait(): a file that grows does so once for all writes that are submitted,
 * and writes into a file that is stored inline are done when nothing else is under way. Of a write that is under
 * way while its file is cut, each byte comes before or after the truncation.
 * Otherwise, and with FM_FS_QUEUE=blocking in the environment, fm_fs_queue_submit() itself
 * carries the operations out, one after the other, and returns when all are finished.
 */
FM_API FM_MUST_USE fm_status fm_fs_queue_open(fm_fs *fs, unsigned depth, fm_fs_queue **out_queue);
/** Drops what has not begun, waits for what has, and frees the queue; NULL is allowed. All structs and
 *  buffers are the caller's again; the status of what was dropped is FM_ERR_CANCELLED. */
FM_API void fm_fs_queue_close(fm_fs_queue *queue);
/** "io_uring", "cluster" or "blocking". */
FM_API const char *fm_fs_queue_engine(const fm_fs_queue *queue);

/** Submits `count` operations, in no particular order to each other. When one is wrong (FM_ERR_ARG,
 *  FM_ERR_STATE, FM_ERR_LIMIT; the message gives its index) none is submitted. FM_ERR_IO: the engine
 *  failed; close the queue. */
FM_API FM_MUST_USE fm_status fm_fs_queue_submit(fm_fs_queue *queue, fm_fs_io *ios, size_t count);

/**
 * Takes back up to `max` finished operations in `out_done`, in any order. Waits until `min` of them are
 * there (or fewer, when fewer are outstanding) or `timeout_ms` has passed (-1: no limit); `*out_count` says
 * how many came. `min` 0 polls. An operation's own failure is in its status, not in the result here.
 * FM_ERR_IO: the engine failed; close the queue.
 */
FM_API FM_MUST_USE fm_status fm_fs_queue_wait(fm_fs_queue *queue, size_t min, int timeout_ms,
                                              fm_fs_io **out_done, size_t max, size_t *out_count);

/** Submits `count` operations and returns when all are finished, with the failure of one that failed if any
 *  did. FM_ERR_STATE: operations of earlier submits are still outstanding. */
FM_API FM_MUST_USE fm_status fm_fs_queue_run(fm_fs_queue *queue, fm_fs_io *ios, size_t count);

/**
 * Reads a whole file into memory that the caller frees with fm_base_mem_free(); a 0 byte follows the data.
 * Its length is that at opening, or less if the file was cut meanwhile. FM_ERR_LIMIT: larger than
 * `bytes_max`.
 */
FM_API FM_MUST_USE fm_status fm_fs_read_all(fm_fs *fs, const char *path, size_t bytes_max, void **out_data,
                                            size_t *out_length);
/** A writer's open, write and commit in one call. `flags` as for fm_fs_writer_open(). */
FM_API FM_MUST_USE fm_status fm_fs_write_all(fm_fs *fs, const char *path, const void *data, size_t length,
                                             unsigned flags);

/**
 * A writer makes one file of any size that appears under its name whole, or not at all, whatever happens
 * meanwhile. The bytes go through a buffer of 1 MiB to a temporary file beside `path`; committing syncs it,
 * renames it to `path`, and syncs the directory. `flags`: FM_FS_EXCLUSIVE (the name is checked at commit),
 * FM_FS_NO_SYNC (leaves both syncs out: safe against the end of the program at any moment, not against a
 * power cut).
 *
 * Temporary names are ".tmp-" and 16 hexadecimal digits. One that outlives its program is rubbish: lists
 * show it, and anyone may remove it when no writer is at work.
 */
FM_API FM_MUST_USE fm_status fm_fs_writer_open(fm_fs *fs, const char *path, unsigned flags,
                                               fm_fs_writer **out_writer);
/** Appends. The result may be ignored: after a failure every further call, and the commit, fail in the same
 *  way. */
FM_API fm_status fm_fs_writer_write(fm_fs_writer *writer, const void *data, size_t length);
/** Publishes the file and frees the writer, in success and in failure. After a failure `path` is as it was
 *  before, except when it was the directory that could not be synced: then the new file is there, and a
 *  power cut may bring the old one back. */
FM_API FM_MUST_USE fm_status fm_fs_writer_commit(fm_fs_writer *writer);
/** Throws away what was written and frees the writer; NULL is allowed. */
FM_API void fm_fs_writer_discard(fm_fs_writer *writer);

#ifdef __cplusplus
}
#endif
#endif
