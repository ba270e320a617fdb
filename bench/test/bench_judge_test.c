#include "fm_test.h"

#include "bench_judge.h"
#include "bench_simulated.h"

#include <math.h>

// A series is written by hand here: the judge knows nothing of clocks.
enum { ROUNDS = 5 };

struct fixture {
    fm_bench_case item;
    fm_bench_plan plan;
    fm_bench_series series;
    fm_bench_sample samples[FM_BENCH_VARIANTS_MAX][ROUNDS];
    fm_bench_records records;
};

static struct fixture *fixture_new(void)
{
    struct fixture *fixture = fm_base_mem_zalloc(1, sizeof *fixture);
    assert_non_null(fixture);
    fixture->item = (fm_bench_case){.name = "case", .limit = FM_BENCH_READ, .bytes = 1000, .items = 10};
    fixture->plan = (fm_bench_plan){.samples = ROUNDS, .counts = {1}, .guard = FM_BENCH_READ, .bound = 0.1};
    fixture->series.rounds = ROUNDS;
    return fixture;
}

static void fixture_free(struct fixture *fixture)
{
    fm_bench_records_clear(&fixture->records);
    fm_base_mem_free(fixture);
}

// Adds a variant that takes `seconds` under a limit of `limit` B/s.
static fm_bench_variant *add(struct fixture *fixture, int peer, int threads, double seconds, double limit)
{
    int index = fixture->series.variant_count++;
    fm_bench_variant *variant = &fixture->series.variants[index];
    *variant = (fm_bench_variant){.threads = threads,
                                  .peer = peer,
                                  .iterations = 1,
                                  .clean = ROUNDS,
                                  .samples = fixture->samples[index]};
    for (int round = 0; round < ROUNDS; round++)
        variant->samples[round] = (fm_bench_sample){
            .wall = seconds, .cpu = seconds * threads, .before = limit, .after = limit, .clean = 1};
    return variant;
}

static void spoil(fm_bench_variant *variant, int round)
{
    variant->samples[round].clean = 0;
    variant->clean--;
}

static const fm_bench_record *find(const struct fixture *fixture, const char *metric, const char *peer,
                                   int threads)
{
    for (size_t i = 0; i < fixture->records.count; i++) {
        const fm_bench_record *record = &fixture->records.items[i];
        if (strcmp(record->metric, metric) == 0 && record->threads == threads &&
            (peer ? record->peer && strcmp(record->peer, peer) == 0 : !record->peer))
            return record;
    }
    fail_msg("no record of %s", metric);
    return NULL;
}

static const fm_bench_record *judge(struct fixture *fixture, const char *metric, const char *peer,
                                    int threads)
{
    fm_bench_records_clear(&fixture->records);
    fm_bench_judge_case(&fixture->item, &fixture->plan, &fixture->series, NULL, 1, &fixture->records);
    assert_int_equal(fixture->records.status, FM_OK);
    return find(fixture, metric, peer, threads);
}

static void near(double a, double b)
{
    if (fabs(a - b) > 1e-9 * fabs(b))
        fail_msg("%.12g is not %.12g", a, b);
}

static void fractions_are_judged(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    add(fixture, -1, 1, 0.01, 200000); // 1000 B in 10 ms: half the limit
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_FRACTION, .must = 0.5, .hope = 0.6};
    const fm_bench_record *record = judge(fixture, "rate", NULL, 1);
    near(record->value, 100000);
    near(record->fraction, 0.5);
    near(record->limit_rate, 200000);
    assert_string_equal(record->unit, "B/s");
    assert_string_equal(record->limit, "read");
    assert_int_equal(record->verdict, FM_BENCH_MET);
    near(record->hope, 0.6);
    fixture->item.goals[0].must = 0.51;
    assert_int_equal(judge(fixture, "rate", NULL, 1)->verdict, FM_BENCH_MISSED);
    fixture_free(fixture);
}

static void unclean_samples_do_not_count(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    fm_bench_variant *variant = add(fixture, -1, 1, 0.01, 200000);
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_FRACTION, .must = 0.5};
    variant->samples[1].wall = variant->samples[1].cpu = 0.001;
    variant->samples[3].wall = variant->samples[3].cpu = 0.002;
    spoil(variant, 1);
    spoil(variant, 3);
    const fm_bench_record *record = judge(fixture, "rate", NULL, 1);
    assert_int_equal(record->verdict, FM_BENCH_MET);
    assert_true(record->clean == 3 && record->samples == ROUNDS);
    near(record->fraction, 0.5);
    near(record->best, 100000);
    assert_true(record->spread == 0);
    // Two are too few to judge by; none at all still shows what there is.
    spoil(variant, 0);
    assert_int_equal(judge(fixture, "rate", NULL, 1)->verdict, FM_BENCH_VOID);
    spoil(variant, 2);
    spoil(variant, 4);
    record = judge(fixture, "rate", NULL, 1);
    assert_int_equal(record->verdict, FM_BENCH_VOID);
    assert_true(record->clean == 0 && record->value > 0);
    fixture_free(fixture);
}

static void a_missing_limit_makes_fractions_void(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    add(fixture, -1, 1, 0.01, 200000);
    fixture->plan.guard = FM_BENCH_FMA_SCALAR; // what the sampler takes where the machine has no such limit
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_FRACTION, .must = 0.1};
    fixture->item.goals[1] = (fm_bench_goal){FM_BENCH_TIME, .must = 0.02};
    const fm_bench_record *record = judge(fixture, "rate", NULL, 1);
    assert_int_equal(record->verdict, FM_BENCH_VOID);
    assert_non_null(strstr(record->note, "no read here"));
    assert_true(record->fraction == 0 && !record->limit);
    near(record->value, 100000);
    assert_int_equal(find(fixture, "time", NULL, 1)->verdict, FM_BENCH_MET);
    fixture_free(fixture);
}

static void ratios_pair_rounds_in_the_same_state(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    fm_bench_variant *subject = add(fixture, -1, 1, 0.01, 200000);
    fm_bench_variant *peer = add(fixture, 0, 1, 0.03, 200000);
    fixture->item.peers[0] = (fm_bench_peer){.name = "other"};
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "other", .must = 3};
    // In three of five rounds the machine was halved under the subject alone: a ratio of those would say 1.5.
    for (int round = 0; round < 3; round++) {
        subject->samples[round] =
            (fm_bench_sample){.wall = 0.02, .cpu = 0.02, .before = 100000, .after = 100000, .clean = 1};
    }
    const fm_bench_record *record = judge(fixture, "rate", "other", 1);
    near(record->ratio, 3);
    assert_int_equal(record->verdict, FM_BENCH_MET);
    near(record->fraction, 1.0 / 6);
    // Where no round pairs, there is no ratio.
    spoil(peer, 3);
    spoil(peer, 4);
    record = judge(fixture, "rate", "other", 1);
    assert_int_equal(record->verdict, FM_BENCH_VOID);
    fixture_free(fixture);
}

static void a_crippled_peer_makes_its_ratio_void(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    add(fixture, -1, 1, 0.01, 200000);
    add(fixture, 0, 1, 0.02, 200000); // reaches 0.25 of the limit
    add(fixture, 1, 1, 0.04, 200000);
    fixture->item.peers[0] = (fm_bench_peer){.name = "fast", .expect = 0.31};
    fixture->item.peers[1] = (fm_bench_peer){.name = "slow", .expect_of = "fast", .expect = 0.6};
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "fast", .must = 1.5};
    fixture->item.goals[1] = (fm_bench_goal){FM_BENCH_RATIO, .must = 1.5};
    assert_int_equal(judge(fixture, "rate", "fast", 1)->verdict, FM_BENCH_MET); // 0.25 >= 0.8 * 0.31
    assert_int_equal(find(fixture, "rate", "slow", 1)->verdict, FM_BENCH_NO_GOAL);
    const fm_bench_record *best = find(fixture, "ratio", "fast", 1);
    near(best->value, 2);
    assert_int_equal(best->verdict, FM_BENCH_MET);

    fixture->item.peers[0].expect = 0.32;
    const fm_bench_record *record = judge(fixture, "rate", "fast", 1);
    assert_int_equal(record->verdict, FM_BENCH_VOID);
    assert_non_null(strstr(record->note, "fast reaches 0.25 of read, is known to reach 0.32"));
    assert_int_equal(find(fixture, "ratio", "fast", 1)->verdict, FM_BENCH_VOID);

    // What is known holds for one thread; on two the ratio stands.
    fixture->plan.counts[1] = 2;
    add(fixture, -1, 2, 0.01, 200000);
    add(fixture, 0, 2, 0.02, 200000);
    add(fixture, 1, 2, 0.04, 200000);
    assert_int_equal(judge(fixture, "rate", "fast", 1)->verdict, FM_BENCH_VOID);
    assert_int_equal(find(fixture, "rate", "fast", 2)->verdict, FM_BENCH_NO_GOAL);
    fixture->plan.counts[1] = 0;

    fixture->item.peers[0].expect = 0;
    fixture->item.peers[1].expect = 0.7; // of fast; it reaches 0.5
    record = judge(fixture, "rate", "slow", 1);
    assert_int_equal(record->verdict, FM_BENCH_VOID);
    assert_non_null(strstr(record->note, "slow reaches 0.50 of fast"));
    fixture_free(fixture);
}

static void a_missing_peer_is_void(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    add(fixture, -1, 1, 0.01, 200000);
    fm_bench_variant *peer = add(fixture, 0, 1, 0.02, 200000);
    peer->status = FM_ERR_UNAVAILABLE;
    peer->clean = 0;
    fixture->item.peers[0] = (fm_bench_peer){.name = "gone"};
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "gone", .must = 1};
    fixture->item.goals[1] = (fm_bench_goal){FM_BENCH_EXCESS, .peer = "gone", .must = 1};
    const fm_bench_record *record = judge(fixture, "rate", "gone", 1);
    assert_int_equal(record->verdict, FM_BENCH_VOID);
    assert_non_null(strstr(record->note, "not available"));
    assert_int_equal(find(fixture, "excess", "gone", 1)->verdict, FM_BENCH_VOID);
    fixture_free(fixture);
}

static void times_and_excess_are_upper_bounds(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    add(fixture, -1, 1, 0.01, 200000);
    add(fixture, 0, 1, 0.004, 200000);
    fixture->item.peers[0] = (fm_bench_peer){.name = "empty"};
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_ITEM_TIME, .must = 0.001};
    fixture->item.goals[1] = (fm_bench_goal){FM_BENCH_EXCESS, .peer = "empty", .must = 0.0005};
    const fm_bench_record *record = judge(fixture, "item_time", NULL, 1);
    near(record->value, 0.001);
    assert_int_equal(record->verdict, FM_BENCH_MET);
    record = find(fixture, "excess", "empty", 1);
    near(record->value, 0.0006);
    assert_true(record->at_most);
    assert_int_equal(record->verdict, FM_BENCH_MISSED);
    fixture_free(fixture);
}

static void scaling_is_measured_against_the_limits(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    fixture->plan.counts[1] = 2;
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_SCALING, .must = 0.92};
    fixture->item.goals[1] = (fm_bench_goal){FM_BENCH_FRACTION, .must = 0.5, .threads = FM_BENCH_ALL_THREADS};
    add(fixture, -1, 1, 0.01, 200000);
    fm_bench_variant *both =
        add(fixture, -1, 2, 0.008, 260000); // 1.25 times as fast where the limit gives 1.3
    // CPU time of two threads says nothing about how fast they are together.
    for (int round = 0; round < ROUNDS; round++)
        both->samples[round].cpu = 9;
    const fm_bench_record *record = judge(fixture, "scaling", NULL, 2);
    near(record->value, 1.25 / 1.3);
    assert_int_equal(record->verdict, FM_BENCH_MET);
    near(find(fixture, "rate", NULL, 2)->fraction, 1000 / 0.008 / 260000);
    assert_int_equal(find(fixture, "rate", NULL, 2)->verdict, FM_BENCH_MISSED);
    fixture_free(fixture);

    fixture = fixture_new();
    add(fixture, -1, 1, 0.01, 200000);
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_SCALING, .must = 0.92};
    assert_int_equal(judge(fixture, "scaling", NULL, 1)->verdict, FM_BENCH_VOID);
    fixture_free(fixture);
}

static void one_thread_counts_cpu_time(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    fm_bench_variant *variant = add(fixture, -1, 1, 0.01, 200000);
    for (int round = 0; round < ROUNDS; round++)
        variant->samples[round].wall = 0.05;
    const fm_bench_record *record = judge(fixture, "time", NULL, 1);
    near(record->value, 0.01);
    assert_non_null(strstr(record->note, "wall time 50.0 ms"));
    fixture->item.clock = FM_BENCH_WALL;
    record = judge(fixture, "time", NULL, 1);
    near(record->value, 0.05);
    assert_non_null(strstr(record->note, "CPU time 10.0 ms"));
    fixture_free(fixture);
}

static void add_own(void *state, fm_bench_metrics *to)
{
    (void)state;
    fm_bench_metric_add(to, "memory", 0.7, "1");
}

static void own_metrics_are_judged(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    add(fixture, -1, 1, 0.01, 200000);
    fixture->item.metrics = add_own;
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_OWN_AT_MOST, .name = "memory", .must = 0.6};
    fixture->item.goals[1] = (fm_bench_goal){FM_BENCH_OWN_AT_LEAST, .name = "tail", .must = 0.6};
    assert_int_equal(judge(fixture, "memory", NULL, 1)->verdict, FM_BENCH_MISSED);
    assert_int_equal(find(fixture, "tail", NULL, 1)->verdict, FM_BENCH_VOID);
    fixture_free(fixture);
}

static void groups_judge_the_median(void **state)
{
    (void)state;
    fm_bench_records records = {0};
    double fractions[] = {0.7, 0.9, 0.8};
    const char *names[] = {"dense.a", "dense.b", "dense.c"};
    for (int i = 0; i < 3; i++)
        fm_bench_records_add(&records, &(fm_bench_record){.name = names[i],
                                                          .metric = "rate",
                                                          .threads = 1,
                                                          .samples = 5,
                                                          .clean = 5,
                                                          .fraction = fractions[i],
                                                          .ratio = 0});
    fm_bench_group group = {"all dense", "dense.", {FM_BENCH_FRACTION, .must = 0.75}};
    fm_bench_judge_group(&group, 3, 1, &records);
    near(records.items[3].value, 0.8);
    assert_int_equal(records.items[3].verdict, FM_BENCH_MET);
    fm_bench_judge_group(&group, 4, 1, &records); // one of them was filtered out
    assert_int_equal(records.items[4].verdict, FM_BENCH_VOID);
    records.items[0].clean = 0; // disturbed all the time
    fm_bench_judge_group(&group, 3, 1, &records);
    assert_int_equal(records.items[5].verdict, FM_BENCH_VOID);
    fm_bench_records_clear(&records);
}

static void smoke_runs_judge_nothing(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    add(fixture, -1, 1, 0.01, 200000);
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_FRACTION, .must = 0.9};
    fm_bench_judge_case(&fixture->item, &fixture->plan, &fixture->series, NULL, 0, &fixture->records);
    assert_int_equal(find(fixture, "rate", NULL, 1)->verdict, FM_BENCH_VOID);
    fixture_free(fixture);
}

static fm_status judge_once(void *context)
{
    struct fixture *fixture = context;
    fm_bench_records records = {0};
    fm_bench_judge_case(&fixture->item, &fixture->plan, &fixture->series, NULL, 1, &records);
    fm_status status = records.status;
    fm_bench_records_clear(&records);
    return status;
}

static void refused_memory_is_reported(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    fixture->plan.counts[1] = 2;
    add(fixture, -1, 1, 0.01, 200000);
    add(fixture, 0, 1, 0.01, 200000);
    add(fixture, -1, 2, 0.01, 200000);
    add(fixture, 0, 2, 0.01, 200000);
    fixture->item.peers[0] = (fm_bench_peer){.name = "peer"};
    fixture->item.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .must = 0.9};
    fm_test_each_alloc_fails(judge_once, fixture);
    fixture_free(fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fractions_are_judged),
        cmocka_unit_test(unclean_samples_do_not_count),
        cmocka_unit_test(a_missing_limit_makes_fractions_void),
        cmocka_unit_test(ratios_pair_rounds_in_the_same_state),
        cmocka_unit_test(a_crippled_peer_makes_its_ratio_void),
        cmocka_unit_test(a_missing_peer_is_void),
        cmocka_unit_test(times_and_excess_are_upper_bounds),
        cmocka_unit_test(scaling_is_measured_against_the_limits),
        cmocka_unit_test(one_thread_counts_cpu_time),
        cmocka_unit_test(own_metrics_are_judged),
        cmocka_unit_test(groups_judge_the_median),
        cmocka_unit_test(smoke_runs_judge_nothing),
        cmocka_unit_test(refused_memory_is_reported),
    };
    return fm_test_run("bench.judge", tests);
}
