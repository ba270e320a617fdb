/* Stages: what a recipe is made of. A new one: stage_<name>.c, a line here and one in stage.c's table. */
#ifndef FM_STAGE_H
#define FM_STAGE_H

#include "fathom/config.h"
#include "fathom/doc.h"
#include "fathom/fs.h"
#include "fathom/text.h"

/** What a running stage is given, and where it puts what it found. */
struct fm_stage_run {
    const char *name;        /**< of this stage in the recipe, and of its folder */
    const char *folder;      /**< its own, existing: "run/placement" */
    const char *run_folder;  /**< "run": the other stages' folders lie in it */
    const char *const *done; /**< the names of the stages before this one, whose results are there */
    int done_count;
    uint32_t
        key; /**< of its options and all that it stands on: what was made under another key is of another run */
    int fresh;      /**< asked to begin anew */
    fm_json *facts; /**< an open array; see fm_app_stage_text() */
};

/** A kind of stage. Interrupted or failed, it is run again from what its folder holds. */
struct fm_stage {
    const char *name;
    const char *summary;
    const fm_option *schema; /**< the keys of its `with:` section */
    size_t options_size;
    int is_summary; /**< its facts are what the run comes down to: the table that a run ends with has them alone */
    fm_status (*run)(struct fm_stage_run *run, const void *options);
};

/** Records what a stage found: {"what": "cpu", "value": "...", "unit": null}, a row of the table that ends the run. */
void fm_app_stage_text(struct fm_stage_run *run, const char *what, const char *format, ...) FM_PRINTF(3, 4);
/** The same for a number: {"what": "memory read", "value": 16.71, "unit": "GB/s"}. `unit`: "B" for bytes, which people see
 * with a binary prefix; NULL for a count or a ratio. */
void fm_app_stage_number(struct fm_stage_run *run, const char *what, double value, const char *unit);

/** A fact as people read it: what, and "16.71 GB/s". FM_ERR_FORMAT when the node is no fact. `*out_what` is borrowed. */
FM_MUST_USE fm_status fm_app_stage_fact_show(const fm_doc *fact, const char **out_what, char *out_shown,
                                             size_t size);

/** The file system that stages keep what they make in: the run's folder. The caller closes it. */
FM_MUST_USE fm_status fm_app_stage_fs(const struct fm_stage_run *run, fm_fs **out_fs);

/** The kind by its name; NULL when there is none. */
const struct fm_stage *fm_app_stage_find(const char *name);
/** NULL-terminated names of all kinds. */
const char *const *fm_app_stage_names(void);

extern const struct fm_stage fm_stage_balance;
extern const struct fm_stage fm_stage_corpus;
extern const struct fm_stage fm_stage_data;
extern const struct fm_stage fm_stage_generate;
extern const struct fm_stage fm_stage_machine;
extern const struct fm_stage fm_stage_placement;
extern const struct fm_stage fm_stage_report;
extern const struct fm_stage fm_stage_schedule;
extern const struct fm_stage fm_stage_train;

#endif
