/* Expressions of a template, by precedence: choice, or, and, not, comparisons, + and -, ~, minus, then what follows a value. */
#include "chat_private.h"

enum { CHAT_DEPTH_MAX = 64 }; // of nested expressions; DeepSeek's templates have 4

fm_status fm_model_chat_node_create(struct chat_scan *scan, enum chat_kind kind, struct chat_node **out_node)
{
    struct chat_node *node = fm_base_arena_alloc(scan->arena, sizeof *node);
    if (!node)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to read %s", scan->name);
    memset(node, 0, sizeof *node);
    node->kind = kind;
    node->line = scan->line;
    *out_node = node;
    return FM_OK;
}

static fm_status unsupported(const struct chat_scan *scan, const char *what, struct chat_text name,
                             const char *known)
{
    return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED, "%s '%.*s' is not supported; known: %s", what,
                                    (int)(name.length < 64 ? name.length : 64), name.bytes, known);
}

static fm_status parse(struct chat_scan *scan, int depth, struct chat_node **out_node);

// a <kind> b, where a is there.
static fm_status pair(struct chat_scan *scan, enum chat_kind kind, struct chat_node *a, struct chat_node *b,
                      struct chat_node **out_node)
{
    FM_TRY(fm_model_chat_node_create(scan, kind, out_node));
    (*out_node)->a = a;
    (*out_node)->b = b;
    return FM_OK;
}

// Expressions with commas between them, up to ')', which is read over.
static fm_status parse_arguments(struct chat_scan *scan, int depth, struct chat_node **out_first)
{
    struct chat_node *first = NULL, **link = &first;
    while (!fm_model_chat_scan_at(scan, ")")) {
        FM_TRY(parse(scan, depth + 1, link));
        if (fm_model_chat_scan_at(scan, "="))
            return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED,
                                            "arguments by name are supported in namespace() alone");
        link = &(*link)->next;
        if (!fm_model_chat_scan_at(scan, ")"))
            FM_TRY(fm_model_chat_scan_expect(scan, ","));
    }
    FM_TRY(fm_model_chat_scan_token(scan));
    *out_first = first;
    return FM_OK;
}

static fm_status parse_namespace(struct chat_scan *scan, int depth, struct chat_node **out_node)
{
    struct chat_node *node;
    FM_TRY(fm_model_chat_node_create(scan, CHAT_NAMESPACE, &node));
    struct chat_node **link = &node->a;
    FM_TRY(fm_model_chat_scan_token(scan));
    while (!fm_model_chat_scan_at(scan, ")")) {
        FM_TRY(fm_model_chat_node_create(scan, CHAT_SET, link));
        if (scan->token != CHAT_TOKEN_WORD)
            return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "namespace() takes name=value");
        (*link)->text = scan->value;
        FM_TRY(fm_model_chat_scan_token(scan));
        FM_TRY(fm_model_chat_scan_expect(scan, "="));
        FM_TRY(parse(scan, depth + 1, &(*link)->a));
        link = &(*link)->next;
        if (!fm_model_chat_scan_at(scan, ")"))
            FM_TRY(fm_model_chat_scan_expect(scan, ","));
    }
    *out_node = node;
    return fm_model_chat_scan_token(scan);
}

static fm_status parse_word(struct chat_scan *scan, int depth, struct chat_node **out_node)
{
    static const struct {
        const char *word;
        enum chat_kind kind;
    } constants[] = {{"true", CHAT_TRUE},   {"True", CHAT_TRUE}, {"false", CHAT_FALSE},
                     {"False", CHAT_FALSE}, {"none", CHAT_NONE}, {"None", CHAT_NONE}};
    struct chat_text word = scan->value;
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++)
        if (chat_is(word, constants[i].word)) {
            FM_TRY(fm_model_chat_node_create(scan, constants[i].kind, out_node));
            return fm_model_chat_scan_token(scan);
        }
    FM_TRY(fm_model_chat_node_create(scan, CHAT_NAME, out_node));
    (*out_node)->text = word;
    FM_TRY(fm_model_chat_scan_token(scan));
    if (!fm_model_chat_scan_at(scan, "("))
        return FM_OK;
    if (!chat_is(word, "namespace"))
        return unsupported(scan, "the function", word, "namespace");
    return parse_namespace(scan, depth, out_node);
}

static fm_status parse_value(struct chat_scan *scan, int depth, struct chat_node **out_node)
{
    switch (scan->token) {
    case CHAT_TOKEN_WORD:
        return parse_word(scan, depth, out_node);
    case CHAT_TOKEN_INT:
        FM_TRY(fm_model_chat_node_create(scan, CHAT_INT, out_node));
        (*out_node)->number = scan->number;
        return fm_model_chat_scan_token(scan);
    case CHAT_TOKEN_STRING:
        FM_TRY(fm_model_chat_node_create(scan, CHAT_STRING, out_node));
        (*out_node)->text = scan->value;
        return fm_model_chat_scan_token(scan);
    case CHAT_TOKEN_SIGN:
        if (fm_model_chat_scan_at(scan, "(")) {
            FM_TRY(fm_model_chat_scan_token(scan));
            FM_TRY(parse(scan, depth + 1, out_node));
            return fm_model_chat_scan_expect(scan, ")");
        }
        return unsupported(scan, "the sign", scan->value, "( and operators between values");
    case CHAT_TOKEN_END:
        break;
    }
    return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "a value is missing before '%.*s'",
                                    (int)scan->value.length, scan->value.bytes);
}

static int is_known(struct chat_text name, const char *const *known)
{
    for (; *known; known++)
        if (chat_is(name, *known))
            return 1;
    return 0;
}

// .name, or .name(...).
static fm_status parse_member(struct chat_scan *scan, int depth, struct chat_node **node)
{
    static const char *const methods[] = {"split",      "strip",    "lstrip", "rstrip",
                                          "startswith", "endswith", NULL};
    FM_TRY(fm_model_chat_scan_token(scan));
    if (scan->token != CHAT_TOKEN_WORD)
        return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "a name is missing after '.'");
    FM_TRY(pair(scan, CHAT_MEMBER, *node, NULL, node));
    (*node)->text = scan->value;
    FM_TRY(fm_model_chat_scan_token(scan));
    if (!fm_model_chat_scan_at(scan, "("))
        return FM_OK;
    if (!is_known((*node)->text, methods))
        return unsupported(scan, "the method", (*node)->text,
                           "split, strip, lstrip, rstrip, startswith, endswith");
    (*node)->kind = CHAT_CALL;
    FM_TRY(fm_model_chat_scan_token(scan));
    return parse_arguments(scan, depth, &(*node)->b);
}

static fm_status parse_filter(struct chat_scan *scan, struct chat_node **node)
{
    static const char *const filters[] = {"tojson", "trim", "length", NULL};
    FM_TRY(fm_model_chat_scan_token(scan));
    if (scan->token != CHAT_TOKEN_WORD || !is_known(scan->value, filters))
        return unsupported(scan, "the filter", scan->value, "tojson, trim, length");
    FM_TRY(pair(scan, CHAT_FILTER, *node, NULL, node));
    (*node)->text = scan->value;
    FM_TRY(fm_model_chat_scan_token(scan));
    if (fm_model_chat_scan_at(scan, "("))
        return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED, "filters with arguments are not supported");
    return FM_OK;
}

static fm_status negate(struct chat_scan *scan, struct chat_node **node)
{
    return pair(scan, CHAT_NOT, *node, NULL, node);
}

// is [not] <test>.
static fm_status parse_test(struct chat_scan *scan, struct chat_node **node)
{
    static const char *const tests[] = {"defined", "undefined", "none", "string", "number",
                                        "mapping", "iterable",  "true", "false",  NULL};
    FM_TRY(fm_model_chat_scan_token(scan));
    int not = fm_model_chat_scan_at(scan, "not");
    if (not )
        FM_TRY(fm_model_chat_scan_token(scan));
    if (scan->token != CHAT_TOKEN_WORD || !is_known(scan->value, tests))
        return unsupported(scan, "the test", scan->value,
                           "defined, undefined, none, string, number, mapping, iterable, true, false");
    FM_TRY(pair(scan, CHAT_TEST, *node, NULL, node));
    (*node)->text = scan->value;
    FM_TRY(fm_model_chat_scan_token(scan));
    return not ? negate(scan, node) : FM_OK;
}

// How long a chain of .name, [item], tests or operators may be: each makes the tree one level deeper.
enum { CHAT_CHAIN_MAX = 256 };

static fm_status too_long(const struct chat_scan *scan)
{
    return fm_model_chat_scan_error(scan, FM_ERR_LIMIT, "more than %d operations in a row", CHAT_CHAIN_MAX);
}

static fm_status parse_postfix(struct chat_scan *scan, int depth, struct chat_node **out_node)
{
    struct chat_node *node;
    FM_TRY(parse_value(scan, depth, &node));
    for (int chain = 0;; chain++) {
        if (chain > CHAT_CHAIN_MAX)
            return too_long(scan);
        if (fm_model_chat_scan_at(scan, ".")) {
            FM_TRY(parse_member(scan, depth, &node));
        } else if (fm_model_chat_scan_at(scan, "|")) {
            FM_TRY(parse_filter(scan, &node));
        } else if (fm_model_chat_scan_at(scan, "is")) {
            FM_TRY(parse_test(scan, &node));
        } else if (fm_model_chat_scan_at(scan, "[")) {
            FM_TRY(pair(scan, CHAT_ITEM, node, NULL, &node));
            FM_TRY(fm_model_chat_scan_token(scan));
            if (!fm_model_chat_scan_at(scan, ":"))
                FM_TRY(parse(scan, depth + 1, &node->b));
            if (fm_model_chat_scan_at(scan, ":"))
                return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED, "slices are not supported");
            FM_TRY(fm_model_chat_scan_expect(scan, "]"));
        } else {
            break;
        }
    }
    *out_node = node;
    return FM_OK;
}

static fm_status parse_minus(struct chat_scan *scan, int depth, struct chat_node **out_node)
{
    if (!fm_model_chat_scan_at(scan, "-"))
        return parse_postfix(scan, depth, out_node);
    FM_TRY(fm_model_chat_scan_token(scan));
    FM_TRY(fm_model_chat_node_create(scan, CHAT_MINUS, out_node));
    return parse_postfix(scan, depth, &(*out_node)->a);
}

static fm_status parse_join(struct chat_scan *scan, int depth, struct chat_node **out_node)
{
    struct chat_node *node, *right;
    FM_TRY(parse_minus(scan, depth, &node));
    for (int chain = 0; fm_model_chat_scan_at(scan, "~"); chain++) {
        if (chain > CHAT_CHAIN_MAX)
            return too_long(scan);
        FM_TRY(fm_model_chat_scan_token(scan));
        FM_TRY(parse_minus(scan, depth, &right));
        FM_TRY(pair(scan, CHAT_JOIN, node, right, &node));
    }
    *out_node = node;
    return FM_OK;
}

static fm_status parse_sum(struct chat_scan *scan, int depth, struct chat_node **out_node)
{
    struct chat_node *node, *right;
    FM_TRY(parse_join(scan, depth, &node));
    for (int chain = 0; fm_model_chat_scan_at(scan, "+") || fm_model_chat_scan_at(scan, "-"); chain++) {
        enum chat_kind kind = fm_model_chat_scan_at(scan, "+") ? CHAT_ADD : CHAT_SUBTRACT;
        if (chain > CHAT_CHAIN_MAX)
            return too_long(scan);
        FM_TRY(fm_model_chat_scan_token(scan));
        FM_TRY(parse_join(scan, depth, &right));
        FM_TRY(pair(scan, kind, node, right, &node));
    }
    *out_node = node;
    return FM_OK;
}

// One comparison behind *node; `out_found` is 0 where there is none.
static fm_status parse_comparison(struct chat_scan *scan, int depth, struct chat_node **node, int *out_found)
{
    static const struct {
        const char *sign;
        enum chat_kind kind;
        int swap;
    } signs[] = {{"==", CHAT_EQUAL, 0},      {"!=", CHAT_UNEQUAL, 0}, {"<", CHAT_LESS, 0},
                 {"<=", CHAT_LESS_EQUAL, 0}, {">", CHAT_LESS, 1},     {">=", CHAT_LESS_EQUAL, 1},
                 {"in", CHAT_IN, 0}};
    struct chat_node *right;
    *out_found = 1;
    int not = fm_model_chat_scan_at(scan, "not");
    if (not ) {
        FM_TRY(fm_model_chat_scan_token(scan));
        if (!fm_model_chat_scan_at(scan, "in"))
            return fm_model_chat_scan_error(scan, FM_ERR_FORMAT, "'in' is missing after 'not'");
    }
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++)
        if (fm_model_chat_scan_at(scan, signs[i].sign)) {
            FM_TRY(fm_model_chat_scan_token(scan));
            FM_TRY(parse_sum(scan, depth, &right));
            FM_TRY(signs[i].swap ? pair(scan, signs[i].kind, right, *node, node)
                                 : pair(scan, signs[i].kind, *node, right, node));
            return not ? negate(scan, node) : FM_OK;
        }
    *out_found = 0;
    return FM_OK;
}

static fm_status parse_not(struct chat_scan *scan, int depth, struct chat_node **out_node)
{
    int negations = 0, found = 1;
    while (fm_model_chat_scan_at(scan, "not")) {
        negations++;
        FM_TRY(fm_model_chat_scan_token(scan));
    }
    FM_TRY(parse_sum(scan, depth, out_node));
    for (int chain = 0; found; chain++) {
        if (chain > 1)
            return fm_model_chat_scan_error(scan, FM_ERR_UNSUPPORTED,
                                            "chains of comparisons (a < b < c) are not supported");
        FM_TRY(parse_comparison(scan, depth, out_node, &found));
    }
    // "not not x" is a truth value too; more of them change nothing.
    for (int i = negations > 2 ? 2 - negations % 2 : negations; i > 0; i--)
        FM_TRY(negate(scan, out_node));
    return FM_OK;
}

// Values with one word between them.
static fm_status parse_logic(struct chat_scan *scan, int depth, enum chat_kind kind,
                             struct chat_node **out_node)
{
    struct chat_node *node, *right;
    const char *word = kind == CHAT_OR ? "or" : "and";
    FM_TRY(kind == CHAT_OR ? parse_logic(scan, depth, CHAT_AND, &node) : parse_not(scan, depth, &node));
    for (int chain = 0; fm_model_chat_scan_at(scan, word); chain++) {
        if (chain > CHAT_CHAIN_MAX)
            return too_long(scan);
        FM_TRY(fm_model_chat_scan_token(scan));
        FM_TRY(kind == CHAT_OR ? parse_logic(scan, depth, CHAT_AND, &right) : parse_not(scan, depth, &right));
        FM_TRY(pair(scan, kind, node, right, &node));
    }
    *out_node = node;
    return FM_OK;
}

static fm_status parse(struct chat_scan *scan, int depth, struct chat_node **out_node)
{
    struct chat_node *node, *choice;
    if (depth > CHAT_DEPTH_MAX)
        return fm_model_chat_scan_error(scan, FM_ERR_LIMIT, "expressions are nested more than %d deep",
                                        CHAT_DEPTH_MAX);
    FM_TRY(parse_logic(scan, depth, CHAT_OR, &node));
    if (fm_model_chat_scan_at(scan, "if")) {
        FM_TRY(pair(scan, CHAT_CHOICE, node, NULL, &choice));
        FM_TRY(fm_model_chat_scan_token(scan));
        FM_TRY(parse_logic(scan, depth, CHAT_OR, &choice->b));
        if (fm_model_chat_scan_at(scan, "else")) {
            FM_TRY(fm_model_chat_scan_token(scan));
            FM_TRY(parse(scan, depth + 1, &choice->c));
        }
        node = choice;
    }
    *out_node = node;
    return FM_OK;
}

fm_status fm_model_chat_parse_expression(struct chat_scan *scan, struct chat_node **out_node)
{
    return parse(scan, 0, out_node);
}
