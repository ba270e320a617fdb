/* Checkpoints that a thread writes through fathom/fs.h while training goes on. */
#ifndef FM_STAGE_CHECKPOINT_H
#define FM_STAGE_CHECKPOINT_H

#include "fathom/fs.h"

/** A file of a checkpoint; its bytes are freed with fm_base_mem_free() once they are written. */
typedef struct fm_checkpoint_file {
    const char *name; /**< static */
    void *bytes;
    size_t length;
} fm_checkpoint_file;

enum { FM_CHECKPOINT_FILES_MAX = 4 };

typedef struct fm_checkpointer fm_checkpointer;

typedef struct fm_checkpoint_figures {
    uint64_t written, bytes; /**< checkpoints; of all of them */
    uint64_t write_ns;       /**< that the thread wrote */
    uint64_t waited_ns;      /**< that callers waited for it */
} fm_checkpoint_figures;

/** Starts the thread; `folder` holds the versions (fathom/fs_checkpoint.h). */
FM_MUST_USE fm_status fm_app_checkpoint_open(fm_fs *fs, const char *folder, fm_checkpointer **out_writer);
/** Hands a checkpoint over and returns; waits first where the one before is still being written. Takes the bytes in any case. Fails
 * also as the one before did. */
FM_MUST_USE fm_status fm_app_checkpoint_put(fm_checkpointer *writer, uint64_t step,
                                            const fm_checkpoint_file *files, int count);
/** Waits until all is written and durable. */
FM_MUST_USE fm_status fm_app_checkpoint_flush(fm_checkpointer *writer);
fm_checkpoint_figures fm_app_checkpoint_figures(fm_checkpointer *writer);
/** Writes what was handed over and ends the thread; NULL is allowed. */
void fm_app_checkpoint_close(fm_checkpointer *writer);

/** Reads a file of a version. The caller frees the bytes. */
FM_MUST_USE fm_status fm_app_checkpoint_read(fm_fs *fs, const char *folder, uint64_t step, const char *name,
                                             void **out_bytes, size_t *out_length);

#endif
