#include "fm_test.h"

#ifdef FM_HAVE_DUCKDB

#include "fathom/duckdb_api.h"

static void a_query_runs(void **state)
{
    (void)state;
    const fm_duckdb *duckdb;
    if (fm_base_duckdb(&duckdb) < 0)
        fm_test_skip("%s", fm_error_message());
    duckdb_database database;
    duckdb_connection connection;
    duckdb_result result;
    assert_int_equal(duckdb->open(NULL, &database), DuckDBSuccess);
    assert_int_equal(duckdb->connect(database, &connection), DuckDBSuccess);
    assert_int_equal(duckdb->query(connection, "SELECT i * 2 FROM range(10) t(i) WHERE i > 7", &result),
                     DuckDBSuccess);
    duckdb_data_chunk chunk = duckdb->fetch_chunk(result);
    assert_int_equal(duckdb->data_chunk_get_size(chunk), 2);
    const int64_t *values = duckdb->vector_get_data(duckdb->data_chunk_get_vector(chunk, 0));
    assert_int_equal(values[0], 16);
    assert_int_equal(values[1], 18);
    duckdb->destroy_data_chunk(&chunk);
    duckdb->destroy_result(&result);
    assert_int_equal(duckdb->query(connection, "SELECT nonsense", &result), DuckDBError);
    assert_non_null(strstr(duckdb->result_error(&result), "nonsense"));
    duckdb->destroy_result(&result);
    duckdb->disconnect(&connection);
    duckdb->close(&database);
}

#else

static void a_query_runs(void **state)
{
    (void)state;
    fm_test_skip("built without DuckDB");
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_query_runs)};
    return fm_test_run("base.duckdb", tests);
}
