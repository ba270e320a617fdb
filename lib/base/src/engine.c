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

// Looks beside `file`, which is the program or the library that holds this code.
static void *open_beside(const char *file, const char *soname, fm_engine_info *info)
{
    static const char *const folders[] = {"fathom", "lib/fathom", "../lib/fathom"};
    const char *slash = strrchr(file, '/');
    for (size_t i = 0; slash && i < sizeof folders / sizeof folders[0]; i++) {
        char path[1024];
        int length = snprintf(path, sizeof path, "%.*s/%s/%s", (int)(slash - file), file, folders[i], soname);
        if (length < (int)sizeof path && access(path, R_OK) == 0)
            return try_open(path, info);
    }
    return NULL;
}

static void *open_installed(const char *soname, fm_engine_info *info)
{
    char program[512];
    Dl_info here;
    void *library = NULL;
    // An address of this file's: dladdr() wants a data pointer, and a static object serves as well as a function.
    static const char marker;
    if (dladdr(&marker, &here) && here.dli_fname)
        library = open_beside(here.dli_fname, soname, info);
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (!library && length > 0) {
        program[length] = 0;
        library = open_beside(program, soname, info);
    }
    return library;
}

void *fm_base_engine_open(const char *env, const char *const *sonames, fm_engine_info *info)
{
    const char *given = getenv(env);
    if (given && *given) // asked for by name: no other may take its place
        return try_open(given, info);
    void *library = open_installed(sonames[0], info);
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
