#include "fm_test.h"

#include <math.h>

#include "perturbed.h"

static void factors_of_one_change_nothing(void **state)
{
    (void)state;
    struct fm_test_run run = {
        .layers = 20, .compute_us = 1000, .transfer_us = 1700, .jitter_us = 9, .stall_us = 700};
    struct fm_test_loaded loaded = fm_test_make_run(&run);
    fm_trace_replay replay;
    assert_ok(fm_trace_replay_run(loaded.report, "comm*1", &replay));
    assert_memory_equal(&replay.before, &replay.after, sizeof replay.before);
    fm_test_free_run(&loaded);
}

static void the_published_trace_replays_as_it_was(void **state)
{
    (void)state;
    struct fm_test_loaded loaded = {0};
    const char *path = fm_test_shared("data/profile/train.json");
    fm_trace_replay replay, faster;
    assert_ok(fm_trace_data_read(&path, 1, NULL, &loaded.trace));
    assert_ok(fm_trace_rules_load(NULL, &loaded.rules));
    assert_ok(fm_trace_report_make(loaded.trace, loaded.rules, &loaded.report));
    assert_ok(fm_trace_replay_run(loaded.report, "compute*1,comm*1,launch*1", &replay));
    assert_memory_equal(&replay.before, &replay.after, sizeof replay.before);
    assert_ok(fm_trace_replay_run(loaded.report, "comm*0.5", &faster));
    assert_true(faster.after.span_ns < replay.after.span_ns &&
                faster.after.exposed_ns < replay.after.exposed_ns);
    // No replay is shorter than its longest stream's work.
    assert_true(faster.after.span_ns >= 118193000);
    fm_test_free_run(&loaded);
}

static void halved_communication_uncovers_compute(void **state)
{
    (void)state;
    struct fm_test_run run = {.layers = 50, .compute_us = 1000, .transfer_us = 1800};
    struct fm_test_loaded loaded = fm_test_make_run(&run);
    fm_trace_replay replay;
    assert_ok(fm_trace_replay_run(loaded.report, "comm*0.5", &replay));
    // A layer lasts max(1002, 1800) + 2 us before, max(1002, 900) + 2 at best after; the gap behind the transfer stays.
    assert_true(replay.before.span_ns > 50 * INT64_C(1800000));
    assert_true(replay.after.span_ns < 50 * INT64_C(1020000));
    assert_true(replay.after.exposed_ns < replay.before.exposed_ns / 10);
    fm_test_free_run(&loaded);
}

static fm_status replay_once(void *report)
{
    fm_trace_replay replay;
    return fm_trace_replay_run(report, "comm*0.5", &replay);
}

/* Two ranks: the second waits for what the first sends after its computation. */
static void messages_hold_up_who_waits_for_them(void **state)
{
    (void)state;
    static const char json[] =
        "["
        "{\"ph\":\"X\",\"cat\":\"gemm\",\"name\":\"a\",\"pid\":0,\"tid\":1,\"ts\":0,\"dur\":100},"
        "{\"ph\":\"X\",\"cat\":\"ep\",\"name\":\"send\",\"pid\":0,\"tid\":1,\"ts\":100,\"dur\":10},"
        "{\"ph\":\"s\",\"cat\":\"pipe\",\"name\":\"message\",\"id\":\"0x7\",\"pid\":0,\"tid\":1,\"ts\":105},"
        "{\"ph\":\"X\",\"cat\":\"gemm\",\"name\":\"b\",\"pid\":1,\"tid\":1,\"ts\":0,\"dur\":20},"
        "{\"ph\":\"X\",\"cat\":\"pipe\",\"name\":\"wait\",\"pid\":1,\"tid\":1,\"ts\":20,\"dur\":110},"
        "{\"ph\":\"f\",\"bp\":\"e\",\"cat\":\"pipe\",\"name\":\"message\",\"id\":\"0x7\",\"pid\":1,\"tid\":1,"
        "\"ts\":125},"
        "{\"ph\":\"X\",\"cat\":\"gemm\",\"name\":\"c\",\"pid\":1,\"tid\":1,\"ts\":130,\"dur\":70}]";
    struct fm_test_loaded loaded;
    fm_trace_replay replay;
    assert_ok(fm_trace_data_parse(json, sizeof json - 1, "made", NULL, &loaded.trace));
    assert_ok(fm_trace_rules_load(NULL, &loaded.rules));
    assert_ok(fm_trace_report_make(loaded.trace, loaded.rules, &loaded.report));
    // The second rank's path: c, what was left of the wait, the message, and the first rank until it sent. The first one's is its own.
    const fm_trace_path *path = &loaded.report->path;
    assert_true(path->messages == 1 && path->message_ns == 20000 && path->steps == 2 + 4);
    assert_int_equal(path->work_ns, (110 + 70 + 5 + 5 + 100) * 1000);
    assert_int_equal(path->length_ns, path->work_ns + path->message_ns + path->gap_ns + path->launch_ns);
    assert_int_equal(path->length_ns, (110 + 200) * 1000);
    assert_ok(fm_trace_replay_run(loaded.report, "compute*1", &replay));
    assert_memory_equal(&replay.before, &replay.after, sizeof replay.before);
    assert_int_equal(replay.before.span_ns, (110 + 200) * 1000);
    // Sent at 55, taken 20 later, 5 more of waiting, then 35 of computation: the wait is shorter, though it is not scaled.
    assert_ok(fm_trace_replay_run(loaded.report, "compute*0.5", &replay));
    assert_int_equal(replay.after.span_ns, (60 + 115) * 1000);
    // A slower sender holds the receiver up.
    assert_ok(fm_trace_replay_run(loaded.report, "compute*2", &replay));
    assert_int_equal(replay.after.span_ns, (210 + 205 + 20 + 5 + 140) * 1000);
    fm_test_each_alloc_fails(replay_once, loaded.report);
    fm_test_free_run(&loaded);
}

static void scales_that_are_none(void **state)
{
    (void)state;
    struct fm_test_run run = {.layers = 2, .compute_us = 10, .transfer_us = 10};
    struct fm_test_loaded loaded = fm_test_make_run(&run);
    fm_trace_replay replay;
    static const char *const bad[] = {"",        "comm",     "comm*",           "comm*x",
                                      "comm*-1", "comm*1e7", "comm*0.5;wait*1", "*2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(fm_trace_replay_run(loaded.report, bad[i], &replay), FM_ERR_ARG, "");
    assert_fails(fm_trace_replay_run(loaded.report, "nothing*1", &replay), FM_ERR_ARG,
                 "known: compute, transfer");
    fm_test_free_run(&loaded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_of_one_change_nothing),
        cmocka_unit_test(the_published_trace_replays_as_it_was),
        cmocka_unit_test(halved_communication_uncovers_compute),
        cmocka_unit_test(messages_hold_up_who_waits_for_them),
        cmocka_unit_test(scales_that_are_none),
    };
    return fm_test_run("replay", tests);
}
