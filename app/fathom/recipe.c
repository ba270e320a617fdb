#include "recipe.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "fathom/crc.h"

struct needs {
    int64_t disk, memory, shared_memory;
};

static const fm_option needs_schema[] = {
    {"disk", FM_OPTION_SIZE, offsetof(struct needs, disk), .help = "free space where the run's folder lies"},
    {"memory", FM_OPTION_SIZE, offsetof(struct needs, memory), .help = "memory that is available"},
    {"shared-memory", FM_OPTION_SIZE, offsetof(struct needs, shared_memory),
     .help = "free space in /dev/shm"},
    {0},
};

static uint32_t key_of_text(uint32_t key, const char *text)
{
    return fm_base_crc32c(key, text, strlen(text) + 1);
}

// The key covers values, not their spelling: 1024 and 1KiB are one configuration.
static uint32_t key_of_options(uint32_t key, const fm_option *schema, const void *options)
{
    for (; schema && schema->name; schema++) {
        const char *slot = (const char *)options + schema->offset;
        const char *text = NULL;
        key = key_of_text(key, schema->name);
        switch (schema->type) {
        case FM_OPTION_FLAG:
            key = fm_base_crc32c(key, slot, sizeof(int));
            break;
        case FM_OPTION_INT:
        case FM_OPTION_SIZE:
        case FM_OPTION_REAL:
            key = fm_base_crc32c(key, slot, sizeof(int64_t));
            break;
        case FM_OPTION_STRING:
        case FM_OPTION_CHOICE:
            memcpy(&text, slot, sizeof text);
            key = key_of_text(key, text ? text : "");
            break;
        }
    }
    return key;
}

static fm_status check_name(const struct fm_recipe *recipe, const fm_doc *node, const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > 64 || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != length)
        return fm_base_doc_error(FM_ERR_FORMAT, node,
                                 "stage name \"%s\"; expected 1 to 64 of a-z, 0-9, - and _", name);
    for (int i = 0; i < recipe->stage_count; i++)
        if (strcmp(recipe->stages[i].name, name) == 0)
            return fm_base_doc_error(FM_ERR_FORMAT, node,
                                     "a second stage is named \"%s\"; give it another `name`", name);
    return FM_OK;
}

// A typed read of what is not there could not say in which file it is not.
static fm_status expect_key(const fm_doc *object, const char *what, const char *key)
{
    return fm_base_doc_get(object, key)
               ? FM_OK
               : fm_base_doc_error(FM_ERR_FORMAT, object, "%s has no `%s`", what, key);
}

static fm_status read_stage(struct fm_recipe *recipe, const fm_doc *node, uint32_t *key)
{
    static const char *const keys[] = {"stage", "name", "with", NULL};
    FM_TRY(fm_base_doc_known_keys(node, "a stage", keys));
    const char *kind_name;
    FM_TRY(expect_key(node, "a stage", "stage"));
    FM_TRY(fm_base_doc_string(fm_base_doc_get(node, "stage"), "stage", &kind_name));
    struct fm_recipe_stage stage = {.name = kind_name, .kind = fm_app_stage_find(kind_name)};
    if (!stage.kind) {
        const char *nearest = fm_base_nearest(kind_name, fm_app_stage_names());
        return fm_base_doc_error(FM_ERR_FORMAT, fm_base_doc_get(node, "stage"), "unknown stage \"%s\"%s%s%s",
                                 kind_name, nearest ? "; did you mean \"" : "", nearest ? nearest : "",
                                 nearest ? "\"?" : "");
    }
    if (fm_base_doc_get(node, "name"))
        FM_TRY(fm_base_doc_string(fm_base_doc_get(node, "name"), "name", &stage.name));
    FM_TRY(check_name(recipe, node, stage.name));
    stage.options = fm_base_arena_alloc(&recipe->arena, stage.kind->options_size);
    if (!stage.options)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the recipe");
    memset(stage.options, 0, stage.kind->options_size);
    FM_TRY(fm_base_config_defaults(stage.kind->schema, stage.options));
    const fm_doc *with = fm_base_doc_get(node, "with");
    if (with)
        FM_TRY(fm_base_config_from_doc(stage.kind->schema, with, stage.options));
    FM_TRY(fm_base_config_from_env(stage.kind->schema, stage.name, stage.options));
    *key = key_of_options(key_of_text(*key, kind_name), stage.kind->schema, stage.options);
    stage.key = *key;
    recipe->stages[recipe->stage_count++] = stage;
    return FM_OK;
}

static fm_status read_recipe(struct fm_recipe *recipe)
{
    static const char *const keys[] = {"name", "needs", "stages", NULL};
    FM_TRY(fm_base_doc_expect(recipe->doc, "a recipe", FM_DOC_OBJECT));
    FM_TRY(fm_base_doc_known_keys(recipe->doc, "a recipe", keys));
    FM_TRY(expect_key(recipe->doc, "the recipe", "name"));
    FM_TRY(fm_base_doc_string(fm_base_doc_get(recipe->doc, "name"), "name", &recipe->name));
    FM_TRY(expect_key(recipe->doc, "the recipe", "stages"));
    const fm_doc *section = fm_base_doc_get(recipe->doc, "needs");
    struct needs needs = {0};
    if (section)
        FM_TRY(fm_base_config_from_doc(needs_schema, section, &needs));
    recipe->disk_bytes = needs.disk;
    recipe->memory_bytes = needs.memory;
    recipe->shm_bytes = needs.shared_memory;
    const fm_doc *stages = fm_base_doc_get(recipe->doc, "stages");
    FM_TRY(fm_base_doc_expect(stages, "stages", FM_DOC_ARRAY));
    size_t count = fm_base_doc_count(stages);
    if (count == 0 || count > FM_RECIPE_STAGES_MAX)
        return fm_base_doc_error(FM_ERR_FORMAT, stages, "%zu stages; expected 1 to %d", count,
                                 FM_RECIPE_STAGES_MAX);
    // A new version of the program may compute something else.
    uint32_t key = key_of_text(0, FM_VERSION);
    for (size_t i = 0; i < count; i++)
        FM_TRY(read_stage(recipe, fm_base_doc_at(stages, i), &key));
    return FM_OK;
}

fm_status fm_app_recipe_load(const char *path, struct fm_recipe *out_recipe)
{
    struct fm_recipe recipe = {0};
    FM_TRY(fm_base_doc_load(path, &recipe.doc));
    fm_status status = read_recipe(&recipe);
    if (status < 0) {
        fm_app_recipe_free(&recipe);
        return status;
    }
    *out_recipe = recipe;
    return FM_OK;
}

void fm_app_recipe_free(struct fm_recipe *recipe)
{
    fm_base_doc_free(recipe->doc);
    fm_base_arena_clear(&recipe->arena);
    *recipe = (struct fm_recipe){0};
}
