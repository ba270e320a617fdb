#include "bench_output.h"

#include "bench_si.h"

#include <string.h>

enum { NAME, THREADS, TIME, RATE, LIMIT, FRACTION, RATIO, GOAL, MET, CELLS, CELL_BYTES = 256 };

typedef char cells[CELLS][CELL_BYTES];

static void print_row(const fm_bench_output *output, cells row)
{
    // Negative: to the left, as printf() has it. The last column has no width.
    const int widths[CELLS] = {-output->name_width, 3, 16, 14, 26, 6, 6, 16, 0};
    int count = CELLS;
    while (!output->markdown && count > 1 && !row[count - 1][0])
        count--;
    for (int i = 0; i < count; i++) {
        const char *separator = output->markdown ? "| " : i == 0 ? "" : i == MET ? "  " : " ";
        fprintf(output->text, "%s%*s%s", separator, output->markdown ? 0 : widths[i], row[i],
                output->markdown ? " " : "");
    }
    fprintf(output->text, output->markdown ? "|\n" : "\n");
}

void fm_bench_output_head(const fm_bench_output *output)
{
    cells head = {"case", "thr", "time", "rate", "limit", "frac", "ratio", "goal (hope)", "met"};
    cells rule = {"---", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---"};
    if (!output->text)
        return;
    print_row(output, head);
    if (output->markdown)
        print_row(output, rule);
}

static void fill_goal(const fm_bench_record *record, char *text)
{
    const char *sign = record->at_most ? "<=" : ">=";
    const char *unit = record->at_most && strcmp(record->unit, "s") == 0 ? "s" : "1";
    fm_text must = {""};
    if (record->goal != 0)
        must = fm_bench_si(record->goal, unit);
    if (record->hope != 0)
        snprintf(text, CELL_BYTES, "%s %s (%s)", sign, must.text, fm_bench_si(record->hope, unit).text);
    else if (record->goal != 0)
        snprintf(text, CELL_BYTES, "%s %s", sign, must.text);
}

static void fill_verdict(const fm_bench_record *record, char *text)
{
    static const char *const words[] = {"", "yes", "NO", "void"};
    int disturbed = 2 * record->clean < record->samples && record->verdict != FM_BENCH_VOID;
    if (disturbed)
        snprintf(text, CELL_BYTES, "%s (%d of %d samples clean)", words[record->verdict], record->clean,
                 record->samples);
    else if (record->verdict == FM_BENCH_VOID)
        snprintf(text, CELL_BYTES, "void: %s", record->note);
    else
        snprintf(text, CELL_BYTES, "%s%s%s", words[record->verdict], record->note[0] ? " " : "",
                 record->note);
}

static void print_record(const fm_bench_output *output, const fm_bench_record *record,
                         const fm_bench_record *time)
{
    cells row = {""};
    int is_rate = strcmp(record->metric, "rate") == 0;
    if (record->peer)
        snprintf(row[NAME], CELL_BYTES, "  %s%svs %s", is_rate ? "" : record->metric, is_rate ? "" : " ",
                 record->peer);
    else
        snprintf(row[NAME], CELL_BYTES, "%s%s", is_rate ? "" : "  ", is_rate ? record->name : record->metric);
    snprintf(row[THREADS], CELL_BYTES, "%d", record->threads);
    snprintf(row[is_rate ? RATE : TIME], CELL_BYTES, "%s", fm_bench_si(record->value, record->unit).text);
    if (time)
        snprintf(row[TIME], CELL_BYTES, "%s +-%2.0f%%", fm_bench_si(time->value, time->unit).text,
                 100 * time->spread);
    if (record->limit_rate > 0) {
        snprintf(row[LIMIT], CELL_BYTES, "%s %s", record->limit,
                 fm_bench_si(record->limit_rate, record->unit).text);
        snprintf(row[FRACTION], CELL_BYTES, "%.3f", record->fraction);
    }
    if (record->ratio > 0)
        snprintf(row[RATIO], CELL_BYTES, "%.2f", record->ratio);
    // Where only the time has something to say, the row they share says it.
    const fm_bench_record *judged = time && record->verdict == FM_BENCH_NO_GOAL ? time : record;
    fill_goal(judged, row[GOAL]);
    fill_verdict(judged, row[MET]);
    print_row(output, row);
    if (time && time != judged && time->verdict != FM_BENCH_NO_GOAL)
        print_record(output, time, NULL);
}

static void print_records(const fm_bench_output *output, const fm_bench_records *records, size_t first)
{
    const fm_bench_record *time = NULL;
    for (size_t i = first; i < records->count; i++) {
        const fm_bench_record *record = &records->items[i];
        // A time shares the row of the rate that follows it.
        if (strcmp(record->metric, "time") == 0) {
            time = record;
            continue;
        }
        print_record(output, record, time);
        time = NULL;
    }
    fflush(output->text);
}

static void real_or_null(fm_json *json, const char *key, double value)
{
    if (value == 0)
        fm_base_json_null(json, key);
    else
        fm_base_json_real(json, key, value);
}

static fm_status write_record(const fm_bench_output *output, const fm_bench_record *record)
{
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "bench", output->bench);
    fm_base_json_string(&json, "case", record->name);
    fm_base_json_int(&json, "threads", record->threads);
    fm_base_json_string(&json, "metric", record->metric);
    fm_base_json_real(&json, "value", record->value);
    fm_base_json_string(&json, "unit", record->unit);
    fm_base_json_real(&json, "spread", record->spread);
    fm_base_json_real(&json, "best", record->best);
    fm_base_json_int(&json, "samples", record->samples);
    fm_base_json_int(&json, "clean", record->clean);
    fm_base_json_string(&json, "limit", record->limit);
    real_or_null(&json, "limit_value", record->limit_rate);
    real_or_null(&json, "fraction", record->fraction);
    fm_base_json_string(&json, "peer", record->peer);
    real_or_null(&json, "ratio", record->ratio);
    real_or_null(&json, "goal", record->goal);
    real_or_null(&json, "hope", record->hope);
    fm_base_json_string(&json, "bound",
                        record->goal == 0 && record->hope == 0 ? NULL
                        : record->at_most                      ? "at_most"
                                                               : "at_least");
    if (record->verdict == FM_BENCH_MET || record->verdict == FM_BENCH_MISSED)
        fm_base_json_bool(&json, "met", record->verdict == FM_BENCH_MET);
    else
        fm_base_json_null(&json, "met");
    fm_base_json_string(&json, "note", record->note[0] ? record->note : NULL);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, output->json);
}

fm_status fm_bench_output_records(const fm_bench_output *output, const fm_bench_records *records,
                                  size_t first)
{
    if (output->text)
        print_records(output, records, first);
    for (size_t i = first; output->json && i < records->count; i++)
        FM_TRY(write_record(output, &records->items[i]));
    return FM_OK;
}

fm_status fm_bench_output_skipped(const fm_bench_output *output, const char *name, const char *why)
{
    if (output->text) {
        cells row = {""};
        snprintf(row[NAME], CELL_BYTES, "%s", name);
        snprintf(row[MET], CELL_BYTES, "skipped: %s", why);
        print_row(output, row);
    }
    if (!output->json)
        return FM_OK;
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "bench", output->bench);
    fm_base_json_string(&json, "case", name);
    fm_base_json_string(&json, "skipped", why);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, output->json);
}

// A number, or 0 for null.
static fm_status number(const fm_doc *line, const char *key, double *out_value)
{
    const fm_doc *node = fm_base_doc_get(line, key);
    if (node && fm_base_doc_type(node) == FM_DOC_NULL) {
        *out_value = 0;
        return FM_OK;
    }
    return fm_base_doc_real(node, key, out_value);
}

// A text, or NULL for null.
static fm_status text_of(const fm_doc *line, const char *key, const char **out_text)
{
    const fm_doc *node = fm_base_doc_get(line, key);
    if (node && fm_base_doc_type(node) == FM_DOC_NULL) {
        *out_text = NULL;
        return FM_OK;
    }
    return fm_base_doc_string(node, key, out_text);
}

static fm_status parse_goal(const fm_doc *line, fm_bench_record *record)
{
    const char *bound;
    const char *remark;
    FM_TRY(number(line, "goal", &record->goal));
    FM_TRY(number(line, "hope", &record->hope));
    FM_TRY(text_of(line, "bound", &bound));
    FM_TRY(text_of(line, "note", &remark));
    record->at_most = bound && strcmp(bound, "at_most") == 0;
    snprintf(record->note, sizeof record->note, "%s", remark ? remark : "");
    const fm_doc *met = fm_base_doc_get(line, "met");
    int is_met;
    if (!met || fm_base_doc_type(met) != FM_DOC_NULL) {
        FM_TRY(fm_base_doc_bool(met, "met", &is_met));
        record->verdict = is_met ? FM_BENCH_MET : FM_BENCH_MISSED;
    } else if (bound || (remark && strcmp(record->metric, "time") != 0)) {
        record->verdict = FM_BENCH_VOID;
    }
    return FM_OK;
}

fm_status fm_bench_output_parse(const fm_doc *line, fm_bench_record *out_record)
{
    fm_bench_record record = {0};
    int64_t threads;
    int64_t samples;
    int64_t clean;
    FM_TRY(fm_base_doc_string(fm_base_doc_get(line, "case"), "case", &record.name));
    FM_TRY(fm_base_doc_string(fm_base_doc_get(line, "metric"), "metric", &record.metric));
    FM_TRY(fm_base_doc_string(fm_base_doc_get(line, "unit"), "unit", &record.unit));
    FM_TRY(fm_base_doc_int(fm_base_doc_get(line, "threads"), "threads", 1, INT32_MAX, &threads));
    FM_TRY(fm_base_doc_int(fm_base_doc_get(line, "samples"), "samples", 0, INT32_MAX, &samples));
    FM_TRY(fm_base_doc_int(fm_base_doc_get(line, "clean"), "clean", 0, INT32_MAX, &clean));
    record.threads = (int)threads;
    record.samples = (int)samples;
    record.clean = (int)clean;
    FM_TRY(number(line, "value", &record.value));
    FM_TRY(number(line, "spread", &record.spread));
    FM_TRY(number(line, "best", &record.best));
    FM_TRY(number(line, "limit_value", &record.limit_rate));
    FM_TRY(number(line, "fraction", &record.fraction));
    FM_TRY(number(line, "ratio", &record.ratio));
    FM_TRY(text_of(line, "limit", &record.limit));
    FM_TRY(text_of(line, "peer", &record.peer));
    FM_TRY(parse_goal(line, &record));
    *out_record = record;
    return FM_OK;
}
