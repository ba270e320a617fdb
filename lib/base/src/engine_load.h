/* How every engine's library is found. */
#ifndef FM_ENGINE_LOAD_H
#define FM_ENGINE_LOAD_H

#include "fathom/engine.h"

/**
 * Opens the first of: $env, sonames[0] in the folders that fathom/engine.h names, each of `sonames` (NULL-terminated)
 * by the loader. Fills path or reason. Returns the dlopen handle or NULL.
 */
void *fm_base_engine_open(const char *env, const char *const *sonames, fm_engine_info *info);

/** The symbol, or NULL with info->reason set. */
void *fm_base_engine_symbol(void *library, const char *name, fm_engine_info *info);

void fm_base_engine_probe_duckdb(fm_engine_info *info);
void fm_base_engine_probe_cuda(fm_engine_info *info);
void fm_base_engine_probe_nvrtc(fm_engine_info *info);
void fm_base_engine_probe_mpi(fm_engine_info *info);

#endif
