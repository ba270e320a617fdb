// `fathom ep`: `demo` is a round of dispatch and combine between threads, with its counts.
#include <inttypes.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>

#include "cmd_ep.h"
#include "fathom/clock.h"
#include "fathom/ep.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "fathom/table.h"

struct ep_options {
    int64_t ranks, ranks_per_node, tokens, hidden, experts, topk, seed;
    int fp8;
};

#define EP_INT(name, field, low, high, standard, text)                                                       \
    {                                                                                                        \
        name, FM_OPTION_INT, offsetof(struct ep_options, field), .value = standard, .min = low, .max = high, \
                                                                 .help = text                                \
    }

static const fm_option demo_schema[] = {
    EP_INT("ranks", ranks, 1, 64, "4", "ranks, each a thread"),
    EP_INT("ranks-per-node", ranks_per_node, 0, 64, "2", "ranks of an emulated node; 0: all on one"),
    EP_INT("tokens", tokens, 0, 65536, "128", "tokens of each rank"),
    EP_INT("hidden", hidden, 1, 65536, "7168", "channels of a token"),
    EP_INT("experts", experts, 1, 65536, "64", "experts in all, a multiple of the ranks"),
    EP_INT("topk", topk, 1, FM_EP_TOPK_MAX, "8", "experts that each token chooses"),
    EP_INT("seed", seed, 0, INT32_MAX, "1", "of the random choices"),
    {"fp8", FM_OPTION_FLAG, offsetof(struct ep_options, fp8),
     .help = "send rows in FP8 with a scale for 128 channels"},
    {0},
};

struct demo_rank {
    const struct ep_options *options;
    fm_ep_world *world;
    int rank;
    fm_status status;
    char message[512];
    /* What is shown. */
    int items, rows;
    double dispatch_ms, combine_ms;
    int64_t wrong; // channels that did not come back as they should
    fm_ep_stats stats;
};

/** What one rank allocates. */
struct demo_memory {
    int32_t *topk_idx;
    int *deck;
    fm_bf16 *x, *y, *out;
    void *recv_x, *recv_scales;
};

static void draw(struct demo_rank *self, const struct demo_memory *memory)
{
    const struct ep_options *o = self->options;
    fm_rng rng = fm_base_rng_begin((uint64_t)o->seed, (uint64_t)self->rank);
    for (int e = 0; e < o->experts; e++)
        memory->deck[e] = e;
    for (int64_t t = 0; t < o->tokens; t++)
        for (int64_t k = 0; k < o->topk; k++) { // distinct experts: a partial shuffle
            int64_t other = k + (int64_t)fm_base_rng_below(&rng, (uint64_t)(o->experts - k));
            int expert = memory->deck[other];
            memory->deck[other] = memory->deck[k];
            memory->deck[k] = memory->topk_idx[t * o->topk + k] = expert;
        }
    // 448 of the first channel makes every scale 1, so that small whole numbers survive FP8 exactly.
    for (int64_t i = 0; i < o->tokens * o->hidden; i++)
        memory->x[i] = i % o->hidden % FM_EP_SCALE_BLOCK == 0
                           ? fm_f32_to_bf16(FM_E4M3_MAX)
                           : fm_f32_to_bf16((float)fm_base_rng_below(&rng, 16) - 8);
}

/** Experts that hand back what they got: a token must come back as often as it has choices. */
static fm_status play(struct demo_rank *self, fm_ep_group *group, fm_ep_handle *handle,
                      struct demo_memory *memory)
{
    const struct ep_options *o = self->options;
    size_t hidden = (size_t)o->hidden, scales = (size_t)fm_ep_scales((int)o->hidden);
    size_t cells = (size_t)o->tokens * hidden, rows_max = (size_t)fm_ep_handle_rows_max(handle);
    memory->topk_idx = fm_base_mem_zalloc((size_t)(o->tokens * o->topk), sizeof *memory->topk_idx);
    memory->deck = fm_base_mem_zalloc((size_t)o->experts, sizeof *memory->deck);
    memory->x = fm_base_mem_zalloc(cells, sizeof *memory->x);
    memory->out = fm_base_mem_zalloc(cells, sizeof *memory->out);
    memory->y = fm_base_mem_zalloc(rows_max * hidden, sizeof *memory->y);
    memory->recv_x = fm_base_mem_zalloc(rows_max * hidden, o->fp8 ? sizeof(fm_e4m3) : sizeof(fm_bf16));
    memory->recv_scales = fm_base_mem_zalloc(rows_max * scales, sizeof(float));
    if (!memory->topk_idx || !memory->deck || !memory->x || !memory->out || !memory->y || !memory->recv_x ||
        !memory->recv_scales)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu rows of %zu channels", rows_max, hidden);
    draw(self, memory);
    fm_ep_dispatch dispatch = {.size = sizeof dispatch,
                               .tokens = (int)o->tokens,
                               .topk = (int)o->topk,
                               .topk_idx = memory->topk_idx,
                               .x = memory->x,
                               .recv_format = o->fp8 ? FM_EP_FP8_F32 : FM_EP_BF16,
                               .recv_x = memory->recv_x,
                               .recv_scales = memory->recv_scales,
                               .recv_rows_max = (int64_t)rows_max};
    FM_TRY(fm_ep_barrier(group));
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(fm_ep_dispatch_run(group, &dispatch, handle));
    self->dispatch_ms = (double)(fm_base_clock_ns() - begin) * 1e-6;
    const fm_ep_received *received = fm_ep_handle_received(handle);
    self->items = received->items;
    self->rows = received->rows;
    for (size_t r = 0; r < (size_t)received->rows; r++)
        for (size_t i = 0; i < hidden; i++)
            memory->y[r * hidden + i] =
                o->fp8 ? fm_e4m3_to_bf16(((const fm_e4m3 *)memory->recv_x)[r * hidden + i])
                       : ((const fm_bf16 *)memory->recv_x)[r * hidden + i];
    fm_ep_combine combine = {.size = sizeof combine, .x = memory->y, .out = memory->out};
    FM_TRY(fm_ep_barrier(group));
    begin = fm_base_clock_ns();
    FM_TRY(fm_ep_combine_run(group, &combine, handle));
    self->combine_ms = (double)(fm_base_clock_ns() - begin) * 1e-6;
    for (size_t i = 0; i < cells; i++)
        self->wrong += memory->out[i] != fm_f32_to_bf16((float)o->topk * fm_bf16_to_f32(memory->x[i]));
    self->stats = fm_ep_group_stats(group);
    return FM_OK;
}

static void *live(void *argument)
{
    struct demo_rank *self = argument;
    const struct ep_options *o = self->options;
    fm_ep_options options = {.size = sizeof options,
                             .ranks_per_node = (int)o->ranks_per_node,
                             .hidden = (int)o->hidden,
                             .experts = (int)o->experts,
                             .topk_max = (int)o->topk,
                             .tokens_max = (int)o->tokens,
                             .timeout_ms = 10000};
    fm_ep_group *group = NULL;
    fm_ep_handle *handle = NULL;
    struct demo_memory memory = {0};
    fm_status status = fm_ep_group_create(self->world, self->rank, &options, &group);
    if (status == FM_OK)
        status = fm_ep_handle_create(group, FM_EP_EXPANDED, 1, &handle);
    if (status == FM_OK)
        status = play(self, group, handle, &memory);
    self->status = status;
    if (status < 0)
        snprintf(self->message, sizeof self->message, "%s", fm_error_message());
    void *const blocks[] = {memory.topk_idx, memory.deck,   memory.x,          memory.out,
                            memory.y,        memory.recv_x, memory.recv_scales};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        fm_base_mem_free(blocks[i]);
    fm_ep_handle_free(handle);
    fm_ep_group_free(group);
    return NULL;
}

static fm_status show_table(const struct demo_rank *ranks, int count)
{
    fm_table table = {0};
    fm_base_table_column(&table, "rank", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "tokens received", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "expert rows", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "read here", "MB", FM_ALIGN_POINT);
    fm_base_table_column(&table, "on the node", "MB", FM_ALIGN_POINT);
    fm_base_table_column(&table, "across nodes", "MB", FM_ALIGN_POINT);
    fm_base_table_column(&table, "without forwarding", "MB", FM_ALIGN_POINT);
    fm_base_table_column(&table, "dispatch", "ms", FM_ALIGN_POINT);
    fm_base_table_column(&table, "combine", "ms", FM_ALIGN_POINT);
    for (int r = 0; r < count; r++) {
        fm_base_table_cell(&table, "%d", r);
        fm_base_table_cell(&table, "%d", ranks[r].items);
        fm_base_table_cell(&table, "%d", ranks[r].rows);
        fm_base_table_cell(&table, "%.2f", (double)ranks[r].stats.bytes_self * 1e-6);
        fm_base_table_cell(&table, "%.2f", (double)ranks[r].stats.bytes_node * 1e-6);
        fm_base_table_cell(&table, "%.2f", (double)ranks[r].stats.bytes_remote * 1e-6);
        fm_base_table_cell(&table, "%.2f", (double)ranks[r].stats.bytes_direct * 1e-6);
        fm_base_table_cell(&table, "%.2f", ranks[r].dispatch_ms);
        fm_base_table_cell(&table, "%.2f", ranks[r].combine_ms);
    }
    return fm_base_table_finish(&table, stdout, 0);
}

static fm_status show_json(const struct demo_rank *ranks, int count)
{
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_begin(&json, "ranks", '[');
    for (int r = 0; r < count; r++) {
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_int(&json, "tokens_received", ranks[r].items);
        fm_base_json_int(&json, "expert_rows", ranks[r].rows);
        fm_base_json_int(&json, "bytes_self", (int64_t)ranks[r].stats.bytes_self);
        fm_base_json_int(&json, "bytes_node", (int64_t)ranks[r].stats.bytes_node);
        fm_base_json_int(&json, "bytes_remote", (int64_t)ranks[r].stats.bytes_remote);
        fm_base_json_int(&json, "bytes_direct", (int64_t)ranks[r].stats.bytes_direct);
        fm_base_json_real(&json, "dispatch_ms", ranks[r].dispatch_ms);
        fm_base_json_real(&json, "combine_ms", ranks[r].combine_ms);
        fm_base_json_int(&json, "wrong", ranks[r].wrong);
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status check_ranks(const struct demo_rank *ranks, int count)
{
    for (int r = 0; r < count; r++)
        if (ranks[r].status < 0)
            return fm_base_error_set(ranks[r].status, "rank %d: %s", r, ranks[r].message);
    for (int r = 0; r < count; r++)
        if (ranks[r].wrong > 0)
            return fm_base_error_set(FM_ERR_INTERNAL, "rank %d: %" PRId64 " channels came back wrong", r,
                                     ranks[r].wrong);
    return FM_OK;
}

static fm_status run_demo(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct ep_options *options = given;
    int count = (int)options->ranks, started = 0;
    if (options->topk > options->experts)
        return fm_base_error_set(FM_ERR_ARG, "topk is %" PRId64 "; expected at most the %" PRId64 " experts",
                                 options->topk, options->experts);
    fm_ep_world *world = NULL;
    FM_TRY(fm_ep_world_create(count, &world));
    struct demo_rank ranks[64] = {0};
    pthread_t threads[64];
    fm_status status = FM_OK;
    for (; started < count && status == FM_OK; started++) {
        ranks[started] = (struct demo_rank){.options = options, .world = world, .rank = started};
        if (pthread_create(&threads[started], NULL, live, &ranks[started]) != 0) {
            status = fm_base_error_set(FM_ERR_UNAVAILABLE, "no thread for rank %d", started);
            break;
        }
    }
    for (int r = 0; r < started; r++)
        pthread_join(threads[r], NULL);
    fm_ep_world_free(world);
    FM_TRY(status);
    FM_TRY(check_ranks(ranks, count));
    if (invocation->json)
        return show_json(ranks, count);
    FM_TRY(show_table(ranks, count));
    printf("\nEvery token came back as often as it had choices, bit for bit.\n");
    return FM_OK;
}

static const fm_command demo = {
    .name = "demo",
    .summary = "sends tokens to their experts and back, and shows what moved",
    .details = "Ranks are threads. Experts hand back what they get, so that every token must come back as "
               "often as it "
               "has choices; the command fails if one does not.",
    .options = demo_schema,
    .options_size = sizeof(struct ep_options),
    .has_json = 1,
    .run = run_demo,
};

static const fm_command *const children[] = {&demo, &fm_cmd_ep_bench, NULL};

const fm_command fm_cmd_ep = {
    .name = "ep",
    .summary = "expert-parallel dispatch and combine",
    .children = children,
};
