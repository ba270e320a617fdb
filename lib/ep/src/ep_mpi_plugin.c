// The plug-in: see ep_mpi.h.
#include "ep_mpi.h"

#include <limits.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>

static MPI_Win window = MPI_WIN_NULL;
static int is_ours; // MPI was started here, so it is ended here

static int explain(int error, const char *what, char *why)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(error, text, &length);
    snprintf(why, FM_EP_MPI_WHY_BYTES, "%s: %.200s", what, text);
    return -1;
}

static int start(int *out_rank, int *out_ranks, char *why)
{
    int is_started = 0, is_ended = 0, level = 0;
    MPI_Initialized(&is_started);
    MPI_Finalized(&is_ended);
    if (is_ended) {
        snprintf(why, FM_EP_MPI_WHY_BYTES, "MPI has ended in this process and cannot be started again");
        return -1;
    }
    if (!is_started) {
        // The rank's one thread calls MPI; others may exist.
        int error = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
        if (error != MPI_SUCCESS)
            return explain(error, "MPI_Init_thread", why);
        is_ours = 1;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, out_rank);
    MPI_Comm_size(MPI_COMM_WORLD, out_ranks);
    MPI_Comm node;
    int here = 0;
    int error = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    if (error != MPI_SUCCESS)
        return explain(error, "MPI_Comm_split_type", why);
    MPI_Comm_size(node, &here);
    MPI_Comm_free(&node);
    if (here != *out_ranks) {
        snprintf(why, FM_EP_MPI_WHY_BYTES, "%d of %d ranks run on this machine; expected all", here,
                 *out_ranks);
        return -1;
    }
    return 0;
}

static int gather(const void *from, size_t bytes, void *out, char *why)
{
    int error = bytes > INT_MAX
                    ? MPI_ERR_COUNT
                    : MPI_Allgather(from, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, MPI_COMM_WORLD);
    return error == MPI_SUCCESS ? 0 : explain(error, "MPI_Allgather", why);
}

static int share(size_t bytes, char **out_bases, char *why)
{
    int ranks = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    // Each rank's part on pages of its own, placed where the rank that touches it first runs.
    MPI_Info info;
    MPI_Info_create(&info);
    MPI_Info_set(info, "alloc_shared_noncontig", "true");
    void *mine = NULL;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    // Parts begin anywhere in a page, but at the same place of it in every process, as mappings are page-aligned.
    int error = MPI_Win_allocate_shared((MPI_Aint)(bytes + FM_EP_MPI_ALIGN - 1), 1, info, MPI_COMM_WORLD,
                                        &mine, &window);
    MPI_Info_free(&info);
    for (int rank = 0; rank < ranks && error == MPI_SUCCESS; rank++) {
        MPI_Aint size = 0;
        int unit = 0;
        error = MPI_Win_shared_query(window, rank, &size, &unit, &out_bases[rank]);
        out_bases[rank] += -(uintptr_t)out_bases[rank] % FM_EP_MPI_ALIGN;
    }
    return error == MPI_SUCCESS ? 0 : explain(error, "MPI_Win_allocate_shared", why);
}

static void stop(void)
{
    if (window != MPI_WIN_NULL)
        MPI_Win_free(&window);
    if (is_ours)
        MPI_Finalize();
    is_ours = 0;
}

__attribute__((visibility("default")))
const fm_ep_mpi fm_ep_mpi_plugin = {FM_EP_MPI_VERSION, start, gather, share, stop};
