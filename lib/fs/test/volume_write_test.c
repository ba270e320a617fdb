// Many pieces at once: each of them gets to its place, whatever their number.
#include "fm_test.h"

#include <string.h>
#include <sys/stat.h>

#include "cluster_home.h"
#include "volume.h"

enum { CHUNK = 65536, SMALL = 8, STEP = 24, MANY = 1100, LENGTH = MANY * STEP + 5 * CHUNK };

static struct home home;
static uint8_t model[LENGTH];
static uint8_t got[LENGTH];
static uint8_t bytes[LENGTH];

// `count` small pieces in the file's front, and one that covers several chunks behind them.
static void write_pieces(fm_fs_volume *volume, uint64_t ino, size_t count, uint8_t seed)
{
    static struct fm_fs_volume_piece pieces[MANY + 1];
    uint64_t version = FM_FS_VOLUME_UNKNOWN;
    for (size_t i = 0; i < LENGTH; i++)
        bytes[i] = (uint8_t)(i * 13 + seed);
    for (size_t i = 0; i <= count; i++) {
        uint64_t at = i < count ? i * STEP : (uint64_t)MANY * STEP;
        size_t size = i < count ? SMALL : LENGTH - (size_t)at;
        pieces[i] = (struct fm_fs_volume_piece){.offset = at, .size = size, .bytes = bytes + at};
        memcpy(model + at, bytes + at, size);
    }
    assert_ok(fm_fs_volume_write_pieces(volume, ino, pieces, count + 1, &version));
}

static void each_piece_gets_to_its_place(void **state)
{
    static const size_t counts[] = {0, 1, 2, 25, 26, 27, 31, 32, 33, 58, 59, 100, MANY};
    (void)state;
    fm_fs_volume *volume;
    fm_fs_volume_options options = {.size = sizeof options, .chunk_bytes = CHUNK, .timeout_ms = 60000};
    fm_fs_node node;
    size_t read;
    home_open(&home);
    assert_ok(fm_fs_volume_open(home.dir, &options, &volume));
    assert_ok(fm_fs_meta_create(fm_fs_volume_meta(volume), NULL, FM_FS_META_ROOT, "a", S_IFREG | 0644, 0, 1,
                                &node, NULL));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        write_pieces(volume, node.ino, counts[i], (uint8_t)i);
        memset(got, 0xee, sizeof got);
        assert_ok(fm_fs_volume_read(volume, node.ino, got, LENGTH, 0, &read));
        assert_int_equal(read, LENGTH);
        assert_memory_equal(got, model, LENGTH);
    }
    fm_fs_volume_close(volume);
    home_close(&home);
}

// It is told which file it was, and the file is as before.
static void what_cannot_be_there_is_refused(void **state)
{
    (void)state;
    fm_fs_volume *volume;
    fm_fs_volume_options options = {.size = sizeof options, .chunk_bytes = CHUNK, .timeout_ms = 60000};
    fm_fs_node node;
    home_open(&home);
    assert_ok(fm_fs_volume_open(home.dir, &options, &volume));
    assert_ok(fm_fs_meta_create(fm_fs_volume_meta(volume), NULL, FM_FS_META_ROOT, "a", S_IFREG | 0644, 0, 1,
                                &node, NULL));
    const struct fm_fs_volume_piece far = {.offset = (uint64_t)CHUNK << 32, .size = 1, .bytes = bytes};
    assert_fails(fm_fs_volume_write_chunks(volume, &node, &far, 1), FM_ERR_LIMIT, "chunks of 65536 bytes");
    assert_ok(fm_fs_volume_write_chunks(volume, &node, &far, 0));
    fm_fs_volume_close(volume);
    home_close(&home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_piece_gets_to_its_place),
        cmocka_unit_test(what_cannot_be_there_is_refused),
    };
    return fm_test_run("volume_write", tests);
}
