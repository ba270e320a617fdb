// DuckDB alone, for comparison.
#include "bench_pond.h"

#include <sched.h>

#ifdef FM_HAVE_DUCKDB
#include "fathom/duckdb_api.h"

fm_status bench_pond_duckdb(const char *const *statements, int count)
{
    const fm_duckdb *duckdb;
    duckdb_database database;
    duckdb_connection connection;
    FM_TRY(fm_base_duckdb(&duckdb));
    if (duckdb->open(NULL, &database) == DuckDBError)
        return fm_base_error_set(FM_ERR_INTERNAL, "DuckDB does not open");
    fm_status status = FM_OK;
    if (duckdb->connect(database, &connection) == DuckDBError) {
        status = fm_base_error_set(FM_ERR_INTERNAL, "DuckDB does not connect");
    } else {
        for (int i = 0; i < count && status == FM_OK; i++) {
            duckdb_result result;
            if (duckdb->query(connection, statements[i], &result) == DuckDBError)
                status = fm_base_error_set(FM_ERR_INTERNAL, "%s", duckdb->result_error(&result));
            duckdb->destroy_result(&result);
        }
        duckdb->disconnect(&connection);
    }
    duckdb->close(&database);
    return status;
}
#else
fm_status bench_pond_duckdb(const char *const *statements, int count)
{
    (void)statements, (void)count;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "built without DuckDB");
}
#endif

int bench_pond_threads(void)
{
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}
