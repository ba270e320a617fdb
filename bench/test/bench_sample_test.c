#include "fm_test.h"

#include "bench_simulated.h"

struct subject {
    simulated *machine;
    double seconds; // of a run
    double stretch; // of the wall against the CPU
    double peer_seconds;
    double peer_spins; // for how long a thread of the peer's spins after a run
    int runs, peer_runs, preparations;
    int fail_at;   // the run that fails; 0: none
    int change_at; // the run from which the result is another; 0: none
    fm_status peer_status;
    char order[256]; // 's' and 'p' as they ran
};

static void trace(struct subject *subject, char who)
{
    size_t length = strlen(subject->order);
    if (length + 1 < sizeof subject->order)
        subject->order[length] = who;
}

static fm_status subject_run(void *state, int threads)
{
    struct subject *subject = state;
    trace(subject, threads == 1 ? 's' : 'S');
    simulated_work(subject->machine, subject->seconds / threads, subject->stretch);
    if (++subject->runs == subject->fail_at)
        return fm_base_error_set(FM_ERR_IO, "the disk is gone");
    return FM_OK;
}

static fm_status peer_run(void *state, int threads)
{
    struct subject *subject = state;
    trace(subject, threads == 1 ? 'p' : 'P');
    subject->peer_runs++;
    simulated_work(subject->machine, subject->peer_seconds / threads, subject->stretch);
    subject->machine->spinning = subject->peer_spins;
    return subject->peer_status;
}

static fm_status subject_before(void *state)
{
    ((struct subject *)state)->preparations++;
    return FM_OK;
}

static uint64_t subject_hash(const void *state)
{
    const struct subject *subject = state;
    return subject->change_at && subject->runs >= subject->change_at ? 2 : 1;
}

static const fm_bench_plan plan = {.samples = 5,
                                   .sample_s = 0.002,
                                   .budget_s = 1e9,
                                   .counts = {1},
                                   .guard = FM_BENCH_FMA_AVX2,
                                   .bound = 0.1};

static void calibration_fills_a_sample(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {.machine = &machine, .seconds = 3e-6, .stretch = 1};
    fm_bench_case item = {.name = "short", .run = subject_run};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    const fm_bench_variant *variant = fm_bench_series_find(&series, -1, 1);
    assert_in_range(variant->iterations, 500, 1000);
    assert_int_equal(variant->clean, 5);
    assert_int_equal(series.rounds, 5);
    assert_true(variant->samples[0].wall > 2.99e-6 && variant->samples[0].wall < 3.01e-6);
    assert_true(variant->samples[0].before == 100 && variant->samples[0].after == 100);
    fm_bench_series_clear(&series);
}

static void a_case_with_before_runs_once_a_sample(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {.machine = &machine, .seconds = 3e-6, .peer_seconds = 1e-6, .stretch = 1};
    fm_bench_case item = {.name = "cold",
                          .run = subject_run,
                          .before = subject_before,
                          .peers = {{.name = "peer", .run = peer_run}}};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    assert_int_equal(subject.runs + subject.peer_runs, subject.preparations);
    assert_int_equal(subject.runs, 1 + 5);
    fm_bench_series_clear(&series);
}

static void variants_interleave_in_rotating_order(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {.machine = &machine, .seconds = 1, .peer_seconds = 2, .stretch = 1};
    fm_bench_case item = {.name = "long", .run = subject_run, .peers = {{.name = "peer", .run = peer_run}}};
    fm_bench_plan both = plan;
    both.counts[1] = 2;
    both.samples = 3;
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &both, &subject, &series));
    // A warm-up run of each, then the rounds.
    assert_string_equal(subject.order, "spSP"
                                       "spSP"
                                       "pSPs"
                                       "SPsp");
    fm_bench_series_clear(&series);
}

static void a_peers_spinning_threads_are_waited_for(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {
        .machine = &machine, .seconds = 1, .peer_seconds = 1, .peer_spins = 0.5, .stretch = 1};
    fm_bench_case item = {.name = "case", .run = subject_run, .peers = {{.name = "peer", .run = peer_run}}};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    for (int v = 0; v < series.variant_count; v++)
        for (int round = 0; round < series.rounds; round++)
            assert_true(fabs(series.variants[v].samples[round].cpu - 1) < 1e-9);
    fm_bench_series_clear(&series);
}

static void a_disturbed_sample_is_taken_again(void **state)
{
    (void)state;
    // The limit halves between the two probes of round 0 and stays there: all later rounds are clean.
    simulated machine = {.limit = 100, .script = {1, 0.5}};
    struct subject subject = {.machine = &machine, .seconds = 0.01, .stretch = 1};
    fm_bench_case item = {.name = "halved", .run = subject_run};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    const fm_bench_variant *variant = fm_bench_series_find(&series, -1, 1);
    assert_int_equal(variant->samples[0].clean, 0);
    assert_int_equal(variant->clean, 5);
    assert_int_equal(series.rounds, 6);
    assert_true(variant->samples[1].before == 50);
    fm_bench_series_clear(&series);
}

static void a_machine_that_never_rests_ends_the_rounds(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    for (int i = 0; i < SIMULATED_SCRIPT_MAX; i++)
        machine.script[i] = i % 2 ? 0.5 : 1;
    struct subject subject = {.machine = &machine, .seconds = 0.01, .stretch = 1};
    fm_bench_case item = {.name = "restless", .run = subject_run};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    assert_int_equal(series.rounds, FM_BENCH_ATTEMPTS * 5);
    assert_int_equal(series.variants[0].clean, 0);
    fm_bench_series_clear(&series);
}

static void a_move_to_another_core_is_unclean(void **state)
{
    (void)state;
    simulated machine = {.limit = 100, .move_at = 2};
    struct subject subject = {.machine = &machine, .seconds = 0.01, .stretch = 1};
    fm_bench_case item = {.name = "moved", .run = subject_run};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    assert_int_equal(series.variants[0].samples[0].clean, 0);
    assert_int_equal(series.rounds, 6);
    fm_bench_series_clear(&series);
    // What waits wakes where it may.
    machine = (simulated){.limit = 100, .move_at = 2};
    item.clock = FM_BENCH_WALL;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    assert_int_equal(series.rounds, 5);
    fm_bench_series_clear(&series);
}

static void the_budget_ends_the_rounds(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {.machine = &machine, .seconds = 1, .stretch = 1};
    fm_bench_case item = {.name = "slow", .run = subject_run};
    fm_bench_plan tight = plan;
    tight.budget_s = 0.5;
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &tight, &subject, &series));
    assert_int_equal(series.rounds, 1);
    fm_bench_series_clear(&series);
}

static void a_missing_peer_is_left_out(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {
        .machine = &machine, .seconds = 0.01, .stretch = 1, .peer_status = FM_ERR_UNAVAILABLE};
    fm_bench_case item = {.name = "alone", .run = subject_run, .peers = {{.name = "peer", .run = peer_run}}};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    assert_int_equal(fm_bench_series_find(&series, 0, 1)->status, FM_ERR_UNAVAILABLE);
    assert_int_equal(subject.peer_runs, 1);
    assert_int_equal(series.variants[0].clean, 5);
    fm_bench_series_clear(&series);
}

static void failures_name_who_failed(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {
        .machine = &machine, .seconds = 0.01, .peer_seconds = 0.01, .stretch = 1, .fail_at = 3};
    fm_bench_case item = {.name = "frail", .run = subject_run, .peers = {{.name = "peer", .run = peer_run}}};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_fails(fm_bench_series_take(&table, &item, &plan, &subject, &series), FM_ERR_IO,
                 "frail: the disk is gone");
    subject.fail_at = 0;
    subject.peer_status = FM_ERR_FORMAT;
    assert_fails(fm_bench_series_take(&table, &item, &plan, &subject, &series), FM_ERR_FORMAT, "peer: ");
}

static void a_changed_result_is_an_error(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {.machine = &machine, .seconds = 0.01, .stretch = 1};
    fm_bench_case item = {.name = "fickle", .run = subject_run, .hash = subject_hash};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    assert_true(series.hash == 1);
    fm_bench_series_clear(&series);
    subject = (struct subject){.machine = &machine, .seconds = 0.01, .stretch = 1, .change_at = 4};
    assert_fails(fm_bench_series_take(&table, &item, &plan, &subject, &series), FM_ERR_INTERNAL,
                 "fickle: the result");
}

static fm_status absent_run(void *state, int threads)
{
    (void)state;
    (void)threads;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "not built in");
}

static void a_case_may_not_be_missing_itself(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {.machine = &machine};
    fm_bench_case item = {.name = "absent", .run = absent_run};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_fails(fm_bench_series_take(&table, &item, &plan, &subject, &series), FM_ERR_UNAVAILABLE,
                 "absent: not");
}

static uint64_t last_who(const void *state)
{
    const struct subject *subject = state;
    return (uint64_t)subject->order[strlen(subject->order) - 1];
}

static void a_peer_that_promises_the_same_result_must_give_it(void **state)
{
    (void)state;
    simulated machine = {.limit = 100};
    struct subject subject = {.machine = &machine, .seconds = 0.01, .peer_seconds = 0.01, .stretch = 1};
    fm_bench_case item = {
        .name = "sort", .run = subject_run, .hash = last_who, .peers = {{.name = "peer", .run = peer_run}}};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    assert_ok(fm_bench_series_take(&table, &item, &plan, &subject, &series));
    assert_true(series.hash == 's');
    fm_bench_series_clear(&series);
    item.peers[0].same_result = 1;
    assert_fails(fm_bench_series_take(&table, &item, &plan, &subject, &series), FM_ERR_INTERNAL,
                 "peer: the result");
}

static fm_status take_once(void *context)
{
    simulated machine = {.limit = 100};
    struct subject subject = {.machine = &machine, .seconds = 0.01, .stretch = 1};
    fm_bench_machine table = simulated_machine(&machine);
    fm_bench_series series;
    FM_TRY(fm_bench_series_take(&table, context, &plan, &subject, &series));
    fm_bench_series_clear(&series);
    return FM_OK;
}

static void refused_memory_is_reported(void **state)
{
    (void)state;
    fm_bench_case item = {.name = "case", .run = subject_run};
    fm_test_each_alloc_fails(take_once, &item);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calibration_fills_a_sample),
        cmocka_unit_test(a_case_with_before_runs_once_a_sample),
        cmocka_unit_test(variants_interleave_in_rotating_order),
        cmocka_unit_test(a_peers_spinning_threads_are_waited_for),
        cmocka_unit_test(a_disturbed_sample_is_taken_again),
        cmocka_unit_test(a_machine_that_never_rests_ends_the_rounds),
        cmocka_unit_test(a_move_to_another_core_is_unclean),
        cmocka_unit_test(the_budget_ends_the_rounds),
        cmocka_unit_test(a_missing_peer_is_left_out),
        cmocka_unit_test(failures_name_who_failed),
        cmocka_unit_test(a_changed_result_is_an_error),
        cmocka_unit_test(a_case_may_not_be_missing_itself),
        cmocka_unit_test(a_peer_that_promises_the_same_result_must_give_it),
        cmocka_unit_test(refused_memory_is_reported),
    };
    return fm_test_run("bench.sample", tests);
}
