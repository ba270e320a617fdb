#include "fm_test.h"
#include "fm_gen.h"

#include <sys/resource.h>

#include "fathom/fs_dataset.h"

// 700 files, more than a dataset keeps open, of 0 to 699 bytes.
enum { FILES = 700 };

static unsigned char byte_at(size_t file, uint64_t offset)
{
    return (unsigned char)(file * 13 + offset * 7);
}

static fm_fs *open_set(void)
{
    static int made;
    fm_fs *fs;
    assert_ok(fm_fs_open(fm_test_tmpdir(), 0, &fs));
    if (made++)
        return fs;
    static char names[FILES][16];
    const char *list[FILES];
    assert_ok(fm_fs_mkdir(fs, "set/files", FM_FS_PARENTS));
    for (size_t i = 0; i < FILES; i++) {
        char path[32];
        unsigned char bytes[FILES];
        snprintf(names[i], sizeof names[i], "files/%zu", i);
        snprintf(path, sizeof path, "set/%s", names[i]);
        for (size_t j = 0; j < i; j++)
            bytes[j] = byte_at(i, j);
        assert_ok(fm_fs_write_all(fs, path, bytes, i, FM_FS_NO_SYNC));
        list[i] = names[i];
    }
    assert_ok(fm_fs_manifest_write(fs, "set/all.manifest", list, FILES));
    return fs;
}

static void read_batch(fm_gen *gen, fm_fs_dataset *dataset)
{
    enum { RANGES = 600 };
    static unsigned char buffers[RANGES][FILES];
    fm_fs_range ranges[RANGES];
    size_t count = (size_t)fm_gen_size(gen, 0, RANGES);
    size_t span = (size_t)fm_gen_size(gen, 1, FILES); // few files or many
    for (size_t i = 0; i < count; i++) {
        size_t file = (size_t)fm_gen_int(gen, 0, (int64_t)span - 1);
        uint64_t offset = (uint64_t)fm_gen_int(gen, 0, (int64_t)file);
        size_t length = (size_t)fm_gen_size(gen, 0, (int64_t)(file - offset));
        ranges[i] = (fm_fs_range){file, offset, length, buffers[i]};
    }
    assert_ok(fm_fs_dataset_read(dataset, ranges, count));
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < ranges[i].length; j++)
            assert_int_equal(buffers[i][j], byte_at(ranges[i].file, ranges[i].offset + j));
}

static void any_reads(fm_gen *gen)
{
    fm_fs *fs = open_set();
    fm_fs_dataset *dataset;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit few = {300, before.rlim_max}; // 256 for the dataset's files, and not the double of it
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_ok(fm_fs_dataset_open(fs, "set/all.manifest", (unsigned)fm_gen_size(gen, 1, 256), &dataset));
    for (int i = 0; i < 8; i++)
        read_batch(gen, dataset);
    fm_fs_dataset_close(dataset);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    fm_fs_close(fs);
}

static void ranges_hold_what_the_files_hold(void **state)
{
    (void)state;
    fm_gen_property(10, any_reads);
}

static void wrong_ranges_are_refused(void **state)
{
    (void)state;
    fm_fs *fs = open_set();
    fm_fs_dataset *dataset;
    unsigned char buffer[16];
    assert_ok(fm_fs_dataset_open(fs, "set/all.manifest", 4, &dataset));
    fm_fs_range ranges[2] = {{5, 0, 5, buffer}, {FILES, 0, 1, buffer}};
    assert_fails(fm_fs_dataset_read(dataset, ranges, 2), FM_ERR_ARG, "range 1: file is 700");
    ranges[1] = (fm_fs_range){5, 0, 6, buffer};
    assert_fails(fm_fs_dataset_read(dataset, ranges, 2), FM_ERR_ARG,
                 "range 1: 6 bytes at offset 0; files/5 has 5");
    ranges[1] = (fm_fs_range){5, UINT64_MAX, 2, buffer};
    assert_fails(fm_fs_dataset_read(dataset, ranges, 2), FM_ERR_ARG, "range 1");
    ranges[1] = (fm_fs_range){5, 6, 0, buffer};
    assert_fails(fm_fs_dataset_read(dataset, ranges, 2), FM_ERR_ARG, "range 1");
    ranges[1] = (fm_fs_range){5, 5, 0, buffer};
    assert_ok(fm_fs_dataset_read(dataset, ranges, 2));
    fm_fs_dataset_close(dataset);
    fm_fs_dataset_close(NULL);
    fm_fs_close(fs);
}

static void changed_files_are_noticed(void **state)
{
    (void)state;
    fm_fs *fs = open_set();
    fm_fs_dataset *dataset;
    fm_fs_file *file;
    unsigned char buffer[16];
    fm_fs_range range = {0, 8, 4, buffer};
    assert_ok(fm_fs_mkdir(fs, "changed", 0));
    assert_ok(fm_fs_write_all(fs, "changed/a", "0123456789ab", 12, 0));
    assert_ok(fm_fs_write_all(fs, "changed/b", "0123456789ab", 12, 0));
    assert_ok(fm_fs_manifest_write(fs, "changed/m", (const char *const[]){"a", "b"}, 2));
    assert_ok(fm_fs_dataset_open(fs, "changed/m", 4, &dataset));
    assert_ok(fm_fs_dataset_read(dataset, &range, 1));
    assert_memory_equal(buffer, "89ab", 4);

    assert_ok(fm_fs_file_open(fs, "changed/a", FM_FS_WRITE, &file));
    assert_ok(fm_fs_file_truncate(file, 10));
    fm_fs_file_close(file);
    assert_fails(fm_fs_dataset_read(dataset, &range, 1), FM_ERR_STATE,
                 "a has 10 bytes; the manifest says 12");
    assert_ok(fm_fs_write_all(fs, "changed/b", "longer than before", 18, 0));
    range.file = 1;
    assert_fails(fm_fs_dataset_read(dataset, &range, 1), FM_ERR_STATE, "b has 18 bytes");
    assert_ok(fm_fs_unlink(fs, "changed/b"));
    assert_fails(fm_fs_dataset_read(dataset, &range, 1), FM_ERR_NOT_FOUND, "changed/b");
    fm_fs_dataset_close(dataset);

    // The directory as a whole may move.
    assert_ok(fm_fs_write_all(fs, "changed/b", "0123456789ab", 12, 0));
    assert_ok(fm_fs_rename(fs, "changed", "moved", 0));
    assert_ok(fm_fs_dataset_open(fs, "moved/m", 4, &dataset));
    assert_ok(fm_fs_dataset_read(dataset, &range, 1));
    fm_fs_dataset_close(dataset);
    fm_fs_close(fs);
}

/* Streams */

struct sampler {
    fm_gen gen;
    size_t left, span, wrong_at, named;
};

static size_t draw_samples(void *context, fm_fs_sample *samples, size_t max)
{
    struct sampler *sampler = context;
    size_t count = max < sampler->left ? max : sampler->left;
    for (size_t i = 0; i < count; i++) {
        size_t file = (size_t)fm_gen_int(&sampler->gen, 0, (int64_t)sampler->span - 1);
        uint64_t offset = (uint64_t)fm_gen_int(&sampler->gen, 0, (int64_t)file);
        size_t length = (size_t)fm_gen_size(&sampler->gen, 0, (int64_t)(file - offset));
        if (++sampler->named == sampler->wrong_at)
            file = FILES;
        samples[i] = (fm_fs_sample){file, offset, length, sampler->named};
    }
    sampler->left -= count;
    return count;
}

static void any_stream(fm_gen *gen)
{
    fm_fs *fs = open_set();
    fm_fs_dataset *dataset;
    fm_fs_stream *stream;
    const fm_fs_sample *sample;
    const void *bytes;
    uint64_t seed = fm_gen_u64(gen);
    size_t count = (size_t)fm_gen_size(gen, 0, 1500);
    struct sampler sampler = {fm_gen_seeded(seed), count, (size_t)fm_gen_size(gen, 1, FILES), 0, 0};
    struct sampler again = sampler;
    fm_fs_stream_options options = {.size = sizeof options,
                                    .samples_ahead = (uint32_t)fm_gen_size(gen, 1, 400),
                                    .bytes_ahead = (size_t)fm_gen_size(gen, 1, 20000)};
    assert_ok(fm_fs_dataset_open(fs, "set/all.manifest", (unsigned)fm_gen_size(gen, 1, 64), &dataset));
    assert_ok(fm_fs_stream_open(dataset, draw_samples, &sampler, &options, &stream));
    for (size_t i = 0; i < count; i++) {
        fm_fs_sample expected;
        assert_int_equal(draw_samples(&again, &expected, 1), 1);
        assert_ok(fm_fs_stream_next(stream, &sample, &bytes));
        assert_non_null(sample);
        assert_memory_equal(sample, &expected, sizeof expected);
        for (size_t j = 0; j < sample->length; j++)
            assert_int_equal(((const unsigned char *)bytes)[j], byte_at(sample->file, sample->offset + j));
    }
    assert_ok(fm_fs_stream_next(stream, &sample, &bytes));
    assert_null(sample);
    fm_fs_stream_counts counts;
    fm_fs_stream_count(stream, &counts);
    assert_true(counts.samples == count && counts.waits <= count);
    fm_fs_stream_close(stream);
    fm_fs_dataset_close(dataset);
    fm_fs_close(fs);
}

static void streams_bring_the_samplers_order(void **state)
{
    (void)state;
    fm_gen_property(30, any_stream);
}

static void streams_are_read_ahead(void **state)
{
    (void)state;
    fm_fs *fs = open_set();
    fm_fs_dataset *dataset;
    fm_fs_stream *stream;
    const fm_fs_sample *sample;
    const void *bytes;
    unsigned char byte;
    struct sampler sampler = {fm_gen_seeded(1), 1000, FILES, 50, 0};
    const fm_fs_range range = {5, 0, 1, &byte};
    fm_fs_stream_options options = {.size = sizeof options, .samples_ahead = 20};
    assert_ok(fm_fs_dataset_open(fs, "set/all.manifest", 4, &dataset));
    assert_ok(fm_fs_stream_open(dataset, draw_samples, &sampler, &options, &stream));
    assert_true(sampler.named >= 20); // before anybody has taken one
    assert_fails(fm_fs_dataset_read(dataset, &range, 1), FM_ERR_STATE, "stream");
    fm_fs_stream *other = NULL;
    assert_fails(fm_fs_stream_open(dataset, draw_samples, &sampler, &options, &other), FM_ERR_STATE,
                 "another");
    // What the sampler does wrong is told in its turn, and for good.
    for (int i = 1; i < 50; i++) {
        assert_ok(fm_fs_stream_next(stream, &sample, &bytes));
        assert_int_equal(sample->tag, i);
    }
    assert_fails(fm_fs_stream_next(stream, &sample, &bytes), FM_ERR_ARG, "sample 49: file is 700");
    assert_fails(fm_fs_stream_next(stream, &sample, &bytes), FM_ERR_ARG, "failed before");
    fm_fs_stream_close(stream);
    assert_ok(fm_fs_dataset_read(dataset, &range, 1));
    options.samples_ahead = 5000;
    assert_fails(fm_fs_stream_open(dataset, draw_samples, &sampler, &options, &stream), FM_ERR_ARG, "4096");
    fm_fs_stream_close(NULL);
    fm_fs_dataset_close(dataset);
    fm_fs_close(fs);
}

static fm_status stream_some(void *context)
{
    struct sampler sampler = {fm_gen_seeded(1), 6, 50, 0, 0};
    const fm_fs_stream_options options = {.size = sizeof options, .samples_ahead = 3};
    const fm_fs_sample *sample = NULL;
    const void *bytes;
    fm_fs_dataset *dataset;
    fm_fs_stream *stream;
    FM_TRY(fm_fs_dataset_open(context, "set/all.manifest", 4, &dataset));
    fm_status status = fm_fs_stream_open(dataset, draw_samples, &sampler, &options, &stream);
    if (status == FM_OK) {
        do
            status = fm_fs_stream_next(stream, &sample, &bytes);
        while (status == FM_OK && sample);
        fm_fs_stream_close(stream);
    }
    fm_fs_dataset_close(dataset);
    return status;
}

static fm_status open_and_read(void *context)
{
    unsigned char buffer[3];
    fm_fs_range range = {9, 2, 3, buffer};
    fm_fs_dataset *dataset;
    FM_TRY(fm_fs_dataset_open(context, "set/all.manifest", 4, &dataset));
    fm_status status = fm_fs_dataset_read(dataset, &range, 1);
    fm_fs_dataset_close(dataset);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_fs *fs = open_set();
    fm_test_each_alloc_fails(open_and_read, fs);
    fm_test_each_alloc_fails(stream_some, fs);
    fm_fs_close(fs);
}

static void what_cannot_be_opened_is_said(void **state)
{
    (void)state;
    fm_fs *fs = open_set();
    fm_fs_dataset *dataset = NULL;
    assert_fails(fm_fs_dataset_open(fs, "set/none", 4, &dataset), FM_ERR_NOT_FOUND, "set/none");
    assert_fails(fm_fs_dataset_open(fs, "set/files/600", 4, &dataset), FM_ERR_FORMAT,
                 "set/files/600 is not a manifest");
    assert_fails(fm_fs_dataset_open(fs, "set/all.manifest", 0, &dataset), FM_ERR_ARG, "depth");
    assert_null(dataset);
    fm_fs_close(fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_hold_what_the_files_hold),
        cmocka_unit_test(streams_bring_the_samplers_order),
        cmocka_unit_test(streams_are_read_ahead),
        cmocka_unit_test(wrong_ranges_are_refused),
        cmocka_unit_test(changed_files_are_noticed),
        cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(what_cannot_be_opened_is_said),
    };
    return fm_test_run("fs_dataset", tests);
}
