#include "cluster_client.h"

enum {
    RETRY_FIRST_MS = 5,
    RETRY_DOUBLINGS = 6,
    CHANNELS = 32,
    CHANNELS_MAX = 255,
    LOADS = 256, // nodes whose calls are counted apart
    // Versions that were seen of so many chunks, so that a later read is not answered by an older one.
    FLOORS = 1024
};
static const int64_t ms = 1000000;

struct floor {
    uint32_t chain;
    uint32_t rotations; // of the chain: a floor from before the last one does not hold
    fm_fs_chunk_id id;
    uint64_t version;
};

struct channel {
    int busy;
    uint64_t sequence;
};

struct fm_fs_client {
    fm_fs_runtime *runtime;
    fm_fs_client_options options;
    fm_fs_routing routing;
    uint32_t manager;
    int fetching;
    fm_fs_call fetch;
    struct channel *channels; // from 1 on
    uint64_t id;              // at first that of the options
    uint32_t first_channel;   // drawn: two clients with one id would hardly have the same
    uint32_t loads[LOADS];
    struct floor floors[FLOORS];
    fm_fs_client_io ios; // head of the ring
};

static void attempt(void *context);

static uint32_t draw_channels(fm_fs_client *client)
{
    return (uint32_t)fm_fs_random_below(client->runtime, 1 << 24) << 8;
}

fm_status fm_fs_client_new(fm_fs_runtime *runtime, const fm_fs_client_options *options,
                           fm_fs_client **out_client)
{
    fm_fs_client *client = fm_base_mem_zalloc(1, sizeof *client);
    if (!client)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a client");
    client->runtime = runtime;
    client->options = *options;
    if (!client->options.channels)
        client->options.channels = CHANNELS;
    if (client->options.channels > CHANNELS_MAX)
        client->options.channels = CHANNELS_MAX;
    client->id = options->id;
    client->first_channel = draw_channels(client);
    client->ios.before = client->ios.after = &client->ios;
    client->channels = fm_base_mem_zalloc(client->options.channels + 1, sizeof *client->channels);
    if (!client->channels) {
        fm_base_mem_free(client);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a client's channels");
    }
    *out_client = client;
    return FM_OK;
}

void fm_fs_client_free(fm_fs_client *client)
{
    if (!client)
        return;
    for (fm_fs_client_io *io = client->ios.after; io != &client->ios; io = io->after)
        fm_fs_timer_stop(client->runtime, &io->timer);
    fm_fs_routing_clear(&client->routing);
    fm_base_mem_free(client->channels);
    fm_base_mem_free(client);
}

const fm_fs_routing *fm_fs_client_routing(const fm_fs_client *client)
{
    return &client->routing;
}

/* Routing */

static void fetched(fm_fs_call *call)
{
    fm_fs_client *client = call->context;
    fm_fs_routing routing;
    client->fetching = 0;
    if (call->status < 0) {
        client->manager = (client->manager + 1) % client->options.manager_count;
        return;
    }
    if (!call->reply_payload ||
        fm_fs_routing_decode(call->reply_payload->data, call->reply_payload->size, &routing) < 0)
        return;
    if (routing.version <= client->routing.version) {
        fm_fs_routing_clear(&routing);
        return;
    }
    fm_fs_routing_clear(&client->routing);
    client->routing = routing;
    fm_fs_routing_know(&client->routing, client->runtime);
}

void fm_fs_client_refresh(fm_fs_client *client)
{
    uint8_t args[8];
    if (client->fetching)
        return;
    fm_put_le64(args, client->routing.version);
    client->fetching = 1;
    client->fetch = (fm_fs_call){.node = client->options.managers[client->manager],
                                 .method = FM_FS_ROUTING,
                                 .timeout_ns = client->options.call_timeout_ns,
                                 .args = args,
                                 .args_bytes = sizeof args,
                                 .reply_bytes = FM_FS_ROUTING_BYTES_MAX,
                                 .done = fetched,
                                 .context = client};
    fm_fs_call_start(client->runtime, &client->fetch);
}

static int only_reads(const fm_fs_client_io *io)
{
    return io->kind == FM_FS_CLIENT_READ || io->kind == FM_FS_CLIENT_LIST;
}

/* Floors */

static struct floor *floor_of(fm_fs_client *client, const fm_fs_client_io *io)
{
    uint64_t hash = fm_get_le64(io->id.bytes) ^ fm_get_le64(io->id.bytes + 8) * 3 ^ io->chain;
    return &client->floors[(hash * 0x9E3779B97F4A7C15u) >> 54];
}

static uint32_t rotations_of(const fm_fs_client *client, uint32_t id)
{
    const fm_fs_chain *chain = fm_fs_routing_chain(&client->routing, id);
    return chain ? chain->rotations : 0;
}

static int floor_is_of(const fm_fs_client *client, const struct floor *floor, const fm_fs_client_io *io)
{
    return floor->chain == io->chain && fm_fs_chunk_id_compare(&floor->id, &io->id) == 0 &&
           floor->rotations == rotations_of(client, io->chain);
}

static uint64_t floor_read(fm_fs_client *client, const fm_fs_client_io *io)
{
    if (io->kind == FM_FS_CLIENT_LIST)
        return 0; // of no chunk
    const struct floor *floor = floor_of(client, io);
    return floor_is_of(client, floor, io) ? floor->version : 0;
}

static void floor_raise(fm_fs_client *client, const fm_fs_client_io *io)
{
    struct floor *floor = floor_of(client, io);
    if (!floor_is_of(client, floor, io) || io->version > floor->version)
        *floor = (struct floor){io->chain, io->rotations, io->id, io->version};
}

/* Operations */

static void finish(fm_fs_client_io *io, fm_status status)
{
    fm_fs_client *client = io->client;
    fm_fs_timer_stop(client->runtime, &io->timer);
    if (io->channel)
        client->channels[io->channel].busy = 0;
    io->before->after = io->after;
    io->after->before = io->before;
    io->status = status;
    if (status == FM_OK && io->kind != FM_FS_CLIENT_LIST)
        floor_raise(client, io);
    // A channel is free now; the first that waits for one takes it.
    if (io->channel)
        for (fm_fs_client_io *other = client->ios.after; other != &client->ios; other = other->after)
            if (!only_reads(other) && !other->channel) {
                fm_fs_timer_start(client->runtime, &other->timer, 0);
                break;
            }
    io->done(io);
}

static void out_of_time(fm_fs_client_io *io)
{
    if (io->unknown)
        finish(io, fm_base_error_set(FM_ERR_FS_MAYBE, "no answer in time after %u tries", io->tries));
    else
        finish(io, fm_base_error_set(FM_ERR_TIMEOUT, "not done in time after %u tries", io->tries));
}

static void again(fm_fs_client_io *io)
{
    fm_fs_client *client = io->client;
    uint32_t doublings = io->tries < RETRY_DOUBLINGS ? io->tries : RETRY_DOUBLINGS;
    int64_t span = (RETRY_FIRST_MS * ms) << doublings;
    io->tries++;
    io->timer.fire = attempt;
    io->timer.context = io;
    fm_fs_timer_start(client->runtime, &io->timer,
                      span / 2 + (int64_t)fm_fs_random_below(client->runtime, (uint64_t)span / 2));
}

// The request is the next one of its channel, as the client's number is now.
static void name(fm_fs_client_io *io)
{
    fm_fs_client *client = io->client;
    io->tag = (fm_fs_tag){client->id, client->first_channel | io->channel,
                          ++client->channels[io->channel].sequence};
}

// The node knows no requests of this client any more, nor of any up to `newest`: nothing was done.
static void was_forgotten(fm_fs_client_io *io, uint64_t newest)
{
    fm_fs_client *client = io->client;
    if (io->unknown) {
        finish(io, fm_base_error_set(FM_ERR_FS_MAYBE, "the request was forgotten after %u tries", io->tries));
        return;
    }
    if (io->tag.client == client->id) {
        uint64_t above = newest > client->id ? newest : client->id;
        client->id =
            ((above >> 32) + 1) << 32 | fm_fs_random_below(client->runtime, (uint64_t)UINT32_MAX + 1);
        client->first_channel = draw_channels(client);
    }
    name(io);
    again(io);
}

static int take_channel(fm_fs_client_io *io)
{
    fm_fs_client *client = io->client;
    for (uint32_t i = 1; i <= client->options.channels && !io->channel; i++) {
        if (client->channels[i].busy)
            continue;
        client->channels[i].busy = 1;
        io->channel = i;
        name(io);
    }
    return io->channel != 0;
}

static const fm_fs_member *choose_replica(fm_fs_client_io *io, const fm_fs_chain *chain)
{
    fm_fs_client *client = io->client;
    const fm_fs_member *serving[FM_FS_REPLICAS_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < chain->count; i++)
        if (chain->members[i].state == FM_FS_SERVING)
            serving[count++] = &chain->members[i];
    if (!count)
        return NULL;
    const fm_fs_member *first = serving[fm_fs_random_below(client->runtime, count)];
    const fm_fs_member *second = serving[fm_fs_random_below(client->runtime, count)];
    return client->loads[second->node % LOADS] < client->loads[first->node % LOADS] ? second : first;
}

static int is_refusal(fm_status status)
{
    return status == FM_ERR_ARG || status == FM_ERR_LIMIT || status == FM_ERR_SPACE ||
           status == FM_ERR_FORMAT || status == FM_ERR_VERSION;
}

static void take_read(fm_fs_client_io *io, const fm_fs_message *reply)
{
    const fm_fs_call *call = &io->call;
    io->version = reply->version;
    io->absent = reply->flags & FM_FS_FLAG_ABSENT;
    if (!io->absent) {
        io->bytes = fm_fs_buffer_ref(call->reply_payload);
        if (!io->bytes)
            io->bytes = fm_fs_buffer_new(0);
        io->crc = reply->crc;
    }
}

static void answered(fm_fs_call *call)
{
    fm_fs_client_io *io = call->context;
    fm_fs_client *client = io->client;
    fm_fs_message reply;
    io->calling = 0;
    client->loads[io->node % LOADS]--;
    fm_status status = call->status;
    if (status == FM_OK)
        status = fm_fs_message_decode(call->reply_args, call->reply_args_bytes, &reply);
    size_t size = call->reply_payload ? call->reply_payload->size : 0;
    if (status == FM_OK && only_reads(io) && (size != reply.size || reply.version < floor_read(client, io)))
        status = FM_ERR_BUSY;
    if (status == FM_OK && only_reads(io) && size && fm_fs_buffer_crc(call->reply_payload) != reply.crc)
        status = FM_ERR_BUSY;
    if (status == FM_OK && !only_reads(io) && reply.flags & FM_FS_FLAG_FORGOTTEN) {
        was_forgotten(io, reply.version);
        return;
    }
    if (status == FM_OK) {
        if (only_reads(io))
            take_read(io, &reply);
        else
            io->version = reply.version;
        finish(io, FM_OK);
        return;
    }
    // The chunk never returns to that version, so an earlier try cannot happen any more either.
    int met_another = status == FM_ERR_STATE && io->only_if;
    if (met_another || (is_refusal(status) && !io->unknown)) {
        finish(io, status);
        return;
    }
    // A head that gave up on an update had perhaps passed it on.
    io->unknown |= !only_reads(io);
    if (status != FM_ERR_BUSY)
        fm_fs_client_refresh(client);
    again(io);
}

static void send(fm_fs_client_io *io, const fm_fs_chain *chain, const fm_fs_member *to)
{
    static const uint8_t kinds[] = {[FM_FS_CLIENT_WRITE] = FM_FS_APPLY_WRITE,
                                    [FM_FS_CLIENT_TRUNCATE] = FM_FS_APPLY_TRUNCATE,
                                    [FM_FS_CLIENT_REMOVE] = FM_FS_APPLY_REMOVE};
    fm_fs_client *client = io->client;
    uint8_t args[FM_FS_MESSAGE_BYTES];
    int reads = only_reads(io);
    fm_fs_message message = {.chain = chain->id,
                             .chain_version = chain->version,
                             .target = to->target,
                             .id = io->id,
                             .offset = io->offset,
                             .size = io->data ? (uint32_t)io->data->size : io->size};
    if (reads) {
        message.version = floor_read(client, io);
    } else {
        message.kind = kinds[io->kind];
        message.tag = io->tag;
        message.flags = io->only_if ? FM_FS_FLAG_ONLY_IF : 0;
        message.base = io->only_if;
        message.crc = fm_fs_buffer_crc(io->data);
    }
    uint16_t method = io->kind == FM_FS_CLIENT_LIST ? FM_FS_LIST : reads ? FM_FS_READ : FM_FS_UPDATE;
    fm_fs_message_encode(args, &message);
    io->node = to->node;
    io->rotations = chain->rotations;
    io->calling = 1;
    client->loads[io->node % LOADS]++;
    io->call = (fm_fs_call){.node = to->node,
                            .method = method,
                            .timeout_ns = client->options.call_timeout_ns,
                            .args = args,
                            .args_bytes = sizeof args,
                            .payload = io->data,
                            .reply_bytes = reads ? io->size : 0,
                            .reply_into = reads ? io->into : NULL,
                            .done = answered,
                            .context = io};
    fm_fs_call_start(client->runtime, &io->call);
    io->call.args = NULL;
}

static void try_once(fm_fs_client_io *io)
{
    fm_fs_client *client = io->client;
    if (!only_reads(io) && !take_channel(io)) {
        // One that ends wakes this one; the timer is for the deadline alone.
        fm_fs_timer_start(client->runtime, &io->timer, io->deadline_ns - fm_fs_now(client->runtime));
        return;
    }
    const fm_fs_chain *chain = fm_fs_routing_chain(&client->routing, io->chain);
    const fm_fs_member *to = NULL;
    if (chain && only_reads(io))
        to = choose_replica(io, chain);
    else if (chain && chain->count && chain->members[0].state == FM_FS_SERVING)
        to = &chain->members[0];
    if (!to) {
        fm_fs_client_refresh(client);
        again(io);
        return;
    }
    send(io, chain, to);
}

static void attempt(void *context)
{
    fm_fs_client_io *io = context;
    if (fm_fs_now(io->client->runtime) >= io->deadline_ns)
        out_of_time(io);
    else
        try_once(io);
}

void fm_fs_client_start(fm_fs_client *client, fm_fs_client_io *io)
{
    io->client = client;
    io->deadline_ns = fm_fs_now(client->runtime) + io->timeout_ns;
    io->before = client->ios.before;
    io->after = &client->ios;
    io->before->after = io;
    client->ios.before = io;
    io->timer = (fm_fs_timer){.fire = attempt, .context = io};
    try_once(io); // which never ends it at once
}
