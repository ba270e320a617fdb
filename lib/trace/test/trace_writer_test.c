#include "fm_test.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/doc.h"
#include "fathom/file.h"
#include "fathom/span.h"
#include "fathom/trace_emit.h"
#include "fathom/trace_report.h"
#include "fathom/trace_write.h"

static const char *in_tmp(const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", fm_test_tmpdir(), name);
    return path;
}

static fm_trace *read_back(const char *path)
{
    fm_trace *trace = NULL;
    assert_ok(fm_trace_data_read(&path, 1, NULL, &trace));
    return trace;
}

static const fm_trace_slice *find(const fm_trace *trace, const char *name)
{
    for (size_t i = 0; i < trace->slice_count; i++)
        if (strcmp(fm_trace_data_text(trace, trace->slices[i].name), name) == 0)
            return &trace->slices[i];
    fail_msg("no slice %s", name);
    return NULL;
}

static void *rank_1(void *unused)
{
    (void)unused;
    fm_base_span_set_thread(1, "wor\"ker");
    FM_SPAN_ARGS(span, "receive", "ep", "bytes", NULL);
    span.args[0] = 77;
    FM_SPAN_FLOW_END("message", "ep", UINT64_MAX - 1);
    return NULL;
}

static void record(void)
{
    FM_SPAN(span, "send", "ep");
    FM_SPAN_FLOW_BEGIN("message", "ep", UINT64_MAX - 1);
    FM_SPAN_COUNTER("queue", "ep", -5);
    FM_SPAN_INSTANT("step", "train", "n", 3);
    fm_base_clock_sleep_ns(1000000);
}

static void end_recording(void)
{
    fm_base_span_disable();
    fm_base_span_release_thread();
}

static void spans_come_back(void **state)
{
    (void)state;
    const char *path = in_tmp("spans.json");
    fm_trace_writer *writer;
    pthread_t thread;
    assert_ok(fm_base_span_enable(64));
    assert_ok(fm_trace_writer_open(path, &writer));
    record();
    assert_int_equal(pthread_create(&thread, NULL, rank_1, NULL), 0);
    pthread_join(thread, NULL);
    end_recording();
    assert_ok(fm_trace_writer_close(writer));
    fm_trace *trace = read_back(path);
    assert_int_equal(trace->process_count, 2);
    const fm_trace_slice *send = find(trace, "send"), *receive = find(trace, "receive");
    assert_true(send->duration_ns >= 1000000 && send->duration_ns < 1000000000);
    assert_string_equal(fm_trace_data_text(trace, send->category), "ep");
    const fm_trace_track *track = &trace->tracks[receive->track];
    assert_string_equal(fm_trace_data_text(trace, track->name), "wor\"ker");
    assert_string_equal(fm_trace_data_text(trace, trace->processes[track->process].name), "rank 1");
    assert_int_equal(trace->flow_count, 2);
    assert_true(trace->flows[0].id == trace->flows[1].id && trace->flows[0].track != trace->flows[1].track);
    assert_true(trace->counter_count == 1 && trace->counters[0].value == -5);
    // Absolute times are those of the calendar.
    assert_true(llabs((long long)(send->begin_ns - (int64_t)fm_base_clock_unix_ns())) < 60000000000);
    fm_trace_data_free(trace);
}

/* A strict JSON parser is happy with the file after every drain. */
static void every_drain_leaves_whole_json(void **state)
{
    (void)state;
    const char *path = in_tmp("drains.json");
    fm_trace_writer *writer;
    assert_ok(fm_base_span_enable(64));
    assert_ok(fm_trace_writer_open(path, &writer));
    size_t last = 0;
    for (int i = 0; i < 5; i++) {
        fm_doc *doc;
        assert_ok(fm_base_doc_load(path, &doc));
        size_t events = fm_base_doc_count(fm_base_doc_get(doc, "traceEvents"));
        assert_true(i == 0 ? events == 0 : events > last);
        last = events;
        fm_base_doc_free(doc);
        FM_SPAN_INSTANT("tick", "test", "i", i);
        assert_ok(fm_trace_writer_drain(writer));
    }
    end_recording();
    assert_ok(fm_trace_writer_close(writer));
}

static void a_killed_program_leaves_what_it_drained(void **state)
{
    (void)state;
    const char *path = in_tmp("killed.json");
    pid_t child = fork();
    if (child == 0) {
        fm_trace_writer *writer;
        if (fm_base_span_enable(64) < 0 || fm_trace_writer_open(path, &writer) < 0)
            _exit(1);
        FM_SPAN_INSTANT("kept", "test", NULL, 0);
        if (fm_trace_writer_drain(writer) < 0)
            _exit(1);
        FM_SPAN_INSTANT("lost", "test", NULL, 0);
        raise(SIGKILL);
    }
    int how;
    assert_true(waitpid(child, &how, 0) == child && WIFSIGNALED(how));
    fm_trace *trace = read_back(path);
    assert_int_equal(trace->slice_count, 1);
    find(trace, "kept");
    fm_trace_data_free(trace);
}

static void emitters_share_a_file(void **state)
{
    (void)state;
    const char *path = in_tmp("emitted.json");
    fm_trace_emit *out = fm_base_mem_zalloc(2, sizeof *out);
    assert_non_null(out);
    assert_int_equal(fm_trace_emit_open(&out[0], path, "pro\"gram", "one"), 0);
    assert_int_equal(fm_trace_emit_open(&out[1], path, NULL, "two"), 0);
    for (int i = 0; i < 3000; i++) {
        assert_int_equal(fm_trace_emit_span_at(&out[i % 2], "w\\ork\n", "cat", 1700000000000000000 + i * 1001,
                                               1700000000000000000 + i * 1001 + 500),
                         0);
        assert_int_equal(fm_trace_emit_counter(&out[0], "count", i), 0);
    }
    assert_int_equal(fm_trace_emit_flow(&out[0], 0, "arrow", 9), 0);
    assert_int_equal(fm_trace_emit_flow(&out[1], 1, "arrow", 9), 0);
    assert_int_equal(fm_trace_emit_close(&out[0]), 0);
    assert_int_equal(fm_trace_emit_close(&out[1]), 0);
    assert_int_equal(fm_trace_emit_counter(&out[1], "closed", 1), EBADF);
    fm_base_mem_free(out);
    fm_trace *trace = read_back(path);
    assert_int_equal(trace->slice_count, 3000);
    assert_int_equal(trace->counter_count, 3000);
    assert_true(trace->flow_count == 2 && trace->flows[0].id == trace->flows[1].id);
    int64_t sum = 0;
    for (size_t i = 0; i < trace->slice_count; i++)
        sum += trace->slices[i].begin_ns - 1700000000000000000;
    assert_int_equal(sum, INT64_C(1001) * 3000 * 2999 / 2);
    assert_int_equal(find(trace, "w\\ork\n")->duration_ns, 500);
    assert_string_equal(fm_trace_data_text(trace, trace->processes[0].name), "pro\"gram");
    fm_trace_data_free(trace);
}

static void emitted_spans_have_the_time_of_the_calendar(void **state)
{
    (void)state;
    const char *path = in_tmp("stamped.json");
    fm_trace_emit *out = fm_base_mem_zalloc(1, sizeof *out);
    assert_non_null(out);
    int64_t first = (int64_t)fm_base_clock_unix_ns();
    assert_int_equal(fm_trace_emit_open(out, path, NULL, NULL), 0);
    uint64_t begin = fm_trace_emit_now(out);
    fm_base_clock_sleep_ns(5000000);
    uint64_t end = fm_trace_emit_now(out);
    // One more than are taken before the first are written.
    for (int i = 0; i < FM_TRACE_EMIT_RECORDS + 1; i++)
        assert_int_equal(fm_trace_emit_span(out, "wait", NULL, begin, end), 0);
    assert_int_equal(out->count, 1);
    assert_int_equal(fm_trace_emit_close(out), 0);
    int64_t last = (int64_t)fm_base_clock_unix_ns();
    assert_int_equal(fm_trace_emit_now(out), 0);
    assert_int_equal(fm_trace_emit_span(out, "closed", NULL, 0, 0), EBADF);
    fm_trace *trace = read_back(path);
    assert_int_equal(trace->slice_count, FM_TRACE_EMIT_RECORDS + 1);
    // The counter and the calendar are read one after the other: they agree to much less than the millisecond left here.
    enum { APART_NS = 1000000 };
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        assert_true(slice->duration_ns >= 5000000 - APART_NS && slice->begin_ns >= first - APART_NS &&
                    slice->begin_ns + slice->duration_ns <= last + APART_NS);
    }
    fm_trace_data_free(trace);
    // What fits no buffer is refused, and the emitter with it.
    char *name = fm_base_mem_alloc(FM_TRACE_EMIT_BYTES);
    assert_non_null(name);
    memset(name, 'x', FM_TRACE_EMIT_BYTES - 1);
    name[FM_TRACE_EMIT_BYTES - 1] = 0;
    assert_int_equal(fm_trace_emit_open(out, path, NULL, NULL), 0);
    assert_int_equal(fm_trace_emit_span(out, name, NULL, 1, 2), 0);
    assert_int_equal(fm_trace_emit_flush(out), EMSGSIZE);
    assert_int_equal(fm_trace_emit_close(out), EMSGSIZE);
    fm_base_mem_free(name);
    fm_base_mem_free(out);
}

static void a_saved_trace_reads_the_same(void **state)
{
    (void)state;
    const char *path = fm_test_shared("data/profile/train.json");
    char source[4200];
    snprintf(source, sizeof source, "%s", path);
    const char *twice[] = {source, source}, *copy = in_tmp("saved.json");
    fm_trace *trace, *again;
    assert_ok(fm_trace_data_read(twice, 2, NULL, &trace));
    assert_ok(fm_trace_data_save(trace, copy));
    assert_ok(fm_trace_data_read(&copy, 1, NULL, &again));
    assert_int_equal(again->slice_count, trace->slice_count);
    assert_int_equal(again->gpu_count, trace->gpu_count);
    assert_int_equal(again->flow_count, trace->flow_count);
    assert_int_equal(again->process_count, trace->process_count);
    for (size_t i = 0; i < trace->slice_count; i++) {
        assert_int_equal(again->slices[i].begin_ns, trace->slices[i].begin_ns);
        assert_int_equal(again->slices[i].duration_ns, trace->slices[i].duration_ns);
        assert_true((again->slices[i].correlation > 0) == (trace->slices[i].correlation > 0));
        assert_string_equal(fm_trace_data_text(again, again->slices[i].name),
                            fm_trace_data_text(trace, trace->slices[i].name));
    }
    // Equal numbers of two ranks are told apart: kernels find the calls of their own rank.
    fm_trace_rules *rules;
    fm_trace_report *report, *report_again;
    assert_ok(fm_trace_rules_load(NULL, &rules));
    assert_ok(fm_trace_report_make(trace, rules, &report));
    assert_ok(fm_trace_report_make(again, rules, &report_again));
    assert_int_equal(report->unit_count, 2);
    assert_int_equal(report->launch.count, 2 * 983);
    assert_memory_equal(&report->by_name, &report_again->by_name, sizeof report->by_name);
    assert_memory_equal(&report->launch, &report_again->launch, sizeof report->launch);
    assert_int_equal(report->phase_count, 80);
    for (size_t i = 0; i < report->phase_total_count; i++)
        assert_int_equal(report->phase_totals[i].exposed_ns, report_again->phase_totals[i].exposed_ns);
    fm_trace_report_free(report);
    fm_trace_report_free(report_again);
    fm_trace_rules_free(rules);
    fm_trace_data_free(trace);
    fm_trace_data_free(again);
}

static void errors(void **state)
{
    (void)state;
    fm_trace_writer *writer;
    assert_fails(fm_trace_writer_open("/nowhere/at/all.json", &writer), FM_ERR_NOT_FOUND,
                 "/nowhere/at/all.json");
    assert_ok(fm_trace_writer_close(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_come_back),
        cmocka_unit_test(every_drain_leaves_whole_json),
        cmocka_unit_test(a_killed_program_leaves_what_it_drained),
        cmocka_unit_test(emitters_share_a_file),
        cmocka_unit_test(emitted_spans_have_the_time_of_the_calendar),
        cmocka_unit_test(a_saved_trace_reads_the_same),
        cmocka_unit_test(errors),
    };
    return fm_test_run("trace_writer", tests);
}
