// Barrier, all-gather, reduce-scatter.
#include "ep_team.h"
#include "fm_test.h"

enum { COUNT = 37 };

static fm_status collect(fm_ep_group *group, void *context)
{
    (void)context;
    int rank = fm_ep_group_rank(group), ranks = fm_ep_group_ranks(group);
    float from[COUNT], all[8 * COUNT], out[COUNT];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < COUNT; i++)
            from[i] = (float)(1000 * rank + i + round);
        FM_TRY(fm_ep_all_gather(group, from, sizeof from, all));
        for (int r = 0; r < ranks; r++)
            for (int i = 0; i < COUNT; i++)
                if (all[r * COUNT + i] != (float)(1000 * r + i + round))
                    return fm_base_error_set(FM_ERR_INTERNAL, "gathered %d of %d: %f", i, r,
                                             (double)all[r * COUNT + i]);
        FM_TRY(fm_ep_barrier(group));
        for (int i = 0; i < ranks * COUNT; i++)
            all[i] = (float)(rank + i * round);
        FM_TRY(fm_ep_reduce_scatter(group, all, COUNT, out));
        for (int i = 0; i < COUNT; i++) {
            float want = 0;
            for (int r = 0; r < ranks; r++)
                want += (float)(r + (rank * COUNT + i) * round);
            if (out[i] != want)
                return fm_base_error_set(FM_ERR_INTERNAL, "sum %d: %f, expected %f", i, (double)out[i],
                                         (double)want);
        }
    }
    FM_TRY(fm_ep_all_gather(group, NULL, 0, NULL));
    fm_status status = fm_ep_all_gather(group, from, 8 * COUNT * sizeof(float) + 1, all);
    return status == FM_ERR_ARG ? FM_OK : fm_base_error_set(FM_ERR_INTERNAL, "too much was gathered");
}

static void all_ranks_get_all_parts_and_all_sums(void **state)
{
    (void)state;
    static const int shapes[][2] = {{1, 0}, {2, 0}, {3, 2}, {4, 2}, {8, 3}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        fm_ep_options options = ep_team_options(8, shapes[s][0], 1, 0);
        options.ranks_per_node = shapes[s][1];
        options.collective_bytes_max = 8 * COUNT * sizeof(float);
        ep_team_run(shapes[s][0], &options, collect, NULL, NULL);
    }
}

static fm_status disagree(fm_ep_group *group, void *context)
{
    (void)context;
    char from[16] = {0}, all[3 * 16];
    return fm_ep_all_gather(group, from, fm_ep_group_rank(group) == 1 ? 8 : 16, all);
}

static void sizes_that_differ_are_an_error_on_all_who_see_it(void **state)
{
    (void)state;
    fm_ep_options options = ep_team_options(8, 3, 1, 0);
    options.collective_bytes_max = 16;
    ep_outcome outcomes[3];
    ep_team_run(3, &options, disagree, NULL, outcomes);
    for (int r = 0; r < 3; r++)
        assert_int_equal(outcomes[r].status, FM_ERR_STATE);
    assert_non_null(
        strstr(outcomes[0].message, "all-gather, epoch 1: rank 1 posted it with other arguments"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_ranks_get_all_parts_and_all_sums),
        cmocka_unit_test(sizes_that_differ_are_an_error_on_all_who_see_it),
    };
    return fm_test_run("ep_collective", tests);
}
