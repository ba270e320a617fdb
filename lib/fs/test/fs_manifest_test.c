#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/crc.h"
#include "fathom/fs_dataset.h"
#include "fs_manifest.h"
#include "mem_fs.h"

// A manifest under construction.
struct image {
    unsigned char bytes[1000];
    size_t length;
};

static struct image begin_image(uint32_t version, uint32_t count)
{
    struct image image = {.bytes = "FMDATSET", .length = 16};
    fm_put_le32(image.bytes + 8, version);
    fm_put_le32(image.bytes + 12, count);
    return image;
}

static void add_record(struct image *image, uint64_t size, size_t length, const char *name)
{
    unsigned char *at = image->bytes + image->length;
    fm_put_le64(at, size);
    fm_put_le16(at + 8, (uint16_t)length);
    memcpy(at + 10, name, strlen(name) + 1);
    image->length += 11 + strlen(name);
}

// Completes the image and parses it from a block of exactly its size.
static fm_status parse(struct image *image, size_t *out_count)
{
    struct fm_fs_manifest_file *files;
    fm_put_le32(image->bytes + image->length, fm_base_crc32c(0, image->bytes, image->length));
    image->length += 4;
    unsigned char *exact = malloc(image->length);
    memcpy(exact, image->bytes, image->length);
    fm_status status = fm_fs_manifest_parse(exact, image->length, "m", &files, out_count);
    if (status == FM_OK)
        fm_base_mem_free(files);
    free(exact);
    return status;
}

static void format_is_as_documented(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    void *data;
    size_t length;
    assert_ok(fm_fs_mkdir(fs, "set/sub", FM_FS_PARENTS));
    assert_ok(fm_fs_write_all(fs, "set/b", "12345", 5, 0));
    assert_ok(fm_fs_write_all(fs, "set/sub/a", "", 0, 0));
    assert_ok(fm_fs_manifest_write(fs, "./set//m", (const char *const[]){"b", "./sub/a"}, 2));
    assert_ok(fm_fs_read_all(fs, "set/m", 1000, &data, &length));
    struct image expected = begin_image(1, 2);
    add_record(&expected, 5, 1, "b");
    add_record(&expected, 0, 5, "sub/a");
    fm_put_le32(expected.bytes + expected.length, fm_base_crc32c(0, expected.bytes, expected.length));
    assert_int_equal(length, expected.length + 4);
    assert_memory_equal(data, expected.bytes, length);
    fm_base_mem_free(data);
    fm_fs_close(fs);
}

static void bad_manifests_are_refused(void **state)
{
    (void)state;
    size_t count = 7;
    struct fm_fs_manifest_file *files;
    struct image image = begin_image(1, 1);
    add_record(&image, 5, 1, "b");
    struct image good = image;
    assert_ok(parse(&image, &count));
    assert_int_equal(count, 1);
    count = 7;
    for (size_t cut = 0; cut < image.length; cut++) // every truncation
        assert_int_equal(fm_fs_manifest_parse(image.bytes, cut, "m", &files, &count), FM_ERR_FORMAT);
    for (size_t bit = 0; bit < 8 * image.length; bit++) { // every flipped bit
        image.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        fm_status status = fm_fs_manifest_parse(image.bytes, image.length, "m", &files, &count);
        assert_int_equal(status, bit / 32 == 2 ? FM_ERR_VERSION : FM_ERR_FORMAT);
        image.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }

    // What a wrong writer, or a hostile one, gives a sound checksum.
    image = begin_image(2, 1);
    assert_fails(parse(&image, &count), FM_ERR_VERSION, "version 2");
    image = begin_image(1, 0);
    assert_fails(parse(&image, &count), FM_ERR_FORMAT, "lists 0 files");
    image = good;
    fm_put_le32(image.bytes + 12, UINT32_MAX);
    assert_fails(parse(&image, &count), FM_ERR_FORMAT, "4294967295 files");
    image = good;
    add_record(&image, 5, 1, "c");
    assert_fails(parse(&image, &count), FM_ERR_FORMAT, "12 bytes follow");
    image = begin_image(1, 2);
    add_record(&image, 5, 12, "123456789012");
    assert_fails(parse(&image, &count), FM_ERR_FORMAT, "file 1: the record is cut short");
    image = begin_image(1, 1);
    add_record(&image, (uint64_t)1 << 63, 1, "b");
    assert_fails(parse(&image, &count), FM_ERR_FORMAT, "2^63");
    image = begin_image(1, 1);
    add_record(&image, 5, 60000, "b");
    assert_fails(parse(&image, &count), FM_ERR_FORMAT, "beyond the end");
    static const struct {
        size_t length;
        const char *name;
    } names[] = {{1, "bc"}, {2, "b"},  {0, ""},    {2, ".."}, {4, "a/.."},
                 {2, "/b"}, {2, "b/"}, {3, "a//"}, {1, "."}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        image = begin_image(1, 1);
        add_record(&image, 5, names[i].length, names[i].name);
        assert_int_equal(parse(&image, &count), FM_ERR_FORMAT);
        assert_memory_equal(fm_error_message(), "m: file 0: ", 11);
    }
    assert_int_equal(count, 7);
}

static void what_cannot_be_listed_is_said(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_info info;
    assert_ok(fm_fs_mkdir(fs, "dir", 0));
    assert_fails(fm_fs_manifest_write(fs, "m", NULL, 0), FM_ERR_ARG, "count is 0");
    assert_fails(fm_fs_manifest_write(fs, "m", (const char *const[]){"none"}, 1), FM_ERR_NOT_FOUND,
                 "file 0 of m");
    assert_fails(fm_fs_manifest_write(fs, "m", (const char *const[]){"dir"}, 1), FM_ERR_FS_IS_DIR, "dir");
    assert_fails(fm_fs_manifest_write(fs, "m", (const char *const[]){"../a"}, 1), FM_ERR_ARG, "..");
    assert_fails(fm_fs_manifest_write(fs, ".", (const char *const[]){"a"}, 1), FM_ERR_FS_IS_DIR, "root");
    assert_fails(fm_fs_stat(fs, "m", &info), FM_ERR_NOT_FOUND, "m");
    fm_fs_close(fs);
}

static void any_files(fm_gen *gen)
{
    enum { FILES_MAX = 40 };
    fm_fs *fs = fm_fs_mem_new();
    static char names[FILES_MAX][FM_FS_NAME_MAX + 1];
    const char *list[FILES_MAX];
    uint64_t sizes[FILES_MAX];
    fm_fs_dataset *dataset;
    size_t count = (size_t)fm_gen_int(gen, 1, FILES_MAX);
    for (size_t i = 0; i < count; i++) {
        fm_fs_file *file;
        size_t length = (size_t)fm_gen_size(gen, 2, FM_FS_NAME_MAX);
        memset(names[i], 'a' + (int)(i % 26), length);
        names[i][0] = (char)('A' + i / 26);
        names[i][length] = 0;
        list[i] = names[i];
        sizes[i] = (uint64_t)fm_gen_size(gen, 0, 5000);
        assert_ok(fm_fs_file_open(fs, names[i], FM_FS_WRITE | FM_FS_CREATE, &file));
        assert_ok(fm_fs_file_truncate(file, sizes[i]));
        fm_fs_file_close(file);
    }
    assert_ok(fm_fs_manifest_write(fs, "m", list, count));
    assert_ok(fm_fs_dataset_open(fs, "m", 1, &dataset));
    assert_int_equal(fm_fs_dataset_count(dataset), count);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(fm_fs_dataset_name(dataset, i), names[i]);
        assert_int_equal(fm_fs_dataset_size(dataset, i), sizes[i]);
    }
    assert_null(fm_fs_dataset_name(dataset, count));
    assert_int_equal(fm_fs_dataset_size(dataset, count), 0);
    fm_fs_dataset_close(dataset);
    fm_fs_close(fs);
}

static void manifests_read_back(void **state)
{
    (void)state;
    fm_gen_property(50, any_files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format_is_as_documented),
        cmocka_unit_test(bad_manifests_are_refused),
        cmocka_unit_test(what_cannot_be_listed_is_said),
        cmocka_unit_test(manifests_read_back),
    };
    return fm_test_run("fs_manifest", tests);
}
