// MPI is used by ep's plug-in alone; base only says whether it is there, for `fathom info`.
#include <stdio.h>
#include <string.h>

#include "engine_load.h"

void fm_base_engine_probe_mpi(fm_engine_info *info)
{
    static const char *const sonames[] = {"libmpi.so.40", "libmpi.so.12", "libmpi.so", NULL};
    void *library = fm_base_engine_open("FM_MPI_LIB", sonames, info);
    if (!library)
        return;
    // Allowed before MPI_Init (MPI 3.1, section 8.1.1).
    int (*get_version)(char *, int *) = NULL;
    void *symbol = fm_base_engine_symbol(library, "MPI_Get_library_version", info);
    memcpy(&get_version, &symbol, sizeof symbol); // ISO C has no cast from an object to a function pointer
    if (!get_version)
        return;
    char text[8192]; // MPI_MAX_LIBRARY_VERSION_STRING is 256 in Open MPI and 8192 in MPICH
    int length = 0;
    if (get_version(text, &length) != 0) {
        snprintf(info->reason, sizeof info->reason, "%s does not tell its version", info->path);
        return;
    }
    text[strcspn(text, ",\n")] = 0;
    snprintf(info->version, sizeof info->version, "%.90s", text);
    info->found = 1;
}
