// A program's connection: its messages, and the descriptors that come with them.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ring_hub_private.h"

enum { FILES_FIRST = 16, BYTES_MAX_SHIFT = 47 };

struct reply {
    struct fm_fs_ring_answer answer;
    int fds[2];
    unsigned fd_count;
};

/* Memory */

// Maps what the program sent, if it is memory that cannot shrink any more and has `bytes`. 0 or a negative errno value.
static int map_memory(int fd, uint64_t bytes, uint8_t **out_memory)
{
    struct stat info;
    int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || !bytes || bytes > (uint64_t)1 << BYTES_MAX_SHIFT)
        return -EINVAL;
    if (fstat(fd, &info) != 0 || (uint64_t)info.st_size < bytes)
        return -EINVAL;
    void *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return errno == ENOMEM ? -ENOMEM : -EINVAL;
    *out_memory = memory;
    return 0;
}

static int iov_make(struct fm_fs_hub_session *session, const struct fm_fs_ring_ask *ask, int *fd)
{
    fm_fs_hub *hub = session->hub;
    uint8_t *memory;
    if (fm_fs_hub_iov_find(hub, ask->id))
        return -EEXIST;
    if (ask->block_bytes > ask->size)
        return -EINVAL;
    if (session->iov_count == FM_FS_HUB_IOVS)
        return -EMFILE;
    int error = map_memory(*fd, ask->size, &memory);
    if (error)
        return error;
    struct fm_fs_hub_iov *iov = fm_base_mem_zalloc(1, sizeof *iov);
    if (!iov) {
        munmap(memory, (size_t)ask->size);
        return -ENOMEM;
    }
    *iov = (struct fm_fs_hub_iov){.of = session,
                                  .uid = session->uid,
                                  .fd = *fd,
                                  .memory = memory,
                                  .size = ask->size,
                                  .block_bytes = ask->block_bytes,
                                  .refs = 1};
    memcpy(iov->id, ask->id, sizeof iov->id);
    *fd = -1;
    fm_fs_hub_iov_add(hub, iov);
    session->iov_count++;
    return 0;
}

static int iov_open(const struct fm_fs_hub_session *session, const struct fm_fs_ring_ask *ask,
                    struct reply *reply)
{
    const struct fm_fs_hub_iov *iov = fm_fs_hub_iov_find(session->hub, ask->id);
    if (!iov || iov->unlinked)
        return -ENOENT;
    if (iov->uid != session->uid && session->uid != 0)
        return -EACCES;
    reply->answer.value = iov->size;
    reply->fds[0] = iov->fd;
    reply->fd_count = 1;
    return 0;
}

static int iov_change(struct fm_fs_hub_session *session, const struct fm_fs_ring_ask *ask)
{
    struct fm_fs_hub_iov *iov = fm_fs_hub_iov_find(session->hub, ask->id);
    if (!iov)
        return -ENOENT;
    if (ask->kind == FM_FS_RING_IOV_DROP) {
        if (iov->of != session)
            return -EACCES;
        fm_fs_hub_iov_remove(session->hub, iov);
    } else {
        if (iov->uid != session->uid && session->uid != 0)
            return -EACCES;
        iov->unlinked = 1;
    }
    return 0;
}

/* Rings */

static int free_number(const struct fm_fs_hub_session *session, uint32_t *out_number)
{
    for (uint32_t i = 0; i < FM_FS_HUB_RINGS; i++)
        if (!session->rings[i]) {
            *out_number = i;
            return 0;
        }
    return -EMFILE;
}

static int ring_start(struct fm_fs_hub_ring *ring, int fd)
{
    int error = map_memory(fd, ring->bytes, &ring->memory);
    if (error)
        return error;
    ring->wakes = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ring->woken = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ring->wakes >= 0 && ring->woken >= 0 && fm_fs_hub_ring_start(ring) == FM_OK)
        return 0;
    error = ring->wakes < 0 || ring->woken < 0 ? -EMFILE : -ENOMEM;
    if (ring->wakes >= 0)
        close(ring->wakes);
    if (ring->woken >= 0)
        close(ring->woken);
    munmap(ring->memory, ring->bytes);
    return error;
}

static int ring_make(struct fm_fs_hub_session *session, const struct fm_fs_ring_ask *ask, int fd,
                     struct reply *reply)
{
    enum { NO_HOLES = 2 }; // HF3FS_IOR_FORBID_READ_HOLES
    uint32_t number;
    fm_fs_hub *hub = session->hub;
    if (ask->number < 1 || ask->number > FM_FS_RING_MAX || ask->timeout_ms < 0 ||
        ask->io_depth > (int32_t)ask->number || ask->io_depth < -FM_FS_RING_MAX)
        return -EINVAL;
    uint32_t slots = fm_fs_ring_slots(ask->number);
    int error = free_number(session, &number);
    if (!error && session->slot_count + slots > FM_FS_HUB_SLOTS)
        error = -ENOMEM;
    if (error)
        return error;
    struct fm_fs_hub_ring *ring = fm_base_mem_zalloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    // Checksums must hold against programs of others, which may change the memory meanwhile.
    unsigned copies = session->uid == geteuid() || session->uid == 0 ? 0 : FM_FS_MOVE_COPY;
    *ring = (struct fm_fs_hub_ring){.hub = hub,
                                    .session = session,
                                    .number = number,
                                    .bytes = fm_fs_ring_bytes(slots),
                                    .slots = slots,
                                    .writes = ask->writes != 0,
                                    .io_depth = ask->io_depth,
                                    .priority = ask->priority < 0   ? FM_FS_MOVE_HIGH
                                                : ask->priority > 0 ? FM_FS_MOVE_LOW
                                                                    : FM_FS_MOVE_NORMAL,
                                    .flags = copies |
                                             (!ask->writes && (ask->flags & NO_HOLES) ? FM_FS_MOVE_WHOLE : 0),
                                    .timeout_ns = (int64_t)ask->timeout_ms * 1000000};
    error = ring_start(ring, fd);
    if (error) {
        fm_base_mem_free(ring);
        return error;
    }
    session->rings[number] = ring;
    session->slot_count += slots;
    reply->answer.value = number;
    reply->fds[0] = ring->wakes;
    reply->fds[1] = ring->woken;
    reply->fd_count = 2;
    return 0;
}

static int ring_drop(struct fm_fs_hub_session *session, uint32_t number)
{
    if (number >= FM_FS_HUB_RINGS || !session->rings[number])
        return -EINVAL;
    session->slot_count -= session->rings[number]->slots;
    fm_fs_hub_ring_end(session->rings[number]);
    session->rings[number] = NULL;
    return 0;
}

/* Files */

static int free_file(struct fm_fs_hub_session *session, uint32_t *out_number)
{
    uint32_t number = 0;
    while (number < session->file_room && session->files[number].used)
        number++;
    if (number == FM_FS_HUB_FILES)
        return -EMFILE;
    if (number == session->file_room) {
        uint32_t room = number ? number * 2 : FILES_FIRST;
        struct fm_fs_hub_file *more = fm_base_mem_realloc(session->files, room, sizeof *more);
        if (!more)
            return -ENOMEM;
        memset(more + number, 0, (room - number) * sizeof *more);
        session->files = more;
        session->file_room = room;
    }
    *out_number = number;
    return 0;
}

static int file_add(struct fm_fs_hub_session *session, int fd, struct reply *reply)
{
    fm_fs_hub *hub = session->hub;
    uint64_t ino;
    uint32_t number;
    int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_PATH))
        return -EBADF;
    int error = hub->options.file(hub->options.context, fd, &ino);
    if (!error)
        error = free_file(session, &number);
    if (error)
        return error;
    int mode = flags & O_ACCMODE;
    session->files[number] =
        (struct fm_fs_hub_file){.ino = ino, .used = 1, .reads = mode != O_WRONLY, .writes = mode != O_RDONLY};
    fm_fs_hub_add(&hub->census.files, 1);
    reply->answer.value = number;
    return 0;
}

static int file_drop(struct fm_fs_hub_session *session, uint32_t number)
{
    if (number >= session->file_room || !session->files[number].used)
        return -EBADF;
    session->files[number].used = 0;
    fm_fs_hub_add(&session->hub->census.files, -1);
    return 0;
}

/* Messages */

// 0 or a negative errno value. What it keeps of the descriptor it sets to -1.
static int carry_out(struct fm_fs_hub_session *session, const struct fm_fs_ring_ask *ask, int *fd,
                     struct reply *reply)
{
    switch (ask->kind) {
    case FM_FS_RING_IOV_MAKE:
        return iov_make(session, ask, fd);
    case FM_FS_RING_IOV_OPEN:
        return iov_open(session, ask, reply);
    case FM_FS_RING_IOV_UNLINK:
    case FM_FS_RING_IOV_DROP:
        return iov_change(session, ask);
    case FM_FS_RING_MAKE:
        return ring_make(session, ask, *fd, reply);
    case FM_FS_RING_DROP:
        return ring_drop(session, ask->number);
    case FM_FS_RING_FILE_ADD:
        return file_add(session, *fd, reply);
    case FM_FS_RING_FILE_DROP:
        return file_drop(session, ask->number);
    default:
        return -EINVAL;
    }
}

// The descriptor of a message, -1: none. All further ones are closed.
static int take_fd(fm_fs_hub *hub, struct msghdr *message)
{
    int first = -1;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + i * sizeof fd, sizeof fd);
            if (first < 0)
                first = fd;
            else
                fm_fs_hub_close(hub, fd);
        }
    }
    return first;
}

// 0: there is none. -1: the connection is over.
static int receive(struct fm_fs_hub_session *session, struct fm_fs_ring_ask *ask, int *out_fd)
{
    struct iovec bytes = {ask, sizeof *ask};
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t got = recvmsg(session->watch.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    *out_fd = take_fd(session->hub, &message);
    return got == (ssize_t)sizeof *ask && !(message.msg_flags & MSG_TRUNC) &&
                   ask->magic == FM_FS_RING_MAGIC && ask->version == FM_FS_RING_VERSION
               ? 1
               : -1;
}

// 0: the program does not take its answers.
static int send_reply(const struct fm_fs_hub_session *session, struct reply *reply)
{
    struct iovec bytes = {&reply->answer, sizeof reply->answer};
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr aligned;
    } control = {0};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (reply->fd_count) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(reply->fd_count * sizeof(int));
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(reply->fd_count * sizeof(int));
        memcpy(CMSG_DATA(head), reply->fds, reply->fd_count * sizeof(int));
    }
    return sendmsg(session->watch.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof reply->answer;
}

static void readable(void *context, uint32_t events)
{
    struct fm_fs_hub_session *session = context;
    fm_fs_hub *hub = session->hub;
    struct fm_fs_ring_ask ask;
    struct reply reply = {.answer = {.magic = FM_FS_RING_MAGIC}};
    int fd = -1;
    (void)events;
    int got = receive(session, &ask, &fd);
    if (got > 0) {
        reply.answer.error = carry_out(session, &ask, &fd, &reply);
        if (!send_reply(session, &reply))
            got = -1;
    }
    if (fd >= 0)
        fm_fs_hub_close(hub, fd);
    if (got < 0)
        fm_fs_hub_session_end(session);
}

/* Life */

static struct fm_fs_hub_session *make(fm_fs_hub *hub, int fd)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return NULL;
    if (!hub->options.any_user && peer.uid != geteuid() && peer.uid != 0)
        return NULL;
    if (hub->census.sessions >= FM_FS_HUB_SESSIONS)
        return NULL;
    struct fm_fs_hub_session *session = fm_base_mem_zalloc(1, sizeof *session);
    if (!session)
        return NULL;
    session->hub = hub;
    session->uid = peer.uid;
    session->watch = (fm_net_watch){.fd = fd, .events = EPOLLIN, .ready = readable, .context = session};
    if (fm_net_watch_start(hub->loop, &session->watch) < 0) {
        fm_base_mem_free(session);
        return NULL;
    }
    return session;
}

void fm_fs_hub_accept(void *context, uint32_t events)
{
    fm_fs_hub *hub = context;
    (void)events;
    int fd = accept4(hub->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct fm_fs_hub_session *session = make(hub, fd);
    if (!session) {
        close(fd);
        return;
    }
    session->before = hub->sessions.before;
    session->after = &hub->sessions;
    session->before->after = session;
    hub->sessions.before = session;
    fm_fs_hub_add(&hub->census.sessions, 1);
}

void fm_fs_hub_session_end(struct fm_fs_hub_session *session)
{
    fm_fs_hub *hub = session->hub;
    unsigned files = 0;
    fm_net_watch_stop(hub->loop, &session->watch);
    close(session->watch.fd);
    for (uint32_t i = 0; i < FM_FS_HUB_RINGS; i++)
        if (session->rings[i])
            fm_fs_hub_ring_end(session->rings[i]);
    fm_fs_hub_iov_remove_all(hub, session);
    for (uint32_t i = 0; i < session->file_room; i++)
        files += session->files[i].used ? 1u : 0;
    fm_fs_hub_add(&hub->census.files, -(int)files);
    fm_fs_hub_add(&hub->census.sessions, -1);
    session->before->after = session->after;
    session->after->before = session->before;
    fm_base_mem_free(session->files);
    fm_base_mem_free(session);
}
