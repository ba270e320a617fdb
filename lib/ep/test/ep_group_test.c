// Joining and leaving: options, agreement, memory.
#include <pthread.h>

#include "ep_private.h"
#include "ep_team.h"
#include "fm_test.h"

static void all_ranks_learn_of_a_disagreement(void **state)
{
    (void)state;
    fm_ep_options options[4];
    ep_outcome outcomes[4];
    for (int which = 0; which < 4; which++) {
        for (int r = 0; r < 4; r++)
            options[r] = ep_team_options(64, 8, 2, 16);
        if (which == 0)
            options[2].hidden = 128;
        else if (which == 1)
            options[3].experts = 16;
        else if (which == 2)
            options[1].tokens_max = 17;
        else
            options[2].experts = 9;
        static const char *const texts[] = {
            "hidden: rank 0 has 64, rank 2 has 128", "experts: rank 0 has 8, rank 3 has 16",
            "tokens_max: rank 0 has 16, rank 1 has 17", "rank 2 could not join"};
        ep_team_run_each(4, options, NULL, NULL, outcomes);
        for (int r = 0; r < 4; r++) {
            assert_int_equal(outcomes[r].status, FM_ERR_ARG);
            const char *text =
                which == 3 && r == 2 ? "experts is 9; expected a multiple of the 4 ranks" : texts[which];
            assert_non_null(strstr(outcomes[r].message, text));
        }
    }
}

static void a_rank_that_does_not_come_is_named(void **state)
{
    (void)state;
    fm_ep_world *world;
    fm_ep_group *group;
    fm_ep_options options = ep_team_options(8, 2, 1, 4);
    options.timeout_ms = 5;
    assert_ok(fm_ep_world_create(2, &world));
    assert_fails(fm_ep_group_create(world, 0, &options, &group), FM_ERR_TIMEOUT, "rank 1 of 2");
    assert_fails(fm_ep_group_create(world, 0, &options, &group), FM_ERR_EXISTS, "rank 0");
    assert_fails(fm_ep_group_create(world, 2, &options, &group), FM_ERR_ARG, "expected 0 to 1");
    fm_ep_world_free(world);
    assert_fails(fm_ep_world_create(0, &world), FM_ERR_ARG, "ranks is 0");
    assert_fails(fm_ep_world_create(FM_EP_RANKS_MAX + 1, &world), FM_ERR_ARG, "1025");
}

static void options_out_of_range_are_named(void **state)
{
    (void)state;
    size_t bytes = 77;
    const fm_ep_options good = ep_team_options(64, 8, 2, 16);
    assert_ok(fm_ep_size_hint(&good, 4, &bytes));
    assert_true(bytes > 0);
#define BAD(field, bad, text)                                                 \
    do {                                                                      \
        fm_ep_options options = good;                                         \
        options.field = (bad);                                                \
        assert_fails(fm_ep_size_hint(&options, 4, &bytes), FM_ERR_ARG, text); \
    } while (0)
    BAD(size, 3, "size is 3");
    BAD(hidden, 0, "hidden is 0");
    BAD(experts, 10, "multiple of the 4 ranks");
    BAD(topk_max, FM_EP_TOPK_MAX + 1, "topk_max is 33");
    BAD(tokens_max, -1, "tokens_max is -1");
    BAD(in_flight, 17, "in_flight is 17");
    BAD(ranks_per_node, -1, "ranks_per_node is -1");
    fm_ep_options huge = good;
    huge.tokens_max = 1 << 24;
    huge.topk_max = 32;
    huge.experts = 1 << 20;
    assert_fails(fm_ep_size_hint(&huge, 1024, &bytes), FM_ERR_LIMIT, "2^31");
    huge = good;
    huge.ring_bytes_max = SIZE_MAX - 8;
    assert_fails(fm_ep_size_hint(&huge, 4, &bytes), FM_ERR_LIMIT, "overflows");
    huge = good;
    huge.ranks_per_node = 2;
    huge.collective_bytes_max = SIZE_MAX - 8;
    assert_fails(fm_ep_size_hint(&huge, 4, &bytes), FM_ERR_LIMIT, "overflows");
}

static void every_source_outside_has_one_rail_on_a_node(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 12; ranks++)
        for (int per_node = 1; per_node <= ranks; per_node++) {
            fm_ep_options options = ep_team_options(8, ranks, 1, 4);
            options.ranks_per_node = per_node;
            fm_ep_plan plan;
            assert_ok(fm_ep_plan_make(&options, ranks, &plan));
            for (int node = 0; node < plan.nodes; node++) {
                int load[12] = {0};
                for (int source = 0; source < ranks; source++) {
                    int rail = fm_ep_rail(&plan, node, source);
                    assert_in_range(rail, 0, ranks - 1);
                    assert_int_equal(fm_ep_node_of(&plan, rail), node);
                    if (fm_ep_node_of(&plan, source) != node)
                        assert_true(++load[rail] <= plan.mirrors);
                }
            }
        }
}

static fm_status join_alone(void *context)
{
    (void)context;
    fm_ep_world *world;
    fm_ep_group *group;
    fm_ep_handle *handle;
    fm_ep_options options = ep_team_options(64, 8, 2, 16);
    FM_TRY(fm_ep_world_create(1, &world));
    fm_status status = fm_ep_group_create(world, 0, &options, &group);
    if (status == FM_OK) {
        status = fm_ep_handle_create(group, FM_EP_EXPANDED, 4, &handle);
        if (status == FM_OK)
            fm_ep_handle_free(handle);
        fm_ep_group_free(group);
    }
    fm_ep_world_free(world);
    return status;
}

static void memory_may_run_out_anywhere(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(join_alone, NULL);
}

static fm_status make_bad_handles(fm_ep_group *group, void *context)
{
    (void)context;
    fm_ep_handle *handle;
    fm_status status = fm_ep_handle_create(group, FM_EP_EXPANDED, 0, &handle);
    return status == FM_ERR_ARG && fm_ep_handle_create(group, (fm_ep_arrangement)3, 1, &handle) == FM_ERR_ARG
               ? FM_OK
               : FM_ERR_INTERNAL;
}

static void bad_handles_are_refused(void **state)
{
    (void)state;
    fm_ep_options options = ep_team_options(8, 2, 1, 4);
    ep_team_run(1, &options, make_bad_handles, NULL, NULL);
}

static void without_a_plugin_there_is_no_mpi(void **state)
{
    (void)state;
    fm_ep_world *world;
    int rank;
    assert_int_equal(setenv("FM_EP_MPI_PLUGIN", "/nonexistent/plugin.so", 1), 0);
    assert_fails(fm_ep_world_open_mpi(&world, &rank), FM_ERR_UNAVAILABLE, "FM_EP_MPI_PLUGIN");
    assert_int_equal(unsetenv("FM_EP_MPI_PLUGIN"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_ranks_learn_of_a_disagreement),
        cmocka_unit_test(a_rank_that_does_not_come_is_named),
        cmocka_unit_test(options_out_of_range_are_named),
        cmocka_unit_test(every_source_outside_has_one_rail_on_a_node),
        cmocka_unit_test(memory_may_run_out_anywhere),
        cmocka_unit_test(bad_handles_are_refused),
        cmocka_unit_test(without_a_plugin_there_is_no_mpi),
    };
    return fm_test_run("ep_group", tests);
}
