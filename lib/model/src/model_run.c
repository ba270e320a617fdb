/*
 * One run of the pipeline: pipe's executor says what comes next, a slot holds what a micro-batch leaves for its backward, and
 * messages go over ep's neighbour ring. Of an overlapped pair, one visit computes while the other's rows are on their way
 * to experts or back: their steps alternate.
 */
#include "fathom/span.h"
#include "model_low.h"
#include "model_rank.h"

// Tokens of a micro-batch where none is asked for: enough rows to fill the products' tiles.
enum { MICRO_TOKENS = 512 };

static fm_status link_send(void *context, int peer, const fm_pipe_tag *tag, const void *payload)
{
    return fm_ep_ring_send(context, peer, tag, sizeof *tag, payload, tag->bytes);
}

static fm_status link_receive(void *context, int peer, size_t capacity, fm_pipe_tag *out_tag,
                              void *out_payload)
{
    size_t bytes;
    return fm_ep_ring_receive(context, peer, out_tag, sizeof *out_tag, out_payload, capacity, &bytes);
}

int64_t fm_model_run_tokens(const struct fm_model_layout *layout, const fm_model_training *training,
                            int sequences, int length, int *out_at_once, int *out_micro_batches)
{
    int share = (sequences + layout->experts - 1) / layout->experts; // the most of one pipeline
    int at_once = training->micro_batch, filled = share / (2 * layout->pipe);
    if (at_once == 0) {
        at_once = length < MICRO_TOKENS ? MICRO_TOKENS / length : 1;
        if (layout->pipe > 1 && at_once > filled) // else the pipeline would stand still for most of the time
            at_once = filled > 0 ? filled : 1;
    }
    at_once = at_once < share ? at_once : share;
    *out_at_once = at_once;
    *out_micro_batches = (share + at_once - 1) / at_once;
    return (int64_t)at_once * length;
}

// The sequences of a micro-batch of this rank's pipeline; none where others have one more.
static struct fm_model_batch batch_of(const struct fm_model_rank *rank, const struct fm_model_run *run,
                                      int micro_batch, int64_t *out_first)
{
    int experts = rank->layout.experts, e = rank->number % experts;
    int64_t begin = (int64_t)e * run->sequences / experts, end = (int64_t)(e + 1) * run->sequences / experts;
    int64_t first = begin + (int64_t)micro_batch * run->at_once, last = first + run->at_once;
    first = first < end ? first : end;
    last = last < end ? last : end;
    *out_first = first;
    return (struct fm_model_batch){(int)(last - first), run->length, (last - first) * run->length};
}

static struct fm_model_slot *slot_of(const struct fm_trainer *trainer, const fm_pipe_task *task)
{
    return &trainer->rank->slots[task->saved];
}

static fm_status forward_begin(struct fm_trainer *trainer, const fm_pipe_task *task)
{
    struct fm_model_rank *rank = trainer->rank;
    struct fm_model_slot *slot = slot_of(trainer, task);
    int64_t first, width = rank->runs[trainer->evaluate].length + 1 + trainer->model.config.predict_layers;
    fm_model_scratch_release(&slot->lane.model.scratch, (struct fm_model_mark){0, 0});
    slot->visit.batch = batch_of(rank, &rank->runs[trainer->evaluate], task->micro_batch, &first);
    slot->visit.stage = fm_model_layout_stage(&rank->layout, &trainer->model.config, task->stage);
    slot->visit.ids = rank->ids + first * width;
    slot->lane.model.compute.queue = NULL;
    return fm_model_forward_begin(&slot->lane, &slot->visit, task->input);
}

static fm_status forward_step(struct fm_trainer *trainer, const fm_pipe_task *task, int *out_done)
{
    FM_SPAN_ARGS(span, "forward step", "model", "micro_batch", "unit");
    struct fm_model_slot *slot = slot_of(trainer, task);
    span.args[0] = task->micro_batch;
    span.args[1] = slot->visit.unit;
    FM_TRY(fm_model_forward_step(&slot->lane, &slot->visit));
    *out_done = fm_model_forward_done(&slot->lane, &slot->visit);
    if (*out_done && task->output)
        memcpy(task->output, slot->visit.x,
               (size_t)(slot->visit.batch.tokens * trainer->model.config.hidden) * sizeof(float));
    return FM_OK;
}

static fm_status back_begin(struct fm_trainer *trainer, const fm_pipe_task *task, int with_weights)
{
    struct fm_model_slot *slot = slot_of(trainer, task);
    slot->lane.model.compute.queue = with_weights ? NULL : &slot->queue;
    return fm_model_back_begin(&slot->lane, &slot->visit, task->output_gradient);
}

static fm_status back_step(struct fm_trainer *trainer, const fm_pipe_task *task, int *out_done)
{
    FM_SPAN_ARGS(span, "backward step", "model", "micro_batch", "unit");
    struct fm_model_slot *slot = slot_of(trainer, task);
    span.args[0] = task->micro_batch;
    span.args[1] = slot->visit.unit;
    FM_TRY(fm_model_back_step(&slot->lane, &slot->visit));
    *out_done = fm_model_back_done(&slot->visit);
    if (*out_done && task->input_gradient)
        memcpy(task->input_gradient, slot->visit.dx,
               (size_t)(slot->visit.batch.tokens * trainer->model.config.hidden) * sizeof(float));
    return FM_OK;
}

static fm_status run_forward(void *context, const fm_pipe_task *task)
{
    FM_TRY(forward_begin(context, task));
    for (int done = 0; !done;)
        FM_TRY(forward_step(context, task, &done));
    return FM_OK;
}

static fm_status run_backward(void *context, const fm_pipe_task *task, int with_weights)
{
    FM_TRY(back_begin(context, task, with_weights));
    for (int done = 0; !done;)
        FM_TRY(back_step(context, task, &done));
    return FM_OK;
}

static fm_status run_weight(void *context, const fm_pipe_task *task)
{
    struct fm_model_slot *slot = slot_of(context, task);
    slot->lane.model.compute.queue = NULL;
    return fm_model_queue_run(&slot->queue, &slot->lane.model.compute);
}

// All ranks that share experts take the same turns, as they have the same program and stages.
static fm_status run_overlapped(void *context, const fm_pipe_task *forward, const fm_pipe_task *backward)
{
    FM_TRY(forward_begin(context, forward));
    FM_TRY(back_begin(context, backward, 1));
    for (int forward_done = 0, back_done = 0; !forward_done || !back_done;) {
        if (!forward_done)
            FM_TRY(forward_step(context, forward, &forward_done));
        if (!back_done)
            FM_TRY(back_step(context, backward, &back_done));
    }
    return FM_OK;
}

static void free_slots(struct fm_model_rank *rank)
{
    for (int i = 0; i < rank->slot_count; i++) {
        struct fm_model_slot *slot = &rank->slots[i];
        const fm_model_config *c = &slot->lane.model.config;
        for (int layer = 0; slot->exchange.handles && layer < c->layers + c->predict_layers; layer++)
            fm_ep_handle_free(slot->exchange.handles[layer]);
        fm_base_mem_free(slot->exchange.handles);
        fm_model_scratch_free(&slot->lane.model.scratch);
        fm_model_queue_free(&slot->queue);
    }
    fm_base_mem_free(rank->slots);
    rank->slots = NULL;
    rank->slot_count = 0;
}

static void free_run(struct fm_model_run *run)
{
    fm_pipe_executor_free(run->executor);
    fm_pipe_plan_free(run->plan);
    fm_pipe_program_free(run->program);
    *run = (struct fm_model_run){0};
}

void fm_model_runs_free(struct fm_model_rank *rank)
{
    free_run(&rank->runs[0]);
    free_run(&rank->runs[1]);
    free_slots(rank);
}

static fm_status add_slots(struct fm_trainer *trainer, int count)
{
    struct fm_model_rank *rank = trainer->rank;
    const fm_model_config *c = &trainer->model.config;
    if (count <= rank->slot_count)
        return FM_OK;
    void *slots = fm_base_mem_realloc(rank->slots, (size_t)count, sizeof *rank->slots);
    if (!slots)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d micro-batches at a time", count);
    rank->slots = slots;
    for (; rank->slot_count < count; rank->slot_count++) {
        struct fm_model_slot *slot = &rank->slots[rank->slot_count];
        *slot = (struct fm_model_slot){.exchange = {.group = rank->parties[FM_MODEL_EXPERTS].group,
                                                    .slot_of = rank->slot_of,
                                                    .expert_in = rank->expert_in}};
        if (!slot->exchange.group)
            continue;
        slot->exchange.first = rank->number % rank->layout.experts * (c->experts / rank->layout.experts);
        slot->exchange.handles =
            fm_base_mem_zalloc((size_t)c->layers + (size_t)c->predict_layers, sizeof(fm_ep_handle *));
        if (!slot->exchange.handles)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d micro-batches at a time", count);
    }
    return FM_OK;
}

static fm_status make_run(struct fm_trainer *trainer, int sequences, int length, struct fm_model_run *run)
{
    struct fm_model_rank *rank = trainer->rank;
    int64_t tokens = fm_model_run_tokens(&rank->layout, &trainer->training, sequences, length, &run->at_once,
                                         &run->micro_batches);
    fm_pipe_shape shape = {.size = sizeof shape,
                           .schedule = rank->layout.program.schedule,
                           .ranks = rank->layout.pipe,
                           .micro_batches = run->micro_batches,
                           .forward_only = trainer->evaluate};
    FM_TRY(fm_pipe_program_generate(&shape, &run->program));
    FM_TRY(fm_pipe_plan_create(run->program, &run->plan));
    fm_pipe_needs needs;
    int p = rank->number / rank->layout.experts;
    FM_TRY(fm_pipe_plan_needs(run->plan, p, &needs));
    FM_TRY(add_slots(trainer, needs.saved_slots > 0 ? needs.saved_slots : 1));
    fm_pipe_message_type type = {.bytes = (size_t)(tokens * trainer->model.config.hidden) * sizeof(float)};
    fm_pipe_executor_options options = {
        .size = sizeof options,
        .plan = run->plan,
        .rank = p,
        .compute = {trainer, run_forward, run_backward, run_weight, run_overlapped},
        .link = {rank->parties[FM_MODEL_RING].group, link_send, link_receive},
        .activations = &type,
        .gradients = &type,
        .message_count = 1,
        .timeout_ms = trainer->training.timeout_ms};
    FM_TRY(fm_pipe_executor_create(&options, &run->executor));
    run->sequences = sequences;
    run->length = length;
    return FM_OK;
}

// Slots begin the run as their rank does; what they share are pointers.
static void begin_slots(struct fm_trainer *trainer)
{
    struct fm_model_rank *rank = trainer->rank;
    for (int i = 0; i < rank->slot_count; i++) {
        struct fm_trainer *lane = &rank->slots[i].lane;
        struct fm_model_scratch scratch = lane->model.scratch;
        *lane =
            (struct fm_trainer){.model = trainer->model,
                                .training = trainer->training,
                                .weight = trainer->weight,
                                .balance_weight = trainer->balance_weight,
                                .evaluate = trainer->evaluate,
                                .mla = trainer->mla,
                                .loads = trainer->loads,
                                .exchange = rank->slots[i].exchange.group ? &rank->slots[i].exchange : NULL};
        lane->model.scratch = scratch;
    }
}

fm_status fm_model_run_all(struct fm_trainer *trainer, const int32_t *ids, int sequences, int length)
{
    struct fm_model_rank *rank = trainer->rank;
    struct fm_model_run *run = &rank->runs[trainer->evaluate];
    if (run->sequences != sequences || run->length != length) {
        free_run(run);
        fm_status made = make_run(trainer, sequences, length, run);
        if (made < 0) {
            free_run(run);
            return made;
        }
    }
    begin_slots(trainer);
    rank->ids = ids;
    // Pipelines that run side by side have numbers of their own, or two messages of a trace would have the same.
    uint64_t number = (uint64_t)rank->run_count++ * (uint64_t)rank->layout.experts +
                      (uint64_t)rank->parties[FM_MODEL_RING].seat.color;
    fm_status status = fm_pipe_executor_run(run->executor, number);
    fm_status low = fm_model_low_check(trainer->model.compute.low);
    FM_TRY(status < 0 ? status : low);
    for (int i = 0; i < rank->slot_count; i++) {
        const struct fm_trainer *lane = &rank->slots[i].lane;
        trainer->loss_sum += lane->loss_sum;
        trainer->predict_sum += lane->predict_sum;
        trainer->balance_sum += lane->balance_sum;
    }
    return FM_OK;
}
