#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

static const char *const kind_names[FM_PIPE_KIND_COUNT] = {"F", "B", "I", "W", "FB"};

const char *fm_pipe_kind_name(fm_pipe_kind kind)
{
    return (unsigned)kind < FM_PIPE_KIND_COUNT ? kind_names[kind] : "?";
}

const char *fm_pipe_op_text(const fm_pipe_op *op, char text[FM_PIPE_OP_TEXT_BYTES])
{
    int used = snprintf(text, FM_PIPE_OP_TEXT_BYTES, "%s lane %d chunk %d",
                        fm_pipe_kind_name((fm_pipe_kind)op->kind), op->lane, op->chunk);
    if (op->kind == FM_PIPE_FB)
        snprintf(text + used, FM_PIPE_OP_TEXT_BYTES - (size_t)used, " with lane %d chunk %d", op->back_lane,
                 op->back_chunk);
    return text;
}

fm_status fm_pipe_size_check(const char *what, size_t size, size_t known)
{
    if (size == known)
        return FM_OK;
    return fm_base_error_set(FM_ERR_VERSION, "size of %s is %zu; expected sizeof(%s), %zu in this version",
                             what, size, what, known);
}

static fm_status check_size(const char *what, int64_t value, int64_t limit)
{
    if (value < 1)
        return fm_base_error_set(FM_ERR_ARG, "%s is %lld; expected at least 1", what, (long long)value);
    if (value > limit)
        return fm_base_error_set(FM_ERR_LIMIT, "%s is %lld; expected at most %lld", what, (long long)value,
                                 (long long)limit);
    return FM_OK;
}

fm_status fm_pipe_layout_check(fm_pipe_program *layout)
{
    FM_TRY(check_size("ranks", layout->ranks, FM_PIPE_RANKS_MAX));
    FM_TRY(check_size("micro_batches", layout->micro_batches, FM_PIPE_MICRO_BATCHES_MAX));
    FM_TRY(check_size("lanes", layout->lanes, FM_PIPE_LANES_MAX));
    if ((unsigned)layout->placement > FM_PIPE_MIRROR)
        return fm_base_error_set(FM_ERR_ARG,
                                 "placement is %d; expected FM_PIPE_LOOP, FM_PIPE_V or FM_PIPE_MIRROR",
                                 (int)layout->placement);
    if (layout->placement != FM_PIPE_LOOP && layout->lanes != 2)
        return fm_base_error_set(FM_ERR_ARG, "lanes is %d; expected 2, as V and mirror placements have",
                                 layout->lanes);
    int mirror = layout->placement == FM_PIPE_MIRROR;
    layout->stages = mirror ? layout->ranks : layout->ranks * layout->lanes;
    layout->chunks[1] = mirror ? layout->micro_batches / 2 : 0;
    layout->chunks[0] = layout->micro_batches - layout->chunks[1];
    return check_size("ranks * lanes * chunks", (int64_t)fm_pipe_visit_total(layout), FM_PIPE_VISITS_MAX);
}

size_t fm_pipe_program_capacity(const fm_pipe_program *layout)
{
    enum { OPS_PER_VISIT = 3 }; // F, I, W
    size_t visits_per_rank = 0;
    for (int lane = 0; lane < layout->lanes; lane++)
        visits_per_rank += (size_t)layout->chunks[fm_pipe_direction(layout, lane)];
    return OPS_PER_VISIT * visits_per_rank * (size_t)layout->ranks;
}

fm_status fm_pipe_program_alloc(const fm_pipe_program *layout, size_t capacity, fm_pipe_program **out_program)
{
    size_t first_bytes = ((size_t)layout->ranks + 1) * sizeof(size_t);
    // No overflow: FM_PIPE_VISITS_MAX bounds the capacity.
    fm_pipe_program *program =
        fm_base_mem_alloc(sizeof *program + first_bytes + capacity * sizeof(fm_pipe_op));
    if (!program) {
        fm_base_error_set(FM_ERR_NOMEM, "no memory for a program of %zu ops", capacity);
        return FM_ERR_NOMEM;
    }
    *program = *layout;
    memset(fm_pipe_first_mutable(program), 0, first_bytes);
    program->first = fm_pipe_first_mutable(program);
    program->ops = fm_pipe_ops_mutable(program);
    *out_program = program;
    return FM_OK;
}

fm_status fm_pipe_program_create(const fm_pipe_program *layout, const fm_pipe_op *ops,
                                 fm_pipe_program **out_program)
{
    if (!layout || !layout->first || !ops || !out_program)
        return fm_base_error_set(FM_ERR_ARG, "layout, its first, ops and out_program must not be NULL");
    fm_pipe_program checked = *layout;
    FM_TRY(fm_pipe_layout_check(&checked));
    if ((unsigned)layout->schedule >= FM_PIPE_SCHEDULE_COUNT)
        return fm_base_error_set(FM_ERR_ARG, "schedule is %d; expected a value of fm_pipe_schedule",
                                 (int)layout->schedule);
    // No right program is longer; a wrong one may be, but not without bound.
    size_t most = 2 * fm_pipe_program_capacity(&checked);
    for (int rank = 0; rank < layout->ranks; rank++)
        if (layout->first[rank] > layout->first[rank + 1] || layout->first[rank + 1] > most)
            return fm_base_error_set(FM_ERR_ARG,
                                     "first[%d] is %zu after %zu; expected ascending and at most %zu",
                                     rank + 1, layout->first[rank + 1], layout->first[rank], most);
    if (layout->first[0] != 0)
        return fm_base_error_set(FM_ERR_ARG, "first[0] is %zu; expected 0", layout->first[0]);
    size_t count = layout->first[layout->ranks];
    fm_pipe_program *program;
    FM_TRY(fm_pipe_program_alloc(&checked, count, &program));
    memcpy(fm_pipe_first_mutable(program), layout->first, ((size_t)layout->ranks + 1) * sizeof(size_t));
    memcpy(fm_pipe_ops_mutable(program), ops, count * sizeof *ops);
    *out_program = program;
    return FM_OK;
}

void fm_pipe_program_free(fm_pipe_program *program)
{
    fm_base_mem_free(program);
}

void fm_pipe_routes_fill(const fm_pipe_program *program, struct fm_pipe_route *routes)
{
    for (int rank = 0; rank < program->ranks; rank++)
        for (int lane = 0; lane < program->lanes; lane++) {
            struct fm_pipe_route *route = &routes[rank * program->lanes + lane];
            *route = (struct fm_pipe_route){
                fm_pipe_stage(program, rank, lane), fm_pipe_direction(program, lane), -1, -1, -1, -1};
            if (route->stage + 1 < program->stages)
                route->next_lane =
                    fm_pipe_locate(program, route->direction, route->stage + 1, &route->next_rank);
            if (route->stage > 0)
                route->prev_lane =
                    fm_pipe_locate(program, route->direction, route->stage - 1, &route->prev_rank);
        }
}
