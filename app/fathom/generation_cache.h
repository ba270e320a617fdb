/* A text taken up again from the keys and values of its beginning, which the file system has kept. */
#ifndef FM_GENERATION_CACHE_H
#define FM_GENERATION_CACHE_H

#include "fathom/fs.h"
#include "fathom/model.h"

/** Tokens of a prompt, of what follows and is stored, and of what follows that. */
typedef struct fm_cache_text {
    int prompt, stored, more;
} fm_cache_text;

typedef struct fm_cache_figures {
    int64_t stored_blocks, loaded_blocks; /**< put by the first engine, read by the second */
    int64_t cached_tokens, tokens; /**< that the second did not compute again, of so many that it was given */
} fm_cache_figures;

/**
 * Has an engine continue a prompt by `stored` and `more` tokens, the likeliest each time and beyond any end, which leaves full blocks
 * in a cache in `folder`; then another, with nothing in memory, go on after `stored`. FM_ERR_INTERNAL: it went on differently.
 * Nobody else may use the model meanwhile.
 */
FM_MUST_USE fm_status fm_app_generation_revisit(fm_model *model, fm_fs *fs, const char *folder,
                                                const int32_t *prompt, const fm_cache_text *text,
                                                fm_cache_figures *out_figures);

#endif
