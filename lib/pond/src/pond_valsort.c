#include <string.h>

#include "fathom/crc.h"
#include "fathom/mem.h"
#include "fathom/pond_records.h"
#include "pond_sort_internal.h"

enum { PIECE_BYTES = 4 << 20 };

__extension__ typedef unsigned __int128 wide;

// What is known of a stretch of records.
struct piece {
    uint64_t records, duplicates, unordered, first_unordered;
    uint8_t first_key[FM_POND_KEY_BYTES], last_key[FM_POND_KEY_BYTES];
};

struct check {
    const fm_pond_sort_options *options;
    fm_pond_input input;
    size_t record_bytes, key_bytes, piece_records;
    struct piece *pieces;
    size_t piece_count, claimed;
    fm_pond_team team;
    pthread_mutex_t lock;
    wide checksum;
    fm_pond_sum sum;
    uint64_t done;
};

static void look_at(const struct check *check, const uint8_t *records, uint64_t first, struct piece *piece,
                    wide *checksum)
{
    const size_t size = check->record_bytes, key = check->key_bytes;
    for (uint64_t i = 0; i < piece->records; i++) {
        const uint8_t *record = records + i * size;
        *checksum += fm_base_crc32(0, record, size);
        int order = i ? memcmp(record, record - size, key) : 1;
        piece->duplicates += order == 0;
        if (order < 0 && piece->unordered++ == 0)
            piece->first_unordered = first + i;
    }
    memcpy(piece->first_key, records, key);
    memcpy(piece->last_key, records + (piece->records - 1) * size, key);
}

static fm_status check_pieces(void *context, int member)
{
    (void)member;
    struct check *check = context;
    uint64_t total = check->input.bytes / check->record_bytes;
    uint8_t *records = fm_pond_bulk_alloc(check->piece_records * check->record_bytes);
    if (!records)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu records", check->piece_records);
    fm_status status = FM_OK;
    for (size_t i; (i = __atomic_fetch_add(&check->claimed, 1, __ATOMIC_RELAXED)) < check->piece_count &&
                   !fm_pond_team_stopped(&check->team);) {
        struct piece *piece = &check->pieces[i];
        wide checksum = 0;
        fm_pond_sum sum = {0};
        uint64_t first = (uint64_t)i * check->piece_records;
        piece->records = total - first < check->piece_records ? total - first : check->piece_records;
        size_t bytes = (size_t)piece->records * check->record_bytes;
        status = fm_pond_input_read(&check->input, first * check->record_bytes, records, bytes);
        if (status < 0)
            break;
        look_at(check, records, first, piece, &checksum);
        fm_pond_sum_add(&sum, records, check->record_bytes, piece->records);
        pthread_mutex_lock(&check->lock);
        check->checksum += checksum;
        check->sum.records += sum.records;
        check->sum.hash += sum.hash;
        check->done += bytes;
        if (check->options->progress)
            check->options->progress(check->options->progress_context, check->done, check->input.bytes);
        pthread_mutex_unlock(&check->lock);
    }
    fm_base_mem_free(records);
    return status;
}

static void merge(const struct check *check, fm_pond_check_report *report)
{
    uint64_t first = 0;
    for (size_t i = 0; i < check->piece_count; first += check->pieces[i++].records) {
        const struct piece *piece = &check->pieces[i];
        int order = i ? memcmp(piece->first_key, piece[-1].last_key, check->key_bytes) : 1;
        report->duplicate_keys += piece->duplicates + (order == 0);
        if (report->unordered == 0 && (order < 0 || piece->unordered))
            report->first_unordered = order < 0 ? first : piece->first_unordered;
        report->unordered += piece->unordered + (order < 0);
    }
    report->records = check->sum.records;
    report->sum = check->sum;
    report->checksum_high = (uint64_t)(check->checksum >> 64);
    report->checksum_low = (uint64_t)check->checksum;
}

static fm_status run(struct check *check, const char *const *inputs, size_t input_count,
                     fm_pond_check_report *report)
{
    for (size_t i = 0; i < input_count; i++)
        FM_TRY(fm_pond_input_add(&check->input, inputs[i]));
    FM_TRY(fm_pond_input_check(&check->input, (uint32_t)check->record_bytes));
    uint64_t records = check->input.bytes / check->record_bytes;
    check->input.direct = !fm_pond_input_cached(&check->input);
    check->piece_records = (PIECE_BYTES / check->record_bytes / FM_POND_DIRECT + 1) * FM_POND_DIRECT;
    check->piece_count = (size_t)((records + check->piece_records - 1) / check->piece_records);
    check->pieces = fm_base_mem_zalloc(check->piece_count + 1, sizeof *check->pieces);
    if (!check->pieces)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu pieces", check->piece_count);
    FM_TRY(fm_pond_team_run(&check->team, check_pieces, check));
    merge(check, report);
    return FM_OK;
}

fm_status fm_pond_records_check(const char *const *inputs, size_t input_count,
                                const fm_pond_sort_options *options, fm_pond_check_report *out_report)
{
    fm_pond_check_report report = {0};
    if (options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "options.size is %zu; expected %zu", options->size,
                                 sizeof *options);
    struct check check = {.options = options, .lock = PTHREAD_MUTEX_INITIALIZER};
    check.record_bytes = options->record_bytes ? options->record_bytes : FM_POND_RECORD_BYTES;
    size_t key = check.record_bytes < FM_POND_KEY_BYTES ? check.record_bytes : FM_POND_KEY_BYTES;
    check.key_bytes = options->key_bytes ? options->key_bytes : key;
    if (check.record_bytes > FM_POND_RECORD_BYTES_MAX || check.key_bytes > key)
        return fm_base_error_set(FM_ERR_ARG,
                                 "records of %zu bytes with keys of %zu; expected at most %d and %zu",
                                 check.record_bytes, check.key_bytes, FM_POND_RECORD_BYTES_MAX, key);
    if (options->threads < 0 || options->threads > FM_POND_TEAM_MAX)
        return fm_base_error_set(FM_ERR_ARG, "threads is %d; expected 0 to %d", options->threads,
                                 FM_POND_TEAM_MAX);
    check.team.members = options->threads ? options->threads : fm_pond_team_cores();
    check.team.members = check.team.members > FM_POND_TEAM_MAX ? FM_POND_TEAM_MAX : check.team.members;
    fm_status status = run(&check, inputs, input_count, &report);
    fm_pond_input_clear(&check.input);
    fm_base_mem_free(check.pieces);
    if (status == FM_OK)
        *out_report = report;
    return status;
}
