#include "bench_judge.h"

#include "bench_probe.h"
#include "bench_si.h"
#include "bench_stats.h"

#include "fathom/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

fm_bench_record *fm_bench_records_add(fm_bench_records *records, const fm_bench_record *record)
{
    if (records->count == records->capacity) {
        size_t capacity = records->capacity ? 2 * records->capacity : 64;
        fm_bench_record *items = fm_base_mem_realloc(records->items, capacity, sizeof *items);
        if (!items) {
            records->status = fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu records", capacity);
            return NULL;
        }
        records->items = items;
        records->capacity = capacity;
    }
    records->items[records->count] = *record;
    return &records->items[records->count++];
}

void fm_bench_records_clear(fm_bench_records *records)
{
    fm_base_mem_free(records->items);
    *records = (fm_bench_records){0};
}

void fm_bench_metric_add(fm_bench_metrics *metrics, const char *name, double value, const char *unit)
{
    fm_bench_records_add(metrics->records, &(fm_bench_record){.name = metrics->name,
                                                              .metric = name,
                                                              .unit = unit,
                                                              .threads = metrics->threads,
                                                              .value = value,
                                                              .best = value,
                                                              .samples = 1,
                                                              .clean = 1});
}

// What the samples of one variant say.
struct summary {
    int samples, clean;
    fm_bench_stats time, other_time, limit, fraction;
};

struct judge {
    const fm_bench_case *item;
    const fm_bench_plan *plan;
    const fm_bench_series *series;
    fm_bench_limit limit; // the case's, or none where it cannot be probed
    double *scratch;      // 4 arrays of a value a round
    fm_bench_records *records;
    size_t first; // of the case's records
    int judged;
};

static double time_of(const struct judge *judge, const fm_bench_variant *variant, int round)
{
    const fm_bench_sample *sample = &variant->samples[round];
    int wall = judge->item->clock == FM_BENCH_WALL || variant->threads > 1;
    return wall ? sample->wall : sample->cpu;
}

static double limit_of(const fm_bench_variant *variant, int round)
{
    return (variant->samples[round].before + variant->samples[round].after) / 2;
}

// Work of a run, in the dimension that the case's limit bounds.
static double work_of(const fm_bench_case *item, const char **out_unit)
{
    const char *unit = fm_bench_limit_unit(item->limit);
    *out_unit = "flop/s";
    if (strcmp(unit, "flop/s") == 0)
        return item->flops;
    *out_unit = "B/s";
    if (strcmp(unit, "B/s") == 0 || item->bytes > 0)
        return item->bytes;
    *out_unit = "item/s";
    if (item->items > 0)
        return item->items;
    *out_unit = "flop/s";
    if (item->flops > 0)
        return item->flops;
    *out_unit = "run/s";
    return 1;
}

static struct summary summarise(const struct judge *judge, const fm_bench_variant *variant)
{
    struct summary summary = {.clean = variant->clean};
    if (variant->status < 0)
        return summary;
    summary.samples = judge->series->rounds;
    const char *unit;
    double work = work_of(judge->item, &unit);
    size_t count = 0;
    size_t rounds = (size_t)judge->series->rounds;
    double *time = judge->scratch;
    double *other = time + rounds;
    double *limit = other + rounds;
    double *fraction = limit + rounds;
    for (int round = 0; round < judge->series->rounds; round++) {
        const fm_bench_sample *sample = &variant->samples[round];
        // Without a single clean one, the unclean are shown, and judged by nobody.
        if (!sample->clean && variant->clean > 0)
            continue;
        time[count] = time_of(judge, variant, round);
        other[count] = sample->wall + sample->cpu - time[count];
        limit[count] = limit_of(variant, round);
        fraction[count] = limit[count] > 0 && time[count] > 0 ? work / time[count] / limit[count] : 0;
        count++;
    }
    summary.time = fm_bench_stats_of(time, count);
    summary.other_time = fm_bench_stats_of(other, count);
    summary.limit = fm_bench_stats_of(limit, count);
    summary.fraction = fm_bench_stats_of(fraction, count);
    return summary;
}

typedef double (*pair_value)(const struct judge *judge, const fm_bench_variant *a, const fm_bench_variant *b,
                             int round);

static double ratio_in(const struct judge *judge, const fm_bench_variant *a, const fm_bench_variant *b,
                       int round)
{
    return time_of(judge, b, round) / time_of(judge, a, round);
}

static double excess_in(const struct judge *judge, const fm_bench_variant *a, const fm_bench_variant *b,
                        int round)
{
    return (time_of(judge, a, round) - time_of(judge, b, round)) / judge->item->items;
}

// Fraction of the limit on many threads (a) over that on one (b).
static double scaling_in(const struct judge *judge, const fm_bench_variant *a, const fm_bench_variant *b,
                         int round)
{
    return ratio_in(judge, a, b, round) * limit_of(b, round) / limit_of(a, round);
}

// Over the rounds in which both were clean and, unless `any_state`, met the machine in the same state.
static fm_bench_stats pair(const struct judge *judge, const fm_bench_variant *a, const fm_bench_variant *b,
                           int any_state, pair_value value)
{
    size_t count = 0;
    double bound = judge->plan->bound;
    for (int round = 0; round < judge->series->rounds; round++) {
        double limit_a = limit_of(a, round);
        double limit_b = limit_of(b, round);
        if (a->samples[round].clean && b->samples[round].clean &&
            (any_state || fabs(limit_a - limit_b) <= bound * fmax(limit_a, limit_b)))
            judge->scratch[count++] = value(judge, a, b, round);
    }
    return fm_bench_stats_of(judge->scratch, count);
}

static int too_few(const struct judge *judge, size_t clean)
{
    return clean <
           (size_t)(judge->plan->samples < FM_BENCH_CLEAN_MIN ? judge->plan->samples : FM_BENCH_CLEAN_MIN);
}

// The first reason stands.
static void make_void(fm_bench_record *record, const char *format, ...) FM_PRINTF(2, 3);
static void make_void(fm_bench_record *record, const char *format, ...)
{
    if (record->verdict == FM_BENCH_VOID)
        return;
    record->verdict = FM_BENCH_VOID;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(record->note, sizeof record->note, format, arguments);
    va_end(arguments);
}

static fm_bench_record record_of(const struct judge *judge, const struct summary *summary, int threads)
{
    return (fm_bench_record){
        .name = judge->item->name, .threads = threads, .samples = summary->samples, .clean = summary->clean};
}

static void set_stats(fm_bench_record *record, const fm_bench_stats *stats, double best)
{
    record->value = stats->median;
    record->spread = fm_bench_stats_spread(stats);
    record->best = best;
}

static const char *limit_name(const struct judge *judge)
{
    if (judge->limit == FM_BENCH_NO_LIMIT)
        return NULL;
    if (judge->limit == FM_BENCH_OWN_LIMIT && judge->item->own_limit_name)
        return judge->item->own_limit_name;
    return fm_bench_limit_name(judge->limit);
}

static void add_time(struct judge *judge, const struct summary *summary, int threads)
{
    fm_bench_record record = record_of(judge, summary, threads);
    record.metric = "time";
    record.unit = "s";
    set_stats(&record, &summary->time, summary->time.least);
    double other = summary->other_time.median;
    // On one thread the two clocks agree unless the run waits or was put off the CPU.
    const double much = 1.25;
    if (threads == 1 && fmax(other, record.value) > much * fmin(other, record.value))
        snprintf(record.note, sizeof record.note, "%s time %s",
                 judge->item->clock == FM_BENCH_WALL ? "CPU" : "wall", fm_bench_si(other, "s").text);
    fm_bench_records_add(judge->records, &record);
}

static fm_bench_record rate_record(const struct judge *judge, const struct summary *summary, int threads)
{
    fm_bench_record record = record_of(judge, summary, threads);
    record.metric = "rate";
    double work = work_of(judge->item, &record.unit);
    if (summary->samples == 0)
        return record;
    set_stats(&record, &summary->time, 0);
    record.value = work / summary->time.median;
    record.best = work / summary->time.least;
    record.limit = limit_name(judge);
    if (record.limit) {
        record.limit_rate = summary->limit.median;
        record.fraction = summary->fraction.median;
    }
    return record;
}

// Makes the record void where the peer cannot serve as a measure.
static void check_peer(const struct judge *judge, int index, int threads, fm_bench_record *record)
{
    const fm_bench_peer *peer = &judge->item->peers[index];
    const fm_bench_variant *variant = fm_bench_series_find(judge->series, index, threads);
    double least = (1 - FM_BENCH_PEER_SLACK) * peer->expect;
    if (variant->status < 0) {
        make_void(record, "%s is not available here", peer->name);
        return;
    }
    if (too_few(judge, (size_t)variant->clean)) {
        make_void(record, "%s has %d clean samples", peer->name, variant->clean);
        return;
    }
    // What is known of peers is known of one thread.
    if (peer->expect <= 0 || threads != judge->plan->counts[0])
        return;
    double reached = 0;
    if (peer->expect_of) {
        int other = 0;
        while (strcmp(judge->item->peers[other].name, peer->expect_of) != 0)
            other++;
        const fm_bench_variant *base = fm_bench_series_find(judge->series, other, threads);
        if (base->status == FM_OK)
            reached = pair(judge, variant, base, 0, ratio_in).median;
    } else if (judge->limit != FM_BENCH_NO_LIMIT) {
        reached = summarise(judge, variant).fraction.median;
    }
    const char *of = peer->expect_of ? peer->expect_of : fm_bench_limit_name(judge->item->limit);
    if (reached < least)
        make_void(record, "%s reaches %.2f of %s, is known to reach %.2f", peer->name, reached, of,
                  peer->expect);
}

static void add_peers(struct judge *judge, const fm_bench_variant *subject)
{
    for (int index = 0; judge->item->peers[index].name; index++) {
        const fm_bench_variant *peer = fm_bench_series_find(judge->series, index, subject->threads);
        struct summary summary = summarise(judge, peer);
        fm_bench_record record = rate_record(judge, &summary, subject->threads);
        record.peer = judge->item->peers[index].name;
        if (peer->status == FM_OK)
            record.ratio = pair(judge, subject, peer, 0, ratio_in).median;
        check_peer(judge, index, subject->threads, &record);
        fm_bench_records_add(judge->records, &record);
    }
}

static void add_scaling(struct judge *judge)
{
    const int *counts = judge->plan->counts;
    const fm_bench_variant *one = fm_bench_series_find(judge->series, -1, counts[0]);
    const fm_bench_variant *all = fm_bench_series_find(judge->series, -1, counts[1]);
    fm_bench_stats stats = pair(judge, all, one, 1, scaling_in);
    fm_bench_record record = {.name = judge->item->name,
                              .metric = "scaling",
                              .unit = "1",
                              .threads = counts[1],
                              .samples = judge->series->rounds,
                              .clean = (int)stats.count,
                              .limit = limit_name(judge)};
    set_stats(&record, &stats, stats.greatest);
    fm_bench_records_add(judge->records, &record);
}

static int same_peer(const fm_bench_record *record, const char *peer)
{
    return peer ? record->peer && strcmp(record->peer, peer) == 0 : !record->peer;
}

// The record that a goal is about, among those of the case.
static fm_bench_record *find(const struct judge *judge, const char *metric, const char *peer, int threads)
{
    for (size_t i = judge->first; i < judge->records->count; i++) {
        fm_bench_record *record = &judge->records->items[i];
        if (record->threads == threads && strcmp(record->metric, metric) == 0 && same_peer(record, peer))
            return record;
    }
    return NULL;
}

static void settle(fm_bench_record *record, const fm_bench_goal *goal, double value)
{
    record->goal = goal->must;
    record->hope = goal->hope;
    record->at_most = goal->metric == FM_BENCH_TIME || goal->metric == FM_BENCH_ITEM_TIME ||
                      goal->metric == FM_BENCH_EXCESS || goal->metric == FM_BENCH_OWN_AT_MOST;
    double bound = goal->must != 0 ? goal->must : goal->hope;
    int met = record->at_most ? value <= bound : value >= bound;
    if (record->verdict != FM_BENCH_VOID)
        record->verdict = met ? FM_BENCH_MET : FM_BENCH_MISSED;
}

static fm_bench_record *add_void(struct judge *judge, const char *metric, int threads)
{
    return fm_bench_records_add(
        judge->records,
        &(fm_bench_record){.name = judge->item->name, .metric = metric, .unit = "1", .threads = threads});
}

static int peer_index(const fm_bench_case *item, const char *name)
{
    for (int i = 0; item->peers[i].name; i++)
        if (strcmp(item->peers[i].name, name) == 0)
            return i;
    return -1;
}

// The fastest peer; void when any of them is, since that one might have been it.
static fm_bench_record *add_best_ratio(struct judge *judge, int threads)
{
    fm_bench_record best = {.name = judge->item->name, .metric = "ratio", .unit = "1", .threads = threads};
    for (int index = 0; judge->item->peers[index].name; index++) {
        const fm_bench_record *record = find(judge, "rate", judge->item->peers[index].name, threads);
        check_peer(judge, index, threads, &best);
        if (record->ratio > 0 && (best.ratio == 0 || record->ratio < best.ratio)) {
            best.peer = record->peer;
            best.ratio = best.value = best.best = record->ratio;
            best.samples = record->samples;
            best.clean = record->clean;
        }
    }
    return fm_bench_records_add(judge->records, &best);
}

static fm_bench_record *add_excess(struct judge *judge, const fm_bench_goal *goal, int threads)
{
    int index = peer_index(judge->item, goal->peer);
    const fm_bench_variant *subject = fm_bench_series_find(judge->series, -1, threads);
    const fm_bench_variant *peer = fm_bench_series_find(judge->series, index, threads);
    fm_bench_record record = {
        .name = judge->item->name, .metric = "excess", .unit = "s", .threads = threads, .peer = goal->peer};
    if (peer->status == FM_OK) {
        fm_bench_stats stats = pair(judge, subject, peer, 0, excess_in);
        set_stats(&record, &stats, stats.least);
        record.samples = judge->series->rounds;
        record.clean = (int)stats.count;
    }
    check_peer(judge, index, threads, &record);
    return fm_bench_records_add(judge->records, &record);
}

static fm_bench_record *add_item_time(struct judge *judge, const struct summary *summary, int threads)
{
    fm_bench_record record = record_of(judge, summary, threads);
    record.metric = "item_time";
    record.unit = "s";
    set_stats(&record, &summary->time, summary->time.least / judge->item->items);
    record.value /= judge->item->items;
    return fm_bench_records_add(judge->records, &record);
}

// The record that holds what the goal bounds, made where the case has none yet; *out_value is what is compared.
static fm_bench_record *record_for(struct judge *judge, const fm_bench_goal *goal,
                                   const struct summary *summary, int threads, double *out_value)
{
    fm_bench_record *record = NULL;
    switch (goal->metric) {
    case FM_BENCH_FRACTION:
        record = find(judge, "rate", NULL, threads);
        *out_value = record ? record->fraction : 0;
        if (record && !record->limit)
            make_void(record, "no %s here", fm_bench_limit_name(judge->item->limit));
        return record;
    case FM_BENCH_RATIO:
        record = goal->peer ? find(judge, "rate", goal->peer, threads) : add_best_ratio(judge, threads);
        *out_value = record ? record->ratio : 0;
        if (record && record->ratio == 0)
            make_void(record, "no round had both clean");
        return record;
    case FM_BENCH_SCALING:
        record = find(judge, "scaling", NULL, threads);
        if (record && too_few(judge, (size_t)record->clean))
            make_void(record, "%d rounds had both clean", record->clean);
        break;
    case FM_BENCH_TIME:
        record = find(judge, "time", NULL, threads);
        break;
    case FM_BENCH_ITEM_TIME:
        record = add_item_time(judge, summary, threads);
        break;
    case FM_BENCH_EXCESS:
        record = add_excess(judge, goal, threads);
        if (record && too_few(judge, (size_t)record->clean))
            make_void(record, "%d rounds had both clean", record->clean);
        break;
    case FM_BENCH_OWN_AT_LEAST:
    case FM_BENCH_OWN_AT_MOST:
        record = find(judge, goal->name, NULL, threads);
        if (!record && (record = add_void(judge, goal->name, threads)))
            make_void(record, "the case did not report it");
        break;
    }
    *out_value = record ? record->value : 0;
    return record;
}

static void judge_goal(struct judge *judge, const fm_bench_goal *goal)
{
    const int *counts = judge->plan->counts;
    int threads = goal->threads == 0                      ? counts[0]
                  : goal->threads == FM_BENCH_ALL_THREADS ? counts[1]
                                                          : goal->threads;
    if (goal->metric == FM_BENCH_SCALING)
        threads = counts[1];
    const fm_bench_variant *subject = fm_bench_series_find(judge->series, -1, threads);
    fm_bench_record *record;
    double value = 0;
    if (!subject) {
        record = add_void(judge, goal->metric == FM_BENCH_SCALING ? "scaling" : "rate",
                          threads ? threads : counts[0]);
        if (record)
            make_void(record, "not run on that many threads");
    } else {
        struct summary summary = summarise(judge, subject);
        record = record_for(judge, goal, &summary, threads, &value);
        if (record && too_few(judge, (size_t)subject->clean))
            make_void(record, "%d clean samples", subject->clean);
    }
    if (!record)
        return; // no memory: the records' status says so
    if (!judge->judged)
        make_void(record, "smoke runs are not judged");
    settle(record, goal, value);
}

void fm_bench_judge_case(const fm_bench_case *item, const fm_bench_plan *plan, const fm_bench_series *series,
                         void *state, int judge, fm_bench_records *records)
{
    struct judge self = {.item = item,
                         .plan = plan,
                         .series = series,
                         .limit = plan->guard == item->limit ? item->limit : FM_BENCH_NO_LIMIT,
                         .records = records,
                         .first = records->count,
                         .judged = judge};
    self.scratch = fm_base_mem_zalloc(4 * (size_t)series->rounds, sizeof *self.scratch);
    if (!self.scratch) {
        records->status = fm_base_error_set(FM_ERR_NOMEM, "no memory to judge %d rounds", series->rounds);
        return;
    }
    for (int i = 0; i < FM_BENCH_COUNTS_MAX && plan->counts[i]; i++) {
        const fm_bench_variant *subject = fm_bench_series_find(series, -1, plan->counts[i]);
        struct summary summary = summarise(&self, subject);
        add_time(&self, &summary, subject->threads);
        fm_bench_record record = rate_record(&self, &summary, subject->threads);
        fm_bench_records_add(records, &record);
        add_peers(&self, subject);
    }
    if (plan->counts[1])
        add_scaling(&self);
    if (item->metrics)
        item->metrics(
            state, &(fm_bench_metrics){.records = records, .name = item->name, .threads = plan->counts[0]});
    for (const fm_bench_goal *goal = item->goals; goal->metric && records->status == FM_OK; goal++)
        judge_goal(&self, goal);
    fm_base_mem_free(self.scratch);
}

void fm_bench_judge_group(const fm_bench_group *group, size_t expected, int judge, fm_bench_records *records)
{
    fm_bench_record record = {
        .name = group->name, .metric = "median", .unit = "1", .threads = 1, .peer = group->goal.peer};
    double *values = fm_base_mem_zalloc(records->count, sizeof *values);
    if (!values) {
        records->status = fm_base_error_set(FM_ERR_NOMEM, "no memory to judge group %s", group->name);
        return;
    }
    size_t count = 0;
    for (size_t i = 0; i < records->count; i++) {
        const fm_bench_record *each = &records->items[i];
        if (each->threads != 1 || strcmp(each->metric, "rate") != 0 || !strstr(each->name, group->cases) ||
            !same_peer(each, group->goal.peer))
            continue;
        double value = group->goal.metric == FM_BENCH_RATIO ? each->ratio : each->fraction;
        if (each->verdict != FM_BENCH_VOID && each->clean > 0 && value > 0)
            values[count++] = value;
    }
    fm_bench_stats stats = fm_bench_stats_of(values, count);
    fm_base_mem_free(values);
    set_stats(&record, &stats, stats.greatest);
    record.samples = (int)expected;
    record.clean = (int)count;
    if (!judge)
        make_void(&record, "smoke runs are not judged");
    else if (count < expected)
        make_void(&record, "%zu of its %zu cases count", count, expected);
    settle(&record, &group->goal, record.value);
    fm_bench_records_add(records, &record);
}
