#include "model_layout.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/ep.h"

fm_status fm_model_layout_make(const fm_model_config *config, const fm_model_training *training,
                               struct fm_model_layout *out_layout)
{
    struct fm_model_layout layout = {.pipe = training->pipe_ranks ? training->pipe_ranks : 1,
                                     .experts = training->expert_ranks ? training->expert_ranks : 1};
    // A pipeline of one rank has nothing to schedule.
    fm_pipe_schedule schedule = training->schedule && layout.pipe > 1 ? training->schedule : FM_PIPE_1F1B;
    fm_pipe_program *program;
    if (layout.pipe < 1 || layout.experts < 1 || layout.pipe > FM_EP_RANKS_MAX / layout.experts)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%d pipeline ranks times %d expert ranks; expected 1 to %d in all",
                                 layout.pipe, layout.experts, FM_EP_RANKS_MAX);
    if (config->experts % layout.experts != 0)
        return fm_base_error_set(FM_ERR_ARG, "%d experts on %d ranks; expected a multiple", config->experts,
                                 layout.experts);
    fm_pipe_shape shape = {
        .size = sizeof shape, .schedule = schedule, .ranks = layout.pipe, .micro_batches = 2 * layout.pipe};
    FM_TRY(fm_pipe_program_generate(&shape, &program));
    layout.ranks = layout.pipe * layout.experts;
    layout.program = *program;
    layout.program.first = NULL;
    layout.program.ops = NULL;
    layout.mirrored = program->placement == FM_PIPE_MIRROR;
    fm_pipe_program_free(program);
    if (layout.program.stages > config->layers)
        return fm_base_error_set(
            FM_ERR_ARG, "%s on %d ranks has %d stages; expected no more than the model's %d layers",
            fm_pipe_schedule_name(schedule), layout.pipe, layout.program.stages, config->layers);
    *out_layout = layout;
    return FM_OK;
}

struct fm_model_stage fm_model_layout_stage(const struct fm_model_layout *layout,
                                            const fm_model_config *config, int stage)
{
    int stages = layout->program.stages;
    return (struct fm_model_stage){(int)((int64_t)stage * config->layers / stages),
                                   (int)((int64_t)(stage + 1) * config->layers / stages), stage == 0,
                                   stage == stages - 1};
}

// Of the ranks that hold the same stages, the least p.
static int first_twin(const struct fm_model_layout *layout, int p)
{
    int twin = layout->mirrored ? layout->pipe - 1 - p : p;
    return twin < p ? twin : p;
}

// Whether ranks (p, e) hold the stage.
static int has_stage(const struct fm_model_layout *layout, int p, int stage)
{
    for (int lane = 0; lane < layout->program.lanes; lane++)
        if (fm_pipe_stage(&layout->program, p, lane) == stage)
            return 1;
    return 0;
}

static int color_of(const struct fm_model_layout *layout, int rank, enum fm_model_party_kind kind)
{
    int p = rank / layout->experts, e = rank % layout->experts, last = layout->program.stages - 1;
    switch (kind) {
    case FM_MODEL_RING:
        return e;
    case FM_MODEL_EXPERTS:
        return p;
    case FM_MODEL_DENSE:
        return first_twin(layout, p);
    case FM_MODEL_TWINS:
        return first_twin(layout, p) * layout->experts + e;
    case FM_MODEL_ENDS:
        return has_stage(layout, p, 0) || has_stage(layout, p, last) ? 0 : -1;
    default:
        return 0;
    }
}

struct fm_model_seat fm_model_layout_seat(const struct fm_model_layout *layout, int rank,
                                          enum fm_model_party_kind kind)
{
    struct fm_model_seat seat = {.color = color_of(layout, rank, kind)};
    for (int other = 0; seat.color >= 0 && other < layout->ranks; other++) {
        int same = color_of(layout, other, kind) == seat.color;
        seat.ranks += same;
        seat.rank += same && other < rank;
    }
    return seat;
}

struct fm_model_part_of fm_model_layout_part(const char *name)
{
    struct fm_model_part_of part = {INT_MAX, -1};
    const char *expert = strstr(name, "mlp.experts.");
    if (strcmp(name, "model.embed_tokens.weight") == 0)
        part.layer = -1;
    else if (strncmp(name, "model.layers.", strlen("model.layers.")) == 0)
        part.layer =
            atoi(name + strlen("model.layers.")); // NOLINT(cert-err34-c): a name that this library made
    if (expert)
        part.expert = atoi(expert + strlen("mlp.experts.")); // NOLINT(cert-err34-c)
    return part;
}

static int holds_layer(const struct fm_model_layout *layout, const fm_model_config *config, int p, int layer)
{
    for (int lane = 0; lane < layout->program.lanes; lane++) {
        struct fm_model_stage stage =
            fm_model_layout_stage(layout, config, fm_pipe_stage(&layout->program, p, lane));
        if ((layer >= stage.begin && layer < stage.end) || (layer >= config->layers && stage.is_last) ||
            (layer < 0 && stage.is_first))
            return 1;
        if (layer < 0 && stage.is_last && (config->predict_layers > 0 || config->tied_head))
            return 1;
    }
    return 0;
}

int fm_model_layout_holds(const struct fm_model_layout *layout, const fm_model_config *config, int rank,
                          struct fm_model_part_of part, const int32_t *slot_of)
{
    int p = rank / layout->experts, e = rank % layout->experts;
    if (!holds_layer(layout, config, p, part.layer))
        return 0;
    if (part.expert < 0)
        return 1;
    int slot = slot_of[(int64_t)part.layer * config->experts + part.expert];
    return slot / (config->experts / layout->experts) == e;
}

int fm_model_layout_has_ends(const struct fm_model_layout *layout, const fm_model_config *config)
{
    return (config->predict_layers > 0 || config->tied_head) && layout->pipe > 1 &&
           !has_stage(layout, 0, layout->program.stages - 1);
}
