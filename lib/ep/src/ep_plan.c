// Options checked, and from them the place of everything in a segment.
#include "ep_private.h"

/** A running end of memory that remembers that it once overflowed. */
typedef struct room {
    size_t at;
    int overflowed;
} room;

static size_t product(room *end, size_t a, size_t b)
{
    size_t result = 0;
    end->overflowed |= __builtin_mul_overflow(a, b, &result) || result > INT64_MAX / 4;
    return result;
}

/** Room for count * size bytes; returns where it begins. */
static size_t take(room *end, size_t count, size_t size)
{
    size_t bytes = product(end, count, size);
    size_t begin = end->at;
    end->overflowed |= begin > INT64_MAX / 4;
    if (!end->overflowed)
        end->at = fm_round_up(begin + bytes, FM_EP_ALIGN);
    return begin;
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

fm_ep_options fm_ep_options_complete(const fm_ep_options *options)
{
    fm_ep_options complete = *options;
    if (complete.in_flight == 0)
        complete.in_flight = 4; // two micro-batches, each with one operation waited for and the next posted
    if (complete.ring_depth == 0)
        complete.ring_depth = 4; // a schedule sends at most two ahead in each direction
    if (complete.timeout_ms == 0)
        complete.timeout_ms = 100000; // what DeepEP waits: beyond any honest delay, short enough for a person
    return complete;
}

static fm_status check_options(const fm_ep_options *options, int ranks)
{
    if (!options || options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "options: size is %zu; expected sizeof(fm_ep_options), %zu",
                                 options ? options->size : 0, sizeof *options);
    const struct {
        const char *name;
        int value, low, high;
    } limits[] = {
        {"ranks", ranks, 1, FM_EP_RANKS_MAX},
        {"ranks_per_node", options->ranks_per_node, 0, INT32_MAX},
        {"hidden", options->hidden, 1, 1 << 20},
        {"experts", options->experts, 1, 1 << 20},
        {"topk_max", options->topk_max, 1, FM_EP_TOPK_MAX},
        {"tokens_max", options->tokens_max, 0, 1 << 24},
        {"in_flight", options->in_flight, 0, FM_EP_IN_FLIGHT_MAX},
        {"ring_depth", options->ring_depth, 0, 1 << 16},
    };
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        if (limits[i].value < limits[i].low || limits[i].value > limits[i].high)
            return fm_base_error_set(FM_ERR_ARG, "%s is %d; expected %d to %d", limits[i].name,
                                     limits[i].value, limits[i].low, limits[i].high);
    if (options->experts % ranks != 0)
        return fm_base_error_set(FM_ERR_ARG, "experts is %d; expected a multiple of the %d ranks",
                                 options->experts, ranks);
    return FM_OK;
}

int fm_ep_rail(const fm_ep_plan *plan, int node, int source)
{
    int first = node * plan->node_ranks;
    int size = min_int(plan->node_ranks, plan->ranks - first);
    return first + source % plan->node_ranks % size;
}

/** The most sources for which one rank is the rail. */
static int count_mirrors(const fm_ep_plan *plan)
{
    int most = 0;
    for (int rank = 0; rank < plan->ranks; rank++) {
        int node = fm_ep_node_of(plan, rank), mine = 0;
        for (int source = 0; source < plan->ranks; source++)
            mine += fm_ep_node_of(plan, source) != node && fm_ep_rail(plan, node, source) == rank;
        most = mine > most ? mine : most;
    }
    return most;
}

/** Bytes of a channel that is not cast. */
static size_t widest(const fm_ep_options *options)
{
    return options->wide ? sizeof(float) : sizeof(fm_bf16);
}

static void place_slot(const fm_ep_options *options, fm_ep_plan *plan, size_t list, room *total)
{
    size_t tokens = (size_t)options->tokens_max, topk = (size_t)options->topk_max;
    room slot = {.at = fm_round_up(sizeof(fm_ep_publication), FM_EP_ALIGN)};
    plan->begin = take(&slot, (size_t)plan->ranks + 1, sizeof(int32_t));
    plan->list = take(&slot, list, sizeof(int32_t));
    plan->check = take(&slot, options->check ? list : 0, sizeof(uint32_t));
    plan->idx = take(&slot, tokens * topk, sizeof(int32_t));
    plan->weights = take(&slot, tokens * topk, sizeof(float));
    // Rows cast to FP8; or, staged, whatever an operation posts; or a combine's rows in another format.
    size_t hidden = (size_t)options->hidden, scales = (size_t)fm_ep_scales(options->hidden);
    size_t rows = (size_t)plan->choices_max, stage = product(&slot, tokens, hidden), weights = 0;
    size_t stage_scales = product(&slot, tokens, 4 * scales);
    if (options->staged) {
        stage = product(&slot, max_size(rows, tokens), widest(options) * hidden);
        stage = max_size(stage, options->collective_bytes_max);
    }
    if (options->casts_combine) {
        stage = max_size(stage, product(&slot, rows, fm_ep_row_bytes(FM_EP_LOGFMT10, options->hidden)));
        stage_scales = max_size(stage_scales, product(&slot, rows, 4 * scales));
    }
    if (options->staged || options->casts_combine)
        weights = product(&slot, (size_t)plan->ranks * tokens, topk);
    plan->stage = take(&slot, 1, stage);
    plan->stage_scales = take(&slot, 1, stage_scales);
    plan->stage_weights = take(&slot, weights, sizeof(float));
    plan->slot_bytes = slot.at;
    total->overflowed |= slot.overflowed;
    plan->slots = take(total, (size_t)plan->in_flight, slot.at);
}

static void place_mirrors(const fm_ep_options *options, fm_ep_plan *plan, room *total)
{
    size_t tokens = (size_t)options->tokens_max, topk = (size_t)options->topk_max;
    size_t hidden = (size_t)options->hidden, wide = widest(options);
    room mirror = {.at = fm_round_up(sizeof(fm_ep_publication), FM_EP_ALIGN)};
    size_t node_ranks = (size_t)plan->node_ranks;
    size_t choices = (size_t)plan->choices_max / (size_t)plan->ranks * node_ranks;
    size_t list = max_size(choices, max_size(node_ranks * tokens, node_ranks));
    take(&mirror, (size_t)plan->ranks + 1, sizeof(int32_t)); // readers' first entries
    take(&mirror, 2 * list, sizeof(int32_t));                // rows, and their numbers at the source
    take(&mirror, options->check ? list : 0, sizeof(uint32_t));
    // A token's row, scales, choices and weights; or an expert's rows and the gradients of its weights; or part of a
    // collective. Each array begins on a line of its own.
    size_t of_dispatch =
        product(&mirror, tokens, wide * hidden + 4 * (size_t)fm_ep_scales(options->hidden) + 8 * topk);
    size_t of_combine =
        product(&mirror, choices, wide * hidden + 4 + 4 * (size_t)fm_ep_scales(options->hidden)) +
        product(&mirror, node_ranks * tokens, 4 * topk);
    take(&mirror, 1, max_size(max_size(of_dispatch, of_combine), options->collective_bytes_max));
    take(&mirror, FM_EP_PARTS + 1, FM_EP_ALIGN);
    plan->mirror_bytes = mirror.at;
    total->overflowed |= mirror.overflowed;
    plan->mirror_slots = take(total, (size_t)plan->in_flight * (size_t)plan->mirrors, mirror.at);
}

fm_status fm_ep_plan_make(const fm_ep_options *given, int ranks, fm_ep_plan *out_plan)
{
    FM_TRY(check_options(given, ranks));
    fm_ep_options options = fm_ep_options_complete(given);
    fm_ep_plan plan = {.ranks = ranks, .in_flight = options.in_flight};
    plan.node_ranks = options.ranks_per_node == 0 ? ranks : min_int(options.ranks_per_node, ranks);
    plan.nodes = (ranks + plan.node_ranks - 1) / plan.node_ranks;
    plan.mirrors = count_mirrors(&plan);
    size_t tokens = (size_t)options.tokens_max;
    plan.choices_max =
        (int64_t)ranks * options.tokens_max * min_int(options.topk_max, options.experts / ranks);
    if (plan.choices_max > INT32_MAX)
        return fm_base_error_set(
            FM_ERR_LIMIT,
            "%d ranks of %d tokens with %d choices are more than the 2^31 rows that one rank "
            "can number",
            ranks, options.tokens_max, options.topk_max);
    size_t list = max_size((size_t)plan.choices_max, max_size(tokens * (size_t)ranks, (size_t)ranks));

    room total = {0};
    size_t in_flight = (size_t)plan.in_flight, mirrors = (size_t)plan.mirrors;
    plan.posted = take(&total, in_flight, sizeof(fm_ep_flag));
    plan.done = take(&total, in_flight * (size_t)ranks, sizeof(fm_ep_flag));
    plan.mirrored = take(&total, in_flight * mirrors, sizeof(fm_ep_flag));
    plan.mirror_done = take(&total, in_flight * mirrors * (size_t)plan.node_ranks, sizeof(fm_ep_flag));
    plan.rejoin = take(&total, 3, sizeof(fm_ep_flag));
    place_slot(&options, &plan, list, &total);
    place_mirrors(&options, &plan, &total);
    plan.memory_bytes = options.memory_bytes;
    plan.memory = take(&total, 1, options.memory_bytes);
    // Two queues, to the next rank and to the one before; each has two counters, then its messages.
    if (options.ring_bytes_max > 0) {
        room message = {0};
        take(&message, 1, 2 * sizeof(uint64_t));
        message.at = 2 * sizeof(uint64_t);
        take(&message, 1, options.ring_bytes_max);
        plan.ring_message_bytes = message.at;
        room queue = {.overflowed = message.overflowed};
        take(&queue, 2, sizeof(fm_ep_flag));
        take(&queue, (size_t)options.ring_depth, message.at);
        plan.ring_queue_bytes = queue.at;
        total.overflowed |= queue.overflowed;
        plan.ring = take(&total, 2, queue.at);
    }
    if (total.overflowed)
        return fm_base_error_set(FM_ERR_LIMIT,
                                 "the group's memory overflows: %d ranks, %d tokens, %d channels", ranks,
                                 options.tokens_max, options.hidden);
    plan.total = total.at;
    *out_plan = plan;
    return FM_OK;
}

fm_status fm_ep_size_hint(const fm_ep_options *options, int ranks, size_t *out_bytes)
{
    fm_ep_plan plan = {0};
    FM_TRY(fm_ep_plan_make(options, ranks, &plan));
    *out_bytes = plan.total;
    return FM_OK;
}
