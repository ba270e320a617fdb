#include <string.h>

#include "fathom/pond_records.h"

// Odd constants with as many ones as zeros, from the fractions of square roots of primes.
#define MIX_A 0x6A09E667F3BCC909ULL
#define MIX_B 0xBB67AE8584CAA73BULL

__extension__ typedef unsigned __int128 wide;

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

// Multiply and fold, 16 bytes a step (as wyhash does); the size is part of the hash.
static inline uint64_t hash_record(const uint8_t *record, size_t size)
{
    uint64_t hash = size * MIX_A, a, b;
    size_t at = 0;
    for (; at + 16 <= size; at += 16) {
        memcpy(&a, record + at, 8);
        memcpy(&b, record + at + 8, 8);
        hash = fold(hash ^ a ^ MIX_A, b ^ MIX_B);
    }
    if (at < size) {
        uint8_t rest[16] = {0};
        memcpy(rest, record + at, size - at);
        memcpy(&a, rest, 8);
        memcpy(&b, rest + 8, 8);
        hash = fold(hash ^ a ^ MIX_B, b ^ MIX_A);
    }
    return fold(hash ^ MIX_A, MIX_B);
}

void fm_pond_sum_add(fm_pond_sum *sum, const void *records, size_t record_bytes, uint64_t count)
{
    const uint8_t *record = records;
    uint64_t hash = 0;
    if (record_bytes == FM_POND_RECORD_BYTES) // the loop unrolls for a size that is known
        for (uint64_t i = 0; i < count; i++, record += FM_POND_RECORD_BYTES)
            hash += hash_record(record, FM_POND_RECORD_BYTES);
    else
        for (uint64_t i = 0; i < count; i++, record += record_bytes)
            hash += hash_record(record, record_bytes);
    sum->records += count;
    sum->hash += hash;
}
