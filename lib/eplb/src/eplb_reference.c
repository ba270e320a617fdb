#include "eplb_reference.h"

#include "eplb_keys.h"

#include "fathom/mem.h"

enum {
    // Up to here one pass over all packs, without a branch to mispredict, beats the heap.
    LINEAR_MAX = 16,
};

fm_status fm_eplb_reference_init(fm_eplb_reference *reference, int experts, int replicas, int groups,
                                 int packs)
{
    size_t n = (size_t)replicas;
    size_t heap = (size_t)(experts > packs ? experts : packs);
    *reference = (fm_eplb_reference){
        .keys = fm_base_mem_alloc(n * sizeof(uint64_t)),
        .scratch = fm_base_mem_alloc(n * sizeof(uint64_t)),
        .more = fm_base_mem_alloc(n * sizeof(uint64_t)),
        .heap = fm_base_mem_alloc(heap * sizeof(uint64_t)),
        .pack = fm_base_mem_alloc(n * sizeof(int32_t)),
        .rank = fm_base_mem_alloc(n * sizeof(int32_t)),
        .fill = fm_base_mem_alloc((size_t)packs * sizeof(int32_t)),
        .count = fm_base_mem_alloc((size_t)experts * sizeof(int32_t)),
        .item = fm_base_mem_alloc(n * sizeof(int32_t)),
        .copy = fm_base_mem_alloc(n * sizeof(int32_t)),
        .order = fm_base_mem_alloc((size_t)experts * sizeof(uint64_t)),
        .node = fm_base_mem_alloc((size_t)experts * sizeof(int32_t)),
        .member = fm_base_mem_alloc((size_t)experts * sizeof(int32_t)),
        .load = fm_base_mem_alloc((size_t)experts * sizeof(float)),
        .group = fm_base_mem_alloc((size_t)groups * sizeof(float)),
        .share = fm_base_mem_alloc(n * sizeof(float)),
    };
    const fm_eplb_reference *r = reference;
    if (r->keys && r->scratch && r->more && r->heap && r->pack && r->rank && r->fill && r->count && r->item &&
        r->copy && r->order && r->node && r->member && r->load && r->group && r->share)
        return FM_OK;
    fm_eplb_reference_clean_up(reference);
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to plan %d replicas", replicas);
}

void fm_eplb_reference_clean_up(fm_eplb_reference *reference)
{
    void *blocks[] = {reference->keys,  reference->scratch, reference->more,   reference->heap,
                      reference->pack,  reference->rank,    reference->fill,   reference->count,
                      reference->item,  reference->copy,    reference->member, reference->load,
                      reference->group, reference->share,   reference->order,  reference->node};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        fm_base_mem_free(blocks[i]);
    *reference = (fm_eplb_reference){0};
}

static uint64_t descending_key(float load, uint32_t index)
{
    return fm_eplb_key(~fm_eplb_float_bits(load), index);
}

// A pack's key: its load and its number. The least key is the least loaded pack, the first of equals.
static uint64_t loaded(uint64_t key, float load)
{
    uint32_t bits = (uint32_t)(key >> 32);
    float sum;
    memcpy(&sum, &bits, sizeof sum);
    return fm_eplb_key(fm_eplb_float_bits(sum + load), (uint32_t)key);
}

static void put(fm_eplb_reference *reference, uint32_t item, uint32_t pack)
{
    reference->pack[item] = (int32_t)pack;
    reference->rank[item] = reference->fill[pack]++;
}

static void deal_linear(fm_eplb_reference *reference, const uint64_t *sorted, const float *load, int count,
                        int packs)
{
    int room = count / packs;
    uint64_t key[LINEAR_MAX];
    for (int p = 0; p < LINEAR_MAX; p++)
        key[p] = p < packs ? (uint64_t)p : UINT64_MAX;
    for (int i = 0; i < count; i++) {
        // Two chains of minima, each in a register: wider loads would wait for the store of the last round.
        uint64_t even = key[0];
        uint64_t odd = key[1];
        for (int p = 2; p < packs; p += 2) {
            even = key[p] < even ? key[p] : even;
            odd = key[p + 1] < odd ? key[p + 1] : odd;
        }
        uint64_t least = odd < even ? odd : even;
        uint32_t item = (uint32_t)sorted[i];
        uint32_t pack = (uint32_t)least;
        put(reference, item, pack);
        key[pack] = reference->fill[pack] == room ? UINT64_MAX : loaded(least, load[item]);
    }
}

static void deal_heap(fm_eplb_reference *reference, const uint64_t *sorted, const float *load, int count,
                      int packs)
{
    uint64_t *heap = reference->heap;
    int room = count / packs;
    int open = packs;
    for (int p = 0; p < packs; p++)
        heap[p] = (uint64_t)p;
    for (int i = 0; i < count; i++) {
        uint32_t item = (uint32_t)sorted[i];
        uint32_t pack = (uint32_t)heap[0];
        put(reference, item, pack);
        if (reference->fill[pack] == room)
            heap[0] = heap[--open];
        else
            heap[0] = loaded(heap[0], load[item]);
        if (open > 0)
            fm_eplb_heap_sink(heap, open, 0);
    }
}

// Deals items, in descending order of load, each into the least loaded pack that has room.
static void deal(fm_eplb_reference *reference, const uint64_t *sorted, const float *load, int count,
                 int packs)
{
    memset(reference->fill, 0, (size_t)packs * sizeof *reference->fill);
    if (packs <= LINEAR_MAX)
        deal_linear(reference, sorted, load, count, packs);
    else
        deal_heap(reference, sorted, load, count, packs);
}

// One item a pack: the original leaves them in order.
static void deal_in_order(fm_eplb_reference *reference, int count)
{
    for (int i = 0; i < count; i++) {
        reference->pack[i] = i;
        reference->rank[i] = 0;
    }
}

static void sort_descending(fm_eplb_reference *reference, const float *load, int count)
{
    for (int i = 0; i < count; i++)
        reference->keys[i] = descending_key(load[i], (uint32_t)i);
    fm_eplb_keys_sort(reference->keys, reference->scratch, count);
}

/*
 * One replica for each expert, then every further one for the expert whose replicas are the most loaded.
 * keys[] are the experts in descending order: those with one replica still stand there in the right order, so
 * only the others need a heap. Returns how many experts, the first ones in keys[], got more than one.
 */
static int replicate(fm_eplb_reference *reference, const float *load, int experts, int replicas)
{
    uint64_t *heap = reference->heap;
    int multiple = 0;
    for (int e = 0; e < experts; e++) {
        reference->count[e] = 1;
        reference->item[e] = e;
        reference->copy[e] = 0;
    }
    for (int r = experts; r < replicas; r++) {
        int is_new = multiple < experts && (multiple == 0 || reference->keys[multiple] < heap[0]);
        uint32_t e = (uint32_t)(is_new ? reference->keys[multiple] : heap[0]);
        reference->item[r] = (int32_t)e;
        reference->copy[r] = reference->count[e]++;
        uint64_t key = descending_key(load[e] / (float)reference->count[e], e);
        if (is_new) {
            fm_eplb_heap_push(heap, multiple++, key);
        } else {
            heap[0] = key;
            fm_eplb_heap_sink(heap, multiple, 0);
        }
    }
    return multiple;
}

// All replicas in descending order of share, in scratch[]: the experts of one replica are in order already,
// the others are sorted and merged in.
static void sort_replicas(fm_eplb_reference *reference, int experts, int replicas, int multiple)
{
    uint64_t *more = reference->more;
    int count = 0;
    for (int r = 0; r < replicas; r++)
        if (r >= experts || reference->count[r] > 1)
            more[count++] = descending_key(reference->share[r], (uint32_t)r);
    fm_eplb_keys_sort(more, reference->scratch, count);
    const uint64_t *single = reference->keys + multiple;
    const uint64_t *last = reference->keys + experts;
    for (int i = 0, k = 0; i < replicas; i++) {
        int take = k < count && (single == last || more[k] < *single);
        reference->scratch[i] = take ? more[k] : *single;
        k += take;
        single += !take;
    }
}

void fm_eplb_reference_pack(fm_eplb_reference *reference, const float *load, int count, int packs)
{
    if (count == packs) {
        deal_in_order(reference, count);
        return;
    }
    sort_descending(reference, load, count);
    deal(reference, reference->keys, load, count, packs);
}

// One node, whose experts stand sorted in keys[].
static void place_sorted(fm_eplb_reference *reference, const float *load, int experts, int replicas, int gpus,
                         int32_t *out_slot, int32_t *out_copy)
{
    int multiple = replicate(reference, load, experts, replicas);
    for (int r = 0; r < replicas; r++) {
        int32_t e = reference->item[r];
        reference->share[r] = load[e] / (float)reference->count[e];
    }
    if (replicas == gpus) {
        deal_in_order(reference, replicas);
    } else {
        sort_replicas(reference, experts, replicas, multiple);
        deal(reference, reference->scratch, reference->share, replicas, gpus);
    }
    int room = replicas / gpus;
    for (int r = 0; r < replicas; r++) {
        int32_t slot = reference->pack[r] * room + reference->rank[r];
        out_slot[slot] = reference->item[r];
        if (out_copy)
            out_copy[slot] = reference->copy[r];
    }
}

void fm_eplb_reference_node(fm_eplb_reference *reference, const float *load, int experts, int replicas,
                            int gpus, int32_t *out_slot, int32_t *out_copy)
{
    sort_descending(reference, load, experts);
    place_sorted(reference, load, experts, replicas, gpus, out_slot, out_copy);
}

// Sorts all experts of a layer at once, and deals the order out to their nodes: order[] then holds each
// node's keys one after another. One long sort costs half of what a short one for each node does.
static void sort_layer(fm_eplb_reference *reference, int experts, int nodes)
{
    sort_descending(reference, reference->load, experts);
    int size = experts / nodes;
    memset(reference->fill, 0, (size_t)nodes * sizeof *reference->fill);
    for (int i = 0; i < experts; i++) {
        uint64_t key = reference->keys[i];
        int32_t node = reference->node[(uint32_t)key];
        reference->order[node * size + reference->fill[node]++] = key - (uint64_t)(node * size);
    }
}

void fm_eplb_reference_layer(fm_eplb_reference *reference, const fm_eplb_shape *shape, int groups, int nodes,
                             const float *weight, int32_t *out_slot, int32_t *out_copy)
{
    int size = shape->experts / groups;
    int experts = shape->experts / nodes;
    int replicas = shape->replicas / nodes;
    for (int group = 0; group < groups; group++) {
        float sum = 0;
        for (int i = 0; i < size; i++)
            sum += weight[group * size + i];
        reference->group[group] = sum;
    }
    fm_eplb_reference_pack(reference, reference->group, groups, nodes);
    for (int group = 0; group < groups; group++) {
        int first = (reference->pack[group] * (groups / nodes) + reference->rank[group]) * size;
        for (int i = 0; i < size; i++) {
            reference->member[first + i] = group * size + i;
            reference->load[first + i] = weight[group * size + i];
            reference->node[first + i] = reference->pack[group];
        }
    }
    sort_layer(reference, shape->experts, nodes);
    for (int node = 0; node < nodes; node++) {
        size_t first = (size_t)node * (size_t)experts;
        int32_t *slot = out_slot + (size_t)node * (size_t)replicas;
        memcpy(reference->keys, reference->order + first, (size_t)experts * sizeof *reference->keys);
        place_sorted(reference, reference->load + first, experts, replicas, shape->gpus / nodes, slot,
                     out_copy ? out_copy + (size_t)node * (size_t)replicas : NULL);
        for (int i = 0; i < replicas; i++)
            slot[i] = reference->member[first + (size_t)slot[i]];
    }
}
