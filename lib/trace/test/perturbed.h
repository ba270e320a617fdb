/* Small made-up runs of a device with a compute stream (7) and a communication stream (27), for tests. */
#ifndef FM_TRACE_PERTURBED_H
#define FM_TRACE_PERTURBED_H

#include "fathom/trace_compare.h"

struct fm_test_run {
    int layers;
    double compute_us, transfer_us; /* a kernel's; transfers run beside compute */
    double wait_us;                 /* of the barrier before a transfer; 0: none */
    double jitter_us;               /* added to every other kernel */
    double stall_us;                /* the compute stream stands still once, in the middle */
    const char *transfer_name;      /* NULL: DeepEP's dispatch */
    int steps;                      /* annotate as many steps; 0: none */
};

struct fm_test_loaded {
    fm_trace *trace;
    fm_trace_rules *rules;
    fm_trace_report *report;
};

/* Writes the run as JSON, reads and analyses it. */
struct fm_test_loaded fm_test_make_run(const struct fm_test_run *run);
void fm_test_free_run(struct fm_test_loaded *loaded);
const fm_trace_finding *fm_test_find(const struct fm_test_loaded *loaded, const char *id);

#endif
