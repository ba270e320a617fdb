// What services say: for people, or an object a line for whoever collects logs.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd_fs.h"
#include "fathom/log.h"

static int as_json;

// {"time":"2026-01-31T12:34:56.789Z","level":"warn","library":"fs","process":123,"text":"..."}
static void write_json(void *context, const fm_log_line *line)
{
    static const char *const levels[] = {"off", "error", "warn", "info", "debug"};
    time_t seconds = (time_t)(line->unix_ns / 1000000000);
    struct tm tm;
    char when[64];
    fm_json json = {0};
    (void)context;
    size_t length = gmtime_r(&seconds, &tm) ? strftime(when, sizeof when - 8, "%Y-%m-%dT%H:%M:%S", &tm) : 0;
    snprintf(when + length, sizeof when - length, ".%03uZ", (unsigned)(line->unix_ns / 1000000 % 1000));
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "time", when);
    fm_base_json_string(&json, "level", levels[line->level]);
    fm_base_json_string(&json, "library", line->library);
    fm_base_json_int(&json, "process", getpid());
    fm_base_json_string(&json, "text", line->text);
    fm_base_json_end(&json);
    if (fm_base_json_finish(&json, stderr) < 0)
        return; // there is nowhere to say so
}

fm_status fm_cmd_fs_log_begin(const char *format)
{
    const char *levels = getenv("FM_LOG");
    as_json = strcmp(format, "json") == 0;
    if (!as_json)
        return FM_OK;
    fm_base_log_set_sink(write_json, NULL);
    return levels && *levels ? FM_OK : fm_base_log_configure("info");
}

void fm_cmd_fs_say(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (as_json)
        fm_log_info("fs", "%s", text);
    else
        fprintf(stderr, "fathom: %s\n", text);
}
