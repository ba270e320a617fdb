#include "token_plan.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/fs_dataset.h"
#include "fathom/mem.h"
#include "fathom/pond.h"
#include "fathom/rng.h"
#include "stage_files.h"

enum { KEY_STREAM = 3 };

/** What a document becomes. */
struct maker {
    const fm_tokenizer *tokenizer;
    int32_t end;
    uint64_t seed;
};

// Where a document goes: FNV-1a of its text, mixed by the seed. Positive, for SQL's integers have a sign.
static int64_t key_of(const struct maker *maker, const char *text, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    return (int64_t)(fm_base_rng_at(maker->seed, KEY_STREAM, hash) >> 1);
}

// The tokens of a document and the one that ends it; the caller frees them.
static fm_status encode(const struct maker *maker, const char *text, size_t length, int32_t **out_ids,
                        size_t *out_count)
{
    int32_t *ids;
    size_t count;
    FM_TRY(fm_model_tokenizer_encode(maker->tokenizer, text, length, &ids, &count));
    int32_t *grown = fm_base_mem_realloc(ids, count + 1, sizeof *ids);
    if (!grown) {
        fm_base_mem_free(ids);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu tokens", count + 1);
    }
    grown[count] = maker->end;
    *out_ids = grown;
    *out_count = count + 1;
    return FM_OK;
}

// The tokenizer of the plan whose tasks this process executes: the file that the rows name.
static struct {
    pthread_mutex_t lock;
    char path[PATH_MAX];
    fm_tokenizer *tokenizer;
} loaded = {.lock = PTHREAD_MUTEX_INITIALIZER};

static fm_status load_tokenizer(const fm_pond_bytes *path, const fm_tokenizer **out_tokenizer)
{
    fm_status status = FM_OK;
    pthread_mutex_lock(&loaded.lock);
    if (strlen(loaded.path) != path->length || memcmp(loaded.path, path->bytes, path->length) != 0) {
        fm_model_tokenizer_close(loaded.tokenizer);
        loaded.tokenizer = NULL;
        loaded.path[0] = '\0';
        char name[PATH_MAX];
        snprintf(name, sizeof name, "%.*s", (int)path->length, path->bytes);
        status = fm_model_tokenizer_open(name, &loaded.tokenizer);
        if (status == FM_OK)
            snprintf(loaded.path, sizeof loaded.path, "%s", name);
    }
    *out_tokenizer = loaded.tokenizer;
    pthread_mutex_unlock(&loaded.lock);
    return status;
}

// pond's function: rows (text, tokenizer, seed) become rows (key, tokens).
static fm_status tokenise(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    (void)context;
    if (batch->rows == 0)
        return FM_OK;
    const fm_pond_column *texts = fm_pond_batch_find(batch, "text"),
                         *path = fm_pond_batch_find(batch, "tokenizer"),
                         *seed = fm_pond_batch_find(batch, "seed");
    struct maker maker = {.seed = (uint64_t)seed->integers[0]};
    FM_TRY(load_tokenizer(&path->values[0], &maker.tokenizer));
    maker.end = fm_model_tokenizer_find(maker.tokenizer, FM_DOCUMENT_END);
    for (size_t i = 0; i < batch->rows; i++) {
        const fm_pond_bytes *text = &texts->values[i];
        int32_t *ids;
        size_t count;
        FM_TRY(encode(&maker, text->bytes, text->length, &ids, &count));
        fm_status status = fm_pond_rows_int(out, key_of(&maker, text->bytes, text->length));
        if (status == FM_OK)
            status = fm_pond_rows_bytes(out, ids, count * sizeof *ids);
        if (status == FM_OK)
            status = fm_pond_rows_end(out);
        fm_base_mem_free(ids);
        FM_TRY(status);
    }
    return FM_OK;
}

fm_status fm_app_token_functions_register(void)
{
    return fm_pond_function_register("tokenise", tokenise, NULL, "1");
}

static fm_status add(fm_pond_plan *plan, fm_pond_op op)
{
    int node;
    op.size = sizeof op;
    return fm_pond_plan_add(plan, &op, &node);
}

// The paths of a split's shards as the kernel knows them: DuckDB reads them by itself.
static fm_status source(const fm_token_plan *p, const char *split, fm_pond_plan *plan)
{
    char manifest[FM_STAGE_PATH_BYTES], name[FM_STAGE_PATH_BYTES];
    fm_fs_dataset *dataset;
    snprintf(manifest, sizeof manifest, "%s/%s.manifest", p->corpus, split);
    FM_TRY(fm_fs_dataset_open(p->fs, manifest, 1, &dataset));
    size_t count = fm_fs_dataset_count(dataset);
    char(*paths)[PATH_MAX] = fm_base_mem_zalloc(count, sizeof *paths);
    const char **pointers = fm_base_mem_zalloc(count, sizeof *pointers);
    fm_status status = paths && pointers ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for paths");
    for (size_t i = 0; status == FM_OK && i < count; i++) {
        snprintf(name, sizeof name, "%s/%s", p->corpus, fm_fs_dataset_name(dataset, i));
        status = fm_fs_local_path(p->fs, name, paths[i], sizeof paths[i]);
        pointers[i] = paths[i];
    }
    if (status == FM_OK)
        status = add(plan, (fm_pond_op){.kind = FM_POND_SOURCE,
                                        .format = FM_POND_FILES,
                                        .paths = pointers,
                                        .path_count = count,
                                        .partitions = (int64_t)count});
    fm_base_mem_free(paths);
    fm_base_mem_free(pointers);
    fm_fs_dataset_close(dataset);
    return status;
}

// The rows (text, tokenizer, seed) of documents; the version is there for the keys of tasks, which stand on the tokenizer's content.
static fm_status map_documents(const fm_token_plan *p, fm_pond_plan *plan)
{
    char path[PATH_MAX], quoted[2 * PATH_MAX], *text;
    size_t length = 0;
    FM_TRY(fm_fs_local_path(p->fs, p->tokenizer_path, path, sizeof path));
    for (const char *at = path; *at; at++) {
        if (*at == '\'')
            quoted[length++] = '\'';
        quoted[length++] = *at;
    }
    if (asprintf(&text,
                 "unnest(string_split(content, '" FM_DOCUMENT_END
                 "')) AS text, '%.*s' AS tokenizer, %llu AS seed, '%s' AS version",
                 (int)length, quoted, (unsigned long long)p->seed, p->version) < 0)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plan");
    fm_status status = add(plan, (fm_pond_op){.kind = FM_POND_MAP, .text = text});
    free(text);
    return status;
}

static fm_status plan_split(const fm_token_plan *p, const char *split, fm_pond_plan *plan)
{
    char by[64], name[FM_STAGE_PATH_BYTES], folder[PATH_MAX];
    snprintf(by, sizeof by, "key %% %lld", (long long)p->parts);
    snprintf(name, sizeof name, "%s/%s", p->stage, split);
    FM_TRY(fm_fs_local_path(p->fs, name, folder, sizeof folder));
    FM_TRY(source(p, split, plan));
    FM_TRY(map_documents(p, plan));
    FM_TRY(add(plan, (fm_pond_op){.kind = FM_POND_FILTER, .text = "length(text) > 0"}));
    FM_TRY(add(
        plan,
        (fm_pond_op){.kind = FM_POND_MAP_BATCHES, .text = "tokenise", .schema = "key BIGINT, tokens BLOB"}));
    FM_TRY(add(plan, (fm_pond_op){.kind = FM_POND_REPARTITION,
                                  .scheme = FM_POND_BY_COLUMN,
                                  .by = by,
                                  .partitions = p->parts}));
    FM_TRY(add(
        plan, (fm_pond_op){.kind = FM_POND_SQL,
                           .text = "SELECT any_value(tokens) AS tokens FROM {0} GROUP BY key ORDER BY key"}));
    return add(plan, (fm_pond_op){.kind = FM_POND_SINK,
                                  .format = FM_POND_RAW,
                                  .paths = (const char *[]){folder},
                                  .path_count = 1,
                                  .mode = FM_POND_OVERWRITE});
}

static fm_status run_pond(const fm_token_plan *p, fm_token_plan_figures *figures)
{
    char name[FM_STAGE_PATH_BYTES], work[PATH_MAX];
    fm_pond_plan *plan;
    fm_pond_run_report report = {0};
    snprintf(name, sizeof name, "%s/tasks", p->stage);
    FM_TRY(fm_fs_local_path(p->fs, name, work, sizeof work));
    FM_TRY(fm_app_token_functions_register());
    FM_TRY(fm_pond_plan_new(&plan));
    fm_status status = FM_OK;
    for (const char *const *split = p->splits; status == FM_OK && *split; split++)
        status = plan_split(p, *split, plan);
    fm_pond_run_options options = {
        .size = sizeof options, .work = work, .progress = 1, .executors = p->executors};
    if (p->slurm) {
        options.slurm = p->slurm;
        options.launch_count = p->executors > 0 ? p->executors : 1;
        options.executors = -1;
    }
    if (status == FM_OK)
        status = fm_pond_plan_run(plan, &options, &report);
    fm_pond_plan_free(plan);
    FM_TRY(status);
    figures->documents = report.rows;
    figures->tasks = report.tasks;
    return fm_fs_remove_all(p->fs, name); // what tasks made is in the shards now
}

/** A document in memory. */
struct document {
    int64_t part, key;
    const char *text;
    size_t length;
};

static int by_place(const void *left, const void *right)
{
    const struct document *a = left, *b = right;
    return a->part != b->part ? (a->part > b->part) - (a->part < b->part)
                              : (a->key > b->key) - (a->key < b->key);
}

static fm_status cut_documents(const struct maker *maker, int64_t parts, const char *text, size_t length,
                               struct document **out_documents, size_t *out_count)
{
    const char *at = text, *end = text + length;
    size_t count = 0, mark = strlen(FM_DOCUMENT_END);
    struct document *documents = NULL;
    for (int pass = 0; pass < 2; pass++) { // counts, then takes
        for (at = text, count = 0; at < end;) {
            const char *stop = memmem(at, (size_t)(end - at), FM_DOCUMENT_END, mark);
            size_t size = (size_t)((stop ? stop : end) - at);
            if (size > 0) {
                if (documents) {
                    int64_t key = key_of(maker, at, size);
                    documents[count] = (struct document){key % parts, key, at, size};
                }
                count++;
            }
            at = stop ? stop + mark : end;
        }
        if (pass == 0 && !(documents = fm_base_mem_zalloc(count + 1, sizeof *documents)))
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu documents", count);
    }
    qsort(documents, count, sizeof *documents, by_place);
    *out_documents = documents;
    *out_count = count;
    return FM_OK;
}

static fm_status write_part(const struct maker *maker, const struct document *documents, size_t count,
                            fm_fs_writer *writer, uint64_t *written)
{
    for (size_t i = 0; i < count; i++) {
        int32_t *ids;
        size_t tokens;
        if (i > 0 && documents[i].key == documents[i - 1].key)
            continue;
        FM_TRY(encode(maker, documents[i].text, documents[i].length, &ids, &tokens));
        fm_fs_writer_write(writer, ids, tokens * sizeof *ids); // the commit says how it went
        fm_base_mem_free(ids);
        ++*written;
    }
    return FM_OK;
}

static fm_status write_split(const fm_token_plan *p, const struct maker *maker, const char *split,
                             const struct document *documents, size_t count, uint64_t *written)
{
    char path[FM_STAGE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", p->stage, split);
    fm_status removed = fm_fs_remove_all(p->fs, path);
    if (removed < 0 && removed != FM_ERR_NOT_FOUND)
        return removed;
    FM_TRY(fm_fs_mkdir(p->fs, path, FM_FS_PARENTS));
    for (int64_t part = 0; part < p->parts; part++) {
        fm_fs_writer *writer;
        size_t here = 0;
        while (here < count && documents[here].part == part)
            here++;
        snprintf(path, sizeof path, "%s/%s/part-%05lld.bin", p->stage, split, (long long)part);
        FM_TRY(fm_fs_writer_open(p->fs, path, 0, &writer));
        fm_status status = write_part(maker, documents, here, writer, written);
        if (status < 0) {
            fm_fs_writer_discard(writer);
            return status;
        }
        FM_TRY(fm_fs_writer_commit(writer));
        documents += here;
        count -= here;
    }
    return FM_OK;
}

static fm_status run_here(const fm_token_plan *p, const struct maker *maker, fm_token_plan_figures *figures)
{
    for (const char *const *split = p->splits; *split; split++) {
        char *text;
        size_t length, count = 0;
        struct document *documents = NULL;
        FM_TRY(fm_app_shards_read(p->fs, p->corpus, *split, INT32_MAX, &text, &length));
        fm_status status = cut_documents(maker, p->parts, text, length, &documents, &count);
        if (status == FM_OK)
            status = write_split(p, maker, *split, documents, count, &figures->documents);
        fm_base_mem_free(documents);
        fm_base_mem_free(text);
        FM_TRY(status);
    }
    return FM_OK;
}

fm_status fm_app_token_plan_run(const fm_token_plan *p, fm_token_plan_figures *out_figures)
{
    struct maker maker = {p->tokenizer, fm_model_tokenizer_find(p->tokenizer, FM_DOCUMENT_END), p->seed};
    fm_token_plan_figures figures = {0};
    if (maker.end < 0)
        return fm_base_error_set(FM_ERR_FORMAT, "the tokenizer has no token %s", FM_DOCUMENT_END);
    FM_TRY(p->in_process ? run_here(p, &maker, &figures) : run_pond(p, &figures));
    for (const char *const *split = p->splits; *split; split++)
        FM_TRY(fm_app_shards_list(p->fs, p->stage, *split));
    *out_figures = figures;
    return FM_OK;
}
