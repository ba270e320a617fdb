/**
 * @file fs_meta.h
 * The names of a cluster: directories, files, links, their owners, times and attributes, and which chunks hold a file's
 * bytes, as transactions on a key-value store (fathom/fs_kv.h).
 *
 *     FM_TRY(fm_fs_kv_open("lmdb:/data/c/names", NULL, &kv));
 *     FM_TRY(fm_fs_meta_open(kv, NULL, &meta));                     // makes the root, the first time
 *     FM_TRY(fm_fs_meta_create(meta, &who, FM_FS_META_ROOT, "a", S_IFREG | 0644, 0, 0, &node, NULL));
 *
 * ## One service, any number of servers
 * All state is in the store. Whoever has it open serves any request; requests of all of them are strictly serializable,
 * each is done whole or not at all, and durable when its call returns. Nothing is cached here.
 *
 * A call whose outcome the store cannot tell is repeated; a record of the last request of its slot, written by the
 * request's own transaction, keeps it from happening twice. A server that answers remote clients passes their (client,
 * slot, sequence) in fm_fs_who, and their repeated requests are recognised likewise.
 *
 * ## Semantics
 * Those of POSIX as Linux has them, with nanosecond times, sticky directories, inherited set-group-ID, RENAME_NOREPLACE and
 * RENAME_EXCHANGE, except that reading changes no access time. Permissions are checked here for what `who` says. Modes
 * carry the type as in struct stat (S_IFREG, ...). A removed file's contents are collected later (fm_fs_meta_collect()),
 * and not while a session keeps it open.
 *
 * ## Contents
 * A file up to `inline_max` bytes lies in the store beside its node. A larger one lies in chunks: chunk i has the id of
 * fm_fs_meta_chunk(); the node's `data` number changes when a file is cut to nothing, so that no chunk is ever reused.
 * The caller moves the bytes, in this order, so that no crash shows bytes that were not written there:
 * - to grow: first fm_fs_meta_extend(), then the chunks;
 * - to shrink: fm_fs_meta_truncate() alone; what the chunks have behind the end counts for nothing, and can go;
 * - out of the store: first the chunks, then fm_fs_meta_spill().
 * Writes of others may be under way to behind the end of a file that shrinks. So `reach` stays, and whoever lets the file grow
 * over what is below it takes a number by fm_fs_meta_fence(), removes what the chunks have there, and shows the number: it
 * holds as long as nobody took a later one (volume_cut.h has the argument).
 *
 * ## Errors
 * FM_ERR_NOT_FOUND (ENOENT, also a node that is gone), FM_ERR_EXISTS, FM_ERR_FS_NOT_DIR, FM_ERR_FS_IS_DIR,
 * FM_ERR_FS_NOT_EMPTY, FM_ERR_PERM (EPERM: not the owner, sticky, immutable), FM_ERR_FS_ACCESS (EACCES: the permission
 * bits), FM_ERR_FS_QUOTA (EDQUOT), FM_ERR_FS_CROSS (EXDEV: between two quotas), FM_ERR_LIMIT (a name over 255 bytes, too
 * many links), FM_ERR_ARG, and those of the store.
 *
 * Threads: a fm_fs_meta may be used by any number of threads.
 */
#ifndef FATHOM_FS_META_H
#define FATHOM_FS_META_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/fs_kv.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FM_FS_META_ROOT = 1,        /**< the root's inode number */
    FM_FS_META_NAME_MAX = 255,  /**< bytes of a name */
    FM_FS_META_LINK_MAX = 4095, /**< bytes of a symbolic link's target */
    FM_FS_META_LINKS_MAX = 65000,
    FM_FS_META_XATTR_MAX = 65536, /**< bytes of an extended attribute */
    FM_FS_META_PAGE_MAX = 64,     /**< entries of a page of a directory */
    FM_FS_META_GRACE_S = 90
};

/** Who asks. NULL stands for the superuser. */
typedef struct fm_fs_who {
    uint32_t uid, gid;
    const uint32_t *groups; /**< further groups */
    uint32_t group_count;
    uint64_t client;   /**< 0: a program that calls these functions itself; else with slot and sequence: */
    uint32_t slot;     /**< one request at a time, */
    uint64_t sequence; /**< and each has the next number, from 1; a repeated one has that of the first try */
    uint64_t session;  /**< the client with the lease (fm_fs_meta_lease()) for which it asks. 0: none */
} fm_fs_who;

/** Where the chunks of a file lie: chunk i on chain 1 + (base + i mod stripe) mod chains. */
typedef struct fm_fs_layout {
    uint32_t chunk_bytes; /**< a power of two from 64 KiB to FM_FS_CHUNK_MAX */
    uint32_t stripe;      /**< over how many chains a file is spread, from 1 */
    uint32_t chains;      /**< of the cluster when the file was made */
    uint32_t base;        /**< drawn for each file */
} fm_fs_layout;

enum {
    FM_FS_NODE_INLINE = 1,    /**< its bytes lie in the store */
    FM_FS_NODE_IMMUTABLE = 2, /**< nothing about it, or in it, changes */
    FM_FS_NODE_XATTRS = 4     /**< it has, or had, extended attributes */
};

typedef struct fm_fs_node {
    uint64_t ino;
    uint32_t mode; /**< type and permissions, as struct stat has them */
    uint32_t nlink, uid, gid;
    uint32_t flags; /**< FM_FS_NODE_... */
    uint64_t rdev;
    uint64_t size; /**< bytes of a file or a link's target */
    int64_t atime_ns, mtime_ns, ctime_ns;
    uint64_t version; /**< grows with each truncation, spill, inline write and fm_fs_meta_extend() */
    uint64_t parent;  /**< of a directory */
    uint64_t project; /**< the directory whose quota it counts for; 0: none */
    uint64_t data;    /**< names a file's chunks */
    uint64_t
        reach; /**< no chunk of `data` has bytes beyond this, or ever gets some from a write that has begun */
    uint64_t cuts; /**< of a file: grows with each truncation to less, and fm_fs_meta_fence() */
    fm_fs_layout layout;
} fm_fs_node;

/** Zero it and set `size`; what is 0 has its default. */
typedef struct fm_fs_meta_options {
    size_t size;
    fm_fs_layout layout;                    /**< of the root, when it is made: 1 MiB, stripe 1, 1 chain */
    uint32_t inline_max;                    /**< the largest file that lies in the store, up to 16384. 4096 */
    uint32_t no_inline;                     /**< 1: none does */
    uint32_t root_uid, root_gid, root_mode; /**< of the root, when it is made; a mode of 0 stands for 0755 */
    uint64_t retention_ns;                  /**< how long removed contents wait for the collector. 0 */
    uint64_t (*now)(void *context);         /**< nanoseconds since 1970 UTC; NULL: the calendar clock */
    void *now_context;
} fm_fs_meta_options;

typedef struct fm_fs_meta fm_fs_meta;

/** Opens the names in `kv`, which must outlive them. FM_ERR_VERSION, FM_ERR_FORMAT: something else is in it. */
FM_API FM_MUST_USE fm_status fm_fs_meta_open(fm_fs_kv *kv, const fm_fs_meta_options *options,
                                             fm_fs_meta **out_meta);
FM_API void fm_fs_meta_close(fm_fs_meta *meta);

/* Looking */

FM_API FM_MUST_USE fm_status fm_fs_meta_node(fm_fs_meta *meta, uint64_t ino, fm_fs_node *out_node);
/** The entry `name` of a directory; "." and ".." are understood. */
FM_API FM_MUST_USE fm_status fm_fs_meta_lookup(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent,
                                               const char *name, fm_fs_node *out_node);
/** Follows `path` from the directory `from` ("" is that itself). A link as the last component is followed when `follow`
 *  is 1. FM_ERR_PERM: a link leads to an absolute path or out of `from`'s root; FM_ERR_LIMIT: over 40 links. */
FM_API FM_MUST_USE fm_status fm_fs_meta_resolve(fm_fs_meta *meta, const fm_fs_who *who, uint64_t from,
                                                const char *path, int follow, fm_fs_node *out_node);
/** Whether `who` may read (4), write (2), search or execute (1) the node. FM_ERR_FS_ACCESS. */
FM_API FM_MUST_USE fm_status fm_fs_meta_access(const fm_fs_who *who, const fm_fs_node *node, unsigned want);
FM_API FM_MUST_USE fm_status fm_fs_meta_readlink(fm_fs_meta *meta, uint64_t ino,
                                                 char out_target[FM_FS_META_LINK_MAX + 1]);

typedef struct fm_fs_meta_entry {
    char name[FM_FS_META_NAME_MAX + 1];
    fm_fs_node node;
} fm_fs_meta_entry;
/** Up to `max` (at most FM_FS_META_PAGE_MAX) entries behind the name `after` (NULL: from the first on), in the order of
 *  their bytes, without "." and "..". Fewer than `max`: there are no more. */
FM_API FM_MUST_USE fm_status fm_fs_meta_list(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir,
                                             const char *after, fm_fs_meta_entry *entries, size_t max,
                                             size_t *out_count);

/* Names */

/**
 * Makes a file, directory, pipe, socket or device: what the type in `mode` says; `rdev` is for devices. `exclusive` 0: a
 * file that is there already is opened instead, and `*out_made` (or NULL) is 0.
 */
FM_API FM_MUST_USE fm_status fm_fs_meta_create(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent,
                                               const char *name, uint32_t mode, uint64_t rdev, int exclusive,
                                               fm_fs_node *out_node, int *out_made);
FM_API FM_MUST_USE fm_status fm_fs_meta_symlink(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent,
                                                const char *name, const char *target, fm_fs_node *out_node);
FM_API FM_MUST_USE fm_status fm_fs_meta_link(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino,
                                             uint64_t parent, const char *name, fm_fs_node *out_node);
FM_API FM_MUST_USE fm_status fm_fs_meta_unlink(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent,
                                               const char *name);
FM_API FM_MUST_USE fm_status fm_fs_meta_rmdir(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent,
                                              const char *name);
/** Removes an entry with all below it: the name goes at once, the rest is collected later. Whoever is not the superuser
 *  needs to read, write and search every directory below. */
FM_API FM_MUST_USE fm_status fm_fs_meta_remove_all(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent,
                                                   const char *name);
enum { FM_FS_META_NOREPLACE = 1, FM_FS_META_EXCHANGE = 2 };
/** FM_ERR_ARG: a directory into itself. */
FM_API FM_MUST_USE fm_status fm_fs_meta_rename(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent,
                                               const char *name, uint64_t to_parent, const char *to_name,
                                               unsigned flags);

/* Attributes */

enum {
    FM_FS_META_MODE = 1,
    FM_FS_META_UID = 2,
    FM_FS_META_GID = 4,
    FM_FS_META_ATIME = 8,
    FM_FS_META_MTIME = 16,
    FM_FS_META_ATIME_NOW = 32, /**< the present time; writers may, not only owners */
    FM_FS_META_MTIME_NOW = 64,
    FM_FS_META_FLAGS = 128 /**< FM_FS_NODE_IMMUTABLE alone, by the superuser */
};
/** Takes the fields of `values` that `set` names. */
FM_API FM_MUST_USE fm_status fm_fs_meta_setattr(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino,
                                                unsigned set, const fm_fs_node *values, fm_fs_node *out_node);
/** Sets how files that are made in a directory from now on are laid out; directories made in it inherit it. */
FM_API FM_MUST_USE fm_status fm_fs_meta_layout_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir,
                                                   const fm_fs_layout *layout);

/** Names of attributes begin with "user.", "trusted." (the superuser's), "security." or "system."; others are FM_ERR_UNSUPPORTED.
 *  `*out_size` is the attribute's; the value is copied when it fits `capacity`, else FM_ERR_LIMIT (capacity 0: only the
 *  size is wanted). FM_ERR_NOT_FOUND. */
FM_API FM_MUST_USE fm_status fm_fs_meta_xattr_get(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino,
                                                  const char *name, void *value, size_t capacity,
                                                  size_t *out_size);
enum { FM_FS_META_XATTR_CREATE = 1, FM_FS_META_XATTR_REPLACE = 2 };
FM_API FM_MUST_USE fm_status fm_fs_meta_xattr_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino,
                                                  const char *name, const void *value, size_t size,
                                                  unsigned flags);
FM_API FM_MUST_USE fm_status fm_fs_meta_xattr_remove(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino,
                                                     const char *name);
/** The names, each ended by a 0 byte; `capacity` as above. */
FM_API FM_MUST_USE fm_status fm_fs_meta_xattr_list(fm_fs_meta *meta, uint64_t ino, char *names,
                                                   size_t capacity, size_t *out_size);

/* Contents: see above. Permissions were checked when the file was opened. */

/** The chain and the id (FM_FS_CHUNK_ID_BYTES) of a file's chunk `index`. */
FM_API void fm_fs_meta_chunk(const fm_fs_node *node, uint32_t index, uint32_t *out_chain, uint8_t *out_id);
/** The largest size of a file of this layout: 2^32 chunks. Growing beyond it is FM_ERR_LIMIT. */
FM_API uint64_t fm_fs_meta_size_max(const fm_fs_layout *layout);
/** The node, and if it is inline the bytes at `offset`; `*out_read` is 0 otherwise. */
FM_API FM_MUST_USE fm_status fm_fs_meta_inline_read(fm_fs_meta *meta, uint64_t ino, uint64_t offset,
                                                    void *buffer, size_t length, size_t *out_read,
                                                    fm_fs_node *out_node);
/** Writes into an inline file. FM_ERR_STATE: it is not, or would be too large; spill it. */
FM_API FM_MUST_USE fm_status fm_fs_meta_inline_write(fm_fs_meta *meta, uint64_t ino, uint64_t offset,
                                                     const void *bytes, size_t length, fm_fs_node *out_node);
/** The inline file whose version is still `version` is in its chunks from now on. FM_ERR_STATE: begin again. */
FM_API FM_MUST_USE fm_status fm_fs_meta_spill(fm_fs_meta *meta, uint64_t ino, uint64_t version,
                                              fm_fs_node *out_node);
/** The file of chunks `data` is at least `end` bytes long from now on, and was changed now. FM_ERR_STATE: it has other
 *  contents by now; or it would grow, and has other `cuts`, which are to be the caller's own below its `reach`: look again. */
FM_API FM_MUST_USE fm_status fm_fs_meta_extend(fm_fs_meta *meta, uint64_t ino, uint64_t data, uint64_t end,
                                               uint64_t cuts, fm_fs_node *out_node);
/** The file is `size` bytes long from now on; what an inline file loses or gains is done here, too. Shorter than it was: its
 *  `cuts` are the caller's number, as of fm_fs_meta_fence(), or 0. FM_ERR_STATE: it has other contents than `data`, or other
 *  `cuts`, unless it is cut to nothing; to grow below its `reach` these are to be the caller's own. */
FM_API FM_MUST_USE fm_status fm_fs_meta_truncate(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino,
                                                 uint64_t data, uint64_t size, uint64_t cuts,
                                                 fm_fs_node *out_node);
/** Gives the file of chunks `data` a number of `cuts` that is the caller's alone. FM_ERR_STATE: it has other contents. */
FM_API FM_MUST_USE fm_status fm_fs_meta_fence(fm_fs_meta *meta, uint64_t ino, uint64_t data,
                                              fm_fs_node *out_node);

/* Open files */

/** Keeps a removed file's contents until it is ended, or the client's lease is over. Counts. */
FM_API FM_MUST_USE fm_status fm_fs_meta_hold(fm_fs_meta *meta, uint64_t client, uint64_t ino,
                                             fm_fs_node *out_node);
FM_API FM_MUST_USE fm_status fm_fs_meta_release(fm_fs_meta *meta, uint64_t client, uint64_t ino);
/**
 * The client lives until `until_ns`; what it holds and has locked is let go afterwards. 0: it ends. While clients of other
 * processes live, a file whose last name is removed waits for FM_FS_META_GRACE_S before it is collected, so that they can
 * hold it; they look whether their open files have names more often than that.
 */
FM_API FM_MUST_USE fm_status fm_fs_meta_lease(fm_fs_meta *meta, uint64_t client, uint64_t until_ns);
/** Whether clients of other processes live. Where services have the names 1, without asking them. */
FM_API FM_MUST_USE fm_status fm_fs_meta_others(fm_fs_meta *meta, int *out_others);

/* Locks: advisory ones, as flock() and fcntl() have them, between all clients */

typedef enum fm_fs_lock_kind { FM_FS_LOCK_NONE, FM_FS_LOCK_SHARED, FM_FS_LOCK_EXCLUSIVE } fm_fs_lock_kind;
typedef struct fm_fs_lock {
    uint64_t client, owner; /**< whose it is: an owner of a client with a lease */
    uint64_t begin, end;    /**< first and last byte; UINT64_MAX: as far as the file may grow */
    fm_fs_lock_kind kind;
    int flock;    /**< 1: of flock(), which does not meet those of fcntl() */
    uint32_t pid; /**< told to who asks what is in the way */
} fm_fs_lock;
/**
 * Gives an owner this kind of lock (FM_FS_LOCK_NONE: none) on a range, instead of what it had there. `*out_granted` 0:
 * another owner is in the way, and nothing was changed; an owner's flock() of another kind is let go, though. Locks of
 * clients without a lease are in nobody's way. Deadlocks are not looked for. FM_ERR_LIMIT: 400 locks on one inode.
 * `*out_node` is the inode as it then was.
 */
FM_API FM_MUST_USE fm_status fm_fs_meta_lock(fm_fs_meta *meta, uint64_t ino, const fm_fs_lock *wanted,
                                             int *out_granted, fm_fs_node *out_node);
/** A lock that is in the way of this one; its kind is FM_FS_LOCK_NONE when none is. */
FM_API FM_MUST_USE fm_status fm_fs_meta_lock_test(fm_fs_meta *meta, uint64_t ino, const fm_fs_lock *wanted,
                                                  fm_fs_lock *out_conflict);

/* Collecting */

/** Removes the chunks of `node` from byte `from` on, up to its `reach`. */
typedef fm_status (*fm_fs_meta_remover)(void *context, const fm_fs_node *node, uint64_t from);
/** Does up to `max` pieces of the work that removals left, and drops records nobody needs; `*out_done` 0: nothing was
 *  due. Any number of servers may. A failure of the remover leaves its piece for the next time. */
FM_API FM_MUST_USE fm_status fm_fs_meta_collect(fm_fs_meta *meta, fm_fs_meta_remover remover, void *context,
                                                size_t max, size_t *out_done);

/* Quotas */

/** 0: no limit. Bytes are those of files' sizes; each inode counts once. */
typedef struct fm_fs_quota {
    uint64_t bytes_max, inodes_max;
    uint64_t bytes, inodes; /**< used; out only */
} fm_fs_quota;
/** Limits what is below a directory, itself included: by the superuser; an empty one, or one that has a quota already
 *  (FM_ERR_FS_NOT_EMPTY). A quota below another counts for itself alone. */
FM_API FM_MUST_USE fm_status fm_fs_meta_quota_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir,
                                                  const fm_fs_quota *quota);
/** That which counts for the node. FM_ERR_NOT_FOUND: none does. */
FM_API FM_MUST_USE fm_status fm_fs_meta_quota_get(fm_fs_meta *meta, uint64_t ino, fm_fs_quota *out_quota);

/* Checking */

typedef void (*fm_fs_meta_finding)(void *context, const char *text);
typedef struct fm_fs_meta_census {
    uint64_t files, directories, links, others, entries, bytes;
    uint64_t collectable; /**< pieces of work for the collector */
    uint64_t findings;
} fm_fs_meta_census;
/**
 * Checks one moment of the store while it is in use: each entry names a node of its type; link counts are right; each
 * directory has one name, in its parent, and is reached from the root; nothing is without a name except what waits for the
 * collector; contents, attributes and quotas belong to nodes and sum up. `finding` gets a sentence for each violation.
 */
FM_API FM_MUST_USE fm_status fm_fs_meta_check(fm_fs_meta *meta, fm_fs_meta_finding finding, void *context,
                                              fm_fs_meta_census *out_census);

/** Whose chunks are whose: which belong to files, or to what the collector has still to remove. */
typedef struct fm_fs_meta_owners fm_fs_meta_owners;
/** Reads all of the names, page by page; 40 bytes of memory for each file that is in chunks. A chunk that was there before,
 *  is there afterwards, and has no owner here belongs to nobody, and never will. FM_ERR_UNSUPPORTED: these are another
 *  service's names. */
FM_API FM_MUST_USE fm_status fm_fs_meta_owners_read(fm_fs_meta *meta, fm_fs_meta_owners **out_owners);
FM_API void fm_fs_meta_owners_free(fm_fs_meta_owners *owners);
/** Whether this chunk of a chain has an owner. Ids that fm_fs_meta_chunk() never makes are somebody else's: they have. */
FM_API int fm_fs_meta_owners_has(const fm_fs_meta_owners *owners, uint32_t chain, const uint8_t *id);
/** Whether these names were restored from a backup, and the chunk's number was given away before that: a chunk without an
 *  owner may then be of a file that was made, or has grown, after the backup. */
FM_API int fm_fs_meta_owners_is_earlier(const fm_fs_meta_owners *owners, const uint8_t *id);

/* Backups */

/** Writes one moment of the names to the file `path` of this machine, atomically, while they are in use; a check sum over all
 *  of it is at its end. Chunks are not in it. Requests' records and open files are left out. */
FM_API FM_MUST_USE fm_status fm_fs_meta_backup(fm_fs_meta *meta, const char *path, uint64_t *out_records);
/**
 * Fills a store that has no names with those of a backup; nobody may use it meanwhile. One that was cut short is begun anew
 * by the next call, and is not opened before (FM_ERR_VERSION). New files get numbers far above the backup's, so that chunks
 * of files made after it are not taken for theirs. FM_ERR_EXISTS: the store has names. FM_ERR_FORMAT: the file is no
 * backup, or damaged; nothing was changed.
 */
FM_API FM_MUST_USE fm_status fm_fs_meta_restore(fm_fs_kv *kv, const char *path, uint64_t *out_records);

#ifdef __cplusplus
}
#endif
#endif
