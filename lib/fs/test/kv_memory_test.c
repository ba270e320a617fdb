// What only the store in memory has: faults drawn from a seed.
#include "fm_test.h"
#include "kv_fixture.h"

static fm_fs_kv_options faulty(uint64_t seed, double conflict_rate, double maybe_rate)
{
    return (fm_fs_kv_options){.size = sizeof(fm_fs_kv_options),
                              .seed = seed,
                              .conflict_rate = conflict_rate,
                              .maybe_rate = maybe_rate};
}

struct pauses {
    int count;
    uint64_t total_ns;
    uint64_t longest_ns;
};

static void note_pause(void *context, uint64_t ns)
{
    struct pauses *pauses = context;
    pauses->count++;
    pauses->total_ns += ns;
    pauses->longest_ns = ns > pauses->longest_ns ? ns : pauses->longest_ns;
}

static struct pauses count_to_100(uint64_t seed, int *out_maybes)
{
    struct pauses pauses = {0};
    fm_fs_kv_options options = faulty(seed, 0.4, 0.3);
    options.pause = note_pause;
    options.pause_context = &pauses;
    fm_fs_kv *kv = NULL;
    *out_maybes = 0;
    assert_ok(fm_fs_kv_open("memory:", &options, &kv));
    for (uint32_t seq = 0; seq < 100; seq++)
        assert_ok(kv_count_once(kv, 1, seq, out_maybes));
    fm_fs_kv_close(kv);
    return pauses;
}

static void faults_come_from_the_seed_alone(void **state)
{
    (void)state;
    int maybes;
    int again;
    int other;
    struct pauses first = count_to_100(1, &maybes);
    struct pauses second = count_to_100(1, &again);
    struct pauses third = count_to_100(2, &other);
    assert_int_equal(maybes, again);
    assert_int_equal(first.count, second.count);
    assert_int_equal(first.total_ns, second.total_ns);
    assert_true(first.total_ns != third.total_ns);
    // Of each commit 0.4 are refused, and of those that write 0.3 have no answer.
    assert_in_range(first.count, 30, 200);
    assert_in_range(maybes, 10, 100);
    assert_true(first.longest_ns <= 26000000);
}

static fm_status put_x(fm_fs_kv_tx *tx, void *context)
{
    int *runs = context;
    ++*runs;
    return fm_fs_kv_put(tx, BYTES("x"), BYTES("1"));
}

static void a_lost_answer_has_both_outcomes(void **state)
{
    (void)state;
    int happened = 0;
    int runs = 0;
    char back[2];
    for (uint64_t seed = 0; seed < 64; seed++) {
        fm_fs_kv *kv = NULL;
        fm_fs_kv_options options = faulty(seed, 0, 1);
        assert_ok(fm_fs_kv_open("memory:", &options, &kv));
        assert_fails(fm_fs_kv_run(kv, 0, put_x, &runs), FM_ERR_FS_MAYBE, "injected");
        happened += kv_get(kv, BYTES("x"), back, sizeof back) == 1; // a reader's answer is never lost
        fm_fs_kv_close(kv);
    }
    assert_int_equal(runs, 64);
    assert_in_range(happened, 16, 48);
}

static void what_never_ends_is_given_up(void **state)
{
    (void)state;
    fm_fs_kv *kv = NULL;
    fm_fs_kv_options options = faulty(3, 1, 0);
    int runs = 0;
    assert_ok(fm_fs_kv_open("memory:", &options, &kv));
    assert_fails(fm_fs_kv_run(kv, 0, put_x, &runs), FM_ERR_FS_CONFLICT, "conflict");
    assert_int_equal(runs, 128);
    fm_fs_kv_close(kv);
}

static void each_request_counts_once(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        fm_fs_kv *kv = NULL;
        fm_fs_kv_options options = faulty(seed, 0.2, 0.2);
        int maybes = 0;
        assert_ok(fm_fs_kv_open("memory:", &options, &kv));
        for (uint32_t seq = 0; seq < 50; seq++)
            for (uint32_t client = 0; client < 2; client++)
                assert_ok(kv_count_once(kv, client, seq, &maybes));
        assert_int_equal(kv_counter(kv), 100);
        fm_fs_kv_close(kv);
    }
}

static fm_status write_and_read(fm_fs_kv_tx *tx, void *context)
{
    fm_fs_kv_item items[4];
    (void)context;
    size_t count;
    FM_TRY(fm_fs_kv_put(tx, BYTES("a"), BYTES("1")));
    FM_TRY(fm_fs_kv_put(tx, BYTES("b"), BYTES("2")));
    FM_TRY(fm_fs_kv_delete(tx, BYTES("c")));
    return fm_fs_kv_range(tx, BYTES(""), BYTES(""), 4, 0, items, &count);
}

static fm_status whole_life(void *context)
{
    fm_fs_kv *kv = NULL;
    FM_TRY(fm_fs_kv_open(context, NULL, &kv));
    fm_status status = fm_fs_kv_run(kv, 0, write_and_read, NULL);
    if (status == FM_OK)
        status = fm_fs_kv_run(kv, 0, write_and_read, NULL);
    fm_fs_kv_close(kv);
    return status;
}

static void it_survives_a_lack_of_memory(void **state)
{
    (void)state;
    char spec[] = "memory:";
    fm_test_each_alloc_fails(whole_life, spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_come_from_the_seed_alone), cmocka_unit_test(a_lost_answer_has_both_outcomes),
        cmocka_unit_test(what_never_ends_is_given_up),     cmocka_unit_test(each_request_counts_once),
        cmocka_unit_test(it_survives_a_lack_of_memory),
    };
    kv_engine = "memory";
    return fm_test_run("kv_memory", tests);
}
