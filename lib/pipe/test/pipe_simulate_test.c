#include "pipe_cases.h"

#include <math.h>

static fm_pipe_simulation *simulate(const fm_pipe_program *program, const fm_pipe_costs *costs)
{
    fm_pipe_simulation *simulation = NULL;
    assert_ok(fm_pipe_simulation_run(program, costs, &simulation));
    return simulation;
}

static int close_to(double a, double b)
{
    return fabs(a - b) <= 1e-9 * (1 + fabs(b));
}

static void assert_close(double found, double wanted)
{
    if (!close_to(found, wanted))
        fail_msg("%.12g, expected %.12g", found, wanted);
}

static double worst_bubble(const fm_pipe_program *program, const fm_pipe_simulation *simulation, int inner)
{
    double worst = 0;
    for (int rank = 0; rank < program->ranks; rank++)
        worst = fmax(worst, inner ? simulation->ranks[rank].inner_bubble : simulation->ranks[rank].bubble);
    return worst;
}

// The published bubble of a schedule; w <= i and w <= f where it says so.
struct formula {
    fm_pipe_schedule schedule;
    int inner;        // holds for the bubble between a rank's first and last op
    int small_w;      // needs w <= i, w <= f
    int equal_f_i;    // needs f == i as well
    int all_equal;    // needs f == i == w
    int whole_rounds; // needs a multiple of `ranks` micro-batches
    double (*bubble)(double p, double f, double i, double w, double fb);
    int (*held)(int ranks); // peak activations; NULL: not stated
};

static double bubble_1f1b(double p, double f, double i, double w, double fb)
{
    (void)fb;
    return (p - 1) * (f + i + w);
}
static double bubble_interleaved(double p, double f, double i, double w, double fb)
{
    return bubble_1f1b(p, f, i, w, fb); // costs here are those of a stage: 1/v of a rank's
}
static double bubble_zb_h1(double p, double f, double i, double w, double fb)
{
    (void)fb;
    double b = i + w;
    return (p - 1) * (f + b - 2 * w);
}
static double bubble_zb_h2(double p, double f, double i, double w, double fb)
{
    (void)fb;
    double b = i + w;
    return (p - 1) * (f + b - 3 * w);
}
static double bubble_none(double p, double f, double i, double w, double fb)
{
    (void)p, (void)f, (void)i, (void)w, (void)fb;
    return 0;
}
static double bubble_dualpipe(double p, double f, double i, double w, double fb)
{
    (void)f;
    double b = i + w;
    return (p / 2 - 1) * (fb + b - 3 * w);
}
static double bubble_dualpipev(double p, double f, double i, double w, double fb)
{
    return bubble_dualpipe(2 * p, f, i, w, fb);
}
static int held_p(int ranks)
{
    return ranks;
}
static int held_2p_less_1(int ranks)
{
    return 2 * ranks - 1;
}
static int held_2p(int ranks)
{
    return 2 * ranks; // half stages
}
static int held_p_and_1(int ranks)
{
    return ranks + 1;
}
static int held_2p_and_1(int ranks)
{
    return 2 * ranks + 1; // PP + 1 with PP = 2 * ranks stages
}
static int held_interleaved(int ranks)
{
    return 2 * ranks + ranks - 1; // p * v * (1 + (p - 1) / (p * v)), v = 2
}

static const struct formula formulas[] = {
    {FM_PIPE_GPIPE, .bubble = bubble_1f1b},
    {FM_PIPE_1F1B, .bubble = bubble_1f1b, .held = held_p},
    {FM_PIPE_INTERLEAVED, .whole_rounds = 1, .bubble = bubble_interleaved, .held = held_interleaved},
    {FM_PIPE_ZB_H1, .small_w = 1, .bubble = bubble_zb_h1, .held = held_p},
    {FM_PIPE_ZB_H2, .inner = 1, .small_w = 1, .bubble = bubble_zb_h2, .held = held_2p_less_1},
    {FM_PIPE_ZB_V, .inner = 1, .all_equal = 1, .bubble = bubble_none, .held = held_2p},
    {FM_PIPE_DUALPIPE, .small_w = 1, .equal_f_i = 1, .bubble = bubble_dualpipe, .held = held_p_and_1},
    {FM_PIPE_DUALPIPEV, .small_w = 1, .equal_f_i = 1, .bubble = bubble_dualpipev, .held = held_2p_and_1},
};

static void a_formula_holds(fm_gen *gen)
{
    const struct formula *formula = &formulas[fm_gen_int(gen, 0, sizeof formulas / sizeof formulas[0] - 1)];
    int ranks = (int)fm_gen_int(gen, 2, 9);
    ranks += formula->schedule == FM_PIPE_DUALPIPE && ranks % 2;
    int micro_batches = 2 * ranks + (int)fm_gen_int(gen, 0, 2 * ranks);
    micro_batches += formula->schedule == FM_PIPE_DUALPIPE && micro_batches % 2;
    if (formula->whole_rounds)
        micro_batches -= micro_batches % ranks;
    fm_pipe_stage_cost cost = {.i = fm_gen_real(gen, 0.2, 2)};
    cost.f = formula->equal_f_i || formula->all_equal ? cost.i : fm_gen_real(gen, 0.2, 2);
    cost.w = formula->all_equal ? cost.i : fm_gen_real(gen, 0.1, formula->small_w ? fmin(cost.f, cost.i) : 2);
    double fb = cost.f + cost.i + cost.w;
    int overlaps = fm_gen_chance(gen, 0.5);
    if (overlaps)
        fb *= fm_gen_real(gen, 0.7, 1);
    cost.fb = fb = fmax(fb, cost.i + cost.w);
    fm_pipe_program *program = pipe_case(formula->schedule, ranks, micro_batches, 0);
    fm_pipe_simulation *simulation =
        simulate(program, &(fm_pipe_costs){.size = sizeof(fm_pipe_costs), .stages = &cost, .stage_count = 1});
    double wanted = formula->bubble(ranks, cost.f, cost.i, cost.w, fb);
    double found = worst_bubble(program, simulation, formula->inner);
    if (!close_to(found, wanted))
        fail_msg("%s, %d ranks, %d micro-batches, f %g i %g w %g fb %g: bubble %.9g, formula %.9g",
                 fm_pipe_schedule_name(formula->schedule), ranks, micro_batches, cost.f, cost.i, cost.w, fb,
                 found, wanted);
    if (formula->held)
        assert_close(simulation->memory_peak, formula->held(ranks));
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
}

static void formulas_hold_where_they_are_said_to(void **state)
{
    (void)state;
    fm_gen_property(400, a_formula_holds);
}

// Where the input gradient takes longer than the forward, DualPipe does at least as well as its formula.
static void dualpipe_beats_its_formula(fm_gen *gen)
{
    int ranks = 2 * (int)fm_gen_int(gen, 1, 5);
    fm_pipe_stage_cost cost = {.i = fm_gen_real(gen, 0.2, 2)};
    cost.f = cost.i * fm_gen_real(gen, 0.2, 1);
    cost.w = fmin(cost.f, cost.i * fm_gen_real(gen, 0.1, 1));
    cost.fb = fmax(cost.i + cost.w, (cost.f + cost.i + cost.w) * fm_gen_real(gen, 0.7, 1));
    fm_pipe_program *program =
        pipe_case(FM_PIPE_DUALPIPE, ranks, 2 * (ranks + (int)fm_gen_int(gen, 0, ranks)), 0);
    fm_pipe_simulation *simulation =
        simulate(program, &(fm_pipe_costs){.size = sizeof(fm_pipe_costs), .stages = &cost, .stage_count = 1});
    double formula = bubble_dualpipe(ranks, cost.f, cost.i, cost.w, cost.fb);
    double found = worst_bubble(program, simulation, 0);
    if (found > formula + 1e-9)
        fail_msg("%d ranks, f %g i %g w %g fb %g: bubble %g above %g", ranks, cost.f, cost.i, cost.w, cost.fb,
                 found, formula);
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
}

static void dualpipe_beats_its_formula_where_i_is_long(void **state)
{
    (void)state;
    fm_gen_property(200, dualpipe_beats_its_formula);
}

// DualPipe's formula is the worst rank's; with F&B = F + B it is every rank's, and every rank holds PP + 1.
static void dualpipe_is_even_over_ranks(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 16; ranks += 2) {
        fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPE, ranks, 3 * ranks, 0);
        fm_pipe_simulation *simulation = simulate(program, &pipe_case_unit_costs);
        for (int rank = 0; rank < ranks; rank++) {
            int h = rank < ranks / 2 ? rank : ranks - 1 - rank;
            assert_close(simulation->ranks[rank].bubble, ranks - 2);
            assert_int_equal(simulation->ranks[rank].saved_peak, ranks + 1);
            assert_in_range(simulation->ranks[rank].queued_peak, 1, h + 1);
        }
        fm_pipe_simulation_free(simulation);
        fm_pipe_program_free(program);
    }
}

// Makespans that were measured independently of this code, F = I = W = 1.
static void known_makespans(void **state)
{
    (void)state;
    static const struct {
        fm_pipe_schedule schedule;
        int ranks;
        int micro_batches;
        double fb;
        double makespan;
    } cases[] = {
        {FM_PIPE_DUALPIPE, 4, 8, 0, 26},      {FM_PIPE_DUALPIPE, 8, 16, 0, 54},
        {FM_PIPE_DUALPIPE, 8, 20, 0, 66},     {FM_PIPE_DUALPIPE, 16, 32, 0, 110},
        {FM_PIPE_1F1B, 8, 20, 0, 81},         {FM_PIPE_ZB_H1, 8, 20, 0, 67},
        {FM_PIPE_DUALPIPE, 8, 20, 2.2, 54.8},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fm_pipe_program *program = pipe_case(cases[i].schedule, cases[i].ranks, cases[i].micro_batches, 0);
        fm_pipe_stage_cost cost = {.f = 1, .i = 1, .w = 1, .fb = cases[i].fb};
        fm_pipe_simulation *simulation = simulate(
            program, &(fm_pipe_costs){.size = sizeof(fm_pipe_costs), .stages = &cost, .stage_count = 1});
        assert_close(simulation->makespan, cases[i].makespan);
        fm_pipe_simulation_free(simulation);
        fm_pipe_program_free(program);
    }
}

// The same times by repeated passes over all ops, straight from the definition.
struct oracle {
    const fm_pipe_program *program;
    const fm_pipe_costs *costs;
    double *finish; // [ops]; negative: not known
    double link_free[8][8];
    double *arrival[2]; // [visits]
};

static int try_op(struct oracle *oracle, int rank, size_t i, double free_at)
{
    const fm_pipe_program *program = oracle->program;
    const fm_pipe_op *op = &program->ops[i];
    double start = free_at;
    int back = fm_pipe_back_lane(op);
    if (fm_pipe_has_forward(op) && fm_pipe_stage(program, rank, op->lane) > 0) {
        double arrival = oracle->arrival[0][fm_pipe_visit(program, rank, op->lane, op->chunk)];
        if (arrival < 0)
            return 0;
        start = fmax(start, arrival);
    }
    if (fm_pipe_has_backward(op) && fm_pipe_stage(program, rank, back) < program->stages - 1) {
        double arrival = oracle->arrival[1][fm_pipe_visit(program, rank, back, fm_pipe_back_chunk(op))];
        if (arrival < 0)
            return 0;
        start = fmax(start, arrival);
    }
    double end = start + fm_pipe_op_cost(program, oracle->costs, rank, op);
    oracle->finish[i] = end;
    for (int half = 0; half < 2; half++) {
        if (half == 0 ? !fm_pipe_has_forward(op) : !fm_pipe_has_backward(op))
            continue;
        int lane = half == 0 ? op->lane : back;
        int chunk = half == 0 ? op->chunk : fm_pipe_back_chunk(op);
        int stage = fm_pipe_stage(program, rank, lane) + (half == 0 ? 1 : -1);
        if (stage < 0 || stage >= program->stages)
            continue;
        int to;
        int to_lane = fm_pipe_locate(program, fm_pipe_direction(program, lane), stage, &to);
        double arrival = end;
        if (to != rank) {
            double *link = &oracle->link_free[rank][to];
            *link = fmax(*link, end) + oracle->costs->message_bytes / oracle->costs->bandwidth;
            arrival = *link + oracle->costs->latency;
        }
        oracle->arrival[half][fm_pipe_visit(program, to, to_lane, chunk)] = arrival;
    }
    return 1;
}

static void times_equal_the_oracles(fm_gen *gen)
{
    fm_pipe_program *program = pipe_case_any(gen, 8, 12);
    fm_pipe_stage_cost stages[64];
    double rank_time[8];
    for (int i = 0; i < program->stages; i++)
        stages[i] = (fm_pipe_stage_cost){.f = fm_gen_real(gen, 0.1, 2),
                                         .i = fm_gen_real(gen, 0.1, 2),
                                         .w = fm_gen_real(gen, 0, 2),
                                         .b = fm_gen_chance(gen, 0.5) ? fm_gen_real(gen, 0.1, 3) : 0,
                                         .fb = fm_gen_chance(gen, 0.5) ? fm_gen_real(gen, 0.1, 3) : 0,
                                         .memory = fm_gen_real(gen, 0.5, 2)};
    for (int rank = 0; rank < program->ranks; rank++)
        rank_time[rank] = fm_gen_real(gen, 0.5, 2);
    fm_pipe_costs costs = {.size = sizeof costs,
                           .stages = stages,
                           .stage_count = program->stages,
                           .latency = fm_gen_real(gen, 0, 1),
                           .message_bytes = fm_gen_real(gen, 0, 2),
                           .bandwidth = fm_gen_real(gen, 0.5, 3),
                           .rank_time = rank_time};
    fm_pipe_simulation *simulation = simulate(program, &costs);

    size_t ops = fm_pipe_op_total(program);
    size_t visits = fm_pipe_visit_total(program);
    struct oracle oracle = {.program = program, .costs = &costs, .finish = calloc(ops, sizeof(double))};
    for (int kind = 0; kind < 2; kind++) {
        oracle.arrival[kind] = calloc(visits, sizeof(double));
        for (size_t i = 0; i < visits; i++)
            oracle.arrival[kind][i] = -1;
    }
    size_t at[8] = {0};
    size_t done = 0;
    while (done < ops)
        for (int rank = 0; rank < program->ranks; rank++)
            while (at[rank] < fm_pipe_count_of(program, rank) &&
                   try_op(&oracle, rank, program->first[rank] + at[rank],
                          at[rank] ? oracle.finish[program->first[rank] + at[rank] - 1] : 0)) {
                at[rank]++;
                done++;
            }
    double makespan = 0;
    for (size_t i = 0; i < ops; i++) {
        assert_close(simulation->finish[i], oracle.finish[i]);
        makespan = fmax(makespan, oracle.finish[i]);
    }
    assert_close(simulation->makespan, makespan);
    free(oracle.arrival[0]);
    free(oracle.arrival[1]);
    free(oracle.finish);
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
}

static void times_are_right(void **state)
{
    (void)state;
    fm_gen_property(200, times_equal_the_oracles);
}

// From time 0 to the makespan without a gap but for messages on their way.
static void the_critical_path_spans_the_step(fm_gen *gen)
{
    fm_pipe_program *program = pipe_case_any(gen, 8, 20);
    fm_pipe_stage_cost cost = {
        .f = fm_gen_real(gen, 0.5, 2), .i = fm_gen_real(gen, 0.5, 2), .w = fm_gen_real(gen, 0, 2)};
    fm_pipe_costs costs = {.size = sizeof costs,
                           .stages = &cost,
                           .stage_count = 1,
                           .latency = fm_gen_chance(gen, 0.5) ? 0.25 : 0};
    fm_pipe_simulation *simulation = simulate(program, &costs);
    assert_true(simulation->critical_count > 0);
    double now = 0;
    for (size_t i = 0; i < simulation->critical_count; i++) {
        size_t op = simulation->critical[i];
        double gap = simulation->start[op] - now;
        assert_true(close_to(gap, 0) || (i > 0 && close_to(gap, costs.latency)));
        now = simulation->finish[op];
    }
    assert_close(now, simulation->makespan);
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
}

static void critical_paths_span(void **state)
{
    (void)state;
    fm_gen_property(100, the_critical_path_spans_the_step);
}

static void memory_curve_of_gpipe(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_GPIPE, 2, 3, 0);
    fm_pipe_stage_cost stages[] = {{.f = 1, .i = 1, .w = 1, .memory = 2},
                                   {.f = 1, .i = 1, .w = 1, .memory = 5}};
    fm_pipe_simulation *simulation = simulate(
        program, &(fm_pipe_costs){.size = sizeof(fm_pipe_costs), .stages = stages, .stage_count = 2});
    static const double wanted[] = {2, 4, 6, 6, 4, 2, 5, 10, 15, 15, 10, 5};
    for (int i = 0; i < 12; i++)
        assert_close(simulation->memory[i], wanted[i]);
    assert_close(simulation->memory_peak, 15);
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
}

static void jitter_is_drawn_per_rank_and_seed(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_1F1B, 2, 50, 0);
    fm_pipe_stage_cost cost = {.f = 1, .b = 1};
    double jitter[] = {0, 0.5};
    fm_pipe_costs costs = {
        .size = sizeof costs, .stages = &cost, .stage_count = 1, .jitter = jitter, .seed = 7};
    fm_pipe_simulation *a = simulate(program, &costs);
    fm_pipe_simulation *b = simulate(program, &costs);
    costs.seed = 8;
    fm_pipe_simulation *c = simulate(program, &costs);
    assert_true(a->makespan == b->makespan);
    assert_true(a->makespan != c->makespan);
    assert_close(a->ranks[0].busy, 100);
    assert_true(a->ranks[1].busy > 90 && a->ranks[1].busy < 110 && a->ranks[1].busy != 100);
    for (size_t i = program->first[1]; i < program->first[2]; i++)
        assert_true(a->finish[i] - a->start[i] >= 0.5 && a->finish[i] - a->start[i] <= 1.5);
    fm_pipe_simulation_free(a);
    fm_pipe_simulation_free(b);
    fm_pipe_simulation_free(c);
    fm_pipe_program_free(program);
}

static void bad_costs_are_refused(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_1F1B, 3, 4, 0);
    fm_pipe_simulation *simulation = NULL;
    fm_pipe_stage_cost cost = {.f = -1};
    fm_pipe_costs costs = {.size = sizeof costs, .stages = &cost, .stage_count = 1};
    assert_fails(fm_pipe_simulation_run(program, &costs, &simulation), FM_ERR_ARG, "f of stage 0 is -1");
    cost.f = (double)NAN;
    assert_fails(fm_pipe_simulation_run(program, &costs, &simulation), FM_ERR_ARG, "f of stage 0 is");
    cost.f = 1;
    costs.stage_count = 2;
    assert_fails(fm_pipe_simulation_run(program, &costs, &simulation), FM_ERR_ARG,
                 "stage_count is 2; expected 1 or 3");
    costs.stage_count = 1;
    costs.latency = (double)INFINITY;
    assert_fails(fm_pipe_simulation_run(program, &costs, &simulation), FM_ERR_ARG, "latency inf");
    costs.latency = 0;
    double jitter[] = {0, 1, 0};
    costs.jitter = jitter;
    assert_fails(fm_pipe_simulation_run(program, &costs, &simulation), FM_ERR_ARG, "jitter of rank 1 is 1");
    costs.jitter = NULL;
    double rank_time[] = {1, -1, 1};
    costs.rank_time = rank_time;
    assert_fails(fm_pipe_simulation_run(program, &costs, &simulation), FM_ERR_ARG,
                 "rank_time of rank 1 is -1");
    costs.rank_time = NULL;
    costs.size--;
    assert_fails(fm_pipe_simulation_run(program, &costs, &simulation), FM_ERR_VERSION,
                 "expected sizeof(fm_pipe_costs)");
    costs.stages = NULL;
    assert_fails(fm_pipe_simulation_run(program, &costs, &simulation), FM_ERR_ARG, "NULL");
    assert_fails(fm_pipe_simulation_run(program, NULL, &simulation), FM_ERR_ARG, "NULL");
    fm_pipe_ops_mutable(program)[0].kind = FM_PIPE_B;
    assert_fails(fm_pipe_simulation_run(program, &pipe_case_unit_costs, &simulation), FM_ERR_FORMAT,
                 "before its forward");
    assert_null(simulation);
    fm_pipe_program_free(program);
}

static fm_status run(void *context)
{
    fm_pipe_simulation *simulation = NULL;
    fm_status status = fm_pipe_simulation_run(context, &pipe_case_unit_costs, &simulation);
    fm_pipe_simulation_free(simulation);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_ZB_H1, 3, 6, 0);
    fm_test_each_alloc_fails(run, program);
    fm_pipe_program_free(program);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formulas_hold_where_they_are_said_to),
        cmocka_unit_test(dualpipe_beats_its_formula_where_i_is_long),
        cmocka_unit_test(dualpipe_is_even_over_ranks),
        cmocka_unit_test(known_makespans),
        cmocka_unit_test(times_are_right),
        cmocka_unit_test(critical_paths_span),
        cmocka_unit_test(memory_curve_of_gpipe),
        cmocka_unit_test(jitter_is_drawn_per_rank_and_seed),
        cmocka_unit_test(bad_costs_are_refused),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("pipe.pipe_simulate", tests);
}
