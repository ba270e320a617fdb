// A network of one process and one thread with a clock of its own: the smallest transport behind the table of
// fathom/net_transport.h. One seed decides all delays, so that a run repeats exactly.
#ifndef NET_WORLD_H
#define NET_WORLD_H

#include "fathom/net_transport.h"
#include "fm_gen.h"

struct net_world;

// Messages take from 1 us to `delay_max_ns`.
struct net_world *net_world_new(uint64_t seed, int64_t delay_max_ns);
// After all its loops.
void net_world_free(struct net_world *world);
// A loop in it; only sockets know of other options.
fm_net_loop *net_world_loop(struct net_world *world, const fm_net_loop_options *options);
// From now on every message is lost (1), or none (0).
void net_world_cut(struct net_world *world, int cut);
int64_t net_world_now_ns(const struct net_world *world);
// Runs the loops, time flying where nobody has anything to do, until *condition is true or `limit_ns` has
// passed. 1 when it is true.
int net_world_run(struct net_world *world, fm_net_loop *const *loops, size_t count, const int *condition,
                  int64_t limit_ns);

#endif
