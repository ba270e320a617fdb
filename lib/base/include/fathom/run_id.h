/**
 * @file run_id.h
 * The name of a run, by which what it leaves behind can be found when it was killed.
 *
 * A run is one `fathom` command with all processes it starts. Its id is "<pid>-<start time>" of its first
 * process, which no other process on the machine shares until it reboots. The id stands in
 *   - the environment variable FM_RUN_ID of every process of the run,
 *   - the names of its shared-memory objects and temporary folders: "fathom.<id>.<what>".
 * `fathom clean` looks for these, asks fm_base_run_alive(), and removes what belongs to a run that is gone.
 */
#ifndef FATHOM_RUN_ID_H
#define FATHOM_RUN_ID_H

#include <stddef.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FM_RUN_ID_BYTES = 48 };

/** This process's run: FM_RUN_ID where it is set and well formed, else the process's own. Never NULL; lives
 * as long as the process. Call it once before starting threads or forking: it also sets FM_RUN_ID for the
 * children. */
FM_API const char *fm_base_run_id(void);

/** "fathom.<run id>.<what>" into `out_name`. FM_ERR_LIMIT when it does not fit. */
FM_API FM_MUST_USE fm_status fm_base_run_name(const char *what, char *out_name, size_t size);

/** The run id inside such a name, copied to `out_id` (FM_RUN_ID_BYTES). FM_ERR_FORMAT when the name is none.
 */
FM_API FM_MUST_USE fm_status fm_base_run_of_name(const char *name, char *out_id);

/** 1 when the run's first process lives, 0 when it is gone or `id` is malformed. */
FM_API int fm_base_run_alive(const char *id);

#ifdef __cplusplus
}
#endif
#endif
