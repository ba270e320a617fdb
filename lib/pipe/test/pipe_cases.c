#include "pipe_cases.h"

static const fm_pipe_stage_cost unit = {.f = 1, .i = 1, .w = 1};
const fm_pipe_costs pipe_case_unit_costs = {
    .size = sizeof pipe_case_unit_costs, .stages = &unit, .stage_count = 1};

fm_pipe_program *pipe_case(fm_pipe_schedule schedule, int ranks, int micro_batches, int lanes)
{
    fm_pipe_program *program = NULL;
    assert_ok(fm_pipe_program_generate(&(fm_pipe_shape){.size = sizeof(fm_pipe_shape),
                                                        .schedule = schedule,
                                                        .ranks = ranks,
                                                        .micro_batches = micro_batches,
                                                        .lanes = lanes},
                                       &program));
    return program;
}

static const char *parse_visit(const char *at, uint8_t *lane, int32_t *chunk)
{
    char *end;
    *lane = (uint8_t)strtol(at, &end, 10);
    *chunk = (int32_t)strtol(end + 1, &end, 10);
    return end;
}

static fm_pipe_op parse_op(const char **at)
{
    static const char letters[] = {'F', 'B', 'I', 'W'};
    fm_pipe_op op = {0};
    while (letters[op.kind] != **at)
        op.kind++;
    *at = parse_visit(*at + 1, &op.lane, &op.chunk);
    if (**at == '&') {
        op.kind = FM_PIPE_FB;
        *at = parse_visit(*at + 2, &op.back_lane, &op.back_chunk);
    }
    while (**at == ' ')
        (*at)++;
    return op;
}

fm_pipe_program *pipe_case_text(fm_pipe_program layout, const char *const *texts)
{
    enum { MOST = 1000 };
    fm_pipe_op ops[MOST];
    size_t first[FM_PIPE_RANKS_MAX + 1] = {0};
    size_t count = 0;
    for (int rank = 0; rank < layout.ranks; rank++) {
        for (const char *at = texts[rank]; *at;) {
            assert_true(count < MOST);
            ops[count++] = parse_op(&at);
        }
        first[rank + 1] = count;
    }
    layout.first = first;
    fm_pipe_program *program = NULL;
    assert_ok(fm_pipe_program_create(&layout, ops, &program));
    return program;
}

const char *pipe_case_print(const fm_pipe_program *program, int rank)
{
    static char text[65536];
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < fm_pipe_count_of(program, rank) && used < sizeof text - 64; i++) {
        const fm_pipe_op *op = &fm_pipe_ops_of(program, rank)[i];
        const char *name = op->kind == FM_PIPE_FB ? "F" : fm_pipe_kind_name((fm_pipe_kind)op->kind);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s%d.%d", i ? " " : "", name, op->lane,
                                 op->chunk);
        if (op->kind == FM_PIPE_FB)
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "&B%d.%d", op->back_lane, op->back_chunk);
    }
    return text;
}

fm_pipe_program *pipe_case_any(fm_gen *gen, int ranks_max, int micro_batches_max)
{
    fm_pipe_shape shape = {.size = sizeof shape,
                           .schedule = (fm_pipe_schedule)fm_gen_int(gen, 1, FM_PIPE_SCHEDULE_COUNT - 1),
                           .ranks = (int)fm_gen_int(gen, 1, ranks_max),
                           .micro_batches = (int)fm_gen_int(gen, 1, micro_batches_max),
                           .forward_only = fm_gen_chance(gen, 0.1)};
    if (fm_pipe_schedule_placement(shape.schedule) == FM_PIPE_MIRROR)
        shape.ranks += shape.ranks % 2;
    if (shape.schedule == FM_PIPE_INTERLEAVED)
        shape.lanes = (int)fm_gen_int(gen, 1, 4);
    fm_pipe_program *program = NULL;
    assert_ok(fm_pipe_program_generate(&shape, &program));
    return program;
}

fm_pipe_costs pipe_case_costs(const fm_pipe_program *program, double f, double i, double w, double fb,
                              fm_pipe_stage_cost *stage)
{
    double share = (double)program->ranks / program->stages;
    *stage = (fm_pipe_stage_cost){
        .f = share * f, .i = share * i, .w = share * w, .fb = share * fb, .memory = share};
    return (fm_pipe_costs){.size = sizeof(fm_pipe_costs), .stages = stage, .stage_count = 1};
}
