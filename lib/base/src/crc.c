#include "fathom/crc.h"

#include <isa-l/crc.h>
#include <string.h>

// ISA-L takes an int.
static const size_t chunk_max = 1u << 30;

// ISA-L's kernels leave the upper parts of vector registers in use. Each SSE instruction after that waits for the ones before,
// which costs more than the sum of 4 KiB does, and each switch of threads has more to save.
static void leave_vectors(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vzeroupper" ::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                               "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#endif
}

uint32_t fm_base_crc32c(uint32_t crc, const void *bytes, size_t size)
{
    unsigned char *at; // ISA-L's pointer is not const, though it only reads
    memcpy(&at, &bytes, sizeof at);
    crc = ~crc;
    while (size > 0) {
        size_t chunk = size < chunk_max ? size : chunk_max;
        crc = crc32_iscsi(at, (int)chunk, crc);
        at += chunk;
        size -= chunk;
    }
    leave_vectors();
    return ~crc;
}

uint32_t fm_base_crc32(uint32_t crc, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        size_t chunk = size < chunk_max ? size : chunk_max;
        crc = crc32_gzip_refl(crc, at, chunk); // which inverts before and after by itself
        at += chunk;
        size -= chunk;
    }
    leave_vectors();
    return crc;
}

/*
 * Polynomials over GF(2) modulo the Castagnoli polynomial, bit-reflected as the CRC is: bit 31 is the
 * coefficient of x^0, bit 0 that of x^31.
 */
#define POLYNOMIAL 0x82F63B78u // x^32 modulo the polynomial
#define X_TO_THE_0 0x80000000u
#define X_TO_THE_8 0x00800000u

static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (uint32_t bit = X_TO_THE_0; bit; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = (b >> 1) ^ (b & 1 ? POLYNOMIAL : 0); // b * x
    }
    return product;
}

uint32_t fm_base_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t size_b)
{
    // Appending n bytes multiplies A's remainder by x^(8n). The constants that initial value and final XOR
    // add cancel.
    uint32_t shift = X_TO_THE_0;
    for (uint32_t power = X_TO_THE_8; size_b; size_b >>= 1) {
        if (size_b & 1)
            shift = multiply(shift, power);
        power = multiply(power, power);
    }
    return multiply(shift, crc_a) ^ crc_b;
}
