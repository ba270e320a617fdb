#include "bench_base.h"

#include "fathom/crc.h"
#include "fathom/mem.h"
#include "fathom/rng.h"

#include <string.h>

struct bytes {
    size_t size;
    unsigned char *from;
    unsigned char *to;
    uint32_t crc;
};

static void teardown(void *state)
{
    struct bytes *bytes = state;
    fm_base_mem_free(bytes->from);
    fm_base_mem_free(bytes->to);
    fm_base_mem_free(bytes);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct bytes *bytes = fm_base_mem_zalloc(1, sizeof *bytes);
    if (!bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    bytes->size = *(const size_t *)given->argument;
    bytes->from = fm_bench_alloc(bytes->size);
    bytes->to = fm_bench_alloc(bytes->size);
    if (!bytes->from || !bytes->to) {
        teardown(bytes);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for twice %zu bytes",
                                 *(const size_t *)given->argument);
    }
    fm_bench_fill(given->seed, bytes->from, bytes->size);
    memset(bytes->to, 0xA5, bytes->size); // so that its pages are there
    *out_state = bytes;
    return FM_OK;
}

static uint64_t hash_crc(const void *state)
{
    const struct bytes *bytes = state;
    return bytes->crc;
}

static uint64_t hash_to(const void *state)
{
    const struct bytes *bytes = state;
    return fm_bench_hash(0, bytes->to, bytes->size);
}

static fm_status run_crc(void *state, int threads)
{
    (void)threads;
    struct bytes *bytes = state;
    bytes->crc = fm_base_crc32c(0, bytes->from, bytes->size);
    return FM_OK;
}

// What one writes by hand: the CRC32 instruction in one chain, 8 bytes every 3 cycles.
static fm_status run_instruction(void *state, int threads)
{
    (void)threads;
#ifdef __x86_64__
    struct bytes *bytes = state;
    if (!__builtin_cpu_supports("sse4.2"))
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "no CRC32 instruction here");
    uint64_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < bytes->size; i += 8)
        __asm__("crc32q %1, %0" : "+r"(crc) : "m"(*(const uint64_t *)(bytes->from + i)));
    bytes->crc = (uint32_t)~crc;
    return FM_OK;
#else
    (void)state;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "no CRC32 instruction here");
#endif
}

static fm_status run_memcpy(void *state, int threads)
{
    (void)threads;
    struct bytes *bytes = state;
    memcpy(bytes->to, bytes->from, bytes->size);
    FM_BENCH_KEEP(bytes->to);
    return FM_OK;
}

static fm_status run_fill(void *state, int threads)
{
    (void)threads;
    struct bytes *bytes = state;
    fm_rng rng = fm_base_rng_begin(7, 1);
    fm_base_rng_fill(&rng, bytes->to, bytes->size);
    return FM_OK;
}

fm_status fm_bench_base_add_bytes(fm_bench *bench)
{
    static const size_t in_cache =
        256 << 10; // from the core's second-level cache: what the routine itself can do
    static const size_t in_memory = 256 << 20;
    fm_bench_case item = {
        .name = "crc32c.256KiB",
        .argument = &in_cache,
        .bytes = (double)in_cache,
        .mode = FM_BENCH_IN_SMOKE,
        .threads = 1,
        .setup = setup,
        .run = run_crc,
        .hash = hash_crc,
        .teardown = teardown,
        .peers = {{.name = "crc32_instruction", .run = run_instruction, .same_result = 1},
                  {.name = "memcpy", .run = run_memcpy}},
    };
    FM_TRY(fm_bench_add(bench, &item));

    item.name = "crc32c.256MiB";
    item.argument = &in_memory;
    item.bytes = (double)in_memory;
    item.mode = FM_BENCH_IN_FULL;
    item.limit = FM_BENCH_READ;
    FM_TRY(fm_bench_add(bench, &item));

    return fm_bench_add(bench, &(fm_bench_case){
                                   .name = "rng_fill.256KiB",
                                   .argument = &in_cache,
                                   .bytes = (double)in_cache,
                                   .mode = FM_BENCH_IN_SMOKE,
                                   .threads = 1,
                                   .setup = setup,
                                   .run = run_fill,
                                   .hash = hash_to,
                                   .teardown = teardown,
                               });
}
