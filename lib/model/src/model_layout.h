/* Which rank holds what: pipe x experts ranks, rank p * experts + e. Ranks of one p hold the same stages and share out their
 * experts; ranks of one e are a pipeline. Pure functions. */
#ifndef FM_MODEL_LAYOUT_H
#define FM_MODEL_LAYOUT_H

#include "fathom/model_train.h"
#include "fathom/pipe.h"

/** A run of layers [begin, end). The first stage embeds; the last has the head, and predictors. */
struct fm_model_stage {
    int begin, end;
    int is_first, is_last;
};

struct fm_model_layout {
    int ranks, pipe, experts;
    fm_pipe_program program; // schedule, placement, ranks, lanes, stages; no ops
    int mirrored;            // a stage lies on two ranks of a pipeline
};

/** FM_ERR_ARG: numbers that the model does not divide into; as fm_pipe_program_generate(). */
FM_MUST_USE fm_status fm_model_layout_make(const fm_model_config *config, const fm_model_training *training,
                                           struct fm_model_layout *out_layout);
struct fm_model_stage fm_model_layout_stage(const struct fm_model_layout *layout,
                                            const fm_model_config *config, int stage);

/** Ranks that talk with each other. */
enum fm_model_party_kind {
    FM_MODEL_WHOLE,   // all
    FM_MODEL_RING,    // a pipeline
    FM_MODEL_EXPERTS, // those that share out the experts of the same stages
    FM_MODEL_DENSE,   // all that hold the same stages
    FM_MODEL_TWINS,   // all that hold the same experts of the same stages
    FM_MODEL_ENDS,    // all that hold the first or the last stage, where both use the embedding
    FM_MODEL_PARTIES
};

/** A rank's place in a party, which has a number among those of its kind; ranks is 0 for who is in none. */
struct fm_model_seat {
    int color, rank, ranks;
};
struct fm_model_seat fm_model_layout_seat(const struct fm_model_layout *layout, int rank,
                                          enum fm_model_party_kind kind);

/** What a parameter is part of. `layer`: -1 the embedding, `layers` and more a predictor, INT_MAX norm and head. */
struct fm_model_part_of {
    int layer, expert; // expert: -1 none
};
struct fm_model_part_of fm_model_layout_part(const char *name);
/** Whether a rank holds a part; `slot_of` [layers + predict_layers][experts] says where experts lie. */
int fm_model_layout_holds(const struct fm_model_layout *layout, const fm_model_config *config, int rank,
                          struct fm_model_part_of part, const int32_t *slot_of);
/** Whether the embedding lies on the first and on the last stage, and these on different ranks. */
int fm_model_layout_has_ends(const struct fm_model_layout *layout, const fm_model_config *config);

#endif
