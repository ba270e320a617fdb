/**
 * @file gemm_blob.h
 * The layout of packed weights, version 1. Little-endian.
 *
 *     offset  size
 *     0       8     magic "FMGEMMW\n"
 *     8       4     version
 *     12      4     dtype: 1 = BF16, 2 = E4M3
 *     16      8     n
 *     24      8     k
 *     32      4     scale_rows: 1 or 128; 0 for BF16
 *     36      4     0
 *     40      8     bytes of the whole blob
 *     48      4     0
 *     52      4     CRC32C of the 52 bytes before
 *     56      8     0
 *     64            scales: f32 [ceil(n / scale_rows)][ceil(k / 128)]; then zeros up to a multiple of 64
 *                   panels: [ceil(n / 16)] [ceil(k / 32) * 16 pairs] [16 columns] [2 k] codes, zeros beyond n and k
 *
 * A pair's codes are what an f32 kernel takes as one vector for even k and one for odd k, and what TDPBF16PS takes as a
 * row of a tile.
 */
#ifndef GEMM_BLOB_H
#define GEMM_BLOB_H

enum {
    FM_GEMM_BLOB_VERSION = 1,
    FM_GEMM_BLOB_BF16 = 1,
    FM_GEMM_BLOB_E4M3 = 2,
    FM_GEMM_BLOB_AT_VERSION = 8,
    FM_GEMM_BLOB_AT_DTYPE = 12,
    FM_GEMM_BLOB_AT_N = 16,
    FM_GEMM_BLOB_AT_K = 24,
    FM_GEMM_BLOB_AT_SCALE_ROWS = 32,
    FM_GEMM_BLOB_AT_BYTES = 40,
    FM_GEMM_BLOB_AT_CRC = 52,
    FM_GEMM_BLOB_HEADER = 64
};

#define FM_GEMM_BLOB_MAGIC "FMGEMMW\n"

#endif
