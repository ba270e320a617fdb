#include "pond_entry.h"

enum {
    RADIX_BITS_MAX = 11,  // 2048 counters of 4 bytes and 2048 open lines: the first-level cache holds them
    INSERTION_MAX = 24,   // below, insertion beats another level of distribution
    CLASSIFY_AT_ONCE = 8, // independent searches that hide each other's latency
};

void fm_pond_entries_make(const uint8_t *records, size_t record_bytes, size_t key_bytes, uint64_t place,
                          size_t count, fm_pond_entry *out_entries)
{
    if (key_bytes == 10) {
        for (size_t i = 0; i < count; i++)
            out_entries[i] = fm_pond_entry_of(records + i * record_bytes, place + i * record_bytes);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint8_t key[10] = {0};
        memcpy(key, records + i * record_bytes, key_bytes);
        out_entries[i] = fm_pond_entry_of(key, place + i * record_bytes);
    }
}

static void sort_by_insertion(fm_pond_entry *entries, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        fm_pond_entry entry = entries[i];
        size_t at = i;
        for (; at > 0 && entries[at - 1] > entry; at--)
            entries[at] = entries[at - 1];
        entries[at] = entry;
    }
}

static unsigned width_of(fm_pond_entry range)
{
    uint64_t high = (uint64_t)(range >> 64);
    uint64_t low = (uint64_t)range;
    return high ? 128 - (unsigned)__builtin_clzll(high) : low ? 64 - (unsigned)__builtin_clzll(low) : 0;
}

void fm_pond_entries_sort(fm_pond_entry *from, fm_pond_entry *to, size_t count)
{
    if (count <= INSERTION_MAX) {
        memcpy(to, from, count * sizeof *to);
        sort_by_insertion(to, count);
        return;
    }
    fm_pond_entry low = from[0], high = from[0];
    for (size_t i = 1; i < count; i++) {
        low = from[i] < low ? from[i] : low;
        high = from[i] > high ? from[i] : high;
    }
    // About four entries to a place where keys are uniform.
    unsigned bits = 62 - (unsigned)__builtin_clzll(count);
    bits = bits > RADIX_BITS_MAX ? RADIX_BITS_MAX : bits;
    unsigned width = width_of(high - low);
    unsigned shift = width > bits ? width - bits : 0;
    uint32_t ends[(1 << RADIX_BITS_MAX) + 1];
    memset(ends, 0, ((1u << bits) + 1) * sizeof *ends);
    for (size_t i = 0; i < count; i++)
        ends[(size_t)((from[i] - low) >> shift) + 1]++;
    for (size_t i = 1; i <= (1u << bits); i++)
        ends[i] += ends[i - 1];
    // ends[p] is where part p begins, and moves to where it ends.
    for (size_t i = 0; i < count; i++)
        to[ends[(size_t)((from[i] - low) >> shift)]++] = from[i];
    for (size_t part = 0, begin = 0; part < (1u << bits); begin = ends[part], part++) {
        size_t size = ends[part] - begin;
        if (size <= INSERTION_MAX) {
            sort_by_insertion(to + begin, size);
        } else {
            fm_pond_entries_sort(to + begin, from + begin, size);
            memcpy(to + begin, from + begin, size * sizeof *to);
        }
    }
}

void fm_pond_splitters_choose(const fm_pond_entry *samples, size_t count, size_t parts, size_t padded,
                              fm_pond_entry *out_splitters)
{
    for (size_t i = 1; i < padded; i++)
        out_splitters[i - 1] =
            i < parts && count ? samples[(size_t)((fm_pond_entry)count * i / parts)] : ~(fm_pond_entry)0;
}

void fm_pond_entries_classify(const fm_pond_entry *entries, size_t count, const fm_pond_entry *splitters,
                              size_t padded, uint16_t *out_parts)
{
    size_t i = 0;
    for (; i + CLASSIFY_AT_ONCE <= count; i += CLASSIFY_AT_ONCE) {
        size_t at[CLASSIFY_AT_ONCE] = {0};
        for (size_t step = padded / 2; step > 0; step /= 2)
            for (int j = 0; j < CLASSIFY_AT_ONCE; j++)
                at[j] += splitters[at[j] + step - 1] <= entries[i + (size_t)j] ? step : 0;
        for (int j = 0; j < CLASSIFY_AT_ONCE; j++)
            out_parts[i + (size_t)j] = (uint16_t)at[j];
    }
    for (; i < count; i++) {
        size_t at = 0;
        for (size_t step = padded / 2; step > 0; step /= 2)
            at += splitters[at + step - 1] <= entries[i] ? step : 0;
        out_parts[i] = (uint16_t)at;
    }
}
