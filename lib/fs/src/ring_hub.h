/**
 * @file ring_hub.h
 * The mount's side of rings: programs that come and go, their memory, rings and files, and the operations in the rings.
 *
 * One thread (the loop's) does all of it and waits for nobody; some more do what has to wait, and close descriptors that
 * programs sent, for closing may wait for a file system of the program's own. Nothing polls.
 */
#ifndef FATHOM_RING_HUB_H
#define FATHOM_RING_HUB_H

#include "fathom/fs_volume.h"
#include "fathom/net.h"

struct fm_fs_client;

typedef struct fm_fs_hub fm_fs_hub;

// Zero it and set what is needed.
typedef struct fm_fs_hub_options {
    fm_fs_volume *volume;
    // A loop of others to work in, and a client in it: the hub is made and freed while nobody runs it. NULL: a thread of the
    // hub's own.
    fm_net_loop *loop;
    struct fm_fs_client *client;
    int any_user; // 0: only the user of this process, and root
    int read_only;
    // Which file of the volume the descriptor is open for; 0 or a negative errno value. Does not wait.
    int (*file)(void *context, int fd, uint64_t *out_ino);
    // Whether bytes of the file wait elsewhere in this process, which flush() takes to the volume before an operation is
    // begun; flush() may wait. NULL: there are none.
    int (*waits)(void *context, uint64_t ino);
    void (*flush)(void *context, uint64_t ino);
    // A file was written, `length` bytes at `offset`, which the program learns after this. It may wait. NULL: nobody needs to
    // know.
    void (*wrote)(void *context, uint64_t ino, uint64_t offset, uint64_t length);
    void *context;
} fm_fs_hub_options;

fm_status fm_fs_hub_new(const fm_fs_hub_options *options, fm_fs_hub **out_hub);
// The name of its socket in the abstract namespace.
const char *fm_fs_hub_address(const fm_fs_hub *hub);
// NULL is allowed.
void fm_fs_hub_free(fm_fs_hub *hub);

// What there is; for tests. Any thread.
struct fm_fs_hub_census {
    unsigned sessions, rings, iovs, files, under_way;
};
void fm_fs_hub_count(fm_fs_hub *hub, struct fm_fs_hub_census *out_census);

#endif
