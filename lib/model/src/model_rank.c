/*
 * A trainer that is one rank: it holds the parameters of its stages and of its experts, and the moments of its shards
 * (ZeRO-1). Gradients are summed over the ranks that hold the same parameters, each of them updates a shard, and all get
 * all shards.
 */
#include "model_rank.h"

#include <stdio.h>

/** Gives parameters their places, segment by segment; the first time they are only counted. */
struct placing {
    struct fm_trainer *trainer;
    int assign, segment; // number of the segment that is filled
    int64_t at;
};

static void place_one(struct placing *placing, struct fm_model_weight *weight)
{
    struct fm_trainer *trainer = placing->trainer;
    if (placing->assign) {
        float *values = trainer->values + placing->at;
        weight->values = weight->vector = values;
        weight->gradient = trainer->gradients + placing->at;
        weight->matrix = fm_model_rows(values, weight->columns);
    }
    placing->at += fm_model_weight_cells(weight);
}

static int is_end(const struct fm_trainer *trainer, struct fm_model_part_of part)
{
    return part.layer < 0 && fm_model_layout_has_ends(&trainer->rank->layout, &trainer->model.config);
}

// Everything but experts, or the embedding that both ends hold.
static fm_status place_named(void *context, const char *name, struct fm_model_weight *weight)
{
    struct placing *placing = context;
    const struct fm_trainer *trainer = placing->trainer;
    const struct fm_model_rank *rank = trainer->rank;
    struct fm_model_part_of part = fm_model_layout_part(name);
    int wants_end = trainer->segments[placing->segment].party == FM_MODEL_ENDS;
    if (part.expert < 0 && is_end(trainer, part) == wants_end &&
        fm_model_layout_holds(&rank->layout, &trainer->model.config, rank->number, part, rank->slot_of))
        place_one(placing, weight);
    return FM_OK;
}

static void forget_values(struct fm_model_weight *weight)
{
    weight->values = weight->vector = weight->gradient = NULL;
    weight->matrix = (struct fm_model_matrix){0};
}

// By layer and slot, so that who lies in a slot does not move the others.
static void place_experts(struct placing *placing)
{
    const struct fm_trainer *trainer = placing->trainer;
    const struct fm_model_rank *rank = trainer->rank;
    const fm_model_config *c = &trainer->model.config;
    for (int layer = c->dense_layers; layer < c->layers + c->predict_layers; layer++) {
        struct fm_model_mlp *experts =
            layer < c->layers ? trainer->model.weights.layers[layer].experts
                              : trainer->model.weights.predictors[layer - c->layers].layer.experts;
        for (int slot = 0; experts && slot < c->experts; slot++) {
            struct fm_model_part_of part = {layer, rank->expert_in[(int64_t)layer * c->experts + slot]};
            struct fm_model_mlp *expert = &experts[part.expert];
            if (fm_model_layout_holds(&rank->layout, c, rank->number, part, rank->slot_of)) {
                place_one(placing, &expert->gate);
                place_one(placing, &expert->up);
                place_one(placing, &expert->down);
            } else {
                forget_values(&expert->gate);
                forget_values(&expert->up);
                forget_values(&expert->down);
            }
        }
    }
}

fm_status fm_model_rank_place(struct fm_trainer *trainer, int assign)
{
    static const enum fm_model_party_kind parties[] = {FM_MODEL_DENSE, FM_MODEL_TWINS, FM_MODEL_ENDS};
    struct placing placing = {.trainer = trainer, .assign = assign};
    int64_t moments = 0;
    trainer->segment_count = FM_MODEL_SEGMENTS;
    for (int i = 0; i < FM_MODEL_SEGMENTS; i++) {
        struct fm_model_segment *segment = &trainer->segments[i];
        struct fm_model_seat seat = trainer->rank->parties[parties[i]].seat;
        int64_t ranks = seat.ranks > 0 ? seat.ranks : 1;
        segment->party = parties[i];
        segment->at = placing.at;
        placing.segment = i;
        if (parties[i] == FM_MODEL_TWINS)
            place_experts(&placing);
        else
            FM_TRY(fm_model_weights_each(&trainer->model.config, &trainer->model.weights, 1, place_named,
                                         &placing));
        segment->shard = (placing.at - segment->at + ranks - 1) / ranks;
        segment->count = segment->shard * ranks;
        segment->first = segment->at + seat.rank * segment->shard;
        segment->moments = moments;
        moments += segment->shard;
        placing.at = segment->at + segment->count;
    }
    trainer->count = placing.at;
    trainer->moment_count = moments;
    if (trainer->model.config.tied_head)
        trainer->model.weights.head = trainer->model.weights.embed;
    return FM_OK;
}

static fm_status make_maps(struct fm_trainer *trainer)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_rank *rank = trainer->rank;
    size_t count = (size_t)(c->layers + c->predict_layers) * (size_t)c->experts;
    rank->slot_of = fm_base_mem_alloc((count + 1) * sizeof *rank->slot_of);
    rank->expert_in = fm_base_mem_alloc((count + 1) * sizeof *rank->expert_in);
    if (!rank->slot_of || !rank->expert_in)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to place experts");
    rank->map_count = count;
    for (size_t i = 0; i < count; i++)
        rank->slot_of[i] = rank->expert_in[i] = (int32_t)(i % (size_t)c->experts);
    return FM_OK;
}

fm_status fm_model_rank_make(struct fm_trainer *trainer, const struct fm_model_layout *layout, int number,
                             int threads)
{
    struct fm_model *model = &trainer->model;
    struct fm_model_rank *rank = trainer->rank = fm_base_mem_zalloc(1, sizeof *rank);
    if (!rank)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a rank");
    rank->layout = *layout;
    rank->number = number;
    model->is_part = 1;
    for (int kind = 0; kind < FM_MODEL_PARTIES; kind++)
        if (fm_model_party_is_needed(rank, &model->config, kind))
            rank->parties[kind].seat = fm_model_layout_seat(layout, number, kind);
    FM_TRY(make_maps(trainer));
    FM_TRY(fm_model_weights_create(&model->config, &model->weights));
    FM_TRY(fm_model_rank_place(trainer, 0));
    FM_TRY(fm_model_trainer_allocate(trainer));
    FM_TRY(fm_model_rank_place(trainer, 1));
    FM_TRY(fm_model_compute_open(threads, trainer->training.dtype, &model->compute));
    FM_TRY(fm_model_mla_open(trainer, threads));
    FM_TRY(fm_model_trainer_draw(trainer));
    return fm_model_rotary_open(&model->config, &model->rotary);
}

void fm_model_rank_free(struct fm_trainer *trainer)
{
    struct fm_model_rank *rank = trainer->rank;
    if (!rank)
        return;
    fm_model_parties_leave(trainer);
    fm_ep_world_free(rank->mpi);
    fm_base_mem_free(rank->slot_of);
    fm_base_mem_free(rank->expert_in);
    fm_base_mem_free(rank->staging);
    fm_base_mem_free(rank);
}

/** What ranks tell each other of a run; loads follow. */
struct report {
    double loss, predict, balance, square;
};

static fm_status exchange_reports(struct fm_trainer *trainer, double *square)
{
    const fm_model_config *c = &trainer->model.config;
    size_t count = (size_t)(c->layers + c->predict_layers) * (size_t)c->experts;
    size_t bytes = sizeof(struct report) + count * sizeof(int64_t),
           ranks = (size_t)trainer->rank->layout.ranks;
    struct report *mine = fm_base_mem_alloc(bytes * (ranks + 1));
    if (!mine)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the reports of %zu ranks", ranks);
    struct report *all = (struct report *)(void *)((char *)mine + bytes);
    *mine = (struct report){trainer->loss_sum, trainer->predict_sum, trainer->balance_sum, *square};
    memcpy(mine + 1, trainer->loads, count * sizeof(int64_t));
    fm_status status = fm_model_party_report(trainer, mine, bytes, all);
    if (status == FM_OK) {
        trainer->loss_sum = trainer->predict_sum = trainer->balance_sum = *square = 0;
        memset(trainer->loads, 0, count * sizeof(int64_t));
    }
    for (size_t r = 0; status == FM_OK && r < ranks; r++) {
        const struct report *report = (const struct report *)(const void *)((const char *)all + r * bytes);
        const int64_t *loads = (const int64_t *)(const void *)(report + 1);
        trainer->loss_sum += report->loss;
        trainer->predict_sum += report->predict;
        trainer->balance_sum += report->balance;
        *square += report->square;
        for (size_t i = 0; i < count; i++)
            trainer->loads[i] += loads[i];
    }
    fm_base_mem_free(mine);
    return status;
}

static fm_status run_and_reduce(struct fm_trainer *trainer, const int32_t *ids, int sequences, int length,
                                double *out_square)
{
    double square = 0;
    FM_TRY(fm_model_run_all(trainer, ids, sequences, length));
    for (int i = 0; i < trainer->segment_count && !trainer->evaluate; i++)
        FM_TRY(fm_model_party_reduce(trainer, &trainer->segments[i]));
    if (!trainer->evaluate)
        square = fm_model_trainer_square(trainer);
    FM_TRY(exchange_reports(trainer, &square));
    *out_square = square;
    return FM_OK;
}

fm_status fm_model_rank_spread(struct fm_trainer *trainer)
{
    fm_status status = FM_OK;
    for (int i = 0; i < trainer->segment_count && status == FM_OK; i++)
        status = fm_model_party_gather(trainer, &trainer->segments[i],
                                       trainer->values + trainer->segments[i].first,
                                       trainer->values + trainer->segments[i].at);
    if (status < 0)
        trainer->rank->is_broken = 1;
    return status;
}

fm_status fm_model_rank_check(const struct fm_trainer *trainer)
{
    if (trainer->rank && trainer->rank->is_broken)
        return fm_base_error_set(FM_ERR_STATE,
                                 "rank %d failed on the way before; expected a new trainer, into "
                                 "which a saved state is loaded",
                                 trainer->rank->number);
    return FM_OK;
}

/** What ranks tell each other of their success. */
struct verdict {
    fm_status status;
    char message[400];
};

fm_status fm_model_rank_agree(struct fm_trainer *trainer, fm_status status)
{
    int ranks = trainer->rank->layout.ranks;
    struct verdict mine = {.status = status};
    FM_TRY(fm_model_rank_check(trainer));
    if (status < 0)
        snprintf(mine.message, sizeof mine.message, "%s", fm_base_error_message());
    struct verdict *all = fm_base_mem_alloc((size_t)ranks * sizeof *all);
    if (!all) {
        trainer->rank->is_broken = 1; // the others wait for it
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the reports of %d ranks", ranks);
    }
    fm_status met = fm_model_parties_join(trainer, 1);
    if (met == FM_OK)
        met = fm_model_party_report(trainer, &mine, sizeof mine, all);
    if (met < 0)
        trainer->rank->is_broken = 1;
    for (int r = 0; r < ranks && met == FM_OK; r++)
        if (all[r].status < 0)
            met = fm_base_error_set(all[r].status, "rank %d: %s", r, all[r].message);
    fm_base_mem_free(all);
    return met;
}

fm_status fm_model_ranks_run(struct fm_trainer *trainer,
                             fm_status (*work)(struct fm_trainer *rank, void *context), void *context)
{
    if (!trainer->crew)
        return work(trainer, context);
    FM_TRY(fm_model_crew_fit(trainer->crew, 1));
    return fm_model_crew_run(trainer->crew, work, context);
}

fm_status fm_model_rank_pass(struct fm_trainer *trainer, const int32_t *ids, int sequences, int length,
                             double *out_square)
{
    int at_once, micro_batches;
    int64_t tokens = fm_model_run_tokens(&trainer->rank->layout, &trainer->training, sequences, length,
                                         &at_once, &micro_batches);
    FM_TRY(fm_model_rank_check(trainer));
    FM_TRY(fm_model_parties_join(trainer, tokens));
    return run_and_reduce(trainer, ids, sequences, length, out_square);
}
