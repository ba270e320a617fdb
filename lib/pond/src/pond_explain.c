#include "fathom/text.h"
#include "pond_stage.h"

static const char *const scheme_names[] = {"", "files", "rows", "hash", "column", "range", "random"};

static void add_input(const fm_pond_physical *physical, int number, fm_pond_text *text)
{
    const fm_pond_dataset *dataset = &physical->datasets[number];
    const fm_pond_plan *plan = physical->plan;
    fm_pond_text_add(text,
                     "    reads   %s in %d partition%s: ", fm_base_text_bytes((double)dataset->bytes).text,
                     dataset->partitions, dataset->partitions == 1 ? "" : "s");
    switch (dataset->kind) {
    case FM_POND_DATASET_SOURCE:
        if (dataset->file_count)
            fm_pond_text_add(text, "%zu files from %s\n", dataset->file_count, dataset->files[0].path);
        else
            fm_pond_text_add(text, "%s\n",
                             plan->nodes[dataset->node].op.format == FM_POND_RANGE ? "a range" : "a query");
        break;
    case FM_POND_DATASET_PLAIN:
    case FM_POND_DATASET_SHUFFLED:
        fm_pond_text_add(text, "stage %d\n", dataset->stage + 1);
        break;
    case FM_POND_DATASET_FILES:
        fm_pond_text_add(text, "files of %s\n",
                         physical->datasets[dataset->of].kind == FM_POND_DATASET_SOURCE
                             ? "a source"
                             : "a stage, shared out as they lie");
        break;
    case FM_POND_DATASET_ROWS:
        fm_pond_text_add(text, "rows of stage %d, shared out as they lie\n",
                         physical->datasets[dataset->of].stage + 1);
        break;
    }
}

static uint64_t add_stage(const fm_pond_physical *physical, int number, fm_pond_text *text)
{
    const fm_pond_stage *stage = &physical->stages[number];
    const fm_pond_op *op = &physical->plan->nodes[stage->node].op;
    uint64_t bytes = 0;
    fm_pond_text_add(text, "stage %d: %s%s%s, %d task%s\n", number + 1, stage->name, op->name ? " of " : "",
                     op->name ? op->name : "", stage->tasks, stage->tasks == 1 ? "" : "s");
    for (int i = 0; i < stage->dataset_count; i++) {
        bytes += physical->datasets[stage->datasets[i]].bytes;
        add_input(physical, stage->datasets[i], text);
    }
    for (int i = 0; i < stage->def_count; i++) {
        const fm_pond_def *def = &physical->defs[stage->defs[i]];
        fm_pond_text_add(text, "    does    %s%s\n", def->sql ? "" : "function ",
                         def->sql ? def->sql : def->function);
    }
    if (stage->kind == FM_POND_OUT_SHUFFLE)
        fm_pond_text_add(
            text, "    moves   rows to %d partitions by %s%s%s; counted and summed on both sides\n",
            stage->parts, scheme_names[stage->scheme], stage->by ? " of " : "", stage->by ? stage->by : "");
    else
        fm_pond_text_add(text, "    writes  %s%s\n",
                         stage->kind == FM_POND_OUT_SINK ? "the sink " : "a file a task",
                         stage->kind == FM_POND_OUT_SINK ? op->paths[0] : "");
    return bytes;
}

fm_status fm_pond_plan_explain(fm_pond_plan *plan, char **out_text)
{
    fm_pond_physical physical;
    fm_pond_text text = {0};
    uint64_t read = 0, written = 0;
    FM_TRY(fm_pond_physical_make(plan, &physical));
    for (int i = 0; i < physical.stage_count; i++) {
        uint64_t bytes = add_stage(&physical, i, &text);
        read += bytes;
        written += bytes;
    }
    fm_pond_text_add(
        &text,
        "in all: %s read and at most %s written, if no step drops or adds bytes and Parquet is as dense as "
        "the source\n",
        fm_base_text_bytes((double)read).text, fm_base_text_bytes((double)written).text);
    fm_pond_physical_clear(&physical);
    fm_status status = fm_pond_text_status(&text);
    if (status == FM_OK)
        *out_text = text.text;
    else
        fm_pond_text_clear(&text);
    return status;
}
