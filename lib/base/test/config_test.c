#include "fm_test.h"

#include "fathom/config.h"

struct options {
    int quick;
    int64_t replicas;
    double budget_ms;
    int64_t memory;
    const char *output;
    const char *policy;
};

static const fm_option schema[] = {
    {"quick", FM_OPTION_FLAG, offsetof(struct options, quick), .help = "do less"},
    {"replicas", FM_OPTION_INT, offsetof(struct options, replicas), .value = "8", .min = 1, .max = 64,
     .help = "copies"},
    {"budget", FM_OPTION_REAL, offsetof(struct options, budget_ms), .value = "50", .unit = "ms"},
    {"max-memory", FM_OPTION_SIZE, offsetof(struct options, memory), .value = "1GiB"},
    {"output", FM_OPTION_STRING, offsetof(struct options, output), .letter = 'o', .metavar = "FILE"},
    {"policy", FM_OPTION_CHOICE, offsetof(struct options, policy), .value = "best",
     .choices = "best|reference"},
    {0},
};

static const fm_option *row(const char *name)
{
    for (const fm_option *option = schema; option->name; option++)
        if (strcmp(option->name, name) == 0)
            return option;
    return NULL;
}

static struct options defaults(void)
{
    struct options options;
    memset(&options, 0xAA, sizeof options); // every value must be set, given a default or not
    assert_ok(fm_base_config_defaults(schema, &options));
    return options;
}

static void defaults_fill_every_value(void **state)
{
    (void)state;
    struct options options = defaults();
    assert_int_equal(options.quick, 0);
    assert_int_equal(options.replicas, 8);
    assert_true(options.budget_ms == 50);
    assert_int_equal(options.memory, 1 << 30);
    assert_null(options.output);
    assert_string_equal(options.policy, "best");
}

static void a_bad_default_is_a_bug(void **state)
{
    (void)state;
    const fm_option bad[] = {{"n", FM_OPTION_INT, 0, .value = "many"}, {0}};
    int64_t n;
    assert_fails(fm_base_config_defaults(bad, &n), FM_ERR_INTERNAL, "n is \"many\"");
}

static void sizes_have_units(void **state)
{
    (void)state;
    const struct {
        const char *text;
        int64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"12B", 12},
                {"64K", 65536},
                {"64KiB", 65536},
                {"64kb", 64000},
                {"2GiB", 2147483648LL},
                {"1.5MiB", 1572864},
                {"1TB", 1000000000000LL},
                {"2Ti", 2199023255552LL},
                {"1.50GiB", 1610612736},
                {"0.0009765625K", 1},
                {"9007199254740993", 9007199254740993LL}, // 2^53 + 1, which no double holds
                {"8796093022207.9990234375M", 9223372036854774784LL},
                {"9223372036854775807", INT64_MAX}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct options options = defaults();
        assert_ok(fm_base_config_set(row("max-memory"), good[i].text, &options));
        assert_true(options.memory == good[i].bytes);
    }
    const char *const bad[] = {"",         "x",
                               "-1",       "1.5",
                               "1.0001K",  "9999999T",
                               "1KiBx",    "1 K",
                               "nan",      "0x10",
                               "1e",       "1Bi",
                               "inf",      "9223372036854775808",
                               "8388608T", "18446744073709551617",
                               ".5K",      "1.2.3K"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct options options = defaults();
        assert_fails(fm_base_config_set(row("max-memory"), bad[i], &options), FM_ERR_ARG,
                     "expected a size such as");
        assert_true(options.memory == 1 << 30); // untouched
    }
}

static void ranges_are_exact_beyond_doubles(void **state)
{
    (void)state;
    const fm_option rows[] = {
        {"n", FM_OPTION_INT, 0, .min = -0x1p53, .max = 0x1p53},
        {"size", FM_OPTION_SIZE, 0, .min = 1.5, .max = 0x1p53},
        {"any", FM_OPTION_INT, 0, .min = -0x1p63, .max = 0x1p63},
        {0},
    };
    int64_t n = 7;
    assert_fails(fm_base_config_set(&rows[0], "9007199254740993", &n), FM_ERR_ARG, "expected an integer");
    assert_fails(fm_base_config_set(&rows[0], "-9007199254740993", &n), FM_ERR_ARG, "expected an integer");
    assert_fails(fm_base_config_set(&rows[1], "9007199254740993", &n), FM_ERR_ARG, "expected a size");
    assert_fails(fm_base_config_set(&rows[1], "1", &n), FM_ERR_ARG, "expected a size");
    assert_true(n == 7);
    assert_ok(fm_base_config_set(&rows[0], "-9007199254740992", &n));
    assert_ok(fm_base_config_set(&rows[2], "9223372036854775807", &n));
    assert_true(n == INT64_MAX);
    assert_ok(fm_base_config_set(&rows[2], "-9223372036854775808", &n));
    assert_true(n == INT64_MIN);
}

static void values_are_checked(void **state)
{
    (void)state;
    struct options options = defaults();
    assert_fails(fm_base_config_set(row("replicas"), "0", &options), FM_ERR_ARG,
                 "replicas is \"0\"; expected an integer from 1 to 64");
    assert_fails(fm_base_config_set(row("replicas"), "3x", &options), FM_ERR_ARG, "expected an integer");
    assert_fails(fm_base_config_set(row("replicas"), "99999999999999999999", &options), FM_ERR_ARG,
                 "expected an integer");
    assert_fails(fm_base_config_set(row("budget"), "nan", &options), FM_ERR_ARG, "expected a number");
    assert_fails(fm_base_config_set(row("budget"), "inf", &options), FM_ERR_ARG, "expected a number");
    assert_fails(fm_base_config_set(row("policy"), "bes", &options), FM_ERR_ARG,
                 "expected one of best, reference");
    assert_fails(fm_base_config_set(row("policy"), "best|reference", &options), FM_ERR_ARG,
                 "expected one of");
    assert_fails(fm_base_config_set(row("quick"), "maybe", &options), FM_ERR_ARG, "expected true or false");
    assert_ok(fm_base_config_set(row("policy"), "reference", &options));
    assert_string_equal(options.policy, "reference");
    assert_ok(fm_base_config_set(row("budget"), "1e-3", &options));
    assert_true(options.budget_ms == 1e-3);
}

static fm_status from_yaml(const char *text, struct options *out_options, fm_doc **out_root)
{
    FM_TRY(fm_base_doc_parse_yaml(text, strlen(text), "job.yaml", out_root));
    return fm_base_config_from_doc(schema, *out_root, out_options);
}

static void yaml_sets_values(void **state)
{
    (void)state;
    struct options options = defaults();
    fm_doc *root = NULL;
    assert_ok(from_yaml(
        "quick: true\nreplicas: 32\nbudget: 2.5\nmax_memory: 64KiB\npolicy: reference\noutput: a b\n",
        &options, &root));
    assert_int_equal(options.quick, 1);
    assert_int_equal(options.replicas, 32);
    assert_true(options.budget_ms == 2.5);
    assert_int_equal(options.memory, 65536);
    assert_string_equal(options.policy, "reference");
    assert_string_equal(options.output, "a b");
    fm_base_doc_free(root);
}

static void yaml_errors_name_the_line(void **state)
{
    (void)state;
    const struct {
        const char *text;
        const char *message;
    } bad[] = {
        {"quick: true\nreplica: 3\n", "job.yaml:2: unknown key \"replica\"; did you mean \"replicas\"?"},
        {"quick: true\nxyzzy: 3\n", "job.yaml:2: unknown key \"xyzzy\"; known keys: quick, replicas, budget, "
                                    "max-memory, output, policy"},
        {"\n\nreplicas: 65\n", "job.yaml:3: replicas is \"65\"; expected an integer from 1 to 64"},
        {"replicas: [1]\n", "job.yaml:1: replicas: expected an integer from 1 to 64"},
        {"replicas: 2.5\n", "expected an integer from 1 to 64"},
        {"output: 3\n", "put it in quotes"},
        {"policy: 3\n", "policy is 3; expected one of"},
        {"- 1\n", "job.yaml:1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct options options = defaults();
        fm_doc *root = NULL;
        assert_fails(from_yaml(bad[i].text, &options, &root), FM_ERR_FORMAT, bad[i].message);
        fm_base_doc_free(root);
    }
}

static void empty_yaml_sets_nothing(void **state)
{
    (void)state;
    struct options options = defaults();
    fm_doc *root = NULL;
    assert_ok(from_yaml("# no options\n", &options, &root));
    assert_int_equal(options.replicas, 8);
    fm_base_doc_free(root);
    assert_fails(fm_base_config_from_doc(schema, NULL, &options), FM_ERR_FORMAT, "missing");
}

static void environment_sets_values(void **state)
{
    (void)state;
    struct options options = defaults();
    setenv("FM_EPLB_PLAN_MAX_MEMORY", "2KiB", 1);
    assert_ok(fm_base_config_from_env(schema, "eplb plan", &options));
    assert_int_equal(options.memory, 2048);
    setenv("FM_EPLB_PLAN_MAX_MEMORY", "lots", 1);
    assert_fails(fm_base_config_from_env(schema, "eplb plan", &options), FM_ERR_ARG,
                 "FM_EPLB_PLAN_MAX_MEMORY: max-memory is \"lots\"");
    unsetenv("FM_EPLB_PLAN_MAX_MEMORY");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_fill_every_value), cmocka_unit_test(a_bad_default_is_a_bug),
        cmocka_unit_test(sizes_have_units),          cmocka_unit_test(values_are_checked),
        cmocka_unit_test(yaml_sets_values),          cmocka_unit_test(yaml_errors_name_the_line),
        cmocka_unit_test(environment_sets_values),   cmocka_unit_test(ranges_are_exact_beyond_doubles),
        cmocka_unit_test(empty_yaml_sets_nothing),
    };
    return fm_test_run("base.config", tests);
}
