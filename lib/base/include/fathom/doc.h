/**
 * @file doc.h
 * Documents: JSON and YAML read into one tree of nodes that know their line, and JSON written.
 *
 * A document is parsed whole, owned by its root, read-only, and freed by fm_base_doc_free(). Nodes and strings are
 * borrowed from it. Any number of threads may read one document. Errors read "<name>:<line>: <what>", so that a user
 * can go there.
 *
 * JSON is RFC 8259 and nothing else (no comments, no trailing commas, no NaN; duplicate keys are an error). YAML is the
 * JSON-like part of YAML 1.1 as libyaml reads it: one document, block and flow collections, plain and quoted scalars;
 * a file without any value is null. Anchors, aliases, tags and multiple documents are errors; duplicate keys are errors.
 * Plain YAML scalars become null (`null`, `~`, empty), booleans (`true`, `false`), integers or reals as JSON would read
 * them; all else is a string. In both, an integer beyond int64_t becomes a real, and a number beyond a double is an
 * error, as is U+0000 in a string.
 *
 * Limits: depth 256, 256 MiB of text. A document is parsed in O(n log n) time whatever it holds, and takes 24 bytes a
 * node, 16 more a member, and its strings. While parsing, the JSON library's own tree stands beside it: at most 60 bytes
 * for each byte of text (an endless `[0,0,...`), commonly 15.
 */
#ifndef FATHOM_DOC_H
#define FATHOM_DOC_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_doc_type {
    FM_DOC_NULL,
    FM_DOC_BOOL,
    FM_DOC_INT,  /**< fits int64_t */
    FM_DOC_REAL, /**< any other number */
    FM_DOC_STRING,
    FM_DOC_ARRAY,
    FM_DOC_OBJECT
} fm_doc_type;

/** A node; the root also owns the document. */
typedef struct fm_doc fm_doc;

/** Parses `length` bytes of JSON. `name` stands for the source in messages ("loads.json", "<standard input>") and is
 *  copied. FM_ERR_FORMAT: malformed (message: name, line, column, reason); FM_ERR_LIMIT: too deep or too long;
 *  FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_base_doc_parse_json(const char *text, size_t length, const char *name,
                                                    fm_doc **out_root);
/** The same for YAML. */
FM_API FM_MUST_USE fm_status fm_base_doc_parse_yaml(const char *text, size_t length, const char *name,
                                                    fm_doc **out_root);
/** Reads a file: YAML when its name ends in .yaml or .yml, else JSON; "-" is standard input as JSON.
 *  Fails as fm_base_file_read() does, and as above. */
FM_API FM_MUST_USE fm_status fm_base_doc_load(const char *path, fm_doc **out_root);
/** Frees the document; NULL is allowed. */
FM_API void fm_base_doc_free(fm_doc *root);

/** FM_DOC_NULL for NULL. */
FM_API fm_doc_type fm_base_doc_type(const fm_doc *node);
/** 1-based line where the node begins; 0 for NULL. */
FM_API int fm_base_doc_line(const fm_doc *node);
/** Elements of an array or members of an object; 0 for every other node. */
FM_API size_t fm_base_doc_count(const fm_doc *node);
/** Element `index` of an array, or value `index` of an object in file order; NULL outside. */
FM_API const fm_doc *fm_base_doc_at(const fm_doc *node, size_t index);
/** Key `index` of an object in file order; NULL outside or when it is none. */
FM_API const char *fm_base_doc_key(const fm_doc *node, size_t index);
/** The value under `key`, found by binary search; NULL when absent or when `node` is NULL or no object. */
FM_API const fm_doc *fm_base_doc_get(const fm_doc *node, const char *key);

/*
 * Typed reads. Each fails with FM_ERR_FORMAT and a message such as
 * "loads.json:12: replicas is "many"; expected an integer from 1 to 65536". `what` names the value in the message.
 * A NULL node fails with "<what> is missing" (FM_ERR_FORMAT).
 */
FM_API FM_MUST_USE fm_status fm_base_doc_int(const fm_doc *node, const char *what, int64_t low, int64_t high,
                                             int64_t *out_value);
/** Accepts integers too. Never NaN or infinite. */
FM_API FM_MUST_USE fm_status fm_base_doc_real(const fm_doc *node, const char *what, double *out_value);
FM_API FM_MUST_USE fm_status fm_base_doc_bool(const fm_doc *node, const char *what, int *out_value);
/** 0-terminated UTF-8, borrowed from the document. */
FM_API FM_MUST_USE fm_status fm_base_doc_string(const fm_doc *node, const char *what, const char **out_text);
/** FM_OK when the node is an array (or object); for "expected an array" messages. */
FM_API FM_MUST_USE fm_status fm_base_doc_expect(const fm_doc *node, const char *what, fm_doc_type type);
/** Fails when the object has a key outside `known` (a NULL-terminated list); names it and the nearest known key. */
FM_API FM_MUST_USE fm_status fm_base_doc_known_keys(const fm_doc *object, const char *what,
                                                    const char *const *known);
/** Sets "<name>:<line>: <text>" as the thread's message and returns `status`: for checks of the caller's own. `node` is
 *  not NULL. */
FM_API fm_status fm_base_doc_error(fm_status status, const fm_doc *node, const char *format, ...)
    FM_PRINTF(3, 4);

/**
 * JSON, written in one pass into a growing buffer. Zero-initialise, then
 *
 *     fm_json json = {0};
 *     fm_base_json_begin(&json, NULL, '{');
 *     fm_base_json_int(&json, "ranks", 4);
 *     fm_base_json_begin(&json, "loads", '[');
 *     fm_base_json_real(&json, NULL, 1.5);
 *     fm_base_json_end(&json);
 *     fm_base_json_end(&json);
 *     fm_status status = fm_base_json_finish(&json, stdout);   // writes, adds a newline, frees
 *
 * `key` is NULL inside arrays and for the outermost value. Reals are printed with the 15, 16 or 17 digits that it takes
 * to read back the same double, without trailing zeros, and always as reals (`1.0`); NaN and infinities, which JSON
 * lacks, become null. Errors stick: check fm_base_json_finish() alone.
 */
typedef struct fm_json {
    char *text; /**< what is written so far; not terminated */
    size_t length;
    size_t capacity;
    fm_status status;      /**< the first error */
    const char *reason;    /**< private: of the first error */
    int depth;             /**< open brackets */
    int pretty;            /**< set to 1 before writing: two-space indentation */
    char brackets[64];     /**< private */
    uint8_t has_items[64]; /**< private */
} fm_json;

/** `bracket`: '{' or '['; at most 64 are open at a time. */
FM_API void fm_base_json_begin(fm_json *json, const char *key, char bracket);
FM_API void fm_base_json_end(fm_json *json);
FM_API void fm_base_json_null(fm_json *json, const char *key);
FM_API void fm_base_json_bool(fm_json *json, const char *key, int value);
FM_API void fm_base_json_int(fm_json *json, const char *key, int64_t value);
FM_API void fm_base_json_real(fm_json *json, const char *key, double value);
/** Escapes what JSON must escape; bytes that are not UTF-8 become U+FFFD. NULL writes null. */
FM_API void fm_base_json_string(fm_json *json, const char *key, const char *value);
/**
 * Writes to `file` (a FILE *; NULL: write nowhere), a newline after it, and frees the buffer; the writer can then be
 * used again. Writes nothing when an earlier call failed. FM_ERR_ARG (a bracket that is none); FM_ERR_IO; FM_ERR_NOMEM; FM_ERR_LIMIT (too many brackets
 * open); FM_ERR_STATE (no value, brackets left open, a key where none belongs or none where one does).
 */
FM_API FM_MUST_USE fm_status fm_base_json_finish(fm_json *json, void *file);

/** The entry of the NULL-terminated `known` that is nearest to `word`, or NULL: "did you mean". Nearest by insertions,
 *  deletions, substitutions and swaps of neighbours, of which there may be one, or a third of the word's length. */
FM_API const char *fm_base_nearest(const char *word, const char *const *known);

#ifdef __cplusplus
}
#endif
#endif
