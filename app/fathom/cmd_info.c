// `fathom info`: what this machine is and what Fathom will use of it.
#include <stddef.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "commands.h"
#include "fathom/cpu.h"
#include "fathom/doc.h"
#include "fathom/engine.h"
#include "fathom/file.h"
#include "fathom/text.h"
#include "memory_probe.h"

struct info_options {
    int bandwidth;
};

static const fm_option info_schema[] = {
    {"bandwidth", FM_OPTION_FLAG, offsetof(struct info_options, bandwidth), .value = "true",
     .help = "measure how fast memory is read (half a second)"},
    {0},
};

enum { GPUS_MAX = 16 };

struct info {
    struct utsname system;
    fm_isa level;
    int threads;
    uint64_t memory_bytes, memory_available_bytes, shm_bytes;
    double rate_one, rate_all; // GB/s; 0: not measured
    fm_engine_info engines[FM_ENGINE_COUNT];
    fm_gpu_info gpus[GPUS_MAX];
    int gpu_count;
    char gpu_reason[512];
};

static fm_status collect(const struct info_options *options, struct info *info)
{
    FM_TRY(fm_base_cpu_isa_check());
    uname(&info->system);
    info->level = fm_base_cpu_isa(FM_ISA_AMX);
    info->threads = fm_base_cpu_threads();
    FM_TRY(fm_base_space_memory(&info->memory_available_bytes));
    info->memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (fm_base_space_disk("/dev/shm", &info->shm_bytes) < 0)
        info->shm_bytes = 0;
    if (options->bandwidth) {
        FM_TRY(fm_app_memory_read_rate(1, 250, &info->rate_one));
        info->rate_all = info->rate_one;
        if (info->threads > 1)
            FM_TRY(fm_app_memory_read_rate(info->threads, 250, &info->rate_all));
    }
    for (int i = 0; i < FM_ENGINE_COUNT; i++)
        fm_base_engine_probe((fm_engine)i, &info->engines[i]);
    if (fm_base_gpu_list(info->gpus, GPUS_MAX, &info->gpu_count) < 0)
        snprintf(info->gpu_reason, sizeof info->gpu_reason, "%s", fm_error_message());
    if (info->gpu_count > GPUS_MAX)
        info->gpu_count = GPUS_MAX;
    return FM_OK;
}

static const struct {
    uint32_t bit;
    const char *name;
} features[] = {
#define FEATURE(name, bit, text, reg, cpuid_bit, level) {name, text},
    FM_CPU_FEATURE_LIST(FEATURE)
#undef FEATURE
};

enum { FEATURE_COUNT = sizeof features / sizeof features[0] };

static void print_cpu(const struct info *info)
{
    const fm_cpu *cpu = fm_base_cpu_get();
    double quota = fm_base_cpu_quota();
    printf("fathom     %s on %s %s, %s\n", FM_VERSION, info->system.sysname, info->system.release,
           info->system.machine);
    printf("cpu        %s, %d usable core%s", cpu->brand, fm_base_cpu_count(),
           fm_base_cpu_count() == 1 ? "" : "s");
    if (quota > 0)
        printf(", quota %.2f", quota);
    printf("\ncaches     L1d %s, L2 %s per core, L3 %s\n", fm_base_text_bytes((double)cpu->l1d_bytes).text,
           fm_base_text_bytes((double)cpu->l2_bytes).text, fm_base_text_bytes((double)cpu->l3_bytes).text);
    printf("features  ");
    for (int i = 0; i < FEATURE_COUNT; i++)
        if (cpu->features & features[i].bit)
            printf(" %s", features[i].name);
    printf("\n\nISA level  %s\n", fm_base_isa_name(info->level));
    for (int i = 0; i < FM_ISA_COUNT; i++)
        printf("  %-8s %s\n", fm_base_isa_name((fm_isa)i), fm_base_cpu_isa_reason((fm_isa)i));
}

static void print_rest(const struct info *info)
{
    printf("\nmemory     %s, %s available, %s free in /dev/shm\n",
           fm_base_text_bytes((double)info->memory_bytes).text,
           fm_base_text_bytes((double)info->memory_available_bytes).text,
           fm_base_text_bytes((double)info->shm_bytes).text);
    if (info->rate_one > 0)
        printf("bandwidth  read %.1f GB/s with one thread, %.1f GB/s with %d\n", info->rate_one,
               info->rate_all, info->threads);
    printf("\nengines\n");
    for (int i = 0; i < FM_ENGINE_COUNT; i++) {
        const fm_engine_info *engine = &info->engines[i];
        if (engine->found)
            printf("  %-12s %s (%s)\n", engine->name, engine->version, engine->path);
        else
            printf("  %-12s not found: %s\n", engine->name, engine->reason);
    }
    printf("\nGPU\n");
    for (int i = 0; i < info->gpu_count; i++)
        printf("  %d: %s, %s, compute %d.%d, %d multiprocessors\n", i, info->gpus[i].name,
               fm_base_text_bytes((double)info->gpus[i].memory_bytes).text, info->gpus[i].compute_major,
               info->gpus[i].compute_minor, info->gpus[i].multiprocessors);
    if (info->gpu_count == 0)
        printf("  none: %s\n", info->gpu_reason[0] ? info->gpu_reason : "the driver reports no device");
}

static void json_cpu(fm_json *json, const struct info *info)
{
    const fm_cpu *cpu = fm_base_cpu_get();
    fm_base_json_begin(json, "cpu", '{');
    fm_base_json_string(json, "brand", cpu->brand);
    fm_base_json_int(json, "cores", fm_base_cpu_count());
    fm_base_json_real(json, "quota", fm_base_cpu_quota());
    fm_base_json_int(json, "l1d_bytes", (int64_t)cpu->l1d_bytes);
    fm_base_json_int(json, "l2_bytes", (int64_t)cpu->l2_bytes);
    fm_base_json_int(json, "l3_bytes", (int64_t)cpu->l3_bytes);
    fm_base_json_begin(json, "features", '[');
    for (int i = 0; i < FEATURE_COUNT; i++)
        if (cpu->features & features[i].bit)
            fm_base_json_string(json, NULL, features[i].name);
    fm_base_json_end(json);
    fm_base_json_end(json);
    fm_base_json_begin(json, "isa", '{');
    fm_base_json_string(json, "level", fm_base_isa_name(info->level));
    fm_base_json_begin(json, "reasons", '{');
    for (int i = 0; i < FM_ISA_COUNT; i++)
        fm_base_json_string(json, fm_base_isa_name((fm_isa)i), fm_base_cpu_isa_reason((fm_isa)i));
    fm_base_json_end(json);
    fm_base_json_bool(json, "amx", info->level == FM_ISA_AMX);
    fm_base_json_end(json);
}

static void json_engines(fm_json *json, const struct info *info)
{
    fm_base_json_begin(json, "engines", '[');
    for (int i = 0; i < FM_ENGINE_COUNT; i++) {
        const fm_engine_info *engine = &info->engines[i];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "name", engine->name);
        fm_base_json_bool(json, "found", engine->found);
        fm_base_json_string(json, "version", engine->found ? engine->version : NULL);
        fm_base_json_string(json, "path", engine->found ? engine->path : NULL);
        fm_base_json_string(json, "reason", engine->found ? NULL : engine->reason);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
    fm_base_json_begin(json, "gpus", '[');
    for (int i = 0; i < info->gpu_count; i++) {
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "name", info->gpus[i].name);
        fm_base_json_int(json, "memory_bytes", (int64_t)info->gpus[i].memory_bytes);
        fm_base_json_int(json, "compute_major", info->gpus[i].compute_major);
        fm_base_json_int(json, "compute_minor", info->gpus[i].compute_minor);
        fm_base_json_int(json, "multiprocessors", info->gpus[i].multiprocessors);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static fm_status print_json(const struct info *info)
{
    fm_json json = {.pretty = 1};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "version", FM_VERSION);
    fm_base_json_string(&json, "system", info->system.sysname);
    fm_base_json_string(&json, "release", info->system.release);
    fm_base_json_string(&json, "machine", info->system.machine);
    json_cpu(&json, info);
    fm_base_json_begin(&json, "memory", '{');
    fm_base_json_int(&json, "total_bytes", (int64_t)info->memory_bytes);
    fm_base_json_int(&json, "available_bytes", (int64_t)info->memory_available_bytes);
    fm_base_json_int(&json, "shm_bytes", (int64_t)info->shm_bytes);
    if (info->rate_one > 0) {
        fm_base_json_real(&json, "read_gb_per_s_one_thread", info->rate_one);
        fm_base_json_real(&json, "read_gb_per_s_all_threads", info->rate_all);
    }
    fm_base_json_end(&json);
    json_engines(&json, info);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status run_info(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)out_exit;
    struct info info = {0};
    FM_TRY(collect(options, &info));
    if (invocation->json)
        return print_json(&info);
    print_cpu(&info);
    print_rest(&info);
    return FM_OK;
}

const fm_command fm_cmd_info = {
    .name = "info",
    .summary = "describe this machine: CPU, ISA level and why, memory bandwidth, engines, GPU",
    .details = "FM_ISA=ref|avx2|avx512|amx caps the level; the reasons say what was capped or is missing.",
    .options = info_schema,
    .options_size = sizeof(struct info_options),
    .has_json = 1,
    .run = run_info,
};
