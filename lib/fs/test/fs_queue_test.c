#include "fm_test.h"
#include "fm_gen.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "fs_backend.h"
#include "mem_fs.h"

enum { FILES = 3, FILE_BYTES_MAX = 40000, IOS_MAX = 150 };

static fm_fs *open_tmp(void)
{
    fm_fs *fs;
    assert_ok(fm_fs_open(fm_test_tmpdir(), 0, &fs));
    return fs;
}

static void use_engine(const char *engine)
{
    setenv("FM_FS_QUEUE", engine, 1);
}

static fm_fs_file *open_file(fm_fs *fs, const char *name)
{
    fm_fs_file *file;
    assert_ok(fm_fs_file_open(fs, name, FM_FS_READ | FM_FS_WRITE | FM_FS_CREATE, &file));
    return file;
}

// Files and what they must hold; ios and which of them came back.
struct bench {
    fm_gen *gen;
    fm_fs_queue *queue;
    fm_fs_file *files[FILES];
    unsigned char model[FILES][FILE_BYTES_MAX];
    size_t size[FILES];
    fm_fs_io ios[IOS_MAX];
    unsigned char buffers[IOS_MAX][1000];
    int back[IOS_MAX];
};

static void take(struct bench *bench, size_t min, int timeout_ms, size_t max)
{
    fm_fs_io *done[IOS_MAX];
    size_t count;
    assert_ok(fm_fs_queue_wait(bench->queue, min, timeout_ms, done, max, &count));
    assert_true(count <= max);
    for (size_t i = 0; i < count; i++) {
        assert_ok(done[i]->status);
        assert_ptr_equal(done[i]->user, &bench->ios[done[i] - bench->ios]);
        bench->back[done[i] - bench->ios]++;
    }
}

// Submits the first `count` operations in pieces and takes them back in pieces; each must come once.
static void carry_out(struct bench *bench, size_t count)
{
    memset(bench->back, 0, sizeof bench->back);
    for (size_t i = 0; i < count; i++)
        bench->ios[i].user = &bench->ios[i];
    for (size_t submitted = 0; submitted < count;) {
        size_t piece = (size_t)fm_gen_size(bench->gen, 0, (int64_t)(count - submitted));
        assert_ok(fm_fs_queue_submit(bench->queue, &bench->ios[submitted], piece));
        submitted += piece;
        if (fm_gen_chance(bench->gen, 0.5))
            take(bench, (size_t)fm_gen_int(bench->gen, 0, 3), (int)fm_gen_int(bench->gen, -1, 1),
                 (size_t)fm_gen_int(bench->gen, 0, 20));
    }
    take(bench, IOS_MAX, -1, IOS_MAX); // more than there are: waits for all
    for (size_t i = 0; i < count; i++)
        assert_int_equal(bench->back[i], 1);
    take(bench, 1, -1, 1); // nothing is outstanding: does not wait
}

static void write_disjoint(struct bench *bench)
{
    size_t at[FILES] = {0};
    size_t count = (size_t)fm_gen_int(bench->gen, 0, IOS_MAX);
    for (size_t i = 0; i < count; i++) {
        size_t file = (size_t)fm_gen_int(bench->gen, 0, FILES - 1);
        size_t offset = at[file] + (size_t)fm_gen_int(bench->gen, 0, 300);
        size_t length = (size_t)fm_gen_size(bench->gen, 0, 1000);
        bench->ios[i] = (fm_fs_io){.kind = FM_FS_IO_SYNC, .file = bench->files[file]};
        if (offset + length > FILE_BYTES_MAX || fm_gen_chance(bench->gen, 0.01))
            continue;
        fm_gen_fill(bench->gen, bench->buffers[i], length);
        memcpy(bench->model[file] + offset, bench->buffers[i], length);
        bench->ios[i] = (fm_fs_io){.kind = FM_FS_IO_WRITE,
                                   .file = bench->files[file],
                                   .buffer = bench->buffers[i],
                                   .length = length,
                                   .offset = offset};
        at[file] = offset + length;
        if (length > 0 && at[file] > bench->size[file])
            bench->size[file] = at[file];
    }
    carry_out(bench, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(bench->ios[i].done, bench->ios[i].length);
}

static void read_anywhere(struct bench *bench)
{
    size_t count = (size_t)fm_gen_int(bench->gen, 0, IOS_MAX);
    size_t file_of[IOS_MAX];
    for (size_t i = 0; i < count; i++) {
        file_of[i] = (size_t)fm_gen_int(bench->gen, 0, FILES - 1);
        bench->ios[i] = (fm_fs_io){.kind = FM_FS_IO_READ,
                                   .file = bench->files[file_of[i]],
                                   .buffer = bench->buffers[i],
                                   .length = (size_t)fm_gen_size(bench->gen, 0, 1000),
                                   .offset = (uint64_t)fm_gen_int(bench->gen, 0, FILE_BYTES_MAX)};
    }
    carry_out(bench, count);
    for (size_t i = 0; i < count; i++) {
        const fm_fs_io *io = &bench->ios[i];
        size_t left = io->offset < bench->size[file_of[i]] ? bench->size[file_of[i]] - io->offset : 0;
        assert_int_equal(io->done, io->length < left ? io->length : left);
        assert_memory_equal(io->buffer, bench->model[file_of[i]] + io->offset, io->done);
    }
}

static void any_operations(fm_gen *gen)
{
    static struct bench bench;
    fm_fs *fs = open_tmp();
    bench = (struct bench){.gen = gen};
    assert_ok(fm_fs_queue_open(fs, (unsigned)fm_gen_size(gen, 1, 100), &bench.queue));
    for (int i = 0; i < FILES; i++) {
        char name[16];
        snprintf(name, sizeof name, "file%d", i);
        bench.files[i] = open_file(fs, name);
        assert_ok(fm_fs_file_truncate(bench.files[i], 0));
    }
    for (int i = 0; i < 4; i++) {
        write_disjoint(&bench);
        read_anywhere(&bench);
    }
    fm_fs_queue_close(bench.queue);
    for (int i = 0; i < FILES; i++)
        fm_fs_file_close(bench.files[i]);
    fm_fs_close(fs);
}

static void operations_do_what_they_say(void **state)
{
    use_engine(*state);
    fm_gen_property(8, any_operations);
}

static void wrong_operations_are_refused(void **state)
{
    use_engine(*state);
    fm_fs *fs = open_tmp();
    fm_fs *other = open_tmp();
    fm_fs_queue *queue = NULL;
    fm_fs_file *file = open_file(fs, "a");
    fm_fs_file *foreign = open_file(other, "a");
    fm_fs_file *read_only;
    char byte = 0;
    assert_ok(fm_fs_file_open(fs, "a", FM_FS_READ, &read_only));
    assert_fails(fm_fs_queue_open(fs, 0, &queue), FM_ERR_ARG, "depth is 0");
    assert_fails(fm_fs_queue_open(fs, 4097, &queue), FM_ERR_ARG, "1 to 4096");
    assert_null(queue);
    assert_ok(fm_fs_queue_open(fs, 4, &queue));

    fm_fs_io good = {.kind = FM_FS_IO_READ, .file = file, .buffer = &byte, .length = 1};
    fm_fs_io ios[2] = {good, good};
    ios[1].file = NULL;
    assert_fails(fm_fs_queue_submit(queue, ios, 2), FM_ERR_ARG, "operation 1: the file is NULL");
    ios[1].file = foreign;
    assert_fails(fm_fs_queue_submit(queue, ios, 2), FM_ERR_ARG, "another file system");
    ios[1] = (fm_fs_io){.kind = FM_FS_IO_WRITE, .file = read_only, .buffer = &byte, .length = 1};
    assert_fails(fm_fs_queue_submit(queue, ios, 2), FM_ERR_STATE, "not open for writing");
    ios[1].kind = (fm_fs_io_kind)9;
    assert_fails(fm_fs_queue_run(queue, ios, 2), FM_ERR_ARG, "kind is 9");
    ios[1] = good;
    ios[1].buffer = NULL;
    assert_fails(fm_fs_queue_submit(queue, ios, 2), FM_ERR_ARG, "NULL");
    ios[1] = good;
    ios[1].offset = UINT64_MAX;
    assert_fails(fm_fs_queue_submit(queue, ios, 2), FM_ERR_LIMIT, "2^63");

    fm_fs_io *done[2];
    size_t count = 9;
    assert_ok(fm_fs_queue_wait(queue, 1, -1, done, 2, &count)); // none of them was submitted
    assert_int_equal(count, 0);
    assert_ok(fm_fs_queue_submit(queue, &good, 1));
    assert_fails(fm_fs_queue_run(queue, ios, 1), FM_ERR_STATE, "1 earlier operations");
    assert_ok(fm_fs_queue_wait(queue, 1, -1, done, 2, &count));
    assert_int_equal(count, 1);
    fm_fs_queue_close(queue);
    fm_fs_queue_close(NULL);
    fm_fs_file_close(read_only);
    fm_fs_file_close(foreign);
    fm_fs_file_close(file);
    fm_fs_close(other);
    fm_fs_close(fs);

    setenv("FM_FS_QUEUE", "fast", 1);
    fs = open_tmp();
    assert_fails(fm_fs_queue_open(fs, 1, &queue), FM_ERR_ARG, "FM_FS_QUEUE is \"fast\"");
    fm_fs_close(fs);
}

static void one_failure_spares_the_others(void **state)
{
    use_engine(*state);
    fm_fs *fs = open_tmp();
    fm_fs_queue *queue;
    fm_fs_file *file = open_file(fs, "b");
    char bytes[3] = "abc";
    fm_fs_io ios[3];
    for (int i = 0; i < 3; i++)
        ios[i] = (fm_fs_io){
            .kind = FM_FS_IO_WRITE, .file = file, .buffer = &bytes[i], .length = 1, .offset = (uint64_t)i};
    ios[1].offset = INT64_MAX - 1; // beyond what any disk's file may reach
    assert_ok(fm_fs_queue_open(fs, 2, &queue));
    assert_fails(fm_fs_queue_run(queue, ios, 3), FM_ERR_LIMIT, "/b: File too large");
    assert_int_equal(ios[0].status, FM_OK);
    assert_int_equal(ios[1].status, FM_ERR_LIMIT);
    assert_int_equal(ios[2].status, FM_OK);
    fm_fs_io again = ios[2];
    again.offset = 1;
    again.buffer = &bytes[1];
    assert_ok(fm_fs_queue_run(queue, &again, 1)); // the earlier failure is forgotten
    fm_fs_queue_close(queue);
    fm_fs_file_close(file);
    void *data;
    size_t length;
    assert_ok(fm_fs_read_all(fs, "b", 10, &data, &length));
    assert_string_equal(data, "abc");
    fm_base_mem_free(data);
    fm_fs_close(fs);
}

static void forget_pages(fm_fs *fs, const char *name)
{
    char path[4300];
    assert_ok(fm_fs_local_path(fs, name, path, sizeof path));
    int fd = open(path, O_RDONLY);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
}

static void closing_gives_everything_back(void **state)
{
    use_engine(*state);
    enum { IOS = 50, BYTES = 100000 };
    fm_fs *fs = open_tmp();
    fm_fs_queue *queue;
    fm_fs_file *file = open_file(fs, "c");
    static char buffers[IOS][BYTES];
    fm_fs_io ios[IOS];
    memset(buffers[0], 'c', BYTES);
    assert_ok(fm_fs_file_write(file, buffers[0], BYTES, 0));
    assert_ok(fm_fs_file_sync(file));
    forget_pages(fs, "c"); // so that reads are under way, on a disk, when the queue is closed
    memset(buffers, 0, sizeof buffers);
    for (int i = 0; i < IOS; i++)
        ios[i] = (fm_fs_io){.kind = FM_FS_IO_READ,
                            .file = file,
                            .buffer = buffers[i],
                            .length = BYTES,
                            .status = FM_ERR_INTERNAL};
    assert_ok(fm_fs_queue_open(fs, 1, &queue));
    int blocking = strcmp(fm_fs_queue_engine(queue), "blocking") == 0;
    assert_ok(fm_fs_queue_submit(queue, ios, IOS));
    fm_fs_queue_close(queue);
    int dropped = 0;
    for (int i = 0; i < IOS; i++) {
        if (ios[i].status == FM_OK)
            assert_int_equal(buffers[i][BYTES - 1], 'c');
        else
            assert_int_equal(ios[i].status, FM_ERR_CANCELLED);
        dropped += ios[i].status == FM_ERR_CANCELLED;
    }
    assert_true(blocking ? dropped == 0 : dropped > 0);
    fm_fs_file_close(file);
    fm_fs_close(fs);
}

// The kernel's own files come in short pieces: the rest is asked for until all is there.
static void short_reads_go_on(void **state)
{
    use_engine(*state);
    enum { BYTES = 50000 };
    static char through_queue[BYTES];
    static char directly[BYTES];
    fm_fs *fs;
    fm_fs_file *file;
    fm_fs_queue *queue;
    assert_ok(fm_fs_open("/proc", 0, &fs));
    if (fm_fs_file_open(fs, "kallsyms", FM_FS_READ, &file) < 0) {
        fm_fs_close(fs);
        fm_test_skip("this kernel has no /proc/kallsyms, a file that is read in short pieces");
    }
    fm_fs_io io = {
        .kind = FM_FS_IO_READ, .file = file, .buffer = through_queue, .length = BYTES, .offset = 10};
    int fd = open("/proc/kallsyms", O_RDONLY);
    assert_true(fd >= 0 && pread(fd, directly, BYTES, 10) < BYTES); // it is as the test thinks
    size_t have = 0;
    for (ssize_t got;
         have < BYTES && (got = pread(fd, directly + have, BYTES - have, (off_t)(10 + have))) > 0;)
        have += (size_t)got;
    close(fd);
    assert_ok(fm_fs_queue_open(fs, 1, &queue));
    assert_ok(fm_fs_queue_run(queue, &io, 1));
    assert_int_equal(io.done, have);
    assert_memory_equal(through_queue, directly, have);
    fm_fs_queue_close(queue);
    fm_fs_file_close(file);
    fm_fs_close(fs);
}

static fm_status open_queue(void *context)
{
    fm_fs_queue *queue;
    FM_TRY(fm_fs_queue_open(context, 8, &queue));
    fm_fs_queue_close(queue);
    return FM_OK;
}

static void refused_allocations_leave_nothing(void **state)
{
    use_engine(*state);
    fm_fs *fs = open_tmp();
    fm_test_each_alloc_fails(open_queue, fs);
    fm_fs_close(fs);
}

struct reader {
    fm_fs *fs;
    fm_fs_file *file;
    fm_status status;
};

static fm_status read_in_batches(struct reader *reader)
{
    enum { BATCH = 32 };
    unsigned char buffers[BATCH][64];
    fm_fs_io ios[BATCH];
    fm_fs_queue *queue;
    FM_TRY(fm_fs_queue_open(reader->fs, 8, &queue));
    fm_status status = FM_OK;
    for (int turn = 0; turn < 20 && status == FM_OK; turn++) {
        for (int i = 0; i < BATCH; i++)
            ios[i] = (fm_fs_io){.kind = FM_FS_IO_READ,
                                .file = reader->file,
                                .buffer = buffers[i],
                                .length = 64,
                                .offset = (uint64_t)((turn * 7 + i * 13) % 200) * 64};
        status = fm_fs_queue_run(queue, ios, BATCH);
        for (int i = 0; i < BATCH && status == FM_OK; i++)
            for (int j = 0; j < 64; j++)
                if (buffers[i][j] != (ios[i].offset / 64 & 0xff))
                    status = FM_ERR_INTERNAL;
    }
    fm_fs_queue_close(queue);
    return status;
}

static void *reader_thread(void *argument)
{
    struct reader *reader = argument;
    reader->status = read_in_batches(reader);
    return NULL;
}

static void threads_have_queues_of_their_own(void **state)
{
    enum { THREADS = 4 };
    use_engine(*state);
    fm_fs *fs = open_tmp();
    fm_fs_file *file = open_file(fs, "d");
    pthread_t threads[THREADS];
    struct reader readers[THREADS];
    for (int i = 0; i < 200; i++) {
        unsigned char block[64];
        memset(block, i, sizeof block);
        assert_ok(fm_fs_file_write(file, block, sizeof block, (uint64_t)i * 64));
    }
    for (int i = 0; i < THREADS; i++) {
        readers[i] = (struct reader){fs, file, FM_OK};
        assert_int_equal(pthread_create(&threads[i], NULL, reader_thread, &readers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(readers[i].status, FM_OK);
    }
    fm_fs_file_close(file);
    fm_fs_close(fs);
}

// A back end without queues of its own is served all the same.
static void any_back_end_has_queues(void **state)
{
    (void)state;
    use_engine("");
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_queue *queue;
    fm_fs_file *file = open_file(fs, "e");
    char byte = 'x';
    fm_fs_io io = {.kind = FM_FS_IO_WRITE, .file = file, .buffer = &byte, .length = 1, .offset = 3};
    assert_ok(fm_fs_queue_open(fs, 8, &queue));
    assert_string_equal(fm_fs_queue_engine(queue), "blocking");
    assert_ok(fm_fs_queue_run(queue, &io, 1));
    fm_fs_mem_fail_at(fs, 1);
    assert_fails(fm_fs_queue_run(queue, &io, 1), FM_ERR_IO, "disk fails");
    fm_fs_queue_close(queue);
    fm_fs_file_close(file);
    fm_fs_close(fs);
}

static void io_uring_was_tested(void **state)
{
    (void)state;
    use_engine("");
    fm_fs *fs = open_tmp();
    fm_fs_queue *queue;
    assert_ok(fm_fs_queue_open(fs, 8, &queue));
    char engine[16];
    snprintf(engine, sizeof engine, "%s", fm_fs_queue_engine(queue));
    fm_fs_queue_close(queue);
    fm_fs_close(fs);
#ifdef FM_HAVE_IO_URING
    if (strcmp(engine, "io_uring") != 0)
        fm_test_skip("this kernel or sandbox allows no io_uring: only the blocking engine was tested");
#else
    assert_string_equal(engine, "blocking");
    fm_test_skip("built without liburing: only the blocking engine was tested");
#endif
}

static char automatic[] = "";
static char blocking[] = "blocking";
#define BY_BOTH(test)                                    \
    {#test " (automatic)", test, NULL, NULL, automatic}, \
    {                                                    \
#test " (blocking)", test, NULL, NULL, blocking  \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BY_BOTH(operations_do_what_they_say),
        BY_BOTH(wrong_operations_are_refused),
        BY_BOTH(one_failure_spares_the_others),
        BY_BOTH(closing_gives_everything_back),
        BY_BOTH(short_reads_go_on),
        BY_BOTH(refused_allocations_leave_nothing),
        BY_BOTH(threads_have_queues_of_their_own),
        cmocka_unit_test(any_back_end_has_queues),
        cmocka_unit_test(io_uring_was_tested),
    };
    return fm_test_run("fs_queue", tests);
}
