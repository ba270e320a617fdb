// `fathom ep bench`: how fast rows move on this machine, between threads or, under mpirun, between processes.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd_ep.h"
#include "fathom/clock.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "fathom/table.h"

enum { THREADS_MAX = 64, KINDS = 4, ROUNDS_MAX = 1000, WARM_UP = 2 };

static const char *const kind_names[KINDS] = {"dispatch", "combine", "copy", "barrier"};

#define EP_INT(name, field, low, high, standard, text)                                             \
    {                                                                                              \
        name, FM_OPTION_INT, offsetof(struct bench_options, field), .value = standard, .min = low, \
                                                                    .max = high, .help = text      \
    }

struct bench_options {
    int64_t ranks, ranks_per_node, tokens, hidden, experts, topk, rounds;
    int bf16, expanded, mpi;
};

static const fm_option bench_schema[] = {
    EP_INT("ranks", ranks, 1, THREADS_MAX, "2", "ranks, each a thread; with --mpi as many as mpirun started"),
    EP_INT("ranks-per-node", ranks_per_node, 0, 1024, "0",
           "ranks of a node; 0: all on one, with --mpi as machines are"),
    EP_INT("tokens", tokens, 1, 65536, "4096", "tokens of each rank"),
    EP_INT("hidden", hidden, 1, 65536, "7168", "channels of a token"),
    EP_INT("experts", experts, 1, 65536, "256", "experts in all, a multiple of the ranks"),
    EP_INT("topk", topk, 1, FM_EP_TOPK_MAX, "8", "experts that each token chooses"),
    EP_INT("rounds", rounds, 1, ROUNDS_MAX, "11", "rounds, of which the median counts"),
    {"bf16", FM_OPTION_FLAG, offsetof(struct bench_options, bf16),
     .help = "dispatch BF16 rows instead of FP8"},
    {"expanded", FM_OPTION_FLAG, offsetof(struct bench_options, expanded),
     .help = "a row for each choice, by expert, instead of one for each rank"},
    {"mpi", FM_OPTION_FLAG, offsetof(struct bench_options, mpi),
     .help = "ranks are processes that mpirun has started"},
    {0},
};

/** What one rank has, and what rank 0 learns of all. */
struct bench_rank {
    const struct bench_options *options;
    fm_ep_world *world;
    int rank, ranks;
    fm_ep_group *group;
    fm_ep_handle *handle;
    int32_t *topk_idx;
    char *own, *x, *recv_x, *copy; /**< own: where x and y lie, unless in the group's memory */
    float *x_scales, *recv_scales;
    fm_bf16 *y, *out;
    size_t row_bytes;
    double seconds[KINDS][ROUNDS_MAX]; /**< of the slowest rank */
    double rows;                       /**< received by all */
    fm_status status;
    char message[512];
};

static fm_ep_format format_of(const struct bench_options *o)
{
    return o->bf16 ? FM_EP_BF16 : FM_EP_FP8_F32;
}

/** Distinct experts for each token. */
static fm_status draw(struct bench_rank *self)
{
    const struct bench_options *o = self->options;
    fm_rng rng = fm_base_rng_begin(1, (uint64_t)self->rank);
    int *deck = fm_base_mem_zalloc((size_t)o->experts, sizeof *deck);
    if (!deck)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d experts", (int)o->experts);
    for (int e = 0; e < o->experts; e++)
        deck[e] = e;
    for (int64_t t = 0; t < o->tokens; t++)
        for (int64_t k = 0; k < o->topk; k++) { // a partial shuffle
            int64_t other = k + (int64_t)fm_base_rng_below(&rng, (uint64_t)(o->experts - k));
            int expert = deck[other];
            deck[other] = deck[k];
            deck[k] = self->topk_idx[t * o->topk + k] = expert;
        }
    fm_base_mem_free(deck);
    return FM_OK;
}

static fm_status prepare(struct bench_rank *self)
{
    const struct bench_options *o = self->options;
    size_t tokens = (size_t)o->tokens, hidden = (size_t)o->hidden,
           scales = (size_t)fm_ep_scales((int)o->hidden);
    int64_t local = o->experts / self->ranks;
    size_t most = (size_t)self->ranks * tokens *
                  (size_t)(!o->expanded      ? 1
                           : o->topk < local ? o->topk
                                             : local);
    size_t row_bytes = fm_ep_row_bytes(format_of(o), (int)o->hidden);
    size_t x_bytes = fm_round_up(tokens * row_bytes, FM_CACHE_LINE);
    // What is posted lies where other processes see it; threads see everything.
    fm_ep_options options = {.size = sizeof options,
                             .memory_bytes = o->mpi ? x_bytes + most * hidden * sizeof(fm_bf16) : 0,
                             .ranks_per_node = (int)o->ranks_per_node,
                             .hidden = (int)o->hidden,
                             .experts = (int)o->experts,
                             .topk_max = (int)o->topk,
                             .tokens_max = (int)o->tokens,
                             .in_flight = 2,
                             .collective_bytes_max = sizeof(double),
                             .timeout_ms = 30000};
    FM_TRY(fm_ep_group_create(self->world, self->rank, &options, &self->group));
    FM_TRY(fm_ep_handle_create(self->group, o->expanded ? FM_EP_EXPANDED : FM_EP_PLAIN, 1, &self->handle));
    size_t rows = (size_t)fm_ep_handle_rows_max(self->handle);
    self->row_bytes = row_bytes;
    self->topk_idx = fm_base_mem_zalloc(tokens * (size_t)o->topk, sizeof *self->topk_idx);
    self->x_scales = fm_base_mem_zalloc(tokens * scales, sizeof(float));
    self->recv_x = fm_base_mem_aligned(rows * self->row_bytes, FM_CACHE_LINE);
    self->copy = fm_base_mem_aligned(rows * self->row_bytes, FM_CACHE_LINE);
    self->recv_scales = fm_base_mem_zalloc(rows * scales, sizeof(float));
    size_t bytes = 0;
    char *memory = fm_ep_group_memory(self->group, &bytes);
    if (!memory)
        memory = self->own = fm_base_mem_aligned(x_bytes + most * hidden * sizeof *self->y, FM_CACHE_LINE);
    self->out = fm_base_mem_aligned(tokens * hidden * sizeof *self->out, FM_CACHE_LINE);
    if (!self->topk_idx || !memory || !self->x_scales || !self->recv_x || !self->copy || !self->recv_scales ||
        !self->out)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu rows of %zu channels", rows, hidden);
    self->x = memory;
    self->y = (fm_bf16 *)(void *)(memory + x_bytes);
    fm_rng rng = fm_base_rng_begin(2, (uint64_t)self->rank);
    fm_base_rng_fill(&rng, self->x, tokens * self->row_bytes);
    return draw(self);
}

static fm_status run_kind(struct bench_rank *self, int kind)
{
    const struct bench_options *o = self->options;
    if (kind == 0) {
        fm_ep_dispatch dispatch = {.size = sizeof dispatch,
                                   .tokens = (int)o->tokens,
                                   .topk = (int)o->topk,
                                   .topk_idx = self->topk_idx,
                                   .x_format = format_of(o),
                                   .recv_format = format_of(o),
                                   .x = self->x,
                                   .x_scales = self->x_scales,
                                   .recv_x = self->recv_x,
                                   .recv_scales = self->recv_scales,
                                   .recv_rows_max = fm_ep_handle_rows_max(self->handle)};
        return fm_ep_dispatch_run(self->group, &dispatch, self->handle);
    }
    if (kind == 1) {
        fm_ep_combine combine = {.size = sizeof combine, .x = self->y, .out = self->out};
        return fm_ep_combine_run(self->group, &combine, self->handle);
    }
    if (kind == 2)
        memcpy(self->copy, self->recv_x, (size_t)fm_ep_handle_received(self->handle)->rows * self->row_bytes);
    return kind == 3 ? fm_ep_barrier(self->group) : FM_OK;
}

/** The slowest rank's time is what an operation takes. */
static fm_status measure(struct bench_rank *self)
{
    double all[1024];
    for (int round = -WARM_UP; round < self->options->rounds; round++)
        for (int kind = 0; kind < KINDS; kind++) {
            FM_TRY(fm_ep_barrier(self->group));
            uint64_t begin = fm_base_clock_ns();
            FM_TRY(run_kind(self, kind));
            double mine = (double)(fm_base_clock_ns() - begin) * 1e-9, most = 0;
            FM_TRY(fm_ep_all_gather(self->group, &mine, sizeof mine, all));
            for (int r = 0; r < self->ranks; r++)
                most = all[r] > most ? all[r] : most;
            if (round >= 0)
                self->seconds[kind][round] = most;
            else if (kind == 0)
                memset(self->y, 0x3F,
                       (size_t)fm_ep_handle_received(self->handle)->rows * (size_t)self->options->hidden *
                           sizeof *self->y);
        }
    double mine = fm_ep_handle_received(self->handle)->rows;
    FM_TRY(fm_ep_all_gather(self->group, &mine, sizeof mine, all));
    for (int r = 0; r < self->ranks; r++)
        self->rows += all[r];
    return FM_OK;
}

static void *live(void *argument)
{
    struct bench_rank *self = argument;
    self->status = prepare(self);
    if (self->status == FM_OK)
        self->status = measure(self);
    if (self->status < 0)
        snprintf(self->message, sizeof self->message, "%s", fm_error_message());
    void *const blocks[] = {self->topk_idx, self->own,         self->x_scales, self->recv_x,
                            self->copy,     self->recv_scales, self->out};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        fm_base_mem_free(blocks[i]);
    fm_ep_handle_free(self->handle);
    fm_ep_group_free(self->group);
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct figure {
    const char *name;
    double seconds, rate; /**< bytes a second; 0: it moves none */
};

static fm_status show_json(const struct bench_rank *rank, const struct figure *figures, double copy_rate)
{
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_int(&json, "ranks", rank->ranks);
    fm_base_json_int(&json, "rows", (int64_t)rank->rows);
    fm_base_json_begin(&json, "operations", '[');
    for (int kind = 0; kind < KINDS; kind++) {
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_string(&json, "operation", figures[kind].name);
        fm_base_json_real(&json, "median_s", figures[kind].seconds);
        fm_base_json_real(&json, "bytes_per_s", figures[kind].rate);
        fm_base_json_real(&json, "of_copy", figures[kind].rate / copy_rate);
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status show_table(const struct bench_rank *rank, const struct figure *figures, double copy_rate)
{
    fm_table table = {0};
    fm_base_table_column(&table, "operation", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "median", "us", FM_ALIGN_POINT);
    fm_base_table_column(&table, "rows", "GB/s", FM_ALIGN_POINT);
    fm_base_table_column(&table, "of a copy's", "%", FM_ALIGN_POINT);
    for (int kind = 0; kind < KINDS; kind++) {
        fm_base_table_cell(&table, "%s", figures[kind].name);
        fm_base_table_cell(&table, "%.1f", figures[kind].seconds * 1e6);
        if (figures[kind].rate > 0) {
            fm_base_table_cell(&table, "%.2f", figures[kind].rate * 1e-9);
            fm_base_table_cell(&table, "%.0f", 100 * figures[kind].rate / copy_rate);
        } else {
            fm_base_table_cell(&table, "%s", "");
            fm_base_table_cell(&table, "%s", "");
        }
    }
    FM_TRY(fm_base_table_finish(&table, stdout, 0));
    printf("\n%d ranks, %.0f rows of %d channels; copy: memcpy of as many bytes by all ranks at once, in the "
           "same "
           "rounds.\n",
           rank->ranks, rank->rows, (int)rank->options->hidden);
    return FM_OK;
}

static fm_status show(struct bench_rank *rank, int as_json)
{
    const struct bench_options *o = rank->options;
    struct figure figures[KINDS];
    // Bytes that are wanted, wherever they come from; combine gets BF16 rows back.
    double sent = rank->rows * (double)rank->row_bytes,
           back = rank->rows * (double)o->hidden * sizeof(fm_bf16);
    const double bytes[KINDS] = {sent, back, sent, 0};
    for (int kind = 0; kind < KINDS; kind++) {
        qsort(rank->seconds[kind], (size_t)o->rounds, sizeof(double), by_size);
        double median = rank->seconds[kind][o->rounds / 2];
        figures[kind] = (struct figure){kind_names[kind], median, bytes[kind] / median};
    }
    double copy_rate = figures[2].rate;
    return as_json ? show_json(rank, figures, copy_rate) : show_table(rank, figures, copy_rate);
}

static fm_status run_processes(const struct bench_options *options, int as_json)
{
    struct bench_rank *self = fm_base_mem_zalloc(1, sizeof *self);
    fm_ep_world *world = NULL;
    if (!self)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory");
    self->options = options;
    fm_status status = fm_ep_world_open_mpi(&world, &self->rank);
    if (status == FM_OK) {
        self->world = world;
        self->ranks = fm_ep_world_ranks(world);
        live(self);
        status = self->status < 0 ? fm_base_error_set(self->status, "rank %d: %s", self->rank, self->message)
                                  : FM_OK;
        if (status == FM_OK && self->rank == 0)
            status = show(self, as_json);
        fm_ep_world_free(world);
    }
    fm_base_mem_free(self);
    return status;
}

static fm_status run_threads(const struct bench_options *options, int as_json)
{
    int count = (int)options->ranks, started = 0;
    pthread_t threads[THREADS_MAX];
    fm_ep_world *world = NULL;
    struct bench_rank *ranks = fm_base_mem_zalloc((size_t)count, sizeof *ranks);
    fm_status status =
        ranks ? fm_ep_world_create(count, &world) : fm_base_error_set(FM_ERR_NOMEM, "no memory");
    for (; status == FM_OK && started < count; started++) {
        ranks[started] =
            (struct bench_rank){.options = options, .world = world, .rank = started, .ranks = count};
        if (pthread_create(&threads[started], NULL, live, &ranks[started]) != 0) {
            status = fm_base_error_set(FM_ERR_UNAVAILABLE, "no thread for rank %d", started);
            break;
        }
    }
    for (int r = 0; r < started; r++)
        pthread_join(threads[r], NULL);
    fm_ep_world_free(world);
    for (int r = 0; status == FM_OK && r < count; r++)
        if (ranks[r].status < 0)
            status = fm_base_error_set(ranks[r].status, "rank %d: %s", r, ranks[r].message);
    if (status == FM_OK)
        status = show(&ranks[0], as_json);
    fm_base_mem_free(ranks);
    return status;
}

static fm_status run_bench(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct bench_options *options = given;
    if (options->topk > options->experts)
        return fm_base_error_set(FM_ERR_ARG, "topk is %d; expected at most the %d experts",
                                 (int)options->topk, (int)options->experts);
    return options->mpi ? run_processes(options, invocation->json) : run_threads(options, invocation->json);
}

const fm_command fm_cmd_ep_bench = {
    .name = "bench",
    .summary = "measures dispatch and combine on this machine",
    .details = "Each round runs dispatch, combine, a plain copy of as many bytes, and a barrier; medians of "
               "the slowest "
               "rank's times are shown. Ranks are threads, or with --mpi the processes of mpirun: "
               "mpirun -n 4 fathom ep bench --mpi.",
    .options = bench_schema,
    .options_size = sizeof(struct bench_options),
    .has_json = 1,
    .run = run_bench,
};
