#include "pond_schema.h"

#include "fm_test.h"

static void check(const char *given, const char *expected)
{
    fm_pond_text schema = {0};
    assert_ok(fm_pond_schema_make(given, NULL, &schema));
    assert_string_equal(schema.text, expected);
    fm_pond_text_clear(&schema);
}

static void it_reads_names_and_types(void **state)
{
    (void)state;
    check("a BIGINT", "{'a': 'BIGINT'}");
    check(" a BIGINT , b  VARCHAR ", "{'a': 'BIGINT', 'b': 'VARCHAR'}");
    check("p DECIMAL(9, 2), s STRUCT(x INTEGER, y VARCHAR)[]",
          "{'p': 'DECIMAL(9, 2)', 's': 'STRUCT(x INTEGER, y VARCHAR)[]'}");
    check("\"two words\" DATE, \"a\"\"b\" TIME, it's BLOB",
          "{'two words': 'DATE', 'a\"b': 'TIME', 'it''s': 'BLOB'}");
}

static void it_refuses_what_is_no_schema(void **state)
{
    (void)state;
    fm_pond_text schema = {0};
    static const char *const wrong[] = {"", " ", "a", "a BIGINT, , b DATE", "\"\" BIGINT", "\"a BIGINT"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_fails(fm_pond_schema_make(wrong[i], NULL, &schema), FM_ERR_ARG, "expected 'name TYPE");
        fm_pond_text_clear(&schema);
    }
}

static void it_goes_through_columns(void **state)
{
    (void)state;
    fm_pond_text schema = {0}, seen = {0};
    fm_pond_schema_column column;
    assert_ok(fm_pond_schema_make("a\"b BIGINT, \"it's, not\" ENUM('x', 'y''z')", NULL, &schema));
    for (const char *at = schema.text; (at = fm_pond_schema_next(at, &column));) {
        fm_pond_schema_add_name(&column, &seen);
        fm_pond_text_add(&seen, " is ");
        fm_pond_schema_add_type(&column, &seen);
        fm_pond_text_add(&seen, "; ");
    }
    assert_string_equal(seen.text, "\"a\"\"b\" is BIGINT; \"it's, not\" is ENUM('x', 'y''z'); ");
    fm_pond_text_clear(&schema);
    fm_pond_text_clear(&seen);
}

static void it_knows_what_parquet_keeps(void **state)
{
    (void)state;
    static const struct {
        const char *type, *stored, *in_sinks; // NULL: as it is
    } types[] = {{"BIGINT", NULL, NULL},
                 {"HUGEINT", "DECIMAL(38,0)", "DECIMAL(38,0)"},
                 {"HUGEINT[]", "DECIMAL(38,0)[]", "DECIMAL(38,0)[]"},
                 {"STRUCT(\"HUGEINT\" BIGINT, my_BIT UBIGINT)", NULL, NULL},
                 {"STRUCT(a HUGEINT, b ENUM('HUGEINT', 'BIT')[])", "STRUCT(a DECIMAL(38,0), b VARCHAR[])",
                  "STRUCT(a DECIMAL(38,0), b ENUM('HUGEINT', 'BIT')[])"},
                 {"UHUGEINT", "VARCHAR", "VARCHAR"},
                 {"INTERVAL", "VARCHAR", NULL},
                 {"TIME WITH TIME ZONE", "VARCHAR", NULL},
                 {"TIMESTAMP WITH TIME ZONE", NULL, NULL}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int sink = 0; sink < 2; sink++) {
            fm_pond_text stored = {0};
            const char *expected = sink ? types[i].in_sinks : types[i].stored;
            int differs = fm_pond_schema_add_stored(types[i].type, strlen(types[i].type), sink, &stored);
            assert_int_equal(differs, expected != NULL);
            assert_string_equal(stored.text, expected ? expected : types[i].type);
            fm_pond_text_clear(&stored);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_reads_names_and_types),
        cmocka_unit_test(it_refuses_what_is_no_schema),
        cmocka_unit_test(it_goes_through_columns),
        cmocka_unit_test(it_knows_what_parquet_keeps),
    };
    return fm_test_run("pond_schema", tests);
}
