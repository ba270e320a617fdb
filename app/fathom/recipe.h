/* A recipe: a YAML file that names stages and what they are run with. */
#ifndef FM_RECIPE_H
#define FM_RECIPE_H

#include <stdint.h>

#include "fathom/mem.h"
#include "stage.h"

enum { FM_RECIPE_STAGES_MAX = 64 };

struct fm_recipe_stage {
    const char *name; /**< unique in the recipe; also its folder's name */
    const struct fm_stage *kind;
    void *options;
    uint32_t
        key; /**< of its kind, its options and those of the stages before it. What a finished result must match to be
                     kept covers the result before it besides, which the recipe does not know. */
};

struct fm_recipe {
    const char *name;
    int64_t disk_bytes, memory_bytes, shm_bytes; /**< what it needs */
    struct fm_recipe_stage stages[FM_RECIPE_STAGES_MAX];
    int stage_count;
    fm_doc *doc; /**< strings point into it */
    fm_arena arena;
};

/** Reads and checks a recipe. Errors name file and line. */
FM_MUST_USE fm_status fm_app_recipe_load(const char *path, struct fm_recipe *out_recipe);
void fm_app_recipe_free(struct fm_recipe *recipe);

#endif
