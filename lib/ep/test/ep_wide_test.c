// Rows of f32: they arrive as they left, and are summed in lane order without a rounding at the end.
#include "ep_team.h"
#include "fm_test.h"

#include "fathom/rng.h"

enum { HIDDEN = 37, EXPERTS = 8, TOPK = 3, TOKENS = 11, RANKS_MAX = 4, ROWS_MAX = RANKS_MAX * TOKENS * TOPK };

/** What `rank` sends of a token; any bits of a normal number. */
static float cell(int round, int rank, int token, int channel)
{
    uint64_t drawn = fm_base_rng_at(5, (uint64_t)round,
                                    ((uint64_t)rank * TOKENS + (uint64_t)token) * HIDDEN + (uint64_t)channel);
    return (float)((fm_rng_to_double(drawn) - 0.5) * 3.7);
}

static int32_t choice(int rank, int token, int lane)
{
    return (rank * 5 + token * 3 + lane * 2) % EXPERTS; // of a token's lanes no two are alike
}

static float weight(int rank, int token, int lane)
{
    return cell(99, rank, token, lane);
}

// Every received row is its source's, to the bit.
static fm_status check_rows(const fm_ep_received *received, int round, const float *rows)
{
    for (int row = 0; row < received->rows; row++) {
        int item = received->row_item[row], source = 0;
        while (item >= received->source_begin[source + 1])
            source++;
        for (int i = 0; i < HIDDEN; i++) {
            float want = cell(round, source, received->item_token[item], i);
            if (rows[row * HIDDEN + i] != want)
                return fm_base_error_set(FM_ERR_INTERNAL, "row %d, channel %d: %.9g, expected %.9g", row, i,
                                         (double)rows[row * HIDDEN + i], (double)want);
        }
    }
    return FM_OK;
}

// Expert e multiplies by e + 0.1.
static fm_status check_sums(int rank, int round, const float *out)
{
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < HIDDEN; i++) {
            volatile float want = 0;
            want = want + cell(7, rank, t, i); // the bias
            for (int k = 0; k < TOPK; k++) {
                volatile float row = cell(round, rank, t, i) * ((float)choice(rank, t, k) + 0.1f);
                volatile float product = row * weight(rank, t, k);
                want = want + product;
            }
            if (out[t * HIDDEN + i] != want)
                return fm_base_error_set(FM_ERR_INTERNAL, "token %d, channel %d: %.9g, expected %.9g", t, i,
                                         (double)out[t * HIDDEN + i], (double)want);
        }
    return FM_OK;
}

struct space {
    float x[TOKENS * HIDDEN], bias[TOKENS * HIDDEN], out[TOKENS * HIDDEN], rows[ROWS_MAX * HIDDEN];
    float weights[TOKENS * TOPK];
    int32_t idx[TOKENS * TOPK];
};

static fm_status round_trip(fm_ep_group *group, fm_ep_handle *handle, int round, struct space *s)
{
    int rank = fm_ep_group_rank(group);
    for (int t = 0; t < TOKENS; t++) {
        for (int i = 0; i < HIDDEN; i++) {
            s->x[t * HIDDEN + i] = cell(round, rank, t, i);
            s->bias[t * HIDDEN + i] = cell(7, rank, t, i);
        }
        for (int k = 0; k < TOPK; k++) {
            s->idx[t * TOPK + k] = choice(rank, t, k);
            s->weights[t * TOPK + k] = weight(rank, t, k);
        }
    }
    fm_ep_dispatch dispatch = {.size = sizeof dispatch,
                               .cached = round > 0, // as a backward pass does
                               .tokens = TOKENS,
                               .topk = TOPK,
                               .topk_idx = s->idx,
                               .topk_weights = s->weights,
                               .x_format = FM_EP_F32,
                               .recv_format = FM_EP_F32,
                               .x = s->x,
                               .recv_x = s->rows,
                               .recv_rows_max = ROWS_MAX};
    FM_TRY(fm_ep_dispatch_run(group, &dispatch, handle));
    const fm_ep_received *received = fm_ep_handle_received(handle);
    FM_TRY(check_rows(received, round, s->rows));
    for (int e = 0; e < received->local_experts; e++)
        for (int row = received->expert_begin[e]; row < received->expert_begin[e + 1]; row++)
            for (int i = 0; i < HIDDEN; i++)
                s->rows[row * HIDDEN + i] *= (float)(rank * received->local_experts + e) + 0.1f;
    fm_ep_combine combine = {.size = sizeof combine,
                             .x = s->rows,
                             .topk_weights = s->weights,
                             .bias = {s->bias},
                             .format = FM_EP_F32,
                             .out = s->out};
    FM_TRY(fm_ep_combine_run(group, &combine, handle));
    return check_sums(rank, round, s->out);
}

static fm_status two_rounds(fm_ep_group *group, void *context)
{
    (void)context;
    fm_ep_handle *handle;
    FM_TRY(fm_ep_handle_create(group, FM_EP_EXPANDED, 1, &handle));
    struct space *space = fm_base_mem_alloc(sizeof *space);
    fm_status status = space ? FM_OK : FM_ERR_NOMEM;
    for (int round = 0; round < 2 && status == FM_OK; round++)
        status = round_trip(group, handle, round, space);
    fm_base_mem_free(space);
    fm_ep_handle_free(handle);
    return status;
}

static void rows_of_f32_keep_their_bits(void **state)
{
    (void)state;
    static const int shapes[][2] = {{1, 0}, {2, 0}, {2, 1}, {4, 2}, {4, 0}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int staged = 0; staged < 2; staged++) {
            fm_ep_options options = ep_team_options(HIDDEN, EXPERTS, TOPK, TOKENS);
            options.ranks_per_node = shapes[s][1];
            options.wide = 1;
            options.staged = staged;
            options.check = 1;
            ep_team_run(shapes[s][0], &options, two_rounds, NULL, NULL);
        }
}

static void they_are_refused_where_there_is_no_room(void **state)
{
    (void)state;
    ep_outcome outcome;
    fm_ep_options options = ep_team_options(HIDDEN, EXPERTS, TOPK, TOKENS);
    ep_team_run(1, &options, two_rounds, NULL, &outcome);
    assert_int_equal(outcome.status, FM_ERR_ARG);
    assert_non_null(strstr(outcome.message, "wide"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_f32_keep_their_bits),
        cmocka_unit_test(they_are_refused_where_there_is_no_room),
    };
    return fm_test_run("ep_wide", tests);
}
