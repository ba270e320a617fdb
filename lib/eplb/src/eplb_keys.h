/**
 * @file eplb_keys.h
 * 64-bit keys that order floats and settle ties, a heap of them, and a sort.
 *
 * A key is a float's bits in the upper half and an index in the lower. Floats that are not negative order
 * like their bits read as integers, so one integer comparison settles value and tie at once.
 */
#ifndef FATHOM_EPLB_KEYS_H
#define FATHOM_EPLB_KEYS_H

#include <stdint.h>
#include <string.h>

/** Bits of a float that is not negative; -0 counts as 0. */
static inline uint32_t fm_eplb_float_bits(float value)
{
    value += 0.0F; // turns -0 into +0
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint64_t fm_eplb_key(uint32_t upper, uint32_t lower)
{
    return (uint64_t)upper << 32 | lower;
}

/** Restores the min-heap below `at` after heap[at] has grown. */
static inline void fm_eplb_heap_sink(uint64_t *heap, int count, int at)
{
    uint64_t key = heap[at];
    for (int child = 2 * at + 1; child < count; child = 2 * at + 1) {
        child += child + 1 < count && heap[child + 1] < heap[child];
        if (key <= heap[child])
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
}

/** Adds a key to a min-heap of `count`. */
static inline void fm_eplb_heap_push(uint64_t *heap, int count, uint64_t key)
{
    int at = count;
    for (; at > 0 && key < heap[(at - 1) / 2]; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = key;
}

/** Sorts by the upper halves, ascending; equal ones keep their order. `scratch` has room for `count` keys. */
void fm_eplb_keys_sort(uint64_t *keys, uint64_t *scratch, int count);

#endif
