/* Small trainers on several ranks, for tests. */
#ifndef MODEL_FIXTURE_H
#define MODEL_FIXTURE_H

#include "fm_test.h"
#include "model_rank.h"

enum { SEQUENCES = 8, LENGTH = 12, WIDTH = LENGTH + 2, STEPS = 12, EXPERTS = 6, VOCAB = 40, LAYOUTS = 12 };

struct model_fixture_layout {
    int pipe, experts;
    fm_pipe_schedule schedule;
};
extern const struct model_fixture_layout model_fixture_layouts[LAYOUTS];

/** V3, 4 layers (the first dense), 6 experts, one predictor. */
fm_model_config model_fixture_config(void);
fm_model_training model_fixture_training(int pipe, int experts, fm_pipe_schedule schedule);
fm_trainer *model_fixture_open(int pipe, int experts, fm_pipe_schedule schedule);
/** Of model_fixture_layouts[i]. */
fm_trainer *model_fixture_open_layout(int i);
/** SEQUENCES that count upwards from starts that the step draws: what follows is certain. */
void model_fixture_ids(int64_t step, int32_t *out);
/** Trains to a number of steps; results[step]. */
void model_fixture_train(fm_trainer *trainer, int64_t steps, fm_model_step_result *results);
/** Equal but for the order of f32 sums. */
void model_fixture_near(int layout, const char *what, double is, double wanted);
/** A plan for the trainer's experts from loads that a seed draws. */
fm_eplb_plan *model_fixture_plan(const fm_trainer *trainer, int ranks, uint64_t seed);

#endif
