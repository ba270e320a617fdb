// The data: a tokenizer trained on the corpus, its tokens, and what simple models of them reach.
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fathom/engine.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/tokenizer.h"
#include "stage.h"
#include "stage_files.h"
#include "token_plan.h"

struct data_options {
    const char *corpus, *engine, *slurm;
    int64_t vocab, seed, executors;
};

#define FIELD(name) offsetof(struct data_options, name)
static const fm_option data_schema[] = {
    {"corpus", FM_OPTION_STRING, FIELD(corpus), .value = "corpus", .help = "name of the corpus stage"},
    {"vocab", FM_OPTION_INT, FIELD(vocab), .value = "4096", .min = 257, .max = 1 << 20,
     .help = "tokens in all"},
    {"engine", FM_OPTION_CHOICE, FIELD(engine), .value = "auto", .choices = "auto|pond|process",
     .help = "what tokenizes and shuffles: pond's executors, or this process; auto: pond where DuckDB is"},
    {"executors", FM_OPTION_INT, FIELD(executors), .value = "0", .min = 0, .max = 4096,
     .help = "processes of pond; 0: as many as cores"},
    {"slurm", FM_OPTION_STRING, FIELD(slurm), .value = "", .metavar = "OPTIONS",
     .help = "start them through Slurm with these options of sbatch (partition=batch,time=60); the run's "
             "folder must be one "
             "that all nodes see; empty: on this machine"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 1e15, .help = "of the shuffle"},
    {0},
};

struct tokens {
    const int32_t *ids;
    size_t count;
};

/** What the stage works with; texts and tokens of all documents. */
struct work {
    struct fm_stage_run *run;
    const struct data_options *options;
    fm_fs *fs;
    fm_tokenizer *tokenizer;
    char *train_text, *train_bytes, *held_bytes;
    size_t train_length, text_bytes;
    struct tokens train, held;
    fm_token_plan_figures figures;
};

// Nats per token that the split's own frequencies allow a model that looks at nothing.
static double unigram_entropy(const struct tokens *tokens, const int64_t *counts, int vocab)
{
    double entropy = 0, total = (double)tokens->count;
    for (int i = 0; i < vocab; i++)
        if (counts[i] > 0)
            entropy -= (double)counts[i] / total * log((double)counts[i] / total);
    return entropy;
}

static int by_pair(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static int64_t count_of(const int64_t *sorted, int64_t count, int64_t pair)
{
    int64_t ends[2];
    for (int upper = 0; upper < 2; upper++) {
        int64_t low = 0, high = count;
        while (low < high) {
            int64_t middle = low + (high - low) / 2;
            if (upper ? sorted[middle] <= pair : sorted[middle] < pair)
                low = middle + 1;
            else
                high = middle;
        }
        ends[upper] = low;
    }
    return ends[1] - ends[0];
}

// Cross-entropy on the held-out tokens of a bigram model of the others: the pair's share, drawn to the unigram's as if that
// had been seen `prior` times more (Dirichlet smoothing), with the prior that does best among a few.
static fm_status bigram_loss(const struct tokens *train, const struct tokens *held, int vocab,
                             double *out_loss)
{
    size_t pairs = train->count - 1;
    int64_t *sorted = fm_base_mem_zalloc(pairs, sizeof *sorted),
            *singles = fm_base_mem_zalloc((size_t)vocab, sizeof *singles);
    if (!sorted || !singles) {
        fm_base_mem_free(sorted);
        fm_base_mem_free(singles);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to count %zu pairs", pairs);
    }
    for (size_t i = 0; i < pairs; i++)
        sorted[i] = (int64_t)train->ids[i] * vocab + train->ids[i + 1];
    for (size_t i = 0; i < train->count; i++)
        singles[train->ids[i]]++;
    qsort(sorted, pairs, sizeof *sorted, by_pair);
    static const double priors[] = {30, 100, 300, 1000};
    double losses[4] = {0}, total = (double)train->count + vocab;
    size_t used = held->count < 200000 ? held->count : 200000; // enough for three digits
    for (size_t i = 1; i < used; i++) {
        int32_t before = held->ids[i - 1], id = held->ids[i];
        double pair = (double)count_of(sorted, (int64_t)pairs, (int64_t)before * vocab + id);
        for (int p = 0; p < 4; p++)
            losses[p] -= log((pair + priors[p] * ((double)singles[id] + 1) / total) /
                             ((double)singles[before] + priors[p]));
    }
    double best = losses[0];
    for (int p = 1; p < 4; p++)
        best = fmin(best, losses[p]);
    *out_loss = best / (double)(used - 1);
    fm_base_mem_free(sorted);
    fm_base_mem_free(singles);
    return FM_OK;
}

static fm_status report(const struct work *work)
{
    struct fm_stage_run *run = work->run;
    int vocab = fm_model_tokenizer_vocab(work->tokenizer);
    const struct tokens *train = &work->train, *held = &work->held;
    int64_t *counts = fm_base_mem_zalloc((size_t)vocab, sizeof *counts);
    double bigram = 0;
    if (!counts)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to count tokens");
    for (size_t i = 0; i < held->count; i++)
        counts[held->ids[i]]++;
    double unigram = unigram_entropy(held, counts, vocab);
    fm_base_mem_free(counts);
    FM_TRY(bigram_loss(train, held, vocab, &bigram));
    fm_app_stage_number(run, "vocabulary", vocab, NULL);
    fm_app_stage_number(run, "documents, each text once", (double)work->figures.documents, NULL);
    if (work->figures.tasks > 0)
        fm_app_stage_number(run, "tasks of pond", (double)work->figures.tasks, NULL);
    fm_app_stage_number(run, "tokens to train on", (double)train->count, NULL);
    fm_app_stage_number(run, "tokens held out", (double)held->count, NULL);
    fm_app_stage_number(run, "bytes per token",
                        (double)work->text_bytes / (double)(train->count + held->count), NULL);
    fm_app_stage_number(run, "unigram entropy, held out", unigram, "nats/token");
    fm_app_stage_number(run, "smoothed bigram, held out", bigram, "nats/token");
    return FM_OK;
}

static fm_status train_tokenizer(struct work *work, char *out_version, size_t size)
{
    static const char *const special[] = {FM_DOCUMENT_END, NULL};
    fm_tokenizer_training training = {
        .size = sizeof training, .vocab = (int)work->options->vocab, .special = special};
    char path[4096], *saved;
    size_t length;
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(
        fm_app_shards_read(work->fs, work->options->corpus, "train", INT32_MAX, &work->train_text, &length));
    work->train_length = length;
    FM_TRY(fm_model_tokenizer_train(work->train_text, length, &training, &work->tokenizer));
    snprintf(path, sizeof path, "%s/tokenizer.json", work->run->folder);
    FM_TRY(fm_model_tokenizer_save(work->tokenizer, path));
    FM_TRY(fm_base_file_read(path, INT32_MAX, &saved, &length));
    snprintf(out_version, size, "%08x", fm_base_crc32c(0, saved, length));
    fm_base_mem_free(saved);
    fm_app_stage_number(work->run, "time to train the tokenizer", (double)(fm_base_clock_ns() - begin) * 1e-9,
                        "s");
    return FM_OK;
}

static fm_status choose_engine(const struct work *work, int *out_in_process)
{
    fm_engine_info duckdb;
    const char *engine = work->options->engine;
    fm_base_engine_probe(FM_ENGINE_DUCKDB, &duckdb);
    if (strcmp(engine, "pond") == 0 && !duckdb.found)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "engine is pond, which needs DuckDB: %s", duckdb.reason);
    *out_in_process = strcmp(engine, "process") == 0 || !duckdb.found;
    return FM_OK;
}

static fm_status read_tokens(const struct work *work, const char *split, char **out_bytes,
                             struct tokens *out_tokens)
{
    size_t length;
    FM_TRY(fm_app_shards_read(work->fs, work->run->name, split, INT32_MAX, out_bytes, &length));
    *out_tokens = (struct tokens){(const int32_t *)(const void *)*out_bytes, length / sizeof(int32_t)};
    return FM_OK;
}

static fm_status make_tokens(struct work *work, const char *version)
{
    static const char *const splits[] = {"train", "held_out", NULL};
    enum { PART_BYTES = 4 << 20 }; // of text: tasks of about a second
    fm_token_plan plan = {.fs = work->fs,
                          .corpus = work->options->corpus,
                          .stage = work->run->name,
                          .splits = splits,
                          .tokenizer = work->tokenizer,
                          .version = version,
                          .seed = (uint64_t)work->options->seed,
                          .slurm = work->options->slurm[0] ? work->options->slurm : NULL,
                          .executors = (int)work->options->executors,
                          .parts = 1 + (int64_t)(work->train_length / PART_BYTES)};
    uint64_t held_bytes;
    char tokenizer[FM_STAGE_PATH_BYTES];
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", work->run->name);
    plan.tokenizer_path = tokenizer;
    FM_TRY(choose_engine(work, &plan.in_process));
    FM_TRY(fm_app_shards_bytes(work->fs, plan.corpus, "held_out", &held_bytes));
    work->text_bytes = work->train_length + held_bytes;
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(fm_app_token_plan_run(&plan, &work->figures));
    double seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    fm_app_stage_text(work->run, "tokenized and shuffled by", "%s",
                      plan.in_process ? "this process" : "a plan of pond");
    fm_app_stage_number(work->run, "tokenizing and shuffling", (double)work->text_bytes * 1e-6 / seconds,
                        "MB/s");
    FM_TRY(read_tokens(work, "train", &work->train_bytes, &work->train));
    FM_TRY(read_tokens(work, "held_out", &work->held_bytes, &work->held));
    if (work->train.count < 2 || work->held.count < 2)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%zu and %zu tokens; expected some to train on and some held out",
                                 work->train.count, work->held.count);
    return FM_OK;
}

static fm_status run_data(struct fm_stage_run *run, const void *given)
{
    struct work work = {.run = run, .options = given};
    char version[16];
    FM_TRY(fm_app_stage_fs(run, &work.fs));
    fm_status status = train_tokenizer(&work, version, sizeof version);
    if (status == FM_OK)
        status = make_tokens(&work, version);
    if (status == FM_OK)
        status = report(&work);
    fm_base_mem_free(work.train_text);
    fm_base_mem_free(work.train_bytes);
    fm_base_mem_free(work.held_bytes);
    fm_model_tokenizer_close(work.tokenizer);
    fm_fs_close(work.fs);
    return status;
}

const struct fm_stage fm_stage_data = {
    .name = "data",
    .summary = "a tokenizer trained on the corpus; its documents as tokens, shuffled",
    .schema = data_schema,
    .options_size = sizeof(struct data_options),
    .run = run_data,
};
