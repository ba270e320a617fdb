#include "fm_test.h"
#include "fm_gen.h"

static void live_blocks_are_counted(void **state)
{
    (void)state;
    size_t before = fm_base_mem_live();
    void *a = fm_base_mem_alloc(10);
    void *b = fm_base_mem_zalloc(3, 5);
    void *c = fm_base_mem_aligned(100, 4096);
    assert_int_equal((uintptr_t)c % 4096, 0);
    a = fm_base_mem_realloc(a, 100, 10);
    assert_non_null(a);
    assert_int_equal(fm_base_mem_live(), before + 3);
    fm_base_mem_free(a);
    fm_base_mem_free(b);
    fm_base_mem_free(c);
    fm_base_mem_free(NULL);
    assert_int_equal(fm_base_mem_live(), before);
}

static void overflowing_sizes_are_refused(void **state)
{
    (void)state;
    assert_null(fm_base_mem_zalloc(SIZE_MAX / 2, 3));
    assert_null(fm_base_mem_realloc(NULL, SIZE_MAX / 2, 3));
    assert_null(fm_base_mem_aligned(SIZE_MAX - 3, 64));
    size_t size = 7;
    assert_fails(fm_mul_size(SIZE_MAX, 2, &size), FM_ERR_LIMIT, "overflows");
    assert_fails(fm_add_size(SIZE_MAX, 1, &size), FM_ERR_LIMIT, "overflows");
    assert_int_equal(size, 7);
    assert_ok(fm_mul_size(6, 7, &size));
    assert_int_equal(size, 42);
    fm_arena arena = {0};
    assert_null(fm_base_arena_alloc(&arena, SIZE_MAX - 2));
    assert_null(fm_base_arena_strndup(&arena, "", SIZE_MAX));
    fm_base_arena_clear(&arena);
}

static void arena_pieces_do_not_overlap(fm_gen *gen)
{
    enum { PIECES = 200 };
    fm_arena arena = {0};
    unsigned char *piece[PIECES];
    size_t size[PIECES];
    for (int i = 0; i < PIECES; i++) {
        size[i] = (size_t)fm_gen_size(gen, 0, 20000);
        piece[i] = fm_base_arena_alloc(&arena, size[i]);
        assert_non_null(piece[i]);
        assert_int_equal((uintptr_t)piece[i] % 16, 0);
        memset(piece[i], i, size[i]);
    }
    for (int i = 0; i < PIECES; i++)
        for (size_t j = 0; j < size[i]; j++)
            assert_int_equal(piece[i][j], i);
    fm_base_arena_clear(&arena);
    assert_null(arena.head);
}

static void arena_property(void **state)
{
    (void)state;
    fm_gen_property(20, arena_pieces_do_not_overlap);
}

static fm_status build_something(void *context)
{
    (void)context;
    fm_arena arena = {0};
    fm_status status = FM_OK;
    for (int i = 0; i < 10 && status == FM_OK; i++)
        if (!fm_base_arena_alloc(&arena, 5000))
            status = fm_base_error_set(FM_ERR_NOMEM, "piece %d", i);
    char *copy = fm_base_mem_strdup("text");
    if (!copy)
        status = fm_base_error_set(FM_ERR_NOMEM, "copy");
    fm_base_mem_free(copy);
    fm_base_arena_clear(&arena);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(build_something, NULL);
}

static void little_endian_access(void **state)
{
    (void)state;
    uint8_t bytes[9] = {0};
    fm_put_le32(bytes + 1, 0x11223344u);
    assert_int_equal(bytes[1], 0x44);
    assert_int_equal(bytes[4], 0x11);
    assert_int_equal(fm_get_le32(bytes + 1), 0x11223344u);
    fm_put_le16(bytes + 1, 0xA1B2);
    assert_int_equal(fm_get_le16(bytes + 1), 0xA1B2);
    fm_put_le64(bytes + 1, 0x8899AABBCCDDEEFFu);
    assert_true(fm_get_le64(bytes + 1) == 0x8899AABBCCDDEEFFu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(live_blocks_are_counted), cmocka_unit_test(overflowing_sizes_are_refused),
        cmocka_unit_test(arena_property),          cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(little_endian_access),
    };
    return fm_test_run("base.mem", tests);
}
