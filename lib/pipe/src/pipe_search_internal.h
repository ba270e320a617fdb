/**
 * @file pipe_search_internal.h
 * The search's inside: pipe_search.c collects candidates, pipe_search_list.c and
 * pipe_search_pattern.c build them, pipe_search_local.c improves the best one, pipe_search_exact.c proves or beats it.
 */
#ifndef FM_PIPE_SEARCH_INTERNAL_H
#define FM_PIPE_SEARCH_INTERNAL_H

#include "pipe_internal.h"

/** What is searched for, with the defaults filled in. */
struct fm_pipe_problem {
    const fm_pipe_search *search;
    fm_pipe_program layout; /**< no ops */
    struct fm_pipe_route *routes;
    /** [ranks * lanes] with the rank's factor; fb stays 0 where it is not given. */
    fm_pipe_stage_cost *costs;
    double cap; /**< HUGE_VAL: none */
    double latency;
    double transfer;
    double bound; /**< on the makespan, from below */
    int64_t trials;
    int64_t exact_nodes;
};

/** The best program so far. */
struct fm_pipe_best {
    fm_pipe_program *program;
    double makespan;
    double settle; /**< sum of the ranks' ends: decides between equal makespans */
};

/** Costs of a lane of a rank. */
static inline const fm_pipe_stage_cost *fm_pipe_lane_cost(const struct fm_pipe_problem *problem, int rank,
                                                          int lane)
{
    return &problem->costs[rank * problem->layout.lanes + lane];
}
/** Time of an overlapped pair on a rank. */
static inline double fm_pipe_pair_cost(const struct fm_pipe_problem *problem, int rank, int lane,
                                       int back_lane)
{
    const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(problem, rank, lane);
    return cost->fb > 0 ? cost->fb : cost->f + fm_pipe_lane_cost(problem, rank, back_lane)->b;
}
static inline double fm_pipe_problem_op_cost(const struct fm_pipe_problem *problem, int rank,
                                             const fm_pipe_op *op)
{
    const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(problem, rank, op->lane);
    switch (op->kind) {
    case FM_PIPE_F:
        return cost->f;
    case FM_PIPE_B:
        return cost->b;
    case FM_PIPE_I:
        return cost->i;
    case FM_PIPE_W:
        return cost->w;
    default:
        return fm_pipe_pair_cost(problem, rank, op->lane, op->back_lane);
    }
}

/** Sums of doubles in different orders differ in the last bits; a cap or a makespan is compared with this much grace. */
static inline int fm_pipe_exceeds(double value, double limit)
{
    return value > limit + 1e-9 * (limit < 1 ? 1 : limit);
}

/** Most memory that a rank's ops hold at once. */
double fm_pipe_rank_memory(const struct fm_pipe_problem *problem, int rank, const fm_pipe_op *ops,
                           size_t count);

/**
 * Looks at a program that the callee made, and takes it over: it becomes *best, or is freed. Programs above the cap, or
 * whose ranks wait in a circle, are not looked at further.
 */
fm_status fm_pipe_candidate_offer(const struct fm_pipe_problem *problem, fm_pipe_program *program,
                                  struct fm_pipe_best *best);

/** One list-scheduled program. */
struct fm_pipe_list_rule {
    int in_flight;  /**< micro-batches of a direction that may be between entering and leaving */
    int pairs;      /**< F and B that are ready together become FB */
    int split;      /**< backward is I and W, not B */
    double w_grace; /**< a W may delay what comes next by this share of its time */
    /** NULL, or the order of each rank's forwards and backwards (F and, by `split`, I or B): order_stride a rank. Then
     *  in_flight is not looked at. */
    const fm_pipe_op *order;
    size_t order_stride;
};
/** FM_OK with *out_program NULL when the rule runs into the cap. */
fm_status fm_pipe_list_schedule(const struct fm_pipe_problem *problem, const struct fm_pipe_list_rule *rule,
                                fm_pipe_program **out_program);

/** Offers periodic programs: every micro-batch takes the same way, a period after the one before. */
fm_status fm_pipe_search_pattern(const struct fm_pipe_problem *problem, struct fm_pipe_best *best);

/** Improves *best by trials small changes. */
fm_status fm_pipe_search_local(const struct fm_pipe_problem *problem, struct fm_pipe_best *best);

/** Branch and bound; *out_complete: *best is optimal. */
fm_status fm_pipe_search_exact(const struct fm_pipe_problem *problem, struct fm_pipe_best *best,
                               int *out_complete);

#endif
