#include "fm_test.h"
#include "fm_gen.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/fs_kvcache.h"
#include "mem_fs.h"

enum { KEYS = 64, VALUE_MAX = 700, BYTES_MAX = 16384, SEGMENT = 2048 };

static fm_fs_kvcache_key key_of(uint64_t number)
{
    fm_fs_kvcache_key key;
    fm_fs_kvcache_key_next(NULL, &number, sizeof number, &key);
    return key;
}

// The value of a key is a function of its number, so any get can be checked.
static size_t value_of(uint64_t number, uint8_t *bytes)
{
    fm_gen gen = fm_gen_seeded(number + 1);
    size_t size = (size_t)fm_gen_int(&gen, 1, VALUE_MAX);
    fm_gen_fill(&gen, bytes, size);
    return size;
}

static fm_status put(fm_fs_kvcache *cache, uint64_t number)
{
    uint8_t value[VALUE_MAX];
    fm_fs_kvcache_key key = key_of(number);
    return fm_fs_kvcache_put(cache, &key, value, value_of(number, value));
}

// Whether it is there; what is there must be right.
static int get(fm_fs_kvcache *cache, uint64_t number)
{
    uint8_t value[VALUE_MAX];
    uint8_t expected[VALUE_MAX];
    size_t size = 0;
    fm_fs_kvcache_key key = key_of(number);
    fm_status status = fm_fs_kvcache_get(cache, &key, value, sizeof value, &size);
    if (status == FM_ERR_NOT_FOUND)
        return 0;
    assert_ok(status);
    assert_int_equal(size, value_of(number, expected));
    assert_memory_equal(value, expected, size);
    return 1;
}

static uint64_t virtual_now(void *context)
{
    return *(uint64_t *)context;
}

static fm_fs_kvcache *open_cache(fm_fs *fs, const char *folder)
{
    fm_fs_kvcache *cache;
    fm_fs_kvcache_options options = {
        .size = sizeof options, .bytes_max = BYTES_MAX, .segment_bytes = SEGMENT};
    assert_ok(fm_fs_kvcache_open(fs, folder, &options, &cache));
    return cache;
}

static uint64_t folder_bytes(fm_fs *fs, const char *folder)
{
    uint64_t bytes = 0;
    fm_fs_list *list;
    const fm_fs_entry *entry;
    assert_ok(fm_fs_list_open(fs, folder, &list));
    for (;;) {
        char path[FM_FS_PATH_MAX + 1];
        fm_fs_info info;
        assert_ok(fm_fs_list_next(list, &entry));
        if (!entry)
            break;
        snprintf(path, sizeof path, "%s/%s", folder, entry->name);
        assert_ok(fm_fs_stat(fs, path, &info));
        bytes += info.size;
    }
    fm_fs_list_close(list);
    return bytes;
}

static size_t count_files(fm_fs *fs, const char *folder)
{
    size_t count = 0;
    fm_fs_list *list;
    const fm_fs_entry *entry;
    assert_ok(fm_fs_list_open(fs, folder, &list));
    for (;; count++) {
        assert_ok(fm_fs_list_next(list, &entry));
        if (!entry)
            break;
    }
    fm_fs_list_close(list);
    return count;
}

static void what_was_put_is_found(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_kvcache *cache = open_cache(fs, "kv");
    fm_fs_kvcache_info info;
    fm_fs_kvcache_key keys[5];
    size_t count = 9;
    size_t size = 9;
    uint8_t small[1];
    for (uint64_t i = 0; i < 5; i++)
        keys[i] = key_of(i);
    assert_false(get(cache, 0));
    for (uint64_t i = 0; i < 5; i++)
        if (i != 3)
            assert_ok(put(cache, i));
    assert_ok(fm_fs_kvcache_match(cache, keys, 5, &count));
    assert_int_equal(count, 3);
    assert_ok(fm_fs_kvcache_match(cache, keys + 3, 2, &count));
    assert_int_equal(count, 0);
    for (uint64_t i = 0; i < 5; i++)
        assert_int_equal(get(cache, i), i != 3);
    assert_ok(fm_fs_kvcache_size(cache, &keys[1], &size));
    uint8_t value[VALUE_MAX];
    assert_int_equal(size, value_of(1, value));
    assert_fails(fm_fs_kvcache_size(cache, &keys[3], &size), FM_ERR_NOT_FOUND, "no such block");
    assert_fails(fm_fs_kvcache_get(cache, &keys[1], small, 1, &size), FM_ERR_LIMIT, "room for 1");
    assert_ok(fm_fs_kvcache_put(cache, &keys[1], "other", 5)); // the first value stays
    assert_true(get(cache, 1));
    fm_fs_kvcache_info_get(cache, &info);
    assert_true(info.entries == 4 && info.puts == 4 && info.duplicates == 1 && info.hits == 5);
    assert_int_equal(info.bytes, folder_bytes(fs, "kv"));
    fm_fs_kvcache_close(cache);

    cache = open_cache(fs, "kv"); // another program
    for (uint64_t i = 0; i < 5; i++)
        assert_int_equal(get(cache, i), i != 3);
    fm_fs_kvcache_close(cache);
    fm_fs_kvcache_close(NULL);
    fm_fs_close(fs);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_kvcache *cache = NULL;
    fm_fs_kvcache_options options = {.size = sizeof options, .bytes_max = 100};
    size_t count = 0;
    assert_fails(fm_fs_kvcache_open(fs, "kv", &options, &cache), FM_ERR_ARG, "bytes_max is 100");
    options = (fm_fs_kvcache_options){.size = 8};
    assert_fails(fm_fs_kvcache_open(fs, "kv", &options, &cache), FM_ERR_ARG, "options->size 8");
    options = (fm_fs_kvcache_options){.size = sizeof options, .segment_bytes = (uint64_t)5 << 30};
    assert_fails(fm_fs_kvcache_open(fs, "kv", &options, &cache), FM_ERR_ARG, "segment_bytes");
    assert_fails(fm_fs_kvcache_open(fs, "../kv", NULL, &cache), FM_ERR_ARG, "..");
    assert_null(cache);
    cache = open_cache(fs, ".");
    fm_fs_kvcache_key key = key_of(1);
    uint8_t value[SEGMENT] = {0};
    assert_fails(fm_fs_kvcache_put(cache, &key, value, sizeof value), FM_ERR_LIMIT, "2048 bytes");
    assert_fails(fm_fs_kvcache_put(cache, &key, value, 0), FM_ERR_ARG, "size is 0");
    assert_fails(fm_fs_kvcache_put(cache, NULL, value, 1), FM_ERR_ARG, "key is NULL");
    assert_fails(fm_fs_kvcache_get(cache, &key, NULL, 1, &count), FM_ERR_ARG, "NULL");
    assert_fails(fm_fs_kvcache_read(cache, NULL, 1, &count), FM_ERR_ARG, "1 blocks");
    assert_fails(fm_fs_kvcache_match(cache, NULL, 1, &count), FM_ERR_ARG, "1 keys");
    assert_ok(fm_fs_kvcache_put(cache, &key, value, SEGMENT - 96)); // all that a segment holds
    fm_fs_kvcache_close(cache);
    fm_fs_close(fs);
}

enum { BATCH = 12 };

// Puts consecutive numbers by one call.
static fm_status write_batch(fm_fs_kvcache *cache, uint64_t first, size_t count)
{
    uint8_t values[BATCH][VALUE_MAX];
    fm_fs_kvcache_block blocks[BATCH];
    for (size_t i = 0; i < count; i++)
        blocks[i] = (fm_fs_kvcache_block){
            .key = key_of(first + i), .buffer = values[i], .size = value_of(first + i, values[i])};
    return fm_fs_kvcache_write(cache, blocks, count);
}

static void many_are_put_at_once(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_kvcache *cache = open_cache(fs, "kv");
    fm_fs_kvcache_info info;
    uint8_t values[3][4] = {"one", "two", "not"};
    fm_fs_kvcache_key same = key_of(1000);
    fm_fs_kvcache_block blocks[3] = {
        {same, values[0], 0, 4}, {key_of(1001), values[1], 0, 4}, {same, values[2], 0, 4}};
    char found[4];
    size_t size;
    size_t operations = fm_fs_mem_operations(fs);
    assert_ok(fm_fs_kvcache_write(cache, blocks, 3)); // a key twice: the first value stays
    assert_true(fm_fs_mem_operations(fs) - operations <=
                4); // a segment made, its head, and the three together
    assert_ok(fm_fs_kvcache_get(cache, &same, found, sizeof found, &size));
    assert_string_equal(found, "one");
    assert_ok(fm_fs_kvcache_write(cache, blocks + 2, 1)); // and over calls
    assert_ok(fm_fs_kvcache_get(cache, &same, found, sizeof found, &size));
    assert_string_equal(found, "one");
    fm_fs_kvcache_info_get(cache, &info);
    assert_true(info.puts == 2 && info.duplicates == 2 && info.put_bytes == 8);
    for (uint64_t i = 0; i < 5; i++) { // more than a segment holds, over and over
        assert_ok(write_batch(cache, i * BATCH, BATCH));
        for (uint64_t k = 0; k < BATCH; k++)
            assert_true(get(cache, i * BATCH + k));
    }
    assert_ok(fm_fs_kvcache_write(cache, NULL, 0));
    assert_fails(fm_fs_kvcache_write(cache, NULL, 1), FM_ERR_ARG, "1 blocks");
    blocks[1].buffer = NULL;
    assert_fails(fm_fs_kvcache_write(cache, blocks, 2), FM_ERR_ARG, "block 1 is NULL");
    blocks[1] = (fm_fs_kvcache_block){.key = same, .buffer = found};
    assert_fails(fm_fs_kvcache_write(cache, blocks, 2), FM_ERR_ARG, "block 1 is empty");
    blocks[1].size = SEGMENT;
    assert_fails(fm_fs_kvcache_write(cache, blocks, 2), FM_ERR_LIMIT, "2048 bytes");
    fm_fs_kvcache_close(cache);
    cache = open_cache(fs, "kv");
    for (uint64_t k = 0; k < BATCH; k++)
        assert_true(get(cache, (uint64_t)4 * BATCH + k));
    fm_fs_kvcache_close(cache);
    fm_fs_close(fs);
}

/*
 * Random puts, gets, batches, reopenings and refreshes of two caches that share a folder. Whatever is found is right, a
 * block that was just put is there, and with one writer the folder never exceeds its size.
 */
static void any_sequence(fm_gen *gen)
{
    fm_fs *fs = fm_fs_mem_new();
    size_t caches = (size_t)fm_gen_int(gen, 1, 2);
    fm_fs_kvcache *cache[2] = {open_cache(fs, "a/b"), caches > 1 ? open_cache(fs, "a/b") : NULL};
    for (int step = 0; step < 300; step++) {
        size_t which = (size_t)fm_gen_int(gen, 0, (int64_t)caches - 1);
        uint64_t number = (uint64_t)fm_gen_int(gen, 0, KEYS - 1);
        int kind = (int)fm_gen_int(gen, 0, 21);
        if (kind >= 20) {
            size_t count = (size_t)fm_gen_int(gen, 0, BATCH);
            assert_ok(write_batch(cache[which], number, count));
            for (size_t i = 0; i < count; i++) // the last may have pushed out those before
                get(cache[which], number + i);
        } else if (kind < 10) {
            assert_ok(put(cache[which], number));
            // The other may have made room at its expense just now: it removes files, this one's entries stay.
            assert_true(get(cache[which], number) || caches > 1);
        } else if (kind < 16) {
            get(cache[which], number);
        } else if (kind < 18) {
            uint8_t values[4][VALUE_MAX];
            fm_fs_kvcache_block blocks[4];
            size_t hits = 99;
            size_t found = 0;
            for (uint64_t i = 0; i < 4; i++)
                blocks[i] = (fm_fs_kvcache_block){key_of(number + i), values[i], VALUE_MAX, 77};
            assert_ok(fm_fs_kvcache_read(cache[which], blocks, 4, &hits));
            for (uint64_t i = 0; i < 4; i++) {
                uint8_t expected[VALUE_MAX];
                found += blocks[i].size > 0;
                if (blocks[i].size)
                    assert_int_equal(blocks[i].size, value_of(number + i, expected));
                if (blocks[i].size)
                    assert_memory_equal(values[i], expected, blocks[i].size);
            }
            assert_int_equal(hits, found);
        } else if (kind < 19) {
            assert_ok(fm_fs_kvcache_refresh(cache[which]));
        } else {
            fm_fs_kvcache_close(cache[which]);
            cache[which] = open_cache(fs, "a/b");
        }
        if (caches == 1) {
            fm_fs_kvcache_info info;
            fm_fs_kvcache_info_get(cache[0], &info);
            assert_int_equal(info.bytes, folder_bytes(fs, "a/b"));
            assert_true(info.bytes <= BYTES_MAX);
        }
    }
    fm_fs_kvcache_close(cache[0]);
    fm_fs_kvcache_close(cache[1]);
    fm_fs_close(fs);
}

static void gets_are_right_in_any_sequence(void **state)
{
    (void)state;
    fm_gen_property(60, any_sequence);
}

static void used_blocks_stay_when_room_is_made(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_kvcache *cache = open_cache(fs, "kv");
    fm_fs_kvcache_info info;
    int cold = 0;
    assert_ok(put(cache, 0));
    assert_ok(put(cache, 1));
    for (uint64_t i = 2; i < 500; i++) {
        assert_ok(put(cache, i));
        assert_true(get(cache, 0));
    }
    for (uint64_t i = 1; i < 400; i++)
        cold += get(cache, i);
    assert_int_equal(cold, 0);
    fm_fs_kvcache_info_get(cache, &info);
    assert_true(info.kept > 0 && info.evicted > 300 && info.entries > 10);
    assert_true(count_files(fs, "kv") <= 2 * BYTES_MAX / SEGMENT); // and not one a block
    fm_fs_kvcache_close(cache);
    fm_fs_close(fs);
}

static void what_is_too_old_is_gone(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_kvcache *cache;
    fm_fs_kvcache_info info;
    uint64_t now = (uint64_t)1000000000 << 10;
    fm_fs_kvcache_options options = {.size = sizeof options,
                                     .bytes_max = BYTES_MAX,
                                     .segment_bytes = SEGMENT,
                                     .age_max_ns = 1000,
                                     .now = virtual_now,
                                     .now_context = &now};
    assert_ok(fm_fs_kvcache_open(fs, "kv", &options, &cache));
    for (uint64_t i = 0; i < 20; i++)
        assert_ok(put(cache, i));
    now += 800;
    assert_true(get(cache, 0)); // young again
    now += 800;
    assert_true(get(cache, 0));
    assert_false(get(cache, 1));
    assert_ok(fm_fs_kvcache_trim(cache));
    fm_fs_kvcache_info_get(cache, &info);
    uint64_t before = info.segments;
    now += 2000;
    assert_false(get(cache, 0));
    assert_ok(put(cache, 0)); // stored anew
    assert_true(get(cache, 0));
    assert_ok(fm_fs_kvcache_trim(cache));
    fm_fs_kvcache_info_get(cache, &info);
    assert_true(info.segments <= 2 && info.segments < before);
    fm_fs_kvcache_close(cache);
    now += 100;
    assert_ok(fm_fs_kvcache_open(fs, "kv", &options, &cache)); // the time of the put was kept
    assert_true(get(cache, 0));
    now += 1001;
    assert_false(get(cache, 0));
    fm_fs_kvcache_close(cache);
    fm_fs_close(fs);
}

static void programs_share_a_folder(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_kvcache *one = open_cache(fs, "kv");
    fm_fs_kvcache *two = open_cache(fs, "kv");
    assert_ok(put(one, 1));
    assert_false(get(two, 1));
    assert_ok(fm_fs_kvcache_refresh(two));
    assert_true(get(two, 1));
    assert_ok(put(one, 2)); // to a segment that two knows already
    assert_ok(fm_fs_kvcache_refresh(two));
    assert_true(get(two, 2));
    for (uint64_t i = 10; i < 200; i++) // removes one's segment, also the one that it appends to
        assert_ok(put(two, i));
    assert_ok(fm_fs_kvcache_refresh(one));
    assert_true(get(one, 199));
    assert_ok(put(one, 3));
    assert_ok(fm_fs_kvcache_refresh(two));
    assert_true(get(two, 3));
    fm_fs_kvcache_close(one);
    fm_fs_kvcache_close(two);
    fm_fs_close(fs);
}

static void a_failing_disk_costs_only_what_it_fails(void **state)
{
    (void)state;
    for (size_t n = 1; n < 60; n++) {
        fm_fs *fs = fm_fs_mem_new();
        fm_fs_kvcache *cache = open_cache(fs, "kv");
        uint64_t i = 0;
        fm_fs_mem_fail_at(fs, n);
        while (i < 60 && put(cache, i) == FM_OK)
            i++;
        fm_fs_mem_fail_at(fs, 0);
        for (uint64_t k = i > 10 ? i - 10 : 0; k < i; k++) // what there is room for
            assert_true(get(cache, k));
        assert_ok(put(cache, i)); // works again
        assert_true(get(cache, i));
        fm_fs_kvcache_close(cache);
        cache = open_cache(fs, "kv");
        for (uint64_t k = i > 10 ? i - 10 : 0; k <= i; k++)
            assert_true(get(cache, k));
        fm_fs_kvcache_close(cache);
        fm_fs_close(fs);
    }
}

static fm_status use_it(void *context)
{
    fm_fs_kvcache *cache;
    fm_fs_kvcache_options options = {
        .size = sizeof options, .bytes_max = BYTES_MAX, .segment_bytes = SEGMENT};
    FM_TRY(fm_fs_kvcache_open(context, "kv", &options, &cache));
    fm_status status = FM_OK;
    for (uint64_t i = 0; i < 12 && status == FM_OK; i++)
        status = put(cache, i);
    if (status == FM_OK)
        status = write_batch(cache, 12, 4);
    uint8_t value[VALUE_MAX];
    size_t hits;
    fm_fs_kvcache_block block = {key_of(3), value, sizeof value, 0};
    if (status == FM_OK)
        status = fm_fs_kvcache_read(cache, &block, 1, &hits);
    fm_fs_kvcache_close(cache);
    return status;
}

static void lack_of_memory_is_survived(void **state)
{
    (void)state;
    fm_fs *fs;
    char path[4200];
    snprintf(path, sizeof path, "%s/lack", fm_test_tmpdir());
    assert_ok(fm_fs_open(path, FM_FS_CREATE, &fs));
    fm_test_each_alloc_fails(use_it, fs);
    fm_fs_close(fs);
}

// What a killed program has put is there: each number is told only after its put has returned.
static void puts_survive_a_kill(void **state)
{
    (void)state;
    char path[4200];
    int told[2];
    fm_fs *fs;
    snprintf(path, sizeof path, "%s/killed", fm_test_tmpdir());
    assert_ok(fm_fs_open(path, FM_FS_CREATE, &fs));
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fm_fs_kvcache *cache = open_cache(fs, "kv");
        for (uint64_t i = 0;; i++) {
            fm_status status = i % 3 == 0 ? write_batch(cache, i, 1 + i % 5) : put(cache, i);
            if (status < 0 || write(told[1], &i, sizeof i) != sizeof i)
                _exit(1);
        }
    }
    uint64_t last = 0;
    close(told[1]);
    while (last < 100)
        assert_int_equal(read(told[0], &last, sizeof last), sizeof last);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    for (uint64_t next; read(told[0], &next, sizeof next) == sizeof next;)
        last = next;
    close(told[0]);
    fm_fs_kvcache *cache = open_cache(fs, "kv");
    for (uint64_t i = last - 10; i <= last; i++)
        assert_true(get(cache, i));
    fm_fs_kvcache_close(cache);
    fm_fs_close(fs);
}

struct worker {
    fm_fs_kvcache *cache;
    uint64_t number;
    pthread_t thread;
    int failed;
};

static void *work(void *context)
{
    struct worker *worker = context;
    fm_gen gen = fm_gen_seeded(worker->number);
    uint8_t value[VALUE_MAX];
    uint8_t expected[VALUE_MAX];
    for (int i = 0; i < 400; i++) {
        uint64_t number = (uint64_t)fm_gen_int(&gen, 0, KEYS - 1);
        fm_fs_kvcache_block block = {key_of(number), value, sizeof value, 0};
        size_t hits = 0;
        if (worker->number % 2 == 0 && put(worker->cache, number) < 0)
            worker->failed = 1;
        if (fm_fs_kvcache_read(worker->cache, &block, 1, &hits) < 0)
            worker->failed = 1;
        if (hits && (block.size != value_of(number, expected) || memcmp(value, expected, block.size) != 0))
            worker->failed = 1;
    }
    return NULL;
}

static void threads_share_a_cache(void **state)
{
    (void)state;
    char path[4200];
    fm_fs *fs;
    struct worker workers[4];
    snprintf(path, sizeof path, "%s/threads", fm_test_tmpdir());
    assert_ok(fm_fs_open(path, FM_FS_CREATE, &fs));
    fm_fs_kvcache *cache = open_cache(fs, "kv");
    for (uint64_t i = 0; i < 4; i++) {
        workers[i] = (struct worker){.cache = cache, .number = i};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_false(workers[i].failed);
    }
    fm_fs_kvcache_info info;
    fm_fs_kvcache_info_get(cache, &info);
    assert_int_equal(info.damaged, 0);
    assert_true(info.hits > 0);
    fm_fs_kvcache_close(cache);
    fm_fs_close(fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_put_is_found),
        cmocka_unit_test(many_are_put_at_once),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(gets_are_right_in_any_sequence),
        cmocka_unit_test(used_blocks_stay_when_room_is_made),
        cmocka_unit_test(what_is_too_old_is_gone),
        cmocka_unit_test(programs_share_a_folder),
        cmocka_unit_test(a_failing_disk_costs_only_what_it_fails),
        cmocka_unit_test(lack_of_memory_is_survived),
        cmocka_unit_test(puts_survive_a_kill),
        cmocka_unit_test(threads_share_a_cache),
    };
    return fm_test_run("kvcache", tests);
}
