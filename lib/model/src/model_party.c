/* Who talks with whom: a group of ep for each party of more than one rank. Gradients and values pass through them in chunks
 * of shards. */
#include "model_rank.h"

enum {
    CHUNK = 1 << 15, // floats of one shard at a time: large enough that latency does not count
    IN_FLIGHT = 4,   // a pair of visits has two operations each
    RING_DEPTH = 4,
    REPORT_BYTES = 1 << 16,
};

int fm_model_party_is_needed(const struct fm_model_rank *rank, const fm_model_config *config,
                             enum fm_model_party_kind kind)
{
    const struct fm_model_layout *layout = &rank->layout;
    switch (kind) {
    case FM_MODEL_RING:
        return layout->pipe > 1;
    case FM_MODEL_EXPERTS:
        return layout->experts > 1;
    case FM_MODEL_DENSE:
        return layout->experts > 1 || layout->mirrored;
    case FM_MODEL_TWINS:
        return layout->mirrored;
    case FM_MODEL_ENDS:
        return fm_model_layout_has_ends(layout, config);
    default:
        return layout->ranks > 1;
    }
}

size_t fm_model_party_report_max(const fm_model_config *config)
{
    // Sums, a status and its message, loads of all layers; or a part of what ranks that are processes are told.
    size_t loads =
        sizeof(int64_t) * (size_t)(config->layers + config->predict_layers) * (size_t)config->experts;
    return loads + 512 > REPORT_BYTES ? loads + 512 : REPORT_BYTES;
}

static fm_ep_options options_of(const struct fm_trainer *trainer, enum fm_model_party_kind kind,
                                int64_t tokens)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_seat *seat = &trainer->rank->parties[kind].seat;
    fm_ep_options options = {.size = sizeof options,
                             .hidden = 1,
                             .experts = seat->ranks,
                             .topk_max = 1,
                             .timeout_ms = trainer->training.timeout_ms};
    if (kind == FM_MODEL_EXPERTS) {
        options.hidden = c->hidden;
        options.experts = c->experts;
        options.topk_max = c->topk;
        options.tokens_max = (int)tokens;
        options.in_flight = IN_FLIGHT;
        options.wide = 1;
    } else if (kind == FM_MODEL_RING) {
        options.ring_depth = RING_DEPTH;
        options.ring_bytes_max = sizeof(fm_pipe_tag) + (size_t)(tokens * c->hidden) * sizeof(float);
    } else if (kind == FM_MODEL_WHOLE) {
        options.collective_bytes_max = fm_model_party_report_max(c);
    } else {
        options.collective_bytes_max = (size_t)seat->ranks * CHUNK * sizeof(float);
    }
    return options;
}

// A color for MPI: those in no party of the kind form one that nobody uses.
static fm_status split(struct fm_model_rank *rank, enum fm_model_party_kind kind)
{
    struct fm_model_party *party = &rank->parties[kind];
    int color = party->seat.color < 0 ? rank->layout.ranks : party->seat.color, number;
    return fm_ep_world_split_mpi(rank->mpi, color, &party->world, &number);
}

static fm_status join_all(struct fm_trainer *trainer, int64_t tokens)
{
    struct fm_model_rank *rank = trainer->rank;
    for (int kind = 0; kind < FM_MODEL_PARTIES; kind++) {
        struct fm_model_party *party = &rank->parties[kind];
        if (!fm_model_party_is_needed(rank, &trainer->model.config, kind))
            continue;
        if (rank->mpi)
            FM_TRY(split(rank, kind));
        if (party->seat.ranks < 2)
            continue;
        fm_ep_options options = options_of(trainer, kind, tokens);
        FM_TRY(fm_ep_group_create(party->world, party->seat.rank, &options, &party->group));
    }
    return FM_OK;
}

fm_status fm_model_parties_join(struct fm_trainer *trainer, int64_t tokens)
{
    struct fm_model_rank *rank = trainer->rank;
    if (tokens <= rank->tokens_max)
        return FM_OK;
    fm_model_parties_leave(trainer);
    if (!rank->staging)
        rank->staging =
            fm_base_mem_aligned((size_t)rank->layout.ranks * CHUNK * sizeof(float), FM_CACHE_LINE);
    if (!rank->staging)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to reduce gradients in");
    fm_status status = join_all(trainer, tokens);
    if (status < 0) {
        rank->is_broken = 1;
        return status;
    }
    rank->tokens_max = tokens;
    return FM_OK;
}

void fm_model_parties_leave(struct fm_trainer *trainer)
{
    struct fm_model_rank *rank = trainer->rank;
    fm_model_runs_free(rank);
    for (int kind = 0; kind < FM_MODEL_PARTIES; kind++) {
        fm_ep_group_free(rank->parties[kind].group);
        rank->parties[kind].group = NULL;
        if (rank->mpi)
            fm_ep_world_free(rank->parties[kind].world);
        rank->parties[kind].world = rank->mpi ? NULL : rank->parties[kind].world;
    }
    rank->tokens_max = 0;
}

fm_status fm_model_party_reduce(struct fm_trainer *trainer, const struct fm_model_segment *segment)
{
    struct fm_model_rank *rank = trainer->rank;
    const struct fm_model_party *party = &rank->parties[segment->party];
    for (int64_t at = 0; party->group && at < segment->shard; at += CHUNK) {
        int64_t count = segment->shard - at < CHUNK ? segment->shard - at : CHUNK;
        for (int r = 0; r < party->seat.ranks; r++)
            memcpy(rank->staging + r * count, trainer->gradients + segment->at + r * segment->shard + at,
                   (size_t)count * sizeof(float));
        FM_TRY(fm_ep_reduce_scatter(party->group, rank->staging, (size_t)count,
                                    trainer->gradients + segment->first + at));
    }
    return FM_OK;
}

fm_status fm_model_party_gather(struct fm_trainer *trainer, const struct fm_model_segment *segment,
                                const float *shard, float *out)
{
    struct fm_model_rank *rank = trainer->rank;
    const struct fm_model_party *party = &rank->parties[segment->party];
    if (!party->group)
        memmove(out, shard, (size_t)segment->shard * sizeof *out);
    for (int64_t at = 0; party->group && at < segment->shard; at += CHUNK) {
        int64_t count = segment->shard - at < CHUNK ? segment->shard - at : CHUNK;
        FM_TRY(fm_ep_all_gather(party->group, shard + at, (size_t)count * sizeof(float), rank->staging));
        for (int r = 0; r < party->seat.ranks; r++)
            memcpy(out + r * segment->shard + at, rank->staging + r * count, (size_t)count * sizeof(float));
    }
    return FM_OK;
}

fm_status fm_model_party_report(struct fm_trainer *trainer, const void *mine, size_t bytes, void *out)
{
    const struct fm_model_party *party = &trainer->rank->parties[FM_MODEL_WHOLE];
    if (party->group)
        return fm_ep_all_gather(party->group, mine, bytes, out);
    memcpy(out, mine, bytes);
    return FM_OK;
}
