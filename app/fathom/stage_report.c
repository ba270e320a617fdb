// report.html: one self-contained page of what the stages before it found, their drawings included.
#include <dirent.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "stage.h"

struct report_options {
    const char *title;
};

static const fm_option report_schema[] = {
    {"title", FM_OPTION_STRING, offsetof(struct report_options, title), .value = "Fathom run",
     .help = "of the page"},
    {0},
};

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<style>\n"
    ":root{color-scheme:light dark;--ink:#1c2330;--soft:#5b6472;--line:#d8dde6;--page:#fff;--card:#f6f8fb}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa4b2;--line:#2c3442;--page:#12161d;--"
    "card:#191f29}}\n"
    "body{margin:0 auto;max-width:72rem;padding:1.5rem;background:var(--page);color:var(--ink);"
    "font:16px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.6rem;margin:0 0 1rem}h2{font-size:1.1rem;margin:0 0 .5rem}\n"
    "section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;margin:0 0 "
    "1rem}\n"
    "table{border-collapse:collapse;width:100%}td{padding:.25rem .5rem;border-top:1px solid "
    "var(--line);vertical-align:top}\n"
    "tr:first-child td{border-top:0}td:first-child{color:var(--soft);width:40%}\n"
    "figure{margin:.75rem 0 0;overflow-x:auto}svg{max-width:100%;height:auto}\n"
    "</style>\n";

// Text as HTML: what people wrote into a recipe or a measurement is never markup.
static void escaped(FILE *page, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", page);
            break;
        case '>':
            fputs("&gt;", page);
            break;
        case '&':
            fputs("&amp;", page);
            break;
        case '"':
            fputs("&quot;", page);
            break;
        default:
            fputc(*text, page);
        }
    }
}

static void facts_table(FILE *page, const fm_doc *facts)
{
    fputs("<table>\n", page);
    for (size_t i = 0; i < fm_base_doc_count(facts); i++) {
        const char *what;
        char shown[4096];
        if (fm_app_stage_fact_show(fm_base_doc_at(facts, i), &what, shown, sizeof shown) < 0)
            continue;
        fputs("<tr><td>", page);
        escaped(page, what);
        fputs("</td><td>", page);
        escaped(page, shown);
        fputs("</td></tr>\n", page);
    }
    fputs("</table>\n", page);
}

static int is_svg(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return length > 4 && strcmp(entry->d_name + length - 4, ".svg") == 0;
}

// Every SVG of the folder, inline: the page needs no other file.
static void drawings(FILE *page, const char *folder)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, is_svg, alphasort);
    for (int i = 0; i < count; i++) {
        char path[4096];
        char *text = NULL;
        size_t length = 0;
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (fm_base_file_read(path, (size_t)64 << 20, &text, &length) == FM_OK) {
            fputs("<figure>", page);
            fwrite(text, 1, length, page);
            fputs("</figure>\n", page);
            fm_base_mem_free(text);
        }
        free(entries[i]);
    }
    free(entries);
}

static void section(FILE *page, const char *run_folder, const char *name)
{
    char path[4096];
    fm_doc *result = NULL;
    snprintf(path, sizeof path, "%s/%s/result.json", run_folder, name);
    if (fm_base_doc_load(path, &result) < 0)
        return;
    fputs("<section><h2>", page);
    escaped(page, name);
    fputs("</h2>\n", page);
    facts_table(page, fm_base_doc_get(result, "facts"));
    snprintf(path, sizeof path, "%s/%s", run_folder, name);
    drawings(page, path);
    fputs("</section>\n", page);
    fm_base_doc_free(result);
}

static fm_status run_report(struct fm_stage_run *run, const void *given)
{
    const struct report_options *options = given;
    char *text = NULL;
    size_t length = 0;
    FILE *page = open_memstream(&text, &length);
    if (!page)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the report");
    fputs(page_head, page);
    fputs("<title>", page);
    escaped(page, options->title);
    fputs("</title></head><body>\n<h1>", page);
    escaped(page, options->title);
    fputs("</h1>\n", page);
    for (int i = 0; i < run->done_count; i++)
        section(page, run->run_folder, run->done[i]);
    fputs("</body></html>\n", page);
    if (fclose(page) != 0)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the report");
    char path[4096];
    snprintf(path, sizeof path, "%s/report.html", run->run_folder);
    fm_status status = fm_base_file_save(path, text, length);
    free(text);
    if (status == FM_OK)
        fm_app_stage_text(run, "page", "%s", path);
    return status;
}

const struct fm_stage fm_stage_report = {
    .name = "report",
    .summary = "one self-contained page: report.html",
    .schema = report_schema,
    .options_size = sizeof(struct report_options),
    .run = run_report,
};
