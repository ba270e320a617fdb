#include "fathom/ep.h"
#include "fm_test.h"

static void it_counts_tokens_once_per_rank_and_node(void **state)
{
    (void)state;
    // 8 experts on 4 ranks on 2 nodes.
    const int32_t idx[4][3] = {{0, 1, 2}, {7, -1, 0}, {-1, -1, -1}, {4, 6, 5}};
    int32_t ranks[4], nodes[2], experts[8];
    uint8_t in_rank[4][4];
    assert_ok(fm_ep_layout(&idx[0][0], 4, 3, 8, 4, 2, ranks, nodes, experts, &in_rank[0][0]));
    const int32_t want_ranks[4] = {2, 1, 1, 2}, want_nodes[2] = {2, 2},
                  want_experts[8] = {2, 1, 1, 0, 1, 1, 1, 1};
    const uint8_t want_in[4][4] = {{1, 1, 0, 0}, {1, 0, 0, 1}, {0, 0, 0, 0}, {0, 0, 1, 1}};
    assert_memory_equal(ranks, want_ranks, sizeof ranks);
    assert_memory_equal(nodes, want_nodes, sizeof nodes);
    assert_memory_equal(experts, want_experts, sizeof experts);
    assert_memory_equal(in_rank, want_in, sizeof in_rank);
    assert_ok(fm_ep_layout(NULL, 0, 3, 8, 4, 0, ranks, nodes, NULL, NULL));
    assert_int_equal(ranks[0], 0);
}

static void it_names_what_is_wrong(void **state)
{
    (void)state;
    const int32_t high[2][2] = {{0, 1}, {2, 8}}, low[1][2] = {{-2, 0}}, twice[1][2] = {{3, 3}};
    assert_fails(fm_ep_layout(&high[0][0], 2, 2, 8, 4, 0, NULL, NULL, NULL, NULL), FM_ERR_ARG,
                 "token 1, lane 1 is 8");
    assert_fails(fm_ep_layout(&low[0][0], 1, 2, 8, 4, 0, NULL, NULL, NULL, NULL), FM_ERR_ARG,
                 "token 0, lane 0 is -2");
    assert_fails(fm_ep_layout(&twice[0][0], 1, 2, 8, 4, 0, NULL, NULL, NULL, NULL), FM_ERR_ARG,
                 "chooses expert 3");
    assert_fails(fm_ep_layout(&low[0][0], 1, 2, 9, 4, 0, NULL, NULL, NULL, NULL), FM_ERR_ARG, "multiple");
    assert_fails(fm_ep_layout(NULL, 1, 2, 8, 4, 0, NULL, NULL, NULL, NULL), FM_ERR_ARG, "NULL");
    assert_fails(fm_ep_layout(&low[0][0], 1, 33, 8, 4, 0, NULL, NULL, NULL, NULL), FM_ERR_ARG, "topk 33");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_counts_tokens_once_per_rank_and_node),
        cmocka_unit_test(it_names_what_is_wrong),
    };
    return fm_test_run("ep_layout", tests);
}
