// Buffers that go back to their pool.
#include "fm_gen.h"
#include "fm_test.h"
#include "fs_runtime.h"

enum { LIVE = 200 };

static void check(const fm_fs_buffer *buffer, size_t size)
{
    assert_non_null(buffer);
    assert_int_equal(buffer->refs, 1);
    assert_int_equal(buffer->size, size);
    assert_int_equal((uintptr_t)buffer->data % FM_FS_PAGE, 0);
    assert_int_equal(buffer->room % FM_FS_PAGE, 0);
    assert_true(buffer->room >= size && buffer->room > 0 && !buffer->summed);
    for (size_t i = size; i < buffer->room; i++)
        assert_int_equal(buffer->data[i], 0);
}

static void buffers_never_overlap(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(1);
    fm_fs_buffer *live[LIVE] = {0};
    uint8_t marks[LIVE];
    fm_fs_pool *pool = fm_fs_pool_new();
    assert_non_null(pool);
    for (int i = 0; i < 20000; i++) {
        int at = (int)fm_gen_int(&gen, 0, LIVE - 1);
        if (live[at]) {
            for (size_t k = 0; k < live[at]->size; k += 997)
                assert_int_equal(live[at]->data[k], marks[at]);
            fm_fs_buffer_drop(live[at]);
            live[at] = NULL;
            continue;
        }
        size_t size = (size_t)fm_gen_size(&gen, 0, i % 50 ? 20000 : 5 << 20);
        live[at] = fm_fs_buffer_from(pool, size);
        check(live[at], size);
        marks[at] = (uint8_t)i;
        memset(live[at]->data, marks[at], live[at]->room);
    }
    // The pool's owner may leave before its buffers do.
    fm_fs_pool_free(pool);
    for (int i = 0; i < LIVE; i++)
        fm_fs_buffer_drop(live[i]);
}

static void a_pool_is_bounded_and_reused(void **state)
{
    (void)state;
    enum { MANY = 100, SIZE = 1 << 20 };
    fm_fs_buffer *buffers[MANY];
    unsigned pooled = 0;
    fm_fs_pool *pool = fm_fs_pool_new();
    for (int i = 0; i < MANY; i++) {
        buffers[i] = fm_fs_buffer_from(pool, SIZE);
        check(buffers[i], SIZE);
        pooled += buffers[i]->pool == pool;
    }
    assert_int_equal(pooled, 32);
    fm_fs_buffer *first = buffers[0];
    for (int i = 0; i < MANY; i++)
        fm_fs_buffer_drop(buffers[i]);
    int again = 0;
    for (int i = 0; i < 32; i++) {
        buffers[i] = fm_fs_buffer_from(pool, SIZE - (size_t)i);
        again |= buffers[i] == first;
        assert_ptr_equal(buffers[i]->pool, pool);
    }
    assert_true(again);
    for (int i = 0; i < 32; i++)
        fm_fs_buffer_drop(buffers[i]);
    fm_fs_pool_free(pool);
    fm_fs_pool_free(NULL);
    buffers[0] = fm_fs_buffer_from(NULL, 5);
    check(buffers[0], 5);
    fm_fs_buffer_drop(buffers[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_never_overlap),
        cmocka_unit_test(a_pool_is_bounded_and_reused),
    };
    return fm_test_run("fs_buffer", tests);
}
