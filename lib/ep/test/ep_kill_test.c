// Processes that are killed or stopped in the middle of the protocol: the others get an error within the timeout that names
// them, mask them, and go on. Run under mpirun with the number of ranks per node and "kill", "rail", "stop" or "join" as arguments;
// says "rank N survived".
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ep_team.h"
#include "fathom/clock.h"
#include "fathom/mem.h"
#include "fm_test.h"

enum { HIDDEN = 40, TOPK = 3, TOKENS = 9, RANKS_MAX = 8, LOCAL = 2, TIMEOUT_MS = 400 };

/** Where a victim ends. */
typedef enum place {
    BEFORE_DISPATCH,
    DISPATCH_POSTED,
    ROWS_NOT_RELEASED,
    BEFORE_COMBINE,
    COMBINE_POSTED,
    BEFORE_COLLECTIVE,
    POINTS,
    NOWHERE = -1,
} place;

static fm_ep_world *world;
static fm_ep_group *group;
static fm_ep_handle *handle;
static int rank, ranks, patience_max = 20;
static int has_passed; // this rank was the victim and reached its point
static fm_bf16 x[TOKENS][HIDDEN], out[TOKENS][HIDDEN], *rows;
static int32_t idx[TOKENS][TOPK];

/** Ends or stops this process if this is its point. */
static void pass(place here, place end, int signal_number)
{
    if (here != end)
        return;
    has_passed = 1;
    raise(signal_number);
}

/** Waits until `victim` (-1: nobody) is masked or all is well. Others may be late because they wait for it, too. */
static fm_status wait_or_mask(fm_ep_op *op, int victim, fm_status (*wait)(fm_ep_op *op))
{
    fm_status status;
    int patience = has_passed ? 0 : patience_max; // one that was stopped has been masked: nothing will come
    for (; (status = wait(op)) == FM_ERR_TIMEOUT && patience > 0; patience--)
        if (fm_ep_group_late_peer(group) == victim)
            FM_TRY(fm_ep_group_mask(group, victim, 1));
    return status;
}

static fm_status play_to_the_end(int victim, place end, int signal_number)
{
    fm_ep_dispatch dispatch = {.size = sizeof dispatch,
                               .is_pull = 1,
                               .tokens = TOKENS,
                               .topk = TOPK,
                               .topk_idx = &idx[0][0],
                               .x = x};
    fm_ep_op *op;
    end = rank == victim ? end : NOWHERE;
    pass(BEFORE_DISPATCH, end, signal_number);
    FM_TRY(fm_ep_dispatch_post(group, &dispatch, handle, &op));
    pass(DISPATCH_POSTED, end, signal_number);
    FM_TRY(wait_or_mask(op, victim, fm_ep_op_arrive));
    const fm_ep_received *received = fm_ep_handle_received(handle);
    for (int r = 0; r < received->rows; r++)
        memcpy(rows + (size_t)r * HIDDEN, received->row_at[r], sizeof x[0]);
    pass(ROWS_NOT_RELEASED, end, signal_number);
    FM_TRY(wait_or_mask(op, victim, fm_ep_op_wait));
    fm_ep_combine combine = {.size = sizeof combine, .x = rows, .out = &out[0][0]};
    pass(BEFORE_COMBINE, end, signal_number);
    FM_TRY(fm_ep_combine_post(group, &combine, handle, &op));
    pass(COMBINE_POSTED, end, signal_number);
    FM_TRY(wait_or_mask(op, victim, fm_ep_op_wait));
    pass(BEFORE_COLLECTIVE, end, signal_number);
    FM_TRY(fm_ep_barrier_post(group, &op));
    return wait_or_mask(op, victim, fm_ep_op_wait);
}

/** One round, in which `victim` comes to its end (-1: nobody does); the others go on without it. */
static fm_status play(int victim, place end, int signal_number)
{
    has_passed = 0;
    fm_status status = play_to_the_end(victim, end, signal_number);
    if (rank == victim && !has_passed) // so slow that the others missed it before its point
        raise(signal_number);
    return status;
}

/** Experts that do nothing: a token comes back once for each choice whose expert is still there. */
static void check_outputs(void)
{
    for (int t = 0; t < TOKENS; t++) {
        int choices = 0;
        for (int k = 0; k < TOPK; k++)
            choices += !fm_ep_group_is_masked(group, idx[t][k] / LOCAL);
        assert_true(fm_bf16_to_f32(out[t][3]) == (float)choices * fm_bf16_to_f32(x[t][3]));
    }
}

/** One rank after the other is killed, each at another point. */
static void those_left_go_on(void **state)
{
    (void)state;
    for (int victim = ranks - 1, at = 0; victim >= 2 && at < POINTS; victim--, at++) {
        assert_ok(play(victim, (place)at, SIGKILL));
        assert_true(fm_ep_group_is_masked(group, victim));
    }
}

/** Where a dead rank had received for its node, others lose those whom it received from. All get an error in time. */
static void nobody_hangs(void **state)
{
    (void)state;
    int victim = 1;
    patience_max = 2;
    fm_status status = play(victim, DISPATCH_POSTED, SIGKILL);
    assert_true(status == FM_OK || status == FM_ERR_UNAVAILABLE || status == FM_ERR_TIMEOUT);
    assert_true(fm_ep_group_late_peer(group) >= 0);
}

/** The last two of them are left, and agree. */
static void a_round_without_the_dead_is_right(void **state)
{
    (void)state;
    if (rank >= 2)
        return;
    assert_ok(play(-1, NOWHERE, 0));
    check_outputs();
}

/** A counter that all ranks share beside the group, which is what is tested. mpirun is the parent of them all. */
static atomic_int *counter_open(char *name, size_t name_size)
{
    snprintf(name, name_size, "/fathom_ep_kill_%d", (int)getppid());
    int file = shm_open(name, O_CREAT | O_RDWR, 0600);
    assert_true(file >= 0);
    assert_int_equal(ftruncate(file, sizeof(atomic_int)), 0);
    atomic_int *counter = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    assert_true(counter != MAP_FAILED);
    close(file);
    return counter;
}

static int is_stopped(pid_t pid)
{
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    int fields = fscanf(file, "%*d %*s %c", &state); // NOLINT(cert-err34-c): a single character
    fclose(file);
    return fields == 1 && state == 'T';
}

/** A stopped process is missed like a dead one; continued, it finds out, and all rejoin. */
static void a_stopped_rank_comes_back(void **state)
{
    (void)state;
    pid_t pids[RANKS_MAX] = {0}, mine = getpid();
    char counter_name[64];
    atomic_int *missed = counter_open(counter_name, sizeof counter_name);
    for (int at = 0; at < POINTS; at++) {
        int victim = 1 + at % (ranks - 1);
        fm_ep_group_set_timeout(group, 20000);
        assert_ok(fm_ep_all_gather(group, &mine, sizeof mine, pids));
        if (rank == 0 && at == 0)
            shm_unlink(counter_name); // all have opened it
        fm_ep_group_set_timeout(group, TIMEOUT_MS);
        fm_status status = play(victim, (place)at, SIGSTOP);
        if (rank != victim) {
            assert_ok(status);
            assert_true(fm_ep_group_is_masked(group, victim));
            atomic_fetch_add(missed, 1);
        }
        if (rank == 0) { // continued earlier, it might answer one who has not missed it yet
            while (atomic_load(missed) < (at + 1) * (ranks - 1) || !is_stopped(pids[victim]))
                usleep(1000);
            kill(pids[victim], SIGCONT);
        }
        fm_ep_group_set_timeout(group, 20000);
        assert_ok(fm_ep_group_rejoin(group));
        assert_ok(play(-1, NOWHERE, 0));
        check_outputs();
    }
    munmap(missed, sizeof *missed);
}

/** One rank dies before it joins: the others learn it in time. */
static void joining_has_a_timeout(void **state)
{
    (void)state;
    fm_ep_options options = ep_team_options(HIDDEN, LOCAL * ranks, TOPK, TOKENS);
    options.timeout_ms = TIMEOUT_MS;
    if (rank == 1)
        raise(SIGKILL);
    assert_fails(fm_ep_group_create(world, rank, &options, &group), FM_ERR_TIMEOUT, "joining");
}

static void join(int per_node)
{
    fm_ep_options options = ep_team_options(HIDDEN, LOCAL * ranks, TOPK, TOKENS);
    options.ranks_per_node = per_node;
    options.timeout_ms = TIMEOUT_MS;
    options.collective_bytes_max = RANKS_MAX * sizeof(pid_t);
    assert_ok(fm_ep_group_create(world, rank, &options, &group));
    assert_ok(fm_ep_handle_create(group, FM_EP_PLAIN, 1, &handle));
    rows = fm_base_mem_zalloc((size_t)fm_ep_handle_rows_max(handle), sizeof x[0]);
    assert_non_null(rows);
    for (int t = 0; t < TOKENS; t++) {
        for (int k = 0; k < TOPK; k++) // each on another rank, as PLAIN combine adds a rank's rows once
            idx[t][k] = (rank + t + k) % ranks * LOCAL + t % LOCAL;
        for (int i = 0; i < HIDDEN; i++)
            x[t][i] = fm_f32_to_bf16((float)(rank + t + i));
    }
}

int main(int count, char **arguments)
{
    const char *mode = count > 2 ? arguments[2] : "";
    const struct CMUnitTest kill_tests[] = {
        cmocka_unit_test(those_left_go_on),
        cmocka_unit_test(a_round_without_the_dead_is_right),
    };
    const struct CMUnitTest join_tests[] = {cmocka_unit_test(joining_has_a_timeout)};
    const struct CMUnitTest rail_tests[] = {cmocka_unit_test(nobody_hangs)};
    const struct CMUnitTest stop_tests[] = {cmocka_unit_test(a_stopped_rank_comes_back)};
    assert_ok(fm_ep_world_open_mpi(&world, &rank));
    ranks = fm_ep_world_ranks(world);
    int joins = strcmp(mode, "join") == 0;
    if (!joins)
        join(count > 1 ? atoi(arguments[1]) : 0); // NOLINT(cert-err34-c): CMakeLists.txt wrote it
    int failed = joins                       ? fm_test_run("ep_kill", join_tests)
                 : strcmp(mode, "kill") == 0 ? fm_test_run("ep_kill", kill_tests)
                 : strcmp(mode, "rail") == 0 ? fm_test_run("ep_kill", rail_tests)
                                             : fm_test_run("ep_kill", stop_tests);
    fm_base_mem_free(rows);
    fm_ep_handle_free(handle);
    fm_ep_group_free(group);
    fm_ep_world_free(world);
    if (failed == 0)
        printf("rank %d survived\n", rank);
    return failed;
}
