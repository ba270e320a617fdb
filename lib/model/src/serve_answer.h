/* Answers of the API: tokens become text, text becomes JSON, whole or as server-sent events. */
#ifndef FM_SERVE_ANSWER_H
#define FM_SERVE_ANSWER_H

#include "serve_call.h"

/** A growing run of bytes. */
struct serve_bytes {
    char *bytes;
    size_t length, capacity;
};

FM_MUST_USE fm_status fm_model_serve_bytes_add(struct serve_bytes *to, const char *bytes, size_t length);

struct serve_choice {
    struct serve_answer *answer;
    int index, tokens, cached;
    uint64_t ticket;
    struct serve_bytes text;    // all of it, stop text cut off
    size_t sent;                // of it, in events; also what is surely no part of a stop text
    struct serve_bytes details; // JSON of the logprobs so far, items with commas between them
    size_t details_sent;
    int stopped, ended;
    fm_serve_finish how;
};

struct serve_answer {
    const struct serve_face *face;
    struct serve_call call;
    char id[40];
    int64_t created; // seconds since 1970
    struct serve_choice choices[SERVE_CHOICES_MAX];
    int choice_count, ended_count;
    struct serve_bytes out; // events, or the body
    int failed;
};

/** A token came to a choice. Returns 1 where its text is to end here. Events are appended to `out`. */
int fm_model_serve_answer_token(struct serve_choice *choice, const fm_serve_token *token);
/** The choice ended; with the last of them the answer is complete. */
void fm_model_serve_answer_end(struct serve_choice *choice, fm_serve_finish how, int cached);
/** The first event of a stream. */
void fm_model_serve_answer_begin(struct serve_answer *answer);
void fm_model_serve_answer_free(struct serve_answer *answer);
/** {"error": ...} as the API has it. */
FM_MUST_USE fm_status fm_model_serve_error_body(int http_status, const char *message,
                                                struct serve_bytes *out_body);

#endif
