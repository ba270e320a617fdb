#include "serve_answer.h"

#include <stdio.h>

#include "fathom/mem.h"

fm_status fm_model_serve_bytes_add(struct serve_bytes *to, const char *bytes, size_t length)
{
    if (to->capacity - to->length <= length) {
        size_t capacity = 2 * to->capacity + length + 128;
        char *grown = fm_base_mem_realloc(to->bytes, capacity, 1);
        if (!grown)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes of an answer", capacity);
        to->bytes = grown;
        to->capacity = capacity;
    }
    if (length)
        memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
    to->bytes[to->length] = 0;
    return FM_OK;
}

// The bytes at the end that begin a character whose rest is still to come.
static size_t open_character(const char *text, size_t length)
{
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        unsigned char c = (unsigned char)text[length - back];
        if ((c & 0xc0) == 0x80)
            continue;
        size_t size = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return size > back ? back : 0;
    }
    return 0;
}

// The bytes at the end that a stop text could begin with.
static size_t open_stop(const struct serve_call *call, const char *text, size_t length)
{
    size_t most = 0;
    for (int i = 0; i < call->stop_count; i++) {
        size_t size = strlen(call->stops[i]);
        for (size_t part = size - 1 < length ? size - 1 : length; part > most; part--)
            if (memcmp(text + length - part, call->stops[i], part) == 0)
                most = part;
    }
    return most;
}

// Cuts the text where the first stop text begins; what was sent holds no part of one.
static int cut_at_stop(struct serve_choice *choice)
{
    const struct serve_call *call = &choice->answer->call;
    char *first = NULL, *from = choice->text.bytes + choice->sent;
    size_t length = choice->text.length - choice->sent;
    for (int i = 0; i < call->stop_count; i++) {
        char *hit = memmem(from, length, call->stops[i], strlen(call->stops[i]));
        if (hit && (!first || hit < first))
            first = hit;
    }
    if (!first)
        return 0;
    choice->text.length = (size_t)(first - choice->text.bytes);
    *first = 0;
    choice->stopped = 1;
    return 1;
}

static void head(const struct serve_answer *answer, fm_json *json, int event)
{
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "id", answer->id);
    fm_base_json_string(json, "object",
                        !answer->call.chat ? "text_completion"
                        : event            ? "chat.completion.chunk"
                                           : "chat.completion");
    fm_base_json_int(json, "created", answer->created);
    fm_base_json_string(json, "model", answer->face->model_name);
}

static void usage(const struct serve_answer *answer, fm_json *json)
{
    int64_t prompt = 0, tokens = 0, cached = 0;
    for (int i = 0; i < answer->call.prompt_count; i++)
        prompt += answer->call.prompts[i].count;
    for (int i = 0; i < answer->choice_count; i++) {
        tokens += answer->choices[i].tokens;
        if (i % answer->call.n == 0)
            cached += answer->choices[i].cached;
    }
    fm_base_json_begin(json, "usage", '{');
    fm_base_json_int(json, "prompt_tokens", prompt);
    fm_base_json_int(json, "completion_tokens", tokens);
    fm_base_json_int(json, "total_tokens", prompt + tokens);
    fm_base_json_begin(json, "prompt_tokens_details", '{');
    fm_base_json_int(json, "cached_tokens", cached);
    fm_base_json_end(json);
    fm_base_json_end(json);
}

// The JSON so far, and `tail` after it; or its failure.
static void put(struct serve_answer *answer, fm_json *json, const char *before, const char *after)
{
    fm_status status = json->status;
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(&answer->out, before, strlen(before));
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(&answer->out, json->text, json->length);
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(&answer->out, after, strlen(after));
    if (fm_base_json_finish(json, NULL) < 0 || status < 0)
        answer->failed = 1;
}

static const char *finish_name(const struct serve_choice *choice)
{
    if (!choice->ended)
        return NULL;
    return choice->how == FM_SERVE_STOP ? "stop" : choice->how == FM_SERVE_LENGTH ? "length" : "error";
}

/* Raw JSON cannot be put into fm_json, so logprobs, which are collected as text, are spliced: the writer puts this in their
 * place. It cannot come from a client: their texts have '"' escaped. */
static const char SERVE_SPLICE[] = "\"logprobs\":\"*\"";

static void put_spliced(struct serve_answer *answer, fm_json *json, const struct serve_bytes *details,
                        size_t from, const char *before, const char *after)
{
    static const char open[] = "\"logprobs\":{\"content\":[";
    char *at = json->status == FM_OK ? memmem(json->text, json->length, SERVE_SPLICE, sizeof SERVE_SPLICE - 1)
                                     : NULL;
    if (!at) {
        put(answer, json, before, after);
        return;
    }
    size_t skip = from < details->length && from > 0; // the comma before
    fm_status status = fm_model_serve_bytes_add(&answer->out, before, strlen(before));
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(&answer->out, json->text, (size_t)(at - json->text));
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(&answer->out, open, sizeof open - 1);
    if (status == FM_OK && details->length > from)
        status = fm_model_serve_bytes_add(&answer->out, details->bytes + from + skip,
                                          details->length - from - skip);
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(&answer->out, "]}", 2);
    at += sizeof SERVE_SPLICE - 1;
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(&answer->out, at, (size_t)(json->text + json->length - at));
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(&answer->out, after, strlen(after));
    if (fm_base_json_finish(json, NULL) < 0 || status < 0)
        answer->failed = 1;
}

// One event of a choice: text[sent, to).
static void event(struct serve_choice *choice, size_t to)
{
    struct serve_answer *answer = choice->answer;
    fm_json json = {0};
    const char *text = choice->text.bytes ? choice->text.bytes + choice->sent : "";
    char *piece = fm_base_mem_alloc(to - choice->sent + 1);
    if (!piece) {
        answer->failed = 1;
        return;
    }
    memcpy(piece, text, to - choice->sent);
    piece[to - choice->sent] = 0;
    head(answer, &json, 1);
    fm_base_json_begin(&json, "choices", '[');
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_int(&json, "index", choice->index);
    if (answer->call.chat) {
        fm_base_json_begin(&json, "delta", '{');
        if (!choice->ended || to > choice->sent)
            fm_base_json_string(&json, "content", piece);
        fm_base_json_end(&json);
    } else {
        fm_base_json_string(&json, "text", piece);
    }
    if (answer->call.logprobs && choice->details.length > choice->details_sent)
        fm_base_json_string(&json, "logprobs", "*");
    else
        fm_base_json_null(&json, "logprobs");
    fm_base_json_string(&json, "finish_reason", finish_name(choice));
    fm_base_json_end(&json);
    fm_base_json_end(&json);
    fm_base_json_end(&json);
    fm_base_mem_free(piece);
    put_spliced(answer, &json, &choice->details, choice->details_sent, "data: ", "\n\n");
    choice->sent = to;
    choice->details_sent = choice->details.length;
}

void fm_model_serve_answer_begin(struct serve_answer *answer)
{
    if (!answer->call.chat || !answer->call.stream)
        return;
    for (int i = 0; i < answer->choice_count; i++) {
        fm_json json = {0};
        head(answer, &json, 1);
        fm_base_json_begin(&json, "choices", '[');
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_int(&json, "index", i);
        fm_base_json_begin(&json, "delta", '{');
        fm_base_json_string(&json, "role", "assistant");
        fm_base_json_string(&json, "content", "");
        fm_base_json_end(&json);
        fm_base_json_null(&json, "finish_reason");
        fm_base_json_end(&json);
        fm_base_json_end(&json);
        fm_base_json_end(&json);
        put(answer, &json, "data: ", "\n\n");
    }
}

// Ids that the tokenizer does not know (checkpoints pad their vocabulary) have no text.
static fm_status decode(const struct serve_answer *answer, int32_t id, int skip_special, char **out_text,
                        size_t *out_length)
{
    fm_status status =
        fm_model_tokenizer_decode(answer->face->tokenizer, &id, 1, skip_special, out_text, out_length);
    if (status != FM_ERR_ARG)
        return status;
    *out_length = 0;
    *out_text = fm_base_mem_strdup("");
    return *out_text ? FM_OK : FM_ERR_NOMEM;
}

static void one_logprob(const struct serve_answer *answer, fm_json *json, int32_t id, float logprob)
{
    char *text;
    size_t length;
    if (decode(answer, id, 0, &text, &length) < 0)
        return;
    fm_base_json_string(json, "token", text);
    fm_base_json_real(json, "logprob", (double)logprob);
    fm_base_json_begin(json, "bytes", '[');
    for (size_t i = 0; i < length; i++)
        fm_base_json_int(json, NULL, (unsigned char)text[i]);
    fm_base_json_end(json);
    fm_base_mem_free(text);
}

static void add_details(struct serve_choice *choice, const fm_serve_token *token)
{
    struct serve_answer *answer = choice->answer;
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    one_logprob(answer, &json, token->id, token->logprob);
    fm_base_json_begin(&json, "top_logprobs", '[');
    for (int i = 0; i < token->top_count; i++) {
        fm_base_json_begin(&json, NULL, '{');
        one_logprob(answer, &json, token->top_ids[i], token->top_logprobs[i]);
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    fm_base_json_end(&json);
    fm_status status = json.status;
    if (status == FM_OK && choice->details.length)
        status = fm_model_serve_bytes_add(&choice->details, ",", 1);
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(&choice->details, json.text, json.length);
    if (fm_base_json_finish(&json, NULL) < 0 || status < 0)
        answer->failed = 1;
}

int fm_model_serve_answer_token(struct serve_choice *choice, const fm_serve_token *token)
{
    struct serve_answer *answer = choice->answer;
    char *text;
    size_t length;
    choice->tokens++;
    if (decode(answer, token->id, 1, &text, &length) < 0) {
        answer->failed = 1;
        return 1;
    }
    // JSON readers refuse U+0000 in texts, this project's among them.
    for (size_t i = 0; i < length; i++)
        if (!text[i])
            text[i] = '\x7f';
    if (fm_model_serve_bytes_add(&choice->text, text, length) < 0)
        answer->failed = 1;
    fm_base_mem_free(text);
    if (answer->failed)
        return 1;
    if (answer->call.logprobs)
        add_details(choice, token);
    if (cut_at_stop(choice))
        return 1;
    size_t held =
        open_stop(&answer->call, choice->text.bytes + choice->sent, choice->text.length - choice->sent);
    size_t open = open_character(choice->text.bytes + choice->sent, choice->text.length - choice->sent);
    size_t to = choice->text.length - (held > open ? held : open);
    if (answer->call.stream && (to > choice->sent || choice->details.length > choice->details_sent))
        event(choice, to);
    else if (!answer->call.stream)
        choice->sent = to;
    return answer->failed;
}

static void whole(struct serve_answer *answer)
{
    // One document a choice, since each splices its own logprobs.
    fm_json json = {0};
    head(answer, &json, 0);
    usage(answer, &json);
    fm_base_json_end(&json);
    if (json.length)
        json.length--; // the closing bracket: choices follow
    put(answer, &json, "", ",\"choices\":[");
    for (int i = 0; i < answer->choice_count; i++) {
        struct serve_choice *choice = &answer->choices[i];
        const char *text = choice->text.bytes ? choice->text.bytes : "";
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_int(&json, "index", i);
        if (answer->call.chat) {
            fm_base_json_begin(&json, "message", '{');
            fm_base_json_string(&json, "role", "assistant");
            fm_base_json_string(&json, "content", text);
            fm_base_json_end(&json);
        } else {
            fm_base_json_string(&json, "text", text);
        }
        if (answer->call.logprobs)
            fm_base_json_string(&json, "logprobs", "*");
        else
            fm_base_json_null(&json, "logprobs");
        fm_base_json_string(&json, "finish_reason", finish_name(choice));
        fm_base_json_end(&json);
        put_spliced(answer, &json, &choice->details, 0, i ? "," : "", "");
    }
    if (fm_model_serve_bytes_add(&answer->out, "]}\n", 3) < 0)
        answer->failed = 1;
}

static void complete(struct serve_answer *answer)
{
    if (!answer->call.stream) {
        whole(answer);
        return;
    }
    if (answer->call.include_usage) {
        fm_json json = {0};
        head(answer, &json, 1);
        fm_base_json_begin(&json, "choices", '[');
        fm_base_json_end(&json);
        usage(answer, &json);
        fm_base_json_end(&json);
        put(answer, &json, "data: ", "\n\n");
    }
    static const char done[] = "data: [DONE]\n\n";
    if (fm_model_serve_bytes_add(&answer->out, done, sizeof done - 1) < 0)
        answer->failed = 1;
}

void fm_model_serve_answer_end(struct serve_choice *choice, fm_serve_finish how, int cached)
{
    struct serve_answer *answer = choice->answer;
    choice->ended = 1;
    choice->how = how;
    choice->cached = cached;
    if (answer->call.stream)
        event(choice, choice->text.length);
    if (++answer->ended_count == answer->choice_count)
        complete(answer);
}

void fm_model_serve_answer_free(struct serve_answer *answer)
{
    for (int i = 0; i < answer->choice_count; i++) {
        fm_base_mem_free(answer->choices[i].text.bytes);
        fm_base_mem_free(answer->choices[i].details.bytes);
    }
    fm_base_mem_free(answer->out.bytes);
    fm_model_serve_call_free(&answer->call);
}

fm_status fm_model_serve_error_body(int http_status, const char *message, struct serve_bytes *out_body)
{
    static const struct {
        int status;
        const char *type, *code;
    } kinds[] = {
        {401, "authentication_error", "invalid_api_key"}, {404, "invalid_request_error", "not_found"},
        {413, "invalid_request_error", "body_too_large"}, {429, "rate_limit_error", "too_many_requests"},
        {503, "server_error", "shutting_down"},           {500, "server_error", NULL}};
    const char *type = "invalid_request_error", *code = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (kinds[i].status == http_status) {
            type = kinds[i].type;
            code = kinds[i].code;
        }
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_begin(&json, "error", '{');
    fm_base_json_string(&json, "message", message);
    fm_base_json_string(&json, "type", type);
    fm_base_json_null(&json, "param");
    fm_base_json_string(&json, "code", code);
    fm_base_json_end(&json);
    fm_base_json_end(&json);
    fm_status status = json.status;
    if (status == FM_OK)
        status = fm_model_serve_bytes_add(out_body, json.text, json.length);
    if (fm_base_json_finish(&json, NULL) < 0 && status == FM_OK)
        status = FM_ERR_NOMEM;
    return status;
}
