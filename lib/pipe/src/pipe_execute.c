// The interpreter: at each boundary it posts and waits (pipe_traffic.c), then it calls back.
#include <string.h>

#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fathom/mem.h"
#include "fathom/span.h"
#include "pipe_execute_internal.h"

static fm_status check_types(const char *what, const fm_pipe_message_type *types, int count, int skipped)
{
    for (int stage = 0; stage < count; stage++)
        if (types[stage].bytes == 0 && (count == 1 || stage != skipped))
            return fm_base_error_set(FM_ERR_ARG, "%s of stage %d have 0 bytes", what, stage);
    return FM_OK;
}

static fm_status check_options(const fm_pipe_executor_options *options)
{
    if (!options || !options->plan)
        return fm_base_error_set(FM_ERR_ARG, "options and its plan must not be NULL");
    FM_TRY(fm_pipe_size_check("fm_pipe_executor_options", options->size, sizeof *options));
    const fm_pipe_program *program = options->plan->program;
    if (options->rank < 0 || options->rank >= program->ranks)
        return fm_base_error_set(FM_ERR_ARG, "rank is %d; expected 0 to %d", options->rank,
                                 program->ranks - 1);
    const fm_pipe_op *ops = fm_pipe_ops_of(program, options->rank);
    int has_weight = 0;
    int has_backward = 0;
    for (size_t i = 0; i < fm_pipe_count_of(program, options->rank); i++) {
        has_weight |= ops[i].kind == FM_PIPE_W;
        has_backward |= fm_pipe_has_backward(&ops[i]);
    }
    if (!options->compute.forward || (has_backward && !options->compute.backward) ||
        (has_weight && !options->compute.weight))
        return fm_base_error_set(FM_ERR_ARG, "compute lacks a callback that the program needs: forward%s%s",
                                 has_backward ? ", backward" : "", has_weight ? ", weight" : "");
    const fm_pipe_needs *needs = &options->plan->ranks[options->rank].needs;
    if ((needs->sends || needs->receives) && (!options->link.send || !options->link.receive))
        return fm_base_error_set(FM_ERR_ARG,
                                 "link lacks send or receive, and this rank has %zu messages a step",
                                 needs->sends + needs->receives);
    if (!options->activations || !options->gradients)
        return fm_base_error_set(FM_ERR_ARG, "activations and gradients must not be NULL");
    if (options->message_count != 1 && options->message_count != program->stages)
        return fm_base_error_set(FM_ERR_ARG, "message_count is %d; expected 1 or %d, one for each stage",
                                 options->message_count, program->stages);
    FM_TRY(check_types("activations", options->activations, options->message_count, 0));
    return check_types("gradients", options->gradients, options->message_count, program->stages - 1);
}

// Ranks whose programs differ must not exchange messages as if they did not.
static uint32_t checksum_of(const fm_pipe_program *program)
{
    const int32_t layout[] = {program->placement, program->ranks, program->lanes, program->micro_batches,
                              program->forward_only};
    uint32_t crc = fm_base_crc32c(0, layout, sizeof layout);
    crc = fm_base_crc32c(crc, program->first, ((size_t)program->ranks + 1) * sizeof *program->first);
    return fm_base_crc32c(crc, program->ops, fm_pipe_op_total(program) * sizeof *program->ops);
}

static fm_status alloc_pool(fm_pipe_executor *executor, int kind)
{
    const fm_pipe_executor_options *options = &executor->options;
    const fm_pipe_message_type *given =
        kind == FM_PIPE_ACTIVATION ? options->activations : options->gradients;
    int stages = executor->program->stages;
    executor->types[kind] = fm_base_mem_alloc((size_t)stages * sizeof(fm_pipe_message_type));
    if (!executor->types[kind])
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the message types of %d stages", stages);
    // A rank's slots serve all of its lanes, so each has the size of the largest message.
    size_t largest = 0;
    for (int stage = 0; stage < stages; stage++) {
        executor->types[kind][stage] = given[options->message_count == 1 ? 0 : stage];
        if (stage != (kind == FM_PIPE_ACTIVATION ? 0 : stages - 1) &&
            executor->types[kind][stage].bytes > largest)
            largest = executor->types[kind][stage].bytes;
    }
    const fm_pipe_needs *needs = &executor->mine->needs;
    size_t slots = (size_t)(kind == FM_PIPE_ACTIVATION ? needs->activation_slots : needs->gradient_slots);
    size_t bytes = 0;
    FM_TRY(fm_add_size(largest, FM_CACHE_LINE - 1, &bytes));
    executor->slot_bytes[kind] = bytes - bytes % FM_CACHE_LINE;
    FM_TRY(fm_mul_size(slots, executor->slot_bytes[kind], &bytes));
    executor->slots[kind] = fm_base_mem_zalloc(slots, sizeof(struct fm_pipe_slot));
    executor->buffers[kind] = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    if (!executor->slots[kind] || !executor->buffers[kind])
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu buffers of %zu bytes", slots,
                                 executor->slot_bytes[kind]);
    return FM_OK;
}

fm_status fm_pipe_executor_create(const fm_pipe_executor_options *options, fm_pipe_executor **out_executor)
{
    FM_TRY(check_options(options));
    if (!out_executor)
        return fm_base_error_set(FM_ERR_ARG, "out_executor must not be NULL");
    fm_pipe_executor *executor = fm_base_mem_zalloc(1, sizeof *executor);
    if (!executor)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for an executor");
    executor->options = *options;
    executor->program = options->plan->program;
    executor->mine = &options->plan->ranks[options->rank];
    executor->checksum = checksum_of(executor->program);
    size_t posts = executor->mine->needs.sends + executor->mine->needs.receives;
    executor->posts = fm_base_mem_zalloc(posts, sizeof(const struct fm_pipe_post *));
    executor->measured = fm_base_mem_zalloc((size_t)executor->program->lanes, sizeof *executor->measured);
    fm_status status = FM_OK;
    if (!executor->posts || !executor->measured)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for an executor of %zu messages", posts);
    for (int kind = 0; kind < 2 && status == FM_OK; kind++)
        status = alloc_pool(executor, kind);
    if (status != FM_OK) {
        fm_pipe_executor_free(executor);
        return status;
    }
    fm_pipe_streams_fill(executor);
    *out_executor = executor;
    return FM_OK;
}

void fm_pipe_executor_free(fm_pipe_executor *executor)
{
    if (!executor)
        return;
    for (int kind = 0; kind < 2; kind++) {
        fm_base_mem_free(executor->buffers[kind]);
        fm_base_mem_free(executor->slots[kind]);
        fm_base_mem_free(executor->types[kind]);
    }
    fm_base_mem_free(executor->measured);
    fm_base_mem_free(executor->posts);
    fm_base_mem_free(executor);
}

static fm_pipe_task task_of(const fm_pipe_executor *executor, int lane, int32_t chunk, int32_t saved)
{
    const fm_pipe_program *program = executor->program;
    return (fm_pipe_task){.step = executor->step,
                          .rank = executor->options.rank,
                          .lane = lane,
                          .stage = fm_pipe_stage(program, executor->options.rank, lane),
                          .direction = fm_pipe_direction(program, lane),
                          .chunk = chunk,
                          .micro_batch = fm_pipe_micro_batch(program, lane, chunk),
                          .saved = saved};
}

static fm_status call_back(fm_pipe_executor *executor, const fm_pipe_op *op,
                           const struct fm_pipe_slots *slots)
{
    const fm_pipe_compute *compute = &executor->options.compute;
    fm_pipe_task forward = task_of(executor, op->lane, op->chunk, slots->saved);
    forward.input = fm_pipe_buffer(executor, FM_PIPE_ACTIVATION, slots->x);
    forward.output = fm_pipe_buffer(executor, FM_PIPE_ACTIVATION, slots->y);
    if (op->kind == FM_PIPE_F)
        return compute->forward(compute->context, &forward);
    fm_pipe_task backward =
        task_of(executor, fm_pipe_back_lane(op), fm_pipe_back_chunk(op), slots->back_saved);
    backward.input = fm_pipe_buffer(executor, FM_PIPE_ACTIVATION, slots->back_x);
    backward.output_gradient = fm_pipe_buffer(executor, FM_PIPE_GRADIENT, slots->dy);
    backward.input_gradient = fm_pipe_buffer(executor, FM_PIPE_GRADIENT, slots->dx);
    if (op->kind == FM_PIPE_W)
        return compute->weight(compute->context, &backward);
    if (op->kind != FM_PIPE_FB)
        return compute->backward(compute->context, &backward, op->kind == FM_PIPE_B);
    if (compute->overlapped)
        return compute->overlapped(compute->context, &forward, &backward);
    FM_TRY(compute->forward(compute->context, &forward));
    return compute->backward(compute->context, &backward, 1);
}

// A pair names its two micro-batches; every other op its stage and micro-batch.
static const fm_span_site op_sites[FM_PIPE_KIND_COUNT] = {
    [FM_PIPE_F] = {FM_SPAN_KIND_SPAN, "F", "pipe", {"stage", "micro_batch"}},
    [FM_PIPE_B] = {FM_SPAN_KIND_SPAN, "B", "pipe", {"stage", "micro_batch"}},
    [FM_PIPE_I] = {FM_SPAN_KIND_SPAN, "I", "pipe", {"stage", "micro_batch"}},
    [FM_PIPE_W] = {FM_SPAN_KIND_SPAN, "W", "pipe", {"stage", "micro_batch"}},
    [FM_PIPE_FB] = {FM_SPAN_KIND_SPAN, "FB", "pipe", {"micro_batch", "back_micro_batch"}},
};

static fm_span begin_span(const fm_pipe_executor *executor, const fm_pipe_op *op)
{
    const fm_pipe_program *program = executor->program;
    fm_span span = fm_span_begin(&op_sites[op->kind]);
    int64_t micro_batch = fm_pipe_micro_batch(program, op->lane, op->chunk);
    span.args[0] =
        op->kind == FM_PIPE_FB ? micro_batch : fm_pipe_stage(program, executor->options.rank, op->lane);
    span.args[1] =
        op->kind == FM_PIPE_FB ? fm_pipe_micro_batch(program, op->back_lane, op->back_chunk) : micro_batch;
    return span;
}

static fm_status run_op(fm_pipe_executor *executor, const fm_pipe_op *op, const struct fm_pipe_slots *slots)
{
    FM_TRY(fm_pipe_boundary_post(executor));
    FM_TRY(fm_pipe_boundary_wait(executor, slots));
    fm_span span = begin_span(executor, op);
    uint64_t begin = fm_base_clock_ns();
    fm_status status = call_back(executor, op, slots);
    uint64_t nanoseconds = fm_base_clock_ns() - begin;
    fm_span_end(&span);
    FM_TRY(status);
    executor->last.compute += nanoseconds;
    executor->measured[op->lane][op->kind].nanoseconds += nanoseconds;
    executor->measured[op->lane][op->kind].count++;
    // What stays on this rank is there now; marking what leaves as well costs nothing.
    if (slots->y >= 0)
        executor->slots[FM_PIPE_ACTIVATION][slots->y].filled = 1;
    if (slots->dx >= 0)
        executor->slots[FM_PIPE_GRADIENT][slots->dx].filled = 1;
    return FM_OK;
}

static fm_status run_step(fm_pipe_executor *executor)
{
    const fm_pipe_program *program = executor->program;
    int rank = executor->options.rank;
    const fm_pipe_op *ops = fm_pipe_ops_of(program, rank);
    const struct fm_pipe_slots *slots = executor->options.plan->slots + program->first[rank];
    size_t count = fm_pipe_count_of(program, rank);
    for (executor->op = 0; executor->op < count; executor->op++)
        FM_TRY(run_op(executor, &ops[executor->op], &slots[executor->op]));
    FM_TRY(fm_pipe_boundary_post(executor));
    return fm_pipe_boundary_drain(executor);
}

fm_status fm_pipe_executor_run(fm_pipe_executor *executor, uint64_t step)
{
    if (!executor)
        return fm_base_error_set(FM_ERR_ARG, "executor must not be NULL");
    if (executor->failed)
        return fm_base_error_set(FM_ERR_STATE,
                                 "an earlier step of rank %d failed; make a new executor and a new link",
                                 executor->options.rank);
    uint64_t begin = fm_base_clock_ns();
    executor->step = step;
    executor->last = (fm_pipe_executor_times){0};
    fm_pipe_streams_rewind(executor);
    fm_status status = run_step(executor);
    executor->last.total = fm_base_clock_ns() - begin;
    executor->failed = status != FM_OK;
    return status;
}

void fm_pipe_executor_costs(fm_pipe_executor *executor, fm_pipe_stage_cost *costs)
{
    for (int lane = 0; lane < executor->program->lanes; lane++) {
        double *const fields[FM_PIPE_KIND_COUNT] = {&costs[lane].f, &costs[lane].b, &costs[lane].i,
                                                    &costs[lane].w, &costs[lane].fb};
        for (int kind = 0; kind < FM_PIPE_KIND_COUNT; kind++) {
            struct fm_pipe_measured *measured = &executor->measured[lane][kind];
            if (measured->count)
                *fields[kind] = 1e-9 * (double)measured->nanoseconds / (double)measured->count;
            *measured = (struct fm_pipe_measured){0};
        }
    }
}

fm_pipe_executor_times fm_pipe_executor_last(const fm_pipe_executor *executor)
{
    return executor->last;
}
