/* Statements of a template. */
#include "chat_private.h"

enum { CHAT_NESTING_MAX = 32 }; // of statements; DeepSeek's templates have 6

static const char *const chat_words[] = {"if", "for", "set", "elif", "else", "endif", "endfor", NULL};

static fm_status parse_body(struct chat_scan *scan, int depth, struct chat_node **out_body);

static fm_status end_tag(struct chat_scan *scan, const char *statement)
{
    if (scan->token != CHAT_TOKEN_END)
        return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED, "'%.*s' in {%% %s %%} is not supported",
                                        (int)(scan->value.length < 64 ? scan->value.length : 64),
                                        scan->value.bytes, statement);
    return FM_OK;
}

static fm_status parse_name(struct chat_scan *scan, struct chat_text *out_name)
{
    if (scan->token != CHAT_TOKEN_WORD)
        return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "a name is missing before '%.*s'",
                                        (int)scan->value.length, scan->value.bytes);
    *out_name = scan->value;
    return fm_model_chat_scan_token(scan);
}

// The body ended at one of the words that may go on here; says which.
static fm_status expect_end(const struct chat_scan *scan, const char *const *ends, const char *statement,
                            int *out_which)
{
    for (int i = 0; ends[i]; i++)
        if (scan->token == CHAT_TOKEN_WORD && chat_is(scan->value, ends[i])) {
            *out_which = i;
            return FM_OK;
        }
    return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "{%% %s %%} is not ended: %s is missing", statement,
                                    ends[0]);
}

static fm_status parse_if(struct chat_scan *scan, int depth, struct chat_node *node)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    int which;
    for (;;) {
        FM_TRY(fm_model_chat_parse_expression(scan, &node->a));
        FM_TRY(end_tag(scan, "if"));
        FM_TRY(parse_body(scan, depth, &node->body));
        FM_TRY(expect_end(scan, ends, "if", &which));
        FM_TRY(fm_model_chat_scan_token(scan));
        if (which != 1)
            break;
        FM_TRY(fm_model_chat_node_create(scan, CHAT_IF, &node->otherwise));
        node = node->otherwise;
    }
    if (which == 2) {
        FM_TRY(end_tag(scan, "else"));
        FM_TRY(parse_body(scan, depth, &node->otherwise));
        FM_TRY(expect_end(scan, (const char *const[]){"endif", NULL}, "else", &which));
        FM_TRY(fm_model_chat_scan_token(scan));
    }
    return end_tag(scan, "endif");
}

static fm_status parse_for(struct chat_scan *scan, int depth, struct chat_node *node)
{
    int which;
    node->kind = CHAT_FOR;
    FM_TRY(parse_name(scan, &node->text));
    if (fm_model_chat_scan_at(scan, ","))
        return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED,
                                        "'for' over pairs (for a, b in) is not supported");
    FM_TRY(fm_model_chat_scan_expect(scan, "in"));
    FM_TRY(fm_model_chat_parse_expression(scan, &node->a));
    // The expression reads "x if y" as a choice; here it would be a filter of the loop.
    if (node->a->kind == CHAT_CHOICE && !node->a->c)
        return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED, "'if' in a 'for' is not supported");
    FM_TRY(end_tag(scan, "for"));
    FM_TRY(parse_body(scan, depth, &node->body));
    FM_TRY(expect_end(scan, (const char *const[]){"endfor", NULL}, "for", &which));
    FM_TRY(fm_model_chat_scan_token(scan));
    return end_tag(scan, "endfor");
}

static fm_status parse_set(struct chat_scan *scan, struct chat_node *node)
{
    node->kind = CHAT_SET;
    FM_TRY(parse_name(scan, &node->text));
    if (fm_model_chat_scan_at(scan, ".")) {
        FM_TRY(fm_model_chat_scan_token(scan));
        FM_TRY(parse_name(scan, &node->member));
    }
    if (scan->token == CHAT_TOKEN_END)
        return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED, "'set' with a body is not supported");
    FM_TRY(fm_model_chat_scan_expect(scan, "="));
    FM_TRY(fm_model_chat_parse_expression(scan, &node->a));
    return end_tag(scan, "set");
}

// `out_ended`: the statement is one that ends the body, and is still to be read.
static fm_status parse_statement(struct chat_scan *scan, int depth, struct chat_node **out_node,
                                 int *out_ended)
{
    struct chat_text word = scan->value;
    int known = 0;
    for (int i = 0; chat_words[i]; i++)
        known |= scan->token == CHAT_TOKEN_WORD && chat_is(word, chat_words[i]);
    if (!known)
        return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED,
                                        "the statement '%.*s' is not supported; known: if, for, set",
                                        (int)(word.length < 64 ? word.length : 64), word.bytes);
    *out_ended = word.bytes[0] == 'e';
    if (*out_ended)
        return FM_OK;
    FM_TRY(fm_model_chat_node_create(scan, CHAT_IF, out_node));
    FM_TRY(fm_model_chat_scan_token(scan));
    if (chat_is(word, "if"))
        return parse_if(scan, depth, *out_node);
    return chat_is(word, "for") ? parse_for(scan, depth, *out_node) : parse_set(scan, *out_node);
}

static fm_status parse_body(struct chat_scan *scan, int depth, struct chat_node **out_body)
{
    struct chat_node *body = NULL, **link = &body;
    if (depth > CHAT_NESTING_MAX)
        return fm_model_chat_scan_error(scan, FM_ERR_LIMIT, "statements are nested more than %d deep",
                                        CHAT_NESTING_MAX);
    for (;;) {
        enum chat_piece piece;
        struct chat_text data;
        int ended = 0;
        FM_TRY(fm_model_chat_scan_piece(scan, &piece, &data));
        if (piece == CHAT_PIECE_NOTHING) {
            scan->token = CHAT_TOKEN_END;
            break;
        }
        if (piece == CHAT_PIECE_STATEMENT) {
            FM_TRY(parse_statement(scan, depth + 1, link, &ended));
        } else {
            FM_TRY(fm_model_chat_node_create(scan, piece == CHAT_PIECE_DATA ? CHAT_DATA : CHAT_PRINT, link));
            if (piece == CHAT_PIECE_DATA)
                (*link)->text = data;
            else {
                FM_TRY(fm_model_chat_parse_expression(scan, &(*link)->a));
                FM_TRY(end_tag(scan, "an expression"));
            }
        }
        if (ended)
            break;
        link = &(*link)->next;
    }
    *out_body = body;
    return FM_OK;
}

fm_status fm_model_chat_parse_tree(struct chat_scan *scan, struct chat_node **out_body)
{
    FM_TRY(parse_body(scan, 0, out_body));
    if (scan->token != CHAT_TOKEN_END)
        return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "'%.*s' has nothing to end",
                                        (int)scan->value.length, scan->value.bytes);
    return FM_OK;
}
