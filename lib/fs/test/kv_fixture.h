/**
 * @file kv_fixture.h
 * What the tests of the key-value store share: the engine under test, and small transactions.
 */
#ifndef FM_KV_FIXTURE_H
#define FM_KV_FIXTURE_H

#include "fathom/fs_kv.h"

#define BYTES(text) ((fm_fs_kv_bytes){text, sizeof(text) - 1})

/** "memory", "lmdb" or "postgresql"; set by main(). */
extern const char *kv_engine;

/** An empty store of that engine; the caller closes it. `options` may be NULL. */
fm_fs_kv *kv_open_empty(const fm_fs_kv_options *options);
/** The specification of a fresh LMDB directory; valid until the next call. */
const char *kv_fresh_lmdb(void);

/** One put, one delete, one get as a transaction. The get copies into `buffer` and returns the size, -1 when
 *  the key is missing. */
void kv_put(fm_fs_kv *kv, fm_fs_kv_bytes key, fm_fs_kv_bytes value);
void kv_delete(fm_fs_kv *kv, fm_fs_kv_bytes key);
long kv_get(fm_fs_kv *kv, fm_fs_kv_bytes key, void *buffer, size_t size);
/** How many keys lie in [lo, hi). */
size_t kv_count(fm_fs_kv *kv, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi);

/**
 * Adds one to the 32-bit value of "counter" exactly once for (client, seq), however often it is called: the
 * record under that key, made in the same transaction, tells. Goes on while the outcome is unknown, and adds
 * these times to *out_maybes.
 */
fm_status kv_count_once(fm_fs_kv *kv, uint32_t client, uint32_t seq, int *out_maybes);
/** The counter's value. */
uint32_t kv_counter(fm_fs_kv *kv);

/** Runs body(index, context) in `count` threads at once. */
void kv_threads(int count, void (*body)(int index, void *context), void *context);

#endif
