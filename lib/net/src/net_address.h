// From the text of an address to what the kernel takes.
#ifndef NET_ADDRESS_H
#define NET_ADDRESS_H

#include <sys/socket.h>

#include "fathom/net.h"

struct net_sockaddr {
    socklen_t size;
    struct sockaddr_storage storage;
};

// Parses and resolves; `listening` gives "*" its meaning. FM_ERR_ARG, FM_ERR_NOT_FOUND (unknown host),
// FM_ERR_NOMEM.
FM_MUST_USE fm_status fm_net_address_resolve(const char *text, int listening,
                                             struct net_sockaddr *out_address);
// The text of a bound or accepted address; out_text has FM_NET_ADDRESS_BYTES.
void fm_net_address_name(const struct net_sockaddr *address, char *out_text);

#endif
