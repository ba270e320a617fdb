#include "bench_base.h"

#include "fathom/mem.h"
#include "fathom/numfmt.h"

#include <stdio.h>
#include <string.h>

struct conversion {
    const char *name;
    double from_bits, to_bits; // an element
    int from_floats;
    void (*run)(const void *from, size_t n, void *to);
};

#define CONVERT(from, to)                                                  \
    static void from##_to_##to(const void *source, size_t n, void *target) \
    {                                                                      \
        fm_base_##from##_to_##to(source, n, target);                       \
    }
CONVERT(f32, bf16)
CONVERT(f32, fp16)
CONVERT(f32, e4m3)
CONVERT(f32, e5m2)
CONVERT(f32, e2m1)
CONVERT(bf16, f32)
CONVERT(fp16, f32)
CONVERT(e4m3, f32)
CONVERT(e5m2, f32)
CONVERT(e2m1, f32)
CONVERT(e4m3, bf16)

static const struct conversion conversions[] = {
    {"f32_to_bf16", 32, 16, 1, f32_to_bf16},  {"f32_to_fp16", 32, 16, 1, f32_to_fp16},
    {"f32_to_e4m3", 32, 8, 1, f32_to_e4m3},   {"f32_to_e5m2", 32, 8, 1, f32_to_e5m2},
    {"f32_to_e2m1", 32, 4, 1, f32_to_e2m1},   {"bf16_to_f32", 16, 32, 0, bf16_to_f32},
    {"fp16_to_f32", 16, 32, 0, fp16_to_f32},  {"e4m3_to_f32", 8, 32, 0, e4m3_to_f32},
    {"e5m2_to_f32", 8, 32, 0, e5m2_to_f32},   {"e2m1_to_f32", 4, 32, 0, e2m1_to_f32},
    {"e4m3_to_bf16", 8, 16, 0, e4m3_to_bf16},
};
enum { CONVERSIONS = sizeof conversions / sizeof *conversions };

struct argument {
    const struct conversion *conversion;
    size_t count;
};

struct numbers {
    struct argument argument;
    size_t from_bytes, to_bytes;
    void *from, *to;
};

static void teardown(void *state)
{
    struct numbers *numbers = state;
    fm_base_mem_free(numbers->from);
    fm_base_mem_free(numbers->to);
    fm_base_mem_free(numbers);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct numbers *numbers = fm_base_mem_zalloc(1, sizeof *numbers);
    if (!numbers)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    numbers->argument = *(const struct argument *)given->argument;
    const struct conversion *conversion = numbers->argument.conversion;
    size_t count = numbers->argument.count;
    numbers->from_bytes = (size_t)((double)count * conversion->from_bits / 8);
    numbers->to_bytes = (size_t)((double)count * conversion->to_bits / 8);
    // Each as large as the memcpy() peer wants it.
    size_t bytes = numbers->from_bytes > numbers->to_bytes ? numbers->from_bytes : numbers->to_bytes;
    numbers->from = fm_bench_alloc(bytes);
    numbers->to = fm_bench_alloc(bytes);
    if (!numbers->from || !numbers->to) {
        teardown(numbers);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for twice %zu bytes", bytes);
    }
    if (conversion->from_floats)
        fm_bench_fill_floats(given->seed, numbers->from, count);
    else
        fm_bench_fill(given->seed, numbers->from, bytes);
    memset(numbers->to, 0xA5, bytes); // so that its pages are there
    *out_state = numbers;
    return FM_OK;
}

static fm_status run(void *state, int threads)
{
    (void)threads;
    struct numbers *numbers = state;
    numbers->argument.conversion->run(numbers->from, numbers->argument.count, numbers->to);
    return FM_OK;
}

// As many bytes read and written as the conversion reads and writes.
static fm_status run_memcpy(void *state, int threads)
{
    (void)threads;
    struct numbers *numbers = state;
    memcpy(numbers->to, numbers->from, (numbers->from_bytes + numbers->to_bytes) / 2);
    FM_BENCH_KEEP(numbers->to);
    return FM_OK;
}

static uint64_t hash(const void *state)
{
    const struct numbers *numbers = state;
    return fm_bench_hash(0, numbers->to, numbers->to_bytes);
}

static fm_status add(fm_bench *bench, const char *size, const struct argument *argument)
{
    const struct conversion *conversion = argument->conversion;
    char name[64];
    snprintf(name, sizeof name, "%s.%s", conversion->name, size);
    int in_cache = argument->count < 1 << 20;
    return fm_bench_add(
        bench, &(fm_bench_case){
                   .name = name,
                   .argument = argument,
                   .limit = in_cache ? FM_BENCH_NO_LIMIT : FM_BENCH_COPY_STREAMED,
                   .bytes = (double)argument->count * (conversion->from_bits + conversion->to_bits) / 8,
                   .items = (double)argument->count,
                   .mode = in_cache ? FM_BENCH_IN_SMOKE : FM_BENCH_IN_FULL,
                   .threads = 1,
                   .setup = setup,
                   .run = run,
                   .hash = hash,
                   .teardown = teardown,
                   .peers = {{.name = "memcpy", .run = run_memcpy}},
               });
}

fm_status fm_bench_base_add_numbers(fm_bench *bench)
{
    static struct argument in_cache[CONVERSIONS]; // 384 KiB at most: the core's second-level cache
    static struct argument in_memory[CONVERSIONS];
    for (int i = 0; i < CONVERSIONS; i++) {
        in_cache[i] = (struct argument){&conversions[i], 64 << 10};
        FM_TRY(add(bench, "64Ki", &in_cache[i]));
    }
    for (int i = 0; i < CONVERSIONS; i++) {
        in_memory[i] = (struct argument){&conversions[i], 64 << 20};
        FM_TRY(add(bench, "64Mi", &in_memory[i]));
    }
    return FM_OK;
}
