// Runs the simulated cluster by hand: cluster_sim [--bug N] [--trace] FIRST [COUNT]. The long mode is a large COUNT.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fs_runtime.h"
#include "sim_world.h"

#ifdef FM_FS_PLANTED
int fm_fs_planted_bug;
#endif

static void print_sums(const sim_result *sums, unsigned long count)
{
    printf("%lu seeds, %lu operations (%lu unknown), %lu events\n", count, sums->operations, sums->unknown,
           sums->events);
    printf("dirty reads %lu, driven %lu, synced %lu, repaired %lu, resumed %lu, forgotten %lu\n",
           sums->dirty_reads, sums->driven, sums->synced, sums->repaired, sums->resumed, sums->forgotten);
    printf("on names %lu, sent again %lu, collected %lu\n", sums->names_operations, sums->names_again,
           sums->collected);
    for (int i = 0; i < SIM_FAULTS; i++)
        printf("  %-15s %lu\n", sim_fault_name(i), sums->faults[i]);
}

static void add(sim_result *sums, const sim_result *result)
{
    sums->operations += result->operations;
    sums->unknown += result->unknown;
    sums->events += result->events;
    sums->dirty_reads += result->dirty_reads;
    sums->driven += result->driven;
    sums->synced += result->synced;
    sums->repaired += result->repaired;
    sums->resumed += result->resumed;
    sums->forgotten += result->forgotten;
    sums->names_operations += result->names_operations;
    sums->names_again += result->names_again;
    sums->collected += result->collected;
    for (int i = 0; i < SIM_FAULTS; i++)
        sums->faults[i] += result->faults[i];
}

int main(int argc, char **argv)
{
    FILE *trace = NULL;
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (strcmp(argv[at], "--trace") == 0)
            trace = stdout;
#ifdef FM_FS_PLANTED
        else if (strcmp(argv[at], "--bug") == 0 && at + 1 < argc)
            fm_fs_planted_bug = atoi(argv[++at]);
#endif
    }
    if (at >= argc) {
        fprintf(stderr, "usage: cluster_sim [--bug N] [--trace] FIRST [COUNT]\n");
        return 2;
    }
    unsigned long first = strtoul(argv[at], NULL, 10);
    unsigned long count = at + 1 < argc ? strtoul(argv[at + 1], NULL, 10) : 1;
    sim_result sums = {0};
    for (unsigned long seed = first; seed < first + count; seed++) {
        sim_result result = sim_run(seed, trace);
        add(&sums, &result);
        if (result.failed) {
            printf("seed %lu: %s\n", seed, result.reason);
            return 1;
        }
    }
    print_sums(&sums, count);
    return 0;
}
