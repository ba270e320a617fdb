/*
 * The clocks of several files, compared by what all ranks did together. No rank leaves a collective before the last one has
 * entered it. Of the i-th collective of a name in two files,
 *
 *     begin of one - end of the other  <=  how far its clock is ahead  <=  end of one - begin of the other
 *
 * and the last to enter makes one of the bounds tight. Where these exclude that both clocks are alike, the files' times contradict
 * each other, and the median of the differences of ends says how far one is ahead.
 */
#include <stdlib.h>
#include <string.h>

#include "mangled.h"
#include "rules.h"
#include "store.h"

/* A collective as one file has it. */
struct point {
    int64_t begin, end;
    uint32_t file;
    uint32_t name;
};

struct aligner {
    struct fm_trace_store *store;
    const fm_trace_rules *rules;
    struct fm_trace_map kinds; // by name and category: whether it is a collective
    unsigned char *has_device; // by file
    struct point *points;      // by name, file and begin
    size_t count;
    int64_t *ahead; // differences of ends
};

enum { POINTS_MIN = 3 }; // of fewer a median says nothing

static int by_place(const void *a, const void *b)
{
    const struct point *x = a, *y = b;
    if (x->name != y->name)
        return x->name < y->name ? -1 : 1;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static uint32_t file_of(const struct fm_trace_store *store, uint32_t track)
{
    return store->processes.at[store->tracks.at[track].process].file;
}

static fm_status is_collective(struct aligner *aligner, const fm_trace_slice *slice, int *out)
{
    const fm_trace *trace = &aligner->store->trace;
    uint32_t *kind;
    int known;
    FM_TRY(fm_trace_map_put(&aligner->kinds, slice->name, slice->category, 0, &kind, &known));
    if (!known) {
        size_t count;
        const char *name = fm_trace_data_text(trace, slice->name);
        char readable[2048]; // as in works.c
        if (fm_trace_unmangle(name, readable, sizeof readable))
            name = readable;
        uint16_t group =
            fm_trace_rules_group_of(aligner->rules, name, fm_trace_data_text(trace, slice->category));
        *kind = (uint32_t)fm_trace_rules_groups(aligner->rules, &count)[group].is_collective;
    }
    *out = *kind != 0;
    return FM_OK;
}

/* Where a file has devices its collectives are what they did; else spans. */
static fm_status find_points(struct aligner *aligner)
{
    const struct fm_trace_store *store = aligner->store;
    for (size_t i = 0; i < store->gpus.count; i++)
        aligner->has_device[file_of(store, store->slices.at[store->gpus.at[i].slice].track)] = 1;
    for (size_t i = 0; i < store->slices.count; i++) {
        const fm_trace_slice *slice = &store->slices.at[i];
        uint32_t file = file_of(store, slice->track);
        int wanted = 0;
        if (slice->kind == (aligner->has_device[file] ? FM_TRACE_GPU : FM_TRACE_SPAN))
            FM_TRY(is_collective(aligner, slice, &wanted));
        if (wanted)
            aligner->points[aligner->count++] =
                (struct point){slice->begin_ns, slice->begin_ns + slice->duration_ns, file, slice->name};
    }
    qsort(aligner->points, aligner->count, sizeof *aligner->points, by_place);
    return FM_OK;
}

/* The points of one file among those of one name. */
static size_t skip_file(const struct aligner *aligner, size_t at, uint32_t name, uint32_t file)
{
    while (at < aligner->count && aligner->points[at].name == name && aligner->points[at].file == file)
        at++;
    return at;
}

/* What is known of a file's clock beside the first one's. */
struct advance {
    int64_t low, high;
    size_t count; // of aligner->ahead
};

/* The points of a name, from `at` on: those of the first file and of `file` where both have as many. Returns the next name's. */
static size_t compare_name(struct aligner *aligner, size_t at, uint32_t file, struct advance *advance)
{
    const struct point *points = aligner->points;
    uint32_t name = points[at].name;
    size_t first = at, first_end = skip_file(aligner, at, name, 0), next = first_end;
    while (next < aligner->count && points[next].name == name && points[next].file != file)
        next++;
    size_t end = skip_file(aligner, next, name, file);
    if (end - next == first_end - first)
        for (size_t i = 0; i < end - next; i++) {
            const struct point *mine = &points[next + i], *other = &points[first + i];
            int64_t low = mine->begin - other->end, high = mine->end - other->begin;
            advance->low = low > advance->low ? low : advance->low;
            advance->high = high < advance->high ? high : advance->high;
            aligner->ahead[advance->count++] = mine->end - other->end;
        }
    while (end < aligner->count && points[end].name == name)
        end++;
    return end;
}

/* The middle of the first `count` numbers, which are sorted here. */
static int64_t median(int64_t *numbers, size_t count)
{
    qsort(numbers, count, sizeof *numbers, by_size);
    return numbers[count / 2];
}

/* How far the file's clock is ahead; 0 where its times and the first file's do not contradict each other. */
static int64_t advance_of(struct aligner *aligner, uint32_t file, size_t *out_points)
{
    struct advance advance = {INT64_MIN, INT64_MAX, 0};
    for (size_t at = 0; at < aligner->count;)
        at = compare_name(aligner, at, file, &advance);
    *out_points = advance.count;
    if (advance.count < POINTS_MIN || (advance.low <= 0 && advance.high >= 0))
        return 0;
    int64_t ahead = median(aligner->ahead, advance.count);
    if (advance.low <= advance.high)
        return ahead < advance.low ? advance.low : ahead > advance.high ? advance.high : ahead;
    for (size_t i = 0; i < advance.count; i++)
        aligner->ahead[i] = llabs((long long)(aligner->ahead[i] - ahead));
    // No advance fits all: clocks drift, or not all of these were common. What scatters as much as it tells tells nothing.
    int64_t scatter = median(aligner->ahead, advance.count);
    return scatter < llabs((long long)ahead) / 8 ? ahead : 0;
}

static int64_t clamp(int64_t time_ns)
{
    return time_ns > FM_TRACE_TIME_MAX    ? FM_TRACE_TIME_MAX
           : time_ns < -FM_TRACE_TIME_MAX ? -FM_TRACE_TIME_MAX
                                          : time_ns;
}

static void move_times(struct fm_trace_store *store)
{
    for (size_t i = 0; i < store->slices.count; i++) {
        fm_trace_slice *slice = &store->slices.at[i];
        int64_t shift = store->files.at[file_of(store, slice->track)].clock_shift_ns;
        int64_t end = clamp(slice->begin_ns + slice->duration_ns + shift);
        slice->begin_ns = clamp(slice->begin_ns + shift);
        slice->duration_ns = end - slice->begin_ns;
    }
    for (size_t i = 0; i < store->flows.count; i++) {
        fm_trace_flow *flow = &store->flows.at[i];
        flow->at_ns = clamp(flow->at_ns + store->files.at[file_of(store, flow->track)].clock_shift_ns);
    }
    for (size_t i = 0; i < store->counters.count; i++) {
        fm_trace_counter *counter = &store->counters.at[i];
        counter->at_ns =
            clamp(counter->at_ns + store->files.at[file_of(store, counter->track)].clock_shift_ns);
    }
}

static fm_status align(struct aligner *aligner)
{
    struct fm_trace_store *store = aligner->store;
    int moved = 0;
    FM_TRY(find_points(aligner));
    for (uint32_t file = 1; file < store->files.count; file++) {
        size_t points;
        int64_t ahead = advance_of(aligner, file, &points);
        store->files.at[file].clock_points = points;
        store->files.at[file].clock_shift_ns = clamp(-ahead);
        moved |= ahead != 0;
    }
    if (moved)
        move_times(store);
    return FM_OK;
}

fm_status fm_trace_clocks_align(fm_trace *trace, const fm_trace_rules *rules)
{
    struct aligner aligner = {.store = (struct fm_trace_store *)trace, .rules = rules};
    fm_status status = FM_OK;
    if (trace->file_count < 2)
        return FM_OK;
    aligner.has_device = fm_base_mem_zalloc(trace->file_count, 1);
    aligner.points = fm_base_mem_zalloc(trace->slice_count + 1, sizeof *aligner.points);
    aligner.ahead = fm_base_mem_zalloc(trace->slice_count + 1, sizeof *aligner.ahead);
    if (aligner.has_device && aligner.points && aligner.ahead)
        status = align(&aligner);
    else
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to compare the clocks of traces");
    fm_trace_map_clear(&aligner.kinds);
    fm_base_mem_free(aligner.has_device);
    fm_base_mem_free(aligner.points);
    fm_base_mem_free(aligner.ahead);
    return status;
}
