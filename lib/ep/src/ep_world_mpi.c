// Where processes meet: the world behind the MPI plug-in.
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ep_mpi.h"
#include "ep_private.h"

#include "fathom/engine.h"

_Static_assert((int)FM_EP_MPI_LINE == (int)FM_EP_ALIGN,
               "flags lie on cache lines, and messages consist of them");

#define PLUGIN_FILE "fathom_ep_mpi.so"

/** NULL, with a message, when there is none. */
static const fm_ep_mpi *load_plugin(void)
{
    char path[4096];
    const char *given = getenv("FM_EP_MPI_PLUGIN");
    if (given && given[0])
        snprintf(path, sizeof path, "%s", given);
    else if (!fm_base_installed_find(PLUGIN_FILE, path, sizeof path))
        snprintf(path, sizeof path, PLUGIN_FILE);
    // Open MPI opens components that look for its symbols in the global scope.
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        fm_base_error_set(
            FM_ERR_UNAVAILABLE,
            "MPI: %s; expected the plug-in in lib/fathom of the installation, or at FM_EP_MPI_PLUGIN",
            dlerror());
        return NULL;
    }
    const fm_ep_mpi *mpi = dlsym(library, FM_EP_MPI_SYMBOL);
    if (!mpi || mpi->version != FM_EP_MPI_VERSION) {
        dlclose(library);
        fm_base_error_set(FM_ERR_UNAVAILABLE, "MPI: %s is no plug-in of this build", path);
        return NULL;
    }
    return mpi; // the library stays open: MPI cannot be unloaded and loaded again
}

/** Takes over the party, also when it fails. */
static fm_status make_world(const fm_ep_mpi *mpi, fm_ep_mpi_party *party, fm_ep_world **out_world,
                            int *out_rank)
{
    char why[FM_EP_MPI_WHY_BYTES] = "";
    int rank = 0, ranks = 0;
    mpi->size(party, &rank, &ranks);
    fm_ep_world *world = NULL;
    fm_status status = fm_ep_world_create(ranks, &world);
    if (status < 0) {
        mpi->stop(party, 1);
        return status;
    }
    world->mpi = mpi;
    world->party = party;
    world->rank = rank;
    world->machine = fm_base_mem_zalloc((size_t)ranks, sizeof *world->machine);
    world->card = fm_base_mem_zalloc((size_t)ranks + 1, sizeof *world->card);
    if (!world->machine || !world->card)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a world of %d ranks", ranks);
    else if (mpi->machines(party, world->machine, why) < 0)
        status = fm_base_error_set(FM_ERR_UNSUPPORTED, "MPI: %s", why);
    if (status < 0) {
        world->is_broken = 1;
        fm_ep_world_free(world);
        return status;
    }
    *out_world = world;
    *out_rank = rank;
    return FM_OK;
}

fm_status fm_ep_world_open_mpi(fm_ep_world **out_world, int *out_rank)
{
    const fm_ep_mpi *mpi = load_plugin();
    if (!mpi)
        return FM_ERR_UNAVAILABLE;
    char why[FM_EP_MPI_WHY_BYTES] = "";
    fm_ep_mpi_party *party = NULL;
    if (mpi->start(&party, why) < 0)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "MPI: %s", why);
    return make_world(mpi, party, out_world, out_rank);
}

fm_status fm_ep_world_split_mpi(fm_ep_world *world, int color, fm_ep_world **out_world, int *out_rank)
{
    if (!world || !world->mpi || color < 0)
        return fm_base_error_set(
            FM_ERR_ARG, "expected a world of fm_ep_world_open_mpi() and a color from 0, got %d", color);
    char why[FM_EP_MPI_WHY_BYTES] = "";
    fm_ep_mpi_party *part = NULL;
    if (world->mpi->split(world->party, color, &part, why) < 0)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "MPI: %s", why);
    return make_world(world->mpi, part, out_world, out_rank);
}

fm_status fm_ep_world_mpi_tell(fm_ep_world *world, const fm_ep_options *options, fm_status status,
                               int64_t timeout_ms)
{
    char why[FM_EP_MPI_WHY_BYTES] = "";
    fm_ep_card *mine = world->card, *all = world->card + 1;
    fm_ep_mpi_request request = {0};
    size_t ignored = 0;
    *mine = (fm_ep_card){.options = *options, .status = status};
    int ended = world->mpi->gather(world->party, mine, sizeof *mine, all, &request, why);
    fm_wait wait = fm_base_wait_begin(timeout_ms);
    while (ended == 0 && (ended = world->mpi->test(&request, &ignored, why)) == 0)
        if (fm_base_wait_step(&wait) < 0) {
            world->is_broken = 1;
            return fm_base_error_set(FM_ERR_TIMEOUT,
                                     "joining: not all of %d ranks have come within %" PRId64 " ms",
                                     world->ranks, timeout_ms);
        }
    if (ended < 0)
        return fm_base_error_set(FM_ERR_IO, "joining: MPI: %s", why);
    for (int rank = 0; rank < world->ranks; rank++) {
        world->options[rank] = all[rank].options;
        world->status[rank] = all[rank].status;
    }
    return FM_OK;
}

fm_status fm_ep_world_mpi_place(const fm_ep_world *world, fm_ep_options *options)
{
    const int *machine = world->machine;
    int ranks = world->ranks;
    if (options->ranks_per_node == 0) { // as the machines are
        int same = 0;
        while (same < ranks && machine[same] == machine[0])
            same++;
        options->ranks_per_node = same;
    }
    int per_node = options->ranks_per_node < 1 ? ranks : options->ranks_per_node;
    for (int rank = 0; rank < ranks; rank++)
        if (machine[rank] != machine[rank - rank % per_node])
            return fm_base_error_set(FM_ERR_ARG,
                                     "ranks %d and %d are to share a node (ranks_per_node is %d) but run on "
                                     "different machines; expected "
                                     "ranks numbered machine by machine, equally many on each",
                                     rank - rank % per_node, rank, per_node);
    options->staged = per_node > 1; // processes cannot read each other's private memory
    return FM_OK;
}

fm_status fm_ep_world_mpi_share(fm_ep_world *world, const fm_ep_plan *plan, char **out_segment)
{
    char why[FM_EP_MPI_WHY_BYTES] = "";
    int first = world->rank - world->rank % plan->node_ranks;
    int count = world->ranks - first < plan->node_ranks ? world->ranks - first : plan->node_ranks;
    if (world->mpi->share(world->party, first, count, plan->total, world->base + first, why) < 0)
        return fm_base_error_set(FM_ERR_NOMEM, "MPI: no shared memory of %zu bytes for each of %d ranks: %s",
                                 plan->total, count, why);
    *out_segment = world->base[world->rank];
    return FM_OK;
}
