/**
 * @file pond_target.h
 * Where a sink's folder lies: on this machine, or on `fs` (pond_fs.h).
 */
#ifndef POND_TARGET_H
#define POND_TARGET_H

#include "fathom/fs.h"
#include "pond_text.h"

typedef struct fm_pond_target {
    fm_fs *fs;         /**< NULL: folders of this machine */
    fm_pond_text path; /**< the folder, without '/' at its end */
} fm_pond_target;

/** `given`: a folder, or fs:SPEC//PATH. */
FM_MUST_USE fm_status fm_pond_target_open(const char *given, fm_pond_target *out_target);
void fm_pond_target_close(fm_pond_target *target);

/* Of paths in the target's file system, at any place. */

typedef enum fm_pond_target_kind { FM_POND_NOTHING, FM_POND_FOLDER, FM_POND_OTHER } fm_pond_target_kind;
FM_MUST_USE fm_status fm_pond_target_look(const fm_pond_target *target, const char *path,
                                          fm_pond_target_kind *out_kind);
FM_MUST_USE fm_status fm_pond_target_is_empty(const fm_pond_target *target, const char *folder,
                                              int *out_empty);
/** The file's bytes, for fm_base_mem_free(); NULL where there is none. */
FM_MUST_USE fm_status fm_pond_target_read(const fm_pond_target *target, const char *path, char **out_bytes,
                                          size_t *out_length);
FM_MUST_USE fm_status fm_pond_target_save(const fm_pond_target *target, const char *path, const void *bytes,
                                          size_t length);
FM_MUST_USE fm_status fm_pond_target_make_folder(const fm_pond_target *target, const char *path);
/** Gives a file of this machine a name there as well, by a link where that is possible. A name that is taken is left: it is of the
 * same task. */
FM_MUST_USE fm_status fm_pond_target_put(const fm_pond_target *target, const char *from, const char *to);
FM_MUST_USE fm_status fm_pond_target_sync_folder(const fm_pond_target *target, const char *path);
/** A folder takes the name of another, which is removed. */
FM_MUST_USE fm_status fm_pond_target_replace(const fm_pond_target *target, const char *draft,
                                             const char *path);
FM_MUST_USE fm_status fm_pond_target_remove(const fm_pond_target *target, const char *path);

#endif
