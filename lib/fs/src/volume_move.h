/**
 * @file volume_move.h
 * Many reads and writes of a volume's files at once by one thread that waits for none of them: for rings and queues.
 *
 * An operation is begun as soon as there is room, and its bytes travel between the chunks and the caller's memory in parts of
 * a chunk, many at once. What cannot go on without waiting (a file that must grow, an inline one that is written, names on a
 * server, somebody who is cutting the file, or has meanwhile) is handed back by slow(), to be prepared or done where waiting is allowed.
 */
#ifndef FATHOM_VOLUME_MOVE_H
#define FATHOM_VOLUME_MOVE_H

#include "fathom/fs_volume.h"
#include "fathom/net.h"

enum fm_fs_move_priority { FM_FS_MOVE_HIGH, FM_FS_MOVE_NORMAL, FM_FS_MOVE_LOW, FM_FS_MOVE_PRIORITIES };
enum {
    FM_FS_MOVE_WHOLE = 1, // a read that meets a hole fails with FM_ERR_STATE, instead of reading zeros
    FM_FS_MOVE_COPY = 2   // somebody may change the memory meanwhile, against whom checksums must hold
};

// Zero it, set the first block; it stays where it is until done() or slow().
typedef struct fm_fs_move {
    uint64_t ino;
    int writes;
    enum fm_fs_move_priority priority;
    unsigned flags;
    uint8_t *buffer;
    size_t length; // not 0; offset + length fits int64_t
    uint64_t offset;
    void (*done)(struct fm_fs_move *move); // never inside fm_fs_mover_add()
    void *context;

    fm_status status;
    size_t moved;
    int cancelled;   // set it at any time: if it has not begun it ends without
    unsigned slowed; // how often it was handed back
    int looked;      // somebody who may wait has set `node`, of a file that is not inline
    int unsettled; // its bytes have moved, but the file may have been cut meanwhile: fm_fs_move_carry_out() is left
    fm_fs_node node; // private, as all that follows
    size_t begun, span;
    int hole;
    unsigned parts;
    int known;
    struct fm_fs_move *next;
} fm_fs_move;

typedef struct fm_fs_mover fm_fs_mover;
struct fm_fs_client;

typedef struct fm_fs_mover_options {
    fm_fs_volume *volume;
    struct fm_fs_client
        *client;       // of the thread's loop; ends before the mover. NULL: a connection of the mover's own
    unsigned parts;    // at once
    unsigned reserved; // of these, for each of high and low priority
    int gated;         // 1: truncations wait for what is under way, and it for them
    void (*slow)(void *context, fm_fs_move *move);
    void *context;
} fm_fs_mover_options;

fm_status fm_fs_mover_new(const fm_fs_mover_options *options, fm_fs_mover **out_mover);
// The loop of its own connection, which the caller runs; NULL when the client was given.
fm_net_loop *fm_fs_mover_loop(fm_fs_mover *mover);
// No operation completes any more; what is in the gates of inodes leaves them.
void fm_fs_mover_free(fm_fs_mover *mover);
// Queues an operation. fm_fs_mover_pump() begins it.
void fm_fs_mover_add(fm_fs_mover *mover, fm_fs_move *move);
// Begins what there is room for. What was added since the last time is looked up once for each file.
void fm_fs_mover_pump(fm_fs_mover *mover);

// Does, or ends, the operation where waiting is allowed: its status and what it moved. It is not the mover's any more.
void fm_fs_move_carry_out(fm_fs_volume *volume, fm_fs_move *move);

// The file reaches to `end` at least, and was changed now. Waits. FM_ERR_STATE: it is inline, or gets other contents just
// now.
fm_status fm_fs_volume_grow(fm_fs_volume *volume, uint64_t ino, uint64_t end);

#endif
