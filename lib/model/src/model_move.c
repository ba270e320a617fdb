/*
 * Experts change places between two steps: an expert's parameters and moments travel as rows of its new slot's dispatch, the
 * way that tokens' rows do, into new memory; then all ranks take it up, and the new map, at once.
 */
#include "fathom/crc.h"
#include "fathom/eplb.h"
#include "model_front.h"

enum {
    ARRAYS = 3,         // of an expert: values, mean, square
    ROWS_AT_ONCE = 256, // that a rank sends, at least, where groups are made for this
};

int fm_model_expert_layers(const fm_model_config *config)
{
    return config->experts > 0 ? config->layers + config->predict_layers - config->dense_layers : 0;
}

/** What is moved, and to where. */
struct move {
    struct fm_trainer *trainer;
    const int32_t *expert_in, *slot_of; // the new map, as in fm_model_rank
    float *from[ARRAYS], *to[ARRAYS];   // all experts of this rank, as they lie in the segment
    int64_t cells;                      // of an array
    fm_ep_handle *handle;
    float *out, *in;  // rows sent, rows received
    int32_t *targets; // of rows sent
    int rows_max;     // sent at once
    int64_t moved;    // experts that this rank has received
};

static const struct fm_model_segment *segment_of(const struct fm_trainer *trainer)
{
    for (int i = 0; i < trainer->segment_count; i++)
        if (trainer->segments[i].party == FM_MODEL_TWINS)
            return &trainer->segments[i];
    return NULL;
}

/** The n-th expert that leaves its slot on a rank, or -1. */
static int leaving(const struct move *move, int layer, int rank, int n)
{
    const struct fm_model_rank *self = move->trainer->rank;
    int experts = move->trainer->model.config.experts, local = experts / self->layout.experts;
    const int32_t *in = self->expert_in + (int64_t)layer * experts;
    const int32_t *slot_of = move->slot_of + (int64_t)layer * experts;
    for (int slot = rank * local; slot < (rank + 1) * local; slot++)
        if (slot_of[in[slot]] != slot && n-- == 0)
            return in[slot];
    return -1;
}

/** Where row `row` of the expert in a slot of this rank lies in an array. */
static float *row_in(const struct move *move, float *const *arrays, int held, int slot, int row)
{
    const fm_model_config *c = &move->trainer->model.config;
    int rows = 3 * c->expert_intermediate, local = c->experts / move->trainer->rank->layout.experts;
    int64_t at = ((int64_t)held * local + slot % local) * rows + row % rows;
    return arrays[row / rows] + at * c->hidden;
}

// This rank's rows from number `first` on; how many.
static int gather(struct move *move, int layer, int held, int first)
{
    const fm_model_config *c = &move->trainer->model.config;
    const struct fm_model_rank *rank = move->trainer->rank;
    int each = ARRAYS * 3 * c->expert_intermediate, e = rank->number % rank->layout.experts, count = 0;
    for (; count < move->rows_max; count++) {
        int number = first + count, expert = leaving(move, layer, e, number / each);
        if (expert < 0)
            break;
        int64_t at = (int64_t)layer * c->experts + expert;
        memcpy(move->out + (int64_t)count * c->hidden,
               row_in(move, move->from, held, rank->slot_of[at], number % each),
               (size_t)c->hidden * sizeof(float));
        move->targets[count] = move->slot_of[at];
    }
    return count;
}

static void scatter(struct move *move, int layer, int held, int first)
{
    const fm_model_config *c = &move->trainer->model.config;
    const fm_ep_received *received = fm_ep_handle_received(move->handle);
    int each = ARRAYS * 3 * c->expert_intermediate;
    for (int row = 0; row < received->rows; row++) {
        int item = received->row_item[row], source = 0;
        while (item >= received->source_begin[source + 1])
            source++;
        int number = first + received->item_token[item], expert = leaving(move, layer, source, number / each);
        int slot = move->slot_of[(int64_t)layer * c->experts + expert];
        memcpy(row_in(move, move->to, held, slot, number % each), move->in + (int64_t)row * c->hidden,
               (size_t)c->hidden * sizeof(float));
        move->moved += number % each == 0;
    }
}

static fm_status move_layer(struct move *move, int layer, int held)
{
    const fm_model_config *c = &move->trainer->model.config;
    const struct fm_model_rank *rank = move->trainer->rank;
    int each = ARRAYS * 3 * c->expert_intermediate, most = 0;
    for (int e = 0; e < rank->layout.experts; e++)
        while (leaving(move, layer, e, most) >= 0)
            most++;
    for (int first = 0; first < most * each; first += move->rows_max) {
        fm_ep_dispatch dispatch = {.size = sizeof dispatch,
                                   .tokens = gather(move, layer, held, first),
                                   .topk = 1,
                                   .topk_idx = move->targets,
                                   .x_format = FM_EP_F32,
                                   .recv_format = FM_EP_F32,
                                   .x = move->out,
                                   .recv_x = move->in,
                                   .recv_rows_max = (int64_t)move->rows_max * rank->layout.experts};
        FM_TRY(fm_ep_dispatch_run(rank->parties[FM_MODEL_EXPERTS].group, &dispatch, move->handle));
        scatter(move, layer, held, first);
    }
    return FM_OK;
}

static fm_status move_layers(struct move *move)
{
    const struct fm_trainer *trainer = move->trainer;
    const fm_model_config *c = &trainer->model.config;
    int held = 0;
    for (int layer = c->dense_layers; layer < c->layers + c->predict_layers; layer++) {
        struct fm_model_part_of part = {layer, -1};
        if (fm_model_layout_holds(&trainer->rank->layout, c, trainer->rank->number, part, NULL))
            FM_TRY(move_layer(move, layer, held++));
    }
    return FM_OK;
}

static fm_status allocate(struct move *move)
{
    const struct fm_trainer *trainer = move->trainer;
    size_t hidden = (size_t)trainer->model.config.hidden;
    const struct fm_model_rank *rank = trainer->rank;
    move->rows_max = (int)rank->tokens_max;
    move->cells = segment_of(trainer)->count;
    int complete = 1;
    for (int i = 0; i < 2 * ARRAYS; i++) {
        float **array = i < ARRAYS ? &move->from[i] : &move->to[i - ARRAYS];
        *array = fm_base_mem_alloc((size_t)move->cells * sizeof(float) + 1);
        complete &= *array != NULL;
    }
    size_t rows = (size_t)move->rows_max;
    move->out = fm_base_mem_alloc(rows * hidden * sizeof(float));
    move->in = fm_base_mem_alloc(rows * (size_t)rank->layout.experts * hidden * sizeof(float));
    move->targets = fm_base_mem_alloc(rows * sizeof *move->targets);
    if (!complete || !move->out || !move->in || !move->targets)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to move experts of %lld parameters",
                                 (long long)move->cells);
    return fm_ep_handle_create(rank->parties[FM_MODEL_EXPERTS].group, FM_EP_EXPANDED, 1, &move->handle);
}

static void release(struct move *move)
{
    for (int i = 0; i < ARRAYS; i++) {
        fm_base_mem_free(move->from[i]);
        fm_base_mem_free(move->to[i]);
    }
    fm_base_mem_free(move->out);
    fm_base_mem_free(move->in);
    fm_base_mem_free(move->targets);
    fm_ep_handle_free(move->handle);
}

// Copies of all values, and of all moments, which twins keep in parts.
static fm_status copy_out(struct move *move)
{
    struct fm_trainer *trainer = move->trainer;
    const struct fm_model_segment *segment = segment_of(trainer);
    memcpy(move->from[0], trainer->values + segment->at, (size_t)move->cells * sizeof(float));
    FM_TRY(fm_model_party_gather(trainer, segment, trainer->mean + segment->moments, move->from[1]));
    FM_TRY(fm_model_party_gather(trainer, segment, trainer->square + segment->moments, move->from[2]));
    for (int i = 0; i < ARRAYS; i++) // what stays in its slot
        memcpy(move->to[i], move->from[i], (size_t)move->cells * sizeof(float));
    return FM_OK;
}

static void copy_back(const struct move *move)
{
    struct fm_trainer *trainer = move->trainer;
    const struct fm_model_segment *segment = segment_of(trainer);
    int64_t own = segment->first - segment->at;
    size_t bytes = (size_t)segment->shard * sizeof(float);
    memcpy(trainer->values + segment->at, move->to[0], (size_t)move->cells * sizeof(float));
    memcpy(trainer->mean + segment->moments, move->to[1] + own, bytes);
    memcpy(trainer->square + segment->moments, move->to[2] + own, bytes);
}

fm_status fm_model_rank_map(struct fm_trainer *trainer, const int32_t *expert_in)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_rank *rank = trainer->rank;
    for (int layer = 0; layer < c->layers + c->predict_layers; layer++)
        for (int slot = 0; slot < c->experts; slot++) {
            int64_t at = (int64_t)layer * c->experts;
            rank->expert_in[at + slot] = expert_in[at + slot];
            rank->slot_of[at + expert_in[at + slot]] = slot;
        }
    return fm_model_rank_place(trainer, 1);
}

// Ranks that were given different maps find out before anything moves.
static fm_status check_same(struct fm_trainer *trainer, const int32_t *expert_in, size_t bytes)
{
    int ranks = trainer->rank->layout.ranks;
    uint32_t mine = fm_base_crc32c(0, expert_in, bytes);
    uint32_t *all = fm_base_mem_zalloc((size_t)ranks, sizeof *all);
    if (!all)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d ranks", ranks);
    fm_status status = fm_model_party_report(trainer, &mine, sizeof mine, all);
    for (int r = 0; r < ranks && status == FM_OK; r++)
        if (all[r] != mine)
            status = fm_base_error_set(FM_ERR_STATE, "rank %d was given another placement than rank %d", r,
                                       trainer->rank->number);
    fm_base_mem_free(all);
    return status;
}

/** The new map, which all ranks are given, and what came of it. */
struct placing {
    int32_t *expert_in, *slot_of;
    size_t count;
    int64_t moved; // of this process's ranks
};

static fm_status move_and_flip(struct move *move, fm_status status)
{
    struct fm_trainer *trainer = move->trainer;
    FM_TRY(fm_model_rank_agree(trainer, status));
    status = copy_out(move);
    if (status == FM_OK)
        status = move_layers(move);
    if (status < 0)
        trainer->rank->is_broken = 1;
    FM_TRY(status);
    FM_TRY(fm_model_rank_agree(trainer, FM_OK)); // nobody flips before all have what they need
    copy_back(move);
    return fm_model_rank_map(trainer, move->expert_in);
}

static fm_status place_rank(struct fm_trainer *trainer, void *context)
{
    struct placing *placing = context;
    struct move move = {.trainer = trainer, .expert_in = placing->expert_in, .slot_of = placing->slot_of};
    FM_TRY(fm_model_rank_check(trainer));
    FM_TRY(fm_model_parties_join(trainer, ROWS_AT_ONCE));
    FM_TRY(check_same(trainer, placing->expert_in, placing->count * sizeof *placing->expert_in));
    fm_status status = move_and_flip(&move, allocate(&move));
    release(&move);
    if (status == FM_OK)
        __atomic_add_fetch(&placing->moved, move.moved, __ATOMIC_RELAXED);
    return status;
}

// Where each expert goes; FM_ERR_ARG where a layer has one twice.
static fm_status invert(const fm_model_config *c, struct placing *placing)
{
    memset(placing->slot_of, -1, placing->count * sizeof *placing->slot_of);
    for (size_t i = 0; i < placing->count; i++) {
        int32_t expert = placing->expert_in[i];
        size_t first = i / (size_t)c->experts * (size_t)c->experts;
        if (expert < 0 || expert >= c->experts || placing->slot_of[first + (size_t)expert] >= 0)
            return fm_base_error_set(FM_ERR_ARG, "layer %zu has expert %d in slot %zu; expected each once",
                                     i / (size_t)c->experts, (int)expert, i - first);
        placing->slot_of[first + (size_t)expert] = (int32_t)(i - first);
    }
    return FM_OK;
}

// The plan as a map of all layers; dense ones have none.
static fm_status read_plan(const fm_model_config *c, int ranks, const fm_eplb_plan *plan,
                           struct placing *placing)
{
    int layers = fm_model_expert_layers(c), local = c->experts / ranks;
    if (plan->shape.layers != layers || plan->shape.experts != c->experts || plan->shape.gpus != ranks ||
        plan->slots != c->experts)
        return fm_base_error_set(
            FM_ERR_ARG, "a plan of %d layers, %d experts, %d slots, %d GPUs; expected %d, %d, %d and %d",
            plan->shape.layers, plan->shape.experts, plan->slots, plan->shape.gpus, layers, c->experts,
            c->experts, ranks);
    for (int rank = 0; rank <= ranks; rank++)
        if (plan->slot_begin[rank] != rank * local)
            return fm_base_error_set(FM_ERR_ARG, "GPU %d begins at slot %d; expected %d slots on each", rank,
                                     (int)plan->slot_begin[rank], local);
    size_t dense = (size_t)c->dense_layers * (size_t)c->experts;
    for (size_t i = 0; i < dense; i++)
        placing->expert_in[i] = (int32_t)(i % (size_t)c->experts);
    memcpy(placing->expert_in + dense, plan->phy2log, (placing->count - dense) * sizeof *plan->phy2log);
    return FM_OK;
}

static fm_status begin_placing(const fm_model_config *c, struct placing *placing)
{
    placing->count = (size_t)(c->layers + c->predict_layers) * (size_t)c->experts;
    placing->expert_in = fm_base_mem_alloc(placing->count * sizeof *placing->expert_in);
    placing->slot_of = fm_base_mem_alloc(placing->count * sizeof *placing->slot_of);
    return placing->expert_in && placing->slot_of
               ? FM_OK
               : fm_base_error_set(FM_ERR_NOMEM, "no memory for a map of experts");
}

static void end_placing(struct placing *placing)
{
    fm_base_mem_free(placing->expert_in);
    fm_base_mem_free(placing->slot_of);
}

fm_status fm_model_rank_move(struct fm_trainer *trainer, const int32_t *expert_in, int64_t *out_moved)
{
    struct placing placing = {0};
    fm_status status = begin_placing(&trainer->model.config, &placing);
    if (status == FM_OK) {
        memcpy(placing.expert_in, expert_in, placing.count * sizeof *expert_in);
        status = invert(&trainer->model.config, &placing);
    }
    if (status == FM_OK)
        status = place_rank(trainer, &placing);
    end_placing(&placing);
    *out_moved = placing.moved;
    return status;
}

static fm_status place(fm_trainer *trainer, const fm_eplb_plan *plan, int ranks, struct placing *placing)
{
    FM_TRY(begin_placing(&trainer->model.config, placing));
    FM_TRY(read_plan(&trainer->model.config, ranks, plan, placing));
    FM_TRY(invert(&trainer->model.config, placing));
    if (trainer->front)
        return fm_model_front_place(trainer, placing->expert_in, &placing->moved);
    if (trainer->crew)
        FM_TRY(fm_model_crew_fit(trainer->crew, ROWS_AT_ONCE));
    return fm_model_ranks_run(trainer, place_rank, placing);
}

/** The layout of ranks and where experts lie; NULL: one trainer. */
static const struct fm_model_layout *layout_of(const fm_trainer *trainer, const int32_t **out_expert_in)
{
    const struct fm_model_rank *rank = trainer->crew ? trainer->crew->ranks[0]->rank : trainer->rank;
    *out_expert_in = trainer->front ? trainer->front->expert_in : rank ? rank->expert_in : NULL;
    return trainer->front ? &trainer->front->layout : rank ? &rank->layout : NULL;
}

fm_status fm_model_trainer_place(fm_trainer *trainer, const fm_eplb_plan *plan, int64_t *out_moved)
{
    const int32_t *expert_in;
    const struct fm_model_layout *layout = layout_of(trainer, &expert_in);
    struct placing placing = {0};
    if (!layout || layout->experts < 2)
        return fm_base_error_set(FM_ERR_STATE,
                                 "there is one expert rank; expected several to place experts on");
    fm_status status = place(trainer, plan, layout->experts, &placing);
    end_placing(&placing);
    if (status == FM_OK)
        *out_moved = placing.moved;
    return status;
}

const int32_t *fm_model_trainer_placement(const fm_trainer *trainer, int layer)
{
    const fm_model_config *c = &trainer->model.config;
    const int32_t *expert_in;
    if (!layout_of(trainer, &expert_in) || layer < c->dense_layers ||
        layer >= c->layers + c->predict_layers || c->experts == 0)
        return NULL;
    return expert_in + (int64_t)layer * c->experts;
}
