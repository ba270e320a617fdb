// Clients and services in processes of their own, to be killed.
#ifndef NET_PROCESS_H
#define NET_PROCESS_H

#include <sys/types.h>

#include "net_peer.h"

// A child that serves on `address` until it is killed; it listens when this returns, at out_bound.
pid_t net_fork_service(const char *address, const fm_net_security *security,
                       char out_bound[FM_NET_ADDRESS_BYTES]);
// A child with `depth` calls of `size` bytes outstanding at any time, for ever.
pid_t net_fork_client(const char *address, const fm_net_security *security, enum net_method method, int depth,
                      uint32_t size);
void net_kill(pid_t child, int signal);
// Resident memory of this process, in KiB; always 0 under a sanitizer.
long net_resident_kib(void);
// Kills `kills` clients at random moments, reading and writing, while another one works; fails the test when
// the service in this process loses or leaks anything.
void net_kill_clients(int kills, const char *address, const fm_net_security *security);

#endif
