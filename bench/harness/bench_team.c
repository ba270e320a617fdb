#include "bench_team.h"

#include "fathom/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

struct member {
    struct fm_bench_team *team;
    int index;
    pthread_t thread;
};

struct fm_bench_team {
    pthread_mutex_t lock; // guards all below but `awake`
    pthread_cond_t changed;
    unsigned long round; // incremented to start a run
    int running;         // members that have not finished the round
    int stop;
    void (*body)(void *context, int member);
    void *context;
    // Members that have woken for the present round. Release on increment, acquire on read: it also orders `body`.
    atomic_int awake;
    int size;
    struct member members[];
};

static void wait_for_all(fm_bench_team *team)
{
    atomic_fetch_add_explicit(&team->awake, 1, memory_order_release);
    // The last wakes some 50 us after the first; yielding lets it run even where two members share a CPU.
    while (atomic_load_explicit(&team->awake, memory_order_acquire) < team->size)
        sched_yield();
}

static void *member_main(void *argument)
{
    struct member *member = argument;
    fm_bench_team *team = member->team;
    unsigned long seen = 0;
    pthread_mutex_lock(&team->lock);
    for (;;) {
        while (team->round == seen && !team->stop)
            pthread_cond_wait(&team->changed, &team->lock);
        if (team->stop)
            break;
        seen = team->round;
        pthread_mutex_unlock(&team->lock);
        wait_for_all(team);
        team->body(team->context, member->index);
        pthread_mutex_lock(&team->lock);
        if (--team->running == 0)
            pthread_cond_broadcast(&team->changed);
    }
    pthread_mutex_unlock(&team->lock);
    return NULL;
}

// Best effort: a member that cannot be pinned still runs, and the scheduler spreads it.
static void pin(pthread_t thread, int index)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0)
        return;
    int skip = index % CPU_COUNT(&allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || skip-- > 0)
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(thread, sizeof one, &one);
        return;
    }
}

fm_status fm_bench_team_new(int size, fm_bench_team **out_team)
{
    fm_bench_team *team = fm_base_mem_alloc(sizeof *team + (size_t)size * sizeof team->members[0]);
    if (!team)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d probe threads", size);
    *team = (fm_bench_team){.size = 0};
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->changed, NULL);
    for (; team->size < size; team->size++) {
        struct member *member = &team->members[team->size];
        *member = (struct member){.team = team, .index = team->size};
        int err = pthread_create(&member->thread, NULL, member_main, member);
        if (err) {
            fm_bench_team_free(team);
            return fm_base_error_set_errno(FM_ERR_LIMIT, err, "cannot start %d probe threads", size);
        }
        pin(member->thread, member->index);
    }
    *out_team = team;
    return FM_OK;
}

void fm_bench_team_free(fm_bench_team *team)
{
    if (!team)
        return;
    pthread_mutex_lock(&team->lock);
    team->stop = 1;
    pthread_cond_broadcast(&team->changed);
    pthread_mutex_unlock(&team->lock);
    for (int i = 0; i < team->size; i++)
        pthread_join(team->members[i].thread, NULL);
    pthread_cond_destroy(&team->changed);
    pthread_mutex_destroy(&team->lock);
    fm_base_mem_free(team);
}

int fm_bench_team_size(const fm_bench_team *team)
{
    return team->size;
}

void fm_bench_team_run(fm_bench_team *team, void (*body)(void *context, int member), void *context)
{
    pthread_mutex_lock(&team->lock);
    team->body = body;
    team->context = context;
    team->running = team->size;
    atomic_store_explicit(&team->awake, 0,
                          memory_order_relaxed); // the mutex orders it before the members' increments
    team->round++;
    pthread_cond_broadcast(&team->changed);
    while (team->running > 0)
        pthread_cond_wait(&team->changed, &team->lock);
    pthread_mutex_unlock(&team->lock);
}
