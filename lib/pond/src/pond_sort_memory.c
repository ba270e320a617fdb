/*
 * In memory: records are read once and stay where they are. Entries of them are made as they come, distributed by sampled
 * splitters into parts that fit a core's cache, and each part is sorted there, its records gathered and written, in whatever
 * order threads come by. More threads than cores take part, so that some compute while others wait for the disk.
 *
 *     read a piece, make entries | sample | classify pieces | distribute | for runs of parts: sort, gather, write
 */
#include <stdlib.h>

#include "fathom/clock.h"
#include "fathom/span.h"
#include "pond_sort_internal.h"

enum {
    PIECE_BYTES = 4 << 20,
    PIECES_MAX = 1024,   // each has a counter for each part
    PART_ENTRIES = 8192, // with its copy 256 KiB: half of a small second-level cache
    PARTS_MAX = 4096,    // beyond, distributing misses the TLB at every entry
    SAMPLES = 32,        // a part; parts are then rarely twice as large as they should be
};

struct memory_sort {
    fm_pond_sort *sort;
    uint8_t *records;
    fm_pond_entry *entries;     // in the order of records
    fm_pond_entry *distributed; // in the order of parts
    uint16_t *part_of;
    size_t piece_records, pieces;
    size_t parts;
    fm_pond_entry *splitters;
    uint64_t *counts; // [piece][part]: how many; then where the first of them goes
    uint64_t *begins; // [part]; one more for the end
    fm_pond_run *runs;
    size_t *run_parts; // [run]: first part; one more for the end
    size_t run_count;
    uint64_t part_max;
    size_t claimed;
};

uint64_t fm_pond_sort_memory_needed(const fm_pond_sort *sort)
{
    return sort->input.bytes + sort->records * FM_POND_ENTRY_COST +
           (uint64_t)sort->team.members * (fm_pond_sort_unit_alloc(sort) + (PART_ENTRIES << 6)) +
           ((uint64_t)PIECES_MAX * PARTS_MAX * sizeof(uint64_t)) / 4;
}

static size_t claim(struct memory_sort *work)
{
    return __atomic_fetch_add(&work->claimed, 1, __ATOMIC_RELAXED);
}

static fm_status read_pieces(void *context, int member)
{
    (void)member;
    struct memory_sort *work = context;
    fm_pond_sort *sort = work->sort;
    fm_pond_sum sum = {0};
    for (size_t piece; (piece = claim(work)) < work->pieces && !fm_pond_team_stopped(&sort->team);) {
        size_t first = piece * work->piece_records;
        size_t count =
            sort->records - first < work->piece_records ? (size_t)sort->records - first : work->piece_records;
        uint64_t at = (uint64_t)first * sort->record_bytes;
        FM_TRY(fm_pond_input_read(&sort->input, at, work->records + at, count * sort->record_bytes));
        fm_pond_entries_make(work->records + at, sort->record_bytes, sort->key_bytes, at, count,
                             work->entries + first);
        fm_pond_sum_add(&sum, work->records + at, sort->record_bytes, count);
        fm_pond_sort_moved(sort, count * sort->record_bytes);
    }
    fm_pond_sort_add_in(sort, &sum);
    return FM_OK;
}

static fm_status choose_splitters(struct memory_sort *work)
{
    size_t count = (size_t)work->sort->records;
    size_t wanted = work->parts * SAMPLES;
    wanted = wanted < count ? wanted : count;
    fm_pond_entry *samples = fm_base_mem_alloc(2 * (wanted + 1) * sizeof *samples);
    if (!samples)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu samples", wanted);
    for (size_t i = 0; i < wanted; i++)
        samples[i] = work->entries[(size_t)((fm_pond_entry)count * i / wanted)];
    fm_pond_entries_sort(samples, samples + wanted, wanted);
    fm_pond_splitters_choose(samples + wanted, wanted, work->parts, work->parts, work->splitters);
    fm_base_mem_free(samples);
    return FM_OK;
}

static fm_status classify_pieces(void *context, int member)
{
    (void)member;
    struct memory_sort *work = context;
    for (size_t piece; (piece = claim(work)) < work->pieces && !fm_pond_team_stopped(&work->sort->team);) {
        size_t first = piece * work->piece_records;
        size_t left = (size_t)work->sort->records - first;
        size_t count = left < work->piece_records ? left : work->piece_records;
        uint64_t *counts = work->counts + piece * work->parts;
        fm_pond_entries_classify(work->entries + first, count, work->splitters, work->parts,
                                 work->part_of + first);
        for (size_t i = first; i < first + count; i++)
            counts[work->part_of[i]]++;
    }
    return FM_OK;
}

// Places: by part, then by piece, so that who distributes which piece does not matter.
static void lay_out(struct memory_sort *work)
{
    uint64_t at = 0;
    for (size_t part = 0; part < work->parts; part++) {
        work->begins[part] = at;
        for (size_t piece = 0; piece < work->pieces; piece++) {
            uint64_t *count = &work->counts[piece * work->parts + part];
            uint64_t entries = *count;
            *count = at;
            at += entries;
        }
        uint64_t size = at - work->begins[part];
        work->part_max = size > work->part_max ? size : work->part_max;
    }
    work->begins[work->parts] = at;
    size_t unit_records = work->sort->unit_bytes / work->sort->record_bytes;
    for (size_t part = 0; part < work->parts;) {
        work->run_parts[work->run_count++] = part;
        uint64_t begin = work->begins[part++];
        while (part < work->parts && work->begins[part + 1] - begin <= unit_records)
            part++;
    }
    work->run_parts[work->run_count] = work->parts;
}

static fm_status distribute_pieces(void *context, int member)
{
    (void)member;
    struct memory_sort *work = context;
    for (size_t piece; (piece = claim(work)) < work->pieces && !fm_pond_team_stopped(&work->sort->team);) {
        size_t first = piece * work->piece_records;
        size_t left = (size_t)work->sort->records - first;
        size_t count = left < work->piece_records ? left : work->piece_records;
        uint64_t *places = work->counts + piece * work->parts;
        for (size_t i = first; i < first + count; i++)
            work->distributed[places[work->part_of[i]]++] = work->entries[i];
    }
    return FM_OK;
}

static fm_status write_runs(void *context, int member)
{
    (void)member;
    struct memory_sort *work = context;
    fm_pond_sort *sort = work->sort;
    fm_status status = FM_OK;
    fm_pond_sum sum = {0};
    uint8_t *unit = fm_pond_bulk_alloc(fm_pond_sort_unit_alloc(sort));
    if (!unit)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a unit of %zu bytes", sort->unit_bytes);
    for (size_t run;
         status == FM_OK && (run = claim(work)) < work->run_count && !fm_pond_team_stopped(&sort->team);) {
        size_t first_part = work->run_parts[run], end_part = work->run_parts[run + 1];
        uint64_t begin = work->begins[first_part], end = work->begins[end_part];
        // The entries made at first have served: the sorted ones take their room.
        for (size_t part = first_part; part < end_part; part++)
            fm_pond_entries_sort(work->distributed + work->begins[part], work->entries + work->begins[part],
                                 (size_t)(work->begins[part + 1] - work->begins[part]));
        status = fm_pond_sort_write(sort, work->records, work->entries + begin, (size_t)(end - begin),
                                    begin * sort->record_bytes, unit, &work->runs[run], &sum);
    }
    fm_pond_sort_add_out(sort, &sum);
    fm_base_mem_free(unit);
    return status;
}

static fm_status allocate(struct memory_sort *work)
{
    const fm_pond_sort *sort = work->sort;
    size_t records = (size_t)sort->records;
    work->piece_records = PIECE_BYTES / sort->record_bytes;
    if (records / work->piece_records >= PIECES_MAX)
        work->piece_records = records / PIECES_MAX + 1;
    // Pieces begin at whole pages, for direct reading.
    work->piece_records = (work->piece_records / FM_POND_DIRECT + 1) * FM_POND_DIRECT;
    work->pieces = (records + work->piece_records - 1) / work->piece_records;
    work->parts = 2;
    while (work->parts < PARTS_MAX && work->parts * PART_ENTRIES < records)
        work->parts *= 2;
    work->records = fm_pond_bulk_alloc((size_t)sort->input.bytes);
    work->entries = fm_pond_bulk_alloc(records * sizeof *work->entries);
    work->distributed = fm_pond_bulk_alloc(records * sizeof *work->distributed);
    work->part_of = fm_pond_bulk_alloc(records * sizeof *work->part_of);
    work->splitters = fm_base_mem_alloc(work->parts * sizeof *work->splitters);
    work->counts = fm_base_mem_zalloc(work->pieces * work->parts + 1, sizeof *work->counts);
    work->begins = fm_base_mem_zalloc(work->parts + 1, sizeof *work->begins);
    work->runs = fm_base_mem_zalloc(work->parts, sizeof *work->runs);
    work->run_parts = fm_base_mem_zalloc(work->parts + 1, sizeof *work->run_parts);
    if (!work->records || !work->entries || !work->distributed || !work->part_of || !work->splitters ||
        !work->counts || !work->begins || !work->runs || !work->run_parts)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu records of %zu bytes", records,
                                 sort->record_bytes);
    return FM_OK;
}

static void release(struct memory_sort *work)
{
    fm_base_mem_free(work->records);
    fm_base_mem_free(work->entries);
    fm_base_mem_free(work->distributed);
    fm_base_mem_free(work->part_of);
    fm_base_mem_free(work->splitters);
    fm_base_mem_free(work->counts);
    fm_base_mem_free(work->begins);
    fm_base_mem_free(work->runs);
    fm_base_mem_free(work->run_parts);
}

static fm_status step(struct memory_sort *work, fm_status (*body)(void *context, int member),
                      uint64_t *out_ns)
{
    uint64_t begin = fm_base_clock_ns();
    work->claimed = 0;
    FM_TRY(fm_pond_team_run(&work->sort->team, body, work));
    *out_ns += fm_base_clock_ns() - begin;
    return FM_OK;
}

fm_status fm_pond_sort_in_memory(fm_pond_sort *sort)
{
    FM_SPAN_ARGS(span, "sort_in_memory", "pond", "records", "bytes");
    span.args[0] = (int64_t)sort->records;
    span.args[1] = (int64_t)sort->input.bytes;
    struct memory_sort work = {.sort = sort};
    fm_pond_sort_report *report = sort->report;
    fm_status status = allocate(&work);
    if (status == FM_OK)
        status = step(&work, read_pieces, &report->read_ns);
    if (status == FM_OK)
        status = choose_splitters(&work);
    if (status == FM_OK)
        status = step(&work, classify_pieces, &report->partition_ns);
    if (status == FM_OK) {
        lay_out(&work);
        status = step(&work, distribute_pieces, &report->partition_ns);
    }
    if (status == FM_OK)
        status = step(&work, write_runs, &report->sort_ns);
    if (status == FM_OK)
        status = fm_pond_sort_check_runs(sort, work.runs, work.run_count);
    report->passes = 1;
    report->partitions = 1;
    report->partition_bytes_max = sort->input.bytes;
    release(&work);
    return status;
}
