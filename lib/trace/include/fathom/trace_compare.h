/**
 * @file trace_compare.h
 * Two traces compared, and one replayed with other costs.
 */
#ifndef FATHOM_TRACE_COMPARE_H
#define FATHOM_TRACE_COMPARE_H

#include "fathom/trace_report.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * What changed of a group or a phase from trace A to trace B. Samples of a phase are the busy times of its occurrences.
 * Samples of a group are its sums over each step (annotations that the rules call steps) where both traces have three
 * steps or more, else the durations of its single pieces of work.
 */
typedef struct fm_trace_change {
    const char *name;
    int is_phase;
    uint64_t count_a, count_b;   /**< samples */
    double mean_a_us, mean_b_us; /**< of a sample */
    double total_us;             /**< (mean B - mean A) x the samples of A */
    double
        p; /**< of Welch's t test: how likely means differ this much by chance; 1 where a side has no two samples */
} fm_trace_change;

typedef struct fm_trace_diff {
    const fm_trace_report *a, *b;
    const fm_trace_change *changes; /**< what cost most first */
    size_t change_count;
    size_t slower, faster; /**< changes with p below 0.01 and a mean that moved by 1 % or more */
} fm_trace_diff;

/** Compares by name what either has. Borrows from both. FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_trace_diff_make(const fm_trace_report *a, const fm_trace_report *b,
                                                fm_trace_diff **out_diff);
FM_API void fm_trace_diff_free(fm_trace_diff *diff);
/** True for changes that count in `slower` or `faster`. */
FM_API int fm_trace_diff_counts(const fm_trace_change *change);
/** Writes the members of the open object. */
FM_API void fm_trace_diff_json(const fm_trace_diff *diff, fm_json *json);
/**
 * Evaluates a condition as fm_trace_report_test() does, over the change of each figure from A to B: of figures in percent
 * the difference in points, of all others the change in percent of A. Besides there are `slower` and `faster`.
 */
FM_API FM_MUST_USE fm_status fm_trace_diff_test(const fm_trace_diff *diff, const char *condition,
                                                int *out_true);

/** The run as it was, and as it would have been. */
typedef struct fm_trace_replay {
    fm_trace_overlap before, after;
} fm_trace_replay;

/**
 * Replays a trace with scaled costs: "comm*0.5", "comm_combine*0.8,launch*0". Names are compute, transfer, wait, comm
 * (transfer and wait), launch (the gap between kernels that follow each other on a stream) and those of groups; where
 * several name one piece of work the last counts.
 *
 * Each piece of work begins when what it waited for in the trace has ended, by as much later as it did there: the work
 * before it on its stream, work on another stream, or the call that launched it, whichever held it up; it also never begins
 * before the work in front of it on its stream has ended, nor before its call. Messages (flows from one thread or rank to
 * another) hold up who takes them: work that waited for one goes on when it comes, so such waits follow from the sender and
 * are not scaled; a message's flight is, by the factor of who takes it. Calls of the host keep their times. With factors of 1
 * the replay is the trace. Dependencies that held nothing up in the trace are not known to it.
 * FM_ERR_ARG: not of that form, an unknown name (message: those that are there); FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_trace_replay_run(const fm_trace_report *report, const char *scale,
                                                 fm_trace_replay *out_replay);

#ifdef __cplusplus
}
#endif
#endif
