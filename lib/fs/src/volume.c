// The files of a cluster by inode number: which bytes go to the store of the names and which to chunks, and in what order.
#include "volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "meta.h"
#include "volume_move.h"

enum {
    // How often a change that met another one begins again: each time somebody else has finished one.
    TRIES = 64,
    STRIPE_MAX = 16,
    OPEN_TIMEOUT_MS = 20000,
    SPACE_NS = 1000000000
};

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static fm_fs_volume *open_volumes;

/* Opening */

static struct fm_fs_volume_gate *gate_of(fm_fs_volume *volume, uint64_t ino)
{
    return &volume->inodes[ino % FM_FS_VOLUME_LOCKS];
}

void fm_fs_volume_enter(fm_fs_volume *volume, uint64_t ino)
{
    struct fm_fs_volume_gate *gate = gate_of(volume, ino);
    pthread_mutex_lock(&gate->lock);
    while (gate->alone || gate->waiting)
        pthread_cond_wait(&gate->changed, &gate->lock);
    gate->inside++;
    pthread_mutex_unlock(&gate->lock);
}

int fm_fs_volume_try(fm_fs_volume *volume, uint64_t ino)
{
    struct fm_fs_volume_gate *gate = gate_of(volume, ino);
    pthread_mutex_lock(&gate->lock);
    int enters = !gate->alone && !gate->waiting;
    gate->inside += enters ? 1u : 0;
    pthread_mutex_unlock(&gate->lock);
    return enters;
}

void fm_fs_volume_exit(fm_fs_volume *volume, uint64_t ino)
{
    struct fm_fs_volume_gate *gate = gate_of(volume, ino);
    pthread_mutex_lock(&gate->lock);
    if (--gate->inside == 0 && gate->waiting)
        pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

static void enter_alone(fm_fs_volume *volume, uint64_t ino)
{
    struct fm_fs_volume_gate *gate = gate_of(volume, ino);
    pthread_mutex_lock(&gate->lock);
    gate->waiting++;
    while (gate->alone || gate->inside)
        pthread_cond_wait(&gate->changed, &gate->lock);
    gate->waiting--;
    gate->alone = 1;
    pthread_mutex_unlock(&gate->lock);
}

static void exit_alone(fm_fs_volume *volume, uint64_t ino)
{
    struct fm_fs_volume_gate *gate = gate_of(volume, ino);
    pthread_mutex_lock(&gate->lock);
    gate->alone = 0;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

static void end(fm_fs_volume *volume)
{
    fm_fs_meta_close(volume->meta);
    fm_fs_kv_close(volume->kv);
    for (uint32_t i = 0; i < volume->idle_count; i++)
        fm_fs_chunks_close(volume->connections[i]);
    for (int i = 0; i < FM_FS_VOLUME_LOCKS; i++) {
        pthread_cond_destroy(&volume->inodes[i].changed);
        pthread_mutex_destroy(&volume->inodes[i].lock);
    }
    pthread_cond_destroy(&volume->idle);
    pthread_mutex_destroy(&volume->lock);
    fm_base_mem_free(volume);
}

// Chains 1 to n are those that layouts count with.
static fm_status count_chains(fm_fs_volume *volume, uint32_t *out_chains)
{
    fm_fs_chunks *chunks;
    fm_fs_cluster_state state;
    uint32_t chains = 0;
    FM_TRY(fm_fs_volume_take(volume, &chunks));
    fm_status status = fm_fs_chunks_state(chunks, OPEN_TIMEOUT_MS, &state);
    while (status == FM_OK && chains < state.chain_count && state.chains[chains].id == chains + 1)
        chains++;
    fm_fs_volume_leave(volume, chunks);
    FM_TRY(status);
    if (!chains)
        return fm_base_error_set(FM_ERR_STATE, "the cluster in %s has no chain 1: files need chains",
                                 volume->dir);
    *out_chains = chains;
    return FM_OK;
}

static fm_status open_names(fm_fs_volume *volume, const char *store)
{
    fm_fs_meta_options options = {.size = sizeof options,
                                  .no_inline = volume->options.no_inline,
                                  .root_uid = geteuid(),
                                  .root_gid = getegid(),
                                  .layout = {.chunk_bytes = volume->options.chunk_bytes,
                                             .stripe = volume->options.stripe,
                                             .chains = 1}};
    struct fm_fs_volume_names names;
    FM_TRY(fm_fs_volume_names_find(volume->dir, store, &names));
    if (names.services)
        return fm_fs_volume_names_ask(volume, names.spec);
    if (names.may_be_made)
        FM_TRY(count_chains(volume, &options.layout.chains));
    if (!options.layout.stripe)
        options.layout.stripe = options.layout.chains < STRIPE_MAX ? options.layout.chains : STRIPE_MAX;
    FM_TRY(fm_fs_kv_open(names.spec, NULL, &volume->kv));
    return fm_fs_meta_open(volume->kv, &options, &volume->meta);
}

static fm_status make(const char *dir, const char *store, const fm_fs_volume_options *options,
                      fm_fs_volume **out_volume)
{
    fm_fs_volume *volume = fm_base_mem_zalloc(1, sizeof *volume);
    if (!volume)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a volume");
    if (options)
        volume->options = *options;
    if (!volume->options.connections)
        volume->options.connections = 4;
    if (volume->options.connections > FM_FS_VOLUME_CONNECTIONS_MAX)
        volume->options.connections = FM_FS_VOLUME_CONNECTIONS_MAX;
    if (volume->options.timeout_ms <= 0)
        volume->options.timeout_ms = 30000;
    volume->opens = 1;
    snprintf(volume->dir, sizeof volume->dir, "%s", dir);
    pthread_mutex_init(&volume->lock, NULL);
    pthread_cond_init(&volume->idle, NULL);
    for (int i = 0; i < FM_FS_VOLUME_LOCKS; i++) {
        pthread_mutex_init(&volume->inodes[i].lock, NULL);
        pthread_cond_init(&volume->inodes[i].changed, NULL);
    }
    fm_status status = open_names(volume, store);
    if (status < 0) {
        end(volume);
        return status;
    }
    volume->next = open_volumes;
    open_volumes = volume;
    *out_volume = volume;
    return FM_OK;
}

// The cluster's key, or that of its names alone.
static fm_status check_key(const char *dir)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    FM_TRY(fm_fs_cluster_path(dir, "names.key", path));
    if (access(path, R_OK) == 0)
        return FM_OK;
    FM_TRY(fm_fs_cluster_path(dir, "key", path));
    if (access(path, R_OK) != 0)
        return fm_base_file_error(errno, "%s is not a cluster that can be used: %s", dir, path);
    return FM_OK;
}

fm_status fm_fs_volume_open_at(const char *dir, const char *store, const fm_fs_volume_options *options,
                               fm_fs_volume **out_volume)
{
    if (!dir || (options && options->size != sizeof *options))
        return fm_base_error_set(FM_ERR_ARG, "dir is %s and options->size %zu; expected %zu",
                                 dir ? "given" : "NULL", options ? options->size : 0, sizeof *options);
    FM_TRY(check_key(dir));
    char *real = realpath(dir, NULL);
    if (!real)
        return fm_base_file_error(errno, "%s", dir);
    pthread_mutex_lock(&open_lock);
    fm_fs_volume *volume = open_volumes;
    while (volume && strcmp(volume->dir, real) != 0)
        volume = volume->next;
    fm_status status = FM_OK;
    if (volume)
        volume->opens++;
    else if (strlen(real) >= sizeof volume->dir)
        status = fm_base_error_set(FM_ERR_LIMIT, "%s: a path of %zu bytes", real, strlen(real));
    else
        status = make(real, store, options, &volume);
    pthread_mutex_unlock(&open_lock);
    free(real);
    if (status == FM_OK)
        *out_volume = volume;
    return status;
}

fm_status fm_fs_volume_open(const char *dir, const fm_fs_volume_options *options, fm_fs_volume **out_volume)
{
    return fm_fs_volume_open_at(dir, NULL, options, out_volume);
}

void fm_fs_volume_close(fm_fs_volume *volume)
{
    if (!volume)
        return;
    pthread_mutex_lock(&open_lock);
    int last = --volume->opens == 0;
    fm_fs_volume **at = &open_volumes;
    while (last && *at != volume)
        at = &(*at)->next;
    if (last) {
        *at = volume->next;
        end(volume);
    }
    pthread_mutex_unlock(&open_lock);
}

fm_fs_meta *fm_fs_volume_meta(fm_fs_volume *volume)
{
    return volume->meta;
}

fm_status fm_fs_volume_self(fm_fs_volume *volume, fm_fs_user *out_user)
{
    gid_t groups[FM_FS_USER_GROUPS_MAX];
    int trusted = 1;
    if (volume->meta->remote)
        FM_TRY(fm_fs_meta_whoami(volume->meta, out_user, &trusted));
    if (!trusted)
        return FM_OK;
    int count = getgroups(FM_FS_USER_GROUPS_MAX, groups);
    *out_user =
        (fm_fs_user){.uid = geteuid(), .gid = getegid(), .group_count = count > 0 ? (uint32_t)count : 0};
    for (int i = 0; i < count; i++)
        out_user->groups[i] = groups[i];
    return FM_OK;
}

fm_status fm_fs_volume_restore(const char *dir, const char *path, uint64_t *out_records)
{
    char key[FM_FS_CLUSTER_PATH_MAX];
    FM_TRY(fm_fs_cluster_path(dir, "key", key));
    if (access(key, R_OK) != 0)
        return fm_base_file_error(errno, "%s is not a cluster that can be used: %s", dir, key);
    struct fm_fs_volume_names names;
    fm_fs_kv *kv;
    FM_TRY(fm_fs_volume_names_find(dir, NULL, &names));
    if (names.services)
        return fm_base_error_set(FM_ERR_UNSUPPORTED,
                                 "%s: its names are at services; restore where the store is", dir);
    FM_TRY(fm_fs_kv_open(names.spec, NULL, &kv));
    fm_status status = fm_fs_meta_restore(kv, path, out_records);
    fm_fs_kv_close(kv);
    return status;
}

/* Reading and writing */

static fm_status read_once(fm_fs_volume *volume, uint64_t ino, void *buffer, size_t length, uint64_t offset,
                           size_t *out_read)
{
    fm_fs_node node;
    size_t read = 0;
    FM_TRY(fm_fs_meta_inline_read(volume->meta, ino, offset, buffer, length, &read, &node));
    if (!(node.flags & FM_FS_NODE_INLINE) && offset < node.size) {
        read = node.size - offset < length ? (size_t)(node.size - offset) : length;
        FM_TRY(fm_fs_volume_transfer(volume, &node, FM_FS_VOLUME_READ, offset, read, buffer, NULL));
    }
    *out_read = read;
    return FM_OK;
}

fm_status fm_fs_volume_read(fm_fs_volume *volume, uint64_t ino, void *buffer, size_t length, uint64_t offset,
                            size_t *out_read)
{
    fm_status status = FM_ERR_STATE;
    for (int i = 0; i < TRIES && status == FM_ERR_STATE; i++) {
        fm_fs_volume_enter(volume, ino);
        status = read_once(volume, ino, buffer, length, offset, out_read);
        fm_fs_volume_exit(volume, ino);
    }
    return status;
}

// The version that a change of one's own led to, if it was that change alone which led there.
static void follow(uint64_t *version, const fm_fs_node *node)
{
    if (version)
        *version = *version != FM_FS_VOLUME_UNKNOWN && node->version == *version + 1 ? node->version
                                                                                     : FM_FS_VOLUME_UNKNOWN;
}

// Takes an inline file's bytes to its chunks. FM_ERR_STATE: somebody changed it meanwhile.
static fm_status spill(fm_fs_volume *volume, uint64_t ino, uint64_t *version)
{
    uint8_t bytes[16384]; // the most that is inline
    size_t read;
    fm_fs_node node;
    FM_TRY(fm_fs_meta_inline_read(volume->meta, ino, 0, bytes, sizeof bytes, &read, &node));
    if (!(node.flags & FM_FS_NODE_INLINE))
        return FM_OK;
    FM_TRY(fm_fs_volume_transfer(volume, &node, FM_FS_VOLUME_WRITE, 0, read, NULL, bytes));
    FM_TRY(fm_fs_meta_spill(volume->meta, ino, node.version, &node));
    follow(version, &node);
    return FM_OK;
}

static fm_status write_inline(fm_fs_volume *volume, uint64_t ino, const struct fm_fs_volume_piece *pieces,
                              size_t count, uint64_t *version)
{
    fm_fs_node node;
    for (size_t i = 0; i < count; i++) {
        FM_TRY(fm_fs_meta_inline_write(volume->meta, ino, pieces[i].offset, pieces[i].bytes, pieces[i].size,
                                       &node));
        follow(version, &node);
    }
    return FM_OK;
}

static fm_status write_once(fm_fs_volume *volume, uint64_t ino, const struct fm_fs_volume_piece *pieces,
                            size_t count, uint64_t *version)
{
    struct fm_fs_volume_asker asker = {.volume = volume};
    const struct fm_fs_cut_ways ways = fm_fs_volume_ways(&asker);
    fm_fs_node node;
    uint64_t end = 0;
    FM_TRY(fm_fs_meta_node(volume->meta, ino, &node));
    if (node.flags & FM_FS_NODE_INLINE)
        return write_inline(volume, ino, pieces, count, version);
    for (size_t i = 0; i < count; i++)
        end = pieces[i].offset + pieces[i].size > end ? pieces[i].offset + pieces[i].size : end;
    int64_t now = (int64_t)fm_base_clock_unix_ns();
    if (end > node.size || now > node.mtime_ns + FM_FS_VOLUME_TOUCH_NS || now < node.mtime_ns) {
        FM_TRY(fm_fs_cut_grow(&ways, &node, end));
        follow(version, &node);
    }
    FM_TRY(fm_fs_volume_write_chunks(volume, &node, pieces, count));
    return fm_fs_cut_settle(&ways, &node, end);
}

fm_status fm_fs_volume_write_pieces(fm_fs_volume *volume, uint64_t ino,
                                    const struct fm_fs_volume_piece *pieces, size_t count, uint64_t *version)
{
    fm_status status = FM_OK;
    for (int i = 0; i < TRIES; i++) {
        fm_fs_volume_enter(volume, ino);
        status = write_once(volume, ino, pieces, count, version);
        fm_fs_volume_exit(volume, ino);
        if (status != FM_ERR_STATE)
            return status;
        enter_alone(volume, ino);
        status = spill(volume, ino, version);
        exit_alone(volume, ino);
        if (status < 0 && status != FM_ERR_STATE)
            return status;
    }
    return status;
}

fm_status fm_fs_volume_write(fm_fs_volume *volume, uint64_t ino, const void *bytes, size_t length,
                             uint64_t offset)
{
    const struct fm_fs_volume_piece piece = {.offset = offset, .size = length, .bytes = bytes};
    return length ? fm_fs_volume_write_pieces(volume, ino, &piece, 1, NULL) : FM_OK;
}

fm_status fm_fs_volume_grow(fm_fs_volume *volume, uint64_t ino, uint64_t end)
{
    struct fm_fs_volume_asker asker = {.volume = volume};
    const struct fm_fs_cut_ways ways = fm_fs_volume_ways(&asker);
    fm_fs_node node;
    FM_TRY(fm_fs_meta_node(volume->meta, ino, &node));
    if (node.flags & FM_FS_NODE_INLINE)
        return fm_base_error_set(FM_ERR_STATE, "inode %llu is inline", (unsigned long long)ino);
    return fm_fs_cut_grow(&ways, &node, end);
}

fm_status fm_fs_volume_written(fm_fs_volume *volume, const fm_fs_node *node, uint64_t end)
{
    struct fm_fs_volume_asker asker = {.volume = volume};
    const struct fm_fs_cut_ways ways = fm_fs_volume_ways(&asker);
    return fm_fs_cut_settle(&ways, node, end);
}

fm_status fm_fs_volume_settle(fm_fs_volume *volume, uint64_t ino, uint64_t *version)
{
    fm_fs_node node;
    fm_status status = FM_ERR_STATE;
    for (int i = 0; i < TRIES && status == FM_ERR_STATE; i++) {
        FM_TRY(fm_fs_meta_node(volume->meta, ino, &node));
        if (node.flags & FM_FS_NODE_INLINE) // whose writes each told their time
            return FM_OK;
        status = fm_fs_meta_extend(volume->meta, ino, node.data, 0, 0, &node);
    }
    if (status == FM_OK)
        follow(version, &node);
    return status;
}

fm_status fm_fs_volume_touch(fm_fs_volume *volume, uint64_t ino)
{
    return fm_fs_volume_settle(volume, ino, NULL);
}

/* Sizes */

static fm_status truncate_once(fm_fs_volume *volume, const fm_fs_who *who, uint64_t ino, uint64_t size,
                               fm_fs_node *out_node)
{
    struct fm_fs_volume_asker asker = {.volume = volume, .who = who};
    const struct fm_fs_cut_ways ways = fm_fs_volume_ways(&asker);
    fm_fs_node node;
    FM_TRY(fm_fs_meta_node(volume->meta, ino, &node));
    if (size && !(node.flags & FM_FS_NODE_INLINE)) {
        FM_TRY(fm_fs_cut_truncate(&ways, &node, size));
        *out_node = node;
        return FM_OK;
    }
    fm_status status = fm_fs_meta_truncate(volume->meta, who, ino, node.data, size, 0, out_node);
    if (status == FM_ERR_STATE && (node.flags & FM_FS_NODE_INLINE))
        FM_TRY(spill(volume, ino, NULL));
    return status;
}

fm_status fm_fs_volume_truncate(fm_fs_volume *volume, const fm_fs_who *who, uint64_t ino, uint64_t size,
                                fm_fs_node *out_node)
{
    fm_status status = FM_ERR_STATE;
    enter_alone(volume, ino);
    for (int i = 0; i < TRIES && status == FM_ERR_STATE; i++)
        status = truncate_once(volume, who, ino, size, out_node);
    exit_alone(volume, ino);
    return status;
}

static fm_status write_zeros(fm_fs_volume *volume, const fm_fs_node *node, uint64_t from, uint64_t to)
{
    return from < to ? fm_fs_volume_transfer(volume, node, FM_FS_VOLUME_WRITE, from, to - from, NULL, NULL)
                     : FM_OK;
}

// Removes the chunks that begin from `offset` on and before `end`.
static fm_status remove_range(fm_fs_volume *volume, const fm_fs_node *node, uint64_t offset, uint64_t end)
{
    struct fm_fs_volume_asker asker = {.volume = volume};
    const struct fm_fs_cut_ways ways = fm_fs_volume_ways(&asker);
    const uint64_t chunk = node->layout.chunk_bytes;
    const uint64_t last = (end + chunk - 1) / chunk;
    uint64_t index = (offset + chunk - 1) / chunk;
    while (index < last) {
        if (last - index > FM_FS_CUT_BATCH)
            FM_TRY(fm_fs_cut_skip(&ways, node, index, last, &index));
        uint64_t count = last - index < FM_FS_CUT_BATCH ? last - index : FM_FS_CUT_BATCH;
        FM_TRY(fm_fs_volume_transfer(volume, node, FM_FS_VOLUME_REMOVE, index * chunk, count * chunk, NULL,
                                     NULL));
        index += count;
    }
    return FM_OK;
}

static fm_status punch(fm_fs_volume *volume, uint64_t ino, uint64_t offset, uint64_t length)
{
    fm_fs_node node;
    FM_TRY(spill(volume, ino, NULL));
    FM_TRY(fm_fs_meta_node(volume->meta, ino, &node));
    const uint64_t chunk = node.layout.chunk_bytes;
    uint64_t end_at = length < node.size && offset < node.size - length ? offset + length : node.size;
    if (offset >= end_at)
        return FM_OK;
    // At the file's end a chunk's rest is nothing that anybody reads.
    uint64_t first = (offset + chunk - 1) / chunk * chunk;
    uint64_t last = end_at == node.size ? (end_at + chunk - 1) / chunk * chunk : end_at / chunk * chunk;
    if (first >= last) {
        FM_TRY(write_zeros(volume, &node, offset, end_at));
    } else {
        FM_TRY(write_zeros(volume, &node, offset, first));
        FM_TRY(remove_range(volume, &node, first, last));
        FM_TRY(write_zeros(volume, &node, last, end_at));
    }
    return fm_fs_meta_extend(volume->meta, ino, node.data, 0, 0, &node);
}

fm_status fm_fs_volume_punch(fm_fs_volume *volume, uint64_t ino, uint64_t offset, uint64_t length)
{
    fm_status status = FM_ERR_STATE;
    enter_alone(volume, ino);
    for (int i = 0; i < TRIES && status == FM_ERR_STATE; i++)
        status = punch(volume, ino, offset, length);
    exit_alone(volume, ino);
    return status;
}

static fm_status chunk_is_there(fm_fs_volume *volume, const fm_fs_node *node, uint64_t index, int *out_there)
{
    fm_fs_chunks *chunks;
    uint8_t id[FM_FS_CHUNK_ID_BYTES];
    uint8_t byte;
    uint32_t chain;
    uint32_t read;
    FM_TRY(fm_fs_volume_take(volume, &chunks));
    fm_fs_meta_chunk(node, (uint32_t)index, &chain, id);
    fm_status status =
        fm_fs_chunks_read(chunks, chain, id, 0, &byte, 1, volume->options.timeout_ms, &read, NULL);
    fm_fs_volume_leave(volume, chunks);
    if (status < 0 && status != FM_ERR_NOT_FOUND)
        return status;
    *out_there = status == FM_OK;
    return FM_OK;
}

static fm_status seek_data(fm_fs_volume *volume, const fm_fs_node *node, uint64_t offset,
                           uint64_t *out_offset)
{
    struct fm_fs_volume_asker asker = {.volume = volume};
    const struct fm_fs_cut_ways ways = fm_fs_volume_ways(&asker);
    const uint64_t chunk = node->layout.chunk_bytes;
    const uint64_t end = (node->size + chunk - 1) / chunk;
    int there = 0;
    for (uint64_t index = offset / chunk; index < end; index++) {
        FM_TRY(chunk_is_there(volume, node, index, &there));
        if (!there) {
            FM_TRY(fm_fs_cut_skip(&ways, node, index, end, &index));
            if (index < end) // it may have been on its way, or be gone
                FM_TRY(chunk_is_there(volume, node, index, &there));
        }
        if (!there)
            continue;
        *out_offset = index * chunk > offset ? index * chunk : offset;
        return FM_OK;
    }
    return fm_base_error_set(FM_ERR_NOT_FOUND, "inode %llu has no data behind %llu",
                             (unsigned long long)node->ino, (unsigned long long)offset);
}

static fm_status seek_hole(fm_fs_volume *volume, const fm_fs_node *node, uint64_t offset,
                           uint64_t *out_offset)
{
    const uint64_t chunk = node->layout.chunk_bytes;
    uint64_t at = offset;
    int there = 1;
    while (at < node->size) {
        FM_TRY(chunk_is_there(volume, node, at / chunk, &there));
        if (!there)
            break;
        at = (at / chunk + 1) * chunk;
    }
    *out_offset = at < node->size ? at : node->size;
    return FM_OK;
}

fm_status fm_fs_volume_seek(fm_fs_volume *volume, uint64_t ino, uint64_t offset, int hole,
                            uint64_t *out_offset)
{
    fm_fs_node node;
    FM_TRY(fm_fs_meta_node(volume->meta, ino, &node));
    if (offset >= node.size)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "inode %llu has %llu bytes; %llu is behind them",
                                 (unsigned long long)ino, (unsigned long long)node.size,
                                 (unsigned long long)offset);
    if (node.flags & FM_FS_NODE_INLINE) {
        *out_offset = hole ? node.size : offset;
        return FM_OK;
    }
    return hole ? seek_hole(volume, &node, offset, out_offset) : seek_data(volume, &node, offset, out_offset);
}

/* Collecting, space */

static fm_status remove_chunks(void *context, const fm_fs_node *node, uint64_t from)
{
    return remove_range(context, node, from, node->reach);
}

fm_status fm_fs_volume_collect(fm_fs_volume *volume, size_t max, size_t *out_done)
{
    return fm_fs_meta_collect(volume->meta, remove_chunks, volume, max, out_done);
}

// What the chains can take: as much as the smallest of their targets.
static void sum_up(const fm_fs_cluster_state *state, uint64_t *out_capacity, uint64_t *out_free)
{
    *out_capacity = 0;
    *out_free = 0;
    for (uint32_t c = 0; c < state->chain_count; c++) {
        uint64_t capacity = UINT64_MAX;
        uint64_t left = UINT64_MAX;
        for (uint32_t t = 0; t < state->target_count; t++) {
            const fm_fs_cluster_target *target = &state->targets[t];
            if (target->chain != state->chains[c].id || !target->capacity_bytes)
                continue;
            uint64_t unused =
                target->capacity_bytes > target->used_bytes ? target->capacity_bytes - target->used_bytes : 0;
            capacity = target->capacity_bytes < capacity ? target->capacity_bytes : capacity;
            left = unused < left ? unused : left;
        }
        *out_capacity += capacity == UINT64_MAX ? 0 : capacity;
        *out_free += left == UINT64_MAX ? 0 : left;
    }
}

fm_status fm_fs_volume_space(fm_fs_volume *volume, uint64_t *out_capacity_bytes, uint64_t *out_free_bytes)
{
    uint64_t now = fm_base_clock_ns();
    fm_fs_cluster_state state;
    fm_fs_chunks *chunks;
    pthread_mutex_lock(&volume->lock);
    int fresh = volume->space_ns && now - volume->space_ns < SPACE_NS;
    *out_capacity_bytes = volume->capacity_bytes;
    *out_free_bytes = volume->free_bytes;
    pthread_mutex_unlock(&volume->lock);
    if (fresh)
        return FM_OK;
    FM_TRY(fm_fs_volume_take(volume, &chunks));
    fm_status status = fm_fs_chunks_state(chunks, volume->options.timeout_ms, &state);
    if (status == FM_OK)
        sum_up(&state, out_capacity_bytes, out_free_bytes);
    fm_fs_volume_leave(volume, chunks);
    FM_TRY(status);
    pthread_mutex_lock(&volume->lock);
    volume->capacity_bytes = *out_capacity_bytes;
    volume->free_bytes = *out_free_bytes;
    volume->space_ns = now;
    pthread_mutex_unlock(&volume->lock);
    return FM_OK;
}
