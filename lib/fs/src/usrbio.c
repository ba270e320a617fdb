// 3FS's interface to rings: the program's side.
#include "hf3fs_usrbio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fathom/mem.h"
#include "usrbio_files.h"

struct memory { // behind an iov
    struct fm_fs_link *link;
    int opened; // another program's
};

struct ring { // behind an ior
    struct fm_fs_link *link;
    uint8_t *memory;
    size_t bytes;
    uint32_t number;
    uint32_t entries, slots;
    int wakes, woken; // eventfds: the mount's process, this one
    uint32_t *prepared, *asks, *answered, *taken, *wanted, *sleeps;
    struct fm_fs_ring_entry *queue;
    struct fm_fs_ring_result *results;
    const void **userdata;
    // Indices that are free: who waits gives them back, who prepares takes them.
    int32_t *unused;
    uint32_t given, used;
    uint32_t sent, reaped; // what the memory's counts must be
    pthread_mutex_t waiting;
};

/* Memory */

// A preference that cannot be met is none: the memory works from any node.
static void bind_to(void *memory, size_t size, int numa)
{
    unsigned long nodes[16] = {0};
    if (numa < 0 || (size_t)numa >= sizeof nodes * CHAR_BIT)
        return;
    nodes[(size_t)numa / (sizeof nodes[0] * CHAR_BIT)] = 1ul << ((size_t)numa % (sizeof nodes[0] * CHAR_BIT));
    const int preferred = 1; // MPOL_PREFERRED, whose header belongs to libnuma
    syscall(SYS_mbind, memory, size, preferred, nodes, sizeof nodes * CHAR_BIT + 1, 0);
}

static int make_memory(size_t size, int numa, int *out_fd, uint8_t **out_memory)
{
    int fd = memfd_create("hf3fs-iov", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int error = size > INT64_MAX ? -EINVAL
                : ftruncate(fd, (off_t)size) != 0 ||
                        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0
                    ? -errno
                    : 0;
    void *memory = error ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!error && memory == MAP_FAILED)
        error = -errno;
    if (error) {
        close(fd);
        return error;
    }
    bind_to(memory, size, numa);
    *out_fd = fd;
    *out_memory = memory;
    return 0;
}

static int check_mount_point(const char *mount_point)
{
    return mount_point && *mount_point && strlen(mount_point) < sizeof(struct hf3fs_iov){0}.mount_point
               ? 0
               : -EINVAL;
}

static void fill_iov(struct hf3fs_iov *iov, void *base, struct memory *memory, const void *id,
                     const char *mount_point, size_t size, size_t block_size, int numa)
{
    *iov = (struct hf3fs_iov){
        .base = base, .iovh = memory, .size = size, .block_size = block_size, .numa = numa};
    memcpy(iov->id, id, sizeof iov->id);
    memcpy(iov->mount_point, mount_point, strlen(mount_point) + 1);
}

int hf3fs_iovcreate(struct hf3fs_iov *iov, const char *hf3fs_mount_point, size_t size, size_t block_size,
                    int numa)
{
    struct fm_fs_ring_ask ask = {.kind = FM_FS_RING_IOV_MAKE, .size = size, .block_bytes = block_size};
    uint8_t *base;
    int fd;
    if (!iov || check_mount_point(hf3fs_mount_point) || !size || block_size > size)
        return -EINVAL;
    struct memory *memory = fm_base_mem_zalloc(1, sizeof *memory);
    if (!memory)
        return -ENOMEM;
    int error = fm_fs_link_take_at(hf3fs_mount_point, &memory->link);
    if (!error && getrandom(ask.id, sizeof ask.id, 0) != (ssize_t)sizeof ask.id)
        error = -EIO;
    if (!error)
        error = make_memory(size, numa, &fd, &base);
    if (!error) {
        error = fm_fs_link_ask(memory->link, &ask, fd, NULL, NULL);
        close(fd);
        if (error)
            munmap(base, size);
    }
    if (error) {
        fm_fs_link_leave(memory->link);
        fm_base_mem_free(memory);
        return error;
    }
    fill_iov(iov, base, memory, ask.id, hf3fs_mount_point, size, block_size, numa);
    return 0;
}

int hf3fs_iovopen(struct hf3fs_iov *iov, const uint8_t id[16], const char *hf3fs_mount_point, size_t size,
                  size_t block_size, int numa)
{
    struct fm_fs_ring_ask ask = {.kind = FM_FS_RING_IOV_OPEN};
    uint64_t there;
    int fds[2] = {-1, -1};
    if (!iov || !id || check_mount_point(hf3fs_mount_point) || !size)
        return -EINVAL;
    struct memory *memory = fm_base_mem_zalloc(1, sizeof *memory);
    if (!memory)
        return -ENOMEM;
    memcpy(ask.id, id, sizeof ask.id);
    memory->opened = 1;
    int error = fm_fs_link_take_at(hf3fs_mount_point, &memory->link);
    if (!error)
        error = fm_fs_link_ask(memory->link, &ask, -1, &there, fds);
    if (!error && (fds[0] < 0 || there < size))
        error = -EINVAL;
    void *base = error ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    if (!error && base == MAP_FAILED)
        error = -errno;
    if (fds[0] >= 0)
        close(fds[0]);
    if (error) {
        fm_fs_link_leave(memory->link);
        fm_base_mem_free(memory);
        return error;
    }
    fill_iov(iov, base, memory, id, hf3fs_mount_point, size, block_size, numa);
    return 0;
}

static void tell(const struct hf3fs_iov *iov, uint16_t kind)
{
    const struct memory *memory = iov->iovh;
    struct fm_fs_ring_ask ask = {.kind = kind};
    memcpy(ask.id, iov->id, sizeof ask.id);
    // Where the connection is broken nobody knows the memory any more.
    if (fm_fs_link_ask(memory->link, &ask, -1, NULL, NULL) != 0)
        return;
}

void hf3fs_iovunlink(struct hf3fs_iov *iov)
{
    if (iov && iov->iovh)
        tell(iov, FM_FS_RING_IOV_UNLINK);
}

void hf3fs_iovdestroy(struct hf3fs_iov *iov)
{
    if (!iov || !iov->iovh)
        return;
    struct memory *memory = iov->iovh;
    if (!memory->opened)
        tell(iov, FM_FS_RING_IOV_DROP);
    munmap(iov->base, iov->size);
    fm_fs_link_leave(memory->link);
    fm_base_mem_free(memory);
    iov->iovh = NULL;
    iov->base = NULL;
}

int hf3fs_iovwrap(struct hf3fs_iov *iov, void *base, const uint8_t id[16], const char *hf3fs_mount_point,
                  size_t size, size_t block_size, int numa)
{
    if (!iov || !base || !id || check_mount_point(hf3fs_mount_point) || !size)
        return -EINVAL;
    fill_iov(iov, base, NULL, id, hf3fs_mount_point, size, block_size, numa);
    bind_to(base, size, numa);
    return 0;
}

/* Rings */

size_t hf3fs_ior_size(int entries)
{
    return entries > 0 && entries <= FM_FS_RING_MAX ? fm_fs_ring_bytes(fm_fs_ring_slots((uint32_t)entries))
                                                    : 0;
}

static void free_ring(struct ring *ring)
{
    if (ring->memory)
        munmap(ring->memory, ring->bytes);
    if (ring->wakes >= 0)
        close(ring->wakes);
    if (ring->woken >= 0)
        close(ring->woken);
    fm_fs_link_leave(ring->link);
    pthread_mutex_destroy(&ring->waiting);
    fm_base_mem_free(ring->userdata);
    fm_base_mem_free(ring->unused);
    fm_base_mem_free(ring);
}

static void place_parts(struct ring *ring)
{
    ring->prepared = fm_fs_ring_word(ring->memory, FM_FS_RING_PREPARED);
    ring->asks = fm_fs_ring_word(ring->memory, FM_FS_RING_ASKS);
    ring->answered = fm_fs_ring_word(ring->memory, FM_FS_RING_ANSWERED);
    ring->taken = fm_fs_ring_word(ring->memory, FM_FS_RING_TAKEN);
    ring->wanted = fm_fs_ring_word(ring->memory, FM_FS_RING_WANTED);
    ring->sleeps = fm_fs_ring_word(ring->memory, FM_FS_RING_SLEEPS);
    ring->queue = (struct fm_fs_ring_entry *)(void *)(ring->memory + FM_FS_RING_ENTRIES);
    ring->results = (struct fm_fs_ring_result *)(void *)(ring->queue + ring->slots);
}

static int start_ring(struct ring *ring, const char *mount_point, struct fm_fs_ring_ask *ask, int numa)
{
    int fd;
    int fds[2];
    uint64_t number;
    ring->slots = fm_fs_ring_slots(ring->entries);
    ring->bytes = fm_fs_ring_bytes(ring->slots);
    ring->userdata = fm_base_mem_zalloc(ring->entries, sizeof *ring->userdata);
    ring->unused = fm_base_mem_zalloc(ring->slots, sizeof *ring->unused);
    if (!ring->userdata || !ring->unused)
        return -ENOMEM;
    for (uint32_t i = 0; i < ring->entries; i++)
        ring->unused[i] = (int32_t)i;
    ring->given = ring->entries;
    int error = fm_fs_link_take_at(mount_point, &ring->link);
    if (!error)
        error = make_memory(ring->bytes, numa, &fd, &ring->memory);
    if (error)
        return error;
    place_parts(ring);
    error = fm_fs_link_ask(ring->link, ask, fd, &number, fds);
    close(fd);
    if (error)
        return error;
    ring->number = (uint32_t)number;
    ring->wakes = fds[0];
    ring->woken = fds[1];
    return fds[0] >= 0 && fds[1] >= 0 ? 0 : -EMFILE;
}

static int create(struct hf3fs_ior *ior, const char *mount_point, int entries, bool for_read, int io_depth,
                  int priority, int timeout, int numa, uint64_t flags)
{
    if (!ior || check_mount_point(mount_point) || entries <= 0 || entries > FM_FS_RING_MAX ||
        io_depth > entries || timeout < 0)
        return -EINVAL;
    struct ring *ring = fm_base_mem_zalloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    ring->wakes = ring->woken = -1;
    ring->entries = (uint32_t)entries;
    pthread_mutex_init(&ring->waiting, NULL);
    struct fm_fs_ring_ask ask = {.kind = FM_FS_RING_MAKE,
                                 .number = (uint32_t)entries,
                                 .writes = !for_read,
                                 .io_depth = io_depth,
                                 .priority = priority,
                                 .timeout_ms = timeout,
                                 .flags = flags};
    int error = start_ring(ring, mount_point, &ask, numa);
    if (error) {
        free_ring(ring);
        return error;
    }
    *ior = (struct hf3fs_ior){.iorh = ring,
                              .for_read = for_read,
                              .io_depth = io_depth,
                              .priority = priority,
                              .timeout = timeout,
                              .flags = flags};
    const char none[16] = {0};
    fill_iov(&ior->iov, ring->memory, NULL, none, mount_point, ring->bytes, 0, numa);
    memcpy(ior->mount_point, ior->iov.mount_point, sizeof ior->mount_point);
    return 0;
}

int hf3fs_iorcreate(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries, bool for_read,
                    int io_depth, int numa)
{
    return create(ior, hf3fs_mount_point, entries, for_read, io_depth, 0, 0, numa, 0);
}

int hf3fs_iorcreate2(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries, bool for_read,
                     int io_depth, int priority, int numa)
{
    return create(ior, hf3fs_mount_point, entries, for_read, io_depth, priority, 0, numa, 0);
}

int hf3fs_iorcreate3(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries, bool for_read,
                     int io_depth, int priority, int timeout, int numa)
{
    return create(ior, hf3fs_mount_point, entries, for_read, io_depth, priority, timeout, numa, 0);
}

int hf3fs_iorcreate4(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries, bool for_read,
                     int io_depth, int timeout, int numa, uint64_t flags)
{
    return create(ior, hf3fs_mount_point, entries, for_read, io_depth, 0, timeout, numa, flags);
}

void hf3fs_iordestroy(struct hf3fs_ior *ior)
{
    if (!ior || !ior->iorh)
        return;
    struct ring *ring = ior->iorh;
    struct fm_fs_ring_ask ask = {.kind = FM_FS_RING_DROP, .number = ring->number};
    (void)fm_fs_link_ask(ring->link, &ask, -1, NULL, NULL); // a broken connection has no ring either
    free_ring(ring);
    ior->iorh = NULL;
    ior->iov.base = NULL;
}

int hf3fs_io_entries(const struct hf3fs_ior *ior)
{
    const struct ring *ring = ior ? ior->iorh : NULL;
    return ring ? (int)ring->entries : -EINVAL;
}

/* Operations */

static int holds(const struct hf3fs_iov *iov, const uint8_t *at, uint64_t len)
{
    uintptr_t base = (uintptr_t)iov->base;
    uintptr_t begin = (uintptr_t)at;
    return iov->base && len && begin >= base && begin - base <= iov->size &&
           len <= iov->size - (begin - base);
}

int hf3fs_prep_io(const struct hf3fs_ior *ior, const struct hf3fs_iov *iov, bool read, void *ptr, int fd,
                  size_t off, uint64_t len, const void *userdata)
{
    uint32_t file;
    if (!ior || !ior->iorh || !iov || read != ior->for_read || !holds(iov, ptr, len))
        return -EINVAL;
    struct ring *ring = ior->iorh;
    int error = fm_fs_usrbio_file(ring->link, fd, !read, &file);
    if (error)
        return error;
    if (ring->used == __atomic_load_n(&ring->given, __ATOMIC_ACQUIRE))
        return -EAGAIN;
    int32_t index = ring->unused[ring->used & (ring->slots - 1)];
    ring->used++;
    ring->userdata[index] = userdata;
    struct fm_fs_ring_entry *entry = &ring->queue[ring->sent++ & (ring->slots - 1)];
    memcpy(entry->id, iov->id, sizeof entry->id);
    entry->place = (uint64_t)((uint8_t *)ptr - iov->base);
    entry->file = file;
    entry->index = index;
    entry->offset = off;
    entry->length = len;
    __atomic_store_n(ring->prepared, ring->sent, __ATOMIC_RELEASE);
    return index;
}

// 1: the other end of the connection is gone.
static int is_gone(const struct ring *ring)
{
    struct pollfd hangup = {.fd = fm_fs_link_fd(ring->link)};
    return poll(&hangup, 1, 0) > 0 && hangup.revents;
}

int hf3fs_submit_ios(const struct hf3fs_ior *ior)
{
    const uint64_t one = 1;
    if (!ior || !ior->iorh)
        return -EINVAL;
    const struct ring *ring = ior->iorh;
    // What was prepared is seen before the question whether the other side sleeps: it asks in the opposite order.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!__atomic_load_n(ring->asks, __ATOMIC_RELAXED) ||
        !__atomic_exchange_n(ring->asks, 0, __ATOMIC_SEQ_CST))
        return 0;
    if (write(ring->wakes, &one, sizeof one) != (ssize_t)sizeof one && errno != EAGAIN)
        return -errno;
    return is_gone(ring) ? -ENOTCONN : 0;
}

// Takes out what is there.
static int reap(struct ring *ring, struct hf3fs_cqe *cqes, int room)
{
    uint32_t count = __atomic_load_n(ring->answered, __ATOMIC_ACQUIRE) - ring->reaped;
    int filled = 0;
    for (; filled < room && (uint32_t)filled < count; filled++) {
        const struct fm_fs_ring_result *result = &ring->results[ring->reaped++ & (ring->slots - 1)];
        int32_t index = result->index;
        if (index < 0 || (uint32_t)index >= ring->entries) // nothing of ours
            index = 0;
        cqes[filled] =
            (struct hf3fs_cqe){.index = index, .result = result->result, .userdata = ring->userdata[index]};
        ring->unused[ring->given & (ring->slots - 1)] = index;
        __atomic_store_n(&ring->given, ring->given + 1, __ATOMIC_RELEASE);
    }
    if (filled)
        __atomic_store_n(ring->taken, ring->reaped, __ATOMIC_RELEASE);
    return filled;
}

// What is left until the calendar time, at least 0.
static struct timespec left_until(const struct timespec *until)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t ns = (int64_t)(until->tv_nsec - now.tv_nsec);
    int64_t seconds = (int64_t)until->tv_sec - now.tv_sec;
    if (ns < 0) {
        ns += 1000000000;
        seconds--;
    }
    return seconds < 0 ? (struct timespec){0} : (struct timespec){seconds, ns};
}

enum outcome { WOKEN, TIMED_OUT, GONE };

// Sleeps until `missing` more results are there.
static enum outcome sleep_for(struct ring *ring, uint32_t missing, const struct timespec *until)
{
    struct pollfd fds[2] = {{.fd = ring->woken, .events = POLLIN}, {.fd = fm_fs_link_fd(ring->link)}};
    uint32_t wanted = ring->reaped + missing;
    struct timespec left = {0};
    uint64_t count;
    __atomic_store_n(ring->wanted, wanted, __ATOMIC_RELAXED);
    __atomic_store_n(ring->sleeps, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if ((int32_t)(__atomic_load_n(ring->answered, __ATOMIC_ACQUIRE) - wanted) >= 0) {
        __atomic_store_n(ring->sleeps, 0, __ATOMIC_RELAXED);
        return WOKEN;
    }
    if (until)
        left = left_until(until);
    int ready = ppoll(fds, 2, until ? &left : NULL, NULL);
    __atomic_store_n(ring->sleeps, 0, __ATOMIC_RELAXED);
    if (ready > 0 && fds[0].revents && read(ring->woken, &count, sizeof count) < 0 && errno != EAGAIN)
        return GONE;
    if (ready > 0 && fds[1].revents)
        return GONE;
    return ready == 0 ? TIMED_OUT : WOKEN;
}

static int wait_for(struct ring *ring, struct hf3fs_cqe *cqes, int room, int min,
                    const struct timespec *until)
{
    enum outcome outcome = WOKEN;
    int filled = 0;
    for (;;) {
        filled += reap(ring, cqes + filled, room - filled);
        if (filled >= min || outcome == TIMED_OUT)
            return filled;
        if (outcome == GONE)
            return filled ? filled : -ENOTCONN;
        outcome = sleep_for(ring, (uint32_t)(min - filled), until);
    }
}

int hf3fs_wait_for_ios(const struct hf3fs_ior *ior, struct hf3fs_cqe *cqes, int cqec, int min_results,
                       const struct timespec *abs_timeout)
{
    if (!ior || !ior->iorh || !cqes || cqec <= 0)
        return -EINVAL;
    struct ring *ring = ior->iorh;
    pthread_mutex_lock(&ring->waiting);
    int result = wait_for(ring, cqes, cqec, min_results < cqec ? min_results : cqec, abs_timeout);
    pthread_mutex_unlock(&ring->waiting);
    return result;
}
