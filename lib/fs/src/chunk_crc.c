// The checksum of a range from those of its grains, which were just verified: no second pass over the bytes.
#include "chunk_store_private.h"

#include "fathom/crc.h"

// What a CRC becomes when a grain of zeros follows is linear in its bits; tables of its four bytes say what.
static int make_shift(struct fm_fs_store_class *blocks, uint32_t grain)
{
    uint32_t basis[32];
    blocks->shift = fm_base_mem_alloc(4 * sizeof *blocks->shift);
    if (!blocks->shift)
        return 0;
    for (unsigned bit = 0; bit < 32; bit++)
        basis[bit] = fm_base_crc32c_combine((uint32_t)1 << bit, 0, grain);
    for (unsigned byte = 0; byte < 4; byte++)
        for (unsigned value = 0; value < 256; value++) {
            uint32_t sum = 0;
            for (unsigned bit = 0; bit < 8; bit++)
                sum ^= value >> bit & 1 ? basis[8 * byte + bit] : 0;
            blocks->shift[byte][value] = sum;
        }
    return 1;
}

uint32_t fm_fs_store_crc(fm_fs_store *store, const fm_fs_chunk_copy *copy, const uint8_t *bytes,
                         uint32_t offset, uint32_t size)
{
    struct fm_fs_store_class *blocks = &store->classes[copy->size_class];
    uint32_t grain = fm_fs_chunk_grain(copy->size_class);
    uint32_t first = offset / grain;
    uint32_t whole = size / grain;
    uint32_t rest = size % grain;
    int ends = offset + size == copy->size; // so its last grain may be short
    if (offset % grain || !size || (rest && !ends) ||
        (whole > 1 && !blocks->shift && !make_shift(blocks, grain)))
        return fm_base_crc32c(0, bytes, size);
    uint32_t crc = copy->grain_crc[first];
    for (uint32_t i = 1; i < whole; i++)
        crc = copy->grain_crc[first + i] ^ blocks->shift[0][crc & 255] ^ blocks->shift[1][crc >> 8 & 255] ^
              blocks->shift[2][crc >> 16 & 255] ^ blocks->shift[3][crc >> 24];
    if (whole && rest)
        crc = fm_base_crc32c_combine(crc, copy->grain_crc[first + whole], rest);
    return crc;
}
