#include "model_compute.h"

// Large enough that a small model's step fits in a few blocks.
enum { BLOCK_FLOATS = 1 << 20, BLOCKS_MAX = 1 << 16, LINE_FLOATS = FM_CACHE_LINE / sizeof(float) };

static int add_block(struct fm_model_scratch *scratch, size_t count)
{
    size_t capacity = count > BLOCK_FLOATS ? count : BLOCK_FLOATS;
    if (scratch->count == BLOCKS_MAX || capacity > SIZE_MAX / sizeof(float) / 2)
        return 0;
    void *blocks = fm_base_mem_realloc(scratch->blocks, (size_t)scratch->count + 1, sizeof *scratch->blocks);
    if (!blocks)
        return 0;
    scratch->blocks = blocks;
    float *floats = fm_base_mem_aligned(capacity * sizeof(float), FM_CACHE_LINE);
    if (!floats)
        return 0;
    scratch->blocks[scratch->count].floats = floats;
    scratch->blocks[scratch->count++].capacity = capacity;
    return 1;
}

float *fm_model_scratch_take(struct fm_model_scratch *scratch, size_t count)
{
    if (count > SIZE_MAX / sizeof(float) / 4)
        return NULL;
    count = fm_round_up(count, LINE_FLOATS);
    for (;; scratch->current++, scratch->used = 0) {
        if (scratch->current == scratch->count && !add_block(scratch, count))
            return NULL;
        struct block *block = &scratch->blocks[scratch->current];
        if (count <= block->capacity - scratch->used) {
            float *floats = block->floats + scratch->used;
            scratch->used += count;
            return floats;
        }
    }
}

float *fm_model_scratch_zero(struct fm_model_scratch *scratch, size_t count)
{
    float *floats = fm_model_scratch_take(scratch, count);
    if (floats)
        memset(floats, 0, count * sizeof *floats);
    return floats;
}

void *fm_model_scratch_bytes(struct fm_model_scratch *scratch, size_t size)
{
    return fm_model_scratch_zero(scratch, (size + sizeof(float) - 1) / sizeof(float));
}

struct fm_model_mark fm_model_scratch_mark(const struct fm_model_scratch *scratch)
{
    return (struct fm_model_mark){scratch->current, scratch->used};
}

void fm_model_scratch_release(struct fm_model_scratch *scratch, struct fm_model_mark mark)
{
    scratch->current = mark.block;
    scratch->used = mark.used;
}

void fm_model_scratch_free(struct fm_model_scratch *scratch)
{
    for (int i = 0; i < scratch->count; i++)
        fm_base_mem_free(scratch->blocks[i].floats);
    fm_base_mem_free(scratch->blocks);
    *scratch = (struct fm_model_scratch){0};
}
