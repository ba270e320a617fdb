// Where processes meet: the world behind the MPI plug-in.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ep_mpi.h"
#include "ep_private.h"

#include "fathom/engine.h"

_Static_assert((int)FM_EP_MPI_ALIGN == (int)FM_EP_ALIGN, "flags lie on cache lines");

#define PLUGIN_FILE "fathom_ep_mpi.so"

/** What each rank tells all others while it joins. */
typedef struct card {
    fm_ep_options options;
    fm_status status;
} card;

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

fm_status fm_ep_world_open_mpi(fm_ep_world **out_world, int *out_rank)
{
    const fm_ep_mpi *mpi = load_plugin();
    if (!mpi)
        return FM_ERR_UNAVAILABLE;
    char why[FM_EP_MPI_WHY_BYTES] = "";
    int rank = 0, ranks = 0;
    if (mpi->start(&rank, &ranks, why) < 0)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "MPI: %s", why);
    fm_ep_world *world;
    fm_status status = fm_ep_world_create(ranks, &world);
    if (status < 0) {
        mpi->stop();
        return status;
    }
    world->mpi = mpi;
    world->rank = rank;
    *out_world = world;
    *out_rank = rank;
    return FM_OK;
}

fm_status fm_ep_world_mpi_tell(fm_ep_world *world, const fm_ep_options *options, fm_status status)
{
    char why[FM_EP_MPI_WHY_BYTES] = "";
    card mine = {.options = *options, .status = status};
    card *cards = fm_base_mem_zalloc((size_t)world->ranks, sizeof *cards);
    if (!cards)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the options of %d ranks", world->ranks);
    int failed = world->mpi->gather(&mine, sizeof mine, cards, why) < 0;
    for (int rank = 0; rank < world->ranks; rank++) {
        world->options[rank] = cards[rank].options;
        world->status[rank] = cards[rank].status;
    }
    fm_base_mem_free(cards);
    return failed ? fm_base_error_set(FM_ERR_INTERNAL, "MPI: %s", why) : FM_OK;
}

fm_status fm_ep_world_mpi_share(fm_ep_world *world, size_t bytes, char **out_segment)
{
    char why[FM_EP_MPI_WHY_BYTES] = "";
    if (world->mpi->share(bytes, world->base, why) < 0)
        return fm_base_error_set(FM_ERR_NOMEM, "MPI: no shared memory of %zu bytes for each of %d ranks: %s",
                                 bytes, world->ranks, why);
    *out_segment = world->base[world->rank];
    return FM_OK;
}
