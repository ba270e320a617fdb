/*
 * Updates. Whoever has the chunk's lock is the only one that changes the chunk here:
 *
 *     lock -> (repair) -> apply -> load? -> forward <-> wait -> commit -> reply
 *
 * An update that was applied is not given up while this target is a member of its chain: it may have been passed
 * on, and a reader may have seen it.
 */
#include "storage_private.h"

static void update_locked(void *context);
static void update_forward(void *context);
static void push_locked(void *context);

/* Locks */

static fm_fs_op **bucket_of(fm_fs_op *op)
{
    const uint8_t *bytes = op->message.id.bytes;
    return &op->target->locks[(bytes[15] ^ bytes[14] * 7 ^ bytes[7]) % FM_FS_LOCK_BUCKETS];
}

static fm_fs_op *next_of_lock(fm_fs_op *op, const fm_fs_chunk_id *id)
{
    while (op && !fm_fs_id_equal(&op->message.id, id))
        op = op->lock_next;
    return op;
}

void fm_fs_lock_take(fm_fs_op *op, void (*granted)(void *op))
{
    fm_fs_op **at = bucket_of(op);
    int is_free = next_of_lock(*at, &op->message.id) == NULL;
    while (*at)
        at = &(*at)->lock_next;
    *at = op;
    op->lock_next = NULL;
    op->locked = 1;
    op->timer.fire = granted;
    op->timer.context = op;
    if (is_free)
        granted(op);
}

void fm_fs_lock_release(fm_fs_op *op)
{
    if (!op->locked)
        return;
    fm_fs_op **at = bucket_of(op);
    while (*at != op)
        at = &(*at)->lock_next;
    // Those before it are of other chunks, or this one was still waiting and nobody is woken.
    int held = next_of_lock(*bucket_of(op), &op->message.id) == op;
    *at = op->lock_next;
    op->locked = 0;
    fm_fs_op *next = held ? next_of_lock(op->lock_next, &op->message.id) : NULL;
    // Not called from here: a long line of waiters would be as deep a stack.
    if (next)
        fm_fs_timer_start(op->target->storage->runtime, &next->timer, 0);
}

/* Update */

static const fm_fs_chunk *chunk_of(const fm_fs_op *op)
{
    return fm_fs_store_find(op->target->store, &op->message.id);
}

// In which the chunk is, or is not there.
static uint64_t version_of(const fm_fs_op *op, const fm_fs_chunk *chunk)
{
    return fm_fs_store_version(op->target->store, chunk);
}

static uint8_t base_flags(const fm_fs_chunk *chunk)
{
    return fm_fs_chunk_is_there(chunk) ? 0 : FM_FS_FLAG_BASE_ABSENT;
}

static void update_end(fm_fs_op *op, fm_status status, uint64_t version)
{
    fm_fs_op *parent = op->parent;
    fm_fs_op_end(op, status, version, NULL);
    if (parent)
        fm_fs_sync_child(parent, status);
}

static fm_status chain_changed(const fm_fs_op *op)
{
    return fm_base_error_set(FM_ERR_FS_CHAIN, "chain %u is at version %u, the request says %u",
                             op->target->chain.id, op->target->chain.version, op->message.chain_version);
}

// Whether this target may take the update now.
static fm_status may_update(const fm_fs_op *op)
{
    const fm_fs_target *target = op->target;
    int is_head = target->place == 0;
    if (op->kind == FM_FS_OP_DRIVE)
        return fm_fs_target_serves(target) ? FM_OK : chain_changed(op);
    int checked = !FM_FS_PLANT(FM_FS_PLANT_NO_CHAIN_CHECK);
    if (checked && op->message.chain_version != target->chain.version)
        return chain_changed(op);
    if (op->kind == FM_FS_OP_CLIENT)
        return fm_fs_target_serves(target) && is_head ? FM_OK : chain_changed(op);
    if (target->local == FM_FS_DOWN || !(target->state & (FM_FS_SERVING | FM_FS_SYNCING)))
        return chain_changed(op);
    int replaces = op->message.kind == FM_FS_APPLY_REPLACE || op->message.kind == FM_FS_APPLY_REPLACE_REMOVED;
    return replaces == (target->state == FM_FS_SYNCING) ? FM_OK : chain_changed(op);
}

static void update_commit(fm_fs_op *op)
{
    fm_fs_target *target = op->target;
    const fm_fs_chunk *chunk = chunk_of(op);
    if (chunk && chunk->pending && chunk->pending->version == op->version) {
        fm_status status =
            fm_fs_store_commit(target->store, &op->message.id, op->version, target->chain.version);
        if (status < 0) {
            fm_fs_target_fail(target);
            update_end(op, status, 0);
            return;
        }
    }
    if (op->driving) {
        op->driving = 0;
        op->whole = 0;
        fm_fs_buffer_drop(op->payload);
        op->payload = op->request ? fm_fs_buffer_ref(op->request->payload) : NULL;
        update_locked(op);
        return;
    }
    update_end(op, FM_OK, op->version);
}

static void forwarded(fm_fs_call *call)
{
    fm_fs_op *op = call->context;
    fm_fs_message reply;
    op->calling = 0;
    fm_status status = fm_fs_op_reply(call, &reply);
    if (status == FM_OK)
        op->target->below_permille = reply.offset;
    if (status == FM_OK || (FM_FS_PLANT(FM_FS_PLANT_SKIP_FORWARD) && op->tries > 0)) {
        // Where the chain has changed meanwhile, its new members need the change as well: one that is being filled
        // may have been compared with this replica already.
        if (op->sent_version == op->target->chain.version && fm_fs_target_serves(op->target))
            update_commit(op);
        else
            update_forward(op);
        return;
    }
    if (status == FM_ERR_FS_CHAIN)
        fm_fs_storage_refresh(op->target->storage);
    op->waiting = 1;
    fm_fs_op_wait(op, update_forward);
}

static void loaded(fm_fs_chunk_read *read)
{
    fm_fs_op *op = read->context;
    op->calling = 0;
    if (read->status < 0) {
        // The only copy of a pending version is of no use: what the others have is right.
        op->target->storage->counts.rotten += read->status == FM_ERR_FS_ROT;
        fm_fs_target_fail(op->target);
        update_end(op, read->status, 0);
        return;
    }
    fm_fs_buffer_drop(op->payload);
    op->payload = read->bytes;
    op->whole = 1;
    update_forward(op);
}

// The pending version as a whole, for a successor that may lack what the change stands on.
static void load(fm_fs_op *op, fm_fs_chunk_copy *copy)
{
    if (copy->removed) {
        fm_fs_buffer_drop(op->payload);
        op->payload = NULL;
        op->whole = 1;
        update_forward(op);
        return;
    }
    op->calling = 1;
    op->read = (fm_fs_chunk_read){.copy = copy, .size = copy->size, .done = loaded, .context = op};
    fm_fs_store_read(op->target->store, &op->read);
}

static void send(fm_fs_op *op, const fm_fs_member *to, const fm_fs_chunk_copy *copy)
{
    fm_fs_message message = op->message;
    message.chain = op->target->chain.id;
    message.chain_version = op->target->chain.version;
    message.version = op->version;
    message.base = op->base;
    message.flags = op->flags;
    message.tag = op->tag;
    op->sent_version = message.chain_version;
    if (to->state == FM_FS_SYNCING)
        message.kind = copy->removed ? FM_FS_APPLY_REPLACE_REMOVED : FM_FS_APPLY_REPLACE;
    else if (op->whole)
        message.kind = copy->removed ? FM_FS_APPLY_REMOVE : FM_FS_APPLY_WHOLE;
    if (op->whole) {
        message.offset = 0;
        message.size = copy->size;
        message.crc = fm_fs_buffer_crc(op->payload);
    }
    fm_fs_op_call(op, to, FM_FS_FORWARD, &message, op->payload, 0, forwarded);
}

// The change is applied here, and durable.
static void update_forward(void *context)
{
    fm_fs_op *op = context;
    fm_fs_target *target = op->target;
    op->waiting = 0;
    const fm_fs_chunk *chunk = chunk_of(op);
    int stale = op->kind == FM_FS_OP_FORWARD && op->message.chain_version != target->chain.version;
    if (FM_FS_PLANT(FM_FS_PLANT_NO_CHAIN_CHECK))
        stale = 0;
    if (stale || !fm_fs_target_serves(target)) {
        update_end(op, chain_changed(op), 0);
        return;
    }
    const fm_fs_member *successor = fm_fs_target_successor(target);
    if (!successor || !chunk || !chunk->pending || chunk->pending->version != op->version) {
        update_commit(op);
        return;
    }
    if (!op->whole && (successor->state == FM_FS_SYNCING || op->kind == FM_FS_OP_DRIVE || op->driving))
        load(op, chunk->pending);
    else
        send(op, successor, chunk->pending);
}

static void applied(fm_fs_apply *apply)
{
    fm_fs_op *op = apply->context;
    fm_fs_target *target = op->target;
    op->calling = 0;
    if (apply->status == FM_ERR_FS_ROT) {
        // Repairing needs this chunk's lock; whoever sent the update sends it again.
        target->storage->counts.rotten++;
        fm_fs_repair(target, &op->message.id);
        update_end(op, FM_ERR_FS_ROT, 0);
        return;
    }
    if (apply->status < 0) {
        if (fm_fs_store_health(target->store) < 0)
            fm_fs_target_fail(target);
        update_end(op, apply->status, 0);
        return;
    }
    if (apply->kind == FM_FS_APPLY_REPLACE || apply->kind == FM_FS_APPLY_REPLACE_REMOVED)
        update_end(op, FM_OK, op->version);
    else
        update_forward(op);
}

static void update_apply(fm_fs_op *op)
{
    op->apply = (fm_fs_apply){.kind = (enum fm_fs_apply_kind)op->message.kind,
                              .id = op->message.id,
                              .version = op->version,
                              .chain_version = op->target->chain.version,
                              .offset = op->message.offset,
                              .size = op->message.size,
                              .data = op->payload,
                              .tag = op->tag,
                              .done = applied,
                              .context = op};
    op->calling = 1;
    fm_fs_store_apply(op->target->store, &op->apply);
}

// The request that made this version: it goes with the change, so that whoever gets it knows it too.
static fm_fs_tag tag_of(const fm_fs_store *store, const fm_fs_chunk_id *id, uint64_t version)
{
    const fm_fs_session *session;
    for (size_t i = 0; (session = fm_fs_store_session_at(store, i)); i++)
        if (session->version == version && fm_fs_id_equal(&session->id, id))
            return session->tag;
    return (fm_fs_tag){0};
}

// Brings the chunk's pending version, whoever asked for it, to its end; then goes on with the update itself.
static void drive_first(fm_fs_op *op, const fm_fs_chunk *chunk, int then_again)
{
    op->driving = then_again;
    op->whole = 0;
    op->version = chunk->pending->version;
    op->tag = tag_of(op->target->store, &op->message.id, op->version);
    op->base = version_of(op, chunk);
    op->flags = base_flags(chunk);
    op->target->storage->counts.driven++;
    update_forward(op);
}

// What is left of a target beyond this is for changes of the chunks that are there, which take room until they have
// replaced what they change: a replica that has none for a change holds up its chain.
enum { CREATE_PERCENT = 95 };

static fm_status may_create(fm_fs_op *op, const fm_fs_chunk *chunk)
{
    const fm_fs_store *store = op->target->store;
    uint64_t limit = op->target->disk->capacity_bytes / 100 * CREATE_PERCENT;
    if (op->message.kind == FM_FS_APPLY_REMOVE || fm_fs_chunk_is_there(chunk))
        return FM_OK;
    if (fm_fs_store_used_bytes(store) + op->message.offset + op->message.size > limit)
        return fm_base_error_set(FM_ERR_SPACE, "target %u holds %llu of %llu bytes: no new chunks",
                                 op->target->id, (unsigned long long)fm_fs_store_used_bytes(store),
                                 (unsigned long long)op->target->disk->capacity_bytes);
    if (op->target->below_permille >= CREATE_PERCENT * 10) {
        op->target->asks_below = 1;
        return fm_base_error_set(FM_ERR_SPACE, "a replica of chain %u is %u permille full: no new chunks",
                                 op->target->chain.id, op->target->below_permille);
    }
    return FM_OK;
}

// Whether the change is of whatever is there, or of just that.
static int is_meant(const fm_fs_op *op, const fm_fs_chunk *chunk)
{
    return !(op->message.flags & FM_FS_FLAG_ONLY_IF) || FM_FS_PLANT(FM_FS_PLANT_ANY_VERSION) ||
           op->message.base == version_of(op, chunk);
}

static fm_status met_another(const fm_fs_op *op, const fm_fs_chunk *chunk)
{
    return fm_base_error_set(FM_ERR_STATE, "the chunk is in version %llu; the change is of version %llu",
                             (unsigned long long)version_of(op, chunk), (unsigned long long)op->message.base);
}

static void begin_client(fm_fs_op *op)
{
    fm_fs_target *target = op->target;
    const fm_fs_chunk *chunk = chunk_of(op);
    const fm_fs_tag *tag = &op->message.tag;
    const fm_fs_session *session = fm_fs_store_session(target->store, tag->client, tag->channel);
    if (FM_FS_PLANT(FM_FS_PLANT_DOUBLE_APPLY))
        session = NULL;
    if (tag->client <= fm_fs_store_forgotten_client(target->store) &&
        !FM_FS_PLANT(FM_FS_PLANT_FORGOTTEN_TWICE)) {
        op->flags = FM_FS_FLAG_FORGOTTEN;
        update_end(op, FM_OK, fm_fs_store_newest_client(target->store));
        return;
    }
    if (session && session->tag.sequence > tag->sequence) {
        update_end(op,
                   fm_base_error_set(FM_ERR_STATE, "request %llu of a channel that is at %llu",
                                     (unsigned long long)tag->sequence,
                                     (unsigned long long)session->tag.sequence),
                   0);
        return;
    }
    int again =
        session && session->tag.sequence == tag->sequence && fm_fs_id_equal(&session->id, &op->message.id);
    if (again && version_of(op, chunk) >= session->version) {
        target->storage->counts.resumed++;
        update_end(op, FM_OK, session->version);
        return;
    }
    if (chunk && chunk->pending) {
        int own = again && chunk->pending->version == session->version;
        drive_first(op, chunk, !own);
        return;
    }
    fm_status status = is_meant(op, chunk) ? may_create(op, chunk) : met_another(op, chunk);
    if (status < 0) {
        update_end(op, status, 0);
        return;
    }
    op->tag = *tag;
    op->base = version_of(op, chunk);
    op->flags = base_flags(chunk);
    if (op->flags && op->base < target->floor_next)
        op->base = target->floor_next;
    op->version = op->base + 1;
    target->storage->counts.updates++;
    update_apply(op);
}

static void begin_forward(fm_fs_op *op)
{
    const fm_fs_target *target = op->target;
    const fm_fs_chunk *chunk = chunk_of(op);
    uint64_t committed = version_of(op, chunk);
    op->version = op->message.version;
    op->tag = op->message.tag;
    op->base = op->message.base;
    op->flags = op->message.flags;
    op->whole = op->message.kind == FM_FS_APPLY_WHOLE;
    if (target->state == FM_FS_SYNCING) {
        int newer = chunk && chunk->committed && chunk->committed->version >= op->version &&
                    chunk->committed->chain_version == target->chain.version;
        if (newer)
            update_end(op, FM_OK, chunk->committed->version);
        else
            update_apply(op);
    } else if (committed >= op->version) {
        update_end(op, FM_OK, committed);
    } else if (chunk && chunk->pending && chunk->pending->version == op->version) {
        update_forward(op);
    } else if ((op->flags & FM_FS_FLAG_BASE_ABSENT) == base_flags(chunk) &&
               (committed == op->base || !fm_fs_chunk_is_there(chunk))) {
        update_apply(op);
    } else {
        // A change is missing here. Nothing can be built on that.
        fm_fs_target_fail(op->target);
        update_end(op, fm_base_error_set(FM_ERR_INTERNAL, "a change of the chunk is missing here"), 0);
    }
}

static void update_locked(void *context)
{
    fm_fs_op *op = context;
    fm_status status = may_update(op);
    if (status < 0) {
        update_end(op, status, 0);
        return;
    }
    if (op->kind == FM_FS_OP_CLIENT) {
        begin_client(op);
    } else if (op->kind == FM_FS_OP_FORWARD) {
        begin_forward(op);
    } else {
        const fm_fs_chunk *chunk = chunk_of(op);
        if (chunk && chunk->pending)
            drive_first(op, chunk, 0);
        else
            update_end(op, FM_OK, 0);
    }
}

void fm_fs_update_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message)
{
    fm_fs_op *op =
        fm_fs_op_new(target, request->method == FM_FS_UPDATE ? FM_FS_OP_CLIENT : FM_FS_OP_FORWARD, request);
    if (!op)
        return;
    op->message = *message;
    op->payload = fm_fs_buffer_ref(request->payload);
    int carries = message->kind == FM_FS_APPLY_WRITE || message->kind == FM_FS_APPLY_REPLACE ||
                  message->kind == FM_FS_APPLY_WHOLE;
    size_t size = request->payload ? request->payload->size : 0;
    fm_status status = may_update(op);
    if (status == FM_OK && op->kind == FM_FS_OP_CLIENT && message->kind > FM_FS_APPLY_REMOVE)
        status = fm_base_error_set(FM_ERR_ARG, "a change that only replicas make");
    if (status == FM_OK && (carries ? size != message->size : size != 0))
        status = fm_base_error_set(FM_ERR_FORMAT, "%zu bytes of payload; the message says %u", size,
                                   message->size);
    if (status == FM_OK && carries && fm_fs_buffer_crc(request->payload) != message->crc)
        status = fm_base_error_set(FM_ERR_FORMAT, "the payload does not have its CRC32C");
    if (status < 0)
        update_end(op, status, 0);
    else
        fm_fs_lock_take(op, update_locked);
}

void fm_fs_update_drive_all(fm_fs_target *target)
{
    if (!fm_fs_store_pending_count(target->store))
        return;
    for (const fm_fs_chunk *chunk = fm_fs_store_after(target->store, NULL); chunk;
         chunk = fm_fs_store_after(target->store, &chunk->id)) {
        if (!chunk->pending)
            continue;
        fm_fs_op *op = fm_fs_op_new(target, FM_FS_OP_DRIVE, NULL);
        if (!op)
            return; // the next change of the chain, or the next update of the chunk, does it
        op->message.id = chunk->id;
        fm_fs_lock_take(op, update_locked);
    }
}

/* Push: sends what is committed to a successor that is being filled */

static void pushed(fm_fs_call *call)
{
    fm_fs_op *op = call->context;
    fm_fs_message reply;
    op->calling = 0;
    fm_status status = fm_fs_op_reply(call, &reply);
    op->target->storage->counts.synced += status == FM_OK;
    update_end(op, status, 0);
}

static void push_send(fm_fs_op *op)
{
    const fm_fs_member *successor = fm_fs_target_successor(op->target);
    if (op->target->chain.version != op->message.chain_version || !fm_fs_target_serves(op->target) ||
        !successor || successor->state != FM_FS_SYNCING) {
        update_end(op, FM_ERR_FS_CHAIN, 0);
        return;
    }
    fm_fs_op_call(op, successor, FM_FS_FORWARD, &op->message, op->payload, 0, pushed);
}

static void push_loaded(fm_fs_chunk_read *read)
{
    fm_fs_op *op = read->context;
    op->calling = 0;
    if (read->status < 0) {
        if (read->status == FM_ERR_FS_ROT) {
            op->target->storage->counts.rotten++;
            fm_fs_repair(op->target, &op->message.id);
        }
        update_end(op, read->status, 0);
        return;
    }
    op->payload = read->bytes;
    op->message.size = (uint32_t)op->payload->size;
    op->message.crc = read->crc;
    op->parent->sent_bytes += op->payload->size;
    push_send(op);
}

static void push_locked(void *context)
{
    fm_fs_op *op = context;
    const fm_fs_chunk *chunk = chunk_of(op);
    op->message.chain = op->target->chain.id;
    op->message.chain_version = op->parent->chain_version;
    op->message.version = version_of(op, chunk);
    if (!fm_fs_chunk_is_there(chunk)) {
        op->message.kind = FM_FS_APPLY_REPLACE_REMOVED;
        push_send(op);
        return;
    }
    op->message.kind = FM_FS_APPLY_REPLACE;
    op->calling = 1;
    op->read = (fm_fs_chunk_read){
        .copy = chunk->committed, .size = chunk->committed->size, .done = push_loaded, .context = op};
    fm_fs_store_read(op->target->store, &op->read);
}

void fm_fs_update_push(fm_fs_op *sync, const fm_fs_chunk_id *id)
{
    fm_fs_op *op = fm_fs_op_new(sync->target, FM_FS_OP_PUSH, NULL);
    if (!op) {
        sync->child_failed = 1;
        return;
    }
    sync->children++;
    op->parent = sync;
    op->message.id = *id;
    fm_fs_lock_take(op, push_locked);
}
