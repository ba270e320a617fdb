// `fathom run RECIPE`: its stages in order, each kept when it finished, so that a run that was stopped goes
// on.
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fathom/file.h"
#include "fathom/interrupt.h"
#include "fathom/mem.h"
#include "fathom/run_id.h"
#include "fathom/table.h"
#include "recipe.h"

struct run_options {
    int stages, check;
    const char *out;
    int fresh;
    const char *only;
};

static const fm_option run_schema[] = {
    {"stages", FM_OPTION_FLAG, offsetof(struct run_options, stages),
     .help = "print every kind of stage with its options as YAML, and stop"},
    {"check", FM_OPTION_FLAG, offsetof(struct run_options, check),
     .help = "read the recipe, say what is wrong with it, and stop"},
    {"out", FM_OPTION_STRING, offsetof(struct run_options, out), .value = "run", .letter = 'o',
     .metavar = "DIR", .help = "the run's folder: results, and what a stopped run needs to go on"},
    {"fresh", FM_OPTION_FLAG, offsetof(struct run_options, fresh),
     .help = "run every stage again, finished or not"},
    {"only", FM_OPTION_STRING, offsetof(struct run_options, only), .metavar = "STAGE",
     .help = "run this stage alone, again"},
    {0},
};

enum {
    PATH_BYTES = 4096,
    RESULT_BYTES_MAX = 1 << 24, // a result is a few hundred facts at most
};

// result.json of a stage: {"key": ..., "seconds": ..., "facts": [...]}. Written last, atomically: where it is and its key
// matches, the stage is done.
static fm_status result_path(const char *out, const struct fm_recipe_stage *stage, char *out_path)
{
    if (snprintf(out_path, PATH_BYTES, "%s/%s/result.json", out, stage->name) >= PATH_BYTES)
        return fm_base_error_set(FM_ERR_LIMIT, "the name of the run's folder is longer than %d bytes",
                                 PATH_BYTES - 80);
    return FM_OK;
}

// What a finished result of a stage must hold: the recipe's key and the content of the result before it, so that a stage
// that was run again, or whose result was changed or lost, has the stages after it run again.
static uint32_t current_key(const struct fm_recipe *recipe, int index, const char *out)
{
    uint32_t key = recipe->stages[index].key;
    char path[PATH_BYTES];
    char *text;
    size_t length;
    if (index > 0 && result_path(out, &recipe->stages[index - 1], path) == FM_OK &&
        fm_base_file_read(path, RESULT_BYTES_MAX, &text, &length) == FM_OK) {
        key = fm_base_crc32c(key, text, length);
        fm_base_mem_free(text);
    }
    return key;
}

// The finished result, or NULL when there is none that fits the recipe.
static fm_doc *load_result(const struct fm_recipe *recipe, int index, const char *out)
{
    char path[PATH_BYTES];
    fm_doc *result = NULL;
    int64_t key = -1;
    if (result_path(out, &recipe->stages[index], path) < 0 || fm_base_doc_load(path, &result) < 0)
        return NULL;
    if (fm_base_doc_int(fm_base_doc_get(result, "key"), "key", 0, UINT32_MAX, &key) < 0 ||
        key != current_key(recipe, index, out)) {
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

static fm_status run_stage(const struct fm_recipe *recipe, int index, const char *out, int fresh)
{
    const struct fm_recipe_stage *stage = &recipe->stages[index];
    char folder[PATH_BYTES];
    if (snprintf(folder, sizeof folder, "%s/%s", out, stage->name) >= PATH_BYTES)
        return fm_base_error_set(FM_ERR_LIMIT, "the name of the run's folder is too long");
    FM_TRY(fm_base_dir_create(folder));
    // What is changed from here on is no longer what an earlier result tells of, should this run be stopped.
    char earlier[PATH_BYTES];
    FM_TRY(result_path(out, stage, earlier));
    FM_TRY(fm_base_dir_remove(earlier));
    fm_json json = {.pretty = 1};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "stage", stage->kind->name);
    fm_base_json_int(&json, "key", current_key(recipe, index, out));
    fm_base_json_begin(&json, "facts", '[');
    const char *done[FM_RECIPE_STAGES_MAX];
    for (int i = 0; i < index; i++)
        done[i] = recipe->stages[i].name;
    struct fm_stage_run run = {.name = stage->name,
                               .folder = folder,
                               .run_folder = out,
                               .done = done,
                               .done_count = index,
                               .key = current_key(recipe, index, out),
                               .fresh = fresh,
                               .facts = &json};
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
    fprintf(stderr, "[%d/%d] %s: done in %.1f s\n", index + 1, recipe->stage_count, stage->name, seconds);
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

static fm_status check_only(const struct fm_recipe *recipe, const char *only)
{
    const char *names[FM_RECIPE_STAGES_MAX + 1] = {0};
    for (int i = 0; i < recipe->stage_count; i++) {
        names[i] = recipe->stages[i].name;
        if (strcmp(names[i], only) == 0)
            return FM_OK;
    }
    const char *nearest = fm_base_nearest(only, names);
    return fm_base_error_set(FM_ERR_ARG, "the recipe has no stage named \"%s\"%s%s%s", only,
                             nearest ? "; did you mean \"" : "", nearest ? nearest : "",
                             nearest ? "\"?" : "");
}

static fm_status run_stages(const struct fm_recipe *recipe, const struct run_options *options)
{
    for (int i = 0; i < recipe->stage_count; i++) {
        const struct fm_recipe_stage *stage = &recipe->stages[i];
        if (options->only && strcmp(options->only, stage->name) != 0)
            continue;
        FM_TRY(fm_base_interrupt_check());
        fm_doc *done = options->fresh || options->only ? NULL : load_result(recipe, i, options->out);
        fm_base_doc_free(done);
        fprintf(stderr, "[%d/%d] %s: %s\n", i + 1, recipe->stage_count, stage->name,
                done ? "done before" : stage->kind->summary);
        if (!done)
            FM_TRY(run_stage(recipe, i, options->out, options->fresh || options->only));
    }
    return FM_OK;
}

// Two runs in one folder would write each other's results. The lock ends with the process, however it ends, and is not what its
// children have, too (as flock's is), for executors may outlive a run that was killed by a moment. The file stays: a lock on
// a file that somebody removes excludes nobody.
static fm_status lock_folder(const char *out, int *out_lock)
{
    char path[PATH_BYTES];
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (snprintf(path, sizeof path, "%s/.lock", out) >= PATH_BYTES)
        return fm_base_error_set(FM_ERR_LIMIT, "the name of the run's folder is too long");
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock < 0)
        return fm_base_file_error(errno, "%s", path);
    if (fcntl(lock, F_SETLK, &whole) != 0) {
        int error = errno;
        close(lock);
        return error == EACCES || error == EAGAIN
                   ? fm_base_error_set(FM_ERR_BUSY, "%s: another run uses this folder", out)
                   : fm_base_file_error(error, "%s", path);
    }
    *out_lock = lock;
    return FM_OK;
}

// A fact as it is in result.json.
static void copy_fact(fm_json *json, const fm_doc *fact)
{
    fm_base_json_begin(json, NULL, '{');
    for (size_t i = 0; i < fm_base_doc_count(fact); i++) {
        const char *key = fm_base_doc_key(fact, i);
        const fm_doc *value = fm_base_doc_at(fact, i);
        const char *text;
        int64_t integer;
        double real;
        if (fm_base_doc_type(value) == FM_DOC_STRING && fm_base_doc_string(value, key, &text) == FM_OK)
            fm_base_json_string(json, key, text);
        else if (fm_base_doc_type(value) == FM_DOC_INT &&
                 fm_base_doc_int(value, key, INT64_MIN, INT64_MAX, &integer) == FM_OK)
            fm_base_json_int(json, key, integer);
        else if (fm_base_doc_type(value) == FM_DOC_REAL && fm_base_doc_real(value, key, &real) == FM_OK)
            fm_base_json_real(json, key, real);
        else
            fm_base_json_null(json, key);
    }
    fm_base_json_end(json);
}

// A run with a stage that sums it up ends with that stage's rows, others with all rows.
static int has_row(const struct fm_recipe *recipe, int index)
{
    for (int i = 0; i < recipe->stage_count; i++)
        if (recipe->stages[i].kind->is_summary)
            return recipe->stages[index].kind->is_summary;
    return 1;
}

static void summarise_stage(const char *name, const fm_doc *facts, fm_json *json, fm_table *table)
{
    fm_base_json_begin(json, name, '[');
    for (size_t f = 0; f < fm_base_doc_count(facts); f++) {
        const char *what;
        char shown[PATH_BYTES];
        if (fm_app_stage_fact_show(fm_base_doc_at(facts, f), &what, shown, sizeof shown) < 0)
            continue;
        copy_fact(json, fm_base_doc_at(facts, f));
        if (!table)
            continue;
        fm_base_table_cell(table, "%s", f == 0 ? name : "");
        fm_base_table_cell(table, "%s", what);
        fm_base_table_cell(table, "%s", shown);
    }
    fm_base_json_end(json);
}

static const char *fact_text(const fm_doc *facts, const char *what)
{
    for (size_t i = 0; i < fm_base_doc_count(facts); i++) {
        const fm_doc *fact = fm_base_doc_at(facts, i);
        const char *name, *text;
        if (fm_base_doc_string(fm_base_doc_get(fact, "what"), "what", &name) == FM_OK &&
            strcmp(name, what) == 0 &&
            fm_base_doc_string(fm_base_doc_get(fact, "value"), what, &text) == FM_OK)
            return text;
    }
    return "";
}

// What a model wrote may hold anything; its lines stay lines.
static void print_safely(const char *text)
{
    while (*text) {
        char line[256];
        size_t length = strcspn(text, "\n"), part = length < sizeof line - 1 ? length : sizeof line - 1;
        memcpy(line, text, part);
        line[part] = '\0';
        fm_base_text_clean(line);
        fputs(line, stdout);
        if (part == length && text[length] == '\n') {
            putchar('\n');
            part++;
        }
        text += part;
    }
}

// What the model wrote, below the table.
static void show_passages(const struct fm_recipe *recipe, const char *out)
{
    for (int i = 0; i < recipe->stage_count; i++) {
        fm_doc *result =
            strcmp(recipe->stages[i].kind->name, "generate") == 0 ? load_result(recipe, i, out) : NULL;
        const fm_doc *facts = fm_base_doc_get(result, "facts");
        if (facts) {
            putchar('\n');
            print_safely(fact_text(facts, "prompt"));
            print_safely(fact_text(facts, "continuation"));
            putchar('\n');
        }
        fm_base_doc_free(result);
    }
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
        fm_doc *result = load_result(recipe, i, out);
        summarise_stage(recipe->stages[i].name, fm_base_doc_get(result, "facts"), &json,
                        has_row(recipe, i) ? &table : NULL);
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
    if (!json_wanted)
        show_passages(recipe, out);
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
            const char *value = option->value ? option->value : "";
            snprintf(line, sizeof line, "%s: %s", option->name, *value || !option->value ? value : "\"\"");
            printf("      %-28s # %s%s%s%s\n", line, option->help, option->unit ? " (" : "",
                   option->unit ? option->unit : "", option->unit ? ")" : "");
        }
        printf("\n");
    }
}

static fm_status check_words(const fm_invocation *invocation, const struct run_options *options)
{
    if (invocation->operand_count == 0)
        return fm_base_error_set(FM_ERR_ARG, "missing operand: expected RECIPE");
    if (!*invocation->operands[0])
        return fm_base_error_set(FM_ERR_ARG, "RECIPE is empty; expected the name of a YAML file");
    if (!*options->out)
        return fm_base_error_set(FM_ERR_ARG, "--out is empty; expected the name of a folder");
    return FM_OK;
}

static fm_status run_recipe(const struct fm_recipe *recipe, const struct run_options *options, int json)
{
    int lock = -1;
    FM_TRY(fm_base_dir_create(options->out));
    FM_TRY(lock_folder(options->out, &lock));
    fm_status status = check_needs(recipe, options->out);
    if (status == FM_OK)
        status = run_stages(recipe, options);
    if (status == FM_OK)
        status = summarise(recipe, options->out, json);
    close(lock);
    return status;
}

static fm_status run_run(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct run_options *options = given;
    struct fm_recipe recipe;
    if (options->stages) {
        list_stages();
        return FM_OK;
    }
    fm_status status = check_words(invocation, options);
    if (status < 0) {
        *out_exit = 2;
        return status;
    }
    FM_TRY(fm_app_recipe_load(invocation->operands[0], &recipe));
    if (options->only && (status = check_only(&recipe, options->only)) < 0) {
        *out_exit = 2;
        fm_app_recipe_free(&recipe);
        return status;
    }
    if (options->check) {
        printf("%s: %d stages\n", recipe.name, recipe.stage_count);
        fm_app_recipe_free(&recipe);
        return FM_OK;
    }
    fm_base_run_id(); // names what the run makes, for `fathom clean`
    status = fm_base_interrupt_install();
    if (status == FM_OK)
        status = run_recipe(&recipe, options, invocation->json);
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
               "options, a stage before it or its result, or the program changed. Ctrl-C stops at the next "
               "safe place.",
    .options = run_schema,
    .options_size = sizeof(struct run_options),
    .operands_max = 1,
    .has_json = 1,
    .run = run_run,
};
