// The messages and the routing as bytes. Every decoder takes any bytes, and says FM_ERR_FORMAT or FM_ERR_VERSION of what
// is not its own.
#include "cluster.h"

static fm_status wrong(const char *what)
{
    return fm_base_error_set(FM_ERR_FORMAT, "malformed message: %s", what);
}

/* A cursor that runs dry instead of over */

struct cursor {
    const uint8_t *at;
    size_t left;
    int dry;
};

static const uint8_t *take(struct cursor *cursor, size_t size)
{
    static const uint8_t zeros[FM_FS_ADDRESS_MAX + 1]; // nothing longer is taken at once
    if (size > cursor->left) {
        cursor->dry = 1;
        cursor->left = 0;
        return zeros;
    }
    const uint8_t *at = cursor->at;
    cursor->at += size;
    cursor->left -= size;
    return at;
}

static uint8_t take_u8(struct cursor *cursor)
{
    return *take(cursor, 1);
}

static uint32_t take_u32(struct cursor *cursor)
{
    return fm_get_le32(take(cursor, 4));
}

static uint64_t take_u64(struct cursor *cursor)
{
    return fm_get_le64(take(cursor, 8));
}

static uint8_t *put_u8(uint8_t *to, uint8_t value)
{
    *to = value;
    return to + 1;
}

static uint8_t *put_u32(uint8_t *to, uint32_t value)
{
    fm_put_le32(to, value);
    return to + 4;
}

static uint8_t *put_u64(uint8_t *to, uint64_t value)
{
    fm_put_le64(to, value);
    return to + 8;
}

static uint8_t *put_bytes(uint8_t *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    return to + size;
}

/* Messages about chunks */

void fm_fs_message_encode(uint8_t *to, const fm_fs_message *message)
{
    uint8_t *end = to + FM_FS_MESSAGE_BYTES;
    to = put_u32(to, FM_FS_WIRE_VERSION);
    to = put_u32(to, message->chain);
    to = put_u32(to, message->chain_version);
    to = put_u32(to, message->target);
    to = put_u8(to, message->kind);
    to = put_u8(to, message->flags);
    to = put_bytes(to, message->id.bytes, 16);
    to = put_u64(to, message->version);
    to = put_u64(to, message->base);
    to = put_u32(to, message->offset);
    to = put_u32(to, message->size);
    to = put_u32(to, message->crc);
    to = put_u64(to, message->tag.client);
    to = put_u32(to, message->tag.channel);
    to = put_u64(to, message->tag.sequence);
    memset(to, 0, (size_t)(end - to));
}

fm_status fm_fs_message_decode(const void *bytes, size_t size, fm_fs_message *out_message)
{
    if (size != FM_FS_MESSAGE_BYTES)
        return wrong("its size");
    const uint8_t *at = bytes;
    uint32_t version = fm_get_le32(at);
    if (version != FM_FS_WIRE_VERSION)
        return fm_base_error_set(FM_ERR_VERSION, "a message of wire version %u; this is version %d", version,
                                 FM_FS_WIRE_VERSION);
    fm_fs_message message = {.chain = fm_get_le32(at + 4),
                             .chain_version = fm_get_le32(at + 8),
                             .target = fm_get_le32(at + 12),
                             .kind = at[16],
                             .flags = at[17],
                             .version = fm_get_le64(at + 34),
                             .base = fm_get_le64(at + 42),
                             .offset = fm_get_le32(at + 50),
                             .size = fm_get_le32(at + 54),
                             .crc = fm_get_le32(at + 58),
                             .tag = {.client = fm_get_le64(at + 62),
                                     .channel = fm_get_le32(at + 70),
                                     .sequence = fm_get_le64(at + 74)}};
    memcpy(message.id.bytes, at + 18, 16);
    if (message.kind > FM_FS_APPLY_REPLACE_REMOVED)
        return wrong("an unknown kind of change");
    if (message.offset > FM_FS_CHUNK_BYTES_MAX || message.size > FM_FS_CHUNK_BYTES_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "offset %u, size %u; a chunk has at most %d bytes",
                                 message.offset, message.size, FM_FS_CHUNK_BYTES_MAX);
    *out_message = message;
    return FM_OK;
}

void fm_fs_entry_encode(uint8_t *to, const fm_fs_entry *entry)
{
    to = put_bytes(to, entry->id.bytes, 16);
    to = put_u64(to, entry->version);
    to = put_u32(to, entry->size);
    to = put_u32(to, entry->crc);
    to = put_u8(to, entry->removed);
    put_u8(to, entry->pending);
}

fm_fs_entry fm_fs_entry_decode(const uint8_t *from)
{
    struct cursor in = {from, FM_FS_ENTRY_BYTES, 0};
    fm_fs_entry entry;
    memcpy(entry.id.bytes, take(&in, 16), 16);
    entry.version = take_u64(&in);
    entry.size = take_u32(&in);
    entry.crc = take_u32(&in);
    entry.removed = take_u8(&in);
    entry.pending = take_u8(&in);
    return entry;
}

void fm_fs_session_encode(uint8_t *to, const fm_fs_session *session)
{
    to = put_u64(to, session->tag.client);
    to = put_u32(to, session->tag.channel);
    to = put_u64(to, session->tag.sequence);
    to = put_bytes(to, session->id.bytes, 16);
    to = put_u64(to, session->version);
    put_u32(to, session->chain_version);
}

fm_fs_session fm_fs_session_decode(const uint8_t *from)
{
    struct cursor in = {from, FM_FS_SESSION_WIRE_BYTES, 0};
    fm_fs_session session = {.tag.client = take_u64(&in)};
    session.tag.channel = take_u32(&in);
    session.tag.sequence = take_u64(&in);
    memcpy(session.id.bytes, take(&in, 16), 16);
    session.version = take_u64(&in);
    session.chain_version = take_u32(&in);
    return session;
}

/* Chains, nodes, routing */

size_t fm_fs_chain_encode(uint8_t *to, const fm_fs_chain *chain)
{
    uint8_t *at = put_u32(to, chain->id);
    at = put_u32(at, chain->version);
    at = put_u32(at, chain->rotations);
    at = put_u32(at, chain->count);
    for (uint32_t i = 0; i < chain->count; i++) {
        at = put_u32(at, chain->members[i].target);
        at = put_u32(at, chain->members[i].node);
        at = put_u8(at, chain->members[i].state);
    }
    return (size_t)(at - to);
}

static fm_status take_chain(struct cursor *in, fm_fs_chain *chain)
{
    *chain = (fm_fs_chain){.id = take_u32(in)};
    chain->version = take_u32(in);
    chain->rotations = take_u32(in);
    chain->count = take_u32(in);
    if (chain->count > FM_FS_REPLICAS_MAX)
        return wrong("a chain with too many members");
    for (uint32_t i = 0; i < chain->count; i++) {
        chain->members[i].target = take_u32(in);
        chain->members[i].node = take_u32(in);
        uint8_t state = take_u8(in);
        if (state > FM_FS_OFFLINE || __builtin_popcount(state) != 1)
            return wrong("a chain's member in no state");
        chain->members[i].state = state;
    }
    return in->dry ? wrong("a chain that is cut off") : FM_OK;
}

fm_status fm_fs_chain_decode(const uint8_t *bytes, size_t size, fm_fs_chain *out_chain, size_t *out_used)
{
    struct cursor in = {bytes, size, 0};
    fm_fs_chain chain;
    FM_TRY(take_chain(&in, &chain));
    *out_chain = chain;
    *out_used = size - in.left;
    return FM_OK;
}

void fm_fs_routing_clear(fm_fs_routing *routing)
{
    fm_base_mem_free(routing->nodes);
    fm_base_mem_free(routing->chains);
    *routing = (fm_fs_routing){0};
}

enum { NODE_BYTES = 4 + 1 + 1 + FM_FS_ADDRESS_MAX };

fm_fs_buffer *fm_fs_routing_encode(const fm_fs_routing *routing)
{
    fm_fs_buffer *buffer = fm_fs_buffer_new(20 + (size_t)NODE_BYTES * routing->node_count +
                                            (size_t)FM_FS_CHAIN_BYTES_MAX * routing->chain_count);
    if (!buffer)
        return NULL;
    uint8_t *at = put_u32(buffer->data, FM_FS_WIRE_VERSION);
    at = put_u64(at, routing->version);
    at = put_u32(at, routing->node_count);
    at = put_u32(at, routing->chain_count);
    for (uint32_t i = 0; i < routing->node_count; i++) {
        size_t length = strlen(routing->nodes[i].address);
        at = put_u32(at, routing->nodes[i].id);
        at = put_u8(at, routing->nodes[i].draining);
        at = put_u8(at, (uint8_t)length);
        at = put_bytes(at, routing->nodes[i].address, length);
    }
    for (uint32_t i = 0; i < routing->chain_count; i++)
        at += fm_fs_chain_encode(at, &routing->chains[i]);
    buffer->size = (size_t)(at - buffer->data);
    return buffer;
}

static fm_status take_node(struct cursor *in, fm_fs_node_info *node)
{
    node->id = take_u32(in);
    node->draining = take_u8(in);
    uint8_t length = take_u8(in);
    if (in->dry || length > FM_FS_ADDRESS_MAX)
        return wrong("a node that is cut off");
    memcpy(node->address, take(in, length), length);
    return in->dry ? wrong("a node that is cut off") : FM_OK;
}

static fm_status take_all(struct cursor *in, fm_fs_routing *routing)
{
    routing->nodes = fm_base_mem_zalloc(routing->node_count + 1, sizeof *routing->nodes);
    routing->chains = fm_base_mem_zalloc(routing->chain_count + 1, sizeof *routing->chains);
    if (!routing->nodes || !routing->chains)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the cluster's routing");
    for (uint32_t i = 0; i < routing->node_count; i++) {
        FM_TRY(take_node(in, &routing->nodes[i]));
        if (i > 0 && routing->nodes[i].id <= routing->nodes[i - 1].id)
            return wrong("nodes out of order");
    }
    for (uint32_t i = 0; i < routing->chain_count; i++) {
        FM_TRY(take_chain(in, &routing->chains[i]));
        if (i > 0 && routing->chains[i].id <= routing->chains[i - 1].id)
            return wrong("chains out of order");
    }
    return in->left ? wrong("bytes behind the routing") : FM_OK;
}

fm_status fm_fs_routing_decode(const uint8_t *bytes, size_t size, fm_fs_routing *out_routing)
{
    struct cursor in = {bytes, size, 0};
    uint32_t version = take_u32(&in);
    if (!in.dry && version != FM_FS_WIRE_VERSION)
        return fm_base_error_set(FM_ERR_VERSION, "routing of wire version %u; this is version %d", version,
                                 FM_FS_WIRE_VERSION);
    fm_fs_routing routing = {.version = take_u64(&in)};
    routing.node_count = take_u32(&in);
    routing.chain_count = take_u32(&in);
    // Each takes some bytes, so a forged count cannot ask for more memory than its message is long.
    if (in.dry || routing.node_count > in.left / 6 || routing.chain_count > in.left / 16)
        return wrong("counts that its size does not hold");
    fm_status status = take_all(&in, &routing);
    if (status < 0) {
        fm_fs_routing_clear(&routing);
        return status;
    }
    *out_routing = routing;
    return FM_OK;
}

void fm_fs_routing_know(const fm_fs_routing *routing, fm_fs_runtime *runtime)
{
    for (uint32_t i = 0; runtime->ops->know && i < routing->node_count; i++)
        runtime->ops->know(runtime, routing->nodes[i].id, routing->nodes[i].address);
}

const fm_fs_chain *fm_fs_routing_chain(const fm_fs_routing *routing, uint32_t id)
{
    uint32_t low = 0;
    uint32_t high = routing->chain_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (routing->chains[middle].id == id)
            return &routing->chains[middle];
        if (routing->chains[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const fm_fs_node_info *fm_fs_routing_node(const fm_fs_routing *routing, uint32_t id)
{
    for (uint32_t i = 0; i < routing->node_count; i++)
        if (routing->nodes[i].id == id)
            return &routing->nodes[i];
    return NULL;
}

/* Heartbeats and changes */

size_t fm_fs_heartbeat_encode(uint8_t *to, const fm_fs_heartbeat *heartbeat)
{
    size_t length = strlen(heartbeat->address);
    uint8_t *at = put_u32(to, FM_FS_WIRE_VERSION);
    at = put_u32(at, heartbeat->node);
    at = put_u64(at, heartbeat->incarnation);
    at = put_u8(at, (uint8_t)length);
    at = put_bytes(at, heartbeat->address, length);
    at = put_u8(at, (uint8_t)heartbeat->count);
    for (uint32_t i = 0; i < heartbeat->count; i++) {
        const fm_fs_report *report = &heartbeat->reports[i];
        at = put_u32(at, report->target);
        at = put_u32(at, report->chain_version);
        at = put_u8(at, report->local);
        at = put_u32(at, (uint32_t)report->health);
        at = put_u64(at, report->used_bytes);
        at = put_u64(at, report->capacity_bytes);
        at = put_bytes(at, report->identity, 16);
    }
    return (size_t)(at - to);
}

fm_status fm_fs_heartbeat_decode(const void *bytes, size_t size, fm_fs_heartbeat *out_heartbeat)
{
    struct cursor in = {bytes, size, 0};
    if (take_u32(&in) != FM_FS_WIRE_VERSION)
        return fm_base_error_set(FM_ERR_VERSION, "a heartbeat that is not of wire version %d",
                                 FM_FS_WIRE_VERSION);
    fm_fs_heartbeat *heartbeat = out_heartbeat;
    memset(heartbeat, 0, sizeof *heartbeat);
    heartbeat->node = take_u32(&in);
    heartbeat->incarnation = take_u64(&in);
    uint8_t length = take_u8(&in);
    if (length > FM_FS_ADDRESS_MAX || length > in.left)
        return wrong("an address that is too long");
    memcpy(heartbeat->address, take(&in, length), length);
    heartbeat->count = take_u8(&in);
    if (heartbeat->count > FM_FS_TARGETS_MAX)
        return wrong("too many targets");
    for (uint32_t i = 0; i < heartbeat->count; i++) {
        fm_fs_report *report = &heartbeat->reports[i];
        report->target = take_u32(&in);
        report->chain_version = take_u32(&in);
        report->local = take_u8(&in);
        report->health = (fm_status)take_u32(&in);
        report->used_bytes = take_u64(&in);
        report->capacity_bytes = take_u64(&in);
        memcpy(report->identity, take(&in, 16), 16);
    }
    return in.dry || in.left ? wrong("a heartbeat of the wrong size") : FM_OK;
}

enum { NODE_REPORT_HEAD = 4 + 8 + 4 };

fm_fs_buffer *fm_fs_reports_encode(const fm_fs_node_report *reports, uint32_t count)
{
    fm_fs_buffer *buffer =
        fm_fs_buffer_new(8 + (size_t)count * (NODE_REPORT_HEAD + FM_FS_HEARTBEAT_BYTES_MAX));
    if (!buffer)
        return NULL;
    uint8_t *at = put_u32(buffer->data, FM_FS_WIRE_VERSION);
    at = put_u32(at, count);
    for (uint32_t i = 0; i < count; i++) {
        size_t length = fm_fs_heartbeat_encode(at + NODE_REPORT_HEAD, &reports[i].last);
        at = put_u32(at, reports[i].silent_ms);
        at = put_u64(at, reports[i].other_disks);
        at = put_u32(at, (uint32_t)length) + length;
    }
    buffer->size = (size_t)(at - buffer->data);
    return buffer;
}

static fm_status take_report(struct cursor *in, fm_fs_node_report *report)
{
    report->silent_ms = take_u32(in);
    report->other_disks = take_u64(in);
    uint32_t length = take_u32(in);
    if (in->dry || length > in->left)
        return wrong("a node's report that is cut off");
    const uint8_t *bytes = in->at;
    in->at += length;
    in->left -= length;
    return fm_fs_heartbeat_decode(bytes, length, &report->last);
}

fm_status fm_fs_reports_decode(const void *bytes, size_t size, fm_fs_node_report **out_reports,
                               uint32_t *out_count)
{
    struct cursor in = {bytes, size, 0};
    uint32_t version = take_u32(&in);
    if (!in.dry && version != FM_FS_WIRE_VERSION)
        return fm_base_error_set(FM_ERR_VERSION, "reports of wire version %u; this is version %d", version,
                                 FM_FS_WIRE_VERSION);
    uint32_t count = take_u32(&in);
    if (in.dry || count > FM_FS_NODES_MAX || count > in.left / NODE_REPORT_HEAD)
        return wrong("a count of reports that its size does not hold");
    fm_fs_node_report *reports = fm_base_mem_zalloc(count + 1, sizeof *reports);
    if (!reports)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the reports of %u nodes", count);
    fm_status status = FM_OK;
    for (uint32_t i = 0; i < count && status == FM_OK; i++)
        status = take_report(&in, &reports[i]);
    if (status == FM_OK && in.left)
        status = wrong("bytes behind the reports");
    if (status < 0) {
        fm_base_mem_free(reports);
        return status;
    }
    *out_reports = reports;
    *out_count = count;
    return FM_OK;
}

size_t fm_fs_change_encode(uint8_t *to, const fm_fs_change *change)
{
    uint8_t *at = put_u8(to, change->kind);
    at = put_u8(at, change->value);
    at = put_u32(at, change->node);
    return (size_t)(at - to) + fm_fs_chain_encode(at, &change->chain);
}

fm_status fm_fs_change_decode(const void *bytes, size_t size, fm_fs_change *out_change)
{
    struct cursor in = {bytes, size, 0};
    fm_fs_change change = {.kind = take_u8(&in)};
    change.value = take_u8(&in);
    change.node = take_u32(&in);
    FM_TRY(take_chain(&in, &change.chain));
    if (in.left || change.kind > FM_FS_CHANGE_NODE_REMOVE)
        return wrong("an unknown change of the cluster");
    *out_change = change;
    return FM_OK;
}
