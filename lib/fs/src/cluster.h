/**
 * @file cluster.h
 * What the members of a cluster tell each other: who is there (routing), how each chain stands, and the messages
 * about chunks. All formats are little-endian; whatever arrives is checked here, before any protocol sees it.
 */
#ifndef FATHOM_CLUSTER_H
#define FATHOM_CLUSTER_H

#include "chunk_store.h"

enum {
    FM_FS_WIRE_VERSION = 1,
    FM_FS_REPLICAS_MAX = 8,
    FM_FS_ADDRESS_MAX = 127, // bytes of a node's address: "unix:" and the longest path, or a host's name
    // Guards against forged counts: a cluster of this size is far beyond one manager.
    FM_FS_NODES_MAX = 4096,
    FM_FS_CHAINS_MAX = 1 << 20
};

/* Chains */

enum fm_fs_public {    // persisted with the chain
    FM_FS_SERVING = 1, // complete; reads and writes
    FM_FS_LASTSRV = 2, // down, and complete: may restart the chain
    FM_FS_SYNCING = 4, // being filled by its predecessor; takes writes
    FM_FS_WAITING = 8, // alive, not being filled yet
    FM_FS_OFFLINE = 16 // down
};
enum fm_fs_local {      // what a target says of itself
    FM_FS_UPTODATE = 1, // it has all that its chain has
    FM_FS_ONLINE = 2,
    FM_FS_DOWN = 4,
    FM_FS_UNKNOWN = 0 // nothing that counts was heard
};

typedef struct fm_fs_member {
    uint32_t target;
    uint32_t node;
    uint8_t state; // enum fm_fs_public
} fm_fs_member;

typedef struct fm_fs_chain {
    uint32_t id;
    uint32_t version;   // grows with every change
    uint32_t rotations; // how often acknowledged changes were given up: what was seen before need not hold
    uint32_t count;
    fm_fs_member members[FM_FS_REPLICAS_MAX]; // the head first
} fm_fs_chain;

// What `local[i]` (an enum fm_fs_local) makes of member i. Returns whether anything changed; the version is then
// one higher. chain_state.c says how.
int fm_fs_chain_next(const fm_fs_chain *chain, const uint8_t *local, fm_fs_chain *out_next);
const char *fm_fs_public_name(int state);

/* Routing: what everyone knows of the cluster */

typedef struct fm_fs_node_info {
    uint32_t id;
    uint8_t draining; // its targets leave the chains that can spare them
    char address[FM_FS_ADDRESS_MAX + 1];
} fm_fs_node_info;

typedef struct fm_fs_routing {
    uint64_t version;
    uint32_t node_count;
    uint32_t chain_count;
    fm_fs_node_info *nodes; // ascending by id
    fm_fs_chain *chains;    // ascending by id
} fm_fs_routing;

enum { FM_FS_ROUTING_BYTES_MAX = 16 << 20 }; // encoded: some 10^5 chains
void fm_fs_routing_clear(fm_fs_routing *routing);
// Tells the runtime where the nodes are.
void fm_fs_routing_know(const fm_fs_routing *routing, fm_fs_runtime *runtime);
fm_fs_buffer *fm_fs_routing_encode(const fm_fs_routing *routing); // NULL: no memory
fm_status fm_fs_routing_decode(const uint8_t *bytes, size_t size, fm_fs_routing *out_routing);
const fm_fs_chain *fm_fs_routing_chain(const fm_fs_routing *routing, uint32_t id); // NULL: none
const fm_fs_node_info *fm_fs_routing_node(const fm_fs_routing *routing, uint32_t id);
size_t fm_fs_chain_encode(uint8_t *to, const fm_fs_chain *chain); // at most FM_FS_CHAIN_BYTES_MAX
fm_status fm_fs_chain_decode(const uint8_t *bytes, size_t size, fm_fs_chain *out_chain, size_t *out_used);
enum { FM_FS_CHAIN_BYTES_MAX = 16 + 9 * FM_FS_REPLICAS_MAX };

/* Messages */

enum fm_fs_method {
    // To a storage service; args are a fm_fs_message both ways.
    FM_FS_READ = 1,   // client -> any SERVING target
    FM_FS_UPDATE,     // client -> head
    FM_FS_FORWARD,    // target -> successor
    FM_FS_ASK,        // target -> tail: which version is committed?
    FM_FS_FETCH,      // target -> target: a whole chunk in exactly this version
    FM_FS_SYNC_START, // predecessor -> successor; `version` is its floor, the payload holds sessions
    FM_FS_SYNC_LIST,  // what have you behind this id? The reply's payload holds entries
    FM_FS_SYNC_DONE,
    FM_FS_LIST,  // client -> any SERVING target: the ids of chunks behind `id`; `offset` 1: from the first on
    FM_FS_FLOOR, // target -> successor: `version` is the floor from now on
    // To a manager
    FM_FS_HEARTBEAT = 32, // args: fm_fs_heartbeat; the reply: fm_fs_heartbeat_reply
    FM_FS_ROUTING,        // args: known version (8); the reply's payload: routing, when there is a newer one
    FM_FS_CHANGE,         // args: fm_fs_change
    FM_FS_REPORTS         // the reply's payload: what nodes said last
};

enum fm_fs_message_flag {
    FM_FS_FLAG_BASE_ABSENT = 1, // forward: there was no chunk before, or a removed one
    FM_FS_FLAG_ABSENT = 2,      // reply: there is no chunk
    FM_FS_FLAG_ONLY_IF = 4,     // update: only if the chunk is in version `base`; else FM_ERR_STATE
    // reply to an update: nothing was done, for requests of this client, and of all up to `version`, may be forgotten here
    FM_FS_FLAG_FORGOTTEN = 8
};

enum { FM_FS_MESSAGE_BYTES = 100 };

typedef struct fm_fs_message {
    uint32_t chain;
    uint32_t chain_version;
    uint32_t target; // that is meant
    uint8_t kind;    // enum fm_fs_apply_kind
    uint8_t flags;
    fm_fs_chunk_id id;
    uint64_t version; // read: at least this one. Update: the reply tells it
    uint64_t base;    // forward: on which the change stands. Update: see FM_FS_FLAG_ONLY_IF
    uint32_t offset;  // reply: how full the fullest replica from this one on is, in permille
    uint32_t size;
    uint32_t crc; // CRC32C of the payload
    fm_fs_tag tag;
} fm_fs_message;

void fm_fs_message_encode(uint8_t *to, const fm_fs_message *message);
fm_status fm_fs_message_decode(const void *bytes, size_t size, fm_fs_message *out_message);

// What a target has of a chunk, for recovery: id (16), version (8), size (4), crc (4), removed (1), pending (1).
enum { FM_FS_ENTRY_BYTES = 34, FM_FS_ENTRIES_MAX = 4096 };
typedef struct fm_fs_entry {
    fm_fs_chunk_id id;
    uint64_t version;
    uint32_t size, crc;
    uint8_t removed, pending;
} fm_fs_entry;
void fm_fs_entry_encode(uint8_t *to, const fm_fs_entry *entry);
fm_fs_entry fm_fs_entry_decode(const uint8_t *from);
enum { FM_FS_SESSION_WIRE_BYTES = 48 };
void fm_fs_session_encode(uint8_t *to, const fm_fs_session *session);
fm_fs_session fm_fs_session_decode(const uint8_t *from);

enum { FM_FS_TARGETS_MAX = 64, FM_FS_HEARTBEAT_BYTES_MAX = 20 + FM_FS_ADDRESS_MAX + 45 * FM_FS_TARGETS_MAX };
typedef struct fm_fs_report { // of one target
    uint32_t target;
    uint32_t chain_version; // that it knows
    uint8_t local;
    fm_status health; // FM_OK, or why the target cannot be used; FM_ERR_BUSY: it is being opened
    uint64_t used_bytes;
    uint64_t capacity_bytes;
    uint8_t identity[16]; // of its disk
} fm_fs_report;
typedef struct fm_fs_heartbeat {
    uint32_t node;
    uint64_t incarnation; // of the process: grows with every start
    uint32_t count;
    char address[FM_FS_ADDRESS_MAX + 1];
    fm_fs_report reports[FM_FS_TARGETS_MAX];
} fm_fs_heartbeat;
size_t fm_fs_heartbeat_encode(uint8_t *to, const fm_fs_heartbeat *heartbeat);
fm_status fm_fs_heartbeat_decode(const void *bytes, size_t size, fm_fs_heartbeat *out_heartbeat);

// The reply to a heartbeat: version of the routing (8), the greatest incarnation known of the node (8).
enum { FM_FS_HEARTBEAT_REPLY_BYTES = 16 };

// The reply to FM_FS_REPORTS: what was heard of a node last.
enum { FM_FS_NEVER = UINT32_MAX };
typedef struct fm_fs_node_report {
    uint32_t silent_ms;   // since then; FM_FS_NEVER: nothing yet by this manager
    uint64_t other_disks; // bit i: report i's disk is not the one that was complete
    fm_fs_heartbeat last; // only its node is set when nothing was heard
} fm_fs_node_report;
fm_fs_buffer *fm_fs_reports_encode(const fm_fs_node_report *reports, uint32_t count); // NULL: no memory
// `*out_reports` is the caller's to free.
fm_status fm_fs_reports_decode(const void *bytes, size_t size, fm_fs_node_report **out_reports,
                               uint32_t *out_count);

// Who asks may ask again when no answer comes: a change that is made already is no failure.
enum fm_fs_change_kind {
    FM_FS_CHANGE_CHAIN,  // `chain`: a new one; its members begin as they are given
    FM_FS_CHANGE_DRAIN,  // `node` is drained (`value` 1) or not (0)
    FM_FS_CHANGE_MEMBER, // `chain.members[0]` joins the chain, OFFLINE (`value` 1), or leaves it (0)
    // The chain, of the given version, is restarted by the next member: the operator accepts that writes are lost.
    FM_FS_CHANGE_ROTATE,
    FM_FS_CHANGE_CHAIN_REMOVE, // `chain.id`, whose targets hold nothing
    FM_FS_CHANGE_NODE_REMOVE   // `node`, which has no target in a chain
};
typedef struct fm_fs_change {
    uint8_t kind;
    uint8_t value;
    uint32_t node;
    fm_fs_chain chain;
} fm_fs_change;
enum { FM_FS_CHANGE_BYTES_MAX = 6 + FM_FS_CHAIN_BYTES_MAX };
size_t fm_fs_change_encode(uint8_t *to, const fm_fs_change *change);
fm_status fm_fs_change_decode(const void *bytes, size_t size, fm_fs_change *out_change);

#endif
