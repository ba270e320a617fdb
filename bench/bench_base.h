/**
 * @file bench_base.h
 * The parts of bench_base, each of which adds its cases.
 */
#ifndef BENCH_BASE_H
#define BENCH_BASE_H

#include "fm_bench.h"

FM_MUST_USE fm_status fm_bench_base_add_bytes(fm_bench *bench);   /**< checksums and random numbers */
FM_MUST_USE fm_status fm_bench_base_add_numbers(fm_bench *bench); /**< number formats */
FM_MUST_USE fm_status fm_bench_base_add_docs(fm_bench *bench);    /**< JSON, safetensors headers */
FM_MUST_USE fm_status fm_bench_base_add_spans(fm_bench *bench);   /**< what a span costs, on and off */

#endif
