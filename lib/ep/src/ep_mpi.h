/*
 * The plug-in through which processes meet: the only part of ep that knows MPI. It is a shared object of its own, opened
 * when fm_ep_world_open_mpi() is called, so that nothing else needs an MPI to be installed.
 *
 * A *party* is a set of processes with a communicator of its own; the first is all of MPI_COMM_WORLD. Functions return 0 (or
 * what they say), or -1 with a text for people in `why`. Those marked collective are called by all of a party in the same
 * order. One thread of a process calls.
 */
#ifndef FM_EP_MPI_H
#define FM_EP_MPI_H

#include <stddef.h>
#include <stdint.h>

enum {
    FM_EP_MPI_WHY_BYTES = 256,
    FM_EP_MPI_LINE =
        64, /**< messages are multiples of this, so that their size fits MPI's int beyond 2 GB; memory that is
                              shared begins at one */
};

/** Changed with every change of the table below; a plug-in of another build is refused. */
#define FM_EP_MPI_VERSION 2

typedef struct fm_ep_mpi_party fm_ep_mpi_party;

/** Something under way. It ends when test() says so. */
typedef struct fm_ep_mpi_request {
    uint64_t handle;
    int is_active;
} fm_ep_mpi_request;

typedef struct fm_ep_mpi {
    int version;
    /** Collective. Starts MPI unless the program has. */
    int (*start)(fm_ep_mpi_party **out_party, char *why);
    /** Collective. The ranks of the party that gave the same colour, in the same order. */
    int (*split)(fm_ep_mpi_party *party, int color, fm_ep_mpi_party **out_part, char *why);
    void (*size)(const fm_ep_mpi_party *party, int *out_rank, int *out_ranks);
    /** Collective. out_first [ranks]: for each rank the lowest rank on its machine. */
    int (*machines)(fm_ep_mpi_party *party, int *out_first, char *why);
    /** Collective. Begins to give `bytes` of each rank to all: out [ranks][bytes]. */
    int (*gather)(fm_ep_mpi_party *party, const void *from, size_t bytes, void *out,
                  fm_ep_mpi_request *out_request, char *why);
    /** Collective. Shared memory of `bytes` for each of the party's ranks `first` to `first + count - 1`, of which this is
     * one; out_bases [count] are their addresses here. Once for a party. */
    int (*share)(fm_ep_mpi_party *party, int first, int count, size_t bytes, char **out_bases, char *why);
    /** `from` stays as it is until the request has ended; with `synchronous` it ends once the receiver has come. */
    int (*send)(fm_ep_mpi_party *party, int to, int tag, const void *from, size_t bytes, int synchronous,
                fm_ep_mpi_request *out_request, char *why);
    /** The next message of that rank and tag, of at most `bytes`. */
    int (*receive)(fm_ep_mpi_party *party, int from, int tag, void *to, size_t bytes,
                   fm_ep_mpi_request *out_request, char *why);
    /** 1: ended (a message of *out_bytes, where it was a receipt), 0: not yet. */
    int (*test)(fm_ep_mpi_request *request, size_t *out_bytes, char *why);
    /** Gives up on a request, whose memory may be freed only if this returns 1. */
    int (*cancel)(fm_ep_mpi_request *request);
    /** Frees the party and what share() made; the last one ends MPI if start() began it. Collective, unless `is_broken`:
     * then a rank is missing, all is left to the end of the process, and MPI is not ended. */
    void (*stop)(fm_ep_mpi_party *party, int is_broken);
} fm_ep_mpi;

/** What the plug-in exports. */
extern const fm_ep_mpi fm_ep_mpi_plugin;
#define FM_EP_MPI_SYMBOL "fm_ep_mpi_plugin"

#endif
