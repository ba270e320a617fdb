/* The texts that caches hold, as a tree of blocks: a node is a block, the path to it the tokens before. Requests whose texts
 * begin alike share the nodes of whole blocks; what follows is each one's own. */
#ifndef FM_SERVE_PREFIX_H
#define FM_SERVE_PREFIX_H

#include "model_private.h"

/** A block of the pool, which belongs to it, and its tokens. One that is not whole has no children and no users. */
struct serve_node {
    struct serve_node *parent;        // NULL: at the beginning of texts
    struct serve_node *next;          // in its bucket
    struct serve_node *older, *newer; // among the unused, in the order of use
    int users;                        // requests that are running and whose text goes through it
    int filled;                       // tokens
    int32_t block;
    int32_t ids[FM_MODEL_BLOCK];
};

struct serve_prefix {
    struct fm_model_pool *pool;
    struct serve_node *
        *buckets; // by parent and first token, since whoever matches a part of a node matches that
    size_t bucket_count;
    struct serve_node *oldest, *newest; // unused nodes; no node is older there than its children
    int64_t used, unused;               // nodes
    int64_t shared;                     // users of nodes beyond one each
};

/** FM_ERR_NOMEM. The pool must outlive it. */
FM_MUST_USE fm_status fm_model_serve_prefix_open(struct fm_model_pool *pool, struct serve_prefix *out_prefix);
/** Of which nothing is used. */
void fm_model_serve_prefix_close(struct serve_prefix *prefix);

/** The whole node behind `parent` with these tokens; NULL: there is none. */
struct serve_node *fm_model_serve_prefix_find(const struct serve_prefix *prefix,
                                              const struct serve_node *parent, const int32_t *ids);
/** The node behind `parent` that begins as [count] tokens do for longest; how long in *out_length. NULL: none does. */
struct serve_node *fm_model_serve_prefix_longest(const struct serve_prefix *prefix,
                                                 const struct serve_node *parent, const int32_t *ids,
                                                 int count, int *out_length);
/** Adds a node, which takes the block: whole ones with one user, others with none. NULL without memory. */
struct serve_node *fm_model_serve_prefix_add(struct serve_prefix *prefix, struct serve_node *parent,
                                             const int32_t *ids, int filled, int32_t block);
/** Another user of a node, who has all before it; and one fewer: the last node of a text first. */
void fm_model_serve_prefix_use(struct serve_prefix *prefix, struct serve_node *node);
void fm_model_serve_prefix_leave(struct serve_prefix *prefix, struct serve_node *node);
/** Gives back the block of an unused node without children. */
void fm_model_serve_prefix_remove(struct serve_prefix *prefix, struct serve_node *node);
/** That of the node which was not used for longest, of those that are not used. */
void fm_model_serve_prefix_evict(struct serve_prefix *prefix);

#endif
