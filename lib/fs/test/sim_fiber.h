/**
 * @file sim_fiber.h
 * Programs that wait in the midst of a call, all in one thread: each has a stack of its own and runs until it yields.
 */
#ifndef SIM_FIBER_H
#define SIM_FIBER_H

typedef struct sim_fiber sim_fiber;

sim_fiber *sim_fiber_new(void (*run)(void *context), void *context);
// Goes on with it until it yields or ends. Not from within a fiber.
void sim_fiber_resume(sim_fiber *fiber);
void sim_fiber_yield(void);
int sim_fiber_ended(const sim_fiber *fiber);
// Of one that has ended; NULL is allowed.
void sim_fiber_free(sim_fiber *fiber);

#endif
