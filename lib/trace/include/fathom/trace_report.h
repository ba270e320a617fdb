/**
 * @file trace_report.h
 * What a run did, computed from its trace: overlap of computation and communication, phases, kernels, the critical path,
 * and findings in plain sentences.
 *
 *     fm_trace_rules *rules;
 *     fm_trace_report *report;
 *     FM_TRY(fm_trace_rules_load(NULL, &rules));
 *     FM_TRY(fm_trace_report_make(trace, rules, &report));
 *     printf("%lld ns exposed\n", (long long)report->by_name.exposed_ns);
 *
 * **Work.** On a device: every kernel, copy and memset, from its begin to its end. In a process that is not seen to use a
 * device: what each thread spends in a span and in none inside it. A **unit** is a device of a process, or such a process:
 * most often a rank. Sums over units are sums; the measure of a union is taken within each unit and then summed.
 *
 * **Kinds.** Rules give each piece of work a group and a kind, by its name and category: compute, transfer, or wait (barrier
 * kernels: communication that moves nothing but waits for others). Communication is transfer and wait.
 *
 *     busy     measure of the union of all work            idle     = span - busy
 *     overlap  |U(communication) & U(compute)|             exposed  = |U(communication) \ U(compute)|
 *
 * `by_name` sorts work by its kind; `by_stream` takes everything on a communication stream as communication and everything
 * else as compute; a stream is one when the rules name it or when communication fills more than half of its busy time.
 * `transfer_only` is `by_name` without the waits.
 *
 * **Phases** are annotations (spans whose category the rules name). Work on a device belongs to the innermost phase
 * around the call that launched it, on the calling thread, or on the thread of that process with the most annotations
 * where the calling thread has none there.
 *
 * A report borrows from its trace and its rules. Any number of threads may read one.
 */
#ifndef FATHOM_TRACE_REPORT_H
#define FATHOM_TRACE_REPORT_H

#include "fathom/doc.h"
#include "fathom/trace.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The most groups that rules may have. */
#define FM_TRACE_GROUPS_MAX 256
/** Directions of a training step: forward, backward for the input, backward for the weights. */
#define FM_TRACE_DIRECTIONS 3

typedef enum fm_trace_work_kind { FM_TRACE_COMPUTE, FM_TRACE_TRANSFER, FM_TRACE_WAIT } fm_trace_work_kind;

/** What is what; read from YAML (the built-in text explains itself: `fathom trace rules` prints it). */
typedef struct fm_trace_rules fm_trace_rules;

/** NULL: the built-in rules. FM_ERR_FORMAT: not of the expected shape (file, line, what). */
FM_API FM_MUST_USE fm_status fm_trace_rules_load(const char *path, fm_trace_rules **out_rules);
FM_API void fm_trace_rules_free(fm_trace_rules *rules);
/** The built-in rules as text. */
FM_API const char *fm_trace_rules_text(void);

/**
 * Compares the clocks of a trace's files by what all ranks did together (rules: `collective`), and moves the times of those
 * that contradict the first file's; fm_trace_file::clock_shift_ns says by how much. Of a collective in two files neither may
 * end before the other has begun: where that holds, times stay. Else the median of the differences of their ends is taken,
 * unless it scatters. Before a report is made, and while nobody else uses the trace. FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_trace_clocks_align(fm_trace *trace, const fm_trace_rules *rules);

/** Measures of one way to tell communication from compute. */
typedef struct fm_trace_overlap {
    int64_t span_ns, busy_ns, compute_ns, communication_ns, overlap_ns, exposed_ns, idle_ns;
} fm_trace_overlap;

typedef struct fm_trace_stream {
    uint32_t unit;
    int64_t stream; /**< of a device; else the thread's ID */
    uint32_t track; /**< of the trace */
    int is_communication;
    uint64_t count;
    int64_t sum_ns, busy_ns;  /**< of durations; of their union */
    int64_t communication_ns; /**< by name, the sum of durations */
    int64_t first_ns, last_ns;
} fm_trace_stream;

typedef struct fm_trace_group {
    const char *name;
    fm_trace_work_kind kind;
    uint64_t count;
    int64_t sum_ns, union_ns;
    int64_t overlap_ns, exposed_ns; /**< under compute, and not; of communication, else 0 */
} fm_trace_group;

typedef struct fm_trace_kernel {
    uint32_t name; /**< text of the trace */
    uint32_t group;
    uint64_t count;
    int64_t sum_ns, min_ns, max_ns;
} fm_trace_kernel;

/** One occurrence of a phase, or in totals the sum of all of one name. */
typedef struct fm_trace_phase {
    uint32_t name; /**< text of the trace */
    uint32_t unit;
    int32_t direction; /**< 0 F, 1 B, 2 W, -1 none */
    uint64_t occurrences, work_count;
    int64_t begin_ns, host_ns;                     /**< of the annotation */
    int64_t first_ns, last_ns;                     /**< of its work */
    int64_t busy_ns, compute_ns, communication_ns; /**< measures of unions */
    int64_t overlap_ns, exposed_ns; /**< its communication under any compute of the unit, and not */
} fm_trace_phase;

/** Communication of direction `d` under the compute of direction `e`: `under_ns[d][e]`. */
typedef struct fm_trace_hiding {
    uint64_t work_count[FM_TRACE_DIRECTIONS];
    int64_t compute_ns[FM_TRACE_DIRECTIONS], communication_ns[FM_TRACE_DIRECTIONS];
    int64_t under_ns[FM_TRACE_DIRECTIONS][FM_TRACE_DIRECTIONS];
    int64_t under_backward_ns[FM_TRACE_DIRECTIONS]; /**< under B or W */
} fm_trace_hiding;

/** Where nothing (or, of compute gaps, no compute) runs between the first and the last work. */
typedef struct fm_trace_gap {
    uint32_t unit;
    int64_t begin_ns, duration_ns;
    uint32_t after,
        before; /**< work that ended last before it and that began with its end: slices, or FM_TRACE_NONE */
} fm_trace_gap;

typedef struct fm_trace_gaps {
    uint64_t count;
    int64_t sum_ns;
    uint64_t short_count; /**< below 10 us: launch gaps */
    int64_t short_ns;
    fm_trace_gap longest[16]; /**< the longest first; unused ones have duration 0 */
} fm_trace_gaps;

/** SM time: blocks of a kernel (at most the device's multiprocessors) times its duration. */
typedef struct fm_trace_sm_time {
    int64_t capacity_ns; /**< multiprocessors x span; 0: the trace does not say how many there are */
    int64_t communication_ns, wait_ns;
} fm_trace_sm_time;

/** Communication that holds no SM: a kernel sends, another of the same name receives, in between the network works. */
typedef struct fm_trace_in_flight {
    uint64_t pairs;
    int64_t sum_ns, union_ns;
    int64_t overlap_ns; /**< under work of the device */
} fm_trace_in_flight;

/** Collectives (rules: `collective`) that several units took part in, each as often as the others: from when a unit entered one
 *  to when the last one did, or the unit's own end, it waited. */
typedef struct fm_trace_skew {
    uint64_t collectives;
    int64_t waited_ns;      /**< by all units */
    uint32_t last_unit;     /**< the one that the others waited for longest, or FM_TRACE_NONE */
    uint64_t last_count;    /**< collectives that it entered last */
    int64_t last_waited_ns; /**< by the others, in these */
} fm_trace_skew;

/** From the begin of the call that launched it to a kernel's begin. */
typedef struct fm_trace_launch {
    uint64_t count, unlaunched; /**< with and without a call in the trace */
    int64_t min_ns, median_ns, p90_ns, max_ns;
    uint64_t sync_calls, polls; /**< ...Synchronize; EventQuery */
    int64_t sync_ns;
} fm_trace_launch;

/** What the end of each unit waited for, back to the run's begin, on other ranks too where messages (flows) say so; inferred,
 *  see lib/trace/README.md. Sums over units. */
typedef struct fm_trace_path {
    uint64_t steps;
    uint64_t messages;  /**< that were waited for */
    int64_t message_ns; /**< from their sending to where they were taken */
    int64_t
        length_ns; /**< work, launches, gaps and messages: the unit's span, or less where it ends elsewhere */
    int64_t work_ns, launch_ns, gap_ns; /**< work on it; waiting for calls; other gaps */
    int64_t kind_ns[3];                 /**< by fm_trace_work_kind */
    int64_t group_ns[FM_TRACE_GROUPS_MAX];
} fm_trace_path;

/** Something to mend. The text is a sentence; the evidence another. */
typedef struct fm_trace_finding {
    const char *id; /**< a short name: "exposed_gap" */
    char text[320];
    char evidence[320];
    int64_t saving_ns; /**< at most this much of the span; 0: it costs something else (said in the text) */
    int64_t begin_ns, end_ns; /**< where to look; equal: nowhere in particular */
} fm_trace_finding;

typedef struct fm_trace_unit {
    uint32_t process; /**< of the trace */
    int is_device;
    char label[96]; /**< "GPU 0", "rank 1", or the process's name */
    int multiprocessors;
    int64_t first_ns, last_ns;
    fm_trace_overlap by_name, by_stream;
} fm_trace_unit;

/** One piece of work. */
typedef struct fm_trace_work {
    int64_t begin_ns, end_ns;
    uint32_t slice, unit, stream; /**< of the trace; of the report, both */
    uint32_t launch;              /**< slice of the call, or FM_TRACE_NONE */
    uint32_t phase;               /**< index into fm_trace_report::phases, or FM_TRACE_NONE */
    uint16_t group;
    uint16_t kind; /**< fm_trace_work_kind */
} fm_trace_work;

typedef struct fm_trace_report {
    const fm_trace *trace;
    const fm_trace_rules *rules;
    const fm_trace_unit *units;
    size_t unit_count;
    const fm_trace_work *works; /**< by unit, then by begin */
    size_t work_count;
    fm_trace_overlap by_name, by_stream, transfer_only;
    const fm_trace_stream *streams;
    size_t stream_count;
    const fm_trace_group *groups; /**< in the order of the rules, unused ones included */
    size_t group_count;
    const fm_trace_kernel *kernels; /**< the longest sum first */
    size_t kernel_count;
    const fm_trace_phase *phases; /**< every occurrence that launched work, in the order of time */
    size_t phase_count;
    const fm_trace_phase *phase_totals; /**< by name, in the order of first occurrence */
    size_t phase_total_count;
    fm_trace_hiding hiding;
    fm_trace_gaps idle, compute_gaps;
    fm_trace_sm_time sm_time;
    fm_trace_in_flight in_flight;
    fm_trace_launch launch;
    fm_trace_skew skew;
    fm_trace_path path;
    const fm_trace_finding *findings; /**< the largest saving first */
    size_t finding_count;
} fm_trace_report;

/** FM_ERR_NOMEM. A trace without work gives an empty report. */
FM_API FM_MUST_USE fm_status fm_trace_report_make(const fm_trace *trace, const fm_trace_rules *rules,
                                                  fm_trace_report **out_report);
FM_API void fm_trace_report_free(fm_trace_report *report);
/** Writes the report as members of the open object. Times are in microseconds, whole where they are. */
FM_API void fm_trace_report_json(const fm_trace_report *report, fm_json *json);
/** The figure of this name ("exposed_pct", "exposed_us", "idle_pct", "overlap_pct", "span_us", ...), for gates.
 *  FM_ERR_ARG: no such figure (message: those that are there). */
FM_API FM_MUST_USE fm_status fm_trace_report_figure(const fm_trace_report *report, const char *name,
                                                    double *out_value);
/** Evaluates "exposed_pct > 5" (also >=, <, <=; several joined by "or"). FM_ERR_ARG: not of that form. */
FM_API FM_MUST_USE fm_status fm_trace_report_test(const fm_trace_report *report, const char *condition,
                                                  int *out_true);

#ifdef __cplusplus
}
#endif
#endif
