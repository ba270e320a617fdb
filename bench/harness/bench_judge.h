/**
 * @file bench_judge.h
 * Turns samples into records: one figure each, with its limit, its peer and its goal. The table, the JSON lines and
 * --check all read these and nothing else.
 */
#ifndef BENCH_JUDGE_H
#define BENCH_JUDGE_H

#include "bench_sample.h"

enum {
    // Fewer clean samples than this do not make a median to judge by (fewer were asked for: those).
    FM_BENCH_CLEAN_MIN = 3,
    FM_BENCH_NOTE_BYTES = 124,
};

/** How far below its expected figure a peer may stay before its ratio is void. */
#define FM_BENCH_PEER_SLACK 0.20

typedef enum fm_bench_verdict {
    FM_BENCH_NO_GOAL,
    FM_BENCH_MET,
    FM_BENCH_MISSED,
    FM_BENCH_VOID
} fm_bench_verdict;

typedef struct fm_bench_record {
    const char *name;   /**< case or group */
    const char *metric; /**< "time", "rate", "ratio", "scaling", "item_time", "excess", or the case's own */
    const char *unit;
    double value;  /**< median */
    double spread; /**< half the distance between the quartiles, relative */
    double best;
    int threads;
    int samples, clean;
    fm_bench_verdict verdict;
    const char *limit; /**< name; NULL: none */
    double limit_rate; /**< median of the probes */
    double fraction;   /**< of the limit; 0: none */
    const char
        *peer; /**< whom the record is about ("rate") or who is compared with ("ratio", "excess"); or NULL */
    double ratio;                   /**< peer's time / ours; 0: none */
    double goal, hope;              /**< 0: none */
    int at_most;                    /**< the goal is an upper bound */
    char note[FM_BENCH_NOTE_BYTES]; /**< why void, what to mind; "" for none */
} fm_bench_record;

/** A growing list of records. Zero-initialise; errors stick in `status`. */
typedef struct fm_bench_records {
    fm_bench_record *items;
    size_t count, capacity;
    fm_status status;
} fm_bench_records;

/** Appends and returns the place, or NULL when there is no memory (`status` says so). Valid until the next append. */
fm_bench_record *fm_bench_records_add(fm_bench_records *records, const fm_bench_record *record);
void fm_bench_records_clear(fm_bench_records *records);

/** What `metrics` callbacks fill. */
struct fm_bench_metrics {
    fm_bench_records *records;
    const char *name; /**< of the case */
    int threads;
};

/** Appends the case's records. `limit` is FM_BENCH_NO_LIMIT where the machine lacks the case's limit; `judge` 0 leaves
 *  goals void (smoke runs). Own metrics go to `records` by the case's callback, which this calls with `state`. */
void fm_bench_judge_case(const fm_bench_case *item, const fm_bench_plan *plan, const fm_bench_series *series,
                         void *state, int judge, fm_bench_records *records);

/** Appends the group's record: the median over the cases among `records` whose name contains group->cases. `expected` is
 *  how many such cases the program has. */
void fm_bench_judge_group(const fm_bench_group *group, size_t expected, int judge, fm_bench_records *records);

#endif
