/* A request of the API, read: what OpenAI's /v1/completions and /v1/chat/completions take. */
#ifndef FM_SERVE_CALL_H
#define FM_SERVE_CALL_H

#include "fathom/serve.h"

/* OpenAI's own limit for stop texts; the others keep one request from being a hundred. */
enum { SERVE_STOPS_MAX = 4, SERVE_PROMPTS_MAX = 16, SERVE_CHOICES_MAX = 16 };

struct serve_prompt {
    int32_t *ids;
    int count;
};

struct serve_call {
    fm_doc *doc; // owns the stop texts
    int chat, stream, include_usage, n, max_tokens, logprobs, top_logprobs, ignore_end;
    fm_model_sampling sampling;
    const char *stops[SERVE_STOPS_MAX];
    int stop_count;
    struct serve_prompt prompts[SERVE_PROMPTS_MAX];
    int prompt_count;
};

/** What calls are read against. */
struct serve_face {
    const fm_model_config *config;
    const fm_tokenizer *tokenizer;
    const fm_chat *chat; // NULL: no chats
    const char *model_name;
    int add_bos;
    int64_t positions_max; // that the cache holds
};

/** Reads a body. Failures (FM_ERR_FORMAT, ARG, LIMIT, UNSUPPORTED, NOT_FOUND for another model's name) are the client's, but
 *  for FM_ERR_NOMEM and FM_ERR_INTERNAL. */
FM_MUST_USE fm_status fm_model_serve_call_read(const struct serve_face *face, int chat, const char *body,
                                               size_t length, struct serve_call *out_call);
void fm_model_serve_call_free(struct serve_call *call);

#endif
