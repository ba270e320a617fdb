#include "eplb_search.h"

#include <math.h>
#include <string.h>

#include "fathom/mem.h"

fm_status fm_eplb_search_init(fm_eplb_search *search, int experts, int gpus, int slots)
{
    size_t s = (size_t)slots;
    size_t e = (size_t)experts + 1;
    size_t g = (size_t)gpus;
    *search = (fm_eplb_search){
        .expert = fm_base_mem_alloc(s * sizeof(int32_t)),
        .gpu = fm_base_mem_alloc(s * sizeof(int32_t)),
        .next = fm_base_mem_alloc(s * sizeof(int32_t)),
        .previous = fm_base_mem_alloc(s * sizeof(int32_t)),
        .share = fm_base_mem_alloc(s * sizeof(double)),
        .head = fm_base_mem_alloc(e * sizeof(int32_t)),
        .count = fm_base_mem_alloc(e * sizeof(int32_t)),
        .unit = fm_base_mem_alloc(e * sizeof(double)),
        .load = fm_base_mem_alloc(g * sizeof(double)),
        .time = fm_base_mem_alloc(g * sizeof(double)),
        .change = fm_base_mem_zalloc(g, sizeof(double)),
        .held = fm_base_mem_zalloc(g * e, sizeof(uint16_t)),
        .moves = fm_base_mem_alloc(g * sizeof(int32_t)),
    };
    const fm_eplb_search *x = search;
    if (x->expert && x->gpu && x->next && x->previous && x->share && x->head && x->count && x->unit &&
        x->load && x->time && x->change && x->held && x->moves)
        return FM_OK;
    fm_eplb_search_clean_up(search);
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to search over %d experts on %d GPUs", experts, gpus);
}

void fm_eplb_search_clean_up(fm_eplb_search *search)
{
    void *blocks[] = {search->expert, search->gpu,   search->next, search->previous, search->share,
                      search->head,   search->count, search->unit, search->load,     search->time,
                      search->change, search->held,  search->moves};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        fm_base_mem_free(blocks[i]);
    *search = (fm_eplb_search){0};
}

static uint16_t *held_at(const fm_eplb_search *search, int gpu, int expert)
{
    return &search->held[(size_t)gpu * ((size_t)search->problem->experts + 1) + (size_t)expert];
}

static int held_before(const fm_eplb_search *search, int gpu, int expert)
{
    const fm_eplb_problem *p = search->problem;
    return p->before[(size_t)gpu * ((size_t)p->experts + 1) + (size_t)expert];
}

static void link_slot(fm_eplb_search *search, int slot, int expert)
{
    const fm_eplb_problem *p = search->problem;
    int gpu = search->gpu[slot];
    int after = search->head[expert];
    search->expert[slot] = expert;
    search->share[slot] = search->unit[expert];
    search->next[slot] = after;
    search->previous[slot] = -1;
    search->head[expert] = slot;
    if (after >= 0)
        search->previous[after] = slot;
    uint16_t held = ++*held_at(search, gpu, expert);
    if (p->before && expert != p->experts && held > held_before(search, gpu, expert)) {
        search->moves[gpu]++;
        search->moves_total++;
    }
}

static void unlink_slot(fm_eplb_search *search, int slot)
{
    const fm_eplb_problem *p = search->problem;
    int gpu = search->gpu[slot];
    int expert = search->expert[slot];
    int after = search->next[slot];
    int ahead = search->previous[slot];
    if (ahead >= 0)
        search->next[ahead] = after;
    else
        search->head[expert] = after;
    if (after >= 0)
        search->previous[after] = ahead;
    uint16_t held = --*held_at(search, gpu, expert);
    if (p->before && expert != p->experts && held >= held_before(search, gpu, expert)) {
        search->moves[gpu]--;
        search->moves_total--;
    }
}

// Sums from scratch, so that a state's loads do not depend on the path to it.
static void sum_gpu(fm_eplb_search *search, int gpu)
{
    const fm_eplb_problem *p = search->problem;
    double sum = 0;
    for (int slot = p->slot_begin[gpu]; slot < p->slot_begin[gpu + 1]; slot++)
        sum += search->share[slot];
    search->load[gpu] = sum;
    search->time[gpu] = sum / p->speed[gpu];
}

static void set_count(fm_eplb_search *search, int expert, int count)
{
    const fm_eplb_problem *p = search->problem;
    search->count[expert] = count;
    if (expert == p->experts)
        return;
    search->unit[expert] = p->load[expert] / (count > 0 ? count : 1);
    for (int slot = search->head[expert]; slot >= 0; slot = search->next[slot])
        search->share[slot] = search->unit[expert];
}

void fm_eplb_search_load(fm_eplb_search *search, const fm_eplb_problem *problem, const int32_t *solution)
{
    const fm_eplb_problem *p = search->problem = problem;
    size_t rows = (size_t)p->experts + 1;
    memset(search->held, 0, (size_t)p->gpus * rows * sizeof(uint16_t));
    memset(search->moves, 0, (size_t)p->gpus * sizeof(int32_t));
    search->moves_total = 0;
    search->logging = 0;
    for (int e = 0; e <= p->experts; e++) {
        search->count[e] = 0;
        search->head[e] = -1;
    }
    for (int slot = 0; slot < p->slots; slot++)
        search->count[solution[slot]]++;
    for (int e = 0; e < p->experts; e++)
        search->unit[e] = p->load[e] / (search->count[e] > 0 ? search->count[e] : 1);
    search->unit[p->experts] = 0;
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        for (int slot = p->slot_begin[gpu]; slot < p->slot_begin[gpu + 1]; slot++) {
            search->gpu[slot] = gpu;
            link_slot(search, slot, solution[slot]);
        }
        sum_gpu(search, gpu);
    }
}

int fm_eplb_search_busiest(const fm_eplb_search *search)
{
    const double *time = search->time;
    int busiest = 0;
    for (int gpu = 1; gpu < search->problem->gpus; gpu++)
        if (time[gpu] > time[busiest])
            busiest = gpu;
    return busiest;
}

int fm_eplb_search_held(const fm_eplb_search *search, int gpu, int expert)
{
    return *held_at(search, gpu, expert);
}

static void record(fm_eplb_search *search, int slot, int other, int expert)
{
    if (search->logging)
        search->step[search->step_count++] = (struct fm_eplb_step){slot, other, expert};
}

void fm_eplb_search_swap(fm_eplb_search *search, int a, int b)
{
    int x = search->expert[a];
    int y = search->expert[b];
    record(search, a, b, x);
    unlink_slot(search, a);
    unlink_slot(search, b);
    link_slot(search, a, y);
    link_slot(search, b, x);
    sum_gpu(search, search->gpu[a]);
    sum_gpu(search, search->gpu[b]);
}

void fm_eplb_search_relabel(fm_eplb_search *search, int slot, int expert)
{
    int old = search->expert[slot];
    record(search, slot, -1, old);
    unlink_slot(search, slot);
    set_count(search, old, search->count[old] - 1);
    set_count(search, expert, search->count[expert] + 1);
    link_slot(search, slot, expert);
    sum_gpu(search, search->gpu[slot]);
    int changed[2] = {old, expert};
    for (int i = 0; i < 2; i++)
        if (changed[i] != search->problem->experts)
            for (int s = search->head[changed[i]]; s >= 0; s = search->next[s])
                sum_gpu(search, search->gpu[s]);
}

// Whether a GPU may give up `out` for `in`, moves counted; *moves is how many more copies it then receives.
static int admits(const fm_eplb_search *search, int gpu, int out, int in, int *moves)
{
    const fm_eplb_problem *p = search->problem;
    if (in != p->experts && p->distinct && *held_at(search, gpu, in) > 0)
        return 0;
    *moves = 0;
    if (!p->before)
        return 1;
    if (in != p->experts && *held_at(search, gpu, in) >= held_before(search, gpu, in))
        ++*moves;
    if (out != p->experts && *held_at(search, gpu, out) > held_before(search, gpu, out))
        --*moves;
    return *moves <= 0 || search->moves[gpu] + *moves <= p->moves_per_gpu;
}

static int admits_swap(const fm_eplb_search *search, int a, int b)
{
    int x = search->expert[a];
    int y = search->expert[b];
    int moves_a;
    int moves_b;
    if (x == y || !admits(search, search->gpu[a], x, y, &moves_a) ||
        !admits(search, search->gpu[b], y, x, &moves_b))
        return 0;
    return !search->problem->before || moves_a + moves_b <= 0 ||
           search->moves_total + moves_a + moves_b <= search->problem->moves_total;
}

int fm_eplb_search_admits(const fm_eplb_search *search, int slot, int expert)
{
    int moves;
    return admits(search, search->gpu[slot], search->expert[slot], expert, &moves) &&
           (moves <= 0 || search->moves_total + moves <= search->problem->moves_total);
}

static int admits_relabel(const fm_eplb_search *search, int slot, int expert)
{
    int old = search->expert[slot];
    return expert != old && old != search->problem->experts && search->count[old] >= 2 &&
           fm_eplb_search_admits(search, slot, expert);
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static void add_change(fm_eplb_search *search, int expert, double by)
{
    for (int s = search->head[expert]; s >= 0; s = search->next[s])
        search->change[search->gpu[s]] += by;
}

static double worst_changed(fm_eplb_search *search, int expert, double worst)
{
    for (int s = search->head[expert]; s >= 0; s = search->next[s]) {
        int gpu = search->gpu[s];
        worst = larger(worst, (search->load[gpu] + search->change[gpu]) / search->problem->speed[gpu]);
    }
    return worst;
}

static void clear_change(fm_eplb_search *search, int expert)
{
    for (int s = search->head[expert]; s >= 0; s = search->next[s])
        search->change[search->gpu[s]] = 0;
}

// What a replica takes when an expert has `count` of them.
static double unit_of(const fm_eplb_search *search, int expert, int count)
{
    const fm_eplb_problem *p = search->problem;
    return expert == p->experts ? 0 : p->load[expert] / (count > 0 ? count : 1);
}

double fm_eplb_search_relabel_time(fm_eplb_search *search, int slot, int expert)
{
    const fm_eplb_problem *p = search->problem;
    int old = search->expert[slot];
    int gpu = search->gpu[slot];
    double unit_in = unit_of(search, expert, search->count[expert] + 1);
    double unit_out = unit_of(search, old, search->count[old] - 1);
    // The expert's other replicas get smaller, those of the one that leaves get larger.
    int others[2] = {expert == p->experts ? -1 : expert, old == p->experts ? -1 : old};
    if (others[0] >= 0)
        add_change(search, expert, unit_in - search->unit[expert]);
    if (others[1] >= 0)
        add_change(search, old, unit_out - search->unit[old]);
    search->change[gpu] += unit_in - unit_out;
    double worst = (search->load[gpu] + search->change[gpu]) / p->speed[gpu];
    for (int i = 0; i < 2; i++)
        if (others[i] >= 0)
            worst = worst_changed(search, others[i], worst);
    for (int i = 0; i < 2; i++)
        if (others[i] >= 0)
            clear_change(search, others[i]);
    search->change[gpu] = 0;
    return worst;
}

struct choice {
    double time;
    int slot;
    int other;  /* to swap with, or -1 */
    int expert; /* to relabel to */
};

// The best exchange of a replica on `busiest` for a smaller one elsewhere.
static void choose_swap(const fm_eplb_search *search, int busiest, struct choice *best)
{
    const fm_eplb_problem *p = search->problem;
    double load = search->load[busiest];
    double speed = p->speed[busiest];
    int first = p->slot_begin[busiest];
    int last = p->slot_begin[busiest + 1];
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        double load_other = search->load[gpu];
        double speed_other = p->speed[gpu];
        // Not even an exchange that levels the two GPUs would do.
        if (load + load_other >= best->time * (speed + speed_other) || gpu == busiest)
            continue;
        for (int a = first; a < last; a++)
            for (int b = p->slot_begin[gpu]; b < p->slot_begin[gpu + 1]; b++) {
                double by = search->share[a] - search->share[b];
                if (load - by < best->time * speed && load_other + by < best->time * speed_other && by > 0 &&
                    admits_swap(search, a, b))
                    *best = (struct choice){larger((load - by) / speed, (load_other + by) / speed_other), a,
                                            b, -1};
            }
    }
}

/*
 * Whether a slot's expert has other replicas that can do its part without lifting a GPU to `limit`. The test
 * overlooks what the arriving expert takes off those GPUs, so it passes over a few good steps, for a large gain
 * in speed.
 */
static int can_leave(const fm_eplb_search *search, int slot, double limit)
{
    const fm_eplb_problem *p = search->problem;
    int expert = search->expert[slot];
    int count = search->count[expert];
    if (expert == p->experts || count < 2)
        return 0;
    double more = p->load[expert] / (count - 1) - search->unit[expert];
    for (int s = search->head[expert]; s >= 0; s = search->next[s])
        if (s != slot && search->load[search->gpu[s]] + more >= limit * p->speed[search->gpu[s]])
            return 0;
    return 1;
}

static void consider_relabel(fm_eplb_search *search, int slot, int expert, struct choice *best)
{
    int gpu = search->gpu[slot];
    double unit_in = search->problem->load[expert] / (search->count[expert] + 1);
    double load = search->load[gpu] - search->share[slot] + unit_in;
    if (!search->problem->distinct && *held_at(search, gpu, expert) > 0)
        load -= search->unit[expert] - unit_in;
    if (load >= best->time * search->problem->speed[gpu] || !admits_relabel(search, slot, expert))
        return;
    double time = fm_eplb_search_relabel_time(search, slot, expert);
    if (time < best->time)
        *best = (struct choice){time, slot, -1, expert};
}

// What a GPU takes once an expert that it holds has one replica more elsewhere.
static double time_with_one_more(const fm_eplb_search *search, int gpu, int expert)
{
    double less = search->unit[expert] - unit_of(search, expert, search->count[expert] + 1);
    return (search->load[gpu] - *held_at(search, gpu, expert) * less) / search->problem->speed[gpu];
}

// The best change of replica counts: a further replica for an expert of `busiest`, or another expert in one
// of its slots.
static void choose_relabel(fm_eplb_search *search, int busiest, struct choice *best)
{
    const fm_eplb_problem *p = search->problem;
    int first = p->slot_begin[busiest];
    int last = p->slot_begin[busiest + 1];
    for (int slot = 0; slot < p->slots; slot++) {
        if (search->count[search->expert[slot]] < 2 || !can_leave(search, slot, best->time))
            continue;
        if (search->gpu[slot] == busiest) {
            for (int e = 0; e < p->experts; e++)
                consider_relabel(search, slot, e, best);
        } else {
            for (int a = first; a < last; a++)
                if (search->expert[a] != p->experts &&
                    time_with_one_more(search, busiest, search->expert[a]) < best->time)
                    consider_relabel(search, slot, search->expert[a], best);
        }
    }
}

static void apply(fm_eplb_search *search, const struct choice *choice)
{
    if (choice->other >= 0)
        fm_eplb_search_swap(search, choice->slot, choice->other);
    else
        fm_eplb_search_relabel(search, choice->slot, choice->expert);
}

double fm_eplb_search_descend(fm_eplb_search *search, double enough, uint64_t deadline_ns)
{
    for (;;) {
        int busiest = fm_eplb_search_busiest(search);
        double time = search->time[busiest];
        if ((search->logging && search->step_count == FM_EPLB_STEPS_MAX) ||
            (time <= enough && fm_eplb_late(deadline_ns)))
            return time;
        struct choice best = {time * (1 - FM_EPLB_TOLERANCE), -1, -1, -1};
        choose_swap(search, busiest, &best);
        // Exchanges are the cheaper to find and mostly enough, except where moves are few: a change of counts is
        // one move, an exchange two.
        if (best.slot < 0 || search->problem->before)
            choose_relabel(search, busiest, &best);
        if (best.slot < 0)
            return time;
        apply(search, &best);
    }
}

void fm_eplb_search_repair(fm_eplb_search *search, double limit)
{
    const fm_eplb_problem *p = search->problem;
    for (int slot = 0; p->distinct && slot < p->slots; slot++) {
        int e = search->expert[slot];
        int gpu = search->gpu[slot];
        if (e == p->experts || *held_at(search, gpu, e) < 2)
            continue;
        struct choice best = {limit * (1 + FM_EPLB_TOLERANCE), -1, -1, -1};
        for (int b = 0; b < p->slots; b++) {
            if (search->gpu[b] == gpu || !admits_swap(search, slot, b))
                continue;
            double by = search->share[slot] - search->share[b];
            double time = larger((search->load[gpu] - by) / p->speed[gpu],
                                 (search->load[search->gpu[b]] + by) / p->speed[search->gpu[b]]);
            if (time < best.time)
                best = (struct choice){time, slot, b, -1};
        }
        for (int other = 0; other < p->experts; other++)
            consider_relabel(search, slot, other, &best);
        if (best.slot >= 0)
            apply(search, &best);
    }
}

/*
 * One random change near the busiest GPU: a further replica (of one of its experts, or of any) in place of
 * one that can be spared, or an exchange with any slot. Returns 0 when a few tries found nothing that is
 * allowed.
 */
static int kick(fm_eplb_search *search, uint64_t *random)
{
    enum { TRIES = 16 };
    const fm_eplb_problem *p = search->problem;
    int busiest = fm_eplb_search_busiest(search);
    int first = p->slot_begin[busiest];
    int width = p->slot_begin[busiest + 1] - first;
    for (int i = 0; i < TRIES && width > 0; i++) {
        int near = first + fm_eplb_draw(random, width);
        int slot = fm_eplb_draw(random, p->slots);
        if (fm_eplb_draw(random, 2)) {
            int e = fm_eplb_draw(random, 2) ? search->expert[near] : fm_eplb_draw(random, p->experts);
            if (e != p->experts && admits_relabel(search, slot, e)) {
                fm_eplb_search_relabel(search, slot, e);
                return 1;
            }
        } else if (search->gpu[slot] != busiest && admits_swap(search, near, slot)) {
            fm_eplb_search_swap(search, near, slot);
            return 1;
        }
    }
    return 0;
}

static void undo(fm_eplb_search *search)
{
    search->logging = 0;
    while (search->step_count > 0) {
        const struct fm_eplb_step *step = &search->step[--search->step_count];
        if (step->other >= 0)
            fm_eplb_search_swap(search, step->slot, step->other);
        else
            fm_eplb_search_relabel(search, step->slot, step->expert);
    }
    search->logging = 1;
}

// Gains smaller than this do not renew the patience of a walk: near the optimum it could take them forever.
#define GAIN_LEAST 1e-5

double fm_eplb_search_explore(fm_eplb_search *search, double target, int patience, uint64_t seed,
                              uint64_t deadline_ns)
{
    double best = search->time[fm_eplb_search_busiest(search)];
    double mark = best;
    uint64_t random = seed;
    search->logging = 1;
    search->step_count = 0;
    for (int idle = 0; idle < patience && best > target && !fm_eplb_late(deadline_ns); idle++) {
        // Two changes at once reach what one cannot; more of them undo too much.
        int kicked = kick(search, &random);
        if (fm_eplb_draw(&random, 3) == 0)
            kicked |= kick(search, &random);
        if (!kicked)
            continue;
        double time = fm_eplb_search_descend(search, HUGE_VAL, FM_EPLB_NO_DEADLINE);
        // Sideways steps are kept: they carry the walk over a plateau.
        if (time <= best * (1 + FM_EPLB_TOLERANCE)) {
            best = time < best ? time : best;
            search->step_count = 0;
            if (best < mark * (1 - GAIN_LEAST)) {
                mark = best;
                idle = -1;
            }
        } else {
            undo(search);
        }
    }
    search->logging = 0;
    return best;
}
