/* What a trace of training says about its pipeline: the bubble that was, and the one that a simulation of the same schedule with the
 * measured times of its operations has. */
#ifndef FM_PIPELINE_FIGURES_H
#define FM_PIPELINE_FIGURES_H

#include "fathom/pipe.h"

typedef struct fm_pipeline_figures {
    int steps, micro_batches; /**< seen; of a step */
    double
        measured; /**< share of ranks x time, from a step's first operation to its last, in which no operation ran */
    double simulated;
    double sent_bytes; /**< of messages between the ranks of pipelines, in these steps */
    double
        hidden_bytes; /**< of these, in proportion to the time from sending to receiving in which the receiver computed */
    fm_pipe_text drawing; /**< of the simulated step; the caller frees its text with fm_base_mem_free() */
} fm_pipeline_figures;

/**
 * Reads the trace of `pipe_ranks` x `expert_ranks` ranks. Steps that the trace has only in part are left out. FM_ERR_NOT_FOUND:
 * there is no trace, or it has no whole step of the pipeline; or as fm_trace_data_read() and fm_pipe_simulation_run().
 */
FM_MUST_USE fm_status fm_app_pipeline_measure(const char *trace_path, fm_pipe_schedule schedule,
                                              int pipe_ranks, int expert_ranks,
                                              fm_pipeline_figures *out_figures);

#endif
