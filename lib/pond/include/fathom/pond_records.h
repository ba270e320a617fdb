/**
 * @file pond_records.h
 * Fixed binary records: made, sorted (in memory, or on disk when there are more), and proved sorted.
 *
 * A record is `record_bytes` long and begins with its key, `key_bytes` that compare as memcmp() compares. The defaults
 * are those of the sort benchmark (sortbenchmark.org): 100 and 10. Records lie one behind another in files; nothing
 * stands between them.
 *
 *     fm_pond_sort_options options = {.size = sizeof options, .memory_bytes = 1 << 30};
 *     const char *inputs[] = {"in/part-00000.dat"};
 *     fm_pond_sort_report report;
 *     FM_TRY(fm_pond_records_sort(inputs, 1, "out.dat", &options, &report));
 *
 * Any thread may call these functions; each starts threads of its own and has joined them when it returns. They look at
 * fm_base_interrupted() between blocks and end with FM_ERR_CANCELLED.
 */
#ifndef FATHOM_POND_RECORDS_H
#define FATHOM_POND_RECORDS_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FM_POND_RECORD_BYTES = 100,         /**< of the benchmark's records */
    FM_POND_KEY_BYTES = 10,             /**< of their keys, and the longest that can be sorted by */
    FM_POND_RECORD_BYTES_MAX = 1 << 16, /**< a record that the sort takes */
};

/** The published layouts of the benchmark's records. Keys are the same in the two binary ones. */
typedef enum fm_pond_layout {
    FM_POND_LAYOUT_15, /**< gensort 1.5: ten random pieces of ten bytes, of which the first is the key */
    FM_POND_LAYOUT_14, /**< gensort up to 1.4, TeraGen: the key, the number in hexadecimal, a filler that repeats */
    FM_POND_LAYOUT_ASCII /**< printable, ends in CR LF: what sorts of lines can sort as well */
} fm_pond_layout;

/** Makes the records `first` ... `first + count - 1` into `count * FM_POND_RECORD_BYTES` bytes. `skew`: three quarters of
 * the keys begin with up to 48 bits of a pattern that all numbers of one length in bits share, so that half of all records crowd
 * into a few places (the published distribution; the patterns are our own). */
FM_API void fm_pond_records_make(fm_pond_layout layout, int skew, uint64_t first, uint64_t count,
                                 void *out_records);

typedef struct fm_pond_make_options {
    size_t size;    /**< sizeof(fm_pond_make_options) */
    uint64_t first; /**< number of the first record */
    uint64_t records;
    fm_pond_layout layout;
    int skew;
    int threads; /**< 0: as many as cores */
} fm_pond_make_options;

/** Writes records to the files part-00000.dat, ... of a folder, which is made: at most 10,485,760 records each. Files of
 * these names are replaced, each in one step. Fails as fm_base_file_commit() does. */
FM_API FM_MUST_USE fm_status fm_pond_records_write(const char *folder, const fm_pond_make_options *options);

/**
 * What does not depend on the order of records: how many, and the sum of a 64-bit hash of each, modulo 2^64. Two heaps
 * of records with equal sums hold the same records, but for a chance of 2^-64 for accidents; no protection against
 * intent.
 */
typedef struct fm_pond_sum {
    uint64_t records;
    uint64_t hash;
} fm_pond_sum;

/** Adds records to a sum, which begins as zeros. */
FM_API void fm_pond_sum_add(fm_pond_sum *sum, const void *records, size_t record_bytes, uint64_t count);

typedef struct fm_pond_sort_options {
    size_t size;           /**< sizeof(fm_pond_sort_options) */
    uint32_t record_bytes; /**< 0: 100; at most FM_POND_RECORD_BYTES_MAX */
    uint32_t key_bytes;    /**< 0: 10 (or the record, where that is less); at most FM_POND_KEY_BYTES */
    uint64_t memory_bytes; /**< for buffers, at least 8 MiB; 0: half of what the machine has to spare */
    int threads;           /**< that compute; as many again wait for disks. 0: as many as cores */
    const char *scratch;   /**< folder for what does not fit in memory; NULL: the output's */
    /** Called from one thread at a time now and then: bytes done of bytes in all, counting every pass. NULL: not. */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;
} fm_pond_sort_options;

typedef struct fm_pond_sort_report {
    fm_pond_sum in, out; /**< equal, or the sort has failed */
    uint64_t bytes;      /**< of all records */
    uint32_t passes;     /**< 1: in memory; 2: through the scratch folder */
    uint32_t partitions; /**< of the second pass; 1 in memory */
    uint64_t partition_bytes_max;
    uint64_t read_ns, partition_ns, sort_ns,
        sync_ns; /**< wall time: of one pass, read and distribute entries, then sort
                                                         and write; of two, distribute and then sort */
} fm_pond_sort_report;

/**
 * Sorts the records of `inputs` (files; a folder stands for the files in it, in the order of their names) into one file,
 * which appears, complete and durable, when all is proved: as many records as came in, with the same sum, in order.
 * Records with equal keys keep the order in which they came: the result does not depend on threads or memory.
 *
 * FM_ERR_FORMAT: an input is not a whole number of records (its name and size). FM_ERR_ARG: options. FM_ERR_SPACE: no
 * room on disk (looked for before the work begins as well). FM_ERR_INTERNAL: the proof failed. FM_ERR_NOT_FOUND, FM_ERR_IO,
 * FM_ERR_NOMEM, FM_ERR_LIMIT (more than 65,535 partitions: memory too small for so much data), FM_ERR_CANCELLED. After any
 * failure `output` is what it was.
 */
FM_API FM_MUST_USE fm_status fm_pond_records_sort(const char *const *inputs, size_t input_count,
                                                  const char *output, const fm_pond_sort_options *options,
                                                  fm_pond_sort_report *out_report);

/** What checking found. The checksum is the benchmark's own: the sum of the CRC-32 (of zlib) of each record, in 128 bits. */
typedef struct fm_pond_check_report {
    uint64_t records;
    uint64_t checksum_high, checksum_low;
    uint64_t duplicate_keys;  /**< records whose key is that of the record before */
    uint64_t unordered;       /**< records whose key is below that of the record before; 0: sorted */
    uint64_t first_unordered; /**< number of the first of them */
    fm_pond_sum sum;
} fm_pond_check_report;

/** Reads records as the sort does and checks their order, across files too. Success says that all could be read: whether
 * they are sorted is in the report. Of `options`, progress, threads, record and key are looked at. */
FM_API FM_MUST_USE fm_status fm_pond_records_check(const char *const *inputs, size_t input_count,
                                                   const fm_pond_sort_options *options,
                                                   fm_pond_check_report *out_report);

#ifdef __cplusplus
}
#endif
#endif
