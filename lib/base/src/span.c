/*
 * One ring per thread, written by its owner, read by the drain:
 *
 *     tail                head
 *      v                   v
 *      | r | r | r | r | r |   |   |   |     head - tail records, at most `capacity`; both only ever grow,
 *                                            and index modulo the capacity
 *
 * Owner: writes the record at `head`, then stores head + 1 with release. Drain: loads `head` with acquire, so
 * the records below it are whole; copies one out, then stores tail + 1 with release. Owner: loads `tail` with
 * acquire before it writes over what lay there. Neither ever waits for the other.
 *
 * The registry is a list of all rings, in the order in which they were made. A ring is added under
 * registry_lock; only the drain takes one out, under registry_lock and drain_lock, after its owner has marked
 * it finished.
 */
#include "fathom/span.h"

#include "fathom/mem.h"
#include "ticks.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
    RECORDS_DEFAULT = 1 << 14,
    RECORDS_MAX = 1 << 24,
    NAME_BYTES = 32,
    RANK_OF_PROCESS = -1,
};

struct record {
    const fm_span_site *site;
    uint64_t begin; // ticks; 0: equal to end
    uint64_t end;
    int64_t args[2];
};

struct ring {
    // The owner's cache line. `head` is stored by the owner (release) and loaded by the drain (acquire);
    // `dropped` is stored by the owner and loaded by anyone, relaxed, being a statistic.
    _Alignas(FM_CACHE_LINE) atomic_uint_fast64_t head;
    uint64_t tail_seen; // the owner's own: `tail` when it last looked
    atomic_uint_fast64_t dropped;
    uint64_t capacity; // constant
    // The drain's cache line. `tail` is stored by the drain (release) and loaded by the owner (acquire);
    // `finished` is the last that the owner stores (release), and is loaded by the drain (acquire).
    _Alignas(FM_CACHE_LINE) atomic_uint_fast64_t tail;
    atomic_int finished;
    // Guarded by registry_lock.
    struct ring *next;
    int rank;
    int thread;
    char name[NAME_BYTES];
    _Alignas(FM_CACHE_LINE) struct record records[];
};

uint32_t fm_base_span_state;

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t drain_lock = PTHREAD_MUTEX_INITIALIZER; // taken before registry_lock

// Guarded by registry_lock.
static struct ring *first_ring;
static struct ring **last_link = &first_ring;
static size_t ring_count;
static uint64_t records_per_thread_now;
static uint64_t dropped_by_freed_rings;
static int set_up;

// Written once, before fm_base_span_state is first stored with release; read after it was loaded with
// acquire.
static enum fm_ticks_source source;
static pthread_key_t end_of_thread; // its value is the thread's ring, its destructor gives that to the drain

static struct fm_ticks_map map; // guarded by drain_lock

static atomic_int rank_of_process;
static atomic_uint_fast64_t dropped_without_ring;

// initial-exec: a load from a fixed offset instead of a function call, also in the shared library. It takes
// 48 bytes of the space that the loader keeps for libraries opened at run time.
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    struct ring *ring;
    int has_rank;
    int rank;
    char name[NAME_BYTES];
} self;

static void finish_ring(void *ring)
{
    self.ring = NULL;
    // Pairs with the acquire load in drain_and_free(): whoever sees it sees every record.
    atomic_store_explicit(&((struct ring *)ring)->finished, 1, memory_order_release);
}

static void before_fork(void)
{
    pthread_mutex_lock(&drain_lock);
    pthread_mutex_lock(&registry_lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&registry_lock);
    pthread_mutex_unlock(&drain_lock);
}

/* The child has one thread. What the rings hold is the parent's to drain, and the other owners do not exist
 * here. */
static void after_fork_in_child(void)
{
    for (struct ring *ring = first_ring; ring; ring = ring->next) {
        atomic_store_explicit(&ring->tail, atomic_load_explicit(&ring->head, memory_order_relaxed),
                              memory_order_relaxed);
        if (ring == self.ring)
            ring->thread = gettid();
        else
            atomic_store_explicit(&ring->finished, 1, memory_order_relaxed);
    }
    after_fork_in_parent();
}

/* What is done once in a process; registry_lock is held. */
static fm_status set_up_once(void)
{
    if (set_up)
        return FM_OK;
    int err = pthread_key_create(&end_of_thread, finish_ring);
    if (!err && (err = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child)))
        pthread_key_delete(end_of_thread);
    if (err)
        return fm_base_error_set_errno(FM_ERR_NOMEM, err, "cannot prepare the recording of spans");
    const char *clock = getenv("FM_SPAN_CLOCK");
    source = clock && strcmp(clock, "monotonic") == 0
                 ? FM_TICKS_CLOCK
                 : fm_base_ticks_source("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    fm_base_ticks_extend(&map, fm_base_ticks_pair(source));
    set_up = 1;
    return FM_OK;
}

fm_status fm_base_span_enable(size_t records_per_thread)
{
    if (records_per_thread > RECORDS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%zu span records per thread; expected at most %d",
                                 records_per_thread, RECORDS_MAX);
    uint64_t capacity = 2;
    while (capacity < (records_per_thread ? records_per_thread : RECORDS_DEFAULT))
        capacity *= 2;
    pthread_mutex_lock(&registry_lock);
    fm_status status = set_up_once();
    if (status == FM_OK) {
        records_per_thread_now = capacity;
        // Pairs with the acquire load in fm_base_span_now().
        __atomic_store_n(&fm_base_span_state, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&registry_lock);
    return status;
}

void fm_base_span_disable(void)
{
    __atomic_store_n(&fm_base_span_state, 0, __ATOMIC_RELEASE);
}

uint64_t fm_base_span_now(void)
{
    // Pairs with the release store in fm_base_span_enable(): what set_up_once() wrote is there.
    if (__atomic_load_n(&fm_base_span_state, __ATOMIC_ACQUIRE) == 0)
        return 0;
    return fm_ticks_now(source);
}

/* Copies what the thread says of itself into its ring; registry_lock is held. */
static void describe(struct ring *ring)
{
    ring->rank = self.has_rank ? self.rank : RANK_OF_PROCESS;
    ring->thread = gettid();
    memcpy(ring->name, self.name, NAME_BYTES);
    if (!ring->name[0])
        prctl(PR_GET_NAME, ring->name); // at most 16 bytes
}

static struct ring *make_ring(void)
{
    pthread_mutex_lock(&registry_lock);
    uint64_t capacity = records_per_thread_now;
    pthread_mutex_unlock(&registry_lock);
    size_t bytes = sizeof(struct ring) + capacity * sizeof(struct record);
    struct ring *ring = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    if (!ring || pthread_setspecific(end_of_thread, ring) != 0) {
        fm_base_mem_free(ring);
        return NULL;
    }
    // Zeroed as a whole: the pages are there before they are written to between two stamps.
    memset(ring, 0, bytes);
    ring->capacity = capacity;
    pthread_mutex_lock(&registry_lock);
    describe(ring);
    *last_link = ring;
    last_link = &ring->next;
    ring_count++;
    pthread_mutex_unlock(&registry_lock);
    self.ring = ring;
    return ring;
}

static void count_dropped(atomic_uint_fast64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

void fm_base_span_write(const fm_span_site *site, uint64_t begin, int64_t arg_0, int64_t arg_1)
{
    // A moment, unlike a span, has not passed through fm_base_span_now(), nor has it a begin.
    if (begin == 0 && __atomic_load_n(&fm_base_span_state, __ATOMIC_ACQUIRE) == 0)
        return;
    uint64_t end = fm_ticks_now(source);
    struct ring *ring = self.ring;
    if (__builtin_expect(!ring, 0)) {
        ring = make_ring();
        if (!ring) {
            count_dropped(&dropped_without_ring);
            return;
        }
    }
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed); // our own
    if (__builtin_expect(head - ring->tail_seen == ring->capacity, 0)) {
        // Pairs with the release store in drain_ring(): the drain has copied what is below.
        ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
        if (head - ring->tail_seen == ring->capacity) {
            count_dropped(&ring->dropped);
            return;
        }
    }
    ring->records[head & (ring->capacity - 1)] = (struct record){site, begin, end, {arg_0, arg_1}};
    // Pairs with the acquire load in drain_ring().
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
}

void fm_base_span_set_rank(int rank)
{
    atomic_store_explicit(&rank_of_process, rank, memory_order_relaxed);
}

void fm_base_span_set_thread(int rank, const char *name)
{
    self.has_rank = rank >= 0;
    self.rank = rank;
    memset(self.name, 0, NAME_BYTES);
    if (name)
        memcpy(self.name, name, strnlen(name, NAME_BYTES - 1));
    if (!self.ring)
        return;
    pthread_mutex_lock(&registry_lock);
    describe(self.ring);
    pthread_mutex_unlock(&registry_lock);
}

void fm_base_span_release_thread(void)
{
    if (!self.ring)
        return;
    pthread_setspecific(end_of_thread, NULL);
    finish_ring(self.ring);
}

/* Hands every record that is there to the sink. */
static fm_status drain_ring(struct ring *ring, fm_span_sink sink, void *context)
{
    char name[NAME_BYTES];
    fm_span_event event = {.thread_name = name};
    pthread_mutex_lock(&registry_lock);
    memcpy(name, ring->name, NAME_BYTES);
    event.rank = ring->rank;
    event.thread = ring->thread;
    pthread_mutex_unlock(&registry_lock);
    if (event.rank == RANK_OF_PROCESS)
        event.rank = atomic_load_explicit(&rank_of_process, memory_order_relaxed);

    uint64_t head =
        atomic_load_explicit(&ring->head, memory_order_acquire); // pairs with fm_base_span_write()
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed); // the drain's own
    for (; tail != head; tail++) {
        const struct record *record = &ring->records[tail & (ring->capacity - 1)];
        event.site = record->site;
        event.end_ns = fm_base_ticks_to_ns(&map, record->end);
        event.begin_ns = record->begin ? fm_base_ticks_to_ns(&map, record->begin) : event.end_ns;
        memcpy(event.args, record->args, sizeof event.args);
        fm_status status = sink(context, &event);
        if (status != FM_OK)
            return status;
        atomic_store_explicit(&ring->tail, tail + 1, memory_order_release); // pairs with fm_base_span_write()
    }
    return FM_OK;
}

/* Drains the ring that `link` points to, and frees it when its owner has finished it. *out_next is the link
 * after it. */
static fm_status drain_and_free(struct ring **link, fm_span_sink sink, void *context, struct ring ***out_next)
{
    struct ring *ring = *link;
    // Before the records are read: a ring seen as finished gets no more of them. Pairs with finish_ring().
    int finished = atomic_load_explicit(&ring->finished, memory_order_acquire);
    fm_status status = drain_ring(ring, sink, context);
    if (status != FM_OK)
        return status;
    if (!finished) {
        *out_next = &ring->next;
        return FM_OK;
    }
    pthread_mutex_lock(&registry_lock);
    dropped_by_freed_rings += atomic_load_explicit(&ring->dropped, memory_order_relaxed);
    *link = ring->next;
    if (last_link == &ring->next)
        last_link = link;
    ring_count--;
    pthread_mutex_unlock(&registry_lock);
    fm_base_mem_free(ring);
    *out_next = link;
    return FM_OK;
}

/* Relates ticks to time as of now, so that what was recorded before can be converted. drain_lock is held. */
static void extend_map(void)
{
    struct fm_ticks_pair pair = fm_base_ticks_pair(source);
    if (!map.measured && pair.ns - map.aimed.ns < FM_TICKS_FIRST_NS) {
        fm_base_clock_sleep_ns(FM_TICKS_FIRST_NS - (pair.ns - map.aimed.ns));
        pair = fm_base_ticks_pair(source);
    }
    fm_base_ticks_extend(&map, pair);
}

fm_status fm_base_span_drain(fm_span_sink sink, void *context)
{
    fm_status status = FM_OK;
    pthread_mutex_lock(&drain_lock);
    pthread_mutex_lock(&registry_lock);
    int recorded = set_up;
    // A ring that is added meanwhile waits for the next drain: its thread may have written to an earlier ring
    // of its own after that was read here.
    size_t rings = ring_count;
    pthread_mutex_unlock(&registry_lock);
    if (recorded)
        extend_map();
    struct ring **link = &first_ring;
    for (; rings > 0 && status == FM_OK; rings--)
        status = drain_and_free(link, sink, context, &link);
    pthread_mutex_unlock(&drain_lock);
    return status;
}

uint64_t fm_base_span_dropped(void)
{
    uint64_t dropped = atomic_load_explicit(&dropped_without_ring, memory_order_relaxed);
    pthread_mutex_lock(&registry_lock);
    dropped += dropped_by_freed_rings;
    for (struct ring *ring = first_ring; ring; ring = ring->next)
        dropped += atomic_load_explicit(&ring->dropped, memory_order_relaxed);
    pthread_mutex_unlock(&registry_lock);
    return dropped;
}
