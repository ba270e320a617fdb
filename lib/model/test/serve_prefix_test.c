// The tree of blocks against a list that is searched from end to end.
#include "fm_test.h"

#include "fathom/rng.h"
#include "serve_prefix.h"

enum { CAPACITY = 40, STEPS = 4000, TOKENS = 3 };

// Nodes as the tree should have them.
struct twin {
    struct serve_node *node, *parent;
    int64_t left; // when it was left last
};

struct scene {
    struct fm_model_pool pool;
    struct serve_prefix prefix;
    int32_t free[CAPACITY];
    struct twin twins[CAPACITY];
    int count;
    int64_t now;
};

// Tokens that often begin alike: the first ones of a few.
static void draw(fm_rng *rng, int32_t *ids)
{
    for (int i = 0; i < FM_MODEL_BLOCK; i++)
        ids[i] = i < 4 ? (int32_t)fm_base_rng_below(rng, TOKENS) : 7;
}

static void forget(struct scene *scene, const struct serve_node *node)
{
    for (int i = 0; i < scene->count; i++)
        if (scene->twins[i].node == node)
            scene->twins[i] = scene->twins[--scene->count];
}

static struct twin *twin_of(struct scene *scene, const struct serve_node *node)
{
    for (int i = 0; i < scene->count; i++)
        if (scene->twins[i].node == node)
            return &scene->twins[i];
    return NULL;
}

static void leave_path(struct scene *scene, struct serve_node *node)
{
    for (; node; node = node->parent) {
        if (node->users == 1)
            twin_of(scene, node)->left = ++scene->now;
        fm_model_serve_prefix_leave(&scene->prefix, node);
    }
}

static int32_t take(struct scene *scene)
{
    if (scene->pool.free_count == 0) {
        const struct serve_node *oldest = NULL;
        for (int i = 0; i < scene->count; i++) {
            const struct serve_node *node = scene->twins[i].node;
            if (node->users == 0 && (!oldest || scene->twins[i].left < twin_of(scene, oldest)->left))
                oldest = node;
        }
        if (!oldest)
            return -1;
        assert_ptr_equal(scene->prefix.oldest, oldest);
        for (int i = 0; i < scene->count; i++)
            assert_ptr_not_equal(scene->twins[i].node->parent, oldest); // or it would hang in the air
        forget(scene, oldest);
        fm_model_serve_prefix_evict(&scene->prefix);
    }
    return fm_model_pool_take(&scene->pool);
}

static struct serve_node *add(struct scene *scene, struct serve_node *parent, const int32_t *ids, int filled)
{
    int32_t block = take(scene);
    if (block < 0)
        return NULL;
    struct serve_node *node = fm_model_serve_prefix_add(&scene->prefix, parent, ids, filled, block);
    assert_non_null(node);
    scene->twins[scene->count++] = (struct twin){node, parent, ++scene->now};
    return node;
}

// A text of up to four blocks, some known, some new, and a part at its end.
static void run_text(struct scene *scene, fm_rng *rng)
{
    struct serve_node *last = NULL;
    int32_t ids[FM_MODEL_BLOCK];
    int length;
    for (int blocks = (int)fm_base_rng_below(rng, 5); blocks > 0; blocks--) {
        draw(rng, ids);
        struct serve_node *found = fm_model_serve_prefix_find(&scene->prefix, last, ids), *listed = NULL;
        for (int i = 0; i < scene->count; i++)
            if (scene->twins[i].parent == last && scene->twins[i].node->filled == FM_MODEL_BLOCK &&
                memcmp(scene->twins[i].node->ids, ids, sizeof ids) == 0)
                listed = scene->twins[i].node;
        assert_ptr_equal(found, listed);
        if (found)
            fm_model_serve_prefix_use(&scene->prefix, found);
        else
            found = add(scene, last, ids, FM_MODEL_BLOCK);
        if (!found)
            break;
        last = found;
    }
    draw(rng, ids);
    int count = 1 + (int)fm_base_rng_below(rng, FM_MODEL_BLOCK - 1), longest = 0;
    for (int i = 0; i < scene->count; i++) {
        int same = 0;
        while (same < count && same < scene->twins[i].node->filled &&
               scene->twins[i].node->ids[same] == ids[same])
            same++;
        longest = scene->twins[i].parent == last && same > longest ? same : longest;
    }
    struct serve_node *node = fm_model_serve_prefix_longest(&scene->prefix, last, ids, count, &length);
    assert_int_equal(length, longest);
    assert_int_equal(node != NULL, longest > 0);
    if (longest < count)
        (void)add(scene, last, ids, count);
    leave_path(scene, last);
}

static void the_tree_is_the_list(void **state)
{
    struct scene scene = {.pool = {.capacity = CAPACITY, .free_count = CAPACITY}};
    fm_rng rng = fm_base_rng_begin(9, 0);
    (void)state;
    scene.pool.free = scene.free;
    for (int i = 0; i < CAPACITY; i++)
        scene.free[i] = i;
    assert_ok(fm_model_serve_prefix_open(&scene.pool, &scene.prefix));
    for (int step = 0; step < STEPS; step++) {
        run_text(&scene, &rng);
        assert_int_equal(scene.prefix.used + scene.prefix.shared, 0);
        assert_int_equal(scene.prefix.unused, scene.count);
        assert_int_equal(scene.pool.free_count + scene.count, CAPACITY);
    }
    assert_int_equal(scene.pool.free_count, 0);
    fm_model_serve_prefix_close(&scene.prefix);
    assert_int_equal(scene.pool.free_count, CAPACITY);
}

static void users_of_a_block_are_counted(void **state)
{
    struct scene scene = {.pool = {.capacity = 1, .free_count = 1}};
    int32_t ids[FM_MODEL_BLOCK] = {0};
    (void)state;
    scene.pool.free = scene.free;
    assert_ok(fm_model_serve_prefix_open(&scene.pool, &scene.prefix));
    struct serve_node *node = add(&scene, NULL, ids, FM_MODEL_BLOCK);
    fm_model_serve_prefix_use(&scene.prefix, node);
    assert_int_equal(scene.prefix.shared, 1);
    assert_int_equal(scene.prefix.used, 1);
    fm_model_serve_prefix_leave(&scene.prefix, node);
    fm_model_serve_prefix_leave(&scene.prefix, node);
    assert_int_equal(scene.prefix.shared + scene.prefix.used, 0);
    assert_int_equal(scene.prefix.unused, 1);
    fm_model_serve_prefix_close(&scene.prefix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tree_is_the_list),
        cmocka_unit_test(users_of_a_block_are_counted),
    };
    return fm_test_run("serve_prefix", tests);
}
