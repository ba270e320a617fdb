/*
 * How a chain forgets its removed chunks. The head raises the floor (chunk_store.h) to the latest version in which a
 * chunk was removed:
 *
 *     head --floor--> middle --floor--> tail
 *     raise           raise             raise, forget
 *     forget <------- forget <-------
 *
 *  - New chunks begin behind the floor that is to be at once; and it is raised when none that began before it is on its way
 *    any more. So a change that is not behind a replica's floor is one that this replica has had: a late repetition.
 *  - No replica's floor is above its predecessor's: each raises its own, durably, before it tells the next one, and one
 *    that is filled takes over that of its predecessor. So what a head makes is behind the floors of all others.
 *  - A replica forgets what its successor's floor covers, too: so that whatever a reader has seen, each replica tells nothing
 *    older. One that is being filled forgets nothing, for what its predecessor sends may come late; messages of earlier versions of
 *    the chain are refused.
 */
#include "storage_private.h"

enum {
    FORGET_AT_ONCE = 4096, // some milliseconds
    QUIET_TRIES = 100
};
static const int64_t more_ns = 1000000;
static const int64_t quiet_ns = 5000000;

static void floor_wait(void *context);

static void floor_end(fm_fs_op *op, fm_status status)
{
    if (op->target->raising == op)
        op->target->raising = NULL;
    fm_fs_op_end(op, status, 0, NULL);
}

static int is_update(const fm_fs_op *op)
{
    return op->kind == FM_FS_OP_CLIENT || op->kind == FM_FS_OP_FORWARD || op->kind == FM_FS_OP_DRIVE;
}

// Whether no chunk is being made, or removed that is not there, in a version up to this one.
static int is_quiet(const fm_fs_target *target, uint64_t version)
{
    const fm_fs_storage *storage = target->storage;
    size_t creating = fm_fs_store_creating_count(target->store);
    for (const fm_fs_op *op = storage->ops.after; op != &storage->ops; op = op->after) {
        if (op->target != target || !is_update(op) || !op->version || !(op->flags & FM_FS_FLAG_BASE_ABSENT))
            continue;
        if (op->version <= version)
            return 0;
        const fm_fs_chunk *chunk = fm_fs_store_find(target->store, &op->message.id);
        if (chunk && chunk->pending && chunk->pending->version == op->version && creating)
            creating--;
    }
    return creating == 0;
}

static int is_valid(const fm_fs_op *op)
{
    const fm_fs_target *target = op->target;
    int fills = op->request && target->state == FM_FS_SYNCING && target->local != FM_FS_DOWN &&
                target->floor_chain_version == target->chain.version;
    return op->message.chain_version == target->chain.version && (fm_fs_target_serves(target) || fills);
}

static int may_raise(const fm_fs_target *target)
{
    return target->place == 0 || FM_FS_PLANT(FM_FS_PLANT_FLOOR_ANYWHERE);
}

static void floor_done(fm_fs_op *op)
{
    fm_fs_target *target = op->target;
    if (op->version > target->floor_safe)
        target->floor_safe = op->version;
    if (target->forget.fire)
        fm_fs_timer_start(target->storage->runtime, &target->forget, 0);
    floor_end(op, FM_OK);
}

static void floor_answered(fm_fs_call *call)
{
    fm_fs_op *op = call->context;
    fm_fs_message reply;
    op->calling = 0;
    fm_status status = fm_fs_op_reply(call, &reply);
    if (status < 0 || !is_valid(op)) {
        floor_end(op, FM_ERR_FS_CHAIN);
        return;
    }
    op->target->below_permille = reply.offset;
    floor_done(op);
}

static void floor_durable(fm_fs_flush *flush)
{
    fm_fs_op *op = flush->context;
    op->calling = 0;
    if (flush->status < 0 || !is_valid(op)) {
        floor_end(op, flush->status < 0 ? flush->status : FM_ERR_FS_CHAIN);
        return;
    }
    const fm_fs_member *successor = fm_fs_target_successor(op->target);
    if (!successor || FM_FS_PLANT(FM_FS_PLANT_FLOOR_ANYWHERE)) {
        floor_done(op);
        return;
    }
    fm_fs_message message = {
        .chain = op->target->chain.id, .chain_version = op->message.chain_version, .version = op->version};
    fm_fs_op_call(op, successor, FM_FS_FLOOR, &message, NULL, 0, floor_answered);
}

static void floor_raise(fm_fs_op *op)
{
    fm_fs_store *store = op->target->store;
    fm_status status = FM_OK;
    if (op->version > fm_fs_store_floor(store))
        status = fm_fs_store_floor_set(store, op->version);
    if (status < 0) {
        floor_end(op, status);
        return;
    }
    op->calling = 1;
    op->flush = (fm_fs_flush){.done = floor_durable, .context = op};
    fm_fs_store_flush(store, &op->flush);
}

static void floor_wait(void *context)
{
    fm_fs_op *op = context;
    fm_fs_target *target = op->target;
    if (!is_valid(op) || !may_raise(target)) {
        floor_end(op, FM_ERR_FS_CHAIN);
    } else if (is_quiet(target, op->version) || FM_FS_PLANT(FM_FS_PLANT_FLOOR_EARLY)) {
        floor_raise(op);
    } else if (op->tries++ < QUIET_TRIES) {
        op->timer.fire = floor_wait;
        op->timer.context = op;
        fm_fs_timer_start(target->storage->runtime, &op->timer, quiet_ns);
    } else {
        fm_fs_update_drive_all(target); // one that nobody brings to its end would hold up all
        floor_end(op, FM_ERR_BUSY);
    }
}

void fm_fs_floor_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message)
{
    fm_fs_op *op = fm_fs_op_new(target, FM_FS_OP_FLOOR, request);
    if (!op)
        return;
    op->message = *message;
    op->version = message->version;
    if (is_valid(op))
        floor_raise(op);
    else
        floor_end(op, fm_base_error_set(FM_ERR_FS_CHAIN, "target %u cannot raise its floor now", target->id));
}

fm_status fm_fs_floor_take(fm_fs_target *target, uint64_t version)
{
    // Whatever comes late in the same version of the chain does not lower it again.
    if (target->floor_chain_version == target->chain.version && version <= fm_fs_store_floor(target->store))
        return FM_OK;
    FM_TRY(fm_fs_store_floor_set(target->store, version));
    target->floor_chain_version = target->chain.version;
    target->floor_safe = version;
    target->floor_next = version;
    return FM_OK;
}

static void look(void *context)
{
    fm_fs_target *target = context;
    fm_fs_storage *storage = target->storage;
    fm_fs_store *store = target->store;
    size_t forgotten = 0;
    int may_forget = fm_fs_target_serves(target) || FM_FS_PLANT(FM_FS_PLANT_FORGET_FILLED);
    if (may_forget && (fm_fs_store_removed_count(store) > 0 || target->asks_below)) {
        forgotten = fm_fs_store_forget(store, target->floor_safe, FORGET_AT_ONCE);
        storage->counts.forgotten += forgotten;
        uint64_t version = fm_fs_store_removed_max(store);
        fm_fs_op *op = NULL;
        if (forgotten == 0 && may_raise(target) && !target->raising &&
            (version > target->floor_safe || target->asks_below))
            op = fm_fs_op_new(target, FM_FS_OP_FLOOR, NULL);
        if (op) {
            target->raising = op;
            target->asks_below = 0; // what comes back tells how full the others are
            target->floor_next = version > target->floor_next ? version : target->floor_next;
            op->version = version;
            op->message.chain_version = target->chain.version;
            floor_wait(op);
        }
    }
    fm_fs_timer_start(storage->runtime, &target->forget, forgotten ? more_ns : storage->options.forget_ns);
}

void fm_fs_forget_start(fm_fs_target *target)
{
    if (!target->storage->options.forget_ns)
        return;
    target->forget.fire = look;
    target->forget.context = target;
    fm_fs_timer_start(target->storage->runtime, &target->forget, target->storage->options.forget_ns);
}
