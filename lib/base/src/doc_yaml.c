/*
 * YAML through libyaml's event parser. The events are those of JSON once anchors, aliases, tags and second
 * documents are refused; plain scalars are told apart by the grammar of JSON, so that `no`, `0x10` or `1.2.3`
 * stay strings.
 */
#include "doc_private.h"

#include <string.h>
#include <yaml.h>

static fm_status refuse(const struct fm_doc_builder *builder, const yaml_event_t *event, const char *what)
{
    return fm_base_doc_build_error(builder, FM_ERR_FORMAT, event->start_mark.line + 1,
                                   event->start_mark.column + 1, "%s", what);
}

static int is_word(const yaml_event_t *event, const char *word)
{
    return event->data.scalar.length == strlen(word) &&
           memcmp(event->data.scalar.value, word, event->data.scalar.length) == 0;
}

static fm_status add_scalar(struct fm_doc_builder *builder, const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    size_t line = event->start_mark.line + 1;
    if (fm_base_doc_build_wants_key(builder))
        return fm_base_doc_build_key(builder, text, length, line);
    if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE) {
        if (length == 0 || is_word(event, "null") || is_word(event, "~"))
            return fm_base_doc_build_constant(builder, FM_DOC_NULL, 0, line);
        if (is_word(event, "true") || is_word(event, "false"))
            return fm_base_doc_build_constant(builder, FM_DOC_BOOL, text[0] == 't', line);
        if (fm_base_doc_is_number(text, length))
            return fm_base_doc_build_number(builder, text, length, line);
    }
    return fm_base_doc_build_string(builder, text, length, line);
}

static fm_status check_properties(const struct fm_doc_builder *builder, const yaml_event_t *event,
                                  const yaml_char_t *anchor, const yaml_char_t *tag)
{
    if (anchor)
        return refuse(builder, event, "anchors (&name) are not supported; write the value out");
    if (tag)
        return refuse(builder, event, "tags (!name) are not supported; quote what must be a string");
    return FM_OK;
}

static fm_status open_collection(struct fm_doc_builder *builder, const yaml_event_t *event, fm_doc_type type)
{
    if (fm_base_doc_build_wants_key(builder))
        return refuse(builder, event, "a key must be a scalar, not a list or a mapping");
    return fm_base_doc_build_open(builder, type, event->start_mark.line + 1);
}

/** `documents` counts those begun. */
static fm_status handle(struct fm_doc_builder *builder, const yaml_event_t *event, int *documents)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        return ++*documents > 1 ? refuse(builder, event, "a second document begins; a file holds one")
                                : FM_OK;
    case YAML_ALIAS_EVENT:
        return refuse(builder, event, "aliases (*name) are not supported; write the value out");
    case YAML_SCALAR_EVENT:
        FM_TRY(check_properties(builder, event, event->data.scalar.anchor, event->data.scalar.tag));
        return add_scalar(builder, event);
    case YAML_SEQUENCE_START_EVENT:
        FM_TRY(check_properties(builder, event, event->data.sequence_start.anchor,
                                event->data.sequence_start.tag));
        return open_collection(builder, event, FM_DOC_ARRAY);
    case YAML_MAPPING_START_EVENT:
        FM_TRY(check_properties(builder, event, event->data.mapping_start.anchor,
                                event->data.mapping_start.tag));
        return open_collection(builder, event, FM_DOC_OBJECT);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        return fm_base_doc_build_close(builder);
    default:
        return FM_OK;
    }
}

static fm_status parse_failed(const struct fm_doc_builder *builder, const yaml_parser_t *parser,
                              const char *text)
{
    switch (parser->error) {
    case YAML_MEMORY_ERROR:
        return fm_base_doc_build_error(builder, FM_ERR_NOMEM, parser->mark.line + 1, 0,
                                       "no memory for the document");
    case YAML_READER_ERROR: {
        // The reader works ahead of the marks and knows only an offset.
        size_t line = 1;
        for (size_t i = 0; i < parser->problem_offset; i++)
            line += text[i] == '\n';
        return fm_base_doc_build_error(builder, FM_ERR_FORMAT, line, 0, "%s (byte %zu of the file)",
                                       parser->problem, parser->problem_offset);
    }
    default:
        return fm_base_doc_build_error(builder, FM_ERR_FORMAT, parser->problem_mark.line + 1,
                                       parser->problem_mark.column + 1, "%s%s%s", parser->problem,
                                       parser->context ? " " : "", parser->context ? parser->context : "");
    }
}

static fm_status build(struct fm_doc_builder *builder, yaml_parser_t *parser, const char *text)
{
    int documents = 0;
    for (;;) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event))
            return parse_failed(builder, parser, text);
        int ended = event.type == YAML_STREAM_END_EVENT;
        fm_status status = handle(builder, &event, &documents);
        yaml_event_delete(&event);
        if (status < 0)
            return status;
        if (ended)
            // A file of comments alone: as good as `null`.
            return documents ? FM_OK : fm_base_doc_build_constant(builder, FM_DOC_NULL, 0, 1);
    }
}

fm_status fm_base_doc_parse_yaml(const char *text, size_t length, const char *name, fm_doc **out_root)
{
    struct fm_doc_builder builder;
    FM_TRY(fm_base_doc_build_start(&builder, name, length));
    yaml_parser_t parser;
    fm_status status;
    if (yaml_parser_initialize(&parser)) {
        yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
        yaml_parser_set_input_string(&parser, (const unsigned char *)text, length);
        status = build(&builder, &parser, text);
        yaml_parser_delete(&parser);
    } else {
        status = fm_base_doc_build_error(&builder, FM_ERR_NOMEM, 1, 0, "no memory for the parser");
    }
    if (status == FM_OK)
        fm_base_doc_build_finish(&builder, out_root);
    else
        fm_base_doc_build_abandon(&builder);
    return status;
}
