// A hub, as its parts share it.
#ifndef FATHOM_RING_HUB_PRIVATE_H
#define FATHOM_RING_HUB_PRIVATE_H

#include <pthread.h>

#include "fathom/mem.h"
#include "ring.h"
#include "ring_hub.h"
#include "volume_move.h"

enum {
    FM_FS_HUB_SESSIONS = 1024,
    FM_FS_HUB_RINGS = 256, // of a session
    FM_FS_HUB_IOVS = 4096, // of a session; also how many lists they are found in
    FM_FS_HUB_FILES = 1 << 16,
    FM_FS_HUB_SLOTS = 1 << 18, // of all rings of a session: each takes memory of this process
    // Parts of operations at once. Enough for the disks of a machine; and of these so many are kept for each of high and low
    // priority, as 3FS keeps a sixteenth of its workers.
    FM_FS_HUB_PARTS = 128,
    FM_FS_HUB_RESERVED = 8,
    FM_FS_HUB_WORKERS = 4
};

// Memory of a program. Lives until nobody finds it any more and no operation is in it.
struct fm_fs_hub_iov {
    struct fm_fs_hub_iov *next;   // in its list
    struct fm_fs_hub_session *of; // NULL: its program is gone
    uint8_t id[FM_FS_RING_ID_BYTES];
    uid_t uid;
    int fd;
    uint8_t *memory;
    uint64_t size, block_bytes;
    unsigned refs;
    int unlinked;
};

struct fm_fs_hub_op {
    fm_fs_move move;
    struct fm_fs_hub_ring *ring;
    struct fm_fs_hub_iov *iov;
    int32_t index;
    int flushes;               // first, by a worker
    int waited;                // it was done, or its end was told, by a worker
    struct fm_fs_hub_op *next; // of those that are unused, or wait for a worker or the loop
};

struct fm_fs_hub_ring {
    struct fm_fs_hub *hub;
    struct fm_fs_hub_session *session; // NULL: its program is gone, or does not want it any more
    uint32_t number;
    uint8_t *memory;
    size_t bytes;
    uint32_t slots;
    int writes, io_depth;
    enum fm_fs_move_priority priority;
    unsigned flags;
    int64_t timeout_ns;
    int wakes, woken; // eventfds: this process, the program
    fm_net_watch watch;
    fm_net_timer timer;
    int timing, overdue;         // a batch that is not full waits, or has waited long enough
    fm_net_timer wake;           // wakes the program, and before that looks what it has put in
    int waking, looked;          // it is set; it was put off once
    uint32_t accepted, answered; // counted for ever; the program's memory is never asked for them
    unsigned under_way;
    struct fm_fs_hub_op *ops; // one for each slot
    struct fm_fs_hub_op *unused;
    const struct fm_fs_ring_entry *queue;
    struct fm_fs_ring_result *results;
};

struct fm_fs_hub_file {
    uint64_t ino;
    int used, reads, writes;
};

struct fm_fs_hub_session {
    struct fm_fs_hub *hub;
    struct fm_fs_hub_session *before, *after;
    fm_net_watch watch;
    uid_t uid;
    struct fm_fs_hub_ring *rings[FM_FS_HUB_RINGS];
    unsigned iov_count, slot_count;
    struct fm_fs_hub_file *files;
    uint32_t file_room;
};

// What the hub's threads share.
struct fm_fs_hub_work {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct fm_fs_hub_op *first, *last; // wait for a worker
    struct fm_fs_hub_op *back;         // wait for the loop
    int posted;                        // the task that takes them back
    int *strangers;                    // descriptors to be closed
    size_t stranger_count, stranger_room;
    int stop;
};

struct fm_fs_hub {
    fm_fs_hub_options options;
    fm_net_loop *loop;
    fm_fs_mover *mover;
    char address[sizeof(struct fm_fs_ring_address)];
    fm_net_watch listener;
    struct fm_fs_hub_session sessions; // head
    struct fm_fs_hub_iov *iovs[FM_FS_HUB_IOVS];
    struct fm_fs_hub_census census; // with the work's lock
    struct fm_fs_hub_work work;
    fm_net_task back;
    pthread_t thread, workers[FM_FS_HUB_WORKERS], closer;
    int has_thread, has_closer;
    unsigned worker_count;
};

// ring_hub.c

void fm_fs_hub_session_end(struct fm_fs_hub_session *session);
struct fm_fs_hub_iov *fm_fs_hub_iov_find(fm_fs_hub *hub, const uint8_t *id);
void fm_fs_hub_iov_add(fm_fs_hub *hub, struct fm_fs_hub_iov *iov);
// Nobody finds it any more.
void fm_fs_hub_iov_remove(fm_fs_hub *hub, struct fm_fs_hub_iov *iov);
void fm_fs_hub_iov_remove_all(fm_fs_hub *hub, const struct fm_fs_hub_session *session);
void fm_fs_hub_iov_drop(fm_fs_hub *hub, struct fm_fs_hub_iov *iov);
void fm_fs_hub_add(unsigned *counter, int change); // of the census

// ring_session.c: a program's messages

void fm_fs_hub_accept(void *context, uint32_t events);

// ring_serve.c: what lies in rings

// Memory of `bytes` is the ring's from now on, with `slots` and what else the program asked for set. FM_ERR_NOMEM.
fm_status fm_fs_hub_ring_start(struct fm_fs_hub_ring *ring);
// Takes what was prepared. 0: its counts make no sense.
int fm_fs_hub_ring_take(struct fm_fs_hub_ring *ring);
// The program is gone: what has not begun never will, and the ring goes when the rest has come to its end.
void fm_fs_hub_ring_end(struct fm_fs_hub_ring *ring);
// The result of an operation that may have gone through a worker.
void fm_fs_hub_op_done(struct fm_fs_hub_op *op);
void fm_fs_hub_slow(void *context, fm_fs_move *move);

// ring_work.c: what has to wait

fm_status fm_fs_hub_work_start(fm_fs_hub *hub);
// 0: a thread does not end and still uses the hub.
int fm_fs_hub_work_stop(fm_fs_hub *hub);
void fm_fs_hub_work_add(fm_fs_hub *hub, struct fm_fs_hub_op *op);
// Closes a descriptor that a program sent.
void fm_fs_hub_close(fm_fs_hub *hub, int fd);

#endif
