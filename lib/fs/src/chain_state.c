/*
 * How the members of a chain change state, from what they were and what they say of themselves:
 *
 *     SERVING  stays while it is alive. If others stay, the lost ones become OFFLINE. If none does, all of them
 *              become LASTSRV: each has every acknowledged write, so the first to return restarts the chain.
 *     LASTSRV  alive and nobody serves: SERVING. Somebody serves: OFFLINE, to be filled anew.
 *     SYNCING  becomes SERVING when it says that it is up to date; WAITING when nobody serves.
 *     WAITING, OFFLINE  the first that is alive becomes SYNCING when somebody serves and nobody is SYNCING; the
 *              other living ones wait.
 *
 * The new order is SERVING, LASTSRV, SYNCING, WAITING, OFFLINE; within one state it is kept. So the order of service
 * is that in which replicas became complete. What is not known of a member leaves it as it is.
 */
#include "cluster.h"

struct buckets {
    uint32_t count[5];
    fm_fs_member members[5][FM_FS_REPLICAS_MAX];
};

static unsigned bucket_of(int state)
{
    return (unsigned)__builtin_ctz((unsigned)state);
}

static void put(struct buckets *to, const fm_fs_member *member, int state)
{
    unsigned bucket = bucket_of(state);
    fm_fs_member *at = &to->members[bucket][to->count[bucket]++];
    *at = *member;
    at->state = (uint8_t)state;
}

static int is_up(int local)
{
    return local == FM_FS_UPTODATE || local == FM_FS_ONLINE;
}

static int next_of_others(const struct buckets *next, int state, int local)
{
    int serving = next->count[bucket_of(FM_FS_SERVING)] > 0;
    if (state == FM_FS_SYNCING) {
        if (local == FM_FS_UPTODATE)
            return FM_FS_SERVING;
        if (local == FM_FS_DOWN)
            return FM_FS_OFFLINE;
        return serving ? FM_FS_SYNCING : FM_FS_WAITING;
    }
    if (local == FM_FS_UNKNOWN)
        return state;
    if (!is_up(local))
        return FM_FS_OFFLINE;
    if (FM_FS_PLANT(FM_FS_PLANT_ANY_RESTARTS) && !serving)
        return FM_FS_SERVING;
    if (serving && next->count[bucket_of(FM_FS_SYNCING)] == 0 && local == FM_FS_ONLINE)
        return FM_FS_SYNCING;
    return FM_FS_WAITING;
}

// The complete members: those that serve, and those that did last.
static void pass_complete(const fm_fs_chain *chain, const uint8_t *local, struct buckets *next)
{
    int served = 0; // by one that serves already, or has been filled
    uint32_t restarts = FM_FS_REPLICAS_MAX;
    for (uint32_t i = 0; i < chain->count; i++) {
        int state = chain->members[i].state;
        served |= (state == FM_FS_SERVING && local[i] != FM_FS_DOWN) ||
                  (state == FM_FS_SYNCING && local[i] == FM_FS_UPTODATE);
        if (state == FM_FS_LASTSRV && is_up(local[i]) && restarts == FM_FS_REPLICAS_MAX)
            restarts = i;
    }
    for (uint32_t i = 0; i < chain->count; i++)
        if (chain->members[i].state == FM_FS_SERVING)
            put(next, &chain->members[i],
                local[i] != FM_FS_DOWN ? FM_FS_SERVING
                : served               ? FM_FS_OFFLINE
                                       : FM_FS_LASTSRV);
    for (uint32_t i = 0; i < chain->count; i++) {
        if (chain->members[i].state != FM_FS_LASTSRV)
            continue;
        // One that returns while another serves has missed what came since.
        if (!served && i == restarts)
            put(next, &chain->members[i], FM_FS_SERVING);
        else
            put(next, &chain->members[i],
                served || restarts < FM_FS_REPLICAS_MAX ? FM_FS_OFFLINE : FM_FS_LASTSRV);
    }
}

int fm_fs_chain_next(const fm_fs_chain *chain, const uint8_t *local, fm_fs_chain *out_next)
{
    static const int order[] = {FM_FS_SYNCING, FM_FS_WAITING, FM_FS_OFFLINE};
    struct buckets next = {0};
    pass_complete(chain, local, &next);
    for (size_t o = 0; o < sizeof order / sizeof order[0]; o++)
        for (uint32_t i = 0; i < chain->count; i++)
            if (chain->members[i].state == order[o])
                put(&next, &chain->members[i], next_of_others(&next, order[o], local[i]));
    *out_next = *chain;
    out_next->count = 0;
    for (int bucket = 0; bucket < 5; bucket++)
        for (uint32_t i = 0; i < next.count[bucket]; i++)
            out_next->members[out_next->count++] = next.members[bucket][i];
    int changed = 0;
    for (uint32_t i = 0; i < chain->count; i++)
        changed |= chain->members[i].target != out_next->members[i].target ||
                   chain->members[i].state != out_next->members[i].state;
    out_next->version += (uint32_t)changed;
    return changed;
}

const char *fm_fs_public_name(int state)
{
    static const char *const names[] = {"serving", "last-serving", "syncing", "waiting", "offline"};
    return names[bucket_of(state) % 5];
}
