/* How fast this machine reads memory, for `fathom info`. */
#ifndef FM_MEMORY_PROBE_H
#define FM_MEMORY_PROBE_H

#include "fathom/status.h"

/** Reads a buffer far larger than the caches with `threads` threads for about `time_ms`; the best pass in
 * GB/s (1e9). FM_ERR_NOMEM; FM_ERR_UNAVAILABLE when threads cannot be started. */
FM_MUST_USE fm_status fm_app_memory_read_rate(int threads, double time_ms, double *out_gb_per_s);

#endif
