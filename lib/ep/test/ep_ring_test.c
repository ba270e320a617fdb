// Messages between neighbours.
#include "ep_team.h"
#include "fathom/clock.h"
#include "fm_gen.h"
#include "fm_test.h"

enum { BYTES_MAX = 200, MESSAGES = 500 };

struct tag {
    int from, number;
};

/** What message `number` from a rank is: both ends compute it. */
static size_t content(int from, int to, int number, char *out)
{
    fm_gen gen = fm_gen_seeded((uint64_t)(from * 100 + to) * 100000 + (uint64_t)number);
    size_t bytes = (size_t)fm_gen_size(&gen, 0, BYTES_MAX - (int64_t)sizeof(struct tag));
    fm_gen_fill(&gen, out, bytes);
    return bytes;
}

static fm_status take(fm_ep_group *group, int peer, int number)
{
    struct tag tag = {0};
    char payload[BYTES_MAX], want[BYTES_MAX];
    size_t bytes = 0, expected = content(peer, fm_ep_group_rank(group), number, want);
    FM_TRY(fm_ep_ring_receive(group, peer, &tag, sizeof tag, payload, sizeof payload, &bytes));
    if (tag.from != peer || tag.number != number || bytes != expected || memcmp(payload, want, bytes) != 0)
        return fm_base_error_set(FM_ERR_INTERNAL, "message %d of %d: got %d of %d", number, peer, tag.number,
                                 tag.from);
    return FM_OK;
}

static fm_status give(fm_ep_group *group, int peer, int number)
{
    struct tag tag = {fm_ep_group_rank(group), number};
    char payload[BYTES_MAX];
    size_t bytes = content(tag.from, peer, number, payload);
    return fm_ep_ring_send(group, peer, &tag, sizeof tag, payload, bytes);
}

static fm_status exchange(fm_ep_group *group, void *context)
{
    (void)context;
    int rank = fm_ep_group_rank(group), ranks = fm_ep_group_ranks(group);
    int peers[2] = {(rank + 1) % ranks, (rank + ranks - 1) % ranks}, count = ranks == 2 ? 1 : 2;
    int sent[2] = {0}, taken[2] = {0};
    fm_wait wait = fm_base_wait_begin(20000);
    for (int left = 2 * count * MESSAGES; left > 0;) {
        int moved = 0;
        for (int p = 0; p < count; p++) {
            fm_status status = sent[p] < MESSAGES ? give(group, peers[p], sent[p]) : FM_ERR_BUSY;
            if (status != FM_OK && status != FM_ERR_BUSY)
                return status;
            sent[p] += status == FM_OK;
            moved += status == FM_OK;
            status = taken[p] < MESSAGES ? take(group, peers[p], taken[p]) : FM_ERR_BUSY;
            if (status != FM_OK && status != FM_ERR_BUSY)
                return status;
            taken[p] += status == FM_OK;
            moved += status == FM_OK;
        }
        left -= moved;
        if (moved > 0)
            wait = fm_base_wait_begin(20000);
        else
            FM_TRY(fm_base_wait_step(&wait));
    }
    return FM_OK;
}

static void messages_arrive_whole_and_in_order(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 4; ranks++)
        for (int depth = 1; depth <= 3; depth += 2) {
            fm_ep_options options = ep_team_options(8, ranks, 1, 0);
            options.ring_bytes_max = BYTES_MAX;
            options.ring_depth = depth;
            ep_team_run(ranks, &options, exchange, NULL, NULL);
        }
}

static fm_status misuse(fm_ep_group *group, void *context)
{
    fm_status *found = context;
    if (fm_ep_group_rank(group) != 0)
        return fm_ep_barrier(group);
    char tag[4] = "abc", payload[BYTES_MAX] = {0};
    size_t bytes = 99;
    found[0] = fm_ep_ring_send(group, 2, tag, 4, payload, 1);
    found[1] = fm_ep_ring_send(group, 1, tag, 4, payload, BYTES_MAX - 3);
    found[2] = fm_ep_ring_receive(group, 1, tag, 4, payload, sizeof payload, &bytes);
    found[3] = bytes == 99 ? FM_OK : FM_ERR_INTERNAL;
    return fm_ep_barrier(group);
}

static void misuse_is_refused(void **state)
{
    (void)state;
    fm_ep_options options = ep_team_options(8, 4, 1, 0);
    options.ring_bytes_max = BYTES_MAX;
    fm_status found[4] = {0};
    ep_team_run(4, &options, misuse, found, NULL);
    assert_int_equal(found[0], FM_ERR_ARG);
    assert_int_equal(found[1], FM_ERR_ARG);
    assert_int_equal(found[2], FM_ERR_BUSY);
    assert_int_equal(found[3], FM_OK);
}

static fm_status too_small(fm_ep_group *group, void *context)
{
    (void)context;
    char tag[4] = "abc", out_tag[4] = "", payload[8] = "payload", out[8];
    size_t bytes = 0;
    FM_TRY(fm_ep_ring_send(group, 0, tag, 4, payload, 8));
    if (fm_ep_ring_receive(group, 0, out_tag, 3, out, 8, &bytes) != FM_ERR_STATE ||
        fm_ep_ring_receive(group, 0, out_tag, 4, out, 7, &bytes) != FM_ERR_LIMIT ||
        strcmp(out_tag, "abc") != 0 || fm_ep_ring_receive(group, 0, out_tag, 4, out, 8, &bytes) != FM_OK ||
        bytes != 8 || memcmp(out, payload, 8) != 0)
        return fm_base_error_set(FM_ERR_INTERNAL, "the message did not stay");
    return FM_OK;
}

static void a_message_that_does_not_fit_stays(void **state)
{
    (void)state;
    fm_ep_options options = ep_team_options(8, 1, 1, 0);
    options.ring_bytes_max = BYTES_MAX;
    ep_team_run(1, &options, too_small, NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive_whole_and_in_order),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(a_message_that_does_not_fit_stays),
    };
    return fm_test_run("ep_ring", tests);
}
