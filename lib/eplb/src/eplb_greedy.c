#include "eplb_greedy.h"

static int before(const fm_eplb_problem *p, const int32_t *count, int32_t a, int32_t b)
{
    double share_a = p->load[a] / count[a];
    double share_b = p->load[b] / count[b];
    return share_a > share_b || (share_a == share_b && a < b);
}

// Restores the heap, largest share on top, below `at` after the share of heap[at] has fallen.
static void sink(const fm_eplb_problem *p, const int32_t *count, int32_t *heap, int size, int at)
{
    int32_t expert = heap[at];
    for (int child = 2 * at + 1; child < size; child = 2 * at + 1) {
        if (child + 1 < size && before(p, count, heap[child + 1], heap[child]))
            child++;
        if (!before(p, count, heap[child], expert))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = expert;
}

double fm_eplb_greedy_counts(const fm_eplb_problem *problem, int32_t *heap, int32_t *count)
{
    const fm_eplb_problem *p = problem;
    for (int e = 0; e < p->experts; e++) {
        heap[e] = e;
        count[e] = 1;
    }
    for (int at = p->experts / 2 - 1; at >= 0; at--)
        sink(p, count, heap, p->experts, at);
    for (int replica = p->experts; replica < p->replicas; replica++) {
        count[heap[0]]++;
        sink(p, count, heap, p->experts, 0);
    }
    return p->load[heap[0]] / count[heap[0]];
}

void fm_eplb_greedy_solve(const fm_eplb_problem *problem, int32_t *workspace, double *load, int32_t *solution)
{
    const fm_eplb_problem *p = problem;
    int32_t *heap = workspace;
    int32_t *count = heap + p->experts;
    int32_t *fill = count + p->experts;
    fm_eplb_greedy_counts(p, heap, count);
    // Popping the heap yields the experts in descending order of share.
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        load[gpu] = 0;
        fill[gpu] = 0;
    }
    for (int slot = 0; slot < p->slots; slot++)
        solution[slot] = p->experts;
    for (int left = p->experts; left > 0;) {
        int32_t expert = heap[0];
        double share = p->load[expert] / count[expert];
        for (int copy = 0; copy < count[expert]; copy++) {
            int best = -1;
            for (int gpu = 0; gpu < p->gpus; gpu++)
                if (fill[gpu] < p->slot_begin[gpu + 1] - p->slot_begin[gpu] &&
                    (best < 0 || (load[gpu] + share) / p->speed[gpu] < (load[best] + share) / p->speed[best]))
                    best = gpu;
            solution[p->slot_begin[best] + fill[best]++] = expert;
            load[best] += share;
        }
        heap[0] = heap[--left];
        if (left > 0)
            sink(p, count, heap, left, 0);
    }
}
