/*
 * Whoever uses a node uses all before it, and leaves them later: so the unused node that was left first has no children, and
 * may go.
 */
#include "serve_prefix.h"

fm_status fm_model_serve_prefix_open(struct fm_model_pool *pool, struct serve_prefix *out_prefix)
{
    size_t count = 64;
    while (count < (size_t)pool->capacity)
        count *= 2;
    struct serve_node **buckets =
        fm_base_mem_zalloc(count, sizeof *buckets); // NOLINT(bugprone-sizeof-expression): pointers
    if (!buckets)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to find %d blocks by their tokens", pool->capacity);
    *out_prefix = (struct serve_prefix){.pool = pool, .buckets = buckets, .bucket_count = count};
    return FM_OK;
}

static struct serve_node **bucket_of(const struct serve_prefix *prefix, const struct serve_node *parent,
                                     int32_t first)
{
    // Fibonacci hashing (Knuth, volume 3, 6.4): the product's upper half depends on all bits.
    uint64_t mixed = ((uint64_t)(uintptr_t)parent / sizeof *parent + (uint64_t)(uint32_t)first * 0x10001) *
                     0x9e3779b97f4a7c15u;
    return &prefix->buckets[(mixed >> 32) & (prefix->bucket_count - 1)];
}

struct serve_node *fm_model_serve_prefix_find(const struct serve_prefix *prefix,
                                              const struct serve_node *parent, const int32_t *ids)
{
    struct serve_node *node = *bucket_of(prefix, parent, ids[0]);
    while (node && (node->parent != parent || node->filled != FM_MODEL_BLOCK ||
                    memcmp(node->ids, ids, sizeof node->ids) != 0))
        node = node->next;
    return node;
}

struct serve_node *fm_model_serve_prefix_longest(const struct serve_prefix *prefix,
                                                 const struct serve_node *parent, const int32_t *ids,
                                                 int count, int *out_length)
{
    struct serve_node *best = NULL;
    int longest = 0;
    for (struct serve_node *node = count > 0 ? *bucket_of(prefix, parent, ids[0]) : NULL; node;
         node = node->next) {
        int length = 0;
        while (length < count && length < node->filled && node->ids[length] == ids[length])
            length++;
        if (node->parent == parent && length > longest) {
            longest = length;
            best = node;
        }
    }
    *out_length = longest;
    return best;
}

static void link_newest(struct serve_prefix *prefix, struct serve_node *node)
{
    node->older = prefix->newest;
    node->newer = NULL;
    *(prefix->newest ? &prefix->newest->newer : &prefix->oldest) = node;
    prefix->newest = node;
    prefix->unused++;
}

static void unlink_unused(struct serve_prefix *prefix, struct serve_node *node)
{
    *(node->older ? &node->older->newer : &prefix->oldest) = node->newer;
    *(node->newer ? &node->newer->older : &prefix->newest) = node->older;
    prefix->unused--;
}

struct serve_node *fm_model_serve_prefix_add(struct serve_prefix *prefix, struct serve_node *parent,
                                             const int32_t *ids, int filled, int32_t block)
{
    struct serve_node **bucket = bucket_of(prefix, parent, ids[0]);
    struct serve_node *node = fm_base_mem_zalloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->parent = parent;
    node->filled = filled;
    node->block = block;
    memcpy(node->ids, ids, (size_t)filled * sizeof *ids);
    node->next = *bucket;
    *bucket = node;
    if (filled == FM_MODEL_BLOCK) {
        node->users = 1;
        prefix->used++;
    } else {
        link_newest(prefix, node);
    }
    return node;
}

void fm_model_serve_prefix_use(struct serve_prefix *prefix, struct serve_node *node)
{
    if (node->users++ > 0) {
        prefix->shared++;
        return;
    }
    unlink_unused(prefix, node);
    prefix->used++;
}

void fm_model_serve_prefix_leave(struct serve_prefix *prefix, struct serve_node *node)
{
    if (--node->users > 0) {
        prefix->shared--;
        return;
    }
    prefix->used--;
    link_newest(prefix, node);
}

void fm_model_serve_prefix_remove(struct serve_prefix *prefix, struct serve_node *node)
{
    struct serve_node **at = bucket_of(prefix, node->parent, node->ids[0]);
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    unlink_unused(prefix, node);
    fm_model_pool_give(prefix->pool, node->block);
    fm_base_mem_free(node);
}

void fm_model_serve_prefix_evict(struct serve_prefix *prefix)
{
    fm_model_serve_prefix_remove(prefix, prefix->oldest);
}

void fm_model_serve_prefix_close(struct serve_prefix *prefix)
{
    while (prefix->oldest)
        fm_model_serve_prefix_evict(prefix);
    fm_base_mem_free(prefix->buckets);
    *prefix = (struct serve_prefix){0};
}
