#include "kv_fixture.h"

#include <pthread.h>

#include "fm_test.h"
#include "kv_server.h"

const char *kv_engine;

const char *kv_fresh_lmdb(void)
{
    static char spec[4200];
    static int next;
    snprintf(spec, sizeof spec, "lmdb:%s/store%d", fm_test_tmpdir(), next++);
    return spec;
}

static fm_status delete_page(fm_fs_kv_tx *tx, void *context)
{
    fm_fs_kv_item items[FM_FS_KV_OPS_MAX];
    size_t *count = context;
    FM_TRY(fm_fs_kv_range(tx, BYTES(""), BYTES(""), FM_FS_KV_OPS_MAX, 0, items, count));
    for (size_t i = 0; i < *count; i++)
        FM_TRY(fm_fs_kv_delete(tx, items[i].key));
    return FM_OK;
}

fm_fs_kv *kv_open_empty(const fm_fs_kv_options *options)
{
    fm_fs_kv *kv = NULL;
    const char *reason = "";
    const char *spec = "memory:";
    size_t count = 1;
    if (strcmp(kv_engine, "lmdb") == 0)
        spec = kv_fresh_lmdb();
    if (strcmp(kv_engine, "postgresql") == 0)
        spec = kv_server_start(&reason);
    if (!spec)
        fm_test_skip("%s", reason);
    assert_ok(fm_fs_kv_open(spec, options, &kv));
    while (strcmp(kv_engine, "postgresql") == 0 && count > 0)
        assert_ok(fm_fs_kv_run(kv, 0, delete_page, &count));
    return kv;
}

struct one {
    fm_fs_kv_bytes key;
    fm_fs_kv_bytes value;
    void *buffer;
    long size;
};

static fm_status put_one(fm_fs_kv_tx *tx, void *context)
{
    struct one *one = context;
    return fm_fs_kv_put(tx, one->key, one->value);
}

static fm_status delete_one(fm_fs_kv_tx *tx, void *context)
{
    struct one *one = context;
    return fm_fs_kv_delete(tx, one->key);
}

static fm_status get_one(fm_fs_kv_tx *tx, void *context)
{
    struct one *one = context;
    fm_fs_kv_item item = {.key = one->key};
    FM_TRY(fm_fs_kv_get(tx, &item, 1, FM_FS_KV_LOCK_NONE));
    if (item.found && item.value.size > one->value.size)
        return fm_base_error_set(FM_ERR_LIMIT, "a value of %zu bytes", item.value.size);
    if (item.found && item.value.size)
        memcpy(one->buffer, item.value.data, item.value.size);
    one->size = item.found ? (long)item.value.size : -1;
    return FM_OK;
}

void kv_put(fm_fs_kv *kv, fm_fs_kv_bytes key, fm_fs_kv_bytes value)
{
    struct one one = {.key = key, .value = value};
    assert_ok(fm_fs_kv_run(kv, 0, put_one, &one));
}

void kv_delete(fm_fs_kv *kv, fm_fs_kv_bytes key)
{
    struct one one = {.key = key};
    assert_ok(fm_fs_kv_run(kv, 0, delete_one, &one));
}

long kv_get(fm_fs_kv *kv, fm_fs_kv_bytes key, void *buffer, size_t size)
{
    struct one one = {.key = key, .value = {NULL, size}, .buffer = buffer};
    assert_ok(fm_fs_kv_run(kv, FM_FS_KV_READ_ONLY, get_one, &one));
    return one.size;
}

struct counting {
    fm_fs_kv_bytes lo;
    fm_fs_kv_bytes hi;
    size_t count;
};

static fm_status count_all(fm_fs_kv_tx *tx, void *context)
{
    static _Thread_local fm_fs_kv_item items[FM_FS_KV_PAGE_MAX];
    struct counting *counting = context;
    fm_fs_kv_bytes lo = counting->lo;
    uint8_t after[FM_FS_KV_KEY_MAX + 1];
    size_t page;
    counting->count = 0;
    do {
        FM_TRY(fm_fs_kv_range(tx, lo, counting->hi, FM_FS_KV_PAGE_MAX, 0, items, &page));
        counting->count += page;
        if (page) {
            memcpy(after, items[page - 1].key.data, items[page - 1].key.size);
            after[items[page - 1].key.size] = 0;
            lo = (fm_fs_kv_bytes){after, items[page - 1].key.size + 1};
        }
    } while (page == FM_FS_KV_PAGE_MAX);
    return FM_OK;
}

size_t kv_count(fm_fs_kv *kv, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi)
{
    struct counting counting = {lo, hi, 0};
    assert_ok(fm_fs_kv_run(kv, FM_FS_KV_READ_ONLY, count_all, &counting));
    return counting.count;
}

static fm_status count_once(fm_fs_kv_tx *tx, void *context)
{
    const uint32_t *request = context;
    fm_fs_kv_item items[2] = {{.key = {request, 8}}, {.key = BYTES("counter")}};
    uint32_t value = 0;
    FM_TRY(fm_fs_kv_get(tx, items, 2, FM_FS_KV_LOCK_NONE));
    if (items[0].found)
        return FM_OK;
    if (items[1].found)
        memcpy(&value, items[1].value.data, sizeof value);
    value++;
    FM_TRY(fm_fs_kv_put(tx, items[0].key, BYTES("")));
    return fm_fs_kv_put(tx, items[1].key, (fm_fs_kv_bytes){&value, sizeof value});
}

fm_status kv_count_once(fm_fs_kv *kv, uint32_t client, uint32_t seq, int *out_maybes)
{
    uint32_t request[2] = {client, seq};
    fm_status status;
    while ((status = fm_fs_kv_run(kv, 0, count_once, request)) == FM_ERR_FS_MAYBE)
        ++*out_maybes;
    return status;
}

uint32_t kv_counter(fm_fs_kv *kv)
{
    uint32_t value = 0;
    kv_get(kv, BYTES("counter"), &value, sizeof value);
    return value;
}

struct thread {
    pthread_t id;
    int index;
    void (*body)(int index, void *context);
    void *context;
};

static void *run_thread(void *argument)
{
    struct thread *thread = argument;
    thread->body(thread->index, thread->context);
    return NULL;
}

void kv_threads(int count, void (*body)(int index, void *context), void *context)
{
    struct thread threads[64];
    assert_true(count <= 64);
    for (int i = 0; i < count; i++) {
        threads[i] = (struct thread){.index = i, .body = body, .context = context};
        assert_int_equal(pthread_create(&threads[i].id, NULL, run_thread, &threads[i]), 0);
    }
    for (int i = 0; i < count; i++)
        assert_int_equal(pthread_join(threads[i].id, NULL), 0);
}
