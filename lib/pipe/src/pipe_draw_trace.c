// A simulated step as a Chrome trace, for chrome://tracing, Perfetto and this house's own reader.
#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

// Trace times are microseconds; a unit of the simulation shows as a millisecond.
static const double microseconds_per_unit = 1000;

static void write_process(fm_json *json, int rank)
{
    char name[32];
    snprintf(name, sizeof name, "rank %d", rank);
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "ph", "M");
    fm_base_json_string(json, "name", "process_name");
    fm_base_json_int(json, "pid", rank);
    fm_base_json_begin(json, "args", '{');
    fm_base_json_string(json, "name", name);
    fm_base_json_end(json);
    fm_base_json_end(json);
}

static void write_half(const fm_pipe_program *program, int rank, const char *prefix, int lane, int chunk,
                       fm_json *json)
{
    char key[32];
    snprintf(key, sizeof key, "%sstage", prefix);
    fm_base_json_int(json, key, fm_pipe_stage(program, rank, lane));
    snprintf(key, sizeof key, "%slane", prefix);
    fm_base_json_int(json, key, lane);
    snprintf(key, sizeof key, "%schunk", prefix);
    fm_base_json_int(json, key, chunk);
    snprintf(key, sizeof key, "%smicro_batch", prefix);
    fm_base_json_int(json, key, fm_pipe_micro_batch(program, lane, chunk));
}

static void write_slice(const fm_pipe_program *program, const fm_pipe_simulation *simulation, int rank,
                        size_t i, fm_json *json)
{
    const fm_pipe_op *op = &program->ops[i];
    char name[64];
    if (op->kind == FM_PIPE_FB)
        snprintf(name, sizeof name, "F %d + B %d", op->chunk, op->back_chunk);
    else
        snprintf(name, sizeof name, "%s %d", fm_pipe_kind_name((fm_pipe_kind)op->kind), op->chunk);
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "ph", "X");
    fm_base_json_string(json, "name", name);
    fm_base_json_string(json, "cat", fm_pipe_kind_name((fm_pipe_kind)op->kind));
    fm_base_json_int(json, "pid", rank);
    fm_base_json_int(json, "tid", 0);
    fm_base_json_real(json, "ts", microseconds_per_unit * simulation->start[i]);
    fm_base_json_real(json, "dur", microseconds_per_unit * (simulation->finish[i] - simulation->start[i]));
    fm_base_json_begin(json, "args", '{');
    write_half(program, rank, "", op->lane, op->chunk, json);
    if (op->kind == FM_PIPE_FB)
        write_half(program, rank, "back_", op->back_lane, op->back_chunk, json);
    fm_base_json_end(json);
    fm_base_json_end(json);
}

static void write_memory(int rank, double time, double memory, fm_json *json)
{
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "ph", "C");
    fm_base_json_string(json, "name", "activations");
    fm_base_json_int(json, "pid", rank);
    fm_base_json_real(json, "ts", microseconds_per_unit * time);
    fm_base_json_begin(json, "args", '{');
    fm_base_json_real(json, "held", memory);
    fm_base_json_end(json);
    fm_base_json_end(json);
}

fm_status fm_pipe_draw_trace(const fm_pipe_program *program, const fm_pipe_simulation *simulation,
                             fm_pipe_text *out_text)
{
    if (!program || !simulation || !out_text)
        return fm_base_error_set(FM_ERR_ARG, "program, simulation and out_text must not be NULL");
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "displayTimeUnit", "ms");
    fm_base_json_begin(&json, "traceEvents", '[');
    for (int rank = 0; rank < program->ranks; rank++) {
        write_process(&json, rank);
        for (size_t i = program->first[rank]; i < program->first[rank + 1]; i++) {
            write_slice(program, simulation, rank, i, &json);
            write_memory(rank, simulation->start[i], simulation->memory[i], &json);
        }
        write_memory(rank, simulation->ranks[rank].last, 0, &json);
    }
    fm_base_json_end(&json);
    fm_base_json_end(&json);
    char *text = json.status == FM_OK ? fm_base_mem_alloc(json.length + 1) : NULL;
    size_t length = json.length;
    if (text) {
        memcpy(text, json.text, length);
        text[length] = 0;
    }
    fm_status status = fm_base_json_finish(&json, NULL);
    if (status == FM_OK && !text)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a trace of %zu bytes", length);
    if (status != FM_OK) {
        fm_base_mem_free(text);
        return status;
    }
    *out_text = (fm_pipe_text){text, length};
    return FM_OK;
}
