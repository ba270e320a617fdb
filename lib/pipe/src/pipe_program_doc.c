// Programs as documents: the reader and the writer of the JSON form.
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

static const char *const placement_names[] = {"loop", "v", "mirror"};

static fm_status read_schedule(const fm_doc *node, fm_pipe_program *layout)
{
    const char *name;
    FM_TRY(fm_base_doc_string(fm_base_doc_get(node, "schedule"), "schedule", &name));
    if (fm_pipe_schedule_parse(name, &layout->schedule) != FM_OK)
        return fm_base_doc_error(FM_ERR_FORMAT, fm_base_doc_get(node, "schedule"), "%s, custom",
                                 fm_error_message());
    layout->placement = fm_pipe_schedule_placement(layout->schedule);
    const fm_doc *placement = fm_base_doc_get(node, "placement");
    if (layout->schedule != FM_PIPE_CUSTOM) {
        if (placement)
            return fm_base_doc_error(FM_ERR_FORMAT, placement,
                                     "placement is given; expected none, as %s implies it",
                                     fm_pipe_schedule_name(layout->schedule));
        return FM_OK;
    }
    FM_TRY(fm_base_doc_string(placement, "placement", &name));
    for (int i = 0; i <= FM_PIPE_MIRROR; i++)
        if (strcmp(name, placement_names[i]) == 0) {
            layout->placement = (fm_pipe_placement)i;
            return FM_OK;
        }
    return fm_base_doc_error(FM_ERR_FORMAT, placement, "placement is \"%s\"; expected loop, v or mirror",
                             name);
}

static fm_status read_layout(const fm_doc *node, fm_pipe_program *layout)
{
    static const char *const known[] = {"schedule",       "ranks",     "micro_batches", "ops",
                                        "virtual_stages", "placement", "forward_only",  NULL};
    FM_TRY(fm_base_doc_expect(node, "the program", FM_DOC_OBJECT));
    FM_TRY(fm_base_doc_known_keys(node, "the program", known));
    FM_TRY(read_schedule(node, layout));
    int64_t ranks;
    int64_t micro_batches;
    FM_TRY(fm_base_doc_int(fm_base_doc_get(node, "ranks"), "ranks", 1, FM_PIPE_RANKS_MAX, &ranks));
    FM_TRY(fm_base_doc_int(fm_base_doc_get(node, "micro_batches"), "micro_batches", 1,
                           FM_PIPE_MICRO_BATCHES_MAX, &micro_batches));
    layout->ranks = (int)ranks;
    layout->micro_batches = (int)micro_batches;
    int64_t lanes = layout->placement == FM_PIPE_LOOP ? 1 : 2;
    const fm_doc *virtual_stages = fm_base_doc_get(node, "virtual_stages");
    if (virtual_stages || layout->schedule == FM_PIPE_INTERLEAVED) {
        int free_choice = layout->placement == FM_PIPE_LOOP &&
                          (layout->schedule == FM_PIPE_INTERLEAVED || layout->schedule == FM_PIPE_CUSTOM);
        int64_t most = free_choice ? FM_PIPE_LANES_MAX : lanes;
        FM_TRY(fm_base_doc_int(virtual_stages, "virtual_stages", free_choice ? 1 : lanes, most, &lanes));
    }
    layout->lanes = (int)lanes;
    if (fm_base_doc_get(node, "forward_only"))
        FM_TRY(
            fm_base_doc_bool(fm_base_doc_get(node, "forward_only"), "forward_only", &layout->forward_only));
    if (fm_pipe_layout_check(layout) != FM_OK)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "%s", fm_error_message());
    return FM_OK;
}

static fm_status read_visit(const fm_doc *node, size_t at, const fm_pipe_program *layout, uint8_t *out_lane,
                            int32_t *out_chunk)
{
    int64_t lane;
    int64_t chunk;
    FM_TRY(fm_base_doc_int(fm_base_doc_at(node, at), "lane", 0, layout->lanes - 1, &lane));
    int chunks = layout->chunks[fm_pipe_direction(layout, (int)lane)];
    if (chunks == 0)
        return fm_base_doc_error(FM_ERR_FORMAT, node,
                                 "direction %d has no micro-batch when there is only one", (int)lane);
    FM_TRY(fm_base_doc_int(fm_base_doc_at(node, at + 1), "chunk", 0, chunks - 1, &chunk));
    *out_lane = (uint8_t)lane;
    *out_chunk = (int32_t)chunk;
    return FM_OK;
}

static fm_status read_op(const fm_doc *node, const fm_pipe_program *layout, fm_pipe_op *out_op)
{
    FM_TRY(fm_base_doc_expect(node, "op", FM_DOC_ARRAY));
    const char *name;
    FM_TRY(fm_base_doc_string(fm_base_doc_at(node, 0), "kind", &name));
    int kind = 0;
    while (kind < FM_PIPE_KIND_COUNT && strcmp(name, fm_pipe_kind_name((fm_pipe_kind)kind)) != 0)
        kind++;
    if (kind == FM_PIPE_KIND_COUNT)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "kind is \"%s\"; expected F, B, I, W or FB", name);
    size_t wanted = kind == FM_PIPE_FB ? 5 : 3;
    if (fm_base_doc_count(node) != wanted)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "%s has %zu elements; expected %zu: %s", name,
                                 fm_base_doc_count(node), wanted,
                                 kind == FM_PIPE_FB ? "[\"FB\", lane, chunk, back lane, back chunk]"
                                                    : "[kind, lane, chunk]");
    *out_op = (fm_pipe_op){.kind = (uint8_t)kind};
    FM_TRY(read_visit(node, 1, layout, &out_op->lane, &out_op->chunk));
    if (kind == FM_PIPE_FB)
        FM_TRY(read_visit(node, 3, layout, &out_op->back_lane, &out_op->back_chunk));
    return FM_OK;
}

// Counts the ops of each rank into first[].
static fm_status read_counts(const fm_doc *list, const fm_pipe_program *layout, size_t *first)
{
    size_t most = fm_pipe_program_capacity(layout);
    FM_TRY(fm_base_doc_expect(list, "ops", FM_DOC_ARRAY));
    if (fm_base_doc_count(list) != (size_t)layout->ranks)
        return fm_base_doc_error(FM_ERR_FORMAT, list, "ops has %zu programs; expected %d, one for each rank",
                                 fm_base_doc_count(list), layout->ranks);
    first[0] = 0;
    for (int rank = 0; rank < layout->ranks; rank++) {
        const fm_doc *mine = fm_base_doc_at(list, (size_t)rank);
        FM_TRY(fm_base_doc_expect(mine, "a rank's program", FM_DOC_ARRAY));
        first[rank + 1] = first[rank] + fm_base_doc_count(mine);
        if (first[rank + 1] > most)
            return fm_base_doc_error(FM_ERR_FORMAT, mine,
                                     "more than %zu ops by rank %d; no right program has more", most, rank);
    }
    return FM_OK;
}

fm_status fm_pipe_program_read(const fm_doc *node, fm_pipe_program **out_program)
{
    if (!out_program)
        return fm_base_error_set(FM_ERR_ARG, "out_program must not be NULL");
    fm_pipe_program layout = {0};
    FM_TRY(read_layout(node, &layout));
    const fm_doc *list = fm_base_doc_get(node, "ops");
    size_t *first = fm_base_mem_alloc(((size_t)layout.ranks + 1) * sizeof *first);
    if (!first)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to read %d ranks", layout.ranks);
    fm_pipe_program *program = NULL;
    fm_status status = read_counts(list, &layout, first);
    if (status == FM_OK)
        status = fm_pipe_program_alloc(&layout, first[layout.ranks], &program);
    for (int rank = 0; rank < layout.ranks && status == FM_OK; rank++) {
        const fm_doc *mine = fm_base_doc_at(list, (size_t)rank);
        for (size_t i = 0; i < first[rank + 1] - first[rank] && status == FM_OK; i++)
            status =
                read_op(fm_base_doc_at(mine, i), &layout, &fm_pipe_ops_mutable(program)[first[rank] + i]);
    }
    if (status == FM_OK) {
        memcpy(fm_pipe_first_mutable(program), first, ((size_t)layout.ranks + 1) * sizeof *first);
        *out_program = program;
    } else {
        fm_pipe_program_free(program);
    }
    fm_base_mem_free(first);
    return status;
}

static void write_op(const fm_pipe_op *op, fm_json *json)
{
    fm_base_json_begin(json, NULL, '[');
    fm_base_json_string(json, NULL, fm_pipe_kind_name((fm_pipe_kind)op->kind));
    fm_base_json_int(json, NULL, op->lane);
    fm_base_json_int(json, NULL, op->chunk);
    if (op->kind == FM_PIPE_FB) {
        fm_base_json_int(json, NULL, op->back_lane);
        fm_base_json_int(json, NULL, op->back_chunk);
    }
    fm_base_json_end(json);
}

void fm_pipe_program_write(const fm_pipe_program *program, const char *key, fm_json *json)
{
    fm_base_json_begin(json, key, '{');
    fm_base_json_string(json, "schedule", fm_pipe_schedule_name(program->schedule));
    fm_base_json_int(json, "ranks", program->ranks);
    fm_base_json_int(json, "micro_batches", program->micro_batches);
    if (program->schedule == FM_PIPE_CUSTOM)
        fm_base_json_string(json, "placement", placement_names[program->placement]);
    if (program->schedule == FM_PIPE_CUSTOM || program->schedule == FM_PIPE_INTERLEAVED)
        fm_base_json_int(json, "virtual_stages", program->lanes);
    if (program->forward_only)
        fm_base_json_bool(json, "forward_only", 1);
    fm_base_json_begin(json, "ops", '[');
    for (int rank = 0; rank < program->ranks; rank++) {
        fm_base_json_begin(json, NULL, '[');
        for (size_t i = 0; i < fm_pipe_count_of(program, rank); i++)
            write_op(&fm_pipe_ops_of(program, rank)[i], json);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
    fm_base_json_end(json);
}
