#include "fm_test.h"
#include "fm_gen.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#include "cluster_home.h"
#include "fathom/fs_cluster.h"

enum { CHUNK = 65536, FILE_MAX = 400000 };

static struct home home;

static fm_fs_volume *open_volume(void)
{
    fm_fs_volume *volume;
    fm_fs_volume_options options = {.size = sizeof options, .chunk_bytes = CHUNK, .timeout_ms = 60000};
    assert_ok(fm_fs_volume_open(home.dir, &options, &volume));
    return volume;
}

static fm_fs_node make(fm_fs_volume *volume, const char *name)
{
    fm_fs_node node;
    assert_ok(fm_fs_meta_create(fm_fs_volume_meta(volume), NULL, FM_FS_META_ROOT, name, S_IFREG | 0644, 0, 1,
                                &node, NULL));
    return node;
}

// Whoever cuts the file is killed before anything is removed behind its end: that is not seen however the file grows again.
static void what_was_cut_off_does_not_come_back(void **state)
{
    (void)state;
    static uint8_t bytes[4 * CHUNK];
    static uint8_t back[sizeof bytes];
    static const size_t cuts[] = {1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK};
    home_open(&home);
    fm_fs_volume *volume = open_volume();
    fm_fs_meta *meta = fm_fs_volume_meta(volume);
    for (size_t i = 0; i < 2 * sizeof cuts / sizeof cuts[0]; i++) {
        const char name[] = {(char)('a' + i), 0};
        const size_t cut = cuts[i / 2];
        size_t read;
        fm_fs_node node = make(volume, name);
        memset(bytes, 'x', sizeof bytes);
        assert_ok(fm_fs_volume_write(volume, node.ino, bytes, sizeof bytes, 0));
        assert_ok(fm_fs_meta_node(meta, node.ino, &node));
        assert_ok(fm_fs_meta_truncate(meta, NULL, node.ino, node.data, cut, 0, &node));
        memset(bytes + cut, 0, sizeof bytes - cut);
        assert_ok(fm_fs_volume_read(volume, node.ino, back, sizeof back, 0, &read));
        assert_int_equal(read, cut);
        if (i % 2) {
            bytes[sizeof bytes - 1] = 'y';
            assert_ok(fm_fs_volume_write(volume, node.ino, "y", 1, sizeof bytes - 1));
        } else {
            assert_ok(fm_fs_volume_truncate(volume, NULL, node.ino, cut + 2, &node));
            assert_ok(fm_fs_volume_truncate(volume, NULL, node.ino, sizeof bytes, &node));
        }
        assert_ok(fm_fs_volume_read(volume, node.ino, back, sizeof back, 0, &read));
        assert_int_equal(read, sizeof back);
        assert_memory_equal(back, bytes, sizeof bytes);
    }
    home_check(volume);
    fm_fs_volume_close(volume);
    home_close(&home);
}

// Random writes, cuts, holes and reads of a file of several chunks, compared with memory.
static void files_of_many_chunks_are_right(void **state)
{
    (void)state;
    static uint8_t model[FILE_MAX];
    static uint8_t bytes[FILE_MAX];
    size_t size = 0;
    fm_gen gen = fm_gen_seeded(5);
    home_open(&home);
    fm_fs_volume *volume = open_volume();
    fm_fs_node node = make(volume, "a");
    for (int i = 0; i < 120; i++) {
        size_t offset = (size_t)fm_gen_size(&gen, 0, FILE_MAX / 2);
        size_t length = (size_t)fm_gen_size(&gen, 1, i < 20 ? 3000 : FILE_MAX / 2);
        size_t read = 0;
        switch (fm_gen_int(&gen, 0, 5)) {
        case 0:
        case 1:
            fm_gen_fill(&gen, bytes, length);
            assert_ok(fm_fs_volume_write(volume, node.ino, bytes, length, offset));
            memcpy(model + offset, bytes, length);
            size = size < offset + length ? offset + length : size;
            break;
        case 2:
            assert_ok(fm_fs_volume_truncate(volume, NULL, node.ino, length, &node));
            memset(model + length, 0, sizeof model - length);
            size = length;
            assert_int_equal(node.size, size);
            break;
        case 3:
            if (fm_gen_chance(&gen, 0.3)) {
                assert_ok(fm_fs_volume_truncate(volume, NULL, node.ino, 0, &node));
                memset(model, 0, sizeof model);
                size = 0;
            }
            break;
        case 4:
            assert_ok(fm_fs_volume_punch(volume, node.ino, offset, length));
            for (size_t k = offset; k < offset + length && k < size; k++)
                model[k] = 0;
            break;
        default:
            break;
        }
        assert_ok(fm_fs_volume_read(volume, node.ino, bytes, sizeof bytes, offset, &read));
        assert_int_equal(read, size > offset ? size - offset : 0);
        assert_memory_equal(bytes, model + offset, read);
    }
    home_check(volume);
    fm_fs_volume_close(volume);
    home_close(&home);
}

static void holes_are_told(void **state)
{
    (void)state;
    home_open(&home);
    fm_fs_volume *volume = open_volume();
    fm_fs_node node = make(volume, "a");
    uint64_t at;
    uint8_t byte = 1;
    assert_fails(fm_fs_volume_seek(volume, node.ino, 0, 0, &at), FM_ERR_NOT_FOUND, "0 bytes");
    assert_ok(fm_fs_volume_write(volume, node.ino, &byte, 1, 100));
    assert_ok(fm_fs_volume_seek(volume, node.ino, 5, 0, &at));
    assert_int_equal(at, 5);
    assert_ok(fm_fs_volume_seek(volume, node.ino, 5, 1, &at));
    assert_int_equal(at, 101);
    assert_ok(fm_fs_volume_write(volume, node.ino, &byte, 1, 3 * CHUNK + 7));
    assert_ok(fm_fs_volume_seek(volume, node.ino, 5, 1, &at));
    assert_int_equal(at, CHUNK);
    assert_ok(fm_fs_volume_seek(volume, node.ino, CHUNK + 9, 0, &at));
    assert_int_equal(at, 3 * CHUNK);
    assert_ok(fm_fs_volume_seek(volume, node.ino, 3 * CHUNK, 1, &at));
    assert_int_equal(at, 3 * CHUNK + 8);
    assert_ok(fm_fs_volume_punch(volume, node.ino, 0, 2 * CHUNK)); // the only data there is in chunk 0
    assert_ok(fm_fs_volume_seek(volume, node.ino, 0, 0, &at));
    assert_int_equal(at, 3 * CHUNK);
    assert_ok(fm_fs_volume_punch(volume, node.ino, 3 * CHUNK, CHUNK));
    assert_fails(fm_fs_volume_seek(volume, node.ino, 0, 0, &at), FM_ERR_NOT_FOUND, "no data");
    fm_fs_volume_close(volume);
    home_close(&home);
}

// Chunk by chunk each of these calls would ask four thousand million times.
static void far_chunks_are_found_and_freed(void **state)
{
    (void)state;
    home_open(&home);
    fm_fs_volume *volume = open_volume();
    fm_fs_node node = make(volume, "a");
    uint8_t byte = 1;
    uint64_t at = 0;
    uint64_t chunks = 1;
    uint64_t found = 1;
    size_t done = 0;
    const uint64_t end = fm_fs_meta_size_max(&node.layout);
    assert_ok(fm_fs_volume_truncate(volume, NULL, node.ino, end, &node));
    assert_fails(fm_fs_volume_truncate(volume, NULL, node.ino, end + 1, &node), FM_ERR_LIMIT, "at most");
    assert_fails(fm_fs_volume_write(volume, node.ino, &byte, 1, end), FM_ERR_LIMIT, "bytes");
    assert_fails(fm_fs_volume_seek(volume, node.ino, 0, 0, &at), FM_ERR_NOT_FOUND, "no data");
    const uint64_t places[] = {CHUNK, 1000000ull * CHUNK, end - 3 * CHUNK, end - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        assert_ok(fm_fs_volume_write(volume, node.ino, &byte, 1, places[i]));
        assert_ok(fm_fs_volume_seek(volume, node.ino, i ? places[i - 1] + CHUNK : 0, 0, &at));
        assert_int_equal(at, places[i] / CHUNK * CHUNK);
    }
    assert_ok(fm_fs_volume_punch(volume, node.ino, 2 * CHUNK, end - 3 * CHUNK)); // the two in the middle
    assert_ok(fm_fs_volume_seek(volume, node.ino, 2 * CHUNK, 0, &at));
    assert_int_equal(at, end - CHUNK);
    assert_ok(fm_fs_volume_truncate(volume, NULL, node.ino, 2 * CHUNK, &node)); // frees the last one
    assert_ok(fm_fs_volume_truncate(volume, NULL, node.ino, end, &node));
    assert_fails(fm_fs_volume_seek(volume, node.ino, 2 * CHUNK, 0, &at), FM_ERR_NOT_FOUND, "no data");
    assert_ok(fm_fs_volume_write(volume, node.ino, &byte, 1, end - 1));
    assert_ok(fm_fs_meta_unlink(fm_fs_volume_meta(volume), NULL, FM_FS_META_ROOT, "a"));
    assert_ok(fm_fs_volume_collect(volume, 10, &done));
    assert_int_equal(done, 1);
    assert_ok(fm_fs_volume_orphans(volume, FM_FS_ORPHANS_KEEP, NULL, NULL, &chunks, &found));
    assert_true(chunks == 0 && found == 0);
    fm_fs_volume_close(volume);
    home_close(&home);
}

static void removed_chunks_are_freed(void **state)
{
    (void)state;
    static uint8_t bytes[3 * CHUNK];
    size_t done = 0;
    home_open(&home);
    fm_fs_volume *volume = open_volume();
    fm_fs_node node = make(volume, "a");
    fm_fs_node gone;
    memset(bytes, 7, sizeof bytes);
    assert_ok(fm_fs_volume_write(volume, node.ino, bytes, sizeof bytes, 0));
    assert_ok(fm_fs_meta_node(fm_fs_volume_meta(volume), node.ino, &node));
    assert_ok(fm_fs_meta_unlink(fm_fs_volume_meta(volume), NULL, FM_FS_META_ROOT, "a"));
    assert_ok(fm_fs_volume_collect(volume, 10, &done));
    assert_int_equal(done, 1);
    assert_fails(fm_fs_meta_node(fm_fs_volume_meta(volume), node.ino, &gone), FM_ERR_NOT_FOUND, "exist");
    assert_fails(fm_fs_volume_write(volume, node.ino, bytes, 1, 0), FM_ERR_NOT_FOUND, "exist");
    fm_fs_chunks *chunks;
    assert_ok(fm_fs_chunks_open(home.dir, &chunks));
    for (uint32_t i = 0; i < 3; i++) {
        uint8_t id[FM_FS_CHUNK_ID_BYTES];
        uint32_t chain;
        uint32_t read;
        fm_fs_meta_chunk(&node, i, &chain, id);
        assert_int_equal(fm_fs_chunks_read(chunks, chain, id, 0, bytes, 1, 60000, &read, NULL),
                         FM_ERR_NOT_FOUND);
    }
    fm_fs_chunks_close(chunks);
    uint64_t capacity = 0;
    uint64_t left = 0;
    assert_ok(fm_fs_volume_space(volume, &capacity, &left));
    assert_true(left <= capacity);
    fm_fs_volume_close(volume);
    home_close(&home);
}

struct writer {
    fm_fs_volume *volume;
    uint64_t ino;
    uint8_t letter;
    pthread_t thread;
    fm_status status;
};

static void *write_stripes(void *context)
{
    struct writer *writer = context;
    uint8_t bytes[5000];
    memset(bytes, writer->letter, sizeof bytes);
    for (uint64_t i = 0; i < 10 && writer->status == FM_OK; i++)
        writer->status = fm_fs_volume_write(writer->volume, writer->ino, bytes, sizeof bytes,
                                            (4 * i + writer->letter) * sizeof bytes);
    return NULL;
}

static void threads_write_one_file(void **state)
{
    (void)state;
    struct writer writers[4];
    static uint8_t bytes[200000];
    size_t read;
    home_open(&home);
    fm_fs_volume *volume = open_volume();
    fm_fs_node node = make(volume, "a");
    for (uint8_t i = 0; i < 4; i++) {
        writers[i] = (struct writer){.volume = volume, .ino = node.ino, .letter = i};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_stripes, &writers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(writers[i].thread, NULL);
        assert_int_equal(writers[i].status, FM_OK);
    }
    assert_ok(fm_fs_volume_read(volume, node.ino, bytes, sizeof bytes, 0, &read));
    assert_int_equal(read, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++)
        assert_int_equal(bytes[i], i / 5000 % 4);
    fm_fs_volume_close(volume);
    home_close(&home);
}

static void a_cluster_may_restart_under_it(void **state)
{
    (void)state;
    uint8_t bytes[20000];
    size_t read;
    home_open(&home);
    fm_fs_volume *volume = open_volume();
    fm_fs_node node = make(volume, "a");
    for (uint8_t i = 0; i < 3; i++) {
        memset(bytes, i, sizeof bytes);
        assert_ok(fm_fs_volume_write(volume, node.ino, bytes, sizeof bytes, i * sizeof bytes));
        home_restart(&home, SIGKILL);
    }
    for (uint8_t i = 0; i < 3; i++) {
        assert_ok(fm_fs_volume_read(volume, node.ino, bytes, sizeof bytes, i * sizeof bytes, &read));
        assert_true(read == sizeof bytes && bytes[0] == i && bytes[read - 1] == i);
    }
    fm_fs_volume_close(volume);
    home_close(&home);
}

struct orphans {
    int told, removed;
};

static void tell_orphan(void *context, uint32_t chain, const uint8_t *id, unsigned flags)
{
    struct orphans *orphans = context;
    assert_true(chain == 1 && id[2] == 0x7f);
    orphans->told++;
    orphans->removed += (flags & FM_FS_ORPHAN_REMOVED) != 0;
    assert_false(flags & FM_FS_ORPHAN_EARLIER);
}

static void chunks_that_no_file_owns_are_found(void **state)
{
    (void)state;
    static uint8_t bytes[5 * CHUNK];
    uint8_t orphan[FM_FS_CHUNK_ID_BYTES] = {0, 0, 0x7f, 1, 2, 3};
    uint8_t foreign[FM_FS_CHUNK_ID_BYTES] = {9, 0, 0x7f};
    struct orphans orphans = {0};
    uint64_t chunks;
    uint64_t found;
    size_t done;
    size_t read;
    uint32_t got;
    home_open(&home);
    fm_fs_volume *volume = open_volume();
    fm_fs_node node = make(volume, "a");
    fm_fs_node other = make(volume, "b");
    fm_fs_chunks *raw;
    memset(bytes, 7, sizeof bytes);
    assert_ok(fm_fs_volume_write(volume, node.ino, bytes, sizeof bytes, 0));
    assert_ok(fm_fs_volume_write(volume, other.ino, bytes, sizeof bytes, 0));
    assert_ok(fm_fs_meta_unlink(fm_fs_volume_meta(volume), NULL, FM_FS_META_ROOT, "b"));
    // What waits for the collector is no orphan, and what others keep in the cluster is theirs.
    assert_ok(fm_fs_chunks_open(home.dir, &raw));
    assert_ok(fm_fs_chunks_write(raw, 1, foreign, 0, "mine", 4, 60000));
    assert_ok(fm_fs_volume_orphans(volume, FM_FS_ORPHANS_KEEP, tell_orphan, &orphans, &chunks, &found));
    assert_int_equal(chunks, 11);
    assert_int_equal(found, 0);
    assert_ok(fm_fs_volume_collect(volume, 100, &done));
    assert_ok(fm_fs_chunks_write(raw, 1, orphan, 0, "late", 4, 60000));
    assert_ok(fm_fs_volume_orphans(volume, FM_FS_ORPHANS_KEEP, tell_orphan, &orphans, &chunks, &found));
    assert_int_equal(chunks, 7);
    assert_int_equal(found, 1);
    assert_true(orphans.told == 1 && orphans.removed == 0);
    assert_ok(fm_fs_volume_orphans(volume, FM_FS_ORPHANS_REMOVE, tell_orphan, &orphans, &chunks, &found));
    assert_int_equal(found, 1);
    assert_true(orphans.told == 2 && orphans.removed == 1);
    assert_fails(fm_fs_chunks_read(raw, 1, orphan, 0, bytes, 4, 60000, &got, NULL), FM_ERR_NOT_FOUND,
                 "no such");
    assert_ok(fm_fs_chunks_read(raw, 1, foreign, 0, bytes, 4, 60000, &got, NULL));
    assert_ok(fm_fs_volume_orphans(volume, FM_FS_ORPHANS_REMOVE, NULL, NULL, &chunks, &found));
    assert_int_equal(chunks, 6);
    assert_int_equal(found, 0);
    memset(bytes, 0, sizeof bytes);
    assert_ok(fm_fs_volume_read(volume, node.ino, bytes, sizeof bytes, 0, &read));
    assert_true(read == sizeof bytes && bytes[0] == 7 && bytes[read - 1] == 7);
    fm_fs_chunks_close(raw);
    home_check(volume);
    fm_fs_volume_close(volume);
    home_close(&home);
}

// Pages of a chain's chunks, in order, each once.
static void chunks_are_listed_by_pages(void **state)
{
    (void)state;
    enum { MANY = 37, PAGE = 10 };
    uint8_t ids[PAGE][FM_FS_CHUNK_ID_BYTES];
    uint8_t after[FM_FS_CHUNK_ID_BYTES];
    uint32_t count = PAGE;
    int seen = 0;
    fm_fs_chunks *raw;
    home_open(&home);
    assert_ok(fm_fs_chunks_open(home.dir, &raw));
    for (int i = MANY; i-- > 0;) {
        uint8_t id[FM_FS_CHUNK_ID_BYTES] = {1, (uint8_t)i};
        assert_ok(fm_fs_chunks_write(raw, 2, id, 0, "x", 1, 60000));
    }
    for (int first = 1; count == PAGE; first = 0) {
        assert_ok(fm_fs_chunks_list(raw, 2, first ? NULL : after, ids, PAGE, 60000, &count));
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(ids[i][1], seen++);
        if (count)
            memcpy(after, ids[count - 1], sizeof after);
    }
    assert_int_equal(seen, MANY);
    assert_ok(fm_fs_chunks_list(raw, 1, NULL, ids, PAGE, 60000, &count));
    assert_int_equal(count, 0);
    fm_fs_chunks_close(raw);
    home_close(&home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_cut_off_does_not_come_back),
        cmocka_unit_test(files_of_many_chunks_are_right),
        cmocka_unit_test(holes_are_told),
        cmocka_unit_test(far_chunks_are_found_and_freed),
        cmocka_unit_test(removed_chunks_are_freed),
        cmocka_unit_test(threads_write_one_file),
        cmocka_unit_test(a_cluster_may_restart_under_it),
        cmocka_unit_test(chunks_that_no_file_owns_are_found),
        cmocka_unit_test(chunks_are_listed_by_pages),
    };
    return fm_test_run("volume", tests);
}
