/**
 * @file pond_sort_internal.h
 * A sort at work: what its two ways, in memory and through disk, share.
 */
#ifndef POND_SORT_INTERNAL_H
#define POND_SORT_INTERNAL_H

#include <pthread.h>

#include "fathom/pond_records.h"
#include "pond_entry.h"
#include "pond_input.h"
#include "pond_output.h"
#include "pond_team.h"

enum {
    // What is gathered and written at once: long enough for the disk, short enough for many in flight.
    FM_POND_UNIT_BYTES = 4 << 20,
    FM_POND_UNIT_BYTES_MIN = 1 << 18,
    // In memory, a record costs its entry twice (made, then distributed) and the number of its part.
    FM_POND_ENTRY_COST = 2 * sizeof(fm_pond_entry) + sizeof(uint16_t),
};

typedef struct fm_pond_sort {
    const fm_pond_sort_options *options;
    fm_pond_input input;
    fm_pond_output output;
    const char *scratch;
    size_t record_bytes, key_bytes;
    uint64_t records;
    uint64_t memory_bytes;
    size_t unit_bytes;
    fm_pond_team team;
    pthread_mutex_t lock; /**< of what follows */
    fm_pond_sum in, out;
    uint64_t done, total; /**< bytes moved, for progress */
    fm_pond_sort_report *report;
} fm_pond_sort;

/** A run of the output: sorted, gathered, checked and written by one thread. The keys at its ends are kept for the proof
 * of order across runs. */
typedef struct fm_pond_run {
    uint64_t at; /**< in the output */
    uint8_t first_key[FM_POND_KEY_BYTES], last_key[FM_POND_KEY_BYTES];
    int written;
} fm_pond_run;

/** Counts bytes that were moved and calls the caller's progress. */
void fm_pond_sort_moved(fm_pond_sort *sort, uint64_t bytes);
void fm_pond_sort_add_in(fm_pond_sort *sort, const fm_pond_sum *sum);
void fm_pond_sort_add_out(fm_pond_sort *sort, const fm_pond_sum *sum);

/** How large the unit buffers of fm_pond_sort_write() are. */
size_t fm_pond_sort_unit_alloc(const fm_pond_sort *sort);
/**
 * Gathers `count` records at base + place of each entry, in units, writes them at `at` of the output, and adds them to `sum`.
 * `unit` has fm_pond_sort_unit_alloc() bytes. FM_ERR_INTERNAL when a key is below the one before.
 */
FM_MUST_USE fm_status fm_pond_sort_write(fm_pond_sort *sort, const uint8_t *base,
                                         const fm_pond_entry *entries, size_t count, uint64_t at,
                                         uint8_t *unit, fm_pond_run *out_run, fm_pond_sum *sum);
/** The runs, in the order of the output, do not overlap in keys. */
FM_MUST_USE fm_status fm_pond_sort_check_runs(const fm_pond_sort *sort, const fm_pond_run *runs,
                                              size_t count);

FM_MUST_USE fm_status fm_pond_sort_in_memory(fm_pond_sort *sort);
FM_MUST_USE fm_status fm_pond_sort_on_disk(fm_pond_sort *sort);

/** Memory for the in-memory way. */
uint64_t fm_pond_sort_memory_needed(const fm_pond_sort *sort);

#endif
