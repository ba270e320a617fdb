// What a hub's loop may not do itself, because it waits: changes of the names, and closing what programs have sent.
#include <time.h>
#include <unistd.h>

#include "ring_hub_private.h"

enum {
    STRANGERS = 64,
    TRIES = 2,    // of preparing; then others cut the file again and again
    CLOSER_S = 10 // some file system does not let a descriptor go
};

/* Operations */

// How far writes of the file reach that wait, this one included: it grows for all of them. With the lock held.
static uint64_t reach_of(const struct fm_fs_hub_work *work, const struct fm_fs_hub_op *op)
{
    uint64_t reach = op->move.offset + op->move.length;
    for (const struct fm_fs_hub_op *other = work->first; other; other = other->next)
        if (!other->waited && other->move.writes && !other->move.unsettled &&
            other->move.ino == op->move.ino && other->move.offset + other->move.length > reach)
            reach = other->move.offset + other->move.length;
    return reach;
}

static void give_back(fm_fs_hub *hub, struct fm_fs_hub_op *op)
{
    struct fm_fs_hub_work *work = &hub->work;
    op->next = work->back;
    work->back = op;
    if (!work->posted) {
        work->posted = 1;
        fm_net_loop_post(hub->loop, &hub->back);
    }
}

// With the file looked at, and grown if it was to be, this one and those like it begin again.
static void give_back_alike(fm_fs_hub *hub, struct fm_fs_hub_op *op)
{
    struct fm_fs_hub_work *work = &hub->work;
    const fm_fs_node node = op->move.node;
    give_back(hub, op);
    struct fm_fs_hub_op **at = &work->first;
    work->last = NULL;
    while (*at) {
        struct fm_fs_hub_op *other = *at;
        if (!other->waited && !other->flushes && !other->move.unsettled &&
            other->move.writes == op->move.writes && other->move.ino == node.ino &&
            other->move.slowed < TRIES) {
            *at = other->next;
            other->move.node = node;
            other->move.looked = 1;
            give_back(hub, other);
        } else {
            work->last = other;
            at = &other->next;
        }
    }
}

static void carry_out(fm_fs_hub *hub, struct fm_fs_hub_op *op)
{
    op->waited = 1;
    fm_fs_move_carry_out(hub->options.volume, &op->move);
}

// Looks the file up for the loop, which cannot wait for names elsewhere. 0: it is inline, or not to be found.
static int look(fm_fs_hub *hub, struct fm_fs_hub_op *op)
{
    fm_fs_move *move = &op->move;
    move->looked = fm_fs_meta_node(fm_fs_volume_meta(hub->options.volume), move->ino, &move->node) == FM_OK &&
                   !(move->node.flags & FM_FS_NODE_INLINE);
    return move->looked;
}

// Does what waits, as far as the loop can go on then. 0: the whole operation must be done here.
static int prepare(fm_fs_hub *hub, struct fm_fs_hub_op *op, uint64_t reach)
{
    if (op->move.slowed >= TRIES || op->move.unsettled)
        return 0;
    if (op->move.writes && fm_fs_volume_grow(hub->options.volume, op->move.ino, reach) < 0)
        return 0;
    return look(hub, op);
}

enum step { FLUSHED, PREPARED, DONE };

static enum step take_step(fm_fs_hub *hub, struct fm_fs_hub_op *op, uint64_t reach)
{
    const fm_fs_hub_options *options = &hub->options;
    const fm_fs_move *move = &op->move;
    if (op->flushes) {
        op->flushes = 0;
        options->flush(options->context, move->ino);
        return FLUSHED;
    }
    if (!op->waited) {
        if (prepare(hub, op, reach))
            return PREPARED;
        carry_out(hub, op);
    }
    if (move->writes && options->wrote)
        options->wrote(options->context, move->ino, move->offset, move->length);
    return DONE;
}

static void *work_on(void *context)
{
    fm_fs_hub *hub = context;
    struct fm_fs_hub_work *work = &hub->work;
    pthread_mutex_lock(&work->lock);
    while (!work->stop) {
        struct fm_fs_hub_op *op = work->first;
        if (!op) {
            pthread_cond_wait(&work->changed, &work->lock);
            continue;
        }
        work->first = op->next;
        uint64_t reach = reach_of(work, op);
        pthread_mutex_unlock(&work->lock);
        enum step step = take_step(hub, op, reach);
        pthread_mutex_lock(&work->lock);
        if (step == PREPARED)
            give_back_alike(hub, op);
        else
            give_back(hub, op);
    }
    pthread_mutex_unlock(&work->lock);
    return NULL;
}

// In the loop: what workers are done with.
static void take_back(void *context)
{
    fm_fs_hub *hub = context;
    struct fm_fs_hub_work *work = &hub->work;
    pthread_mutex_lock(&work->lock);
    struct fm_fs_hub_op *op = work->back;
    work->back = NULL;
    work->posted = 0;
    pthread_mutex_unlock(&work->lock);
    while (op) {
        struct fm_fs_hub_op *next = op->next;
        if (op->waited)
            fm_fs_hub_op_done(op);
        else
            fm_fs_mover_add(hub->mover, &op->move);
        op = next;
    }
    fm_fs_mover_pump(hub->mover);
}

void fm_fs_hub_work_add(fm_fs_hub *hub, struct fm_fs_hub_op *op)
{
    struct fm_fs_hub_work *work = &hub->work;
    op->next = NULL;
    pthread_mutex_lock(&work->lock);
    if (work->first)
        work->last->next = op;
    else
        work->first = op;
    work->last = op;
    pthread_cond_broadcast(&work->changed);
    pthread_mutex_unlock(&work->lock);
}

/* Descriptors */

static void *close_all(void *context)
{
    struct fm_fs_hub_work *work = &((fm_fs_hub *)context)->work;
    pthread_mutex_lock(&work->lock);
    while (!work->stop || work->stranger_count) {
        if (!work->stranger_count) {
            pthread_cond_wait(&work->changed, &work->lock);
            continue;
        }
        int fd = work->strangers[--work->stranger_count];
        pthread_mutex_unlock(&work->lock);
        close(fd);
        pthread_mutex_lock(&work->lock);
    }
    pthread_mutex_unlock(&work->lock);
    return NULL;
}

void fm_fs_hub_close(fm_fs_hub *hub, int fd)
{
    struct fm_fs_hub_work *work = &hub->work;
    pthread_mutex_lock(&work->lock);
    if (work->stranger_count == work->stranger_room) {
        size_t room = work->stranger_room + STRANGERS;
        int *more = fm_base_mem_realloc(work->strangers, room, sizeof *more);
        if (more) {
            work->strangers = more;
            work->stranger_room = room;
        }
    }
    if (work->stranger_count < work->stranger_room) // else it stays open: better than to wait here
        work->strangers[work->stranger_count++] = fd;
    pthread_cond_broadcast(&work->changed);
    pthread_mutex_unlock(&work->lock);
}

/* Life */

fm_status fm_fs_hub_work_start(fm_fs_hub *hub)
{
    hub->back = (fm_net_task){.run = take_back, .context = hub};
    hub->has_closer = pthread_create(&hub->closer, NULL, close_all, hub) == 0;
    if (!hub->has_closer)
        return fm_base_error_set(FM_ERR_LIMIT, "no thread for rings");
    for (; hub->worker_count < FM_FS_HUB_WORKERS; hub->worker_count++)
        if (pthread_create(&hub->workers[hub->worker_count], NULL, work_on, hub) != 0)
            return fm_base_error_set(FM_ERR_LIMIT, "no thread for rings");
    return FM_OK;
}

int fm_fs_hub_work_stop(fm_fs_hub *hub)
{
    struct fm_fs_hub_work *work = &hub->work;
    struct timespec until;
    pthread_mutex_lock(&work->lock);
    work->stop = 1;
    pthread_cond_broadcast(&work->changed);
    pthread_mutex_unlock(&work->lock);
    for (unsigned i = 0; i < hub->worker_count; i++)
        pthread_join(hub->workers[i], NULL);
    pthread_mutex_lock(&work->lock);
    while (work->first) {
        struct fm_fs_hub_op *op = work->first;
        work->first = op->next;
        op->waited = 1;
        op->move.status = FM_ERR_CANCELLED;
        give_back(hub, op);
    }
    pthread_mutex_unlock(&work->lock);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += CLOSER_S;
    if (hub->has_closer && pthread_timedjoin_np(hub->closer, NULL, &until) != 0) {
        pthread_detach(hub->closer);
        return 0;
    }
    fm_base_mem_free(work->strangers);
    return 1;
}
