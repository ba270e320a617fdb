#include "serve_call.h"

#include <sys/random.h>

#include "fathom/mem.h"

// The node under a key; NULL where it is absent or null, which mean the same in the API.
static const fm_doc *given(const fm_doc *doc, const char *key)
{
    const fm_doc *node = fm_base_doc_get(doc, key);
    return fm_base_doc_type(node) == FM_DOC_NULL ? NULL : node;
}

static fm_status read_int(const fm_doc *doc, const char *key, int low, int high, int *value)
{
    int64_t number;
    if (!given(doc, key))
        return FM_OK;
    FM_TRY(fm_base_doc_int(given(doc, key), key, low, high, &number));
    *value = (int)number;
    return FM_OK;
}

static fm_status read_bool(const fm_doc *doc, const char *key, int *value)
{
    return given(doc, key) ? fm_base_doc_bool(given(doc, key), key, value) : FM_OK;
}

static fm_status read_real(const fm_doc *doc, const char *key, double low, double high, double *value)
{
    double number;
    if (!given(doc, key))
        return FM_OK;
    FM_TRY(fm_base_doc_real(given(doc, key), key, &number));
    if (number < low || number > high)
        return fm_base_doc_error(FM_ERR_ARG, given(doc, key), "%s is %g; expected %g to %g", key, number, low,
                                 high);
    *value = number;
    return FM_OK;
}

// What would change the answer and is not there must not be passed over in silence.
static fm_status refuse_unsupported(const fm_doc *doc)
{
    static const char *const keys[] = {"tools", "functions",       "logit_bias",       "suffix",
                                       "echo",  "best_of",         "presence_penalty", "frequency_penalty",
                                       "audio", "response_format", "tool_choice",      "function_call"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const fm_doc *node = given(doc, keys[i]);
        double number = 1;
        int truth = 1;
        const char *text = "";
        if (!node)
            continue;
        fm_doc_type type = fm_base_doc_type(node);
        // Values that ask for nothing: 0, false, an empty list, one candidate, plain text.
        if ((type == FM_DOC_INT || type == FM_DOC_REAL) &&
            fm_base_doc_real(node, keys[i], &number) == FM_OK &&
            (number == 0 || (number == 1 && strcmp(keys[i], "best_of") == 0)))
            continue;
        if (type == FM_DOC_BOOL && fm_base_doc_bool(node, keys[i], &truth) == FM_OK && !truth)
            continue;
        if ((type == FM_DOC_ARRAY || type == FM_DOC_OBJECT) && fm_base_doc_count(node) == 0)
            continue;
        if (type == FM_DOC_STRING && fm_base_doc_string(node, keys[i], &text) == FM_OK &&
            strcmp(text, "none") == 0)
            continue;
        const fm_doc *kind = fm_base_doc_get(node, "type");
        if (fm_base_doc_type(kind) == FM_DOC_STRING && fm_base_doc_string(kind, "type", &text) == FM_OK &&
            strcmp(text, "text") == 0)
            continue;
        return fm_base_doc_error(FM_ERR_UNSUPPORTED, node, "%s is not supported", keys[i]);
    }
    return FM_OK;
}

static fm_status read_stops(const fm_doc *doc, struct serve_call *call)
{
    const fm_doc *stop = given(doc, "stop");
    if (!stop)
        return FM_OK;
    int list = fm_base_doc_type(stop) == FM_DOC_ARRAY;
    size_t count = list ? fm_base_doc_count(stop) : 1;
    if (count > SERVE_STOPS_MAX)
        return fm_base_doc_error(FM_ERR_ARG, stop, "stop has %zu texts; expected at most %d", count,
                                 SERVE_STOPS_MAX);
    for (size_t i = 0; i < count; i++) {
        FM_TRY(fm_base_doc_string(list ? fm_base_doc_at(stop, i) : stop, "stop", &call->stops[i]));
        if (!*call->stops[i])
            return fm_base_doc_error(FM_ERR_ARG, stop, "a stop text is empty");
    }
    call->stop_count = (int)count;
    return FM_OK;
}

static fm_status add_text(const struct serve_face *face, const char *text, size_t length, int with_bos,
                          struct serve_call *call)
{
    struct serve_prompt *prompt = &call->prompts[call->prompt_count];
    size_t count;
    int32_t *ids;
    int bos = with_bos && face->add_bos && face->config->bos >= 0;
    FM_TRY(fm_model_tokenizer_encode(face->tokenizer, text, length, &ids, &count));
    if (count >= (size_t)face->config->context) {
        fm_base_mem_free(ids);
        return fm_base_error_set(FM_ERR_LIMIT, "the prompt has %zu tokens; the model's context has %d", count,
                                 face->config->context);
    }
    prompt->ids = fm_base_mem_zalloc(count + 1, sizeof *prompt->ids);
    if (!prompt->ids) {
        fm_base_mem_free(ids);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a prompt");
    }
    prompt->ids[0] = face->config->bos;
    if (count)
        memcpy(prompt->ids + bos, ids, count * sizeof *ids);
    prompt->count = (int)count + bos;
    call->prompt_count++;
    fm_base_mem_free(ids);
    return FM_OK;
}

static fm_status add_ids(const struct serve_face *face, const fm_doc *list, struct serve_call *call)
{
    struct serve_prompt *prompt = &call->prompts[call->prompt_count];
    size_t count = fm_base_doc_count(list);
    if (count >= (size_t)face->config->context)
        return fm_base_doc_error(FM_ERR_LIMIT, list, "the prompt has %zu tokens; the model's context has %d",
                                 count, face->config->context);
    prompt->ids = fm_base_mem_zalloc(count + 1, sizeof *prompt->ids);
    if (!prompt->ids)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a prompt");
    call->prompt_count++;
    for (size_t i = 0; i < count; i++) {
        int64_t id;
        FM_TRY(
            fm_base_doc_int(fm_base_doc_at(list, i), "a token of prompt", 0, face->config->vocab - 1, &id));
        prompt->ids[prompt->count++] = (int32_t)id;
    }
    return FM_OK;
}

// A text, ids, or a list of either.
static fm_status read_prompts(const struct serve_face *face, const fm_doc *doc, struct serve_call *call)
{
    const fm_doc *prompt = given(doc, "prompt");
    const char *text;
    if (fm_base_doc_type(prompt) != FM_DOC_ARRAY) {
        FM_TRY(fm_base_doc_string(prompt, "prompt", &text));
        return add_text(face, text, strlen(text), 1, call);
    }
    if (fm_base_doc_type(fm_base_doc_at(prompt, 0)) == FM_DOC_INT)
        return add_ids(face, prompt, call);
    if (fm_base_doc_count(prompt) < 1 || fm_base_doc_count(prompt) > SERVE_PROMPTS_MAX)
        return fm_base_doc_error(FM_ERR_ARG, prompt, "prompt is a list of %zu; expected 1 to %d texts",
                                 fm_base_doc_count(prompt), SERVE_PROMPTS_MAX);
    for (size_t i = 0; i < fm_base_doc_count(prompt); i++) {
        const fm_doc *item = fm_base_doc_at(prompt, i);
        if (fm_base_doc_type(item) == FM_DOC_ARRAY) {
            FM_TRY(add_ids(face, item, call));
        } else {
            FM_TRY(fm_base_doc_string(item, "a prompt", &text));
            FM_TRY(add_text(face, text, strlen(text), 1, call));
        }
    }
    return FM_OK;
}

static fm_status check_message(const fm_doc *message)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    const char *role, *text;
    int known = 0;
    FM_TRY(fm_base_doc_expect(message, "a message", FM_DOC_OBJECT));
    FM_TRY(fm_base_doc_string(fm_base_doc_get(message, "role"), "role", &role));
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        known |= strcmp(role, roles[i]) == 0;
    if (!known)
        return fm_base_doc_error(FM_ERR_ARG, message,
                                 "role is \"%.32s\"; expected system, user, assistant or tool", role);
    const fm_doc *content = fm_base_doc_get(message, "content");
    if (strcmp(role, "assistant") == 0 && fm_base_doc_type(content) == FM_DOC_NULL)
        return FM_OK;
    return fm_base_doc_string(content, "content", &text);
}

static fm_status read_messages(const struct serve_face *face, const fm_doc *doc, struct serve_call *call)
{
    const fm_doc *messages = given(doc, "messages"), *variables = given(doc, "chat_template_kwargs");
    char *text;
    size_t length;
    FM_TRY(fm_base_doc_expect(messages, "messages", FM_DOC_ARRAY));
    if (!face->chat)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "this model has no chat template; use /v1/completions");
    if (fm_base_doc_count(messages) == 0)
        return fm_base_doc_error(FM_ERR_ARG, messages, "messages is empty");
    for (size_t i = 0; i < fm_base_doc_count(messages); i++)
        FM_TRY(check_message(fm_base_doc_at(messages, i)));
    if (variables)
        FM_TRY(fm_base_doc_expect(variables, "chat_template_kwargs", FM_DOC_OBJECT));
    FM_TRY(fm_model_chat_render(face->chat, messages, variables, 1, &text, &length));
    fm_status status = add_text(face, text, length, 0, call); // the template writes its own first token
    fm_base_mem_free(text);
    return status;
}

static fm_status read_name(const struct serve_face *face, const fm_doc *doc)
{
    const char *name;
    if (!given(doc, "model"))
        return FM_OK;
    FM_TRY(fm_base_doc_string(given(doc, "model"), "model", &name));
    if (strcmp(name, face->model_name) != 0)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "the model \"%.64s\" is not here; this server has \"%s\"",
                                 name, face->model_name);
    return FM_OK;
}

static fm_status read_sampling(const fm_doc *doc, fm_model_sampling *sampling)
{
    *sampling = (fm_model_sampling){.temperature = 1, .top_p = 1};
    FM_TRY(read_real(doc, "temperature", 0, 100, &sampling->temperature));
    FM_TRY(read_real(doc, "top_p", 0, 1, &sampling->top_p));
    FM_TRY(read_int(doc, "top_k", 0, INT32_MAX, &sampling->top_k));
    if (given(doc, "seed")) {
        int64_t seed;
        FM_TRY(fm_base_doc_int(given(doc, "seed"), "seed", INT64_MIN, INT64_MAX, &seed));
        sampling->seed = (uint64_t)seed;
    } else if (getrandom(&sampling->seed, sizeof sampling->seed, 0) != (ssize_t)sizeof sampling->seed) {
        return fm_base_error_set(FM_ERR_INTERNAL, "the system gives no random numbers");
    }
    return FM_OK;
}

// OpenAI's logprobs: a truth value and top_logprobs in chats, a number in completions.
static fm_status read_logprobs(const fm_doc *doc, struct serve_call *call)
{
    if (call->chat) {
        FM_TRY(read_bool(doc, "logprobs", &call->logprobs));
        FM_TRY(read_int(doc, "top_logprobs", 0, FM_SERVE_TOP_MAX, &call->top_logprobs));
        if (call->top_logprobs && !call->logprobs)
            return fm_base_error_set(FM_ERR_ARG, "top_logprobs needs logprobs to be true");
        return FM_OK;
    }
    call->logprobs = given(doc, "logprobs") != NULL;
    return read_int(doc, "logprobs", 0, FM_SERVE_TOP_MAX, &call->top_logprobs);
}

// What remains of the context, or the cache, where a chat does not say how long its answer may be.
static int longest_answer(const struct serve_face *face, const struct serve_call *call)
{
    int64_t room = face->positions_max < face->config->context ? face->positions_max : face->config->context;
    for (int i = 0; i < call->prompt_count; i++) {
        int64_t left = face->positions_max - call->prompts[i].count;
        room = left < room ? left : room;
    }
    return room > 1 ? (int)room : 1;
}

static fm_status read_call(const struct serve_face *face, struct serve_call *call)
{
    const fm_doc *doc = call->doc;
    FM_TRY(fm_base_doc_expect(doc, "the body", FM_DOC_OBJECT));
    FM_TRY(read_name(face, doc));
    FM_TRY(refuse_unsupported(doc));
    FM_TRY(read_sampling(doc, &call->sampling));
    FM_TRY(read_int(doc, "n", 1, SERVE_CHOICES_MAX, &call->n));
    FM_TRY(read_bool(doc, "stream", &call->stream));
    FM_TRY(read_bool(doc, "ignore_eos", &call->ignore_end));
    if (given(doc, "stream_options"))
        FM_TRY(read_bool(given(doc, "stream_options"), "include_usage", &call->include_usage));
    FM_TRY(read_stops(doc, call));
    FM_TRY(read_logprobs(doc, call));
    FM_TRY(call->chat ? read_messages(face, doc, call) : read_prompts(face, doc, call));
    if (call->prompt_count * call->n > SERVE_CHOICES_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%d prompts with n %d; expected at most %d answers",
                                 call->prompt_count, call->n, SERVE_CHOICES_MAX);
    call->max_tokens = call->chat ? longest_answer(face, call) : 16; // 16 is OpenAI's
    FM_TRY(read_int(doc, "max_tokens", 1, INT32_MAX, &call->max_tokens));
    return read_int(doc, "max_completion_tokens", 1, INT32_MAX, &call->max_tokens);
}

fm_status fm_model_serve_call_read(const struct serve_face *face, int chat, const char *body, size_t length,
                                   struct serve_call *out_call)
{
    struct serve_call call = {.chat = chat, .n = 1};
    FM_TRY(fm_base_doc_parse_json(body, length, "body", &call.doc));
    fm_status status = read_call(face, &call);
    if (status != FM_OK) {
        fm_model_serve_call_free(&call);
        return status;
    }
    *out_call = call;
    return FM_OK;
}

void fm_model_serve_call_free(struct serve_call *call)
{
    for (int i = 0; i < SERVE_PROMPTS_MAX; i++)
        fm_base_mem_free(call->prompts[i].ids);
    fm_base_doc_free(call->doc);
    *call = (struct serve_call){0};
}
