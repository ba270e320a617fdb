// The CUDA driver, without CUDA's headers: the few entry points that describe the devices. Their types are
// fixed by the driver's ABI (CUresult and CUdevice are int, CUdevice_attribute an int, sizes size_t).
#include <stdio.h>
#include <string.h>

#include "engine_load.h"

#ifdef FM_HAVE_CUDA

#include <pthread.h>

enum { // CUdevice_attribute
    ATTRIBUTE_MULTIPROCESSORS = 16,
    ATTRIBUTE_COMPUTE_MAJOR = 75,
    ATTRIBUTE_COMPUTE_MINOR = 76,
};

static struct driver {
    int (*init)(unsigned flags);
    int (*version)(int *);
    int (*count)(int *);
    int (*get)(int *device, int ordinal);
    int (*name)(char *, int, int device);
    int (*total_memory)(size_t *, int device);
    int (*attribute)(int *, int attribute, int device);
    int (*error_name)(int error, const char **);
    fm_engine_info info;
} driver;

static void load_driver(void)
{
    static const char *const sonames[] = {"libcuda.so.1", NULL};
    fm_engine_info *info = &driver.info;
    void *library = fm_base_engine_open("FM_CUDA_LIB", sonames, info);
    if (!library)
        return;
    struct {
        const char *name;
        void *slot;
    } const symbols[] = {
        {"cuInit", &driver.init},
        {"cuDriverGetVersion", &driver.version},
        {"cuDeviceGetCount", &driver.count},
        {"cuDeviceGet", &driver.get},
        {"cuDeviceGetName", &driver.name},
        {"cuDeviceTotalMem_v2", &driver.total_memory},
        {"cuDeviceGetAttribute", &driver.attribute},
        {"cuGetErrorName", &driver.error_name},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        void *symbol = fm_base_engine_symbol(library, symbols[i].name, info);
        if (!symbol)
            return;
        memcpy(symbols[i].slot, &symbol, sizeof symbol);
    }
    int result = driver.init(0);
    int version = 0;
    if (result != 0 || (result = driver.version(&version)) != 0) {
        const char *name = NULL;
        driver.error_name(result, &name);
        snprintf(info->reason, sizeof info->reason, "the driver answers %s (%d)", name ? name : "an error",
                 result);
        return;
    }
    snprintf(info->version, sizeof info->version, "%d.%d", version / 1000, version % 1000 / 10);
    info->found = 1;
}

static pthread_once_t driver_once = PTHREAD_ONCE_INIT;

void fm_base_engine_probe_cuda(fm_engine_info *info)
{
    pthread_once(&driver_once, load_driver);
    const char *name = info->name;
    *info = driver.info;
    info->name = name;
}

fm_status fm_base_gpu_list(fm_gpu_info *out_gpus, int capacity, int *out_count)
{
    pthread_once(&driver_once, load_driver);
    if (!driver.info.found)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "no CUDA device: %s", driver.info.reason);
    int count = 0;
    if (driver.count(&count) != 0)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "the CUDA driver does not count its devices");
    for (int i = 0; i < count && i < capacity; i++) {
        fm_gpu_info gpu = {{0}, 0, 0, 0, 0};
        int device = 0;
        if (driver.get(&device, i) != 0 || driver.name(gpu.name, sizeof gpu.name, device) != 0 ||
            driver.total_memory(&gpu.memory_bytes, device) != 0 ||
            driver.attribute(&gpu.compute_major, ATTRIBUTE_COMPUTE_MAJOR, device) != 0 ||
            driver.attribute(&gpu.compute_minor, ATTRIBUTE_COMPUTE_MINOR, device) != 0 ||
            driver.attribute(&gpu.multiprocessors, ATTRIBUTE_MULTIPROCESSORS, device) != 0)
            return fm_base_error_set(FM_ERR_UNAVAILABLE, "the CUDA driver does not describe device %d", i);
        out_gpus[i] = gpu;
    }
    *out_count = count;
    return FM_OK;
}

#else

void fm_base_engine_probe_cuda(fm_engine_info *info)
{
    snprintf(info->reason, sizeof info->reason, "built with FM_WITH_CUDA=OFF");
}

fm_status fm_base_gpu_list(fm_gpu_info *out_gpus, int capacity, int *out_count)
{
    (void)out_gpus;
    (void)capacity;
    (void)out_count;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "no CUDA device: built with FM_WITH_CUDA=OFF");
}

#endif
