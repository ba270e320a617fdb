// Opening the names, and running requests: once each, whatever the store answers.
#include "meta_remote.h"

#include <sys/random.h>

#include "fathom/clock.h"
#include "fathom/fs_cluster.h"

enum {
    // Numbers that a process takes at once: one transaction of the allocator to as many files.
    NUMBERS = 1024,
    // How often a request whose outcome the store cannot tell is repeated: a server that restarts answers by then.
    TRIES = 16,
    FIRST_NUMBER = FM_FS_META_ROOT + 1
};

static uint64_t calendar(void *context)
{
    (void)context;
    return fm_base_clock_unix_ns();
}

/* Requests */

static fm_status replay(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op, const uint8_t *record)
{
    uint64_t ino = fm_get_le64(record + 16);
    op->made = (int)fm_get_le32(record + 24);
    op->node = (fm_fs_node){.ino = ino};
    if (!ino)
        return FM_OK;
    fm_status status = fm_fs_meta_load(tx, ino, FM_FS_KV_LOCK_NONE, &op->node);
    return status == FM_ERR_NOT_FOUND ? FM_OK : status; // made, and removed by somebody since
}

static struct fm_fs_meta_key request_key(const struct fm_fs_meta_op *op)
{
    struct fm_fs_meta_key key = fm_fs_meta_key('R', op->client);
    fm_put_le32(key.bytes + key.size, op->slot);
    key.size += 4;
    return key;
}

static fm_status once(fm_fs_kv_tx *tx, void *context)
{
    struct fm_fs_meta_op *op = context;
    struct fm_fs_meta_key key = request_key(op);
    uint8_t record[FM_FS_META_REQUEST_BYTES];
    fm_fs_kv_bytes value = {0};
    if (op->look && !FM_FS_PLANT(FM_FS_PLANT_NAMES_TWICE))
        FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_UPDATE, &value));
    if (value.size == sizeof record && fm_get_le64(value.data) == op->sequence)
        return replay(tx, op, value.data);
    if (value.size == sizeof record && fm_get_le64(value.data) > op->sequence)
        return fm_base_error_set(FM_ERR_STATE, "request %llu of a slot that has had request %llu",
                                 (unsigned long long)op->sequence,
                                 (unsigned long long)fm_get_le64(value.data));
    op->node = (fm_fs_node){0};
    op->made = 0;
    FM_TRY(op->body(tx, op));
    fm_put_le64(record, op->sequence);
    fm_put_le64(record + 8, (uint64_t)op->now_ns);
    fm_put_le64(record + 16, op->node.ino);
    fm_put_le32(record + 24, (uint32_t)op->made);
    return fm_fs_meta_put(tx, &key, record, sizeof record);
}

static fm_status plain(fm_fs_kv_tx *tx, void *context)
{
    struct fm_fs_meta_op *op = context;
    op->node = (fm_fs_node){0};
    op->made = 0;
    return op->body(tx, op);
}

static void take_slot(struct fm_fs_meta_op *op)
{
    fm_fs_meta *meta = op->meta;
    pthread_mutex_lock(&meta->lock);
    while (~meta->busy_slots == 0)
        pthread_cond_wait(&meta->slot_free, &meta->lock);
    op->slot = (uint32_t)__builtin_ctzll(~meta->busy_slots);
    op->client = meta->client;
    op->sequence = ++meta->sequences[op->slot];
    meta->busy_slots |= (uint64_t)1 << op->slot;
    pthread_mutex_unlock(&meta->lock);
}

static void leave_slot(const struct fm_fs_meta_op *op)
{
    fm_fs_meta *meta = op->meta;
    pthread_mutex_lock(&meta->lock);
    meta->busy_slots &= ~((uint64_t)1 << op->slot);
    pthread_cond_signal(&meta->slot_free);
    pthread_mutex_unlock(&meta->lock);
}

// Whose requests this thread serves; NULL: its own.
static _Thread_local const fm_fs_who *served;

void fm_fs_meta_serve_for(const fm_fs_who *who)
{
    served = who;
}

fm_status fm_fs_meta_run(struct fm_fs_meta_op *op)
{
    fm_fs_meta *meta = op->meta;
    // A client that asks again elsewhere may leave an attempt behind it anywhere: nothing of its may happen late or twice.
    const fm_fs_who *client = op->own ? NULL : served ? served : op->once ? op->who : NULL;
    int foreign = client && client->client;
    fm_status status = FM_OK;
    if (meta->remote)
        return fm_fs_meta_remote_refuse("this");
    op->now_ns = (int64_t)meta->options.now(meta->options.now_context);
    op->look = foreign;
    op->leased = served ? served->session : __atomic_load_n(&meta->leased, __ATOMIC_RELAXED);
    if (foreign) {
        op->client = client->client;
        op->slot = client->slot;
        op->sequence = client->sequence;
    } else if (op->once) {
        take_slot(op);
    }
    for (int i = 0; i < TRIES; i++) {
        status = fm_fs_kv_run(meta->kv, 0, op->once || foreign ? once : plain, op);
        if (status != FM_ERR_FS_MAYBE)
            break;
        op->look = 1;
    }
    if (op->once && !foreign)
        leave_slot(op);
    return status;
}

fm_status fm_fs_meta_read(struct fm_fs_meta_op *op)
{
    if (op->meta->remote)
        return fm_fs_meta_remote_refuse("this");
    op->now_ns = (int64_t)op->meta->options.now(op->meta->options.now_context);
    return fm_fs_kv_run(op->meta->kv, FM_FS_KV_READ_ONLY, plain, op);
}

/* Numbers */

static fm_status take_numbers(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    uint8_t next[8];
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = {.bytes = "A", .size = 1};
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_UPDATE, &value));
    op->number = value.size == sizeof next ? fm_get_le64(value.data) : FIRST_NUMBER;
    fm_put_le64(next, op->number + (FM_FS_PLANT(FM_FS_PLANT_NAMES_NUMBERS) ? 0 : NUMBERS));
    return fm_fs_meta_put(tx, &key, next, sizeof next);
}

fm_status fm_fs_meta_number(fm_fs_meta *meta, uint64_t *out_number)
{
    fm_status status = FM_OK;
    pthread_mutex_lock(&meta->lock);
    if (meta->next_number == meta->end_number) {
        struct fm_fs_meta_op op = {.meta = meta, .body = take_numbers, .own = 1};
        status = fm_fs_meta_run(&op); // repeated: some numbers are wasted
        if (status == FM_OK) {
            meta->next_number = op.number;
            meta->end_number = op.number + NUMBERS;
        }
    }
    if (status == FM_OK)
        *out_number = meta->next_number++;
    pthread_mutex_unlock(&meta->lock);
    return status;
}

/* Opening */

static fm_status check_options(fm_fs_meta_options *options)
{
    fm_fs_layout *layout = &options->layout;
    if (!layout->chunk_bytes)
        layout->chunk_bytes = 1 << 20;
    if (!layout->stripe)
        layout->stripe = 1;
    if (!layout->chains)
        layout->chains = 1;
    if (!options->inline_max)
        options->inline_max = 4096;
    if (options->no_inline)
        options->inline_max = 0;
    if (!options->root_mode)
        options->root_mode = 0755;
    if (!options->now)
        options->now = calendar;
    if (options->inline_max > FM_FS_META_INLINE_MAX || layout->chunk_bytes > FM_FS_CHUNK_MAX ||
        (layout->chunk_bytes & (layout->chunk_bytes - 1)))
        return fm_base_error_set(FM_ERR_ARG,
                                 "inline_max is %u, chunk_bytes %u; expected at most %d, and a power of two",
                                 options->inline_max, layout->chunk_bytes, FM_FS_META_INLINE_MAX);
    return FM_OK;
}

// Finds the format's record, or makes it with the root.
static fm_status found(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const fm_fs_meta_options *options = &op->meta->options;
    uint8_t record[8];
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = {.bytes = "F", .size = 1};
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_SHARE, &value));
    if (value.data) {
        uint32_t format = value.size == sizeof record ? fm_get_le32(value.data) : 0;
        if (format != FM_FS_META_FORMAT)
            return fm_base_error_set(FM_ERR_VERSION, "the names have format %u; this library knows %d",
                                     format, FM_FS_META_FORMAT);
        op->flags = fm_get_le32((const uint8_t *)value.data + 4);
        return FM_OK;
    }
    fm_fs_node root = {.ino = FM_FS_META_ROOT,
                       .mode = S_IFDIR | (options->root_mode & 07777),
                       .nlink = 2,
                       .uid = options->root_uid,
                       .gid = options->root_gid,
                       .atime_ns = op->now_ns,
                       .mtime_ns = op->now_ns,
                       .ctime_ns = op->now_ns,
                       .parent = FM_FS_META_ROOT,
                       .layout = options->layout};
    op->flags = options->inline_max;
    fm_put_le32(record, FM_FS_META_FORMAT);
    fm_put_le32(record + 4, options->inline_max);
    FM_TRY(fm_fs_meta_put(tx, &key, record, sizeof record));
    return fm_fs_meta_store(tx, &root);
}

fm_status fm_fs_meta_open(fm_fs_kv *kv, const fm_fs_meta_options *options, fm_fs_meta **out_meta)
{
    if (!kv || (options && options->size != sizeof *options))
        return fm_base_error_set(FM_ERR_ARG, "kv is %s and options->size %zu; expected %zu",
                                 kv ? "given" : "NULL", options ? options->size : 0, sizeof *options);
    fm_fs_meta *meta = fm_base_mem_zalloc(1, sizeof *meta);
    if (!meta)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the names");
    meta->kv = kv;
    if (options)
        meta->options = *options;
    pthread_mutex_init(&meta->lock, NULL);
    pthread_cond_init(&meta->slot_free, NULL);
    struct fm_fs_meta_op op = {.meta = meta, .body = found};
    fm_status status = check_options(&meta->options);
    if (status == FM_OK && getrandom(&meta->client, sizeof meta->client, 0) != (ssize_t)sizeof meta->client)
        status = fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    if (status == FM_OK)
        status = fm_fs_meta_run(&op);
    if (status < 0) {
        fm_fs_meta_close(meta);
        return status;
    }
    meta->options.inline_max = op.flags;
    *out_meta = meta;
    return FM_OK;
}

void fm_fs_meta_close(fm_fs_meta *meta)
{
    if (!meta)
        return;
    fm_fs_meta_remote_free(meta->remote);
    pthread_cond_destroy(&meta->slot_free);
    pthread_mutex_destroy(&meta->lock);
    fm_base_mem_free(meta);
}

void fm_fs_meta_chunk(const fm_fs_node *node, uint32_t index, uint32_t *out_chain, uint8_t *out_id)
{
    const fm_fs_layout *layout = &node->layout;
    struct fm_fs_meta_key data = fm_fs_meta_key(0, node->data);
    uint64_t place = (uint64_t)layout->base + index % layout->stripe;
    *out_chain = 1 + (uint32_t)(place % layout->chains);
    // The tenant and a reserved byte, the number, two bytes for tracks, the index: as 3FS has it, so that a file's
    // chunks lie together.
    memset(out_id, 0, FM_FS_CHUNK_ID_BYTES);
    memcpy(out_id + 2, data.bytes + 1, 8);
    for (int i = 0; i < 4; i++)
        out_id[12 + i] = (uint8_t)(index >> (24 - 8 * i));
}

uint64_t fm_fs_meta_size_max(const fm_fs_layout *layout)
{
    return (uint64_t)layout->chunk_bytes << 32;
}
