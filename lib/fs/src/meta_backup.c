/*
 * Backups of the names: one file of all records, read in one transaction. Numbers are little-endian.
 *
 *     OFFSET SIZE
 *          0    8  "FMNAMES1"
 *          8    4  format of the names: 1
 *         12    4  0
 *         16       records in the order of their keys: key's bytes 4, value's bytes 4, key, value
 *                  then 0 and 0 (4 each), the number of records 8, CRC32C of all before 4
 */
#include "kv_backend.h"
#include "meta_remote.h"

#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fathom/file.h"

static const char magic[8] = {'F', 'M', 'N', 'A', 'M', 'E', 'S', '1'};

enum {
    HEAD_BYTES = 16,
    RECORD_BYTES = 8,
    TAIL_BYTES = 20,
    BUFFER_BYTES = 1 << 20,
    PAGE = 256,
    // Of what one transaction may write, with room for a record.
    BATCH = FM_FS_KV_OPS_MAX - 4,
    BATCH_BYTES = FM_FS_KV_BYTES_MAX - FM_FS_KV_KEY_MAX - FM_FS_KV_VALUE_MAX
};

// How far the numbers of new files are above all that the backup's time may have given away since.
static const uint64_t numbers_skipped = (uint64_t)1 << 32;

/* Writing */

struct output {
    const char *path;
    fm_file_draft draft;
    uint8_t *buffer;
    size_t used;
    uint64_t offset, records;
    uint32_t crc;
};

static fm_status flush(struct output *output)
{
    FM_TRY(fm_base_file_write(&output->draft, output->offset, output->buffer, output->used));
    output->crc = fm_base_crc32c(output->crc, output->buffer, output->used);
    output->offset += output->used;
    output->used = 0;
    return FM_OK;
}

static fm_status emit(struct output *output, const void *bytes, size_t size)
{
    if (size > BUFFER_BYTES - output->used)
        FM_TRY(flush(output));
    if (size)
        memcpy(output->buffer + output->used, bytes, size);
    output->used += size;
    return FM_OK;
}

static fm_status emit_record(struct output *output, const fm_fs_kv_item *item)
{
    uint8_t head[RECORD_BYTES];
    char kind = *(const char *)item->key.data;
    if (kind == 'R' || kind == 'S' || kind == 'C' ||
        kind == 'L') // of clients that will not be those of the restored names
        return FM_OK;
    fm_put_le32(head, (uint32_t)item->key.size);
    fm_put_le32(head + 4, (uint32_t)item->value.size);
    output->records++;
    FM_TRY(emit(output, head, sizeof head));
    FM_TRY(emit(output, item->key.data, item->key.size));
    return emit(output, item->value.data, item->value.size);
}

// Begins the file anew: a transaction may run again.
static fm_status begin(struct output *output)
{
    uint8_t head[HEAD_BYTES] = {0};
    fm_base_file_discard(&output->draft);
    output->used = 0;
    output->offset = 0;
    output->records = 0;
    output->crc = 0;
    FM_TRY(fm_base_file_begin(&output->draft, output->path));
    memcpy(head, magic, sizeof magic);
    fm_put_le32(head + 8, FM_FS_META_FORMAT);
    return emit(output, head, sizeof head);
}

static fm_status finish(struct output *output)
{
    uint8_t tail[TAIL_BYTES] = {0};
    fm_put_le64(tail + 8, output->records);
    FM_TRY(emit(output, tail, 16));
    FM_TRY(flush(output));
    fm_put_le32(tail + 16, output->crc);
    return fm_base_file_write(&output->draft, output->offset, tail + 16, 4);
}

static fm_status write_all(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct output *output = op->more;
    struct fm_fs_meta_key lo = {.size = 0};
    fm_fs_kv_item items[PAGE];
    size_t count = PAGE;
    FM_TRY(begin(output));
    while (count == PAGE) {
        FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), (fm_fs_kv_bytes){0}, PAGE, 0, items, &count));
        for (size_t i = 0; i < count; i++)
            FM_TRY(emit_record(output, &items[i]));
        if (count) {
            lo.size = items[count - 1].key.size;
            memcpy(lo.bytes, items[count - 1].key.data, lo.size);
            if (lo.size < sizeof lo.bytes)
                lo.bytes[lo.size++] = 0;
        }
    }
    return finish(output);
}

fm_status fm_fs_meta_backup(fm_fs_meta *meta, const char *path, uint64_t *out_records)
{
    if (meta->remote)
        return fm_fs_meta_remote_refuse("a backup");
    struct output output = {.path = path, .buffer = fm_base_mem_alloc(BUFFER_BYTES)};
    struct fm_fs_meta_op op = {.meta = meta, .body = write_all, .more = &output};
    if (!output.buffer)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a backup");
    fm_status status = fm_fs_meta_read(&op);
    if (status == FM_OK)
        status = fm_base_file_commit(&output.draft);
    fm_base_file_discard(&output.draft);
    fm_base_mem_free(output.buffer);
    if (status == FM_OK)
        *out_records = output.records;
    return status;
}

/* Reading */

struct input {
    const uint8_t *bytes;
    size_t at, end; // of the records
    uint64_t records;
};

static fm_status malformed(const char *path, const char *what)
{
    return fm_base_error_set(FM_ERR_FORMAT, "%s is no backup of names, or damaged: %s", path, what);
}

static fm_status next(struct input *input, const char *path, fm_fs_kv_item *out_item)
{
    const uint8_t *head = input->bytes + input->at;
    if (input->end - input->at < RECORD_BYTES)
        return malformed(path, "a record is cut off");
    size_t key = fm_get_le32(head);
    size_t value = fm_get_le32(head + 4);
    if (key < 1 || key > FM_FS_KV_KEY_MAX || value > FM_FS_KV_VALUE_MAX ||
        key + value > input->end - input->at - RECORD_BYTES)
        return malformed(path, "a record is longer than it can be");
    *out_item = (fm_fs_kv_item){{head + RECORD_BYTES, key}, {head + RECORD_BYTES + key, value}, 1};
    input->at += RECORD_BYTES + key + value;
    return FM_OK;
}

// Looks at all of the file before anything is done with it.
static fm_status check(const fm_file_map *map, const char *path, struct input *out_input)
{
    const uint8_t *bytes = map->bytes;
    uint64_t records = 0;
    if (map->length < HEAD_BYTES + TAIL_BYTES || memcmp(bytes, magic, sizeof magic) != 0)
        return malformed(path, "it does not begin as one");
    if (fm_get_le32(bytes + 8) != FM_FS_META_FORMAT)
        return fm_base_error_set(FM_ERR_VERSION, "%s has names of format %u; this library knows %d", path,
                                 fm_get_le32(bytes + 8), FM_FS_META_FORMAT);
    const uint8_t *tail = bytes + map->length - TAIL_BYTES;
    if (fm_get_le32(tail + 16) != fm_base_crc32c(0, bytes, map->length - 4))
        return malformed(path, "the check sum is another one");
    struct input input = {bytes, HEAD_BYTES, map->length - TAIL_BYTES, fm_get_le64(tail + 8)};
    for (; input.at < input.end; records++) {
        fm_fs_kv_item item;
        FM_TRY(next(&input, path, &item));
    }
    if (records != input.records || fm_get_le64(tail) != 0)
        return malformed(path, "it does not have as many records as it says");
    input.at = HEAD_BYTES;
    *out_input = input;
    return FM_OK;
}

struct filling {
    const char *path;
    struct input input;
    struct input after; // where the next transaction goes on
    int more;
};

static const struct fm_fs_meta_key format_key = {.bytes = "F", .size = 1};
static const struct fm_fs_meta_key number_key = {.bytes = "A", .size = 1};
static const struct fm_fs_meta_key restored_key = {.bytes = "O", .size = 1};

static int is(const fm_fs_kv_item *item, const struct fm_fs_meta_key *key)
{
    return fm_fs_kv_compare(item->key, fm_fs_meta_bytes(key)) == 0;
}

// Marks the store as one that is being filled, if it has no names.
static fm_status mark(fm_fs_kv_tx *tx, void *context)
{
    static const uint8_t unfinished[8]; // format 0: nobody opens it
    fm_fs_kv_bytes value;
    (void)context;
    FM_TRY(fm_fs_meta_get(tx, &format_key, FM_FS_KV_LOCK_UPDATE, &value));
    if (value.size >= 4 && fm_get_le32(value.data) != 0)
        return fm_base_error_set(FM_ERR_EXISTS, "the store has names; expected one without");
    return fm_fs_meta_put(tx, &format_key, unfinished, sizeof unfinished);
}

// Removes what an earlier try left.
static fm_status clear(fm_fs_kv_tx *tx, void *context)
{
    struct filling *filling = context;
    fm_fs_kv_item items[BATCH];
    size_t count;
    FM_TRY(fm_fs_kv_range(tx, (fm_fs_kv_bytes){0}, (fm_fs_kv_bytes){0}, BATCH, 0, items, &count));
    for (size_t i = 0; i < count; i++)
        if (!is(&items[i], &format_key))
            FM_TRY(fm_fs_kv_delete(tx, items[i].key));
    filling->more = count == BATCH;
    return FM_OK;
}

static fm_status fill(fm_fs_kv_tx *tx, void *context)
{
    struct filling *filling = context;
    struct input input = filling->input;
    size_t bytes = 0;
    for (int i = 0; i < BATCH && bytes < BATCH_BYTES && input.at < input.end; i++) {
        fm_fs_kv_item item;
        FM_TRY(next(&input, filling->path, &item));
        if (is(&item, &format_key) || is(&item, &number_key) || is(&item, &restored_key))
            continue; // last of all
        FM_TRY(fm_fs_kv_put(tx, item.key, item.value));
        bytes += item.key.size + item.value.size;
    }
    filling->after = input;
    return FM_OK;
}

// The names are whole, and known to be restored ones; numbers go on where none has been yet.
static fm_status unmark(fm_fs_kv_tx *tx, void *context)
{
    const struct filling *filling = context;
    struct input input = filling->input;
    fm_fs_kv_item format = {0};
    uint8_t restored[FM_FS_META_RESTORED_BYTES];
    uint64_t number = 0; // whose names nobody has changed yet
    for (input.at = HEAD_BYTES; input.at < input.end;) {
        fm_fs_kv_item item;
        FM_TRY(next(&input, filling->path, &item));
        if (is(&item, &format_key))
            format = item;
        if (is(&item, &number_key) && item.value.size == 8)
            number = fm_get_le64(item.value.data);
    }
    if (!format.found)
        return malformed(filling->path, "the record of the format is missing");
    fm_put_le64(restored, number + numbers_skipped);
    fm_put_le64(restored + 8, fm_base_clock_unix_ns());
    FM_TRY(fm_fs_meta_put(tx, &number_key, restored, 8));
    FM_TRY(fm_fs_meta_put(tx, &restored_key, restored, sizeof restored));
    return fm_fs_kv_put(tx, format.key, format.value);
}

// Everything here may happen twice, so an outcome that nobody knows is met by doing it again.
static fm_status run(fm_fs_kv *kv, fm_fs_kv_closure closure, struct filling *filling)
{
    fm_status status = FM_ERR_FS_MAYBE;
    for (int i = 0; i < 16 && status == FM_ERR_FS_MAYBE; i++)
        status = fm_fs_kv_run(kv, 0, closure, filling);
    return status;
}

static fm_status restore(fm_fs_kv *kv, struct filling *filling)
{
    FM_TRY(run(kv, mark, filling));
    do
        FM_TRY(run(kv, clear, filling));
    while (filling->more);
    while (filling->input.at < filling->input.end) {
        FM_TRY(run(kv, fill, filling));
        filling->input = filling->after;
    }
    return run(kv, unmark, filling);
}

fm_status fm_fs_meta_restore(fm_fs_kv *kv, const char *path, uint64_t *out_records)
{
    fm_file_map map;
    struct filling filling = {.path = path};
    FM_TRY(fm_base_file_map(path, &map));
    fm_status status = check(&map, path, &filling.input);
    if (status == FM_OK)
        status = restore(kv, &filling);
    fm_base_file_unmap(&map);
    if (status == FM_OK)
        *out_records = filling.input.records;
    return status;
}
