#include "fm_test.h"

#include "fathom/doc.h"

static const char *const known[] = {"replicas", "ranks", "max-moves", "policy", "o", NULL};

static void slips_are_recognised(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"replica", "replicas"}, {"repilcas", "replicas"},   {"rank", "ranks"},
        {"ransk", "ranks"},      {"max_moves", "max-moves"}, {"maxmoves", "max-moves"},
        {"polciy", "policy"},    {"policy", "policy"},       {"p", "o"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *found = fm_base_nearest(cases[i][0], known);
        assert_non_null(found);
        assert_string_equal(found, cases[i][1]);
    }
}

static void strangers_get_no_suggestion(void **state)
{
    (void)state;
    assert_null(fm_base_nearest("temperature", known));
    assert_null(fm_base_nearest("rxyks", known));
    assert_null(fm_base_nearest("", (const char *const[]){"ab", NULL}));
    assert_null(fm_base_nearest("x", (const char *const[]){NULL}));
}

static void long_words_are_left_alone(void **state)
{
    (void)state;
    char word[200];
    memset(word, 'a', sizeof word);
    word[199] = 0;
    assert_null(fm_base_nearest(word, (const char *const[]){word, NULL}));
    assert_null(fm_base_nearest("a", (const char *const[]){word, NULL}));
    word[64] = 0;
    assert_ptr_equal(fm_base_nearest(word, (const char *const[]){word + 1, word, NULL}), word);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slips_are_recognised),
        cmocka_unit_test(strangers_get_no_suggestion),
        cmocka_unit_test(long_words_are_left_alone),
    };
    return fm_test_run("base.nearest", tests);
}
