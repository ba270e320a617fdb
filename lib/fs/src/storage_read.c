// Reads, and the care for what was read wrong.
#include "storage_private.h"

static const fm_fs_chunk *chunk_of(const fm_fs_op *op)
{
    return fm_fs_store_find(op->target->store, &op->message.id);
}

static fm_status cannot_read(const fm_fs_op *op)
{
    return fm_base_error_set(FM_ERR_FS_CHAIN, "target %u of chain %u (version %u) may not read now",
                             op->target->id, op->target->chain.id, op->target->chain.version);
}

static int may_read(const fm_fs_op *op)
{
    return fm_fs_target_reads(op->target) && op->message.chain_version == op->target->chain.version;
}

/* Read */

static void read_done(fm_fs_chunk_read *read)
{
    fm_fs_op *op = read->context;
    op->calling = 0;
    if (read->status == FM_ERR_FS_ROT) {
        op->target->storage->counts.rotten++;
        fm_fs_repair(op->target, &op->message.id);
    }
    fm_fs_buffer *bytes = read->bytes;
    fm_fs_op_end(op, read->status, op->version, bytes);
    fm_fs_buffer_drop(bytes);
}

static fm_status is_behind(void)
{
    return fm_base_error_set(FM_ERR_BUSY, "the replica is behind what the reader has seen");
}

// Answers that there is no chunk. The floor may be higher than elsewhere, so a reader is told no more of it than what he
// has seen himself.
static void answer_absent(fm_fs_op *op, uint64_t version)
{
    if (version < op->message.version) {
        version = op->message.version;
        if (version > fm_fs_store_floor(op->target->store)) {
            fm_fs_op_end(op, is_behind(), 0, NULL);
            return;
        }
    }
    op->flags = FM_FS_FLAG_ABSENT;
    fm_fs_op_end(op, FM_OK, version, NULL);
}

static void read_copy(fm_fs_op *op, fm_fs_chunk_copy *copy)
{
    op->target->storage->counts.reads++;
    if (!copy || copy->removed) {
        answer_absent(op, copy ? copy->version : 0);
        return;
    }
    if (copy->version < op->message.version) {
        fm_fs_op_end(op, is_behind(), 0, NULL);
        return;
    }
    op->version = copy->version;
    op->calling = 1;
    op->read = (fm_fs_chunk_read){.copy = copy,
                                  .offset = op->message.offset,
                                  .size = op->message.size,
                                  .into = op->request ? op->request->reply_into : NULL,
                                  .done = read_done,
                                  .context = op};
    fm_fs_store_read(op->target->store, &op->read);
}

// Whether the tail's pending version may be committed elsewhere. An earlier tail may have committed it; and so may a
// successor that is being filled, which is the tail already if its chain has changed and this target has not heard.
static int is_undecided(const fm_fs_target *target, const fm_fs_chunk *chunk)
{
    return chunk->pending->chain_version < target->chain.version || fm_fs_target_successor(target) != NULL;
}

static fm_status unresolved(void)
{
    return fm_base_error_set(FM_ERR_BUSY, "a change of the chunk is being decided");
}

static void asked(fm_fs_call *call)
{
    fm_fs_op *op = call->context;
    fm_fs_message reply;
    op->calling = 0;
    fm_status status = fm_fs_op_reply(call, &reply);
    if (status == FM_OK && !may_read(op))
        status = cannot_read(op);
    if (status < 0) {
        fm_fs_op_end(op, status == FM_ERR_FS_CHAIN ? status : unresolved(), 0, NULL);
        return;
    }
    const fm_fs_chunk *chunk = chunk_of(op);
    if (reply.flags & FM_FS_FLAG_ABSENT) {
        op->flags = FM_FS_FLAG_ABSENT;
        fm_fs_op_end(op, FM_OK, reply.version, NULL);
    } else if (!chunk || !chunk->pending ||
               (chunk->committed && chunk->committed->version >= reply.version)) {
        read_copy(op, chunk ? chunk->committed : NULL);
    } else if (chunk->pending->version == reply.version) {
        read_copy(op, chunk->pending);
    } else {
        fm_fs_op_end(op, unresolved(), 0, NULL);
    }
}

void fm_fs_read_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message)
{
    fm_fs_op *op = fm_fs_op_new(target, FM_FS_OP_READ, request);
    if (!op)
        return;
    op->message = *message;
    if (!may_read(op)) {
        fm_fs_op_end(op, cannot_read(op), 0, NULL);
        return;
    }
    const fm_fs_chunk *chunk = chunk_of(op);
    const fm_fs_member *tail = fm_fs_target_tail(target);
    if (!chunk || !chunk->pending || FM_FS_PLANT(FM_FS_PLANT_DIRTY_READ)) {
        read_copy(op, chunk ? chunk->committed : NULL);
    } else if (FM_FS_PLANT(FM_FS_PLANT_READ_PENDING)) {
        read_copy(op, chunk->pending);
    } else if (tail->target != target->id) {
        target->storage->counts.dirty_reads++;
        fm_fs_op_call(op, tail, FM_FS_ASK, message, NULL, 0, asked);
    } else if (is_undecided(target, chunk)) {
        fm_fs_op_end(op, unresolved(), 0, NULL);
    } else {
        read_copy(op, chunk->committed);
    }
}

void fm_fs_ask_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message)
{
    fm_fs_op *op = fm_fs_op_new(target, FM_FS_OP_READ, request);
    if (!op)
        return;
    op->message = *message;
    const fm_fs_chunk *chunk = chunk_of(op);
    const fm_fs_member *tail = fm_fs_target_tail(target);
    if (!may_read(op) || tail->target != target->id)
        fm_fs_op_end(op, cannot_read(op), 0, NULL);
    else if (chunk && chunk->pending && is_undecided(target, chunk))
        fm_fs_op_end(op, unresolved(), 0, NULL);
    else if (!fm_fs_chunk_is_there(chunk))
        answer_absent(op, chunk && chunk->committed ? chunk->committed->version : 0);
    else
        fm_fs_op_end(op, FM_OK, chunk->committed->version, NULL);
}

/* List: which chunks are there, or may be: one whose making is not decided yet counts as well */

static fm_status list_ids(const fm_fs_op *op, fm_fs_buffer **out_ids)
{
    const fm_fs_store *store = op->target->store;
    size_t most = op->message.size / sizeof(fm_fs_chunk_id);
    most = most < FM_FS_ENTRIES_MAX ? most : FM_FS_ENTRIES_MAX;
    fm_fs_buffer *ids = fm_fs_buffer_new(most * sizeof(fm_fs_chunk_id));
    if (!ids)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of chunks");
    size_t count = 0;
    const fm_fs_chunk *chunk = fm_fs_store_after(store, op->message.offset ? NULL : &op->message.id);
    for (; chunk && count < most; chunk = fm_fs_store_after(store, &chunk->id))
        if (chunk->pending || fm_fs_chunk_is_there(chunk))
            memcpy(ids->data + sizeof(fm_fs_chunk_id) * count++, chunk->id.bytes, sizeof(fm_fs_chunk_id));
    ids->size = count * sizeof(fm_fs_chunk_id);
    *out_ids = ids;
    return FM_OK;
}

void fm_fs_list_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message)
{
    fm_fs_op *op = fm_fs_op_new(target, FM_FS_OP_READ, request);
    fm_fs_buffer *ids = NULL;
    if (!op)
        return;
    op->message = *message;
    fm_status status = may_read(op) ? list_ids(op, &ids) : cannot_read(op);
    op->read.crc = fm_fs_buffer_crc(ids);
    fm_fs_op_end(op, status, 0, ids);
    fm_fs_buffer_drop(ids);
}

/* Fetch: a chunk in exactly this version, for a replica whose own has rotted */

void fm_fs_fetch_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message)
{
    fm_fs_op *op = fm_fs_op_new(target, FM_FS_OP_FETCH, request);
    if (!op)
        return;
    op->message = *message;
    const fm_fs_chunk *chunk = chunk_of(op);
    fm_fs_chunk_copy *copy = chunk ? chunk->committed : NULL;
    if (copy && copy->version != message->version)
        copy = chunk->pending;
    if (!fm_fs_target_serves(target) || message->chain_version != target->chain.version) {
        fm_fs_op_end(op, cannot_read(op), 0, NULL);
        return;
    }
    if (!copy || copy->removed || copy->version != message->version) {
        fm_fs_op_end(op, fm_base_error_set(FM_ERR_NOT_FOUND, "the chunk is not here in that version"), 0,
                     NULL);
        return;
    }
    op->version = copy->version;
    op->calling = 1;
    op->read = (fm_fs_chunk_read){.copy = copy, .size = copy->size, .done = read_done, .context = op};
    fm_fs_store_read(target->store, &op->read);
}

/* Repair */

static void repair_ask(fm_fs_op *op);

static void repair_applied(fm_fs_apply *apply)
{
    fm_fs_op *op = apply->context;
    op->calling = 0;
    op->target->storage->counts.repaired += apply->status == FM_OK;
    fm_fs_op_end(op, apply->status, 0, NULL);
}

// Whether these bytes are what this replica once wrote.
static int is_same(const fm_fs_chunk_copy *copy, const fm_fs_buffer *bytes)
{
    return bytes->size == copy->size && fm_fs_chunk_copy_matches(copy, bytes->data);
}

static void repair_fetched(fm_fs_call *call)
{
    fm_fs_op *op = call->context;
    fm_fs_message reply;
    op->calling = 0;
    const fm_fs_chunk *chunk = chunk_of(op);
    fm_status status = fm_fs_op_reply(call, &reply);
    if (!chunk || chunk->pending || !chunk->committed || chunk->committed->version != op->version) {
        fm_fs_op_end(op, FM_OK, 0, NULL); // it was replaced, or will be
        return;
    }
    if (status < 0 || !call->reply_payload || !is_same(chunk->committed, call->reply_payload)) {
        op->peer++;
        repair_ask(op);
        return;
    }
    op->payload = fm_fs_buffer_ref(call->reply_payload);
    op->calling = 1;
    op->apply = (fm_fs_apply){.kind = FM_FS_APPLY_REPLACE,
                              .id = op->message.id,
                              .version = op->version,
                              .chain_version = chunk->committed->chain_version,
                              .data = op->payload,
                              .done = repair_applied,
                              .context = op};
    fm_fs_store_apply(op->target->store, &op->apply);
}

static void repair_ask(fm_fs_op *op)
{
    const fm_fs_chain *chain = &op->target->chain;
    while (op->peer < chain->count && (chain->members[op->peer].target == op->target->id ||
                                       chain->members[op->peer].state != FM_FS_SERVING))
        op->peer++;
    if (op->peer >= chain->count) {
        fm_fs_op_end(op, FM_ERR_FS_ROT, 0, NULL);
        return;
    }
    op->message.chain = chain->id;
    op->message.chain_version = chain->version;
    op->message.version = op->version;
    fm_fs_op_call(op, &chain->members[op->peer], FM_FS_FETCH, &op->message, NULL, FM_FS_CHUNK_BYTES_MAX,
                  repair_fetched);
}

static void repair_locked(void *context)
{
    fm_fs_op *op = context;
    const fm_fs_chunk *chunk = chunk_of(op);
    if (!chunk || chunk->pending || !chunk->committed || chunk->committed->removed) {
        fm_fs_op_end(op, FM_OK, 0, NULL);
        return;
    }
    op->version = chunk->committed->version;
    repair_ask(op);
}

void fm_fs_repair(fm_fs_target *target, const fm_fs_chunk_id *id)
{
    fm_fs_op *op = fm_fs_op_new(target, FM_FS_OP_REPAIR, NULL);
    if (!op)
        return; // the next reader, or the scrub, comes by again
    op->message.id = *id;
    fm_fs_lock_take(op, repair_locked);
}

/* Scrub: reads every chunk from time to time */

static void scrub_next(void *context);

static void scrubbed(fm_fs_chunk_read *read)
{
    fm_fs_op *op = read->context;
    fm_fs_target *target = op->target;
    fm_fs_buffer_drop(read->bytes);
    if (read->status == FM_ERR_FS_ROT) {
        target->storage->counts.rotten++;
        fm_fs_repair(target, &op->message.id);
    }
    fm_fs_op_end(op, FM_OK, 0, NULL);
    fm_fs_scrub_start(target);
}

static void scrub_next(void *context)
{
    fm_fs_target *target = context;
    const fm_fs_chunk *chunk =
        fm_fs_store_after(target->store, target->scrubbed_any ? &target->scrubbed : NULL);
    target->scrubbed_any = chunk != NULL;
    if (chunk)
        target->scrubbed = chunk->id;
    fm_fs_op *op = NULL;
    if (chunk && chunk->committed && !chunk->committed->removed)
        op = fm_fs_op_new(target, FM_FS_OP_SCRUB, NULL);
    if (!op) {
        fm_fs_scrub_start(target);
        return;
    }
    op->message.id = chunk->id;
    op->read = (fm_fs_chunk_read){
        .copy = chunk->committed, .size = chunk->committed->size, .done = scrubbed, .context = op};
    fm_fs_store_read(target->store, &op->read);
}

void fm_fs_scrub_start(fm_fs_target *target)
{
    if (!target->storage->options.scrub_ns)
        return;
    target->scrub.fire = scrub_next;
    target->scrub.context = target;
    fm_fs_timer_start(target->storage->runtime, &target->scrub, target->storage->options.scrub_ns);
}
