/* Documents to shuffled tokens: a plan of pond's, or the same in this process where there is no DuckDB. */
#ifndef FM_TOKEN_PLAN_H
#define FM_TOKEN_PLAN_H

#include "fathom/fs.h"
#include "fathom/tokenizer.h"

typedef struct fm_token_plan {
    fm_fs *fs;
    const char *corpus, *stage; /**< stages: whose documents; whose tokens are made */
    const char *const *splits;  /**< NULL-terminated: names of shards in both */
    const fm_tokenizer *tokenizer;
    const char *tokenizer_path; /**< in fs: the same, for executors, which load it */
    const char *version;        /**< of the tokenizer: equal for equal ones */
    uint64_t seed;              /**< of the order of documents */
    int64_t parts;              /**< shards of a split */
    int in_process;             /**< without pond */
    const char *slurm;          /**< options of sbatch for executors; NULL: this machine's processes */
    int executors;              /**< 0: as many as cores */
} fm_token_plan;

typedef struct fm_token_plan_figures {
    uint64_t documents; /**< in all splits, each text once in its split */
    uint64_t tasks;     /**< of pond; 0: it was not used */
} fm_token_plan_figures;

/**
 * Writes the tokens of each split as shards <stage>/<split>/part-<number>.bin of 32-bit ids, and their manifests. A document ends
 * with the token FM_DOCUMENT_END. Documents are ordered by a hash of their text and the seed, and where several have the same
 * text, one stays: so the shards are the same, to the byte, with pond and without, whoever computes what. Fails as
 * fm_pond_plan_run() does; FM_ERR_FORMAT: the tokenizer lacks the token that ends documents.
 */
FM_MUST_USE fm_status fm_app_token_plan_run(const fm_token_plan *plan, fm_token_plan_figures *out_figures);

/** Makes the function that tasks of such plans call known to this process; executors elsewhere begin with it. */
FM_MUST_USE fm_status fm_app_token_functions_register(void);

#endif
