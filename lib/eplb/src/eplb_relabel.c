#include "eplb_relabel.h"

#include <string.h>

#include "fathom/mem.h"

enum { FREE = -2 }; // -1 is an empty slot

fm_status fm_eplb_relabeler_init(fm_eplb_relabeler *relabeler, int nodes, int gpus, int slots,
                                 const int32_t *slot_begin, const double *speed, fm_eplb_index *old)
{
    int node_gpus = gpus / nodes;
    // A GPU has at most one edge to each GPU of a node, and a node one to each node.
    size_t edges = (size_t)(node_gpus > nodes ? node_gpus : nodes);
    edges *= edges;
    size_t n = (size_t)gpus;
    *relabeler = (fm_eplb_relabeler){
        .nodes = nodes,
        .node_gpus = node_gpus,
        .slot_begin = slot_begin,
        .speed = speed,
        .old = old,
        .row_begin = fm_base_mem_alloc((n + 1) * sizeof(int32_t)),
        .column = fm_base_mem_alloc(edges * sizeof(int32_t)),
        .weight = fm_base_mem_alloc(edges * sizeof(int32_t)),
        .common = fm_base_mem_zalloc(n, sizeof(int32_t)),
        .seen = fm_base_mem_zalloc(n, sizeof(int32_t)),
        .touched = fm_base_mem_alloc(n * sizeof(int32_t)),
        .target = fm_base_mem_alloc(n * sizeof(int32_t)),
        .node_target = fm_base_mem_zalloc((size_t)nodes, sizeof(int32_t)),
        .stay = fm_base_mem_alloc((size_t)nodes * (size_t)nodes * sizeof(int32_t)),
        .waiting = fm_base_mem_alloc((size_t)slots * sizeof(int32_t)),
        .moved = fm_base_mem_alloc((size_t)slots * sizeof(int32_t)),
    };
    const fm_eplb_relabeler *r = relabeler;
    fm_status status = fm_eplb_assigner_init(&relabeler->assigner, gpus);
    if (status == FM_OK && r->row_begin && r->column && r->weight && r->common && r->seen && r->touched &&
        r->target && r->node_target && r->stay && r->waiting && r->moved)
        return FM_OK;
    fm_eplb_relabeler_clean_up(relabeler);
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to compare placements on %d GPUs", gpus);
}

void fm_eplb_relabeler_clean_up(fm_eplb_relabeler *relabeler)
{
    void *blocks[] = {relabeler->row_begin, relabeler->column,  relabeler->weight, relabeler->common,
                      relabeler->seen,      relabeler->touched, relabeler->target, relabeler->node_target,
                      relabeler->stay,      relabeler->waiting, relabeler->moved};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        fm_base_mem_free(blocks[i]);
    fm_eplb_assigner_clean_up(&relabeler->assigner);
    *relabeler = (fm_eplb_relabeler){0};
}

static int alike(const fm_eplb_relabeler *relabeler, int a, int b)
{
    const int32_t *begin = relabeler->slot_begin;
    return begin[a + 1] - begin[a] == begin[b + 1] - begin[b] && relabeler->speed[a] == relabeler->speed[b];
}

/*
 * How many copies part `gpu` of the plan has in common with each old GPU, in common[]; returns how many old
 * GPUs, listed in touched[], have any. The caller sets common[] back to 0.
 */
static int count_common(fm_eplb_relabeler *relabeler, const int32_t *phy2log, int gpu)
{
    const fm_eplb_index *old = relabeler->old;
    int first = relabeler->slot_begin[gpu];
    int last = relabeler->slot_begin[gpu + 1];
    int touched = 0;
    for (int slot = first; slot < last; slot++) {
        int expert = phy2log[slot];
        if (expert < 0)
            continue;
        int copies = 0; // of this expert on this GPU up to here: a second copy pairs with a second old copy
        for (int s = first; s <= slot; s++)
            copies += phy2log[s] == expert;
        for (int32_t i = old->begin[expert]; i < old->begin[expert + 1]; i++) {
            int holder = old->gpu[old->slot[i]];
            if (++relabeler->seen[holder] != copies)
                continue;
            if (relabeler->common[holder]++ == 0)
                relabeler->touched[touched++] = holder;
        }
        for (int32_t i = old->begin[expert]; i < old->begin[expert + 1]; i++)
            relabeler->seen[old->gpu[old->slot[i]]] = 0;
    }
    return touched;
}

// Matches the parts of one node with the GPUs of the node that is to play it; target[] gets indices within
// that node, -1 where a part has nothing in common with any. Returns the copies that stay.
static int64_t match_node(fm_eplb_relabeler *relabeler, const int32_t *phy2log, int part, int node,
                          int32_t *target)
{
    int n = relabeler->node_gpus;
    int edges = 0;
    relabeler->row_begin[0] = 0;
    for (int i = 0; i < n; i++) {
        int gpu = part * n + i;
        int touched = count_common(relabeler, phy2log, gpu);
        for (int k = 0; k < touched; k++) {
            int holder = relabeler->touched[k];
            if (holder / n == node && alike(relabeler, gpu, holder)) {
                relabeler->column[edges] = holder - node * n;
                relabeler->weight[edges++] = relabeler->common[holder];
            }
            relabeler->common[holder] = 0;
        }
        relabeler->row_begin[i + 1] = edges;
    }
    fm_eplb_edges problem = {n, n, relabeler->row_begin, relabeler->column, relabeler->weight};
    return fm_eplb_assign(&relabeler->assigner, &problem, target);
}

static int nodes_alike(const fm_eplb_relabeler *relabeler, int a, int b)
{
    for (int i = 0; i < relabeler->node_gpus; i++)
        if (!alike(relabeler, a * relabeler->node_gpus + i, b * relabeler->node_gpus + i))
            return 0;
    return 1;
}

// Which node plays which: node_target[].
static void match_nodes(fm_eplb_relabeler *relabeler, const int32_t *phy2log)
{
    int n = relabeler->nodes;
    int32_t *stay = relabeler->stay;
    for (int part = 0; part < n; part++)
        for (int node = 0; node < n; node++)
            stay[part * n + node] =
                nodes_alike(relabeler, part, node)
                    ? (int32_t)match_node(relabeler, phy2log, part, node, relabeler->target)
                    : 0;
    int edges = 0;
    relabeler->row_begin[0] = 0;
    for (int part = 0; part < n; part++) {
        for (int node = 0; node < n; node++)
            if (stay[part * n + node] > 0) {
                relabeler->column[edges] = node;
                relabeler->weight[edges++] = stay[part * n + node];
            }
        relabeler->row_begin[part + 1] = edges;
    }
    fm_eplb_edges problem = {n, n, relabeler->row_begin, relabeler->column, relabeler->weight};
    fm_eplb_assign(&relabeler->assigner, &problem, relabeler->node_target);
}

// Gives each part without a target one that is free and alike, its own index where it can. `first` and
// `width` say how an index stands for GPUs: part i is GPUs first_part + width * i .., index k is GPUs
// first_target + width * k ...
static void fill_rest(fm_eplb_relabeler *relabeler, int count, int width, int first_part, int first_target,
                      int32_t *target)
{
    int32_t *taken = relabeler->seen;
    for (int i = 0; i < count; i++)
        if (target[i] >= 0)
            taken[target[i]] = 1;
    for (int own = 1; own >= 0; own--)
        for (int i = 0; i < count; i++)
            for (int k = own ? i : 0; target[i] < 0 && k < (own ? i + 1 : count); k++) {
                int same = !taken[k];
                for (int w = 0; same && w < width; w++)
                    same = alike(relabeler, first_part + width * i + w, first_target + width * k + w);
                if (same) {
                    target[i] = k;
                    taken[k] = 1;
                }
            }
    memset(taken, 0, (size_t)count * sizeof *taken);
}

// Puts the experts of a part into a GPU's slots: those that were there into their old slots, the others into
// the rest.
static void seat(const fm_eplb_relabeler *relabeler, const int32_t *current, const int32_t *from, int gpu,
                 int32_t *to)
{
    const fm_eplb_index *old = relabeler->old;
    int first = relabeler->slot_begin[gpu];
    int width = relabeler->slot_begin[gpu + 1] - first;
    int width_old = old->slot_begin[gpu + 1] - old->slot_begin[gpu];
    int32_t *left = relabeler->waiting; // of `from`, not seated yet
    memcpy(left, from, (size_t)width * sizeof *left);
    for (int i = 0; i < width; i++) {
        to[first + i] = FREE;
        int expert = i < width_old ? current[old->slot_begin[gpu] + i] : -1;
        for (int k = 0; expert >= 0 && k < width; k++)
            if (left[k] == expert) {
                to[first + i] = expert;
                left[k] = FREE;
                break;
            }
    }
    for (int i = 0, k = 0; i < width; i++) {
        if (to[first + i] != FREE)
            continue;
        while (left[k] == FREE)
            k++;
        to[first + i] = left[k++];
    }
}

void fm_eplb_relabel(fm_eplb_relabeler *relabeler, const int32_t *current, int32_t *phy2log)
{
    int n = relabeler->node_gpus;
    const int32_t *begin = relabeler->slot_begin;
    if (relabeler->nodes > 1)
        match_nodes(relabeler, phy2log);
    else
        relabeler->node_target[0] = 0;
    fill_rest(relabeler, relabeler->nodes, n, 0, 0, relabeler->node_target);
    for (int part = 0; part < relabeler->nodes; part++) {
        int node = relabeler->node_target[part];
        match_node(relabeler, phy2log, part, node, relabeler->target);
        fill_rest(relabeler, n, 1, part * n, node * n, relabeler->target);
        for (int i = 0; i < n; i++)
            seat(relabeler, current, phy2log + begin[part * n + i], node * n + relabeler->target[i],
                 relabeler->moved);
    }
    memcpy(phy2log, relabeler->moved, (size_t)begin[relabeler->nodes * n] * sizeof *phy2log);
}

void fm_eplb_seat(fm_eplb_relabeler *relabeler, const int32_t *current, int32_t *phy2log)
{
    int gpus = relabeler->nodes * relabeler->node_gpus;
    for (int gpu = 0; gpu < gpus; gpu++)
        seat(relabeler, current, phy2log + relabeler->slot_begin[gpu], gpu, relabeler->moved);
    memcpy(phy2log, relabeler->moved, (size_t)relabeler->slot_begin[gpus] * sizeof *phy2log);
}

int fm_eplb_moves_count(fm_eplb_relabeler *relabeler, const int32_t *phy2log, int *out_most)
{
    int moves = 0;
    *out_most = 0;
    for (int gpu = 0; gpu < relabeler->nodes * relabeler->node_gpus; gpu++) {
        int here = 0;
        for (int slot = relabeler->slot_begin[gpu]; slot < relabeler->slot_begin[gpu + 1]; slot++)
            here += phy2log[slot] >= 0;
        int touched = count_common(relabeler, phy2log, gpu);
        here -= relabeler->common[gpu];
        for (int k = 0; k < touched; k++)
            relabeler->common[relabeler->touched[k]] = 0;
        moves += here;
        *out_most = here > *out_most ? here : *out_most;
    }
    return moves;
}
