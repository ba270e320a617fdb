/*
 * Two nested searches: over replica counts, expert by expert, largest load first; and for each count vector
 * over packings, replica by replica, largest share first. A branch ends where a share, the room left below
 * the best time, or the least that must still come into a GPU's open slots shows that it cannot end below the
 * best time. Depth is at most the number of experts plus that of slots, both bounded by eplb_exact.h.
 */
#include "eplb_exact.h"

#include <math.h>
#include <string.h>

enum { EXPERTS = FM_EPLB_EXACT_EXPERTS_MAX, SLOTS = FM_EPLB_EXACT_SLOTS_MAX };

struct exact {
    const fm_eplb_problem *problem;
    uint64_t deadline_ns;
    int nodes;
    double limit; /* the best time found */
    double speed_max;
    int open;               /* GPUs that have slots */
    int32_t order[EXPERTS]; /* experts, largest load first */
    int32_t count[EXPERTS]; /* replicas, in that order */
    int pieces;
    int32_t piece[SLOTS]; /* expert of each replica, largest share first */
    double share[SLOTS];
    double remaining[SLOTS + 1]; /* load of the replicas from here on */
    double load[SLOTS];          /* of each GPU */
    int32_t fill[SLOTS];
    int32_t at[SLOTS]; /* GPU of each placed replica */
    uint8_t held[SLOTS][EXPERTS];
    int32_t moves[SLOTS];
    int moves_total;
    int32_t best[SLOTS];
    int improved;
};

int fm_eplb_exact_applies(const fm_eplb_problem *problem)
{
    return problem->experts <= EXPERTS && problem->slots <= SLOTS && problem->gpus <= SLOTS;
}

static int room_of(const fm_eplb_problem *p, int gpu)
{
    return p->slot_begin[gpu + 1] - p->slot_begin[gpu];
}

static void record(struct exact *exact)
{
    const fm_eplb_problem *p = exact->problem;
    double time = 0;
    for (int gpu = 0; gpu < p->gpus; gpu++)
        time = fmax(time, exact->load[gpu] / p->speed[gpu]);
    exact->limit = time;
    exact->improved = 1;
    int32_t fill[SLOTS] = {0};
    for (int slot = 0; slot < p->slots; slot++)
        exact->best[slot] = p->experts;
    for (int k = 0; k < exact->pieces; k++) {
        int gpu = exact->at[k];
        exact->best[p->slot_begin[gpu] + fill[gpu]++] = exact->piece[k];
    }
}

// What a GPU may still take below the limit, over all GPUs; -1 when one cannot be filled below it.
static double room_below_limit(const struct exact *exact, double least)
{
    const fm_eplb_problem *p = exact->problem;
    int full = p->replicas == p->slots;
    double sum = 0;
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        int open = room_of(p, gpu) - exact->fill[gpu];
        if (open == 0)
            continue;
        double room = exact->limit * p->speed[gpu] - exact->load[gpu];
        if (full && open * least >= room)
            return -1;
        sum += room;
    }
    return sum;
}

// Whether an earlier GPU is in the same state, so that a replica put here would repeat what was tried there.
static int is_repeat(const struct exact *exact, int gpu)
{
    const fm_eplb_problem *p = exact->problem;
    if (p->before)
        return 0;
    for (int other = 0; other < gpu; other++)
        if (exact->fill[other] == exact->fill[gpu] && exact->load[other] == exact->load[gpu] &&
            room_of(p, other) == room_of(p, gpu) && p->speed[other] == p->speed[gpu] &&
            memcmp(exact->held[other], exact->held[gpu], sizeof exact->held[0]) == 0)
            return 1;
    return 0;
}

static int is_move(const struct exact *exact, int gpu, int expert)
{
    const fm_eplb_problem *p = exact->problem;
    return p->before && exact->held[gpu][expert] >= p->before[gpu * (p->experts + 1) + expert];
}

static int may_place(const struct exact *exact, int k, int gpu)
{
    const fm_eplb_problem *p = exact->problem;
    int expert = exact->piece[k];
    if (exact->fill[gpu] == room_of(p, gpu) ||
        (exact->load[gpu] + exact->share[k]) / p->speed[gpu] >= exact->limit * (1 - FM_EPLB_TOLERANCE))
        return 0;
    if (p->distinct && exact->held[gpu][expert])
        return 0;
    // Replicas of one expert are alike: they go to GPUs in ascending order.
    if (k > 0 && exact->piece[k - 1] == expert && gpu < exact->at[k - 1])
        return 0;
    if (is_move(exact, gpu, expert) &&
        (exact->moves[gpu] == p->moves_per_gpu || exact->moves_total == p->moves_total))
        return 0;
    return !is_repeat(exact, gpu);
}

static void pack(struct exact *exact, int k)
{
    const fm_eplb_problem *p = exact->problem;
    if (--exact->nodes < 0 || (exact->nodes % 1024 == 0 && fm_eplb_late(exact->deadline_ns))) {
        exact->nodes = -1;
        return;
    }
    if (k == exact->pieces) {
        record(exact);
        return;
    }
    if (room_below_limit(exact, exact->share[exact->pieces - 1]) < exact->remaining[k])
        return;
    int expert = exact->piece[k];
    double share = exact->share[k];
    for (int gpu = 0; gpu < p->gpus && exact->nodes >= 0; gpu++) {
        if (!may_place(exact, k, gpu))
            continue;
        int move = is_move(exact, gpu, expert);
        double load = exact->load[gpu];
        exact->load[gpu] += share;
        exact->fill[gpu]++;
        exact->held[gpu][expert]++;
        exact->moves[gpu] += move;
        exact->moves_total += move;
        exact->at[k] = gpu;
        pack(exact, k + 1);
        exact->load[gpu] = load;
        exact->fill[gpu]--;
        exact->held[gpu][expert]--;
        exact->moves[gpu] -= move;
        exact->moves_total -= move;
    }
}

static void pack_counts(struct exact *exact)
{
    const fm_eplb_problem *p = exact->problem;
    exact->pieces = 0;
    for (int i = 0; i < p->experts; i++) {
        int expert = exact->order[i];
        double share = p->load[expert] / exact->count[i];
        int at = exact->pieces;
        for (; at > 0 && exact->share[at - 1] < share; at--) {
            exact->share[at + exact->count[i] - 1] = exact->share[at - 1];
            exact->piece[at + exact->count[i] - 1] = exact->piece[at - 1];
        }
        for (int c = 0; c < exact->count[i]; c++) {
            exact->share[at + c] = share;
            exact->piece[at + c] = expert;
        }
        exact->pieces += exact->count[i];
    }
    exact->remaining[exact->pieces] = 0;
    for (int k = exact->pieces - 1; k >= 0; k--)
        exact->remaining[k] = exact->remaining[k + 1] + exact->share[k] * (1 - FM_EPLB_TOLERANCE);
    pack(exact, 0);
}

// Replica counts for the experts from `i` on, which share `left` replicas.
static void count_from(struct exact *exact, int i, int left)
{
    const fm_eplb_problem *p = exact->problem;
    if (i == p->experts) {
        pack_counts(exact);
        return;
    }
    exact->nodes--;
    double load = p->load[exact->order[i]];
    int after = p->experts - 1 - i;
    int most = left - after;
    if (p->distinct && most > exact->open)
        most = exact->open;
    int fewest = after == 0 ? left : 1;
    // Equal loads are alike: the earlier one gets no fewer replicas.
    if (i > 0 && load == p->load[exact->order[i - 1]] && !p->before && most > exact->count[i - 1])
        most = exact->count[i - 1];
    for (int c = fewest; c <= most && exact->nodes >= 0; c++) {
        if (load / c >= exact->limit * exact->speed_max)
            continue;
        exact->count[i] = c;
        count_from(exact, i + 1, left - c);
    }
}

int fm_eplb_exact_solve(const fm_eplb_problem *problem, int nodes, uint64_t deadline_ns, double *time,
                        int32_t *solution)
{
    struct exact exact = {.problem = problem, .deadline_ns = deadline_ns, .nodes = nodes, .limit = *time};
    for (int gpu = 0; gpu < problem->gpus; gpu++)
        if (room_of(problem, gpu) > 0) {
            exact.open++;
            exact.speed_max = fmax(exact.speed_max, problem->speed[gpu]);
        }
    for (int e = 0; e < problem->experts; e++) {
        int at = e;
        for (; at > 0 && problem->load[exact.order[at - 1]] < problem->load[e]; at--)
            exact.order[at] = exact.order[at - 1];
        exact.order[at] = e;
    }
    count_from(&exact, 0, problem->replicas);
    if (exact.improved) {
        *time = exact.limit;
        memcpy(solution, exact.best, (size_t)problem->slots * sizeof *solution);
    }
    return exact.nodes >= 0;
}
