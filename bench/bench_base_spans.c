#include "bench_base.h"

#include "fathom/span.h"

enum { SPANS = 10000 }; // a ring holds 16384

static fm_status discard(void *context, const fm_span_event *event)
{
    (void)context;
    (void)event;
    return FM_OK;
}

static fm_status drain(void *state)
{
    (void)state;
    return fm_base_span_drain(discard, NULL);
}

static fm_status setup_on(const fm_bench_setup *given, void **out_state)
{
    (void)given;
    (void)out_state;
    return fm_base_span_enable(0);
}

static void teardown_on(void *state)
{
    fm_base_span_disable();
    fm_base_span_release_thread();
    fm_status status = drain(state); // frees the ring
    (void)status;                    // fails only when the sink does
}

static fm_status run(void *state, int threads)
{
    (void)state;
    (void)threads;
    for (int i = 0; i < SPANS; i++) {
        FM_SPAN(span, "work", "bench");
        FM_BENCH_KEEP(i);
    }
    return FM_OK;
}

static fm_status run_empty(void *state, int threads)
{
    (void)state;
    (void)threads;
    for (int i = 0; i < SPANS; i++)
        FM_BENCH_KEEP(i);
    return FM_OK;
}

fm_status fm_bench_base_add_spans(fm_bench *bench)
{
    fm_bench_case item = {
        .name = "span.off",
        .items = SPANS,
        .mode = FM_BENCH_IN_SMOKE,
        .threads = 1,
        .run = run,
        .peers = {{.name = "empty_loop", .run = run_empty}},
        .goals = {{FM_BENCH_EXCESS, .peer = "empty_loop", .must = 2e-9}},
    };
    FM_TRY(fm_bench_add(bench, &item));
    item.name = "span.on";
    item.setup = setup_on;
    item.before = drain; // a full ring drops records, which costs less than writing them
    item.teardown = teardown_on;
    item.goals[0].must = 50e-9;
    return fm_bench_add(bench, &item);
}
