#include "fathom/mem.h"

#include <stdatomic.h>
#include <stdlib.h>

// Relaxed: a statistic; tests read it after joining their threads.
static atomic_size_t live_blocks;
static fm_mem_gate gate_function;
static void *gate_context;

static int refused(size_t size)
{
    return gate_function && gate_function(gate_context, size);
}

static void *counted(void *block)
{
    if (block)
        atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    return block;
}

void *fm_base_mem_alloc(size_t size)
{
    return refused(size) ? NULL : counted(malloc(size ? size : 1));
}

void *fm_base_mem_zalloc(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || refused(bytes))
        return NULL;
    return counted(calloc(1, bytes ? bytes : 1));
}

void *fm_base_mem_realloc(void *block, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || refused(bytes))
        return NULL;
    void *moved = realloc(block, bytes ? bytes : 1);
    return block ? moved : counted(moved);
}

void *fm_base_mem_aligned(size_t size, size_t alignment)
{
    if (size > SIZE_MAX - alignment || refused(size))
        return NULL;
    size_t rounded = fm_round_up(size ? size : 1, alignment);
    return counted(aligned_alloc(alignment, rounded));
}

char *fm_base_mem_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = fm_base_mem_alloc(bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

void fm_base_mem_free(void *block)
{
    if (!block)
        return;
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    free(block);
}

size_t fm_base_mem_live(void)
{
    return atomic_load_explicit(&live_blocks, memory_order_relaxed);
}

void fm_base_mem_set_gate(fm_mem_gate gate, void *context)
{
    gate_function = gate;
    gate_context = context;
}

struct fm_arena_block {
    struct fm_arena_block *next;
    size_t size; // bytes that follow this header
    size_t used;
    size_t padding; // keeps the bytes 16-aligned behind the header
};

enum {
    ARENA_ALIGNMENT = 16,
    // One page and a half of small nodes; doubling is not worth it, the arena serves parsers and planners.
    ARENA_BLOCK_BYTES = 8192,
};

_Static_assert(sizeof(struct fm_arena_block) % ARENA_ALIGNMENT == 0, "blocks hand out 16-aligned pieces");

void *fm_base_arena_alloc(fm_arena *arena, size_t size)
{
    if (size > SIZE_MAX / 2)
        return NULL;
    size = fm_round_up(size ? size : 1, ARENA_ALIGNMENT);
    struct fm_arena_block *block = arena->head;
    if (!block || block->size - block->used < size) {
        size_t bytes = size > ARENA_BLOCK_BYTES ? size : ARENA_BLOCK_BYTES;
        block = fm_base_mem_aligned(sizeof *block + bytes, ARENA_ALIGNMENT);
        if (!block)
            return NULL;
        *block = (struct fm_arena_block){.next = arena->head, .size = bytes};
        arena->head = block;
    }
    void *piece = (char *)(block + 1) + block->used;
    block->used += size;
    arena->bytes += size;
    return piece;
}

char *fm_base_arena_strndup(fm_arena *arena, const char *text, size_t length)
{
    if (length == SIZE_MAX)
        return NULL;
    char *copy = fm_base_arena_alloc(arena, length + 1);
    if (!copy)
        return NULL;
    if (length)
        memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

void fm_base_arena_clear(fm_arena *arena)
{
    while (arena->head) {
        struct fm_arena_block *block = arena->head;
        arena->head = block->next;
        fm_base_mem_free(block);
    }
    arena->bytes = 0;
}
