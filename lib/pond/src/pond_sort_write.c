#include "pond_sort_internal.h"

enum {
    // Records this far ahead are asked for while one is copied: about the latency of memory over the time of a copy.
    PREFETCH_AHEAD = 24
};

void fm_pond_sort_moved(fm_pond_sort *sort, uint64_t bytes)
{
    pthread_mutex_lock(&sort->lock);
    sort->done += bytes;
    if (sort->options->progress)
        sort->options->progress(sort->options->progress_context, sort->done, sort->total);
    pthread_mutex_unlock(&sort->lock);
}

static void add(pthread_mutex_t *lock, fm_pond_sum *to, const fm_pond_sum *sum)
{
    pthread_mutex_lock(lock);
    to->records += sum->records;
    to->hash += sum->hash;
    pthread_mutex_unlock(lock);
}

void fm_pond_sort_add_in(fm_pond_sort *sort, const fm_pond_sum *sum)
{
    add(&sort->lock, &sort->in, sum);
}

void fm_pond_sort_add_out(fm_pond_sort *sort, const fm_pond_sum *sum)
{
    add(&sort->lock, &sort->out, sum);
}

size_t fm_pond_sort_unit_alloc(const fm_pond_sort *sort)
{
    return sort->unit_bytes + FM_POND_DIRECT;
}

static inline void gather(const uint8_t *base, const fm_pond_entry *entries, size_t count, size_t ahead,
                          size_t record_bytes, uint8_t *to)
{
    for (size_t i = 0; i < count; i++, to += record_bytes) {
        if (i + PREFETCH_AHEAD < ahead) {
            const uint8_t *next = base + fm_pond_entry_place(entries[i + PREFETCH_AHEAD]);
            __builtin_prefetch(next);
            __builtin_prefetch(next + 64);
        }
        memcpy(to, base + fm_pond_entry_place(entries[i]), record_bytes);
    }
}

// The order of what was gathered, from the bytes themselves and not from the entries that put them there.
static fm_status check_order(const uint8_t *records, size_t count, size_t record_bytes, size_t key_bytes)
{
    int unordered = 0;
    for (size_t i = 1; i < count; i++, records += record_bytes)
        unordered |= memcmp(records, records + record_bytes, key_bytes) > 0;
    return unordered ? fm_base_error_set(FM_ERR_INTERNAL, "the sort left records out of order") : FM_OK;
}

fm_status fm_pond_sort_write(fm_pond_sort *sort, const uint8_t *base, const fm_pond_entry *entries,
                             size_t count, uint64_t at, uint8_t *unit, fm_pond_run *out_run, fm_pond_sum *sum)
{
    const size_t record_bytes = sort->record_bytes, key_bytes = sort->key_bytes;
    const size_t unit_records = sort->unit_bytes / record_bytes;
    out_run->at = at;
    for (size_t done = 0; done < count;) {
        size_t part = count - done < unit_records ? count - done : unit_records;
        uint8_t *to = unit + at % FM_POND_DIRECT;
        if (record_bytes == FM_POND_RECORD_BYTES)
            gather(base, entries + done, part, count - done, FM_POND_RECORD_BYTES, to);
        else
            gather(base, entries + done, part, count - done, record_bytes, to);
        FM_TRY(check_order(to, part, record_bytes, key_bytes));
        fm_pond_sum_add(sum, to, record_bytes, part);
        if (done == 0)
            memcpy(out_run->first_key, to, key_bytes);
        else if (memcmp(out_run->last_key, to, key_bytes) > 0)
            return fm_base_error_set(FM_ERR_INTERNAL, "the sort left records out of order");
        memcpy(out_run->last_key, to + (part - 1) * record_bytes, key_bytes);
        FM_TRY(fm_pond_output_write(&sort->output, at, to, part * record_bytes));
        fm_pond_sort_moved(sort, part * record_bytes);
        done += part;
        at += part * record_bytes;
        if (fm_pond_team_stopped(&sort->team))
            return FM_OK; // the team returns what stopped it
    }
    out_run->written = count > 0;
    return FM_OK;
}

fm_status fm_pond_sort_check_runs(const fm_pond_sort *sort, const fm_pond_run *runs, size_t count)
{
    const fm_pond_run *before = NULL;
    for (size_t i = 0; i < count; i++) {
        if (!runs[i].written)
            continue;
        if (before && memcmp(before->last_key, runs[i].first_key, sort->key_bytes) > 0)
            return fm_base_error_set(FM_ERR_INTERNAL, "the sort left records out of order at byte %llu",
                                     (unsigned long long)runs[i].at);
        before = &runs[i];
    }
    return FM_OK;
}
