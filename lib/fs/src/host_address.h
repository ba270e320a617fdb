/**
 * @file host_address.h
 * What a process announces of where it is: an address for everybody, and perhaps a UNIX socket for who is on its machine,
 * where bulk goes through shared memory:
 *
 *     10.0.0.5:7000
 *     10.0.0.5:7000 unix:/data/cluster/socket-101@8c5f1e3a9d024b67
 *
 * Behind the @ is the machine: the first digits of the identity that Linux gives each start of a kernel. Containers of one
 * machine have the same; where the path leads to nothing, or to a stranger, the first address serves.
 */
#ifndef FATHOM_HOST_ADDRESS_H
#define FATHOM_HOST_ADDRESS_H

#include "cluster.h"

struct fm_fs_host_address {
    char anywhere[FM_FS_ADDRESS_MAX + 1];
    char local[FM_FS_ADDRESS_MAX + 1]; // "": none that this machine has
};

// Both into one text of at most FM_FS_ADDRESS_MAX bytes; without `local` (NULL: there is none) where it finds no room.
void fm_fs_host_announce(const char *anywhere, const char *local, char *out_text);
// Takes such a text apart; text that is none becomes `anywhere`, as it is.
void fm_fs_host_announced(const char *text, struct fm_fs_host_address *out_address);

#endif
