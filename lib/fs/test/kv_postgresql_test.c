// What only the PostgreSQL store has: connections that are few, break, or are refused.
#include <stdatomic.h>

#include "fathom/clock.h"
#include "fm_test.h"
#include "kv_fixture.h"
#include "kv_server.h"

enum { CLIENTS = 4, REQUESTS = 150 };

struct crowd {
    fm_fs_kv *kv;
    int requests;
    atomic_int failures;
    atomic_int maybes;
    atomic_int at_work;
};

static void count_often(int index, void *context)
{
    struct crowd *crowd = context;
    int maybes = 0;
    for (int i = 0; i < crowd->requests; i++) {
        fm_status status;
        do // a connection that is cut while it is made is none; nothing was changed then
            status = kv_count_once(crowd->kv, (uint32_t)index, (uint32_t)i, &maybes);
        while (status == FM_ERR_UNAVAILABLE);
        if (status == FM_OK)
            continue;
        fprintf(stderr, "%s\n", fm_error_message());
        atomic_fetch_add(&crowd->failures, 1);
    }
    atomic_fetch_add(&crowd->maybes, maybes);
    atomic_fetch_sub(&crowd->at_work, 1);
}

static void threads_wait_for_a_connection(void **state)
{
    (void)state;
    fm_fs_kv_options options = {.size = sizeof options, .connections = 2};
    struct crowd crowd = {.kv = kv_open_empty(&options), .requests = 10};
    kv_threads(8, count_often, &crowd);
    assert_int_equal(crowd.failures, 0);
    assert_int_equal(kv_counter(crowd.kv), 80);
    fm_fs_kv_close(crowd.kv);
}

// One thread cuts all connections while the others count.
static void count_or_cut(int index, void *context)
{
    struct crowd *crowd = context;
    if (index < CLIENTS) {
        count_often(index, crowd);
        return;
    }
    for (int cuts = 0; atomic_load(&crowd->at_work) > 0 || cuts < 3; cuts++) {
        if (!kv_server_cut())
            atomic_fetch_add(&crowd->failures, 1);
        fm_base_clock_sleep_ns(20000000); // so that there is work between cuts
    }
}

static void cut_connections_count_nothing_twice(void **state)
{
    (void)state;
    struct crowd crowd = {.kv = kv_open_empty(NULL), .requests = REQUESTS, .at_work = CLIENTS};
    kv_threads(CLIENTS + 1, count_or_cut, &crowd);
    assert_int_equal(crowd.failures, 0);
    assert_int_equal(kv_counter(crowd.kv), CLIENTS * REQUESTS);
    assert_int_equal(kv_count(crowd.kv, BYTES(""), BYTES("")), CLIENTS * REQUESTS + 1);
    printf("%d commits of %d had an unknown outcome\n", crowd.maybes, CLIENTS * REQUESTS);
    fm_fs_kv_close(crowd.kv);
}

static void a_stopped_server_is_unavailable(void **state)
{
    (void)state;
    char spec[4096];
    const char *reason;
    int maybes = 0;
    fm_fs_kv *kv = kv_open_empty(NULL);
    snprintf(spec, sizeof spec, "%s", kv_server_start(&reason));
    assert_ok(kv_count_once(kv, 1, 1, &maybes));
    kv_server_stop();
    assert_fails(kv_count_once(kv, 1, 2, &maybes), FM_ERR_UNAVAILABLE, "PostgreSQL");
    fm_fs_kv_close(kv);
    assert_fails(fm_fs_kv_open(spec, NULL, &kv), FM_ERR_UNAVAILABLE, "connecting");
    assert_fails(fm_fs_kv_open("postgresql:no such thing", NULL, &kv), FM_ERR_UNAVAILABLE, "connecting");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_wait_for_a_connection),
        cmocka_unit_test(cut_connections_count_nothing_twice),
        cmocka_unit_test(a_stopped_server_is_unavailable), // the last: it does not come back
    };
    kv_engine = "postgresql";
    return fm_test_run("kv_postgresql", tests);
}
