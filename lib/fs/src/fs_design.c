/*
 * Three constructions, tried in this order (Colbourn and Dinitz, "Handbook of Combinatorial Designs", 2007):
 *
 *  - Difference families. The nodes are an abelian group G; base blocks are moved around by all of its elements, so that a
 *    pair of nodes shares as many chains as the base blocks have differences like theirs. They are found by backtracking. A
 *    subgroup counts once for each of its cosets, and a further node may stay where it is (1-rotational: it joins the cosets
 *    of a subgroup of order k - 1). Where differences cannot all be there equally often, they may be there once more or less,
 *    which serves for most numbers of nodes and targets.
 *  - Affine planes, as projective planes (which are difference families of one block) without a line.
 *  - For three replicas, Stinson's hill climbing ("Hill-climbing algorithms for the construction of combinatorial designs",
 *    1985): a block is put where two pairs lack one, and takes the place of the one that has its third pair.
 */
#include "fs_design.h"

#include <string.h>

#include "fathom/mem.h"
#include "fathom/rng.h"

enum {
    BLOCK_MAX = 16,
    RANK_MAX = 10, // 2^10 is the most nodes there are
    BASE_MAX = 128,
    // Elements that are tried: some 100 ms a search. What has not been found by then is rare.
    STEPS_OF_START = 1000000,
    STARTS = 8
};

struct group {
    uint32_t order;
    uint16_t *minus; // [order][order]
};

struct family {
    struct group group;
    uint32_t k;
    uint32_t count; // base blocks
    uint32_t low;   // times that each difference must be there,
    uint32_t more;  // and this many of them once more
    uint16_t base[BASE_MAX][BLOCK_MAX];
    uint16_t *covered; // [order]
    uint16_t *order;   // in which elements are tried
    uint64_t steps;
    fm_rng rng;
};

/* Groups */

static uint32_t moduli_of(uint32_t order, int elementary, uint32_t *moduli)
{
    uint32_t rank = 0;
    if (!elementary) {
        moduli[0] = order;
        return 1;
    }
    for (uint32_t p = 2; order > 1; p++)
        for (; order % p == 0; order /= p)
            moduli[rank++] = p;
    return rank;
}

static fm_status group_new(uint32_t order, int elementary, struct group *out_group)
{
    uint32_t moduli[RANK_MAX + 1];
    uint32_t rank = moduli_of(order, elementary, moduli);
    uint16_t *minus = fm_base_mem_alloc((size_t)order * order * sizeof *minus);
    if (!minus)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a group of %u", order);
    for (uint32_t a = 0; a < order; a++)
        for (uint32_t b = 0; b < order; b++) {
            uint32_t x = a;
            uint32_t y = b;
            uint32_t place = 1;
            uint32_t sum = 0;
            for (uint32_t i = 0; i < rank; i++) {
                sum += (x % moduli[i] + moduli[i] - y % moduli[i]) % moduli[i] * place;
                place *= moduli[i];
                x /= moduli[i];
                y /= moduli[i];
            }
            minus[(size_t)a * order + b] = (uint16_t)sum;
        }
    *out_group = (struct group){order, minus};
    return FM_OK;
}

static uint32_t minus(const struct group *group, uint32_t a, uint32_t b)
{
    return group->minus[(size_t)a * group->order + b];
}

static uint32_t plus(const struct group *group, uint32_t a, uint32_t b)
{
    return minus(group, a, minus(group, 0, b));
}

// What `elements`, `count` of them with 0, and one more element make. 0: more than `max`.
static uint32_t span(const struct group *group, uint16_t *elements, uint32_t count, uint32_t one,
                     uint32_t max)
{
    for (uint32_t i = 0; i < count; i++)
        if (elements[i] == one)
            return count;
    uint32_t from = count;
    for (uint32_t at = one; at != 0; at = plus(group, at, one)) {
        int known = 0;
        for (uint32_t i = 0; i < from; i++)
            known |= elements[i] == at;
        if (known)
            break;
        for (uint32_t i = 0; i < from; i++) {
            if (count == max)
                return 0;
            elements[count++] = (uint16_t)plus(group, elements[i], at);
        }
    }
    return count;
}

// A subgroup of `size` elements that one or two of them make. 0: there is none.
static int subgroup(const struct group *group, uint32_t size, uint16_t *elements)
{
    uint16_t first[BLOCK_MAX];
    first[0] = 0;
    for (uint32_t a = 1; a < group->order; a++) {
        uint32_t count = span(group, first, 1, a, size);
        if (count == 0 || size % count != 0)
            continue;
        for (uint32_t b = 0; b < group->order; b++) {
            memcpy(elements, first, count * sizeof *first);
            if (span(group, elements, count, b, size) == size)
                return 1;
            if (count == size)
                break;
        }
    }
    return size == 1;
}

/* Difference families */

static int cover(struct family *family, uint32_t difference)
{
    uint16_t *covered = &family->covered[difference];
    if (*covered >= family->low + (family->more > 0))
        return 0;
    family->more -= *covered >= family->low;
    ++*covered;
    return 1;
}

static void uncover(struct family *family, uint32_t difference)
{
    uint16_t *covered = &family->covered[difference];
    --*covered;
    family->more += *covered >= family->low;
}

static void take_back(struct family *family, const uint16_t *block, uint32_t count, uint32_t element)
{
    while (count-- > 0) {
        uncover(family, minus(&family->group, element, block[count]));
        uncover(family, minus(&family->group, block[count], element));
    }
}

// Covers the differences of `element` and a block's first `count` elements. 0: one of them is covered already.
static int take(struct family *family, const uint16_t *block, uint32_t count, uint32_t element)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t up = minus(&family->group, element, block[i]);
        uint32_t down = minus(&family->group, block[i], element);
        int one = up != 0 && cover(family, up);
        if (one && cover(family, down))
            continue;
        if (one)
            uncover(family, up);
        take_back(family, block, i, element);
        return 0;
    }
    return 1;
}

static uint32_t first_open(const struct family *family)
{
    for (uint32_t d = 1; d < family->group.order; d++)
        if (family->covered[d] < family->low)
            return d;
    return 0;
}

static int fill(struct family *family, uint32_t block, uint32_t count, uint32_t from);

static int next_block(struct family *family, uint32_t block)
{
    if (block == family->count)
        return 1;
    // Some block has to have the first difference that is open, and may as well begin with it.
    uint32_t open = first_open(family);
    uint16_t *elements = family->base[block];
    elements[0] = 0;
    if (!open)
        return fill(family, block, 1, 0);
    if (!take(family, elements, 1, open))
        return 0;
    elements[1] = (uint16_t)open;
    if (fill(family, block, 2, 0))
        return 1;
    take_back(family, elements, 1, open);
    return 0;
}

// Chooses the elements of a block from the `count`-th on, behind `from` in the order of trial. The depth is the number of
// elements of all blocks.
static int fill(struct family *family, uint32_t block, uint32_t count, uint32_t from)
{
    uint16_t *elements = family->base[block];
    if (count == family->k)
        return next_block(family, block + 1);
    for (uint32_t i = from; i < family->group.order && family->steps > 0; i++) {
        uint32_t element = family->order[i];
        family->steps--;
        if (!take(family, elements, count, element))
            continue;
        elements[count] = (uint16_t)element;
        if (fill(family, block, count + 1, i + 1))
            return 1;
        take_back(family, elements, count, element);
    }
    return 0;
}

static void shuffle(struct family *family)
{
    uint32_t n = family->group.order;
    for (uint32_t i = 0; i < n; i++)
        family->order[i] = (uint16_t)i;
    for (uint32_t i = n; i-- > 1;) {
        uint32_t j = (uint32_t)fm_base_rng_below(&family->rng, i + 1);
        uint16_t element = family->order[i];
        family->order[i] = family->order[j];
        family->order[j] = element;
    }
}

// `fixed` elements (with 0) make a subgroup whose differences are there already.
static int search(struct family *family, const uint16_t *fixed, uint32_t fixed_count)
{
    uint32_t more = family->more;
    for (int start = 0; start < STARTS; start++) {
        memset(family->covered, 0, family->group.order * sizeof *family->covered);
        family->covered[0] = UINT16_MAX; // no difference
        for (uint32_t i = 1; i < fixed_count; i++)
            family->covered[fixed[i]] = 1;
        family->more = more;
        family->steps = STEPS_OF_START;
        shuffle(family);
        if (next_block(family, 0))
            return 1;
        if (family->steps > 0)
            return 0; // all was tried
    }
    return 0;
}

// The chains: base blocks moved by all elements, and the cosets of a subgroup, which `still` (a node that is in no group)
// joins if there is one.
static void unfold(const struct family *family, const uint16_t *fixed, uint32_t fixed_count, int still,
                   uint32_t *places)
{
    uint32_t n = family->group.order;
    for (uint32_t b = 0; b < family->count; b++)
        for (uint32_t g = 0; g < n; g++)
            for (uint32_t i = 0; i < family->k; i++)
                *places++ = plus(&family->group, family->base[b][i], g);
    for (uint32_t g = 0; g < n && fixed_count > 0; g++) {
        int first = 1; // of its coset
        for (uint32_t i = 0; i < fixed_count; i++)
            first &= plus(&family->group, g, fixed[i]) >= g;
        if (!first)
            continue;
        for (uint32_t i = 0; i < fixed_count; i++)
            *places++ = plus(&family->group, g, fixed[i]);
        if (still)
            *places++ = n;
    }
}

struct shape {
    uint32_t nodes, targets, k;
};

// A family on a group of `nodes` or, with a node that stays still, one fewer; with a subgroup or without.
static fm_status try_family(const struct shape *shape, int elementary, int still, int with_subgroup,
                            uint32_t *places, int *out_found)
{
    struct family family = {.k = shape->k, .rng = fm_base_rng_begin(1, 1)};
    uint16_t fixed[BLOCK_MAX];
    uint32_t order = shape->nodes - (uint32_t)still;
    uint32_t fixed_count = with_subgroup ? shape->k - (uint32_t)still : 0;
    // Of a group's element: its part of the cosets is one chain.
    uint32_t of_blocks = shape->targets - (uint32_t)with_subgroup;
    *out_found = 0;
    if (order < 2 || of_blocks % shape->k != 0 || of_blocks / shape->k > BASE_MAX ||
        (with_subgroup && order % fixed_count != 0))
        return FM_OK;
    family.count = of_blocks / shape->k;
    uint32_t differences = family.count * shape->k * (shape->k - 1) + (with_subgroup ? fixed_count - 1 : 0);
    family.low = differences / (order - 1);
    family.more = differences % (order - 1);
    // A subgroup's differences are all there once; the node that stays still is with each other once.
    if (with_subgroup && (family.low != 1 || family.more != 0))
        return FM_OK;
    FM_TRY(group_new(order, elementary, &family.group));
    family.covered = fm_base_mem_alloc(2 * (size_t)order * sizeof *family.covered);
    family.order = family.covered ? family.covered + order : NULL;
    fm_status status =
        family.covered ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for a family of %u", order);
    if (status == FM_OK && (!with_subgroup || subgroup(&family.group, fixed_count, fixed)))
        *out_found = search(&family, fixed, fixed_count);
    if (*out_found)
        unfold(&family, fixed, fixed_count, still, places);
    fm_base_mem_free(family.covered);
    fm_base_mem_free(family.group.minus);
    return status;
}

static fm_status find_family(const struct shape *shape, uint32_t *places, int *out_found)
{
    static const struct {
        int still, with_subgroup;
    } kinds[] = {{0, 0}, {0, 1}, {1, 1}};
    *out_found = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        for (int elementary = 0; elementary < 2 && !*out_found; elementary++)
            FM_TRY(try_family(shape, elementary, kinds[i].still, kinds[i].with_subgroup, places, out_found));
    return FM_OK;
}

/* Affine planes */

static fm_status find_plane(const struct shape *shape, uint32_t *places, int *out_found)
{
    uint32_t q = shape->k;
    uint32_t nodes = q * q + q + 1;
    const struct shape projective = {nodes, q + 1, q + 1};
    *out_found = 0;
    if (shape->nodes != q * q || shape->targets != q + 1 || q + 1 > BLOCK_MAX)
        return FM_OK;
    uint32_t *lines = fm_base_mem_alloc((size_t)nodes * (q + 2) * sizeof *lines);
    if (!lines)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plane of order %u", q);
    fm_status status = try_family(&projective, 0, 0, 0, lines, out_found);
    if (*out_found) {
        uint32_t *names = lines + (size_t)nodes * (q + 1); // of what is not on the first line
        uint32_t next = 0;
        memset(names, 0, nodes * sizeof *names);
        for (uint32_t i = 0; i <= q; i++)
            names[lines[i]] = UINT32_MAX;
        for (uint32_t n = 0; n < nodes; n++)
            names[n] = names[n] == UINT32_MAX ? UINT32_MAX : next++;
        for (size_t i = q + 1; i < (size_t)nodes * (q + 1); i++)
            if (names[lines[i]] != UINT32_MAX)
                *places++ = names[lines[i]];
    }
    fm_base_mem_free(lines);
    return status;
}

/* Triples */

struct triples {
    uint32_t nodes, lambda;
    uint32_t *places;
    uint32_t count;
    uint16_t *shared; // [nodes][nodes]
    uint32_t *left;   // what a node lacks yet of all the others together
    fm_rng rng;
};

static uint16_t *pair_of(const struct triples *triples, uint32_t a, uint32_t b)
{
    return &triples->shared[(size_t)a * triples->nodes + b];
}

static void count_triple(struct triples *triples, const uint32_t *triple, int step)
{
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++)
            if (i != j) {
                uint16_t *shared = pair_of(triples, triple[i], triple[j]);
                *shared = (uint16_t)(*shared + step);
            }
        triples->left[triple[i]] -= (uint32_t)(2 * step);
    }
}

// Any node, of those that lack one, from a place that is drawn.
static uint32_t draw_open(struct triples *triples)
{
    uint32_t at = (uint32_t)fm_base_rng_below(&triples->rng, triples->nodes);
    while (triples->left[at] == 0)
        at = (at + 1) % triples->nodes;
    return at;
}

static uint32_t draw_partner(struct triples *triples, uint32_t node, uint32_t other)
{
    uint32_t at = (uint32_t)fm_base_rng_below(&triples->rng, triples->nodes);
    for (uint32_t n = 0; n < triples->nodes; n++, at = (at + 1) % triples->nodes)
        if (at != node && at != other && *pair_of(triples, node, at) < triples->lambda)
            return at;
    return UINT32_MAX;
}

static void put_triple(struct triples *triples, const uint32_t *triple)
{
    uint32_t at = triples->count;
    if (*pair_of(triples, triple[1], triple[2]) >= triples->lambda) {
        // One of those that have this pair gives way.
        uint32_t first = (uint32_t)fm_base_rng_below(&triples->rng, triples->count);
        for (at = first;; at = (at + 1) % triples->count) {
            const uint32_t *old = &triples->places[3 * (size_t)at];
            int has = 0;
            for (int i = 0; i < 3; i++)
                has += old[i] == triple[1] || old[i] == triple[2];
            if (has == 2)
                break;
        }
        count_triple(triples, &triples->places[3 * (size_t)at], -1);
    } else {
        triples->count++;
    }
    memcpy(&triples->places[3 * (size_t)at], triple, 3 * sizeof *triple);
    count_triple(triples, triple, 1);
}

static fm_status find_triples(const struct shape *shape, uint32_t *places, int *out_found)
{
    // To climb takes some blocks * log(blocks) steps, each of which looks through blocks: beyond this it takes seconds.
    enum { BLOCKS_MAX = 20000, STEPS_PER_BLOCK = 400 };
    struct triples triples = {.nodes = shape->nodes, .places = places, .rng = fm_base_rng_begin(1, 2)};
    uint32_t blocks = shape->nodes * shape->targets / 3;
    *out_found = 0;
    if (shape->k != 3 || 2 * shape->targets % (shape->nodes - 1) != 0 || blocks > BLOCKS_MAX)
        return FM_OK;
    triples.lambda = 2 * shape->targets / (shape->nodes - 1);
    triples.shared = fm_base_mem_zalloc((size_t)shape->nodes * shape->nodes, sizeof *triples.shared);
    triples.left = fm_base_mem_alloc(shape->nodes * sizeof *triples.left);
    fm_status status = triples.shared && triples.left
                           ? FM_OK
                           : fm_base_error_set(FM_ERR_NOMEM, "no memory for %u triples", blocks);
    for (uint32_t n = 0; n < shape->nodes && status == FM_OK; n++)
        triples.left[n] = 2 * shape->targets;
    uint64_t steps = status == FM_OK ? (uint64_t)blocks * STEPS_PER_BLOCK : 0;
    for (; steps > 0 && triples.count < blocks; steps--) {
        uint32_t triple[3];
        triple[0] = draw_open(&triples);
        triple[1] = draw_partner(&triples, triple[0], UINT32_MAX);
        triple[2] = draw_partner(&triples, triple[0], triple[1]);
        // What a node lacks is even in number; the last two may be of one and the same other node.
        if (triple[2] != UINT32_MAX)
            put_triple(&triples, triple);
    }
    *out_found = status == FM_OK && triples.count == blocks;
    fm_base_mem_free(triples.left);
    fm_base_mem_free(triples.shared);
    return status;
}

fm_status fm_fs_design_find(uint32_t nodes, uint32_t targets, uint32_t replicas, uint32_t *places,
                            int *out_found)
{
    *out_found = 0;
    if (replicas < 3 || replicas > BLOCK_MAX || replicas >= nodes)
        return FM_OK;
    // A design may be one of fewer chains several times over.
    uint32_t times = 1;
    for (uint32_t d = 2; d <= targets; d++)
        if (targets % d == 0 && (uint64_t)(targets / d) * (replicas - 1) % (nodes - 1) == 0 &&
            (uint64_t)nodes * (targets / d) % replicas == 0)
            times = d;
    for (; times > 0 && !*out_found; times = times > 1 ? 1 : 0) {
        const struct shape shape = {nodes, targets / times, replicas};
        FM_TRY(find_plane(&shape, places, out_found));
        if (!*out_found)
            FM_TRY(find_triples(&shape, places, out_found));
        if (!*out_found)
            FM_TRY(find_family(&shape, places, out_found));
        size_t size = (size_t)nodes * shape.targets;
        for (uint32_t i = 1; i < times && *out_found; i++)
            memcpy(places + i * size, places, size * sizeof *places);
    }
    return FM_OK;
}
