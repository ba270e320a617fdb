/**
 * @file sim_world.h
 * A cluster in a simulator: managers, storage services, clients, their clocks, disks, network and key-value store, all
 * in one thread and drawn from one seed. Every run with the same seed is the same, event by event.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdio.h>

enum sim_fault {
    SIM_DELAY,
    SIM_REORDER,
    SIM_DROP,
    SIM_DUPLICATE,
    SIM_PARTITION,
    SIM_CRASH_PROGRAM,
    SIM_CRASH_POWER,
    SIM_CRASH_ALL,
    SIM_TORN_WRITE,
    SIM_LOST_WRITE,
    SIM_IO_ERROR,
    SIM_ROT,
    SIM_CLOCK_SKEW,
    SIM_KV_CONFLICT,
    SIM_KV_MAYBE,
    SIM_DISK_REPLACED,
    SIM_FAULTS
};

typedef struct sim_result {
    int failed;
    char reason[256];
    unsigned long operations; // of clients, that ended
    unsigned long unknown;    // of these, with an unknown outcome
    unsigned long faults[SIM_FAULTS];
    unsigned long dirty_reads, driven, synced, repaired, rotten, resumed, forgotten;
    unsigned long names_operations, names_again, collected; // again: requests that were sent once more
    unsigned long cuts;                                     // truncations of the file that all share
    unsigned long events;
    unsigned long hash; // of all events: equal for equal seeds
} sim_result;

const char *sim_fault_name(int fault);
// Runs one cluster. `trace` may be NULL.
sim_result sim_run(unsigned long seed, FILE *trace);

#endif
