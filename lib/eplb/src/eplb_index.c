#include "eplb_index.h"

#include <string.h>

#include "fathom/mem.h"

void fm_eplb_slot_begin(const fm_eplb_shape *shape, int slots, const int32_t *gpu_slots, int32_t *out_begin)
{
    int hierarchical =
        shape->groups % shape->nodes == 0 && slots % shape->nodes == 0 && shape->gpus % shape->nodes == 0;
    int nodes = hierarchical ? shape->nodes : 1;
    int node_gpus = shape->gpus / nodes;
    int node_slots = slots / nodes;
    out_begin[0] = 0;
    for (int gpu = 0; gpu < shape->gpus; gpu++) {
        int even = node_slots / node_gpus + (gpu % node_gpus < node_slots % node_gpus);
        out_begin[gpu + 1] = out_begin[gpu] + (gpu_slots ? gpu_slots[gpu] : even);
    }
}

fm_status fm_eplb_index_init(fm_eplb_index *index, const fm_eplb_shape *shape, int slots,
                             const int32_t *gpu_slots)
{
    *index = (fm_eplb_index){
        .experts = shape->experts,
        .gpus = shape->gpus,
        .slots = slots,
        .slot_begin = fm_base_mem_alloc(((size_t)shape->gpus + 1) * sizeof(int32_t)),
        .gpu = fm_base_mem_alloc((size_t)slots * sizeof(int32_t)),
        .begin = fm_base_mem_alloc(((size_t)shape->experts + 1) * sizeof(int32_t)),
        .slot = fm_base_mem_alloc((size_t)slots * sizeof(int32_t)),
    };
    if (!index->slot_begin || !index->gpu || !index->begin || !index->slot) {
        fm_eplb_index_clean_up(index);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to index %d slots", slots);
    }
    fm_eplb_slot_begin(shape, slots, gpu_slots, index->slot_begin);
    for (int gpu = 0; gpu < shape->gpus; gpu++)
        for (int slot = index->slot_begin[gpu]; slot < index->slot_begin[gpu + 1]; slot++)
            index->gpu[slot] = gpu;
    return FM_OK;
}

void fm_eplb_index_clean_up(fm_eplb_index *index)
{
    fm_base_mem_free(index->slot_begin);
    fm_base_mem_free(index->gpu);
    fm_base_mem_free(index->begin);
    fm_base_mem_free(index->slot);
    *index = (fm_eplb_index){0};
}

void fm_eplb_index_build(fm_eplb_index *index, const int32_t *phy2log)
{
    int32_t *begin = index->begin;
    memset(begin, 0, ((size_t)index->experts + 1) * sizeof *begin);
    for (int slot = 0; slot < index->slots; slot++)
        if (phy2log[slot] >= 0 && phy2log[slot] < index->experts)
            begin[phy2log[slot]]++;
    int32_t sum = 0;
    for (int e = 0; e <= index->experts; e++)
        sum = begin[e] += sum;
    // Each begin[e] stands at the end of its expert's slots, and walks to their start.
    for (int slot = index->slots - 1; slot >= 0; slot--)
        if (phy2log[slot] >= 0 && phy2log[slot] < index->experts)
            index->slot[--begin[phy2log[slot]]] = slot;
}
