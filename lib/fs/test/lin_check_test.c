// The checker of histories, against histories whose answer is known, and against one that tries every order.
#include "fm_gen.h"
#include "fm_test.h"
#include "lin_check.h"

#define W(value, begin, end)                \
    {                                       \
        1, value, begin, end, LIN_ALWAYS, 0 \
    }
#define R(value, begin, end)                \
    {                                       \
        0, value, begin, end, LIN_ALWAYS, 0 \
    }
#define WHEN(condition, than, value, begin, end) \
    {                                            \
        1, value, begin, end, condition, than    \
    }
#define CHECK(...) lin_check((lin_op[]){__VA_ARGS__}, sizeof((lin_op[]){__VA_ARGS__}) / sizeof(lin_op))

static void known_histories(void **state)
{
    (void)state;
    assert_int_equal(CHECK(R(0, 0, 1)), LIN_YES);
    assert_int_equal(CHECK(R(1, 0, 1)), LIN_NO);
    assert_int_equal(CHECK(W(1, 0, 1), R(1, 2, 3)), LIN_YES);
    assert_int_equal(CHECK(W(1, 0, 1), R(0, 2, 3)), LIN_NO);              // a lost write
    assert_int_equal(CHECK(W(1, 0, 9), R(1, 1, 2), R(0, 3, 4)), LIN_NO);  // back in time
    assert_int_equal(CHECK(W(1, 0, 9), R(0, 1, 2), R(1, 3, 4)), LIN_YES); // during the write
    assert_int_equal(CHECK(W(1, 0, 1), W(2, 2, 3), R(1, 4, 5)), LIN_NO);
    assert_int_equal(CHECK(W(1, 0, INT64_MAX), R(0, 2, 3), R(1, 4, 5)), LIN_YES); // late
    assert_int_equal(CHECK(W(1, 0, INT64_MAX), R(1, 2, 3), R(0, 4, 5)), LIN_NO);  // happened once
    assert_int_equal(CHECK(W(1, 0, INT64_MAX), W(2, 1, 2), R(1, 3, 4), R(2, 5, 6)), LIN_NO);
    assert_int_equal(CHECK(W(1, 0, 5), W(2, 0, 5), R(1, 6, 7), R(1, 8, 9)), LIN_YES);
    assert_int_equal(CHECK(W(1, 0, 5), W(2, 0, 5), R(1, 6, 7), R(2, 8, 9)), LIN_NO);
    assert_int_equal(CHECK(WHEN(LIN_IF, 0, 1, 0, 1), R(1, 2, 3)), LIN_YES);
    assert_int_equal(CHECK(WHEN(LIN_IF, 2, 1, 0, 1), R(1, 2, 3)), LIN_NO);
    assert_int_equal(CHECK(WHEN(LIN_UNLESS, 0, 1, 0, 1), R(0, 2, 3)), LIN_YES);
    assert_int_equal(CHECK(WHEN(LIN_UNLESS, 0, 1, 0, 1), W(2, 2, 3), R(1, 4, 5)), LIN_NO);
}

// Every order, by recursion.
static int try_all(const lin_op *ops, size_t count, unsigned done, uint64_t value)
{
    int64_t first_end = INT64_MAX;
    int all = 1;
    for (size_t i = 0; i < count; i++) {
        if (done >> i & 1)
            continue;
        all &= ops[i].end == INT64_MAX;
        if (ops[i].end < first_end)
            first_end = ops[i].end;
    }
    if (all)
        return 1;
    for (size_t i = 0; i < count; i++) {
        if (done >> i & 1 || ops[i].begin > first_end || (!ops[i].writes && ops[i].value != value))
            continue;
        int changes = ops[i].writes && !(ops[i].when == LIN_IF && value != ops[i].than) &&
                      !(ops[i].when == LIN_UNLESS && value == ops[i].than);
        if (try_all(ops, count, done | 1u << i, changes ? ops[i].value : value))
            return 1;
    }
    return 0;
}

static void agree(fm_gen *gen)
{
    lin_op ops[7];
    size_t count = (size_t)fm_gen_int(gen, 1, 7);
    for (size_t i = 0; i < count; i++) {
        ops[i].writes = fm_gen_chance(gen, 0.5);
        ops[i].value = (uint64_t)fm_gen_int(gen, 0, 3);
        ops[i].begin = fm_gen_int(gen, 0, 12);
        ops[i].end = ops[i].begin + fm_gen_int(gen, 0, 6);
        ops[i].when = fm_gen_chance(gen, 0.5) ? LIN_ALWAYS : fm_gen_chance(gen, 0.5) ? LIN_IF : LIN_UNLESS;
        ops[i].than = (uint64_t)fm_gen_int(gen, 0, 3);
        if (ops[i].writes && fm_gen_chance(gen, 0.2))
            ops[i].end = INT64_MAX;
    }
    int expected = try_all(ops, count, 0, 0);
    assert_int_equal(lin_check(ops, count), expected ? LIN_YES : LIN_NO);
}

static void it_agrees_with_trying_every_order(void **state)
{
    (void)state;
    fm_gen_property(300, agree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_histories),
        cmocka_unit_test(it_agrees_with_trying_every_order),
    };
    return fm_test_run("lin_check", tests);
}
