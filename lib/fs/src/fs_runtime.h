/**
 * @file fs_runtime.h
 * What the protocols of the cluster stand on: a clock, timers, random numbers, calls between nodes, a disk, and
 * transactions that do not block. The cluster manager, the storage service, recovery and the client know the
 * outside world through these tables alone, so the same code runs on sockets and files (runtime_net.c,
 * disk_file.c) and inside a simulator that draws every delay and every fault from one seed.
 *
 * Rules for both sides:
 *  - a runtime and all that stands on it is used by one thread;
 *  - what completes later never completes inside the function that began it, so a caller's state is settled
 *    before the answer comes;
 *  - a crash of a simulated node, and the end of a real one, drop all that is under way: no callback comes any
 *    more, and whoever began an operation frees it with the rest of his state.
 */
#ifndef FATHOM_FS_RUNTIME_H
#define FATHOM_FS_RUNTIME_H

#include "fs_planted.h"
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "fathom/fs_kv.h"
#include "fathom/mem.h"
#include "fathom/status.h"

enum {
    // What disks read and write at least, and what O_DIRECT wants aligned; also the page that tears whole
    // sectors in it.
    FM_FS_PAGE = 4096
};

/* Buffers: bulk bytes that several hold at once. */

typedef struct fm_fs_pool fm_fs_pool;

typedef struct fm_fs_buffer {
    unsigned refs;
    size_t size;               // of what is in it
    size_t room;               // of `data`, a multiple of FM_FS_PAGE
    uint8_t *data;             // aligned to FM_FS_PAGE
    int summed;                // whether `crc` is known
    uint32_t crc;              // CRC32C of the contents, which stay as they are from then on
    fm_fs_pool *pool;          // private: where it goes back to; NULL: it is freed
    struct fm_fs_buffer *next; // private
} fm_fs_buffer;

// A buffer with room for `size` bytes, one reference; NULL when there is no memory. `size` bytes are in it, not
// initialised; what follows up to the page's end is zero.
fm_fs_buffer *fm_fs_buffer_new(size_t size);
// The same, of a pool, where it has one; `pool` may be NULL.
fm_fs_buffer *fm_fs_buffer_from(fm_fs_pool *pool, size_t size);
// A pool keeps buffers of up to 2 MiB for reuse, cut from huge pages where the kernel gives them: fresh pages cost more
// than a disk's transfer into them, and a disk takes few pieces at once. For one thread; holds at most 32 MiB of each
// power of two. It goes when it was freed and its last buffer has come back.
fm_fs_pool *fm_fs_pool_new(void); // NULL: no memory
void fm_fs_pool_free(fm_fs_pool *pool);
uint32_t fm_fs_buffer_crc(fm_fs_buffer *buffer); // computed where it is not known; NULL: of no bytes
static inline void fm_fs_buffer_summed(fm_fs_buffer *buffer, uint32_t crc)
{
    buffer->summed = 1;
    buffer->crc = crc;
}
static inline fm_fs_buffer *fm_fs_buffer_ref(fm_fs_buffer *buffer)
{
    if (buffer)
        buffer->refs++;
    return buffer;
}
void fm_fs_buffer_drop(fm_fs_buffer *buffer); // NULL is allowed

/* Clock, timers, random numbers, calls */

typedef struct fm_fs_runtime fm_fs_runtime;

// Zero it, set the first two; it stays where it is while it is set.
typedef struct fm_fs_timer {
    void (*fire)(void *context);
    void *context;
    int64_t due_ns;             // private to the runtime
    uint64_t serial;            // private: 0 when not set
    struct fm_fs_timer *before; // private
    struct fm_fs_timer *after;  // private
} fm_fs_timer;

// A call to another node (or to this one). Zero it, set the first block; it stays until done().
typedef struct fm_fs_call {
    uint32_t node;
    uint16_t method;
    int64_t timeout_ns; // at least 1
    const void *args;   // copied
    size_t args_bytes;
    fm_fs_buffer *payload; // referenced until done(); may be NULL
    size_t reply_bytes;    // the most payload that a reply may bring
    // NULL, or where that shall lie (with room for reply_bytes); a runtime may bring it elsewhere all the same. Its owner
    // keeps a reference, for the runtime drops its own only after done().
    fm_fs_buffer *reply_into;
    void (*done)(struct fm_fs_call *call);
    void *context;

    // Set before done(). A negative status without reply args: nobody knows what happened.
    fm_status status;
    const void *reply_args; // valid during done()
    size_t reply_args_bytes;
    fm_fs_buffer *reply_payload; // valid during done(); take a reference to keep it; may be NULL
    void *runtime_data;          // private
} fm_fs_call;

// A call that arrived. The service answers it exactly once, now or later.
typedef struct fm_fs_request {
    uint16_t method;
    uint32_t from;    // the caller's node; 0 when it is a client
    const void *args; // valid until the answer
    size_t args_bytes;
    fm_fs_buffer *payload; // valid until the answer; may be NULL
    // NULL, or where the caller, who is in this process, wants the answer's payload, which may lie elsewhere all the same.
    fm_fs_buffer *reply_into;
    void *user;         // the service's
    void *runtime_data; // private
} fm_fs_request;

// A transaction on its way. Zero it, set the first block; it stays until done().
typedef struct fm_fs_kv_job {
    unsigned flags;
    fm_fs_kv_closure closure; // may run in another thread: it touches `closure_context` alone
    void *closure_context;
    void (*done)(struct fm_fs_kv_job *job);
    void *context;
    fm_status status;
    void *runtime_data; // private
} fm_fs_kv_job;

struct fm_fs_runtime_ops {
    int64_t (*now_ns)(fm_fs_runtime *runtime); // a clock that only grows; clocks of two nodes differ
    void (*timer_start)(fm_fs_runtime *runtime, fm_fs_timer *timer, int64_t delay_ns); // sets or moves
    void (*timer_stop)(fm_fs_runtime *runtime, fm_fs_timer *timer); // no effect when it is not set
    uint64_t (*random)(fm_fs_runtime *runtime);
    void (*call)(fm_fs_runtime *runtime, fm_fs_call *call);
    // `args` are copied; the payload is referenced. Ends the request.
    void (*reply)(fm_fs_runtime *runtime, fm_fs_request *request, fm_status status, const void *args,
                  size_t args_bytes, fm_fs_buffer *payload);
    void (*kv_run)(fm_fs_runtime *runtime, fm_fs_kv_job *job); // only where there is a store
    // Where another node can be reached from now on. NULL where that is known anyway.
    void (*know)(fm_fs_runtime *runtime, uint32_t node, const char *address);
};

struct fm_fs_runtime {
    const struct fm_fs_runtime_ops *ops;
    uint32_t node; // who this is
};

static inline int64_t fm_fs_now(fm_fs_runtime *runtime)
{
    return runtime->ops->now_ns(runtime);
}
static inline void fm_fs_timer_start(fm_fs_runtime *runtime, fm_fs_timer *timer, int64_t delay_ns)
{
    runtime->ops->timer_start(runtime, timer, delay_ns);
}
static inline void fm_fs_timer_stop(fm_fs_runtime *runtime, fm_fs_timer *timer)
{
    runtime->ops->timer_stop(runtime, timer);
}
static inline void fm_fs_call_start(fm_fs_runtime *runtime, fm_fs_call *call)
{
    runtime->ops->call(runtime, call);
}
static inline void fm_fs_reply(fm_fs_runtime *runtime, fm_fs_request *request, fm_status status,
                               const void *args, size_t args_bytes, fm_fs_buffer *payload)
{
    runtime->ops->reply(runtime, request, status, args, args_bytes, payload);
}
// A number in [0, bound).
static inline uint64_t fm_fs_random_below(fm_fs_runtime *runtime, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)runtime->ops->random(runtime) * bound) >> 64);
}

/* Disk: a fixed set of numbered files. There are no names to make or rename, so there is nothing about names that
 * a power cut could undo. */

enum fm_fs_disk_kind {
    FM_FS_DISK_READ,
    FM_FS_DISK_WRITE,
    FM_FS_DISK_SYNC, // all completed writes of the file are durable
    FM_FS_DISK_PUNCH // gives the range back; it reads as zeros
};

// An operation. Offset, size and data are multiples of FM_FS_PAGE. What was never written reads as zeros. One of size 0
// only completes.
typedef struct fm_fs_disk_io {
    enum fm_fs_disk_kind kind;
    unsigned file;
    int durable; // a write that is durable by itself when it has completed
    uint64_t offset;
    size_t size;
    void *data;
    void (*done)(struct fm_fs_disk_io *io);
    void *context;
    fm_status status;
    struct fm_fs_disk_io *next; // private
} fm_fs_disk_io;

typedef struct fm_fs_disk fm_fs_disk;
struct fm_fs_disk_ops {
    void (*submit)(fm_fs_disk *disk, fm_fs_disk_io *io);
    // Bytes from the beginning of the file to the end of its last write. Does not wait.
    uint64_t (*size)(fm_fs_disk *disk, unsigned file);
};
struct fm_fs_disk {
    const struct fm_fs_disk_ops *ops;
    uint64_t capacity_bytes; // what the target may hold
};

static inline void fm_fs_disk_submit(fm_fs_disk *disk, fm_fs_disk_io *io)
{
    disk->ops->submit(disk, io);
}

#endif
