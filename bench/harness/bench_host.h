/**
 * @file bench_host.h
 * What the figures were measured on: the first record of every results file.
 */
#ifndef BENCH_HOST_H
#define BENCH_HOST_H

#include "bench_output.h"
#include "bench_probe.h"

/**
 * Describes the machine, the build and the moment, with the limits for which `wanted` is set, on 1 and on `threads`
 * threads, to the table and as a JSON line {"record": "machine", ...}. FM_ERR_IO, FM_ERR_NOMEM.
 */
FM_MUST_USE fm_status fm_bench_host_report(const fm_bench_output *output, const char *mode,
                                           fm_bench_probes *probes, const int wanted[FM_BENCH_LIMITS],
                                           int threads);

#endif
