#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "pond_batch.h"

enum { FUNCTIONS_MAX = 64, NAME_BYTES = 64 };

static struct {
    char name[NAME_BYTES];
    fm_pond_found found;
} functions[FUNCTIONS_MAX];
static int function_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

fm_status fm_pond_function_register(const char *name, fm_pond_function function, void *context,
                                    const char *version)
{
    if (strlen(name) >= NAME_BYTES || strchr(name, ':') ||
        strlen(version) >= sizeof functions[0].found.version)
        return fm_base_error_set(FM_ERR_ARG,
                                 "function '%s' of version '%s'; expected less than 64 bytes of each, and "
                                 "no ':' in the name",
                                 name, version);
    fm_status status = FM_OK;
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < function_count && strcmp(functions[i].name, name) != 0)
        i++;
    if (i == FUNCTIONS_MAX) {
        status = fm_base_error_set(FM_ERR_LIMIT, "more than %d functions are registered", FUNCTIONS_MAX);
    } else {
        function_count += i == function_count;
        snprintf(functions[i].name, NAME_BYTES, "%s", name);
        functions[i].found = (fm_pond_found){.function = function, .context = context};
        snprintf(functions[i].found.version, sizeof functions[i].found.version, "%s", version);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static fm_status find_in_file(const char *path, const char *symbol, fm_pond_found *out_found)
{
    fm_pond_found found = {0};
    fm_file_map map = {0};
    char digest[33];
    FM_TRY(fm_base_file_map(path, &map));
    fm_pond_text_digest(map.bytes ? map.bytes : "", map.length, digest);
    fm_base_file_unmap(&map);
    snprintf(found.version, sizeof found.version, "%s", digest);
    // It stays open as long as the process: its code may be running in another task.
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *address = library ? dlsym(library, symbol) : NULL;
    if (!address)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "function %s:%s: %s", path, symbol, dlerror());
    memcpy(&found.function, &address, sizeof address);
    *out_found = found;
    return FM_OK;
}

fm_status fm_pond_function_find(const char *name, fm_pond_found *out_found)
{
    const char *colon = strrchr(name, ':');
    if (colon) {
        fm_pond_text path = {0};
        fm_pond_text_add(&path, "%s%.*s", memchr(name, '/', (size_t)(colon - name)) ? "" : "./",
                         (int)(colon - name), name);
        fm_status status = fm_pond_text_status(&path);
        if (status == FM_OK)
            status = find_in_file(path.text, colon + 1, out_found);
        fm_pond_text_clear(&path);
        return status;
    }
    int i = 0;
    pthread_mutex_lock(&lock);
    while (i < function_count && strcmp(functions[i].name, name) != 0)
        i++;
    int found = i < function_count;
    if (found)
        *out_found = functions[i].found;
    pthread_mutex_unlock(&lock);
    return found
               ? FM_OK
               : fm_base_error_set(FM_ERR_NOT_FOUND,
                                   "no function '%s' is registered; expected one that is, or file.so:symbol",
                                   name);
}
