#include <stdarg.h>
#include <stdio.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

static int make_room(struct fm_pipe_writer *writer, size_t room)
{
    if (writer->capacity - writer->length > room)
        return 1;
    size_t capacity = 2 * writer->capacity + room + 4096;
    char *text = fm_base_mem_realloc(writer->text, capacity, 1);
    if (!text) {
        writer->failed = 1;
        return 0;
    }
    writer->text = text;
    writer->capacity = capacity;
    return 1;
}

void fm_pipe_writer_print(struct fm_pipe_writer *writer, const char *format, ...)
{
    // A line fits in what make_room() leaves, nearly always; where not, it is printed again.
    for (size_t room = 256; !writer->failed && make_room(writer, room);) {
        va_list arguments;
        va_start(arguments, format);
        int length =
            vsnprintf(writer->text + writer->length, writer->capacity - writer->length, format, arguments);
        va_end(arguments);
        if ((size_t)length < writer->capacity - writer->length) {
            writer->length += (size_t)length;
            return;
        }
        room = (size_t)length;
    }
}

fm_status fm_pipe_writer_finish(struct fm_pipe_writer *writer, fm_pipe_text *out_text)
{
    if (writer->failed || !make_room(writer, 1)) {
        fm_base_mem_free(writer->text);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a text of more than %zu bytes", writer->length);
    }
    writer->text[writer->length] = 0;
    *out_text = (fm_pipe_text){writer->text, writer->length};
    return FM_OK;
}
