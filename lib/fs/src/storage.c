// The life of a storage service: its targets, heartbeats, routing, and who may serve. What it serves: storage_update.c,
// storage_read.c, storage_sync.c, storage_forget.c.
#include "storage_private.h"

#include "fathom/log.h"

enum {
    RETRY_FIRST_MS = 20,
    RETRY_DOUBLINGS = 5 // 640 ms at most between two tries
};
static const int64_t ms = 1000000;

static void beat(void *context);
static void fetched(fm_fs_call *call);

/* Operations */

fm_fs_op *fm_fs_op_new(fm_fs_target *target, enum fm_fs_op_kind kind, fm_fs_request *request)
{
    fm_fs_storage *storage = target->storage;
    fm_fs_op *op = fm_base_mem_zalloc(1, sizeof *op);
    if (!op) {
        fm_base_error_set(FM_ERR_NOMEM, "no memory for an operation");
        if (request)
            fm_fs_reply(storage->runtime, request, FM_ERR_NOMEM, NULL, 0, NULL);
        return NULL;
    }
    op->target = target;
    op->kind = kind;
    op->request = request;
    op->before = storage->ops.before;
    op->after = &storage->ops;
    op->before->after = op;
    storage->ops.before = op;
    return op;
}

void fm_fs_op_free(fm_fs_op *op)
{
    fm_fs_timer_stop(op->target->storage->runtime, &op->timer);
    op->before->after = op->after;
    op->after->before = op->before;
    fm_fs_buffer_drop(op->payload);
    fm_fs_buffer_drop(op->entries);
    fm_base_mem_free(op);
}

void fm_fs_op_end(fm_fs_op *op, fm_status status, uint64_t version, fm_fs_buffer *payload)
{
    uint8_t args[FM_FS_MESSAGE_BYTES];
    fm_fs_lock_release(op);
    if (op->request) {
        fm_fs_message reply = {.chain = op->target->chain.id,
                               .chain_version = op->target->chain.version,
                               .target = op->target->id,
                               .version = version,
                               .offset = fm_fs_target_fullness(op->target),
                               .flags = op->flags & (FM_FS_FLAG_ABSENT | FM_FS_FLAG_FORGOTTEN),
                               .size = payload ? (uint32_t)payload->size : 0,
                               .crc = op->read.crc};
        fm_fs_message_encode(args, &reply);
        fm_fs_reply(op->target->storage->runtime, op->request, status, args, sizeof args, payload);
    }
    fm_fs_op_free(op);
}

void fm_fs_op_call(fm_fs_op *op, const fm_fs_member *to, enum fm_fs_method method,
                   const fm_fs_message *message, fm_fs_buffer *payload, size_t reply_bytes,
                   void (*done)(fm_fs_call *call))
{
    uint8_t args[FM_FS_MESSAGE_BYTES];
    fm_fs_message sent = *message;
    sent.target = to->target;
    fm_fs_message_encode(args, &sent);
    op->calling = 1;
    op->call = (fm_fs_call){.node = to->node,
                            .method = (uint16_t)method,
                            .timeout_ns = op->target->storage->options.call_timeout_ns,
                            .args = args,
                            .args_bytes = sizeof args,
                            .payload = payload,
                            .reply_bytes = reply_bytes,
                            .done = done,
                            .context = op};
    fm_fs_call_start(op->target->storage->runtime, &op->call);
    op->call.args = NULL;
}

fm_status fm_fs_op_reply(const fm_fs_call *call, fm_fs_message *out_reply)
{
    if (call->status < 0)
        return call->status;
    return fm_fs_message_decode(call->reply_args, call->reply_args_bytes, out_reply);
}

void fm_fs_op_wait(fm_fs_op *op, void (*fire)(void *context))
{
    fm_fs_runtime *runtime = op->target->storage->runtime;
    uint32_t doublings = op->tries < RETRY_DOUBLINGS ? op->tries : RETRY_DOUBLINGS;
    int64_t span = (RETRY_FIRST_MS * ms) << doublings;
    op->tries++;
    op->timer.fire = fire;
    op->timer.context = op;
    fm_fs_timer_start(runtime, &op->timer,
                      span / 2 + (int64_t)fm_fs_random_below(runtime, (uint64_t)span / 2));
}

/* Targets */

int fm_fs_target_serves(const fm_fs_target *target)
{
    return target->open && target->local != FM_FS_DOWN && target->state == FM_FS_SERVING;
}

int fm_fs_target_reads(fm_fs_target *target)
{
    fm_fs_storage *storage = target->storage;
    return fm_fs_target_serves(target) &&
           (fm_fs_now(storage->runtime) < storage->lease_until_ns || FM_FS_PLANT(FM_FS_PLANT_STALE_LEASE));
}

uint32_t fm_fs_target_fullness(const fm_fs_target *target)
{
    uint64_t capacity = target->disk->capacity_bytes / 1000;
    uint64_t own = target->open && capacity ? fm_fs_store_used_bytes(target->store) / capacity : 0;
    return own > target->below_permille ? (uint32_t)own : target->below_permille;
}

void fm_fs_target_fail(fm_fs_target *target)
{
    target->local = FM_FS_DOWN;
    fm_log_info("fs", "target %u leaves its chain, to be filled anew", target->id);
    // Told at once, so that the chain goes on without this target.
    if (!target->storage->beating)
        fm_fs_timer_start(target->storage->runtime, &target->storage->heartbeat, 0);
}

const fm_fs_member *fm_fs_target_successor(const fm_fs_target *target)
{
    for (uint32_t i = target->place + 1; i < target->chain.count; i++)
        if (target->chain.members[i].state & (FM_FS_SERVING | FM_FS_SYNCING))
            return &target->chain.members[i];
    return NULL;
}

const fm_fs_member *fm_fs_target_tail(const fm_fs_target *target)
{
    for (uint32_t i = target->chain.count; i-- > 0;)
        if (target->chain.members[i].state == FM_FS_SERVING)
            return &target->chain.members[i];
    return NULL;
}

// Whether the node is to be emptied, and the chain can do without this target.
static int is_drained(const fm_fs_target *target)
{
    const fm_fs_node_info *node =
        fm_fs_routing_node(&target->storage->routing, target->storage->runtime->node);
    uint32_t others = 0;
    for (uint32_t i = 0; i < target->chain.count; i++)
        others += i != target->place && target->chain.members[i].state == FM_FS_SERVING;
    return node && node->draining && others > 0;
}

// What the target says of itself follows what its chain says of it.
static void settle_local(fm_fs_target *target, int changed)
{
    if (!target->open || fm_fs_store_health(target->store) < 0)
        return;
    int out = target->state == FM_FS_OFFLINE || target->state == FM_FS_LASTSRV;
    if (is_drained(target)) {
        // It stops reading before anybody is told, so the chain may go on without it at once.
        target->local = FM_FS_DOWN;
        return;
    }
    if (target->local == FM_FS_DOWN && out)
        target->local = FM_FS_ONLINE;
    else if (target->local == FM_FS_UPTODATE && (out || target->state == FM_FS_WAITING))
        target->local = FM_FS_ONLINE;
    else if (target->local == FM_FS_UPTODATE && target->state == FM_FS_SYNCING && changed)
        target->local = FM_FS_ONLINE;
    else if (target->local == FM_FS_ONLINE && target->state == FM_FS_SERVING)
        target->local = FM_FS_UPTODATE;
    if (FM_FS_PLANT(FM_FS_PLANT_EARLY_SERVING) && target->local == FM_FS_ONLINE &&
        target->state == FM_FS_SYNCING)
        target->local = FM_FS_UPTODATE;
}

static void place_target(fm_fs_target *target)
{
    const fm_fs_routing *routing = &target->storage->routing;
    uint32_t was = target->chain.version;
    for (uint32_t i = 0; i < routing->chain_count; i++) {
        const fm_fs_chain *chain = &routing->chains[i];
        for (uint32_t m = 0; m < chain->count; m++) {
            if (chain->members[m].target != target->id)
                continue;
            target->chain = *chain;
            target->place = m;
            target->state = chain->members[m].state;
            settle_local(target, was != chain->version);
            if (was != chain->version)
                target->below_permille = 0; // others are behind it, perhaps
            if (target->open && was != chain->version) {
                fm_fs_update_drive_all(target);
                target->sync_not_before_ns = 0;
            }
            return;
        }
    }
    target->chain = (fm_fs_chain){0};
    target->state = FM_FS_OFFLINE;
}

static void placed(fm_fs_storage *storage)
{
    for (uint32_t i = 0; i < storage->count; i++)
        place_target(&storage->targets[i]);
    for (fm_fs_op *op = storage->ops.after; op != &storage->ops; op = op->after)
        if (op->waiting)
            fm_fs_timer_start(storage->runtime, &op->timer, 0);
    for (uint32_t i = 0; i < storage->count; i++)
        if (storage->targets[i].open)
            fm_fs_sync_poll(&storage->targets[i]);
}

static void opened(void *context, fm_status status)
{
    fm_fs_target *target = context;
    target->open = status == FM_OK;
    target->health = status;
    if (status < 0)
        return; // it stays down, and says so
    // Before the routing is known, nothing is: the chain may still count on what this target was.
    if (target->chain.version) {
        fm_fs_update_drive_all(target);
        settle_local(target, 1);
    }
    target->floor_safe = fm_fs_store_floor(target->store); // so it was opened
    fm_fs_scrub_start(target);
    fm_fs_forget_start(target);
}

/* Heartbeats */

static void fill_heartbeat(fm_fs_storage *storage, fm_fs_heartbeat *heartbeat)
{
    heartbeat->node = storage->runtime->node;
    heartbeat->incarnation = storage->incarnation;
    heartbeat->count = storage->count;
    strncpy(heartbeat->address, storage->options.address, FM_FS_ADDRESS_MAX);
    for (uint32_t i = 0; i < storage->count; i++) {
        const fm_fs_target *target = &storage->targets[i];
        fm_fs_report *report = &heartbeat->reports[i];
        report->target = target->id;
        report->chain_version = target->chain.version;
        report->local = target->local;
        report->health = target->open ? fm_fs_store_health(target->store) : target->health;
        report->capacity_bytes = target->disk->capacity_bytes;
        if (report->health < 0)
            report->local = FM_FS_DOWN;
        if (target->open) {
            report->used_bytes = fm_fs_store_used_bytes(target->store);
            memcpy(report->identity, fm_fs_store_identity(target->store), 16);
        }
    }
}

static void beat_done(fm_fs_call *call)
{
    fm_fs_storage *storage = call->context;
    int64_t next = storage->options.heartbeat_ns;
    storage->beating = 0;
    if (call->status == FM_OK && call->reply_args_bytes == FM_FS_HEARTBEAT_REPLY_BYTES) {
        uint64_t version = fm_get_le64(call->reply_args);
        if (version > storage->routing.version) {
            fm_fs_storage_refresh(storage); // the lease is worth nothing before it is known
        } else {
            int64_t until = storage->beat_sent_ns + storage->options.lease_ns;
            if (until > storage->lease_until_ns)
                storage->lease_until_ns = until;
        }
    } else if (call->status == FM_ERR_EXISTS && call->reply_args_bytes == FM_FS_HEARTBEAT_REPLY_BYTES) {
        // An earlier start of this node, by a clock that went back since, had a greater number.
        storage->incarnation = fm_get_le64((const uint8_t *)call->reply_args + 8) + 1;
        next = 0;
    } else {
        storage->manager = (storage->manager + 1) % storage->options.manager_count;
        next /= 4;
    }
    fm_fs_timer_start(storage->runtime, &storage->heartbeat, next);
}

static void beat(void *context)
{
    fm_fs_storage *storage = context;
    uint8_t args[FM_FS_HEARTBEAT_BYTES_MAX];
    fm_fs_heartbeat heartbeat = {0};
    if (storage->beating)
        return;
    fill_heartbeat(storage, &heartbeat);
    storage->beating = 1;
    storage->beat_sent_ns = fm_fs_now(storage->runtime);
    storage->beat = (fm_fs_call){.node = storage->options.managers[storage->manager],
                                 .method = FM_FS_HEARTBEAT,
                                 .timeout_ns = storage->options.lease_ns / 2,
                                 .args = args,
                                 .args_bytes = fm_fs_heartbeat_encode(args, &heartbeat),
                                 .done = beat_done,
                                 .context = storage};
    fm_fs_call_start(storage->runtime, &storage->beat);
}

static void fetched(fm_fs_call *call)
{
    fm_fs_storage *storage = call->context;
    fm_fs_routing routing;
    storage->fetching = 0;
    if (call->status < 0 || !call->reply_payload ||
        fm_fs_routing_decode(call->reply_payload->data, call->reply_payload->size, &routing) < 0)
        return;
    if (routing.version <= storage->routing.version) {
        fm_fs_routing_clear(&routing);
        return;
    }
    fm_fs_routing_clear(&storage->routing);
    storage->routing = routing;
    fm_fs_routing_know(&storage->routing, storage->runtime);
    placed(storage);
    // Renews the lease, and tells what the targets say now.
    if (!storage->beating)
        fm_fs_timer_start(storage->runtime, &storage->heartbeat, 0);
}

void fm_fs_storage_refresh(fm_fs_storage *storage)
{
    uint8_t args[8];
    if (storage->fetching)
        return;
    fm_put_le64(args, storage->routing.version);
    storage->fetching = 1;
    storage->fetch = (fm_fs_call){.node = storage->options.managers[storage->manager],
                                  .method = FM_FS_ROUTING,
                                  .timeout_ns = storage->options.lease_ns / 2,
                                  .args = args,
                                  .args_bytes = sizeof args,
                                  .reply_bytes = FM_FS_ROUTING_BYTES_MAX,
                                  .done = fetched,
                                  .context = storage};
    fm_fs_call_start(storage->runtime, &storage->fetch);
}

/* Life */

fm_status fm_fs_storage_new(fm_fs_runtime *runtime, const fm_fs_storage_options *options,
                            const fm_fs_storage_disk *disks, uint32_t count, fm_fs_storage **out_storage)
{
    if (count > FM_FS_TARGETS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%u targets on a node; expected at most %d", count,
                                 FM_FS_TARGETS_MAX);
    fm_fs_storage *storage = fm_base_mem_zalloc(1, sizeof *storage);
    if (!storage)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a storage service");
    storage->runtime = runtime;
    storage->options = *options;
    storage->incarnation = options->incarnation;
    storage->ops.before = storage->ops.after = &storage->ops;
    storage->heartbeat = (fm_fs_timer){.fire = beat, .context = storage};
    storage->targets = fm_base_mem_zalloc(count ? count : 1, sizeof *storage->targets);
    fm_status status =
        storage->targets ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for %u targets", count);
    for (uint32_t i = 0; i < count && status == FM_OK; i++) {
        fm_fs_target *target = &storage->targets[i];
        fm_fs_store_options store = {.format = disks[i].format,
                                     .journal_bytes = options->journal_bytes,
                                     .land_bytes = options->land_bytes,
                                     .sessions = options->sessions,
                                     .pool = options->pool,
                                     .opened = opened,
                                     .context = target};
        memcpy(store.identity, disks[i].identity, 16);
        *target = (fm_fs_target){
            .storage = storage, .id = disks[i].target, .disk = disks[i].disk, .local = FM_FS_DOWN};
        target->state = FM_FS_OFFLINE;
        target->health = FM_ERR_BUSY;
        storage->count++;
        status = fm_fs_store_new(disks[i].disk, &store, &target->store);
    }
    if (status < 0) {
        fm_fs_storage_free(storage);
        return status;
    }
    fm_fs_timer_start(runtime, &storage->heartbeat, 0);
    *out_storage = storage;
    return FM_OK;
}

void fm_fs_storage_free(fm_fs_storage *storage)
{
    if (!storage)
        return;
    fm_fs_timer_stop(storage->runtime, &storage->heartbeat);
    for (uint32_t i = 0; i < storage->count; i++) {
        fm_fs_timer_stop(storage->runtime, &storage->targets[i].scrub);
        fm_fs_timer_stop(storage->runtime, &storage->targets[i].forget);
        fm_fs_store_free(storage->targets[i].store);
    }
    // Only now: the stores knew what the operations had begun.
    while (storage->ops.after != &storage->ops)
        fm_fs_op_free(storage->ops.after);
    fm_fs_routing_clear(&storage->routing);
    fm_base_mem_free(storage->targets);
    fm_base_mem_free(storage);
}

void fm_fs_storage_serve(fm_fs_storage *storage, fm_fs_request *request)
{
    fm_fs_message message;
    fm_fs_target *target = NULL;
    fm_status status = fm_fs_message_decode(request->args, request->args_bytes, &message);
    for (uint32_t i = 0; status == FM_OK && i < storage->count; i++)
        if (storage->targets[i].id == message.target)
            target = &storage->targets[i];
    if (status == FM_OK && (!target || !target->open || target->chain.id != message.chain))
        status = fm_base_error_set(FM_ERR_FS_CHAIN, "target %u of chain %u is not here, or not open",
                                   message.target, message.chain);
    // Whoever knows a newer chain than this service does makes it ask.
    if (status == FM_ERR_FS_CHAIN || (target && message.chain_version > target->chain.version))
        fm_fs_storage_refresh(storage);
    if (status < 0) {
        fm_fs_reply(storage->runtime, request, status, NULL, 0, NULL);
        return;
    }
    switch (request->method) {
    case FM_FS_UPDATE:
    case FM_FS_FORWARD:
        fm_fs_update_serve(target, request, &message);
        break;
    case FM_FS_READ:
        fm_fs_read_serve(target, request, &message);
        break;
    case FM_FS_ASK:
        fm_fs_ask_serve(target, request, &message);
        break;
    case FM_FS_FETCH:
        fm_fs_fetch_serve(target, request, &message);
        break;
    case FM_FS_SYNC_START:
    case FM_FS_SYNC_LIST:
    case FM_FS_SYNC_DONE:
        fm_fs_sync_serve(target, request, &message);
        break;
    case FM_FS_LIST:
        fm_fs_list_serve(target, request, &message);
        break;
    case FM_FS_FLOOR:
        fm_fs_floor_serve(target, request, &message);
        break;
    default:
        fm_fs_reply(
            storage->runtime, request,
            fm_base_error_set(FM_ERR_UNSUPPORTED, "method %u is not a storage service's", request->method),
            NULL, 0, NULL);
        break;
    }
}

const fm_fs_store *fm_fs_storage_store(const fm_fs_storage *storage, uint32_t target)
{
    for (uint32_t i = 0; i < storage->count; i++)
        if (storage->targets[i].id == target && storage->targets[i].open)
            return storage->targets[i].store;
    return NULL;
}

fm_status fm_fs_storage_health(const fm_fs_storage *storage, uint32_t target)
{
    for (uint32_t i = 0; i < storage->count; i++)
        if (storage->targets[i].id == target)
            return storage->targets[i].open ? fm_fs_store_health(storage->targets[i].store)
                                            : storage->targets[i].health;
    return FM_ERR_NOT_FOUND;
}

const fm_fs_routing *fm_fs_storage_routing(const fm_fs_storage *storage)
{
    return &storage->routing;
}

int fm_fs_storage_idle(const fm_fs_storage *storage)
{
    for (const fm_fs_op *op = storage->ops.after; op != &storage->ops; op = op->after)
        if (op->kind != FM_FS_OP_SCRUB)
            return 0;
    return 1;
}

fm_fs_storage_counts fm_fs_storage_count(const fm_fs_storage *storage)
{
    return storage->counts;
}
