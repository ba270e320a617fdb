// Where threads meet: each gives its options and its segment, and all learn of any disagreement.
#include <inttypes.h>
#include <string.h>

#include "ep_mpi.h"
#include "ep_private.h"

enum { PHASE_CLAIMED = 1, PHASE_OPTIONS, PHASE_SEGMENT };

fm_status fm_ep_world_create(int ranks, fm_ep_world **out_world)
{
    if (ranks < 1 || ranks > FM_EP_RANKS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "ranks is %d; expected 1 to %d", ranks, FM_EP_RANKS_MAX);
    fm_ep_world *world = fm_base_mem_zalloc(1, sizeof *world);
    if (!world)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a world of %d ranks", ranks);
    world->ranks = ranks;
    world->base = fm_base_mem_zalloc((size_t)ranks, sizeof *world->base);
    world->options = fm_base_mem_zalloc((size_t)ranks, sizeof *world->options);
    world->status = fm_base_mem_zalloc((size_t)ranks, sizeof *world->status);
    world->phase = fm_base_mem_zalloc((size_t)ranks, sizeof *world->phase);
    if (!world->base || !world->options || !world->status || !world->phase) {
        fm_ep_world_free(world);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a world of %d ranks", ranks);
    }
    *out_world = world;
    return FM_OK;
}

int fm_ep_world_ranks(const fm_ep_world *world)
{
    return world->ranks;
}

void fm_ep_world_free(fm_ep_world *world)
{
    if (!world)
        return;
    if (world->mpi && world->party)
        world->mpi->stop(world->party, world->is_broken);
    for (int rank = 0; world->base && !world->mpi && rank < world->ranks; rank++)
        fm_base_mem_free(world->base[rank]);
    fm_base_mem_free(world->base);
    fm_base_mem_free(world->machine);
    if (!world->is_broken) // else MPI may still write there
        fm_base_mem_free(world->card);
    fm_base_mem_free(world->options);
    fm_base_mem_free(world->status);
    fm_base_mem_free(world->phase);
    fm_base_mem_free(world);
}

static fm_status await_phase(fm_ep_world *world, uint32_t phase, int64_t timeout_ms)
{
    fm_wait wait = fm_base_wait_begin(timeout_ms);
    for (int rank = 0; rank < world->ranks; rank++)
        while (atomic_load_explicit(&world->phase[rank], memory_order_acquire) < phase)
            if (fm_base_wait_step(&wait) < 0)
                return fm_base_error_set(FM_ERR_TIMEOUT,
                                         "joining: rank %d of %d has not come within %" PRId64 " ms", rank,
                                         world->ranks, timeout_ms);
    return FM_OK;
}

static fm_status differ(const char *name, int rank, int64_t value, int64_t first)
{
    return fm_base_error_set(FM_ERR_ARG,
                             "ranks disagree on %s: rank 0 has %" PRId64 ", rank %d has %" PRId64
                             "; expected one value",
                             name, first, rank, value);
}

static fm_status compare_options(const fm_ep_world *world)
{
    const fm_ep_options *first = &world->options[0];
    for (int rank = 1; rank < world->ranks; rank++) {
        const fm_ep_options *other = &world->options[rank];
#define COMPARE(field)                \
    if (other->field != first->field) \
    return differ(#field, rank, (int64_t)other->field, (int64_t)first->field)
        COMPARE(hidden);
        COMPARE(experts);
        COMPARE(ranks_per_node);
        COMPARE(topk_max);
        COMPARE(tokens_max);
        COMPARE(in_flight);
        COMPARE(check);
        COMPARE(staged);
        COMPARE(casts_combine);
        COMPARE(wide);
        COMPARE(memory_bytes);
        COMPARE(collective_bytes_max);
        COMPARE(ring_bytes_max);
        COMPARE(ring_depth);
#undef COMPARE
    }
    return FM_OK;
}

static fm_status first_failure(fm_ep_world *world)
{
    for (int other = 0; other < world->ranks; other++) {
        fm_status theirs = atomic_load_explicit(&world->status[other], memory_order_relaxed);
        if (theirs < 0)
            return fm_base_error_set(theirs, "rank %d could not join: %s", other,
                                     fm_base_status_text(theirs));
    }
    return FM_OK;
}

/** Gives this rank's status for a phase and waits for all; the first failure of any rank becomes everyone's. */
static fm_status finish_phase(fm_ep_world *world, int rank, uint32_t phase, fm_status status,
                              int64_t timeout_ms)
{
    if (world->mpi) {
        fm_status told = fm_ep_world_mpi_tell(world, &world->options[rank], status, timeout_ms);
        FM_TRY(status < 0 ? status : told);
        return first_failure(world);
    }
    atomic_store_explicit(&world->status[rank], status, memory_order_relaxed); // published by the phase
    atomic_store_explicit(&world->phase[rank], phase, memory_order_release);
    if (status < 0)
        return status; // its message says more than what the others are told
    FM_TRY(await_phase(world, phase, timeout_ms));
    return first_failure(world);
}

fm_status fm_ep_world_meet(fm_ep_world *world, int rank, const fm_ep_options *options, fm_status status,
                           int64_t timeout_ms)
{
    uint32_t absent = 0;
    if (!atomic_compare_exchange_strong(&world->phase[rank], &absent, PHASE_CLAIMED))
        return fm_base_error_set(FM_ERR_EXISTS, "rank %d has joined this world before", rank);
    world->options[rank] = *options;
    FM_TRY(finish_phase(world, rank, PHASE_OPTIONS, status, timeout_ms));
    return compare_options(world);
}

fm_status fm_ep_world_share(fm_ep_world *world, int rank, char *segment, fm_status status, int64_t timeout_ms)
{
    if (!world->mpi)
        world->base[rank] = segment;
    return finish_phase(world, rank, PHASE_SEGMENT, status, timeout_ms);
}
