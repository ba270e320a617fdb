#include "pond_team.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "fathom/interrupt.h"

struct member {
    fm_pond_team *team;
    fm_status (*work)(void *context, int member);
    void *context;
    int number;
    fm_status status;
    char message[1024]; // of the member's thread, for the caller's
    pthread_t thread;
};

int fm_pond_team_cores(void)
{
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0)
        return 1;
    int count = CPU_COUNT(&cores);
    return count < 1 ? 1 : count;
}

int fm_pond_team_stopped(const fm_pond_team *team)
{
    // Relaxed: a member that notices late does a little more; the results are looked at after joining.
    return __atomic_load_n(&team->failed, __ATOMIC_RELAXED) || fm_base_interrupted();
}

static void *run_member(void *argument)
{
    struct member *member = argument;
    member->status = member->work(member->context, member->number);
    if (member->status < 0) {
        snprintf(member->message, sizeof member->message, "%s", fm_error_message());
        __atomic_store_n(&member->team->failed, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

fm_status fm_pond_team_run(fm_pond_team *team, fm_status (*work)(void *context, int member), void *context)
{
    struct member members[FM_POND_TEAM_MAX];
    int started = 0, last = team->members - 1;
    team->failed = 0;
    for (int i = 0; i <= last; i++)
        members[i] = (struct member){.team = team, .work = work, .context = context, .number = i};
    while (started < last &&
           pthread_create(&members[started].thread, NULL, run_member, &members[started]) == 0)
        started++;
    // Members that could not be started have nothing of their own to do: work is shared out by claims.
    run_member(&members[last]);
    fm_status status = members[last].status;
    const char *message = members[last].message;
    for (int i = 0; i < started; i++) {
        pthread_join(members[i].thread, NULL);
        if (status == FM_OK && members[i].status < 0) {
            status = members[i].status;
            message = members[i].message;
        }
    }
    if (status < 0)
        return fm_base_error_set(status, "%s", message);
    return fm_base_interrupt_check();
}
