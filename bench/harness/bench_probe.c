#include "bench_probe.h"

#include "bench_team.h"
#include "probe_kernels.h"

#include "fathom/clock.h"
#include "fathom/cpu.h"
#include "fathom/mem.h"

#include <time.h>
#include <unistd.h>

// A window is long enough for its rate to repeat within a few per cent on a busy machine, and no longer, since every
// sample pays for two. Memory needs more: its rate averages over refresh cycles and over other tenants' bursts.
#define WINDOW_COMPUTE 200e-6
#define WINDOW_MEMORY  2e-3

// A core whose hardware sibling wakes up loses a third to a half, a changed clock 10 % or more; probes of an undisturbed
// core repeat within 2 % (compute) and 6 % (memory).
#define BOUND_COMPUTE 0.08
#define BOUND_MEMORY  0.15

struct probe {
    const char *name;
    const char *unit;
    double window; // seconds
    double bound;
    uint32_t features; // FM_CPU_*
    int walks_memory;
    double (*chunk)(fm_bench_lane *lane); // NULL: not probed here, or not on this kind of machine
};

static double chunk_fma_scalar(fm_bench_lane *lane)
{
#ifdef __x86_64__
    if (fm_base_cpu_allows(FM_CPU_FMA))
        return fm_bench_chunk_fma_scalar(lane);
#endif
    return fm_bench_chunk_muladd_scalar(lane);
}

#ifdef __x86_64__
#define X86(chunk) chunk
#else
#define X86(chunk) NULL
#endif
#define COMPUTE WINDOW_COMPUTE, BOUND_COMPUTE
#define MEMORY  WINDOW_MEMORY, BOUND_MEMORY

static const struct probe table[FM_BENCH_LIMITS] = {
    [FM_BENCH_NO_LIMIT] = {"none", "", COMPUTE, 0, 0, NULL},
    [FM_BENCH_AMX_BF16] = {"amx_bf16", "flop/s", COMPUTE, FM_CPU_AMX_TILE | FM_CPU_AMX_BF16, 0,
                           X86(fm_bench_chunk_amx)},
    [FM_BENCH_FMA_AVX512] = {"fma_avx512", "flop/s", COMPUTE, FM_CPU_AVX512F, 0,
                             X86(fm_bench_chunk_fma_avx512)},
    [FM_BENCH_FMA_AVX2] = {"fma_avx2", "flop/s", COMPUTE, FM_CPU_AVX2 | FM_CPU_FMA, 0,
                           X86(fm_bench_chunk_fma_avx2)},
    [FM_BENCH_FMA_SCALAR] = {"fma_scalar", "flop/s", COMPUTE, 0, 0, chunk_fma_scalar},
    [FM_BENCH_CLOCK] = {"clock", "Hz", COMPUTE, 0, 0, fm_bench_chunk_clock},
    [FM_BENCH_READ] = {"read", "B/s", MEMORY, 0, 1, fm_bench_chunk_read},
    [FM_BENCH_COPY] = {"copy", "B/s", MEMORY, 0, 1, fm_bench_chunk_copy},
    [FM_BENCH_COPY_STREAMED] = {"copy_streamed", "B/s", MEMORY, 0, 1, fm_bench_chunk_copy_streamed},
    [FM_BENCH_OWN_LIMIT] = {"own", "", MEMORY, 0, 0, NULL},
};

struct fm_bench_probes {
    size_t memory_bytes;
    char *memory;
    size_t cursor; // bytes of each stream that the probes so far have passed
    fm_bench_team *team;
    // Of the probe that the team is taking.
    const struct probe *probe;
    double *rates; // by member
    size_t *cursors;
};

const char *fm_bench_limit_name(fm_bench_limit limit)
{
    return table[limit].name;
}

const char *fm_bench_limit_unit(fm_bench_limit limit)
{
    return table[limit].unit;
}

double fm_bench_limit_bound(fm_bench_limit limit)
{
    return table[limit].bound;
}

fm_bench_limit fm_bench_limit_of_isa(fm_isa level)
{
    static const fm_bench_limit limits[FM_ISA_COUNT] = {
        [FM_ISA_REF] = FM_BENCH_FMA_SCALAR,
        [FM_ISA_AVX2] = FM_BENCH_FMA_AVX2,
        [FM_ISA_AVX512] = FM_BENCH_FMA_AVX512,
        [FM_ISA_AMX] = FM_BENCH_AMX_BF16,
    };
    return limits[level];
}

static double seconds(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

double fm_bench_process_cpu(void)
{
    return seconds(CLOCK_PROCESS_CPUTIME_ID);
}

double fm_bench_wall(void)
{
    return seconds(CLOCK_MONOTONIC);
}

// OpenBLAS's threads spin for 2^26 ticks after their work, 20 to 40 ms, whatever OMP_WAIT_POLICY says.
void fm_bench_settle(void)
{
    const struct timespec nap = {.tv_nsec = 1000000};
    const double rest = 0.1; // of a nap: waking up costs a little, a thread that spins all of it
    const double patience = 0.1;
    double begin = fm_bench_wall(), wall = begin, cpu = fm_bench_process_cpu();
    for (double was, used; wall < begin + patience;) {
        nanosleep(&nap, NULL);
        was = wall;
        wall = fm_bench_wall();
        used = fm_bench_process_cpu() - cpu;
        if (used <= rest * (wall - was))
            return;
        cpu += used;
    }
}

// Four times the last-level cache, so that what a probe reads left the caches long before it comes round again, however
// much of a shared cache this machine is lent.
static size_t default_memory(void)
{
    size_t least = (size_t)512 << 20;
    size_t wanted = 4 * fm_base_cpu_get()->l3_bytes;
    size_t most = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE) / 8;
    wanted = wanted > least ? wanted : least;
    return wanted < most ? wanted : most;
}

fm_status fm_bench_probes_new(size_t memory_bytes, fm_bench_probes **out_probes)
{
    fm_bench_probes *probes = fm_base_mem_zalloc(1, sizeof *probes);
    if (!probes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the probes");
    probes->memory_bytes = memory_bytes ? memory_bytes : default_memory();
    *out_probes = probes;
    return FM_OK;
}

static void drop_team(fm_bench_probes *probes)
{
    fm_bench_team_free(probes->team);
    fm_base_mem_free(probes->rates);
    fm_base_mem_free(probes->cursors);
    probes->team = NULL;
    probes->rates = NULL;
    probes->cursors = NULL;
}

void fm_bench_probes_free(fm_bench_probes *probes)
{
    if (!probes)
        return;
    drop_team(probes);
    fm_base_mem_free(probes->memory);
    fm_base_mem_free(probes);
}

static fm_status prepare_team(fm_bench_probes *probes, int threads)
{
    if (threads == 1 || (probes->team && fm_bench_team_size(probes->team) == threads))
        return FM_OK;
    drop_team(probes);
    probes->rates = fm_base_mem_zalloc((size_t)threads, sizeof *probes->rates);
    probes->cursors = fm_base_mem_zalloc((size_t)threads, sizeof *probes->cursors);
    if (!probes->rates || !probes->cursors)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the rates of %d threads", threads);
    return fm_bench_team_new(threads, &probes->team);
}

fm_status fm_bench_probe_prepare(fm_bench_probes *probes, fm_bench_limit limit, int threads)
{
    const struct probe *probe = &table[limit];
    if (!probe->chunk || !fm_base_cpu_allows(probe->features))
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "no %s here", probe->name);
    FM_TRY(prepare_team(probes, threads));
    if (!probe->walks_memory || probes->memory)
        return FM_OK;
    probes->memory = fm_bench_alloc(probes->memory_bytes);
    if (!probes->memory)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes to probe", probes->memory_bytes);
    // Distinct words, so that nothing below can share or compress the pages. fm_bench_fill() would take seconds.
    uint64_t *words = (uint64_t *)probes->memory;
    for (size_t i = 0; i < probes->memory_bytes / sizeof *words; i++)
        words[i] = (i + 1) * 0x9E3779B97F4A7C15u;
    return FM_OK;
}

// The part of the memory that member `index` of `count` walks, from where the probes so far have come to.
static fm_bench_lane lane_of(const fm_bench_probes *probes, int index, int count)
{
    const size_t least = (size_t)FM_BENCH_STREAMS * FM_BENCH_STREAM_CHUNK;
    size_t lanes = probes->memory_bytes / least;
    if (!probes->memory || lanes == 0)
        return (fm_bench_lane){0};
    lanes = lanes < (size_t)count ? lanes : (size_t)count; // more threads than that share lanes
    size_t bytes = probes->memory_bytes / lanes / least * least;
    size_t stream = bytes / FM_BENCH_STREAMS;
    return (fm_bench_lane){
        .memory = probes->memory + (size_t)index % lanes * bytes,
        .stream_bytes = stream,
        .cursor = probes->cursor % stream,
    };
}

// The first chunk is not timed: it wakes wide units and loads what the loop needs.
static double rate_through_window(const struct probe *probe, fm_bench_lane *lane, double (*now)(void))
{
    probe->chunk(lane);
    double work = 0;
    double end = fm_bench_wall() + probe->window;
    double begin = now();
    do
        work += probe->chunk(lane);
    while (fm_bench_wall() < end);
    return work / (now() - begin);
}

static double thread_cpu(void)
{
    return (double)fm_base_clock_thread_cpu_ns() * 1e-9;
}

static void take_member(void *context, int member)
{
    fm_bench_probes *probes = context;
    fm_bench_lane lane = lane_of(probes, member, fm_bench_team_size(probes->team));
    probes->rates[member] = rate_through_window(probes->probe, &lane, fm_bench_wall);
    probes->cursors[member] = lane.cursor;
}

double fm_bench_probe_take(fm_bench_probes *probes, fm_bench_limit limit, int threads)
{
    const struct probe *probe = &table[limit];
    if (threads == 1) {
        fm_bench_lane lane = lane_of(probes, 0, 1);
        double rate = rate_through_window(probe, &lane, thread_cpu);
        probes->cursor = lane.cursor;
        return rate;
    }
    probes->probe = probe;
    fm_bench_team_run(probes->team, take_member, probes);
    double rate = 0;
    for (int i = 0; i < threads; i++)
        rate += probes->rates[i];
    probes->cursor = probes->cursors[0];
    return rate;
}
