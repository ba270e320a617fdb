// What the simulator's two parts share: the events, nodes and faults (sim_world.c), and what stands for clock, network
// and disk (sim_runtime.c).
#ifndef SIM_WORLD_PRIVATE_H
#define SIM_WORLD_PRIVATE_H

#include "cluster_client.h"
#include "fm_gen.h"
#include "lin_check.h"
#include "manager.h"
#include "meta.h"
#include "meta_model.h"
#include "kv_backend.h"
#include "sim_disk.h"
#include "sim_fiber.h"
#include "sim_world.h"
#include "storage.h"
#include "volume_cut.h"

static const int64_t us = 1000;
static const int64_t ms = 1000000;

/*
 * Two managers, four storage nodes, three clients of chunks; two servers of names with a store of their own, and three clients
 * of theirs, whose files are chunks of the same cluster. Two chains of three replicas over the nodes:
 *
 *     chain 1: targets 11, 12, 13 on nodes 11, 12, 13        chain 2: targets 23, 24, 21 on nodes 13, 14, 11
 */
enum {
    MANAGERS = 2,
    STORAGES = 4,
    CLIENTS = 3,
    NAMERS = 2,
    NAME_CLIENTS = 3,
    FIRST_NAMER = MANAGERS + STORAGES + CLIENTS,
    NODES = FIRST_NAMER + NAMERS + NAME_CLIENTS,
    NAMES_OPERATIONS = 90, // of each client
    NAMES_UNDER_FAULTS_S = 40,
    NAMES_CHUNK = 64 << 10,
    NAMES_CHUNKS = 3, // of a file, at most
    CHAINS = 2,
    REPLICAS = 3,
    TARGETS_PER_NODE = 2,
    CHUNKS = 3, // of each chain
    CELLS = 2,  // registers of each chunk
    CELL_AT = 4096,
    LARGE = 40 << 10, // bytes of some writes
    OPERATIONS = 72,  // of each client
    AT_ONCE = 3,      // of each client
    HISTORY_MAX = CLIENTS * (OPERATIONS + 64) * 2,
    FINAL_READS = CHAINS * CHUNKS
};

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
    CLIENT,
    FIBER,
    CRASH
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
    uint8_t *args; // behind it
};

struct disk_io { // under way
    fm_fs_disk_io *io;
    int disk;
};

struct names_kv {
    fm_fs_kv base;
    struct node *node;
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
    struct client_op *ops;
    int final_to_do;
    int64_t started_ns;
    int armed; // the node fails at the n-th disk operation, or way to or from the store, from now
    // Of servers and clients of names
    sim_fiber *fiber;
    uint64_t waiting; // grows with each wait; whoever ends one names it
    uint64_t idle;    // server: waits for a request, by this number
    int dying;
    int at_rest; // client: its operations have ended
    int64_t collect_at;
    struct names_kv names_kv;
    fm_fs_meta *meta;
    fm_fs_who served; // whose request it is that is being served
    int serving;
    struct names_client *names;
    struct names_reply *names_reply;
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

// The file that all clients of names share: a history for each of its cells.
enum { SIM_CUT_CELLS = 6, SIM_CUT_HISTORY = 1024 };
struct sim_cut {
    size_t counts[SIM_CUT_CELLS];
    lin_op ops[SIM_CUT_CELLS][SIM_CUT_HISTORY];
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
    fm_fs_kv *names_kv;
    int faulty;         // faults are on
    int64_t calm_until; // no node may be lost before: a replica is being mended
    double io_error_rate;
    double drop_rate, duplicate_rate, slow_rate;
    double late_rate;     // of the slow ones
    int64_t cut_ns;       // when the network was whole again last
    int gentle;           // few faults, so that all is whole at times, when one disk may fail
    int64_t fault_gap_ns; // the longest
    int remove_percent;   // of operations, beyond those that always are
    uint32_t sessions;    // that a target remembers; 0: all
    int64_t pause_ns;     // of a client between two operations, the longest
    struct history_op *history;
    size_t history_count;
    struct sim_cut cut;
    uint64_t value;
    uint32_t traced[CHAINS]; // version of the chain that the trace shows
    int final;
    sim_result result;
};

struct client_op {
    fm_fs_client_io io;
    struct client_op *next; // of those under way
    struct node *node;
    int cell;
    int chunk;
    uint64_t value;
    int64_t begin;
};

// sim_runtime.c
void sim_note(struct world *world, const char *format, ...) FM_PRINTF(2, 3);
void sim_fail(struct world *world, const char *format, ...) FM_PRINTF(2, 3);
void sim_push(struct world *world, struct event event, int64_t delay);
struct event sim_pop(struct world *world);
struct event sim_event_of(const struct node *node, enum event_kind kind);
int64_t sim_between(struct world *world, int64_t low, int64_t high);
int sim_chance(struct world *world, double probability);
void sim_count(struct world *world, enum sim_fault fault);
void sim_message_free(struct message *message);
void sim_request_free(struct request *request);
uint32_t sim_name_of(int index);
void sim_timer_fire(struct node *node, uint64_t id);
void sim_take_request(struct world *world, struct node *node, const struct message *message);
void sim_take_reply(struct node *node, const struct message *message);
void sim_time_out(struct node *node, uint64_t id);
void sim_disk_submitted(void *context, fm_fs_disk_io *io);
void sim_disk_done(struct world *world, struct node *node, const struct event *event);
extern const struct fm_fs_runtime_ops sim_runtime_ops;

// sim_names.c
void sim_names_start(struct node *node);
void sim_names_stop(struct node *node);
void sim_names_wake(struct node *node, uint64_t id);
void sim_names_take(struct node *node); // a request has come
int sim_names_done(const struct node *node);
void sim_names_check(struct world *world);

// sim_cut.c
void sim_cut_do(struct node *node, const struct fm_fs_cut_ways *plain, uint64_t ino);
// The file grows to its longest, so that all is seen that lies behind its end.
void sim_cut_end(struct node *node, const struct fm_fs_cut_ways *plain, uint64_t ino);
void sim_cut_check(struct world *world);

// sim_world.c
void sim_crash_node(struct world *world, struct node *node, int power, int64_t down);

#endif
