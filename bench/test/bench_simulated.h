/**
 * @file bench_simulated.h
 * A machine for the tests of the harness: its clock advances only when a run or a probe says so, and its limit follows a
 * script.
 */
#ifndef BENCH_SIMULATED_H
#define BENCH_SIMULATED_H

#include "bench_sample.h"

#include <math.h>

enum { SIMULATED_SCRIPT_MAX = 64 };

typedef struct simulated {
    double wall, cpu;
    int core;
    double limit; /**< what a probe gives on one thread; n threads give n times that */
    double script
        [SIMULATED_SCRIPT_MAX]; /**< factors on the limit, one a probe, the last for ever; 0 ends the list */
    int probes;                 /**< taken so far */
    int move_at;                /**< the probe at which the caller moves to another core; 0: never */
    double spinning;            /**< another thread of the process spins for so much longer, in seconds */
} simulated;

static double simulated_wall(void *context)
{
    return ((simulated *)context)->wall;
}

static double simulated_cpu(void *context)
{
    return ((simulated *)context)->cpu;
}

static int simulated_core(void *context)
{
    return ((simulated *)context)->core;
}

static double simulated_factor(const simulated *self)
{
    int at = 0;
    while (at < self->probes && at + 1 < SIMULATED_SCRIPT_MAX && self->script[at + 1] > 0)
        at++;
    return self->script[at] > 0 ? self->script[at] : 1;
}

/** Passes time: `seconds` of work on one thread, which other jobs stretch to `stretch` times that on the wall. */
static inline void simulated_work(simulated *self, double seconds, double stretch)
{
    double spun = fmin(self->spinning, seconds * stretch);
    self->cpu += seconds + spun;
    self->wall += seconds * stretch;
    self->spinning -= spun;
}

static double simulated_probe(void *context, fm_bench_limit limit, int threads)
{
    (void)limit;
    simulated *self = (simulated *)context;
    double rate = self->limit * threads * simulated_factor(self);
    self->probes++;
    self->core += self->probes == self->move_at;
    simulated_work(self, 1e-4, 1);
    return rate;
}

static void simulated_settle(void *context)
{
    simulated *self = (simulated *)context;
    self->wall += self->spinning;
    self->cpu += self->spinning;
    self->spinning = 0;
}

static inline fm_bench_machine simulated_machine(simulated *self)
{
    return (fm_bench_machine){self,           simulated_wall,  simulated_cpu,
                              simulated_core, simulated_probe, simulated_settle};
}

#endif
