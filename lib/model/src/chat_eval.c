/* Rendering: a walk over the tree with a stack of variables. As in Jinja, what is set in a loop is forgotten after each turn,
 * what is set in an if stays, and namespaces carry values out of loops. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

#include "chat_private.h"

/* A template is the operator's, a conversation a stranger's: neither may keep the server busy for long, or fill its memory
 * with copies. A render of DeepSeek-V3's template takes some 40 steps a message. */
enum { CHAT_STEPS_MAX = 10000000, CHAT_BYTES_MAX = 64 << 20 };

struct render {
    const fm_chat *chat;
    fm_arena arena;                  // values
    struct chat_variable *variables; // the newest first
    struct chat_variable *frame;     // those from here on belong to what is around the loop
    char *text;
    size_t length, capacity;
    int64_t steps;
};

static fm_status fail(const struct render *render, const struct chat_node *node, fm_status status,
                      const char *format, ...) FM_PRINTF(4, 5);

static fm_status fail(const struct render *render, const struct chat_node *node, fm_status status,
                      const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    return fm_base_error_set(status, "%s:%d: %s", render->chat->name, node->line, text);
}

static fm_status no_memory(const struct render *render)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to render %s", render->chat->name);
}

static fm_status step(struct render *render, const struct chat_node *node)
{
    if (++render->steps > CHAT_STEPS_MAX)
        return fail(render, node, FM_ERR_LIMIT, "the template takes more than %d steps", CHAT_STEPS_MAX);
    if (render->arena.bytes > CHAT_BYTES_MAX)
        return fail(render, node, FM_ERR_LIMIT, "the template makes more than %d bytes of text",
                    CHAT_BYTES_MAX);
    return FM_OK;
}

static int same(struct chat_text a, struct chat_text b)
{
    return a.length == b.length && memcmp(a.bytes, b.bytes, a.length) == 0;
}

static struct chat_variable *find(struct chat_variable *from, const struct chat_variable *to,
                                  struct chat_text name)
{
    for (; from != to; from = from->next)
        if (same(from->name, name))
            return from;
    return NULL;
}

static fm_status push(struct render *render, struct chat_variable **list, struct chat_text name,
                      struct chat_value value)
{
    struct chat_variable *variable = fm_base_arena_alloc(&render->arena, sizeof *variable);
    if (!variable)
        return no_memory(render);
    *variable = (struct chat_variable){name, value, *list};
    *list = variable;
    return FM_OK;
}

static struct chat_text literal(const char *text)
{
    return (struct chat_text){text, strlen(text)};
}

static struct chat_value truth(int value)
{
    return (struct chat_value){.type = CHAT_TYPE_BOOL, .number = value != 0};
}

static fm_status evaluate(struct render *render, const struct chat_node *node, struct chat_value *out_value);

// What {{ value }} shows.
static fm_status show(struct render *render, const struct chat_node *node, const struct chat_value *value,
                      struct chat_text *out_text)
{
    char text[32];
    switch (value->type) {
    case CHAT_TYPE_TEXT:
        *out_text = value->text;
        return FM_OK;
    case CHAT_TYPE_UNDEFINED:
        *out_text = literal("");
        return FM_OK;
    case CHAT_TYPE_NONE:
        *out_text = literal("None");
        return FM_OK;
    case CHAT_TYPE_BOOL:
        *out_text = literal(value->number ? "True" : "False");
        return FM_OK;
    case CHAT_TYPE_INT: {
        int length = snprintf(text, sizeof text, "%lld", (long long)value->number);
        char *copy = fm_base_arena_strndup(&render->arena, text, (size_t)length);
        if (!copy)
            return no_memory(render);
        *out_text = (struct chat_text){copy, (size_t)length};
        return FM_OK;
    }
    case CHAT_TYPE_DOC:
    case CHAT_TYPE_LIST:
    case CHAT_TYPE_NAMESPACE:
        break;
    }
    return fail(render, node, FM_ERR_ARG, "%s where text is expected", fm_model_chat_value_type(value));
}

static fm_status join(struct render *render, struct chat_text a, struct chat_text b,
                      struct chat_value *out_value)
{
    char *bytes = fm_base_arena_alloc(&render->arena, a.length + b.length + 1);
    if (!bytes)
        return no_memory(render);
    memcpy(bytes, a.bytes, a.length);
    memcpy(bytes + a.length, b.bytes, b.length);
    *out_value = fm_model_chat_value_text(bytes, a.length + b.length);
    return FM_OK;
}

static fm_status add(struct render *render, const struct chat_node *node, const struct chat_value *a,
                     const struct chat_value *b, struct chat_value *out_value)
{
    if (a->type == CHAT_TYPE_TEXT && b->type == CHAT_TYPE_TEXT && node->kind == CHAT_ADD)
        return join(render, a->text, b->text, out_value);
    if (a->type != CHAT_TYPE_INT || b->type != CHAT_TYPE_INT)
        return fail(render, node, FM_ERR_ARG, "%s %c %s", fm_model_chat_value_type(a),
                    node->kind == CHAT_ADD ? '+' : '-', fm_model_chat_value_type(b));
    *out_value = (struct chat_value){.type = CHAT_TYPE_INT};
    if (node->kind == CHAT_ADD ? __builtin_add_overflow(a->number, b->number, &out_value->number)
                               : __builtin_sub_overflow(a->number, b->number, &out_value->number))
        return fail(render, node, FM_ERR_LIMIT, "a sum is beyond 2^63");
    return FM_OK;
}

static fm_status less(const struct render *render, const struct chat_node *node, const struct chat_value *a,
                      const struct chat_value *b, struct chat_value *out_value)
{
    int64_t order = a->number < b->number ? -1 : a->number > b->number;
    if (a->type == CHAT_TYPE_TEXT && b->type == CHAT_TYPE_TEXT) {
        size_t length = a->text.length < b->text.length ? a->text.length : b->text.length;
        order = memcmp(a->text.bytes, b->text.bytes, length);
        if (order == 0)
            order = a->text.length < b->text.length ? -1 : a->text.length > b->text.length;
    } else if (a->type != CHAT_TYPE_INT || b->type != CHAT_TYPE_INT) {
        return fail(render, node, FM_ERR_ARG, "%s compared with %s", fm_model_chat_value_type(a),
                    fm_model_chat_value_type(b));
    }
    *out_value = truth(order < 0 || (order == 0 && node->kind == CHAT_LESS_EQUAL));
    return FM_OK;
}

static const char *search(struct chat_text in, struct chat_text what)
{
    return memmem(in.bytes, in.length, what.bytes, what.length);
}

static fm_status contains(const struct render *render, const struct chat_node *node,
                          const struct chat_value *a, const struct chat_value *b,
                          struct chat_value *out_value)
{
    int found = 0;
    if (b->type == CHAT_TYPE_TEXT && a->type == CHAT_TYPE_TEXT) {
        found = search(b->text, a->text) != NULL;
    } else if (b->type == CHAT_TYPE_DOC && fm_base_doc_type(b->doc) == FM_DOC_OBJECT) {
        for (size_t i = 0; i < fm_base_doc_count(b->doc) && a->type == CHAT_TYPE_TEXT && !found; i++)
            found = same(literal(fm_base_doc_key(b->doc, i)), a->text);
    } else if (b->type != CHAT_TYPE_TEXT && fm_model_chat_value_count(b) >= 0) {
        for (int64_t i = 0; i < fm_model_chat_value_count(b) && !found; i++) {
            struct chat_value item = fm_model_chat_value_item(b, i);
            found = fm_model_chat_value_equal(a, &item);
        }
    } else {
        return fail(render, node, FM_ERR_ARG, "%s in %s", fm_model_chat_value_type(a),
                    fm_model_chat_value_type(b));
    }
    *out_value = truth(found);
    return FM_OK;
}

static fm_status operate(struct render *render, const struct chat_node *node, struct chat_value *out_value)
{
    struct chat_value a, b;
    struct chat_text left, right;
    FM_TRY(evaluate(render, node->a, &a));
    FM_TRY(evaluate(render, node->b, &b));
    switch (node->kind) {
    case CHAT_EQUAL:
        *out_value = truth(fm_model_chat_value_equal(&a, &b));
        return FM_OK;
    case CHAT_UNEQUAL:
        *out_value = truth(!fm_model_chat_value_equal(&a, &b));
        return FM_OK;
    case CHAT_LESS:
    case CHAT_LESS_EQUAL:
        return less(render, node, &a, &b, out_value);
    case CHAT_IN:
        return contains(render, node, &a, &b, out_value);
    case CHAT_JOIN:
        FM_TRY(show(render, node, &a, &left));
        FM_TRY(show(render, node, &b, &right));
        return join(render, left, right, out_value);
    default:
        return add(render, node, &a, &b, out_value);
    }
}

static struct chat_value member(const struct chat_value *of, struct chat_text name)
{
    struct chat_value undefined = {.type = CHAT_TYPE_UNDEFINED, .text = name};
    if (of->type == CHAT_TYPE_NAMESPACE) {
        const struct chat_variable *found = find(of->space, NULL, name);
        return found && name.length ? found->value : undefined;
    }
    if (of->type == CHAT_TYPE_DOC)
        for (size_t i = 0; i < fm_base_doc_count(of->doc) && fm_base_doc_key(of->doc, i); i++)
            if (same(literal(fm_base_doc_key(of->doc, i)), name))
                return fm_model_chat_value_of(fm_base_doc_at(of->doc, i));
    return undefined;
}

static fm_status get_item(struct render *render, const struct chat_node *node, struct chat_value *out_value)
{
    struct chat_value of, key;
    FM_TRY(evaluate(render, node->a, &of));
    if (node->kind == CHAT_MEMBER)
        key = fm_model_chat_value_text(node->text.bytes, node->text.length);
    else
        FM_TRY(evaluate(render, node->b, &key));
    if (of.type == CHAT_TYPE_UNDEFINED)
        return fail(render, node, FM_ERR_ARG, "'%.*s' is undefined and has no members",
                    (int)(of.text.length < 64 ? of.text.length : 64), of.text.length ? of.text.bytes : "");
    *out_value = key.type == CHAT_TYPE_TEXT  ? member(&of, key.text)
                 : key.type == CHAT_TYPE_INT ? fm_model_chat_value_item(&of, key.number)
                                             : (struct chat_value){.type = CHAT_TYPE_UNDEFINED};
    return FM_OK;
}

static fm_status test(struct render *render, const struct chat_node *node, struct chat_value *out_value)
{
    struct chat_value a;
    FM_TRY(evaluate(render, node->a, &a));
    struct chat_text name = node->text;
    fm_doc_type type = a.type == CHAT_TYPE_DOC ? fm_base_doc_type(a.doc) : FM_DOC_NULL;
    int result;
    if (chat_is(name, "defined"))
        result = a.type != CHAT_TYPE_UNDEFINED;
    else if (chat_is(name, "undefined"))
        result = a.type == CHAT_TYPE_UNDEFINED;
    else if (chat_is(name, "none"))
        result = a.type == CHAT_TYPE_NONE;
    else if (chat_is(name, "string"))
        result = a.type == CHAT_TYPE_TEXT;
    else if (chat_is(name, "number"))
        result = a.type == CHAT_TYPE_INT || a.type == CHAT_TYPE_BOOL || type == FM_DOC_REAL;
    else if (chat_is(name, "mapping"))
        result = type == FM_DOC_OBJECT;
    else if (chat_is(name, "iterable"))
        result = fm_model_chat_value_count(&a) >= 0;
    else
        result = a.type == CHAT_TYPE_BOOL && a.number == chat_is(name, "true");
    *out_value = truth(result);
    return FM_OK;
}

// Takes white space away at the start (1), the end (2) or both (3).
static struct chat_value strip(struct chat_text text, int where)
{
    while ((where & 1) && text.length && isspace((unsigned char)*text.bytes))
        text.bytes++, text.length--;
    while ((where & 2) && text.length && isspace((unsigned char)text.bytes[text.length - 1]))
        text.length--;
    return fm_model_chat_value_text(text.bytes, text.length);
}

static fm_status filter(struct render *render, const struct chat_node *node, struct chat_value *out_value)
{
    struct chat_value a;
    struct chat_text text;
    FM_TRY(evaluate(render, node->a, &a));
    if (chat_is(node->text, "length")) {
        *out_value = (struct chat_value){.type = CHAT_TYPE_INT, .number = fm_model_chat_value_count(&a)};
        return out_value->number >= 0
                   ? FM_OK
                   : fail(render, node, FM_ERR_ARG, "length of %s", fm_model_chat_value_type(&a));
    }
    if (chat_is(node->text, "trim")) {
        FM_TRY(show(render, node, &a, &text));
        *out_value = strip(text, 3);
        return FM_OK;
    }
    FM_TRY(fm_model_chat_value_json(&a, &render->arena, &text));
    *out_value = fm_model_chat_value_text(text.bytes, text.length);
    return FM_OK;
}

// text.split(separator[, at most]).
static fm_status split(struct render *render, const struct chat_node *node, struct chat_text text,
                       const struct chat_value *arguments, int count, struct chat_value *out_value)
{
    if (count < 1 || arguments[0].type != CHAT_TYPE_TEXT || arguments[0].text.length == 0 ||
        (count > 1 && arguments[1].type != CHAT_TYPE_INT))
        return fail(render, node, FM_ERR_ARG, "split() expects a text to split at, and perhaps a number");
    struct chat_text at = arguments[0].text;
    int64_t most = count > 1 && arguments[1].number >= 0 ? arguments[1].number : INT64_MAX, cuts = 0;
    struct chat_text rest = text;
    for (const char *hit; cuts < most && (hit = search(rest, at)); cuts++)
        rest = (struct chat_text){hit + at.length, (size_t)(rest.bytes + rest.length - hit) - at.length};
    struct chat_value *items = fm_base_arena_alloc(&render->arena, (size_t)(cuts + 1) * sizeof *items);
    if (!items)
        return no_memory(render);
    rest = text;
    for (int64_t i = 0; i < cuts; i++) {
        const char *hit = search(rest, at);
        items[i] = fm_model_chat_value_text(rest.bytes, (size_t)(hit - rest.bytes));
        rest = (struct chat_text){hit + at.length, (size_t)(rest.bytes + rest.length - hit) - at.length};
    }
    items[cuts] = fm_model_chat_value_text(rest.bytes, rest.length);
    *out_value = (struct chat_value){.type = CHAT_TYPE_LIST, .number = cuts + 1, .items = items};
    return FM_OK;
}

static fm_status call(struct render *render, const struct chat_node *node, struct chat_value *out_value)
{
    struct chat_value of, arguments[2];
    int count = 0;
    FM_TRY(evaluate(render, node->a, &of));
    for (const struct chat_node *argument = node->b; argument; argument = argument->next) {
        if (count == 2)
            return fail(render, node, FM_ERR_ARG, "too many arguments");
        FM_TRY(evaluate(render, argument, &arguments[count++]));
    }
    if (of.type != CHAT_TYPE_TEXT)
        return fail(render, node, FM_ERR_ARG, "%s has no %.*s()", fm_model_chat_value_type(&of),
                    (int)node->text.length, node->text.bytes);
    if (chat_is(node->text, "split"))
        return split(render, node, of.text, arguments, count, out_value);
    if (node->text.bytes[node->text.length - 1] == 'p') { // strip, lstrip, rstrip
        if (count)
            return fail(render, node, FM_ERR_UNSUPPORTED, "strip() with an argument is not supported");
        *out_value = strip(of.text, node->text.bytes[0] == 'l' ? 1 : node->text.bytes[0] == 'r' ? 2 : 3);
        return FM_OK;
    }
    if (count != 1 || arguments[0].type != CHAT_TYPE_TEXT)
        return fail(render, node, FM_ERR_ARG, "%.*s() expects a text", (int)node->text.length,
                    node->text.bytes);
    struct chat_text what = arguments[0].text;
    size_t at = chat_is(node->text, "endswith") ? of.text.length - what.length : 0;
    *out_value =
        truth(what.length <= of.text.length && memcmp(of.text.bytes + at, what.bytes, what.length) == 0);
    return FM_OK;
}

static fm_status make_namespace(struct render *render, const struct chat_node *node,
                                struct chat_value *out_value)
{
    // The head stands for the namespace: what is set later comes behind it.
    struct chat_variable *head = NULL;
    FM_TRY(push(render, &head, literal(""), (struct chat_value){.type = CHAT_TYPE_UNDEFINED}));
    for (const struct chat_node *set = node->a; set; set = set->next) {
        struct chat_value value;
        FM_TRY(evaluate(render, set->a, &value));
        FM_TRY(push(render, &head->next, set->text, value));
    }
    *out_value = (struct chat_value){.type = CHAT_TYPE_NAMESPACE, .space = head};
    return FM_OK;
}

static struct chat_value name(const struct render *render, struct chat_text text)
{
    const struct chat_variable *found = find(render->variables, NULL, text);
    return found ? found->value : (struct chat_value){.type = CHAT_TYPE_UNDEFINED, .text = text};
}

// and, or, choice: what is not needed is not computed.
static fm_status decide(struct render *render, const struct chat_node *node, struct chat_value *out_value)
{
    struct chat_value value;
    FM_TRY(evaluate(render, node->kind == CHAT_CHOICE ? node->b : node->a, &value));
    int true_value = fm_model_chat_value_truth(&value);
    if (node->kind == CHAT_CHOICE) {
        const struct chat_node *chosen = true_value ? node->a : node->c;
        *out_value = (struct chat_value){.type = CHAT_TYPE_UNDEFINED};
        return chosen ? evaluate(render, chosen, out_value) : FM_OK;
    }
    if (true_value != (node->kind == CHAT_OR))
        return evaluate(render, node->b, out_value);
    *out_value = value;
    return FM_OK;
}

static fm_status evaluate(struct render *render, const struct chat_node *node, struct chat_value *out_value)
{
    struct chat_value a;
    FM_TRY(step(render, node));
    switch (node->kind) {
    case CHAT_NAME:
        *out_value = name(render, node->text);
        return FM_OK;
    case CHAT_STRING:
        *out_value = fm_model_chat_value_text(node->text.bytes, node->text.length);
        return FM_OK;
    case CHAT_INT:
        *out_value = (struct chat_value){.type = CHAT_TYPE_INT, .number = node->number};
        return FM_OK;
    case CHAT_TRUE:
    case CHAT_FALSE:
        *out_value = truth(node->kind == CHAT_TRUE);
        return FM_OK;
    case CHAT_NONE:
        *out_value = (struct chat_value){.type = CHAT_TYPE_NONE};
        return FM_OK;
    case CHAT_NAMESPACE:
        return make_namespace(render, node, out_value);
    case CHAT_MEMBER:
    case CHAT_ITEM:
        return get_item(render, node, out_value);
    case CHAT_CALL:
        return call(render, node, out_value);
    case CHAT_FILTER:
        return filter(render, node, out_value);
    case CHAT_TEST:
        return test(render, node, out_value);
    case CHAT_NOT:
        FM_TRY(evaluate(render, node->a, &a));
        *out_value = truth(!fm_model_chat_value_truth(&a));
        return FM_OK;
    case CHAT_MINUS:
        FM_TRY(evaluate(render, node->a, &a));
        if (a.type != CHAT_TYPE_INT || a.number == INT64_MIN)
            return fail(render, node, FM_ERR_ARG, "- %s", fm_model_chat_value_type(&a));
        *out_value = (struct chat_value){.type = CHAT_TYPE_INT, .number = -a.number};
        return FM_OK;
    case CHAT_AND:
    case CHAT_OR:
    case CHAT_CHOICE:
        return decide(render, node, out_value);
    default:
        return operate(render, node, out_value);
    }
}

static fm_status put(struct render *render, const struct chat_node *node, struct chat_text text)
{
    if (text.length > CHAT_BYTES_MAX - render->length)
        return fail(render, node, FM_ERR_LIMIT, "the text is longer than %d bytes", CHAT_BYTES_MAX);
    if (render->capacity - render->length <= text.length) {
        size_t capacity = 2 * render->capacity + text.length + 256;
        char *grown = fm_base_mem_realloc(render->text, capacity, 1);
        if (!grown)
            return no_memory(render);
        render->text = grown;
        render->capacity = capacity;
    }
    memcpy(render->text + render->length, text.bytes, text.length);
    render->length += text.length;
    return FM_OK;
}

static fm_status run(struct render *render, const struct chat_node *node);

static fm_status assign(struct render *render, const struct chat_node *node)
{
    struct chat_value value, space;
    FM_TRY(evaluate(render, node->a, &value));
    struct chat_variable *found;
    if (!node->member.length) {
        found = find(render->variables, render->frame, node->text);
        if (!found)
            return push(render, &render->variables, node->text, value);
        found->value = value;
        return FM_OK;
    }
    space = name(render, node->text);
    if (space.type != CHAT_TYPE_NAMESPACE)
        return fail(render, node, FM_ERR_ARG, "'%.*s' is %s; only members of a namespace can be set",
                    (int)node->text.length, node->text.bytes, fm_model_chat_value_type(&space));
    found = find(space.space->next, NULL, node->member);
    if (!found)
        return push(render, &space.space->next, node->member, value);
    found->value = value;
    return FM_OK;
}

static fm_status set_loop(struct render *render, int64_t index, int64_t count)
{
    struct chat_variable *head = NULL;
    const struct {
        const char *name;
        struct chat_value value;
    } members[] = {
        {"index", {.type = CHAT_TYPE_INT, .number = index + 1}},
        {"index0", {.type = CHAT_TYPE_INT, .number = index}},
        {"length", {.type = CHAT_TYPE_INT, .number = count}},
        {"first", truth(index == 0)},
        {"last", truth(index + 1 == count)},
    };
    FM_TRY(push(render, &head, literal(""), (struct chat_value){.type = CHAT_TYPE_UNDEFINED}));
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
        FM_TRY(push(render, &head->next, literal(members[i].name), members[i].value));
    return push(render, &render->variables, literal("loop"),
                (struct chat_value){.type = CHAT_TYPE_NAMESPACE, .space = head});
}

static fm_status loop(struct render *render, const struct chat_node *node)
{
    struct chat_value over;
    FM_TRY(evaluate(render, node->a, &over));
    int64_t count = fm_model_chat_value_count(&over);
    if (count < 0 || over.type == CHAT_TYPE_TEXT)
        return fail(render, node, FM_ERR_ARG, "'for' over %s; expected a list",
                    fm_model_chat_value_type(&over));
    struct chat_variable *variables = render->variables, *frame = render->frame;
    for (int64_t i = 0; i < count; i++) {
        struct chat_value item = fm_model_chat_value_item(&over, i);
        const char *key = over.type == CHAT_TYPE_DOC ? fm_base_doc_key(over.doc, (size_t)i) : NULL;
        if (key)
            item = fm_model_chat_value_text(key, strlen(key));
        render->variables = render->frame = variables;
        FM_TRY(push(render, &render->variables, node->text, item));
        FM_TRY(set_loop(render, i, count));
        FM_TRY(run(render, node->body));
    }
    render->variables = variables;
    render->frame = frame;
    return FM_OK;
}

// A list of statements.
static fm_status run(struct render *render, const struct chat_node *node)
{
    struct chat_value value;
    struct chat_text text;
    for (; node; node = node->next) {
        FM_TRY(step(render, node));
        if (node->kind == CHAT_DATA) {
            FM_TRY(put(render, node, node->text));
        } else if (node->kind == CHAT_PRINT) {
            FM_TRY(evaluate(render, node->a, &value));
            FM_TRY(show(render, node, &value, &text));
            FM_TRY(put(render, node, text));
        } else if (node->kind == CHAT_SET) {
            FM_TRY(assign(render, node));
        } else if (node->kind == CHAT_FOR) {
            FM_TRY(loop(render, node));
        } else {
            FM_TRY(evaluate(render, node->a, &value));
            FM_TRY(run(render, fm_model_chat_value_truth(&value) ? node->body : node->otherwise));
        }
    }
    return FM_OK;
}

static fm_status set_globals(struct render *render, const fm_doc *messages, const fm_doc *variables,
                             int add_generation_prompt)
{
    const fm_chat *chat = render->chat;
    for (size_t i = 0; i < fm_base_doc_count(variables); i++)
        if (fm_base_doc_key(variables, i))
            FM_TRY(push(render, &render->variables, literal(fm_base_doc_key(variables, i)),
                        fm_model_chat_value_of(fm_base_doc_at(variables, i))));
    if (chat->bos)
        FM_TRY(push(render, &render->variables, literal("bos_token"),
                    fm_model_chat_value_text(chat->bos, strlen(chat->bos))));
    if (chat->eos)
        FM_TRY(push(render, &render->variables, literal("eos_token"),
                    fm_model_chat_value_text(chat->eos, strlen(chat->eos))));
    FM_TRY(push(render, &render->variables, literal("add_generation_prompt"), truth(add_generation_prompt)));
    return push(render, &render->variables, literal("messages"), fm_model_chat_value_of(messages));
}

fm_status fm_model_chat_render(const fm_chat *chat, const fm_doc *messages, const fm_doc *variables,
                               int add_generation_prompt, char **out_text, size_t *out_length)
{
    struct render render = {.chat = chat};
    fm_status status = set_globals(&render, messages, variables, add_generation_prompt);
    if (status == FM_OK)
        status = run(&render, chat->body);
    struct chat_node end = {.line = 0};
    if (status == FM_OK)
        status = put(&render, &end, literal("")); // room for the 0
    fm_base_arena_clear(&render.arena);
    if (status != FM_OK) {
        fm_base_mem_free(render.text);
        return status;
    }
    render.text[render.length] = 0;
    *out_text = render.text;
    *out_length = render.length;
    return FM_OK;
}
