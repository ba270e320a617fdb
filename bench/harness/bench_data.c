#include "fm_bench.h"

#include "fathom/mem.h"
#include "fathom/rng.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

// Multiply and fold a word at a time: each step is a bijection of the state for a given word, so that two results that
// differ in one word never collide.
uint64_t fm_bench_hash(uint64_t seed, const void *bytes, size_t size)
{
    const uint64_t multiplier = 0x9E3779B97F4A7C15u; // 2^64 / golden ratio, odd
    const unsigned char *from = bytes;
    uint64_t hash = (seed ^ size) * multiplier;
    for (; size >= 8; size -= 8, from += 8) {
        hash = (hash ^ fm_get_le64(from)) * multiplier;
        hash ^= hash >> 29;
    }
    uint64_t rest = 0;
    for (size_t i = 0; i < size; i++)
        rest |= (uint64_t)from[i] << (8 * i);
    hash = (hash ^ rest) * multiplier;
    return hash ^ hash >> 32;
}

void fm_bench_fill(uint64_t seed, void *bytes, size_t size)
{
    fm_rng rng = fm_base_rng_begin(seed, 0);
    fm_base_rng_fill(&rng, bytes, size);
}

void fm_bench_fill_floats(uint64_t seed, float *values, size_t count)
{
    fm_rng rng = fm_base_rng_begin(seed, 0);
    for (size_t i = 0; i < count; i++)
        values[i] = 2 * fm_rng_float(&rng) - 1;
}

#if defined(__x86_64__)
static void evict_line(const char *line, int optimised)
{
    // CLFLUSHOPT need not wait for the flush before it.
    if (optimised)
        __asm__ volatile("clflushopt %0" : : "m"(*line) : "memory");
    else
        __asm__ volatile("clflush %0" : : "m"(*line) : "memory");
}

static int has_optimised(void)
{
    unsigned a;
    unsigned b = 0;
    unsigned c;
    unsigned d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_CLFLUSHOPT);
}
#elif defined(__aarch64__)
static void evict_line(const char *line, int optimised)
{
    (void)optimised;
    __asm__ volatile("dc civac, %0" : : "r"(line) : "memory");
}

static int has_optimised(void)
{
    return 0;
}
#else
#error "name the instruction that writes back and invalidates a cache line"
#endif

void fm_bench_evict(const void *bytes, size_t size)
{
    const char *end = (const char *)bytes + size;
    const char *line = (const char *)bytes - (uintptr_t)bytes % FM_CACHE_LINE;
    int optimised = has_optimised();
    for (; line < end; line += FM_CACHE_LINE)
        evict_line(line, optimised);
    __sync_synchronize(); // the flushes are done before what follows
}

void *fm_bench_alloc(size_t size)
{
    void *block = fm_base_mem_aligned(size, HUGE_PAGE);
    // A request, and refused by kernels without huge pages: slower, not wrong.
    if (block)
        (void)madvise(block, fm_round_up(size, HUGE_PAGE), MADV_HUGEPAGE);
    return block;
}
