#include "store.h"

static uint64_t hash_of(uint64_t a, uint64_t b)
{
    // The 64-bit golden ratio spreads small and regular numbers over the high half, which is folded down.
    uint64_t hash = (a ^ b * UINT64_C(0xff51afd7ed558ccd)) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ hash >> 32;
}

static fm_status grow(struct fm_trace_map *map)
{
    size_t count = map->slot_count ? 2 * map->slot_count : 64;
    struct fm_trace_map_slot *slots = fm_base_mem_zalloc(count, sizeof *slots);
    if (!slots)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the tracks of a trace");
    for (size_t i = 0; i < map->slot_count; i++) {
        if (!map->slots[i].used)
            continue;
        size_t at = hash_of(map->slots[i].a, map->slots[i].b) & (count - 1);
        while (slots[at].used)
            at = (at + 1) & (count - 1);
        slots[at] = map->slots[i];
    }
    fm_base_mem_free(map->slots);
    map->slots = slots;
    map->slot_count = count;
    return FM_OK;
}

fm_status fm_trace_map_put(struct fm_trace_map *map, uint64_t a, uint64_t b, uint32_t fresh,
                           uint32_t **out_value, int *out_found)
{
    if (2 * (map->used + 1) > map->slot_count)
        FM_TRY(grow(map));
    size_t at = hash_of(a, b) & (map->slot_count - 1);
    while (map->slots[at].used && (map->slots[at].a != a || map->slots[at].b != b))
        at = (at + 1) & (map->slot_count - 1);
    *out_found = (int)map->slots[at].used;
    if (!map->slots[at].used) {
        map->slots[at] = (struct fm_trace_map_slot){a, b, fresh, 1};
        map->used++;
    }
    *out_value = &map->slots[at].value;
    return FM_OK;
}

void fm_trace_map_clear(struct fm_trace_map *map)
{
    fm_base_mem_free(map->slots);
    *map = (struct fm_trace_map){0};
}
