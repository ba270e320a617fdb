/* Findings of runs whose troubles are known because they were put there. */
#include "fm_test.h"

#include "perturbed.h"

static const struct fm_test_run healthy = {.layers = 40, .compute_us = 1000, .transfer_us = 900};

static void a_healthy_run_has_no_findings(void **state)
{
    (void)state;
    struct fm_test_loaded run = fm_test_make_run(&healthy);
    // The gap of 2 us between the two kernels of each layer.
    assert_int_equal(run.report->by_name.exposed_ns, 40 * 2000);
    assert_null(fm_test_find(&run, "exposed_gap"));
    assert_null(fm_test_find(&run, "stall"));
    assert_null(fm_test_find(&run, "exposed_communication"));
    assert_null(fm_test_find(&run, "waiting"));
    assert_null(fm_test_find(&run, "unknown_communication"));
    assert_null(fm_test_find(&run, "host_bound"));
    fm_test_free_run(&run);
}

static void doubled_communication_is_exposed(void **state)
{
    (void)state;
    struct fm_test_run doubled = healthy;
    doubled.transfer_us *= 2;
    struct fm_test_loaded run = fm_test_make_run(&doubled);
    // 1800 us of transfer beside 1000 us of compute with a gap of 2 us: 800 us and two gaps a layer.
    int64_t exposed = 40 * (1800 - 1000) * INT64_C(1000);
    assert_int_equal(run.report->by_name.exposed_ns, exposed);
    const fm_trace_finding *finding = fm_test_find(&run, "exposed_communication");
    assert_non_null(finding);
    assert_int_equal(finding->saving_ns, exposed);
    assert_ptr_equal(finding, &run.report->findings[0]);
    finding = fm_test_find(&run, "exposed_gap");
    assert_non_null(finding);
    assert_non_null(strstr(finding->text, "comm_dispatch"));
    fm_test_free_run(&run);
}

static void a_stalled_stream_is_found_where_it_stalls(void **state)
{
    (void)state;
    struct fm_test_run stalled = healthy;
    stalled.stall_us = 5000;
    struct fm_test_loaded run = fm_test_make_run(&stalled);
    const fm_trace_finding *finding = fm_test_find(&run, "stall");
    assert_non_null(finding);
    assert_ptr_equal(finding, &run.report->findings[0]);
    assert_true(finding->saving_ns >= 5000000 && finding->saving_ns < 5010000);
    // After layer 20 of 40, each of 1004 us.
    int64_t at = finding->begin_ns - run.report->units[0].first_ns;
    assert_true(at > 20 * 1004000 && at < 22 * 1004000);
    fm_test_free_run(&run);
}

static void a_renamed_kernel_is_noticed(void **state)
{
    (void)state;
    struct fm_test_run renamed = healthy;
    renamed.wait_us = 950;
    renamed.transfer_name = "house_exchange";
    struct fm_test_loaded run = fm_test_make_run(&renamed);
    const fm_trace_finding *finding = fm_test_find(&run, "unknown_communication");
    assert_non_null(finding);
    assert_non_null(strstr(finding->evidence, "house_exchange"));
    assert_int_equal(finding->saving_ns, run.report->by_stream.exposed_ns - run.report->by_name.exposed_ns);
    assert_true(run.report->by_stream.communication_ns > run.report->by_name.communication_ns);
    // Who waits for it waits for communication.
    finding = fm_test_find(&run, "exposed_gap");
    assert_non_null(finding);
    assert_non_null(strstr(finding->text, "an unknown kernel of a communication stream"));
    assert_non_null(strstr(finding->evidence, "house_exchange"));
    fm_test_free_run(&run);
}

static void a_mangled_name_is_known(void **state)
{
    (void)state;
    struct fm_test_run mangled = healthy;
    mangled.transfer_name = "_ZN7deep_ep9internode8dispatchILb0ELi8EEEvP4int4";
    struct fm_test_loaded run = fm_test_make_run(&mangled), plain = fm_test_make_run(&healthy);
    assert_memory_equal(&run.report->by_name, &plain.report->by_name, sizeof plain.report->by_name);
    fm_test_free_run(&run);
    fm_test_free_run(&plain);
}

static void waits_are_told_from_transfers(void **state)
{
    (void)state;
    struct fm_test_run waiting = healthy;
    waiting.wait_us = 300;
    struct fm_test_loaded run = fm_test_make_run(&waiting);
    const fm_trace_finding *finding = fm_test_find(&run, "waiting");
    assert_non_null(finding);
    assert_non_null(strstr(finding->text, "25.0 % of communication (12000 us)"));
    assert_int_equal(run.report->sm_time.wait_ns, 20 * 12000000);
    fm_test_free_run(&run);
}

/* Three ranks in collectives: who comes late to most of them is named, and what the others wait. */
static void a_straggler_is_named(void **state)
{
    (void)state;
    enum { ROUNDS = 20, LATE_US = 300 };
    char text[16000] = "[";
    for (int rank = 0; rank < 3; rank++)
        for (int i = 0; i < ROUNDS; i++) {
            // Rank 2 is late, but for the last rounds, to which rank 0 is, a little.
            int late = rank == 2 && i < ROUNDS - 2 ? LATE_US : rank == 0 && i >= ROUNDS - 2 ? 10 : 0;
            size_t used = strlen(text);
            snprintf(
                text + used, sizeof text - used,
                "{\"ph\":\"X\",\"cat\":\"gemm\",\"name\":\"work\",\"pid\":%d,\"tid\":1,\"ts\":%d,\"dur\":%d},"
                "{\"ph\":\"X\",\"cat\":\"ep\",\"name\":\"dispatch\",\"pid\":%d,\"tid\":1,\"ts\":%d,\"dur\":%"
                "d},",
                rank, i * 1000, 600 + late, rank, i * 1000 + 600 + late, 350 - late);
        }
    struct fm_test_loaded run;
    assert_ok(fm_trace_data_parse(text, strlen(text), "made", NULL, &run.trace));
    assert_ok(fm_trace_rules_load(NULL, &run.rules));
    assert_ok(fm_trace_report_make(run.trace, run.rules, &run.report));
    const fm_trace_skew *skew = &run.report->skew;
    assert_int_equal(skew->collectives, ROUNDS);
    assert_int_equal(skew->last_count, ROUNDS - 2);
    assert_int_equal(skew->last_waited_ns, 2 * (ROUNDS - 2) * LATE_US * 1000);
    assert_int_equal(skew->waited_ns, skew->last_waited_ns + 2 * 2 * 10 * 1000);
    const fm_trace_finding *finding = fm_test_find(&run, "straggler");
    assert_non_null(finding);
    assert_int_equal(finding->saving_ns, (ROUNDS - 2) * LATE_US * 1000);
    assert_non_null(strstr(finding->text, "process 2 enters 90 % of the 20 collectives"));
    fm_test_free_run(&run);
}

/* Two low-latency transfers at once, of kernels of two names: each send belongs to the receive of its name. */
static void flights_of_two_names(void **state)
{
    (void)state;
    static const char json[] =
        "[{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"ep::dispatch_ll<1>\",\"pid\":0,\"tid\":7,\"ts\":0,"
        "\"dur\":10},"
        "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"ep::dispatch_ll<0>\",\"pid\":0,\"tid\":7,\"ts\":20,"
        "\"dur\":10},"
        "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"gemm_bf16\",\"pid\":0,\"tid\":7,\"ts\":30,\"dur\":50},"
        "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"ep::dispatch_ll<1>\",\"pid\":0,\"tid\":7,\"ts\":90,"
        "\"dur\":10},"
        "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"ep::dispatch_ll<0>\",\"pid\":0,\"tid\":7,\"ts\":110,"
        "\"dur\":10},"
        "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"ep::dispatch_ll<0>\",\"pid\":0,\"tid\":7,\"ts\":130,"
        "\"dur\":10}]";
    struct fm_test_loaded run;
    assert_ok(fm_trace_data_parse(json, sizeof json - 1, "made", NULL, &run.trace));
    assert_ok(fm_trace_rules_load(NULL, &run.rules));
    assert_ok(fm_trace_report_make(run.trace, run.rules, &run.report));
    const fm_trace_in_flight *flights = &run.report->in_flight;
    assert_int_equal(flights->pairs, 2); // the last send has no receive yet
    assert_int_equal(flights->sum_ns, (90 - 10) * 1000 + (110 - 30) * 1000);
    assert_int_equal(flights->union_ns, (110 - 10) * 1000);
    assert_int_equal(flights->overlap_ns,
                     (10 + 50 + 10) * 1000); // the other's send, the product, the other's receive
    fm_test_free_run(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_healthy_run_has_no_findings),
        cmocka_unit_test(doubled_communication_is_exposed),
        cmocka_unit_test(a_stalled_stream_is_found_where_it_stalls),
        cmocka_unit_test(a_renamed_kernel_is_noticed),
        cmocka_unit_test(a_mangled_name_is_known),
        cmocka_unit_test(waits_are_told_from_transfers),
        cmocka_unit_test(a_straggler_is_named),
        cmocka_unit_test(flights_of_two_names),
    };
    return fm_test_run("findings", tests);
}
