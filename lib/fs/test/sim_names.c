// Names in the simulator: servers of the names over one store, clients that make, move, fill and remove things through them, and
// what must hold of it all in the end. Both are programs that wait in the midst of calls: fibers.
#include "sim_world_private.h"

#include <stdlib.h>
#include <sys/stat.h>

static const int64_t s = 1000000000;

enum names_op { CREATE, LINK, UNLINK, RMDIR, REMOVE_ALL, RENAME, LOOK, EXTEND, FENCE, TRUNCATE, QUOTA };

struct names_args {
    enum names_op op;
    fm_fs_who who;
    uint64_t ino, parent, to_parent, data, size, cuts;
    uint32_t mode;
    unsigned flags;
    int exclusive;
    char name[8], to_name[8];
};

struct names_reply {
    fm_status status;
    fm_fs_node node;
};

/* Waiting */

// What a thread serves is the thread's, of which all servers here share one.
static void serve_on(const struct node *node)
{
    fm_fs_meta_serve_for(node->serving ? &node->served : NULL);
}

static void yield(struct node *node)
{
    sim_fiber_yield();
    serve_on(node);
}

static void nap(struct node *node, int64_t ns)
{
    if (node->dying)
        return;
    struct event event = sim_event_of(node, FIBER);
    event.id = ++node->waiting;
    sim_push(node->world, event, ns);
    yield(node);
}

void sim_names_wake(struct node *node, uint64_t id)
{
    if (!node->fiber || node->waiting != id || sim_fiber_ended(node->fiber))
        return;
    node->waiting++;
    sim_fiber_resume(node->fiber);
}

/* The servers' way to the store: a transaction takes its time both ways, and the server may be killed on either */

static fm_status is_cut_off(void)
{
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "cut off from the store");
}

static void travel(struct node *node)
{
    struct world *world = node->world;
    nap(node, sim_between(world, 50 * us, world->faulty && sim_chance(world, 0.02) ? 900 * ms : 3 * ms));
    if (node->dying || !node->armed || !world->faulty || --node->armed > 0)
        return;
    sim_push(world, sim_event_of(node, CRASH), 0);
    nap(node, 100 * s);
}

static fm_status attempt(fm_fs_kv *kv, fm_fs_kv_tx *tx)
{
    struct node *node = ((struct names_kv *)kv)->node;
    fm_fs_kv *store = node->world->names_kv;
    travel(node);
    if (node->dying || node->cut_from_kv)
        return is_cut_off();
    tx->kv = store;
    fm_status status = store->ops->attempt(store, tx);
    tx->kv = kv;
    if (status == FM_ERR_FS_MAYBE)
        sim_count(node->world, SIM_KV_MAYBE);
    travel(node);
    if (node->dying || node->cut_from_kv)
        return fm_base_error_set(FM_ERR_FS_MAYBE, "cut off from the store before its answer");
    return status;
}

static void pause_kv(fm_fs_kv *kv, uint64_t ns)
{
    struct node *node = ((struct names_kv *)kv)->node;
    sim_count(node->world, SIM_KV_CONFLICT);
    nap(node, (int64_t)ns);
}

static const struct fm_fs_kv_ops names_kv_ops = {.name = "simulated", .attempt = attempt, .pause = pause_kv};

static uint64_t names_now(void *context)
{
    const struct node *node = context;
    // Calendars differ by up to two seconds.
    return (uint64_t)(1000000 * s + node->world->now + node->skew_ns / 50);
}

/* Chunks */

struct wait {
    struct node *node;
    uint64_t id;
    size_t left;
};

static void io_done(fm_fs_client_io *io)
{
    struct wait *wait = io->context;
    if (--wait->left == 0)
        sim_names_wake(wait->node, wait->id);
}

static fm_status run_ios(struct node *node, fm_fs_client_io *ios, size_t count)
{
    struct wait wait = {node, ++node->waiting, count};
    if (node->dying)
        return is_cut_off();
    for (size_t i = 0; i < count; i++) {
        ios[i].done = io_done;
        ios[i].context = &wait;
        fm_fs_client_start(node->client, &ios[i]);
    }
    yield(node);
    return node->dying ? is_cut_off() : FM_OK;
}

static fm_status run_io(struct node *node, fm_fs_client_io *io)
{
    FM_TRY(run_ios(node, io, 1));
    return io->status;
}

static fm_fs_client_io io_of(const fm_fs_node *node, uint32_t index, enum fm_fs_client_kind kind,
                             int64_t timeout_ns)
{
    fm_fs_client_io io = {.kind = kind, .timeout_ns = timeout_ns};
    fm_fs_meta_chunk(node, index, &io.chain, io.id.bytes);
    return io;
}

static fm_status remove_chunks(void *context, const fm_fs_node *file, uint64_t from)
{
    struct node *node = context;
    for (uint64_t at = from; at < file->reach; at += NAMES_CHUNK) {
        fm_fs_client_io io = io_of(file, (uint32_t)(at / NAMES_CHUNK), FM_FS_CLIENT_REMOVE, 3 * s);
        FM_TRY(run_io(node, &io));
    }
    return FM_OK;
}

/* Servers */

static fm_status carry_out(fm_fs_meta *meta, const struct names_args *args, fm_fs_node *out_node)
{
    const fm_fs_who *who = &args->who;
    fm_fs_quota quota = {.inodes_max = 1000};
    switch (args->op) {
    case CREATE:
        return fm_fs_meta_create(meta, who, args->parent, args->name, args->mode, 0, args->exclusive,
                                 out_node, NULL);
    case LINK:
        return fm_fs_meta_link(meta, who, args->ino, args->parent, args->name, out_node);
    case UNLINK:
        return fm_fs_meta_unlink(meta, who, args->parent, args->name);
    case RMDIR:
        return fm_fs_meta_rmdir(meta, who, args->parent, args->name);
    case REMOVE_ALL:
        return fm_fs_meta_remove_all(meta, who, args->parent, args->name);
    case RENAME:
        return fm_fs_meta_rename(meta, who, args->parent, args->name, args->to_parent, args->to_name,
                                 args->flags);
    case LOOK:
        return fm_fs_meta_node(meta, args->ino, out_node);
    case EXTEND:
        return fm_fs_meta_extend(meta, args->ino, args->data, args->size, args->cuts, out_node);
    case FENCE:
        return fm_fs_meta_fence(meta, args->ino, args->data, out_node);
    case TRUNCATE:
        return fm_fs_meta_truncate(meta, who, args->ino, args->data, args->size, args->cuts, out_node);
    default:
        return fm_fs_meta_quota_set(meta, who, args->ino, &quota);
    }
}

static void answer(struct node *node)
{
    struct request *request = node->requests.after;
    struct names_args args; // the request is gone when the server is killed
    struct names_reply reply = {0};
    memcpy(&args, request->base.args, sizeof args);
    node->served = args.who;
    node->serving = 1;
    serve_on(node);
    reply.status = carry_out(node->meta, &args, &reply.node);
    node->serving = 0;
    serve_on(node);
    if (!node->dying)
        fm_fs_reply(&node->base, &request->base, FM_OK, &reply, sizeof reply, NULL);
}

static void serve(void *context)
{
    struct node *node = context;
    struct world *world = node->world;
    const fm_fs_meta_options options = {.size = sizeof options,
                                        .layout = {NAMES_CHUNK, 2, CHAINS, 0},
                                        .no_inline = 1,
                                        .now = names_now,
                                        .now_context = node};
    serve_on(node);
    while (!node->dying && fm_fs_meta_open(&node->names_kv.base, &options, &node->meta) < 0)
        nap(node, 20 * ms);
    while (!node->dying) {
        size_t done;
        if (node->requests.after != &node->requests)
            answer(node);
        else if (world->now >= node->collect_at) {
            if (fm_fs_meta_collect(node->meta, remove_chunks, node, 4, &done) == FM_OK)
                world->result.collected += done;
            node->collect_at = world->now + sim_between(world, 100 * ms, 600 * ms);
        } else {
            node->idle = node->waiting + 1;
            nap(node, node->collect_at - world->now);
            node->idle = 0;
        }
    }
    fm_fs_meta_close(node->meta);
    node->meta = NULL;
}

void sim_names_take(struct node *node)
{
    if (node->idle)
        sim_names_wake(node, node->idle);
}

/* Clients */

struct file { // beside a node of the model
    uint64_t data;
    uint32_t chunks;
    uint64_t stamps[NAMES_CHUNKS]; // 0: nothing was written there
    fm_fs_layout layout;
};

struct names_client {
    struct node *node;
    uint64_t sequence;
    uint64_t own, shared; // directories
    struct model model;   // of what is below the own one
    struct file files[MODEL_NODES];
    uint64_t dirs[16]; // of what all share: some that are or were there
    uint64_t nodes[16];
};

static void call_done(fm_fs_call *call)
{
    struct wait *wait = call->context;
    struct names_reply *reply = wait->node->names_reply;
    if (call->status == FM_OK)
        memcpy(reply, call->reply_args, sizeof *reply);
    else
        reply->status = call->status;
    sim_names_wake(wait->node, wait->id);
}

static int is_unknown(fm_status status)
{
    return status == FM_ERR_TIMEOUT || status == FM_ERR_UNAVAILABLE || status == FM_ERR_FS_MAYBE ||
           status == FM_ERR_FS_CONFLICT;
}

// A request, which is sent again, to any server, until it is known how it went.
static fm_status ask(struct names_client *client, struct names_args *args, fm_fs_node *out_node)
{
    struct node *node = client->node;
    struct world *world = node->world;
    struct names_reply reply;
    if (node->dying)
        return FM_ERR_UNAVAILABLE;
    args->who = (fm_fs_who){.client = node->base.node, .slot = 1, .sequence = ++client->sequence};
    do {
        struct wait wait = {node, ++node->waiting, 1};
        fm_fs_call call = {.node = sim_name_of(FIRST_NAMER + (int)sim_between(world, 0, NAMERS - 1)),
                           .method = 1,
                           .timeout_ns = sim_between(world, 50 * ms, 600 * ms),
                           .args = args,
                           .args_bytes = sizeof *args,
                           .done = call_done,
                           .context = &wait};
        reply.status = FM_ERR_UNAVAILABLE;
        node->names_reply = &reply;
        fm_fs_call_start(&node->base, &call);
        yield(node);
        if (is_unknown(reply.status)) {
            world->result.names_again++;
            nap(node, sim_between(world, 1 * ms, 100 * ms));
        }
    } while (is_unknown(reply.status) && !node->dying);
    sim_note(world, "names client %u: op %d %llu %s to %llu %s: %s, inode %llu", node->base.node, args->op,
             (unsigned long long)args->parent, args->name, (unsigned long long)args->to_parent, args->to_name,
             fm_base_status_name(reply.status), (unsigned long long)reply.node.ino);
    world->result.operations++;
    world->result.names_operations++;
    if (out_node)
        *out_node = reply.node;
    return reply.status;
}

static void expect(struct names_client *client, const char *what, fm_status got, fm_status expected)
{
    if (got != expected && !client->node->dying)
        sim_fail(client->node->world, "names client %u: %s ended with %s, and should with %s",
                 client->node->base.node, what, fm_base_status_name(got), fm_base_status_name(expected));
}

static const char *draw_name(struct world *world)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    return names[sim_between(world, 0, 3)];
}

/* What a client has for itself: each answer must be the model's */

static fm_status look(void *context, uint64_t ino, fm_fs_node *out_node)
{
    struct names_args args = {.op = LOOK, .ino = ino};
    return ask(context, &args, out_node);
}

// An operation that finds the file in these chunks.
static struct names_args args_of(enum names_op op, const fm_fs_node *node, uint64_t size)
{
    return (struct names_args){
        .op = op, .ino = node->ino, .data = node->data, .cuts = node->cuts, .size = size};
}

static fm_status extend(void *context, const fm_fs_node *node, uint64_t end, fm_fs_node *out_node)
{
    struct names_args args = args_of(EXTEND, node, end);
    return ask(context, &args, out_node);
}

static fm_status fence(void *context, const fm_fs_node *node, fm_fs_node *out_node)
{
    struct names_args args = args_of(FENCE, node, 0);
    return ask(context, &args, out_node);
}

static fm_status truncate_to(void *context, const fm_fs_node *node, uint64_t size, fm_fs_node *out_node)
{
    struct names_args args = args_of(TRUNCATE, node, size);
    return ask(context, &args, out_node);
}

// It is tried as long as it takes: what has an unknown outcome could happen after what the client does next.
static fm_status run_long(void *context, fm_fs_client_io *ios, size_t count)
{
    const struct names_client *client = context;
    for (size_t i = 0; i < count; i++)
        ios[i].timeout_ns = 200 * s;
    return run_ios(client->node, ios, count);
}

static struct fm_fs_cut_ways ways_of(struct names_client *client)
{
    return (struct fm_fs_cut_ways){look, extend, fence, truncate_to, run_long, client};
}

static fm_fs_node node_of(const struct names_client *client, int at)
{
    const struct file *file = &client->files[at];
    return (fm_fs_node){.ino = client->model.nodes[at].ino,
                        .data = file->data,
                        .reach = (uint64_t)file->chunks * NAMES_CHUNK,
                        .layout = file->layout};
}

static void own_create(struct names_client *client)
{
    static const fm_fs_who super;
    struct world *world = client->node->world;
    struct names_args args = {.op = CREATE, .mode = S_IFREG | 0644};
    int dir = model_any_dir(&client->model, fm_gen_u64(&world->gen));
    int at = 0;
    fm_fs_node node;
    args.parent = client->model.nodes[dir].ino;
    args.exclusive = sim_chance(world, 0.7);
    if (sim_chance(world, 0.4)) {
        args.mode = S_IFDIR | 0755;
        args.exclusive = 1;
    }
    strcpy(args.name, draw_name(world));
    int is_new = model_find(&client->model, dir, args.name) < 0;
    fm_status expected = model_create(&client->model, &super, dir, args.name, args.mode, args.exclusive, &at);
    fm_status got = ask(client, &args, &node);
    expect(client, "a creation", got, expected);
    if (got != FM_OK || expected != FM_OK)
        return;
    if (is_new) {
        client->model.nodes[at].ino = node.ino;
        client->files[at] = (struct file){.data = node.data, .layout = node.layout};
    } else if (client->model.nodes[at].ino != node.ino) {
        sim_fail(world, "names client %u: %s is another node", client->node->base.node, args.name);
    }
}

static void own_link(struct names_client *client)
{
    static const fm_fs_who super;
    struct world *world = client->node->world;
    struct names_args args = {.op = LINK};
    int dir = model_any_dir(&client->model, fm_gen_u64(&world->gen));
    int at = model_any_node(&client->model, fm_gen_u64(&world->gen));
    args.ino = client->model.nodes[at].ino;
    args.parent = client->model.nodes[dir].ino;
    strcpy(args.name, draw_name(world));
    fm_status expected = model_link(&client->model, &super, at, dir, args.name);
    expect(client, "a link", ask(client, &args, NULL), expected);
}

static void own_remove(struct names_client *client)
{
    static const fm_fs_who super;
    struct world *world = client->node->world;
    struct names_args args = {.op = sim_chance(world, 0.6) ? UNLINK : RMDIR};
    int dir = model_any_dir(&client->model, fm_gen_u64(&world->gen));
    args.parent = client->model.nodes[dir].ino;
    strcpy(args.name, draw_name(world));
    if (sim_chance(world, 0.1))
        args.op = REMOVE_ALL;
    fm_status expected = args.op == REMOVE_ALL
                             ? model_remove_all(&client->model, &super, dir, args.name)
                             : model_remove(&client->model, &super, dir, args.name, args.op == RMDIR);
    expect(client, "a removal", ask(client, &args, NULL), expected);
}

static unsigned draw_flags(struct world *world)
{
    static const unsigned flags[] = {0, 0, 0, FM_FS_META_NOREPLACE, FM_FS_META_EXCHANGE};
    return flags[sim_between(world, 0, 4)];
}

static void own_rename(struct names_client *client)
{
    static const fm_fs_who super;
    struct world *world = client->node->world;
    struct names_args args = {.op = RENAME, .flags = draw_flags(world)};
    int dir = model_any_dir(&client->model, fm_gen_u64(&world->gen));
    int to_dir = model_any_dir(&client->model, fm_gen_u64(&world->gen));
    args.parent = client->model.nodes[dir].ino;
    args.to_parent = client->model.nodes[to_dir].ino;
    strcpy(args.name, draw_name(world));
    strcpy(args.to_name, draw_name(world));
    fm_status expected =
        model_rename(&client->model, &super, dir, args.name, to_dir, args.to_name, args.flags);
    expect(client, "a renaming", ask(client, &args, NULL), expected);
}

// A file of the client's own; -1: there is none.
static int any_file(const struct names_client *client, uint64_t choice)
{
    int at = model_any_node(&client->model, choice);
    return S_ISREG(client->model.nodes[at].mode) ? at : -1;
}

// As an operation that is begun anew.
static fm_status run_again(struct node *node, fm_fs_client_io *io)
{
    fm_fs_client_io next = {.kind = io->kind,
                            .chain = io->chain,
                            .id = io->id,
                            .offset = io->offset,
                            .size = io->size,
                            .data = io->data,
                            .timeout_ns = io->timeout_ns};
    *io = next;
    return run_io(node, io);
}

static void own_write(struct names_client *client, int at)
{
    struct world *world = client->node->world;
    struct file *file = &client->files[at];
    uint32_t index = (uint32_t)sim_between(world, 0, NAMES_CHUNKS - 1);
    const struct fm_fs_cut_ways ways = ways_of(client);
    fm_fs_node node;
    fm_status grown;
    do { // a target may have forgotten a request, which cannot happen any more then
        expect(client, "a look", look(client, client->model.nodes[at].ino, &node), FM_OK);
        if (client->node->dying)
            return;
        grown = fm_fs_cut_grow(&ways, &node, (uint64_t)(index + 1) * NAMES_CHUNK);
    } while (grown == FM_ERR_FS_MAYBE);
    expect(client, "a file's growth", grown, FM_OK);
    file->chunks = index + 1 > file->chunks ? index + 1 : file->chunks;
    node = node_of(client, at);
    fm_fs_client_io io = io_of(&node, index, FM_FS_CLIENT_WRITE, 200 * s);
    uint64_t stamp = ++world->value;
    io.data = fm_fs_buffer_new(8);
    fm_put_le64(io.data->data, stamp);
    fm_status written;
    do
        written = run_again(client->node, &io);
    while (written == FM_ERR_FS_MAYBE);
    expect(client, "a write", written, FM_OK);
    fm_fs_buffer_drop(io.data);
    file->stamps[index] = stamp;
}

static void own_truncate(struct names_client *client, int at)
{
    struct world *world = client->node->world;
    struct file *file = &client->files[at];
    uint32_t kept =
        file->chunks && sim_chance(world, 0.4) ? (uint32_t)sim_between(world, 0, file->chunks) : 0;
    const struct fm_fs_cut_ways ways = ways_of(client);
    fm_fs_node node;
    expect(client, "a look", look(client, client->model.nodes[at].ino, &node), FM_OK);
    if (client->node->dying)
        return;
    fm_status status = kept ? fm_fs_cut_truncate(&ways, &node, (uint64_t)kept * NAMES_CHUNK)
                            : truncate_to(client, &node, 0, &node);
    expect(client, "a truncation", status, FM_OK);
    file->data = node.data;
    for (uint32_t i = kept; i < NAMES_CHUNKS; i++)
        file->stamps[i] = 0;
    file->chunks = kept;
}

static void own_read(struct names_client *client, int at, uint32_t index)
{
    const struct file *file = &client->files[at];
    if (index >= file->chunks || client->node->dying)
        return;
    fm_fs_node node = node_of(client, at);
    fm_fs_client_io io = io_of(&node, index, FM_FS_CLIENT_READ, 200 * s);
    io.size = 64;
    expect(client, "a read", run_io(client->node, &io), FM_OK);
    if (client->node->dying)
        return;
    uint64_t stamp = io.bytes && io.bytes->size == 8 ? fm_get_le64(io.bytes->data) : 0;
    fm_fs_buffer_drop(io.bytes);
    if (stamp != file->stamps[index])
        sim_fail(client->node->world, "names client %u: chunk %u of inode %llu holds %llu; it wrote %llu",
                 client->node->base.node, index, (unsigned long long)node.ino, (unsigned long long)stamp,
                 (unsigned long long)file->stamps[index]);
}

static void do_own(struct names_client *client)
{
    struct world *world = client->node->world;
    int64_t what = sim_between(world, 0, 99);
    int file = any_file(client, fm_gen_u64(&world->gen));
    if (what < 30)
        own_create(client);
    else if (what < 38)
        own_link(client);
    else if (what < 52)
        own_remove(client);
    else if (what < 70)
        own_rename(client);
    else if (file >= 0 && what < 86)
        own_write(client, file);
    else if (file >= 0 && what < 92)
        own_truncate(client, file);
    else if (file >= 0)
        own_read(client, file, (uint32_t)sim_between(world, 0, NAMES_CHUNKS - 1));
}

/* What all share: whatever the answers are, the names must be sound */

static void do_shared(struct names_client *client)
{
    struct world *world = client->node->world;
    static const enum names_op ops[] = {CREATE, CREATE, CREATE, CREATE, LINK,   UNLINK,
                                        RMDIR,  RENAME, RENAME, RENAME, RENAME, REMOVE_ALL};
    struct names_args args = {.op = ops[sim_between(world, 0, sim_chance(world, 0.3) ? 11 : 10)],
                              .mode = S_IFREG | 0644,
                              .flags = draw_flags(world),
                              .exclusive = 1};
    args.parent = client->dirs[sim_between(world, 0, 15)];
    args.to_parent = client->dirs[sim_between(world, 0, 15)];
    args.ino = client->nodes[sim_between(world, 0, 15)];
    strcpy(args.name, draw_name(world));
    strcpy(args.to_name, draw_name(world));
    if (sim_chance(world, 0.7))
        args.mode = S_IFDIR | 0755;
    else
        args.exclusive = sim_chance(world, 0.5);
    fm_fs_node node = {0};
    fm_status got = ask(client, &args, &node);
    static const fm_status allowed[] = {
        FM_OK,      FM_ERR_NOT_FOUND, FM_ERR_EXISTS, FM_ERR_FS_NOT_DIR, FM_ERR_FS_IS_DIR, FM_ERR_FS_NOT_EMPTY,
        FM_ERR_ARG, FM_ERR_PERM};
    int known = client->node->dying;
    for (size_t i = 0; i < sizeof allowed / sizeof allowed[0]; i++)
        known |= got == allowed[i];
    if (!known)
        sim_fail(world, "names client %u: an operation on what all share ended with %s",
                 client->node->base.node, fm_base_status_name(got));
    if (args.op == CREATE && got == FM_OK && node.ino && S_ISDIR(node.mode))
        client->dirs[sim_between(world, 1, 15)] = node.ino;
    if (args.op == CREATE && got == FM_OK && node.ino)
        client->nodes[sim_between(world, 0, 15)] = node.ino;
}

// Makes a directory in the root, or finds it.
static uint64_t make_dir(struct names_client *client, const char *name, int is_own)
{
    struct names_args args = {
        .op = CREATE, .parent = FM_FS_META_ROOT, .mode = S_IFDIR | 0755, .exclusive = 1};
    fm_fs_node node = {0};
    strcpy(args.name, name);
    fm_status got = ask(client, &args, &node);
    if (is_own)
        expect(client, "a first directory", got, FM_OK);
    return node.ino;
}

static void work(void *context)
{
    struct node *node = context;
    struct world *world = node->world;
    struct names_client *client = node->names;
    char name[8];
    snprintf(name, sizeof name, "o%u", node->base.node);
    model_init(&client->model);
    client->own = client->model.nodes[0].ino = make_dir(client, name, 1);
    snprintf(name, sizeof name, "s%u", node->base.node);
    client->shared = make_dir(client, name, 1);
    struct names_args quota = {.op = QUOTA, .ino = client->own};
    expect(client, "a quota", ask(client, &quota, NULL), FM_OK);
    for (int i = 0; i < 16; i++)
        client->dirs[i] = client->nodes[i] = client->shared;
    // All know the others' directories: a number is all it takes.
    for (int i = 0; i < NAME_CLIENTS; i++) {
        const struct names_client *other = world->nodes[FIRST_NAMER + NAMERS + i].names;
        while (!node->dying && !other->shared)
            nap(node, 50 * ms);
        if (node->dying) // and the other may be gone
            return;
        client->dirs[i] = other->shared;
    }
    struct names_args file = {.op = CREATE, .parent = FM_FS_META_ROOT, .name = "cut", .mode = S_IFREG | 0666};
    fm_fs_node cut = {0};
    expect(client, "the shared file", ask(client, &file, &cut), FM_OK);
    const struct fm_fs_cut_ways ways = ways_of(client);
    for (int i = 0; i < NAMES_OPERATIONS && !node->dying; i++) {
        if (sim_chance(world, 0.35))
            sim_cut_do(node, &ways, cut.ino);
        else if (sim_chance(world, 0.6))
            do_own(client);
        else
            do_shared(client);
        nap(node, sim_between(world, 0, world->pause_ns));
    }
    while (!world->final && !node->dying) {
        node->at_rest = 1;
        nap(node, 100 * ms);
    }
    if (!node->dying)
        sim_cut_end(node, &ways, cut.ino);
    for (int at = 0; at < MODEL_NODES; at++)
        for (uint32_t i = 0; client->model.nodes[at].ino && S_ISREG(client->model.nodes[at].mode) &&
                             i < client->files[at].chunks;
             i++)
            own_read(client, at, i);
}

/* Life */

void sim_names_start(struct node *node)
{
    int is_server = node->index < FIRST_NAMER + NAMERS;
    node->dying = 0;
    node->waiting++;
    node->idle = 0;
    node->names_kv = (struct names_kv){.base = {.ops = &names_kv_ops}, .node = node};
    node->names_kv.base.seed = node->world->seed;
    if (!is_server) {
        node->names = calloc(1, sizeof *node->names);
        node->names->node = node;
    }
    node->fiber = sim_fiber_new(is_server ? serve : work, node);
    struct event event = sim_event_of(node, FIBER);
    event.id = node->waiting;
    sim_push(node->world, event, 200 * ms);
}

// The client of its chunks is freed already.
void sim_names_stop(struct node *node)
{
    if (!node->fiber)
        return;
    node->dying = 1;
    // Whatever it waits for does not come any more; one that never ran has nothing to leave.
    while (!sim_fiber_ended(node->fiber))
        sim_fiber_resume(node->fiber);
    sim_fiber_free(node->fiber);
    node->fiber = NULL;
    free(node->names);
    node->names = NULL;
}

int sim_names_done(const struct node *node)
{
    return !node->fiber || (node->world->final ? sim_fiber_ended(node->fiber) : node->at_rest);
}

/* What must hold in the end */

static void tell(void *context, const char *text)
{
    sim_fail(context, "the names: %s", text);
}

struct owners {
    struct world *world;
    size_t count;
    fm_fs_node nodes[4096];
};

static fm_status list_owners(fm_fs_kv_tx *tx, void *context)
{
    struct owners *owners = context;
    enum { PAGE = 64 };
    fm_fs_kv_item items[PAGE];
    uint8_t from[16] = {'I'};
    static const uint8_t behind[1] = {'I' + 1};
    size_t from_bytes = 1;
    size_t count = PAGE;
    owners->count = 0;
    while (count == PAGE && owners->count + PAGE <= sizeof owners->nodes / sizeof owners->nodes[0]) {
        FM_TRY(fm_fs_kv_range(tx, (fm_fs_kv_bytes){from, from_bytes}, (fm_fs_kv_bytes){behind, 1}, PAGE, 0,
                              items, &count));
        for (size_t i = 0; i < count; i++) {
            uint64_t ino = fm_fs_meta_number_at((const uint8_t *)items[i].key.data + 1);
            FM_TRY(fm_fs_meta_node_decode(ino, items[i].value, &owners->nodes[owners->count++]));
        }
        if (count) {
            memcpy(from, items[count - 1].key.data, items[count - 1].key.size);
            from[items[count - 1].key.size] = 0; // the least key behind it
            from_bytes = items[count - 1].key.size + 1;
        }
    }
    return FM_OK;
}

static int is_owned(const struct owners *owners, uint32_t chain, const fm_fs_chunk_id *id)
{
    for (size_t i = 0; i < owners->count; i++) {
        const fm_fs_node *node = &owners->nodes[i];
        uint32_t chunks = S_ISREG(node->mode) ? (uint32_t)((node->reach + NAMES_CHUNK - 1) / NAMES_CHUNK) : 0;
        for (uint32_t c = 0; c < chunks; c++) {
            uint32_t at;
            fm_fs_chunk_id own;
            fm_fs_meta_chunk(node, c, &at, own.bytes);
            if (at == chain && fm_fs_chunk_id_compare(&own, id) == 0)
                return 1;
        }
    }
    return 0;
}

static void check_chunks(struct world *world)
{
    struct owners *owners = calloc(1, sizeof *owners);
    while (fm_fs_kv_run(world->names_kv, FM_FS_KV_READ_ONLY, list_owners, owners) < 0)
        ;
    for (int i = 0; i < world->disk_count; i++) {
        const struct disk *disk = &world->disks[i];
        const fm_fs_store *store = fm_fs_storage_store(world->nodes[disk->node].storage, disk->target);
        const fm_fs_chunk *chunk = store ? fm_fs_store_after(store, NULL) : NULL;
        for (; chunk; chunk = fm_fs_store_after(store, &chunk->id))
            if (chunk->id.bytes[0] == 0 && fm_fs_chunk_is_there(chunk) &&
                !is_owned(owners, disk->target / 10, &chunk->id))
                sim_fail(world, "target %u holds a chunk that belongs to no file", disk->target);
    }
    free(owners);
}

static void compare_node(struct world *world, fm_fs_meta *meta, const struct names_client *client, int at)
{
    const struct model_node *expected = &client->model.nodes[at];
    fm_fs_node node;
    fm_status status = fm_fs_meta_node(meta, expected->ino, &node);
    if (status < 0)
        sim_fail(world, "inode %llu: %s", (unsigned long long)expected->ino, fm_base_status_name(status));
    else if (node.mode != expected->mode || node.nlink != expected->nlink)
        sim_fail(world, "inode %llu has mode %o and %u links; the model %o and %u",
                 (unsigned long long)node.ino, node.mode, node.nlink, expected->mode, expected->nlink);
    else if (S_ISREG(node.mode) && node.size != (uint64_t)client->files[at].chunks * NAMES_CHUNK)
        sim_fail(world, "inode %llu has %llu bytes; the model %u chunks", (unsigned long long)node.ino,
                 (unsigned long long)node.size, client->files[at].chunks);
}

static void compare_with_model(struct world *world, fm_fs_meta *meta, const struct names_client *client)
{
    size_t entries = 0;
    size_t found = 0;
    for (int i = 0; i < MODEL_ENTRIES; i++) {
        const struct model_entry *entry = &client->model.entries[i];
        fm_fs_node node;
        if (entry->node < 0)
            continue;
        entries++;
        fm_status status =
            fm_fs_meta_lookup(meta, NULL, client->model.nodes[entry->dir].ino, entry->name, &node);
        if (status < 0 || node.ino != client->model.nodes[entry->node].ino)
            sim_fail(world, "%s of inode %llu is not what the model has there: %s", entry->name,
                     (unsigned long long)client->model.nodes[entry->dir].ino, fm_base_status_name(status));
    }
    for (int at = 0; at < MODEL_NODES; at++) {
        static fm_fs_meta_entry page[FM_FS_META_PAGE_MAX];
        size_t count = 0;
        if (!client->model.nodes[at].ino)
            continue;
        if (at > 0) // the root of the model has another mode
            compare_node(world, meta, client, at);
        if (S_ISDIR(client->model.nodes[at].mode) &&
            fm_fs_meta_list(meta, NULL, client->model.nodes[at].ino, NULL, page, FM_FS_META_PAGE_MAX,
                            &count) < 0)
            sim_fail(world, "inode %llu cannot be listed", (unsigned long long)client->model.nodes[at].ino);
        found += count;
    }
    if (found != entries)
        sim_fail(world, "names client %u has %zu entries; the model %zu", client->node->base.node, found,
                 entries);
}

void sim_names_check(struct world *world)
{
    fm_fs_meta *meta = NULL;
    fm_fs_meta_census census = {0};
    fm_fs_meta_serve_for(NULL);
    const fm_fs_meta_options options = {.size = sizeof options, .no_inline = 1};
    while (fm_fs_meta_open(world->names_kv, &options, &meta) < 0)
        ;
    while (fm_fs_meta_check(meta, tell, world, &census) < 0)
        ;
    if (census.collectable)
        sim_fail(world, "the names: %llu pieces of work are left for the collector",
                 (unsigned long long)census.collectable);
    for (int i = 0; i < NAME_CLIENTS && !world->result.failed; i++)
        compare_with_model(world, meta, world->nodes[FIRST_NAMER + NAMERS + i].names);
    fm_fs_meta_close(meta);
    if (!world->result.failed)
        check_chunks(world);
    if (!world->result.failed)
        sim_cut_check(world);
}
