// A simulated cluster's nodes, faults, clients, and what must hold in the end.
#include "sim_world_private.h"

#include <stdlib.h>

static const int64_t s = 1000000000;

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
                                     .forget_ns = 120 * ms,
                                     .journal_bytes = 40 << 10,
                                     .land_bytes = 16 << 10,
                                     .sessions = world->sessions};
    if (fm_fs_storage_new(&node->base, &options, disks, n, &node->storage) < 0)
        abort();
}

static void start_node(struct world *world, struct node *node)
{
    static const uint32_t managers[] = {1, 2};
    node->alive = 1;
    node->armed = 0;
    node->started_ns = world->now;
    node->life++;
    sim_note(world, "node %u starts", sim_name_of(node->index));
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
        if (node->index >= FIRST_NAMER)
            sim_names_start(node);
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
        world->result.rotten += counts.rotten;
        world->result.resumed += counts.resumed;
        world->result.forgotten += counts.forgotten;
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
        sim_request_free(node->requests.after);
    sim_names_stop(node);
}

void sim_crash_node(struct world *world, struct node *node, int power, int64_t down)
{
    node->armed = 0;
    if (!node->alive)
        return;
    sim_note(world, "node %u: %s", sim_name_of(node->index), power ? "power cut" : "program killed");
    // Writes on their way arrive in part.
    for (size_t i = 0; i < node->io_count; i++)
        if (node->ios[i].io->kind == FM_FS_DISK_WRITE && node->ios[i].io->size && sim_chance(world, 0.5)) {
            sim_disk_tear(&world->disks[node->ios[i].disk].sim, node->ios[i].io, &world->gen);
            sim_count(world, SIM_TORN_WRITE);
        }
    node->io_count = 0;
    stop_node(world, node);
    for (int i = 0; i < world->disk_count; i++) {
        struct disk *disk = &world->disks[i];
        if (disk->node != node->index)
            continue;
        for (int f = 0; power && f < FM_FS_STORE_FILES; f++)
            if (disk->sim.files[f].first)
                sim_count(world, SIM_LOST_WRITE);
        if (power)
            sim_disk_power_cut(&disk->sim, SIM_LOSE_SOME, &world->gen);
    }
    sim_count(world, power ? SIM_CRASH_POWER : SIM_CRASH_PROGRAM);
    struct event event = {.kind = RESTART, .node = node->index};
    sim_push(world, event, down);
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

static fm_fs_chunk_id chunk_id(int chunk)
{
    fm_fs_chunk_id id = {{0}};
    id.bytes[0] = 1; // no tenant of files
    id.bytes[7] = (uint8_t)(chunk + 1);
    return id;
}

static struct node *any_storage(struct world *world)
{
    return &world->nodes[MANAGERS + sim_between(world, 0, STORAGES - 1)];
}

static void heal_later(struct world *world, int64_t delay)
{
    struct event event = {.kind = HEAL};
    sim_push(world, event, delay);
}

static void partition(struct world *world)
{
    int both = sim_chance(world, 0.7);
    int side[NODES];
    int alone = sim_chance(world, 0.5) ? (int)sim_between(world, 0, NODES - 1) : -1;
    for (int i = 0; i < NODES; i++)
        side[i] = alone >= 0 ? i == alone : sim_chance(world, 0.5);
    for (int i = 0; i < NODES; i++)
        for (int j = 0; j < NODES; j++)
            if (side[i] && !side[j]) {
                world->blocked[i][j] = 1;
                world->blocked[j][i] = both;
            }
    if (sim_chance(world, 0.3))
        world->nodes[sim_between(world, 0, MANAGERS - 1)].cut_from_kv = 1;
    if (sim_chance(world, 0.3))
        world->nodes[FIRST_NAMER + sim_between(world, 0, NAMERS - 1)].cut_from_kv = 1;
    world->cut_ns = INT64_MAX / 2;
    sim_count(world, SIM_PARTITION);
    sim_note(world, "partition%s", both ? "" : ", one way");
    heal_later(world, sim_between(world, 100 * ms, 3 * s));
}

// Whether a replica may be spoilt: all others are whole, and no news of the contrary can be on its way.
static int is_safe_to_spoil(struct world *world)
{
    for (int i = 0; i < STORAGES; i++)
        if (world->now - world->nodes[MANAGERS + i].started_ns < 2500 * ms)
            return 0;
    return world->now >= world->calm_until && world->now - world->cut_ns > 2500 * ms && is_all_serving(world);
}

static void rot(struct world *world)
{
    if (!is_safe_to_spoil(world))
        return;
    struct disk *disk = &world->disks[sim_between(world, 0, world->disk_count - 1)];
    const fm_fs_store *store = fm_fs_storage_store(world->nodes[disk->node].storage, disk->target);
    fm_fs_chunk_id id = chunk_id((int)sim_between(world, 0, CHUNKS - 1));
    const fm_fs_chunk *chunk = store ? fm_fs_store_find(store, &id) : NULL;
    const fm_fs_chunk_copy *copy = chunk ? chunk->committed : NULL;
    if (!copy || !copy->size)
        return;
    uint64_t at =
        ((uint64_t)copy->block << (16 + copy->size_class)) + (uint64_t)sim_between(world, 0, copy->size - 1);
    if (!sim_disk_rot(&disk->sim, 4u + copy->size_class, at))
        return;
    sim_count(world, SIM_ROT);
    sim_note(world, "rot on target %u", disk->target);
    world->calm_until = world->now + 3 * s;
}

static void replace_disk(struct world *world)
{
    if (!is_safe_to_spoil(world))
        return;
    struct disk *disk = &world->disks[sim_between(world, 0, world->disk_count - 1)];
    struct node *node = &world->nodes[disk->node];
    sim_crash_node(world, node, 1, sim_between(world, 10 * ms, 2 * s));
    sim_note(world, "disk of target %u replaced", disk->target);
    sim_disk_clear(&disk->sim);
    disk->generation++;
    disk->formatted = 0;
    sim_count(world, SIM_DISK_REPLACED);
    world->calm_until = world->now + 6 * s;
}

static void crash_all(struct world *world)
{
    int power = sim_chance(world, 0.7);
    for (int i = 0; i < STORAGES; i++)
        sim_crash_node(world, &world->nodes[MANAGERS + i], power, sim_between(world, 10 * ms, 2500 * ms));
    if (sim_chance(world, 0.5))
        for (int i = 0; i < MANAGERS; i++)
            sim_crash_node(world, &world->nodes[i], 0, sim_between(world, 10 * ms, 1500 * ms));
    sim_count(world, SIM_CRASH_ALL);
}

static void inject(struct world *world)
{
    int64_t what = sim_between(world, 0, 99);
    int calm = world->now < world->calm_until;
    if (world->gentle && sim_chance(world, 0.6))
        what = sim_between(world, 66, 86);
    if (what < 20 && !calm)
        any_storage(world)->armed = (int)sim_between(world, 1, 12);
    else if (what < 30 && !calm)
        sim_crash_node(world, any_storage(world), sim_chance(world, 0.6),
                       sim_between(world, 10 * ms, 2500 * ms));
    else if (what < 36)
        sim_crash_node(world, &world->nodes[sim_between(world, 0, MANAGERS - 1)], 0,
                       sim_between(world, 10 * ms, 2 * s));
    else if (what < 58 && !calm)
        partition(world);
    else if (what < 66 && !calm)
        crash_all(world);
    else if (what < 80)
        rot(world);
    else if (what < 87)
        replace_disk(world);
    else if (what < 93) {
        world->slow_rate = 0.01 * (double)sim_between(world, 0, 20);
        world->drop_rate = 0.01 * (double)sim_between(world, 0, 15);
    } else {
        world->duplicate_rate = 0.01 * (double)sim_between(world, 0, 20);
    }
    if (sim_chance(world, 0.3))
        world->nodes[FIRST_NAMER + sim_between(world, 0, NAMERS - 1)].armed = (int)sim_between(world, 1, 30);
    struct event event = {.kind = FAULT};
    sim_push(world, event, sim_between(world, 20 * ms, world->fault_gap_ns));
}

static void trace_chains(struct world *world, struct node *node)
{
    const fm_fs_routing *routing =
        world->trace && node->manager ? fm_fs_manager_routing(node->manager) : NULL;
    for (uint32_t c = 0; routing && c < routing->chain_count; c++) {
        const fm_fs_chain *chain = &routing->chains[c];
        if (chain->version <= world->traced[c])
            continue;
        world->traced[c] = chain->version;
        char text[128] = "";
        for (uint32_t m = 0; m < chain->count; m++)
            snprintf(text + strlen(text), sizeof text - strlen(text), " %u:%s", chain->members[m].target,
                     fm_fs_public_name(chain->members[m].state));
        sim_note(world, "chain %u version %u:%s", c + 1, chain->version, text);
    }
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
                sim_fail(world, "target %u: %s", disk->target, fm_base_status_name(health));
            sim_crash_node(world, node, 0, 100 * ms);
        }
    }
    struct event event = {.kind = OPERATOR};
    sim_push(world, event, 200 * ms);
}

/* Clients */

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
            sim_fail(world, "a read of chunk %d of chain %d saw bytes that nobody wrote", op->chunk,
                     chain + 1);
        add_history(world, chain, op->chunk, cell, entry);
    }
}

static void operation_done(fm_fs_client_io *io)
{
    struct client_op *op = io->context;
    struct node *node = op->node;
    struct world *world = node->world;
    sim_note(
        world,
        "client %u: kind %d chain %u chunk %d cell %d value %llu since %.3f: %s, version %llu (read %llu "
        "%llu)",
        node->base.node, io->kind, io->chain, op->chunk, op->cell, (unsigned long long)op->value,
        (double)op->begin / 1e6, fm_base_status_name(io->status), (unsigned long long)io->version,
        (unsigned long long)cell_value(io->bytes, 0), (unsigned long long)cell_value(io->bytes, 1));
    if (io->status == FM_OK || io->status == FM_ERR_FS_MAYBE) {
        if (io->status == FM_OK || io->kind != FM_FS_CLIENT_READ)
            record(world, op);
    } else if (io->status != FM_ERR_TIMEOUT) {
        sim_fail(world, "an operation ended with %s", fm_base_status_name(io->status));
    }
    world->result.operations++;
    world->result.unknown += io->status == FM_ERR_FS_MAYBE;
    if (world->final && io->status != FM_OK)
        sim_fail(world, "no progress: a read failed with %s after all faults had ended",
                 fm_base_status_name(io->status));
    struct client_op **at = &node->ops;
    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    fm_fs_buffer_drop(io->bytes);
    fm_fs_buffer_drop(io->data);
    free(op);
    node->going--;
    struct event event = sim_event_of(node, CLIENT);
    sim_push(world, event, world->final ? 0 : sim_between(world, 0, world->pause_ns));
}

static void begin_operation(struct world *world, struct node *node, int final_chunk)
{
    struct client_op *op = calloc(1, sizeof *op);
    if (!op)
        abort();
    op->node = node;
    op->begin = world->now;
    op->chunk = final_chunk >= 0 ? final_chunk % CHUNKS : (int)sim_between(world, 0, CHUNKS - 1);
    op->cell = (int)sim_between(world, 0, CELLS - 1);
    fm_fs_client_io *io = &op->io;
    io->chain =
        final_chunk >= 0 ? (uint32_t)(final_chunk / CHUNKS) + 1 : (uint32_t)sim_between(world, 1, CHAINS);
    io->id = chunk_id(op->chunk);
    io->timeout_ns = world->final ? 8 * s : sim_between(world, 400 * ms, 4 * s);
    io->done = operation_done;
    io->context = op;
    int64_t what = final_chunk >= 0 ? 0 : sim_between(world, 0, 99);
    if (what < 50) {
        io->kind = FM_FS_CLIENT_READ;
        io->size = 2 * CELL_AT;
    } else if (what < 92 - world->remove_percent) {
        io->kind = FM_FS_CLIENT_WRITE;
        op->value = ++world->value;
        io->offset = (uint32_t)(op->cell * CELL_AT);
        // Now and then more than goes into a journal: a block of its own.
        size_t size = op->cell == CELLS - 1 && sim_chance(world, 0.3) ? LARGE : 64;
        io->data = fm_fs_buffer_new(size);
        memset(io->data->data, 0, size);
        for (int i = 0; i < 8; i++)
            fm_put_le64(io->data->data + 8 * i, op->value);
    } else {
        io->kind = what < 97 ? FM_FS_CLIENT_REMOVE : FM_FS_CLIENT_TRUNCATE;
    }
    node->going++;
    op->next = node->ops;
    node->ops = op;
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

static int is_names_done(struct world *world)
{
    for (int i = 0; i < NAME_CLIENTS; i++)
        if (!sim_names_done(&world->nodes[FIRST_NAMER + NAMERS + i]))
            return 0;
    return 1;
}

static int is_done(struct world *world)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct node *node = &world->nodes[MANAGERS + STORAGES + i];
        if (node->to_do || node->going || (world->final && node->final_to_do))
            return 0;
    }
    // Files wait for their chunks as long as it takes, which is long while chains are down all the time.
    return (world->faulty && world->now > NAMES_UNDER_FAULTS_S * s) || is_names_done(world);
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
            sim_count(world, SIM_KV_MAYBE);
    }
    sim_push(world, done,
             sim_between(world, 100 * us, world->faulty && sim_chance(world, 0.02) ? 900 * ms : 5 * ms));
}

static void kv_paused(void *context, uint64_t ns)
{
    (void)ns;
    sim_count(context, SIM_KV_CONFLICT);
}

static void heal(struct world *world)
{
    world->cut_ns = world->now;
    memset(world->blocked, 0, sizeof world->blocked);
    for (int i = 0; i < NODES; i++)
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
            sim_take_request(world, node, message);
        else if (node->alive)
            sim_take_reply(node, message);
        sim_message_free(message);
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
        sim_timer_fire(node, event->id);
        break;
    case TIMEOUT:
        sim_time_out(node, event->id);
        break;
    case DISK:
        sim_disk_done(world, node, event);
        break;
    case KV_RUN:
        kv_run(world, node, event);
        break;
    case KV_DONE: {
        fm_fs_kv_job *job = event->what;
        job->done(job);
        trace_chains(world, node);
        break;
    }
    case CLIENT:
        begin_operations(world, node);
        break;
    case FIBER:
        sim_names_wake(node, event->id);
        break;
    case CRASH:
        sim_crash_node(world, node, 0, sim_between(world, 10 * ms, 1500 * ms));
        break;
    default:
        break;
    }
}

static void run_until(struct world *world, int64_t limit, int (*stop)(struct world *world))
{
    while (world->heap_count && !world->result.failed && !stop(world)) {
        struct event event = sim_pop(world);
        if (event.time > limit) {
            sim_push(world, event, event.time - world->now);
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
    disk->sim.submitted = sim_disk_submitted;
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
    options.seed++;
    options.pause = NULL; // by the servers' own way to it
    if (fm_fs_kv_open("memory:", &options, &world->names_kv) < 0)
        abort();
    while (fm_fs_kv_run(world->kv, 0, write_chains, NULL) < 0)
        ;
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++)
        add_disk(world, targets[i]);
    for (int i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        node->base.ops = &sim_runtime_ops;
        node->base.node = sim_name_of(i);
        node->world = world;
        node->index = i;
        node->timers.before = node->timers.after = &node->timers;
        node->requests.before = node->requests.after = &node->requests;
        node->skew_ns = sim_between(world, 0, 100 * s);
        node->rate = 1 + 0.0001 * (double)sim_between(world, -500, 500); // by up to 5 %
        sim_count(world, SIM_CLOCK_SKEW);
        start_node(world, node);
        if (node->client && i < FIRST_NAMER) {
            node->to_do = OPERATIONS;
            sim_push(world, sim_event_of(node, CLIENT), 300 * ms);
        }
    }
    world->fault_gap_ns = sim_between(world, 1, 5) * sim_between(world, 100 * ms, 600 * ms);
    world->pause_ns = sim_between(world, 1 * ms, 150 * ms);
    world->gentle = sim_chance(world, 0.2);
    if (world->gentle) {
        world->fault_gap_ns = sim_between(world, 1 * s, 4 * s);
        world->pause_ns = sim_between(world, 200 * ms, 900 * ms);
    }
    world->remove_percent = sim_chance(world, 0.3) ? 12 : 0;
    world->sessions = sim_chance(world, 0.3) ? (uint32_t)sim_between(world, 6, 20) : 0;
    world->io_error_rate = sim_chance(world, 0.3) ? 0.0005 : 0;
    world->drop_rate = 0.01 * (double)sim_between(world, 0, 5);
    world->slow_rate = 0.01 * (double)sim_between(world, 0, 8);
    world->late_rate = sim_chance(world, 0.3) ? 0.6 : 0.1;
    world->duplicate_rate = 0.01 * (double)sim_between(world, 0, 8);
    sim_push(world, (struct event){.kind = FAULT}, sim_between(world, 500 * ms, 1500 * ms));
    sim_push(world, (struct event){.kind = OPERATOR}, 200 * ms);
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
            sim_fail(world, "chain %d, chunk %d, cell %d: the history is not linearizable", chain + 1, chunk,
                     cell);
    }
    free(ops);
}

static int is_equal_copy(const fm_fs_chunk_copy *a, const fm_fs_chunk_copy *b)
{
    return a->version == b->version && a->size == b->size && a->crc == b->crc;
}

static void check_target(struct world *world, const struct disk *disk, const fm_fs_store *store)
{
    uint64_t used = 0;
    for (const fm_fs_chunk *chunk = fm_fs_store_after(store, NULL); chunk;
         chunk = fm_fs_store_after(store, &chunk->id)) {
        if (chunk->pending)
            sim_fail(world, "target %u has a pending version when all is at rest", disk->target);
        if (!fm_fs_chunk_is_there(chunk))
            sim_fail(world, "target %u remembers a removed chunk when all is at rest", disk->target);
        if (chunk->committed && chunk->committed->size)
            used += (uint64_t)FM_FS_CHUNK_CLASS_MIN << chunk->committed->size_class;
    }
    // Blocks that a commit freed are given back with the next flush, one a chunk at most.
    uint64_t slack = (uint64_t)(CHUNKS + fm_fs_store_count(store)) * 2 * FM_FS_CHUNK_CLASS_MIN;
    if (fm_fs_store_used_bytes(store) < used || fm_fs_store_used_bytes(store) > used + slack)
        sim_fail(world, "target %u uses %llu bytes of blocks; its chunks have %llu", disk->target,
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
            sim_fail(world, "target %u is not open", disk->target);
            return;
        }
        check_target(world, disk, store);
        if (!first[chain])
            first[chain] = store;
        const fm_fs_chunk *a = fm_fs_store_after(first[chain], NULL);
        const fm_fs_chunk *b = fm_fs_store_after(store, NULL);
        for (; (a || b) && !world->result.failed;
             a = fm_fs_store_after(first[chain], &a->id), b = fm_fs_store_after(store, &b->id))
            if (!a || !b || fm_fs_chunk_id_compare(&a->id, &b->id) != 0 ||
                !is_equal_copy(a->committed, b->committed))
                sim_fail(world, "a chunk of target %u differs from another replica's at rest", disk->target);
    }
}

// What was written is found as it was, unless the world spoilt it.
static void check_rot(struct world *world)
{
    unsigned long rotten = world->result.rotten;
    for (int i = 0; i < STORAGES; i++)
        if (world->nodes[MANAGERS + i].storage)
            rotten += fm_fs_storage_count(world->nodes[MANAGERS + i].storage).rotten;
    if (rotten && !world->result.faults[SIM_ROT])
        sim_fail(world, "%lu times a checksum was wrong, and nothing had been spoilt", rotten);
}

static void free_world(struct world *world)
{
    while (world->heap_count) {
        struct event event = sim_pop(world);
        if (event.kind == REQUEST || event.kind == REPLY)
            sim_message_free(event.what);
    }
    for (int i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        stop_node(world, node);
        while (node->ops) { // of a run that failed
            struct client_op *next = node->ops->next;
            fm_fs_buffer_drop(node->ops->io.data);
            free(node->ops);
            node->ops = next;
        }
    }
    for (int i = 0; i < world->disk_count; i++)
        sim_disk_free(&world->disks[i].sim);
    fm_fs_kv_close(world->kv);
    fm_fs_kv_close(world->names_kv);
    free(world->history);
    free(world->heap);
}

static void come_to_rest(struct world *world)
{
    world->faulty = 0;
    heal(world);
    sim_note(world, "all faults end");
    run_until(world, world->now + 40 * s, is_all_serving);
    if (!world->result.failed && !is_all_serving(world))
        sim_fail(world, "no progress: chains are not whole 40 s after all faults had ended");
    run_until(world, world->now + 60 * s, is_names_done);
    if (!world->result.failed && !is_names_done(world))
        sim_fail(world, "no progress: operations on names have not ended");
    run_until(world, world->now + 3 * s, never);
    world->final = 1;
    for (int i = 0; i < CLIENTS; i++) {
        struct node *node = &world->nodes[MANAGERS + STORAGES + i];
        node->final_to_do = FINAL_READS;
        sim_push(world, sim_event_of(node, CLIENT), 0);
    }
    run_until(world, world->now + 60 * s, is_done);
    if (!world->result.failed && !is_done(world))
        sim_fail(world, "no progress: reads have not ended");
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
        sim_fail(world, "no progress: operations have not ended by their deadlines");
    if (!world->result.failed)
        come_to_rest(world);
    if (!world->result.failed)
        check_history(world);
    if (!world->result.failed)
        check_replicas(world);
    if (!world->result.failed)
        check_rot(world);
    if (!world->result.failed)
        sim_names_check(world);
    free_world(world);
    sim_result result = world->result;
    free(world);
    return result;
}
