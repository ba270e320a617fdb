// What an operator may change, what not, and that asking twice is no failure.
#include "cluster_change.h"
#include "fm_test.h"

static fm_fs_chain chains[2];
static fm_fs_node_info nodes[4];
static fm_fs_routing routing;

// Chain 1 of targets 1, 2, 3 on nodes 101, 102, 103; chain 5 of target 9 on node 104.
static int begin(void **state)
{
    (void)state;
    chains[0] =
        (fm_fs_chain){.id = 1,
                      .version = 7,
                      .count = 3,
                      .members = {{1, 101, FM_FS_SERVING}, {2, 102, FM_FS_SYNCING}, {3, 103, FM_FS_OFFLINE}}};
    chains[1] = (fm_fs_chain){.id = 5, .version = 2, .count = 1, .members = {{9, 104, FM_FS_LASTSRV}}};
    for (uint32_t i = 0; i < 4; i++)
        nodes[i] = (fm_fs_node_info){.id = 101 + i};
    routing =
        (fm_fs_routing){.version = 3, .node_count = 4, .chain_count = 2, .nodes = nodes, .chains = chains};
    return 0;
}

static fm_status plan(fm_fs_change change, fm_fs_plan *out_plan)
{
    return fm_fs_change_plan(&routing, &change, out_plan);
}

static void expect_nothing(fm_fs_change change)
{
    fm_fs_plan made;
    assert_ok(plan(change, &made));
    assert_false(made.has_node || made.node_removed || made.has_chain || made.chain_removed);
}

static fm_fs_change member(uint32_t chain, uint8_t joins, uint32_t target, uint32_t node)
{
    return (fm_fs_change){.kind = FM_FS_CHANGE_MEMBER,
                          .value = joins,
                          .chain = {.id = chain, .count = 1, .members = {{target, node, FM_FS_OFFLINE}}}};
}

static void targets_join_and_leave(void **state)
{
    (void)state;
    fm_fs_plan made;
    assert_ok(plan(member(1, 1, 4, 104), &made));
    assert_true(made.has_chain);
    assert_int_equal(made.old_version, 7);
    assert_int_equal(made.chain.version, 8);
    assert_int_equal(made.chain.count, 4);
    assert_int_equal(made.chain.members[3].target, 4);
    assert_int_equal(made.chain.members[3].state, FM_FS_OFFLINE);
    expect_nothing(member(1, 1, 3, 103));
    assert_fails(plan(member(1, 1, 3, 104), &made), FM_ERR_EXISTS, "on node 103");
    assert_fails(plan(member(1, 1, 9, 104), &made), FM_ERR_EXISTS, "chain 5");
    assert_fails(plan(member(2, 1, 4, 104), &made), FM_ERR_NOT_FOUND, "no chain 2");
    assert_ok(plan(member(1, 0, 2, 0), &made));
    assert_int_equal(made.chain.count, 2);
    assert_int_equal(made.chain.members[1].target, 3);
    expect_nothing(member(1, 0, 44, 0));
    assert_fails(plan(member(1, 0, 1, 0), &made), FM_ERR_STATE, "target 1 is serving");
    assert_fails(plan(member(5, 0, 9, 0), &made), FM_ERR_STATE, "last-serving");
    chains[0].count = FM_FS_REPLICAS_MAX;
    assert_fails(plan(member(1, 1, 4, 104), &made), FM_ERR_LIMIT, "chain 1");
}

static void chains_come_and_go(void **state)
{
    (void)state;
    fm_fs_plan made;
    fm_fs_change change = {
        .kind = FM_FS_CHANGE_CHAIN,
        .chain = {.id = 2, .count = 2, .members = {{4, 101, FM_FS_SERVING}, {5, 102, FM_FS_SERVING}}}};
    assert_ok(plan(change, &made));
    assert_true(made.has_chain);
    assert_int_equal(made.old_version, 0);
    assert_int_equal(made.chain.version, 1);
    change.chain.members[1].target = 4;
    assert_fails(plan(change, &made), FM_ERR_ARG, "twice");
    change.chain.members[1].target = 3;
    assert_fails(plan(change, &made), FM_ERR_EXISTS, "target 3 is in chain 1");
    change.chain.count = 0;
    assert_fails(plan(change, &made), FM_ERR_ARG, "0 targets");
    change.chain = chains[0];
    expect_nothing(change);
    change.chain.count = 2;
    assert_fails(plan(change, &made), FM_ERR_EXISTS, "a chain 1");
    assert_ok(plan((fm_fs_change){.kind = FM_FS_CHANGE_CHAIN_REMOVE, .chain = {.id = 5}}, &made));
    assert_true(made.chain_removed);
    expect_nothing((fm_fs_change){.kind = FM_FS_CHANGE_CHAIN_REMOVE, .chain = {.id = 6}});
}

static void nodes_are_drained_and_forgotten(void **state)
{
    (void)state;
    fm_fs_plan made;
    assert_ok(plan((fm_fs_change){.kind = FM_FS_CHANGE_DRAIN, .value = 1, .node = 102}, &made));
    assert_true(made.has_node && made.node.draining);
    assert_int_equal(made.node.id, 102);
    expect_nothing((fm_fs_change){.kind = FM_FS_CHANGE_DRAIN, .value = 0, .node = 102});
    assert_fails(plan((fm_fs_change){.kind = FM_FS_CHANGE_DRAIN, .value = 1, .node = 7}, &made),
                 FM_ERR_NOT_FOUND, "no node 7");
    assert_fails(plan((fm_fs_change){.kind = FM_FS_CHANGE_NODE_REMOVE, .node = 104}, &made), FM_ERR_STATE,
                 "target 9");
    routing.chain_count = 1;
    assert_ok(plan((fm_fs_change){.kind = FM_FS_CHANGE_NODE_REMOVE, .node = 104}, &made));
    assert_int_equal(made.node_removed, 104);
    expect_nothing((fm_fs_change){.kind = FM_FS_CHANGE_NODE_REMOVE, .node = 105});
}

// The next member restarts the chain, and clients hear that what they saw need not hold.
static void a_rotation_names_its_version(void **state)
{
    (void)state;
    fm_fs_plan made;
    fm_fs_change change = {.kind = FM_FS_CHANGE_ROTATE, .chain = {.id = 1, .version = 7}};
    assert_fails(plan(change, &made), FM_ERR_STATE, "chain 1 does not wait");
    chains[0].members[0].state = FM_FS_LASTSRV;
    chains[0].members[1].state = FM_FS_WAITING;
    assert_ok(plan(change, &made));
    assert_int_equal(made.chain.version, 8);
    assert_int_equal(made.chain.rotations, 1);
    assert_int_equal(made.chain.members[0].target, 2);
    assert_int_equal(made.chain.members[0].state, FM_FS_LASTSRV);
    assert_int_equal(made.chain.members[1].target, 3);
    assert_int_equal(made.chain.members[2].target, 1);
    assert_int_equal(made.chain.members[2].state, FM_FS_OFFLINE);
    change.chain.version = 6; // it is another chain by now
    assert_fails(plan(change, &made), FM_ERR_FS_CONFLICT, "version 7, not 6");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(targets_join_and_leave, begin),
        cmocka_unit_test_setup(chains_come_and_go, begin),
        cmocka_unit_test_setup(nodes_are_drained_and_forgotten, begin),
        cmocka_unit_test_setup(a_rotation_names_its_version, begin),
    };
    return fm_test_run("cluster_change", tests);
}
