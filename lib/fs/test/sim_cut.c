// A file that all clients of the names write, cut, let grow and read at once, by the code that volumes use (volume_cut.h). Each
// of its cells is a register of its own, whose history must be linearizable: a truncation takes it out of the file, growth
// brings it back as zeros, and a write that comes after a truncation finds nothing to write to.
#include "sim_world_private.h"

enum {
    BEYOND = 0, // what a cell is at first: behind the end
    ZEROS = 1,
    CELL_BYTES = 8,
    CELLS_PER_CHUNK = 2,
    TRIES = 64
};

_Static_assert(SIM_CUT_CELLS % CELLS_PER_CHUNK == 0, "whole chunks");

enum doing { WRITE, CUT, READ };

struct cut {
    struct node *node;
    const struct fm_fs_cut_ways *ways; // without a record of what was done
};

static uint64_t end_of(int cell)
{
    return (uint64_t)(cell / CELLS_PER_CHUNK) * NAMES_CHUNK +
           (uint64_t)(cell % CELLS_PER_CHUNK + 1) * CELL_BYTES;
}

static lin_op *add(struct world *world, int cell, lin_op op)
{
    struct sim_cut *cut = &world->cut;
    if (cut->counts[cell] == SIM_CUT_HISTORY) {
        sim_fail(world, "the history of a cell has no room");
        return &cut->ops[cell][0];
    }
    cut->ops[cell][cut->counts[cell]] = op;
    return &cut->ops[cell][cut->counts[cell]++];
}

// The file ended at `size` at some time since `begin`, or, when `grows`, no earlier than there.
static void note_size(const struct cut *cut, uint64_t size, int grows, int64_t begin)
{
    struct world *world = cut->node->world;
    int64_t end = cut->node->dying ? INT64_MAX : world->now;
    for (int i = 0; i < SIM_CUT_CELLS; i++) {
        if (end_of(i) <= size)
            add(world, i, (lin_op){1, ZEROS, begin, end, LIN_IF, BEYOND});
        else if (!grows)
            add(world, i, (lin_op){1, BEYOND, begin, end, LIN_ALWAYS, 0});
    }
}

static fm_status look(void *context, uint64_t ino, fm_fs_node *out_node)
{
    const struct cut *cut = context;
    return cut->ways->look(cut->ways->context, ino, out_node);
}

static fm_status extend(void *context, const fm_fs_node *node, uint64_t end, fm_fs_node *out_node)
{
    const struct cut *cut = context;
    int64_t begin = cut->node->world->now;
    fm_status status = cut->ways->extend(cut->ways->context, node, end, out_node);
    if (status == FM_OK || cut->node->dying)
        note_size(cut, end, 1, begin);
    return status;
}

static fm_status fence(void *context, const fm_fs_node *node, fm_fs_node *out_node)
{
    const struct cut *cut = context;
    return cut->ways->fence(cut->ways->context, node, out_node);
}

static fm_status truncate(void *context, const fm_fs_node *node, uint64_t size, fm_fs_node *out_node)
{
    const struct cut *cut = context;
    int64_t begin = cut->node->world->now;
    fm_status status = cut->ways->truncate(cut->ways->context, node, size, out_node);
    if (status == FM_OK || cut->node->dying)
        note_size(cut, size, 0, begin);
    return status;
}

static fm_status run(void *context, fm_fs_client_io *ios, size_t count)
{
    const struct cut *cut = context;
    return cut->ways->run(cut->ways->context, ios, count);
}

static fm_status write_once(const struct fm_fs_cut_ways *ways, uint64_t ino, int cell, uint64_t stamp)
{
    fm_fs_node node;
    FM_TRY(ways->look(ways->context, ino, &node));
    if (end_of(cell) > node.size)
        FM_TRY(fm_fs_cut_grow(ways, &node, end_of(cell)));
    fm_fs_client_io io = {.kind = FM_FS_CLIENT_WRITE,
                          .offset = (uint32_t)(end_of(cell) % NAMES_CHUNK) - CELL_BYTES,
                          .data = fm_fs_buffer_new(CELL_BYTES)};
    fm_put_le64(io.data->data, stamp);
    fm_fs_meta_chunk(&node, (uint32_t)(cell / CELLS_PER_CHUNK), &io.chain, io.id.bytes);
    fm_status status = ways->run(ways->context, &io, 1);
    fm_fs_buffer_drop(io.data);
    FM_TRY(status);
    FM_TRY(io.status);
    return fm_fs_cut_settle(ways, &node, end_of(cell));
}

// FM_ERR_STATE: it was cut meanwhile.
static fm_status read_once(const struct fm_fs_cut_ways *ways, uint64_t ino, uint64_t values[SIM_CUT_CELLS])
{
    enum { CHUNKS_OF_IT = SIM_CUT_CELLS / CELLS_PER_CHUNK };
    fm_fs_node node;
    fm_fs_node now;
    fm_fs_client_io ios[CHUNKS_OF_IT] = {0};
    int hole = 0;
    FM_TRY(ways->look(ways->context, ino, &node));
    for (uint32_t i = 0; i < CHUNKS_OF_IT; i++) {
        ios[i] = (fm_fs_client_io){.kind = FM_FS_CLIENT_READ, .size = CELLS_PER_CHUNK * CELL_BYTES};
        fm_fs_meta_chunk(&node, i, &ios[i].chain, ios[i].id.bytes);
    }
    fm_status status = ways->run(ways->context, ios, CHUNKS_OF_IT);
    for (int cell = 0; cell < SIM_CUT_CELLS; cell++) {
        const fm_fs_buffer *bytes = ios[cell / CELLS_PER_CHUNK].bytes;
        size_t at = (size_t)(cell % CELLS_PER_CHUNK) * CELL_BYTES;
        int is_there = bytes && bytes->size >= at + CELL_BYTES;
        uint64_t value = is_there ? fm_get_le64(bytes->data + at) : 0;
        values[cell] = end_of(cell) > node.size ? BEYOND : value ? value : ZEROS;
        // Volumes look again at holes alone: a read that meets a truncation may find zeros in the gap before a late write.
        hole |= values[cell] == ZEROS;
    }
    for (int i = 0; i < CHUNKS_OF_IT; i++)
        fm_fs_buffer_drop(ios[i].bytes);
    FM_TRY(status);
    if (!hole)
        return FM_OK;
    FM_TRY(ways->look(ways->context, ino, &now));
    return fm_fs_cut_between(&node, &now) ? FM_ERR_STATE : FM_OK;
}

static fm_status truncate_once(const struct fm_fs_cut_ways *ways, uint64_t ino, uint64_t size)
{
    fm_fs_node node;
    FM_TRY(ways->look(ways->context, ino, &node));
    return fm_fs_cut_truncate(ways, &node, size);
}

static void do_one(struct node *node, const struct fm_fs_cut_ways *plain, uint64_t ino, enum doing what,
                   int cell)
{
    struct world *world = node->world;
    struct cut cut = {node, plain};
    const struct fm_fs_cut_ways ways = {look, extend, fence, truncate, run, &cut};
    uint64_t values[SIM_CUT_CELLS];
    int64_t begin = world->now;
    uint64_t stamp = ((uint64_t)1 << 32) + ++world->value; // neither of the others
    lin_op *written = NULL;
    fm_status status = FM_ERR_STATE;
    if (what == WRITE)
        written = add(world, cell, (lin_op){1, stamp, begin, INT64_MAX, LIN_UNLESS, BEYOND});
    for (int i = 0; i < TRIES && status == FM_ERR_STATE && !node->dying; i++)
        status = what == WRITE ? write_once(&ways, ino, cell, stamp)
                 : what == CUT ? truncate_once(&ways, ino, end_of(cell))
                               : read_once(&ways, ino, values);
    // What is not known to have happened may have: a target has forgotten the request.
    if (node->dying || status == FM_ERR_FS_MAYBE)
        return;
    if (status < 0) {
        sim_fail(world, "names client %u: the shared file: %s", node->base.node, fm_base_status_name(status));
        return;
    }
    static const char *const names[] = {"a write", "a cut", "a read"};
    sim_note(world, "names client %u: %s of cell %d since %.3f, stamp %llu", node->base.node, names[what],
             cell, (double)begin / 1e6, (unsigned long long)stamp);
    world->result.cuts += what == CUT;
    if (written)
        written->end = world->now;
    for (int i = 0; what == READ && i < SIM_CUT_CELLS; i++)
        add(world, i, (lin_op){0, values[i], begin, world->now, LIN_ALWAYS, 0});
}

void sim_cut_do(struct node *node, const struct fm_fs_cut_ways *plain, uint64_t ino)
{
    int64_t what = sim_between(node->world, 0, 99);
    int cell = (int)sim_between(node->world, 0, SIM_CUT_CELLS - 1);
    do_one(node, plain, ino, what < 40 ? WRITE : what < 70 ? CUT : READ, cell);
}

void sim_cut_end(struct node *node, const struct fm_fs_cut_ways *plain, uint64_t ino)
{
    do_one(node, plain, ino, CUT, SIM_CUT_CELLS - 1);
    do_one(node, plain, ino, READ, 0);
}

void sim_cut_check(struct world *world)
{
    struct sim_cut *cut = &world->cut;
    for (int i = 0; i < SIM_CUT_CELLS && !world->result.failed; i++)
        if (lin_check(cut->ops[i], cut->counts[i]) == LIN_NO)
            sim_fail(world, "the history of cell %d of the shared file is not linearizable", i);
}
