#include "fathom/fs_placement.h"

#include <string.h>

#include "fathom/mem.h"
#include "fs_design.h"

enum {
    // Searches from different beginnings, and moves of each for each place: designs of tens of nodes are found in the first
    // few, and what has not been found after all of them is not worth more time.
    STARTS = 24,
    MOVES_PER_PLACE = 3000,
    MOVES_MAX = 600000,
    COOLING_STEPS = 24
};

struct search {
    uint32_t nodes, chains, replicas;
    uint32_t *places;
    uint16_t *shared; // [nodes][nodes]
    int64_t cost;     // sum of squares of what pairs share: least when even
    int64_t floor;    // no arrangement has less
    uint64_t random;
};

static uint64_t draw(uint64_t *x)
{
    uint64_t z = *x += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static uint32_t below(uint64_t *x, uint32_t bound)
{
    return (uint32_t)(((unsigned __int128)draw(x) * bound) >> 64);
}

void fm_fs_placement_shuffle(uint64_t seed, uint32_t *ids, uint32_t count)
{
    for (uint32_t i = count; i-- > 1;) {
        uint32_t j = below(&seed, i + 1);
        uint32_t id = ids[i];
        ids[i] = ids[j];
        ids[j] = id;
    }
}

static fm_status check_shape(uint32_t nodes, uint32_t targets, uint32_t replicas)
{
    if (nodes > FM_FS_PLACEMENT_NODES_MAX || targets > FM_FS_PLACEMENT_TARGETS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%u nodes of %u targets; expected at most %d of %d", nodes,
                                 targets, FM_FS_PLACEMENT_NODES_MAX, FM_FS_PLACEMENT_TARGETS_MAX);
    if (!replicas || !targets || nodes < replicas || nodes * targets % replicas)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%u replicas on %u nodes of %u targets; expected at least as many nodes as "
                                 "replicas, and targets in all that replicas divide",
                                 replicas, nodes, targets);
    return FM_OK;
}

/* The search */

static uint16_t *pair(const struct search *search, uint32_t a, uint32_t b)
{
    return &search->shared[(size_t)a * search->nodes + b];
}

// `step` 1 or -1 is added to what `node` shares with each of the chain but the one at `except`.
static void share(struct search *search, const uint32_t *chain, uint32_t except, uint32_t node, int step)
{
    for (uint32_t i = 0; i < search->replicas; i++) {
        if (i == except)
            continue;
        uint16_t *count = pair(search, node, chain[i]);
        search->cost += step > 0 ? 2 * *count + 1 : 1 - 2 * *count;
        *count = (uint16_t)(*count + step);
        *pair(search, chain[i], node) = *count;
    }
}

static int contains(const struct search *search, const uint32_t *chain, uint32_t node)
{
    for (uint32_t i = 0; i < search->replicas; i++)
        if (chain[i] == node)
            return 1;
    return 0;
}

// Nodes of two chains change places.
static void exchange(struct search *search, uint32_t *a, uint32_t i, uint32_t *b, uint32_t j)
{
    uint32_t u = a[i];
    uint32_t v = b[j];
    share(search, a, i, u, -1);
    share(search, b, j, v, -1);
    a[i] = v;
    b[j] = u;
    share(search, a, i, v, 1);
    share(search, b, j, u, 1);
}

static void begin(struct search *search)
{
    memset(search->shared, 0, (size_t)search->nodes * search->nodes * sizeof *search->shared);
    search->cost = 0;
    for (uint32_t c = 0; c < search->chains; c++) {
        uint32_t *chain = &search->places[(size_t)c * search->replicas];
        for (uint32_t i = 0; i < search->replicas; i++) {
            chain[i] = (c * search->replicas + i) % search->nodes; // round and round: never twice in a chain
            for (uint32_t k = 0; k < i; k++) {
                uint16_t *count = pair(search, chain[k], chain[i]);
                search->cost += 2 * *count + 1;
                *count = *pair(search, chain[i], chain[k]) = (uint16_t)(*count + 1);
            }
        }
    }
}

// Simulated annealing. What a move makes worse by `d` is kept with probability 2^-(d * step / 8): it cools from nearly
// free to downhill only.
static void anneal(struct search *search)
{
    uint64_t moves = (uint64_t)search->chains * search->replicas * MOVES_PER_PLACE;
    if (moves > MOVES_MAX)
        moves = MOVES_MAX;
    for (uint64_t move = 0; move < moves && search->cost > search->floor; move++) {
        uint64_t step = move * COOLING_STEPS / moves;
        uint32_t *a = &search->places[(size_t)below(&search->random, search->chains) * search->replicas];
        uint32_t *b = &search->places[(size_t)below(&search->random, search->chains) * search->replicas];
        uint32_t i = below(&search->random, search->replicas);
        uint32_t j = below(&search->random, search->replicas);
        if (a == b || contains(search, a, b[j]) || contains(search, b, a[i]))
            continue;
        int64_t before = search->cost;
        exchange(search, a, i, b, j);
        int64_t worse = search->cost - before;
        if (worse <= 0)
            continue;
        uint64_t halvings = (uint64_t)worse * step / 8;
        if (halvings > 60 || (draw(&search->random) & (((uint64_t)1 << halvings) - 1)))
            exchange(search, a, i, b, j);
    }
}

/* Heads */

// Of a chain headed by `from`, makes `to` the head.
static void move_head(const struct search *search, uint32_t *heads, uint32_t from, uint32_t to)
{
    for (uint32_t c = 0; c < search->chains; c++) {
        uint32_t *chain = &search->places[(size_t)c * search->replicas];
        for (uint32_t i = 1; chain[0] == from && i < search->replicas; i++)
            if (chain[i] == to) {
                chain[i] = from;
                chain[0] = to;
                heads[from]--;
                heads[to]++;
                return;
            }
    }
}

// Takes a chain's head from the node that heads most to one that heads two fewer or less, along the shortest way of
// nodes that each hand one on. 0: there is none.
static int balance_heads(const struct search *search, uint32_t *heads, uint32_t *came_from, uint32_t *queue)
{
    uint32_t most = 0;
    for (uint32_t n = 1; n < search->nodes; n++)
        most = heads[n] > heads[most] ? n : most;
    for (uint32_t n = 0; n < search->nodes; n++)
        came_from[n] = UINT32_MAX;
    came_from[most] = most;
    queue[0] = most;
    for (uint32_t first = 0, last = 1; first < last; first++) {
        uint32_t at = queue[first];
        if (heads[at] + 2 <= heads[most]) {
            for (; at != most; at = came_from[at])
                move_head(search, heads, came_from[at], at);
            return 1;
        }
        for (uint32_t c = 0; c < search->chains; c++) {
            const uint32_t *chain = &search->places[(size_t)c * search->replicas];
            for (uint32_t i = 1; chain[0] == at && i < search->replicas; i++)
                if (came_from[chain[i]] == UINT32_MAX) {
                    came_from[chain[i]] = at;
                    queue[last++] = chain[i];
                }
        }
    }
    return 0;
}

static fm_status choose_heads(const struct search *search)
{
    uint32_t *heads = fm_base_mem_zalloc((size_t)search->nodes * 3, sizeof *heads);
    if (!heads)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the heads of %u chains", search->chains);
    for (uint32_t c = 0; c < search->chains; c++)
        heads[search->places[(size_t)c * search->replicas]]++;
    while (balance_heads(search, heads, heads + search->nodes, heads + 2 * (size_t)search->nodes))
        ;
    fm_base_mem_free(heads);
    return FM_OK;
}

/* Public */

fm_status fm_fs_placement_solve(uint32_t nodes, uint32_t targets, uint32_t replicas, uint32_t *out_places)
{
    FM_TRY(check_shape(nodes, targets, replicas));
    struct search search = {
        .nodes = nodes, .chains = nodes * targets / replicas, .replicas = replicas, .random = 1};
    size_t places = (size_t)search.chains * replicas;
    int64_t pairs = (int64_t)nodes * (nodes - 1) / 2;
    int64_t sum = (int64_t)search.chains * replicas * (replicas - 1) / 2;
    int64_t low = pairs ? sum / pairs : 0;
    int64_t more = pairs ? sum % pairs : 0; // pairs that share one more than the others
    search.floor = (pairs - more) * low * low + more * (low + 1) * (low + 1);
    search.places = fm_base_mem_alloc(2 * places * sizeof *search.places);
    search.shared = fm_base_mem_zalloc((size_t)nodes * nodes, sizeof *search.shared);
    fm_status status = search.places && search.shared
                           ? FM_OK
                           : fm_base_error_set(FM_ERR_NOMEM, "no memory for a placement of %zu", places);
    int64_t best = INT64_MAX;
    int found = 0;
    if (status == FM_OK)
        status = fm_fs_design_find(nodes, targets, replicas, search.places + places, &found);
    if (found)
        best = search.floor;
    for (int start = 0; start < STARTS && status == FM_OK && best > search.floor; start++) {
        begin(&search);
        anneal(&search);
        if (search.cost < best) {
            best = search.cost;
            memcpy(search.places + places, search.places, places * sizeof *search.places);
        }
        if (places > MOVES_MAX / MOVES_PER_PLACE)
            start += STARTS / 6; // a large one takes its time for fewer starts
    }
    if (status == FM_OK) {
        memcpy(search.places, search.places + places, places * sizeof *search.places);
        status = choose_heads(&search);
    }
    if (status == FM_OK)
        memcpy(out_places, search.places, places * sizeof *search.places);
    fm_base_mem_free(search.places);
    fm_base_mem_free(search.shared);
    return status;
}

fm_status fm_fs_placement_measure(uint32_t nodes, uint32_t targets, uint32_t replicas, const uint32_t *places,
                                  fm_fs_placement_spread *out_spread)
{
    FM_TRY(check_shape(nodes, targets, replicas));
    size_t count = (size_t)nodes * targets;
    uint32_t *shared = fm_base_mem_zalloc((size_t)nodes * (nodes + 1), sizeof *shared);
    if (!shared)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to measure %u nodes", nodes);
    uint32_t *heads = shared + (size_t)nodes * nodes;
    fm_status status = FM_OK;
    for (size_t p = 0; p < count && status == FM_OK; p++) {
        size_t first = p - p % replicas;
        if (places[p] >= nodes)
            status = fm_base_error_set(FM_ERR_ARG, "place %zu is on node %u of %u", p, places[p], nodes);
        for (size_t k = first; k < p && status == FM_OK; k++) {
            uint32_t low = places[k] < places[p] ? places[k] : places[p];
            uint32_t high = places[k] < places[p] ? places[p] : places[k];
            shared[(size_t)low * nodes + high]++;
        }
        if (status == FM_OK && p == first)
            heads[places[p]]++;
    }
    fm_fs_placement_spread spread = {UINT32_MAX, 0, UINT32_MAX, 0};
    for (uint32_t a = 0; a < nodes; a++) {
        for (uint32_t b = a + 1; b < nodes; b++) {
            uint32_t both = shared[(size_t)a * nodes + b];
            spread.pair_min = both < spread.pair_min ? both : spread.pair_min;
            spread.pair_max = both > spread.pair_max ? both : spread.pair_max;
        }
        spread.head_min = heads[a] < spread.head_min ? heads[a] : spread.head_min;
        spread.head_max = heads[a] > spread.head_max ? heads[a] : spread.head_max;
    }
    if (nodes == 1)
        spread.pair_min = 0;
    fm_base_mem_free(shared);
    if (status == FM_OK)
        *out_spread = spread;
    return status;
}
