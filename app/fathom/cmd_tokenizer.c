// `fathom tokenizer`: train, encode, decode.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/tokenizer.h"

struct tokenizer_options {
    const char *tokenizer, *out, *special;
    int64_t vocab, threads;
};

#define FIELD(name) offsetof(struct tokenizer_options, name)
#define TOKENIZER_OPTION                                                                   \
    {                                                                                      \
        "tokenizer", FM_OPTION_STRING, FIELD(tokenizer), .metavar = "FILE", .required = 1, \
                                                         .help = "tokenizer.json"          \
    }

static const fm_option code_schema[] = {TOKENIZER_OPTION, {0}};

static const fm_option train_schema[] = {
    {"vocab", FM_OPTION_INT, FIELD(vocab), .value = "4096", .min = 256, .max = 1 << 24,
     .help = "tokens in all"},
    {"special", FM_OPTION_STRING, FIELD(special), .value = "<|end|>",
     .help = "special token that gets the id 0"},
    {"out", FM_OPTION_STRING, FIELD(out), .metavar = "FILE", .required = 1,
     .help = "tokenizer.json to write"},
    {"threads", FM_OPTION_INT, FIELD(threads), .value = "0", .min = 0, .max = 1024,
     .help = "0: as many as cores"},
    {0},
};

enum { TEXT_MAX = INT32_MAX };

static const char *path_of(const fm_invocation *invocation)
{
    return strcmp(invocation->operands[0], "-") == 0 ? NULL : invocation->operands[0];
}

static fm_status run_train(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct tokenizer_options *options = given;
    const char *special[] = {options->special, NULL};
    fm_tokenizer_training training = {.size = sizeof training,
                                      .vocab = (int)options->vocab,
                                      .special = special,
                                      .threads = (int)options->threads};
    fm_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t length = 0;
    (void)out_exit;
    FM_TRY(fm_base_file_read(path_of(invocation), TEXT_MAX, &text, &length));
    fm_status status = fm_model_tokenizer_train(text, length, &training, &tokenizer);
    fm_base_mem_free(text);
    if (status == FM_OK)
        status = fm_model_tokenizer_save(tokenizer, options->out);
    if (status == FM_OK)
        printf("%d tokens in %s\n", fm_model_tokenizer_vocab(tokenizer), options->out);
    fm_model_tokenizer_close(tokenizer);
    return status;
}

static fm_status show_ids(const int32_t *ids, size_t count, int as_json)
{
    for (size_t i = 0; i < count; i++)
        printf("%s%" PRId32, i == 0 ? (as_json ? "[" : "") : ",", ids[i]);
    printf("%s\n", as_json ? (count ? "]" : "[]") : "");
    return FM_OK;
}

static fm_status run_encode(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct tokenizer_options *options = given;
    fm_tokenizer *tokenizer;
    char *text = NULL;
    size_t length = 0, count = 0;
    int32_t *ids = NULL;
    (void)out_exit;
    FM_TRY(fm_model_tokenizer_open(options->tokenizer, &tokenizer));
    fm_status status = fm_base_file_read(path_of(invocation), TEXT_MAX, &text, &length);
    if (status == FM_OK)
        status = fm_model_tokenizer_encode(tokenizer, text, length, &ids, &count);
    if (status == FM_OK)
        status = show_ids(ids, count, invocation->json);
    fm_base_mem_free(ids);
    fm_base_mem_free(text);
    fm_model_tokenizer_close(tokenizer);
    return status;
}

// Numbers with anything that is no digit between them.
static fm_status parse_ids(const char *text, size_t length, int32_t **out_ids, size_t *out_count)
{
    int32_t *ids = fm_base_mem_alloc((length / 2 + 1) * sizeof *ids);
    size_t count = 0;
    if (!ids)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the ids");
    for (size_t i = 0; i < length;) {
        if (text[i] < '0' || text[i] > '9') {
            i++;
            continue;
        }
        int64_t id = 0;
        for (; i < length && text[i] >= '0' && text[i] <= '9'; i++)
            id = id <= INT32_MAX ? id * 10 + (text[i] - '0') : id;
        ids[count++] = id <= INT32_MAX ? (int32_t)id : -1;
    }
    *out_ids = ids;
    *out_count = count;
    return FM_OK;
}

static fm_status run_decode(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct tokenizer_options *options = given;
    fm_tokenizer *tokenizer;
    char *list = NULL, *text = NULL;
    size_t length = 0, count = 0;
    int32_t *ids = NULL;
    (void)out_exit;
    FM_TRY(fm_model_tokenizer_open(options->tokenizer, &tokenizer));
    fm_status status = fm_base_file_read(path_of(invocation), TEXT_MAX, &list, &length);
    if (status == FM_OK)
        status = parse_ids(list, length, &ids, &count);
    if (status == FM_OK)
        status = fm_model_tokenizer_decode(tokenizer, ids, count, 0, &text, &length);
    if (status == FM_OK)
        fwrite(text, 1, length, stdout);
    fm_base_mem_free(text);
    fm_base_mem_free(ids);
    fm_base_mem_free(list);
    fm_model_tokenizer_close(tokenizer);
    return status;
}

static const fm_command cmd_train = {.name = "train",
                                     .summary = "train a byte-level BPE tokenizer on a text",
                                     .operands = "FILE",
                                     .options = train_schema,
                                     .options_size = sizeof(struct tokenizer_options),
                                     .operands_min = 1,
                                     .operands_max = 1,
                                     .run = run_train};
static const fm_command cmd_encode = {.name = "encode",
                                      .summary = "text to token ids; \"-\" is standard input",
                                      .operands = "FILE",
                                      .options = code_schema,
                                      .options_size = sizeof(struct tokenizer_options),
                                      .operands_min = 1,
                                      .operands_max = 1,
                                      .has_json = 1,
                                      .run = run_encode};
static const fm_command cmd_decode = {.name = "decode",
                                      .summary = "token ids to text; \"-\" is standard input",
                                      .operands = "FILE",
                                      .options = code_schema,
                                      .options_size = sizeof(struct tokenizer_options),
                                      .operands_min = 1,
                                      .operands_max = 1,
                                      .run = run_decode};
static const fm_command *const children[] = {&cmd_train, &cmd_encode, &cmd_decode, NULL};

const fm_command fm_cmd_tokenizer = {
    .name = "tokenizer",
    .summary = "byte-level BPE tokenizers: train, encode, decode",
    .children = children,
};
