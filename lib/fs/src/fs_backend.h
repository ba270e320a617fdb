/**
 * @file fs_backend.h
 * What a back end of fathom/fs.h implements: one table of operations.
 *
 * The front end (fs.c, fs_queue.c, fs_writer.c) checks arguments, brings paths into canonical form, and
 * builds everything else from these slots. So a back end may assume: pointers are valid; a path is
 * canonical (no "", "." or ".." component, no leading or trailing '/', at most FM_FS_PATH_MAX bytes; "" is
 * the root); flags are among those that fs.h allows; files are open in the needed mode; offset + length
 * fits int64_t; lengths are not 0. It returns the codes that fs.h gives for the function of the same name
 * and writes the message itself.
 *
 * A back end embeds the base structs below as the first member of its own, and fills `ops` (the front end
 * fills the rest). The blocking slots may be called by many threads at once.
 *
 * A queue is where asynchronous engines show: see struct fm_fs_queue. A back end whose client is an event
 * loop implements the blocking slots as "post a request, run the loop until it is answered" and the queue
 * without any such wait.
 */
#ifndef FATHOM_FS_BACKEND_H
#define FATHOM_FS_BACKEND_H

#include "fathom/fs.h"

struct fm_fs {
    const struct fm_fs_ops *ops;
};

struct fm_fs_file {
    fm_fs *fs;
    unsigned flags;
    char *path; // canonical, for messages; owned by the front end
};

struct fm_fs_list {
    fm_fs *fs;
};

// A singly linked first-in first-out list of operations, threaded through fm_fs_io.next_.
struct fm_fs_io_list {
    fm_fs_io *head;
    fm_fs_io **tail; // &head or &last->next_
    size_t count;
};

/*
 *     submit -> pending -> (in flight) -> finished -> wait
 *
 * An operation is in exactly one of the three places, and `done` counts its progress, so that an engine
 * which moves only a part of it (a short read) puts it back at the head of `pending` to have the rest done.
 * advance() alone moves operations; it runs in the caller's thread, so no lock guards the lists. An engine
 * with threads of its own hands results over inside advance().
 */
struct fm_fs_queue {
    fm_fs *fs;
    const struct fm_fs_queue_ops *ops;
    struct fm_fs_io_list pending;
    size_t in_flight;
    struct fm_fs_io_list finished;
    fm_fs_io *failed; // the last that finished with a failure; the thread's message speaks of it
};

struct fm_fs_queue_ops {
    const char *name;
    // Starts pending operations as far as the depth allows, and returns once `finished` holds `want`
    // operations, or nothing is pending or in flight, or `timeout_ms` is over (-1: never). `want` 0: starts
    // and collects without waiting. An operation is finished by fm_fs_queue_finish(). A failure means that
    // the engine is unusable from now on.
    fm_status (*advance)(fm_fs_queue *queue, size_t want, int timeout_ms);
    // Waits for what is in flight and frees the queue.
    void (*close)(fm_fs_queue *queue);
};

struct fm_fs_ops {
    const char *scheme; // "dir" for "dir:PATH"
    fm_status (*open)(const char *where, unsigned flags, fm_fs **out_fs);
    void (*close)(fm_fs *fs);

    fm_status (*stat)(fm_fs *fs, const char *path, fm_fs_info *out_info);
    fm_status (*mkdir)(fm_fs *fs, const char *path);
    fm_status (*unlink)(fm_fs *fs, const char *path);
    fm_status (*rmdir)(fm_fs *fs, const char *path);
    fm_status (*remove_all)(fm_fs *fs, const char *path);
    fm_status (*rename)(fm_fs *fs, const char *from, const char *to, unsigned flags);
    fm_status (*link)(fm_fs *fs, const char *from, const char *to); // `from` is a file; NULL: it has none
    fm_status (*dir_sync)(fm_fs *fs, const char *path);
    fm_status (*local_path)(fm_fs *fs, const char *path, char *out_path, size_t size); // NULL: it has none

    fm_status (*list_open)(fm_fs *fs, const char *path, fm_fs_list **out_list);
    fm_status (*list_next)(fm_fs_list *list, const fm_fs_entry **out_entry);
    void (*list_close)(fm_fs_list *list);

    fm_status (*file_open)(fm_fs *fs, const char *path, unsigned flags, fm_fs_file **out_file);
    void (*file_close)(fm_fs_file *file);
    fm_status (*file_stat)(fm_fs_file *file, fm_fs_info *out_info);
    fm_status (*file_read)(fm_fs_file *file, void *buffer, size_t length, uint64_t offset,
                           size_t *out_length);
    fm_status (*file_write)(fm_fs_file *file, const void *data, size_t length, uint64_t offset);
    fm_status (*file_truncate)(fm_fs_file *file, uint64_t size);
    fm_status (*file_sync)(fm_fs_file *file);

    // NULL, or FM_ERR_UNSUPPORTED from it: the front end's blocking engine serves the queue.
    fm_status (*queue_open)(fm_fs *fs, unsigned depth, fm_fs_queue **out_queue);
};

extern const struct fm_fs_ops fm_fs_dir_ops;
extern const struct fm_fs_ops fm_fs_cluster_ops;

// fs.c

// Whether `length` bytes at `offset` may be read (FM_FS_READ) or written (FM_FS_WRITE). FM_ERR_STATE,
// FM_ERR_LIMIT, FM_ERR_ARG.
fm_status fm_fs_file_check(const fm_fs_file *file, unsigned mode, const void *buffer, size_t length,
                           uint64_t offset);

// fs_path.c

// Writes the canonical form of `path`; `what` names it in messages. FM_ERR_ARG, FM_ERR_LIMIT.
fm_status fm_fs_path_canonical(const char *path, const char *what, char out_path[FM_FS_PATH_MAX + 1]);
// Writes the canonical path of the directory that holds canonical, non-root `path`.
void fm_fs_path_parent(const char *path, char out_parent[FM_FS_PATH_MAX + 1]);
// The last component of canonical, non-root `path`; points into it.
const char *fm_fs_path_leaf(const char *path);
// Joins canonical `dir` ("" for the root) and `name`. FM_ERR_LIMIT.
fm_status fm_fs_path_join(const char *dir, const char *name, char out_path[FM_FS_PATH_MAX + 1]);

#define FM_FS_TMP_PREFIX ".tmp-"
enum { FM_FS_TMP_NAME_BYTES = sizeof FM_FS_TMP_PREFIX + 16 };
// A temporary name that nobody else is likely to have: 64 bits mixed from clock, process and a counter.
void fm_fs_tmp_name(char out_name[FM_FS_TMP_NAME_BYTES]);

// fs_queue.c

void fm_fs_io_list_push(struct fm_fs_io_list *list, fm_fs_io *io);
void fm_fs_io_list_push_head(struct fm_fs_io_list *list, fm_fs_io *io);
fm_fs_io *fm_fs_io_list_pop(struct fm_fs_io_list *list); // NULL when empty
// Moves `io`, which is in neither list, to `finished`. A failure's message must be set already.
void fm_fs_queue_finish(fm_fs_queue *queue, fm_fs_io *io, fm_status status);

#endif
