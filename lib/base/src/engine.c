#include "fathom/engine.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine_load.h"

static void *try_open(const char *path, fm_engine_info *info)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library) {
        snprintf(info->path, sizeof info->path, "%s", path);
        return library;
    }
    const char *why = dlerror();
    snprintf(info->reason, sizeof info->reason, "%s", why ? why : "cannot be opened");
    return NULL;
}

static void *open_installed(const char *soname, fm_engine_info *info)
{
    char path[1024];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0)
        return NULL;
    path[length] = 0;
    char *slash = strrchr(path, '/');
    if (!slash || (size_t)(slash - path) + strlen("/../lib/fathom/") + strlen(soname) >= sizeof path)
        return NULL;
    sprintf(slash, "/../lib/fathom/%s", soname);
    return access(path, R_OK) == 0 ? try_open(path, info) : NULL;
}

void *fm_base_engine_open(const char *env, const char *folder, const char *const *sonames,
                          fm_engine_info *info)
{
    const char *given = getenv(env);
    if (given && *given) // asked for by name: no other may take its place
        return try_open(given, info);
    void *library = open_installed(sonames[0], info);
#ifdef FM_DEPS_DIR
    if (!library && folder) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s/%s", FM_DEPS_DIR, folder, sonames[0]);
        if (access(path, R_OK) == 0)
            library = try_open(path, info);
    }
#else
    (void)folder;
#endif
    for (int i = 0; !library && sonames[i]; i++)
        library = try_open(sonames[i], info);
    if (!library)
        snprintf(info->reason, sizeof info->reason, "%s is not on the loader's path (%s names another place)",
                 sonames[0], env);
    return library;
}

void *fm_base_engine_symbol(void *library, const char *name, fm_engine_info *info)
{
    void *symbol = dlsym(library, name);
    if (!symbol)
        snprintf(info->reason, sizeof info->reason, "%s lacks %s", info->path, name);
    return symbol;
}

void fm_base_engine_probe(fm_engine engine, fm_engine_info *out_info)
{
    static const struct {
        const char *name;
        void (*probe)(fm_engine_info *info);
    } engines[FM_ENGINE_COUNT] = {
        [FM_ENGINE_DUCKDB] = {"DuckDB", fm_base_engine_probe_duckdb},
        [FM_ENGINE_CUDA] = {"CUDA driver", fm_base_engine_probe_cuda},
        [FM_ENGINE_NVRTC] = {"NVRTC", fm_base_engine_probe_nvrtc},
        [FM_ENGINE_MPI] = {"MPI", fm_base_engine_probe_mpi},
    };
    memset(out_info, 0, sizeof *out_info);
    if (engine < 0 || engine >= FM_ENGINE_COUNT) {
        out_info->name = "?";
        snprintf(out_info->reason, sizeof out_info->reason, "no engine has the number %d", (int)engine);
        return;
    }
    out_info->name = engines[engine].name;
    engines[engine].probe(out_info);
    if (out_info->found)
        out_info->reason[0] = 0;
    else
        out_info->path[0] = out_info->version[0] = 0;
}
