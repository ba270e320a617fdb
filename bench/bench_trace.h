/* What the trace benchmark and its peers share. */
#ifndef BENCH_TRACE_H
#define BENCH_TRACE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a reader is to take from each X event: the same figures must come out of all of them. */
struct trace_totals {
    uint64_t slices;
    uint64_t name_bytes, category_bytes;
    uint64_t begin_us, duration_us; /* sums, modulo 2^64 */
    uint64_t correlation, stream, blocks;
};

/* Readers of other projects, each of which loads the file as its manual advises. 0, or -1 when they fail, or 1 when
 * the CPU lacks what they were built for. simdjson's make a table of slices with each name held once, as ours does, without its
 * flows and metadata; yajl's drops what it has read. */
int bench_trace_simdjson_ondemand(const char *path, struct trace_totals *out);
int bench_trace_simdjson_dom(const char *path, struct trace_totals *out);
int bench_trace_yajl(const char *path, struct trace_totals *out);

#ifdef __cplusplus
}
#else
#include "fm_bench.h"
/* What a program that writes a trace pays for its spans. */
fm_status fm_bench_trace_add_emit(fm_bench *bench);
#endif
#endif
