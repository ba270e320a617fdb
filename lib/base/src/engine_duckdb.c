#include <stdio.h>
#include <string.h>

#include "engine_load.h"

#ifdef FM_HAVE_DUCKDB

#include <pthread.h>

#include "fathom/duckdb_api.h"

static fm_duckdb table;
static fm_engine_info table_info;
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void load_table(void)
{
    static const char *const sonames[] = {"libduckdb.so", NULL};
    void *library = fm_base_engine_open("FM_DUCKDB_LIB", sonames, &table_info);
    if (!library)
        return;
#define LOAD(function)                                                                   \
    do {                                                                                 \
        void *symbol = fm_base_engine_symbol(library, "duckdb_" #function, &table_info); \
        if (!symbol)                                                                     \
            return;                                                                      \
        memcpy(&table.function, &symbol, sizeof symbol);                                 \
    } while (0);
    FM_DUCKDB_FUNCTIONS(LOAD)
#undef LOAD
    snprintf(table_info.version, sizeof table_info.version, "%s", table.library_version());
    table_info.found = 1;
}

fm_status fm_base_duckdb(const fm_duckdb **out_table)
{
    pthread_once(&table_once, load_table);
    if (!table_info.found)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "DuckDB: %s", table_info.reason);
    *out_table = &table;
    return FM_OK;
}

void fm_base_engine_probe_duckdb(fm_engine_info *info)
{
    pthread_once(&table_once, load_table);
    const char *name = info->name;
    *info = table_info;
    info->name = name;
}

#else

void fm_base_engine_probe_duckdb(fm_engine_info *info)
{
    snprintf(info->reason, sizeof info->reason, "%s", FM_DUCKDB_REASON);
}

#endif
