// The contract of the key-value store: one suite, run over every engine. What only one engine has is tested in
// kv_memory_test.c, kv_lmdb_test.c and kv_postgresql_test.c.
#include <pthread.h>
#include <stdatomic.h>

#include "fathom/clock.h"
#include "fm_gen.h"
#include "fm_test.h"
#include "kv_fixture.h"

static int is_postgresql(void)
{
    return strcmp(kv_engine, "postgresql") == 0;
}

// ---- one transaction after the other

static void it_opens_what_is_named(void **state)
{
    (void)state;
    fm_fs_kv *kv = kv_open_empty(NULL);
    assert_string_equal(fm_fs_kv_engine(kv), kv_engine);
    fm_fs_kv_close(kv);
    fm_fs_kv_close(NULL);
    assert_fails(fm_fs_kv_open("etcd:x", NULL, &kv), FM_ERR_UNSUPPORTED, "memory:");
    assert_fails(fm_fs_kv_open("memory", NULL, &kv), FM_ERR_UNSUPPORTED, "memory:");
    assert_fails(fm_fs_kv_open(NULL, NULL, &kv), FM_ERR_ARG, "NULL");
    fm_fs_kv_options options = {.size = 3};
    assert_fails(fm_fs_kv_open("memory:", &options, &kv), FM_ERR_ARG, "size is 3");
    options = (fm_fs_kv_options){.size = sizeof options, .conflict_rate = 0.7, .maybe_rate = 0.7};
    assert_fails(fm_fs_kv_open("memory:", &options, &kv), FM_ERR_ARG, "0.7");
}

static void it_keeps_what_was_put(void **state)
{
    (void)state;
    static uint8_t big[FM_FS_KV_VALUE_MAX];
    static uint8_t back[FM_FS_KV_VALUE_MAX];
    static uint8_t longest[FM_FS_KV_KEY_MAX];
    fm_fs_kv *kv = kv_open_empty(NULL);
    fm_gen gen = fm_gen_seeded(7);
    fm_gen_fill(&gen, big, sizeof big);
    memset(longest, 0xff, sizeof longest);
    assert_int_equal(kv_get(kv, BYTES("a"), back, sizeof back), -1);
    kv_put(kv, BYTES("a"), BYTES("1"));
    kv_put(kv, BYTES("a\0b"), BYTES(""));
    kv_put(kv, (fm_fs_kv_bytes){longest, sizeof longest}, (fm_fs_kv_bytes){big, sizeof big});
    assert_int_equal(kv_get(kv, BYTES("a"), back, sizeof back), 1);
    assert_int_equal(back[0], '1');
    assert_int_equal(kv_get(kv, BYTES("a\0b"), back, sizeof back), 0);
    assert_int_equal(kv_get(kv, (fm_fs_kv_bytes){longest, sizeof longest}, back, sizeof back), sizeof back);
    assert_memory_equal(back, big, sizeof big);
    kv_put(kv, BYTES("a"), BYTES("22"));
    assert_int_equal(kv_get(kv, BYTES("a"), back, sizeof back), 2);
    assert_int_equal(kv_count(kv, BYTES(""), BYTES("")), 3);
    kv_delete(kv, BYTES("a"));
    kv_delete(kv, BYTES("a"));
    assert_int_equal(kv_get(kv, BYTES("a"), back, sizeof back), -1);
    assert_int_equal(kv_count(kv, BYTES(""), BYTES("")), 2);
    fm_fs_kv_close(kv);
}

static fm_status put_and_fail(fm_fs_kv_tx *tx, void *context)
{
    fm_fs_kv_item item = {.key = BYTES("there")};
    (void)context;
    FM_TRY(fm_fs_kv_get(tx, &item, 1, FM_FS_KV_LOCK_NONE));
    FM_TRY(fm_fs_kv_put(tx, BYTES("x"), BYTES("1")));
    FM_TRY(fm_fs_kv_delete(tx, BYTES("there")));
    return fm_base_error_set(FM_ERR_EXISTS, "the closure's own words");
}

static void a_failing_closure_leaves_nothing(void **state)
{
    (void)state;
    char back[8];
    fm_fs_kv *kv = kv_open_empty(NULL);
    kv_put(kv, BYTES("there"), BYTES("1"));
    assert_fails(fm_fs_kv_run(kv, 0, put_and_fail, NULL), FM_ERR_EXISTS, "the closure's own words");
    assert_int_equal(kv_get(kv, BYTES("x"), back, sizeof back), -1);
    assert_int_equal(kv_get(kv, BYTES("there"), back, sizeof back), 1);
    fm_fs_kv_close(kv);
}

static fm_status do_nothing(fm_fs_kv_tx *tx, void *context)
{
    (void)tx;
    (void)context;
    return FM_OK;
}

static fm_status run_inside(fm_fs_kv_tx *tx, void *context)
{
    (void)tx;
    return fm_fs_kv_run(context, 0, do_nothing, NULL);
}

static fm_status swallow_a_failure(fm_fs_kv_tx *tx, void *context)
{
    static uint8_t long_key[FM_FS_KV_KEY_MAX + 1];
    fm_fs_kv_item item = {.key = BYTES("a")};
    (void)context;
    FM_TRY(fm_fs_kv_put(tx, BYTES("swallowed"), BYTES("1")));
    if (fm_fs_kv_put(tx, (fm_fs_kv_bytes){long_key, sizeof long_key}, BYTES("")) != FM_ERR_LIMIT)
        return FM_ERR_INTERNAL;
    if (fm_fs_kv_get(tx, &item, 1, FM_FS_KV_LOCK_NONE) != FM_ERR_LIMIT)
        return FM_ERR_INTERNAL;
    return FM_OK;
}

static fm_status return_positive(fm_fs_kv_tx *tx, void *context)
{
    (void)tx;
    (void)context;
    return 1;
}

static fm_status guard_something(fm_fs_kv_tx *tx, void *context)
{
    (void)context;
    return fm_fs_kv_guard(tx, BYTES("a"));
}

static void misuse_is_refused(void **state)
{
    (void)state;
    char back[8];
    fm_fs_kv *kv = kv_open_empty(NULL);
    assert_fails(fm_fs_kv_run(kv, 0, run_inside, kv), FM_ERR_STATE, "inside a closure");
    assert_ok(fm_fs_kv_run(kv, 0, do_nothing, NULL));
    assert_ok(fm_fs_kv_run(kv, FM_FS_KV_READ_ONLY, do_nothing, NULL));
    assert_fails(fm_fs_kv_run(kv, FM_FS_KV_READ_ONLY, guard_something, NULL), FM_ERR_STATE, "READ_ONLY");
    assert_fails(fm_fs_kv_run(kv, 0, return_positive, NULL), FM_ERR_ARG, "returned 1");
    assert_fails(fm_fs_kv_run(kv, FM_FS_KV_REVERSE, do_nothing, NULL), FM_ERR_ARG, "flags");
    assert_fails(fm_fs_kv_run(kv, 0, NULL, NULL), FM_ERR_ARG, "NULL");
    assert_fails(fm_fs_kv_run(kv, 0, swallow_a_failure, NULL), FM_ERR_LIMIT, "321 bytes");
    assert_int_equal(kv_get(kv, BYTES("swallowed"), back, sizeof back), -1);
    fm_fs_kv_close(kv);
}

struct load {
    int puts;
    size_t value_size;
    size_t range_limit;
    size_t gets;
};

static fm_status load(fm_fs_kv_tx *tx, void *context)
{
    static uint8_t bytes[FM_FS_KV_VALUE_MAX + 1];
    static fm_fs_kv_item items[FM_FS_KV_PAGE_MAX + 1];
    const struct load *load = context;
    size_t count;
    for (int i = 0; i < load->puts; i++)
        FM_TRY(fm_fs_kv_put(tx, (fm_fs_kv_bytes){&i, sizeof i}, (fm_fs_kv_bytes){bytes, load->value_size}));
    if (load->range_limit)
        FM_TRY(fm_fs_kv_range(tx, BYTES(""), BYTES(""), load->range_limit, 0, items, &count));
    for (size_t i = 0; i < load->gets; i++)
        items[i].key = BYTES("k");
    return fm_fs_kv_get(tx, items, load->gets, FM_FS_KV_LOCK_SHARE);
}

static void limits_are_kept(void **state)
{
    (void)state;
    fm_fs_kv *kv = kv_open_empty(NULL);
    struct load fit[] = {{FM_FS_KV_OPS_MAX, 1, 1000, 100}, {15, FM_FS_KV_VALUE_MAX, 0, 0}, {0, 0, 1, 0}};
    struct {
        struct load load;
        const char *text;
    } exceed[] = {
        {{FM_FS_KV_OPS_MAX + 1, 1, 0, 0}, "more than 100 writes"},
        {{1, FM_FS_KV_VALUE_MAX + 1, 0, 0}, "65537 bytes"},
        {{16, FM_FS_KV_VALUE_MAX, 0, 0}, "more than 1048576"},
        {{0, 0, FM_FS_KV_PAGE_MAX + 1, 0}, "1001 items"},
        {{0, 0, 0, FM_FS_KV_OPS_MAX + 1}, "101 keys"},
    };
    for (size_t i = 0; i < sizeof fit / sizeof fit[0]; i++)
        assert_ok(fm_fs_kv_run(kv, 0, load, &fit[i]));
    size_t before = kv_count(kv, BYTES(""), BYTES(""));
    for (size_t i = 0; i < sizeof exceed / sizeof exceed[0]; i++)
        assert_fails(fm_fs_kv_run(kv, 0, load, &exceed[i].load), FM_ERR_LIMIT, exceed[i].text);
    assert_int_equal(kv_count(kv, BYTES(""), BYTES("")), before);
    fm_fs_kv_close(kv);
}

// ---- against a plain model

enum { MODEL_KEYS = 24 };

struct model {
    int there[MODEL_KEYS];
    uint32_t value[MODEL_KEYS];
};

// One random transaction: drawn anew in each run from a copy of the generator, so every run does the same.
struct play {
    fm_gen gen;
    struct model before;
    struct model after;
    int fail;
};

// Key i, ascending with i: one byte more for each odd one, so that some are prefixes of their followers.
static fm_fs_kv_bytes model_key(int i, uint8_t bytes[2])
{
    bytes[0] = (uint8_t)(10 * (i / 2));
    bytes[1] = 0;
    return (fm_fs_kv_bytes){bytes, 1 + (size_t)(i % 2)};
}

static int same_item(const struct model *model, int i, const fm_fs_kv_item *item)
{
    uint8_t bytes[2];
    fm_fs_kv_bytes key = model_key(i, bytes);
    if (item->key.size != key.size || memcmp(item->key.data, key.data, key.size) != 0 ||
        item->found != model->there[i])
        return 0;
    return item->found
               ? item->value.size == sizeof(uint32_t) && memcmp(item->value.data, &model->value[i], 4) == 0
               : item->value.size == 0;
}

static fm_status check_range(fm_fs_kv_tx *tx, fm_gen *gen, const struct model *model)
{
    fm_fs_kv_item items[MODEL_KEYS];
    uint8_t lo_bytes[2];
    uint8_t hi_bytes[2];
    size_t count;
    int lo = (int)fm_gen_int(gen, 0, MODEL_KEYS - 1);
    int hi = (int)fm_gen_int(gen, 0, MODEL_KEYS);
    int reverse = fm_gen_chance(gen, 0.5);
    size_t limit = (size_t)fm_gen_int(gen, 1, fm_gen_chance(gen, 0.5) ? 4 : MODEL_KEYS);
    fm_fs_kv_bytes end = hi == MODEL_KEYS ? (fm_fs_kv_bytes){0} : model_key(hi, hi_bytes);
    fm_fs_kv_bytes begin = lo == 0 ? (fm_fs_kv_bytes){0} : model_key(lo, lo_bytes);
    FM_TRY(fm_fs_kv_range(tx, begin, end, limit, reverse ? FM_FS_KV_REVERSE : 0, items, &count));
    size_t expected = 0;
    for (int step = 0; step < hi - lo && expected < limit; step++) {
        int i = reverse ? hi - 1 - step : lo + step;
        if (!model->there[i])
            continue;
        if (expected >= count || !same_item(model, i, &items[expected]))
            return fm_base_error_set(FM_ERR_INTERNAL,
                                     "range [%d, %d) reverse %d limit %zu: item %zu is not key %d", lo, hi,
                                     reverse, limit, expected, i);
        expected++;
    }
    if (count != expected)
        return fm_base_error_set(FM_ERR_INTERNAL, "range [%d, %d): %zu items, expected %zu", lo, hi, count,
                                 expected);
    return FM_OK;
}

static fm_status check_gets(fm_fs_kv_tx *tx, fm_gen *gen, const struct model *model)
{
    fm_fs_kv_item items[5];
    uint8_t bytes[5][2];
    int keys[5];
    size_t count = (size_t)fm_gen_int(gen, 0, 5);
    for (size_t i = 0; i < count; i++) {
        keys[i] = (int)fm_gen_int(gen, 0, MODEL_KEYS - 1);
        items[i].key = model_key(keys[i], bytes[i]);
    }
    FM_TRY(fm_fs_kv_get(tx, items, count, (fm_fs_kv_lock)fm_gen_int(gen, 0, 2)));
    for (size_t i = 0; i < count; i++)
        if (!same_item(model, keys[i], &items[i]))
            return fm_base_error_set(FM_ERR_INTERNAL, "get of key %d differs", keys[i]);
    return FM_OK;
}

static fm_status play(fm_fs_kv_tx *tx, void *context)
{
    struct play *play = context;
    fm_gen gen = play->gen;
    struct model *model = &play->after;
    uint8_t bytes[2];
    *model = play->before;
    int64_t steps = fm_gen_int(&gen, 0, 20);
    for (int64_t step = 0; step < steps; step++) {
        int i = (int)fm_gen_int(&gen, 0, MODEL_KEYS - 1);
        fm_fs_kv_bytes key = model_key(i, bytes);
        switch (fm_gen_int(&gen, 0, 6)) {
        case 0:
        case 1:
            model->there[i] = 1;
            model->value[i] = (uint32_t)fm_gen_u64(&gen);
            FM_TRY(fm_fs_kv_put(tx, key, (fm_fs_kv_bytes){&model->value[i], 4}));
            break;
        case 2:
            model->there[i] = 0;
            FM_TRY(fm_fs_kv_delete(tx, key));
            break;
        case 3:
            FM_TRY(fm_fs_kv_guard(tx, key));
            break;
        case 4:
            FM_TRY(check_gets(tx, &gen, model));
            break;
        default:
            FM_TRY(check_range(tx, &gen, model));
        }
    }
    if (play->fail)
        return fm_base_error_set(FM_ERR_CANCELLED, "as drawn");
    return FM_OK;
}

static void one_model_property(fm_gen *gen)
{
    struct play round = {0};
    fm_fs_kv *kv = kv_open_empty(NULL);
    for (int i = 0; i < 20; i++) {
        unsigned flags = fm_gen_chance(gen, 0.3) ? FM_FS_KV_NO_SYNC : 0;
        round.fail = fm_gen_chance(gen, 0.2);
        round.gen = fm_gen_seeded(fm_gen_u64(gen));
        fm_status status = fm_fs_kv_run(kv, flags, play, &round);
        if (round.fail)
            assert_fails(status, FM_ERR_CANCELLED, "as drawn");
        else {
            assert_ok(status);
            round.before = round.after;
        }
    }
    fm_fs_kv_close(kv);
}

static void it_agrees_with_a_model(void **state)
{
    (void)state;
    fm_gen_property(strcmp(kv_engine, "memory") == 0 ? 100 : 10, one_model_property); // disks are slow
}

// ---- many at once. Threads report by counters: cmocka's assertions belong to the main thread.

struct race {
    fm_fs_kv *kv;
    pthread_barrier_t barrier;
    atomic_int failures;
    atomic_int runs;
    atomic_int arrived; // of the round
    atomic_uint seen[256];
    int rounds;
};

static struct race *new_race(int threads, int rounds)
{
    static struct race race;
    memset(&race, 0, sizeof race);
    race.kv = kv_open_empty(NULL);
    race.rounds = rounds;
    pthread_barrier_init(&race.barrier, NULL, (unsigned)threads);
    return &race;
}

static void end_race(struct race *race)
{
    assert_int_equal(atomic_load(&race->failures), 0);
    pthread_barrier_destroy(&race->barrier);
    fm_fs_kv_close(race->kv);
}

static void expect_ok(struct race *race, fm_status status)
{
    if (status == FM_OK)
        return;
    fprintf(stderr, "%s: %s\n", fm_base_status_name(status), fm_error_message());
    atomic_fetch_add(&race->failures, 1);
}

// In a closure's first run: waits until both closures of the round have read, so that they overlap for certain.
// Only where closures can overlap at all; an engine that runs them in turn would wait for ever.
static void meet(struct race *race, int run)
{
    fm_wait wait = fm_base_wait_begin(2000);
    if (run > 0 || !is_postgresql())
        return;
    atomic_fetch_add(&race->arrived, 1);
    while (atomic_load(&race->arrived) < 2 && fm_base_wait_step(&wait) == FM_OK)
        ;
}

struct racer {
    struct race *race;
    int index;
    int round;
    int run;
};

static fm_status increment(fm_fs_kv_tx *tx, void *context)
{
    struct racer *racer = context;
    fm_fs_kv_item item = {.key = BYTES("counter")};
    uint32_t value = 0;
    uint32_t unique[2] = {(uint32_t)racer->index, (uint32_t)racer->round};
    FM_TRY(fm_fs_kv_get(tx, &item, 1, racer->index % 2 ? FM_FS_KV_LOCK_UPDATE : FM_FS_KV_LOCK_NONE));
    if (item.found)
        memcpy(&value, item.value.data, sizeof value);
    value++;
    FM_TRY(fm_fs_kv_put(tx, (fm_fs_kv_bytes){unique, sizeof unique}, (fm_fs_kv_bytes){&value, sizeof value}));
    return fm_fs_kv_put(tx, BYTES("counter"), (fm_fs_kv_bytes){&value, sizeof value});
}

static void increment_often(int index, void *context)
{
    struct race *race = context;
    struct racer racer = {race, index, 0, 0};
    for (; racer.round < race->rounds; racer.round++)
        expect_ok(race, fm_fs_kv_run(race->kv, 0, increment, &racer));
}

static void no_increment_is_lost(void **state)
{
    (void)state;
    uint32_t value = 0;
    struct race *race = new_race(1, is_postgresql() ? 25 : 100);
    kv_threads(8, increment_often, race);
    assert_int_equal(kv_get(race->kv, BYTES("counter"), &value, sizeof value), sizeof value);
    assert_int_equal(value, 8 * race->rounds);
    assert_int_equal(kv_count(race->kv, BYTES(""), BYTES("")), 8 * race->rounds + 1);
    end_race(race);
}

// Removes the directory if a range says that it is empty; writes another key than the one below.
static fm_status rmdir_closure(fm_fs_kv_tx *tx, void *context)
{
    struct racer *racer = context;
    fm_fs_kv_item item;
    size_t count;
    atomic_fetch_add(&racer->race->runs, 1);
    FM_TRY(fm_fs_kv_range(tx, BYTES("dent/"), BYTES("dent0"), 1, 0, &item, &count));
    meet(racer->race, racer->run++);
    return count ? FM_OK : fm_fs_kv_delete(tx, BYTES("inode"));
}

// Creates a name in the directory if it is there, and reads nothing that the one above writes but its inode.
static fm_status create_closure(fm_fs_kv_tx *tx, void *context)
{
    struct racer *racer = context;
    fm_fs_kv_item item = {.key = BYTES("inode")};
    atomic_fetch_add(&racer->race->runs, 1);
    FM_TRY(fm_fs_kv_get(tx, &item, 1, FM_FS_KV_LOCK_NONE));
    meet(racer->race, racer->run++);
    return item.found ? fm_fs_kv_put(tx, BYTES("dent/name"), BYTES("1")) : FM_OK;
}

static void race_rmdir_and_create(int index, void *context)
{
    struct race *race = context;
    char back[8];
    for (int round = 0; round < race->rounds; round++) {
        struct racer racer = {race, index, round, 0};
        if (index == 0) {
            kv_put(race->kv, BYTES("inode"), BYTES("dir"));
            kv_delete(race->kv, BYTES("dent/name"));
            atomic_store(&race->arrived, 0);
        }
        pthread_barrier_wait(&race->barrier);
        expect_ok(race, fm_fs_kv_run(race->kv, 0, index == 0 ? rmdir_closure : create_closure, &racer));
        pthread_barrier_wait(&race->barrier);
        if (index == 0) {
            long inode = kv_get(race->kv, BYTES("inode"), back, sizeof back);
            long dent = kv_get(race->kv, BYTES("dent/name"), back, sizeof back);
            if ((inode < 0) != (dent < 0)) // a removed directory with a name in it, or neither has happened
                atomic_fetch_add(&race->failures, 1);
        }
    }
}

static void rmdir_and_create_exclude_each_other(void **state)
{
    (void)state;
    struct race *race = new_race(2, 40);
    kv_threads(2, race_rmdir_and_create, race);
    // Where they overlapped, one of them must have been refused and run again in every round.
    assert_true(atomic_load(&race->runs) >= (is_postgresql() ? 3 : 2) * race->rounds);
    end_race(race);
}

// Each of two reads both keys and deletes its own only if the other's is there: one always remains.
static fm_status go_off_duty(fm_fs_kv_tx *tx, void *context)
{
    struct racer *racer = context;
    fm_fs_kv_item items[2] = {{.key = BYTES("doctor0")}, {.key = BYTES("doctor1")}};
    FM_TRY(fm_fs_kv_get(tx, items, 2, FM_FS_KV_LOCK_NONE));
    meet(racer->race, racer->run++);
    return items[1 - racer->index].found ? fm_fs_kv_delete(tx, items[racer->index].key) : FM_OK;
}

static void race_for_the_exit(int index, void *context)
{
    struct race *race = context;
    for (int round = 0; round < race->rounds; round++) {
        struct racer racer = {race, index, round, 0};
        if (index == 0) {
            kv_put(race->kv, BYTES("doctor0"), BYTES("1"));
            kv_put(race->kv, BYTES("doctor1"), BYTES("1"));
            atomic_store(&race->arrived, 0);
        }
        pthread_barrier_wait(&race->barrier);
        expect_ok(race, fm_fs_kv_run(race->kv, 0, go_off_duty, &racer));
        pthread_barrier_wait(&race->barrier);
        if (index == 0 && kv_count(race->kv, BYTES("doctor"), BYTES("doctos")) != 1)
            atomic_fetch_add(&race->failures, 1);
    }
}

static void there_is_no_write_skew(void **state)
{
    (void)state;
    struct race *race = new_race(2, 40);
    kv_threads(2, race_for_the_exit, race);
    end_race(race);
}

// Counts the keys of a range and adds one with that number as its value: no two may see the same count.
static fm_status count_and_add(fm_fs_kv_tx *tx, void *context)
{
    struct racer *racer = context;
    fm_fs_kv_item items[256];
    size_t count;
    uint8_t key[3] = {'p', (uint8_t)racer->index, (uint8_t)racer->round};
    FM_TRY(fm_fs_kv_range(tx, BYTES("p"), BYTES("q"), 256, racer->index % 2 ? FM_FS_KV_REVERSE : 0, items,
                          &count));
    uint8_t number = (uint8_t)count;
    return fm_fs_kv_put(tx, (fm_fs_kv_bytes){key, sizeof key}, (fm_fs_kv_bytes){&number, 1});
}

static void add_often(int index, void *context)
{
    struct race *race = context;
    struct racer racer = {race, index, 0, 0};
    for (; racer.round < race->rounds; racer.round++) {
        uint8_t key[3] = {'p', (uint8_t)index, (uint8_t)racer.round};
        uint8_t number = 0;
        expect_ok(race, fm_fs_kv_run(race->kv, 0, count_and_add, &racer));
        if (kv_get(race->kv, (fm_fs_kv_bytes){key, sizeof key}, &number, 1) != 1)
            atomic_fetch_add(&race->failures, 1);
        atomic_fetch_add(&race->seen[number], 1);
    }
}

static void no_key_appears_unseen_in_a_range(void **state)
{
    (void)state;
    struct race *race = new_race(1, is_postgresql() ? 12 : 50);
    kv_threads(4, add_often, race);
    for (int i = 0; i < 256; i++)
        assert_int_equal(atomic_load(&race->seen[i]), i < 4 * race->rounds ? 1 : 0);
    end_race(race);
}

static fm_status swap(fm_fs_kv_tx *tx, void *context)
{
    fm_fs_kv_item items[2] = {{.key = BYTES("left")}, {.key = BYTES("right")}};
    (void)context;
    FM_TRY(fm_fs_kv_get(tx, items, 2, FM_FS_KV_LOCK_UPDATE));
    FM_TRY(fm_fs_kv_put(tx, items[0].key, items[1].value));
    return fm_fs_kv_put(tx, items[1].key, items[0].value);
}

static fm_status see_both(fm_fs_kv_tx *tx, void *context)
{
    struct racer *racer = context;
    fm_fs_kv_item left = {.key = BYTES("left")};
    fm_fs_kv_item right = {.key = BYTES("right")};
    FM_TRY(fm_fs_kv_get(tx, &left, 1, FM_FS_KV_LOCK_NONE));
    FM_TRY(fm_fs_kv_get(tx, &right, 1, FM_FS_KV_LOCK_UPDATE)); // a hint means nothing here
    if (left.value.size + right.value.size != 3)
        atomic_fetch_add(&racer->race->failures, 1);
    return FM_OK;
}

static void swap_or_look(int index, void *context)
{
    struct race *race = context;
    struct racer racer = {race, index, 0, 0};
    for (; racer.round < race->rounds; racer.round++)
        expect_ok(race, index < 2 ? fm_fs_kv_run(race->kv, FM_FS_KV_NO_SYNC, swap, &racer)
                                  : fm_fs_kv_run(race->kv, FM_FS_KV_READ_ONLY, see_both, &racer));
}

static void readers_see_one_moment(void **state)
{
    (void)state;
    struct race *race = new_race(1, is_postgresql() ? 40 : 200);
    kv_put(race->kv, BYTES("left"), BYTES("1"));
    kv_put(race->kv, BYTES("right"), BYTES("22"));
    kv_threads(4, swap_or_look, race);
    end_race(race);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_opens_what_is_named),
        cmocka_unit_test(it_keeps_what_was_put),
        cmocka_unit_test(a_failing_closure_leaves_nothing),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(it_agrees_with_a_model),
        cmocka_unit_test(no_increment_is_lost),
        cmocka_unit_test(rmdir_and_create_exclude_each_other),
        cmocka_unit_test(there_is_no_write_skew),
        cmocka_unit_test(no_key_appears_unseen_in_a_range),
        cmocka_unit_test(readers_see_one_moment),
    };
    kv_engine = argc > 1 ? argv[1] : "memory";
    return fm_test_run(kv_engine, tests);
}
