#include "eplb_oracle.h"

#include <math.h>
#include <string.h>

void oracle_loads(fm_gen *gen, int kind, int experts, float *weight)
{
    for (int e = 0; e < experts; e++) {
        double x = fm_gen_real(gen, 0, 1);
        if (kind == 1)
            x = exp((double)fm_gen_normal(gen));
        else if (kind == 2)
            x = pow(1 + (double)fm_gen_int(gen, 0, experts - 1), -0.8);
        else if (kind == 3)
            x = (double)fm_gen_int(gen, 1, 4);
        else if (kind == 4)
            x = fm_gen_chance(gen, 0.4) ? 0 : x;
        weight[e] = (float)(x * 1000);
    }
}

void oracle_draw(oracle_problem *oracle, fm_gen *gen, int experts_max, int gpus_max, int room_max, int even)
{
    fm_eplb_problem *p = &oracle->problem;
    *p = (fm_eplb_problem){.load = oracle->load, .slot_begin = oracle->slot_begin, .speed = oracle->speed};
    p->gpus = (int)fm_gen_int(gen, 1, gpus_max);
    int room = (int)fm_gen_int(gen, 1, room_max);
    oracle->slot_begin[0] = 0;
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        int here = even || fm_gen_chance(gen, 0.5) ? room : (int)fm_gen_int(gen, gpu > 0 ? 0 : 1, room_max);
        oracle->slot_begin[gpu + 1] = oracle->slot_begin[gpu] + here;
        oracle->speed[gpu] = even || fm_gen_chance(gen, 0.5) ? 1 : fm_gen_real(gen, 0.5, 2);
    }
    p->slots = oracle->slot_begin[p->gpus];
    p->experts = (int)fm_gen_int(gen, 1, experts_max < p->slots ? experts_max : p->slots);
    p->replicas = even ? p->slots : (int)fm_gen_int(gen, p->experts, p->slots);
    float weight[ORACLE_EXPERTS_MAX] = {0};
    oracle_loads(gen, (int)fm_gen_int(gen, 0, 4), p->experts, weight);
    for (int e = 0; e < p->experts; e++)
        oracle->load[e] = (double)weight[e];
    oracle->load[0] += 1; // never all zero
}

void oracle_fill(const fm_eplb_problem *problem, fm_gen *gen, int32_t *solution)
{
    for (int slot = 0; slot < problem->slots; slot++) {
        int expert = slot < problem->experts ? slot : (int)fm_gen_int(gen, 0, problem->experts - 1);
        solution[slot] = slot < problem->replicas ? expert : problem->experts;
    }
    for (int slot = problem->slots - 1; slot > 0; slot--) {
        int other = (int)fm_gen_int(gen, 0, slot);
        int32_t swap = solution[slot];
        solution[slot] = solution[other];
        solution[other] = swap;
    }
}

int oracle_moves(const fm_eplb_problem *problem, const int32_t *solution, int *out_most)
{
    int moves = 0;
    *out_most = 0;
    for (int gpu = 0; gpu < problem->gpus; gpu++) {
        int here = 0;
        for (int e = 0; e < problem->experts; e++) {
            int held = 0;
            for (int slot = problem->slot_begin[gpu]; slot < problem->slot_begin[gpu + 1]; slot++)
                held += solution[slot] == e;
            int before = problem->before[gpu * (problem->experts + 1) + e];
            here += held > before ? held - before : 0;
        }
        moves += here;
        *out_most = here > *out_most ? here : *out_most;
    }
    return moves;
}

double oracle_time(const fm_eplb_problem *problem, const int32_t *solution)
{
    int count[ORACLE_EXPERTS_MAX + 1] = {0};
    for (int slot = 0; slot < problem->slots; slot++)
        count[solution[slot]]++;
    for (int e = 0; e < problem->experts; e++)
        if (count[e] == 0)
            return -1;
    if (problem->slots - count[problem->experts] != problem->replicas)
        return -1;
    double worst = 0;
    for (int gpu = 0; gpu < problem->gpus; gpu++) {
        double sum = 0;
        for (int slot = problem->slot_begin[gpu]; slot < problem->slot_begin[gpu + 1]; slot++) {
            if (solution[slot] == problem->experts)
                continue;
            sum += problem->load[solution[slot]] / count[solution[slot]];
            for (int other = problem->slot_begin[gpu]; problem->distinct && other < slot; other++)
                if (solution[other] == solution[slot])
                    return -1;
        }
        worst = fmax(worst, sum / problem->speed[gpu]);
    }
    int most;
    if (problem->before &&
        (oracle_moves(problem, solution, &most) > problem->moves_total || most > problem->moves_per_gpu))
        return -1;
    return worst;
}

// All contents of the slots from `slot` on. Within a GPU the order does not matter, so experts do not
// descend.
static void try_all(const fm_eplb_problem *problem, int slot, int gpu, int32_t *solution, double *best)
{
    if (slot == problem->slots) {
        double time = oracle_time(problem, solution);
        if (time >= 0 && time < *best)
            *best = time;
        return;
    }
    while (slot == problem->slot_begin[gpu + 1])
        gpu++;
    int least = slot > problem->slot_begin[gpu] ? solution[slot - 1] : 0;
    int most = problem->replicas < problem->slots ? problem->experts : problem->experts - 1;
    for (int expert = least; expert <= most; expert++) {
        solution[slot] = expert;
        try_all(problem, slot + 1, gpu, solution, best);
    }
}

double oracle_best(const fm_eplb_problem *problem)
{
    int32_t solution[ORACLE_SLOTS_MAX] = {0};
    double best = HUGE_VAL;
    try_all(problem, 0, 0, solution, &best);
    return best;
}
