#include "pipe_cases.h"

static fm_pipe_program *read_text(const char *text)
{
    fm_doc *doc = NULL;
    fm_pipe_program *program = NULL;
    assert_ok(fm_base_doc_parse_json(text, strlen(text), "p.json", &doc));
    assert_ok(fm_pipe_program_read(doc, &program));
    fm_base_doc_free(doc);
    return program;
}

static void a_program_survives_the_way_out_and_in(fm_gen *gen)
{
    fm_pipe_program *program = pipe_case_any(gen, 6, 12);
    fm_json json = {0};
    fm_pipe_program_write(program, NULL, &json);
    assert_int_equal(json.status, FM_OK);
    char *text = calloc(1, json.length + 1);
    memcpy(text, json.text, json.length);
    assert_ok(fm_base_json_finish(&json, NULL));
    fm_pipe_program *again = read_text(text);
    assert_int_equal(again->schedule, program->schedule);
    assert_int_equal(again->placement, program->placement);
    assert_int_equal(again->lanes, program->lanes);
    assert_int_equal(again->micro_batches, program->micro_batches);
    assert_int_equal(again->forward_only, program->forward_only);
    assert_memory_equal(again->first, program->first, ((size_t)program->ranks + 1) * sizeof *program->first);
    assert_memory_equal(again->ops, program->ops, fm_pipe_op_total(program) * sizeof *program->ops);
    free(text);
    fm_pipe_program_free(again);
    fm_pipe_program_free(program);
}

static void programs_survive(void **state)
{
    (void)state;
    fm_gen_property(60, a_program_survives_the_way_out_and_in);
}

static void custom_programs_name_their_placement(void **state)
{
    (void)state;
    fm_pipe_program *program =
        read_text("{\"schedule\": \"custom\", \"placement\": \"mirror\", \"ranks\": 1, "
                  "\"micro_batches\": 2, \"ops\": [[[\"F\", 0, 0], [\"FB\", 1, 0, 0, 0], "
                  "[\"B\", 1, 0]]]}");
    assert_int_equal(program->placement, FM_PIPE_MIRROR);
    assert_ok(fm_pipe_program_verify(program, 1, NULL));
    fm_pipe_program_free(program);
    program =
        read_text("{\"schedule\": \"custom\", \"placement\": \"loop\", \"virtual_stages\": 3, \"ranks\": 1, "
                  "\"micro_batches\": 1, \"forward_only\": true, \"ops\": [[[\"F\", 0, 0], [\"F\", 1, 0], "
                  "[\"F\", 2, 0]]]}");
    assert_int_equal(program->lanes, 3);
    assert_ok(fm_pipe_program_verify(program, 1, NULL));
    fm_pipe_program_free(program);
}

static const struct {
    const char *text;
    const char *message;
} bad[] = {
    {"[]", "p.json:1: "},
    {"{\n\"schedule\": \"foo\"}", "p.json:2: schedule is \"foo\"; expected one of gpipe, 1f1b"},
    {"{\"schedule\": 3}", "schedule"},
    {"{\"ranks\": 3}", "schedule is missing"},
    {"{\"schedule\": \"1f1b\", \"rnks\": 3}", "ranks"},
    {"{\"schedule\": \"1f1b\",\n\"ranks\": 0}", "p.json:2: ranks"},
    {"{\"schedule\": \"1f1b\",\n\"ranks\": 1e9}", "p.json:2: ranks"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1,\n\n\"micro_batches\": 70000}", "p.json:3: micro_batches"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"placement\": \"v\"}", "1f1b implies it"},
    {"{\"schedule\": \"custom\", \"ranks\": 1, \"micro_batches\": 1}", "placement is missing"},
    {"{\"schedule\": \"custom\", \"placement\": \"w\"}", "expected loop, v or mirror"},
    {"{\"schedule\": \"interleaved\", \"ranks\": 1, \"micro_batches\": 1}", "virtual_stages is missing"},
    {"{\"schedule\": \"gpipe\", \"ranks\": 1, \"micro_batches\": 1, \"virtual_stages\": 2}",
     "virtual_stages"},
    {"{\"schedule\": \"interleaved\", \"ranks\": 1024, \"micro_batches\": 65536, \"virtual_stages\": 64, "
     "\"ops\": []}",
     "ranks * lanes * chunks"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 2, \"micro_batches\": 1}", "ops is missing"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 2, \"micro_batches\": 1,\n \"ops\": [[]]}",
     "p.json:2: ops has 1 programs; expected 2"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [3]}", "a rank's program"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[1, 2, 3, 4]]}",
     "more than 3 ops"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[\"F\"]]}", "op is"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[[]]]}", "kind is missing"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[\n[\"G\", 0, 0]]]}",
     "p.json:2: kind is \"G\"; expected F, B, I, W or FB"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[[\"F\", 0]]]}",
     "F has 2 elements; expected 3"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[[\"FB\", 0, 0]]]}",
     "FB has 3 elements; expected 5"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[[\"F\", 1, 0]]]}", "lane is 1"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[[\"F\", 0, -1]]]}",
     "chunk is -1"},
    {"{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[[\"F\", 0, 1]]]}",
     "chunk is 1"},
    {"{\"schedule\": \"dualpipe\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[[\"F\", 1, 0]]]}",
     "direction 1 has no micro-batch"},
};

static void bad_files_name_line_and_expectation(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fm_doc *doc = NULL;
        fm_pipe_program *program = NULL;
        assert_ok(fm_base_doc_parse_json(bad[i].text, strlen(bad[i].text), "p.json", &doc));
        assert_fails(fm_pipe_program_read(doc, &program), FM_ERR_FORMAT, bad[i].message);
        assert_null(program);
        fm_base_doc_free(doc);
    }
}

static fm_status read_doc(void *context)
{
    fm_pipe_program *program = NULL;
    fm_status status = fm_pipe_program_read(context, &program);
    fm_pipe_program_free(program);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    const char *text =
        "{\"schedule\": \"1f1b\", \"ranks\": 1, \"micro_batches\": 1, \"ops\": [[[\"F\", 0, 0], "
        "[\"B\", 0, 0]]]}";
    fm_doc *doc = NULL;
    assert_ok(fm_base_doc_parse_json(text, strlen(text), "p.json", &doc));
    fm_test_each_alloc_fails(read_doc, doc);
    fm_base_doc_free(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(programs_survive),
        cmocka_unit_test(custom_programs_name_their_placement),
        cmocka_unit_test(bad_files_name_line_and_expectation),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("pipe.pipe_program_doc", tests);
}
