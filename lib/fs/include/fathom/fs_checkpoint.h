/**
 * @file fs_checkpoint.h
 * Checkpoints: numbered versions of a set of files, each of which is there whole or not at all.
 *
 *     FOLDER/.staging-000001000/...   version 1000 while it is written
 *     FOLDER/step-000001000/...       version 1000, published: complete, durable, never changed again
 *     FOLDER/latest                   "step-000001000\n": the version published last
 *
 * Many writers, one publisher:
 *
 *     publisher:  fm_fs_checkpoint_begin(fs, "ckpt", 1000);             // makes the staging directory
 *     (barrier)
 *     everyone:   fm_fs_checkpoint_staging_path("ckpt", 1000, path);    // files go below it
 *     (barrier)
 *     publisher:  fm_fs_checkpoint_publish(fs, "ckpt", 1000);
 *                 fm_fs_checkpoint_prune(fs, "ckpt", 3);                // keeps the newest three
 *
 * and after a restart, whatever happened at whatever moment:
 *
 *     fm_fs_checkpoint_find(fs, "ckpt", UINT64_MAX, &step);             // the newest complete version
 *     fm_fs_checkpoint_path("ckpt", step, path);
 *
 * What has not changed since an older version need not be written again: fm_fs_checkpoint_refer() gives the older
 * version's file a second name in the new one. It stays until the last version that has it is pruned.
 *
 * The commit point is the rename of the staging directory, done when all below it is durable. So a version
 * is complete exactly when it bears its final name, and nothing else is needed to resume. `latest` is for
 * people and other programs; this library writes it after the commit and never reads it, so after a crash
 * in between it may be one version behind.
 *
 * Writers need not sync: publishing syncs every file and directory below staging. One group of writers at a
 * time works on a folder; begin, publish and prune are its publisher's. Any number of readers may find and
 * read meanwhile; a version that is being read must not be pruned (see "Removal" in fs.h). Errors are those
 * of fs.h and what is said here.
 */
#ifndef FATHOM_FS_CHECKPOINT_H
#define FATHOM_FS_CHECKPOINT_H

#include "fathom/fs.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Begins version `step`: makes `folder` with its parents, removes what unfinished versions and temporary
 *  files an earlier run left in it, and makes an empty staging directory. FM_ERR_EXISTS: the version is
 *  published already. */
FM_API FM_MUST_USE fm_status fm_fs_checkpoint_begin(fm_fs *fs, const char *folder, uint64_t step);

/** Where to write version `step`. */
FM_API FM_MUST_USE fm_status fm_fs_checkpoint_staging_path(const char *folder, uint64_t step,
                                                           char out_path[FM_FS_PATH_MAX + 1]);
/** Where version `step` lies once it is published. */
FM_API FM_MUST_USE fm_status fm_fs_checkpoint_path(const char *folder, uint64_t step,
                                                   char out_path[FM_FS_PATH_MAX + 1]);

/**
 * Lets version `step`, which is being written, have the file `name` (a path below the version) of the published version
 * `from`: by reference, nothing is copied. Missing directories are made. The file is both versions' and must not be
 * written to. FM_ERR_NOT_FOUND: `from` is not published, or has no such file; `step` was not begun. FM_ERR_FS_IS_DIR.
 * FM_ERR_EXISTS: `step` has one already. FM_ERR_UNSUPPORTED: the medium knows no second names; write the file instead.
 */
FM_API FM_MUST_USE fm_status fm_fs_checkpoint_refer(fm_fs *fs, const char *folder, uint64_t step,
                                                    uint64_t from, const char *name);

/**
 * Publishes version `step`: syncs all below its staging directory, renames it to its final name, syncs
 * `folder`, writes `latest`. No writer may be at work any more. FM_ERR_NOT_FOUND: not begun. FM_ERR_STATE:
 * staging holds no file, or something other than files and directories. After any other failure call it
 * again: it takes up what is left to do, and for a version that is published already it does no harm.
 */
FM_API FM_MUST_USE fm_status fm_fs_checkpoint_publish(fm_fs *fs, const char *folder, uint64_t step);

/** The newest published version that is not above `at_most` (UINT64_MAX: the newest of all).
 *  FM_ERR_NOT_FOUND: none. */
FM_API FM_MUST_USE fm_status fm_fs_checkpoint_find(fm_fs *fs, const char *folder, uint64_t at_most,
                                                   uint64_t *out_step);

/** Removes all published versions but the newest `keep` (at least 1); each is gone at once. */
FM_API FM_MUST_USE fm_status fm_fs_checkpoint_prune(fm_fs *fs, const char *folder, size_t keep);

#ifdef __cplusplus
}
#endif
#endif
