/**
 * @file mem.h
 * Memory: counted allocation, aligned buffers, arenas, checked sizes, little-endian access.
 *
 * All libraries of the house allocate through fm_base_mem_*. That gives tests two handles on every program:
 * the number of live blocks (a test that ends with more than it began with fails) and a gate that can refuse
 * the n-th allocation. Any thread may call any function here, except that one arena belongs to one thread at
 * a time.
 */
#ifndef FATHOM_MEM_H
#define FATHOM_MEM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Vector loads want 64 bytes: one cache line, one AVX-512 register, one AMX tile row. */
#define FM_CACHE_LINE 64

/** `size` bytes, uninitialised, aligned for any scalar; NULL when there is no memory. Size 0 gives a unique
 * pointer. */
FM_API void *fm_base_mem_alloc(size_t size) FM_MUST_USE;
/** `count * size` zeroed bytes; NULL when there is no memory or the product overflows. */
FM_API void *fm_base_mem_zalloc(size_t count, size_t size) FM_MUST_USE;
/** Resizes to `count * size` bytes; NULL leaves `block` as it was. `block` may be NULL. Alignment beyond a
 * scalar's is lost. */
FM_API void *fm_base_mem_realloc(void *block, size_t count, size_t size) FM_MUST_USE;
/** `size` bytes aligned to `alignment` (a power of two; the size is rounded up to it). */
FM_API void *fm_base_mem_aligned(size_t size, size_t alignment) FM_MUST_USE;
/** A copy of `text`; NULL when there is no memory. */
FM_API char *fm_base_mem_strdup(const char *text) FM_MUST_USE;
/** Frees what any function above returned; NULL is allowed. */
FM_API void fm_base_mem_free(void *block);

/** Blocks allocated and not freed yet, over the whole process. */
FM_API size_t fm_base_mem_live(void);

/** Returns 0 to let an allocation of `size` bytes pass, anything else to make it fail. Called from any
 * thread. */
typedef int (*fm_mem_gate)(void *context, size_t size);
/** Installs a gate (NULL removes it). For tests; call it while no other thread allocates. */
FM_API void fm_base_mem_set_gate(fm_mem_gate gate, void *context);

/**
 * An arena: many small allocations that die together. Zero-initialise, or `fm_arena a = {0}`.
 *
 *     block -> block -> block (newest first), each:  | next, size, used | bytes ... |
 *
 * Freed whole by fm_base_arena_clear(); there is no free of a single piece.
 */
typedef struct fm_arena {
    struct fm_arena_block *head; /**< private */
    size_t bytes;                /**< total handed out, rounded to the alignment */
} fm_arena;

/** `size` bytes aligned to 16, uninitialised; NULL when there is no memory. */
FM_API void *fm_base_arena_alloc(fm_arena *arena, size_t size) FM_MUST_USE;
/** A copy of `length` bytes of `text` and a terminating 0; NULL when there is no memory. */
FM_API char *fm_base_arena_strndup(fm_arena *arena, const char *text, size_t length) FM_MUST_USE;
/** Frees everything; the arena can be used again. */
FM_API void fm_base_arena_clear(fm_arena *arena);

/** FM_ERR_LIMIT when a * b does not fit in size_t. For sizes that come from outside. */
static inline FM_MUST_USE fm_status fm_mul_size(size_t a, size_t b, size_t *out_product)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return fm_base_error_set(FM_ERR_LIMIT, "size overflows: %zu * %zu", a, b);
    *out_product = product;
    return FM_OK;
}

/** FM_ERR_LIMIT when a + b does not fit in size_t. */
static inline FM_MUST_USE fm_status fm_add_size(size_t a, size_t b, size_t *out_sum)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return fm_base_error_set(FM_ERR_LIMIT, "size overflows: %zu + %zu", a, b);
    *out_sum = sum;
    return FM_OK;
}

/** `size` rounded up to a multiple of `step` (a power of two). The caller knows that it does not overflow. */
static inline size_t fm_round_up(size_t size, size_t step)
{
    return (size + step - 1) & ~(step - 1);
}

/*
 * Formats on disk and wire are little-endian. These read and write them at any address on any host.
 */
#define FM_LE_ACCESS(bits)                                                                           \
    static inline uint##bits##_t fm_get_le##bits(const void *from)                                   \
    {                                                                                                \
        const uint8_t *bytes = (const uint8_t *)from;                                                \
        uint##bits##_t value = 0;                                                                    \
        for (int i = 0; i < bits / 8; i++)                                                           \
            value = (uint##bits##_t)(value | (uint##bits##_t)((uint##bits##_t)bytes[i] << (8 * i))); \
        return value;                                                                                \
    }                                                                                                \
    static inline void fm_put_le##bits(void *to, uint##bits##_t value)                               \
    {                                                                                                \
        uint8_t *bytes = (uint8_t *)to;                                                              \
        for (int i = 0; i < bits / 8; i++)                                                           \
            bytes[i] = (uint8_t)(value >> (8 * i));                                                  \
    }
FM_LE_ACCESS(16)
FM_LE_ACCESS(32)
FM_LE_ACCESS(64)
#undef FM_LE_ACCESS

#ifdef __cplusplus
}
#endif
#endif
