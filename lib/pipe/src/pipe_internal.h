/**
 * @file pipe_internal.h
 * What the files of this library share: routes between visits, the builder, the checks, the timing core and
 * the plan.
 *
 * A *visit* is one micro-batch at one stage. Its index is (rank * lanes + lane) * chunks[0] + chunk;
 * chunks[0] is the larger of the two counts, so a program has visits = ranks * lanes * chunks[0] indices.
 */
#ifndef FM_PIPE_INTERNAL_H
#define FM_PIPE_INTERNAL_H

#include <stdint.h>

#include "fathom/pipe.h"
#include "fathom/pipe_exec.h"

/** Ops of rank `rank`, and how many. */
static inline const fm_pipe_op *fm_pipe_ops_of(const fm_pipe_program *program, int rank)
{
    return program->ops + program->first[rank];
}
static inline size_t fm_pipe_count_of(const fm_pipe_program *program, int rank)
{
    return program->first[rank + 1] - program->first[rank];
}
static inline size_t fm_pipe_op_total(const fm_pipe_program *program)
{
    return program->first[program->ranks];
}
static inline size_t fm_pipe_visit_total(const fm_pipe_program *program)
{
    return (size_t)program->ranks * (size_t)program->lanes * (size_t)program->chunks[0];
}
static inline size_t fm_pipe_visit(const fm_pipe_program *program, int rank, int lane, int chunk)
{
    return ((size_t)rank * (size_t)program->lanes + (size_t)lane) * (size_t)program->chunks[0] +
           (size_t)chunk;
}

/** The halves of an op: any op is a forward, a backward (B, I or FB's), a weight part, or FB's two. */
static inline int fm_pipe_has_forward(const fm_pipe_op *op)
{
    return op->kind == FM_PIPE_F || op->kind == FM_PIPE_FB;
}
static inline int fm_pipe_has_backward(const fm_pipe_op *op)
{
    return op->kind == FM_PIPE_B || op->kind == FM_PIPE_I || op->kind == FM_PIPE_FB;
}
/** Lane and chunk of the half that is not a forward. */
static inline int fm_pipe_back_lane(const fm_pipe_op *op)
{
    return op->kind == FM_PIPE_FB ? op->back_lane : op->lane;
}
static inline int32_t fm_pipe_back_chunk(const fm_pipe_op *op)
{
    return op->kind == FM_PIPE_FB ? op->back_chunk : op->chunk;
}
/** After this op nothing of the (backward's) visit is kept any more. */
static inline int fm_pipe_ends_visit(const fm_pipe_op *op)
{
    return op->kind == FM_PIPE_B || op->kind == FM_PIPE_W || op->kind == FM_PIPE_FB;
}

/** Where a lane's results go. */
struct fm_pipe_route {
    int stage;
    int direction;
    int next_rank, next_lane; /**< of stage + 1; -1 at the last stage */
    int prev_rank, prev_lane; /**< of stage - 1; -1 at stage 0 */
};
/** Fills routes[rank * lanes + lane]. */
void fm_pipe_routes_fill(const fm_pipe_program *program, struct fm_pipe_route *routes);

/* pipe_program.c */

/** FM_ERR_VERSION unless a size-tagged struct has the size that this version knows. */
fm_status fm_pipe_size_check(const char *what, size_t size, size_t known);

/** Checks sizes and fills stages, chunks from schedule, placement, ranks, lanes, micro_batches. */
fm_status fm_pipe_layout_check(fm_pipe_program *layout);
/** A program with room for `capacity` ops; layout->first is not looked at. first[] is zero. */
fm_status fm_pipe_program_alloc(const fm_pipe_program *layout, size_t capacity,
                                fm_pipe_program **out_program);
/** Room that every right program of this layout needs at most, in ops. */
size_t fm_pipe_program_capacity(const fm_pipe_program *layout);
/** The writable view of a program that is being made: its arrays lie behind it, in one block. */
static inline size_t *fm_pipe_first_mutable(fm_pipe_program *program)
{
    return (size_t *)(program + 1);
}
static inline fm_pipe_op *fm_pipe_ops_mutable(fm_pipe_program *program)
{
    return (fm_pipe_op *)(fm_pipe_first_mutable(program) + program->ranks + 1);
}
/** "F lane 0 chunk 3", "FB lane 0 chunk 3 with lane 1 chunk 0". */
enum { FM_PIPE_OP_TEXT_BYTES = 96 };
const char *fm_pipe_op_text(const fm_pipe_op *op, char text[FM_PIPE_OP_TEXT_BYTES]);

/* pipe_generate*.c */

/**
 * Takes a generator's ops. A generator works with the padded size (`chunks` a direction), and the builder
 * leaves out what the program does not have: micro-batches from program->chunks on, and all but forwards when
 * the program is forward-only. A visit's ops only ever wait for ops of the same micro-batch, so what remains
 * is still in a right order.
 */
struct fm_pipe_builder {
    fm_pipe_program *program;
    size_t count;
    size_t capacity;
    int chunks; /**< padded */
};
void fm_pipe_builder_push(struct fm_pipe_builder *builder, fm_pipe_kind kind, int lane, int chunk);
void fm_pipe_builder_push_pair(struct fm_pipe_builder *builder, int lane, int chunk, int back_lane,
                               int back_chunk);

void fm_pipe_generate_gpipe(struct fm_pipe_builder *builder, int rank);
void fm_pipe_generate_1f1b(struct fm_pipe_builder *builder, int rank);
void fm_pipe_generate_interleaved(struct fm_pipe_builder *builder, int rank);
void fm_pipe_generate_zb_h1(struct fm_pipe_builder *builder, int rank);
void fm_pipe_generate_zb_h2(struct fm_pipe_builder *builder, int rank);
void fm_pipe_generate_zb_v(struct fm_pipe_builder *builder, int rank);
void fm_pipe_generate_chimera(struct fm_pipe_builder *builder, int rank);
void fm_pipe_generate_dualpipe(struct fm_pipe_builder *builder, int rank);
void fm_pipe_generate_dualpipev(struct fm_pipe_builder *builder, int rank);

/* pipe_check.c */

/** Fills *out_fault (NULL allowed) and the error message; returns FM_ERR_FORMAT. `op` indexes the rank's
 * program. */
fm_status fm_pipe_fault_set(const fm_pipe_program *program, int rank, size_t op, fm_pipe_fault *out_fault,
                            const char *format, ...) FM_PRINTF(5, 6);
/** Step 1 of fm_pipe_program_verify(). */
fm_status fm_pipe_check_ranks(const fm_pipe_program *program, fm_pipe_fault *out_fault);
/** Step 2, after a run of the timing core stopped with the ranks at `cursor`: names the circle. */
fm_status fm_pipe_check_circle(const fm_pipe_program *program, const size_t *cursor,
                               fm_pipe_fault *out_fault);

/* pipe_timing.c */

/** A reusable run of a program against op times; the inner loop of simulation, planning and search. */
struct fm_pipe_timing {
    const fm_pipe_program *program;
    const double *op_time; /**< [ops] */
    double latency;
    double transfer; /**< time that a message occupies its link */
    double *start;   /**< [ops] out */
    double *finish;  /**< [ops] out */
    /* workspace */
    struct fm_pipe_route *routes;
    double *arrival[2]; /**< [visits] of the activation and the gradient; negative: not there yet */
    double *link_free;  /**< [ranks][2] to the next rank and to the one before */
    size_t *cursor;     /**< [ranks] ops done */
    double *rank_free;  /**< [ranks] */
    int *stack;         /**< [ranks] ranks to look at */
    uint8_t *stacked;   /**< [ranks] */
    void *memory;
};
/** Allocates for `program` with up to `ops` ops; op_time, latency and transfer are left to the caller. */
fm_status fm_pipe_timing_init(const fm_pipe_program *program, size_t ops, struct fm_pipe_timing *out_timing);
/** Runs all ops; returns the makespan, or -1 when the ranks wait in a circle (see cursor). */
double fm_pipe_timing_run(struct fm_pipe_timing *timing);
void fm_pipe_timing_free(struct fm_pipe_timing *timing);

/* pipe_costs.c */

/** Checks costs against a program's layout: FM_ERR_ARG. */
fm_status fm_pipe_costs_check(const fm_pipe_costs *costs, int stages, int ranks);
/** Times of one stage with the defaults filled in. */
fm_pipe_stage_cost fm_pipe_cost_of(const fm_pipe_costs *costs, int stage);
/** Time of an op without jitter. */
double fm_pipe_op_cost(const fm_pipe_program *program, const fm_pipe_costs *costs, int rank,
                       const fm_pipe_op *op);
/** Time that a message occupies its link. */
double fm_pipe_transfer_cost(const fm_pipe_costs *costs);

/* pipe_planner.c */

/** A message as one end sees it. */
struct fm_pipe_post {
    uint8_t kind; /**< FM_PIPE_ACTIVATION or FM_PIPE_GRADIENT */
    uint8_t direction;
    uint16_t stage; /**< that it enters */
    int32_t chunk;
    int32_t peer;
    int32_t slot;      /**< in the pool of its kind */
    uint32_t boundary; /**< posted before this op of the rank; the op count: after the last one */
};

/** The slots of an op; -1 where there is none. */
struct fm_pipe_slots {
    int32_t x, y, saved;                /**< forward half: input, output */
    int32_t back_x, dy, dx, back_saved; /**< backward or weight half */
};

struct fm_pipe_rank_plan {
    fm_pipe_needs needs;
    size_t first_send, first_receive; /**< in the plan's arrays; needs.sends, needs.receives of them */
};

struct fm_pipe_plan {
    const fm_pipe_program *program;
    struct fm_pipe_rank_plan *ranks;
    struct fm_pipe_post *sends;    /**< rank by rank, in order of posting */
    struct fm_pipe_post *receives; /**< likewise */
    struct fm_pipe_slots *slots;   /**< [ops] */
};

/** fm_pipe_plan_create() that also says where the program goes wrong. */
fm_status fm_pipe_plan_make(const fm_pipe_program *program, fm_pipe_fault *out_fault,
                            fm_pipe_plan **out_plan);
/** Steps 3 and 5 of fm_pipe_program_verify(). */
fm_status fm_pipe_plan_check(const fm_pipe_plan *plan, fm_pipe_fault *out_fault);
/** Step 4 for links that hold `depth` messages; 0 is rendezvous. */
fm_status fm_pipe_plan_check_links(const fm_pipe_plan *plan, int depth, fm_pipe_fault *out_fault);

/* pipe_writer.c */

/** Text that grows; the first failure to allocate sticks. Zero-initialise. */
struct fm_pipe_writer {
    char *text;
    size_t length;
    size_t capacity;
    int failed;
};
void fm_pipe_writer_print(struct fm_pipe_writer *writer, const char *format, ...) FM_PRINTF(2, 3);
/** Hands the text over, or frees it and returns FM_ERR_NOMEM. */
fm_status fm_pipe_writer_finish(struct fm_pipe_writer *writer, fm_pipe_text *out_text);

#endif
