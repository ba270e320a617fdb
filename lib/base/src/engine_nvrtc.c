// NVRTC compiles the CUDA kernels at first use; it needs no GPU.
#include <stdio.h>
#include <string.h>

#include "engine_load.h"

void fm_base_engine_probe_nvrtc(fm_engine_info *info)
{
#ifdef FM_HAVE_CUDA
    static const char *const sonames[] = {"libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", NULL};
    void *library = fm_base_engine_open("FM_NVRTC_LIB", sonames, info);
    if (!library)
        return;
    int (*get_version)(int *, int *) = NULL;
    void *symbol = fm_base_engine_symbol(library, "nvrtcVersion", info);
    memcpy(&get_version, &symbol, sizeof symbol);
    int major = 0;
    int minor = 0;
    if (!get_version)
        return;
    if (get_version(&major, &minor) != 0) {
        snprintf(info->reason, sizeof info->reason, "%s does not tell its version", info->path);
        return;
    }
    snprintf(info->version, sizeof info->version, "%d.%d", major, minor);
    info->found = 1;
#else
    snprintf(info->reason, sizeof info->reason, "built with FM_WITH_CUDA=OFF");
#endif
}
