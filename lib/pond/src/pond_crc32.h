/**
 * @file pond_crc32.h
 * The CRC-32 of zlib and Ethernet (reflected polynomial 0xEDB88320), which the sort benchmark's checksum is made of. The CRC
 * of "123456789" is 0xCBF43926.
 */
#ifndef POND_CRC32_H
#define POND_CRC32_H

#include <stddef.h>
#include <stdint.h>

uint32_t fm_pond_crc32(const void *bytes, size_t size);

#endif
