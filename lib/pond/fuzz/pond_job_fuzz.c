// Any bytes are read as a job file; a job that is one is planned, as far as that looks at no files.
#include <stdlib.h>

#include "fathom/mem.h"
#include "pond_plan.h"
#include "pond_schema.h"
#include "pond_stage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int reads_files(const fm_pond_op *op)
{
    return op->kind == FM_POND_SOURCE && op->format <= FM_POND_FILES;
}

static void plan_it(fm_pond_plan *plan)
{
    int files = 0;
    char *text = NULL;
    for (size_t i = 0; i < plan->count; i++) {
        const fm_pond_op *op = &plan->nodes[i].op;
        fm_pond_text schema = {0};
        fm_pond_schema_column column;
        files |= reads_files(op);
        if (op->schema && fm_pond_schema_make(op->schema, NULL, &schema) == FM_OK)
            for (const char *at = schema.text; (at = fm_pond_schema_next(at, &column));)
                if (column.name_length < 3 || column.type_length < 3)
                    abort(); // quotes, and something between
        fm_pond_text_clear(&schema);
    }
    if (!files && fm_pond_plan_explain(plan, &text) == FM_OK && !text)
        abort();
    fm_base_mem_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fm_doc *job;
    fm_pond_plan *plan;
    if (fm_base_doc_parse_yaml((const char *)data, size, "job.yaml", &job) < 0)
        return 0;
    if (fm_pond_plan_read(job, &plan) == FM_OK) {
        plan_it(plan);
        fm_pond_plan_free(plan);
    }
    fm_base_doc_free(job);
    return 0;
}
