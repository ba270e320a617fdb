// A manager alone, with a clock, nodes and a store that the test holds in its hand.
#include "manager.h"
#include "fm_test.h"

static const int64_t ms = 1000000;
enum { NODES = 3, FIRST_NODE = 11, BEAT_MS = 100, STEP_MS = 20, TIMEOUT_MS = 1000 };

struct bench {
    fm_fs_runtime runtime; // first: the manager's runtime is the bench
    fm_fs_kv *kv;
    fm_fs_manager *manager;
    int64_t now;
    fm_fs_timer *timer; // that is set; a manager has one
    int64_t due;
    fm_fs_kv_job *job;    // not run yet
    int stalled;          // the store does not answer
    unsigned silent;      // bits of nodes that send nothing
    fm_status answer;     // to the last heartbeat
    unsigned turned_away; // heartbeats
};

static struct bench *bench_of(fm_fs_runtime *runtime)
{
    return (struct bench *)runtime;
}

static int64_t now_ns(fm_fs_runtime *runtime)
{
    return bench_of(runtime)->now;
}

static void timer_start(fm_fs_runtime *runtime, fm_fs_timer *timer, int64_t delay)
{
    bench_of(runtime)->timer = timer;
    bench_of(runtime)->due = bench_of(runtime)->now + delay;
}

static void timer_stop(fm_fs_runtime *runtime, fm_fs_timer *timer)
{
    if (bench_of(runtime)->timer == timer)
        bench_of(runtime)->timer = NULL;
}

static void reply(fm_fs_runtime *runtime, fm_fs_request *request, fm_status status, const void *args,
                  size_t args_bytes, fm_fs_buffer *payload)
{
    (void)request;
    (void)args;
    (void)args_bytes;
    (void)payload;
    bench_of(runtime)->answer = status;
}

static void kv_run(fm_fs_runtime *runtime, fm_fs_kv_job *job)
{
    bench_of(runtime)->job = job;
}

static const struct fm_fs_runtime_ops ops = {
    .now_ns = now_ns, .timer_start = timer_start, .timer_stop = timer_stop, .reply = reply, .kv_run = kv_run};

static const fm_fs_chain *chain_of(const struct bench *bench)
{
    const fm_fs_chain *chain = fm_fs_routing_chain(fm_fs_manager_routing(bench->manager), 1);
    assert_non_null(chain);
    return chain;
}

static void beat(struct bench *bench, uint32_t node)
{
    uint8_t args[FM_FS_HEARTBEAT_BYTES_MAX];
    fm_fs_heartbeat heartbeat = {.node = node, .incarnation = 1, .count = 1, .address = "bench"};
    const fm_fs_chain *chain = fm_fs_routing_chain(fm_fs_manager_routing(bench->manager), 1);
    heartbeat.reports[0] = (fm_fs_report){.target = node,
                                          .chain_version = chain ? chain->version : 0,
                                          .local = FM_FS_UPTODATE,
                                          .identity = {1}};
    fm_fs_request request = {.method = FM_FS_HEARTBEAT,
                             .from = node,
                             .args = args,
                             .args_bytes = fm_fs_heartbeat_encode(args, &heartbeat)};
    fm_fs_manager_serve(bench->manager, &request);
    bench->turned_away += bench->answer == FM_ERR_UNAVAILABLE;
}

static void run_for(struct bench *bench, int64_t span)
{
    for (int64_t end = bench->now + span; bench->now < end;) {
        bench->now += STEP_MS * ms;
        for (uint32_t i = 0; bench->now % (BEAT_MS * ms) == 0 && i < NODES; i++)
            if (!(bench->silent >> i & 1))
                beat(bench, FIRST_NODE + i);
        while (bench->job && !bench->stalled) {
            fm_fs_kv_job *job = bench->job;
            bench->job = NULL;
            job->status = fm_fs_kv_run(bench->kv, job->flags, job->closure, job->closure_context);
            job->done(job);
        }
        fm_fs_timer *timer = bench->timer;
        if (timer && bench->now >= bench->due) {
            bench->timer = NULL;
            timer->fire(timer->context);
        }
    }
}

static fm_status write_chain(fm_fs_kv_tx *tx, void *context)
{
    (void)context;
    fm_fs_chain chain = {.id = 1, .version = 1, .count = NODES};
    for (uint32_t i = 0; i < NODES; i++)
        chain.members[i] = (fm_fs_member){FIRST_NODE + i, FIRST_NODE + i, FM_FS_SERVING};
    return fm_fs_manager_put_chain(tx, &chain);
}

static void begin(struct bench *bench)
{
    fm_fs_manager_options options = {
        .lease_ns = 500 * ms, .tick_ns = 40 * ms, .node_timeout_ns = TIMEOUT_MS * ms};
    *bench = (struct bench){.runtime = {.ops = &ops, .node = 1}, .now = 1000 * ms};
    assert_ok(fm_fs_kv_open("memory:", NULL, &bench->kv));
    assert_ok(fm_fs_kv_run(bench->kv, 0, write_chain, NULL));
    assert_ok(fm_fs_manager_new(&bench->runtime, &options, &bench->manager));
    run_for(bench, 2000 * ms);
    assert_true(fm_fs_manager_is_primary(bench->manager));
    assert_int_equal(chain_of(bench)->version, 1);
}

static void end(struct bench *bench)
{
    fm_fs_manager_free(bench->manager);
    fm_fs_kv_close(bench->kv);
}

// Who is silent alone leaves; the others stay.
static void expect_lost(const struct bench *bench, uint32_t target)
{
    const fm_fs_chain *chain = chain_of(bench);
    assert_int_equal(chain->version, 2);
    for (uint32_t i = 0; i < NODES; i++)
        assert_int_equal(chain->members[i].state,
                         chain->members[i].target == target ? FM_FS_OFFLINE : FM_FS_SERVING);
}

static void a_silent_node_leaves_its_chain(void **state)
{
    (void)state;
    struct bench bench;
    begin(&bench);
    bench.silent = 1u << 1;
    run_for(&bench, (TIMEOUT_MS - 2 * BEAT_MS) * ms);
    assert_int_equal(chain_of(&bench)->version, 1);
    run_for(&bench, 4 * BEAT_MS * ms);
    expect_lost(&bench, FIRST_NODE + 1);
    end(&bench);
}

// While the lease has lapsed a manager turns heartbeats away; it must not hold that silence against the nodes.
static void nodes_that_were_turned_away_stay(void **state)
{
    (void)state;
    struct bench bench;
    begin(&bench);
    bench.stalled = 1;
    run_for(&bench, 2 * TIMEOUT_MS * ms);
    assert_false(fm_fs_manager_is_primary(bench.manager));
    assert_true(bench.turned_away > NODES);
    bench.stalled = 0;
    bench.silent = 1u << 2; // lost meanwhile, in truth
    run_for(&bench, (TIMEOUT_MS - 2 * BEAT_MS) * ms);
    assert_true(fm_fs_manager_is_primary(bench.manager));
    assert_int_equal(chain_of(&bench)->version, 1);
    run_for(&bench, 5 * BEAT_MS * ms);
    expect_lost(&bench, FIRST_NODE + 2);
    end(&bench);
}

// With nobody left all are complete, so any of them may restart the chain: none may be seen to leave before another.
static void all_that_stopped_in_a_lapse_are_complete(void **state)
{
    (void)state;
    struct bench bench;
    begin(&bench);
    bench.stalled = 1;
    run_for(&bench, TIMEOUT_MS * ms);
    bench.silent = (1u << NODES) - 1;
    bench.stalled = 0;
    run_for(&bench, 2 * TIMEOUT_MS * ms);
    const fm_fs_chain *chain = chain_of(&bench);
    for (uint32_t i = 0; i < NODES; i++)
        assert_int_equal(chain->members[i].state, FM_FS_LASTSRV);
    end(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_silent_node_leaves_its_chain),
        cmocka_unit_test(nodes_that_were_turned_away_stay),
        cmocka_unit_test(all_that_stopped_in_a_lapse_are_complete),
    };
    return fm_test_run("manager", tests);
}
