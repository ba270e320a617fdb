// `fathom run RECIPE`: its stages in order, each kept when it finished, so that a run that was stopped goes
// on.
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/interrupt.h"
#include "fathom/run_id.h"
#include "fathom/table.h"
#include "recipe.h"

struct run_options {
    int stages;
    const char *out;
    int fresh;
    const char *only;
};

static const fm_option run_schema[] = {
    {"stages", FM_OPTION_FLAG, offsetof(struct run_options, stages),
     .help = "print every kind of stage with its options as YAML, and stop"},
    {"out", FM_OPTION_STRING, offsetof(struct run_options, out), .value = "run", .letter = 'o',
     .metavar = "DIR", .help = "the run's folder: results, and what a stopped run needs to go on"},
    {"fresh", FM_OPTION_FLAG, offsetof(struct run_options, fresh),
     .help = "run every stage again, finished or not"},
    {"only", FM_OPTION_STRING, offsetof(struct run_options, only), .metavar = "STAGE",
     .help = "run this stage alone, again"},
    {0},
};

enum { PATH_BYTES = 4096 };

// result.json of a stage: {"key": ..., "seconds": ..., "facts": [[label, value], ...]}. Written last,
// atomically: where it is and its key matches, the stage is done.
static fm_status result_path(const char *out, const struct fm_recipe_stage *stage, char *out_path)
{
    if (snprintf(out_path, PATH_BYTES, "%s/%s/result.json", out, stage->name) >= PATH_BYTES)
        return fm_base_error_set(FM_ERR_LIMIT, "the name of the run's folder is longer than %d bytes",
                                 PATH_BYTES - 80);
    return FM_OK;
}

// The finished result, or NULL when there is none that fits the recipe.
static fm_doc *load_result(const char *out, const struct fm_recipe_stage *stage)
{
    char path[PATH_BYTES];
    fm_doc *result = NULL;
    int64_t key = -1;
    if (result_path(out, stage, path) < 0 || fm_base_doc_load(path, &result) < 0)
        return NULL;
    if (fm_base_doc_int(fm_base_doc_get(result, "key"), "key", 0, UINT32_MAX, &key) < 0 ||
        key != stage->key) {
        fm_base_doc_free(result);
        return NULL;
    }
    return result;
}

static fm_status save_result(const char *out, const struct fm_recipe_stage *stage, double seconds,
                             fm_json *json)
{
    char path[PATH_BYTES];
    FM_TRY(result_path(out, stage, path));
    fm_base_json_end(json);
    fm_base_json_real(json, "seconds", seconds);
    fm_base_json_end(json);
    if (json->status < 0)
        return fm_base_json_finish(json, NULL);
    fm_status status = fm_base_file_save(path, json->text, json->length);
    fm_status freed = fm_base_json_finish(json, NULL);
    return status < 0 ? status : freed;
}

static fm_status run_stage(const struct fm_recipe *recipe, int index, const char *out)
{
    const struct fm_recipe_stage *stage = &recipe->stages[index];
    char folder[PATH_BYTES];
    if (snprintf(folder, sizeof folder, "%s/%s", out, stage->name) >= PATH_BYTES)
        return fm_base_error_set(FM_ERR_LIMIT, "the name of the run's folder is too long");
    FM_TRY(fm_base_dir_create(folder));
    fm_json json = {.pretty = 1};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "stage", stage->kind->name);
    fm_base_json_int(&json, "key", stage->key);
    fm_base_json_begin(&json, "facts", '[');
    const char *done[FM_RECIPE_STAGES_MAX];
    for (int i = 0; i < index; i++)
        done[i] = recipe->stages[i].name;
    struct fm_stage_run run = {
        .folder = folder, .run_folder = out, .done = done, .done_count = index, .facts = &json};
    uint64_t begin = fm_base_clock_ns();
    fm_status status = stage->kind->run(&run, stage->options);
    double seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    if (status < 0) {
        json.depth = 0; // dropped as it is
        fm_status dropped = fm_base_json_finish(&json, NULL);
        (void)dropped;
        return fm_base_error_prefix(status, "stage %s", stage->name);
    }
    FM_TRY(save_result(out, stage, seconds, &json));
    fprintf(stderr, "%s: done in %.1f s\n", stage->name, seconds);
    return FM_OK;
}

static fm_status need(const char *what, int64_t wanted, uint64_t there)
{
    if (wanted <= 0 || there >= (uint64_t)wanted)
        return FM_OK;
    return fm_base_error_set(FM_ERR_SPACE, "the recipe needs %s of %s, there are %s",
                             fm_base_text_bytes((double)wanted).text, what,
                             fm_base_text_bytes((double)there).text);
}

static fm_status check_needs(const struct fm_recipe *recipe, const char *out)
{
    uint64_t disk, memory, shm;
    FM_TRY(fm_base_space_disk(out, &disk));
    FM_TRY(fm_base_space_memory(&memory));
    FM_TRY(need("free disk space", recipe->disk_bytes, disk));
    FM_TRY(need("available memory", recipe->memory_bytes, memory));
    if (recipe->shm_bytes > 0) {
        FM_TRY(fm_base_space_disk("/dev/shm", &shm));
        FM_TRY(need("space in /dev/shm", recipe->shm_bytes, shm));
    }
    return FM_OK;
}

static fm_status run_stages(const struct fm_recipe *recipe, const struct run_options *options)
{
    int matched = 0;
    for (int i = 0; i < recipe->stage_count; i++) {
        const struct fm_recipe_stage *stage = &recipe->stages[i];
        if (options->only && strcmp(options->only, stage->name) != 0)
            continue;
        matched++;
        FM_TRY(fm_base_interrupt_check());
        fm_doc *done = options->fresh || options->only ? NULL : load_result(options->out, stage);
        fm_base_doc_free(done);
        if (done) {
            fprintf(stderr, "%s: done before\n", stage->name);
            continue;
        }
        fprintf(stderr, "%s: %s\n", stage->name, stage->kind->summary);
        FM_TRY(run_stage(recipe, i, options->out));
    }
    if (!matched)
        return fm_base_error_set(FM_ERR_ARG, "the recipe has no stage named %s", options->only);
    return FM_OK;
}

// The table, and the same facts as JSON in summary.json (and on standard output with --json).
static fm_status summarise(const struct fm_recipe *recipe, const char *out, int json_wanted)
{
    fm_json json = {.pretty = 1};
    fm_table table = {0};
    fm_base_table_column(&table, "stage", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "what", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "value", NULL, FM_ALIGN_LEFT);
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "recipe", recipe->name);
    fm_base_json_begin(&json, "stages", '{');
    for (int i = 0; i < recipe->stage_count; i++) {
        fm_doc *result = load_result(out, &recipe->stages[i]);
        const fm_doc *facts = fm_base_doc_get(result, "facts");
        fm_base_json_begin(&json, recipe->stages[i].name, '{');
        for (size_t f = 0; f < fm_base_doc_count(facts); f++) {
            const char *label = "";
            const char *value = "";
            const fm_doc *fact = fm_base_doc_at(facts, f);
            if (fm_base_doc_string(fm_base_doc_at(fact, 0), "label", &label) < 0 ||
                fm_base_doc_string(fm_base_doc_at(fact, 1), "value", &value) < 0)
                continue;
            fm_base_json_string(&json, label, value);
            fm_base_table_cell(&table, "%s", f == 0 ? recipe->stages[i].name : "");
            fm_base_table_cell(&table, "%s", label);
            fm_base_table_cell(&table, "%s", value);
        }
        fm_base_json_end(&json);
        fm_base_doc_free(result);
    }
    fm_base_json_end(&json);
    fm_base_json_end(&json);
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/summary.json", out);
    fm_status status = json.status < 0 ? json.status : fm_base_file_save(path, json.text, json.length);
    fm_status printed = fm_base_json_finish(&json, json_wanted ? stdout : NULL);
    fm_status shown =
        fm_base_table_finish(&table, json_wanted ? NULL : stdout, fm_base_text_terminal(STDOUT_FILENO));
    return status < 0 ? status : shown < 0 ? shown : printed;
}

// As YAML with the defaults, to be copied into a recipe.
static void list_stages(void)
{
    for (const char *const *name = fm_app_stage_names(); *name; name++) {
        const struct fm_stage *stage = fm_app_stage_find(*name);
        printf("  # %s\n  - stage: %s\n    with:\n", stage->summary, stage->name);
        for (const fm_option *option = stage->schema; option->name; option++) {
            char line[128];
            snprintf(line, sizeof line, "%s: %s", option->name, option->value ? option->value : "");
            printf("      %-28s # %s%s%s%s\n", line, option->help, option->unit ? " (" : "",
                   option->unit ? option->unit : "", option->unit ? ")" : "");
        }
        printf("\n");
    }
}

static fm_status run_run(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct run_options *options = given;
    struct fm_recipe recipe;
    if (options->stages) {
        list_stages();
        return FM_OK;
    }
    if (invocation->operand_count == 0) {
        *out_exit = 2;
        return fm_base_error_set(FM_ERR_ARG, "missing operand: expected RECIPE");
    }
    FM_TRY(fm_app_recipe_load(invocation->operands[0], &recipe));
    fm_base_run_id(); // names what the run makes, for `fathom clean`
    fm_status status = fm_base_interrupt_install();
    if (status == FM_OK)
        status = fm_base_dir_create(options->out);
    if (status == FM_OK)
        status = check_needs(&recipe, options->out);
    if (status == FM_OK)
        status = run_stages(&recipe, options);
    if (status == FM_OK)
        status = summarise(&recipe, options->out, invocation->json);
    fm_base_interrupt_restore();
    fm_app_recipe_free(&recipe);
    if (status == FM_ERR_CANCELLED)
        fprintf(stderr, "The same command goes on from here.\n");
    return status;
}

const fm_command fm_cmd_run = {
    .name = "run",
    .summary = "run a recipe: a whole job, stage by stage",
    .operands = "RECIPE",
    .details = "A recipe is a YAML file: name, needs (disk, memory, shared_memory) and stages, each with "
               "`stage:` (its kind),\n"
               "`name:` (where it occurs twice) and `with:` (its options). A stage that finished is not run "
               "again unless its\n"
               "options, a stage before it or the program changed. Ctrl-C stops at the next safe place.",
    .options = run_schema,
    .options_size = sizeof(struct run_options),
    .operands_max = 1,
    .has_json = 1,
    .run = run_run,
};
