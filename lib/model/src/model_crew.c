/* Ranks that are threads of this process: each call is made by a thread for each rank, all of which end with the call. */
#include "model_rank.h"

#include <pthread.h>
#include <stdio.h>

#include "fathom/span.h"

/** One rank's part of a call. */
struct member {
    pthread_t thread;
    int number;
    struct fm_trainer *rank;
    fm_status (*work)(struct fm_trainer *rank, void *context);
    void *context;
    fm_status status;
    char message[512];
};

static void *live(void *given)
{
    struct member *member = given;
    fm_base_span_set_thread(member->number, "rank");
    member->status = member->work(member->rank, member->context);
    if (member->status < 0)
        snprintf(member->message, sizeof member->message, "%s", fm_base_error_message());
    return NULL;
}

// What went wrong first: who timed out waited for somebody else.
static fm_status judge(const struct member *members, int count)
{
    const struct member *worst = NULL;
    for (int i = 0; i < count; i++)
        if (members[i].status < 0 &&
            (!worst || (worst->status == FM_ERR_TIMEOUT && members[i].status != FM_ERR_TIMEOUT)))
            worst = &members[i];
    if (!worst)
        return FM_OK;
    return fm_base_error_set(worst->status, "%s", worst->message);
}

fm_status fm_model_crew_run(struct fm_model_crew *crew,
                            fm_status (*work)(struct fm_trainer *rank, void *context), void *context)
{
    int count = crew->layout.ranks, started = 0;
    struct member *members = fm_base_mem_zalloc((size_t)count, sizeof *members);
    if (!members)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d ranks", count);
    for (; started < count; started++) {
        members[started].number = started;
        members[started].rank = crew->ranks[started];
        members[started].work = work;
        members[started].context = context;
        if (pthread_create(&members[started].thread, NULL, live, &members[started]) != 0)
            break; // the others will wait for it in vain, and say so
    }
    for (int i = 0; i < started; i++)
        pthread_join(members[i].thread, NULL);
    fm_status status = judge(members, started);
    if (started < count)
        status = fm_base_error_set(FM_ERR_LIMIT, "no thread for rank %d of %d", started, count);
    fm_base_mem_free(members);
    return status;
}

static void free_worlds(struct fm_model_crew *crew)
{
    for (int i = 0; i < FM_MODEL_PARTIES * crew->layout.ranks; i++) {
        fm_ep_world_free(crew->worlds[i]);
        crew->worlds[i] = NULL;
    }
    crew->tokens_max = 0;
}

// The world of each party, made by its first member.
static fm_status make_worlds(struct fm_model_crew *crew)
{
    int ranks = crew->layout.ranks;
    for (int r = 0; r < ranks; r++)
        for (int kind = 0; kind < FM_MODEL_PARTIES; kind++) {
            struct fm_model_party *party = &crew->ranks[r]->rank->parties[kind];
            if (party->seat.ranks < 2)
                continue;
            fm_ep_world **world = &crew->worlds[kind * ranks + party->seat.color];
            if (!*world)
                FM_TRY(fm_ep_world_create(party->seat.ranks, world));
            party->world = *world;
        }
    return FM_OK;
}

fm_status fm_model_crew_fit(struct fm_model_crew *crew, int64_t tokens)
{
    if (tokens <= crew->tokens_max)
        return FM_OK;
    for (int r = 0; r < crew->layout.ranks; r++)
        fm_model_parties_leave(crew->ranks[r]);
    free_worlds(crew);
    FM_TRY(make_worlds(crew));
    crew->tokens_max = tokens;
    return FM_OK;
}

static fm_status open_ranks(struct fm_model_crew *crew, const struct fm_trainer *trainer, int threads)
{
    int ranks = crew->layout.ranks;
    int each = threads / ranks > 0 ? threads / ranks : 1;
    crew->ranks = fm_base_mem_zalloc((size_t)ranks, sizeof(struct fm_trainer *));
    crew->worlds = fm_base_mem_zalloc(FM_MODEL_PARTIES * (size_t)ranks, sizeof(fm_ep_world *));
    if (!crew->ranks || !crew->worlds)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d ranks", ranks);
    for (int r = 0; r < ranks; r++) {
        struct fm_trainer *rank = crew->ranks[r] = fm_base_mem_zalloc(1, sizeof *rank);
        if (!rank)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d ranks", ranks);
        rank->model.config = trainer->model.config;
        rank->training = trainer->training;
        FM_TRY(fm_model_rank_make(rank, &crew->layout, r, each));
    }
    return FM_OK;
}

fm_status fm_model_crew_open(struct fm_trainer *trainer, const struct fm_model_layout *layout, int threads)
{
    struct fm_model_crew *crew = trainer->crew = fm_base_mem_zalloc(1, sizeof *crew);
    if (!crew)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d ranks", layout->ranks);
    crew->layout = *layout;
    return open_ranks(crew, trainer, threads);
}

void fm_model_crew_free(struct fm_model_crew *crew)
{
    if (!crew)
        return;
    for (int r = 0; crew->ranks && r < crew->layout.ranks; r++)
        fm_model_trainer_close(crew->ranks[r]);
    if (crew->worlds)
        free_worlds(crew);
    fm_base_mem_free(crew->worlds);
    fm_base_mem_free(crew->ranks);
    fm_base_mem_free(crew);
}
