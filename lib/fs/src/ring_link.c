#include "ring_link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct fm_fs_link {
    struct fm_fs_link *next; // of this program's
    unsigned refs;           // one is the list's
    unsigned serial;
    pid_t pid; // a child's are its own
    int fd;
    char name[sizeof(struct fm_fs_ring_address)];
    pthread_mutex_t asking;
};

static pthread_mutex_t links_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fm_fs_link *links;
static unsigned serials;

static void drop(struct fm_fs_link *link)
{
    if (--link->refs)
        return;
    close(link->fd);
    pthread_mutex_destroy(&link->asking);
    free(link);
}

static int is_broken(const struct fm_fs_link *link)
{
    struct pollfd poll_fd = {.fd = link->fd};
    return link->pid != getpid() || (poll(&poll_fd, 1, 0) > 0 && poll_fd.revents);
}

static int dial(const char *name, int *out_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    memcpy(address.sun_path + 1, name, length);
    if (connect(fd, (struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) != 0) {
        int error = errno == ECONNREFUSED ? ENOENT : errno;
        close(fd);
        return -error;
    }
    *out_fd = fd;
    return 0;
}

// With links_lock held.
static int make(const char *name, struct fm_fs_link **out_link)
{
    struct fm_fs_link *link = calloc(1, sizeof *link); // the last one stays until the program ends
    if (!link)
        return -ENOMEM;
    int error = dial(name, &link->fd);
    if (error) {
        free(link);
        return error;
    }
    pthread_mutex_init(&link->asking, NULL);
    memcpy(link->name, name, strlen(name) + 1);
    link->refs = 1;
    link->pid = getpid();
    link->serial = ++serials;
    link->next = links;
    links = link;
    *out_link = link;
    return 0;
}

int fm_fs_link_take(int fd, struct fm_fs_link **out_link)
{
    struct fm_fs_ring_address address;
    if (ioctl(fd, FM_FS_RING_IOC_ADDRESS, &address) != 0)
        return errno == ENOTTY || errno == ENOSYS || errno == EINVAL ? -ENOENT : -errno;
    address.name[sizeof address.name - 1] = 0;
    int error = 0;
    struct fm_fs_link *link = NULL;
    pthread_mutex_lock(&links_lock);
    for (struct fm_fs_link **at = &links; *at;) {
        struct fm_fs_link *one = *at;
        if (is_broken(one)) { // who still holds it learns that it is broken when using it
            *at = one->next;
            drop(one);
            continue;
        }
        if (strcmp(one->name, address.name) == 0)
            link = one;
        at = &one->next;
    }
    if (!link)
        error = make(address.name, &link);
    if (!error)
        link->refs++;
    pthread_mutex_unlock(&links_lock);
    if (!error)
        *out_link = link;
    return error;
}

int fm_fs_link_take_at(const char *mount_point, struct fm_fs_link **out_link)
{
    int fd = open(mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = fm_fs_link_take(fd, out_link);
    close(fd);
    return error;
}

struct fm_fs_link *fm_fs_link_ref(struct fm_fs_link *link)
{
    pthread_mutex_lock(&links_lock);
    link->refs++;
    pthread_mutex_unlock(&links_lock);
    return link;
}

void fm_fs_link_leave(struct fm_fs_link *link)
{
    if (!link)
        return;
    pthread_mutex_lock(&links_lock);
    drop(link);
    pthread_mutex_unlock(&links_lock);
}

unsigned fm_fs_link_serial(const struct fm_fs_link *link)
{
    return link->serial;
}

int fm_fs_link_fd(const struct fm_fs_link *link)
{
    return link->fd;
}

static int send_ask(int socket_fd, struct fm_fs_ring_ask *ask, int fd)
{
    struct iovec bytes = {ask, sizeof *ask};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control = {0};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    ssize_t sent;
    do
        sent = sendmsg(socket_fd, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent == (ssize_t)sizeof *ask)
        return 0;
    return sent < 0 && errno != EPIPE && errno != ECONNRESET ? -errno : -ENOTCONN;
}

static void take_fds(struct msghdr *message, int out_fds[2])
{
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count && i < 2; i++)
            memcpy(&out_fds[i], CMSG_DATA(head) + i * sizeof(int), sizeof(int));
    }
}

static int take_answer(int socket_fd, struct fm_fs_ring_answer *answer, int out_fds[2])
{
    struct iovec bytes = {answer, sizeof *answer};
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t got;
    do
        got = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got > 0)
        take_fds(&message, out_fds);
    if (got != (ssize_t)sizeof *answer || answer->magic != FM_FS_RING_MAGIC)
        return -ENOTCONN;
    return message.msg_flags & MSG_CTRUNC ? -EMFILE : 0;
}

int fm_fs_link_ask(struct fm_fs_link *link, struct fm_fs_ring_ask *ask, int fd, uint64_t *out_value,
                   int out_fds[2])
{
    struct fm_fs_ring_answer answer = {0};
    int fds[2] = {-1, -1};
    ask->magic = FM_FS_RING_MAGIC;
    ask->version = FM_FS_RING_VERSION;
    if (link->pid != getpid())
        return -ENOTCONN;
    pthread_mutex_lock(&link->asking);
    int error = send_ask(link->fd, ask, fd);
    if (!error)
        error = take_answer(link->fd, &answer, fds);
    pthread_mutex_unlock(&link->asking);
    if (!error)
        error = answer.error;
    for (int i = 0; i < 2; i++) {
        if (out_fds && !error)
            out_fds[i] = fds[i];
        else if (fds[i] >= 0)
            close(fds[i]);
    }
    if (!error && out_value)
        *out_value = answer.value;
    return error;
}
