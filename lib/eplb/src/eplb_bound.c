/*
 * Threshold bounds.
 *
 * Take GPUs of at most s slots each, R replicas, and a load T that the fastest GPU may have; a GPU of speed v
 * then may have T v / v_max. Take a function f >= 0, and let F_g be the most that the f of the shares on GPU g
 * can sum to, whatever shares within its slots and its load they are. A placement within these loads, whose
 * expert e has c_e replicas of share w_e / c_e <= T, then satisfies
 *
 *     sum_e c_e f(w_e / c_e) <= sum_g F_g   and   sum_e c_e <= R,
 *
 * hence, for every price p >= 0 of a replica,
 *
 *     sum_e min over c >= w_e / T of c (f(w_e / c) + p)  <=  sum_g F_g + p R.                                 (*)
 *
 * Where (*) fails there is no such placement: on every placement's busiest GPU it takes longer.
 *
 * The functions. For a threshold t > 0 and j >= 1 with j t <= T / 2 let m = min(s, ceil(T / t) - 1) and,
 * where m >= j,
 *
 *     f(x) = 0 for x <= t,   1 / m for t < x <= T - j t,   1 - (j - 1) / m for x > T - j t.
 *
 * At most m shares of one GPU exceed t, since each takes more than t of T. When none exceeds T - j t, the sum
 * is at most m / m. When one does, the others sum to less than j t <= T - j t, so none of them exceeds T - j
 * t and at most j - 1 of them exceed t: the sum is at most 1 - (j - 1) / m + (j - 1) / m. So F_g = 1 on the
 * fastest GPU of s slots, and on others it is less, by the same count with their slots and their load. The F_g of
 * a convex combination of such f is at most that of theirs.
 *
 * With t = T i / CELLS a combination is a step function over CELLS cells of [0, T], kept as a table. Its
 * weights are found by multiplicative updates: a threshold whose count the cheapest replication (the
 * minimiser in (*)) violates gains weight. Any weights give a proven bound; good ones give a high one. Shares
 * are rounded towards 0 before they are looked up, which can only lower the left side of (*), as f does not
 * fall.
 */
#include "eplb_bound.h"

#include <math.h>
#include <string.h>

enum {
    // Twice as many thresholds gain a thousandth at most on layers of 256 experts, and cost time in proportion.
    CELLS = 256,
    // With four slots and more a GPU the mean is nearly reached, so that thresholds for larger j have nothing
    // to say.
    KINDS_MAX = 3,
    INVERSES = 64,         // few experts get more replicas
    FUNCTIONS_MAX = CELLS, // CELLS / 2 * (1 + 1/2 + 1/3) rounds down to less
};

/*
 * How fast weights and price follow a violation, how many updates without proof make the search aim half as
 * high, where it begins (as a share of the gap) and where it ends. Steps between 3 and 5 prove the most
 * within the same rounds on Zipf, log-normal and uniform loads; larger ones swing, smaller ones crawl.
 */
#define STEP         4.0
#define STEP_PRICE   0.2
#define AIM_FIRST    0.5
#define AIM_LEAST    2e-4
#define PRICE_FIRST  0.3
#define WEIGHT_LEAST 1e-9
enum { TRIES_MAX = 40 };

struct threshold {
    int low;    /* first cell of shares above t */
    int high;   /* first cell of shares above T - j t */
    double mid; /* f between the two */
    double top; /* f from high on */
    double sum; /* of F_g over all GPUs */
};

struct mixture {
    const fm_eplb_problem *problem;
    int functions;
    struct threshold function[FUNCTIONS_MAX];
    double weight[FUNCTIONS_MAX]; /* of each function; sums to 1 once tabulated */
    double sum;                   /* of F_g over all GPUs, of the combination */
    double speed_max;             /* of the GPUs that have slots */
    double inverse[INVERSES];     /* 1 / c */
    double table[CELLS + 1];      /* f of each cell */
    double pieces[CELLS + 1];     /* replicas of each cell in the cheapest replication */
    double price;
    double replicas; /* of the cheapest replication */
};

double fm_eplb_bound_mean(const fm_eplb_problem *problem)
{
    double load = 0;
    double speed = 0;
    for (int e = 0; e < problem->experts; e++)
        load += problem->load[e];
    for (int gpu = 0; gpu < problem->gpus; gpu++)
        if (problem->slot_begin[gpu + 1] > problem->slot_begin[gpu])
            speed += problem->speed[gpu];
    return load / speed;
}

// How many shares above `low` cells come to less than `span` cells together.
static int count_above(double span, int low)
{
    return span > 0 ? (int)ceil(span / low) - 1 : 0;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

// F_g of a GPU with these slots and this load.
static double most_on_gpu(const struct threshold *f, int slots, double span)
{
    double most = smaller(slots, count_above(span, f->low)) * f->mid;
    if (span > f->high && slots > 0)
        most = fmax(most, f->top + smaller(slots - 1, count_above(span - f->high, f->low)) * f->mid);
    return most;
}

static double sum_most(const struct mixture *mixture, const struct threshold *f)
{
    const fm_eplb_problem *p = mixture->problem;
    double sum = 0;
    double most = 0;
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        int slots = p->slot_begin[gpu + 1] - p->slot_begin[gpu];
        int is_same = gpu > 0 && p->speed[gpu] == p->speed[gpu - 1] &&
                      p->slot_begin[gpu] - p->slot_begin[gpu - 1] == slots;
        // Rounded up where it is not exact: a larger F_g proves less, and nothing wrong.
        double span = p->speed[gpu] == mixture->speed_max
                          ? CELLS
                          : CELLS * p->speed[gpu] / mixture->speed_max * (1 + 1e-12);
        most = is_same ? most : most_on_gpu(f, slots, span);
        sum += most;
    }
    return sum;
}

static void mixture_init(struct mixture *mixture, const fm_eplb_problem *problem)
{
    int slots = 0;
    mixture->speed_max = 0;
    for (int gpu = 0; gpu < problem->gpus; gpu++) {
        int here = problem->slot_begin[gpu + 1] - problem->slot_begin[gpu];
        slots = here > slots ? here : slots;
        if (here > 0)
            mixture->speed_max = fmax(mixture->speed_max, problem->speed[gpu]);
    }
    mixture->problem = problem;
    mixture->functions = 0;
    mixture->price = PRICE_FIRST;
    for (int c = 1; c < INVERSES; c++)
        mixture->inverse[c] = 1.0 / c;
    for (int j = 1; j <= KINDS_MAX && j < slots; j++)
        for (int i = 1; 2 * i * j <= CELLS; i++) {
            int m = smaller(count_above(CELLS, i), slots);
            if (m < j)
                continue;
            struct threshold *f = &mixture->function[mixture->functions];
            *f = (struct threshold){i, CELLS - j * i, 1.0 / m, 1 - (j - 1.0) / m, 0};
            f->sum = sum_most(mixture, f);
            mixture->weight[mixture->functions++] = 1;
        }
}

// Normalises the weights and tabulates the combination.
static void mixture_tabulate(struct mixture *mixture)
{
    double sum = 0;
    for (int k = 0; k < mixture->functions; k++)
        sum += mixture->weight[k];
    memset(mixture->table, 0, sizeof mixture->table);
    mixture->sum = 0;
    for (int k = 0; k < mixture->functions; k++) {
        const struct threshold *f = &mixture->function[k];
        // A weight that has fallen to nothing can still come back.
        double weight = mixture->weight[k] = mixture->weight[k] / sum + WEIGHT_LEAST;
        weight /= 1 + mixture->functions * WEIGHT_LEAST;
        mixture->table[f->low] += weight * f->mid;
        mixture->table[f->high] += weight * (f->top - f->mid);
        mixture->sum += weight * f->sum;
    }
    for (int cell = 1; cell <= CELLS; cell++)
        mixture->table[cell] += mixture->table[cell - 1];
}

// The left side of (*) minus the right side, at T = `limit`; leaves the cheapest replication in pieces and
// replicas.
static double evaluate(struct mixture *mixture, double limit)
{
    const fm_eplb_problem *p = mixture->problem;
    double price = mixture->price;
    double cost = 0;
    double replicas = 0;
    memset(mixture->pieces, 0, sizeof mixture->pieces);
    for (int e = 0; e < p->experts; e++) {
        // Shrunk by more than any rounding, and by less than matters: cells and least counts come out no
        // larger than they are.
        double share = p->load[e] / limit * (1 - 1e-12);
        int least = (int)share + 1;
        double best = HUGE_VAL;
        int best_count = least;
        int best_cell = 0;
        for (int c = least; c * price < best; c++) {
            int cell = (int)(share * CELLS * (c < INVERSES ? mixture->inverse[c] : 1.0 / c));
            double here = c * (mixture->table[cell] + price);
            if (here < best) {
                best = here;
                best_count = c;
                best_cell = cell;
            }
            if (mixture->table[cell] == 0)
                break;
        }
        cost += best;
        replicas += best_count;
        mixture->pieces[best_cell] += best_count;
    }
    mixture->replicas = replicas;
    return cost - mixture->sum - price * p->replicas;
}

// (1 + x / 256) ^ 256, up to 10 ^ 25. Any weights prove a bound, so this need not be close; x is above -STEP.
static double rough_exp(double x)
{
    double y = 1 + fmin(x, 64) / 256;
    for (int i = 0; i < 8; i++)
        y *= y;
    return y;
}

static void learn(struct mixture *mixture)
{
    const fm_eplb_problem *p = mixture->problem;
    double *above = mixture->pieces; // becomes the number of replicas in a cell and beyond
    for (int cell = CELLS - 1; cell >= 0; cell--)
        above[cell] += above[cell + 1];
    for (int k = 0; k < mixture->functions; k++) {
        const struct threshold *f = &mixture->function[k];
        double sum = f->mid * above[f->low] + (f->top - f->mid) * above[f->high];
        mixture->weight[k] *= rough_exp(STEP * (sum / f->sum - 1));
    }
    mixture->price += STEP_PRICE * (mixture->replicas / p->replicas - 1);
    if (mixture->price < 0)
        mixture->price = 0;
}

double fm_eplb_bound_raise(const fm_eplb_problem *problem, double bound, double time, int rounds,
                           uint64_t deadline_ns)
{
    struct mixture mixture;
    mixture_init(&mixture, problem);
    if (mixture.functions == 0 || bound <= 0)
        return bound;
    double aim = AIM_FIRST * (time / bound - 1);
    int tries = 0;
    for (int round = 0; round < rounds && aim > AIM_LEAST && !fm_eplb_late(deadline_ns); round++) {
        double goal = bound * (1 + aim);
        mixture_tabulate(&mixture);
        // The margin covers the rounding of the sums.
        if (evaluate(&mixture, goal * mixture.speed_max) >
            1e-9 * (mixture.sum + mixture.price * problem->replicas)) {
            bound = goal;
            aim = fmin(aim, AIM_FIRST * (time / bound - 1));
            tries = 0;
            continue;
        }
        learn(&mixture);
        if (++tries == TRIES_MAX) {
            aim /= 2;
            tries = 0;
        }
    }
    return bound;
}
