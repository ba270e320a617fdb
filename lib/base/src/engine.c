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
static int find_beside(const char *file, const char *name, char *out_path, size_t size)
{
    static const char *const folders[] = {"fathom", "lib/fathom", "../lib/fathom"};
    const char *slash = strrchr(file, '/');
    for (size_t i = 0; slash && i < sizeof folders / sizeof folders[0]; i++) {
        int length = snprintf(out_path, size, "%.*s/%s/%s", (int)(slash - file), file, folders[i], name);
        if (length >= 0 && (size_t)length < size && access(out_path, R_OK) == 0)
            return 1;
    }
    return 0;
}

int fm_base_installed_find(const char *name, char *out_path, size_t size)
{
    char program[512];
    Dl_info here;
    // An address of this file's: dladdr() wants a data pointer, and a static object serves as well as a function.
    static const char marker;
    if (dladdr(&marker, &here) && here.dli_fname && find_beside(here.dli_fname, name, out_path, size))
        return 1;
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = 0;
    return find_beside(program, name, out_path, size);
}

void *fm_base_engine_open(const char *env, const char *const *sonames, fm_engine_info *info)
{
    const char *given = getenv(env);
    if (given && *given) // asked for by name: no other may take its place
        return try_open(given, info);
    char installed[1024];
    void *library =
        fm_base_installed_find(sonames[0], installed, sizeof installed) ? try_open(installed, info) : NULL;
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
