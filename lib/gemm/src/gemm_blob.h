/**
 * @file gemm_blob.h
 * The layout of packed weights, version 2. Little-endian.
 *
 *     offset  size
 *     0       8     magic "FMGEMMW\n"
 *     8       4     version
 *     12      4     dtype: 1 = BF16, 2 = E4M3, 3 = E2M1
 *     16      8     n
 *     24      8     k
 *     32      4     scale_rows: 1 or 128; 0 for BF16
 *     36      4     scale_k: 32 or 128; 0 for BF16
 *     40      8     bytes of the whole blob
 *     48      2     dtype of scales: 0 = none, 1 = F32, 2 = UE8M0
 *     50      2     1 where the scales fold (fathom/gemm.h), else 0
 *     52      4     CRC32C of the 52 bytes before
 *     56      8     0
 *     64            scales: [ceil(n / scale_rows)][ceil(k / scale_k)]; then zeros up to a multiple of 64
 *                   panels: [ceil(n / 16)], each of 16 columns and of k up to a multiple of 32, zeros beyond n and k:
 *                       BF16  [pairs of k] [16 columns] [2 k]
 *                       E4M3  [pairs of pairs] [4 times 4 columns] [2 pairs] [4 columns] [2 k]
 *                       E2M1  [pairs] [16 columns], the even k in the low half of the byte
 *
 * A pair of BF16 codes is what an f32 kernel takes as one vector for even k and one for odd k, and what TDPBF16PS takes
 * as a row of a tile. The order of E4M3 is the one from which the unpack instructions, which work within 128 bits, make
 * that of BF16.
 */
#ifndef GEMM_BLOB_H
#define GEMM_BLOB_H

#include <stdint.h>

enum {
    FM_GEMM_BLOB_VERSION = 2,
    FM_GEMM_BLOB_BF16 = 1,
    FM_GEMM_BLOB_E4M3 = 2,
    FM_GEMM_BLOB_E2M1 = 3,
    FM_GEMM_BLOB_F32 = 1,
    FM_GEMM_BLOB_UE8M0 = 2,
    FM_GEMM_BLOB_AT_VERSION = 8,
    FM_GEMM_BLOB_AT_DTYPE = 12,
    FM_GEMM_BLOB_AT_N = 16,
    FM_GEMM_BLOB_AT_K = 24,
    FM_GEMM_BLOB_AT_SCALE_ROWS = 32,
    FM_GEMM_BLOB_AT_SCALE_K = 36,
    FM_GEMM_BLOB_AT_BYTES = 40,
    FM_GEMM_BLOB_AT_SCALE_DTYPE = 48,
    FM_GEMM_BLOB_AT_FOLDS = 50,
    FM_GEMM_BLOB_AT_CRC = 52,
    FM_GEMM_BLOB_HEADER = 64
};

#define FM_GEMM_BLOB_MAGIC "FMGEMMW\n"

/** Where a panel has the code of k number `i` and column `column`: in units of 2 bytes, 1 byte, 1 byte. */
static inline int64_t fm_gemm_blob_at_bf16(int64_t i, int64_t column)
{
    return i / 2 * 32 + column * 2 + i % 2;
}

static inline int64_t fm_gemm_blob_at_e4m3(int64_t i, int64_t column)
{
    return i / 4 * 64 + column / 4 * 16 + i / 2 % 2 * 8 + column % 4 * 2 + i % 2;
}

static inline int64_t fm_gemm_blob_at_e2m1(int64_t i, int64_t column)
{
    return i / 2 * 16 + column;
}

#endif
