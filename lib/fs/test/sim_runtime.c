// The simulator's clock, timers, network and disks, behind the runtime interface.
#include "sim_world_private.h"

#include <stdarg.h>
#include <stdlib.h>

static const char *const fault_names[SIM_FAULTS] = {
    "delay",      "reorder",       "drop",       "duplicate",    "partition", "program killed",
    "power cut",  "all power cut", "torn write", "lost write",   "I/O error", "bit rot",
    "clock skew", "KV conflict",   "KV maybe",   "disk replaced"};

const char *sim_fault_name(int fault)
{
    return fault_names[fault];
}

void sim_note(struct world *world, const char *format, ...)
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

void sim_fail(struct world *world, const char *format, ...)
{
    va_list args;
    if (world->result.failed)
        return;
    world->result.failed = 1;
    va_start(args, format);
    vsnprintf(world->result.reason, sizeof world->result.reason, format, args);
    va_end(args);
    sim_note(world, "FAILED: %s", world->result.reason);
}

/* Events */

static int is_before(const struct event *a, const struct event *b)
{
    return a->time != b->time ? a->time < b->time : a->serial < b->serial;
}

void sim_push(struct world *world, struct event event, int64_t delay)
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

struct event sim_pop(struct world *world)
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

struct event sim_event_of(const struct node *node, enum event_kind kind)
{
    return (struct event){.kind = kind, .node = node->index, .life = node->life};
}

int64_t sim_between(struct world *world, int64_t low, int64_t high)
{
    return fm_gen_int(&world->gen, low, high);
}

int sim_chance(struct world *world, double probability)
{
    return probability > 0 && fm_gen_chance(&world->gen, probability);
}

void sim_count(struct world *world, enum sim_fault fault)
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
    struct event event = sim_event_of(node, TIMER);
    timer->serial = event.id = node->world->serial + 1;
    timer->before = node->timers.before;
    timer->after = &node->timers;
    timer->before->after = timer;
    node->timers.before = timer;
    sim_push(node->world, event, delay > 0 ? (int64_t)((double)delay / node->rate) : 0);
}

void sim_timer_fire(struct node *node, uint64_t id)
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
    int64_t delay = sim_between(world, 50 * us, 1500 * us);
    if (world->faulty && sim_chance(world, world->slow_rate)) {
        sim_count(world, SIM_DELAY);
        sim_count(world, SIM_REORDER); // those sent later overtake it
        // Some arrive when their chain has changed long since.
        delay += sim_between(world, 10 * ms, sim_chance(world, world->late_rate) ? 3000 * ms : 400 * ms);
    }
    return delay;
}

void sim_message_free(struct message *message)
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
    if (node > 200)
        return (int)node - 201 + FIRST_NAMER;
    return node < 100 ? (int)node - 11 + MANAGERS : (int)node - 101 + MANAGERS + STORAGES;
}

uint32_t sim_name_of(int index)
{
    if (index < MANAGERS)
        return (uint32_t)index + 1;
    if (index >= FIRST_NAMER)
        return (uint32_t)(index - FIRST_NAMER + 201);
    return (uint32_t)(index < MANAGERS + STORAGES ? index - MANAGERS + 11
                                                  : index - MANAGERS - STORAGES + 101);
}

static void send_message(struct world *world, struct message *message, enum event_kind kind)
{
    int from = index_of(message->from);
    int to = index_of(message->to);
    struct event event = {.kind = kind, .node = to, .what = message};
    if (world->blocked[from][to] || (world->faulty && sim_chance(world, world->drop_rate))) {
        if (!world->blocked[from][to])
            sim_count(world, SIM_DROP);
        sim_message_free(message);
        return;
    }
    if (world->faulty && sim_chance(world, world->duplicate_rate)) {
        struct message *copy = message_new(message->args, message->args_bytes, message->payload);
        fm_fs_buffer *payload = copy->payload;
        size_t args_bytes = copy->args_bytes;
        memcpy(copy, message, sizeof *copy);
        copy->payload = payload;
        copy->args_bytes = args_bytes;
        event.what = copy;
        sim_count(world, SIM_DUPLICATE);
        sim_push(world, event, network_delay(world) + sim_between(world, 0, 300 * ms));
        event.what = message;
    }
    sim_push(world, event, network_delay(world));
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
    struct event timeout = sim_event_of(node, TIMEOUT);
    timeout.id = entry->id;
    sim_push(world, timeout, call->timeout_ns);
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

void sim_request_free(struct request *request)
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
    sim_request_free(request);
    send_message(node->world, message, REPLY);
}

static void kv_start(fm_fs_runtime *runtime, fm_fs_kv_job *job)
{
    struct node *node = node_of(runtime);
    struct event event = sim_event_of(node, KV_RUN);
    event.what = job;
    struct world *world = node->world;
    sim_push(world, event,
             sim_between(world, 100 * us, world->faulty && sim_chance(world, 0.02) ? 2000 * ms : 5 * ms));
}

const struct fm_fs_runtime_ops sim_runtime_ops = {local_now,  timer_start, timer_stop, draw,
                                                  call_start, reply,       kv_start,   NULL};

void sim_take_request(struct world *world, struct node *node, const struct message *message)
{
    struct request *request = calloc(1, sizeof *request + message->args_bytes + 1);
    if (!request)
        abort();
    request->args = (uint8_t *)(request + 1);
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
    else if (node->fiber && !node->names)
        sim_names_take(node);
    else
        sim_request_free(request);
}

void sim_take_reply(struct node *node, const struct message *message)
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

void sim_time_out(struct node *node, uint64_t id)
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

void sim_disk_submitted(void *context, fm_fs_disk_io *io)
{
    struct disk *disk = context;
    struct node *node = &disk->world->nodes[disk->node];
    struct event event = sim_event_of(node, DISK);
    if (node->io_count == sizeof node->ios / sizeof node->ios[0])
        abort();
    node->ios[node->io_count++] = (struct disk_io){io, disk->index};
    event.what = io;
    event.disk = disk->index;
    event.mark = sim_disk_mark(&disk->sim);
    int64_t longest = io->kind == FM_FS_DISK_SYNC ? 4 * ms : 1 * ms;
    sim_push(disk->world, event, sim_between(disk->world, 20 * us, longest));
}

void sim_disk_done(struct world *world, struct node *node, const struct event *event)
{
    fm_fs_disk_io *io = event->what;
    // In the midst of work is where a crash finds most.
    if (node->armed && world->faulty && world->now >= world->calm_until && --node->armed == 0) {
        sim_crash_node(world, node, sim_chance(world, 0.7), sim_between(world, 10 * ms, 2500 * ms));
        return;
    }
    size_t i = 0;
    while (node->ios[i].io != io)
        i++;
    node->ios[i] = node->ios[--node->io_count];
    fm_status status = FM_OK;
    if (world->faulty && io->size && sim_chance(world, world->io_error_rate)) {
        sim_count(world, SIM_IO_ERROR);
        status = fm_base_error_set(FM_ERR_IO, "an injected I/O error");
        sim_note(world, "I/O error on node %u", sim_name_of(node->index));
    }
    sim_disk_complete(&world->disks[event->disk].sim, io, event->mark, status);
}
