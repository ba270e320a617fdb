#include "eplb_keys.h"

enum {
    // Below this many keys four passes over 256 counters cost more than moving keys by insertion.
    INSERTION_MAX = 40,
    DIGITS = 4,
    DIGIT_VALUES = 256,
};

static void insertion_sort(uint64_t *keys, int count)
{
    for (int i = 1; i < count; i++) {
        uint64_t key = keys[i];
        int at = i;
        for (; at > 0 && keys[at - 1] >> 32 > key >> 32; at--)
            keys[at] = keys[at - 1];
        keys[at] = key;
    }
}

void fm_eplb_keys_sort(uint64_t *keys, uint64_t *scratch, int count)
{
    if (count <= INSERTION_MAX) {
        insertion_sort(keys, count);
        return;
    }
    uint32_t place[DIGITS][DIGIT_VALUES] = {{0}};
    for (int i = 0; i < count; i++) {
        place[0][keys[i] >> 32 & 255]++;
        place[1][keys[i] >> 40 & 255]++;
        place[2][keys[i] >> 48 & 255]++;
        place[3][keys[i] >> 56]++;
    }
    uint64_t *from = keys;
    uint64_t *to = scratch;
    for (int digit = 0; digit < DIGITS; digit++) {
        int shift = 32 + 8 * digit;
        if (place[digit][from[0] >> shift & 255] == (uint32_t)count)
            continue; // all keys agree in this digit
        uint32_t sum = 0;
        for (int value = 0; value < DIGIT_VALUES; value++) {
            uint32_t here = place[digit][value];
            place[digit][value] = sum;
            sum += here;
        }
        for (int i = 0; i < count; i++)
            to[place[digit][from[i] >> shift & 255]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != keys)
        memcpy(keys, from, (size_t)count * sizeof *keys);
}
