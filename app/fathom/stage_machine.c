// The machine: its level, its cores, its memory bandwidth; everything later is read against these.
#include <stddef.h>

#include "fathom/cpu.h"
#include "fathom/file.h"
#include "memory_probe.h"
#include "stage.h"

struct machine_options {
    double probe_ms;
};

static const fm_option machine_schema[] = {
    {"probe", FM_OPTION_REAL, offsetof(struct machine_options, probe_ms), .value = "250", .unit = "ms",
     .min = 1, .max = 60000, .help = "how long each bandwidth measurement takes"},
    {0},
};

static fm_status run_machine(struct fm_stage_run *run, const void *given)
{
    const struct machine_options *options = given;
    uint64_t available;
    double one, all;
    FM_TRY(fm_base_cpu_isa_check());
    FM_TRY(fm_base_space_memory(&available));
    int threads = fm_base_cpu_threads();
    FM_TRY(fm_app_memory_read_rate(1, options->probe_ms, &one));
    FM_TRY(fm_app_memory_read_rate(threads, options->probe_ms, &all));
    fm_app_stage_text(run, "cpu", "%s", fm_base_cpu_get()->brand);
    fm_app_stage_number(run, "cores", threads, NULL);
    fm_app_stage_text(run, "ISA level", "%s", fm_base_isa_name(fm_base_cpu_isa(FM_ISA_AMX)));
    fm_app_stage_number(run, "memory available", (double)available, "B");
    fm_app_stage_number(run, "memory read, one thread", one, "GB/s");
    fm_app_stage_number(run, "memory read, all threads", all, "GB/s");
    return FM_OK;
}

const struct fm_stage fm_stage_machine = {
    .name = "machine",
    .summary = "what this machine is and how fast it reads memory",
    .schema = machine_schema,
    .options_size = sizeof(struct machine_options),
    .run = run_machine,
};
