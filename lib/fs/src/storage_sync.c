/*
 * Recovery: the last serving target of a chain fills its successor.
 *
 *     start     the successor takes over the floor, forgets requests of earlier times and learns those that are known here
 *     list      what it has, page by page in order of ids, is compared with what is here
 *     push      each chunk that differs is sent whole, under its lock, or removed
 *     done      the successor says that it is up to date
 *
 * Clients write meanwhile: every update that the predecessor applies goes to the successor as a whole chunk. Any
 * change of the chain ends it; the next one finds little left to do.
 */
#include "storage_private.h"

enum {
    PUSHES_AT_ONCE = 16,
};
static const int64_t retry_ns = 300000000;
static const int64_t unresolved_ns = 10000000;

static void sync_list(void *context);
static void sync_compare(void *context);

static void sync_end(fm_fs_op *op, int failed)
{
    fm_fs_target *target = op->target;
    target->sync = NULL;
    target->sync_failing = failed;
    target->sync_not_before_ns = failed ? fm_fs_now(target->storage->runtime) + retry_ns : 0;
    fm_fs_op_end(op, FM_OK, 0, NULL);
    if (failed)
        fm_fs_storage_refresh(target->storage);
    fm_fs_sync_poll(target);
}

static int is_valid(const fm_fs_op *op)
{
    return op->chain_version == op->target->chain.version && fm_fs_target_serves(op->target);
}

static void sync_call(fm_fs_op *op, enum fm_fs_method method, fm_fs_buffer *payload, size_t reply_bytes,
                      void (*done)(fm_fs_call *call))
{
    const fm_fs_member *successor = fm_fs_target_successor(op->target);
    if (!is_valid(op) || !successor || successor->state != FM_FS_SYNCING) {
        sync_end(op, 1);
        return;
    }
    fm_fs_message message = {.chain = op->target->chain.id,
                             .chain_version = op->chain_version,
                             .id = op->after_id,
                             .version = op->version,
                             .base = fm_fs_store_forgotten_client(op->target->store)};
    message.flags = op->after_any ? 0 : FM_FS_FLAG_ABSENT;
    message.size = payload ? (uint32_t)payload->size : 0;
    fm_fs_op_call(op, successor, method, &message, payload, reply_bytes, done);
}

static void sync_finished(fm_fs_call *call)
{
    fm_fs_op *op = call->context;
    fm_fs_message reply;
    op->calling = 0;
    sync_end(op, fm_fs_op_reply(call, &reply) < 0);
}

// What is not there has at least the version `floor`, here and at the successor.
static int needs_push(const fm_fs_chunk *chunk, const fm_fs_entry *entry, uint64_t floor)
{
    const fm_fs_chunk_copy *copy = chunk ? chunk->committed : NULL;
    int is_there = fm_fs_chunk_is_there(chunk);
    if (FM_FS_PLANT(FM_FS_PLANT_LOST_RESYNC) && copy && entry)
        return 0;
    if (!entry)
        return is_there || (copy && copy->version > floor);
    if (entry->pending || is_there == entry->removed)
        return 1;
    if (is_there)
        return entry->version != copy->version || entry->size != copy->size || entry->crc != copy->crc;
    uint64_t here = copy && copy->version > floor ? copy->version : floor;
    return entry->version > floor ? entry->version != here : here != floor;
}

// The next id on either side, and what each side has of it. 0: this page is done.
static int next_pair(fm_fs_op *op, const fm_fs_chunk **out_chunk, const fm_fs_entry **out_entry,
                     fm_fs_entry *entry)
{
    const fm_fs_chunk *chunk = fm_fs_store_after(op->target->store, op->after_any ? &op->after_id : NULL);
    size_t count = op->entries ? op->entries->size / FM_FS_ENTRY_BYTES : 0;
    int has_entry = op->entry < count;
    *out_entry = NULL;
    *out_chunk = NULL;
    if (!has_entry && !op->remote_done)
        return 0; // what follows here may be there too
    if (!has_entry && !chunk)
        return 0;
    if (has_entry)
        *entry = fm_fs_entry_decode(op->entries->data + (size_t)op->entry * FM_FS_ENTRY_BYTES);
    int order = !has_entry ? -1 : !chunk ? 1 : fm_fs_chunk_id_compare(&chunk->id, &entry->id);
    if (order <= 0)
        *out_chunk = chunk;
    if (order >= 0) {
        *out_entry = entry;
        op->entry++;
    }
    return 1;
}

// How long to wait so that no more bytes a second are sent than allowed.
static int64_t throttle_ns(const fm_fs_op *op)
{
    uint64_t rate = op->target->storage->options.sync_bytes_per_s;
    if (!rate)
        return 0;
    int64_t due = op->began_ns + (int64_t)((double)op->sent_bytes / (double)rate * 1e9);
    return due - fm_fs_now(op->target->storage->runtime);
}

// Whether changes of earlier versions of the chain are pending here still. An earlier tail may have committed them,
// and readers may have seen them: no other may become the tail without them.
static int is_unresolved(const fm_fs_target *target)
{
    if (!fm_fs_store_pending_count(target->store))
        return 0;
    for (const fm_fs_chunk *chunk = fm_fs_store_after(target->store, NULL); chunk;
         chunk = fm_fs_store_after(target->store, &chunk->id))
        if (chunk->pending && chunk->pending->chain_version < target->chain.version)
            return 1;
    return 0;
}

static void sync_finish(fm_fs_op *op)
{
    if (!is_unresolved(op->target)) {
        sync_call(op, FM_FS_SYNC_DONE, NULL, 0, sync_finished);
        return;
    }
    op->timer.fire = sync_compare;
    op->timer.context = op;
    fm_fs_timer_start(op->target->storage->runtime, &op->timer, unresolved_ns);
}

static void sync_compare(void *context)
{
    fm_fs_op *op = context;
    const fm_fs_chunk *chunk;
    const fm_fs_entry *entry;
    fm_fs_entry space;
    if (op->child_failed || !is_valid(op)) {
        if (op->children == 0)
            sync_end(op, 1);
        return;
    }
    int64_t wait = throttle_ns(op);
    if (wait > 0) {
        op->timer.fire = sync_compare;
        op->timer.context = op;
        fm_fs_timer_start(op->target->storage->runtime, &op->timer, wait);
        return;
    }
    while (op->children < PUSHES_AT_ONCE) {
        if (!next_pair(op, &chunk, &entry, &space)) {
            if (op->children > 0)
                return;
            if (op->remote_done)
                sync_finish(op);
            else
                sync_list(op);
            return;
        }
        op->after_id = chunk ? chunk->id : entry->id;
        op->after_any = 1;
        if (needs_push(chunk, entry, op->version))
            fm_fs_update_push(op, &op->after_id);
        if (op->child_failed)
            return;
    }
}

void fm_fs_sync_child(fm_fs_op *sync, fm_status status)
{
    sync->children--;
    sync->child_failed |= status < 0;
    // By the timer: a child that ends at once would call this from within the loop that begins them.
    sync->timer.fire = sync_compare;
    sync->timer.context = sync;
    fm_fs_timer_start(sync->target->storage->runtime, &sync->timer, 0);
}

static void listed(fm_fs_call *call)
{
    fm_fs_op *op = call->context;
    fm_fs_message reply;
    op->calling = 0;
    fm_status status = fm_fs_op_reply(call, &reply);
    size_t size = call->reply_payload ? call->reply_payload->size : 0;
    if (status < 0 || size % FM_FS_ENTRY_BYTES != 0) {
        sync_end(op, 1);
        return;
    }
    fm_fs_buffer_drop(op->entries);
    op->entries = fm_fs_buffer_ref(call->reply_payload);
    op->entry = 0;
    op->remote_done = size < (size_t)FM_FS_ENTRIES_MAX * FM_FS_ENTRY_BYTES;
    sync_compare(op);
}

static void sync_list(void *context)
{
    sync_call(context, FM_FS_SYNC_LIST, NULL, (size_t)FM_FS_ENTRIES_MAX * FM_FS_ENTRY_BYTES, listed);
}

static void sync_started(fm_fs_call *call)
{
    fm_fs_op *op = call->context;
    fm_fs_message reply;
    op->calling = 0;
    if (fm_fs_op_reply(call, &reply) < 0)
        sync_end(op, 1);
    else
        sync_list(op);
}

// A request whose change is pending still comes with the change. Told before, it would be taken for done as soon as
// some other change had its version, should this replica fail in between.
static int is_settled(const fm_fs_store *store, const fm_fs_session *session)
{
    return fm_fs_store_version(store, fm_fs_store_find(store, &session->id)) >= session->version;
}

// Whether a chunk is on its way to the disk that came while this replica was being filled itself. What is compared does not show
// it yet, and it is passed on to nobody.
static int is_arriving(const fm_fs_target *target)
{
    const fm_fs_op *ops = &target->storage->ops;
    for (const fm_fs_op *op = ops->after; op != ops; op = op->after) {
        int replaces =
            op->message.kind == FM_FS_APPLY_REPLACE || op->message.kind == FM_FS_APPLY_REPLACE_REMOVED;
        if (op->target == target && op->kind == FM_FS_OP_FORWARD && op->calling && replaces)
            return 1;
    }
    return 0;
}

static void sync_begin(void *context)
{
    fm_fs_op *op = context;
    if (is_arriving(op->target)) {
        fm_fs_timer_start(op->target->storage->runtime, &op->timer, unresolved_ns);
        return;
    }
    const fm_fs_store *store = op->target->store;
    const fm_fs_session *session;
    size_t count = 0;
    while (fm_fs_store_session_at(store, count))
        count++;
    fm_fs_buffer *sessions = fm_fs_buffer_new(count * FM_FS_SESSION_WIRE_BYTES);
    if (!sessions) {
        sync_end(op, 1);
        return;
    }
    sessions->size = 0;
    for (size_t i = 0; (session = fm_fs_store_session_at(store, i)); i++) {
        if (!is_settled(store, session))
            continue;
        fm_fs_session_encode(sessions->data + sessions->size, session);
        sessions->size += FM_FS_SESSION_WIRE_BYTES;
    }
    fm_fs_buffer_drop(op->payload);
    op->payload = sessions;
    op->began_ns = fm_fs_now(op->target->storage->runtime);
    op->version = fm_fs_store_floor(store);
    sync_call(op, FM_FS_SYNC_START, sessions, 0, sync_started);
}

void fm_fs_sync_poll(fm_fs_target *target)
{
    if (target->sync || !fm_fs_target_serves(target))
        return;
    const fm_fs_member *successor = fm_fs_target_successor(target);
    const fm_fs_member *tail = fm_fs_target_tail(target);
    if (!successor || successor->state != FM_FS_SYNCING || !tail || tail->target != target->id)
        return;
    if (target->chain.version == target->synced_version && !target->sync_failing)
        return; // done; the manager will hear of it
    fm_fs_op *op = fm_fs_op_new(target, FM_FS_OP_SYNC, NULL);
    if (!op)
        return;
    target->sync = op;
    target->synced_version = target->chain.version;
    op->chain_version = target->chain.version;
    op->timer.fire = sync_begin;
    op->timer.context = op;
    int64_t wait = target->sync_not_before_ns - fm_fs_now(target->storage->runtime);
    fm_fs_timer_start(target->storage->runtime, &op->timer, wait > 0 ? wait : 0);
}

/* The successor's side */

static void sync_flushed(fm_fs_flush *flush)
{
    fm_fs_op *op = flush->context;
    fm_fs_target *target = op->target;
    op->calling = 0;
    int valid = op->message.chain_version == target->chain.version && target->state == FM_FS_SYNCING &&
                target->local != FM_FS_DOWN;
    fm_status status = flush->status;
    if (status == FM_OK && !valid)
        status = fm_base_error_set(FM_ERR_FS_CHAIN, "the chain has changed");
    if (status == FM_OK && op->request->method == FM_FS_SYNC_DONE) {
        target->local = FM_FS_UPTODATE;
        if (!target->storage->beating)
            fm_fs_timer_start(target->storage->runtime, &target->storage->heartbeat, 0);
    }
    fm_fs_op_end(op, status, 0, NULL);
}

static fm_status take_start(fm_fs_op *op)
{
    fm_fs_store *store = op->target->store;
    const fm_fs_buffer *payload = op->request->payload;
    size_t size = payload ? payload->size : 0;
    if (size % FM_FS_SESSION_WIRE_BYTES != 0)
        return fm_base_error_set(FM_ERR_FORMAT, "%zu bytes of sessions; expected a multiple of %d", size,
                                 FM_FS_SESSION_WIRE_BYTES);
    FM_TRY(fm_fs_floor_take(op->target, op->message.version));
    FM_TRY(fm_fs_store_session_forget(store, op->target->chain.version));
    FM_TRY(fm_fs_store_clients_forget(store, op->message.base));
    for (size_t at = 0; at < size; at += FM_FS_SESSION_WIRE_BYTES) {
        fm_fs_session session = fm_fs_session_decode(payload->data + at);
        session.chain_version = op->target->chain.version;
        FM_TRY(fm_fs_store_session_put(store, &session));
    }
    return FM_OK;
}

static fm_status list_entries(fm_fs_op *op, fm_fs_buffer **out_entries)
{
    const fm_fs_store *store = op->target->store;
    fm_fs_buffer *entries = fm_fs_buffer_new((size_t)FM_FS_ENTRIES_MAX * FM_FS_ENTRY_BYTES);
    if (!entries)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of chunks");
    const fm_fs_chunk *chunk =
        fm_fs_store_after(store, op->message.flags & FM_FS_FLAG_ABSENT ? NULL : &op->message.id);
    size_t count = 0;
    for (; chunk && count < FM_FS_ENTRIES_MAX; chunk = fm_fs_store_after(store, &chunk->id)) {
        const fm_fs_chunk_copy *copy = chunk->committed;
        fm_fs_entry entry = {.id = chunk->id, .removed = 1, .pending = chunk->pending != NULL};
        if (copy) {
            entry.version = copy->version;
            entry.size = copy->size;
            entry.crc = copy->crc;
            entry.removed = copy->removed;
        }
        fm_fs_entry_encode(entries->data + count++ * FM_FS_ENTRY_BYTES, &entry);
    }
    entries->size = count * FM_FS_ENTRY_BYTES;
    *out_entries = entries;
    return FM_OK;
}

void fm_fs_sync_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message)
{
    fm_fs_op *op = fm_fs_op_new(target, FM_FS_OP_FLUSH, request);
    if (!op)
        return;
    op->message = *message;
    fm_status status = FM_OK;
    if (message->chain_version != target->chain.version || target->state != FM_FS_SYNCING ||
        target->local == FM_FS_DOWN)
        status = fm_base_error_set(FM_ERR_FS_CHAIN,
                                   "target %u is not being filled in this version of its chain", target->id);
    if (status == FM_OK && request->method == FM_FS_SYNC_LIST) {
        fm_fs_buffer *entries = NULL;
        status = list_entries(op, &entries);
        fm_fs_op_end(op, status, 0, entries);
        fm_fs_buffer_drop(entries);
        return;
    }
    if (status == FM_OK && request->method == FM_FS_SYNC_START)
        status = take_start(op);
    if (status < 0) {
        fm_fs_op_end(op, status, 0, NULL);
        return;
    }
    op->calling = 1;
    op->flush = (fm_fs_flush){.done = sync_flushed, .context = op};
    fm_fs_store_flush(target->store, &op->flush);
}
