/*
 * The least time T for which tokens fit: experts with several replicas are sources, GPUs are sinks of
 * capacity floor(T * speed) less what experts without a choice put there. Flow is pushed along shortest
 * augmenting paths (Edmonds and Karp 1972). When an expert's tokens cannot be placed, the GPUs that its
 * search reached are full, and all tokens of the experts that it reached must go to these GPUs: so no T is
 * enough under which these GPUs take fewer, and T is raised to the least that lets them take all (Newton's
 * method on the parametric cut). T begins at the mean. It is a lower bound all the time, hence the optimum
 * when everything is placed. Capacities are whole, so flows are.
 */
#include <math.h>
#include <string.h>

#include "eplb_check.h"
#include "eplb_index.h"

#include "fathom/eplb.h"
#include "fathom/mem.h"

// Times are products of doubles and whole numbers; this lets T * speed reach the number that T was made from.
#define ROUNDING 0x1p-40
// So that the rounding is less than a token.
#define TOKENS_MAX ((int64_t)1 << 39)

/** The replicas of one expert on one GPU. */
struct edge {
    int32_t expert;
    int32_t gpu;
    int32_t copies;
    int32_t slot; /* the first; the others follow it in the placement's order of slots */
    int64_t flow;
};

struct fm_eplb_router {
    int experts;
    int gpus;
    int slots;
    int edges;
    struct edge *edge;     /* [edges] by expert */
    int32_t *begin;        /* [experts + 1] an expert's edges */
    int32_t *into;         /* [edges] edges by GPU */
    int32_t *into_begin;   /* [gpus + 1] */
    int32_t *expert;       /* [slots] -1: empty */
    double *speed;         /* [gpus] */
    int64_t *load;         /* [gpus] tokens placed */
    int64_t *room;         /* [gpus] below the present T */
    int64_t *left;         /* [experts] tokens not placed */
    int32_t *came_by;      /* [gpus] edge by which the search reached a GPU */
    int32_t *returned_by;  /* [experts] edge along which an expert may take tokens back */
    int32_t *stamp_gpu;    /* [gpus] number of the search that reached it */
    int32_t *stamp_expert; /* [experts] */
    int32_t *queue;        /* [gpus] */
    int32_t stamp;
};

static fm_status router_allocate(fm_eplb_router *router)
{
    size_t experts = (size_t)router->experts;
    size_t gpus = (size_t)router->gpus;
    size_t slots = (size_t)router->slots;
    router->edge = fm_base_mem_zalloc(slots, sizeof *router->edge);
    router->begin = fm_base_mem_zalloc(experts + 1, sizeof(int32_t));
    router->into = fm_base_mem_alloc(slots * sizeof(int32_t));
    router->into_begin = fm_base_mem_zalloc(gpus + 1, sizeof(int32_t));
    router->expert = fm_base_mem_alloc(slots * sizeof(int32_t));
    router->speed = fm_base_mem_alloc(gpus * sizeof(double));
    router->load = fm_base_mem_alloc(gpus * sizeof(int64_t));
    router->room = fm_base_mem_alloc(gpus * sizeof(int64_t));
    router->left = fm_base_mem_alloc(experts * sizeof(int64_t));
    router->came_by = fm_base_mem_alloc(gpus * sizeof(int32_t));
    router->returned_by = fm_base_mem_alloc(experts * sizeof(int32_t));
    router->stamp_gpu = fm_base_mem_zalloc(gpus, sizeof(int32_t));
    router->stamp_expert = fm_base_mem_zalloc(experts, sizeof(int32_t));
    router->queue = fm_base_mem_alloc(gpus * sizeof(int32_t));
    const fm_eplb_router *r = router;
    if (r->edge && r->begin && r->into && r->into_begin && r->expert && r->speed && r->load && r->room &&
        r->left && r->came_by && r->returned_by && r->stamp_gpu && r->stamp_expert && r->queue)
        return FM_OK;
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to route %d experts to %d GPUs", r->experts, r->gpus);
}

static fm_status router_check(int experts, int gpus, const int32_t *phy2log, const int32_t *slot_begin,
                              const double *gpu_speed)
{
    fm_eplb_shape shape = {1, experts, experts, 1, 1, gpus};
    FM_TRY(fm_eplb_check_shape(&shape));
    for (int gpu = 0; gpu < gpus; gpu++)
        if (slot_begin[0] != 0 || slot_begin[gpu + 1] < slot_begin[gpu])
            return fm_base_error_set(
                FM_ERR_ARG, "slot_begin goes from %d to %d at GPU %d; expected 0 first, and no step down",
                (int)slot_begin[gpu], (int)slot_begin[gpu + 1], gpu);
    fm_eplb_placement placement = {phy2log, slot_begin[gpus], NULL};
    FM_TRY(fm_eplb_check_placement(&shape, &placement));
    return fm_eplb_check_speeds(gpus, gpu_speed);
}

static void make_edges(fm_eplb_router *router, const fm_eplb_index *index)
{
    for (int e = 0; e < router->experts; e++) {
        router->begin[e] = router->edges;
        for (int32_t i = index->begin[e]; i < index->begin[e + 1]; i++) {
            int slot = index->slot[i];
            int gpu = index->gpu[slot];
            // An expert's slots ascend, so those of one GPU are neighbours.
            if (router->edges > router->begin[e] && router->edge[router->edges - 1].gpu == gpu)
                router->edge[router->edges - 1].copies++;
            else
                router->edge[router->edges++] = (struct edge){e, gpu, 1, slot, 0};
        }
    }
    router->begin[router->experts] = router->edges;
    for (int k = 0; k < router->edges; k++)
        router->into_begin[router->edge[k].gpu + 1]++;
    for (int gpu = 0; gpu < router->gpus; gpu++)
        router->into_begin[gpu + 1] += router->into_begin[gpu];
    int32_t *filled = router->stamp_gpu; // zero, and zero again below
    for (int k = 0; k < router->edges; k++) {
        int gpu = router->edge[k].gpu;
        router->into[router->into_begin[gpu] + filled[gpu]++] = k;
    }
}

fm_status fm_eplb_router_new(int experts, int gpus, const int32_t *phy2log, const int32_t *slot_begin,
                             const double *gpu_speed, fm_eplb_router **out_router)
{
    FM_TRY(router_check(experts, gpus, phy2log, slot_begin, gpu_speed));
    fm_eplb_router *router = fm_base_mem_zalloc(1, sizeof *router);
    if (!router)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a router");
    router->experts = experts;
    router->gpus = gpus;
    router->slots = slot_begin[gpus];
    fm_eplb_index index = {0};
    fm_status status = router_allocate(router);
    if (status == FM_OK) {
        fm_eplb_shape shape = {1, experts, experts, 1, 1, gpus};
        for (int gpu = 0; gpu < gpus; gpu++)
            router->queue[gpu] = slot_begin[gpu + 1] - slot_begin[gpu];
        status = fm_eplb_index_init(&index, &shape, router->slots, router->queue);
    }
    if (status < 0) {
        fm_eplb_router_free(router);
        return status;
    }
    memcpy(router->expert, phy2log, (size_t)router->slots * sizeof(int32_t));
    fm_eplb_index_build(&index, phy2log);
    make_edges(router, &index);
    for (int gpu = 0; gpu < gpus; gpu++)
        router->speed[gpu] = gpu_speed ? gpu_speed[gpu] : 1;
    fm_eplb_index_clean_up(&index);
    *out_router = router;
    return FM_OK;
}

void fm_eplb_router_free(fm_eplb_router *router)
{
    if (!router)
        return;
    void *blocks[] = {router->edge,      router->begin,       router->into,  router->into_begin,
                      router->speed,     router->load,        router->room,  router->left,
                      router->came_by,   router->returned_by, router->queue, router->expert,
                      router->stamp_gpu, router->stamp_expert};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        fm_base_mem_free(blocks[i]);
    fm_base_mem_free(router);
}

static fm_status check_tokens(const fm_eplb_router *router, const int64_t *tokens)
{
    int64_t sum = 0;
    for (int e = 0; e < router->experts; e++) {
        if (tokens[e] < 0)
            return fm_base_error_set(FM_ERR_ARG, "expert %d has %lld tokens; expected 0 or more", e,
                                     (long long)tokens[e]);
        if (tokens[e] > 0 && router->begin[e] == router->begin[e + 1])
            return fm_base_error_set(FM_ERR_ARG, "expert %d has %lld tokens and no slot", e,
                                     (long long)tokens[e]);
        if (tokens[e] > TOKENS_MAX - sum)
            return fm_base_error_set(FM_ERR_LIMIT, "more than %lld tokens in a batch", (long long)TOKENS_MAX);
        sum += tokens[e];
    }
    return FM_OK;
}

// Whole tokens that a GPU does in that time; no more than there can be, so that it fits the type for every speed.
static int64_t capacity(const fm_eplb_router *router, int gpu, double time)
{
    return (int64_t)fmin(time * router->speed[gpu] * (1 + ROUNDING), (double)TOKENS_MAX);
}

static void put(fm_eplb_router *router, struct edge *edge, int64_t tokens)
{
    edge->flow += tokens;
    router->left[edge->expert] -= tokens;
    router->load[edge->gpu] += tokens;
    router->room[edge->gpu] -= tokens;
}

// Places the tokens of experts that have no choice; returns a time that no split can beat.
static double begin_batch(fm_eplb_router *router, const int64_t *tokens)
{
    memset(router->stamp_gpu, 0, (size_t)router->gpus * sizeof(int32_t));
    memset(router->stamp_expert, 0, (size_t)router->experts * sizeof(int32_t));
    memset(router->load, 0, (size_t)router->gpus * sizeof(int64_t));
    router->stamp = 0;
    int64_t sum = 0;
    double speed = 0;
    for (int e = 0; e < router->experts; e++) {
        sum += tokens[e];
        router->left[e] = tokens[e];
        for (int k = router->begin[e]; k < router->begin[e + 1]; k++)
            router->edge[k].flow = 0;
        if (router->begin[e + 1] - router->begin[e] == 1)
            put(router, &router->edge[router->begin[e]], tokens[e]);
    }
    double time = 0;
    for (int gpu = 0; gpu < router->gpus; gpu++) {
        if (router->into_begin[gpu] == router->into_begin[gpu + 1])
            continue;
        speed += router->speed[gpu];
        time = fmax(time, (double)router->load[gpu] / router->speed[gpu]);
    }
    return sum > 0 ? fmax(time, (double)sum / speed) : 0;
}

static int reach(fm_eplb_router *router, int expert, int *queued)
{
    router->stamp_expert[expert] = router->stamp;
    for (int k = router->begin[expert]; k < router->begin[expert + 1]; k++) {
        int gpu = router->edge[k].gpu;
        if (router->stamp_gpu[gpu] == router->stamp)
            continue;
        router->stamp_gpu[gpu] = router->stamp;
        router->came_by[gpu] = k;
        if (router->room[gpu] > 0)
            return gpu;
        router->queue[(*queued)++] = gpu;
    }
    return -1;
}

// The nearest GPU with room that the expert's tokens can reach, when others make way; -1 when there is none.
static int search(fm_eplb_router *router, int expert)
{
    int queued = 0;
    router->stamp++;
    int found = reach(router, expert, &queued);
    for (int next = 0; found < 0 && next < queued; next++) {
        int gpu = router->queue[next];
        for (int i = router->into_begin[gpu]; found < 0 && i < router->into_begin[gpu + 1]; i++) {
            int k = router->into[i];
            int other = router->edge[k].expert;
            if (router->edge[k].flow == 0 || router->stamp_expert[other] == router->stamp)
                continue;
            router->returned_by[other] = k;
            found = reach(router, other, &queued);
        }
    }
    return found;
}

// Moves as many tokens as the path to `gpu` takes.
static void augment(fm_eplb_router *router, int expert, int gpu)
{
    int64_t tokens = router->left[expert] < router->room[gpu] ? router->left[expert] : router->room[gpu];
    for (int g = gpu;;) {
        int other = router->edge[router->came_by[g]].expert;
        if (other == expert)
            break;
        const struct edge *back = &router->edge[router->returned_by[other]];
        tokens = back->flow < tokens ? back->flow : tokens;
        g = back->gpu;
    }
    for (int g = gpu;;) {
        struct edge *edge = &router->edge[router->came_by[g]];
        put(router, edge, tokens);
        if (edge->expert == expert)
            break;
        struct edge *back = &router->edge[router->returned_by[edge->expert]];
        put(router, back, -tokens);
        g = back->gpu;
    }
}

// The least time at which the GPUs of the failed search take all that must go to them.
static double raise_time(const fm_eplb_router *router)
{
    int64_t tokens = 0;
    double speed = 0;
    for (int gpu = 0; gpu < router->gpus; gpu++)
        if (router->stamp_gpu[gpu] == router->stamp) {
            tokens += router->load[gpu];
            speed += router->speed[gpu];
        }
    for (int e = 0; e < router->experts; e++)
        if (router->stamp_expert[e] == router->stamp)
            tokens += router->left[e];
    for (double time = (double)tokens / speed;;) {
        int64_t taken = 0;
        double next = HUGE_VAL; // when the next whole token fits somewhere
        for (int gpu = 0; gpu < router->gpus; gpu++)
            if (router->stamp_gpu[gpu] == router->stamp) {
                int64_t here = capacity(router, gpu, time);
                taken += here;
                next = fmin(next, (double)(here + 1) / router->speed[gpu]);
            }
        if (taken >= tokens)
            return time;
        time = next;
    }
}

static void set_rooms(fm_eplb_router *router, double time)
{
    for (int gpu = 0; gpu < router->gpus; gpu++)
        router->room[gpu] = capacity(router, gpu, time) - router->load[gpu];
}

fm_status fm_eplb_router_split(fm_eplb_router *router, const int64_t *tokens, int64_t *out_split,
                               double *out_busiest)
{
    FM_TRY(check_tokens(router, tokens));
    double time = begin_batch(router, tokens);
    set_rooms(router, time);
    for (int e = 0; e < router->experts; e++)
        while (router->left[e] > 0) {
            int gpu = search(router, e);
            if (gpu >= 0) {
                augment(router, e, gpu);
            } else {
                time = raise_time(router);
                set_rooms(router, time);
            }
        }
    memset(out_split, 0, (size_t)router->slots * sizeof *out_split);
    for (int k = 0; k < router->edges; k++) {
        const struct edge *edge = &router->edge[k];
        // The edge's slots: copies on one GPU share evenly, the first ones take what is left over.
        int slot = edge->slot;
        for (int copy = 0; copy < edge->copies; slot++)
            if (router->expert[slot] == edge->expert) {
                out_split[slot] = edge->flow / edge->copies + (copy < edge->flow % edge->copies);
                copy++;
            }
    }
    if (out_busiest) {
        *out_busiest = 0;
        for (int gpu = 0; gpu < router->gpus; gpu++)
            *out_busiest = fmax(*out_busiest, (double)router->load[gpu] / router->speed[gpu]);
    }
    return FM_OK;
}
