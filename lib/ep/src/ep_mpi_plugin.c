// The plug-in: see ep_mpi.h.
#include "ep_mpi.h"

#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

struct fm_ep_mpi_party {
    MPI_Comm all;
    MPI_Comm node; /**< of the window */
    MPI_Win window;
};

/** A request as MPI has it (a pointer or an int), and as it is kept. */
typedef union held {
    uint64_t handle;
    MPI_Request request;
} held;

_Static_assert(sizeof(held) == sizeof(uint64_t), "a request fits into its handle");

static int is_ours,
    is_broken; // MPI was started here, so it is ended here; a rank is missing, so it cannot be
static int parties;
static MPI_Datatype line;

static int explain(int error, const char *what, char *why)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(error, text, &length);
    snprintf(why, FM_EP_MPI_WHY_BYTES, "%s: %.200s", what, text);
    return -1;
}

/** Takes over `all`. */
static int make_party(MPI_Comm all, fm_ep_mpi_party **out_party, char *why)
{
    fm_ep_mpi_party *party = malloc(sizeof *party);
    if (!party) {
        snprintf(why, FM_EP_MPI_WHY_BYTES, "no memory");
        return -1;
    }
    *party = (fm_ep_mpi_party){all, MPI_COMM_NULL, MPI_WIN_NULL};
    MPI_Comm_set_errhandler(all, MPI_ERRORS_RETURN);
    parties++;
    *out_party = party;
    return 0;
}

static int start(fm_ep_mpi_party **out_party, char *why)
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
    if (parties == 0) {
        MPI_Type_contiguous(FM_EP_MPI_LINE, MPI_BYTE, &line);
        MPI_Type_commit(&line);
    }
    // A communicator of its own keeps the program's messages and these apart.
    MPI_Comm all;
    int error = MPI_Comm_dup(MPI_COMM_WORLD, &all);
    return error == MPI_SUCCESS ? make_party(all, out_party, why) : explain(error, "MPI_Comm_dup", why);
}

static int split(fm_ep_mpi_party *party, int color, fm_ep_mpi_party **out_part, char *why)
{
    MPI_Comm part;
    int error = MPI_Comm_split(party->all, color, 0, &part);
    return error == MPI_SUCCESS ? make_party(part, out_part, why) : explain(error, "MPI_Comm_split", why);
}

static void size(const fm_ep_mpi_party *party, int *out_rank, int *out_ranks)
{
    MPI_Comm_rank(party->all, out_rank);
    MPI_Comm_size(party->all, out_ranks);
}

static int machines(fm_ep_mpi_party *party, int *out_first, char *why)
{
    MPI_Comm machine;
    int first = 0;
    MPI_Comm_rank(party->all, &first);
    int error = MPI_Comm_split_type(party->all, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    if (error != MPI_SUCCESS)
        return explain(error, "MPI_Comm_split_type", why);
    MPI_Bcast(&first, 1, MPI_INT, 0, machine); // its rank 0 is the lowest of the party
    MPI_Comm_free(&machine);
    error = MPI_Allgather(&first, 1, MPI_INT, out_first, 1, MPI_INT, party->all);
    return error == MPI_SUCCESS ? 0 : explain(error, "MPI_Allgather", why);
}

static void keep(fm_ep_mpi_request *out_request, MPI_Request request)
{
    held it = {.handle = 0};
    it.request = request;
    *out_request = (fm_ep_mpi_request){it.handle, 1};
}

static int gather(fm_ep_mpi_party *party, const void *from, size_t bytes, void *out,
                  fm_ep_mpi_request *out_request, char *why)
{
    MPI_Request request = MPI_REQUEST_NULL;
    int error = bytes > INT_MAX ? MPI_ERR_COUNT
                                : MPI_Iallgather(from, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE,
                                                 party->all, &request);
    if (error != MPI_SUCCESS)
        return explain(error, "MPI_Iallgather", why);
    keep(out_request, request);
    return 0;
}

static int share(fm_ep_mpi_party *party, int first, int count, size_t bytes, char **out_bases, char *why)
{
    int error = MPI_Comm_split(party->all, first, 0, &party->node);
    if (error != MPI_SUCCESS)
        return explain(error, "MPI_Comm_split", why);
    MPI_Comm_set_errhandler(party->node, MPI_ERRORS_RETURN);
    // Each rank's part on pages of its own, placed where the rank that touches it first runs.
    MPI_Info info;
    MPI_Info_create(&info);
    MPI_Info_set(info, "alloc_shared_noncontig", "true");
    void *mine = NULL;
    // Parts begin anywhere in a page, but at the same place of it in every process, as mappings are page-aligned.
    error = MPI_Win_allocate_shared((MPI_Aint)(bytes + FM_EP_MPI_LINE - 1), 1, info, party->node, &mine,
                                    &party->window);
    MPI_Info_free(&info);
    for (int rank = 0; rank < count && error == MPI_SUCCESS; rank++) {
        MPI_Aint part_bytes = 0;
        int unit = 0;
        error = MPI_Win_shared_query(party->window, rank, &part_bytes, &unit, &out_bases[rank]);
        out_bases[rank] += -(uintptr_t)out_bases[rank] % FM_EP_MPI_LINE;
    }
    return error == MPI_SUCCESS ? 0 : explain(error, "MPI_Win_allocate_shared", why);
}

static int send(fm_ep_mpi_party *party, int to, int tag, const void *from, size_t bytes, int synchronous,
                fm_ep_mpi_request *out_request, char *why)
{
    MPI_Request request = MPI_REQUEST_NULL;
    int lines = (int)(bytes / FM_EP_MPI_LINE);
    int error = synchronous ? MPI_Issend(from, lines, line, to, tag, party->all, &request)
                            : MPI_Isend(from, lines, line, to, tag, party->all, &request);
    if (error != MPI_SUCCESS)
        return explain(error, "MPI_Isend", why);
    keep(out_request, request);
    return 0;
}

static int receive(fm_ep_mpi_party *party, int from, int tag, void *to, size_t bytes,
                   fm_ep_mpi_request *out_request, char *why)
{
    MPI_Request request = MPI_REQUEST_NULL;
    int error = MPI_Irecv(to, (int)(bytes / FM_EP_MPI_LINE), line, from, tag, party->all, &request);
    if (error != MPI_SUCCESS)
        return explain(error, "MPI_Irecv", why);
    keep(out_request, request);
    return 0;
}

static int test(fm_ep_mpi_request *kept, size_t *out_bytes, char *why)
{
    held it = {.handle = kept->handle};
    MPI_Status status;
    int is_done = 0, lines = 0;
    int error = MPI_Test(&it.request, &is_done, &status);
    if (error != MPI_SUCCESS) {
        kept->is_active = 0;
        return explain(error, "MPI_Test", why);
    }
    if (!is_done)
        return 0;
    kept->is_active = 0;
    MPI_Get_count(&status, line, &lines);
    *out_bytes = lines > 0 ? (size_t)lines * FM_EP_MPI_LINE : 0;
    return 1;
}

static int cancel(fm_ep_mpi_request *kept)
{
    held it = {.handle = kept->handle};
    int is_done = 0;
    if (!kept->is_active)
        return 1;
    MPI_Cancel(&it.request);
    // What was not cancelled because its other half is under way might wait for a rank that is gone: it is left alone.
    MPI_Test(&it.request, &is_done, MPI_STATUS_IGNORE);
    kept->is_active = 0;
    return is_done;
}

static void stop(fm_ep_mpi_party *party, int broken)
{
    is_broken |= broken;
    if (!is_broken) {
        if (party->window != MPI_WIN_NULL)
            MPI_Win_free(&party->window);
        if (party->node != MPI_COMM_NULL)
            MPI_Comm_free(&party->node);
        MPI_Comm_free(&party->all);
    }
    free(party);
    if (--parties > 0 || is_broken)
        return;
    MPI_Type_free(&line);
    if (is_ours)
        MPI_Finalize();
    is_ours = 0;
}

__attribute__((visibility("default"))) const fm_ep_mpi fm_ep_mpi_plugin = {
    .version = FM_EP_MPI_VERSION,
    .start = start,
    .split = split,
    .size = size,
    .machines = machines,
    .gather = gather,
    .share = share,
    .send = send,
    .receive = receive,
    .test = test,
    .cancel = cancel,
    .stop = stop,
};
