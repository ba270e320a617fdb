#include "ep_oracle.h"

#include "fathom/clock.h"
#include "fm_test.h"

/** What one rank brings back for comparison. */
struct rank_result {
    fm_ep_received received; /**< pointers into the copies below */
    int32_t *ints;
    float *floats;
    uint8_t *rows, *scales;
    fm_bf16 *out;
    float *out_weights;
};

struct round {
    const ep_inputs *in;
    struct rank_result result[ORACLE_RANKS_MAX];
};

static size_t format_bytes(const ep_shape *shape, fm_ep_format format)
{
    return (size_t)shape->hidden * (format == FM_EP_BF16 ? 2 : 1);
}

static size_t format_scales(const ep_shape *shape, fm_ep_format format)
{
    size_t n = (size_t)fm_ep_scales(shape->hidden);
    return format == FM_EP_BF16 ? 0 : format == FM_EP_FP8_F32 ? 4 * n : n;
}

static void *must(void *block)
{
    assert_non_null(block);
    return block;
}

/** Room for count * size bytes, also for none. */
static void *room(size_t count, size_t size)
{
    return must(fm_base_mem_zalloc(count > 0 ? count : 1, size));
}

ep_shape ep_shape_draw(fm_gen *gen, int ranks_max)
{
    static const int hiddens[] = {1, 8, 17, 64, 128, 200, 256, 257};
    static const int alignments[] = {1, 3, 16, 128};
    ep_shape shape = {.ranks = (int)fm_gen_int(gen, 1, ranks_max), .all_to_expert = -1};
    shape.ranks_per_node = (int)fm_gen_int(gen, 0, shape.ranks);
    shape.hidden = hiddens[fm_gen_int(gen, 0, 7)];
    shape.experts = shape.ranks * (int)fm_gen_size(gen, 1, 8);
    shape.topk = (int)fm_gen_int(gen, 1, shape.experts < 16 ? shape.experts : 16);
    for (int r = 0; r < shape.ranks; r++)
        shape.tokens[r] = (int)fm_gen_size(gen, 0, 24);
    shape.arrangement = (fm_ep_arrangement)fm_gen_int(gen, FM_EP_PLAIN, FM_EP_FIXED);
    shape.alignment = alignments[fm_gen_int(gen, 0, 3)];
    shape.x_format = (fm_ep_format)fm_gen_int(gen, FM_EP_BF16, FM_EP_FP8_UE8M0);
    shape.recv_format = shape.x_format == FM_EP_BF16
                            ? (fm_ep_format)fm_gen_int(gen, FM_EP_BF16, FM_EP_FP8_UE8M0)
                            : shape.x_format;
    shape.weighted = shape.arrangement != FM_EP_PLAIN && fm_gen_chance(gen, 0.6);
    shape.biases = (int)fm_gen_int(gen, 0, 2);
    shape.check = fm_gen_chance(gen, 0.5);
    shape.staged = fm_gen_chance(gen, 0.3);
    shape.cached = fm_gen_chance(gen, 0.4);
    shape.masked = fm_gen_chance(gen, 0.3) ? 1.0 : fm_gen_real(gen, 0, 0.5);
    if (shape.masked >= 1.0 && fm_gen_chance(gen, 0.8))
        shape.masked = 0;
    if (fm_gen_chance(gen, 0.2))
        shape.all_to_expert = (int)fm_gen_int(gen, 0, shape.experts - 1);
    shape.stride = fm_gen_chance(gen, 0.3);
    shape.back =
        fm_gen_chance(gen, 0.4) ? (fm_ep_format)fm_gen_int(gen, FM_EP_BF16, FM_EP_LOGFMT10) : FM_EP_BF16;
    shape.pull = fm_gen_chance(gen, 0.3);
    shape.memory = fm_gen_chance(gen, 0.5) ? 1 << fm_gen_int(gen, 10, 20) : 0;
    return shape;
}

ep_inputs ep_inputs_draw(fm_gen *gen, const ep_shape *shape)
{
    ep_inputs in = {.shape = *shape};
    for (int r = 0; r < shape->ranks; r++)
        in.first[r + 1] = in.first[r] + shape->tokens[r];
    in.total = in.first[shape->ranks];
    size_t total = (size_t)in.total, topk = (size_t)shape->topk, hidden = (size_t)shape->hidden;
    in.idx = room(total * topk, sizeof *in.idx);
    in.weights = room(total * topk, sizeof *in.weights);
    in.x = room(total * hidden, sizeof *in.x);
    int *deck = room((size_t)shape->experts, sizeof *deck);
    for (int e = 0; e < shape->experts; e++)
        deck[e] = e;
    for (size_t t = 0; t < total; t++)
        for (size_t k = 0; k < topk; k++) {
            // A partial shuffle draws distinct experts.
            size_t other = (size_t)fm_gen_int(gen, (int64_t)k, shape->experts - 1);
            for (size_t e = 0; k == 0 && shape->all_to_expert >= 0 && e < (size_t)shape->experts; e++)
                if (deck[e] == shape->all_to_expert)
                    other = e;
            int swap = deck[k];
            deck[k] = deck[other];
            deck[other] = swap;
            in.idx[t * topk + k] = fm_gen_chance(gen, shape->masked) ? -1 : deck[k];
            in.weights[t * topk + k] = (float)fm_gen_real(gen, -1, 2);
        }
    fm_base_mem_free(deck);
    for (size_t i = 0; i < total * hidden; i++)
        in.x[i] = fm_f32_to_bf16(fm_gen_normal(gen));
    for (int b = 0; b < shape->biases; b++) {
        in.bias[b] = room(total * hidden, sizeof *in.bias[b]);
        for (size_t i = 0; i < total * hidden; i++)
            in.bias[b][i] = fm_f32_to_bf16(fm_gen_normal(gen));
    }
    return in;
}

void ep_inputs_free(ep_inputs *in)
{
    fm_base_mem_free(in->idx);
    fm_base_mem_free(in->weights);
    fm_base_mem_free(in->x);
    fm_base_mem_free(in->bias[0]);
    fm_base_mem_free(in->bias[1]);
}

/** Row t in a format, written to out and out_scales. Cached rounds send rows with their signs turned. */
static void encode(const ep_inputs *in, fm_ep_format format, int t, uint8_t *out, uint8_t *out_scales)
{
    size_t hidden = (size_t)in->shape.hidden;
    fm_bf16 *row = room(hidden, sizeof *row);
    for (size_t i = 0; i < hidden; i++)
        row[i] = in->x[(size_t)t * hidden + i] ^ (in->shape.cached ? 0x8000 : 0);
    if (format == FM_EP_BF16)
        memcpy(out, row, hidden * sizeof *row);
    else
        fm_ep_cast_row(row, in->shape.hidden, format, out, out_scales);
    fm_base_mem_free(row);
}

/** Channel i of a row as a number. */
static float value_at(const uint8_t *row, const uint8_t *scales, fm_ep_format format, size_t i)
{
    if (format == FM_EP_BF16)
        return fm_bf16_to_f32((fm_bf16)fm_get_le16(row + 2 * i));
    float scale;
    if (format == FM_EP_FP8_F32)
        memcpy(&scale, scales + 4 * (i / FM_EP_SCALE_BLOCK), sizeof scale);
    else
        scale = fm_ue8m0_to_f32(scales[i / FM_EP_SCALE_BLOCK]);
    return fm_e4m3_to_f32(row[i]) * scale;
}

/** What expert e makes of a channel. */
static float expert_of(int e, float value)
{
    return value * (1.0f + 0.25f * (float)(e % 5)) - 0.125f * (float)(e % 3);
}

/** The gradient that the receiver reports for the weight of a choice. */
static float weight_gradient(int source, int token, int expert)
{
    return (float)source + 0.5f * (float)token - (float)expert;
}

static int source_of(const fm_ep_received *received, int item)
{
    int source = 0;
    while (received->source_begin[source + 1] <= item)
        source++;
    return source;
}

/* ---- one rank ---- */

/** The experts of a rank: y [rows][stride elements]; PLAIN rows hold the sum of the item's experts. */
static void run_experts(const ep_shape *shape, int rank, const fm_ep_received *got, const uint8_t *rows,
                        const uint8_t *scales, fm_bf16 *y, size_t stride)
{
    size_t bytes = format_bytes(shape, shape->recv_format),
           scale_bytes = format_scales(shape, shape->recv_format);
    int first = rank * got->local_experts;
    for (int item = 0; item < got->items; item++)
        for (size_t i = 0; i < (size_t)shape->hidden; i++) {
            float sum = 0;
            int c = got->choice_begin[item];
            for (int k = 0; k < got->topk; k++) {
                int e = got->topk_idx[item * got->topk + k];
                if (e < 0)
                    continue;
                size_t row = (size_t)got->choice_row[c++];
                float value = expert_of(first + e, value_at(rows + row * bytes, scales + row * scale_bytes,
                                                            shape->recv_format, i));
                sum += value;
                y[row * stride + i] = fm_f32_to_bf16(shape->arrangement == FM_EP_PLAIN ? sum : value);
            }
        }
}

/** Room in the group's memory, as long as it lasts. */
struct lent {
    char *at;
    size_t left;
};

static void *lend(struct lent *lent, size_t count, size_t size)
{
    size_t bytes = fm_round_up(count * size, 64);
    if (bytes == 0 || bytes > lent->left)
        return room(count, size);
    lent->left -= bytes;
    lent->at += bytes;
    return memset(lent->at - bytes, 0, bytes);
}

static void give_back(fm_ep_group *group, void *block)
{
    size_t bytes = 0;
    char *memory = fm_ep_group_memory(group, &bytes);
    if (!memory || (char *)block < memory || (char *)block >= memory + bytes)
        fm_base_mem_free(block);
}

static float *weight_gradients(const ep_shape *shape, int rank, const fm_ep_received *got, struct lent *lent)
{
    int plain = shape->arrangement == FM_EP_PLAIN, first = rank * got->local_experts;
    float *gradients =
        lend(lent, plain ? (size_t)got->items * (size_t)got->topk : (size_t)got->rows, sizeof *gradients);
    for (int item = 0; item < got->items; item++) {
        int source = source_of(got, item), c = got->choice_begin[item];
        for (int k = 0; k < got->topk; k++) {
            int e = got->topk_idx[item * got->topk + k];
            if (e < 0)
                continue;
            size_t at = plain ? (size_t)(item * got->topk + k) : (size_t)got->choice_row[c++];
            gradients[at] = weight_gradient(source, got->item_token[item], first + e);
        }
    }
    return gradients;
}

static void *copy_of(const void *from, size_t count, size_t size)
{
    void *copy = room(count, size);
    if (from && count > 0)
        memcpy(copy, from, count * size);
    return copy;
}

/** Copies what the handle tells, since it dies with its rank. */
static void keep_received(struct rank_result *result, const fm_ep_received *got, int ranks, int plain)
{
    size_t items = (size_t)got->items, choices = (size_t)got->choice_begin[got->items],
           topk = (size_t)got->topk;
    size_t rows = plain ? 0 : (size_t)got->rows, experts = (size_t)got->local_experts;
    struct rank_result *r = result;
    r->received = *got;
    r->received.expert_count = copy_of(got->expert_count, experts, 4);
    r->received.expert_begin = copy_of(got->expert_begin, experts + 1, 4);
    r->received.source_begin = copy_of(got->source_begin, (size_t)ranks + 1, 4);
    r->received.item_token = copy_of(got->item_token, items, 4);
    r->received.topk_idx = copy_of(got->topk_idx, items * topk, 4);
    r->received.topk_weights = copy_of(got->topk_weights, items * topk, 4);
    r->received.choice_begin = copy_of(got->choice_begin, items + 1, 4);
    r->received.choice_row = copy_of(got->choice_row, choices, 4);
    r->received.row_weight = copy_of(got->row_weight, rows, 4);
    r->received.row_item = copy_of(got->row_item, rows, 4);
}

static void drop(const void *const *block)
{
    void *mine;
    memcpy(&mine, block, sizeof mine);
    fm_base_mem_free(mine);
}

static void drop_result(struct rank_result *r)
{
    // The copies are this file's own; the struct that holds them is made for readers.
    const void *const blocks[] = {r->received.expert_count,
                                  r->received.expert_begin,
                                  r->received.source_begin,
                                  r->received.item_token,
                                  r->received.topk_idx,
                                  r->received.topk_weights,
                                  r->received.choice_begin,
                                  r->received.choice_row,
                                  r->received.row_weight,
                                  r->received.row_item,
                                  r->rows,
                                  r->scales,
                                  r->out,
                                  r->out_weights};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        drop(&blocks[i]);
}

/** Gathers what a pull has located, by waiting for it or by testing. */
static fm_status gather(fm_ep_group *group, const ep_shape *shape, const fm_ep_dispatch *dispatch,
                        fm_ep_handle *handle, struct rank_result *result)
{
    fm_ep_op *op;
    FM_TRY(fm_ep_dispatch_post(group, dispatch, handle, &op));
    fm_wait wait = fm_base_wait_begin(20000);
    for (int done = 0; shape->stride && !fm_ep_op_has_arrived(op);) {
        FM_TRY(fm_base_wait_step(&wait));
        FM_TRY(fm_ep_op_test(op, &done));
        if (done)
            return fm_base_error_set(FM_ERR_INTERNAL, "a pull ended before it was released");
    }
    FM_TRY(fm_ep_op_arrive(op));
    const fm_ep_received *got = fm_ep_handle_received(handle);
    size_t bytes = format_bytes(shape, shape->recv_format), scales = format_scales(shape, shape->recv_format);
    for (size_t row = 0; row < (size_t)got->rows; row++) {
        memset(result->rows + row * bytes, 0, bytes);
        if (!got->row_at[row])
            continue;
        memcpy(result->rows + row * bytes, got->row_at[row], bytes);
        if (scales > 0)
            memcpy(result->scales + row * scales, got->row_scales_at[row], scales);
    }
    fm_ep_op_release(op);
    return fm_ep_op_wait(op);
}

/** What the first dispatch carries must not matter for one that is cached. */
static fm_status dispatch_noise(fm_ep_group *group, fm_ep_dispatch dispatch, size_t bytes, size_t scale_bytes,
                                fm_ep_handle *handle)
{
    uint8_t *noise = room(bytes, 1), *noise_scales = room(scale_bytes, 1);
    dispatch.x = noise;
    dispatch.x_scales = noise_scales;
    fm_status status = fm_ep_dispatch_run(group, &dispatch, handle);
    fm_base_mem_free(noise);
    fm_base_mem_free(noise_scales);
    return status;
}

static fm_status play(fm_ep_group *group, void *context)
{
    struct round *round = context;
    const ep_inputs *in = round->in;
    const ep_shape *shape = &in->shape;
    int rank = fm_ep_group_rank(group), tokens = shape->tokens[rank], first = in->first[rank];
    struct rank_result *result = &round->result[rank];
    fm_ep_handle *handle = NULL;
    FM_TRY(fm_ep_handle_create(group, shape->arrangement, shape->alignment, &handle));
    size_t bytes = format_bytes(shape, shape->recv_format), scales = format_scales(shape, shape->recv_format);
    size_t x_bytes = format_bytes(shape, shape->x_format), x_scales = format_scales(shape, shape->x_format);
    size_t stride = x_bytes + (shape->stride ? 6 : 0), rows_max = (size_t)fm_ep_handle_rows_max(handle);
    struct lent lent = {0};
    lent.at = fm_ep_group_memory(group, &lent.left);
    uint8_t *x = lend(&lent, (size_t)tokens * stride, 1), *xs = lend(&lent, (size_t)tokens * x_scales, 1);
    for (int t = 0; t < tokens; t++)
        encode(in, shape->x_format, first + t, x + (size_t)t * stride, xs + (size_t)t * x_scales);
    result->rows = room(rows_max, bytes);
    result->scales = room(rows_max, scales > 0 ? scales : 1);
    memset(result->rows, 0x5A, rows_max * bytes);
    fm_ep_dispatch dispatch = {.size = sizeof dispatch,
                               .tokens = tokens,
                               .topk = shape->topk,
                               .topk_idx = in->idx + (size_t)first * (size_t)shape->topk,
                               .topk_weights = in->weights + (size_t)first * (size_t)shape->topk,
                               .x_format = shape->x_format,
                               .recv_format = shape->recv_format,
                               .x = x,
                               .x_stride = shape->stride ? stride : 0,
                               .x_scales = xs,
                               .recv_x = result->rows,
                               .recv_scales = result->scales,
                               .recv_rows_max = (int64_t)rows_max};
    if (shape->cached) {
        FM_TRY(dispatch_noise(group, dispatch, (size_t)tokens * stride, (size_t)tokens * x_scales, handle));
        dispatch.cached = 1;
    }
    dispatch.is_pull = shape->pull;
    FM_TRY(shape->pull ? gather(group, shape, &dispatch, handle, result)
                       : fm_ep_dispatch_run(group, &dispatch, handle));

    const fm_ep_received *got = fm_ep_handle_received(handle);
    size_t y_stride = (size_t)shape->hidden + (shape->stride ? 3 : 0);
    fm_bf16 *y = lend(&lent, (size_t)got->rows * y_stride, sizeof *y);
    run_experts(shape, rank, got, result->rows, result->scales, y, y_stride);
    float *gradients = weight_gradients(shape, rank, got, &lent);
    result->out = room((size_t)tokens * (size_t)shape->hidden, sizeof *result->out);
    result->out_weights = room((size_t)tokens * (size_t)shape->topk, sizeof *result->out_weights);
    fm_ep_combine combine = {.size = sizeof combine,
                             .x = y,
                             .x_stride = shape->stride ? y_stride * sizeof *y : 0,
                             .topk_weights = shape->weighted ? dispatch.topk_weights : NULL,
                             .row_weights = gradients,
                             .format = shape->back,
                             .out = result->out,
                             .out_weights = result->out_weights};
    for (int b = 0; b < shape->biases; b++)
        combine.bias[b] = in->bias[b] + (size_t)first * (size_t)shape->hidden;
    FM_TRY(fm_ep_combine_run(group, &combine, handle));
    keep_received(result, got, shape->ranks, shape->arrangement == FM_EP_PLAIN);
    give_back(group, gradients);
    give_back(group, y);
    give_back(group, x);
    give_back(group, xs);
    fm_ep_handle_free(handle);
    return FM_OK;
}

/* ---- the oracle ---- */

static void check_row(const struct round *round, int rank, int row, int token)
{
    const ep_shape *shape = &round->in->shape;
    size_t bytes = format_bytes(shape, shape->recv_format), scales = format_scales(shape, shape->recv_format);
    uint8_t *want = room(bytes, 1), *want_scales = room(scales, 1);
    encode(round->in, shape->recv_format, token, want, want_scales);
    assert_memory_equal(round->result[rank].rows + (size_t)row * bytes, want, bytes);
    if (scales > 0)
        assert_memory_equal(round->result[rank].scales + (size_t)row * scales, want_scales, scales);
    fm_base_mem_free(want);
    fm_base_mem_free(want_scales);
}

/** Local expert of choice (t, k) on the rank, or -1. */
static int local_choice(const ep_inputs *in, int rank, int t, int k)
{
    int local = in->shape.experts / in->shape.ranks, e = in->idx[t * in->shape.topk + k];
    return e >= 0 && e / local == rank ? e % local : -1;
}

static void check_items(const struct round *round, int rank)
{
    const ep_inputs *in = round->in;
    const fm_ep_received *got = &round->result[rank].received;
    int item = 0, topk = in->shape.topk;
    for (int source = 0; source < in->shape.ranks; source++) {
        assert_int_equal(got->source_begin[source], item);
        for (int t = in->first[source]; t < in->first[source + 1]; t++) {
            int choices = 0;
            for (int k = 0; k < topk; k++)
                choices += local_choice(in, rank, t, k) >= 0;
            if (choices == 0)
                continue;
            assert_int_equal(got->item_token[item], t - in->first[source]);
            assert_int_equal(got->choice_begin[item + 1] - got->choice_begin[item], choices);
            for (int k = 0; k < topk; k++) {
                int e = local_choice(in, rank, t, k);
                assert_int_equal(got->topk_idx[item * topk + k], e);
                float weight = e >= 0 ? in->weights[t * topk + k] : 0.0f;
                assert_memory_equal(&got->topk_weights[item * topk + k], &weight, sizeof weight);
            }
            if (in->shape.arrangement == FM_EP_PLAIN)
                check_row(round, rank, item, t);
            item++;
        }
    }
    assert_int_equal(got->items, item);
}

/** By expert, then source, token: the blocks as the manual describes them, built anew. */
static void check_blocks(const struct round *round, int rank)
{
    const ep_inputs *in = round->in;
    const ep_shape *shape = &in->shape;
    const fm_ep_received *got = &round->result[rank].received;
    size_t bytes = format_bytes(shape, shape->recv_format), scales = format_scales(shape, shape->recv_format);
    int tokens_max = 0, row = 0;
    for (int r = 0; r < shape->ranks; r++)
        tokens_max = shape->tokens[r] > tokens_max ? shape->tokens[r] : tokens_max;
    for (int e = 0; e < got->local_experts; e++) {
        assert_int_equal(got->expert_begin[e], row);
        int count = 0;
        for (int t = 0; t < in->total; t++)
            for (int k = 0; k < shape->topk; k++)
                if (local_choice(in, rank, t, k) == e) {
                    check_row(round, rank, row, t);
                    assert_memory_equal(&got->row_weight[row], &in->weights[t * shape->topk + k],
                                        sizeof(float));
                    assert_in_range(got->row_item[row], 0, got->items - 1);
                    count++;
                    row++;
                }
        assert_int_equal(got->expert_count[e], count);
        int end =
            shape->arrangement == FM_EP_FIXED
                ? (e + 1) * tokens_max * shape->ranks
                : got->expert_begin[e] + (count + shape->alignment - 1) / shape->alignment * shape->alignment;
        for (; row < end; row++) {
            assert_int_equal(got->row_item[row], -1);
            for (size_t i = 0; shape->arrangement == FM_EP_EXPANDED && i < bytes; i++)
                assert_int_equal(round->result[rank].rows[(size_t)row * bytes + i], 0);
            for (size_t i = 0; shape->arrangement == FM_EP_EXPANDED && i < scales; i++)
                assert_int_equal(round->result[rank].scales[(size_t)row * scales + i], 0);
        }
    }
    assert_int_equal(got->rows, row);
}

/** What is sent back for lane k of a token, channel i, before it is cast; 0 where the lane has no row of its own. */
static fm_bf16 sent_back(const ep_inputs *in, int t, int k, size_t i, const uint8_t *row,
                         const uint8_t *scales)
{
    const ep_shape *shape = &in->shape;
    const int32_t *choice = in->idx + (size_t)t * (size_t)shape->topk;
    int local = shape->experts / shape->ranks, e = choice[k];
    float value = value_at(row, scales, shape->recv_format, i), term = 0;
    if (shape->arrangement != FM_EP_PLAIN)
        return fm_f32_to_bf16(expert_of(e, value));
    for (int j = 0; j < shape->topk; j++)
        if (choice[j] >= 0 && choice[j] / local == e / local)
            term += expert_of(choice[j], value);
    return fm_f32_to_bf16(term);
}

static int has_row(const ep_inputs *in, int t, int k)
{
    const int32_t *choice = in->idx + (size_t)t * (size_t)in->shape.topk;
    int local = in->shape.experts / in->shape.ranks;
    for (int before = 0; in->shape.arrangement == FM_EP_PLAIN && before < k; before++)
        if (choice[before] >= 0 && choice[k] >= 0 && choice[before] / local == choice[k] / local)
            return 0;
    return choice[k] >= 0;
}

/** One block of a token's output, from the whole definition; blocks do not know of each other. */
static void combined(const ep_inputs *in, int t, size_t first, size_t n, const uint8_t *row,
                     const uint8_t *scales, fm_bf16 *out)
{
    const ep_shape *shape = &in->shape;
    float sum[FM_EP_SCALE_BLOCK] = {0}, values[FM_EP_SCALE_BLOCK];
    fm_bf16 sent[FM_EP_SCALE_BLOCK];
    uint8_t cast[2 * FM_EP_SCALE_BLOCK];
    float cast_scale[1];
    for (int b = 0; b < shape->biases; b++)
        for (size_t i = 0; i < n; i++)
            sum[i] += fm_bf16_to_f32(in->bias[b][(size_t)t * (size_t)shape->hidden + first + i]);
    for (int k = 0; k < shape->topk; k++) {
        if (!has_row(in, t, k))
            continue;
        for (size_t i = 0; i < n; i++)
            sent[i] = sent_back(in, t, k, first + i, row, scales);
        fm_ep_cast_row(sent, (int)n, shape->back, cast, cast_scale);
        fm_ep_uncast_row(cast, cast_scale, (int)n, shape->back, values);
        for (size_t i = 0; i < n; i++)
            sum[i] += shape->weighted ? values[i] * in->weights[t * shape->topk + k] : values[i];
    }
    for (size_t i = 0; i < n; i++)
        out[i] = fm_f32_to_bf16(sum[i]);
}

static void check_outputs(const struct round *round, int rank)
{
    const ep_inputs *in = round->in;
    const ep_shape *shape = &in->shape;
    size_t hidden = (size_t)shape->hidden;
    uint8_t *row = room(format_bytes(shape, shape->recv_format), 1), *scales = room(hidden * 4, 1);
    for (int t = in->first[rank]; t < in->first[rank + 1]; t++) {
        encode(in, shape->recv_format, t, row, scales);
        int token = t - in->first[rank];
        for (size_t first = 0; first < hidden; first += FM_EP_SCALE_BLOCK) {
            size_t n = hidden - first < FM_EP_SCALE_BLOCK ? hidden - first : FM_EP_SCALE_BLOCK;
            fm_bf16 want[FM_EP_SCALE_BLOCK];
            combined(in, t, first, n, row, scales, want);
            assert_memory_equal(round->result[rank].out + (size_t)token * hidden + first, want,
                                n * sizeof *want);
        }
        for (int k = 0; k < shape->topk; k++) {
            int e = in->idx[t * shape->topk + k];
            float want = e < 0 ? 0.0f : weight_gradient(rank, token, e);
            assert_memory_equal(&round->result[rank].out_weights[token * shape->topk + k], &want,
                                sizeof want);
        }
    }
    fm_base_mem_free(row);
    fm_base_mem_free(scales);
}

static void check_rank(const struct round *round, int rank)
{
    check_items(round, rank);
    if (round->in->shape.arrangement != FM_EP_PLAIN)
        check_blocks(round, rank);
    check_outputs(round, rank);
}

void ep_round_check_rank(fm_ep_group *group, const ep_inputs *in)
{
    struct round round = {.in = in};
    int rank = fm_ep_group_rank(group);
    assert_ok(play(group, &round));
    check_rank(&round, rank);
    drop_result(&round.result[rank]);
}

void ep_round_check(const ep_inputs *in, fm_bf16 *out_combined)
{
    const ep_shape *shape = &in->shape;
    struct round round = {.in = in};
    int tokens_max = 0;
    for (int r = 0; r < shape->ranks; r++)
        tokens_max = shape->tokens[r] > tokens_max ? shape->tokens[r] : tokens_max;
    fm_ep_options options = ep_team_options(shape->hidden, shape->experts, shape->topk, tokens_max);
    options.ranks_per_node = shape->ranks_per_node;
    options.check = shape->check;
    options.staged = shape->staged;
    options.casts_combine = shape->back != FM_EP_BF16;
    options.memory_bytes = shape->memory;
    ep_team_run(shape->ranks, &options, play, &round, NULL);
    for (int rank = 0; rank < shape->ranks; rank++) {
        check_rank(&round, rank);
        size_t row = (size_t)shape->hidden * sizeof(fm_bf16);
        if (out_combined)
            memcpy((char *)out_combined + (size_t)in->first[rank] * row, round.result[rank].out,
                   (size_t)shape->tokens[rank] * row);
        drop_result(&round.result[rank]);
    }
}
