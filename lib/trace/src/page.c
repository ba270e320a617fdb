/*
 * The page of a trace. Slices are written by row (one nesting level of one track: in order, never overlapping), each as
 * five LEB128 numbers: begin - begin of the one before (ns), duration (ns), name, group + 1, phase + 1; all of it in base64.
 */
#include "fathom/trace_page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "json_text.h"

extern const char fm_trace_page_body[], fm_trace_page_css[], fm_trace_page_js[]; // web/trace, embedded

// Deeper levels are left out: nobody looks at the 65th, and damaged traces nest without end.
enum { LEVELS_MAX = 64 };

struct placed {
    int64_t begin, end;
    uint32_t slice, track;
    uint32_t level;
    uint32_t is_host; // tracks of devices come first: they are what a run is about
};

struct pager {
    const fm_trace_report *report;
    struct placed *placed;
    size_t count;
    const uint32_t *work_of; // by slice, plus 1; 0: none
    uint32_t *name_of;       // by text, plus 1: its number on the page
    uint32_t *names;         // texts by their number on the page
    size_t name_count;
    uint32_t *phase_of; // by phase total's text, plus 1
    int64_t first_ns;
    struct fm_trace_text text;
    fm_file_draft draft;
    uint64_t written;
    unsigned char group[3]; // bytes of base64 to come
    int group_size;
};

static int by_time(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->is_host != y->is_host)
        return x->is_host < y->is_host ? -1 : 1;
    if (x->track != y->track)
        return x->track < y->track ? -1 : 1;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) // the outer one first
        return x->end > y->end ? -1 : 1;
    return x->slice < y->slice ? -1 : x->slice > y->slice;
}

static int by_row(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->is_host != y->is_host)
        return x->is_host < y->is_host ? -1 : 1;
    if (x->track != y->track)
        return x->track < y->track ? -1 : 1;
    if (x->level != y->level)
        return x->level < y->level ? -1 : 1;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->slice < y->slice ? -1 : x->slice > y->slice;
}

/* The lowest level of its track at which nothing runs any more when a slice begins, above all that still run. */
static void find_levels(struct pager *pager)
{
    int64_t ends[LEVELS_MAX];
    size_t depth = 0;
    for (size_t i = 0; i < pager->count; i++) {
        struct placed *placed = &pager->placed[i];
        if (i == 0 || placed[-1].track != placed->track || placed[-1].is_host != placed->is_host)
            depth = 0;
        while (depth > 0 && ends[depth - 1] <= placed->begin)
            depth--;
        placed->level = (uint32_t)depth;
        if (depth < LEVELS_MAX)
            ends[depth++] = placed->end;
    }
}

static fm_status place(struct pager *pager)
{
    const fm_trace *trace = pager->report->trace;
    pager->first_ns = 0;
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        if (i == 0 || slice->begin_ns < pager->first_ns)
            pager->first_ns = slice->begin_ns;
        if (slice->kind != FM_TRACE_INSTANT)
            pager->placed[pager->count++] = (struct placed){slice->begin_ns,
                                                            slice->begin_ns + slice->duration_ns,
                                                            (uint32_t)i,
                                                            slice->track,
                                                            0,
                                                            slice->gpu == FM_TRACE_NONE};
    }
    qsort(pager->placed, pager->count, sizeof *pager->placed, by_time);
    find_levels(pager);
    qsort(pager->placed, pager->count, sizeof *pager->placed, by_row);
    size_t kept = 0;
    for (size_t i = 0; i < pager->count; i++)
        if (pager->placed[i].level < LEVELS_MAX)
            pager->placed[kept++] = pager->placed[i];
    pager->count = kept;
    return FM_OK;
}

static fm_status flush(struct pager *pager, size_t least)
{
    FM_TRY(pager->text.status);
    if (pager->text.length < least)
        return FM_OK;
    FM_TRY(fm_base_file_write(&pager->draft, pager->written, pager->text.at, pager->text.length));
    pager->written += pager->text.length;
    pager->text.length = 0;
    return FM_OK;
}

static void put(struct pager *pager, const char *text)
{
    fm_trace_text_put(&pager->text, text, strlen(text));
}

/* JSON within a <script>: '<' would be able to end it. */
static void put_json(struct pager *pager, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length;) {
        const char *bracket = memchr(bytes + i, '<', length - i);
        size_t plain = bracket ? (size_t)(bracket - bytes) - i : length - i;
        fm_trace_text_put(&pager->text, bytes + i, plain);
        if (bracket)
            fm_trace_text_put(&pager->text, "\\u003c", 6);
        i += plain + (bracket != NULL);
    }
}

static fm_status put_document(struct pager *pager, const char *id, fm_json *json)
{
    fm_status status = json->status;
    if (status == FM_OK) {
        fm_trace_text_format(&pager->text, "<script id=\"%s\" type=\"application/json\">", id);
        put_json(pager, json->text, json->length);
        put(pager, "</script>\n");
        status = flush(pager, 1 << 20);
    }
    fm_status freed = fm_base_json_finish(json, NULL);
    return status < 0 ? status : freed;
}

static void put_byte(struct pager *pager, unsigned char byte)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    pager->group[pager->group_size++] = byte;
    if (pager->group_size < 3)
        return;
    unsigned bits = (unsigned)pager->group[0] << 16 | (unsigned)pager->group[1] << 8 | pager->group[2];
    char four[4] = {digits[bits >> 18], digits[bits >> 12 & 63], digits[bits >> 6 & 63], digits[bits & 63]};
    fm_trace_text_put(&pager->text, four, 4);
    pager->group_size = 0;
}

static void put_number(struct pager *pager, uint64_t value)
{
    for (; value >= 128; value >>= 7)
        put_byte(pager, (unsigned char)(value | 128));
    put_byte(pager, (unsigned char)value);
}

static fm_status put_slices(struct pager *pager)
{
    const fm_trace_report *report = pager->report;
    put(pager, "<script id=\"slices\" type=\"text/plain\">");
    for (size_t i = 0; i < pager->count; i++) {
        const struct placed *placed = &pager->placed[i];
        const fm_trace_slice *slice = &report->trace->slices[placed->slice];
        int begins_row = i == 0 || placed[-1].track != placed->track || placed[-1].level != placed->level;
        put_number(pager, (uint64_t)(placed->begin - (begins_row ? pager->first_ns : placed[-1].begin)));
        put_number(pager, (uint64_t)slice->duration_ns);
        put_number(pager, pager->name_of[slice->name] - 1);
        const fm_trace_work *work =
            pager->work_of[placed->slice] ? &report->works[pager->work_of[placed->slice] - 1] : NULL;
        put_number(pager, work ? work->group + 1U : 0);
        // An annotation bears the colour of its phase, as its work does.
        uint32_t name = work && work->phase != FM_TRACE_NONE ? report->phases[work->phase].name : slice->name;
        put_number(pager, pager->phase_of[name]);
        FM_TRY(flush(pager, 1 << 20));
    }
    while (pager->group_size != 0) // zeros behind the last slice are not read
        put_byte(pager, 0);
    put(pager, "</script>\n");
    return pager->text.status;
}

static void put_rows(struct pager *pager, fm_json *json)
{
    fm_base_json_begin(json, "rows", '[');
    for (size_t i = 0; i < pager->count;) {
        size_t begin = i;
        const struct placed *first = &pager->placed[begin];
        while (i < pager->count && pager->placed[i].track == first->track &&
               pager->placed[i].level == first->level)
            i++;
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_int(json, "track", first->track);
        fm_base_json_int(json, "level", first->level);
        fm_base_json_int(json, "count", (int64_t)(i - begin));
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static void put_tracks(const fm_trace_report *report, fm_json *json)
{
    const fm_trace *trace = report->trace;
    fm_base_json_begin(json, "tracks", '[');
    for (size_t i = 0; i < trace->track_count; i++) {
        const fm_trace_track *track = &trace->tracks[i];
        const fm_trace_process *process = &trace->processes[track->process];
        const char *name = fm_trace_data_text(trace, track->name),
                   *labels = fm_trace_data_text(trace, process->labels);
        char label[200], tid[64];
        int is_communication = 0;
        for (size_t s = 0; s < report->stream_count; s++)
            if (report->streams[s].track == i)
                is_communication |= report->streams[s].is_communication;
        if (track->tid_is_text)
            snprintf(tid, sizeof tid, "%.60s", fm_trace_data_text(trace, (uint32_t)track->tid));
        else
            snprintf(tid, sizeof tid, "%lld", (long long)track->tid);
        snprintf(label, sizeof label, "%.60s%s%.100s",
                 labels[0] ? labels : fm_trace_data_text(trace, process->name),
                 labels[0] || process->name != FM_TRACE_NONE ? " " : "", name[0] ? name : tid);
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "label", label);
        fm_base_json_bool(json, "communication", is_communication);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static void put_groups(const fm_trace_report *report, fm_json *json)
{
    static const char *const kinds[] = {"compute", "transfer", "wait"}, *const directions[] = {"F", "B", "W"};
    fm_base_json_begin(json, "groups", '[');
    for (size_t i = 0; i < report->group_count; i++) {
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "name", report->groups[i].name);
        fm_base_json_string(json, "kind", kinds[report->groups[i].kind]);
        fm_base_json_bool(json, "used", report->groups[i].count > 0);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
    fm_base_json_begin(json, "phases", '[');
    for (size_t i = 0; i < report->phase_total_count; i++) {
        const fm_trace_phase *phase = &report->phase_totals[i];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "name", fm_trace_data_text(report->trace, phase->name));
        fm_base_json_string(json, "direction", phase->direction < 0 ? NULL : directions[phase->direction]);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

/* What stands on a slice: the last part of a kernel's qualified name, without template arguments and parameters; of a
 * wrapper, that of what it wraps. Names that are not C++ stay as they are. */
static void shorten(const char *name, char *to, size_t room)
{
    static const char wrapper[] = "device_kernel<";
    const char *wrapped = strstr(name, wrapper);
    if (wrapped)
        name = wrapped + sizeof wrapper - 1;
    const char *begin = strncmp(name, "void ", 5) == 0 ? name + 5 : name, *end = begin;
    if (!strstr(name, "::") && !strchr(name, '<')) {
        snprintf(to, room, "%s", begin);
        return;
    }
    while (*end && !strchr("<>(,", *end))
        end++;
    const char *part = begin;
    for (const char *p = begin; p < end; p++)
        // "GemmKernel" says nothing that the part before it does not.
        if (p[0] == ':' && p[1] == ':' && p + 2 < end && strncmp(p + 2, "GemmKernel", 10) != 0)
            part = p + 2;
    snprintf(to, room, "%.*s", (int)(end - part < 100 ? end - part : 100), part);
}

static void put_names(struct pager *pager, fm_json *json)
{
    char buffer[120];
    fm_base_json_begin(json, "names", '[');
    for (size_t i = 0; i < pager->name_count; i++)
        fm_base_json_string(json, NULL, fm_trace_data_text(pager->report->trace, pager->names[i]));
    fm_base_json_end(json);
    fm_base_json_begin(json, "short", '[');
    for (size_t i = 0; i < pager->name_count; i++) {
        shorten(fm_trace_data_text(pager->report->trace, pager->names[i]), buffer, sizeof buffer);
        fm_base_json_string(json, NULL, buffer);
    }
    fm_base_json_end(json);
}

static fm_status put_meta(struct pager *pager)
{
    fm_json json = {0};
    const fm_trace_report *report = pager->report;
    int64_t end = pager->first_ns;
    for (size_t i = 0; i < pager->count; i++)
        end = pager->placed[i].end > end ? pager->placed[i].end : end;
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_real(&json, "end_us", (double)(end - pager->first_ns) / 1000);
    // Times of findings are relative to the first work, those of slices to the first slice.
    fm_base_json_real(&json, "offset_us",
                      report->unit_count ? (double)(report->units[0].first_ns - pager->first_ns) / 1000 : 0);
    put_rows(pager, &json);
    put_tracks(report, &json);
    put_groups(report, &json);
    put_names(pager, &json);
    fm_base_json_end(&json);
    return put_document(pager, "meta", &json);
}

static fm_status put_page(struct pager *pager)
{
    put(pager, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
               "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Fathom "
               "trace</title>\n<style>\n");
    put(pager, fm_trace_page_css);
    put(pager, "</style>\n</head>\n<body>\n");
    put(pager, fm_trace_page_body);
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_trace_report_json(pager->report, &json);
    fm_base_json_end(&json);
    FM_TRY(put_document(pager, "report", &json));
    FM_TRY(put_meta(pager));
    FM_TRY(put_slices(pager));
    put(pager, "<script>\n");
    put(pager, fm_trace_page_js);
    put(pager, "</script>\n</body>\n</html>\n");
    return flush(pager, 0);
}

/* Numbers the names that slices on the page have, and the phases. */
static void number_names(struct pager *pager)
{
    const fm_trace_report *report = pager->report;
    for (size_t i = 0; i < pager->count; i++) {
        uint32_t name = report->trace->slices[pager->placed[i].slice].name;
        if (pager->name_of[name])
            continue;
        pager->names[pager->name_count++] = name;
        pager->name_of[name] = (uint32_t)pager->name_count;
    }
    for (size_t i = 0; i < report->phase_total_count; i++)
        pager->phase_of[report->phase_totals[i].name] = (uint32_t)i + 1;
}

fm_status fm_trace_page_save(const fm_trace_report *report, const char *path)
{
    const fm_trace *trace = report->trace;
    size_t texts = trace->text_count + 1;
    struct pager pager = {.report = report};
    uint32_t *work_of = fm_base_mem_zalloc(trace->slice_count + 1, sizeof *work_of);
    pager.placed = fm_base_mem_zalloc(trace->slice_count + 1, sizeof *pager.placed);
    pager.name_of = fm_base_mem_zalloc(texts, sizeof *pager.name_of);
    pager.names = fm_base_mem_zalloc(texts, sizeof *pager.names);
    pager.phase_of = fm_base_mem_zalloc(texts, sizeof *pager.phase_of);
    fm_status status = FM_OK;
    if (!work_of || !pager.placed || !pager.name_of || !pager.names || !pager.phase_of)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for the page of a trace");
    if (status == FM_OK) {
        for (size_t i = 0; i < report->work_count; i++)
            work_of[report->works[i].slice] = (uint32_t)i + 1;
        pager.work_of = work_of;
        status = place(&pager);
    }
    if (status == FM_OK)
        status = fm_base_file_begin(&pager.draft, path);
    if (status == FM_OK) {
        number_names(&pager);
        status = put_page(&pager);
    }
    if (status == FM_OK)
        status = fm_base_file_commit(&pager.draft);
    fm_base_file_discard(&pager.draft);
    fm_base_mem_free(pager.text.at);
    fm_base_mem_free(pager.phase_of);
    fm_base_mem_free(pager.names);
    fm_base_mem_free(pager.name_of);
    fm_base_mem_free(pager.placed);
    fm_base_mem_free(work_of);
    return status;
}
