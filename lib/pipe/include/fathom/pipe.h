/**
 * @file pipe.h
 * Pipeline schedules as data: generate, verify, plan, simulate, search, draw. (Running one: fathom/pipe_exec.h.)
 *
 * A model of `stages` stages is spread over `ranks` ranks; a step pushes `micro_batches` micro-batches through it and
 * back. A *program* says, for each rank, which operation comes after which:
 *
 *     F    forward of one micro-batch through one of the rank's stages
 *     B    its full backward
 *     I    its backward for the input alone; the weight part is queued
 *     W    that queued weight part
 *     FB   a forward and the full backward of another micro-batch, overlapped: two halves that run as one operation
 *
 * A rank holds `lanes` stages. Where they lie is the program's *placement*:
 *
 *     FM_PIPE_LOOP    lane l of rank r is stage l * ranks + r (one lane: the plain pipeline; more: interleaved)
 *     FM_PIPE_V       lane 0 of rank r is stage r, lane 1 is stage 2 * ranks - 1 - r: down the ranks and up again
 *     FM_PIPE_MIRROR  two pipelines in opposite directions over the same ranks, stages == ranks: lane 0 is stage r of
 *                     direction 0, lane 1 is stage ranks - 1 - r of direction 1 (so each stage's weights live twice)
 *
 * Micro-batches of a direction are numbered from 0: these are the `chunk`s. With FM_PIPE_MIRROR direction 0 takes
 * (micro_batches + 1) / 2 of them and direction 1 the others; elsewhere there is one direction.
 *
 * What must travel follows from the program: F of stage s hands an activation to stage s + 1, B or I of stage s hands a
 * gradient to stage s - 1. Neighbouring stages lie on one rank or on ranks next to each other on a ring, so a rank has
 * at most two peers.
 *
 * Structs that begin with `size` grow at the end in later versions: set it to sizeof the struct, and leave at 0 what
 * shall have its default. A size that this version does not know is FM_ERR_VERSION.
 *
 * Nothing here does I/O or starts a thread. Any thread may call any function; objects are read-only once made, so any
 * number of threads may share one. Every function that can fail returns FM_ERR_NOMEM when memory runs out and FM_ERR_ARG
 * for a NULL where an object is needed; other errors are named with it.
 *
 * Sources: GPipe (Huang et al. 2019), 1F1B (Narayanan et al. 2019, PipeDream-Flush 2021), interleaved 1F1B (Narayanan et
 * al. 2021), ZB-H1, ZB-H2 (Qi et al. 2023, "Zero Bubble Pipeline Parallelism"), ZB-V (Qi et al. 2024, "Pipeline
 * Parallelism with Controllable Memory"), Chimera (Li, Hoefler 2021), DualPipe (DeepSeek-V3 technical report 2024),
 * DualPipeV (DeepSeek's DualPipe repository, 2025). ZB-H1 and the "ZB1P" of DualPipe's tables are one schedule.
 */
#ifndef FATHOM_PIPE_H
#define FATHOM_PIPE_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/doc.h"
#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FM_PIPE_RANKS_MAX = 1024,
    FM_PIPE_MICRO_BATCHES_MAX = 65536,
    FM_PIPE_LANES_MAX = 64,
    /** ranks * lanes * chunks of a direction: a program of this size takes 150 MB. */
    FM_PIPE_VISITS_MAX = 1 << 22
};

typedef enum fm_pipe_schedule {
    FM_PIPE_CUSTOM = 0, /**< made by search or by the caller */
    FM_PIPE_GPIPE,
    FM_PIPE_1F1B,
    FM_PIPE_INTERLEAVED,
    FM_PIPE_ZB_H1,
    FM_PIPE_ZB_H2,
    FM_PIPE_ZB_V,
    FM_PIPE_CHIMERA,
    FM_PIPE_DUALPIPE,
    FM_PIPE_DUALPIPEV,
    FM_PIPE_SCHEDULE_COUNT
} fm_pipe_schedule;

typedef enum fm_pipe_placement { FM_PIPE_LOOP, FM_PIPE_V, FM_PIPE_MIRROR } fm_pipe_placement;

typedef enum fm_pipe_kind {
    FM_PIPE_F,
    FM_PIPE_B,
    FM_PIPE_I,
    FM_PIPE_W,
    FM_PIPE_FB,
    FM_PIPE_KIND_COUNT
} fm_pipe_kind;

/** One operation. In FB, (lane, chunk) is the forward half and (back_lane, back_chunk) the backward half. */
typedef struct fm_pipe_op {
    uint8_t kind; /**< fm_pipe_kind */
    uint8_t lane;
    uint8_t back_lane;
    uint8_t reserved; /**< 0 */
    int32_t chunk;
    int32_t back_chunk;
} fm_pipe_op;

/** A program; made by the functions below, read-only. Rank r runs ops[first[r]] ... ops[first[r + 1] - 1] in
 * order. */
typedef struct fm_pipe_program {
    fm_pipe_schedule schedule;
    fm_pipe_placement placement;
    int ranks;
    int lanes;
    int stages; /**< ranks * lanes, or ranks with FM_PIPE_MIRROR */
    int micro_batches;
    int chunks[2];    /**< of each direction; their sum is micro_batches */
    int forward_only; /**< holds F alone: evaluation */
    const size_t *first;
    const fm_pipe_op *ops;
} fm_pipe_program;

/** "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "chimera", "dualpipe", "dualpipev", "custom". */
FM_API const char *fm_pipe_schedule_name(fm_pipe_schedule schedule);
/** "F", "B", "I", "W", "FB". */
FM_API const char *fm_pipe_kind_name(fm_pipe_kind kind);
/** The schedule of that name; capitals, '-' and '_' do not matter, and "zb1p" is "zb-h1". FM_ERR_ARG lists
 * the names. */
FM_API FM_MUST_USE fm_status fm_pipe_schedule_parse(const char *name, fm_pipe_schedule *out_schedule);
/** Where the schedule puts its stages. */
FM_API fm_pipe_placement fm_pipe_schedule_placement(fm_pipe_schedule schedule);

/** The stage that a lane of a rank holds. */
static inline int fm_pipe_stage(const fm_pipe_program *program, int rank, int lane)
{
    if (lane == 0)
        return rank;
    switch (program->placement) {
    case FM_PIPE_V:
        return 2 * program->ranks - 1 - rank;
    case FM_PIPE_MIRROR:
        return program->ranks - 1 - rank;
    default:
        return lane * program->ranks + rank;
    }
}

/** The direction in which a lane's micro-batches travel. */
static inline int fm_pipe_direction(const fm_pipe_program *program, int lane)
{
    return program->placement == FM_PIPE_MIRROR ? lane : 0;
}

/** The lane that holds a stage of a direction; its rank goes to *out_rank. */
static inline int fm_pipe_locate(const fm_pipe_program *program, int direction, int stage, int *out_rank)
{
    int ranks = program->ranks;
    if (program->placement == FM_PIPE_MIRROR) {
        *out_rank = direction ? ranks - 1 - stage : stage;
        return direction;
    }
    int lane = stage / ranks;
    *out_rank = program->placement == FM_PIPE_V && lane ? 2 * ranks - 1 - stage : stage % ranks;
    return lane;
}

/** The number of a chunk in the step's batch: direction 0 has the first chunks[0], direction 1 the rest. */
static inline int fm_pipe_micro_batch(const fm_pipe_program *program, int lane, int chunk)
{
    return fm_pipe_direction(program, lane) ? program->chunks[0] + chunk : chunk;
}

/** What to generate. */
typedef struct fm_pipe_shape {
    size_t size; /**< sizeof(fm_pipe_shape) */
    fm_pipe_schedule schedule;
    int ranks;
    int micro_batches; /**< any number from 1 */
    int lanes;         /**< interleaved: virtual stages a rank, 0 for 2. Others: 0 */
    int forward_only;  /**< leave out everything but the forwards */
} fm_pipe_shape;

/**
 * Generates a schedule. DualPipe and DualPipeV give the original's programs, op for op, where the original accepts the
 * size. Micro-batch counts that it (or interleaved, Chimera, ZB-V) refuses get the program of the next size up with the
 * surplus micro-batches left out, which stays a right program.
 *
 * FM_ERR_ARG: no such schedule, a size below 1, an odd number of ranks for DualPipe or Chimera (the message names the
 * nearest sizes that work). FM_ERR_LIMIT: a size above the limits at the top.
 */
FM_API FM_MUST_USE fm_status fm_pipe_program_generate(const fm_pipe_shape *shape,
                                                      fm_pipe_program **out_program);

/**
 * A program of the caller's own: copies `ops`, laid out as in fm_pipe_program. `layout` gives schedule, placement, ranks,
 * lanes, micro_batches, forward_only and first; the other fields are worked out. FM_ERR_ARG, FM_ERR_LIMIT: sizes, or
 * `first` decreases. The ops are not judged here: that is fm_pipe_program_verify().
 */
FM_API FM_MUST_USE fm_status fm_pipe_program_create(const fm_pipe_program *layout, const fm_pipe_op *ops,
                                                    fm_pipe_program **out_program);
/** Frees a program; NULL is allowed. */
FM_API void fm_pipe_program_free(fm_pipe_program *program);

/**
 * Reads a program from a document:
 *
 *     {"schedule": "dualpipe", "ranks": 2, "micro_batches": 4, "ops": [[["F", 0, 0], ...], [...]]}
 *
 * ops[rank] is that rank's program; an op is [KIND, lane, chunk], FB is ["FB", lane, chunk, back lane, back chunk]. Lanes
 * are called directions where the schedule has two. Further keys, written where the schedule does not imply them:
 * "virtual_stages" (lanes; interleaved and custom), "placement" ("loop", "v", "mirror"; custom), "forward_only".
 *
 * FM_ERR_FORMAT: "<file>:<line>: <what is there>; expected ...". Whether the program is right is not judged here.
 */
FM_API FM_MUST_USE fm_status fm_pipe_program_read(const fm_doc *node, fm_pipe_program **out_program);
/** Writes that form under `key` (NULL at the top or inside an array). Errors stick to `json`. */
FM_API void fm_pipe_program_write(const fm_pipe_program *program, const char *key, fm_json *json);

/** Where a program goes wrong. */
typedef struct fm_pipe_fault {
    int rank;
    int op;         /**< index in the rank's program; its op count when something is missing at the end */
    char text[400]; /**< the sentence that is also in the error message */
} fm_pipe_fault;

/**
 * Proves a program right, or names the first fault:
 *   1. per rank, in order: lanes and chunks exist; every F comes once; B or I comes once and after its F; W comes once
 *      and after its I; nothing is missing at the end;
 *   2. across ranks: the ops do not wait for each other in a circle;
 *   3. every message that the program implies is sent once and received once, and in the same order at both ends of a
 *      link;
 *   4. no deadlock when sends and receives block: under rendezvous (a message passes when both ends are there) and over
 *      links that hold 1 ... `depth_max` messages;
 *   5. no buffer is read before it is written, nor written while what it holds is still needed.
 * 3, 4 and 5 are judged by running the plan of fm_pipe_plan_create(), which is what the executor follows.
 *
 * FM_ERR_FORMAT: the program is wrong; *out_fault is filled (then only), NULL is allowed.
 */
FM_API FM_MUST_USE fm_status fm_pipe_program_verify(const fm_pipe_program *program, int depth_max,
                                                    fm_pipe_fault *out_fault);

/**
 * When messages are posted and which buffer holds what, for all ranks: the executor's instructions.
 *
 * Before each op lies a *boundary*. The sends of an op are posted at the boundary after it; a receive is posted at the
 * first boundary that lies at or after the moment of sending in the simulation with F = I = W = 1, B = 2, FB = 3. Posted
 * there, no wait can become circular, whatever the real times are (proof: lib/pipe/README.md).
 *
 * Buffers are numbered slots in two pools, one for activations and one for gradients: a received or produced tensor has a
 * slot from its posting to its last use. A third numbering, `saved`, counts the micro-batch visits whose forward has run
 * and whose backward (or queued weight part) has not: the caller keeps what backward needs in saved[slot].
 */
typedef struct fm_pipe_plan fm_pipe_plan;

/** What one rank needs. */
typedef struct fm_pipe_needs {
    int activation_slots;
    int gradient_slots;
    int saved_slots;
    size_t sends;    /**< messages in a step */
    size_t receives; /**< messages in a step */
} fm_pipe_needs;

/** Plans a program; it must outlive the plan. FM_ERR_FORMAT when steps 1 or 2 of fm_pipe_program_verify()
 * find a fault. */
FM_API FM_MUST_USE fm_status fm_pipe_plan_create(const fm_pipe_program *program, fm_pipe_plan **out_plan);
/** Frees a plan; NULL is allowed. */
FM_API void fm_pipe_plan_free(fm_pipe_plan *plan);
/** What `rank` needs. FM_ERR_ARG: no such rank. */
FM_API FM_MUST_USE fm_status fm_pipe_plan_needs(const fm_pipe_plan *plan, int rank, fm_pipe_needs *out_needs);

/** Times of one stage, in any unit (the same everywhere), and what one of its saved micro-batches occupies. */
typedef struct fm_pipe_stage_cost {
    double f;
    double i;
    double w;
    double b;      /**< full backward; 0: i + w */
    double fb;     /**< overlapped pair whose forward half is this stage; 0: f plus the partner's b */
    double memory; /**< held from F to B or W; 0: 1 */
} fm_pipe_stage_cost;

/** What a simulation is told. Times are finite and not negative, jitter is below 1. */
typedef struct fm_pipe_costs {
    size_t size; /**< sizeof(fm_pipe_costs) */
    const fm_pipe_stage_cost *stages;
    int stage_count;      /**< 1 (all alike) or the program's stages */
    double latency;       /**< from sending to arrival of an empty message */
    double message_bytes; /**< of one activation or gradient */
    double bandwidth;     /**< bytes per unit of time; a link carries one message at a time. 0: unlimited */
    const double *rank_time; /**< [ranks] factors on every op of a rank; NULL: 1 */
    const double *jitter; /**< [ranks] each op's time is multiplied by a draw from [1 - j, 1 + j]; NULL: 0 */
    uint64_t seed;        /**< of the jitter */
} fm_pipe_costs;

typedef struct fm_pipe_rank_result {
    double busy;   /**< sum of its ops' times */
    double first;  /**< start of its first op */
    double last;   /**< end of its last op */
    double bubble; /**< makespan - busy */
    /** last - first - busy: what is left where the optimiser step waits for no other rank. */
    double inner_bubble;
    double memory_peak; /**< in the unit of fm_pipe_stage_cost.memory */
    int saved_peak;     /**< micro-batch visits held at once, those with a queued W included */
    int queued_peak;    /**< of those, with I done and W queued */
} fm_pipe_rank_result;

/** A simulated step; all arrays belong to it. Ops are indexed as in fm_pipe_program.ops. */
typedef struct fm_pipe_simulation {
    double makespan;
    double bubble_ratio; /**< mean over ranks of bubble / makespan */
    double memory_peak;  /**< of the worst rank */
    const fm_pipe_rank_result *ranks;
    const double *start;  /**< [ops] */
    const double *finish; /**< [ops] */
    const double *memory; /**< [ops] held on the op's rank while it runs: the memory curve */
    /** Ops of a longest path, in time order: each starts when the one before it, or the message from it, is done. */
    const size_t *critical;
    size_t critical_count;
} fm_pipe_simulation;

/**
 * Simulates a step: ops in program order, each as soon as its rank is free and its message is there; sends never block.
 * O(ops). FM_ERR_ARG: a cost that is negative or not finite, a wrong stage_count, jitter outside [0, 1). FM_ERR_FORMAT:
 * the program is wrong (steps 1 and 2 of fm_pipe_program_verify()).
 */
FM_API FM_MUST_USE fm_status fm_pipe_simulation_run(const fm_pipe_program *program,
                                                    const fm_pipe_costs *costs,
                                                    fm_pipe_simulation **out_simulation);
/** Frees a simulation; NULL is allowed. */
FM_API void fm_pipe_simulation_free(fm_pipe_simulation *simulation);

/** What to search for: the program of least makespan. */
typedef struct fm_pipe_search {
    size_t size; /**< sizeof(fm_pipe_search) */
    fm_pipe_placement placement;
    int ranks;
    int lanes; /**< FM_PIPE_LOOP: from 1; 0 for 1. Others: 0 or 2 */
    int micro_batches;
    const fm_pipe_costs *costs; /**< jitter is not looked at */
    double memory_max;          /**< cap on every rank's memory_peak; 0: none */
    int no_split;               /**< no I and W: the model can only do B */
    int no_pairs;               /**< no FB */
    uint64_t seed;
    int64_t trials;      /**< programs simulated by the local search; 0: a count that takes about a second */
    int64_t exact_nodes; /**< states that the exact search may visit; 0: 2 million, negative: none */
} fm_pipe_search;

typedef struct fm_pipe_found {
    fm_pipe_program *program; /**< the caller frees it */
    double makespan;
    double memory_peak;
    double lower_bound; /**< no program of this placement and cap can beat it */
    int proven;         /**< makespan == lower_bound: the optimum */
} fm_pipe_found;

/**
 * Searches: the known schedules of the placement that fit the cap, list scheduling under a range of in-flight limits,
 * periodic patterns, a local search from the best of them, and, where the instance is small enough for `exact_nodes`,
 * branch and bound over all programs, which ends in a proof. Deterministic for a seed. Re-planning is the same call with
 * measured costs (fm_pipe_executor_costs()).
 *
 * FM_ERR_ARG: as fm_pipe_simulation_run(); a cap below what one micro-batch alone needs (the message says how much); an
 * `fb` below the longer of its halves.
 */
FM_API FM_MUST_USE fm_status fm_pipe_search_run(const fm_pipe_search *search, fm_pipe_found *out_found);

/** A rendered text; the caller frees `text` with fm_base_mem_free(). 0-terminated. */
typedef struct fm_pipe_text {
    char *text;
    size_t length;
} fm_pipe_text;

/** A Gantt chart: self-contained SVG, light and dark by prefers-color-scheme, a title on each op. */
FM_API FM_MUST_USE fm_status fm_pipe_draw_svg(const fm_pipe_program *program,
                                              const fm_pipe_simulation *simulation, fm_pipe_text *out_text);
/** A Chrome trace (JSON object form): a process a rank, a slice an op, a counter of the memory; one unit of
 * time is 1 ms. */
FM_API FM_MUST_USE fm_status fm_pipe_draw_trace(const fm_pipe_program *program,
                                                const fm_pipe_simulation *simulation, fm_pipe_text *out_text);
/** Lines of at most `columns` (from 20) characters, a row a rank: "F3--" is the forward of chunk 3, small letters are odd
 *  lanes, "F3+b1" (or "+") is a pair, blanks are idle. `color` adds terminal colours. FM_ERR_ARG: too few columns. */
FM_API FM_MUST_USE fm_status fm_pipe_draw_text(const fm_pipe_program *program,
                                               const fm_pipe_simulation *simulation, int columns, int color,
                                               fm_pipe_text *out_text);

#ifdef __cplusplus
}
#endif
#endif
