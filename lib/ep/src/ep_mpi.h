/*
 * The plug-in through which processes meet: the only part of ep that knows MPI. It is a shared object of its own, opened
 * when fm_ep_world_open_mpi() is called, so that nothing else needs an MPI to be installed.
 *
 * All functions but `start` are collective. They return 0, or -1 with a text for people in `why`.
 */
#ifndef FM_EP_MPI_H
#define FM_EP_MPI_H

#include <stddef.h>

enum { FM_EP_MPI_WHY_BYTES = 256, FM_EP_MPI_ALIGN = 64 };

/** Changed with every change of the table below; a plug-in of another build is refused. */
#define FM_EP_MPI_VERSION 1

typedef struct fm_ep_mpi {
    int version;
    /** Starts MPI unless the program has, and tells rank and number of ranks. All must run on one machine. */
    int (*start)(int *out_rank, int *out_ranks, char *why);
    /** Gives `bytes` of each rank to all: out [ranks][bytes]. */
    int (*gather)(const void *from, size_t bytes, void *out, char *why);
    /** Makes shared memory of `bytes` for each rank; out_bases [ranks] are their addresses here, multiples of
     * FM_EP_MPI_ALIGN. */
    int (*share)(size_t bytes, char **out_bases, char *why);
    /** Frees what share() made, and ends MPI if start() began it. */
    void (*stop)(void);
} fm_ep_mpi;

/** What the plug-in exports. */
extern const fm_ep_mpi fm_ep_mpi_plugin;
#define FM_EP_MPI_SYMBOL "fm_ep_mpi_plugin"

#endif
