/**
 * @file crc.h
 * CRC32C, the checksum of every format of the house (Castagnoli polynomial 0x1EDC6F41, reflected, initial
 * value and final XOR 0xFFFFFFFF: iSCSI, RFC 3720 appendix B.4). The CRC of "123456789" is 0xE3069283.
 * And CRC-32, which formats of others ask for.
 *
 * Any thread may call these; they keep no state.
 */
#ifndef FATHOM_CRC_H
#define FATHOM_CRC_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The CRC of A followed by these `size` bytes, where `crc` is that of A; 0 is the CRC of nothing, so
 *
 *     uint32_t crc = fm_base_crc32c(0, header, sizeof header);
 *     crc = fm_base_crc32c(crc, payload, size);
 *
 * `bytes` may be NULL when `size` is 0.
 */
FM_API uint32_t fm_base_crc32c(uint32_t crc, const void *bytes, size_t size);

/** As above, the CRC-32 of zlib, gzip and Ethernet (0x04C11DB7, reflected): that of "123456789" is 0xCBF43926. */
FM_API uint32_t fm_base_crc32(uint32_t crc, const void *bytes, size_t size);

/** The CRC32C of A followed by B from those of each and the size of B: for parts that were summed apart. About 2
 * us. */
FM_API uint32_t fm_base_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t size_b);

#ifdef __cplusplus
}
#endif
#endif
