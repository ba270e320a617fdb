#include "manager.h"

#include <stdio.h>

#include "cluster_change.h"
#include "fathom/log.h"

enum {
    CHAINS_AT_ONCE = 16,  // in one transaction: each is two writes or a few more
    MEMBERS_AT_ONCE = 64, // with the rest below FM_FS_KV_OPS_MAX
    CHANGES_WAITING_MAX = 64
};

struct lease {
    uint32_t owner;
    uint64_t epoch;
    uint64_t count;
};

struct node {
    uint32_t id;
    int heard; // a heartbeat came since this manager took over
    int64_t heard_ns;
    fm_fs_heartbeat last;
};

struct identity {
    uint32_t target;
    uint8_t bytes[16];
};

enum work { NOTHING, LEASE, LOAD, WRITE };

// What a closure sees: it may run in another thread, and again.
struct transaction {
    uint32_t me;
    uint64_t epoch;    // that must be in the lease
    struct lease seen; // LEASE: the record that was there long enough
    int may_take;
    struct lease record; // LEASE: what is there now
    int changed_hands;

    uint64_t version; // WRITE: of the routing, before
    uint32_t chain_count;
    uint32_t old_versions[CHAINS_AT_ONCE]; // 0: a new chain
    fm_fs_chain chains[CHAINS_AT_ONCE];
    uint32_t identity_count;
    struct identity identities[MEMBERS_AT_ONCE];
    int has_node;
    fm_fs_node_info node;
    uint32_t node_removed; // 0: none
    uint32_t chain_removed;

    fm_fs_routing routing; // LOAD
    struct identity *targets;
    uint32_t target_count;
    int full; // the page was full: there is more
    uint8_t after[16];
    size_t after_size;
};

struct fm_fs_manager {
    fm_fs_runtime *runtime;
    fm_fs_manager_options options;
    fm_fs_timer tick;
    fm_fs_kv_job job;
    enum work work;
    struct transaction tx;
    struct lease seen; // the lease record, and since when it is so
    int64_t seen_since_ns;
    int seen_any;
    uint64_t epoch; // 0: not the primary
    int64_t trusted_until_ns;
    int64_t renewed_ns; // when the last try began
    int loaded;
    int64_t loaded_ns; // when it became so: heartbeats are heard since
    fm_fs_routing routing;
    struct identity *targets;
    uint32_t target_count;
    struct node *nodes;
    uint32_t node_count;
    fm_fs_request *change; // under way
    fm_fs_request *changes[CHANGES_WAITING_MAX];
    uint32_t change_count;
};

static void tick(void *context);
static void job_done(fm_fs_kv_job *job);
static void next_work(fm_fs_manager *manager);

/* Keys and records */

static const fm_fs_kv_bytes lease_key = {"fs/lease", 8};
static const fm_fs_kv_bytes version_key = {"fs/version", 10};

enum { KEY_BYTES = 9 };

static fm_fs_kv_bytes key_of(char kind, uint32_t id, uint8_t *space)
{
    space[0] = 'f';
    space[1] = 's';
    space[2] = '/';
    space[3] = (uint8_t)kind;
    space[4] = '/';
    space[5] = (uint8_t)(id >> 24); // so that keys are in the order of ids
    space[6] = (uint8_t)(id >> 16);
    space[7] = (uint8_t)(id >> 8);
    space[8] = (uint8_t)id;
    return (fm_fs_kv_bytes){space, KEY_BYTES};
}

static uint32_t id_of(fm_fs_kv_bytes key)
{
    const uint8_t *bytes = (const uint8_t *)key.data + 5;
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static fm_status damaged(const char *what)
{
    return fm_base_error_set(FM_ERR_FORMAT, "the cluster's state in the key-value store: a malformed %s",
                             what);
}

static fm_status lease_get(fm_fs_kv_tx *tx, struct lease *out_lease)
{
    fm_fs_kv_item item = {.key = lease_key};
    *out_lease = (struct lease){0};
    FM_TRY(fm_fs_kv_get(tx, &item, 1, FM_FS_KV_LOCK_UPDATE));
    if (!item.found)
        return FM_OK;
    const uint8_t *bytes = item.value.data;
    if (item.value.size != 20)
        return damaged("lease");
    *out_lease = (struct lease){fm_get_le32(bytes), fm_get_le64(bytes + 4), fm_get_le64(bytes + 12)};
    return FM_OK;
}

static int is_same_lease(const struct lease *a, const struct lease *b)
{
    return a->owner == b->owner && a->epoch == b->epoch && a->count == b->count;
}

// Counts the lease up, or takes it.
static fm_status lease_closure(fm_fs_kv_tx *kv, void *context)
{
    struct transaction *tx = context;
    struct lease lease;
    uint8_t bytes[20];
    FM_TRY(lease_get(kv, &lease));
    tx->changed_hands = 0;
    if (tx->epoch && lease.owner == tx->me && lease.epoch == tx->epoch) {
        lease.count++;
    } else if (!lease.owner || lease.owner == tx->me || (tx->may_take && is_same_lease(&lease, &tx->seen))) {
        lease = (struct lease){tx->me, lease.epoch + 1, 0};
        tx->changed_hands = 1;
    } else {
        tx->record = lease;
        return FM_OK;
    }
    tx->record = lease;
    fm_put_le32(bytes, lease.owner);
    fm_put_le64(bytes + 4, lease.epoch);
    fm_put_le64(bytes + 12, lease.count);
    return fm_fs_kv_put(kv, lease_key, (fm_fs_kv_bytes){bytes, sizeof bytes});
}

static fm_status fence(fm_fs_kv_tx *kv, const struct transaction *tx)
{
    struct lease lease;
    FM_TRY(lease_get(kv, &lease));
    if ((lease.owner != tx->me || lease.epoch != tx->epoch) && !FM_FS_PLANT(FM_FS_PLANT_NO_FENCE))
        return fm_base_error_set(FM_ERR_STATE, "another manager is the primary");
    return FM_OK;
}

static fm_status put_chain(fm_fs_kv_tx *kv, const struct transaction *tx, uint32_t i)
{
    uint8_t key[KEY_BYTES];
    uint8_t value[FM_FS_CHAIN_BYTES_MAX];
    fm_fs_kv_item item = {.key = key_of('c', tx->chains[i].id, key)};
    fm_fs_chain old = {0};
    size_t used;
    FM_TRY(fm_fs_kv_get(kv, &item, 1, FM_FS_KV_LOCK_UPDATE));
    if (item.found)
        FM_TRY(fm_fs_chain_decode(item.value.data, item.value.size, &old, &used));
    if (old.version != tx->old_versions[i] && !FM_FS_PLANT(FM_FS_PLANT_NO_FENCE))
        return fm_base_error_set(FM_ERR_STATE, "chain %u is at version %u, not %u", old.id, old.version,
                                 tx->old_versions[i]);
    size_t size = fm_fs_chain_encode(value, &tx->chains[i]);
    return fm_fs_kv_put(kv, item.key, (fm_fs_kv_bytes){value, size});
}

fm_status fm_fs_manager_has_state(fm_fs_kv_tx *tx, int *out_has)
{
    fm_fs_kv_item item = {.key = version_key};
    FM_TRY(fm_fs_kv_get(tx, &item, 1, FM_FS_KV_LOCK_NONE));
    *out_has = item.found;
    return FM_OK;
}

fm_status fm_fs_manager_put_chain(fm_fs_kv_tx *tx, const fm_fs_chain *chain)
{
    uint8_t key[KEY_BYTES];
    uint8_t value[FM_FS_CHAIN_BYTES_MAX];
    uint8_t version[8] = {1}; // little-endian; 0 is what those know who know nothing
    size_t size = fm_fs_chain_encode(value, chain);
    FM_TRY(fm_fs_kv_put(tx, version_key, (fm_fs_kv_bytes){version, sizeof version}));
    return fm_fs_kv_put(tx, key_of('c', chain->id, key), (fm_fs_kv_bytes){value, size});
}

static fm_status write_closure(fm_fs_kv_tx *kv, void *context)
{
    struct transaction *tx = context;
    uint8_t key[KEY_BYTES];
    uint8_t value[8 + 1 + FM_FS_ADDRESS_MAX];
    FM_TRY(fence(kv, tx));
    for (uint32_t i = 0; i < tx->chain_count; i++)
        FM_TRY(put_chain(kv, tx, i));
    for (uint32_t i = 0; i < tx->identity_count; i++)
        FM_TRY(fm_fs_kv_put(kv, key_of('t', tx->identities[i].target, key),
                            (fm_fs_kv_bytes){tx->identities[i].bytes, 16}));
    if (tx->has_node) {
        value[0] = tx->node.draining;
        size_t length = strlen(tx->node.address);
        memcpy(value + 1, tx->node.address, length);
        FM_TRY(fm_fs_kv_put(kv, key_of('n', tx->node.id, key), (fm_fs_kv_bytes){value, 1 + length}));
    }
    if (tx->node_removed)
        FM_TRY(fm_fs_kv_delete(kv, key_of('n', tx->node_removed, key)));
    if (tx->chain_removed)
        FM_TRY(fm_fs_kv_delete(kv, key_of('c', tx->chain_removed, key)));
    fm_put_le64(value, tx->version + 1);
    return fm_fs_kv_put(kv, version_key, (fm_fs_kv_bytes){value, 8});
}

static void tx_clear(struct transaction *tx)
{
    fm_fs_routing_clear(&tx->routing);
    fm_base_mem_free(tx->targets);
    *tx = (struct transaction){0};
}

// Adds one item of the store to what is loaded.
static fm_status load_item(struct transaction *tx, const fm_fs_kv_item *item)
{
    const uint8_t *value = item->value.data;
    size_t size = item->value.size;
    size_t used;
    if (item->key.size != KEY_BYTES)
        return FM_OK;
    switch (((const char *)item->key.data)[3]) {
    case 'c':
        FM_TRY(fm_fs_chain_decode(value, size, &tx->routing.chains[tx->routing.chain_count], &used));
        tx->routing.chain_count++;
        return FM_OK;
    case 'n': {
        fm_fs_node_info *node = &tx->routing.nodes[tx->routing.node_count++];
        if (size < 1 || size > 1 + FM_FS_ADDRESS_MAX)
            return damaged("node");
        *node = (fm_fs_node_info){.id = id_of(item->key), .draining = value[0]};
        memcpy(node->address, value + 1, size - 1);
        return FM_OK;
    }
    case 't':
        if (size != 16)
            return damaged("target");
        tx->targets[tx->target_count].target = id_of(item->key);
        memcpy(tx->targets[tx->target_count++].bytes, value, 16);
        return FM_OK;
    default:
        return FM_OK;
    }
}

static fm_status load_page(fm_fs_kv_tx *kv, struct transaction *tx, uint8_t *after, size_t *after_size)
{
    static const char end[] = "fs/z";
    fm_fs_kv_item *items = fm_base_mem_alloc(FM_FS_KV_PAGE_MAX * sizeof *items);
    size_t count = 0;
    if (!items)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the cluster's state");
    fm_status status = fm_fs_kv_range(kv, (fm_fs_kv_bytes){after, *after_size}, (fm_fs_kv_bytes){end, 4},
                                      FM_FS_KV_PAGE_MAX, 0, items, &count);
    size_t room = tx->routing.chain_count + tx->routing.node_count + tx->target_count + count + 1;
    fm_fs_chain *chains = fm_base_mem_realloc(tx->routing.chains, room, sizeof *chains);
    tx->routing.chains = chains ? chains : tx->routing.chains;
    fm_fs_node_info *nodes = fm_base_mem_realloc(tx->routing.nodes, room, sizeof *nodes);
    tx->routing.nodes = nodes ? nodes : tx->routing.nodes;
    struct identity *targets = fm_base_mem_realloc(tx->targets, room, sizeof *targets);
    tx->targets = targets ? targets : tx->targets;
    if (status == FM_OK && (!chains || !nodes || !targets))
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for the cluster's state");
    for (size_t i = 0; i < count && status == FM_OK; i++)
        status = load_item(tx, &items[i]);
    *after_size = 0;
    if (status == FM_OK && count == FM_FS_KV_PAGE_MAX && items[count - 1].key.size < 15) {
        memcpy(after, items[count - 1].key.data, items[count - 1].key.size);
        after[items[count - 1].key.size] = 0;
        *after_size = items[count - 1].key.size + 1;
    }
    fm_base_mem_free(items);
    return status;
}

static fm_status load_closure(fm_fs_kv_tx *kv, void *context)
{
    struct transaction *tx = context;
    fm_fs_kv_item item = {.key = version_key};
    uint8_t after[16] = "fs/";
    size_t after_size = 3;
    fm_fs_routing_clear(&tx->routing);
    fm_base_mem_free(tx->targets);
    tx->targets = NULL;
    tx->target_count = 0;
    FM_TRY(fence(kv, tx));
    FM_TRY(fm_fs_kv_get(kv, &item, 1, FM_FS_KV_LOCK_NONE));
    if (item.found && item.value.size != 8)
        return damaged("version");
    while (after_size)
        FM_TRY(load_page(kv, tx, after, &after_size));
    tx->routing.version = item.found ? fm_get_le64(item.value.data) : 0;
    return FM_OK;
}

/* Nodes and identities */

static struct node *node_find(fm_fs_manager *manager, uint32_t id)
{
    for (uint32_t i = 0; i < manager->node_count; i++)
        if (manager->nodes[i].id == id)
            return &manager->nodes[i];
    return NULL;
}

static struct node *node_make(fm_fs_manager *manager, uint32_t id)
{
    struct node *node = node_find(manager, id);
    if (node || manager->node_count >= FM_FS_NODES_MAX)
        return node;
    struct node *nodes = fm_base_mem_realloc(manager->nodes, manager->node_count + 1, sizeof *nodes);
    if (!nodes)
        return NULL;
    manager->nodes = nodes;
    node = &nodes[manager->node_count++];
    *node = (struct node){.id = id, .heard_ns = fm_fs_now(manager->runtime)};
    return node;
}

static struct identity *identity_find(fm_fs_manager *manager, uint32_t target)
{
    for (uint32_t i = 0; i < manager->target_count; i++)
        if (manager->targets[i].target == target)
            return &manager->targets[i];
    return NULL;
}

static const fm_fs_report *report_of(fm_fs_manager *manager, const fm_fs_member *member)
{
    const struct node *node = node_find(manager, member->node);
    for (uint32_t i = 0; node && node->heard && i < node->last.count; i++)
        if (node->last.reports[i].target == member->target)
            return &node->last.reports[i];
    return NULL;
}

static int is_other_disk(fm_fs_manager *manager, const fm_fs_report *report)
{
    static const uint8_t none[16];
    const struct identity *known = identity_find(manager, report->target);
    return known && memcmp(report->identity, none, 16) != 0 &&
           memcmp(report->identity, known->bytes, 16) != 0;
}

// What counts of what was heard of a member.
static uint8_t local_of(fm_fs_manager *manager, const fm_fs_chain *chain, const fm_fs_member *member)
{
    struct node *node = node_make(manager, member->node); // from now on it must be heard of
    if (!node)
        return FM_FS_UNKNOWN;
    if (fm_fs_now(manager->runtime) - node->heard_ns > manager->options.node_timeout_ns)
        return FM_FS_DOWN;
    const fm_fs_report *report = report_of(manager, member);
    if (!report || report->chain_version != chain->version)
        return FM_FS_UNKNOWN;
    if (is_other_disk(manager, report) && (member->state == FM_FS_SERVING || member->state == FM_FS_LASTSRV))
        return FM_FS_DOWN; // what was complete is gone
    return report->local;
}

/* Transactions */

static void begin_work(fm_fs_manager *manager, enum work work, fm_fs_kv_closure closure)
{
    manager->work = work;
    manager->tx.me = manager->runtime->node;
    manager->tx.epoch = manager->epoch;
    manager->job = (fm_fs_kv_job){
        .closure = closure, .closure_context = &manager->tx, .done = job_done, .context = manager};
    manager->runtime->ops->kv_run(manager->runtime, &manager->job);
}

static int64_t now(const fm_fs_manager *manager)
{
    return fm_fs_now(manager->runtime);
}

static void answer_change(fm_fs_manager *manager, fm_status status)
{
    const char *why = status < 0 ? fm_error_message() : "";
    if (manager->change)
        fm_fs_reply(manager->runtime, manager->change, status, why, strlen(why), NULL);
    manager->change = NULL;
}

static void step_down(fm_fs_manager *manager)
{
    manager->epoch = 0;
    manager->loaded = 0;
    manager->trusted_until_ns = 0;
}

static void lease_done(fm_fs_manager *manager, fm_status status)
{
    const struct lease record = manager->tx.record;
    if (status < 0)
        return; // unknown; the next try finds out
    if (!manager->seen_any || !is_same_lease(&record, &manager->seen)) {
        manager->seen = record;
        manager->seen_any = 1;
        manager->seen_since_ns = now(manager);
    }
    if (record.owner != manager->runtime->node) {
        step_down(manager);
        return;
    }
    if (manager->tx.changed_hands) {
        step_down(manager);
        manager->epoch = record.epoch;
    } else if (!fm_fs_manager_is_primary(manager)) {
        // The lease had lapsed, so heartbeats were turned away. That silence is no node's: all begins as after a
        // take-over.
        manager->loaded = 0;
    }
    manager->trusted_until_ns = manager->renewed_ns + manager->options.lease_ns;
}

// What an operator would ask about later: which chains changed, and how their members stand.
static void log_changes(const fm_fs_routing *before, const fm_fs_routing *after)
{
    for (uint32_t i = 0; i < after->chain_count; i++) {
        const fm_fs_chain *chain = &after->chains[i];
        const fm_fs_chain *old = fm_fs_routing_chain(before, chain->id);
        char members[FM_FS_REPLICAS_MAX * 40] = "";
        size_t length = 0;
        if (old && old->version == chain->version)
            continue;
        for (uint32_t m = 0; m < chain->count; m++)
            length +=
                (size_t)snprintf(members + length, sizeof members - length, "%s target %u %s", m ? "," : "",
                                 chain->members[m].target, fm_fs_public_name(chain->members[m].state));
        fm_log_info("fs", "chain %u, version %u:%s", chain->id, chain->version, members);
    }
}

static void load_done(fm_fs_manager *manager, fm_status status)
{
    if (status < 0) {
        manager->loaded = 0; // what is remembered may be old
        if (status == FM_ERR_STATE)
            step_down(manager);
        return;
    }
    int first = !manager->loaded;
    if (!first)
        log_changes(&manager->routing, &manager->tx.routing);
    fm_fs_routing_clear(&manager->routing);
    fm_base_mem_free(manager->targets);
    manager->routing = manager->tx.routing;
    manager->targets = manager->tx.targets;
    manager->target_count = manager->tx.target_count;
    manager->tx.routing = (fm_fs_routing){0};
    manager->tx.targets = NULL;
    manager->loaded = 1;
    if (first)
        manager->loaded_ns = now(manager);
    for (uint32_t i = 0; first && i < manager->node_count; i++) {
        manager->nodes[i].heard_ns = now(manager);
        manager->nodes[i].heard = 0;
    }
}

// Whatever was written, it is read back: one way for success, failure and an unknown outcome.
static void write_done(fm_fs_manager *manager, fm_status status)
{
    // A fence or another version stopped it, in another thread: its message is not here.
    if (status < 0)
        status = fm_base_error_set(status == FM_ERR_STATE ? FM_ERR_FS_CONFLICT : status,
                                   "the change was not written; look again, and ask again");
    answer_change(manager, status);
    begin_work(manager, LOAD, load_closure);
}

static void job_done(fm_fs_kv_job *job)
{
    fm_fs_manager *manager = job->context;
    enum work work = manager->work;
    manager->work = NOTHING;
    if (work == LEASE)
        lease_done(manager, job->status);
    else if (work == LOAD)
        load_done(manager, job->status);
    else if (work == WRITE)
        write_done(manager, job->status);
    if (manager->work == NOTHING)
        next_work(manager);
}

static void renew(fm_fs_manager *manager)
{
    tx_clear(&manager->tx);
    manager->renewed_ns = now(manager);
    manager->tx.seen = manager->seen;
    manager->tx.may_take =
        manager->seen_any && manager->renewed_ns - manager->seen_since_ns > 2 * manager->options.lease_ns;
    begin_work(manager, LEASE, lease_closure);
}

static void note_identity(fm_fs_manager *manager, const fm_fs_member *member, const fm_fs_chain *chain)
{
    static const uint8_t none[16];
    struct transaction *tx = &manager->tx;
    const fm_fs_report *report = report_of(manager, member);
    const struct identity *known = identity_find(manager, member->target);
    if (member->state != FM_FS_SERVING || !report || report->chain_version != chain->version ||
        report->local == FM_FS_DOWN || memcmp(report->identity, none, 16) == 0 ||
        (known && memcmp(known->bytes, report->identity, 16) == 0))
        return;
    tx->identities[tx->identity_count].target = member->target;
    memcpy(tx->identities[tx->identity_count++].bytes, report->identity, 16);
}

// After a take-over or a lapse of the lease nobody is taken out of a chain before all its serving members were heard
// of, or had the time to be: when all have stopped at once, all are complete, and must not be seen to leave one after
// the other.
static int is_gathering(const fm_fs_manager *manager, const fm_fs_chain *chain, const uint8_t *local)
{
    int unknown = 0;
    for (uint32_t m = 0; m < chain->count; m++)
        unknown |= chain->members[m].state == FM_FS_SERVING && local[m] == FM_FS_UNKNOWN;
    return unknown && now(manager) - manager->loaded_ns < manager->options.node_timeout_ns;
}

// The changes that the chains need by what was heard. 0: none.
static int find_changes(fm_fs_manager *manager)
{
    struct transaction *tx = &manager->tx;
    tx_clear(tx);
    for (uint32_t i = 0; i < manager->routing.chain_count && tx->chain_count < CHAINS_AT_ONCE; i++) {
        const fm_fs_chain *chain = &manager->routing.chains[i];
        uint8_t local[FM_FS_REPLICAS_MAX];
        for (uint32_t m = 0; m < chain->count; m++)
            local[m] = local_of(manager, chain, &chain->members[m]);
        if (is_gathering(manager, chain, local))
            continue;
        fm_fs_chain *next = &tx->chains[tx->chain_count];
        if (fm_fs_chain_next(chain, local, next))
            tx->old_versions[tx->chain_count++] = chain->version;
        else
            next = NULL;
        for (uint32_t m = 0; m < chain->count && tx->identity_count < MEMBERS_AT_ONCE; m++)
            note_identity(manager, next ? &next->members[m] : &chain->members[m], chain);
    }
    return tx->chain_count > 0 || tx->identity_count > 0;
}

// A node that is new, or has moved.
static int find_node(fm_fs_manager *manager)
{
    for (uint32_t i = 0; i < manager->node_count; i++) {
        const struct node *node = &manager->nodes[i];
        const fm_fs_node_info *known = fm_fs_routing_node(&manager->routing, node->id);
        if (!node->heard || (known && strcmp(known->address, node->last.address) == 0))
            continue;
        tx_clear(&manager->tx);
        manager->tx.has_node = 1;
        manager->tx.node = (fm_fs_node_info){.id = node->id, .draining = known ? known->draining : 0};
        memcpy(manager->tx.node.address, node->last.address, sizeof node->last.address);
        return 1;
    }
    return 0;
}

static void begin_write(fm_fs_manager *manager)
{
    manager->tx.version = manager->routing.version;
    begin_work(manager, WRITE, write_closure);
}

// A chain that is taken away takes its chunks along, so there must be none.
static fm_status check_empty(fm_fs_manager *manager, const fm_fs_chain *chain)
{
    for (uint32_t m = 0; m < chain->count; m++) {
        const fm_fs_report *report = report_of(manager, &chain->members[m]);
        if (!report || report->health < 0)
            return fm_base_error_set(FM_ERR_STATE, "chain %u: what target %u holds is not known", chain->id,
                                     chain->members[m].target);
        if (report->used_bytes > 0)
            return fm_base_error_set(FM_ERR_STATE, "chain %u: target %u holds %llu bytes", chain->id,
                                     chain->members[m].target, (unsigned long long)report->used_bytes);
    }
    return FM_OK;
}

// A node that lives would be back with its next heartbeat.
static fm_status check_silent(fm_fs_manager *manager, uint32_t id)
{
    struct node *node = node_find(manager, id);
    if (!node)
        return FM_OK;
    if (node->heard && now(manager) - node->heard_ns <= manager->options.node_timeout_ns)
        return fm_base_error_set(FM_ERR_STATE, "node %u is alive; end its process first", id);
    node->heard = 0; // what it said once does not bring it back
    return FM_OK;
}

// Fills in what to write. `*out_any` 0: it is so already.
static fm_status plan_change(fm_fs_manager *manager, const fm_fs_request *request, int *out_any)
{
    struct transaction *tx = &manager->tx;
    fm_fs_change change;
    fm_fs_plan plan;
    FM_TRY(fm_fs_change_decode(request->args, request->args_bytes, &change));
    FM_TRY(fm_fs_change_plan(&manager->routing, &change, &plan));
    if (plan.chain_removed)
        FM_TRY(check_empty(manager, &plan.chain));
    if (plan.node_removed)
        FM_TRY(check_silent(manager, plan.node_removed));
    tx_clear(tx);
    tx->has_node = plan.has_node;
    tx->node = plan.node;
    tx->node_removed = plan.node_removed;
    tx->chain_count = plan.has_chain;
    tx->chains[0] = plan.chain;
    tx->old_versions[0] = plan.old_version;
    tx->chain_removed = plan.chain_removed ? plan.chain.id : 0;
    *out_any = tx->has_node || tx->node_removed || tx->chain_count || tx->chain_removed;
    return FM_OK;
}

static void next_work(fm_fs_manager *manager)
{
    if (manager->work != NOTHING || !fm_fs_manager_is_primary(manager)) {
        while (manager->work == NOTHING && manager->change_count > 0) {
            manager->change = manager->changes[--manager->change_count];
            answer_change(manager, fm_base_error_set(FM_ERR_UNAVAILABLE, "this manager is not the primary"));
        }
        return;
    }
    if (!manager->loaded) {
        tx_clear(&manager->tx);
        begin_work(manager, LOAD, load_closure);
        return;
    }
    while (manager->change_count > 0) {
        int any = 0;
        manager->change = manager->changes[--manager->change_count];
        fm_status status = plan_change(manager, manager->change, &any);
        if (any) {
            begin_write(manager);
            return;
        }
        answer_change(manager, status);
    }
    if (find_node(manager) || find_changes(manager))
        begin_write(manager);
}

static void tick(void *context)
{
    fm_fs_manager *manager = context;
    if (manager->work == NOTHING) {
        if (now(manager) - manager->renewed_ns >= manager->options.lease_ns / 4 || !manager->renewed_ns)
            renew(manager);
        else
            next_work(manager);
    }
    fm_fs_timer_start(manager->runtime, &manager->tick, manager->options.tick_ns);
}

/* Requests */

int fm_fs_manager_is_primary(const fm_fs_manager *manager)
{
    return manager->epoch && now(manager) < manager->trusted_until_ns;
}

const fm_fs_routing *fm_fs_manager_routing(const fm_fs_manager *manager)
{
    return &manager->routing;
}

// Whether a write is under way that takes one of this node's targets out of service. Its lease must not be renewed
// meanwhile by an answer with the version of before: the others may go on without it as soon as the write is known.
static int is_leaving(const fm_fs_manager *manager, uint32_t node)
{
    const struct transaction *tx = &manager->tx;
    if (manager->work != WRITE && manager->work != LOAD)
        return 0;
    for (uint32_t i = 0; i < tx->chain_count; i++)
        for (uint32_t m = 0; m < tx->chains[i].count; m++)
            if (tx->chains[i].members[m].node == node && tx->chains[i].members[m].state != FM_FS_SERVING)
                return 1;
    return 0;
}

static void serve_heartbeat(fm_fs_manager *manager, fm_fs_request *request)
{
    fm_fs_heartbeat heartbeat;
    uint8_t args[FM_FS_HEARTBEAT_REPLY_BYTES];
    fm_status status = fm_fs_heartbeat_decode(request->args, request->args_bytes, &heartbeat);
    struct node *node = status == FM_OK ? node_make(manager, heartbeat.node) : NULL;
    if (status == FM_OK && !node)
        status = fm_base_error_set(FM_ERR_LIMIT, "too many nodes");
    if (status < 0) {
        fm_fs_reply(manager->runtime, request, status, NULL, 0, NULL);
        return;
    }
    if (node->heard && heartbeat.incarnation < node->last.incarnation) {
        status = fm_base_error_set(FM_ERR_EXISTS, "node %u has been started again since", heartbeat.node);
    } else {
        node->heard = 1;
        node->heard_ns = now(manager);
        node->last = heartbeat;
    }
    fm_put_le64(args, manager->routing.version + (uint64_t)is_leaving(manager, heartbeat.node));
    fm_put_le64(args + 8, node->last.incarnation);
    fm_fs_reply(manager->runtime, request, status, args, sizeof args, NULL);
    if (status == FM_OK)
        next_work(manager);
}

static void serve_routing(fm_fs_manager *manager, fm_fs_request *request)
{
    fm_fs_buffer *routing = NULL;
    fm_status status =
        request->args_bytes == 8 ? FM_OK : fm_base_error_set(FM_ERR_FORMAT, "args of a routing");
    if (status == FM_OK && fm_get_le64(request->args) < manager->routing.version) {
        routing = fm_fs_routing_encode(&manager->routing);
        if (!routing)
            status = fm_base_error_set(FM_ERR_NOMEM, "no memory for the routing");
    }
    fm_fs_reply(manager->runtime, request, status, NULL, 0, routing);
    fm_fs_buffer_drop(routing);
}

// What was heard of one node.
static fm_fs_node_report report_node(fm_fs_manager *manager, const struct node *node)
{
    fm_fs_node_report out = {.silent_ms = FM_FS_NEVER, .last = {.node = node->id}};
    if (!node->heard)
        return out;
    int64_t silent = (now(manager) - node->heard_ns) / 1000000;
    out.silent_ms = silent < FM_FS_NEVER ? (uint32_t)silent : FM_FS_NEVER - 1;
    out.last = node->last;
    for (uint32_t i = 0; i < node->last.count; i++)
        out.other_disks |= (uint64_t)is_other_disk(manager, &node->last.reports[i]) << i;
    return out;
}

static void serve_reports(fm_fs_manager *manager, fm_fs_request *request)
{
    fm_fs_node_report *reports = fm_base_mem_alloc((manager->node_count + 1) * sizeof *reports);
    fm_fs_buffer *payload = NULL;
    for (uint32_t i = 0; reports && i < manager->node_count; i++)
        reports[i] = report_node(manager, &manager->nodes[i]);
    if (reports)
        payload = fm_fs_reports_encode(reports, manager->node_count);
    fm_base_mem_free(reports);
    fm_status status =
        payload ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for the reports of nodes");
    fm_fs_reply(manager->runtime, request, status, NULL, 0, payload);
    fm_fs_buffer_drop(payload);
}

void fm_fs_manager_serve(fm_fs_manager *manager, fm_fs_request *request)
{
    if (!fm_fs_manager_is_primary(manager) || !manager->loaded) {
        fm_fs_reply(manager->runtime, request,
                    fm_base_error_set(FM_ERR_UNAVAILABLE, "this manager is not the primary"), NULL, 0, NULL);
        return;
    }
    switch (request->method) {
    case FM_FS_HEARTBEAT:
        serve_heartbeat(manager, request);
        break;
    case FM_FS_ROUTING:
        serve_routing(manager, request);
        break;
    case FM_FS_REPORTS:
        serve_reports(manager, request);
        break;
    case FM_FS_CHANGE:
        if (manager->change_count == CHANGES_WAITING_MAX) {
            fm_fs_reply(manager->runtime, request, fm_base_error_set(FM_ERR_BUSY, "too many changes wait"),
                        NULL, 0, NULL);
            break;
        }
        manager->changes[manager->change_count++] = request;
        next_work(manager);
        break;
    default:
        fm_fs_reply(manager->runtime, request,
                    fm_base_error_set(FM_ERR_UNSUPPORTED, "method %u is not a manager's", request->method),
                    NULL, 0, NULL);
        break;
    }
}

fm_status fm_fs_manager_new(fm_fs_runtime *runtime, const fm_fs_manager_options *options,
                            fm_fs_manager **out_manager)
{
    fm_fs_manager *manager = fm_base_mem_zalloc(1, sizeof *manager);
    if (!manager)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a cluster manager");
    manager->runtime = runtime;
    manager->options = *options;
    manager->tick = (fm_fs_timer){.fire = tick, .context = manager};
    fm_fs_timer_start(runtime, &manager->tick, 0);
    *out_manager = manager;
    return FM_OK;
}

void fm_fs_manager_free(fm_fs_manager *manager)
{
    if (!manager)
        return;
    fm_fs_timer_stop(manager->runtime, &manager->tick);
    tx_clear(&manager->tx);
    fm_fs_routing_clear(&manager->routing);
    fm_base_mem_free(manager->targets);
    fm_base_mem_free(manager->nodes);
    fm_base_mem_free(manager);
}
