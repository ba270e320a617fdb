#include "bench_trace.h"

#include <stdlib.h>

#include "fathom/mem.h"
#include "fathom/trace_emit.h"

enum { SPANS = 2000 }; // an emitter takes 2048 before it writes

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    char path[256];
    const char *folder = getenv("TMPDIR");
    fm_trace_emit *out = fm_base_mem_alloc(sizeof *out);
    (void)given;
    if (!out)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for an emitter");
    snprintf(path, sizeof path, "%s/bench_emit.%d.json", folder ? folder : "/tmp", (int)getpid());
    int error = fm_trace_emit_open(out, path, "bench", NULL);
    unlink(path); // it stays until it is closed
    if (error) {
        fm_base_mem_free(out);
        return fm_base_error_set(FM_ERR_IO, "cannot write %s", path);
    }
    *out_state = out;
    return FM_OK;
}

static fm_status setup_off(const fm_bench_setup *given, void **out_state)
{
    FM_TRY(setup(given, out_state));
    return fm_trace_emit_close(*out_state) ? fm_base_error_set(FM_ERR_IO, "cannot close an emitter") : FM_OK;
}

static void teardown(void *state)
{
    if (state && !((fm_trace_emit *)state)->error)
        fm_trace_emit_close(state);
    fm_base_mem_free(state);
}

static fm_status flush(void *state)
{
    return fm_trace_emit_flush(state) ? fm_base_error_set(FM_ERR_IO, "cannot write a trace") : FM_OK;
}

static fm_status emit(void *state)
{
    fm_trace_emit *out = state;
    for (int i = 0; i < SPANS; i++) {
        uint64_t begin = fm_trace_emit_now(out);
        FM_BENCH_KEEP(i);
        fm_trace_emit_span(out, "work", "bench", begin, fm_trace_emit_now(out));
    }
    return FM_OK;
}

static fm_status run(void *state, int threads)
{
    (void)threads;
    return emit(state);
}

static fm_status run_flush(void *state, int threads)
{
    (void)threads;
    return flush(state);
}

static fm_status run_empty(void *state, int threads)
{
    (void)state;
    (void)threads;
    for (int i = 0; i < SPANS; i++)
        FM_BENCH_KEEP(i);
    return FM_OK;
}

fm_status fm_bench_trace_add_emit(fm_bench *bench)
{
    fm_bench_case item = {
        .name = "emit.off",
        .items = SPANS,
        .mode = FM_BENCH_IN_SMOKE,
        .threads = 1,
        .setup = setup_off,
        .run = run,
        .teardown = teardown,
        .peers = {{.name = "empty_loop", .run = run_empty}},
        .goals = {{FM_BENCH_EXCESS, .peer = "empty_loop", .must = 2e-9}},
    };
    FM_TRY(fm_bench_add(bench, &item));
    item.name = "emit.on";
    item.setup = setup;
    item.before = flush;
    item.goals[0].must = 50e-9;
    FM_TRY(fm_bench_add(bench, &item));
    const fm_bench_case later = {
        .name = "emit.flush", // what the spans cost later, where nobody waits for them
        .items = SPANS,
        .mode = FM_BENCH_IN_SMOKE,
        .threads = 1,
        .setup = setup,
        .before = emit,
        .run = run_flush,
        .teardown = teardown,
    };
    return fm_bench_add(bench, &later);
}
