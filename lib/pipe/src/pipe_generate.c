// What is common to all generators: the table of schedules, the sizes each one is drawn for, and the builder.
#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

static int round_up(int value, int step)
{
    return (value + step - 1) / step * step;
}

static int at_least(int value, int low)
{
    return value > low ? value : low;
}

// How many chunks a direction a generator draws, given the ranks and the chunks that are wanted.
static int pad_none(int ranks, int chunks)
{
    (void)ranks;
    return chunks;
}
static int pad_to_ranks(int ranks, int chunks)
{
    return round_up(chunks, ranks);
}
static int pad_to_half_ranks(int ranks, int chunks)
{
    return round_up(chunks, ranks / 2);
}
static int pad_at_least_ranks(int ranks, int chunks)
{
    return at_least(chunks, ranks);
}
static int pad_at_least_twice_ranks(int ranks, int chunks)
{
    return at_least(chunks, 2 * ranks);
}

static const struct schedule {
    const char *name;
    fm_pipe_placement placement;
    int lanes;
    int even_ranks;
    int (*pad)(int ranks, int chunks);
    void (*generate)(struct fm_pipe_builder *builder, int rank);
} schedules[FM_PIPE_SCHEDULE_COUNT] = {
    [FM_PIPE_CUSTOM] = {"custom", FM_PIPE_LOOP, 1, 0, NULL, NULL},
    [FM_PIPE_GPIPE] = {"gpipe", FM_PIPE_LOOP, 1, 0, pad_none, fm_pipe_generate_gpipe},
    [FM_PIPE_1F1B] = {"1f1b", FM_PIPE_LOOP, 1, 0, pad_none, fm_pipe_generate_1f1b},
    [FM_PIPE_INTERLEAVED] = {"interleaved", FM_PIPE_LOOP, 2, 0, pad_to_ranks, fm_pipe_generate_interleaved},
    [FM_PIPE_ZB_H1] = {"zb-h1", FM_PIPE_LOOP, 1, 0, pad_none, fm_pipe_generate_zb_h1},
    [FM_PIPE_ZB_H2] = {"zb-h2", FM_PIPE_LOOP, 1, 0, pad_none, fm_pipe_generate_zb_h2},
    [FM_PIPE_ZB_V] = {"zb-v", FM_PIPE_V, 2, 0, pad_at_least_twice_ranks, fm_pipe_generate_zb_v},
    [FM_PIPE_CHIMERA] = {"chimera", FM_PIPE_MIRROR, 2, 1, pad_to_half_ranks, fm_pipe_generate_chimera},
    [FM_PIPE_DUALPIPE] = {"dualpipe", FM_PIPE_MIRROR, 2, 1, pad_at_least_ranks, fm_pipe_generate_dualpipe},
    [FM_PIPE_DUALPIPEV] = {"dualpipev", FM_PIPE_V, 2, 0, pad_at_least_twice_ranks,
                           fm_pipe_generate_dualpipev},
};

const char *fm_pipe_schedule_name(fm_pipe_schedule schedule)
{
    return (unsigned)schedule < FM_PIPE_SCHEDULE_COUNT ? schedules[schedule].name : "?";
}

fm_pipe_placement fm_pipe_schedule_placement(fm_pipe_schedule schedule)
{
    return (unsigned)schedule < FM_PIPE_SCHEDULE_COUNT ? schedules[schedule].placement : FM_PIPE_LOOP;
}

// "ZB_H1" and "zbh1" are "zb-h1".
static int same_name(const char *a, const char *b)
{
    for (;;) {
        while (*a == '-' || *a == '_')
            a++;
        while (*b == '-' || *b == '_')
            b++;
        int ca = *a >= 'A' && *a <= 'Z' ? *a - 'A' + 'a' : *a;
        if (ca != *b)
            return 0;
        if (!ca)
            return 1;
        a++;
        b++;
    }
}

fm_status fm_pipe_schedule_parse(const char *name, fm_pipe_schedule *out_schedule)
{
    if (!name || !out_schedule)
        return fm_base_error_set(FM_ERR_ARG, "name and out_schedule must not be NULL");
    if (same_name(name, "zb1p"))
        name = "zb-h1";
    for (int i = 0; i < FM_PIPE_SCHEDULE_COUNT; i++)
        if (same_name(name, schedules[i].name)) {
            *out_schedule = (fm_pipe_schedule)i;
            return FM_OK;
        }
    char list[256] = "";
    size_t used = 0;
    for (int i = FM_PIPE_CUSTOM + 1; i < FM_PIPE_SCHEDULE_COUNT; i++)
        used +=
            (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", schedules[i].name);
    return fm_base_error_set(FM_ERR_ARG, "schedule is \"%s\"; expected one of %s", name, list);
}

static void push(struct fm_pipe_builder *builder, fm_pipe_op op)
{
    // One past the capacity is counted, not stored: generate() then reports the generator's error.
    if (builder->count < builder->capacity)
        fm_pipe_ops_mutable(builder->program)[builder->count] = op;
    builder->count++;
}

static int left_out(const struct fm_pipe_builder *builder, int lane, int chunk)
{
    return chunk >= builder->program->chunks[fm_pipe_direction(builder->program, lane)];
}

void fm_pipe_builder_push(struct fm_pipe_builder *builder, fm_pipe_kind kind, int lane, int chunk)
{
    if (left_out(builder, lane, chunk) || (builder->program->forward_only && kind != FM_PIPE_F))
        return;
    push(builder, (fm_pipe_op){.kind = (uint8_t)kind, .lane = (uint8_t)lane, .chunk = chunk});
}

void fm_pipe_builder_push_pair(struct fm_pipe_builder *builder, int lane, int chunk, int back_lane,
                               int back_chunk)
{
    int no_forward = left_out(builder, lane, chunk);
    int no_backward = left_out(builder, back_lane, back_chunk) || builder->program->forward_only;
    if (no_forward || no_backward) {
        if (!no_forward)
            fm_pipe_builder_push(builder, FM_PIPE_F, lane, chunk);
        if (!no_backward)
            fm_pipe_builder_push(builder, FM_PIPE_B, back_lane, back_chunk);
        return;
    }
    push(builder, (fm_pipe_op){.kind = FM_PIPE_FB,
                               .lane = (uint8_t)lane,
                               .back_lane = (uint8_t)back_lane,
                               .chunk = chunk,
                               .back_chunk = back_chunk});
}

static fm_status layout_of(const fm_pipe_shape *shape, fm_pipe_program *out_layout)
{
    FM_TRY(fm_pipe_size_check("fm_pipe_shape", shape->size, sizeof *shape));
    if (shape->schedule <= FM_PIPE_CUSTOM || shape->schedule >= FM_PIPE_SCHEDULE_COUNT)
        return fm_base_error_set(FM_ERR_ARG, "schedule is %d; expected one that can be generated",
                                 (int)shape->schedule);
    const struct schedule *schedule = &schedules[shape->schedule];
    int lanes = shape->lanes ? shape->lanes : schedule->lanes;
    if (shape->schedule != FM_PIPE_INTERLEAVED && lanes != schedule->lanes)
        return fm_base_error_set(FM_ERR_ARG, "lanes is %d; expected 0 or %d, as %s has", lanes,
                                 schedule->lanes, schedule->name);
    fm_pipe_program layout = {.schedule = shape->schedule,
                              .placement = schedule->placement,
                              .ranks = shape->ranks,
                              .lanes = lanes,
                              .micro_batches = shape->micro_batches,
                              .forward_only = shape->forward_only != 0};
    FM_TRY(fm_pipe_layout_check(&layout));
    if (schedule->even_ranks && layout.ranks % 2) {
        if (layout.ranks == 1)
            return fm_base_error_set(FM_ERR_ARG, "ranks is 1; %s needs an even number: nearest is 2",
                                     schedule->name);
        return fm_base_error_set(FM_ERR_ARG, "ranks is %d; %s needs an even number: nearest are %d and %d",
                                 layout.ranks, schedule->name, layout.ranks - 1, layout.ranks + 1);
    }
    *out_layout = layout;
    return FM_OK;
}

fm_status fm_pipe_program_generate(const fm_pipe_shape *shape, fm_pipe_program **out_program)
{
    if (!shape || !out_program)
        return fm_base_error_set(FM_ERR_ARG, "shape and out_program must not be NULL");
    fm_pipe_program layout = {0};
    FM_TRY(layout_of(shape, &layout));
    const struct schedule *schedule = &schedules[layout.schedule];
    struct fm_pipe_builder builder = {.capacity = fm_pipe_program_capacity(&layout),
                                      .chunks = schedule->pad(layout.ranks, layout.chunks[0])};
    FM_TRY(fm_pipe_program_alloc(&layout, builder.capacity, &builder.program));
    for (int rank = 0; rank < layout.ranks; rank++) {
        schedule->generate(&builder, rank);
        fm_pipe_first_mutable(builder.program)[rank + 1] = builder.count;
    }
    if (builder.count > builder.capacity) {
        fm_pipe_program_free(builder.program);
        return fm_base_error_set(FM_ERR_INTERNAL, "%s drew %zu ops; expected at most %zu", schedule->name,
                                 builder.count, builder.capacity);
    }
    *out_program = builder.program;
    return FM_OK;
}
