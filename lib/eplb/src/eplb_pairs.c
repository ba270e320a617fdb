#include "eplb_pairs.h"

#include <string.h>

#include "eplb_keys.h"

struct pairs {
    const fm_eplb_problem *problem;
    double *share;     /* [slots] ascending */
    double *candidate; /* [slots] the shares after a change */
    uint64_t *keys;    /* [2 * slots] for the final sort */
    int32_t *count;    /* [experts] */
    int32_t *multiple; /* experts with two replicas and more */
    int32_t *place;    /* [experts] where an expert stands in `multiple` */
    int multiples;
    int32_t *gain_more; /* [experts] what one replica more does to the largest pair, see find_gains() */
    int32_t *gain_less; /* [experts] one replica less; kept for those in `multiple` */
    int deficit;
};

int fm_eplb_pairs_apply(const fm_eplb_problem *problem)
{
    if (problem->replicas != problem->slots || problem->before)
        return 0;
    for (int gpu = 0; gpu < problem->gpus; gpu++)
        if (problem->slot_begin[gpu + 1] - problem->slot_begin[gpu] != 2 ||
            problem->speed[gpu] != problem->speed[0])
            return 0;
    return 1;
}

size_t fm_eplb_pairs_workspace(int experts, int slots)
{
    return (size_t)slots * (2 * sizeof(double) + 2 * sizeof(uint64_t)) +
           (size_t)experts * 5 * sizeof(int32_t);
}

static int lower_bound(const double *sorted, int count, double value)
{
    int low = 0;
    for (int high = count; low < high;) {
        int middle = (low + high) / 2;
        if (sorted[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// Takes `copies` entries of exactly this value out of `count`, or puts them in.
static void take_out(double *sorted, int count, double value, int copies)
{
    int at = lower_bound(sorted, count, value);
    memmove(sorted + at, sorted + at + copies, (size_t)(count - at - copies) * sizeof *sorted);
}

static void put_in(double *sorted, int count, double value, int copies)
{
    int at = lower_bound(sorted, count, value);
    memmove(sorted + at + copies, sorted + at, (size_t)(count - at) * sizeof *sorted);
    for (int i = 0; i < copies; i++)
        sorted[at + i] = value;
}

// The largest pair, or the first found above `limit`.
static double largest_pair(const double *sorted, int slots, double limit)
{
    double largest = 0;
    for (int i = 0, j = slots - 1; i < j; i++, j--) {
        double sum = sorted[i] + sorted[j];
        if (sum > largest) {
            largest = sum;
            if (sum > limit)
                return sum;
        }
    }
    return largest;
}

static void set_count(struct pairs *pairs, int expert, int count)
{
    pairs->count[expert] = count;
    int32_t place = pairs->place[expert];
    if (count >= 2 && place < 0) {
        pairs->place[expert] = pairs->multiples;
        pairs->multiple[pairs->multiples++] = expert;
    } else if (count < 2 && place >= 0) {
        int32_t last = pairs->multiple[--pairs->multiples];
        pairs->multiple[place] = last;
        pairs->place[last] = place;
        pairs->place[expert] = -1;
    }
}

static void pairs_init(struct pairs *pairs, const fm_eplb_problem *problem, void *workspace,
                       const int32_t *solution)
{
    size_t slots = (size_t)problem->slots;
    size_t experts = (size_t)problem->experts;
    pairs->problem = problem;
    pairs->share = workspace;
    pairs->candidate = pairs->share + slots;
    pairs->keys = (uint64_t *)(pairs->candidate + slots);
    pairs->count = (int32_t *)(pairs->keys + 2 * slots);
    pairs->multiple = pairs->count + experts;
    pairs->place = pairs->multiple + experts;
    pairs->gain_more = pairs->place + experts;
    pairs->gain_less = pairs->gain_more + experts;
    pairs->multiples = 0;
    memset(pairs->count, 0, experts * sizeof(int32_t));
    for (size_t slot = 0; slot < slots; slot++)
        pairs->count[solution[slot]]++;
    int filled = 0;
    for (int e = 0; e < problem->experts; e++) {
        pairs->place[e] = -1;
        set_count(pairs, e, pairs->count[e]);
        put_in(pairs->share, filled, problem->load[e] / pairs->count[e], pairs->count[e]);
        filled += pairs->count[e];
    }
}

// The shares after one replica of `from` has become one of `to`.
static void propose(struct pairs *pairs, int from, int to)
{
    const double *load = pairs->problem->load;
    int slots = pairs->problem->slots;
    int less = pairs->count[from];
    int more = pairs->count[to];
    memcpy(pairs->candidate, pairs->share, (size_t)slots * sizeof(double));
    take_out(pairs->candidate, slots, load[from] / less, less);
    put_in(pairs->candidate, slots - less, load[from] / (less - 1), less - 1);
    take_out(pairs->candidate, slots - 1, load[to] / more, more);
    put_in(pairs->candidate, slots - 1 - more, load[to] / (more + 1), more + 1);
}

// How many of `count` replicas of one share are small or not large.
static int weigh(double share, int count, double small, double large)
{
    return count * ((share < small) - (share >= large));
}

/*
 * Let (small, large) be the largest pair. It gets smaller only if afterwards no more shares are >= large than
 * are < small: the difference is the deficit, and each change of an expert's count adds its gain to the other
 * side.
 */
static void find_gains(struct pairs *pairs, double largest)
{
    const fm_eplb_problem *p = pairs->problem;
    const double *share = pairs->share;
    int i = 0;
    while (share[i] + share[p->slots - 1 - i] < largest)
        i++;
    double small = share[i];
    double large = share[p->slots - 1 - i];
    pairs->deficit = p->slots - lower_bound(share, p->slots, large) - lower_bound(share, p->slots, small);
    for (int e = 0; e < p->experts; e++) {
        int count = pairs->count[e];
        int now = weigh(p->load[e] / count, count, small, large);
        pairs->gain_more[e] = weigh(p->load[e] / (count + 1), count + 1, small, large) - now;
        if (count > 1)
            pairs->gain_less[e] = weigh(p->load[e] / (count - 1), count - 1, small, large) - now;
    }
}

// Sorts the replicas by share and pairs them from both ends.
static void place_pairs(struct pairs *pairs, int32_t *solution)
{
    const fm_eplb_problem *p = pairs->problem;
    uint64_t *keys = pairs->keys;
    int filled = 0;
    for (int e = 0; e < p->experts; e++)
        for (int i = 0; i < pairs->count[e]; i++)
            solution[filled++] = e;
    // Keys hold 32 bits of a value, too few for a double: the rank among the sorted shares stands for the
    // share.
    for (int i = 0; i < p->slots; i++) {
        double share = p->load[solution[i]] / pairs->count[solution[i]];
        keys[i] = fm_eplb_key((uint32_t)lower_bound(pairs->share, p->slots, share), (uint32_t)solution[i]);
    }
    fm_eplb_keys_sort(keys, keys + p->slots, p->slots);
    for (int i = 0, j = p->slots - 1; i < j; i++, j--) {
        solution[2 * i] = (int32_t)(uint32_t)keys[j];
        solution[2 * i + 1] = (int32_t)(uint32_t)keys[i];
    }
}

double fm_eplb_pairs_search(const fm_eplb_problem *problem, void *workspace, double target, int patience,
                            uint64_t seed, uint64_t deadline_ns, int32_t *solution)
{
    enum {
        CLOCK_EVERY = 64, // a candidate costs as much as a few looks at the clock
        SIDEWAYS_EVERY =
            8 // changes that cannot lower the largest pair are tried at random, to leave plateaus
    };
    struct pairs pairs;
    pairs_init(&pairs, problem, workspace, solution);
    double speed = problem->speed[0];
    double best = largest_pair(pairs.share, problem->slots, 1e300);
    find_gains(&pairs, best);
    for (int idle = 0, i = 0; idle < patience && best > target * speed && pairs.multiples > 0; idle++, i++) {
        if (i % CLOCK_EVERY == 0 && fm_eplb_late(deadline_ns))
            break;
        int from = pairs.multiple[fm_eplb_draw(&seed, pairs.multiples)];
        int to = fm_eplb_draw(&seed, problem->experts);
        if (from == to || (pairs.gain_more[to] + pairs.gain_less[from] < pairs.deficit &&
                           fm_eplb_draw(&seed, SIDEWAYS_EVERY) > 0))
            continue;
        propose(&pairs, from, to);
        double time = largest_pair(pairs.candidate, problem->slots, best);
        if (time > best)
            continue;
        if (time < best)
            idle = 0;
        best = time;
        double *swap = pairs.share;
        pairs.share = pairs.candidate;
        pairs.candidate = swap;
        set_count(&pairs, from, pairs.count[from] - 1);
        set_count(&pairs, to, pairs.count[to] + 1);
        find_gains(&pairs, best);
    }
    place_pairs(&pairs, solution);
    return best / speed;
}
