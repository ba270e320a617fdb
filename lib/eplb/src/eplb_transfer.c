/*
 * The order of transfers.
 *
 * A slot whose expert changes is the target of one transfer, and the source of any number of others. It may
 * be overwritten when all reads of it are done, so a transfer waits for those that read its target. Draw an
 * edge from each transfer's source slot to its target slot: every slot has at most one edge in, so each
 * connected part has at most one cycle, with trees that lead away from it. Trees are done from their leaves.
 * A cycle is opened by saving the expert of one of its slots in a spare buffer of the same GPU, from which
 * the one reader left takes it. No order of the same transfers does without a spare buffer where there is a
 * cycle.
 */
#include <string.h>

#include "eplb_check.h"
#include "eplb_index.h"

#include "fathom/eplb.h"
#include "fathom/mem.h"

// 4 GiB: no expert is near it, and the sums stay far from overflow.
#define EXPERT_BYTES_MAX ((int64_t)1 << 32)

struct transfer_planner {
    const fm_eplb_plan *plan;
    const int32_t *from; /* phy2log of the layer in the old placement */
    const int32_t *to;   /* in the plan */
    fm_eplb_index old;
    int drained;
    int node_gpus;
    int32_t *reader_count; /* [old.slots] transfers that read a slot and are not in a round yet */
    int32_t *ready_round;  /* [old.slots] first round in which a slot may be overwritten */
    int32_t *writer;       /* [old.slots] transfer that overwrites it, or -1 */
    int32_t *queue;        /* [plan->slots] */
    int32_t *spare;        /* [gpus] cycles opened on each GPU in this layer */
    int64_t *sent;         /* [gpus] copies, over all layers */
    int64_t *received;
    int32_t *round_begin;
    fm_eplb_transfer *sorted;
    fm_eplb_transfer *item; /* over all layers */
    size_t first;           /* of the layer */
    size_t count;           /* in the layer */
};

// The old slot in the place of a plan's slot, or -1 where the GPU had fewer.
static int old_slot_at(const struct transfer_planner *planner, int gpu, int slot)
{
    int offset = slot - planner->plan->slot_begin[gpu];
    int old = planner->old.slot_begin[gpu] + offset;
    return old < planner->old.slot_begin[gpu + 1] ? old : -1;
}

// Whether an old slot keeps its expert in the plan.
static int is_kept(const struct transfer_planner *planner, int old_slot)
{
    int gpu = planner->old.gpu[old_slot];
    int slot = planner->plan->slot_begin[gpu] + old_slot - planner->old.slot_begin[gpu];
    return slot < planner->plan->slot_begin[gpu + 1] && planner->to[slot] == planner->from[old_slot];
}

/*
 * The old slot to read an expert from: on the same GPU if possible, else one that is not overwritten, else
 * one on the same node, else the GPU that sends the least so far. -1: nobody has it.
 */
static int choose_source(const struct transfer_planner *planner, int expert, int gpu)
{
    int best = -1;
    int best_rank = 0;
    int64_t best_sent = 0;
    for (int32_t i = planner->old.begin[expert]; i < planner->old.begin[expert + 1]; i++) {
        int slot = planner->old.slot[i];
        int holder = planner->old.gpu[slot];
        int lost = planner->plan->slot_begin[holder] == planner->plan->slot_begin[holder + 1];
        if (lost && !planner->drained)
            continue;
        int rank = 4 * (holder == gpu) + 2 * (lost || is_kept(planner, slot)) +
                   (holder / planner->node_gpus == gpu / planner->node_gpus);
        if (best < 0 || rank > best_rank || (rank == best_rank && planner->sent[holder] < best_sent)) {
            best = slot;
            best_rank = rank;
            best_sent = planner->sent[holder];
        }
    }
    return best;
}

static void list_transfers(struct transfer_planner *planner, int layer)
{
    const fm_eplb_plan *plan = planner->plan;
    for (int gpu = 0; gpu < plan->shape.gpus; gpu++)
        for (int slot = plan->slot_begin[gpu]; slot < plan->slot_begin[gpu + 1]; slot++) {
            int expert = planner->to[slot];
            int old = old_slot_at(planner, gpu, slot);
            if (expert < 0 || (old >= 0 && planner->from[old] == expert))
                continue;
            int source = choose_source(planner, expert, gpu);
            int holder = source < 0 ? -1 : planner->old.gpu[source];
            if (holder != gpu) {
                planner->received[gpu]++;
                if (holder >= 0)
                    planner->sent[holder]++;
            }
            if (source >= 0)
                planner->reader_count[source]++;
            if (old >= 0)
                planner->writer[old] = (int32_t)planner->count;
            planner->item[planner->first + planner->count++] =
                (fm_eplb_transfer){layer, expert, holder, source, gpu, slot, -1, 0};
        }
}

static fm_eplb_transfer *transfer_at(const struct transfer_planner *planner, int32_t at)
{
    return &planner->item[planner->first + (size_t)at];
}

static int target_of(const struct transfer_planner *planner, int32_t at)
{
    const fm_eplb_transfer *t = transfer_at(planner, at);
    return old_slot_at(planner, t->to_gpu, t->to_slot);
}

// A read of `slot` happens in `round`: queues the transfer that overwrites the slot once no read of it is
// left.
static int release(struct transfer_planner *planner, int slot, int round, int queued)
{
    if (planner->ready_round[slot] <= round)
        planner->ready_round[slot] = round + 1;
    if (--planner->reader_count[slot] == 0 && planner->writer[slot] >= 0)
        planner->queue[queued++] = planner->writer[slot];
    return queued;
}

// Gives rounds to the queued transfers and all that wait for these alone.
static void drain_queue(struct transfer_planner *planner, int queued)
{
    for (int next = 0; next < queued; next++) {
        fm_eplb_transfer *t = transfer_at(planner, planner->queue[next]);
        int target = target_of(planner, planner->queue[next]);
        t->round = target >= 0 ? planner->ready_round[target] : 0;
        if (t->from_slot >= 0)
            queued = release(planner, t->from_slot, t->round, queued);
    }
}

// The slot of a cycle whose GPU has opened the fewest; all transfers without a round lie on cycles by now.
static int choose_opening(const struct transfer_planner *planner, int32_t at)
{
    int start = target_of(planner, at);
    int best = start;
    for (int slot = transfer_at(planner, at)->from_slot; slot != start;
         slot = transfer_at(planner, planner->writer[slot])->from_slot)
        if (planner->spare[planner->old.gpu[slot]] < planner->spare[planner->old.gpu[best]])
            best = slot;
    return best;
}

static void open_cycle(struct transfer_planner *planner, int32_t at, int listed)
{
    int slot = choose_opening(planner, at);
    int gpu = planner->old.gpu[slot];
    planner->spare[gpu]++;
    for (int k = 0; k < listed; k++) {
        fm_eplb_transfer *reader = transfer_at(planner, k);
        if (reader->from_slot == slot && reader->round < 0)
            reader->from_slot = -1;
    }
    int layer = transfer_at(planner, at)->layer;
    planner->item[planner->first + planner->count++] =
        (fm_eplb_transfer){layer, planner->from[slot], gpu, slot, gpu, -1, 0, 0};
    drain_queue(planner, release(planner, slot, 0, 0));
}

static void order_layer(struct transfer_planner *planner, int layer)
{
    planner->count = 0;
    for (int slot = 0; slot < planner->old.slots; slot++) {
        planner->reader_count[slot] = 0;
        planner->ready_round[slot] = 0;
        planner->writer[slot] = -1;
    }
    memset(planner->spare, 0, (size_t)planner->plan->shape.gpus * sizeof *planner->spare);
    list_transfers(planner, layer);
    int listed = (int)planner->count;
    int queued = 0;
    for (int32_t k = 0; k < listed; k++) {
        int target = target_of(planner, k);
        if (target < 0 || planner->reader_count[target] == 0)
            planner->queue[queued++] = k;
    }
    drain_queue(planner, queued);
    for (int32_t k = 0; k < listed; k++)
        if (transfer_at(planner, k)->round < 0)
            open_cycle(planner, k, listed);
}

// Sorts a layer's transfers by round, keeping the order within one.
static void sort_rounds(struct transfer_planner *planner, fm_eplb_transfers *out)
{
    int32_t *begin = planner->round_begin;
    memset(begin, 0, (planner->count + 2) * sizeof *begin);
    int rounds = 0;
    for (size_t k = 0; k < planner->count; k++) {
        int round = planner->item[planner->first + k].round;
        begin[round + 1]++;
        rounds = round + 1 > rounds ? round + 1 : rounds;
    }
    for (int round = 0; round < rounds; round++)
        begin[round + 1] += begin[round];
    for (size_t k = 0; k < planner->count; k++) {
        const fm_eplb_transfer *t = &planner->item[planner->first + k];
        planner->sorted[begin[t->round]++] = *t;
    }
    memcpy(planner->item + planner->first, planner->sorted, planner->count * sizeof *planner->item);
    out->rounds_max = rounds > out->rounds_max ? rounds : out->rounds_max;
    for (int gpu = 0; gpu < planner->plan->shape.gpus; gpu++)
        out->spare_slots = planner->spare[gpu] > out->spare_slots ? planner->spare[gpu] : out->spare_slots;
}

static void add_bytes(const struct transfer_planner *planner, int64_t expert_bytes, fm_eplb_transfers *out)
{
    for (int gpu = 0; gpu < planner->plan->shape.gpus; gpu++) {
        int64_t in = planner->received[gpu] * expert_bytes;
        int64_t sent = planner->sent[gpu] * expert_bytes;
        out->bytes += in;
        out->bytes_in_max = in > out->bytes_in_max ? in : out->bytes_in_max;
        out->bytes_out_max = sent > out->bytes_out_max ? sent : out->bytes_out_max;
    }
    out->spare_bytes = out->spare_slots * expert_bytes;
}

static void planner_clean_up(struct transfer_planner *planner)
{
    fm_eplb_index_clean_up(&planner->old);
    fm_base_mem_free(planner->reader_count);
    fm_base_mem_free(planner->ready_round);
    fm_base_mem_free(planner->writer);
    fm_base_mem_free(planner->queue);
    fm_base_mem_free(planner->spare);
    fm_base_mem_free(planner->sent);
    fm_base_mem_free(planner->received);
    fm_base_mem_free(planner->round_begin);
    fm_base_mem_free(planner->sorted);
    fm_base_mem_free(planner->item);
}

// Every slot has at most one transfer, and a cycle of at least two slots one save: 3/2 of the slots are
// enough for a layer.
static size_t layer_transfers_max(const fm_eplb_plan *plan)
{
    return (size_t)plan->slots + (size_t)plan->slots / 2;
}

static fm_status planner_init(struct transfer_planner *planner, const fm_eplb_placement *from,
                              const fm_eplb_plan *plan, int drained)
{
    const fm_eplb_shape *shape = &plan->shape;
    size_t old = (size_t)from->slots;
    size_t gpus = (size_t)shape->gpus;
    size_t most = layer_transfers_max(plan);
    size_t all = 0;
    FM_TRY(fm_mul_size(most * (size_t)shape->layers, sizeof(fm_eplb_transfer), &all));
    *planner = (struct transfer_planner){.plan = plan, .drained = drained};
    planner->node_gpus = shape->gpus % shape->nodes == 0 ? shape->gpus / shape->nodes : shape->gpus;
    FM_TRY(fm_eplb_index_init(&planner->old, shape, from->slots, from->gpu_slots));
    planner->reader_count = fm_base_mem_alloc(old * sizeof(int32_t));
    planner->ready_round = fm_base_mem_alloc(old * sizeof(int32_t));
    planner->writer = fm_base_mem_alloc(old * sizeof(int32_t));
    planner->queue = fm_base_mem_alloc((size_t)plan->slots * sizeof(int32_t));
    planner->spare = fm_base_mem_alloc(gpus * sizeof(int32_t));
    planner->sent = fm_base_mem_zalloc(gpus, sizeof(int64_t));
    planner->received = fm_base_mem_zalloc(gpus, sizeof(int64_t));
    planner->round_begin = fm_base_mem_alloc((most + 2) * sizeof(int32_t));
    planner->sorted = fm_base_mem_alloc(most * sizeof(fm_eplb_transfer));
    planner->item = fm_base_mem_alloc(all);
    if (planner->reader_count && planner->ready_round && planner->writer && planner->queue &&
        planner->spare && planner->sent && planner->received && planner->round_begin && planner->sorted &&
        planner->item)
        return FM_OK;
    planner_clean_up(planner);
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to list the transfers of %d layers", shape->layers);
}

fm_status fm_eplb_transfers_new(const fm_eplb_placement *from, const fm_eplb_plan *plan, int64_t expert_bytes,
                                int drained, fm_eplb_transfers **out_transfers)
{
    FM_TRY(fm_eplb_check_placement(&plan->shape, from));
    if (expert_bytes < 0 || expert_bytes > EXPERT_BYTES_MAX)
        return fm_base_error_set(FM_ERR_ARG, "bytes of an expert are %lld; expected 0 to 2^32",
                                 (long long)expert_bytes);
    struct transfer_planner planner;
    FM_TRY(planner_init(&planner, from, plan, drained));
    fm_eplb_transfers *transfers = fm_base_mem_zalloc(1, sizeof *transfers);
    if (!transfers) {
        planner_clean_up(&planner);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to list transfers");
    }
    for (int layer = 0; layer < plan->shape.layers; layer++) {
        planner.from = from->phy2log + (size_t)layer * (size_t)from->slots;
        planner.to = plan->phy2log + (size_t)layer * (size_t)plan->slots;
        fm_eplb_index_build(&planner.old, planner.from);
        order_layer(&planner, layer);
        sort_rounds(&planner, transfers);
        planner.first += planner.count;
    }
    add_bytes(&planner, expert_bytes, transfers);
    transfers->count = planner.first;
    transfers->item = planner.item;
    planner.item = NULL;
    planner_clean_up(&planner);
    *out_transfers = transfers;
    return FM_OK;
}

void fm_eplb_transfers_free(fm_eplb_transfers *transfers)
{
    if (!transfers)
        return;
    fm_base_mem_free(transfers->item);
    fm_base_mem_free(transfers);
}
