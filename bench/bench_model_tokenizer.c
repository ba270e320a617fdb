// Tokenizing: a vocabulary of our own, and DeepSeek-V3's against Hugging Face's JavaScript library, which runs in a node of
// its own and sends back its ids.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_model.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "fathom/tokenizer.h"

enum { TEXT_BYTES = 1 << 20, WORD_BYTES_MAX = 48 };

struct state {
    char *text;
    size_t length;
    fm_tokenizer *tokenizer;
    uint64_t hash;
    pid_t node; // 0: none
    int socket;
    char file[32]; // of the text, for node
};

static void teardown(void *given)
{
    struct state *state = given;
    if (state->node) {
        close(state->socket);
        kill(state->node, SIGKILL);
        waitpid(state->node, NULL, 0);
    }
    if (*state->file)
        unlink(state->file);
    fm_model_tokenizer_close(state->tokenizer);
    fm_base_mem_free(state->text);
    fm_base_mem_free(state);
}

// Letters, of which few words are frequent and most are rare; sometimes a number, signs or another script.
static size_t put_word(fm_rng *rng, uint64_t seed, char *to)
{
    static const char *const others[] = {
        "你好，世界", "日本語テキスト", "русский", "naïve café", "😀👩‍👩‍👧",
        "don't",      "  return x**2;", "“quotes”"};
    if (fm_base_rng_below(rng, 16) == 0)
        return (size_t)snprintf(to, WORD_BYTES_MAX, "%s", others[fm_base_rng_below(rng, 8)]);
    if (fm_base_rng_below(rng, 16) == 0)
        return (size_t)snprintf(to, WORD_BYTES_MAX, "%llu,",
                                (unsigned long long)fm_base_rng_below(rng, 100000));
    double drawn = fm_rng_double(rng);
    fm_rng letters = fm_base_rng_begin(seed, (uint64_t)(20000 * drawn * drawn * drawn));
    size_t size = 1 + (size_t)fm_base_rng_below(&letters, 10);
    for (size_t i = 0; i < size; i++)
        to[i] = (char)('a' + fm_base_rng_below(&letters, 26));
    return size;
}

static fm_status make_text(struct state *state, uint64_t seed)
{
    fm_rng rng = fm_base_rng_begin(seed, 3);
    state->text = fm_bench_alloc(TEXT_BYTES + WORD_BYTES_MAX + 1);
    if (!state->text)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a text");
    while (state->length < TEXT_BYTES) {
        state->length += put_word(&rng, seed + 1, state->text + state->length);
        state->text[state->length++] = fm_base_rng_below(&rng, 12) ? ' ' : '\n';
    }
    return FM_OK;
}

static fm_status setup_own(const fm_bench_setup *setup, void **out_state)
{
    struct state *state = fm_base_mem_zalloc(1, sizeof *state);
    fm_tokenizer_training training = {.size = sizeof training, .vocab = 2048, .threads = 1};
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a benchmark");
    fm_status status = make_text(state, setup->seed);
    if (status == FM_OK)
        status = fm_model_tokenizer_train(state->text, state->length, &training, &state->tokenizer);
    if (status < 0)
        teardown(state);
    else
        *out_state = state;
    return status;
}

static fm_status save_text(struct state *state)
{
    snprintf(state->file, sizeof state->file, "/tmp/bench_text_XXXXXX");
    int fd = mkstemp(state->file);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "wb");
    size_t put = file ? fwrite(state->text, 1, state->length, file) : 0;
    if (!file || fclose(file) != 0 || put != state->length)
        return fm_base_error_set_errno(FM_ERR_IO, errno, "cannot write %s", state->file);
    return FM_OK;
}

static const char script[] =
    "import fs from 'fs';"
    "const [library, vocabulary, file] = process.argv.slice(1);"
    "const { Tokenizer } = await import(library);"
    "const tokenizer = new Tokenizer(JSON.parse(fs.readFileSync(vocabulary, 'utf8')), {});"
    "const text = fs.readFileSync(file, 'utf8'), go = Buffer.alloc(1);"
    "while (fs.readSync(0, go) === 1) {"
    "  const { ids } = tokenizer.encode(text, { add_special_tokens: false });"
    "  const all = Buffer.from(Int32Array.from([ids.length, ...ids]).buffer);"
    "  for (let at = 0; at < all.length;) at += fs.writeSync(1, all, at);"
    "}";

static fm_status start_node(struct state *state)
{
    int pair[2];
    FM_TRY(save_text(state));
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return fm_base_error_set_errno(FM_ERR_IO, errno, "no socket for node");
    state->node = fork();
    if (state->node == 0) {
        dup2(pair[1], 0);
        dup2(pair[1], 1);
        execlp("node", "node", "--input-type=module", "-e", script, FM_BENCH_TOKENIZER_DIR "/tokenizers.mjs",
               FM_BENCH_TOKENIZER_DIR "/deepseek_v3.json", state->file, (char *)NULL);
        _exit(127);
    }
    close(pair[1]);
    state->socket = pair[0];
    if (state->node < 0) {
        state->node = 0;
        close(pair[0]);
        return fm_base_error_set_errno(FM_ERR_IO, errno, "cannot start node");
    }
    return FM_OK;
}

static fm_status setup_deepseek(const fm_bench_setup *setup, void **out_state)
{
    static const char path[] = FM_BENCH_TOKENIZER_DIR "/deepseek_v3.json";
    if (access(path, R_OK) != 0)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "set-up could not fetch DeepSeek-V3's tokenizer");
    struct state *state = fm_base_mem_zalloc(1, sizeof *state);
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a benchmark");
    fm_status status = make_text(state, setup->seed);
    if (status == FM_OK)
        status = fm_model_tokenizer_open(path, &state->tokenizer);
    if (status == FM_OK)
        status = start_node(state);
    if (status < 0)
        teardown(state);
    else
        *out_state = state;
    return status;
}

static fm_status encode(void *given, int threads)
{
    struct state *state = given;
    int32_t *ids;
    size_t count;
    (void)threads;
    FM_TRY(fm_model_tokenizer_encode(state->tokenizer, state->text, state->length, &ids, &count));
    state->hash = fm_bench_hash(0, ids, count * sizeof *ids);
    fm_base_mem_free(ids);
    return FM_OK;
}

static int receive(int socket, void *to, size_t size)
{
    return recv(socket, to, size, MSG_WAITALL) == (ssize_t)size;
}

static fm_status encode_by_node(void *given, int threads)
{
    struct state *state = given;
    int32_t count = 0;
    (void)threads;
    if (send(state->socket, "g", 1, MSG_NOSIGNAL) != 1 || !receive(state->socket, &count, sizeof count) ||
        count < 0)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "node or @huggingface/tokenizers is not here");
    int32_t *ids = fm_base_mem_alloc(((size_t)count + 1) * sizeof *ids);
    if (!ids)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d ids", (int)count);
    int whole = receive(state->socket, ids, (size_t)count * sizeof *ids);
    state->hash = fm_bench_hash(0, ids, (size_t)count * sizeof *ids);
    fm_base_mem_free(ids);
    return whole ? FM_OK : fm_base_error_set(FM_ERR_IO, "node ended amid its ids");
}

static uint64_t hash(const void *state)
{
    return ((const struct state *)state)->hash;
}

fm_status bench_model_tokenizer_cases(fm_bench *bench)
{
    FM_TRY(fm_bench_add(bench, &(fm_bench_case){.name = "encode.1MiB",
                                                .bytes = TEXT_BYTES,
                                                .mode = FM_BENCH_IN_SMOKE,
                                                .threads = 1,
                                                .setup = setup_own,
                                                .run = encode,
                                                .hash = hash,
                                                .teardown = teardown}));
    return fm_bench_add(
        bench, &(fm_bench_case){
                   .name = "encode.deepseek-v3.1MiB",
                   .bytes = TEXT_BYTES,
                   .clock = FM_BENCH_WALL,
                   .threads = 1,
                   .setup = setup_deepseek,
                   .run = encode,
                   .hash = hash,
                   .teardown = teardown,
                   .peers = {{.name = "@huggingface/tokenizers", .run = encode_by_node, .same_result = 1}},
                   .goals = {{FM_BENCH_RATIO, .peer = "@huggingface/tokenizers", .must = 3}}});
}
