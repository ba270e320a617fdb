// What lies in rings: entries taken, each read once and checked, and results put back.
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring_hub_private.h"

enum { ROUNDS = 4 }; // of looking whether more was prepared meanwhile

static uint32_t *word(const struct fm_fs_hub_ring *ring, size_t offset)
{
    return fm_fs_ring_word(ring->memory, offset);
}

/* Results */

static int64_t errno_of(const fm_fs_move *move)
{
    switch (move->status) {
    case FM_ERR_NOT_FOUND:
        return -ESTALE;
    case FM_ERR_STATE: // only a read finds a hole; a write met others again and again
        return move->writes ? -EAGAIN : -ENODATA;
    case FM_ERR_SPACE:
        return -ENOSPC;
    case FM_ERR_FS_QUOTA:
        return -EDQUOT;
    case FM_ERR_LIMIT:
        return -EFBIG;
    case FM_ERR_NOMEM:
        return -ENOMEM;
    case FM_ERR_TIMEOUT:
    case FM_ERR_FS_MAYBE:
        return -ETIMEDOUT;
    case FM_ERR_FS_ACCESS:
    case FM_ERR_PERM:
        return -EPERM;
    case FM_ERR_FS_IS_DIR:
        return -EBADF;
    default:
        return -EIO;
    }
}

// Whether the program sleeps and has now what it sleeps for.
static int sleeps(const struct fm_fs_hub_ring *ring)
{
    uint32_t wanted = __atomic_load_n(word(ring, FM_FS_RING_WANTED), __ATOMIC_RELAXED);
    return (int32_t)(ring->answered - wanted) >= 0 &&
           __atomic_load_n(word(ring, FM_FS_RING_SLEEPS), __ATOMIC_RELAXED);
}

static void wake_now(struct fm_fs_hub_ring *ring)
{
    const uint64_t one = 1;
    ring->waking = ring->looked = 0;
    if (sleeps(ring) && __atomic_exchange_n(word(ring, FM_FS_RING_SLEEPS), 0, __ATOMIC_SEQ_CST) &&
        write(ring->woken, &one, sizeof one) < 0)
        return; // full of wakes already
}

static void answer(struct fm_fs_hub_ring *ring, int32_t index, int64_t result)
{
    struct fm_fs_ring_result *at = &ring->results[ring->answered & (ring->slots - 1)];
    *at = (struct fm_fs_ring_result){.index = index, .result = result};
    ring->answered++;
    __atomic_store_n(word(ring, FM_FS_RING_ANSWERED), ring->answered, __ATOMIC_RELEASE);
    // The result is there before the question whether the program sleeps: it asks in the opposite order.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (ring->waking || !sleeps(ring))
        return;
    // After what else there is in this turn: a wake takes as long as some ten reads.
    ring->waking = 1;
    if (fm_net_timer_start(ring->hub->loop, &ring->wake, 0) < 0)
        wake_now(ring);
}

static void ring_free(struct fm_fs_hub_ring *ring)
{
    munmap(ring->memory, ring->bytes);
    close(ring->wakes);
    close(ring->woken);
    fm_fs_hub_add(&ring->hub->census.rings, -1);
    fm_base_mem_free(ring->ops);
    fm_base_mem_free(ring);
}

// The operation, of which `iov` may be NULL, is over.
static void op_end(struct fm_fs_hub_op *op, int64_t result)
{
    struct fm_fs_hub_ring *ring = op->ring;
    fm_fs_hub *hub = ring->hub;
    if (op->iov)
        fm_fs_hub_iov_drop(hub, op->iov);
    if (ring->session)
        answer(ring, op->index, result);
    op->next = ring->unused;
    ring->unused = op;
    fm_fs_hub_add(&hub->census.under_way, -1);
    if (--ring->under_way == 0 && !ring->session)
        ring_free(ring);
}

void fm_fs_hub_op_done(struct fm_fs_hub_op *op)
{
    const fm_fs_move *move = &op->move;
    op_end(op, move->status == FM_OK ? (int64_t)move->moved : errno_of(move));
}

static void moved(fm_fs_move *move)
{
    struct fm_fs_hub_op *op = move->context;
    fm_fs_hub *hub = op->ring->hub;
    op->waited = move->writes && hub->options.wrote;
    if (op->waited)
        fm_fs_hub_work_add(hub, op); // who is told may wait
    else
        fm_fs_hub_op_done(op);
}

void fm_fs_hub_slow(void *context, fm_fs_move *move)
{
    fm_fs_hub_work_add(context, move->context);
}

/* Entries */

// As the program has it now; it may change under our hands, so every byte is read once.
static struct fm_fs_ring_entry read_entry(const struct fm_fs_ring_entry *at)
{
    uint64_t words[sizeof(struct fm_fs_ring_entry) / sizeof(uint64_t)];
    struct fm_fs_ring_entry entry;
    const uint64_t *from = (const uint64_t *)(const void *)at;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        words[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    memcpy(&entry, words, sizeof entry);
    return entry;
}

// Whether the entry lies in the memory, and in one block of it.
static int fits(const struct fm_fs_hub_iov *iov, const struct fm_fs_ring_entry *entry)
{
    if (!entry->length || entry->place > iov->size || entry->length > iov->size - entry->place)
        return 0;
    return !iov->block_bytes ||
           entry->place / iov->block_bytes == (entry->place + entry->length - 1) / iov->block_bytes;
}

// What is wrong with the entry: a negative errno value; 0: nothing, and it says where the bytes are.
static int check(const struct fm_fs_hub_ring *ring, const struct fm_fs_ring_entry *entry,
                 struct fm_fs_hub_iov **out_iov, uint64_t *out_ino)
{
    const struct fm_fs_hub_session *session = ring->session;
    if (entry->file >= session->file_room || !session->files[entry->file].used)
        return -EBADF;
    const struct fm_fs_hub_file *file = &session->files[entry->file];
    if (ring->writes ? !file->writes : !file->reads)
        return -EACCES;
    if (ring->writes && ring->hub->options.read_only)
        return -EROFS;
    if (entry->offset > INT64_MAX || entry->length > INT64_MAX - entry->offset)
        return -EINVAL;
    struct fm_fs_hub_iov *iov = fm_fs_hub_iov_find(ring->hub, entry->id);
    if (!iov || !fits(iov, entry))
        return -EINVAL;
    if (iov->uid != session->uid && session->uid != 0)
        return -EACCES;
    *out_iov = iov;
    *out_ino = file->ino;
    return 0;
}

static void accept_entry(struct fm_fs_hub_ring *ring)
{
    const struct fm_fs_ring_entry entry = read_entry(&ring->queue[ring->accepted++ & (ring->slots - 1)]);
    fm_fs_hub *hub = ring->hub;
    struct fm_fs_hub_op *op = ring->unused;
    uint64_t ino = 0;
    ring->unused = op->next;
    ring->under_way++;
    fm_fs_hub_add(&hub->census.under_way, 1);
    op->index = entry.index;
    op->iov = NULL;
    op->waited = 0;
    int error = check(ring, &entry, &op->iov, &ino);
    if (error) {
        op->iov = NULL;
        op_end(op, error);
        return;
    }
    op->iov->refs++;
    op->move = (fm_fs_move){.ino = ino,
                            .writes = ring->writes,
                            .priority = ring->priority,
                            .flags = ring->flags,
                            .buffer = op->iov->memory + entry.place,
                            .length = (size_t)entry.length,
                            .offset = entry.offset,
                            .done = moved,
                            .context = op};
    op->flushes = hub->options.waits && hub->options.waits(hub->options.context, ino);
    if (op->flushes)
        fm_fs_hub_work_add(hub, op);
    else
        fm_fs_mover_add(hub->mover, &op->move);
}

// How many of the `available` entries are a batch now; 0: more must come first.
static uint32_t batch_of(struct fm_fs_hub_ring *ring, uint32_t available)
{
    if (ring->io_depth == 0 || !available)
        return available;
    uint32_t limit = ring->io_depth > 0 ? (uint32_t)ring->io_depth : 0u - (uint32_t)ring->io_depth;
    if (available >= limit)
        return limit;
    if (ring->io_depth > 0)
        return 0;
    if (!ring->timeout_ns || ring->overdue)
        return available;
    if (!ring->timing && fm_net_timer_start(ring->hub->loop, &ring->timer, ring->timeout_ns) < 0)
        return available;
    ring->timing = 1;
    return 0;
}

static void accept_batch(struct fm_fs_hub_ring *ring, uint32_t count)
{
    if (ring->timing)
        fm_net_timer_stop(ring->hub->loop, &ring->timer);
    ring->timing = 0;
    ring->overdue = 0;
    while (count--)
        accept_entry(ring);
}

int fm_fs_hub_ring_take(struct fm_fs_hub_ring *ring)
{
    const uint64_t one = 1;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t prepared = __atomic_load_n(word(ring, FM_FS_RING_PREPARED), __ATOMIC_ACQUIRE);
        uint32_t taken = __atomic_load_n(word(ring, FM_FS_RING_TAKEN), __ATOMIC_ACQUIRE);
        // taken <= answered <= accepted <= prepared <= taken + slots, as counts for ever
        if (prepared - taken > ring->slots || ring->accepted - taken > prepared - taken ||
            ring->answered - taken > ring->accepted - taken)
            return 0;
        uint32_t count;
        while ((count = batch_of(ring, prepared - ring->accepted)) > 0)
            accept_batch(ring, count);
        __atomic_store_n(word(ring, FM_FS_RING_ASKS), 1, __ATOMIC_SEQ_CST);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (__atomic_load_n(word(ring, FM_FS_RING_PREPARED), __ATOMIC_ACQUIRE) == prepared)
            return 1;
        __atomic_store_n(word(ring, FM_FS_RING_ASKS), 0, __ATOMIC_RELAXED);
    }
    // Others have a turn first.
    return write(ring->wakes, &one, sizeof one) == (ssize_t)sizeof one || errno == EAGAIN;
}

/* Life */

static void take_or_end(struct fm_fs_hub_ring *ring)
{
    fm_fs_hub *hub = ring->hub;
    if (!fm_fs_hub_ring_take(ring)) {
        fm_fs_hub_session_end(ring->session); // and the ring
        fm_fs_mover_pump(hub->mover);
        return;
    }
    fm_fs_mover_pump(hub->mover);
    // A wake that is due comes behind what was begun, so that the disk works while the program wakes; once, for others may go
    // on putting in.
    if (!ring->waking || ring->looked)
        return;
    ring->looked = 1;
    if (fm_net_timer_start(hub->loop, &ring->wake, 0) < 0)
        wake_now(ring);
}

static void woken(void *context, uint32_t events)
{
    struct fm_fs_hub_ring *ring = context;
    uint64_t count;
    (void)events;
    if (read(ring->wakes, &count, sizeof count) < 0)
        return;
    take_or_end(ring);
}

static void too_late(void *context)
{
    struct fm_fs_hub_ring *ring = context;
    ring->timing = 0;
    ring->overdue = 1;
    take_or_end(ring);
}

// The program is to be woken. What it has put in meanwhile goes first.
static void wake(void *context)
{
    struct fm_fs_hub_ring *ring = context;
    if (!ring->looked && __atomic_load_n(word(ring, FM_FS_RING_PREPARED), __ATOMIC_RELAXED) != ring->accepted)
        take_or_end(ring);
    else
        wake_now(ring);
}

fm_status fm_fs_hub_ring_start(struct fm_fs_hub_ring *ring)
{
    ring->ops = fm_base_mem_zalloc(ring->slots, sizeof *ring->ops);
    if (!ring->ops)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a ring of %u", ring->slots);
    for (uint32_t i = ring->slots; i-- > 0;) {
        ring->ops[i].ring = ring;
        ring->ops[i].next = ring->unused;
        ring->unused = &ring->ops[i];
    }
    ring->queue = (const struct fm_fs_ring_entry *)(const void *)(ring->memory + FM_FS_RING_ENTRIES);
    ring->results = (struct fm_fs_ring_result *)(void *)(ring->memory + FM_FS_RING_ENTRIES +
                                                         (size_t)ring->slots * FM_FS_RING_ENTRY_BYTES);
    ring->timer = (fm_net_timer){.fire = too_late, .context = ring};
    ring->wake = (fm_net_timer){.fire = wake, .context = ring};
    ring->watch =
        (fm_net_watch){.fd = ring->wakes, .events = 1 /* EPOLLIN */, .ready = woken, .context = ring};
    __atomic_store_n(word(ring, FM_FS_RING_ASKS), 1, __ATOMIC_SEQ_CST);
    fm_status status = fm_net_watch_start(ring->hub->loop, &ring->watch);
    if (status < 0) {
        fm_base_mem_free(ring->ops);
        return status;
    }
    fm_fs_hub_add(&ring->hub->census.rings, 1);
    return FM_OK;
}

void fm_fs_hub_ring_end(struct fm_fs_hub_ring *ring)
{
    fm_net_watch_stop(ring->hub->loop, &ring->watch);
    fm_net_timer_stop(ring->hub->loop, &ring->timer);
    fm_net_timer_stop(ring->hub->loop, &ring->wake);
    ring->session = NULL;
    for (uint32_t i = 0; i < ring->slots; i++)
        ring->ops[i].move.cancelled = 1;
    if (!ring->under_way)
        ring_free(ring);
}
