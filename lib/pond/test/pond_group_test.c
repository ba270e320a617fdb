#include "fm_test.h"

#include "pond_stage.h"

static void it_takes_aggregates_in_two_steps(void **state)
{
    (void)state;
    fm_pond_group_sql sql;
    assert_ok(
        fm_pond_group_sql_make("a % 2 AS odd, \"b,c\"", "count(*) AS n, MIN(x + 1) AS least, avg(y)", &sql));
    assert_string_equal(sql.first.text,
                        "SELECT a % 2 AS __k0, \"b,c\" AS __k1, count(*) AS __a0, min(x + 1) AS __a1, "
                        "sum(y) AS __a2, count(y) AS __b2 FROM {0} GROUP BY 1, 2");
    assert_string_equal(sql.hash.text, "__k0, __k1");
    assert_string_equal(
        sql.last.text,
        "SELECT __k0 AS odd, __k1 AS \"b,c\", CAST(sum(__a0) AS BIGINT) AS n, min(__a1) AS least, "
        "CAST(sum(__a2) AS DOUBLE) / sum(__b2) AS \"avg(y)\" FROM {0} GROUP BY 1, 2");
    fm_pond_group_sql_clear(&sql);
}

static void it_moves_rows_where_an_aggregate_needs_them(void **state)
{
    (void)state;
    static const char *const others[] = {"median(x) AS m", "count(DISTINCT x) AS m", "sum(x ORDER BY y) AS m",
                                         "sum(x) FILTER (y) AS m", "sum(x) + 1 AS m"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        fm_pond_group_sql sql;
        assert_ok(fm_pond_group_sql_make("k", others[i], &sql));
        assert_null(sql.first.text);
        assert_string_equal(sql.hash.text, "k");
        assert_non_null(strstr(sql.last.text, " AS m FROM {0} GROUP BY 1"));
        fm_pond_group_sql_clear(&sql);
    }
}

static void it_refuses_what_is_empty(void **state)
{
    (void)state;
    fm_pond_group_sql sql;
    assert_fails(fm_pond_group_sql_make("", "count(*)", &sql), FM_ERR_ARG, "no expression");
    assert_fails(fm_pond_group_sql_make("a", "count(*), , sum(x)", &sql), FM_ERR_ARG, "empty expression");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_takes_aggregates_in_two_steps),
        cmocka_unit_test(it_moves_rows_where_an_aggregate_needs_them),
        cmocka_unit_test(it_refuses_what_is_empty),
    };
    return fm_test_run("pond_group", tests);
}
