/**
 * @file bench_si.h
 * Figures for people.
 */
#ifndef BENCH_SI_H
#define BENCH_SI_H

#include "fathom/text.h"

/** "12.3 ms" (unit "s"), "0.923" (unit "1"), "1.10 Gflop/s" (any other unit): three digits and a decimal prefix. */
fm_text fm_bench_si(double value, const char *unit);

#endif
