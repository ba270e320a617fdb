#include "eplb_hierarchy.h"

#include <math.h>
#include <string.h>

#include "eplb_bound.h"
#include "eplb_exact.h"
#include "eplb_greedy.h"

enum {
    GROUPS = FM_EPLB_HIERARCHY_GROUPS_MAX,
    SETS = FM_EPLB_HIERARCHY_SETS_MAX,
};

struct hierarchy {
    fm_eplb_planner *planner;
    int width; /* groups of a set */
    int sets;
    uint16_t mask[SETS]; /* the groups of each set */
    double bound[SETS];
    uint8_t refined[SETS];
    double least[1 << GROUPS];   /* of each union of disjoint sets: the least largest bound */
    uint8_t choice[1 << GROUPS]; /* the set that holds its first group then */
};

// The number of ways to choose `width` of `groups`, or SETS + 1 when it is larger than SETS.
static int count_sets(int groups, int width)
{
    int count = 1;
    for (int i = 1; i <= width; i++) {
        count = count * (groups - width + i) / i;
        if (count > SETS)
            return SETS + 1;
    }
    return count;
}

int fm_eplb_hierarchy_applies(const fm_eplb_planner *planner)
{
    return planner->nodes > 1 && planner->even && planner->groups <= GROUPS &&
           count_sets(planner->groups, planner->groups / planner->nodes) <= SETS;
}

// The problem of a node that holds a set of groups; the loads are copied to member_load.
static fm_eplb_problem problem_of(const struct hierarchy *hierarchy, int set)
{
    fm_eplb_planner *planner = hierarchy->planner;
    int size = planner->shape->experts / planner->groups;
    int filled = 0;
    for (int group = 0; group < planner->groups; group++)
        if (hierarchy->mask[set] >> group & 1) {
            memcpy(planner->member_load + filled, planner->load + group * size,
                   (size_t)size * sizeof(double));
            filled += size;
        }
    fm_eplb_problem problem = fm_eplb_planner_node(planner, 0);
    problem.distinct = 0;
    return problem;
}

static void list_sets(struct hierarchy *hierarchy)
{
    fm_eplb_planner *planner = hierarchy->planner;
    hierarchy->width = planner->groups / planner->nodes;
    hierarchy->sets = 0;
    for (int mask = 1; mask < 1 << planner->groups; mask++) {
        if (__builtin_popcount((unsigned)mask) != hierarchy->width)
            continue;
        int set = hierarchy->sets++;
        hierarchy->mask[set] = (uint16_t)mask;
        hierarchy->refined[set] = 0;
        fm_eplb_problem problem = problem_of(hierarchy, set);
        double share = fm_eplb_greedy_counts(&problem, planner->heap, planner->count);
        hierarchy->bound[set] = fmax(fm_eplb_bound_mean(&problem), share / problem.speed[0]);
    }
}

// Fills least[] and choice[] for unions of sets; returns the value of all groups.
static double partition(struct hierarchy *hierarchy)
{
    int all = (1 << hierarchy->planner->groups) - 1;
    hierarchy->least[0] = 0;
    for (int mask = 1; mask <= all; mask++) {
        if (__builtin_popcount((unsigned)mask) % hierarchy->width != 0)
            continue;
        hierarchy->least[mask] = HUGE_VAL;
        for (int set = 0; set < hierarchy->sets; set++) {
            int own = hierarchy->mask[set];
            // Nodes are alike, so the set of the first group may be named first.
            if ((own & ~mask) != 0 || (own & mask & -mask) == 0)
                continue;
            double value = fmax(hierarchy->bound[set], hierarchy->least[mask ^ own]);
            if (value < hierarchy->least[mask]) {
                hierarchy->least[mask] = value;
                hierarchy->choice[mask] = (uint8_t)set;
            }
        }
    }
    return hierarchy->least[all];
}

static void refine(struct hierarchy *hierarchy, int set, double time, int rounds, uint64_t deadline_ns)
{
    fm_eplb_problem problem = problem_of(hierarchy, set);
    double *bound = &hierarchy->bound[set];
    hierarchy->refined[set] = 1;
    if (*bound >= time)
        return;
    *bound = fm_eplb_bound_raise(&problem, *bound, time, rounds, deadline_ns);
    if (*bound < time && fm_eplb_exact_applies(&problem) &&
        fm_eplb_exact_solve(&problem, FM_EPLB_EXACT_NODES, deadline_ns, &time, hierarchy->planner->solution))
        *bound = fmax(*bound, time);
}

// The set of the present best partition that has the largest bound and is not refined; -1 when all are.
static int choose_set(const struct hierarchy *hierarchy)
{
    int best = -1;
    for (int mask = (1 << hierarchy->planner->groups) - 1; mask != 0;) {
        int set = hierarchy->choice[mask];
        if (!hierarchy->refined[set] && (best < 0 || hierarchy->bound[set] > hierarchy->bound[best]))
            best = set;
        mask ^= hierarchy->mask[set];
    }
    return best;
}

double fm_eplb_hierarchy_bound(fm_eplb_planner *planner, double bound, double time, int rounds,
                               uint64_t deadline_ns)
{
    struct hierarchy hierarchy = {.planner = planner};
    list_sets(&hierarchy);
    double value = partition(&hierarchy);
    while (value < time && !fm_eplb_late(deadline_ns)) {
        int set = choose_set(&hierarchy);
        if (set < 0)
            break;
        refine(&hierarchy, set, time, rounds, deadline_ns);
        value = partition(&hierarchy);
    }
    int node = 0;
    for (int mask = (1 << planner->groups) - 1; mask != 0; node++) {
        int own = hierarchy.mask[hierarchy.choice[mask]];
        for (int group = 0; group < planner->groups; group++)
            if (own >> group & 1)
                planner->group_node[group] = node;
        mask ^= own;
    }
    fm_eplb_planner_seat_groups(planner);
    return fmax(bound, value);
}
