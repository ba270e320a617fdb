// Both ends of connections for tests over real sockets: a service with a few methods, and calls that check
// themselves.
#ifndef NET_PEER_H
#define NET_PEER_H

#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/net.h"

enum { NET_PATTERN_BYTES = 8 << 20 };

// The same random bytes in every process of a test: replies are slices of them, requests are checked against
// them. Nobody writes to them.
uint8_t *net_pattern(void);

// One cluster key for all.
extern const fm_net_key net_test_key;
extern const fm_net_security net_keyed, net_same_user;

enum net_method {
    NET_READ,  // args: slice; the reply's payload is the slice
    NET_WRITE, // args: slice; the payload must be the slice
    NET_HOLD,  // no answer until net_service_release()
    NET_FAIL,
};

struct net_slice {
    uint32_t at, size;
};

enum { NET_HELD_MAX = 256 };

struct net_service {
    fm_net_request *held[NET_HELD_MAX];
    int held_count;
    int opened, closed, served, dropped, sent, landed;
    fm_status closed_status;
    fm_net_service functions;
};

// Counts into `service`, which must outlive the listener's connections.
fm_net_listen_options net_service_options(struct net_service *service, const fm_net_security *security);
// Listens, or fails the test.
fm_net_listener *net_service_listen(struct net_service *service, fm_net_loop *loop, const char *address,
                                    const fm_net_security *security);
void net_service_release(struct net_service *service);

// A caller's connection and what came of it.
struct net_client {
    fm_net_loop *loop;
    fm_net_conn *conn; // NULL once down
    int up, down;
    fm_status down_status;
    char down_message[256];
};

void net_client_connect(struct net_client *client, fm_net_loop *loop, const char *address,
                        const fm_net_security *security);

// A call and what came of it.
struct net_outcome {
    int count;
    enum net_method method;
    struct net_slice slice;
    uint8_t *buffer;
    fm_status status;
    fm_net_fate fate;
    char message[256];
};

// Calls; when it is done its result is checked against the pattern. `outcome` stays until then.
fm_status net_client_call(struct net_client *client, struct net_outcome *outcome, enum net_method method,
                          uint32_t at, uint32_t size, int64_t timeout_ns);

fm_net_loop *net_test_loop(const fm_net_limits *limits);
// Progress on all loops until *condition >= value; fails the test after `limit_ms`.
void net_pump(fm_net_loop *const *loops, size_t count, const int *condition, int value, int limit_ms);
// The same for one loop.
void net_until(fm_net_loop *loop, const int *condition, int value);
// Progress for this long.
void net_rest(fm_net_loop *loop, int ms);
// A path for a UNIX socket in the test's folder, as an address; valid until the program ends.
const char *net_unix_address(const char *name);
// Open descriptors of this process.
int net_count_fds(void);
// Shared areas that are mapped in this process; both ends of one, where both are here.
int net_count_areas(void);

#endif
