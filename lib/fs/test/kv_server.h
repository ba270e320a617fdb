/**
 * @file kv_server.h
 * A PostgreSQL server of the test's own: in fm_test_tmpdir(), on a UNIX socket, gone when the program ends.
 */
#ifndef FM_KV_SERVER_H
#define FM_KV_SERVER_H

/** Starts it and returns the specification of a store on it; NULL when the server's programs are not here
 *  (FM_POSTGRESQL_BIN names their folder), with the reason in *out_reason. Ends the test program when they are
 *  here and do not work. */
const char *kv_server_start(const char **out_reason);

/** Ends all connections to it, in the middle of whatever they do; 0 when that cannot be done (no psql). */
int kv_server_cut(void);
/** Stops it for good. */
void kv_server_stop(void);

#endif
