#include "fm_test.h"

#include <fcntl.h>
#include <unistd.h>

#include "fathom/config.h"

struct options {
    int64_t count;
    int fast;
    const char *mode;
    const char *output;
    const char *log;
};

static const fm_option schema[] = {
    {"count", FM_OPTION_INT, offsetof(struct options, count), .required = 1, .help = "how many"},
    {"fast", FM_OPTION_FLAG, offsetof(struct options, fast), .value = "true", .help = "hurry"},
    {"mode", FM_OPTION_CHOICE, offsetof(struct options, mode), .value = "a", .choices = "a|b",
     .help = "which"},
    {"output", FM_OPTION_STRING, offsetof(struct options, output), .letter = 'o', .help = "where"},
    {"log", FM_OPTION_STRING, offsetof(struct options, log), .value = "", .help = "default: none"},
    {0},
};

static struct options seen;
static char seen_operands[256];
static int runs;
static fm_status run_result;
static int run_exit;

static fm_status run(const fm_invocation *invocation, const void *options, int *out_exit)
{
    runs++;
    seen = *(const struct options *)options;
    seen_operands[0] = 0;
    for (int i = 0; i < invocation->operand_count; i++) {
        strcat(seen_operands, invocation->operands[i]);
        strcat(seen_operands, ";");
    }
    if (invocation->json)
        strcat(seen_operands, "json");
    if (run_exit)
        *out_exit = run_exit;
    return run_result < 0 ? fm_base_error_set(run_result, "it broke") : FM_OK;
}

static const fm_command leaf = {.name = "plan",
                                .summary = "make a plan",
                                .operands = "LOADS [MORE]",
                                .options = schema,
                                .options_size = sizeof(struct options),
                                .operands_min = 1,
                                .operands_max = 2,
                                .has_json = 1,
                                .run = run};
static const fm_command *const group_children[] = {&leaf, NULL};
static const fm_command group = {.name = "eplb", .summary = "place experts", .children = group_children};
static const fm_command *const root_children[] = {&group, NULL};
static const fm_command root = {.name = "fathom", .summary = "the stack", .children = root_children};

// Runs a command line (words split at spaces) and returns its exit status; what it printed lands in `said`.
static char said[16384];

static int command(const char *line)
{
    static char copy[512]; // the options borrow their strings from it
    char *argv[32];
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    argv[argc] = NULL;
    fflush(stdout);
    fflush(stderr);
    const char *path = fm_test_file("said", "", 0);
    int file = open(path, O_RDWR | O_TRUNC);
    int out = dup(1);
    int err = dup(2);
    dup2(file, 1);
    dup2(file, 2);
    int result = fm_base_command_main(&root, argc, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(out, 1);
    dup2(err, 2);
    ssize_t length = pread(file, said, sizeof said - 1, 0);
    said[length > 0 ? length : 0] = 0;
    close(file);
    close(out);
    close(err);
    return result;
}

#define assert_said(text)                                    \
    do {                                                     \
        if (!strstr(said, text))                             \
            fail_msg("output lacks \"%s\": %s", text, said); \
    } while (0)

static int setup(void **state)
{
    (void)state;
    runs = run_exit = 0;
    run_result = FM_OK;
    return 0;
}

static void words_become_options(void **state)
{
    (void)state;
    assert_int_equal(command("eplb plan --count 3 a.csv --no-fast --mode=b -o out b.csv"), 0);
    assert_int_equal(seen.count, 3);
    assert_int_equal(seen.fast, 0);
    assert_string_equal(seen.mode, "b");
    assert_string_equal(seen_operands, "a.csv;b.csv;");
    assert_int_equal(command("eplb plan --count=4 -oout --json -- --fast"), 0);
    assert_int_equal(seen.count, 4);
    assert_int_equal(seen.fast, 1);
    assert_string_equal(seen_operands, "--fast;json");
    assert_int_equal(command("eplb plan --count=4 --fast=false -"), 0); // "-" is an operand: standard input
    assert_int_equal(seen.fast, 0);
    assert_string_equal(seen_operands, "-;");
}

static void usage_errors_teach(void **state)
{
    (void)state;
    const struct {
        const char *line;
        const char *message;
    } bad[] = {
        {"", "Usage: fathom COMMAND"},
        {"eplb", "Usage: fathom eplb COMMAND"},
        {"epbl plan", "unknown command 'epbl'; did you mean 'eplb'?"},
        {"zzz", "unknown command 'zzz'"},
        {"eplb plam x", "did you mean 'plan'?"},
        {"--verbose", "unknown option '--verbose'"},
        {"eplb plan --coun 3 x", "unknown option '--coun'; did you mean '--count'?"},
        {"eplb plan --no-count 3 x", "unknown option '--no-count'"},
        {"eplb plan x", "option --count is required: how many"},
        {"eplb plan --count 3", "missing operand: expected LOADS [MORE]"},
        {"eplb plan --count 3 a b c", "unexpected operand 'c'"},
        {"eplb plan x --count", "option '--count' needs a value"},
        {"eplb plan --count many x", "option --count: count is \"many\"; expected an integer"},
        {"eplb plan --mode c --count 1 x", "expected one of a, b"},
        {"eplb plan --fast=7 --count 1 x", "expected true or false"},
        {"eplb plan --config missing.yaml x", "missing.yaml"},
        {"eplb plan -x", "unknown option '-x'"},
        {"--versoin", "unknown option '--versoin'; did you mean '--version'?"},
        {"eplb plan --no-fsat x", "unknown option '--no-fsat'; did you mean '--no-fast'?"},
        {"eplb plan --coun=3 x", "unknown option '--coun=3'; did you mean '--count'?"},
        {"eplb plan --no-fast=true --count 1 x", "option '--no-fast' takes no value"},
        {"\033[31mx", "unknown command ' [31mx'"}, // no escape reaches the terminal
        {"eplb plan --count \033[31m x", "count is \" [31m\""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(command(bad[i].line), 2);
        assert_said(bad[i].message);
    }
    assert_int_equal(runs, 0);
}

static void failures_and_exit_codes(void **state)
{
    (void)state;
    run_result = FM_ERR_IO;
    assert_int_equal(command("eplb plan --count 1 x"), 1);
    assert_said("fathom eplb plan: it broke");
    assert_int_equal(command("-- eplb -- plan --count 1 x"), 1);
    assert_said("fathom eplb plan: it broke");
    run_result = FM_OK;
    run_exit = 1;
    assert_int_equal(command("eplb plan --count 1 x"), 1);
}

static void help_is_made_from_the_schema(void **state)
{
    (void)state;
    const char *const lines[] = {"eplb plan --help", "eplb plan -h", "help eplb plan",
                                 "eplb plan --count --help"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(command(lines[i]), 0);
        assert_said("Usage: fathom eplb plan --count N [OPTIONS] LOADS [MORE]");
        assert_said("-o, --output TEXT");
        assert_said("--mode a|b");
        assert_said("which [a]");
        assert_said("--[no-]fast ");
        assert_said("hurry [on]");
        assert_said("default: none\n");
    }
    assert_int_equal(command("--help"), 0);
    assert_said("place experts");
    assert_int_equal(command("help"), 0);
    assert_said("place experts");
    assert_int_equal(runs, 0);
}

static void precedence_is_default_file_environment_line(void **state)
{
    (void)state;
    const char text[] = "count: 5\nmode: b\nfast: false\n";
    const char *path = fm_test_file("job.yaml", text, sizeof text - 1);
    char line[512];
    snprintf(line, sizeof line, "eplb plan x --config %s", path);
    assert_int_equal(command(line), 0);
    assert_int_equal(seen.count, 5); // and a required option may come from the file
    assert_string_equal(seen_operands, "x;");
    setenv("FM_EPLB_PLAN_COUNT", "6", 1);
    assert_int_equal(command(line), 0);
    assert_int_equal(seen.count, 6);
    snprintf(line, sizeof line, "eplb plan x --count 8 --config=%s", fm_test_file("empty.json", "", 0));
    assert_int_equal(command(line), 0);
    assert_int_equal(seen.count, 8);
    snprintf(line, sizeof line, "eplb plan x --count 7 --config=%s --fast", path);
    assert_int_equal(command(line), 0);
    unsetenv("FM_EPLB_PLAN_COUNT");
    assert_int_equal(seen.count, 7);
    assert_int_equal(seen.fast, 1);
}

static char *render(void (*write)(FILE *file))
{
    static char text[16384];
    memset(text, 0, sizeof text);
    FILE *file = fmemopen(text, sizeof text - 1, "w");
    write(file);
    fclose(file);
    return text;
}

static void write_completion(FILE *file)
{
    fm_base_command_completion(&root, file);
}

static void write_man(FILE *file)
{
    fm_base_command_man(&root, "fathom", file);
}

static void completion_completes(void **state)
{
    (void)state;
    char *script = render(write_completion);
    const char *path = fm_test_file("fathom.bash", script, strlen(script));
    const struct {
        const char *words;
        const char *reply;
    } cases[] = {
        {"fathom e", "eplb"},
        {"fathom h", "help"},
        {"fathom --v", "--version"},
        {"fathom eplb --v", ""},
        {"fathom eplb plan --no", "--no-fast"},
        {"fathom eplb p", "plan"},
        {"fathom eplb plan --co", "--count --config"},
        {"fathom eplb plan --mode b", "b"},
        {"fathom eplb plan x.csv --j", "--json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char shell[1024];
        snprintf(shell, sizeof shell,
                 "bash -euc 'source %s; COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _fathom; "
                 "[ \"${COMPREPLY[*]}\" = \"%s\" ] || { echo \"${COMPREPLY[*]}\"; exit 1; }'",
                 path, cases[i].words, cases[i].reply);
        if (system(shell) != 0)
            fail_msg("completion of \"%s\" is not \"%s\"", cases[i].words, cases[i].reply);
    }
}

static void man_page_has_every_option(void **state)
{
    (void)state;
    char *page = render(write_man);
    assert_non_null(strstr(page, ".TH fathom 1"));
    assert_non_null(strstr(page, "fathom eplb plan"));
    assert_non_null(strstr(page, "\\-\\-output TEXT"));
    assert_non_null(strstr(page, "EXIT STATUS"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(words_become_options, setup),
        cmocka_unit_test_setup(usage_errors_teach, setup),
        cmocka_unit_test_setup(failures_and_exit_codes, setup),
        cmocka_unit_test_setup(help_is_made_from_the_schema, setup),
        cmocka_unit_test_setup(precedence_is_default_file_environment_line, setup),
        cmocka_unit_test(completion_completes),
        cmocka_unit_test(man_page_has_every_option),
    };
    return fm_test_run("base.command", tests);
}
