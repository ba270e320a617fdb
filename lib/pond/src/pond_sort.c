#include <stdio.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "pond_sort_internal.h"

#define MEMORY_MIN ((uint64_t)8 << 20)

static fm_status take_options(fm_pond_sort *sort)
{
    const fm_pond_sort_options *options = sort->options;
    if (options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "options.size is %zu; expected %zu", options->size,
                                 sizeof *options);
    sort->record_bytes = options->record_bytes ? options->record_bytes : FM_POND_RECORD_BYTES;
    if (sort->record_bytes > FM_POND_RECORD_BYTES_MAX)
        return fm_base_error_set(FM_ERR_ARG, "records of %zu bytes; expected at most %d", sort->record_bytes,
                                 FM_POND_RECORD_BYTES_MAX);
    size_t key = sort->record_bytes < FM_POND_KEY_BYTES ? sort->record_bytes : FM_POND_KEY_BYTES;
    sort->key_bytes = options->key_bytes ? options->key_bytes : key;
    if (sort->key_bytes > key)
        return fm_base_error_set(FM_ERR_ARG, "a key of %zu bytes in records of %zu; expected at most %zu",
                                 sort->key_bytes, sort->record_bytes, key);
    if (options->threads < 0 || options->threads > FM_POND_TEAM_MAX / 2)
        return fm_base_error_set(FM_ERR_ARG, "threads is %d; expected 0 to %d", options->threads,
                                 FM_POND_TEAM_MAX / 2);
    int threads = options->threads ? options->threads : fm_pond_team_cores();
    threads = threads > FM_POND_TEAM_MAX / 2 ? FM_POND_TEAM_MAX / 2 : threads;
    sort->team.members = 2 * threads;
    sort->memory_bytes = options->memory_bytes;
    if (sort->memory_bytes == 0) {
        FM_TRY(fm_base_space_memory(&sort->memory_bytes));
        sort->memory_bytes /= 2;
        sort->memory_bytes = sort->memory_bytes < MEMORY_MIN ? MEMORY_MIN : sort->memory_bytes;
    }
    if (sort->memory_bytes < MEMORY_MIN)
        return fm_base_error_set(FM_ERR_ARG, "memory for a sort is %llu bytes; expected at least %llu",
                                 (unsigned long long)sort->memory_bytes, (unsigned long long)MEMORY_MIN);
    // With little memory, fewer threads: each needs buffers of some size.
    while (sort->team.members > 1 && sort->memory_bytes / (uint64_t)sort->team.members < MEMORY_MIN / 4)
        sort->team.members--;
    uint64_t unit = sort->memory_bytes / (uint64_t)sort->team.members / 8;
    unit = unit > FM_POND_UNIT_BYTES ? FM_POND_UNIT_BYTES : unit;
    unit = unit < FM_POND_UNIT_BYTES_MIN ? FM_POND_UNIT_BYTES_MIN : unit;
    sort->unit_bytes = (size_t)unit - (size_t)unit % sort->record_bytes;
    return FM_OK;
}

static fm_status open_input(fm_pond_input *input, const char *const *paths, size_t count, size_t record_bytes)
{
    for (size_t i = 0; i < count; i++)
        FM_TRY(fm_pond_input_add(input, paths[i]));
    FM_TRY(fm_pond_input_check(input, (uint32_t)record_bytes));
    // Entries hold places of 48 bits.
    if (input->bytes >> FM_POND_PLACE_BITS)
        return fm_base_error_set(FM_ERR_LIMIT, "%llu bytes to sort; expected less than 2^48",
                                 (unsigned long long)input->bytes);
    return FM_OK;
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = fm_base_mem_strdup(slash ? path : ".");
    if (folder && slash)
        folder[slash == path ? 1 : slash - path] = '\0';
    return folder;
}

static fm_status sort_to(fm_pond_sort *sort, const char *path)
{
    int in_memory = fm_pond_sort_memory_needed(sort) <= sort->memory_bytes;
    uint64_t free_bytes = 0;
    FM_TRY(fm_base_space_disk(sort->scratch, &free_bytes));
    if (!in_memory && free_bytes < sort->input.bytes)
        return fm_base_error_set(
            FM_ERR_SPACE, "%s has %llu bytes free; the sort needs %llu for its scratch file", sort->scratch,
            (unsigned long long)free_bytes, (unsigned long long)sort->input.bytes);
    sort->total = sort->input.bytes * (in_memory ? 2 : 4);
    // What the page cache holds is read from there; else reading past it saves a copy and leaves the cache to others.
    sort->input.direct = !fm_pond_input_cached(&sort->input);
    FM_TRY(fm_pond_output_begin(&sort->output, path, sort->input.bytes));
    fm_status status = in_memory ? fm_pond_sort_in_memory(sort) : fm_pond_sort_on_disk(sort);
    if (status == FM_OK && (sort->in.records != sort->records || sort->out.records != sort->records ||
                            sort->in.hash != sort->out.hash))
        status = fm_base_error_set(FM_ERR_INTERNAL,
                                   "%llu records with sum %016llx went in, %llu with sum %016llx came out",
                                   (unsigned long long)sort->in.records, (unsigned long long)sort->in.hash,
                                   (unsigned long long)sort->out.records, (unsigned long long)sort->out.hash);
    uint64_t begin = fm_base_clock_ns();
    if (status == FM_OK)
        status = fm_pond_output_commit(&sort->output);
    sort->report->sync_ns = fm_base_clock_ns() - begin;
    fm_pond_output_discard(&sort->output);
    return status;
}

fm_status fm_pond_records_sort(const char *const *inputs, size_t input_count, const char *output,
                               const fm_pond_sort_options *options, fm_pond_sort_report *out_report)
{
    fm_pond_sort_report report = {0};
    fm_pond_sort sort = {.options = options, .report = &report, .lock = PTHREAD_MUTEX_INITIALIZER};
    FM_TRY(take_options(&sort));
    char *folder = folder_of(output);
    fm_status status = folder ? open_input(&sort.input, inputs, input_count, sort.record_bytes)
                              : fm_base_error_set(FM_ERR_NOMEM, "no memory for a name");
    if (status == FM_OK) {
        sort.scratch = options->scratch ? options->scratch : folder;
        sort.records = sort.input.bytes / sort.record_bytes;
        status = sort_to(&sort, output);
    }
    fm_pond_input_clear(&sort.input);
    fm_base_mem_free(folder);
    if (status < 0)
        return status;
    report.in = sort.in;
    report.out = sort.out;
    report.bytes = sort.records * sort.record_bytes;
    if (out_report)
        *out_report = report;
    return FM_OK;
}
