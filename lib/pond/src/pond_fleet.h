/**
 * @file pond_fleet.h
 * The executors that a run starts: as many as there is work for, at most as many as it was given.
 *
 * Local ones are children of this process. Others are started by a command (pond_launch.c) and join over TCP when they can: those
 * that were asked for and have not joined yet are counted on. Whoever dies is replaced while there is work.
 */
#ifndef POND_FLEET_H
#define POND_FLEET_H

#include <sys/types.h>

#include "pond_run.h"

enum {
    FM_POND_LOCAL_MAX = 256,
    FM_POND_DESCRIPTORS_MAX = 4096 /**< looked at when an executor is forked */
};

typedef struct fm_pond_fleet {
    const fm_pond_run *run;
    /* Local. */
    const char *local_address;
    int local_max;
    pid_t children[FM_POND_LOCAL_MAX];
    uint64_t died;
    uint8_t open_before[FM_POND_DESCRIPTORS_MAX / 8];
    /* Elsewhere. */
    char remote_address[FM_NET_ADDRESS_BYTES]; /**< "": nobody is started there */
    int remote_max;
    int connected; /**< of others, now: by the driver */
    uint64_t joined, started;
    uint64_t launched_ns, lonely_ns;
    fm_pond_text ids; /**< of what was started: lines */
} fm_pond_fleet;

/** To be called before the run opens what its children must not have. */
void fm_pond_fleet_init(fm_pond_fleet *fleet, const fm_pond_run *run);
/** Starts what is lacking for so many tasks. FM_ERR_UNAVAILABLE: executors die as soon as they start. */
FM_MUST_USE fm_status fm_pond_fleet_tend(fm_pond_fleet *fleet, size_t tasks);
/** Ends the local ones. */
void fm_pond_fleet_kill(fm_pond_fleet *fleet);
/** Takes back what was asked for elsewhere. */
void fm_pond_fleet_stop(fm_pond_fleet *fleet);

#endif
