/**
 * @file fm_bench.h
 * How to write a benchmark: the manual for whoever adds bench_<library>.c.
 *
 * A machine that is shared, or merely warm, changes its clock and its neighbours while a benchmark runs. So no figure
 * here stands alone: each sample is bracketed by two short probes of the limit that binds the case (the AMX rate, the
 * FMA rate, memory read, copy), taken on the same core and with the same number of threads. A sample whose two probes
 * disagree is marked unclean and taken again. What a case reports is its time, its rate, the *fraction* of the limit,
 * and the *ratio* to each peer, which runs on the same data in the same rounds (A B A B, the order rotating).
 *
 *     static fm_status crc_setup(const fm_bench_setup *setup, void **out_state) { ... allocate, fm_bench_fill() ... }
 *     static fm_status crc_run(void *state, int threads) { ... one run ... }
 *     static fm_status peer_run(void *state, int threads) { ... }
 *     static uint64_t crc_hash(const void *state) { ... fm_bench_hash(output) ... }
 *
 *     static fm_status cases(fm_bench *bench)
 *     {
 *         return fm_bench_add(bench, &(fm_bench_case){
 *             .name = "crc32c.256MiB", .limit = FM_BENCH_READ, .bytes = 256 << 20,
 *             .setup = crc_setup, .run = crc_run, .hash = crc_hash, .teardown = crc_teardown,
 *             .peers = {{.name = "zlib", .run = peer_run}},
 *             .goals = {{FM_BENCH_FRACTION, .must = 0.60, .hope = 0.80},
 *                       {FM_BENCH_RATIO, .peer = "zlib", .must = 2}}});
 *     }
 *     int main(int argc, char **argv)
 *     {
 *         static const fm_bench_program program = {"base", "numbers, checksums, documents, spans", cases};
 *         return fm_bench_main(&program, argc, argv);
 *     }
 *
 * In bench/CMakeLists.txt: fm_bench(base SOURCES bench_base.c LINK <peers>). Then run `bench_base --record-hashes`, and
 * commit the line it adds to bench/results/hashes.txt.
 *
 * Rules. Data are random and seeded, never zeros. A run does the whole job and nothing else; what must be undone or
 * made cold between runs goes to `before`. A peer does the same job on the same data, with its own best settings.
 */
#ifndef FM_BENCH_H
#define FM_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/cpu.h"
#include "fathom/status.h"

/** What binds a case. Rates count a fused multiply-add as 2 flops; copies count bytes read plus bytes written. */
typedef enum fm_bench_limit {
    FM_BENCH_NO_LIMIT, /**< nothing that a probe knows; samples are bracketed by FM_BENCH_FMA_SCALAR all the same */
    FM_BENCH_AMX_BF16,   /**< TDPBF16PS on registers, flop/s */
    FM_BENCH_FMA_AVX512, /**< 512-bit float FMA on registers, flop/s */
    FM_BENCH_FMA_AVX2,   /**< 256-bit float FMA on registers, flop/s */
    FM_BENCH_FMA_SCALAR, /**< scalar float FMA (where there is none, multiply and add): sees a busy hardware sibling */
    FM_BENCH_CLOCK, /**< a chain of dependent integer multiplications: the core's cycles per second */
    FM_BENCH_READ,  /**< memory read in 8 far-apart streams with prefetch, byte/s */
    FM_BENCH_COPY, /**< memory copy, ordinary stores (the destination is read first by the hardware), byte/s */
    FM_BENCH_COPY_STREAMED, /**< memory copy, non-temporal stores, byte/s */
    FM_BENCH_OWN_LIMIT,     /**< the case's own probe: a disk, a socket, a closed formula over them */
    FM_BENCH_LIMITS
} fm_bench_limit;

/** Which clock times the runs. */
typedef enum fm_bench_clock {
    /** CPU time for 1 thread (what else runs on the machine does not count), wall time for more. CPU time is the whole
     *  process's, so that a run that quietly starts threads gains nothing by it. */
    FM_BENCH_CPU_OR_WALL,
    FM_BENCH_WALL /**< for what waits: files, sockets, other processes */
} fm_bench_clock;

/** Which modes run a case. Set-up counts, too: --quick is a promise of 60 seconds for the whole program. */
typedef enum fm_bench_mode {
    FM_BENCH_IN_QUICK, /**< --quick and full runs: the default */
    FM_BENCH_IN_SMOKE, /**< also in the --smoke run of the test suite: well under a second, set-up included */
    FM_BENCH_IN_FULL   /**< full runs alone: set-up or one run takes seconds */
} fm_bench_mode;

typedef enum fm_bench_metric {
    FM_BENCH_FRACTION = 1, /**< of the limit; at least */
    FM_BENCH_RATIO,        /**< peer's time / our time; at least. `peer` NULL: to the fastest peer of all */
    FM_BENCH_SCALING,      /**< fraction at all threads / fraction at 1, round by round; at least */
    FM_BENCH_TIME,         /**< seconds a run; at most */
    FM_BENCH_ITEM_TIME,    /**< seconds an item; at most */
    FM_BENCH_EXCESS,       /**< seconds an item beyond the peer's; at most */
    FM_BENCH_OWN_AT_LEAST, /**< the case's own metric `name` */
    FM_BENCH_OWN_AT_MOST
} fm_bench_metric;

/** For `threads` of a goal: only the largest thread count of the run. */
#define FM_BENCH_ALL_THREADS (-1)

/** A goal judges the median. `must` decides --check; `hope` is shown. 0: none. */
typedef struct fm_bench_goal {
    fm_bench_metric metric; /**< 0 ends the list */
    const char *peer;       /**< RATIO, EXCESS */
    const char *name;       /**< OWN_...: as given to fm_bench_metric_add() */
    double must, hope;
    int threads; /**< 0: 1 thread, or the case's own count; FM_BENCH_ALL_THREADS (void where that is 1) */
} fm_bench_goal;

/**
 * Something else that does the job. `expect` guards against measuring oneself against a crippled build: it is the
 * fraction of the limit that the peer is known to reach (or, with `expect_of`, its speed relative to that other peer).
 * A peer more than 20 % below it makes its ratio, and the ratio to the best peer, void: neither met nor missed.
 */
typedef struct fm_bench_peer {
    const char *name; /**< NULL ends the list */
    /** One run. FM_ERR_UNAVAILABLE: the peer is not on this machine; its ratios are void. */
    fm_status (*run)(void *state, int threads);
    double expect; /**< 0: nothing is known. Looked at on 1 thread, or the case's own count */
    const char *expect_of;
    int same_result; /**< the case's hash must come out of this peer, too */
} fm_bench_peer;

/** What set-up may know. */
typedef struct fm_bench_setup {
    const void *argument; /**< the case's */
    uint64_t seed;        /**< for the case's data; the same in every run of the program */
    int threads_max;
} fm_bench_setup;

enum { FM_BENCH_PEERS_MAX = 7, FM_BENCH_GOALS_MAX = 7 };

typedef struct fm_bench_metrics fm_bench_metrics;

/** A case. Work is per run; the rate is counted in flops under a flop limit, in bytes under a byte limit, else in
 *  `bytes`, `items` or `flops`, the first that is not 0, or in runs. */
typedef struct fm_bench_case {
    const char *name; /**< "fp8.4096x4096x7168": what, then size; unique in the program */
    const void *argument;
    fm_bench_limit limit;
    double flops, bytes, items;
    fm_bench_clock clock;
    fm_bench_mode mode;
    int threads; /**< 0: 1 and all; n: n and nothing else */

    /** FM_ERR_UNAVAILABLE skips the case with its message. *out_state may stay NULL. */
    fm_status (*setup)(const fm_bench_setup *setup, void **out_state);
    /** Before every run, outside the time. Set it and each sample is one run. NULL: samples are as many runs as fill
     *  about 2 ms. */
    fm_status (*before)(void *state);
    fm_status (*run)(void *state, int threads);
    /** Hash of what the run before left as its result (fm_bench_hash()); NULL when nothing is promised. Must not
     *  depend on threads, repeats or the ISA level; the expected values are in bench/results/hashes.txt. */
    uint64_t (*hash)(const void *state);
    /** FM_BENCH_OWN_LIMIT: probes it, in the unit of the rate. 0 or less: cannot tell. */
    double (*own_limit)(void *state, int threads);
    const char *own_limit_name;
    double own_limit_bound; /**< how far two clean probes of it may differ, relative; 0: 0.15 */
    /** After the samples: adds what the case itself has measured (tails, memory, quality). */
    void (*metrics)(void *state, fm_bench_metrics *to);
    void (*teardown)(void *state);

    fm_bench_peer peers[FM_BENCH_PEERS_MAX + 1];
    fm_bench_goal goals[FM_BENCH_GOALS_MAX + 1];
} fm_bench_case;

/** A goal for the median over several cases, on 1 thread: those whose name contains `cases`. FRACTION, or RATIO to a
 *  named peer. Void unless all of them count. */
typedef struct fm_bench_group {
    const char *name;
    const char *cases;
    fm_bench_goal goal;
} fm_bench_group;

typedef struct fm_bench fm_bench;

typedef struct fm_bench_program {
    const char *name;    /**< the library: "gemm" */
    const char *summary; /**< one line, no full stop */
    /** Adds the cases. Called once. */
    fm_status (*cases)(fm_bench *bench);
} fm_bench_program;

/** Adds a case or a group; the struct and its names are copied, `argument` is borrowed. FM_ERR_ARG: what is wrong. */
FM_MUST_USE fm_status fm_bench_add(fm_bench *bench, const fm_bench_case *item);
FM_MUST_USE fm_status fm_bench_add_group(fm_bench *bench, const fm_bench_group *group);

/** Parses the options, runs, reports. Returns the exit status: 0; 1 when a run failed, a result changed, or under
 *  --check a `must` was missed; 2 for usage. */
int fm_bench_main(const fm_bench_program *program, int argc, char **argv);

/** The limit that binds arithmetic at this level: FM_BENCH_FMA_SCALAR for FM_ISA_REF, ..., FM_BENCH_AMX_BF16. */
fm_bench_limit fm_bench_limit_of_isa(fm_isa level);

/** For `metrics` callbacks. `name` and `unit` ("s", "B", "1") are borrowed for good: string literals. */
void fm_bench_metric_add(fm_bench_metrics *metrics, const char *name, double value, const char *unit);

/** A 64-bit hash of `size` bytes; chain calls by passing the last result as `seed` (0 first). Not cryptographic. */
uint64_t fm_bench_hash(uint64_t seed, const void *bytes, size_t size);

/** Fills with random bits (`fill`), or with floats uniform in [-1, 1) (`fill_floats`); the same for the same seed. */
void fm_bench_fill(uint64_t seed, void *bytes, size_t size);
void fm_bench_fill_floats(uint64_t seed, float *values, size_t count);

/** Throws the bytes out of every cache of this machine: for `before` of a case whose data must come from memory. */
void fm_bench_evict(const void *bytes, size_t size);

/** Memory for a case's data: aligned to 2 MiB and on huge pages where the kernel gives them, as a user's would be
 *  who cares for speed. NULL when there is none. Free with fm_base_mem_free(). */
void *fm_bench_alloc(size_t size) FM_MUST_USE;

/** Keeps the compiler from dropping a computation whose result is this pointer's or value's. */
#define FM_BENCH_KEEP(value) __asm__ volatile("" : : "g"(value) : "memory")

#endif
