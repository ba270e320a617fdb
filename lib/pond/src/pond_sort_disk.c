/*
 * Through disk, in two passes, when the records do not fit in memory.
 *
 * First a sample of the records' keys gives splitters, which cut all keys into partitions that fit in memory, one for each
 * thread. Then chunks of the input are read, and each is written to the scratch file as one piece, its records ordered by
 * partition (stable, so that what came first stays first):
 *
 *     scratch:  | chunk 0: partition 0 | 1 | 2 | ... | chunk 1: partition 0 | 1 | 2 | ... |      segments begin at whole pages
 *
 * Last, each partition is read from its segments in all chunks, sorted and written to its place in the output. Both passes
 * move each byte once in either direction, in transfers of a chunk's or a segment's size. Twice as many threads as compute
 * take part, so that disks and cores work at the same time without any of them having to be told.
 */
#include <stdlib.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/rng.h"
#include "fathom/span.h"
#include "pond_sort_internal.h"

enum {
    SAMPLES = 512, // a partition: its size is then off by 4.4 % (one sigma)
    SAMPLES_MAX = 1 << 20,
    PARTITIONS_MAX = 65535, // numbers of partitions have 16 bits
    SAMPLE_CLAIM = 64,
};

// A partition's records of one chunk.
struct segment {
    uint32_t page; // where in the chunk's piece of the scratch file it begins
    uint32_t records;
};

struct disk_sort {
    fm_pond_sort *sort;
    int scratch;
    size_t chunk_bytes, chunk_stride; // of records; with the room for whole pages
    size_t chunks, partitions, padded;
    fm_pond_entry *splitters;
    fm_pond_entry *samples;
    size_t sample_count;
    struct segment *segments; // [chunk][partition]
    uint64_t *begins;         // [partition]: first record in the output; one more for the end
    size_t room_max;          // the largest partition in memory, segments at whole pages
    uint64_t part_max;
    fm_pond_run *runs;
    size_t claimed;
};

static size_t claim(struct disk_sort *work, size_t count)
{
    return __atomic_fetch_add(&work->claimed, count, __ATOMIC_RELAXED);
}

// Sizes from the memory that there is. Of both passes, a thread's buffers are to take its share.
static fm_status plan(struct disk_sort *work)
{
    const fm_pond_sort *sort = work->sort;
    uint64_t share = sort->memory_bytes / (uint64_t)sort->team.members;
    uint64_t step = (uint64_t)sort->record_bytes * FM_POND_DIRECT;
    // A chunk, its copy in order, the entry and the partition of each record; pages that are not full.
    uint64_t record_cost = 2 * sort->record_bytes + sizeof(fm_pond_entry) + sizeof(uint16_t);
    uint64_t chunk = share * 9 / 10 / record_cost * sort->record_bytes;
    work->chunk_bytes = (size_t)(chunk < step ? step : chunk - chunk % step);
    work->chunks = (size_t)((sort->input.bytes + work->chunk_bytes - 1) / work->chunk_bytes);
    // A partition, two entries of each record, a unit; 1.2 for what sampling misses (5 sigma and more of 4.4 %).
    uint64_t room = share - fm_pond_sort_unit_alloc(sort);
    uint64_t partition =
        (uint64_t)((double)room / 1.2 / (double)(sort->record_bytes + 2 * sizeof(fm_pond_entry)) *
                   (double)sort->record_bytes);
    uint64_t partitions = sort->input.bytes / partition + 1;
    if (partitions > PARTITIONS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT,
                                 "%llu bytes need %llu partitions in %llu bytes of memory; at most %d are "
                                 "possible: give more memory",
                                 (unsigned long long)sort->input.bytes, (unsigned long long)partitions,
                                 (unsigned long long)sort->memory_bytes, PARTITIONS_MAX);
    work->partitions = (size_t)partitions;
    for (work->padded = 2; work->padded < work->partitions;)
        work->padded *= 2;
    work->chunk_stride =
        (size_t)fm_round_up(work->chunk_bytes, FM_POND_DIRECT) + work->partitions * FM_POND_DIRECT;
    return FM_OK;
}

static fm_status read_samples(void *context, int member)
{
    (void)member;
    struct disk_sort *work = context;
    const fm_pond_sort *sort = work->sort;
    uint8_t key[FM_POND_KEY_BYTES];
    for (size_t first; (first = claim(work, SAMPLE_CLAIM)) < work->sample_count;) {
        for (size_t i = first; i < first + SAMPLE_CLAIM && i < work->sample_count; i++) {
            // One at random of each stretch of the input: sorted input is sampled exactly, periodic input not by its period.
            uint64_t low = (uint64_t)((fm_pond_entry)sort->records * i / work->sample_count);
            uint64_t high = (uint64_t)((fm_pond_entry)sort->records * (i + 1) / work->sample_count);
            uint64_t record = low + fm_base_rng_at(1, 0, i) % (high > low ? high - low : 1);
            uint64_t at = record * sort->record_bytes;
            FM_TRY(fm_pond_input_read(&sort->input, at, key, sort->key_bytes));
            fm_pond_entries_make(key, sort->record_bytes, sort->key_bytes, at, 1, &work->samples[i]);
        }
        if (fm_pond_team_stopped(&sort->team))
            break;
    }
    return FM_OK;
}

static fm_status choose_splitters(struct disk_sort *work)
{
    fm_pond_sort *sort = work->sort;
    size_t count = work->partitions * SAMPLES;
    count = count > SAMPLES_MAX ? SAMPLES_MAX : count;
    work->sample_count = count > sort->records ? (size_t)sort->records : count;
    work->samples = fm_base_mem_alloc(2 * work->sample_count * sizeof *work->samples);
    work->splitters = fm_base_mem_alloc(work->padded * sizeof *work->splitters);
    if (!work->samples || !work->splitters)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu samples", work->sample_count);
    // Samples are single keys: read through the cache, with many threads, since each waits for the disk.
    fm_pond_team readers = {.members = 16};
    int direct = sort->input.direct;
    sort->input.direct = 0;
    work->claimed = 0;
    fm_status status = fm_pond_team_run(&readers, read_samples, work);
    sort->input.direct = direct;
    FM_TRY(status);
    fm_pond_entries_sort(work->samples, work->samples + work->sample_count, work->sample_count);
    fm_pond_splitters_choose(work->samples + work->sample_count, work->sample_count, work->partitions,
                             work->padded, work->splitters);
    return FM_OK;
}

// The buffers of a thread of the first pass.
struct chunk {
    uint8_t *records, *ordered;
    fm_pond_entry *entries;
    uint16_t *part_of;
    size_t *places; // [partition]
};

// Moves the chunk's records into the order of partitions; returns how many bytes that takes.
static size_t order_chunk(const struct disk_sort *work, const struct chunk *chunk, size_t count,
                          struct segment *segments)
{
    const size_t record_bytes = work->sort->record_bytes;
    for (size_t i = 0; i < count; i++)
        segments[chunk->part_of[i]].records++;
    size_t at = 0;
    for (size_t part = 0; part < work->partitions; part++) {
        chunk->places[part] = at;
        segments[part].page = (uint32_t)(at / FM_POND_DIRECT);
        size_t end = at + segments[part].records * record_bytes;
        at = fm_round_up(end, FM_POND_DIRECT);
        memset(chunk->ordered + end, 0, at - end);
    }
    for (size_t i = 0; i < count; i++) {
        size_t *place = &chunk->places[chunk->part_of[i]];
        memcpy(chunk->ordered + *place, chunk->records + i * record_bytes, record_bytes);
        *place += record_bytes;
    }
    return at;
}

static fm_status partition_chunk(struct disk_sort *work, const struct chunk *chunk, size_t number,
                                 fm_pond_sum *sum)
{
    fm_pond_sort *sort = work->sort;
    uint64_t at = (uint64_t)number * work->chunk_bytes;
    uint64_t left = sort->input.bytes - at;
    size_t size = left < work->chunk_bytes ? (size_t)left : work->chunk_bytes;
    size_t count = size / sort->record_bytes;
    FM_TRY(fm_pond_input_read(&sort->input, at, chunk->records, size));
    fm_pond_sum_add(sum, chunk->records, sort->record_bytes, count);
    fm_pond_entries_make(chunk->records, sort->record_bytes, sort->key_bytes, at, count, chunk->entries);
    fm_pond_entries_classify(chunk->entries, count, work->splitters, work->padded, chunk->part_of);
    size_t ordered = order_chunk(work, chunk, count, work->segments + number * work->partitions);
    fm_pond_sort_moved(sort, size);
    FM_TRY(fm_pond_output_write_fd(work->scratch, sort->scratch, (uint64_t)number * work->chunk_stride,
                                   chunk->ordered, ordered));
    fm_pond_sort_moved(sort, size);
    return FM_OK;
}

static fm_status partition_chunks(void *context, int member)
{
    (void)member;
    struct disk_sort *work = context;
    const fm_pond_sort *sort = work->sort;
    size_t count = work->chunk_bytes / sort->record_bytes;
    struct chunk chunk = {
        .records = fm_pond_bulk_alloc(work->chunk_bytes),
        .ordered = fm_pond_bulk_alloc(work->chunk_stride),
        .entries = fm_pond_bulk_alloc(count * sizeof *chunk.entries),
        .part_of = fm_pond_bulk_alloc(count * sizeof *chunk.part_of),
        .places = fm_base_mem_zalloc(work->partitions, sizeof *chunk.places),
    };
    fm_pond_sum sum = {0};
    fm_status status = FM_OK;
    if (!chunk.records || !chunk.ordered || !chunk.entries || !chunk.part_of || !chunk.places)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a chunk of %zu bytes", work->chunk_bytes);
    for (size_t number;
         status == FM_OK && (number = claim(work, 1)) < work->chunks && !fm_pond_team_stopped(&sort->team);)
        status = partition_chunk(work, &chunk, number, &sum);
    fm_pond_sort_add_in(work->sort, &sum);
    fm_base_mem_free(chunk.records);
    fm_base_mem_free(chunk.ordered);
    fm_base_mem_free(chunk.entries);
    fm_base_mem_free(chunk.part_of);
    fm_base_mem_free(chunk.places);
    return status;
}

// Sizes of partitions, now that they are known.
static void measure(struct disk_sort *work)
{
    uint64_t at = 0;
    for (size_t part = 0; part < work->partitions; part++) {
        size_t room = 0;
        work->begins[part] = at;
        for (size_t chunk = 0; chunk < work->chunks; chunk++) {
            uint32_t count = work->segments[chunk * work->partitions + part].records;
            at += count;
            room += fm_round_up(count * work->sort->record_bytes, FM_POND_DIRECT);
        }
        uint64_t size = at - work->begins[part];
        work->part_max = size > work->part_max ? size : work->part_max;
        work->room_max = room > work->room_max ? room : work->room_max;
    }
    work->begins[work->partitions] = at;
}

// Reads a partition's segments, each to a whole page, and makes entries of its records.
static fm_status read_partition(const struct disk_sort *work, size_t part, uint8_t *records,
                                fm_pond_entry *entries)
{
    const fm_pond_sort *sort = work->sort;
    size_t to = 0, made = 0;
    for (size_t chunk = 0; chunk < work->chunks; chunk++) {
        const struct segment *segment = &work->segments[chunk * work->partitions + part];
        uint64_t at = (uint64_t)chunk * work->chunk_stride + (uint64_t)segment->page * FM_POND_DIRECT;
        size_t size = fm_round_up(segment->records * sort->record_bytes, FM_POND_DIRECT);
        FM_TRY(fm_pond_input_read_fd(work->scratch, sort->scratch, at, records + to, size));
        fm_pond_entries_make(records + to, sort->record_bytes, sort->key_bytes, to, segment->records,
                             entries + made);
        made += segment->records;
        to += size;
        if (fm_pond_team_stopped(&sort->team))
            break;
    }
    return FM_OK;
}

static fm_status sort_partitions(void *context, int member)
{
    (void)member;
    struct disk_sort *work = context;
    fm_pond_sort *sort = work->sort;
    fm_pond_sum sum = {0};
    fm_status status = FM_OK;
    uint8_t *records = fm_pond_bulk_alloc(work->room_max);
    uint8_t *unit = fm_pond_bulk_alloc(fm_pond_sort_unit_alloc(sort));
    fm_pond_entry *entries = fm_pond_bulk_alloc(2 * (size_t)work->part_max * sizeof *entries);
    if (!records || !unit || !entries)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a partition of %llu records",
                                   (unsigned long long)work->part_max);
    for (size_t part; status == FM_OK && (part = claim(work, 1)) < work->partitions &&
                      !fm_pond_team_stopped(&sort->team);) {
        size_t count = (size_t)(work->begins[part + 1] - work->begins[part]);
        status = read_partition(work, part, records, entries);
        if (status < 0 || fm_pond_team_stopped(&sort->team))
            break;
        fm_pond_sort_moved(sort, count * sort->record_bytes);
        fm_pond_entries_sort(entries, entries + work->part_max, count);
        status = fm_pond_sort_write(sort, records, entries + work->part_max, count,
                                    work->begins[part] * sort->record_bytes, unit, &work->runs[part], &sum);
    }
    fm_pond_sort_add_out(sort, &sum);
    fm_base_mem_free(records);
    fm_base_mem_free(unit);
    fm_base_mem_free(entries);
    return status;
}

static fm_status run_passes(struct disk_sort *work)
{
    fm_pond_sort *sort = work->sort;
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(plan(work));
    work->segments = fm_base_mem_zalloc(work->chunks * work->partitions, sizeof *work->segments);
    work->begins = fm_base_mem_zalloc(work->partitions + 1, sizeof *work->begins);
    work->runs = fm_base_mem_zalloc(work->partitions, sizeof *work->runs);
    if (!work->segments || !work->begins || !work->runs)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to count %zu chunks by %zu partitions",
                                 work->chunks, work->partitions);
    FM_TRY(choose_splitters(work));
    FM_TRY(fm_pond_scratch_open(sort->scratch, &work->scratch));
    work->claimed = 0;
    FM_TRY(fm_pond_team_run(&sort->team, partition_chunks, work));
    sort->report->partition_ns = fm_base_clock_ns() - begin;
    begin = fm_base_clock_ns();
    measure(work);
    work->claimed = 0;
    FM_TRY(fm_pond_team_run(&sort->team, sort_partitions, work));
    sort->report->sort_ns = fm_base_clock_ns() - begin;
    return fm_pond_sort_check_runs(sort, work->runs, work->partitions);
}

fm_status fm_pond_sort_on_disk(fm_pond_sort *sort)
{
    FM_SPAN_ARGS(span, "sort_on_disk", "pond", "records", "bytes");
    span.args[0] = (int64_t)sort->records;
    span.args[1] = (int64_t)sort->input.bytes;
    struct disk_sort work = {.sort = sort, .scratch = -1};
    fm_status status = run_passes(&work);
    sort->report->passes = 2;
    sort->report->partitions = (uint32_t)work.partitions;
    sort->report->partition_bytes_max = work.part_max * sort->record_bytes;
    if (work.scratch >= 0)
        close(work.scratch);
    fm_base_mem_free(work.samples);
    fm_base_mem_free(work.splitters);
    fm_base_mem_free(work.segments);
    fm_base_mem_free(work.begins);
    fm_base_mem_free(work.runs);
    return status;
}
