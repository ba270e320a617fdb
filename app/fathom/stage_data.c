// The data: a tokenizer trained on the corpus, its tokens, and what simple models of them reach.
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/npy.h"
#include "fathom/tokenizer.h"
#include "stage.h"

struct data_options {
    const char *corpus;
    int64_t vocab;
};

#define FIELD(name) offsetof(struct data_options, name)
static const fm_option data_schema[] = {
    {"corpus", FM_OPTION_STRING, FIELD(corpus), .value = "corpus", .help = "name of the corpus stage"},
    {"vocab", FM_OPTION_INT, FIELD(vocab), .value = "4096", .min = 257, .max = 1 << 20,
     .help = "tokens in all"},
    {0},
};

struct tokens {
    int32_t *ids;
    size_t count;
};

static fm_status read_split(struct fm_stage_run *run, const struct data_options *options, const char *name,
                            char **out_text, size_t *out_length)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s/%s", run->run_folder, options->corpus, name);
    return fm_base_file_read(path, INT32_MAX, out_text, out_length);
}

static fm_status save_ids(struct fm_stage_run *run, const char *name, const struct tokens *tokens)
{
    char path[4096];
    fm_tensor tensor;
    int64_t shape[1] = {(int64_t)tokens->count};
    snprintf(path, sizeof path, "%s/%s", run->folder, name);
    FM_TRY(fm_base_tensor_init(&tensor, FM_DTYPE_I32, 1, shape, tokens->ids));
    return fm_base_npy_write(path, &tensor);
}

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

static fm_status report(struct fm_stage_run *run, const fm_tokenizer *tokenizer, const struct tokens *train,
                        const struct tokens *held, size_t bytes)
{
    int vocab = fm_model_tokenizer_vocab(tokenizer);
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
    fm_app_stage_number(run, "tokens to train on", (double)train->count, NULL);
    fm_app_stage_number(run, "tokens held out", (double)held->count, NULL);
    fm_app_stage_number(run, "bytes per token", (double)bytes / (double)(train->count + held->count), NULL);
    fm_app_stage_number(run, "unigram entropy, held out", unigram, "nats/token");
    fm_app_stage_number(run, "smoothed bigram, held out", bigram, "nats/token");
    return FM_OK;
}

static fm_status tokenise(struct fm_stage_run *run, const struct data_options *options,
                          const char *train_text, size_t train_length, const char *held_text,
                          size_t held_length)
{
    static const char *const special[] = {"<|end|>", NULL};
    fm_tokenizer_training training = {
        .size = sizeof training, .vocab = (int)options->vocab, .special = special};
    struct tokens train = {0}, held = {0};
    fm_tokenizer *tokenizer;
    char path[4096];
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(fm_model_tokenizer_train(train_text, train_length, &training, &tokenizer));
    double seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    snprintf(path, sizeof path, "%s/tokenizer.json", run->folder);
    fm_status status = fm_model_tokenizer_save(tokenizer, path);
    begin = fm_base_clock_ns();
    if (status == FM_OK)
        status = fm_model_tokenizer_encode(tokenizer, train_text, train_length, &train.ids, &train.count);
    if (status == FM_OK)
        status = fm_model_tokenizer_encode(tokenizer, held_text, held_length, &held.ids, &held.count);
    double encoding = (double)(fm_base_clock_ns() - begin) * 1e-9;
    if (status == FM_OK && (train.count < 2 || held.count < 2))
        status = fm_base_error_set(FM_ERR_FORMAT,
                                   "%zu and %zu tokens; expected some to train on and some held out",
                                   train.count, held.count);
    if (status == FM_OK)
        status = save_ids(run, "train.npy", &train);
    if (status == FM_OK)
        status = save_ids(run, "held_out.npy", &held);
    if (status == FM_OK)
        status = report(run, tokenizer, &train, &held, train_length + held_length);
    if (status == FM_OK) {
        fm_app_stage_number(run, "time to train the tokenizer", seconds, "s");
        fm_app_stage_number(run, "tokenizing", (double)(train_length + held_length) * 1e-6 / encoding,
                            "MB/s");
    }
    fm_base_mem_free(train.ids);
    fm_base_mem_free(held.ids);
    fm_model_tokenizer_close(tokenizer);
    return status;
}

static fm_status run_data(struct fm_stage_run *run, const void *given)
{
    const struct data_options *options = given;
    char *train = NULL, *held = NULL;
    size_t train_length = 0, held_length = 0;
    fm_status status = read_split(run, options, "train.txt", &train, &train_length);
    if (status == FM_OK)
        status = read_split(run, options, "held_out.txt", &held, &held_length);
    if (status == FM_OK)
        status = tokenise(run, options, train, train_length, held, held_length);
    fm_base_mem_free(train);
    fm_base_mem_free(held);
    return status;
}

const struct fm_stage fm_stage_data = {
    .name = "data",
    .summary = "a tokenizer trained on the corpus, and its tokens",
    .schema = data_schema,
    .options_size = sizeof(struct data_options),
    .run = run_data,
};
