#include "sim_world.h"

#include <stdarg.h>
#include <stdlib.h>

#include "cluster_client.h"
#include "fm_gen.h"
#include "lin_check.h"
#include "manager.h"
#include "sim_disk.h"
#include "storage.h"

/*
 * Two managers, four storage nodes, three clients; two chains of three replicas over the nodes:
 *
 *     chain 1: targets 11, 12, 13 on nodes 11, 12, 13        chain 2: targets 23, 24, 21 on nodes 13, 14, 11
 */
enum {
    MANAGERS = 2,
    STORAGES = 4,
    CLIENTS = 3,
    NODES = MANAGERS + STORAGES + CLIENTS,
    CHAINS = 2,
    REPLICAS = 3,
    TARGETS_PER_NODE = 2,
    CHUNKS = 3, // of each chain
    CELLS = 2,  // registers of each chunk
    CELL_AT = 4096,
    OPERATIONS = 72, // of each client
    AT_ONCE = 2,     // of each client
    HISTORY_MAX = CLIENTS * (OPERATIONS + 64) * 2,
    FINAL_READS = CHAINS * CHUNKS
};

static const int64_t us = 1000;
static const int64_t ms = 1000000;
static const int64_t s = 1000000000;

enum event_kind {
    TIMER,
    REQUEST,
    REPLY,
    TIMEOUT,
    DISK,
    KV_RUN,
    KV_DONE,
    FAULT,
    RESTART,
    HEAL,
    OPERATOR,
    CLIENT
};

struct message {
    uint16_t method;
    uint32_t from, to;
    uint64_t from_life;
    uint64_t call;
    fm_status status;
    size_t args_bytes;
    fm_fs_buffer *payload;
    uint8_t args[];
};

struct event {
    int64_t time;
    uint64_t serial;
    enum event_kind kind;
    int node;      // index
    uint64_t life; // of the node; another life ignores it
    uint64_t id;   // of a timer, a call
    void *what;    // io, job, message
    uint64_t mark; // of a disk
    int disk;
};

struct call {
    struct call *next;
    uint64_t id;
    fm_fs_call *call;
};

struct request {
    fm_fs_request base;
    struct request *before;
    struct request *after;
    uint64_t from_life;
    uint64_t call;
    uint32_t to;
    uint8_t args[];
};

struct disk_io { // under way
    fm_fs_disk_io *io;
    int disk;
};

struct node {
    fm_fs_runtime base;
    struct world *world;
    int index;
    int alive;
    uint64_t life;
    int64_t skew_ns;
    double rate;
    int cut_from_kv;
    fm_fs_timer timers; // head of a ring
    struct call *calls;
    struct request requests; // head of a ring
    struct disk_io ios[512];
    size_t io_count;
    fm_fs_manager *manager;
    fm_fs_storage *storage;
    fm_fs_client *client;
    int to_do; // client: operations not begun yet
    int going; // and under way
    int final_to_do;
    int restarting;
};

struct disk {
    sim_disk sim;
    uint32_t target;
    int node;
    uint64_t generation; // a new disk has another identity
    int formatted;
    int index;
    struct world *world;
};

struct history_op {
    int chain, chunk, cell;
    lin_op op;
};

struct world {
    unsigned long seed;
    fm_gen gen;
    FILE *trace;
    int64_t now;
    uint64_t serial;
    struct event *heap;
    size_t heap_count, heap_room;
    struct node nodes[NODES];
    struct disk disks[STORAGES * TARGETS_PER_NODE];
    int disk_count;
    int blocked[NODES][NODES]; // messages from, to
    fm_fs_kv *kv;
    int faulty;         // faults are on
    int64_t calm_until; // no node may be lost before: a replica is being mended
    double io_error_rate;
    double drop_rate, duplicate_rate, slow_rate;
    struct history_op *history;
    size_t history_count;
    uint64_t value;
    int final;
    sim_result result;
};

struct client_op {
    fm_fs_client_io io;
    struct node *node;
    int cell;
    int chunk;
    uint64_t value;
    int64_t begin;
};

static const char *const fault_names[SIM_FAULTS] = {
    "delay",      "reorder",       "drop",       "duplicate",    "partition", "program killed",
    "power cut",  "all power cut", "torn write", "lost write",   "I/O error", "bit rot",
    "clock skew", "KV conflict",   "KV maybe",   "disk replaced"};

const char *sim_fault_name(int fault)
{
    return fault_names[fault];
}

static void note(struct world *world, const char *format, ...) FM_PRINTF(2, 3);
static void note(struct world *world, const char *format, ...)
{
    va_list args;
    if (!world->trace)
        return;
    fprintf(world->trace, "%10.3f  ", (double)world->now / 1e6);
    va_start(args, format);
    vfprintf(world->trace, format, args);
    va_end(args);
    fputc('\n', world->trace);
}

static void fail(struct world *world, const char *format, ...) FM_PRINTF(2, 3);
static void fail(struct world *world, const char *format, ...)
{
    va_list args;
    if (world->result.failed)
        return;
    world->result.failed = 1;
    va_start(args, format);
    vsnprintf(world->result.reason, sizeof world->result.reason, format, args);
    va_end(args);
    note(world, "FAILED: %s", world->result.reason);
}

/* Events */

static int is_before(const struct event *a, const struct event *b)
{
    return a->time != b->time ? a->time < b->time : a->serial < b->serial;
}

static void push(struct world *world, struct event event, int64_t delay)
{
    event.time = world->now + delay;
    event.serial = ++world->serial;
    if (world->heap_count == world->heap_room) {
        world->heap_room = world->heap_room ? 2 * world->heap_room : 256;
        world->heap = realloc(world->heap, world->heap_room * sizeof event);
        if (!world->heap)
            abort();
    }
    size_t at = world->heap_count++;
    while (at > 0 && is_before(&event, &world->heap[(at - 1) / 2])) {
        world->heap[at] = world->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    world->heap[at] = event;
}

static struct event pop(struct world *world)
{
    struct event first = world->heap[0];
    struct event last = world->heap[--world->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= world->heap_count)
            break;
        if (child + 1 < world->heap_count && is_before(&world->heap[child + 1], &world->heap[child]))
            child++;
        if (!is_before(&world->heap[child], &last))
            break;
        world->heap[at] = world->heap[child];
        at = child;
    }
    if (world->heap_count)
        world->heap[at] = last;
    return first;
}

static struct event event_of(const struct node *node, enum event_kind kind)
{
    return (struct event){.kind = kind, .node = node->index, .life = node->life};
}

static int64_t between(struct world *world, int64_t low, int64_t high)
{
    return fm_gen_int(&world->gen, low, high);
}

static int chance(struct world *world, double probability)
{
    return probability > 0 && fm_gen_chance(&world->gen, probability);
}

static void count(struct world *world, enum sim_fault fault)
{
    world->result.faults[fault]++;
}

/* The runtime */

static struct node *node_of(fm_fs_runtime *runtime)
{
    return (struct node *)runtime;
}

static int64_t local_now(fm_fs_runtime *runtime)
{
    struct node *node = node_of(runtime);
    return (int64_t)((double)node->world->now * node->rate) + node->skew_ns;
}

static void timer_stop(fm_fs_runtime *runtime, fm_fs_timer *timer)
{
    (void)runtime;
    if (!timer->serial)
        return;
    timer->before->after = timer->after;
    timer->after->before = timer->before;
    timer->serial = 0;
}

static void timer_start(fm_fs_runtime *runtime, fm_fs_timer *timer, int64_t delay)
{
    struct node *node = node_of(runtime);
    timer_stop(runtime, timer);
    struct event event = event_of(node, TIMER);
    timer->serial = event.id = node->world->serial + 1;
    timer->before = node->timers.before;
    timer->after = &node->timers;
    timer->before->after = timer;
    node->timers.before = timer;
    push(node->world, event, delay > 0 ? (int64_t)((double)delay / node->rate) : 0);
}

static void timer_fire(struct node *node, uint64_t id)
{
    for (fm_fs_timer *timer = node->timers.after; timer != &node->timers; timer = timer->after)
        if (timer->serial == id) {
            timer_stop(&node->base, timer);
            timer->fire(timer->context);
            return;
        }
}

static uint64_t draw(fm_fs_runtime *runtime)
{
    return fm_gen_u64(&node_of(runtime)->world->gen);
}

static int64_t network_delay(struct world *world)
{
    int64_t delay = between(world, 50 * us, 1500 * us);
    if (world->faulty && chance(world, world->slow_rate)) {
        count(world, SIM_DELAY);
        count(world, SIM_REORDER); // those sent later overtake it
        delay += between(world, 10 * ms, 400 * ms);
    }
    return delay;
}

static void message_free(struct message *message)
{
    fm_fs_buffer_drop(message->payload);
    free(message);
}

static struct message *message_new(const void *args, size_t args_bytes, fm_fs_buffer *payload)
{
    struct message *message = calloc(1, sizeof *message + args_bytes + 1);
    if (!message)
        abort();
    message->args_bytes = args_bytes;
    if (args_bytes)
        memcpy(message->args, args, args_bytes);
    message->payload = fm_fs_buffer_ref(payload);
    return message;
}

static int index_of(uint32_t node)
{
    if (node < 10)
        return (int)node - 1;
    return node < 100 ? (int)node - 11 + MANAGERS : (int)node - 101 + MANAGERS + STORAGES;
}

static uint32_t name_of(int index)
{
    if (index < MANAGERS)
        return (uint32_t)index + 1;
    return (uint32_t)(index < MANAGERS + STORAGES ? index - MANAGERS + 11
                                                  : index - MANAGERS - STORAGES + 101);
}

static void send_message(struct world *world, struct message *message, enum event_kind kind)
{
    int from = index_of(message->from);
    int to = index_of(message->to);
    struct event event = {.kind = kind, .node = to, .what = message};
    if (world->blocked[from][to] || (world->faulty && chance(world, world->drop_rate))) {
        if (!world->blocked[from][to])
            count(world, SIM_DROP);
        message_free(message);
        return;
    }
    if (world->faulty && chance(world, world->duplicate_rate)) {
        struct message *copy = message_new(message->args, message->args_bytes, message->payload);
        fm_fs_buffer *payload = copy->payload;
        size_t args_bytes = copy->args_bytes;
        memcpy(copy, message, sizeof *copy);
        copy->payload = payload;
        copy->args_bytes = args_bytes;
        event.what = copy;
        count(world, SIM_DUPLICATE);
        push(world, event, network_delay(world) + between(world, 0, 300 * ms));
        event.what = message;
    }
    push(world, event, network_delay(world));
}

static void call_start(fm_fs_runtime *runtime, fm_fs_call *call)
{
    struct node *node = node_of(runtime);
    struct world *world = node->world;
    struct call *entry = calloc(1, sizeof *entry);
    if (!entry)
        abort();
    entry->id = ++world->serial;
    entry->call = call;
    entry->next = node->calls;
    node->calls = entry;
    struct message *message = message_new(call->args, call->args_bytes, call->payload);
    message->method = call->method;
    message->from = runtime->node;
    message->from_life = node->life;
    message->to = call->node;
    message->call = entry->id;
    struct event timeout = event_of(node, TIMEOUT);
    timeout.id = entry->id;
    push(world, timeout, call->timeout_ns);
    send_message(world, message, REQUEST);
}

static fm_fs_call *call_take(struct node *node, uint64_t id)
{
    for (struct call **at = &node->calls; *at; at = &(*at)->next) {
        struct call *entry = *at;
        if (entry->id != id)
            continue;
        fm_fs_call *call = entry->call;
        *at = entry->next;
        free(entry);
        return call;
    }
    return NULL;
}

static void request_free(struct request *request)
{
    request->before->after = request->after;
    request->after->before = request->before;
    fm_fs_buffer_drop(request->base.payload);
    free(request);
}

static void reply(fm_fs_runtime *runtime, fm_fs_request *base, fm_status status, const void *args,
                  size_t args_bytes, fm_fs_buffer *payload)
{
    struct node *node = node_of(runtime);
    struct request *request = (struct request *)base;
    struct message *message = message_new(args, args_bytes, status < 0 ? NULL : payload);
    message->status = status;
    message->from = runtime->node;
    message->to = request->to;
    message->from_life = request->from_life;
    message->call = request->call;
    request_free(request);
    send_message(node->world, message, REPLY);
}

static void kv_start(fm_fs_runtime *runtime, fm_fs_kv_job *job)
{
    struct node *node = node_of(runtime);
    struct event event = event_of(node, KV_RUN);
    event.what = job;
    push(node->world, event, between(node->world, 100 * us, 5 * ms));
}

static const struct fm_fs_runtime_ops runtime_ops = {local_now,  timer_start, timer_stop, draw,
                                                     call_start, reply,       kv_start};

static void take_request(struct world *world, struct node *node, const struct message *message)
{
    struct request *request = calloc(1, sizeof *request + message->args_bytes + 1);
    if (!request)
        abort();
    memcpy(request->args, message->args, message->args_bytes);
    request->base = (fm_fs_request){.method = message->method,
                                    .from = message->from,
                                    .args = request->args,
                                    .args_bytes = message->args_bytes,
                                    .payload = fm_fs_buffer_ref(message->payload)};
    request->from_life = message->from_life;
    request->call = message->call;
    request->to = message->from;
    request->before = node->requests.before;
    request->after = &node->requests;
    request->before->after = request;
    node->requests.before = request;
    (void)world;
    if (node->manager)
        fm_fs_manager_serve(node->manager, &request->base);
    else if (node->storage)
        fm_fs_storage_serve(node->storage, &request->base);
    else
        request_free(request);
}

static void take_reply(struct node *node, const struct message *message)
{
    fm_fs_call *call = message->from_life == node->life ? call_take(node, message->call) : NULL;
    if (!call)
        return;
    call->status = message->status;
    call->reply_args = message->args;
    call->reply_args_bytes = message->args_bytes;
    call->reply_payload = message->payload;
    if (message->payload && message->payload->size > call->reply_bytes) {
        call->status = FM_ERR_LIMIT;
        call->reply_payload = NULL;
    }
    call->done(call);
}

static void time_out(struct node *node, uint64_t id)
{
    fm_fs_call *call = call_take(node, id);
    if (!call)
        return;
    call->status = FM_ERR_TIMEOUT;
    call->reply_args = NULL;
    call->reply_args_bytes = 0;
    call->reply_payload = NULL;
    call->done(call);
}

/* Disks */

static void disk_submitted(void *context, fm_fs_disk_io *io)
{
    struct disk *disk = context;
    struct node *node = &disk->world->nodes[disk->node];
    struct event event = event_of(node, DISK);
    if (node->io_count == sizeof node->ios / sizeof node->ios[0])
        abort();
    node->ios[node->io_count++] = (struct disk_io){io, disk->index};
    event.what = io;
    event.disk = disk->index;
    event.mark = sim_disk_mark(&disk->sim);
    int64_t longest = io->kind == FM_FS_DISK_SYNC ? 4 * ms : 1 * ms;
    push(disk->world, event, between(disk->world, 20 * us, longest));
}

static void disk_done(struct world *world, struct node *node, const struct event *event)
{
    fm_fs_disk_io *io = event->what;
    size_t i = 0;
    while (node->ios[i].io != io)
        i++;
    node->ios[i] = node->ios[--node->io_count];
    fm_status status = FM_OK;
    if (world->faulty && io->size && chance(world, world->io_error_rate)) {
        count(world, SIM_IO_ERROR);
        status = fm_base_error_set(FM_ERR_IO, "an injected I/O error");
        note(world, "I/O error on node %u", name_of(node->index));
    }
    sim_disk_complete(&world->disks[event->disk].sim, io, event->mark, status);
}

/* Nodes */

static void start_storage(struct world *world, struct node *node)
{
    static const uint32_t managers[] = {1, 2};
    fm_fs_storage_disk disks[TARGETS_PER_NODE];
    uint32_t n = 0;
    for (int i = 0; i < world->disk_count; i++) {
        struct disk *disk = &world->disks[i];
        if (disk->node != node->index)
            continue;
        disks[n] =
            (fm_fs_storage_disk){.target = disk->target, .disk = &disk->sim.base, .format = !disk->formatted};
        fm_put_le64(disks[n].identity, disk->generation);
        fm_put_le32(disks[n].identity + 8, disk->target);
        n++;
    }
    fm_fs_storage_options options = {.address = "sim",
                                     .managers = managers,
                                     .manager_count = MANAGERS,
                                     .incarnation = node->life,
                                     .heartbeat_ns = 100 * ms,
                                     .lease_ns = 400 * ms,
                                     .call_timeout_ns = 200 * ms,
                                     .scrub_ns = 150 * ms,
                                     .journal_bytes = 40 << 10};
    if (fm_fs_storage_new(&node->base, &options, disks, n, &node->storage) < 0)
        abort();
}

static void start_node(struct world *world, struct node *node)
{
    static const uint32_t managers[] = {1, 2};
    node->alive = 1;
    node->restarting = 0;
    node->life++;
    note(world, "node %u starts", name_of(node->index));
    if (node->index < MANAGERS) {
        fm_fs_manager_options options = {
            .lease_ns = 500 * ms, .tick_ns = 40 * ms, .node_timeout_ns = 1000 * ms};
        if (fm_fs_manager_new(&node->base, &options, &node->manager) < 0)
            abort();
    } else if (node->index < MANAGERS + STORAGES) {
        start_storage(world, node);
    } else {
        fm_fs_client_options options = {.id = node->base.node * 1000 + node->life,
                                        .managers = managers,
                                        .manager_count = MANAGERS,
                                        .call_timeout_ns = 250 * ms,
                                        .channels = AT_ONCE};
        if (fm_fs_client_new(&node->base, &options, &node->client) < 0)
            abort();
    }
}

// Ends a node's program; nothing that it began comes back.
static void stop_node(struct world *world, struct node *node)
{
    node->alive = 0;
    node->life++;
    fm_fs_manager_free(node->manager);
    if (node->storage) {
        fm_fs_storage_counts counts = fm_fs_storage_count(node->storage);
        world->result.dirty_reads += counts.dirty_reads;
        world->result.driven += counts.driven;
        world->result.synced += counts.synced;
        world->result.repaired += counts.repaired;
        world->result.resumed += counts.resumed;
    }
    fm_fs_storage_free(node->storage);
    fm_fs_client_free(node->client);
    node->manager = NULL;
    node->storage = NULL;
    node->client = NULL;
    node->timers.before = node->timers.after = &node->timers;
    while (node->calls) {
        struct call *next = node->calls->next;
        free(node->calls);
        node->calls = next;
    }
    while (node->requests.after != &node->requests)
        request_free(node->requests.after);
}

static void crash_node(struct world *world, struct node *node, int power, int64_t down)
{
    if (!node->alive)
        return;
    note(world, "node %u: %s", name_of(node->index), power ? "power cut" : "program killed");
    // Writes on their way arrive in part.
    for (size_t i = 0; i < node->io_count; i++)
        if (node->ios[i].io->kind == FM_FS_DISK_WRITE && node->ios[i].io->size && chance(world, 0.5)) {
            sim_disk_tear(&world->disks[node->ios[i].disk].sim, node->ios[i].io, &world->gen);
            count(world, SIM_TORN_WRITE);
        }
    node->io_count = 0;
    stop_node(world, node);
    for (int i = 0; i < world->disk_count; i++) {
        struct disk *disk = &world->disks[i];
        if (disk->node != node->index)
            continue;
        for (int f = 0; power && f < FM_FS_STORE_FILES; f++)
            if (disk->sim.files[f].first)
                count(world, SIM_LOST_WRITE);
        if (power)
            sim_disk_power_cut(&disk->sim, SIM_LOSE_SOME, &world->gen);
    }
    count(world, power ? SIM_CRASH_POWER : SIM_CRASH_PROGRAM);
    struct event event = {.kind = RESTART, .node = node->index};
    node->restarting = 1;
    push(world, event, down);
}

/* What the managers' store says */

struct look {
    fm_fs_chain chains[CHAINS];
};

static fm_status look_closure(fm_fs_kv_tx *tx, void *context)
{
    struct look *look = context;
    for (int i = 0; i < CHAINS; i++) {
        uint8_t key[9] = {'f', 's', '/', 'c', '/', 0, 0, 0, (uint8_t)(i + 1)};
        fm_fs_kv_item item = {.key = {key, sizeof key}};
        size_t used;
        look->chains[i].count = 0;
        FM_TRY(fm_fs_kv_get(tx, &item, 1, FM_FS_KV_LOCK_NONE));
        if (item.found)
            FM_TRY(fm_fs_chain_decode(item.value.data, item.value.size, &look->chains[i], &used));
    }
    return FM_OK;
}

static struct look look_at(struct world *world)
{
    struct look look = {0};
    while (fm_fs_kv_run(world->kv, FM_FS_KV_READ_ONLY, look_closure, &look) < 0)
        ;
    return look;
}

static int is_all_serving(struct world *world)
{
    struct look look = look_at(world);
    for (int c = 0; c < CHAINS; c++) {
        if (look.chains[c].count != REPLICAS)
            return 0;
        for (int m = 0; m < REPLICAS; m++)
            if (look.chains[c].members[m].state != FM_FS_SERVING)
                return 0;
    }
    for (int i = 0; i < STORAGES; i++)
        if (!world->nodes[MANAGERS + i].alive)
            return 0;
    return 1;
}

/* Faults */

static struct node *any_storage(struct world *world)
{
    return &world->nodes[MANAGERS + between(world, 0, STORAGES - 1)];
}

static void heal_later(struct world *world, int64_t delay)
{
    struct event event = {.kind = HEAL};
    push(world, event, delay);
}

static void partition(struct world *world)
{
    int both = chance(world, 0.7);
    int side[NODES];
    int alone = chance(world, 0.5) ? (int)between(world, 0, NODES - 1) : -1;
    for (int i = 0; i < NODES; i++)
        side[i] = alone >= 0 ? i == alone : chance(world, 0.5);
    for (int i = 0; i < NODES; i++)
        for (int j = 0; j < NODES; j++)
            if (side[i] && !side[j]) {
                world->blocked[i][j] = 1;
                world->blocked[j][i] = both;
            }
    if (chance(world, 0.3))
        world->nodes[between(world, 0, MANAGERS - 1)].cut_from_kv = 1;
    count(world, SIM_PARTITION);
    note(world, "partition%s", both ? "" : ", one way");
    heal_later(world, between(world, 100 * ms, 3 * s));
}

static void rot(struct world *world)
{
    if (world->now < world->calm_until || !is_all_serving(world))
        return;
    struct disk *disk = &world->disks[between(world, 0, world->disk_count - 1)];
    if (!sim_disk_rot(&disk->sim, &world->gen))
        return;
    count(world, SIM_ROT);
    note(world, "rot on target %u", disk->target);
    world->calm_until = world->now + 3 * s;
}

static void replace_disk(struct world *world)
{
    if (world->now < world->calm_until || !is_all_serving(world))
        return;
    struct disk *disk = &world->disks[between(world, 0, world->disk_count - 1)];
    struct node *node = &world->nodes[disk->node];
    crash_node(world, node, 1, between(world, 10 * ms, 2 * s));
    note(world, "disk of target %u replaced", disk->target);
    sim_disk_clear(&disk->sim);
    disk->generation++;
    disk->formatted = 0;
    count(world, SIM_DISK_REPLACED);
    world->calm_until = world->now + 6 * s;
}

static void crash_all(struct world *world)
{
    int power = chance(world, 0.7);
    for (int i = 0; i < STORAGES; i++)
        crash_node(world, &world->nodes[MANAGERS + i], power, between(world, 10 * ms, 2500 * ms));
    if (chance(world, 0.5))
        for (int i = 0; i < MANAGERS; i++)
            crash_node(world, &world->nodes[i], 0, between(world, 10 * ms, 1500 * ms));
    count(world, SIM_CRASH_ALL);
}

static void inject(struct world *world)
{
    int64_t what = between(world, 0, 99);
    int calm = world->now < world->calm_until;
    if (what < 30 && !calm)
        crash_node(world, any_storage(world), chance(world, 0.6), between(world, 10 * ms, 2500 * ms));
    else if (what < 38)
        crash_node(world, &world->nodes[between(world, 0, MANAGERS - 1)], 0, between(world, 10 * ms, 2 * s));
    else if (what < 58 && !calm)
        partition(world);
    else if (what < 66 && !calm)
        crash_all(world);
    else if (what < 80)
        rot(world);
    else if (what < 87)
        replace_disk(world);
    else if (what < 93) {
        world->slow_rate = 0.01 * (double)between(world, 0, 20);
        world->drop_rate = 0.01 * (double)between(world, 0, 15);
    } else {
        world->duplicate_rate = 0.01 * (double)between(world, 0, 20);
    }
    struct event event = {.kind = FAULT};
    push(world, event, between(world, 50 * ms, 900 * ms));
}

// What an operator does: a service whose disk failed it is started again.
static void operate(struct world *world)
{
    for (int i = 0; i < world->disk_count; i++) {
        struct disk *disk = &world->disks[i];
        struct node *node = &world->nodes[disk->node];
        if (!node->storage)
            continue;
        fm_status health = fm_fs_storage_health(node->storage, disk->target);
        if (health == FM_OK) {
            disk->formatted = 1;
        } else if (health != FM_ERR_BUSY) {
            if (health != FM_ERR_IO && health != FM_ERR_NOT_FOUND)
                fail(world, "target %u: %s", disk->target, fm_base_status_name(health));
            crash_node(world, node, 0, 100 * ms);
        }
    }
    struct event event = {.kind = OPERATOR};
    push(world, event, 200 * ms);
}

/* Clients */

static fm_fs_chunk_id chunk_id(int chunk)
{
    fm_fs_chunk_id id = {{0}};
    id.bytes[7] = (uint8_t)(chunk + 1);
    return id;
}

static void begin_operations(struct world *world, struct node *node);

static void add_history(struct world *world, int chain, int chunk, int cell, lin_op op)
{
    if (world->history_count == HISTORY_MAX)
        abort();
    world->history[world->history_count++] = (struct history_op){chain, chunk, cell, op};
}

// What a cell holds: its value many times over. UINT64_MAX: something that was never written.
static uint64_t cell_value(const fm_fs_buffer *bytes, int cell)
{
    size_t at = (size_t)cell * CELL_AT;
    uint64_t value = 0;
    for (int i = 0; i < 8; i++, at += 8) {
        uint64_t word = bytes && at + 8 <= bytes->size ? fm_get_le64(bytes->data + at) : 0;
        if (i > 0 && word != value)
            return UINT64_MAX;
        value = word;
    }
    return value;
}

static void record(struct world *world, struct client_op *op)
{
    const fm_fs_client_io *io = &op->io;
    int64_t end = io->status == FM_OK ? world->now : INT64_MAX;
    int chain = (int)io->chain - 1;
    for (int cell = 0; cell < CELLS; cell++) {
        lin_op entry = {.writes = io->kind != FM_FS_CLIENT_READ, .begin = op->begin, .end = end};
        if (io->kind == FM_FS_CLIENT_READ)
            entry.value = cell_value(io->bytes, cell);
        else if (io->kind == FM_FS_CLIENT_WRITE && cell == op->cell)
            entry.value = op->value;
        else if (io->kind == FM_FS_CLIENT_WRITE)
            continue;
        if (io->kind == FM_FS_CLIENT_READ && entry.value == UINT64_MAX)
            fail(world, "a read of chunk %d of chain %d saw bytes that nobody wrote", op->chunk, chain + 1);
        add_history(world, chain, op->chunk, cell, entry);
    }
}

static void operation_done(fm_fs_client_io *io)
{
    struct client_op *op = io->context;
    struct node *node = op->node;
    struct world *world = node->world;
    note(world, "client %u: kind %d chain %u chunk %d cell %d value %llu: %s, version %llu (read %llu %llu)",
         node->base.node, io->kind, io->chain, op->chunk, op->cell, (unsigned long long)op->value,
         fm_base_status_name(io->status), (unsigned long long)io->version,
         (unsigned long long)cell_value(io->bytes, 0), (unsigned long long)cell_value(io->bytes, 1));
    if (io->status == FM_OK || io->status == FM_ERR_FS_MAYBE) {
        if (io->status == FM_OK || io->kind != FM_FS_CLIENT_READ)
            record(world, op);
    } else if (io->status != FM_ERR_TIMEOUT) {
        fail(world, "an operation ended with %s", fm_base_status_name(io->status));
    }
    world->result.operations++;
    world->result.unknown += io->status == FM_ERR_FS_MAYBE;
    if (world->final && io->status != FM_OK)
        fail(world, "no progress: a read failed with %s after all faults had ended",
             fm_base_status_name(io->status));
    fm_fs_buffer_drop(io->bytes);
    fm_fs_buffer_drop(io->data);
    free(op);
    node->going--;
    struct event event = event_of(node, CLIENT);
    push(world, event, world->final ? 0 : between(world, 0, 150 * ms));
}

static void begin_operation(struct world *world, struct node *node, int final_chunk)
{
    struct client_op *op = calloc(1, sizeof *op);
    if (!op)
        abort();
    op->node = node;
    op->begin = world->now;
    op->chunk = final_chunk >= 0 ? final_chunk % CHUNKS : (int)between(world, 0, CHUNKS - 1);
    op->cell = (int)between(world, 0, CELLS - 1);
    fm_fs_client_io *io = &op->io;
    io->chain = final_chunk >= 0 ? (uint32_t)(final_chunk / CHUNKS) + 1 : (uint32_t)between(world, 1, CHAINS);
    io->id = chunk_id(op->chunk);
    io->timeout_ns = world->final ? 8 * s : between(world, 400 * ms, 4 * s);
    io->done = operation_done;
    io->context = op;
    int64_t what = final_chunk >= 0 ? 0 : between(world, 0, 99);
    if (what < 50) {
        io->kind = FM_FS_CLIENT_READ;
        io->size = 2 * CELL_AT;
    } else if (what < 92) {
        io->kind = FM_FS_CLIENT_WRITE;
        op->value = ++world->value;
        io->offset = (uint32_t)(op->cell * CELL_AT);
        io->data = fm_fs_buffer_new(64);
        for (int i = 0; i < 8; i++)
            fm_put_le64(io->data->data + 8 * i, op->value);
    } else {
        io->kind = what < 96 ? FM_FS_CLIENT_REMOVE : FM_FS_CLIENT_TRUNCATE;
    }
    node->going++;
    fm_fs_client_start(node->client, io);
}

static void begin_operations(struct world *world, struct node *node)
{
    while (node->going < AT_ONCE && node->to_do > 0) {
        node->to_do--;
        begin_operation(world, node, -1);
    }
    if (world->final && node->final_to_do > 0 && node->going == 0)
        begin_operation(world, node, --node->final_to_do);
}

static int is_done(struct world *world)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct node *node = &world->nodes[MANAGERS + STORAGES + i];
        if (node->to_do || node->going || (world->final && node->final_to_do))
            return 0;
    }
    return 1;
}

/* The loop */

static void kv_run(struct world *world, struct node *node, const struct event *event)
{
    fm_fs_kv_job *job = event->what;
    struct event done = *event;
    done.kind = KV_DONE;
    if (node->cut_from_kv) {
        job->status = fm_base_error_set(FM_ERR_UNAVAILABLE, "cut off from the store");
    } else {
        job->status = fm_fs_kv_run(world->kv, job->flags, job->closure, job->closure_context);
        if (job->status == FM_ERR_FS_MAYBE)
            count(world, SIM_KV_MAYBE);
    }
    push(world, done, between(world, 100 * us, world->faulty && chance(world, 0.02) ? 900 * ms : 5 * ms));
}

static void kv_paused(void *context, uint64_t ns)
{
    (void)ns;
    count(context, SIM_KV_CONFLICT);
}

static void heal(struct world *world)
{
    memset(world->blocked, 0, sizeof world->blocked);
    for (int i = 0; i < MANAGERS; i++)
        world->nodes[i].cut_from_kv = 0;
}

static void handle(struct world *world, const struct event *event)
{
    struct node *node = &world->nodes[event->node];
    struct message *message = event->what;
    switch (event->kind) {
    case REQUEST:
    case REPLY:
        if (node->alive && event->kind == REQUEST)
            take_request(world, node, message);
        else if (node->alive)
            take_reply(node, message);
        message_free(message);
        return;
    case FAULT:
        if (world->faulty)
            inject(world);
        return;
    case HEAL:
        heal(world);
        return;
    case OPERATOR:
        operate(world);
        return;
    case RESTART:
        if (!node->alive)
            start_node(world, node);
        return;
    default:
        break;
    }
    if (event->life != node->life)
        return;
    switch (event->kind) {
    case TIMER:
        timer_fire(node, event->id);
        break;
    case TIMEOUT:
        time_out(node, event->id);
        break;
    case DISK:
        disk_done(world, node, event);
        break;
    case KV_RUN:
        kv_run(world, node, event);
        break;
    case KV_DONE: {
        fm_fs_kv_job *job = event->what;
        job->done(job);
        break;
    }
    case CLIENT:
        begin_operations(world, node);
        break;
    default:
        break;
    }
}

static void run_until(struct world *world, int64_t limit, int (*stop)(struct world *world))
{
    while (world->heap_count && !world->result.failed && !stop(world)) {
        struct event event = pop(world);
        if (event.time > limit) {
            push(world, event, event.time - world->now);
            world->now = limit;
            return;
        }
        world->now = event.time;
        world->result.events++;
        world->result.hash = (world->result.hash ^ (unsigned long)event.time ^
                              ((unsigned long)event.kind << 56) ^ ((unsigned long)event.node << 48)) *
                             0x100000001B3u;
        handle(world, &event);
    }
}

static int never(struct world *world)
{
    (void)world;
    return 0;
}

/* Set-up */

static fm_status write_chains(fm_fs_kv_tx *tx, void *context)
{
    static const uint32_t targets[CHAINS][REPLICAS] = {{11, 12, 13}, {23, 24, 21}};
    (void)context;
    for (int c = 0; c < CHAINS; c++) {
        uint8_t key[9] = {'f', 's', '/', 'c', '/', 0, 0, 0, (uint8_t)(c + 1)};
        uint8_t value[FM_FS_CHAIN_BYTES_MAX];
        fm_fs_chain chain = {.id = (uint32_t)c + 1, .version = 1, .count = REPLICAS};
        for (int r = 0; r < REPLICAS; r++)
            chain.members[r] = (fm_fs_member){targets[c][r], 10 + targets[c][r] % 10, FM_FS_SERVING};
        FM_TRY(fm_fs_kv_put(tx, (fm_fs_kv_bytes){key, sizeof key},
                            (fm_fs_kv_bytes){value, fm_fs_chain_encode(value, &chain)}));
    }
    uint8_t version[8] = {1};
    return fm_fs_kv_put(tx, (fm_fs_kv_bytes){"fs/version", 10}, (fm_fs_kv_bytes){version, 8});
}

static void add_disk(struct world *world, uint32_t target)
{
    struct disk *disk = &world->disks[world->disk_count];
    *disk = (struct disk){
        .target = target, .node = MANAGERS + (int)(target % 10) - 1, .generation = 1, .world = world};
    disk->index = world->disk_count++;
    sim_disk_init(&disk->sim, 64 << 20);
    disk->sim.submitted = disk_submitted;
    disk->sim.context = disk;
}

static void build(struct world *world)
{
    static const uint32_t targets[] = {11, 12, 13, 23, 24, 21};
    fm_fs_kv_options options = {.size = sizeof options,
                                .seed = world->seed,
                                .conflict_rate = 0.05,
                                .maybe_rate = 0.03,
                                .pause = kv_paused,
                                .pause_context = world};
    if (fm_fs_kv_open("memory:", &options, &world->kv) < 0)
        abort();
    while (fm_fs_kv_run(world->kv, 0, write_chains, NULL) < 0)
        ;
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++)
        add_disk(world, targets[i]);
    for (int i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        node->base.ops = &runtime_ops;
        node->base.node = name_of(i);
        node->world = world;
        node->index = i;
        node->timers.before = node->timers.after = &node->timers;
        node->requests.before = node->requests.after = &node->requests;
        node->skew_ns = between(world, 0, 100 * s);
        node->rate = 1 + 0.0001 * (double)between(world, -500, 500); // by up to 5 %
        count(world, SIM_CLOCK_SKEW);
        start_node(world, node);
        if (node->client) {
            node->to_do = OPERATIONS;
            push(world, event_of(node, CLIENT), 300 * ms);
        }
    }
    world->io_error_rate = chance(world, 0.3) ? 0.0005 : 0;
    world->drop_rate = 0.01 * (double)between(world, 0, 5);
    world->slow_rate = 0.01 * (double)between(world, 0, 8);
    world->duplicate_rate = 0.01 * (double)between(world, 0, 8);
    push(world, (struct event){.kind = FAULT}, between(world, 500 * ms, 1500 * ms));
    push(world, (struct event){.kind = OPERATOR}, 200 * ms);
}

/* What must hold in the end */

static void check_history(struct world *world)
{
    lin_op *ops = calloc(world->history_count + 1, sizeof *ops);
    for (int i = 0; i < CHAINS * CHUNKS * CELLS && !world->result.failed; i++) {
        int chain = i / (CHUNKS * CELLS);
        int chunk = i / CELLS % CHUNKS;
        int cell = i % CELLS;
        size_t n = 0;
        for (size_t h = 0; h < world->history_count; h++) {
            const struct history_op *op = &world->history[h];
            if (op->chain == chain && op->chunk == chunk && op->cell == cell)
                ops[n++] = op->op;
        }
        enum lin_result result = lin_check(ops, n);
        if (result == LIN_NO)
            fail(world, "chain %d, chunk %d, cell %d: the history is not linearizable", chain + 1, chunk,
                 cell);
    }
    free(ops);
}

static int is_equal_copy(const fm_fs_chunk_copy *a, const fm_fs_chunk_copy *b)
{
    int a_there = a && !a->removed;
    int b_there = b && !b->removed;
    if (!a_there || !b_there)
        return a_there == b_there;
    return a->version == b->version && a->size == b->size && a->crc == b->crc;
}

static void check_target(struct world *world, const struct disk *disk, const fm_fs_store *store)
{
    uint64_t used = 0;
    for (const fm_fs_chunk *chunk = fm_fs_store_after(store, NULL); chunk;
         chunk = fm_fs_store_after(store, &chunk->id)) {
        if (chunk->pending)
            fail(world, "target %u has a pending version when all is at rest", disk->target);
        if (chunk->committed && chunk->committed->size)
            used += (uint64_t)FM_FS_CHUNK_CLASS_MIN << chunk->committed->size_class;
    }
    // Blocks that a commit freed are given back with the next flush, one a chunk at most.
    uint64_t slack = (uint64_t)CHUNKS * 2 * FM_FS_CHUNK_CLASS_MIN;
    if (fm_fs_store_used_bytes(store) < used || fm_fs_store_used_bytes(store) > used + slack)
        fail(world, "target %u uses %llu bytes of blocks; its chunks have %llu", disk->target,
             (unsigned long long)fm_fs_store_used_bytes(store), (unsigned long long)used);
}

static void check_replicas(struct world *world)
{
    const fm_fs_store *first[CHAINS] = {0};
    for (int i = 0; i < world->disk_count && !world->result.failed; i++) {
        const struct disk *disk = &world->disks[i];
        const fm_fs_store *store = fm_fs_storage_store(world->nodes[disk->node].storage, disk->target);
        int chain = (int)(disk->target / 10) - 1;
        if (!store) {
            fail(world, "target %u is not open", disk->target);
            return;
        }
        check_target(world, disk, store);
        if (!first[chain])
            first[chain] = store;
        for (int c = 0; c < CHUNKS; c++) {
            fm_fs_chunk_id id = chunk_id(c);
            const fm_fs_chunk *a = fm_fs_store_find(first[chain], &id);
            const fm_fs_chunk *b = fm_fs_store_find(store, &id);
            if (!is_equal_copy(a ? a->committed : NULL, b ? b->committed : NULL))
                fail(world, "chunk %d: target %u differs from another replica at rest", c, disk->target);
        }
    }
}

static void free_world(struct world *world)
{
    while (world->heap_count) {
        struct event event = pop(world);
        if (event.kind == REQUEST || event.kind == REPLY)
            message_free(event.what);
    }
    for (int i = 0; i < NODES; i++)
        stop_node(world, &world->nodes[i]);
    for (int i = 0; i < world->disk_count; i++)
        sim_disk_free(&world->disks[i].sim);
    fm_fs_kv_close(world->kv);
    free(world->history);
    free(world->heap);
}

static void come_to_rest(struct world *world)
{
    world->faulty = 0;
    heal(world);
    note(world, "all faults end");
    run_until(world, world->now + 40 * s, is_all_serving);
    if (!world->result.failed && !is_all_serving(world))
        fail(world, "no progress: chains are not whole 40 s after all faults had ended");
    run_until(world, world->now + 3 * s, never);
    world->final = 1;
    for (int i = 0; i < CLIENTS; i++) {
        struct node *node = &world->nodes[MANAGERS + STORAGES + i];
        node->final_to_do = FINAL_READS;
        push(world, event_of(node, CLIENT), 0);
    }
    run_until(world, world->now + 60 * s, is_done);
    if (!world->result.failed && !is_done(world))
        fail(world, "no progress: reads have not ended");
    run_until(world, world->now + 1 * s, never);
}

sim_result sim_run(unsigned long seed, FILE *trace)
{
    struct world *world = calloc(1, sizeof *world);
    world->seed = seed;
    world->gen = fm_gen_seeded(seed);
    world->trace = trace;
    world->history = calloc(HISTORY_MAX, sizeof *world->history);
    world->faulty = 1;
    build(world);
    run_until(world, 300 * s, is_done);
    if (!world->result.failed && !is_done(world))
        fail(world, "no progress: operations have not ended by their deadlines");
    if (!world->result.failed)
        come_to_rest(world);
    if (!world->result.failed)
        check_history(world);
    if (!world->result.failed)
        check_replicas(world);
    // Operations of a run that failed are still under way; their memory is the simulator's.
    sim_result result = world->result;
    free_world(world);
    result = world->result;
    free(world);
    return result;
}
