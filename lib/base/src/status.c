#include "fathom/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 1024 };

static _Thread_local char tls_message[MESSAGE_BYTES];

const char *fm_base_error_message(void)
{
    return tls_message;
}

static const struct {
    fm_status code;
    const char *name;
    const char *text;
} status_table[] = {
#define ROW(name, code, text) {code, #name, text},
    FM_STATUS_LIST(ROW)
#undef ROW
};

enum { STATUS_COUNT = sizeof(status_table) / sizeof(status_table[0]) };

const char *fm_base_status_name(fm_status status)
{
    for (int i = 0; i < STATUS_COUNT; i++)
        if (status_table[i].code == status)
            return status_table[i].name;
    return "FM_ERR_?";
}

const char *fm_base_status_text(fm_status status)
{
    for (int i = 0; i < STATUS_COUNT; i++)
        if (status_table[i].code == status)
            return status_table[i].text;
    return "unknown status";
}

fm_status fm_base_error_set(fm_status status, const char *format, ...)
{
    // Through a second buffer: an argument may be the present message itself.
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(tls_message, text, sizeof text);
    return status;
}

fm_status fm_base_error_set_errno(fm_status status, int err, const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char reason[128];
    // The GNU variant: returns the text, which need not be in `reason`.
    const char *reason_text = strerror_r(err, reason, sizeof reason);
    return fm_base_error_set(status, "%s: %s", text, reason_text);
}

fm_status fm_base_error_prefix(fm_status status, const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fm_base_error_set(status, "%s: %s", text, tls_message);
}
