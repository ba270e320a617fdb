// Stores of an earlier and of a later version of the format. What is opened otherwise: chunk_store_test.c.
#include "fm_test.h"
#include "store_rig.h"

#include "fathom/crc.h"

/*
 * Journals and checkpoints that a release with version 1 wrote, from the beginnings of pages. The chunks:
 *
 *     1  block 0: 5000 bytes of factor 7 (rig_fill); pending in block 3: with 20 of factor 13 at 4990
 *     2  removed
 *     3  block 1: 4096 bytes of factor 5, with 200 of factor 11 at 4000
 */
static const struct {
    unsigned file, page;
    const char *hex;
} version_1[] = {
    {0, 0,
     "464d4a524e4c3031020000000000000006000000000000000500000000000000020000007f00000000000000de04ae90021c"
     "0000000000000000000000000000000002020000000000000001000000015d00000000000000000000000000000000030109"
     "0000000000000003000000010000000000000000000000000000000000000000000003010000000000000001000000010000"
     "00000000000100000002000000001000000000010046c51eef"},
    {0, 1,
     "464d4a524e4c30310200000000000000080000000000000007000000000000000200000083000000000000007eb5e711021c"
     "0000000000000000000000000000000003010000000000000001000000016100000000000000000000000000000000030109"
     "0000000000000003000000020000000000000000000000000000000000000000000003020000000000000001000000020000"
     "000000000001000000010000006810000000000200df319b29bf5f044f"},
    {0, 2,
     "464d4a524e4c303102000000000000000a000000000000000900000000000000020000008300000000000000fdde256c021c"
     "0000000000000000000000000000000003020000000000000001000000016100000000000000000000000000000000010109"
     "0000000000000001000000020000000000000000000000000000000000000000000001020000000000000001000000020000"
     "0000000000010000000300000092130000000002001b914f907a29d1a6"},
    {1, 0,
     "464d4a524e4c3031010000000000000001000000000000000000000000000000010000006400000000000000f26ce5000161"
     "0000000000000000000000000000000001010900000000000000010000000100000000000000000000000000000000000000"
     "000000010100000000000000010000000100000000000000010000000000000088130000000002001b914f9095fbcc1f"},
    {1, 1,
     "464d4a524e4c3031010000000000000002000000000000000100000000000000020000007f000000000000003c8afc4b021c"
     "0000000000000000000000000000000001010000000000000001000000015d00000000000000000000000000000000020109"
     "0000000000000002000000010000000000000000000000000000000000000000000002010000000000000001000000010000"
     "00000000000100000001000000640000000000010066a29447"},
    {1, 2,
     "464d4a524e4c3031010000000000000004000000000000000300000000000000020000007b00000000000000a77e1f82021c"
     "0000000000000000000000000000000002010000000000000001000000015900000000000000000000000000000000020109"
     "0000000000000002000000020000000000000000000000000000000000000000000002020000000000000001000000020000"
     "00000000000100000000000000000000000001"},
    {2, 0,
     "464d43484b503031020000000000000005000000000000003401000000000000303132333435363738396162636465660700"
     "000000000000de0561cbf1a33297"},
    {2, 1,
     "0608000000000000000000043000090000000000000001000000010000000000000000000000000000000000000000000001"
     "0100000000000000010000000430000900000000000000020000000200000000000000000000000000000000000000000000"
     "0202000000000000000100000004300009000000000000000300000001000000000000000000000000000000000000000000"
     "0003010000000000000001000000033100000000000000000000000000000000010001000000000000000100000000000000"
     "88130000000002001b914f9095fbcc1f03290000000000000000000000000000000002000200000000000000010000000000"
     "00000000000000010000012d0000000000000000000000000000000003000100000000000000010000000200000000100000"
     "0000010046c51eef"},
    {3, 0,
     "464d43484b503031010000000000000000000000000000000b00000000000000303132333435363738396162636465660000"
     "00000000000063f61b9146a86f4e"},
    {3, 1, "0608"}};

enum { ONE = 5000, ONE_PENDING = 5010, THREE = 4200 };
static uint8_t one[ONE], one_pending[ONE_PENDING], three[THREE];

static void ignore(fm_fs_disk_io *io)
{
    (void)io;
}

static void put(store_rig *rig, unsigned file, uint64_t offset, const uint8_t *bytes, size_t size)
{
    fm_gen gen = fm_gen_seeded(0);
    fm_fs_buffer *buffer = fm_fs_buffer_new(size);
    memcpy(buffer->data, bytes, size);
    fm_fs_disk_io io = {.kind = FM_FS_DISK_WRITE,
                        .file = file,
                        .offset = offset,
                        .size = buffer->room,
                        .data = buffer->data,
                        .done = ignore};
    sim_disk_complete(&rig->disk, &io, 0, FM_OK);
    sim_disk_power_cut(&rig->disk, SIM_KEEP_ALL, &gen);
    fm_fs_buffer_drop(buffer);
}

static unsigned nibble(char digit)
{
    return (unsigned)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

static void begin(store_rig *rig)
{
    uint8_t bytes[FM_FS_PAGE];
    rig_init(rig);
    rig->options.format = 0;
    for (size_t i = 0; i < sizeof version_1 / sizeof version_1[0]; i++) {
        size_t size = strlen(version_1[i].hex) / 2;
        for (size_t b = 0; b < size; b++)
            bytes[b] = (uint8_t)(nibble(version_1[i].hex[2 * b]) << 4 | nibble(version_1[i].hex[2 * b + 1]));
        put(rig, version_1[i].file, (uint64_t)version_1[i].page * FM_FS_PAGE, bytes, size);
    }
    rig_fill(one, ONE, 7);
    memcpy(one_pending, one, ONE);
    rig_fill(one_pending + 4990, 20, 13);
    rig_fill(three, 4096, 5);
    rig_fill(three + 4000, 200, 11);
    put(rig, 4, 0, one, ONE);
    put(rig, 4, FM_FS_CHUNK_CLASS_MIN, three, THREE);
    put(rig, 4, (uint64_t)3 * FM_FS_CHUNK_CLASS_MIN, one_pending, ONE_PENDING);
}

static void check(store_rig *rig)
{
    const fm_fs_chunk *chunk = rig_chunk(rig, 1);
    assert_memory_equal(fm_fs_store_identity(rig->store), "0123456789abcdef", 16);
    assert_int_equal(chunk->committed->version, 1);
    assert_ok(rig_compare(rig, chunk->committed, one, ONE));
    assert_int_equal(chunk->pending->version, 2);
    assert_ok(rig_compare(rig, chunk->pending, one_pending, ONE_PENDING));
    assert_int_equal(fm_fs_store_version(rig->store, rig_chunk(rig, 2)), 2);
    assert_false(fm_fs_chunk_is_there(rig_chunk(rig, 2)));
    chunk = rig_chunk(rig, 3);
    assert_null(chunk->pending);
    assert_int_equal(chunk->committed->version, 2);
    assert_ok(rig_compare(rig, chunk->committed, three, THREE));
    for (uint32_t channel = 1; channel <= 3; channel++)
        assert_int_equal(fm_fs_store_session(rig->store, 9, channel)->tag.sequence, 2);
}

// No older release finds a checkpoint that it takes for whole.
static void assert_new(const store_rig *rig)
{
    for (int file = 2; file < 4; file++) {
        assert_memory_equal(rig->disk.files[file].durable[0]->bytes, "FMCHKP", 6);
        assert_memory_equal(rig->disk.files[file].durable[0]->bytes + 6, "02", 2);
    }
}

static void it_goes_on_with_a_store_of_version_1(void **state)
{
    store_rig rig;
    fm_gen gen = fm_gen_seeded(1);
    (void)state;
    begin(&rig);
    assert_ok(rig_open(&rig));
    assert_new(&rig);
    check(&rig);
    rig_fill(three + 10, 50, 3);
    assert_ok(rig_change(&rig, FM_FS_APPLY_WRITE, 3, 3, 10, 50, 3));
    rig_commit(&rig, 3, 3);
    rig_settle(&rig);
    rig_crash(&rig, SIM_LOSE_ALL, &gen);
    assert_ok(rig_open(&rig));
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 3)->committed, three, THREE));
    assert_ok(rig_compare(&rig, rig_chunk(&rig, 1)->pending, one_pending, ONE_PENDING));
    rig_free(&rig);
}

static void a_power_cut_may_interrupt_the_change_of_versions(void **state)
{
    fm_gen gen = fm_gen_seeded(2);
    int is_open = 0;
    (void)state;
    for (int turns = 0; !is_open; turns++) {
        store_rig rig;
        begin(&rig);
        rig_begin_open(&rig);
        for (int i = 0; i < turns && !rig.opened; i++)
            assert_true(rig_turn(&rig));
        is_open = rig.opened;
        rig_crash(&rig, turns % 2 ? SIM_LOSE_SOME : SIM_KEEP_ALL, &gen);
        if (is_open)
            assert_new(&rig);
        assert_ok(rig_open(&rig));
        assert_new(&rig);
        check(&rig);
        rig_free(&rig);
    }
}

static void a_later_version_is_refused_by_name(void **state)
{
    store_rig rig;
    fm_gen gen = fm_gen_seeded(3);
    (void)state;
    rig_init(&rig);
    assert_ok(rig_open(&rig));
    rig_crash(&rig, SIM_LOSE_ALL, &gen);
    rig.options.format = 0;
    uint8_t *header = rig.disk.files[3].now[0]->bytes; // of generation 1
    header[7]++;
    fm_put_le32(header + 60, fm_base_crc32c(0, header, 60));
    assert_fails(rig_open(&rig), FM_ERR_VERSION, "version 3");
    rig_free(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_goes_on_with_a_store_of_version_1),
        cmocka_unit_test(a_power_cut_may_interrupt_the_change_of_versions),
        cmocka_unit_test(a_later_version_is_refused_by_name),
    };
    return fm_test_run("chunk_open", tests);
}
