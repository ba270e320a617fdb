/*
 * The key-value store on PostgreSQL. The only file that knows libpq-fe.h.
 *
 * One table, fathom_kv (k bytea primary key, v bytea); bytea is ordered as memcmp() has it. Transactions are
 * SERIALIZABLE: the server tracks what each has read, ranges included, by predicate locks on rows and on pages
 * of the index, and refuses one of a set that has no serial order (Ports and Grittner, "Serializable snapshot
 * isolation in PostgreSQL", 2012). REPEATABLE READ lets an empty directory be removed while a name is created in it.
 * Plans that read more than the index range would lock more than the closure read, so they are switched off.
 *
 * Statements are prepared, binary and pipelined: BEGIN travels with the first read, the writes with COMMIT. A
 * transaction with one get takes two round trips, one that only writes takes one.
 *
 * A connection that is lost before COMMIT was sent has committed nothing: the closure runs again on another.
 * Afterwards the outcome is unknown unless the answer has come. A closure that fails commits too, without
 * writes: only so are its reads, on which its failure rests, known to be serializable.
 */
#include "kv_backend.h"

#include <libpq-fe.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "fathom/clock.h"

enum { BYTEA = 17, INT8 = 20 }; // object ids of the types; fixed for ever in pg_type.dat

static const struct statement {
    const char *name;
    const char *text;
    int parameters;
    Oid types[3];
} statements[] = {
    {"get", "SELECT k, v FROM fathom_kv WHERE k = $1", 1, {BYTEA}},
    {"get_share", "SELECT k, v FROM fathom_kv WHERE k = $1 FOR SHARE", 1, {BYTEA}},
    {"get_update", "SELECT k, v FROM fathom_kv WHERE k = $1 FOR UPDATE", 1, {BYTEA}},
    {"range",
     "SELECT k, v FROM fathom_kv WHERE k >= $1 AND k < $2 ORDER BY k LIMIT $3",
     3,
     {BYTEA, BYTEA, INT8}},
    {"reverse",
     "SELECT k, v FROM fathom_kv WHERE k >= $1 AND k < $2 ORDER BY k DESC LIMIT $3",
     3,
     {BYTEA, BYTEA, INT8}},
    {"put",
     "INSERT INTO fathom_kv VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
     2,
     {BYTEA, BYTEA}},
    {"delete", "DELETE FROM fathom_kv WHERE k = $1", 1, {BYTEA}},
    {"guard", "UPDATE fathom_kv SET v = v WHERE k = $1", 1, {BYTEA}},
};

static const char make_table[] = "SET client_min_messages = error; CREATE TABLE IF NOT EXISTS fathom_kv (k "
                                 "bytea PRIMARY KEY, v bytea NOT NULL)";

// A client that hangs inside a closure must not keep the server's memory of everyone's reads: 10 s is twice what
// a closure is allowed.
static const char set_session[] =
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;"
    "SET plan_cache_mode = force_generic_plan;"
    "SET default_transaction_isolation = serializable;"
    "SET idle_in_transaction_session_timeout = '10s'";

struct connection {
    struct connection *next;
    PGconn *link; // in pipeline mode
};

struct postgresql {
    fm_fs_kv base;
    char *conninfo;
    pthread_mutex_t lock; // guards what follows
    pthread_cond_t freed;
    struct connection *idle;
    unsigned made;
    unsigned most;
};

// A result whose values the closure may still look at; lives in the transaction's arena.
struct held {
    struct held *next;
    PGresult *result;
};

struct attempt {
    PGconn *link;
    int begun;
    int broken;        // a command could not be sent; nothing is sent after it
    unsigned expected; // commands sent whose results have not come
    struct held *held;
};

// The server's message is a line and a newline.
static fm_status fails(fm_status status, const char *what, const char *message)
{
    return fm_base_error_set(status, "PostgreSQL: %s: %.*s", what, (int)strcspn(message, "\n"), message);
}

static fm_status status_of(const char *sqlstate)
{
    static const struct {
        const char *prefix; // of the SQLSTATE; the first that fits counts
        fm_status status;
    } table[] = {
        {"40001", FM_ERR_FS_CONFLICT}, {"40P01", FM_ERR_FS_CONFLICT}, {"23505", FM_ERR_FS_CONFLICT},
        {"53100", FM_ERR_SPACE},       {"53200", FM_ERR_NOMEM},       {"53300", FM_ERR_LIMIT},
        {"57014", FM_ERR_TIMEOUT},     {"55P03", FM_ERR_TIMEOUT},     {"57P", FM_ERR_UNAVAILABLE},
        {"08", FM_ERR_UNAVAILABLE},    {"25006", FM_ERR_UNAVAILABLE}, {"42501", FM_ERR_PERM},
        {"28", FM_ERR_PERM},
    };
    for (size_t i = 0; sqlstate && i < sizeof table / sizeof table[0]; i++)
        if (strncmp(sqlstate, table[i].prefix, strlen(table[i].prefix)) == 0)
            return table[i].status;
    return FM_ERR_IO;
}

// ---- connections

// What an unpipelined command came to; frees `result`.
static fm_status outcome_of(PGconn *link, const char *text, PGresult *result)
{
    fm_status status = FM_OK;
    if (PQstatus(link) != CONNECTION_OK)
        status = FM_ERR_UNAVAILABLE;
    else if (PQresultStatus(result) != PGRES_COMMAND_OK)
        status = status_of(PQresultErrorField(result, PG_DIAG_SQLSTATE));
    if (status < 0)
        fails(status, text, PQerrorMessage(link));
    PQclear(result);
    return status;
}

static fm_status prepare(PGconn *link)
{
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        const struct statement *one = &statements[i];
        FM_TRY(
            outcome_of(link, one->text, PQprepare(link, one->name, one->text, one->parameters, one->types)));
    }
    return FM_OK;
}

static void ignore_notice(void *context, const PGresult *result)
{
    (void)context;
    (void)result;
}

// A connection; with its session set up and in pipeline mode, unless `bare`.
static fm_status make_link(const char *conninfo, int bare, PGconn **out_link)
{
    PGconn *link = PQconnectdb(conninfo);
    if (!link) {
        fm_base_error_set(FM_ERR_NOMEM, "no memory for a connection");
        return FM_ERR_NOMEM;
    }
    fm_status status = FM_OK;
    if (PQstatus(link) != CONNECTION_OK)
        status = fails(FM_ERR_UNAVAILABLE, "connecting", PQerrorMessage(link));
    PQsetNoticeReceiver(link, ignore_notice, NULL);
    if (status == FM_OK && !bare) {
        status = outcome_of(link, set_session, PQexec(link, set_session));
        if (status == FM_OK)
            status = prepare(link);
        if (status == FM_OK && !PQenterPipelineMode(link))
            status = fails(FM_ERR_IO, "entering pipeline mode", PQerrorMessage(link));
    }
    if (status < 0)
        PQfinish(link);
    else
        *out_link = link;
    return status;
}

static void close_connection(struct connection *connection)
{
    PQfinish(connection->link);
    fm_base_mem_free(connection);
}

static fm_status new_connection(const struct postgresql *pg, struct connection **out_connection)
{
    struct connection *connection = fm_base_mem_zalloc(1, sizeof *connection);
    if (!connection) {
        fm_base_error_set(FM_ERR_NOMEM, "no memory for a connection");
        return FM_ERR_NOMEM;
    }
    fm_status status = make_link(pg->conninfo, 0, &connection->link);
    if (status < 0)
        fm_base_mem_free(connection);
    else
        *out_connection = connection;
    return status;
}

// Gives a connection back, or, with NULL, the right to make one.
static void give_back(struct postgresql *pg, struct connection *connection)
{
    pthread_mutex_lock(&pg->lock);
    if (connection) {
        connection->next = pg->idle;
        pg->idle = connection;
    } else
        pg->made--;
    pthread_cond_signal(&pg->freed);
    pthread_mutex_unlock(&pg->lock);
}

static fm_status take(struct postgresql *pg, struct connection **out_connection)
{
    pthread_mutex_lock(&pg->lock);
    while (!pg->idle && pg->made == pg->most)
        pthread_cond_wait(&pg->freed, &pg->lock);
    struct connection *connection = pg->idle;
    if (connection)
        pg->idle = connection->next;
    else
        pg->made++;
    pthread_mutex_unlock(&pg->lock);
    fm_status status = connection ? FM_OK : new_connection(pg, &connection);
    if (status < 0)
        give_back(pg, NULL);
    else
        *out_connection = connection;
    return status;
}

// ---- the pipeline

// Counts a command that was sent. A failure shows in collect(), at the end of the round trip.
static void count_sent(struct attempt *attempt, int sent)
{
    attempt->expected += sent != 0;
    attempt->broken |= !sent;
}

static void send_text(struct attempt *attempt, const char *text)
{
    if (!attempt->broken)
        count_sent(attempt, PQsendQueryParams(attempt->link, text, 0, NULL, NULL, NULL, NULL, 1));
}

static void send_prepared(struct attempt *attempt, const char *name, const fm_fs_kv_bytes *parameters,
                          int count)
{
    static const int binary[3] = {1, 1, 1};
    const char *values[3];
    int lengths[3];
    if (attempt->broken)
        return;
    for (int i = 0; i < count; i++) {
        values[i] = parameters[i].size ? parameters[i].data : ""; // NULL would be SQL's
        lengths[i] = (int)parameters[i].size;
    }
    count_sent(attempt, PQsendQueryPrepared(attempt->link, name, count, values, lengths, binary, 1));
}

static void begin(struct attempt *attempt, const fm_fs_kv_tx *tx)
{
    if (attempt->begun)
        return;
    attempt->begun = 1;
    send_text(attempt, tx->flags & FM_FS_KV_READ_ONLY ? "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"
                                                      : "BEGIN ISOLATION LEVEL SERIALIZABLE");
}

static int is_lost(const struct attempt *attempt)
{
    return attempt->broken || PQstatus(attempt->link) != CONNECTION_OK;
}

// Takes a result: a failure is returned, any other is given to `see`, which owns it then.
static fm_status take_result(PGresult *result, fm_status (*see)(void *context, PGresult *result),
                             void *context)
{
    switch (PQresultStatus(result)) {
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
        return see(context, result);
    case PGRES_PIPELINE_ABORTED: // an earlier one has failed
        PQclear(result);
        return FM_OK;
    default:
        break;
    }
    fm_status status = fails(status_of(PQresultErrorField(result, PG_DIAG_SQLSTATE)), "transaction",
                             PQresultErrorMessage(result));
    PQclear(result);
    return status;
}

// Ends the round trip: reads the results of all commands sent. The first failure is returned; FM_ERR_UNAVAILABLE
// with is_lost() when the connection cannot be used any more.
static fm_status collect(struct attempt *attempt, fm_status (*see)(void *context, PGresult *result),
                         void *context)
{
    fm_status first = FM_OK;
    if (!attempt->broken && !PQpipelineSync(attempt->link))
        attempt->broken = 1;
    for (; attempt->expected > 0 && !is_lost(attempt); attempt->expected--) {
        PGresult *result = PQgetResult(attempt->link);
        if (!result) {
            attempt->broken = 1;
            break;
        }
        fm_status status = take_result(result, see, context);
        first = first ? first : status;
        PQclear(PQgetResult(attempt->link)); // the NULL behind a command's result
    }
    if (!is_lost(attempt))
        PQclear(PQgetResult(attempt->link)); // the synchronisation's
    if (is_lost(attempt))
        return fails(FM_ERR_UNAVAILABLE, "the connection is lost", PQerrorMessage(attempt->link));
    return first;
}

// ---- reads

struct reading {
    fm_fs_kv_tx *tx;
    fm_fs_kv_item **wanted; // what the get asks for, one a result
    fm_fs_kv_item *items;   // a range's
    size_t count;
};

static fm_status see_rows(void *context, PGresult *result)
{
    struct reading *reading = context;
    struct attempt *attempt = reading->tx->engine;
    if (PQresultStatus(result) == PGRES_COMMAND_OK) { // BEGIN's
        PQclear(result);
        return FM_OK;
    }
    struct held *held = fm_base_arena_alloc(&reading->tx->arena, sizeof *held);
    if (!held) {
        PQclear(result);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a result");
    }
    *held = (struct held){attempt->held, result};
    attempt->held = held;
    int rows = PQntuples(result);
    for (int i = 0; i < rows; i++) {
        fm_fs_kv_bytes key = {PQgetvalue(result, i, 0), (size_t)PQgetlength(result, i, 0)};
        fm_fs_kv_bytes value = {PQgetvalue(result, i, 1), (size_t)PQgetlength(result, i, 1)};
        if (reading->wanted) {
            reading->wanted[reading->count]->value = value;
            reading->wanted[reading->count]->found = 1;
        } else
            reading->items[reading->count++] = (fm_fs_kv_item){key, value, 1};
    }
    reading->count += reading->wanted != NULL;
    return FM_OK;
}

static fm_status collect_rows(struct reading *reading)
{
    struct attempt *attempt = reading->tx->engine;
    fm_status status = collect(attempt, see_rows, reading);
    return status < 0 && is_lost(attempt) ? FM_ERR_FS_CONFLICT : status;
}

static fm_status postgresql_get(fm_fs_kv_tx *tx, fm_fs_kv_item **items, size_t count, fm_fs_kv_lock lock)
{
    struct attempt *attempt = tx->engine;
    struct reading reading = {.tx = tx, .wanted = items};
    const char *name = "get";
    // A lock on a row is a write to the server.
    if (!(tx->flags & FM_FS_KV_READ_ONLY) && lock != FM_FS_KV_LOCK_NONE)
        name = lock == FM_FS_KV_LOCK_UPDATE ? "get_update" : "get_share";
    begin(attempt, tx);
    for (size_t i = 0; i < count; i++)
        send_prepared(attempt, name, &items[i]->key, 1);
    return collect_rows(&reading);
}

static fm_status postgresql_range(fm_fs_kv_tx *tx, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi, size_t limit,
                                  unsigned flags, fm_fs_kv_item *items, size_t *count)
{
    struct attempt *attempt = tx->engine;
    struct reading reading = {.tx = tx, .items = items};
    uint8_t most[8];
    for (int i = 0; i < 8; i++) // the protocol is big-endian
        most[i] = (uint8_t)((uint64_t)limit >> (56 - 8 * i));
    fm_fs_kv_bytes parameters[3] = {lo, hi, {most, sizeof most}};
    begin(attempt, tx);
    send_prepared(attempt, flags & FM_FS_KV_REVERSE ? "reverse" : "range", parameters, 3);
    FM_TRY(collect_rows(&reading));
    *count = reading.count;
    return FM_OK;
}

// ---- the end of a transaction

// Looks for COMMIT's answer; COMMIT of a transaction that has failed answers ROLLBACK.
static fm_status see_commit(void *context, PGresult *result)
{
    int *committed = context;
    if (strcmp(PQcmdStatus(result), "COMMIT") == 0)
        *committed = 1;
    PQclear(result);
    return FM_OK;
}

static fm_status commit(struct attempt *attempt, fm_fs_kv_tx *tx)
{
    static const char *const names[] = {
        [FM_FS_KV_PUT] = "put", [FM_FS_KV_DELETE] = "delete", [FM_FS_KV_GUARD] = "guard"};
    int committed = 0;
    if (!attempt->begun && tx->write_count == 0)
        return FM_OK;
    begin(attempt, tx);
    if (tx->flags & FM_FS_KV_NO_SYNC && tx->write_count)
        send_text(attempt, "SET LOCAL synchronous_commit = off");
    for (size_t i = 0; i < tx->write_count; i++) {
        fm_fs_kv_bytes parameters[2] = {tx->writes[i].key, tx->writes[i].value};
        send_prepared(attempt, names[tx->writes[i].kind], parameters,
                      tx->writes[i].kind == FM_FS_KV_PUT ? 2 : 1);
    }
    int sent = !attempt->broken; // even if this one fails, the server may have seen it
    send_text(attempt, "COMMIT");
    fm_status status = collect(attempt, see_commit, &committed);
    if (committed)
        return FM_OK; // whatever happened to the connection afterwards
    if (is_lost(attempt) && sent && tx->write_count) {
        fm_base_error_prefix(FM_ERR_FS_MAYBE, "committed or not");
        return FM_ERR_FS_MAYBE;
    }
    if (is_lost(attempt))
        return FM_ERR_FS_CONFLICT;
    return status ? status : fm_base_error_set(FM_ERR_IO, "PostgreSQL rolled back where it was to commit");
}

static fm_status see_nothing(void *context, PGresult *result)
{
    (void)context;
    PQclear(result);
    return FM_OK;
}

// Rolls back what is open; whether the connection can be used again.
static int clean_up(struct attempt *attempt)
{
    if (!is_lost(attempt) && PQtransactionStatus(attempt->link) != PQTRANS_IDLE) {
        send_text(attempt, "ROLLBACK");
        if (collect(attempt, see_nothing, NULL) < 0)
            return 0;
    }
    return !is_lost(attempt) && PQtransactionStatus(attempt->link) == PQTRANS_IDLE;
}

static fm_status postgresql_attempt(fm_fs_kv *kv, fm_fs_kv_tx *tx)
{
    struct postgresql *pg = (struct postgresql *)kv;
    struct connection *connection;
    FM_TRY(take(pg, &connection));
    struct attempt attempt = {.link = connection->link};
    tx->engine = &attempt;
    fm_status status = fm_fs_kv_tx_body(tx);
    if (status == FM_OK)
        status = commit(&attempt, tx);
    else if (!tx->failed && status != FM_ERR_FS_CONFLICT) {
        tx->write_count = 0;
        fm_status valid = commit(&attempt, tx);
        status = valid == FM_OK ? status : valid;
    }
    for (struct held *held = attempt.held; held; held = held->next)
        PQclear(held->result);
    if (!clean_up(&attempt)) {
        close_connection(connection);
        connection = NULL;
    }
    give_back(pg, connection);
    return status;
}

static void postgresql_pause(fm_fs_kv *kv, uint64_t ns)
{
    (void)kv;
    fm_base_clock_sleep_ns(ns);
}

// ---- opening

static void postgresql_close(fm_fs_kv *kv)
{
    struct postgresql *pg = (struct postgresql *)kv;
    for (struct connection *connection = pg->idle, *next; connection; connection = next) {
        next = connection->next;
        close_connection(connection);
    }
    pthread_cond_destroy(&pg->freed);
    pthread_mutex_destroy(&pg->lock);
    fm_base_mem_free(pg->conninfo);
    fm_base_mem_free(pg);
}

// "postgresql:" was taken off; a URI gets it back.
static char *conninfo_of(const char *where)
{
    static const char scheme[] = "postgresql:";
    int uri = strncmp(where, "//", 2) == 0;
    size_t size = sizeof scheme + strlen(where);
    char *conninfo = fm_base_mem_alloc(size);
    if (conninfo)
        snprintf(conninfo, size, "%s%s", uri ? scheme : "", where);
    return conninfo;
}

static fm_status ensure_table(const char *conninfo)
{
    PGconn *link;
    FM_TRY(make_link(conninfo, 1, &link));
    fm_status status = outcome_of(link, make_table, PQexec(link, make_table));
    // Of two that make it at the same time one may fail; it is there the next time.
    if (status == FM_ERR_FS_CONFLICT)
        status = outcome_of(link, make_table, PQexec(link, make_table));
    PQfinish(link);
    return status;
}

static fm_status postgresql_open(const char *where, const fm_fs_kv_options *options, fm_fs_kv **out_kv)
{
    struct postgresql *pg = fm_base_mem_zalloc(1, sizeof *pg);
    char *conninfo = conninfo_of(where);
    if (!pg || !conninfo)
        fm_base_error_set(FM_ERR_NOMEM, "no memory for a store");
    fm_status status = pg && conninfo ? ensure_table(conninfo) : FM_ERR_NOMEM;
    if (!pg || status < 0) {
        fm_base_mem_free(conninfo);
        fm_base_mem_free(pg);
        return status;
    }
    pg->conninfo = conninfo;
    pg->most = options->connections;
    pthread_mutex_init(&pg->lock, NULL);
    pthread_cond_init(&pg->freed, NULL);
    *out_kv = &pg->base;
    return FM_OK;
}

const struct fm_fs_kv_ops fm_fs_kv_postgresql_ops = {
    .name = "postgresql",
    .open = postgresql_open,
    .close = postgresql_close,
    .attempt = postgresql_attempt,
    .get = postgresql_get,
    .range = postgresql_range,
    .pause = postgresql_pause,
};
