// Ranks that are processes: run under mpirun, with the number of ranks per node (0: all on one) and, if not 60, of rounds as its arguments. Every
// process draws the same inputs and checks its own part.
#include "ep_oracle.h"
#include "fathom/clock.h"
#include "fm_test.h"

enum { HIDDEN = 136, TOPK = 5, TOKENS = 20, COUNT = 33 };

static fm_ep_world *world;
static fm_ep_group *group;
static int rank, ranks, ranks_per_node, rounds = 60;

static void rounds_agree_with_the_oracle(void **state)
{
    (void)state;
    for (int round = 0; round < rounds; round++) {
        fm_gen gen = fm_gen_seeded((uint64_t)round);
        ep_shape shape = {.ranks = ranks,
                          .hidden = HIDDEN,
                          .experts = 8 * ranks,
                          .topk = TOPK,
                          .alignment = 16,
                          .all_to_expert = round % 7 == 0 ? 1 : -1,
                          .masked = 0.1};
        for (int r = 0; r < ranks; r++)
            shape.tokens[r] = r == round % ranks ? TOKENS : (int)fm_gen_int(&gen, 0, TOKENS);
        shape.arrangement = (fm_ep_arrangement)(round % 3);
        shape.recv_format = (fm_ep_format)(round / 3 % 3);
        shape.x_format = round % 2 ? shape.recv_format : FM_EP_BF16;
        shape.weighted = shape.arrangement != FM_EP_PLAIN && round % 4 < 2;
        shape.cached = round % 5 == 0;
        shape.biases = round % 3;
        shape.stride = round % 2;
        shape.pull = round % 4 == 1;
        shape.back = (fm_ep_format)(round / 2 % 4);
        ep_inputs inputs = ep_inputs_draw(&gen, &shape);
        ep_round_check_rank(group, &inputs);
        ep_inputs_free(&inputs);
    }
}

static void collectives_and_ring_reach_everyone(void **state)
{
    (void)state;
    float from[COUNT], all[ORACLE_RANKS_MAX * COUNT], out[COUNT];
    for (int i = 0; i < COUNT; i++)
        from[i] = (float)(100 * rank + i);
    assert_ok(fm_ep_all_gather(group, from, sizeof from, all));
    for (int i = 0; i < ranks * COUNT; i++)
        assert_int_equal((int)all[i], i / COUNT * 100 + i % COUNT);
    assert_ok(fm_ep_reduce_scatter(group, all, COUNT, out));
    for (int i = 0; i < COUNT; i++)
        assert_true(out[i] == (float)ranks * from[i]);

    int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks, tag = rank, from_tag = -1;
    size_t bytes = 0;
    fm_wait wait = fm_base_wait_begin(20000);
    fm_status status;
    assert_ok(fm_ep_ring_send(group, next, &tag, sizeof tag, from, sizeof from));
    while ((status = fm_ep_ring_receive(group, previous, &from_tag, sizeof from_tag, out, sizeof out,
                                        &bytes)) == FM_ERR_BUSY)
        assert_ok(fm_base_wait_step(&wait));
    assert_ok(status);
    assert_int_equal(from_tag, previous);
    assert_int_equal(bytes, sizeof out);
    assert_true(out[1] == (float)(100 * previous + 1));
}

static void a_late_rank_is_named(void **state)
{
    (void)state;
    enum { SHORT_MS = 300 };
    if (ranks == 1)
        return;
    fm_ep_group_set_timeout(group, SHORT_MS);
    if (rank == 0)
        fm_base_clock_sleep_ns(2 * SHORT_MS * 1000000ULL);
    fm_status status = fm_ep_barrier(group);
    // The late one finds what the others posted, but none of them to read what it posts, unless that has left as a message.
    if (rank == 0 && ranks_per_node == 1)
        assert_ok(status);
    else
        assert_int_equal(status, FM_ERR_TIMEOUT);
    // Over messages, whoever does not hear of it directly blames its rail, which waits, too.
    int hears = ranks_per_node == 0;
    if (hears || (rank == 0 && status < 0))
        assert_non_null(strstr(fm_error_message(), hears && rank > 0 ? "rank 0 has not posted" : "has not"));
    fm_ep_group_set_timeout(group, 20000);
    assert_ok(fm_ep_group_rejoin(group));
    assert_ok(fm_ep_barrier(group));
}

/** Experts on one split, a pipeline on the other. */
static void a_world_splits(void **state)
{
    (void)state;
    for (int by_column = 0; by_column < 2; by_column++) {
        fm_ep_world *part;
        fm_ep_group *small;
        int color = by_column ? rank % 2 : rank / 2, part_rank = -1, all[2] = {-1, -1};
        assert_ok(fm_ep_world_split_mpi(world, color, &part, &part_rank));
        assert_int_equal(part_rank, by_column ? rank / 2 : rank % 2);
        fm_ep_options options = ep_team_options(8, 4, 1, 4);
        options.ranks_per_node = by_column;
        options.collective_bytes_max = sizeof all;
        options.ring_bytes_max = 64;
        assert_ok(fm_ep_group_create(part, part_rank, &options, &small));
        assert_ok(fm_ep_all_gather(small, &rank, sizeof rank, all));
        for (int r = 0; r < fm_ep_group_ranks(small); r++)
            assert_int_equal(all[r], by_column ? 2 * r + color : 2 * color + r);
        fm_ep_group_free(small);
        fm_ep_world_free(part);
    }
    fm_ep_world *none;
    int ignored;
    assert_fails(fm_ep_world_split_mpi(world, -1, &none, &ignored), FM_ERR_ARG, "color");
}

/** Options that differ are everybody's error. */
static void all_ranks_learn_of_a_disagreement(void **state)
{
    (void)state;
    fm_ep_world *same;
    fm_ep_group *none;
    int same_rank = -1;
    if (ranks == 1)
        return;
    assert_ok(fm_ep_world_split_mpi(world, 0, &same, &same_rank));
    fm_ep_options options = ep_team_options(rank == 1 ? 16 : 8, ranks, 1, 4);
    assert_fails(fm_ep_group_create(same, same_rank, &options, &none), FM_ERR_ARG,
                 "hidden: rank 0 has 8, rank 1 has 16");
    fm_ep_world_free(same);
}

static int join(void **state)
{
    (void)state;
    assert_ok(fm_ep_world_open_mpi(&world, &rank));
    ranks = fm_ep_world_ranks(world);
    fm_ep_options options = ep_team_options(HIDDEN, 8 * ranks, TOPK, TOKENS);
    options.ranks_per_node = ranks_per_node;
    options.check = 1;
    options.casts_combine = 1;
    options.memory_bytes = 8192; // room for some rows; the others are staged
    options.collective_bytes_max = ORACLE_RANKS_MAX * COUNT * sizeof(float);
    options.ring_bytes_max = 256;
    fm_ep_group *wrong;
    assert_int_equal(fm_ep_group_create(world, (rank + 1) % (ranks + 1) + (ranks == 1), &options, &wrong),
                     FM_ERR_ARG);
    assert_ok(fm_ep_group_create(world, rank, &options, &group));
    return 0;
}

static int leave(void **state)
{
    (void)state;
    fm_ep_group_free(group);
    fm_ep_world_free(world);
    return 0;
}

int main(int count, char **arguments)
{
    ranks_per_node = count > 1 ? atoi(arguments[1]) : 0; // NOLINT(cert-err34-c): CMakeLists.txt wrote it
    rounds = count > 2 ? atoi(arguments[2]) : rounds;    // NOLINT(cert-err34-c): as above
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounds_agree_with_the_oracle),
        cmocka_unit_test(collectives_and_ring_reach_everyone),
        cmocka_unit_test(a_world_splits),
        cmocka_unit_test(all_ranks_learn_of_a_disagreement),
        cmocka_unit_test(a_late_rank_is_named),
    };
    if (join(NULL) != 0)
        return 1;
    int failed = fm_test_run("ep_mpi", tests);
    leave(NULL);
    return failed;
}
