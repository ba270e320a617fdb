// Writing a file's bytes to its chunks: many at once, and what lies in one chunk not one after another.
#include <string.h>

#include "volume.h"

enum {
    WIDTH = 32,  // updates that a connection has under way (cluster_client.h)
    BATCH = 1024 // writes that share the time of one request
};

static size_t parts_of(const fm_fs_node *node, const struct fm_fs_volume_piece *piece)
{
    const uint64_t chunk = node->layout.chunk_bytes;
    return (size_t)((piece->offset + piece->size - 1) / chunk - piece->offset / chunk + 1);
}

/*
 * Where the part `index` of `count` comes: all with index mod step = 0 first, then those with 1, ... Updates of one chunk wait
 * for each other, and small pieces that follow each other are often of one chunk, so those that travel together are
 * taken from all over the file.
 */
static size_t turn_of(size_t index, size_t count)
{
    size_t step = (count + WIDTH - 1) / WIDTH;
    size_t round = index % step;
    size_t longer = count % step; // so many rounds have one more
    return round * (count / step) + (round < longer ? round : longer) + index / step;
}

static fm_status write_all(fm_fs_volume *volume, const fm_fs_node *node, fm_fs_chunk_op *ops, size_t count)
{
    fm_fs_chunks *chunks;
    fm_status status = FM_OK;
    FM_TRY(fm_fs_volume_take(volume, &chunks));
    for (size_t done = 0; done < count && status == FM_OK; done += BATCH)
        status = fm_fs_chunks_batch(chunks, ops + done, count - done < BATCH ? count - done : BATCH,
                                    volume->options.timeout_ms);
    fm_fs_volume_leave(volume, chunks);
    return status < 0 ? fm_base_error_set(status, "writing chunks of inode %llu: %s",
                                          (unsigned long long)node->ino, fm_base_status_text(status))
                      : FM_OK;
}

fm_status fm_fs_volume_write_chunks(fm_fs_volume *volume, const fm_fs_node *node,
                                    const struct fm_fs_volume_piece *pieces, size_t count)
{
    const uint64_t chunk = node->layout.chunk_bytes;
    size_t total = 0;
    size_t index = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t last = pieces[i].offset + pieces[i].size - 1;
        if (last / chunk > UINT32_MAX)
            return fm_base_error_set(FM_ERR_LIMIT, "byte %llu of a file with chunks of %u bytes",
                                     (unsigned long long)last, node->layout.chunk_bytes);
        total += parts_of(node, &pieces[i]);
    }
    if (!total)
        return FM_OK;
    fm_fs_chunk_op *ops = fm_base_mem_zalloc(total, sizeof *ops);
    if (!ops)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu writes to chunks", total);
    for (size_t i = 0; i < count; i++)
        for (size_t done = 0; done < pieces[i].size; index++) {
            fm_fs_chunk_op *op = &ops[turn_of(index, total)];
            uint64_t at = pieces[i].offset + done;
            uint64_t left = chunk - at % chunk;
            op->kind = FM_FS_CHUNK_WRITE;
            op->offset = (uint32_t)(at % chunk);
            op->size = (uint32_t)(left < pieces[i].size - done ? left : pieces[i].size - done);
            op->bytes = pieces[i].bytes + done;
            fm_fs_meta_chunk(node, (uint32_t)(at / chunk), &op->chain, op->id);
            done += op->size;
        }
    fm_status status = write_all(volume, node, ops, total);
    fm_base_mem_free(ops);
    return status;
}
