#include "ep_team.h"

#include <pthread.h>

#include "fm_test.h"

enum { TEAM_MAX = 16 };

struct rank_thread {
    fm_ep_world *world;
    const fm_ep_options *options;
    ep_member member;
    void *context;
    int rank;
    ep_outcome outcome;
};

static void *live(void *argument)
{
    struct rank_thread *self = argument;
    fm_ep_group *group = NULL;
    fm_status status = fm_ep_group_create(self->world, self->rank, self->options, &group);
    if (status == FM_OK && self->member)
        status = self->member(group, self->context);
    self->outcome.status = status;
    if (status < 0)
        snprintf(self->outcome.message, sizeof self->outcome.message, "%s", fm_error_message());
    fm_ep_group_free(group);
    return NULL;
}

static void run(int ranks, const fm_ep_options *options, int step, ep_member member, void *context,
                ep_outcome *out_outcomes)
{
    struct rank_thread threads[TEAM_MAX];
    pthread_t ids[TEAM_MAX];
    fm_ep_world *world = NULL;
    assert_in_range(ranks, 1, TEAM_MAX);
    assert_ok(fm_ep_world_create(ranks, &world));
    for (int r = 0; r < ranks; r++) {
        threads[r] = (struct rank_thread){world, options + (size_t)(step * r), member, context, r, {0}};
        assert_int_equal(pthread_create(&ids[r], NULL, live, &threads[r]), 0);
    }
    for (int r = 0; r < ranks; r++)
        pthread_join(ids[r], NULL);
    fm_ep_world_free(world);
    int failed = 0;
    for (int r = 0; r < ranks; r++) {
        if (out_outcomes)
            out_outcomes[r] = threads[r].outcome;
        else if (threads[r].outcome.status < 0)
            print_message("rank %d: %s: %s\n", r, fm_base_status_name(threads[r].outcome.status),
                          threads[r].outcome.message);
        failed += !out_outcomes && threads[r].outcome.status < 0;
    }
    if (failed > 0)
        fail_msg("%d of %d ranks failed", failed, ranks);
}

fm_ep_options ep_team_options(int hidden, int experts, int topk, int tokens)
{
    return (fm_ep_options){.size = sizeof(fm_ep_options),
                           .hidden = hidden,
                           .experts = experts,
                           .topk_max = topk,
                           .tokens_max = tokens,
                           .timeout_ms = 20000};
}

void ep_team_run(int ranks, const fm_ep_options *options, ep_member member, void *context,
                 ep_outcome *out_outcomes)
{
    run(ranks, options, 0, member, context, out_outcomes);
}

void ep_team_run_each(int ranks, const fm_ep_options *options, ep_member member, void *context,
                      ep_outcome *out_outcomes)
{
    run(ranks, options, 1, member, context, out_outcomes);
}
