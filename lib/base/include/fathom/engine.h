/**
 * @file engine.h
 * Optional engines, opened at run time: what is on this machine, where, and if not, why.
 *
 * Nothing here is needed to build or to start. An engine's library is looked for, in this order: the path in
 * its environment variable (then nowhere else); the folders `fathom/`, `lib/fathom/` and `../lib/fathom/` beside
 * the file that holds this code (the program, or libfathom_base.so), and beside the running program; the
 * loader's path. So an installed tree can be moved, and finds what was installed with it. A library once opened
 * stays open. Any thread may call any function.
 *
 * | engine | library | environment variable |
 * |---|---|---|
 * | DuckDB | libduckdb.so | FM_DUCKDB_LIB |
 * | CUDA driver | libcuda.so.1 | FM_CUDA_LIB |
 * | NVRTC | libnvrtc.so | FM_NVRTC_LIB |
 * | MPI | libmpi.so | FM_MPI_LIB |
 */
#ifndef FATHOM_ENGINE_H
#define FATHOM_ENGINE_H

#include <stddef.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_engine {
    FM_ENGINE_DUCKDB,
    FM_ENGINE_CUDA,
    FM_ENGINE_NVRTC,
    FM_ENGINE_MPI,
    FM_ENGINE_COUNT
} fm_engine;

typedef struct fm_engine_info {
    const char *name; /**< "DuckDB"; static */
    int found;        /**< the library opened and answered */
    char version[96]; /**< "v1.5.6"; "" when not found */
    char path[512];   /**< as opened; "" when not found */
    char reason[512]; /**< why it was not found */
} fm_engine_info;

/** Opens the engine's library and asks its version. Succeeds also when there is none: see `found` and
 * `reason`. */
FM_API void fm_base_engine_probe(fm_engine engine, fm_engine_info *out_info);

/** Where an installation keeps the file `name` of its folder lib/fathom (engines and plug-ins that are opened at run
 * time): looked for from the place of this library, then of the running program. Returns 1 and its path, or 0 when there is no
 * such file that can be read, or `size` bytes do not hold its path; `out_path` is then undefined. */
FM_API int fm_base_installed_find(const char *name, char *out_path, size_t size);

/** A CUDA device as the driver describes it. */
typedef struct fm_gpu_info {
    char name[128];
    size_t memory_bytes;
    int compute_major, compute_minor; /**< 9, 0 for Hopper */
    int multiprocessors;
} fm_gpu_info;

/** Fills up to `capacity` entries and sets the number of devices. FM_ERR_UNAVAILABLE: no driver, or it
 * refuses (message). */
FM_API FM_MUST_USE fm_status fm_base_gpu_list(fm_gpu_info *out_gpus, int capacity, int *out_count);

#ifdef __cplusplus
}
#endif
#endif
