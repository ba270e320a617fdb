// How a chain's members change state: the transition table's cases, and what must hold for every chain and every report.
#include "cluster.h"
#include "fm_gen.h"
#include "fm_test.h"

static fm_fs_chain chain_of(const char *states)
{
    static const char letters[] = "SLYWO";
    fm_fs_chain chain = {.id = 1, .version = 7, .count = (uint32_t)strlen(states)};
    for (uint32_t i = 0; i < chain.count; i++)
        chain.members[i] =
            (fm_fs_member){i + 1, i + 1, (uint8_t)(1 << (strchr(letters, states[i]) - letters))};
    return chain;
}

// `before` and `after`: S serving, L last-serving, Y syncing, W waiting, O offline, in order. `heard`: u up to date, o
// online, d down, - nothing. `order`: the targets afterwards.
static void step(const char *before, const char *heard, const char *after, const char *order)
{
    static const char *const letters = "SLYWO";
    uint8_t local[FM_FS_REPLICAS_MAX] = {0};
    fm_fs_chain chain = chain_of(before);
    fm_fs_chain next;
    for (uint32_t i = 0; i < chain.count; i++)
        local[i] = heard[i] == 'u'   ? FM_FS_UPTODATE
                   : heard[i] == 'o' ? FM_FS_ONLINE
                   : heard[i] == 'd' ? FM_FS_DOWN
                                     : FM_FS_UNKNOWN;
    int changed = fm_fs_chain_next(&chain, local, &next);
    assert_int_equal(changed, strcmp(before, after) != 0 || strcmp(order, "1234") > 0);
    assert_int_equal(next.version, chain.version + (uint32_t)changed);
    for (uint32_t i = 0; i < chain.count; i++) {
        char state = letters[__builtin_ctz(next.members[i].state)];
        if (state != after[i] || next.members[i].target != (uint32_t)(order[i] - '0'))
            fail_msg("%s, %s: member %u is target %u in state %c", before, heard, i, next.members[i].target,
                     state);
    }
}

static void known_steps(void **state)
{
    (void)state;
    step("SSS", "uuu", "SSS", "123");
    step("SSS", "---", "SSS", "123"); // nothing is known: nothing changes
    step("SSS", "uud", "SSO", "123");
    step("SSS", "duu", "SSO", "231"); // the head goes, the next one is the head
    step("SSS", "ddd", "LLL", "123"); // all are complete
    step("SOO", "doo", "LWW", "123");
    step("LOO", "doo", "LWW", "123"); // only the complete one may restart
    step("LLL", "dod", "SOO", "213"); // any of the complete ones may; the others are filled anew
    step("LLL", "-o-", "SOO", "213");
    step("LWW", "ooo", "SYW", "123");
    step("SYW", "uuo", "SSY", "123"); // the next one, one at a time
    step("SYW", "uoo", "SYW", "123");
    step("SYW", "udo", "SYO", "132");
    step("SYW", "doo", "LWW", "123");
    step("SOO", "uoo", "SYW", "123");
    step("SSO", "uuo", "SSY", "123");
    step("SSY", "uud", "SSO", "123");
}

static void any_step(fm_gen *gen)
{
    fm_fs_chain chain = {.id = 1, .version = 3, .count = (uint32_t)fm_gen_int(gen, 1, FM_FS_REPLICAS_MAX)};
    uint8_t local[FM_FS_REPLICAS_MAX];
    int syncing = 0;
    int serving = 0;
    for (uint32_t i = 0; i < chain.count; i++) {
        int state = 1 << fm_gen_int(gen, 0, 4);
        if (state == FM_FS_SYNCING && syncing++)
            state = FM_FS_WAITING;
        serving += state == FM_FS_SERVING;
        chain.members[i] = (fm_fs_member){100 + i, i, (uint8_t)state};
        local[i] = (uint8_t)(1 << fm_gen_int(gen, 0, 3)) % 8;
    }
    for (uint32_t i = 0; i < chain.count; i++)
        if (serving && chain.members[i].state == FM_FS_LASTSRV)
            chain.members[i].state = FM_FS_OFFLINE; // the two never stand beside each other
    fm_fs_chain next;
    fm_fs_chain_next(&chain, local, &next);
    int seen = 0;
    serving = syncing = 0;
    int last = 0;
    assert_int_equal(next.count, chain.count);
    for (uint32_t i = 0; i < next.count; i++) {
        const fm_fs_member *member = &next.members[i];
        uint32_t was = member->target - 100;
        seen |= 1 << was;
        serving += member->state == FM_FS_SERVING;
        syncing += member->state == FM_FS_SYNCING;
        last += member->state == FM_FS_LASTSRV;
        int old = chain.members[was].state;
        // Who is made to serve was complete: it served, was the last to, or was filled.
        if (member->state == FM_FS_SERVING)
            assert_true(old == FM_FS_SERVING || old == FM_FS_LASTSRV ||
                        (old == FM_FS_SYNCING && local[was] == FM_FS_UPTODATE));
        if (member->state == FM_FS_LASTSRV)
            assert_true(old == FM_FS_SERVING || old == FM_FS_LASTSRV);
        if (i > 0)
            assert_true(next.members[i - 1].state <= member->state);
    }
    assert_int_equal(seen, (1 << chain.count) - 1);
    assert_true(syncing <= 1);
    assert_true(!syncing || serving);
    assert_true(!last || !serving);
    // What is complete is never forgotten while nobody serves.
    int complete = 0;
    for (uint32_t i = 0; i < chain.count; i++)
        complete += chain.members[i].state <= FM_FS_LASTSRV;
    if (complete)
        assert_true(serving || last);
}

static void what_always_holds(void **state)
{
    (void)state;
    fm_gen_property(3000, any_step);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(known_steps), cmocka_unit_test(what_always_holds)};
    return fm_test_run("chain_state", tests);
}
