/* A model's continuation of a prompt: what `fathom generate` and the recipe's stage share. */
#ifndef FM_GENERATION_H
#define FM_GENERATION_H

#include "fathom/model.h"
#include "fathom/tokenizer.h"

struct fm_generation_request {
    const char *model;  // a folder; its tokenizer.json is used where there is one
    const char *prompt; // text, or NULL
    const char *ids;    // "1,2,3", or NULL
    const char *stop;   // generation ends in front of this text; NULL: none
    const char *logits; // where to write the prompt's; NULL: nowhere
    int64_t max_tokens;
    int threads;
    fm_dtype dtype; // of products with weights; 0: f32
    fm_model_sampling sampling;
    int expert_workers; // threads that have experts of their own; 0: all share all
    int expert_replicas;
    const float *expert_loads; // [layers, experts] to place them from; NULL: those of the prompt
};

struct fm_generation {
    fm_model *model;
    fm_model_session *session;
    fm_tokenizer *tokenizer; // NULL: the folder has none
    int32_t *ids;            // the prompt, then what was appended
    int prompt, count;
    char *text; // of what was appended; NULL without a tokenizer
    float *logits;
    double prompt_seconds, seconds;
};

/** Zero-initialise `generation`; release it whatever happens. FM_ERR_ARG: neither or both of prompt and ids, an empty prompt,
 * text without a tokenizer; FM_ERR_LIMIT: a prompt longer than the context; or as the model's functions fail. Stops early,
 * with what there is, when the process is interrupted. */
FM_MUST_USE fm_status fm_app_generation_run(const struct fm_generation_request *request,
                                            struct fm_generation *generation);
/** "f32", "bf16" or "fp8". */
fm_dtype fm_app_generation_dtype(const char *name);
void fm_app_generation_release(struct fm_generation *generation);

#endif
