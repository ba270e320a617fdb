// Removed chunks are forgotten, what they were in memory comes back, and their versions go on all the same.
#include "chunk_store_private.h"
#include "fm_gen.h"
#include "fm_test.h"
#include "sim_disk.h"

enum { AT_ONCE = 500, MILLION = 1000000, QUEUE_MAX = 64 };

struct world {
    sim_disk disk;
    fm_fs_disk_io *queue[QUEUE_MAX];
    uint64_t marks[QUEUE_MAX];
    size_t queued;
    fm_fs_store *store;
    fm_status open_status;
    fm_fs_apply applies[AT_ONCE];
    int left;
};

static void submitted(void *context, fm_fs_disk_io *io)
{
    struct world *world = context;
    assert_true(world->queued < QUEUE_MAX);
    world->marks[world->queued] = sim_disk_mark(&world->disk);
    world->queue[world->queued++] = io;
}

static void turn_all(struct world *world)
{
    while (world->queued) {
        fm_fs_disk_io *io = world->queue[0];
        uint64_t mark = world->marks[0];
        world->queued--;
        memmove(world->queue, world->queue + 1, world->queued * sizeof(void *));
        memmove(world->marks, world->marks + 1, world->queued * sizeof world->marks[0]);
        sim_disk_complete(&world->disk, io, mark, FM_OK);
    }
}

static void opened(void *context, fm_status status)
{
    ((struct world *)context)->open_status = status;
}

static void open_store(struct world *world, int format)
{
    fm_fs_store_options options = {
        .format = format, .journal_bytes = 1 << 20, .opened = opened, .context = world};
    world->disk.submitted = submitted;
    world->disk.context = world;
    world->open_status = FM_ERR_BUSY;
    assert_ok(fm_fs_store_new(&world->disk.base, &options, &world->store));
    turn_all(world);
    assert_ok(world->open_status);
}

static struct world *new_world(void)
{
    struct world *world = calloc(1, sizeof *world);
    sim_disk_init(&world->disk, 64 << 20);
    open_store(world, 1);
    return world;
}

static void free_world(struct world *world)
{
    fm_fs_store_free(world->store);
    sim_disk_free(&world->disk);
    free(world);
}

// The program is killed, or the power is cut: what had been made durable is there.
static void reopen(struct world *world)
{
    fm_gen gen = fm_gen_seeded(1);
    fm_fs_store_free(world->store);
    sim_disk_power_cut(&world->disk, SIM_LOSE_ALL, &gen);
    open_store(world, 0);
}

static fm_fs_chunk_id id_of(uint32_t chunk)
{
    fm_fs_chunk_id id = {{0}};
    fm_put_le32(id.bytes, chunk);
    return id;
}

static void applied(fm_fs_apply *apply)
{
    struct world *world = apply->context;
    assert_ok(apply->status);
    assert_ok(fm_fs_store_commit(world->store, &apply->id, apply->version, 1));
    world->left--;
}

// Makes empty chunks, or removes them, each in the version that follows its own.
static void apply_all(struct world *world, enum fm_fs_apply_kind kind, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        fm_fs_chunk_id id = id_of(first + i);
        uint64_t version = fm_fs_store_version(world->store, fm_fs_store_find(world->store, &id)) + 1;
        world->applies[i] = (fm_fs_apply){.kind = kind,
                                          .id = id,
                                          .version = version,
                                          .chain_version = 1,
                                          .done = applied,
                                          .context = world};
        world->left++;
        fm_fs_store_apply(world->store, &world->applies[i]);
    }
    turn_all(world);
    assert_int_equal(world->left, 0);
}

static void made(fm_fs_apply *apply)
{
    assert_ok(apply->status);
}

static void flush_done(fm_fs_flush *flush)
{
    assert_ok(flush->status);
}

static void flush(struct world *world)
{
    fm_fs_flush flush = {.done = flush_done};
    fm_fs_store_flush(world->store, &flush);
    turn_all(world);
}

static uint64_t version_of(const struct world *world, uint32_t chunk)
{
    fm_fs_chunk_id id = id_of(chunk);
    return fm_fs_store_version(world->store, fm_fs_store_find(world->store, &id));
}

static void memory_comes_back_after_a_million_chunks(void **state)
{
    (void)state;
    struct world *world = new_world();
    size_t before = fm_base_mem_live();
    size_t most = 0;
    for (uint32_t first = 0; first < MILLION; first += AT_ONCE) {
        apply_all(world, FM_FS_APPLY_TRUNCATE, first, AT_ONCE);
        apply_all(world, FM_FS_APPLY_REMOVE, first, AT_ONCE);
        assert_int_equal(fm_fs_store_removed_count(world->store), AT_ONCE);
        assert_ok(fm_fs_store_floor_set(world->store, fm_fs_store_removed_max(world->store)));
        assert_int_equal(fm_fs_store_forget(world->store, UINT64_MAX, SIZE_MAX), AT_ONCE);
        size_t live = fm_base_mem_live() - before;
        most = live > most ? live : most;
    }
    flush(world);
    assert_null(fm_fs_store_after(world->store, NULL));
    assert_true(most < 64); // blocks of memory: buffers of the journal and of checkpoints
    // Each pass began behind the floor of the one before it.
    assert_int_equal(fm_fs_store_floor(world->store), 2 * (MILLION / AT_ONCE));
    reopen(world);
    assert_null(fm_fs_store_after(world->store, NULL));
    assert_int_equal(version_of(world, 7), 2 * (MILLION / AT_ONCE));
    free_world(world);
}

static void what_is_there_or_pending_is_kept(void **state)
{
    (void)state;
    struct world *world = new_world();
    apply_all(world, FM_FS_APPLY_TRUNCATE, 0, 4);
    apply_all(world, FM_FS_APPLY_REMOVE, 1, 3);
    apply_all(world, FM_FS_APPLY_TRUNCATE, 2, 1); // made again
    apply_all(world, FM_FS_APPLY_TRUNCATE, 3, 1);
    apply_all(world, FM_FS_APPLY_REMOVE, 3, 1); // removed twice: version 4
    assert_ok(fm_fs_store_floor_set(world->store, 3));
    assert_int_equal(fm_fs_store_forget(world->store, 3, SIZE_MAX), 1);
    assert_int_equal(version_of(world, 0), 1); // is there: its own version, below the floor
    assert_int_equal(version_of(world, 1), 3); // forgotten
    assert_int_equal(version_of(world, 2), 3);
    assert_int_equal(version_of(world, 3), 4); // above the floor
    assert_int_equal(fm_fs_store_count(world->store), 2);
    fm_fs_chunk_id id = id_of(3);
    assert_non_null(fm_fs_store_find(world->store, &id));
    // One that is being made again is kept until that has ended.
    world->applies[0] = (fm_fs_apply){.kind = FM_FS_APPLY_TRUNCATE,
                                      .id = id,
                                      .version = 5,
                                      .chain_version = 1,
                                      .done = made,
                                      .context = world};
    fm_fs_store_apply(world->store, &world->applies[0]);
    turn_all(world);
    assert_int_equal(fm_fs_store_creating_count(world->store), 1);
    assert_ok(fm_fs_store_floor_set(world->store, 4));
    assert_int_equal(fm_fs_store_forget(world->store, 4, SIZE_MAX), 0);
    assert_ok(fm_fs_store_commit(world->store, &id, 5, 1));
    assert_int_equal(fm_fs_store_creating_count(world->store), 0);
    assert_int_equal(fm_fs_store_forget(world->store, 4, SIZE_MAX), 0);
    assert_int_equal(fm_fs_store_removed_count(world->store), 0);
    assert_int_equal(version_of(world, 3), 5);
    free_world(world);
}

static void a_floor_is_durable_and_may_be_lowered(void **state)
{
    (void)state;
    struct world *world = new_world();
    apply_all(world, FM_FS_APPLY_TRUNCATE, 0, 2);
    apply_all(world, FM_FS_APPLY_REMOVE, 0, 2);
    assert_ok(fm_fs_store_floor_set(world->store, 9));
    flush(world);
    reopen(world); // forgets what the journal brings back
    assert_null(fm_fs_store_after(world->store, NULL));
    assert_int_equal(version_of(world, 0), 9);
    apply_all(world, FM_FS_APPLY_TRUNCATE, 0, 1);
    apply_all(world, FM_FS_APPLY_REMOVE, 0, 1);
    assert_int_equal(version_of(world, 0), 11);
    // As when another replica fills this one: what the old floor covered is not taken for known any more.
    assert_ok(fm_fs_store_floor_set(world->store, 4));
    assert_int_equal(version_of(world, 0), 11);
    assert_int_equal(version_of(world, 1), 4);
    flush(world);
    reopen(world);
    assert_int_equal(version_of(world, 0), 11);
    assert_int_equal(version_of(world, 1), 4);
    free_world(world);
}

// Against a list of all versions: chunks come and go in any order, the store is closed and cut off in between.
static void versions_only_grow(fm_gen *gen)
{
    enum { CHUNKS = 12 };
    struct world *world = new_world();
    uint64_t versions[CHUNKS] = {0};
    int there[CHUNKS] = {0};
    for (int step = 0; step < 300; step++) {
        uint32_t chunk = (uint32_t)fm_gen_int(gen, 0, CHUNKS - 1);
        int64_t what = fm_gen_int(gen, 0, 19);
        if (what < 16) {
            int removes = there[chunk] && fm_gen_chance(gen, 0.6);
            uint64_t before = version_of(world, chunk);
            assert_true(before >= versions[chunk]);
            apply_all(world, removes ? FM_FS_APPLY_REMOVE : FM_FS_APPLY_TRUNCATE, chunk, 1);
            there[chunk] = !removes;
            versions[chunk] = before + 1;
        } else if (what < 18) {
            assert_ok(fm_fs_store_floor_set(world->store, fm_fs_store_removed_max(world->store)));
            fm_fs_store_forget(world->store, UINT64_MAX, (size_t)fm_gen_int(gen, 0, 8));
        } else {
            flush(world);
            reopen(world);
        }
        size_t count = 0;
        for (uint32_t i = 0; i < CHUNKS; i++) {
            fm_fs_chunk_id id = id_of(i);
            assert_int_equal(fm_fs_chunk_is_there(fm_fs_store_find(world->store, &id)), there[i]);
            assert_true(version_of(world, i) >= versions[i]);
            count += (size_t)there[i];
        }
        assert_int_equal(fm_fs_store_count(world->store), count);
    }
    free_world(world);
}

static void versions_only_grow_whatever_happens(void **state)
{
    (void)state;
    fm_gen_property(30, versions_only_grow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_comes_back_after_a_million_chunks),
        cmocka_unit_test(what_is_there_or_pending_is_kept),
        cmocka_unit_test(a_floor_is_durable_and_may_be_lowered),
        cmocka_unit_test(versions_only_grow_whatever_happens),
    };
    return fm_test_run("chunk_forget", tests);
}
