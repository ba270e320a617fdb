// The last request of each channel: an array with chains of a hash table through it. When it is full the client with the least
// number is forgotten, with all of its channels. So the array has all requests of clients above the last one that was
// forgotten, and none of the others: a request of these may have been made already, and is not made again.
#include "chunk_store_private.h"

enum { NONE = UINT32_MAX, BUCKETS_MIN = 64 };

static uint32_t bucket_of(const fm_fs_store *store, uint64_t client, uint32_t channel)
{
    uint64_t x = (client ^ (uint64_t)channel << 32 ^ channel) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(x >> 40) & (store->session_buckets - 1);
}

static fm_fs_session *find(const fm_fs_store *store, uint64_t client, uint32_t channel)
{
    if (!store->session_buckets)
        return NULL;
    uint32_t at = store->session_heads[bucket_of(store, client, channel)];
    for (; at != NONE; at = store->sessions[at].next)
        if (store->sessions[at].tag.client == client && store->sessions[at].tag.channel == channel)
            return &store->sessions[at];
    return NULL;
}

const fm_fs_session *fm_fs_store_session(const fm_fs_store *store, uint64_t client, uint32_t channel)
{
    return find(store, client, channel);
}

const fm_fs_session *fm_fs_store_session_at(const fm_fs_store *store, size_t n)
{
    return n < store->session_count ? &store->sessions[n] : NULL;
}

static void relink(fm_fs_store *store)
{
    for (uint32_t i = 0; i < store->session_buckets; i++)
        store->session_heads[i] = NONE;
    for (uint32_t i = 0; i < store->session_count; i++) {
        fm_fs_session *session = &store->sessions[i];
        uint32_t *head = &store->session_heads[bucket_of(store, session->tag.client, session->tag.channel)];
        session->next = *head;
        *head = i;
    }
}

static fm_status make_room(fm_fs_store *store)
{
    uint32_t room = store->session_room ? 2 * store->session_room : BUCKETS_MIN;
    fm_fs_session *sessions = fm_base_mem_realloc(store->sessions, room, sizeof *sessions);
    if (!sessions)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %u sessions", room);
    store->sessions = sessions;
    uint32_t *heads = fm_base_mem_realloc(store->session_heads, room, sizeof *heads);
    if (!heads)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %u sessions", room);
    store->session_heads = heads;
    store->session_room = room;
    store->session_buckets = room;
    relink(store);
    return FM_OK;
}

static void keep_only(fm_fs_store *store, uint32_t chain_version, uint64_t client)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < store->session_count; i++)
        if (store->sessions[i].chain_version >= chain_version && store->sessions[i].tag.client > client)
            store->sessions[kept++] = store->sessions[i];
    store->session_count = kept;
    relink(store);
}

void fm_fs_store_session_drop(fm_fs_store *store, uint32_t chain_version)
{
    keep_only(store, chain_version, store->forgotten_client);
}

void fm_fs_store_clients_drop(fm_fs_store *store, uint64_t client)
{
    if (client <= store->forgotten_client)
        return;
    store->forgotten_client = client;
    keep_only(store, 0, client);
}

static void drop_oldest(fm_fs_store *store)
{
    uint64_t oldest = UINT64_MAX;
    for (uint32_t i = 0; i < store->session_count; i++)
        if (store->sessions[i].tag.client < oldest)
            oldest = store->sessions[i].tag.client;
    fm_fs_store_clients_drop(store, oldest);
}

// Sets *status on failure and leaves it alone otherwise.
void fm_fs_store_session_set(fm_fs_store *store, const fm_fs_session *session, fm_status *status)
{
    fm_fs_session *known = find(store, session->tag.client, session->tag.channel);
    if (known) {
        uint32_t next = known->next;
        if (session->tag.sequence >= known->tag.sequence) {
            *known = *session;
            known->next = next;
        }
        return;
    }
    if (session->tag.client > store->forgotten_client && store->session_count == store->options.sessions)
        drop_oldest(store);
    if (session->tag.client <= store->forgotten_client)
        return;
    if (store->session_count == store->session_room) {
        fm_status made = make_room(store);
        if (made < 0) {
            *status = made;
            return;
        }
    }
    if (session->tag.client > store->newest_client)
        store->newest_client = session->tag.client;
    uint32_t *head = &store->session_heads[bucket_of(store, session->tag.client, session->tag.channel)];
    store->sessions[store->session_count] = *session;
    store->sessions[store->session_count].next = *head;
    *head = store->session_count++;
}

uint64_t fm_fs_store_forgotten_client(const fm_fs_store *store)
{
    return store->forgotten_client;
}

uint64_t fm_fs_store_newest_client(const fm_fs_store *store)
{
    return store->newest_client > store->forgotten_client ? store->newest_client : store->forgotten_client;
}

fm_status fm_fs_store_clients_forget(fm_fs_store *store, uint64_t client)
{
    uint8_t record[FM_FS_RECORD_MAX];
    if (client <= store->forgotten_client)
        return FM_OK;
    FM_TRY(fm_fs_journal_add(store, record, fm_fs_record_clients(record, client), NULL));
    fm_fs_store_clients_drop(store, client);
    return FM_OK;
}

fm_status fm_fs_store_session_put(fm_fs_store *store, const fm_fs_session *session)
{
    uint8_t record[FM_FS_RECORD_MAX];
    fm_status status = FM_OK;
    const fm_fs_session *known = find(store, session->tag.client, session->tag.channel);
    if (known && known->tag.sequence >= session->tag.sequence)
        return FM_OK;
    FM_TRY(fm_fs_journal_add(store, record, fm_fs_record_session(record, session), NULL));
    fm_fs_store_session_set(store, session, &status);
    return status;
}

fm_status fm_fs_store_session_forget(fm_fs_store *store, uint32_t chain_version)
{
    uint8_t record[FM_FS_RECORD_MAX];
    FM_TRY(fm_fs_journal_add(store, record, fm_fs_record_forget(record, chain_version), NULL));
    fm_fs_store_session_drop(store, chain_version);
    return FM_OK;
}
