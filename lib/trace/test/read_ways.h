/* One text read in each way that the reader has: decoded event by event, and by the shapes of events with every kernel. */
#ifndef FM_TRACE_READ_WAYS_H
#define FM_TRACE_READ_WAYS_H

#include <stdio.h>
#include <string.h>

#include "fathom/cpu.h"
#include "reader.h"

/* The kernels of this machine behind the decoder alone, which is NULL; returns how many ways there are. */
static inline int read_ways(fm_trace_shape_kernel out_kernels[4])
{
    int count = 0;
    out_kernels[count++] = NULL;
    out_kernels[count++] = fm_trace_shape_walk_ref;
#if defined(__x86_64__)
    if (fm_base_cpu_isa(FM_ISA_AVX2) >= FM_ISA_AVX2)
        out_kernels[count++] = fm_trace_shape_walk_avx2;
    if (fm_base_cpu_isa(FM_ISA_AVX512) >= FM_ISA_AVX512)
        out_kernels[count++] = fm_trace_shape_walk_avx512;
#endif
    return count;
}

/* Reads `text`; the trace is the caller's, but for NULL. `message` gets what failed, "" when nothing did. */
static inline fm_trace *read_this_way(const char *text, size_t length, fm_trace_shape_kernel kernel,
                                      int keep_args, int salvage, char message[512])
{
    struct fm_trace_store *store;
    struct fm_trace_reader reader;
    message[0] = 0;
    if (fm_trace_store_create(keep_args, &store) < 0)
        return NULL;
    fm_trace_reader_init(&reader, store, "t");
    if (kernel)
        reader.walk = kernel;
    else
        reader.shapes.pause = UINT32_MAX;
    reader.salvage = salvage;
    reader.memory = text;
    reader.memory_end = text + length;
    fm_status status = fm_trace_store_begin_file(store, "t");
    if (status == FM_OK)
        status = fm_trace_reader_run(&reader);
    fm_trace_reader_clear(&reader);
    if (status == FM_OK)
        status = fm_trace_store_end_file(store, reader.base_ns);
    if (status < 0)
        snprintf(message, 512, "%s", fm_error_message());
    fm_trace_store_publish(store);
    return &store->trace;
}

static inline const char *different_slices(const fm_trace *a, const fm_trace *b)
{
    if (a->slice_count != b->slice_count || a->gpu_count != b->gpu_count)
        return "the number of slices";
    if (a->slice_count && memcmp(a->slices, b->slices, a->slice_count * sizeof *a->slices) != 0)
        return "a slice";
    for (size_t i = 0; i < a->gpu_count; i++) { // by member: there is padding between them
        const fm_trace_gpu *x = &a->gpus[i], *y = &b->gpus[i];
        if (x->slice != y->slice || x->device != y->device || x->stream != y->stream ||
            x->blocks != y->blocks || x->threads != y->threads || x->bytes != y->bytes)
            return "what is known of a kernel";
    }
    for (size_t i = 0; a->args && i < a->slice_count; i++)
        if (a->args[i].length != b->args[i].length ||
            (a->args[i].length && memcmp(a->args_text + a->args[i].offset, b->args_text + b->args[i].offset,
                                         a->args[i].length) != 0))
            return "arguments";
    return NULL;
}

/* What is not the same in both traces, or NULL. */
static inline const char *different(const fm_trace *a, const fm_trace *b)
{
    const char *slices = different_slices(a, b);
    if (slices)
        return slices;
    if (a->process_count != b->process_count || a->track_count != b->track_count ||
        (a->track_count && memcmp(a->tracks, b->tracks, a->track_count * sizeof *a->tracks) != 0))
        return "processes and tracks";
    if (a->flow_count != b->flow_count || a->counter_count != b->counter_count)
        return "the number of flows or counters";
    for (size_t i = 0; i < a->flow_count; i++) {
        const fm_trace_flow *x = &a->flows[i], *y = &b->flows[i];
        if (x->at_ns != y->at_ns || x->id != y->id || x->name != y->name || x->category != y->category ||
            x->track != y->track || x->phase != y->phase)
            return "a flow";
    }
    if (a->text_count != b->text_count)
        return "the number of texts";
    for (uint32_t i = 0; i < a->text_count; i++)
        if (strcmp(fm_trace_data_text(a, i), fm_trace_data_text(b, i)) != 0)
            return "a text";
    if (a->files[0].events != b->files[0].events || a->files[0].skipped != b->files[0].skipped ||
        a->files[0].damaged != b->files[0].damaged || a->files[0].unmatched != b->files[0].unmatched ||
        strcmp(a->files[0].damage, b->files[0].damage) != 0)
        return "what is said of the file";
    return NULL;
}

#endif
