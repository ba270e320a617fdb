// Local search: simulated annealing over the order of ops within ranks, over what is split and what is paired.
#include <string.h>

#include "fathom/mem.h"
#include "fathom/rng.h"
#include "pipe_search_internal.h"

// A rank's ops while they change.
struct sequence {
    fm_pipe_op *ops; // room for ops_per_rank
    size_t count;
};

struct walker {
    const struct fm_pipe_problem *problem;
    struct sequence *ranks;
    struct sequence spare; // the changed rank as it was
    uint8_t *visits;       // [visits of a rank] flags of the check
    fm_pipe_program *program;
    double *op_time;
    struct fm_pipe_timing timing;
    size_t ops_per_rank;
    fm_rng rng;
};

enum { FORWARD = 1, INPUT = 2 };

// The rank's order is right by itself, chunks pass each lane in order, and the cap holds.
static int is_allowed(struct walker *walker, int rank)
{
    const struct fm_pipe_problem *problem = walker->problem;
    const struct sequence *mine = &walker->ranks[rank];
    size_t chunks = (size_t)problem->layout.chunks[0];
    int next[2][FM_PIPE_LANES_MAX] = {{0}};
    memset(walker->visits, 0, chunks * (size_t)problem->layout.lanes);
    for (size_t i = 0; i < mine->count; i++) {
        const fm_pipe_op *op = &mine->ops[i];
        if (op->kind == FM_PIPE_W) {
            if (!(walker->visits[(size_t)op->lane * chunks + (size_t)op->chunk] & INPUT))
                return 0;
            continue;
        }
        int lane = fm_pipe_back_lane(op);
        int32_t chunk = fm_pipe_back_chunk(op);
        if (fm_pipe_has_backward(op)) {
            uint8_t *visit = &walker->visits[(size_t)lane * chunks + (size_t)chunk];
            if (!(*visit & FORWARD) || chunk != next[1][lane]++)
                return 0;
            *visit |= INPUT;
        }
        if (fm_pipe_has_forward(op)) {
            if (op->chunk != next[0][op->lane]++)
                return 0;
            walker->visits[(size_t)op->lane * chunks + (size_t)op->chunk] |= FORWARD;
        }
    }
    return !fm_pipe_exceeds(fm_pipe_rank_memory(problem, rank, mine->ops, mine->count), problem->cap);
}

static void move_op(struct sequence *mine, size_t from, size_t to)
{
    fm_pipe_op op = mine->ops[from];
    if (from < to)
        memmove(&mine->ops[from], &mine->ops[from + 1], (to - from) * sizeof op);
    else
        memmove(&mine->ops[to + 1], &mine->ops[to], (from - to) * sizeof op);
    mine->ops[to] = op;
}

static void insert_op(struct sequence *mine, size_t at, fm_pipe_op op)
{
    memmove(&mine->ops[at + 1], &mine->ops[at], (mine->count - at) * sizeof op);
    mine->ops[at] = op;
    mine->count++;
}

static void remove_op(struct sequence *mine, size_t at)
{
    mine->count--;
    memmove(&mine->ops[at], &mine->ops[at + 1], (mine->count - at) * sizeof *mine->ops);
}

// F and B side by side become a pair; a pair comes apart.
static int change_pair(struct walker *walker, struct sequence *mine, size_t at)
{
    fm_pipe_op op = mine->ops[at];
    if (op.kind == FM_PIPE_FB) {
        fm_pipe_op backward = {.kind = FM_PIPE_B, .lane = op.back_lane, .chunk = op.back_chunk};
        mine->ops[at] = (fm_pipe_op){.kind = FM_PIPE_F, .lane = op.lane, .chunk = op.chunk};
        insert_op(mine, at + (fm_base_rng_u64(&walker->rng) & 1), backward);
        return 1;
    }
    if (at + 1 == mine->count)
        return 0;
    fm_pipe_op next = mine->ops[at + 1];
    fm_pipe_op forward = op.kind == FM_PIPE_F ? op : next;
    fm_pipe_op backward = op.kind == FM_PIPE_F ? next : op;
    if (forward.kind != FM_PIPE_F || backward.kind != FM_PIPE_B)
        return 0;
    mine->ops[at] = (fm_pipe_op){.kind = FM_PIPE_FB,
                                 .lane = forward.lane,
                                 .back_lane = backward.lane,
                                 .chunk = forward.chunk,
                                 .back_chunk = backward.chunk};
    remove_op(mine, at + 1);
    return 1;
}

// B becomes I with its W behind it; I takes its W in and becomes B.
static int change_split(struct sequence *mine, size_t at)
{
    fm_pipe_op op = mine->ops[at];
    if (op.kind == FM_PIPE_B) {
        mine->ops[at].kind = FM_PIPE_I;
        op.kind = FM_PIPE_W;
        insert_op(mine, at + 1, op);
        return 1;
    }
    if (op.kind != FM_PIPE_I)
        return 0;
    size_t i = at + 1;
    while (mine->ops[i].kind != FM_PIPE_W || mine->ops[i].lane != op.lane || mine->ops[i].chunk != op.chunk)
        i++;
    remove_op(mine, i);
    mine->ops[at].kind = FM_PIPE_B;
    return 1;
}

// One random change of one rank; 0 when what was drawn does not apply.
static int change(struct walker *walker, int rank)
{
    struct sequence *mine = &walker->ranks[rank];
    size_t at = fm_base_rng_below(&walker->rng, mine->count);
    uint64_t kind = fm_base_rng_below(&walker->rng, 8);
    if (kind == 0)
        return !walker->problem->search->no_pairs && change_pair(walker, mine, at);
    if (kind == 1)
        return !walker->problem->search->no_split && change_split(mine, at);
    // Most useful moves are short; W goes anywhere.
    size_t reach = mine->ops[at].kind == FM_PIPE_W ? mine->count : 6;
    size_t low = at > reach ? at - reach : 0;
    size_t high = at + reach < mine->count ? at + reach : mine->count - 1;
    size_t to = low + fm_base_rng_below(&walker->rng, high - low + 1);
    if (to == at)
        return 0;
    move_op(mine, at, to);
    return 1;
}

// Writes the sequences into the program and times it: makespan, or -1.
static double evaluate(struct walker *walker, double *out_settle)
{
    const fm_pipe_program *layout = &walker->problem->layout;
    fm_pipe_op *ops = fm_pipe_ops_mutable(walker->program);
    size_t total = 0;
    for (int rank = 0; rank < layout->ranks; rank++) {
        const struct sequence *mine = &walker->ranks[rank];
        memcpy(&ops[total], mine->ops, mine->count * sizeof *ops);
        for (size_t i = 0; i < mine->count; i++)
            walker->op_time[total + i] = fm_pipe_problem_op_cost(walker->problem, rank, &mine->ops[i]);
        total += mine->count;
        fm_pipe_first_mutable(walker->program)[rank + 1] = total;
    }
    double makespan = fm_pipe_timing_run(&walker->timing);
    *out_settle = 0;
    for (int rank = 0; rank < layout->ranks; rank++)
        *out_settle += walker->timing.rank_free[rank];
    return makespan;
}

// A mean end that sinks shows the way where the makespan is flat.
static double score(const struct walker *walker, double makespan, double settle)
{
    return makespan + 0.01 * settle / walker->problem->layout.ranks;
}

static fm_status keep(const struct walker *walker, double makespan, double settle, struct fm_pipe_best *best)
{
    fm_pipe_program *copy;
    size_t total = fm_pipe_op_total(walker->program);
    FM_TRY(fm_pipe_program_alloc(&walker->problem->layout, total, &copy));
    memcpy(fm_pipe_ops_mutable(copy), walker->program->ops, total * sizeof *copy->ops);
    memcpy(fm_pipe_first_mutable(copy), walker->program->first,
           ((size_t)copy->ranks + 1) * sizeof *copy->first);
    fm_pipe_program_free(best->program);
    *best = (struct fm_pipe_best){copy, makespan, settle};
    return FM_OK;
}

// Draws a change of one rank that leaves its order right; the rank as it was goes to `spare`. -1: none was found.
static int draw_change(struct walker *walker)
{
    // About one draw in ten applies; where next to none does, there is nothing to search.
    enum { DRAWS = 1000 };
    for (int draw = 0; draw < DRAWS; draw++) {
        int rank = (int)fm_base_rng_below(&walker->rng, (uint64_t)walker->problem->layout.ranks);
        struct sequence *mine = &walker->ranks[rank];
        memcpy(walker->spare.ops, mine->ops, mine->count * sizeof *mine->ops);
        walker->spare.count = mine->count;
        if (change(walker, rank) && is_allowed(walker, rank))
            return rank;
        memcpy(mine->ops, walker->spare.ops, walker->spare.count * sizeof *mine->ops);
        mine->count = walker->spare.count;
    }
    return -1;
}

static fm_status walk(struct walker *walker, struct fm_pipe_best *best)
{
    const struct fm_pipe_problem *problem = walker->problem;
    double present = score(walker, best->makespan, best->settle);
    double hottest = 0.02 * best->makespan;
    for (int64_t trial = 0; trial < problem->trials && fm_pipe_exceeds(best->makespan, problem->bound);
         trial++) {
        int rank = draw_change(walker);
        if (rank < 0)
            return FM_OK;
        double settle = 0;
        double makespan = evaluate(walker, &settle);
        // A random threshold that cools down, not a logarithm of one: exact arithmetic makes results the same everywhere.
        double heat = hottest * (1 - (double)trial / (double)problem->trials);
        double slack = heat * fm_rng_double(&walker->rng);
        if (makespan < 0 || score(walker, makespan, settle) > present + slack * slack / hottest) {
            struct sequence changed = walker->ranks[rank];
            walker->ranks[rank] = walker->spare;
            walker->spare = changed;
            continue;
        }
        present = score(walker, makespan, settle);
        if (makespan < best->makespan || (makespan == best->makespan && settle < best->settle))
            FM_TRY(keep(walker, makespan, settle, best));
    }
    return FM_OK;
}

static fm_status alloc_walker(struct walker *walker, const fm_pipe_program *from, fm_arena *arena)
{
    const fm_pipe_program *layout = &walker->problem->layout;
    size_t ranks = (size_t)layout->ranks;
    size_t capacity = fm_pipe_program_capacity(layout);
    walker->ops_per_rank = capacity / ranks;
    walker->ranks = fm_base_arena_alloc(arena, ranks * sizeof *walker->ranks);
    walker->visits = fm_base_arena_alloc(arena, (size_t)layout->lanes * (size_t)layout->chunks[0]);
    walker->op_time = fm_base_arena_alloc(arena, capacity * sizeof *walker->op_time);
    fm_pipe_op *ops = fm_base_arena_alloc(arena, (ranks + 1) * walker->ops_per_rank * sizeof *ops);
    if (!walker->ranks || !walker->visits || !walker->op_time || !ops)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to search over %zu ops", capacity);
    for (int rank = 0; rank < layout->ranks; rank++) {
        struct sequence *mine = &walker->ranks[rank];
        mine->ops = ops + (size_t)rank * walker->ops_per_rank;
        mine->count = fm_pipe_count_of(from, rank);
        memcpy(mine->ops, fm_pipe_ops_of(from, rank), mine->count * sizeof *ops);
    }
    walker->spare.ops = ops + ranks * walker->ops_per_rank;
    FM_TRY(fm_pipe_program_alloc(layout, capacity, &walker->program));
    FM_TRY(fm_pipe_timing_init(walker->program, capacity, &walker->timing));
    walker->timing.op_time = walker->op_time;
    walker->timing.latency = walker->problem->latency;
    walker->timing.transfer = walker->problem->transfer;
    return FM_OK;
}

fm_status fm_pipe_search_local(const struct fm_pipe_problem *problem, struct fm_pipe_best *best)
{
    fm_arena arena = {0};
    struct walker walker = {.problem = problem, .rng = fm_base_rng_begin(problem->search->seed, 0)};
    fm_status status = alloc_walker(&walker, best->program, &arena);
    if (status == FM_OK)
        status = walk(&walker, best);
    fm_pipe_timing_free(&walker.timing);
    fm_pipe_program_free(walker.program);
    fm_base_arena_clear(&arena);
    return status;
}
