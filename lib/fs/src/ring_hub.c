#include "ring_hub_private.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { WAITING = 64 }; // programs that have not been let in yet

void fm_fs_hub_add(unsigned *counter, int change)
{
    __atomic_fetch_add(counter, (unsigned)change, __ATOMIC_RELAXED);
}

void fm_fs_hub_count(fm_fs_hub *hub, struct fm_fs_hub_census *out_census)
{
    const struct fm_fs_hub_census *census = &hub->census;
    *out_census =
        (struct fm_fs_hub_census){.sessions = __atomic_load_n(&census->sessions, __ATOMIC_RELAXED),
                                  .rings = __atomic_load_n(&census->rings, __ATOMIC_RELAXED),
                                  .iovs = __atomic_load_n(&census->iovs, __ATOMIC_RELAXED),
                                  .files = __atomic_load_n(&census->files, __ATOMIC_RELAXED),
                                  .under_way = __atomic_load_n(&census->under_way, __ATOMIC_RELAXED)};
}

/* Memory of programs */

static struct fm_fs_hub_iov **list_of(fm_fs_hub *hub, const uint8_t *id)
{
    uint64_t hash;
    memcpy(&hash, id, sizeof hash); // ids are drawn at random
    return &hub->iovs[(hash * 0x9E3779B97F4A7C15u) >> 52];
}

struct fm_fs_hub_iov *fm_fs_hub_iov_find(fm_fs_hub *hub, const uint8_t *id)
{
    struct fm_fs_hub_iov *iov = *list_of(hub, id);
    while (iov && memcmp(iov->id, id, sizeof iov->id) != 0)
        iov = iov->next;
    return iov;
}

void fm_fs_hub_iov_add(fm_fs_hub *hub, struct fm_fs_hub_iov *iov)
{
    struct fm_fs_hub_iov **list = list_of(hub, iov->id);
    iov->next = *list;
    *list = iov;
    fm_fs_hub_add(&hub->census.iovs, 1);
}

void fm_fs_hub_iov_drop(fm_fs_hub *hub, struct fm_fs_hub_iov *iov)
{
    if (--iov->refs)
        return;
    munmap(iov->memory, (size_t)iov->size);
    close(iov->fd);
    fm_base_mem_free(iov);
    fm_fs_hub_add(&hub->census.iovs, -1);
}

void fm_fs_hub_iov_remove(fm_fs_hub *hub, struct fm_fs_hub_iov *iov)
{
    struct fm_fs_hub_iov **at = list_of(hub, iov->id);
    while (*at != iov)
        at = &(*at)->next;
    *at = iov->next;
    iov->of->iov_count--;
    iov->of = NULL;
    fm_fs_hub_iov_drop(hub, iov);
}

void fm_fs_hub_iov_remove_all(fm_fs_hub *hub, const struct fm_fs_hub_session *session)
{
    for (size_t i = 0; session->iov_count && i < FM_FS_HUB_IOVS; i++) {
        struct fm_fs_hub_iov *next;
        for (struct fm_fs_hub_iov *iov = hub->iovs[i]; iov; iov = next) {
            next = iov->next;
            if (iov->of == session)
                fm_fs_hub_iov_remove(hub, iov);
        }
    }
}

/* Life */

static fm_status listen_for_programs(fm_fs_hub *hub)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint64_t drawn[2];
    if (getrandom(drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
        return fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    snprintf(hub->address, sizeof hub->address, "fathom-rings-%016llx%016llx", (unsigned long long)drawn[0],
             (unsigned long long)drawn[1]);
    size_t length = strlen(hub->address);
    memcpy(address.sun_path + 1, hub->address, length);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fm_base_error_set_errno(FM_ERR_LIMIT, errno, "a socket for rings");
    hub->listener = (fm_net_watch){.fd = fd, .events = EPOLLIN, .ready = fm_fs_hub_accept, .context = hub};
    if (bind(fd, (struct sockaddr *)&address,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) != 0 ||
        listen(fd, WAITING) != 0)
        return fm_base_error_set_errno(FM_ERR_IO, errno, "listening for programs with rings");
    return fm_net_watch_start(hub->loop, &hub->listener);
}

static void *run(void *context)
{
    fm_fs_hub *hub = context;
    // It only fails when the system has no memory left for its events; then programs wait until the mount ends.
    if (fm_net_loop_run(hub->loop) < 0)
        return hub;
    return NULL;
}

static fm_status start(fm_fs_hub *hub)
{
    const fm_fs_mover_options options = {.volume = hub->options.volume,
                                         .client = hub->options.client,
                                         .parts = FM_FS_HUB_PARTS,
                                         .reserved = FM_FS_HUB_RESERVED,
                                         .gated = 1,
                                         .slow = fm_fs_hub_slow,
                                         .context = hub};
    FM_TRY(fm_fs_mover_new(&options, &hub->mover));
    hub->loop = hub->options.client ? hub->options.loop : fm_fs_mover_loop(hub->mover);
    FM_TRY(fm_fs_hub_work_start(hub));
    FM_TRY(listen_for_programs(hub));
    if (hub->options.client)
        return FM_OK;
    hub->has_thread = pthread_create(&hub->thread, NULL, run, hub) == 0;
    return hub->has_thread ? FM_OK : fm_base_error_set(FM_ERR_LIMIT, "no thread for rings");
}

fm_status fm_fs_hub_new(const fm_fs_hub_options *options, fm_fs_hub **out_hub)
{
    fm_fs_hub *hub = fm_base_mem_zalloc(1, sizeof *hub);
    if (!hub)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for rings");
    hub->options = *options;
    hub->listener.fd = -1;
    hub->sessions.before = hub->sessions.after = &hub->sessions;
    pthread_mutex_init(&hub->work.lock, NULL);
    pthread_cond_init(&hub->work.changed, NULL);
    fm_status status = start(hub);
    if (status < 0) {
        fm_fs_hub_free(hub);
        return status;
    }
    *out_hub = hub;
    return FM_OK;
}

const char *fm_fs_hub_address(const fm_fs_hub *hub)
{
    return hub->address;
}

void fm_fs_hub_free(fm_fs_hub *hub)
{
    if (!hub)
        return;
    if (hub->has_thread) {
        fm_net_loop_stop(hub->loop);
        pthread_join(hub->thread, NULL);
    }
    while (hub->sessions.after != &hub->sessions)
        fm_fs_hub_session_end(hub->sessions.after);
    if (hub->listener.fd >= 0) {
        fm_net_watch_stop(hub->loop, &hub->listener);
        close(hub->listener.fd);
    }
    int over = fm_fs_hub_work_stop(hub);
    // Nothing begins any more; what is under way has a deadline.
    while (__atomic_load_n(&hub->census.under_way, __ATOMIC_RELAXED) &&
           fm_net_loop_progress(hub->loop, (int64_t)1000000000) == FM_OK)
        ;
    fm_fs_mover_free(hub->mover);
    if (!over)
        return;
    pthread_cond_destroy(&hub->work.changed);
    pthread_mutex_destroy(&hub->work.lock);
    fm_base_mem_free(hub);
}
