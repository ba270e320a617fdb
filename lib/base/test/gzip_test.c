#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/gzip.h"

#include <zlib.h>

/* Random text that compresses about by half; the caller frees it. */
static char *make_text(size_t size)
{
    fm_gen gen = fm_gen_seeded(7);
    char *text = fm_base_mem_alloc(size);
    assert_non_null(text);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)fm_gen_int(&gen, 'a', 'p');
    return text;
}

/* Appends a gzip member to `to`, by zlib's own simple interface. Returns its size. */
static size_t compress_member(const char *text, size_t size, unsigned char *to, size_t room)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    unsigned char *from = fm_base_mem_alloc(size);
    assert_non_null(from);
    memcpy(from, text, size);
    z.next_in = from;
    z.avail_in = (unsigned)size;
    z.next_out = to;
    z.avail_out = (unsigned)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    fm_base_mem_free(from);
    size_t written = room - z.avail_out;
    deflateEnd(&z);
    return written;
}

/* Reads all in pieces of `piece` bytes; returns the status that ended it. */
static fm_status read_all(const char *path, size_t piece, char *to, size_t room, size_t *out_length)
{
    fm_gzip *stream;
    fm_status status = fm_base_gzip_open(path, &stream);
    if (status < 0)
        return status;
    size_t length = 0, got = 1;
    while (status == FM_OK && got > 0 && length < room) {
        status = fm_base_gzip_read(stream, to + length, piece < room - length ? piece : room - length, &got);
        if (status == FM_OK)
            length += got;
    }
    fm_base_gzip_close(stream);
    *out_length = length;
    return status;
}

enum { TEXT = 700000, ROOM = TEXT + 1000 };

static void plain_and_compressed_read_alike(void **state)
{
    (void)state;
    char *text = make_text(TEXT), *read = fm_base_mem_alloc(ROOM);
    unsigned char *packed = fm_base_mem_alloc(2 * TEXT);
    assert_true(read && packed);
    size_t first = compress_member(text, TEXT / 3, packed, TEXT);
    size_t second = compress_member(text + TEXT / 3, TEXT - TEXT / 3, packed + first, TEXT);
    const char *paths[] = {fm_test_file("plain", text, TEXT), fm_test_file("packed", packed, first + second)};
    static const size_t pieces[] = {1000, 65536, 1 << 20};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++) {
            size_t length = 0;
            assert_ok(read_all(paths[i], pieces[j], read, ROOM, &length));
            assert_int_equal(length, TEXT);
            assert_memory_equal(read, text, TEXT);
        }
    fm_base_mem_free(packed);
    fm_base_mem_free(read);
    fm_base_mem_free(text);
}

static void damage_is_reported_after_what_is_whole(void **state)
{
    (void)state;
    char *text = make_text(TEXT), *read = fm_base_mem_alloc(ROOM);
    unsigned char *packed = fm_base_mem_alloc(TEXT);
    assert_true(read && packed);
    size_t size = compress_member(text, TEXT, packed, TEXT), length = 0;
    const char *path = fm_test_file("cut", packed, size / 2);
    assert_fails(read_all(path, 65536, read, ROOM, &length), FM_ERR_FORMAT, "end too early at byte");
    assert_true(length > TEXT / 3 && length < TEXT);
    assert_memory_equal(read, text, length);
    packed[size - 6] ^= 1; // the check sum
    path = fm_test_file("wrong_sum", packed, size);
    assert_fails(read_all(path, 65536, read, ROOM, &length), FM_ERR_FORMAT, "check sum at byte");
    assert_int_equal(length, TEXT);
    fm_base_mem_free(packed);
    fm_base_mem_free(read);
    fm_base_mem_free(text);
}

static void small_and_missing_files(void **state)
{
    (void)state;
    char read[8];
    size_t length = 9;
    assert_ok(read_all(fm_test_file("none", "", 0), 8, read, 8, &length));
    assert_int_equal(length, 0);
    assert_ok(read_all(fm_test_file("one", "x", 1), 8, read, 8, &length));
    assert_int_equal(length, 1);
    assert_fails(read_all("/nowhere/at/all", 8, read, 8, &length), FM_ERR_NOT_FOUND, "/nowhere/at/all");
}

static fm_status read_packed(void *path)
{
    char read[64];
    size_t length;
    return read_all(path, 64, read, sizeof read, &length);
}

static void without_memory(void **state)
{
    (void)state;
    unsigned char packed[200];
    char path[4200];
    size_t size = compress_member("some text", 9, packed, sizeof packed);
    snprintf(path, sizeof path, "%s", fm_test_file("small", packed, size));
    fm_test_each_alloc_fails(read_packed, path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_and_compressed_read_alike),
        cmocka_unit_test(damage_is_reported_after_what_is_whole),
        cmocka_unit_test(small_and_missing_files),
        cmocka_unit_test(without_memory),
    };
    return fm_test_run("gzip", tests);
}
