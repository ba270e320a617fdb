/**
 * @file fs_volume.h
 * The files of a cluster: names (fathom/fs_meta.h) and chunks (fathom/fs_cluster.h) together, by inode number. What mounts
 * and commands stand on; programs that want paths use fathom/fs.h with "cluster:DIR".
 *
 *     FM_TRY(fm_fs_volume_open("/data/c", NULL, &volume));
 *     FM_TRY(fm_fs_meta_create(fm_fs_volume_meta(volume), &who, FM_FS_META_ROOT, "a", S_IFREG | 0644, 0, 0, &node, NULL));
 *     FM_TRY(fm_fs_volume_write(volume, node.ino, bytes, size, 0));
 *
 * The names lie in DIR/names (LMDB), or in the store that the text DIR/names.conf tells as fm_fs_kv_open() names stores
 * ("postgresql:host=..."), for clusters of many machines; or services are asked for them, as fathom/fs_meta_service.h has it:
 * "meta:ADDRESS,ADDRESS". Then DIR/token, if it is there, says who asks, and without the cluster's `key` DIR/names.key opens
 * the names alone. They are made when a volume is opened first; the cluster must
 * be up then, for its chains become the layout of the root. Later the names can be used without it.
 *
 * What fm_fs_volume_write() has acknowledged is durable and is seen by every later read, from any process. A write is not
 * atomic: each of its bytes comes before or after a write or a truncation of somebody else at the same time. What a
 * truncation has cut off is never seen again, whichever processes write, cut and let the file grow; a read at the time of a
 * truncation may find zeros in its place.
 *
 * Threads: any number may use a volume. Connections to the cluster are made as threads need them, up to `connections`.
 * Errors are those of fs_meta.h and fs_cluster.h.
 */
#ifndef FATHOM_FS_VOLUME_H
#define FATHOM_FS_VOLUME_H

#include "fathom/fs_meta_service.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Zero it and set `size`; what is 0 has its default. */
typedef struct fm_fs_volume_options {
    size_t size;
    uint32_t connections; /**< to the cluster, at most 64. 4 */
    int64_t timeout_ms;   /**< of one transfer to or from a chunk. 30000 */
    /** Of the names, when they are made. */
    uint32_t chunk_bytes; /**< of the root's layout. 1 MiB */
    uint32_t stripe;      /**< chains that a file is spread over. All, at most 16 */
    uint32_t no_inline;   /**< 1: small files go to chunks, too */
} fm_fs_volume_options;

typedef struct fm_fs_volume fm_fs_volume;

/** Opens the files of the cluster in `dir`. Opened again in the same process it is the same volume, which ends with its
 *  last closing; options are those of the first. FM_ERR_NOT_FOUND: no cluster there; FM_ERR_TIMEOUT: it is not up. */
FM_API FM_MUST_USE fm_status fm_fs_volume_open(const char *dir, const fm_fs_volume_options *options,
                                               fm_fs_volume **out_volume);
FM_API void fm_fs_volume_close(fm_fs_volume *volume);
FM_API fm_fs_meta *fm_fs_volume_meta(fm_fs_volume *volume);
/** In whose name this process asks: its own effective user's, or where the names are asked with a user's token, that user's. */
FM_API FM_MUST_USE fm_status fm_fs_volume_self(fm_fs_volume *volume, fm_fs_user *out_user);

/** Reads up to `length` bytes; fewer where the file ends. What was never written reads as zeros. */
FM_API FM_MUST_USE fm_status fm_fs_volume_read(fm_fs_volume *volume, uint64_t ino, void *buffer,
                                               size_t length, uint64_t offset, size_t *out_read);
/** Writes; the file grows as needed. Its time of change follows within a second, and at fm_fs_volume_touch(). */
FM_API FM_MUST_USE fm_status fm_fs_volume_write(fm_fs_volume *volume, uint64_t ino, const void *bytes,
                                                size_t length, uint64_t offset);
/** Cuts or extends the file. `who` was allowed to write when it was opened. */
FM_API FM_MUST_USE fm_status fm_fs_volume_truncate(fm_fs_volume *volume, const fm_fs_who *who, uint64_t ino,
                                                   uint64_t size, fm_fs_node *out_node);
/** Frees the chunks that lie in the range whole and writes zeros over the rest of it; the size stays. */
FM_API FM_MUST_USE fm_status fm_fs_volume_punch(fm_fs_volume *volume, uint64_t ino, uint64_t offset,
                                                uint64_t length);
/** Where data, or a hole, begins at `offset` or behind it: the file's end is a hole. Told by chunks. FM_ERR_NOT_FOUND:
 *  no data behind it, or `offset` is not in the file. */
FM_API FM_MUST_USE fm_status fm_fs_volume_seek(fm_fs_volume *volume, uint64_t ino, uint64_t offset, int hole,
                                               uint64_t *out_offset);
/** The file was changed now: what a writer does before he closes it. */
FM_API FM_MUST_USE fm_status fm_fs_volume_touch(fm_fs_volume *volume, uint64_t ino);
/** The collector (fm_fs_meta_collect()), removing the chunks. */
FM_API FM_MUST_USE fm_status fm_fs_volume_collect(fm_fs_volume *volume, size_t max, size_t *out_done);

/** What is done with chunks that no file owns. */
typedef enum fm_fs_orphans {
    FM_FS_ORPHANS_KEEP,
    FM_FS_ORPHANS_REMOVE, /**< but not those from before the names were restored: they may be what was written since the backup */
    FM_FS_ORPHANS_REMOVE_ALL
} fm_fs_orphans;
enum {
    FM_FS_ORPHAN_EARLIER = 1, /**< it is from before the names were restored from a backup */
    FM_FS_ORPHAN_REMOVED = 2
};
/** What was found: a chunk that no file owns, with FM_FS_ORPHAN_... in `flags`. */
typedef void (*fm_fs_volume_orphan)(void *context, uint32_t chain, const uint8_t *id, unsigned flags);
/** Looks for such chunks while all is in use. What the collector has still to remove is none. `found` may be NULL.
 *  FM_ERR_UNSUPPORTED: the names are another service's. */
FM_API FM_MUST_USE fm_status fm_fs_volume_orphans(fm_fs_volume *volume, fm_fs_orphans what,
                                                  fm_fs_volume_orphan found, void *context,
                                                  uint64_t *out_chunks, uint64_t *out_orphans);

/** How full the cluster is: of each chain its smallest target counts. Asked of the manager at most once a second. */
FM_API FM_MUST_USE fm_status fm_fs_volume_space(fm_fs_volume *volume, uint64_t *out_capacity_bytes,
                                                uint64_t *out_free_bytes);

/** fm_fs_meta_restore() into the store of the names of the cluster in `dir`, which no volume of any process has open. */
FM_API FM_MUST_USE fm_status fm_fs_volume_restore(const char *dir, const char *path, uint64_t *out_records);

#ifdef __cplusplus
}
#endif
#endif
