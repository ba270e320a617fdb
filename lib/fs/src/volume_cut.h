/**
 * @file volume_cut.h
 * How a file in chunks grows and is cut while anybody writes to it, in any process.
 *
 * A truncation to something is one transaction: the size. What the chunks hold behind the end counts for nothing from then on,
 * and writes that had begun before may still put bytes there. So a file's `reach` never falls while it keeps its chunks, and
 * two rules keep such bytes from being seen:
 *
 * - *Who lets a file grow below its reach* takes a number of its `cuts` first (fm_fs_meta_fence()), then removes what the
 *   chunks hold from the end on, and the growth happens only if nobody took a later number.
 * - *Who has written* looks at the file again before it says so. Where the file ends before what was written, it removes what
 *   the chunks hold from there on, by a number of its own.
 *
 * Removing is three steps for each chunk: see in which version it is and that there is something behind the end (a);
 * see that the file's number and size are still the remover's (b); cut the chunk if it is still in that version (c).
 *
 * Why this is right, byte for byte: each byte of a write takes effect when it gets into its chunk, if the file reaches so far
 * then; else when the file does, if it gets there while the write is under way; else it came before the truncation.
 * - *Nothing that was written is removed.* Sizes only grow under one number, so at (b) nobody was told of a longer file since
 *   the last truncation: all that version (a) has behind the end are bytes of writes that began before it, of which none
 *   counts, or whose writer has not looked again yet. Later bytes make a later version, and (c) does nothing.
 * - *Nothing that was seen vanishes.* Let a remover with number n do (c) after the file grew by a later number m. Its (b) came
 *   before m was taken, so version (a) was there when the remover of m came to the chunk, and that one cut it: (c) finds a
 *   later version. By its own number a remover grows the file only when all its removals have ended; one whose outcome it
 *   does not know ends its work.
 * - *Nothing stays to be seen later.* When a write has ended well, its bytes are in the file or removed. Those of a writer
 *   that was killed are removed by whoever lets the file grow; only what arrives in the very moment of that growth is seen,
 *   as a write that happens then.
 *
 * Who reads holes looks again as well: a file that was cut meanwhile is read anew, so that no reader takes for zeros what
 * another one has just cut off. There is one exception: of a chunk that was cut, a late write may make a longer one again, with
 * zeros in between, which a reader of that moment cannot tell from zeros that were written.
 *
 * The names and chunks are behind a table, so that the simulator runs this very code.
 */
#ifndef FATHOM_VOLUME_CUT_H
#define FATHOM_VOLUME_CUT_H

#include "cluster_client.h"
#include "fathom/fs_meta.h"

struct fm_fs_cut_ways {
    fm_status (*look)(void *context, uint64_t ino, fm_fs_node *out_node);
    // fm_fs_meta_extend(), _fence() and _truncate() with the node's data and, to grow, its cuts.
    fm_status (*extend)(void *context, const fm_fs_node *node, uint64_t end, fm_fs_node *out_node);
    fm_status (*fence)(void *context, const fm_fs_node *node, fm_fs_node *out_node);
    fm_status (*truncate)(void *context, const fm_fs_node *node, uint64_t size, fm_fs_node *out_node);
    // Does operations on chunks, all at once, and waits for them; each has its status then.
    fm_status (*run)(void *context, fm_fs_client_io *ios, size_t count);
    void *context;
};

enum { FM_FS_CUT_BATCH = 16 }; // chunks at once

// All return FM_ERR_STATE when the file changed meanwhile: look again, and begin again.

// The file, in chunks as `node` says, is at least `end` bytes long from now on, and was changed now.
fm_status fm_fs_cut_grow(const struct fm_fs_cut_ways *ways, fm_fs_node *node, uint64_t end);
// The file of these chunks was written up to `end`.
fm_status fm_fs_cut_settle(const struct fm_fs_cut_ways *ways, const fm_fs_node *node, uint64_t end);
// Whether there is nothing to be done for it, as the file is now.
int fm_fs_cut_is_settled(const fm_fs_node *then, const fm_fs_node *now, uint64_t end);
// `size` is not 0. The node becomes what the file is then.
fm_status fm_fs_cut_truncate(const struct fm_fs_cut_ways *ways, fm_fs_node *node, uint64_t size);
// The first chunk with an index from `from` on and below `end` that may be there, or `end`: the chains are asked for the next
// one that they have, so a hole takes as long as one chunk. One that is on its way counts as there.
fm_status fm_fs_cut_skip(const struct fm_fs_cut_ways *ways, const fm_fs_node *node, uint64_t from,
                         uint64_t end, uint64_t *out_next);
// Whether what was read of `then` may be of neither: looked at before it was read, and after.
int fm_fs_cut_between(const fm_fs_node *then, const fm_fs_node *now);

#endif
