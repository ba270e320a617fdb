// Counts the words of lines with a function of its own, on local processes, and shows the sink's first file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/pond.h"

// A row of each word: the length of the line's words.
static fm_status split(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    (void)context;
    const fm_pond_column *line = fm_pond_batch_find(batch, "line");
    for (size_t i = 0; i < batch->rows; i++) {
        const char *at = line->values[i].bytes, *end = at + line->values[i].length;
        while (at < end) {
            const char *space = memchr(at, ' ', (size_t)(end - at));
            size_t length = (size_t)((space ? space : end) - at);
            FM_TRY(fm_pond_rows_bytes(out, at, length));
            FM_TRY(fm_pond_rows_end(out));
            at += length + 1;
        }
    }
    return FM_OK;
}

static fm_status add(fm_pond_plan *plan, fm_pond_op op)
{
    op.size = sizeof op;
    return fm_pond_plan_add(plan, &op, NULL);
}

static fm_status make(fm_pond_plan *plan, const char *in, const char *out)
{
    FM_TRY(fm_pond_function_register("split", split, NULL, "1"));
    FM_TRY(add(plan,
               (fm_pond_op){.kind = FM_POND_SOURCE, .format = FM_POND_TEXT, .paths = &in, .path_count = 1}));
    FM_TRY(add(plan, (fm_pond_op){.kind = FM_POND_MAP_BATCHES, .text = "split", .schema = "word VARCHAR"}));
    FM_TRY(add(plan, (fm_pond_op){
                         .kind = FM_POND_GROUP_BY, .by = "word", .text = "count(*) AS n", .partitions = 2}));
    FM_TRY(add(plan, (fm_pond_op){.kind = FM_POND_SORT, .by = "n DESC, word", .partitions = 1}));
    return add(plan, (fm_pond_op){.kind = FM_POND_SINK,
                                  .format = FM_POND_CSV,
                                  .paths = &out,
                                  .path_count = 1,
                                  .mode = FM_POND_OVERWRITE});
}

static fm_status run(const char *folder)
{
    static const char text[] = "to be or not to be\nthat is the question\n";
    char in[512], out[512], work[512], first[512], *bytes;
    size_t length;
    fm_pond_plan *plan;
    snprintf(in, sizeof in, "%s/in.txt", folder);
    snprintf(out, sizeof out, "%s/out", folder);
    snprintf(work, sizeof work, "%s/work", folder);
    snprintf(first, sizeof first, "%s/out/part-00000.csv", folder);
    FM_TRY(fm_base_file_save(in, text, sizeof text - 1));
    FM_TRY(fm_pond_plan_new(&plan));
    fm_status status = make(plan, in, out);
    if (status == FM_OK)
        status = fm_pond_plan_run(
            plan, &(fm_pond_run_options){.size = sizeof(fm_pond_run_options), .work = work}, NULL);
    fm_pond_plan_free(plan);
    FM_TRY(status);
    FM_TRY(fm_base_file_read(first, 1 << 20, &bytes, &length));
    fwrite(bytes, 1, length, stdout);
    fm_base_mem_free(bytes);
    return FM_OK;
}

int main(void)
{
    const char *base = getenv("TMPDIR");
    char folder[256];
    snprintf(folder, sizeof folder, "%s/pond-words-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        return 1;
    }
    fm_status status = run(folder);
    if (status == FM_ERR_UNAVAILABLE)
        printf("SKIP example.pond_words: %s\n", fm_error_message());
    else if (status < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    if (fm_base_dir_remove(folder) < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    return status < 0 && status != FM_ERR_UNAVAILABLE;
}
