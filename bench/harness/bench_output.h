/**
 * @file bench_output.h
 * What a program says: a table for people that grows case by case, and JSON lines.
 *
 * A line of JSON is an object with the keys bench, case, threads, metric, value, unit, spread, best, samples, clean,
 * limit, limit_value, fraction, peer, ratio, goal, hope, bound ("at_least", "at_most"), met (null: no goal, or void) and
 * note, all of them always there, null where they say nothing. Lines of other shapes: {"record": "machine", ...} first,
 * and {"bench", "case", "skipped"}.
 */
#ifndef BENCH_OUTPUT_H
#define BENCH_OUTPUT_H

#include "bench_judge.h"

#include "fathom/doc.h"

#include <stdio.h>

typedef struct fm_bench_output {
    const char *bench;
    FILE *text;     /**< NULL: none */
    FILE *json;     /**< NULL: none */
    int markdown;   /**< the table is a Markdown one */
    int name_width; /**< of the longest case name */
} fm_bench_output;

void fm_bench_output_head(const fm_bench_output *output);
/** Writes the records from index `first` on. FM_ERR_IO, FM_ERR_NOMEM. */
FM_MUST_USE fm_status fm_bench_output_records(const fm_bench_output *output, const fm_bench_records *records,
                                              size_t first);
/** A case that could not run here, and why. */
FM_MUST_USE fm_status fm_bench_output_skipped(const fm_bench_output *output, const char *name,
                                              const char *why);

/** Reads a line of JSON back (not the machine's, nor a skipped case's). Its texts are borrowed from `line`.
 * FM_ERR_FORMAT. */
FM_MUST_USE fm_status fm_bench_output_parse(const fm_doc *line, fm_bench_record *out_record);

#endif
