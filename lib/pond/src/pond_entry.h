/**
 * @file pond_entry.h
 * What is sorted in place of records: 128 bits, the key above the record's place.
 *
 *     127            48 47                       0
 *     | key, 10 bytes  | place: offset in bytes  |
 *
 * Places differ, so entries do: any sort of them is a stable sort of the records, and splitters taken from among them
 * cut even a heap of equal keys into equal parts.
 */
#ifndef POND_ENTRY_H
#define POND_ENTRY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

__extension__ typedef unsigned __int128 fm_pond_entry;

enum { FM_POND_PLACE_BITS = 48 };

/** Where the entry's record lies. */
static inline uint64_t fm_pond_entry_place(fm_pond_entry entry)
{
    return (uint64_t)entry & (((uint64_t)1 << FM_POND_PLACE_BITS) - 1);
}

/** The entry of a key of ten bytes. */
static inline fm_pond_entry fm_pond_entry_of(const uint8_t *key, uint64_t place)
{
    uint64_t high;
    uint16_t low;
    memcpy(&high, key, sizeof high);
    memcpy(&low, key + 8, sizeof low);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    high = __builtin_bswap64(high);
    low = __builtin_bswap16(low);
#endif
    return (fm_pond_entry)high << 64 | (uint64_t)low << FM_POND_PLACE_BITS | place;
}

/** Entries of `count` records, of which the first has this place. Keys shorter than ten bytes are filled up with zeros. */
void fm_pond_entries_make(const uint8_t *records, size_t record_bytes, size_t key_bytes, uint64_t place,
                          size_t count, fm_pond_entry *out_entries);

/**
 * Sorts `count` entries of `from` into `to`; both are scratch, and `from` is undefined afterwards. Distribution by the
 * leading bits of the range that is there, again and again where a part is large, insertion where it is small: each
 * level takes 11 bits off the range, so 12 levels are the worst that keys can do.
 */
void fm_pond_entries_sort(fm_pond_entry *from, fm_pond_entry *to, size_t count);

/** The splitters of `parts` parts for fm_pond_entries_classify(), taken evenly from `count` sorted samples, and filled up
 * with the greatest entry to `padded` - 1, where `padded` is a power of two and at least `parts`. */
void fm_pond_splitters_choose(const fm_pond_entry *samples, size_t count, size_t parts, size_t padded,
                              fm_pond_entry *out_splitters);

/** The part of each entry: how many of the `padded` - 1 splitters are not above it. `padded` at most 65,536. */
void fm_pond_entries_classify(const fm_pond_entry *entries, size_t count, const fm_pond_entry *splitters,
                              size_t padded, uint16_t *out_parts);

#endif
