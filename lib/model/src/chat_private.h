/* A chat template as a tree: chat_scan.c cuts the text, chat_parse.c builds the tree, chat_value.c has the values that
 * chat_eval.c computes from it. */
#ifndef FM_CHAT_PRIVATE_H
#define FM_CHAT_PRIVATE_H

#include "fathom/chat.h"
#include "fathom/mem.h"

/** Bytes that somebody else owns. */
struct chat_text {
    const char *bytes;
    size_t length;
};

static inline int chat_is(struct chat_text text, const char *word)
{
    return text.length == strlen(word) && memcmp(text.bytes, word, text.length) == 0;
}

enum chat_kind {
    CHAT_DATA = 1, // text
    CHAT_PRINT,    // a
    CHAT_IF,       // a: condition, body, otherwise
    CHAT_FOR,      // text: the variable, a: what is gone through, body
    CHAT_SET,      // text: the variable; member: of a namespace, or empty; a: value
    CHAT_NAME,     // text
    CHAT_STRING,   // text
    CHAT_INT,      // number
    CHAT_TRUE,
    CHAT_FALSE,
    CHAT_NONE,
    CHAT_NAMESPACE, // a: the first argument, by next; each a CHAT_SET
    CHAT_MEMBER,    // a.text
    CHAT_ITEM,      // a[b]
    CHAT_CALL,      // a.text(b, by next)
    CHAT_FILTER,    // a | text
    CHAT_TEST,      // a is text
    CHAT_NOT,
    CHAT_MINUS,
    CHAT_AND,
    CHAT_OR,
    CHAT_CHOICE, // a if b else c; c may be missing
    CHAT_EQUAL,
    CHAT_UNEQUAL,
    CHAT_LESS, // the other comparisons are made of it
    CHAT_LESS_EQUAL,
    CHAT_IN,
    CHAT_ADD,
    CHAT_SUBTRACT,
    CHAT_JOIN, // ~
};

struct chat_node {
    enum chat_kind kind;
    int line;
    struct chat_text text, member;
    int64_t number;
    struct chat_node *a, *b, *c;
    struct chat_node *body, *otherwise; // of statements
    struct chat_node *next;
};

enum chat_token { CHAT_TOKEN_END = 1, CHAT_TOKEN_WORD, CHAT_TOKEN_INT, CHAT_TOKEN_STRING, CHAT_TOKEN_SIGN };

struct chat_scan {
    const char *name, *text;
    size_t length, at;
    int line;
    fm_arena *arena;
    int strip_next;  // what follows loses its leading white space (`-%}`)
    int trim_next;   // what follows loses one newline (trim_blocks)
    const char *end; // of the open tag: "%}" or "}}"
    enum chat_token token;
    struct chat_text value; // of the token; of END the signs that ended the tag
    int64_t number;
};

enum chat_piece { CHAT_PIECE_DATA = 1, CHAT_PIECE_STATEMENT, CHAT_PIECE_EXPRESSION, CHAT_PIECE_NOTHING };

/** "<name>:<line>: <text>". */
fm_status fm_model_chat_scan_error(const struct chat_scan *scan, fm_status status, const char *format, ...)
    FM_PRINTF(3, 4);
/** The next piece outside tags. DATA: out_data; a tag: its first token is read. */
FM_MUST_USE fm_status fm_model_chat_scan_piece(struct chat_scan *scan, enum chat_piece *out_piece,
                                               struct chat_text *out_data);
/** The next token of the open tag. */
FM_MUST_USE fm_status fm_model_chat_scan_token(struct chat_scan *scan);

FM_MUST_USE fm_status fm_model_chat_parse_tree(struct chat_scan *scan, struct chat_node **out_body);
/** An expression of the open tag. */
FM_MUST_USE fm_status fm_model_chat_parse_expression(struct chat_scan *scan, struct chat_node **out_node);
/** A zeroed node of the scan's line. */
FM_MUST_USE fm_status fm_model_chat_node_create(struct chat_scan *scan, enum chat_kind kind,
                                                struct chat_node **out_node);
/** True where the token is this word or sign. */
int fm_model_chat_scan_at(const struct chat_scan *scan, const char *word);
/** Reads on where the token is this; FM_ERR_FORMAT elsewhere. */
FM_MUST_USE fm_status fm_model_chat_scan_expect(struct chat_scan *scan, const char *word);

enum chat_type {
    CHAT_TYPE_UNDEFINED,
    CHAT_TYPE_NONE,
    CHAT_TYPE_BOOL,
    CHAT_TYPE_INT,
    CHAT_TYPE_TEXT,
    CHAT_TYPE_DOC,  // a real number, array or object of the caller's
    CHAT_TYPE_LIST, // of texts: what split() made
    CHAT_TYPE_NAMESPACE,
};

struct chat_value {
    enum chat_type type;
    int64_t number;              // INT, BOOL; LIST: items
    struct chat_text text;       // TEXT; UNDEFINED: what it is called
    const fm_doc *doc;           // DOC
    struct chat_value *items;    // LIST
    struct chat_variable *space; // NAMESPACE: its head, whose name is empty
};

struct chat_variable {
    struct chat_text name;
    struct chat_value value;
    struct chat_variable *next;
};

struct chat_value fm_model_chat_value_of(const fm_doc *doc);
struct chat_value fm_model_chat_value_text(const char *bytes, size_t length);
int fm_model_chat_value_truth(const struct chat_value *value);
int fm_model_chat_value_equal(const struct chat_value *a, const struct chat_value *b);
/** "text", "none", ... for messages. */
const char *fm_model_chat_value_type(const struct chat_value *value);
/** Items of a list or array, members of an object, bytes of a text; -1: it has no length. */
int64_t fm_model_chat_value_count(const struct chat_value *value);
/** Item `index` of a list or array, from the end where it is negative; undefined outside. */
struct chat_value fm_model_chat_value_item(const struct chat_value *value, int64_t index);
/** As json.dumps(value, ensure_ascii=False) writes it, in the arena. */
FM_MUST_USE fm_status fm_model_chat_value_json(const struct chat_value *value, fm_arena *arena,
                                               struct chat_text *out_text);

struct fm_chat {
    fm_arena arena;
    char *name, *bos, *eos;
    struct chat_node *body;
};

#endif
