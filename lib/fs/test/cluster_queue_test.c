#include "fm_test.h"
#include "fm_gen.h"

#include <signal.h>
#include <sys/wait.h>

#include "cluster_home.h"
#include "fathom/fs.h"

enum { CHUNK = 65536, FILE_BYTES = 20 * CHUNK + 777 };

static struct home home;
static fm_fs_volume *volume; // its options are those of the files below
static fm_fs *fs;

static void open_all(int64_t timeout_ms)
{
    char spec[420];
    const fm_fs_volume_options options = {
        .size = sizeof options, .chunk_bytes = CHUNK, .timeout_ms = timeout_ms};
    home_open(&home);
    assert_ok(fm_fs_volume_open(home.dir, &options, &volume));
    snprintf(spec, sizeof spec, "cluster:%s", home.dir);
    assert_ok(fm_fs_open(spec, 0, &fs));
}

static void close_all(void)
{
    home_check(volume);
    fm_fs_close(fs);
    fm_fs_volume_close(volume);
    home_close(&home);
}

static fm_fs_file *open_file(const char *path)
{
    fm_fs_file *file;
    assert_ok(fm_fs_file_open(fs, path, FM_FS_READ | FM_FS_WRITE | FM_FS_CREATE, &file));
    return file;
}

static fm_fs_queue *open_queue(unsigned depth)
{
    fm_fs_queue *queue;
    assert_ok(fm_fs_queue_open(fs, depth, &queue));
    assert_string_equal(fm_fs_queue_engine(queue), "cluster");
    return queue;
}

// Pieces of a file in any order: it grows for all of them, and every byte comes back; what nobody wrote is zeros.
static void files_are_written_and_read_in_pieces(void **state)
{
    (void)state;
    static uint8_t bytes[FILE_BYTES];
    static uint8_t back[FILE_BYTES + 100];
    enum { PIECES = 64 };
    fm_fs_io ios[PIECES];
    fm_gen gen = fm_gen_seeded(1);
    open_all(0);
    fm_fs_queue *queue = open_queue(16);
    fm_fs_file *file = open_file("a");
    fm_gen_fill(&gen, bytes, sizeof bytes);
    memset(bytes + 5 * CHUNK + 10, 0, 3 * CHUNK); // a hole
    size_t count = 0;
    for (size_t at = 0; at < sizeof bytes;) {
        size_t size = at == 5 * CHUNK + 10 ? 3 * CHUNK : 23456;
        size_t stop = at < 5 * CHUNK + 10 ? 5 * CHUNK + 10 : sizeof bytes;
        size = at + size > stop ? stop - at : size;
        if (at != 5 * CHUNK + 10)
            ios[count++] = (fm_fs_io){
                .file = file, .buffer = bytes + at, .length = size, .offset = at, .kind = FM_FS_IO_WRITE};
        at += size;
        assert_true(count <= PIECES);
    }
    for (size_t i = count - 1; i > 0; i--) {
        size_t other = (size_t)fm_gen_int(&gen, 0, (int64_t)i);
        fm_fs_io io = ios[i];
        ios[i] = ios[other];
        ios[other] = io;
    }
    assert_ok(fm_fs_queue_run(queue, ios, count));
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ios[i].done, ios[i].length);
    count = 0;
    for (size_t at = 0; at < sizeof back && count < PIECES; at += 33000)
        ios[count++] = (fm_fs_io){.file = file,
                                  .buffer = back + at,
                                  .length = sizeof back - at < 33000 ? sizeof back - at : 33000,
                                  .offset = at,
                                  .kind = FM_FS_IO_READ};
    ios[count++] = (fm_fs_io){.file = file, .kind = FM_FS_IO_SYNC};
    assert_ok(fm_fs_queue_run(queue, ios, count));
    assert_memory_equal(back, bytes, sizeof bytes);
    assert_int_equal(ios[count - 2].done, ios[count - 2].length - 100); // the file ends there
    fm_fs_queue_close(queue);
    fm_fs_file_close(file);
    close_all();
}

// A small file lies beside its name until it grows.
static void small_files_grow(void **state)
{
    (void)state;
    char back[5000] = {0};
    char more[5000];
    char first[] = "abcdef";
    open_all(0);
    fm_fs_queue *queue = open_queue(4);
    fm_fs_file *file = open_file("small");
    fm_fs_io write[2] = {
        {.file = file, .buffer = first, .length = 3, .kind = FM_FS_IO_WRITE},
        {.file = file, .buffer = first + 3, .length = 3, .offset = 3, .kind = FM_FS_IO_WRITE},
    };
    fm_fs_io read = {.file = file, .buffer = back, .length = sizeof back, .kind = FM_FS_IO_READ};
    assert_ok(fm_fs_queue_run(queue, write, 2));
    assert_ok(fm_fs_queue_run(queue, &read, 1));
    assert_int_equal(read.done, 6);
    assert_memory_equal(back, "abcdef", 6);
    memset(more, 'x', sizeof more);
    write[0] = (fm_fs_io){
        .file = file, .buffer = more, .length = sizeof more - 6, .offset = 6, .kind = FM_FS_IO_WRITE};
    assert_ok(fm_fs_queue_run(queue, write, 1));
    assert_ok(fm_fs_queue_run(queue, &read, 1));
    assert_int_equal(read.done, sizeof back);
    assert_memory_equal(back, "abcdefxxx", 9);
    fm_fs_queue_close(queue);
    fm_fs_file_close(file);
    close_all();
}

// While the cluster stands still, operations are submitted all the same, and none is finished.
static void nothing_waits_for_answers(void **state)
{
    (void)state;
    enum { READS = 40 };
    static uint8_t bytes[READS * 4096];
    static uint8_t back[READS][4096];
    fm_fs_io ios[READS];
    fm_fs_io *done[READS];
    size_t count;
    fm_gen gen = fm_gen_seeded(2);
    open_all(0);
    fm_gen_fill(&gen, bytes, sizeof bytes);
    assert_ok(fm_fs_write_all(fs, "f", bytes, sizeof bytes, 0));
    fm_fs_queue *queue = open_queue(READS);
    fm_fs_file *file = open_file("f");
    for (size_t i = 0; i < READS; i++)
        ios[i] = (fm_fs_io){
            .file = file, .buffer = back[i], .length = 4096, .offset = i * 4096, .kind = FM_FS_IO_READ};
    assert_ok(fm_fs_queue_run(queue, ios, 1)); // it knows the chains
    int stopped;
    kill(home.pid, SIGSTOP);
    assert_int_equal(waitpid(home.pid, &stopped, WUNTRACED), home.pid);
    assert_ok(fm_fs_queue_submit(queue, ios, READS));
    assert_ok(fm_fs_queue_wait(queue, READS, 100, done, READS, &count));
    assert_int_equal(count, 0);
    kill(home.pid, SIGCONT);
    assert_ok(fm_fs_queue_wait(queue, READS, -1, done, READS, &count));
    assert_int_equal(count, READS);
    for (size_t i = 0; i < READS; i++)
        assert_int_equal(done[i]->status, FM_OK);
    assert_memory_equal(back, bytes, sizeof bytes);
    // What is under way when the queue is closed comes to its end.
    memset(back, 0, sizeof back);
    assert_ok(fm_fs_queue_submit(queue, ios, READS));
    fm_fs_queue_close(queue);
    for (size_t i = 0; i < READS; i++)
        assert_true(ios[i].status == FM_OK || ios[i].status == FM_ERR_CANCELLED);
    fm_fs_file_close(file);
    close_all();
}

// Writes that are under way while the file is cut end well, and what they put behind its end is not there when it grows again.
static void what_was_cut_meanwhile_stays_away(void **state)
{
    (void)state;
    enum { WRITES = 3 };
    static uint8_t bytes[WRITES * CHUNK];
    static uint8_t back[sizeof bytes];
    fm_fs_io ios[WRITES];
    fm_fs_io *done[WRITES];
    size_t count;
    fm_fs_node node;
    open_all(0);
    memset(bytes, 'a', sizeof bytes);
    assert_ok(fm_fs_write_all(fs, "f", bytes, sizeof bytes, 0));
    assert_ok(fm_fs_meta_resolve(fm_fs_volume_meta(volume), NULL, FM_FS_META_ROOT, "f", 1, &node));
    fm_fs_queue *queue = open_queue(WRITES);
    fm_fs_file *file = open_file("f");
    fm_fs_io read = {.file = file, .buffer = back, .length = sizeof back, .kind = FM_FS_IO_READ};
    assert_ok(fm_fs_queue_run(queue, &read, 1)); // it knows the chains
    memset(bytes, 'b', sizeof bytes);
    for (size_t i = 0; i < WRITES; i++)
        ios[i] = (fm_fs_io){.file = file,
                            .buffer = bytes,
                            .length = CHUNK - 10,
                            .offset = i * CHUNK + 5,
                            .kind = FM_FS_IO_WRITE};
    int stopped;
    kill(home.pid, SIGSTOP);
    assert_int_equal(waitpid(home.pid, &stopped, WUNTRACED), home.pid);
    assert_ok(fm_fs_queue_submit(queue, ios, WRITES));
    assert_ok(fm_fs_queue_wait(queue, WRITES, 100, done, WRITES, &count));
    assert_int_equal(count, 0);
    // Whoever cuts the file here dies before he has removed anything.
    assert_ok(
        fm_fs_meta_truncate(fm_fs_volume_meta(volume), NULL, node.ino, node.data, CHUNK + 1000, 0, &node));
    kill(home.pid, SIGCONT);
    assert_ok(fm_fs_queue_wait(queue, WRITES, -1, done, WRITES, &count));
    assert_int_equal(count, WRITES);
    for (size_t i = 0; i < WRITES; i++)
        assert_int_equal(ios[i].status, FM_OK);
    assert_ok(fm_fs_file_truncate(file, sizeof back));
    assert_ok(fm_fs_queue_run(queue, &read, 1));
    assert_int_equal(read.done, sizeof back);
    assert_true(back[0] == 'a' && back[5] == 'b' && back[CHUNK - 6] == 'b' && back[CHUNK] == 'a');
    assert_true(back[CHUNK + 5] == 'b' && back[CHUNK + 999] == 'b');
    for (size_t i = CHUNK + 1000; i < sizeof back; i++)
        assert_int_equal(back[i], 0);
    fm_fs_queue_close(queue);
    fm_fs_file_close(file);
    close_all();
}

static void failures_are_told(void **state)
{
    (void)state;
    static uint8_t bytes[2 * CHUNK];
    open_all(300);
    while (fm_fs_write_all(fs, "f", bytes, sizeof bytes, 0) < 0) // a busy machine needs longer than that
        ;
    fm_fs_queue *queue = open_queue(4);
    fm_fs_file *file = open_file("f");
    fm_fs_io read = {.file = file, .buffer = bytes, .length = sizeof bytes, .kind = FM_FS_IO_READ};
    fm_fs_io far = {
        .file = file, .buffer = bytes, .length = 1, .offset = (uint64_t)CHUNK << 32, .kind = FM_FS_IO_WRITE};
    while (fm_fs_queue_run(queue, &read, 1) < 0)
        ;
    assert_fails(fm_fs_queue_run(queue, &far, 1), FM_ERR_LIMIT, "cannot write f");
    kill(home.pid, SIGSTOP);
    assert_fails(fm_fs_queue_run(queue, &read, 1), FM_ERR_TIMEOUT, "cannot read f");
    kill(home.pid, SIGCONT);
    assert_ok(fm_fs_unlink(fs, "f"));
    assert_fails(fm_fs_queue_run(queue, &read, 1), FM_ERR_NOT_FOUND, "cannot read f");
    fm_fs_queue_close(queue);
    fm_fs_file_close(file);
    fm_fs_close(fs);
    fm_fs_volume_close(volume);
    home_close(&home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_written_and_read_in_pieces),
        cmocka_unit_test(small_files_grow),
        cmocka_unit_test(nothing_waits_for_answers),
        cmocka_unit_test(what_was_cut_meanwhile_stays_away),
        cmocka_unit_test(failures_are_told),
    };
    return fm_test_run("cluster_queue", tests);
}
