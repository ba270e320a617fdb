/* Files that stages hand to each other, through fathom/fs.h: shards of a text or of tokens, and batches drawn from them. */
#ifndef FM_STAGE_FILES_H
#define FM_STAGE_FILES_H

#include <stdint.h>

#include "fathom/fs.h"
#include "fathom/model.h"

/** What ends a document in a shard of text. */
#define FM_DOCUMENT_END "<|end|>"

/** Paths in the run's file system: the folder of a stage, what lies in it. */
enum { FM_STAGE_PATH_BYTES = 512 };

/**
 * Writes a text whose documents end with FM_DOCUMENT_END as files of about 4 MiB, cut behind documents, into the folder
 * <stage>/<name>, and their manifest <stage>/<name>.manifest. What was there before goes.
 */
FM_MUST_USE fm_status fm_app_shards_write(fm_fs *fs, const char *stage, const char *name, const char *text,
                                          size_t length);
/** Writes the manifest of the files of the folder <stage>/<name>, in the order of their names; those that begin with _ or . are
 * not shards. FM_ERR_NOT_FOUND: there is none. */
FM_MUST_USE fm_status fm_app_shards_list(fm_fs *fs, const char *stage, const char *name);
/** Bytes of all shards. */
FM_MUST_USE fm_status fm_app_shards_bytes(fm_fs *fs, const char *stage, const char *name,
                                          uint64_t *out_bytes);
/** All shards, one behind the other; the caller frees them with fm_base_mem_free(). A 0 byte follows. FM_ERR_LIMIT: more than
 * `bytes_max`. */
FM_MUST_USE fm_status fm_app_shards_read(fm_fs *fs, const char *stage, const char *name, size_t bytes_max,
                                         char **out_bytes, size_t *out_length);

/** The loads of experts that the training stage has measured, [layers, experts], to plan from. The caller frees them.
 * FM_ERR_FORMAT: of another model. */
FM_MUST_USE fm_status fm_app_loads_read(const char *path, const fm_model_config *config, float **out_loads);

/** Batches of token sequences at random places, read ahead by a thread while others compute. */
typedef struct fm_sampler fm_sampler;

typedef struct fm_sampling {
    const char *stage, *name; /**< shards of 32-bit tokens */
    int sequences, width;     /**< of a batch; tokens of a sequence */
    uint64_t seed;
} fm_sampling;

typedef struct fm_sampler_figures {
    uint64_t bytes, ahead_bytes; /**< read; of these, wholly while the caller was elsewhere */
    uint64_t read_ns, waited_ns; /**< of reading; that callers waited for it */
} fm_sampler_figures;

/** Opens shards and starts the thread. Where a sequence lies depends on the seed, the step and its place in the batch alone, not
 * on how tokens are cut into shards. FM_ERR_FORMAT: fewer tokens than one sequence. */
FM_MUST_USE fm_status fm_app_sampler_open(fm_fs *fs, const fm_sampling *sampling, fm_sampler **out_sampler);
/** The batch of a step, [sequences, width], which stays until the next call; the one after it is being read when this returns. */
FM_MUST_USE fm_status fm_app_sampler_next(fm_sampler *sampler, int64_t step, const int32_t **out_ids);
/** The number of tokens that batches are drawn from. */
int64_t fm_app_sampler_tokens(const fm_sampler *sampler);
fm_sampler_figures fm_app_sampler_figures(fm_sampler *sampler);
/** Ends the thread; NULL is allowed. */
void fm_app_sampler_close(fm_sampler *sampler);

#endif
