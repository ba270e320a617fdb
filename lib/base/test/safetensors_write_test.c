#include "fm_gen.h"
#include "fm_test.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

#include "fathom/safetensors.h"

static const char *target(const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", fm_test_tmpdir(), name);
    return path;
}

static size_t slurp(const char *path, char *bytes, size_t room)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t length = fread(bytes, 1, room, file);
    assert_int_equal(fclose(file), 0);
    assert_true(length < room);
    return length;
}

static int drafts_left(void)
{
    int found = 0;
    DIR *folder = opendir(fm_test_tmpdir());
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        found += strstr(entry->d_name, ".tmp") != NULL;
    closedir(folder);
    return found;
}

/** What the original writes for the same tensors, to the byte: larger alignment first, then by name; padded to 8. */
static void the_layout_is_the_originals(void **state)
{
    (void)state;
    static const char expected[] = "\x08\1\0\0\0\0\0\0"
                                   "{\"__metadata__\":{\"epoch\":\"3\",\"format\":\"pt\"},"
                                   "\"z\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
                                   "\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[8,16]},"
                                   "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[16,20]},"
                                   "\"c\\n\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[20,23]}} "
                                   "\1\0\0\0\0\0\0\0"
                                   "AAAABBBBCCCCxyz";
    int64_t one = 1;
    char text[] = "AAAABBBBCCCCxyz";
    fm_tensor tensors[4];
    assert_ok(fm_base_tensor_init(&tensors[0], FM_DTYPE_U8, 1, (int64_t[]){3}, text + 12));
    assert_ok(fm_base_tensor_init(&tensors[1], FM_DTYPE_F32, 0, NULL, text + 8));
    assert_ok(fm_base_tensor_init(&tensors[2], FM_DTYPE_I64, 1, (int64_t[]){1}, &one));
    assert_ok(fm_base_tensor_init(&tensors[3], FM_DTYPE_F32, 2, (int64_t[]){1, 2}, text));
    const char *const names[] = {"c\n", "b", "z", "a"};
    const char *const metadata[] = {"format", "pt", "epoch", "3", NULL};
    const char *path = target("layout.safetensors");
    assert_ok(fm_base_safetensors_write(path, names, tensors, 4, metadata));
    char bytes[1000];
    assert_int_equal(slurp(path, bytes, sizeof bytes), sizeof expected - 1);
    assert_memory_equal(bytes, expected, sizeof expected - 1);
    assert_int_equal(drafts_left(), 0);
}

static void pieces_come_in_any_order(void **state)
{
    (void)state;
    const char *path = target("pieces.safetensors");
    fm_safetensors_writer *writer;
    assert_ok(fm_base_safetensors_create(path, &writer));
    assert_ok(fm_base_safetensors_declare(writer, "a", FM_DTYPE_U8, 1, (int64_t[]){4}));
    assert_ok(fm_base_safetensors_declare(writer, "b", FM_DTYPE_U8, 1, (int64_t[]){2}));
    assert_fails(fm_base_safetensors_put(writer, "a", 0, "x", 1), FM_ERR_STATE, "before the start");
    assert_ok(fm_base_safetensors_start(writer));
    assert_fails(fm_base_safetensors_start(writer), FM_ERR_STATE, "its header is written");
    assert_fails(fm_base_safetensors_declare(writer, "c", FM_DTYPE_U8, 0, NULL), FM_ERR_STATE,
                 "its header is written");
    assert_fails(fm_base_safetensors_note(writer, "k", "v"), FM_ERR_STATE, "its header is written");
    assert_ok(fm_base_safetensors_put(writer, "b", 0, "56", 2));
    assert_ok(fm_base_safetensors_put(writer, "a", 3, "4", 1));
    assert_ok(fm_base_safetensors_put(writer, "a", 0, "123", 3));
    assert_fails(fm_base_safetensors_put(writer, "c", 0, "x", 1), FM_ERR_NOT_FOUND,
                 "tensor \"c\" was not declared");
    assert_fails(fm_base_safetensors_put(writer, "a", 4, "x", 1), FM_ERR_ARG,
                 "1 bytes at 4 of tensor \"a\", which has 4");
    assert_fails(fm_base_safetensors_put(writer, "a", SIZE_MAX, "x", 1), FM_ERR_ARG, "which has 4");
    FILE *early = fopen(path, "rb");
    assert_null(early); // nothing under the name before the end
    assert_ok(fm_base_safetensors_finish(writer));
    fm_safetensors *file;
    assert_ok(fm_base_safetensors_open(path, &file));
    assert_memory_equal(fm_base_safetensors_get(file, "a")->data, "1234", 4);
    assert_memory_equal(fm_base_safetensors_get(file, "b")->data, "56", 2);
    fm_base_safetensors_close(file);
}

static void misuse_is_refused(void **state)
{
    (void)state;
    fm_safetensors_writer *writer;
    assert_ok(fm_base_safetensors_create(target("misuse.safetensors"), &writer));
    assert_fails(fm_base_safetensors_declare(writer, "__metadata__", FM_DTYPE_U8, 0, NULL), FM_ERR_ARG,
                 "cannot be named __metadata__");
    assert_fails(fm_base_safetensors_declare(writer, "a\xFF", FM_DTYPE_U8, 0, NULL), FM_ERR_ARG,
                 "not UTF-8 at byte 1");
    assert_fails(fm_base_safetensors_declare(writer, "a", FM_DTYPE_U8, 1, (int64_t[]){-1}), FM_ERR_ARG,
                 "misuse.safetensors: tensor \"a\": dimension 0 is -1");
    assert_fails(fm_base_safetensors_note(writer, "k", "\x80"), FM_ERR_ARG, "a metadata value is not UTF-8");
    assert_fails(fm_base_safetensors_finish(writer), FM_ERR_STATE, "finished before the start");

    assert_ok(fm_base_safetensors_create(target("misuse.safetensors"), &writer));
    assert_ok(fm_base_safetensors_declare(writer, "a", FM_DTYPE_U8, 0, NULL));
    assert_ok(fm_base_safetensors_declare(writer, "a", FM_DTYPE_F32, 0, NULL));
    assert_fails(fm_base_safetensors_start(writer), FM_ERR_EXISTS, "tensor \"a\" is declared twice");
    fm_base_safetensors_abandon(writer);

    assert_ok(fm_base_safetensors_create(target("misuse.safetensors"), &writer));
    assert_ok(fm_base_safetensors_note(writer, "k", "1"));
    assert_ok(fm_base_safetensors_note(writer, "k", "2"));
    assert_fails(fm_base_safetensors_start(writer), FM_ERR_EXISTS, "metadata key \"k\" is given twice");
    fm_base_safetensors_abandon(writer);

    assert_ok(fm_base_safetensors_create(target("misuse.safetensors"), &writer));
    assert_ok(fm_base_safetensors_declare(writer, "a", FM_DTYPE_U8, 1, (int64_t[]){4}));
    assert_ok(fm_base_safetensors_start(writer));
    assert_ok(fm_base_safetensors_put(writer, "a", 0, "123", 3));
    assert_fails(fm_base_safetensors_finish(writer), FM_ERR_STATE,
                 "3 bytes of tensor \"a\" were put; it has 4");

    float data[4] = {0};
    fm_tensor tensor;
    assert_ok(fm_base_tensor_init(&tensor, FM_DTYPE_F32, 2, (int64_t[]){2, 2}, data));
    tensor.stride[0] = 1;
    tensor.stride[1] = 2;
    assert_fails(
        fm_base_safetensors_write(target("misuse.safetensors"), (const char *const[]){"a"}, &tensor, 1, NULL),
        FM_ERR_ARG, "tensor \"a\" is not contiguous");
    fm_base_safetensors_abandon(NULL);
    assert_int_equal(drafts_left(), 0);
}

/** A file of one tensor that is larger than RLIMIT_FSIZE will let it be. */
static fm_status write_large(const char *path)
{
    static char data[10000];
    fm_tensor tensor;
    FM_TRY(fm_base_tensor_init(&tensor, FM_DTYPE_U8, 1, (int64_t[]){sizeof data}, data));
    return fm_base_safetensors_write(path, (const char *const[]){"a"}, &tensor, 1, NULL);
}

static void a_failed_write_leaves_the_old_file(void **state)
{
    (void)state;
    char path[4200];
    snprintf(path, sizeof path, "%s", fm_test_file("old.safetensors", "old", 3));
    struct rlimit saved;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &saved), 0);
    struct rlimit small = {.rlim_cur = 5000, .rlim_max = saved.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    fm_status status = write_large(path);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &saved), 0);
    signal(SIGXFSZ, handler);
    assert_fails(status, FM_ERR_LIMIT, "File too large");
    char bytes[16];
    assert_int_equal(slurp(path, bytes, sizeof bytes), 3);
    assert_int_equal(drafts_left(), 0);
    assert_ok(write_large(path));
    assert_fails(write_large("/no/such/folder/x.safetensors"), FM_ERR_NOT_FOUND,
                 "cannot create /no/such/folder/x");
    assert_fails(write_large(fm_test_tmpdir()), FM_ERR_IO, "cannot replace");
}

static fm_status write_something(void *path)
{
    float data[4] = {0};
    fm_tensor tensors[20];
    char names[20][8];
    const char *name_list[20];
    for (int i = 0; i < 20; i++) {
        FM_TRY(fm_base_tensor_init(&tensors[i], FM_DTYPE_F32, 1, (int64_t[]){4}, data));
        snprintf(names[i], sizeof names[i], "t%d", i);
        name_list[i] = names[i];
    }
    const char *const metadata[] = {"k", "v", NULL};
    return fm_base_safetensors_write(path, name_list, tensors, 20, metadata);
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    char path[4200];
    snprintf(path, sizeof path, "%s", target("alloc.safetensors"));
    fm_test_each_alloc_fails(write_something, path);
    assert_int_equal(drafts_left(), 0);
}

/** Random tensors under random names are read back as they were, to the byte. */
static void files_round_trip(fm_gen *gen)
{
    enum { TENSORS_MAX = 12, BYTES_MAX = 8 * 27 };
    char names[TENSORS_MAX][32];
    const char *name_list[TENSORS_MAX];
    fm_tensor tensors[TENSORS_MAX];
    static char data[TENSORS_MAX][BYTES_MAX];
    size_t count = (size_t)fm_gen_int(gen, 0, TENSORS_MAX);
    for (size_t i = 0; i < count; i++) {
        int ndim = (int)fm_gen_int(gen, 0, 3);
        int64_t shape[3];
        for (int d = 0; d < ndim; d++)
            shape[d] = fm_gen_int(gen, 0, 3);
        fm_dtype dtype = (fm_dtype)fm_gen_int(gen, 1, FM_DTYPE_COUNT - 1);
        fm_gen_fill(gen, data[i], BYTES_MAX);
        if (fm_base_tensor_init(&tensors[i], dtype, ndim, shape, data[i]) <
            0) // 4-bit elements, an odd number
            assert_ok(fm_base_tensor_init(&tensors[i], FM_DTYPE_F16, ndim, shape, data[i]));
        snprintf(names[i], sizeof names[i], "%c\xC3\xA9\"%d", (int)fm_gen_int(gen, 1, 126), (int)i);
        name_list[i] = names[i];
    }
    const char *path = target("random.safetensors");
    assert_ok(fm_base_safetensors_write(path, name_list, tensors, count, NULL));
    fm_safetensors *file;
    assert_ok(fm_base_safetensors_open(path, &file));
    assert_int_equal(fm_base_safetensors_count(file), count);
    for (size_t i = 0; i < count; i++) {
        const fm_tensor *read = fm_base_safetensors_get(file, names[i]);
        assert_non_null(read);
        assert_int_equal(read->dtype, tensors[i].dtype);
        assert_int_equal(read->ndim, tensors[i].ndim);
        assert_memory_equal(read->shape, tensors[i].shape, sizeof read->shape);
        assert_memory_equal(read->stride, tensors[i].stride, sizeof read->stride);
        size_t bytes;
        assert_ok(fm_base_tensor_bytes(read->dtype, read->ndim, read->shape, &bytes));
        assert_memory_equal(read->data, data[i], bytes);
        // Wider elements come first and the header ends on 8 bytes, so every address suits its type.
        int element = (fm_base_dtype_bits(read->dtype) + 7) / 8;
        assert_int_equal((uintptr_t)read->data % (uintptr_t)element, 0);
    }
    fm_base_safetensors_close(file);
}

static void round_trip_property(void **state)
{
    (void)state;
    fm_gen_property(50, files_round_trip);
}

static fm_status fill_memory(fm_safetensors_writer *writer)
{
    int64_t shape[2] = {2, 3};
    FM_TRY(fm_base_safetensors_note(writer, "step", "7"));
    FM_TRY(fm_base_safetensors_declare(writer, "b", FM_DTYPE_U8, 2, shape));
    FM_TRY(fm_base_safetensors_declare(writer, "a", FM_DTYPE_F32, 1, shape));
    FM_TRY(fm_base_safetensors_start(writer));
    FM_TRY(fm_base_safetensors_put(writer, "b", 3, "def", 3));
    FM_TRY(fm_base_safetensors_put(writer, "a", 0, "12345678", 8));
    return fm_base_safetensors_put(writer, "b", 0, "abc", 3);
}

static fm_status make_in_memory(void *context)
{
    fm_safetensors_writer *writer;
    void *bytes;
    size_t length;
    (void)context;
    FM_TRY(fm_base_safetensors_create_memory("it", &writer));
    fm_status status = fill_memory(writer);
    if (status < 0) {
        fm_base_safetensors_abandon(writer);
        return status;
    }
    FM_TRY(fm_base_safetensors_take(writer, &bytes, &length));
    fm_base_mem_free(bytes);
    return FM_OK;
}

static void memory_holds_what_the_file_would(void **state)
{
    (void)state;
    fm_safetensors_writer *on_disk, *in_memory;
    char expected[1024];
    void *bytes;
    size_t length;
    const char *path = target("twin.safetensors");
    assert_ok(fm_base_safetensors_create(path, &on_disk));
    assert_ok(fill_memory(on_disk));
    assert_ok(fm_base_safetensors_finish(on_disk));
    assert_ok(fm_base_safetensors_create_memory("twin", &in_memory));
    assert_ok(fill_memory(in_memory));
    assert_ok(fm_base_safetensors_take(in_memory, &bytes, &length));
    assert_int_equal(length, slurp(path, expected, sizeof expected));
    assert_memory_equal(bytes, expected, length);
    fm_base_mem_free(bytes);

    assert_ok(fm_base_safetensors_create_memory("twin", &in_memory));
    assert_fails(fm_base_safetensors_take(in_memory, &bytes, &length), FM_ERR_STATE, "twin");
    assert_ok(fm_base_safetensors_create_memory("twin", &in_memory));
    assert_ok(fill_memory(in_memory));
    assert_fails(fm_base_safetensors_finish(in_memory), FM_ERR_STATE, "twin lies in memory");
    assert_ok(fm_base_safetensors_create(path, &on_disk));
    assert_ok(fill_memory(on_disk));
    assert_fails(fm_base_safetensors_take(on_disk, &bytes, &length), FM_ERR_STATE, "written to disk");
    fm_test_each_alloc_fails(make_in_memory, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_layout_is_the_originals),
        cmocka_unit_test(pieces_come_in_any_order),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(a_failed_write_leaves_the_old_file),
        cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(memory_holds_what_the_file_would),
        cmocka_unit_test(round_trip_property),
    };
    return fm_test_run("base.safetensors_write", tests);
}
