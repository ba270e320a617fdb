#include "volume_cut.h"

#include <string.h>

#include "fathom/mem.h"
#include "fs_planted.h"

enum { TRIES = 64 }; // of one chunk: each time somebody else has written to it

static fm_status met_others(const fm_fs_node *node)
{
    return fm_base_error_set(FM_ERR_STATE, "inode %llu is being changed by others",
                             (unsigned long long)node->ino);
}

static fm_status run(const struct fm_fs_cut_ways *ways, fm_fs_client_io *ios, size_t count)
{
    FM_TRY(ways->run(ways->context, ios, count));
    for (size_t i = 0; i < count; i++)
        if (ios[i].status < 0 && ios[i].status != FM_ERR_STATE)
            return fm_base_error_set(ios[i].status, "a chunk on chain %u: %s", ios[i].chain,
                                     fm_base_status_text(ios[i].status));
    return FM_OK;
}

// The next lane's first chunk from `index` on, asked as the one behind the id before it.
static void ask_lane(const fm_fs_node *node, uint32_t index, fm_fs_client_io *io)
{
    *io = (fm_fs_client_io){.kind = FM_FS_CLIENT_LIST, .size = sizeof io->id};
    fm_fs_meta_chunk(node, index, &io->chain, io->id.bytes);
    size_t at = sizeof io->id.bytes;
    while (at > 0 && io->id.bytes[--at]-- == 0) // borrows from the byte before; the file's number is not 0
        continue;
}

// The index in the list's first id, if that is of this file and below `next`.
static void take_lane(const fm_fs_node *node, const fm_fs_client_io *io, uint64_t *next)
{
    fm_fs_chunk_id id;
    uint32_t chain;
    if (!io->bytes || io->bytes->size < sizeof id.bytes)
        return;
    const uint8_t *got = io->bytes->data;
    uint32_t index = (uint32_t)got[12] << 24 | (uint32_t)got[13] << 16 | (uint32_t)got[14] << 8 | got[15];
    fm_fs_meta_chunk(node, index, &chain, id.bytes);
    if (memcmp(id.bytes, got, sizeof id.bytes) == 0 && index < *next)
        *next = index;
}

fm_status fm_fs_cut_skip(const struct fm_fs_cut_ways *ways, const fm_fs_node *node, uint64_t from,
                         uint64_t end, uint64_t *out_next)
{
    fm_fs_client_io lists[FM_FS_CUT_BATCH];
    uint64_t lanes = end - from < node->layout.stripe ? end - from : node->layout.stripe;
    uint64_t next = end;
    for (uint64_t lane = 0; lane < lanes; lane += FM_FS_CUT_BATCH) {
        size_t count = lanes - lane < FM_FS_CUT_BATCH ? (size_t)(lanes - lane) : FM_FS_CUT_BATCH;
        for (size_t i = 0; i < count; i++)
            ask_lane(node, (uint32_t)(from + lane + i), &lists[i]);
        fm_status status = run(ways, lists, count);
        for (size_t i = 0; i < count; i++) {
            if (status == FM_OK)
                take_lane(node, &lists[i], &next);
            fm_fs_buffer_drop(lists[i].bytes);
        }
        FM_TRY(status);
    }
    *out_next = next;
    return FM_OK;
}

// Which of the chunks have something behind the file's end: their cuts are made ready, of the version that was seen.
static fm_status probe(const struct fm_fs_cut_ways *ways, const fm_fs_node *node, uint32_t first,
                       size_t count, fm_fs_client_io *cuts, size_t *out_cuts)
{
    const uint64_t chunk = node->layout.chunk_bytes;
    fm_fs_client_io looks[FM_FS_CUT_BATCH];
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t begins = (first + i) * chunk;
        looks[i] = (fm_fs_client_io){.kind = FM_FS_CLIENT_READ, .size = 1};
        looks[i].offset = begins < node->size ? (uint32_t)(node->size - begins) : 0;
        fm_fs_meta_chunk(node, first + (uint32_t)i, &looks[i].chain, looks[i].id.bytes);
    }
    fm_status status = run(ways, looks, count);
    for (size_t i = 0; i < count; i++) {
        if (status == FM_OK && looks[i].bytes && (looks[i].bytes->size || !looks[i].offset))
            cuts[found++] =
                (fm_fs_client_io){.kind = looks[i].offset ? FM_FS_CLIENT_TRUNCATE : FM_FS_CLIENT_REMOVE,
                                  .chain = looks[i].chain,
                                  .id = looks[i].id,
                                  .size = looks[i].offset,
                                  .only_if = looks[i].version};
        fm_fs_buffer_drop(looks[i].bytes);
    }
    FM_TRY(status);
    *out_cuts = found;
    return FM_OK;
}

static fm_status clean_some(const struct fm_fs_cut_ways *ways, const fm_fs_node *node, uint32_t first,
                            size_t count)
{
    for (int i = 0; i < TRIES; i++) {
        fm_fs_client_io cuts[FM_FS_CUT_BATCH];
        size_t cut_count;
        fm_fs_node now;
        int again = 0;
        FM_TRY(probe(ways, node, first, count, cuts, &cut_count));
        if (!cut_count)
            return FM_OK;
        FM_TRY(ways->look(ways->context, node->ino, &now));
        if (now.data != node->data || now.cuts != node->cuts || now.size != node->size)
            return met_others(node);
        FM_TRY(run(ways, cuts, cut_count));
        for (size_t c = 0; c < cut_count; c++)
            again |= cuts[c].status < 0;
        if (!again)
            return FM_OK;
    }
    return met_others(node);
}

// Removes what chunks hold from the file's end on, in all chunks that begin before `to`. The node's number is the caller's.
static fm_status clean(const struct fm_fs_cut_ways *ways, const fm_fs_node *node, uint64_t to)
{
    const uint64_t chunk = node->layout.chunk_bytes;
    uint64_t end = (to + chunk - 1) / chunk;
    uint64_t first = node->size / chunk;
    while (first < end) {
        if (end - first > FM_FS_CUT_BATCH) // a sparse file may have room for millions
            FM_TRY(fm_fs_cut_skip(ways, node, first, end, &first));
        size_t count = end - first < FM_FS_CUT_BATCH ? (size_t)(end - first) : FM_FS_CUT_BATCH;
        FM_TRY(count ? clean_some(ways, node, (uint32_t)first, count) : FM_OK);
        first += count;
    }
    return FM_OK;
}

// The file's growth to `end` shows nothing that was cut off. The node becomes what the file is then.
static fm_status prepare(const struct fm_fs_cut_ways *ways, fm_fs_node *node, uint64_t end)
{
    if (end <= node->size || node->size >= node->reach || FM_FS_PLANT(FM_FS_PLANT_NAMES_TAIL))
        return FM_OK;
    FM_TRY(ways->fence(ways->context, node, node));
    if (end <= node->size)
        return FM_OK;
    return clean(ways, node, end < node->reach ? end : node->reach);
}

fm_status fm_fs_cut_grow(const struct fm_fs_cut_ways *ways, fm_fs_node *node, uint64_t end)
{
    FM_TRY(prepare(ways, node, end));
    return ways->extend(ways->context, node, end, node);
}

int fm_fs_cut_is_settled(const fm_fs_node *then, const fm_fs_node *now, uint64_t end)
{
    return now->data != then->data || now->size >= end || FM_FS_PLANT(FM_FS_PLANT_NAMES_UNSETTLED);
}

fm_status fm_fs_cut_settle(const struct fm_fs_cut_ways *ways, const fm_fs_node *node, uint64_t end)
{
    fm_status status = FM_ERR_STATE;
    for (int i = 0; i < TRIES && status == FM_ERR_STATE; i++) {
        fm_fs_node now;
        status = ways->look(ways->context, node->ino, &now);
        if (status == FM_ERR_NOT_FOUND) // removed since
            return FM_OK;
        FM_TRY(status);
        if (fm_fs_cut_is_settled(node, &now, end))
            return FM_OK;
        status = ways->fence(ways->context, &now, &now);
        if (status == FM_OK && now.size < end)
            status = clean(ways, &now, end);
    }
    return status;
}

fm_status fm_fs_cut_truncate(const struct fm_fs_cut_ways *ways, fm_fs_node *node, uint64_t size)
{
    const uint64_t before = node->size;
    FM_TRY(prepare(ways, node, size));
    FM_TRY(ways->truncate(ways->context, node, size, node));
    // The room is given back. What others stop here is done by whoever lets the file grow, or by the collector.
    if (size < before && node->cuts && node->size == size)
        (void)clean(ways, node, before);
    return FM_OK;
}

int fm_fs_cut_between(const fm_fs_node *then, const fm_fs_node *now)
{
    return then->data != now->data || then->cuts != now->cuts;
}
