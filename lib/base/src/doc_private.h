/*
 * The tree behind fathom/doc.h and the builder that both parsers drive.
 *
 *     fm_document: arena, name, root
 *                                |
 *                                v
 *     fm_doc (24 bytes):  value | document | line | type
 *                           |
 *         array, object:    +--> fm_doc_items: count | members | sorted | nodes[count], one after the other
 *                                                        |         |
 *                                   key and its line <---+         +--> positions in the order of their keys
 *
 * Everything but the root lies in the arena and never moves once its container is closed. `sorted` makes a
 * look-up O(log n) in the worst case whatever keys a file was made of, which a hash table would need a secret
 * for.
 */
#ifndef DOC_PRIVATE_H
#define DOC_PRIVATE_H

#include "fathom/doc.h"
#include "fathom/mem.h"

enum {
    // Configurations nest less than ten deep; a limit lets parsers keep their stack in an array.
    FM_DOC_DEPTH_MAX = 256,
    // What a hostile text can make a parser allocate is a multiple of its length; real documents stay below
    // 10 MB.
    FM_DOC_BYTES_MAX = 256 << 20,
};

struct fm_doc {
    union {
        int64_t integer; // FM_DOC_BOOL, FM_DOC_INT
        double real;
        const char *text;
        const struct fm_doc_items *items;
    } value;
    struct fm_document *document;
    uint32_t line;
    uint32_t type;
};

_Static_assert(sizeof(struct fm_doc) == 24, "large documents are mostly nodes");

struct fm_doc_member {
    const char *key;
    uint32_t line;
};

struct fm_doc_items {
    size_t count;
    const struct fm_doc_member *members; // NULL in an array
    const uint32_t *sorted;              // NULL in an array
    struct fm_doc nodes[];
};

struct fm_document {
    struct fm_doc root;
    fm_arena arena;
    const char *name;
};

/** Position of `key` in the object, or -1. */
int64_t fm_base_doc_find(const fm_doc *object, const char *key);

enum { FM_DOC_QUOTE_BYTES = 96 }; // most names of keys and tensors whole, and a line of a terminal

/** The text in quotes for a message: cut between characters where it is long, control characters as '?'.
 * Returns `out`. */
const char *fm_base_doc_quote(const char *text, char out[FM_DOC_QUOTE_BYTES]);

/*
 * The builder takes the events of a parser: key, scalar, open, close. Nodes of containers that are still open
 * wait in `pending`, the innermost container's last; closing one moves its nodes to the arena.
 */
struct fm_doc_pending {
    struct fm_doc node;
    struct fm_doc_member member;
};

struct fm_doc_open {
    size_t first; // of this container's nodes in `pending`
    struct fm_doc_member member;
    uint32_t line;
    fm_doc_type type;
};

struct fm_doc_builder {
    struct fm_document *document;
    struct fm_doc_pending *pending;
    size_t count;
    size_t capacity;
    struct fm_doc_member member; // the key whose value comes next; key NULL when there is none
    int depth;
    struct fm_doc_open open[FM_DOC_DEPTH_MAX];
};

/** FM_ERR_LIMIT when `length` is beyond FM_DOC_BYTES_MAX. On failure there is nothing to abandon. */
FM_MUST_USE fm_status fm_base_doc_build_start(struct fm_doc_builder *builder, const char *name,
                                              size_t length);
/** True where an object is open and its next event must be a key. */
int fm_base_doc_build_wants_key(const struct fm_doc_builder *builder);
FM_MUST_USE fm_status fm_base_doc_build_key(struct fm_doc_builder *builder, const char *text, size_t length,
                                            size_t line);
/** FM_DOC_NULL, FM_DOC_BOOL (value 0 or 1). */
FM_MUST_USE fm_status fm_base_doc_build_constant(struct fm_doc_builder *builder, fm_doc_type type, int value,
                                                 size_t line);
FM_MUST_USE fm_status fm_base_doc_build_string(struct fm_doc_builder *builder, const char *text,
                                               size_t length, size_t line);
/** `text` must satisfy fm_base_doc_is_number(). */
FM_MUST_USE fm_status fm_base_doc_build_number(struct fm_doc_builder *builder, const char *text,
                                               size_t length, size_t line);
/** FM_DOC_ARRAY or FM_DOC_OBJECT. FM_ERR_LIMIT beyond FM_DOC_DEPTH_MAX. */
FM_MUST_USE fm_status fm_base_doc_build_open(struct fm_doc_builder *builder, fm_doc_type type, size_t line);
/** FM_ERR_FORMAT when a key comes twice. */
FM_MUST_USE fm_status fm_base_doc_build_close(struct fm_doc_builder *builder);
/** Hands over the document; the builder is done with. */
void fm_base_doc_build_finish(struct fm_doc_builder *builder, fm_doc **out_root);
/** Frees what was built, after a failure. */
void fm_base_doc_build_abandon(struct fm_doc_builder *builder);
/** Sets "<name>:<line>[:<column>]: <text>" with control characters of the text made visible; column 0 leaves
 * it out. */
fm_status fm_base_doc_build_error(const struct fm_doc_builder *builder, fm_status status, size_t line,
                                  size_t column, const char *format, ...) FM_PRINTF(5, 6);

/** True when the whole text is a number by the grammar of RFC 8259. */
int fm_base_doc_is_number(const char *text, size_t length);

#endif
