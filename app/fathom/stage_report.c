// report.html: one self-contained page of what the stages before it found: figures, text, drawings, the timeline of training.
#include <dirent.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/trace_page.h"
#include "recipe.h"
#include "report_headline.h"
#include "stage.h"

extern const char fm_app_report_css[], fm_app_report_js[]; // web/report, embedded

struct report_options {
    const char *title;
};

static const fm_option report_schema[] = {
    {"title", FM_OPTION_STRING, offsetof(struct report_options, title), .value = "Fathom run",
     .help = "of the page"},
    {0},
};

/** The page in the making, and the stages whose results it shows. */
struct page {
    FILE *out;
    struct fm_stage_run *run;
    fm_doc *results[FM_RECIPE_STAGES_MAX];
};

// Text as HTML: what people wrote into a recipe or a measurement is never markup.
static void escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
    }
}

static const char *kind_of(const fm_doc *result)
{
    const char *kind = "";
    return fm_base_doc_string(fm_base_doc_get(result, "stage"), "stage", &kind) == FM_OK ? kind : "";
}

// The first stage of a kind that was run; -1: none.
static int find_kind(const struct page *page, const char *kind)
{
    for (int i = 0; i < page->run->done_count; i++)
        if (strcmp(kind_of(page->results[i]), kind) == 0)
            return i;
    return -1;
}

// The facts of a list whose names begin with one of `prefixes` (NULL-terminated; NULL: all).
static void facts_table(FILE *out, const fm_doc *facts, const char *const *prefixes)
{
    fputs("<table>\n", out);
    for (size_t i = 0; i < fm_base_doc_count(facts); i++) {
        const char *what;
        char shown[4096];
        if (fm_app_stage_fact_show(fm_base_doc_at(facts, i), &what, shown, sizeof shown) < 0)
            continue;
        int wanted = prefixes == NULL;
        for (const char *const *prefix = prefixes; prefix && *prefix; prefix++)
            wanted |= strncmp(what, *prefix, strlen(*prefix)) == 0;
        if (!wanted)
            continue;
        fputs("<tr><td>", out);
        escaped(out, what);
        fputs("</td><td>", out);
        escaped(out, shown);
        fputs("</td></tr>\n", out);
    }
    fputs("</table>\n", out);
}

// A drawing in a tree of its own, so that its styles end with it. 0: there is no such file.
static int drawing(const struct page *page, int stage, const char *name, const char *id)
{
    char path[4096];
    char *text = NULL;
    size_t length = 0;
    snprintf(path, sizeof path, "%s/%s/%s", page->run->run_folder, page->run->done[stage], name);
    if (fm_base_file_read(path, (size_t)64 << 20, &text, &length) < 0)
        return 0;
    fprintf(page->out, "<div class=\"drawing\" id=\"%s\"><template shadowrootmode=\"open\">", id);
    fwrite(text, 1, length, page->out);
    fputs("</template></div>\n", page->out);
    fm_base_mem_free(text);
    return 1;
}

static void figures(const struct page *page, const fm_doc *facts)
{
    fputs("<section id=\"figures\"><h2>Figures</h2><dl class=\"figures\">\n", page->out);
    for (size_t i = 0; i < fm_base_doc_count(facts); i++) {
        const char *what;
        char shown[256];
        if (fm_app_stage_fact_show(fm_base_doc_at(facts, i), &what, shown, sizeof shown) < 0)
            continue;
        fputs("<div><dt>", page->out);
        escaped(page->out, what);
        fputs("</dt><dd>", page->out);
        escaped(page->out, shown);
        fputs("</dd></div>\n", page->out);
    }
    fputs("</dl></section>\n", page->out);
}

static void text_of(FILE *out, const fm_doc *result, const char *what)
{
    const char *text;
    if (fm_base_doc_string(fm_base_doc_get(fm_app_result_fact(result, what), "value"), what, &text) == FM_OK)
        escaped(out, text);
}

static void passage(const struct page *page)
{
    int stage = find_kind(page, "generate");
    if (stage < 0)
        return;
    fputs("<section id=\"text\"><h2>What it writes</h2><blockquote><b>", page->out);
    text_of(page->out, page->results[stage], "prompt");
    fputs("</b>", page->out);
    text_of(page->out, page->results[stage], "continuation");
    fputs("</blockquote></section>\n", page->out);
}

// The losses themselves, for what the page says under the pointer.
static void losses_data(const struct page *page, int stage)
{
    char path[4096];
    char *bytes = NULL;
    size_t length = 0;
    snprintf(path, sizeof path, "%s/%s/losses.f32", page->run->run_folder, page->run->done[stage]);
    if (fm_base_file_read(path, (size_t)64 << 20, &bytes, &length) < 0)
        return;
    fputs("<script id=\"losses\" type=\"application/json\">[", page->out);
    for (size_t i = 0; i + sizeof(float) <= length; i += sizeof(float)) {
        float loss;
        memcpy(&loss, bytes + i, sizeof loss);
        fprintf(page->out, "%s%.4f", i ? "," : "", (double)loss);
    }
    fputs("]</script><output id=\"lossat\"></output>\n", page->out);
    fm_base_mem_free(bytes);
}

static void charts(const struct page *page)
{
    int train = find_kind(page, "train"), schedule = find_kind(page, "schedule"),
        balance = find_kind(page, "balance");
    if (train >= 0) {
        fputs("<section><h2>Loss</h2>\n", page->out);
        if (drawing(page, train, "loss.svg", "loss"))
            losses_data(page, train);
        fputs("</section>\n", page->out);
    }
    if (train >= 0 || schedule >= 0) {
        fputs("<section><h2>Pipeline</h2>\n", page->out);
        if (train < 0 || !drawing(page, train, "schedule.svg", "pipeline"))
            if (schedule >= 0)
                drawing(page, schedule, "schedule.svg", "pipeline");
        fputs("</section>\n", page->out);
    }
    if (balance >= 0) {
        fputs("<section><h2>Experts</h2>\n", page->out);
        drawing(page, balance, "experts.svg", "experts");
        facts_table(page->out, fm_base_doc_get(page->results[balance], "facts"), NULL);
        fputs("</section>\n", page->out);
    }
}

// Bytes below a folder of the run's file system.
static fm_status count_bytes(fm_fs *fs, const char *folder, int depth, uint64_t *total)
{
    enum { DEPTH_MAX = 8 }; // stages make no deeper folders
    fm_fs_list *list;
    const fm_fs_entry *entry;
    FM_TRY(fm_fs_list_open(fs, folder, &list));
    fm_status status = FM_OK;
    while (status == FM_OK && (status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        char path[4096];
        fm_fs_info info;
        snprintf(path, sizeof path, "%s/%s", folder, entry->name);
        if (entry->type == FM_FS_TYPE_DIR && depth < DEPTH_MAX)
            status = count_bytes(fs, path, depth + 1, total);
        else if (entry->type == FM_FS_TYPE_FILE && (status = fm_fs_stat(fs, path, &info)) == FM_OK)
            *total += info.size;
    }
    fm_fs_list_close(list);
    return status;
}

static fm_status storage(const struct page *page)
{
    static const char *const prefixes[] = {"samples", "checkpoints", "moved",          "waiting",
                                           "stand",   "cache",       "tokenizing and", NULL};
    uint64_t bytes[FM_RECIPE_STAGES_MAX] = {0}, most = 1;
    fm_fs *fs;
    FM_TRY(fm_app_stage_fs(page->run, &fs));
    fm_status status = FM_OK;
    for (int i = 0; status == FM_OK && i < page->run->done_count; i++) {
        status = count_bytes(fs, page->run->done[i], 0, &bytes[i]);
        most = bytes[i] > most ? bytes[i] : most;
    }
    fm_fs_close(fs);
    FM_TRY(status);
    fputs("<section id=\"storage\"><h2>Storage</h2>\n", page->out);
    for (int i = 0; i < page->run->done_count; i++) {
        fputs("<div class=\"bar\"><span>", page->out);
        escaped(page->out, page->run->done[i]);
        fprintf(page->out, "</span><span><i style=\"width:%.1f%%\"></i></span><span>%s</span></div>\n",
                100 * (double)bytes[i] / (double)most, fm_base_text_bytes((double)bytes[i]).text);
    }
    for (int i = 0; i < page->run->done_count; i++)
        if (strcmp(kind_of(page->results[i]), "train") == 0 ||
            strcmp(kind_of(page->results[i]), "generate") == 0 ||
            strcmp(kind_of(page->results[i]), "data") == 0)
            facts_table(page->out, fm_base_doc_get(page->results[i], "facts"), prefixes);
    fputs("</section>\n", page->out);
    return FM_OK;
}

// The page of the trace that training left, as a page within this one.
static fm_status timeline_page(const char *trace_path, const char *page_path)
{
    fm_trace *trace = NULL;
    fm_trace_rules *rules = NULL;
    fm_trace_report *report = NULL;
    FM_TRY(fm_trace_data_read(&trace_path, 1, NULL, &trace));
    fm_status status = fm_trace_rules_load(NULL, &rules);
    if (status == FM_OK)
        status = fm_trace_report_make(trace, rules, &report);
    if (status == FM_OK)
        status = fm_trace_page_save(report, page_path);
    fm_trace_report_free(report);
    fm_trace_rules_free(rules);
    fm_trace_data_free(trace);
    return status;
}

static fm_status timeline(const struct page *page)
{
    int train = find_kind(page, "train");
    char trace[4096], path[4096];
    char *text = NULL;
    size_t length = 0;
    if (train < 0)
        return FM_OK;
    snprintf(trace, sizeof trace, "%s/%s/trace.json", page->run->run_folder, page->run->done[train]);
    snprintf(path, sizeof path, "%s/timeline.html", page->run->folder);
    fm_status status = timeline_page(trace, path);
    if (status == FM_ERR_NOT_FOUND) // training was asked for none
        return FM_OK;
    FM_TRY(status);
    FM_TRY(fm_base_file_read(path, (size_t)64 << 20, &text, &length));
    fputs("<section><h2>Timeline of the last steps</h2>\n<iframe title=\"timeline\" srcdoc=\"", page->out);
    escaped(page->out, text);
    fputs("\"></iframe></section>\n", page->out);
    fm_base_mem_free(text);
    return FM_OK;
}

static void all_facts(const struct page *page)
{
    fputs("<section id=\"stages\"><h2>All stages</h2>\n", page->out);
    for (int i = 0; i < page->run->done_count; i++) {
        double seconds = 0;
        fputs("<details><summary>", page->out);
        escaped(page->out, page->run->done[i]);
        if (fm_base_doc_real(fm_base_doc_get(page->results[i], "seconds"), "seconds", &seconds) == FM_OK)
            fprintf(page->out, " <span class=\"soft\">%.1f s</span>", seconds);
        fputs("</summary>\n", page->out);
        facts_table(page->out, fm_base_doc_get(page->results[i], "facts"), NULL);
        fputs("</details>\n", page->out);
    }
    fputs("</section>\n", page->out);
}

static fm_status write_page(const struct page *page, const char *title, const fm_doc *facts)
{
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
          page->out);
    escaped(page->out, title);
    fprintf(page->out, "</title>\n<style>\n%s</style></head><body>\n<header><h1>", fm_app_report_css);
    escaped(page->out, title);
    fputs("</h1><button id=\"theme\" type=\"button\" title=\"light or dark\">◐</button></header>\n<p "
          "class=\"soft\">",
          page->out);
    int machine = find_kind(page, "machine");
    if (machine >= 0)
        text_of(page->out, page->results[machine], "cpu");
    fputs("</p>\n", page->out);
    figures(page, facts);
    passage(page);
    charts(page);
    FM_TRY(timeline(page));
    FM_TRY(storage(page));
    all_facts(page);
    fprintf(page->out, "<script>\n%s</script>\n</body></html>\n", fm_app_report_js);
    return FM_OK;
}

// The table at the end as a document, for the page.
static fm_status headline(const struct fm_stage_run *run, fm_doc **out_facts)
{
    fm_json json = {0};
    struct fm_stage_run gathering = *run;
    gathering.facts = &json;
    fm_base_json_begin(&json, NULL, '[');
    fm_status status = fm_app_headline_make(&gathering);
    if (status < 0)
        json.depth = 0; // dropped as it is
    else
        fm_base_json_end(&json);
    if (status == FM_OK && json.status == FM_OK)
        status = fm_base_doc_parse_json(json.text, json.length, "the figures", out_facts);
    fm_status finished = fm_base_json_finish(&json, NULL);
    return status < 0 ? status : finished;
}

static fm_status make_page(struct page *page, const char *title, const char *path)
{
    char *text = NULL;
    size_t length = 0;
    fm_doc *facts = NULL;
    FM_TRY(headline(page->run, &facts));
    page->out = open_memstream(&text, &length);
    fm_status status = page->out ? write_page(page, title, facts)
                                 : fm_base_error_set(FM_ERR_NOMEM, "no memory for the report");
    fm_base_doc_free(facts);
    if (page->out && fclose(page->out) != 0 && status == FM_OK)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for the report");
    if (status == FM_OK)
        status = fm_base_file_save(path, text, length);
    free(text);
    return status;
}

static fm_status run_report(struct fm_stage_run *run, const void *given)
{
    const struct report_options *options = given;
    struct page page = {.run = run};
    char path[4096];
    fm_status status = fm_app_headline_make(run);
    for (int i = 0; status == FM_OK && i < run->done_count; i++)
        status = fm_app_result_load(run->run_folder, run->done[i], &page.results[i]);
    snprintf(path, sizeof path, "%s/report.html", run->run_folder);
    if (status == FM_OK)
        status = make_page(&page, options->title, path);
    for (int i = 0; i < run->done_count; i++)
        fm_base_doc_free(page.results[i]);
    if (status == FM_OK)
        fm_app_stage_text(run, "page", "%s", path);
    return status;
}

const struct fm_stage fm_stage_report = {
    .name = "report",
    .summary = "the table at the end, and one self-contained page: report.html",
    .schema = report_schema,
    .options_size = sizeof(struct report_options),
    .is_summary = 1,
    .run = run_report,
};
