#include "bench_host.h"

#include "bench_si.h"
#include "bench_stats.h"

#include "fathom/clock.h"
#include "fathom/cpu.h"
#include "fathom/doc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

// What the probes of one limit say: on 1 and on all threads; 0 where there is none.
struct limit_pair {
    double one, all;
};

static double measure(fm_bench_probes *probes, fm_bench_limit limit, int threads)
{
    enum { TAKES = 11 };
    double rates[TAKES];
    if (fm_bench_probe_prepare(probes, limit, threads) < 0)
        return 0;
    for (int i = 0; i < TAKES; i++)
        rates[i] = fm_bench_probe_take(probes, limit, threads);
    return fm_bench_stats_of(rates, TAKES).median;
}

static void measure_all(fm_bench_probes *probes, const int wanted[FM_BENCH_LIMITS], int threads,
                        struct limit_pair limits[FM_BENCH_LIMITS])
{
    for (int limit = 0; limit < FM_BENCH_LIMITS; limit++) {
        if (!wanted[limit])
            continue;
        limits[limit].one = measure(probes, (fm_bench_limit)limit, 1);
        limits[limit].all = threads > 1 ? measure(probes, (fm_bench_limit)limit, threads) : limits[limit].one;
    }
}

static void read_revision(char *text, size_t size)
{
    text[0] = 0;
    FILE *git = popen("git -C '" FM_BENCH_SOURCE_DIR "' describe --always --dirty --tags 2>/dev/null", "re");
    if (!git)
        return;
    if (!fgets(text, (int)size, git))
        text[0] = 0;
    text[strcspn(text, "\n")] = 0;
    pclose(git);
}

static void stamp(char *text, size_t size)
{
    time_t now = (time_t)(fm_base_clock_unix_ns() / 1000000000);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(text, size, "%Y-%m-%dT%H:%M:%SZ", &parts);
}

static void print_limits(FILE *text, const struct limit_pair limits[FM_BENCH_LIMITS], int threads)
{
    const char *separator = "";
    for (int limit = 0; limit < FM_BENCH_LIMITS; limit++) {
        if (limits[limit].one == 0)
            continue;
        const char *unit = fm_bench_limit_unit((fm_bench_limit)limit);
        if (!separator[0])
            fprintf(text, "limits on 1 and on %d threads: ", threads);
        fprintf(text, "%s%s %s, %s", separator, fm_bench_limit_name((fm_bench_limit)limit),
                fm_bench_si(limits[limit].one, unit).text, fm_bench_si(limits[limit].all, unit).text);
        separator = "; ";
    }
    fprintf(text, "%s\n", separator[0] ? "\n" : "");
}

static void write_limits(fm_json *json, const struct limit_pair limits[FM_BENCH_LIMITS])
{
    fm_base_json_begin(json, "limits", '{');
    for (int limit = 0; limit < FM_BENCH_LIMITS; limit++) {
        if (limits[limit].one == 0)
            continue;
        fm_base_json_begin(json, fm_bench_limit_name((fm_bench_limit)limit), '{');
        fm_base_json_string(json, "unit", fm_bench_limit_unit((fm_bench_limit)limit));
        fm_base_json_real(json, "one", limits[limit].one);
        fm_base_json_real(json, "all", limits[limit].all);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

fm_status fm_bench_host_report(const fm_bench_output *output, const char *mode, fm_bench_probes *probes,
                               const int wanted[FM_BENCH_LIMITS], int threads)
{
    struct utsname system;
    char revision[64];
    char date[32];
    double load = 0;
    struct limit_pair limits[FM_BENCH_LIMITS] = {{0}};
    uname(&system);
    read_revision(revision, sizeof revision);
    stamp(date, sizeof date);
    (void)getloadavg(&load, 1); // before the probes: it tells who else was there
    measure_all(probes, wanted, threads, limits);
    const char *isa = fm_base_isa_name(fm_base_cpu_isa(FM_ISA_AMX));
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (output->text) {
        fprintf(
            output->text, "bench_%s %s, %s: %s, %d CPUs, %s, Linux %s, level %s, %s build by %s, load %.2f\n",
            output->bench, revision, date, fm_base_cpu_get()->brand, fm_base_cpu_count(),
            fm_bench_si(memory, "B").text, system.release, isa, FM_BENCH_BUILD_TYPE, FM_BENCH_COMPILER, load);
        print_limits(output->text, limits, threads);
    }
    if (!output->json)
        return FM_OK;
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "record", "machine");
    fm_base_json_string(&json, "bench", output->bench);
    fm_base_json_string(&json, "mode", mode);
    fm_base_json_string(&json, "date", date);
    fm_base_json_string(&json, "revision", revision);
    fm_base_json_string(&json, "cpu", fm_base_cpu_get()->brand);
    fm_base_json_int(&json, "cpus", fm_base_cpu_count());
    fm_base_json_int(&json, "threads", threads);
    fm_base_json_real(&json, "memory", memory);
    fm_base_json_int(&json, "l2", (int64_t)fm_base_cpu_get()->l2_bytes);
    fm_base_json_int(&json, "l3", (int64_t)fm_base_cpu_get()->l3_bytes);
    fm_base_json_string(&json, "kernel", system.release);
    fm_base_json_string(&json, "isa", isa);
    fm_base_json_string(&json, "compiler", FM_BENCH_COMPILER);
    fm_base_json_string(&json, "build", FM_BENCH_BUILD_TYPE);
    fm_base_json_real(&json, "load", load);
    write_limits(&json, limits);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, output->json);
}
