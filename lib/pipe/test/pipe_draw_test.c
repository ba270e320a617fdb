#include "pipe_cases.h"

static int count(const char *text, const char *what)
{
    int found = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
        found++;
    return found;
}

static fm_pipe_simulation *simulate(const fm_pipe_program *program)
{
    fm_pipe_simulation *simulation = NULL;
    assert_ok(fm_pipe_simulation_run(program, &pipe_case_unit_costs, &simulation));
    return simulation;
}

static void text_shows_every_rank(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPEV, 2, 4, 0);
    fm_pipe_simulation *simulation = simulate(program);
    fm_pipe_text text;
    assert_ok(fm_pipe_draw_text(program, simulation, 5 + 2 * 26, 0, &text));
    assert_string_equal(text.text, "   0 F0F1F2f0i0w0f1F3+b1-  f2+B0-b2--  f3+B1-b3--I2W2I3W3\n"
                                   "   1   F0f0F1f1F2b0--f2+B0-F3+b1-f3+B1-b2--B2--  i3I3w3W3\n");
    fm_base_mem_free(text.text);
    // One column a unit: ops of one unit are their letter, longer ones go on in dashes.
    assert_ok(fm_pipe_draw_text(program, simulation, 5 + 26, 0, &text));
    assert_int_equal(count(text.text, "\n"), 2);
    assert_int_equal(strlen(strchr(text.text, '\n') + 1), 5 + 26 + 1);
    fm_base_mem_free(text.text);
    assert_ok(fm_pipe_draw_text(program, simulation, 80, 1, &text));
    assert_true(count(text.text, "\033[48;5;68") >= 2);
    assert_int_equal(text.length, strlen(text.text));
    fm_base_mem_free(text.text);
    assert_fails(fm_pipe_draw_text(program, simulation, 19, 0, &text), FM_ERR_ARG,
                 "columns is 19; expected at least 20");
    assert_fails(fm_pipe_draw_text(NULL, simulation, 80, 0, &text), FM_ERR_ARG, "NULL");
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
}

// Tags open and close in order, attributes are quoted: enough of XML for what is written here.
static void assert_well_formed(const char *text)
{
    char open[16][16];
    int depth = 0;
    for (const char *at = text; (at = strchr(at, '<')); at++) {
        const char *end = strchr(at, '>');
        assert_non_null(end);
        assert_null(memchr(at + 1, '<', (size_t)(end - at - 1)));
        if (at[1] == '/') {
            assert_true(depth > 0);
            depth--;
            assert_int_equal(strncmp(at + 2, open[depth], (size_t)(end - at - 2)), 0);
        } else if (end[-1] != '/') {
            assert_true(depth < 16);
            snprintf(open[depth++], sizeof open[0], "%.*s", (int)strcspn(at + 1, " >"), at + 1);
        }
        int quotes = 0;
        for (const char *c = at; c < end; c++)
            quotes += *c == '"';
        assert_int_equal(quotes % 2, 0);
    }
    assert_int_equal(depth, 0);
}

static void svg_draws_every_op(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPE, 8, 20, 0);
    fm_pipe_simulation *simulation = simulate(program);
    fm_pipe_text text;
    assert_ok(fm_pipe_draw_svg(program, simulation, &text));
    assert_well_formed(text.text);
    int pairs = 0;
    for (size_t i = 0; i < fm_pipe_op_total(program); i++)
        pairs += program->ops[i].kind == FM_PIPE_FB;
    assert_int_equal(count(text.text, "<title>rank "),
                     (int)fm_pipe_op_total(program) + 8); // ops and memory strips
    assert_int_equal(count(text.text, "\noverlapped with "), pairs);
    assert_int_equal(count(text.text, "<rect class=\"p\""), pairs + 1); // and the legend's
    assert_int_equal(count(text.text, "class=\"c\""), (int)simulation->critical_count + 1);
    assert_non_null(strstr(text.text, "prefers-color-scheme:dark"));
    assert_null(strstr(text.text, "http://www.w3.org/1999")); // nothing is fetched
    assert_null(strstr(text.text, "href"));
    assert_non_null(strstr(text.text, "dualpipe, 8 ranks, 20 micro-batches"));
    fm_base_mem_free(text.text);
    assert_fails(fm_pipe_draw_svg(program, NULL, &text), FM_ERR_ARG, "NULL");
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
}

static void svg_survives_extremes(void **state)
{
    (void)state;
    fm_pipe_stage_cost cost = {0};
    fm_pipe_costs costs = {.size = sizeof costs, .stages = &cost, .stage_count = 1};
    static const double values[] = {0, 1e-12, 1e12};
    for (int i = 0; i < 3; i++) {
        cost = (fm_pipe_stage_cost){.f = values[i], .i = 1e-3 * values[i], .w = values[i]};
        fm_pipe_program *program = pipe_case(FM_PIPE_INTERLEAVED, 2, 300, 16);
        fm_pipe_simulation *simulation = NULL;
        fm_pipe_text text;
        assert_ok(fm_pipe_simulation_run(program, &costs, &simulation));
        assert_ok(fm_pipe_draw_svg(program, simulation, &text));
        assert_null(strstr(text.text, "nan"));
        assert_null(strstr(text.text, "inf\""));
        fm_base_mem_free(text.text);
        assert_ok(fm_pipe_draw_text(program, simulation, 100, 0, &text));
        fm_base_mem_free(text.text);
        fm_pipe_simulation_free(simulation);
        fm_pipe_program_free(program);
    }
}

static void the_trace_is_json_with_all_slices(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPEV, 2, 4, 0);
    fm_pipe_simulation *simulation = simulate(program);
    fm_pipe_text text;
    assert_ok(fm_pipe_draw_trace(program, simulation, &text));
    fm_doc *doc = NULL;
    assert_ok(fm_base_doc_parse_json(text.text, text.length, "trace", &doc));
    const fm_doc *events = fm_base_doc_get(doc, "traceEvents");
    size_t slices = 0;
    double end = 0;
    for (size_t i = 0; i < fm_base_doc_count(events); i++) {
        const fm_doc *event = fm_base_doc_at(events, i);
        const char *phase;
        assert_ok(fm_base_doc_string(fm_base_doc_get(event, "ph"), "ph", &phase));
        if (*phase != 'X')
            continue;
        double ts;
        double duration;
        assert_ok(fm_base_doc_real(fm_base_doc_get(event, "ts"), "ts", &ts));
        assert_ok(fm_base_doc_real(fm_base_doc_get(event, "dur"), "dur", &duration));
        end = ts + duration > end ? ts + duration : end;
        slices++;
    }
    assert_int_equal(slices, fm_pipe_op_total(program));
    assert_true(end == 1000 * simulation->makespan);
    assert_int_equal(count(text.text, "\"back_chunk\""), 6);
    fm_base_doc_free(doc);
    fm_base_mem_free(text.text);
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
}

struct drawing {
    fm_pipe_program *program;
    fm_pipe_simulation *simulation;
};

static fm_status draw_all(void *context)
{
    const struct drawing *drawing = context;
    fm_pipe_text text = {0};
    FM_TRY(fm_pipe_draw_svg(drawing->program, drawing->simulation, &text));
    fm_base_mem_free(text.text);
    FM_TRY(fm_pipe_draw_trace(drawing->program, drawing->simulation, &text));
    fm_base_mem_free(text.text);
    FM_TRY(fm_pipe_draw_text(drawing->program, drawing->simulation, 80, 0, &text));
    fm_base_mem_free(text.text);
    return FM_OK;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    struct drawing drawing = {.program = pipe_case(FM_PIPE_DUALPIPE, 4, 8, 0)};
    drawing.simulation = simulate(drawing.program);
    fm_test_each_alloc_fails(draw_all, &drawing);
    fm_pipe_simulation_free(drawing.simulation);
    fm_pipe_program_free(drawing.program);
}

static void writers_print_what_is_longer_than_their_guess(void **state)
{
    (void)state;
    struct fm_pipe_writer writer = {0};
    char *line = malloc(20001);
    memset(line, 'x', 20000);
    line[20000] = 0;
    for (int i = 0; i < 5; i++)
        fm_pipe_writer_print(&writer, "%s%d", line, i);
    fm_pipe_text text;
    assert_ok(fm_pipe_writer_finish(&writer, &text));
    assert_int_equal(text.length, 5 * 20001);
    assert_int_equal(strlen(text.text), text.length);
    assert_int_equal(text.text[20000], '0');
    assert_int_equal(text.text[text.length - 1], '4');
    fm_base_mem_free(text.text);
    free(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_shows_every_rank),
        cmocka_unit_test(svg_draws_every_op),
        cmocka_unit_test(svg_survives_extremes),
        cmocka_unit_test(the_trace_is_json_with_all_slices),
        cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(writers_print_what_is_longer_than_their_guess),
    };
    return fm_test_run("pipe.pipe_draw", tests);
}
