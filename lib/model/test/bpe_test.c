// The tokenizer against hand-made expectations, a naive encoder, and itself over files and threads.
#include "fm_test.h"

#include "bpe.h"
#include "fm_gen.h"

static const char *const specials[] = {"<|end|>", "<|endless|>", NULL};

static const char sample[] =
    "the cat sat on the mat, the rat sat on the hat.\nThe bat sat; 12345 cats and 67 rats don't sit.\n"
    "der Käse, die Käsesoße; 猫が好き 猫が好き 😀😀😀 \t\n\n  the end  ";

static fm_tokenizer *trained(int vocab, int threads)
{
    fm_tokenizer_training training = {
        .size = sizeof training, .vocab = vocab, .special = specials, .threads = threads};
    fm_tokenizer *tokenizer = NULL;
    assert_ok(fm_model_tokenizer_train(sample, sizeof sample - 1, &training, &tokenizer));
    return tokenizer;
}

static void assert_round_trip(const fm_tokenizer *tokenizer, const char *text, size_t length)
{
    int32_t *ids;
    char *back;
    size_t count, back_length;
    assert_ok(fm_model_tokenizer_encode(tokenizer, text, length, &ids, &count));
    assert_ok(fm_model_tokenizer_decode(tokenizer, ids, count, 0, &back, &back_length));
    assert_int_equal(back_length, length);
    assert_memory_equal(back, text, length);
    fm_base_mem_free(back);
    fm_base_mem_free(ids);
}

static void any_bytes_come_back(void **state)
{
    fm_tokenizer *tokenizer = trained(330, 1);
    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        fm_gen gen = fm_gen_seeded(seed);
        char text[400];
        size_t length = (size_t)fm_gen_int(&gen, 0, sizeof text - 1);
        for (size_t i = 0; i < length; i++) // ASCII, halves of characters, and what UTF-8 never holds
            text[i] =
                (char)(fm_gen_chance(&gen, 0.5) ? 'a' + fm_gen_int(&gen, 0, 5) : fm_gen_int(&gen, 0, 255));
        assert_round_trip(tokenizer, text, length);
    }
    fm_model_tokenizer_close(tokenizer);
}

// Merges the lowest rank, leftmost first, by looking at everything again and again.
static size_t naive(const fm_tokenizer *tokenizer, const char *text, size_t length, int32_t *symbols)
{
    for (size_t i = 0; i < length; i++)
        symbols[i] = tokenizer->byte_ids[(unsigned char)text[i]];
    for (;;) {
        size_t best = length;
        int rank = tokenizer->merge_count;
        for (size_t i = 0; i + 1 < length; i++)
            for (int m = 0; m < rank; m++)
                if (tokenizer->merges[m].left == symbols[i] && tokenizer->merges[m].right == symbols[i + 1]) {
                    best = i;
                    rank = m;
                }
        if (best == length)
            return length;
        symbols[best] = tokenizer->merges[rank].id;
        memmove(symbols + best + 1, symbols + best + 2, (length - best - 2) * sizeof *symbols);
        length--;
    }
}

static void long_and_short_pieces_merge_as_a_naive_encoder_does(void **state)
{
    fm_tokenizer *tokenizer = trained(320, 1);
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        fm_gen gen = fm_gen_seeded(seed);
        char text[160];
        int32_t expected[160], *ids;
        size_t length = (size_t)fm_gen_int(&gen, 1, sizeof text - 1), count; // one word of letters: one piece
        for (size_t i = 0; i < length; i++)
            text[i] = "thecasonmr"[fm_gen_int(&gen, 0, 9)];
        assert_ok(fm_model_tokenizer_encode(tokenizer, text, length, &ids, &count));
        assert_int_equal(count, naive(tokenizer, text, length, expected));
        assert_memory_equal(ids, expected, count * sizeof *ids);
        fm_base_mem_free(ids);
    }
    fm_model_tokenizer_close(tokenizer);
}

static void added_tokens_are_cut_out_longest_first(void **state)
{
    static const char text[] = "the<|end|><|endless|><|end<|end|>";
    fm_tokenizer *tokenizer = trained(300, 1);
    int32_t *ids;
    size_t count, length;
    char *back;
    (void)state;
    assert_int_equal(fm_model_tokenizer_find(tokenizer, "<|endless|>"), 1);
    assert_ok(fm_model_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &count));
    assert_int_equal(ids[count - 1], 0);
    int at = 0;
    while (ids[at] != 0)
        at++;
    assert_int_equal(ids[at + 1], 1);
    assert_ok(fm_model_tokenizer_decode(tokenizer, ids, count, 1, &back, &length));
    assert_string_equal(back, "the<|end");
    fm_base_mem_free(back);
    fm_base_mem_free(ids);
    fm_model_tokenizer_close(tokenizer);
}

static void bytes_that_are_not_utf8_are_pieces_of_their_own(void **state)
{
    // A cut character, an overlong slash, a surrogate, and what is above U+10FFFF, between letters.
    static const char text[] = "the\xE7\x8C the\xC0\xAFthe\xED\xA0\x80the\xF4\x90\x80\x80";
    fm_tokenizer *tokenizer = trained(300, 1);
    int32_t *ids, *word;
    size_t count, word_count;
    (void)state;
    assert_ok(fm_model_tokenizer_encode(tokenizer, "the", 3, &word, &word_count));
    assert_ok(fm_model_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &count));
    assert_memory_equal(ids, word, word_count * sizeof *ids);
    assert_int_equal(ids[word_count], tokenizer->byte_ids[0xE7]);
    assert_int_equal(ids[word_count + 1], tokenizer->byte_ids[0x8C]);
    assert_int_equal(ids[count - 1], tokenizer->byte_ids[0x80]);
    fm_base_mem_free(ids);
    fm_base_mem_free(word);
    assert_round_trip(tokenizer, text, sizeof text - 1);
    fm_model_tokenizer_close(tokenizer);
}

static void files_and_threads_change_nothing(void **state)
{
    fm_tokenizer *one = trained(340, 1), *two = trained(340, 2), *read;
    char path[1024];
    (void)state;
    assert_int_equal(one->merge_count, two->merge_count);
    assert_memory_equal(one->merges, two->merges, (size_t)one->merge_count * sizeof *one->merges);
    snprintf(path, sizeof path, "%s/tokenizer.json", fm_test_tmpdir());
    assert_ok(fm_model_tokenizer_save(one, path));
    assert_ok(fm_model_tokenizer_open(path, &read));
    assert_int_equal(read->vocab, one->vocab);
    assert_int_equal(read->merge_count, one->merge_count);
    assert_memory_equal(read->merges, one->merges, (size_t)one->merge_count * sizeof *one->merges);
    for (int id = 0; id < one->vocab; id++) {
        assert_int_equal(read->tokens[id].length, one->tokens[id].length);
        assert_memory_equal(read->tokens[id].bytes, one->tokens[id].bytes, one->tokens[id].length);
        assert_int_equal(read->tokens[id].special, one->tokens[id].special);
    }
    fm_model_tokenizer_close(one);
    fm_model_tokenizer_close(two);
    fm_model_tokenizer_close(read);
}

static void the_most_frequent_pair_comes_first(void **state)
{
    fm_tokenizer *tokenizer = trained(300, 1);
    (void)state;
    // "at" occurs most: in cat, sat, mat, rat, hat, bat, cats, rats.
    assert_int_equal(tokenizer->merges[0].left, tokenizer->byte_ids['a']);
    assert_int_equal(tokenizer->merges[0].right, tokenizer->byte_ids['t']);
    fm_model_tokenizer_close(tokenizer);
}

static void refuse(const char *json, fm_status status, const char *message)
{
    fm_tokenizer *tokenizer;
    assert_fails(fm_model_tokenizer_open(fm_test_file("bad.json", json, strlen(json)), &tokenizer), status,
                 message);
}

static void bad_input_is_named(void **state)
{
    fm_tokenizer_training training = {.size = sizeof training, .vocab = 100};
    fm_tokenizer *tokenizer;
    int32_t unknown = 5000;
    char *text;
    size_t length;
    (void)state;
    refuse("{", FM_ERR_FORMAT, "bad.json");
    refuse("{\"normalizer\": {\"type\": \"NFC\"}}", FM_ERR_UNSUPPORTED, "normalizer NFC");
    refuse("{\"pre_tokenizer\": {\"type\": \"Metaspace\"}}", FM_ERR_UNSUPPORTED,
           "known: Sequence, Split, ByteLevel");
    refuse("{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"Unigram\"}}",
           FM_ERR_UNSUPPORTED, "known: BPE");
    refuse("{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": "
           "0}, "
           "\"merges\": [\"a b\"]}}",
           FM_ERR_FORMAT, "names \"b\"");
    refuse("{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": "
           "0}, "
           "\"merges\": []}}",
           FM_ERR_FORMAT, "no token for the byte 0x00");
    assert_fails(fm_model_tokenizer_train("x", 1, &training, &tokenizer), FM_ERR_ARG, "vocab is 100");
    training.vocab = 300;
    training.pattern = "(";
    assert_fails(fm_model_tokenizer_train("x", 1, &training, &tokenizer), FM_ERR_FORMAT, "pattern \"(\"");
    tokenizer = trained(300, 1);
    assert_fails(fm_model_tokenizer_decode(tokenizer, &unknown, 1, 0, &text, &length), FM_ERR_ARG, "id 5000");
    fm_model_tokenizer_close(tokenizer);
}

static fm_status train_and_encode(void *context)
{
    fm_tokenizer_training training = {
        .size = sizeof training, .vocab = 270, .special = specials, .threads = 1};
    fm_tokenizer *tokenizer;
    int32_t *ids;
    size_t count;
    (void)context;
    FM_TRY(fm_model_tokenizer_train(sample, 120, &training, &tokenizer));
    fm_status status = fm_model_tokenizer_encode(tokenizer, sample, 120, &ids, &count);
    if (status == FM_OK)
        fm_base_mem_free(ids);
    fm_model_tokenizer_close(tokenizer);
    return status;
}

static void memory_may_run_out_anywhere(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(train_and_encode, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(long_and_short_pieces_merge_as_a_naive_encoder_does),
        cmocka_unit_test(added_tokens_are_cut_out_longest_first),
        cmocka_unit_test(bytes_that_are_not_utf8_are_pieces_of_their_own),
        cmocka_unit_test(files_and_threads_change_nothing),
        cmocka_unit_test(the_most_frequent_pair_comes_first),
        cmocka_unit_test(bad_input_is_named),
        cmocka_unit_test(memory_may_run_out_anywhere),
    };
    return fm_test_run("bpe", tests);
}
