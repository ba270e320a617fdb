// Small changes of chunks: where their bytes are, who sees them, and that nothing is written over what anybody may ask for.
#include "fm_test.h"
#include "store_rig.h"

enum { SIZE = 20 * FM_FS_PAGE, AT = 3 * FM_FS_PAGE + 100, PATCH = FM_FS_PAGE };

static uint8_t before[SIZE];
static uint8_t after[SIZE];

// Chunk 1 in version 1 has the contents `before`; `after` has the change, too.
static void begin(store_rig *rig, size_t land_bytes)
{
    rig_init(rig);
    rig->options.land_bytes = land_bytes;
    assert_ok(rig_open(rig));
    rig_fill(before, SIZE, 3);
    memcpy(after, before, SIZE);
    rig_fill(after + AT, PATCH, 5);
    assert_ok(rig_change(rig, FM_FS_APPLY_WHOLE, 1, 1, 0, SIZE, 3));
    rig_commit(rig, 1, 1);
    rig_settle(rig);
}

static void patch(store_rig *rig, uint64_t version)
{
    assert_ok(rig_change(rig, FM_FS_APPLY_WRITE, 1, version, AT, PATCH, 5));
}

// The byte of chunk 1 that its block has.
static uint8_t *in_place(store_rig *rig, uint32_t at)
{
    const fm_fs_chunk_copy *copy = rig_chunk(rig, 1)->committed;
    uint64_t offset = ((uint64_t)copy->block << (16 + copy->size_class)) + at;
    return &rig->disk.files[4 + copy->size_class].durable[offset / FM_FS_PAGE]->bytes[offset % FM_FS_PAGE];
}

static void a_small_change_is_one_record(void **state)
{
    store_rig rig;
    (void)state;
    begin(&rig, 1 << 20);
    uint64_t used = fm_fs_store_used_bytes(rig.store);
    rig.operations = 0;
    patch(&rig, 2);
    assert_int_equal(rig.operations, 2); // its grains are read, and the journal is written
    rig_commit(&rig, 1, 2);
    rig.operations = 0;
    rig_fill(after + (size_t)3 * FM_FS_PAGE, 2 * PATCH, 7);
    assert_ok(rig_change(&rig, FM_FS_APPLY_WRITE, 1, 3, 3 * FM_FS_PAGE, 2 * PATCH, 7));
    assert_int_equal(rig.operations, 1); // whole grains
    rig_commit(&rig, 1, 3);
    assert_int_equal(fm_fs_store_used_bytes(rig.store), used);
    assert_int_equal(*in_place(&rig, AT), before[AT]);
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, after, SIZE));
    rig_free(&rig);
}

static void it_lands_when_nobody_can_ask_for_less(void **state)
{
    store_rig rig;
    (void)state;
    begin(&rig, 1);
    fm_fs_chunk_copy *old = rig_chunk(&rig, 1)->committed;
    old->refs++; // a reader's
    patch(&rig, 2);
    rig_settle(&rig);
    assert_int_equal(*in_place(&rig, AT), before[AT]); // it is pending
    rig_commit(&rig, 1, 2);
    rig_settle(&rig);
    rig_settle(&rig);
    assert_int_equal(*in_place(&rig, AT), before[AT]); // it is read
    assert_ok(rig_compare(&rig, old, before, SIZE));
    fm_fs_chunk_copy_drop(rig.store, old);
    patch(&rig, 3); // of which the committed version knows nothing
    rig_settle(&rig);
    assert_int_equal(*in_place(&rig, AT), after[AT]);
    assert_null(rig_chunk(&rig, 1)->committed->overlay);
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, after, SIZE));
    rig_free(&rig);
}

static void not_yet(fm_fs_disk_io *io)
{
    (void)io;
}

static void was_read(fm_fs_chunk_read *read)
{
    *(int *)read->context = 1;
}

// The disk takes a read's bytes before a landing, and tells of it afterwards.
static void a_read_outlives_a_landing(void **state)
{
    store_rig rig;
    int done = 0;
    (void)state;
    begin(&rig, 1 << 20);
    patch(&rig, 2);
    rig_commit(&rig, 1, 2);
    rig_settle(&rig);
    fm_fs_chunk_copy *copy = rig_chunk(&rig, 1)->committed;
    fm_fs_chunk_read read = {.copy = copy, .size = SIZE, .done = was_read, .context = &done};
    fm_fs_store_read(rig.store, &read);
    fm_fs_disk_io *io = rig.queue[--rig.queued];
    void (*tell)(fm_fs_disk_io *) = io->done;
    io->done = not_yet;
    sim_disk_complete(&rig.disk, io, 0, FM_OK);
    rig.store->options.land_bytes = 1;
    rig_settle(&rig);
    assert_null(copy->overlay);
    assert_int_equal(*in_place(&rig, AT), after[AT]);
    tell(io);
    assert_true(done);
    assert_ok(read.status);
    assert_memory_equal(read.bytes->data, after, SIZE);
    fm_fs_buffer_drop(read.bytes);
    rig_free(&rig);
}

static void rot_is_noticed_where_a_patch_has_landed(void **state)
{
    store_rig rig;
    (void)state;
    begin(&rig, 1 << 20);
    patch(&rig, 2);
    rig_commit(&rig, 1, 2);
    const fm_fs_chunk_copy *copy = rig_chunk(&rig, 1)->committed;
    uint64_t at = ((uint64_t)copy->block << (16 + copy->size_class)) + AT;
    assert_true(sim_disk_rot(&rig.disk, 4 + copy->size_class, at)); // under the patch: it is not read
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, after, SIZE));
    rig.store->options.land_bytes = 1;
    rig_settle(&rig);
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, after, SIZE));
    assert_true(sim_disk_rot(&rig.disk, 4 + copy->size_class, at));
    assert_fails(rig_compare(&rig, rig_chunk(&rig, 1)->committed, after, SIZE), FM_ERR_FS_ROT, "grain 3");
    // A change of that grain needs what has rotted; one of another does not.
    assert_fails(rig_change(&rig, FM_FS_APPLY_WRITE, 1, 3, AT, 10, 5), FM_ERR_FS_ROT, "grain 3");
    assert_ok(rig_change(&rig, FM_FS_APPLY_WRITE, 1, 3, 8 * FM_FS_PAGE, 10, 5));
    rig_free(&rig);
}

static void a_failed_landing_is_tried_again(void **state)
{
    store_rig rig;
    fm_gen gen = fm_gen_seeded(1);
    (void)state;
    begin(&rig, 1);
    rig.failing = FM_FS_DISK_WRITE;
    rig.failure = FM_ERR_IO;
    patch(&rig, 2);
    rig_commit(&rig, 1, 2);
    rig_settle(&rig);
    assert_ok(fm_fs_store_health(rig.store));
    assert_int_equal(rig_chunk(&rig, 1)->committed->overlay->count, 1);
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, after, SIZE));
    rig.failing = FM_FS_DISK_SYNC; // after which nobody knows what the disk holds
    rig_settle(&rig);
    assert_int_equal(fm_fs_store_health(rig.store), FM_ERR_IO);
    rig.failure = FM_OK;
    rig.options.format = 0;
    rig_crash(&rig, SIM_LOSE_SOME, &gen);
    assert_ok(rig_open(&rig));
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, after, SIZE));
    patch(&rig, 3);
    rig_settle(&rig);
    assert_null(rig_chunk(&rig, 1)->committed->overlay);
    rig_free(&rig);
}

static void was_applied(fm_fs_apply *apply)
{
    *(int *)apply->context = 1;
}

static void ignore(fm_fs_flush *flush)
{
    (void)flush;
}

// The block goes to nobody else while a patch is on its way to it.
static void a_landing_keeps_its_block(void **state)
{
    store_rig rig;
    (void)state;
    begin(&rig, 1);
    patch(&rig, 2);
    rig_commit(&rig, 1, 2);
    fm_fs_flush flush = {.done = ignore};
    fm_fs_store_flush(rig.store, &flush);
    while (!rig.store->landing)
        assert_true(rig_turn(&rig));
    uint64_t used = fm_fs_store_used_bytes(rig.store);
    fm_fs_disk_io *held = rig.queue[0];
    assert_int_equal(held->kind, FM_FS_DISK_WRITE);
    assert_int_equal(rig.queued, 1);
    rig.queued = 0;
    assert_ok(rig_change(&rig, FM_FS_APPLY_REPLACE_REMOVED, 1, 5, 0, 0, 0));
    assert_ok(rig_change(&rig, FM_FS_APPLY_REPLACE_REMOVED, 3, 5, 0, 0, 0));
    assert_int_equal(fm_fs_store_used_bytes(rig.store), used);
    sim_disk_complete(&rig.disk, held, sim_disk_mark(&rig.disk), FM_OK);
    rig_settle(&rig);
    assert_ok(rig_change(&rig, FM_FS_APPLY_REPLACE_REMOVED, 3, 6, 0, 0, 0));
    assert_true(fm_fs_store_used_bytes(rig.store) < used);
    assert_int_equal(rig.store->owed_bytes, 0);
    rig_free(&rig);
}

// An append into the room of its block is a patch; what lies between the old end and it becomes zeros.
static void an_append_copies_nothing(void **state)
{
    static uint8_t bytes[4 * FM_FS_PAGE + 50];
    store_rig rig;
    fm_gen gen = fm_gen_seeded(2);
    (void)state;
    rig_init(&rig);
    assert_ok(rig_open(&rig));
    rig_fill(bytes, 5000, 3);
    assert_ok(rig_change(&rig, FM_FS_APPLY_WHOLE, 1, 1, 0, 5000, 3));
    rig_commit(&rig, 1, 1);
    uint32_t block = rig_chunk(&rig, 1)->committed->block;
    const uint32_t at[] = {5000, 6000, 9000, 4 * FM_FS_PAGE};
    for (uint64_t i = 0; i < 4; i++) {
        rig_fill(bytes + at[i], 50, 7);
        assert_ok(rig_change(&rig, FM_FS_APPLY_WRITE, 1, 2 + i, at[i], 50, 7));
        rig_commit(&rig, 1, 2 + i);
        assert_int_equal(rig_chunk(&rig, 1)->committed->block, block);
        assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, bytes, at[i] + 50));
    }
    rig_settle(&rig);
    rig.options.format = 0;
    rig.options.land_bytes = 1;
    rig_crash(&rig, SIM_LOSE_ALL, &gen);
    assert_ok(rig_open(&rig));
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, bytes, sizeof bytes));
    rig_settle(&rig);
    assert_null(rig_chunk(&rig, 1)->committed->overlay);
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, bytes, sizeof bytes));
    rig_free(&rig);
}

static uint8_t grown[200000];
enum { GROWN_FROM = 70000, GROWN_TO = 180000 };

// Chunk 1 has the first GROWN_FROM bytes of `grown`, which has what is appended, too, and lies in a block with more room.
static void begin_growing(store_rig *rig)
{
    rig_init(rig);
    assert_ok(rig_open(rig));
    rig_fill(grown, GROWN_FROM, 3);
    rig_fill(grown + GROWN_FROM, sizeof grown - GROWN_FROM, 7);
    assert_ok(rig_change(rig, FM_FS_APPLY_WHOLE, 1, 1, 0, GROWN_FROM, 3));
    rig_commit(rig, 1, 1);
    assert_ok(rig_change(rig, FM_FS_APPLY_WRITE, 1, 2, 131072 + 10, 1, 0)); // the class of 256 KiB
    rig_commit(rig, 1, 2);
    memset(grown + GROWN_FROM, 0, 131072 + 10 - GROWN_FROM);
    grown[131072 + 10] = 1;
    rig_settle(rig);
}

static void a_long_append_goes_into_the_room_of_its_block(void **state)
{
    enum { AT_END = 131072 + 11, MORE = 60000 };
    store_rig rig;
    fm_gen gen = fm_gen_seeded(4);
    (void)state;
    begin_growing(&rig);
    uint32_t block = rig_chunk(&rig, 1)->committed->block;
    rig_fill(grown + AT_END, MORE, 7);
    rig.operations = 0;
    assert_ok(rig_change(&rig, FM_FS_APPLY_WRITE, 1, 3, AT_END, MORE, 7));
    assert_int_equal(rig.operations,
                     4); // its last page is read; the pages behind are written and synced; the journal
    assert_int_equal(rig_chunk(&rig, 1)->pending->block, block);
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, grown, AT_END));
    rig.options.format = 0;
    rig_crash(&rig, SIM_LOSE_SOME, &gen);
    assert_ok(rig_open(&rig));
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, grown, AT_END));
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->pending, grown, AT_END + MORE));
    rig_commit(&rig, 1, 3);
    rig.store->options.land_bytes = 1;
    rig_settle(&rig);
    assert_null(rig_chunk(&rig, 1)->committed->overlay);
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, grown, AT_END + MORE));
    rig_free(&rig);
}

// An append that was given up may come back until the one that took its place is durable.
static void an_append_spares_one_that_was_given_up(void **state)
{
    enum { AT_END = 131072 + 11, MORE = 60000 };
    fm_gen gen = fm_gen_seeded(5);
    (void)state;
    for (int turns = 0;; turns++) {
        store_rig rig;
        begin_growing(&rig);
        uint32_t block = rig_chunk(&rig, 1)->committed->block;
        rig_fill(grown + AT_END, MORE, 7);
        assert_ok(rig_change(&rig, FM_FS_APPLY_WRITE, 1, 3, AT_END, MORE, 7));
        int done = 0;
        fm_fs_buffer *data = fm_fs_buffer_new(MORE);
        memset(data->data, 9, MORE);
        fm_fs_apply apply = {.kind = FM_FS_APPLY_WRITE,
                             .id = rig_id(1),
                             .version = 4,
                             .chain_version = 1,
                             .offset = AT_END,
                             .data = data,
                             .done = was_applied,
                             .context = &done};
        fm_fs_store_apply(rig.store, &apply);
        for (int i = 0; i < turns && !done; i++)
            assert_true(rig_turn(&rig));
        if (done)
            assert_int_not_equal(rig_chunk(&rig, 1)->pending->block, block);
        rig.options.format = 0;
        rig_crash(&rig, turns % 2 ? SIM_LOSE_SOME : SIM_KEEP_ALL, &gen);
        fm_fs_buffer_drop(data);
        assert_ok(rig_open(&rig));
        fm_fs_chunk_copy *pending = rig_chunk(&rig, 1)->pending;
        if (pending->version == 4)
            memset(grown + AT_END, 9, MORE);
        assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, grown, AT_END));
        assert_ok(rig_compare(&rig, pending, grown, AT_END + MORE));
        rig_free(&rig);
        if (done)
            return;
    }
}

// However long nothing lands, an overlay does not grow beyond its limit: then the chunk is copied.
static void overlays_have_an_end(void **state)
{
    static uint8_t bytes[(FM_FS_OVERLAY_MAX + 8) * FM_FS_PAGE];
    store_rig rig;
    (void)state;
    rig_init(&rig);
    assert_ok(rig_open(&rig));
    rig_fill(bytes, sizeof bytes, 3);
    assert_ok(rig_change(&rig, FM_FS_APPLY_WHOLE, 1, 1, 0, sizeof bytes, 3));
    rig_commit(&rig, 1, 1);
    fm_fs_chunk_copy *old = rig_chunk(&rig, 1)->committed;
    uint32_t block = old->block;
    old->refs++; // nothing lands while it is read
    for (uint32_t i = 0; i < FM_FS_OVERLAY_MAX + 8; i++) {
        rig_fill(bytes + (size_t)i * FM_FS_PAGE, FM_FS_PAGE, 7);
        assert_ok(rig_change(&rig, FM_FS_APPLY_WRITE, 1, 2 + i, i * FM_FS_PAGE, FM_FS_PAGE, 7));
        rig_commit(&rig, 1, 2 + i);
        const fm_fs_chunk_copy *copy = rig_chunk(&rig, 1)->committed;
        assert_true(!copy->overlay || copy->overlay->count <= FM_FS_OVERLAY_MAX);
    }
    assert_int_not_equal(rig_chunk(&rig, 1)->committed->block, block);
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->committed, bytes, sizeof bytes));
    fm_fs_chunk_copy_drop(rig.store, old);
    rig_free(&rig);
}

static fm_status live(store_rig *rig)
{
    const fm_fs_chunk_id id = rig_id(1);
    FM_TRY(rig_open(rig));
    FM_TRY(rig_change(rig, FM_FS_APPLY_WHOLE, 1, 1, 0, SIZE, 3));
    for (uint64_t version = 1; version < 4; version++) {
        FM_TRY(fm_fs_store_commit(rig->store, &id, version, 1));
        FM_TRY(rig_change(rig, FM_FS_APPLY_WRITE, 1, version + 1, (uint32_t)version * AT, PATCH, 5));
    }
    rig_settle(rig);
    return fm_fs_store_health(rig->store);
}

static fm_status live_short_of_memory(void *context)
{
    store_rig rig;
    fm_gen gen = fm_gen_seeded(3);
    (void)context;
    rig_init(&rig);
    rig.options.land_bytes = 1;
    fm_status status = live(&rig);
    if (status == FM_OK) { // and once more, with a journal to replay
        rig.options.format = 0;
        rig_crash(&rig, SIM_KEEP_ALL, &gen);
        status = rig_open(&rig);
    }
    rig_free(&rig);
    return status;
}

static void allocations_may_fail(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(live_short_of_memory, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_change_is_one_record),
        cmocka_unit_test(it_lands_when_nobody_can_ask_for_less),
        cmocka_unit_test(a_read_outlives_a_landing),
        cmocka_unit_test(rot_is_noticed_where_a_patch_has_landed),
        cmocka_unit_test(a_failed_landing_is_tried_again),
        cmocka_unit_test(a_landing_keeps_its_block),
        cmocka_unit_test(an_append_copies_nothing),
        cmocka_unit_test(a_long_append_goes_into_the_room_of_its_block),
        cmocka_unit_test(an_append_spares_one_that_was_given_up),
        cmocka_unit_test(overlays_have_an_end),
        cmocka_unit_test(allocations_may_fail),
    };
    return fm_test_run("chunk_patch", tests);
}
