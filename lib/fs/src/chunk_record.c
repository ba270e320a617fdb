// Records and batches of the journal as bytes. Whatever is read is untrusted: a disk may hold anything.
#include "chunk_store_private.h"

#include "fathom/crc.h"

static const char batch_magic[8] = {'F', 'M', 'J', 'R', 'N', 'L', '0', '0' + FM_FS_STORE_VERSION};

fm_status fm_fs_store_bytes_room(struct fm_fs_store_bytes *to, size_t size)
{
    if (to->room - to->size < size) {
        size_t room = to->room ? to->room : FM_FS_PAGE;
        while (room - to->size < size)
            room *= 2;
        uint8_t *data = fm_base_mem_realloc(to->data, room, 1);
        if (!data)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes of journal", room);
        to->data = data;
        to->room = room;
    }
    return FM_OK;
}

fm_status fm_fs_store_bytes_add(struct fm_fs_store_bytes *to, const void *bytes, size_t size)
{
    FM_TRY(fm_fs_store_bytes_room(to, size));
    if (size)
        memcpy(to->data + to->size, bytes, size);
    to->size += size;
    return FM_OK;
}

static size_t finish(uint8_t *to, int type, const uint8_t *end)
{
    to[0] = (uint8_t)type;
    fm_put_le16(to + 1, (uint16_t)(end - to - 3));
    return (size_t)(end - to);
}

static uint8_t *put_session(uint8_t *to, const fm_fs_session *session)
{
    fm_put_le64(to, session->tag.client);
    fm_put_le32(to + 8, session->tag.channel);
    fm_put_le64(to + 12, session->tag.sequence);
    memcpy(to + 20, session->id.bytes, 16);
    fm_put_le64(to + 36, session->version);
    fm_put_le32(to + 44, session->chain_version);
    return to + FM_FS_SESSION_BYTES;
}

static fm_fs_session get_session(const uint8_t *from)
{
    fm_fs_session session = {.tag = {fm_get_le64(from), fm_get_le32(from + 8), fm_get_le64(from + 12)},
                             .version = fm_get_le64(from + 36),
                             .chain_version = fm_get_le32(from + 44)};
    memcpy(session.id.bytes, from + 20, 16);
    return session;
}

size_t fm_fs_record_copy(uint8_t *to, int type, const fm_fs_chunk_id *id, const fm_fs_chunk_copy *copy,
                         const fm_fs_session *session)
{
    uint8_t *at = to + 3;
    memcpy(at, id->bytes, 16);
    at[16] = session != NULL;
    at += 17;
    if (session)
        at = put_session(at, session);
    fm_put_le64(at, copy->version);
    fm_put_le32(at + 8, copy->chain_version);
    fm_put_le32(at + 12, copy->block);
    fm_put_le32(at + 16, copy->size);
    at[20] = copy->size_class;
    at[21] = copy->removed;
    fm_put_le16(at + 22, (uint16_t)copy->grains);
    at += FM_FS_COPY_BYTES;
    for (uint32_t i = 0; i < copy->grains; i++, at += 4)
        fm_put_le32(at, copy->grain_crc[i]);
    return finish(to, type, at);
}

size_t fm_fs_record_patch(uint8_t *to, const fm_fs_chunk_id *id, const fm_fs_chunk_copy *copy,
                          const struct fm_fs_patch *patch, const fm_fs_session *session)
{
    size_t size = fm_fs_record_copy(to, FM_FS_RECORD_PATCH, id, copy, session);
    fm_put_le32(to + size, patch ? patch->from : 0);
    size += 4;
    fm_put_le16(to + 1, (uint16_t)(size - 3 + (patch ? patch->bytes->size : 0)));
    return size;
}

size_t fm_fs_record_owed(uint8_t *to, const fm_fs_chunk_id *id, const struct fm_fs_patch *patch)
{
    memcpy(to + 3, id->bytes, 16);
    fm_put_le32(to + 19, patch->from);
    size_t size = finish(to, FM_FS_RECORD_OWED, to + 23);
    fm_put_le16(to + 1, (uint16_t)(size - 3 + patch->bytes->size));
    return size;
}

size_t fm_fs_record_commit(uint8_t *to, const fm_fs_chunk_id *id, uint64_t version, uint32_t chain_version)
{
    memcpy(to + 3, id->bytes, 16);
    fm_put_le64(to + 19, version);
    fm_put_le32(to + 27, chain_version);
    return finish(to, FM_FS_RECORD_COMMIT, to + 31);
}

size_t fm_fs_record_session(uint8_t *to, const fm_fs_session *session)
{
    return finish(to, FM_FS_RECORD_SESSION, put_session(to + 3, session));
}

size_t fm_fs_record_forget(uint8_t *to, uint32_t chain_version)
{
    fm_put_le32(to + 3, chain_version);
    return finish(to, FM_FS_RECORD_FORGET, to + 7);
}

size_t fm_fs_record_floor(uint8_t *to, uint64_t version)
{
    fm_put_le64(to + 3, version);
    return finish(to, FM_FS_RECORD_FLOOR, to + 11);
}

size_t fm_fs_record_clients(uint8_t *to, uint64_t client)
{
    fm_put_le64(to + 3, client);
    return finish(to, FM_FS_RECORD_CLIENTS, to + 11);
}

static fm_status wrong(const char *what)
{
    return fm_base_error_set(FM_ERR_FORMAT, "a record of the chunk store's journal has %s", what);
}

// `type`: what kind of record it is in.
static fm_status get_copy(int type, const uint8_t *from, size_t size, fm_fs_chunk_copy **out_copy)
{
    if (size < FM_FS_COPY_BYTES)
        return wrong("no room for a copy");
    uint32_t bytes = fm_get_le32(from + 16);
    unsigned size_class = from[20];
    uint32_t grains = fm_get_le16(from + 22);
    if (size_class >= FM_FS_CHUNK_CLASSES || bytes > (uint32_t)FM_FS_CHUNK_CLASS_MIN << size_class)
        return wrong("a size that its class does not hold");
    uint32_t grain = fm_fs_chunk_grain(size_class);
    if (from[21] > 1 || (from[21] && bytes) || grains != (bytes + grain - 1) / grain ||
        size < FM_FS_COPY_BYTES + (size_t)4 * grains ||
        (type != FM_FS_RECORD_PATCH && size > FM_FS_COPY_BYTES + (size_t)4 * grains))
        return wrong("a count of grains that does not fit its size");
    // 2^26 blocks of 64 KiB are 4 TiB, of 1 MiB 64 TiB: more would make the bitmap of a forged record too large.
    if (fm_get_le32(from + 12) >= 1u << 26)
        return wrong("a block beyond any disk");
    fm_fs_chunk_copy *copy = fm_fs_chunk_copy_new(bytes, size_class);
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a copy's description");
    copy->version = fm_get_le64(from);
    copy->chain_version = fm_get_le32(from + 8);
    copy->block = fm_get_le32(from + 12);
    copy->removed = from[21];
    for (uint32_t i = 0; i < grains; i++)
        copy->grain_crc[i] = fm_get_le32(from + FM_FS_COPY_BYTES + (size_t)4 * i);
    fm_fs_chunk_copy_sum(copy, NULL);
    *out_copy = copy;
    return FM_OK;
}

static fm_status replay_copy(fm_fs_store *store, int type, const uint8_t *body, size_t size)
{
    fm_fs_chunk_id id;
    fm_fs_chunk_copy *copy = NULL;
    fm_status status = FM_OK;
    if (size < 17 || body[16] > 1 || (body[16] && size < 17 + FM_FS_SESSION_BYTES))
        return wrong("no room for its chunk");
    memcpy(id.bytes, body, 16);
    size_t at = 17 + (body[16] ? FM_FS_SESSION_BYTES : 0);
    FM_TRY(get_copy(type, body + at, size - at, &copy));
    at += FM_FS_COPY_BYTES + (size_t)4 * copy->grains;
    fm_fs_chunk *chunk = fm_fs_store_make(store, &id);
    if (!chunk)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a chunk");
    else if (type == FM_FS_RECORD_PATCH)
        status = fm_fs_patch_replay(store, chunk, copy, body + at, size - at);
    if (status < 0) {
        fm_base_mem_free(copy);
        return status;
    }
    if (type != FM_FS_RECORD_REPLACE) {
        fm_fs_store_set_pending(store, chunk, copy);
    } else {
        fm_fs_store_set_pending(store, chunk, NULL);
        fm_fs_store_set_committed(store, chunk, copy);
    }
    if (body[16] && !FM_FS_PLANT(FM_FS_PLANT_FORGET_SESSIONS)) {
        fm_fs_session session = get_session(body + 17);
        fm_fs_store_session_set(store, &session, &status);
    }
    return status;
}

static void replay_commit(fm_fs_store *store, const uint8_t *body)
{
    fm_fs_chunk_id id;
    memcpy(id.bytes, body, 16);
    fm_fs_chunk *chunk = fm_fs_store_get(store, &id);
    if (!chunk || !chunk->pending || chunk->pending->version != fm_get_le64(body + 16))
        return; // a checkpoint had it already
    fm_fs_store_promote(store, chunk, fm_get_le32(body + 24));
}

fm_status fm_fs_record_replay(fm_fs_store *store, const uint8_t *bytes, size_t size, size_t *out_used)
{
    *out_used = 0;
    if (size < 3 || size - 3 < fm_get_le16(bytes + 1))
        return FM_OK;
    size_t length = fm_get_le16(bytes + 1);
    const uint8_t *body = bytes + 3;
    fm_status status = FM_OK;
    switch (bytes[0]) {
    case FM_FS_RECORD_APPLY:
    case FM_FS_RECORD_REPLACE:
    case FM_FS_RECORD_PATCH:
        status = replay_copy(store, bytes[0], body, length);
        break;
    case FM_FS_RECORD_COMMIT:
        if (length != 28)
            return wrong("a commit of the wrong size");
        replay_commit(store, body);
        break;
    case FM_FS_RECORD_SESSION: {
        if (length != FM_FS_SESSION_BYTES)
            return wrong("a session of the wrong size");
        fm_fs_session session = get_session(body);
        fm_fs_store_session_set(store, &session, &status);
        break;
    }
    case FM_FS_RECORD_FORGET:
        if (length != 4)
            return wrong("a chain version of the wrong size");
        fm_fs_store_session_drop(store, fm_get_le32(body));
        break;
    case FM_FS_RECORD_OWED: {
        if (length < 16)
            return wrong("no room for its chunk");
        fm_fs_chunk_id id;
        memcpy(id.bytes, body, 16);
        status = fm_fs_owed_replay(store, fm_fs_store_get(store, &id), body + 16, length - 16);
        break;
    }
    case FM_FS_RECORD_FLOOR:
        if (length != 8)
            return wrong("a floor of the wrong size");
        fm_fs_store_floor_replay(store, fm_get_le64(body));
        break;
    case FM_FS_RECORD_CLIENTS:
        if (length != 8)
            return wrong("a client of the wrong size");
        fm_fs_store_clients_drop(store, fm_get_le64(body));
        break;
    default:
        return wrong("an unknown type");
    }
    *out_used = 3 + length;
    return status;
}

void fm_fs_batch_seal(uint8_t *bytes, const struct fm_fs_batch *batch)
{
    memcpy(bytes, batch_magic, 8);
    fm_put_le64(bytes + 8, batch->generation);
    fm_put_le64(bytes + 16, batch->first);
    fm_put_le64(bytes + 24, batch->durable);
    fm_put_le32(bytes + 32, batch->records);
    fm_put_le32(bytes + 36, batch->bytes);
    fm_put_le32(bytes + 40, 0);
    uint32_t crc = fm_base_crc32c(0, bytes, 44);
    fm_put_le32(bytes + 44, fm_base_crc32c(crc, bytes + FM_FS_BATCH_HEADER, batch->bytes));
}

int fm_fs_batch_read(const uint8_t *bytes, size_t size, struct fm_fs_batch *out_batch)
{
    // Versions below 10 differ by one digit.
    if (size < FM_FS_BATCH_HEADER || memcmp(bytes, batch_magic, 7) != 0 ||
        (bytes[7] != '0' + FM_FS_STORE_VERSION && bytes[7] != '1'))
        return 0;
    struct fm_fs_batch batch = {fm_get_le64(bytes + 8), fm_get_le64(bytes + 16), fm_get_le64(bytes + 24),
                                fm_get_le32(bytes + 32), fm_get_le32(bytes + 36)};
    if (batch.bytes > size - FM_FS_BATCH_HEADER)
        return 0;
    uint32_t crc = fm_base_crc32c(0, bytes, 44);
    crc = fm_base_crc32c(crc, bytes + FM_FS_BATCH_HEADER, batch.bytes);
    if (crc != fm_get_le32(bytes + 44) && !FM_FS_PLANT(FM_FS_PLANT_TORN_JOURNAL))
        return 0;
    *out_batch = batch;
    return 1;
}
