/*
 * What training goes on from. A rank writes the parameters and moments that it updates, so that each is written once; then
 * the first rank writes the file that names all of them, and only that replaces the state before it. A parameter that two
 * ranks share is cut; its pieces say where they begin. Any number of ranks reads what any number wrote.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fathom/file.h"
#include "model_front.h"

/** What a state file holds of each parameter. */
enum { PARTS = 3 };
static const char *const part_names[PARTS] = {"", "adam_mean.", "adam_square."};
enum { NAME_MAX_BYTES = 256, SHARD_BYTES = 64, NUMBER_BYTES = 12, RANKS_MAX = FM_EP_RANKS_MAX };

/** Cells [begin, end) of a parameter that this trainer updates. */
struct piece {
    int64_t begin, end;
    int64_t values, moments; // where they lie
};

static struct piece piece_of(const struct fm_trainer *trainer, const struct fm_model_weight *weight)
{
    if (!weight->values)
        return (struct piece){0};
    int64_t at = weight->values - trainer->values, end = at + fm_model_weight_cells(weight);
    for (int i = 0; i < trainer->segment_count; i++) {
        const struct fm_model_segment *segment = &trainer->segments[i];
        int64_t first = segment->first > at ? segment->first : at;
        int64_t last = segment->first + segment->shard < end ? segment->first + segment->shard : end;
        if (first < last)
            return (struct piece){first - at, last - at, first, segment->moments + first - segment->first};
    }
    return (struct piece){0};
}

static const float *part_of(const struct fm_trainer *trainer, int part, const struct piece *piece)
{
    return part == 0   ? trainer->values + piece->values
           : part == 1 ? trainer->mean + piece->moments
                       : trainer->square + piece->moments;
}

struct writing {
    const struct fm_trainer *trainer; // whose pieces are written
    fm_safetensors_writer *writer;
    int whole; // parameters are written as wholes, of which trainers put their pieces; else each piece is a tensor
    int declare, part;
};

static fm_status declare_one(const struct writing *w, const char *name, const struct fm_model_weight *weight)
{
    struct piece piece = piece_of(w->trainer, weight);
    int64_t shape[2] = {weight->rows, weight->columns}, count = piece.end - piece.begin;
    char key[NAME_MAX_BYTES], begin[32];
    if (w->whole || count == fm_model_weight_cells(weight))
        return fm_base_safetensors_declare(w->writer, name, FM_DTYPE_F32, weight->rows ? 2 : 1,
                                           weight->rows ? shape : shape + 1);
    if (count == 0)
        return FM_OK;
    snprintf(key, sizeof key, "begin.%s", name);
    snprintf(begin, sizeof begin, "%" PRId64, piece.begin);
    FM_TRY(fm_base_safetensors_note(w->writer, key, begin));
    return fm_base_safetensors_declare(w->writer, name, FM_DTYPE_F32, 1, &count);
}

static fm_status write_one(void *context, const char *name, struct fm_model_weight *weight)
{
    const struct writing *w = context;
    struct piece piece = piece_of(w->trainer, weight);
    size_t count = (size_t)(piece.end - piece.begin), offset = w->whole ? (size_t)piece.begin : 0;
    char full[NAME_MAX_BYTES];
    snprintf(full, sizeof full, "%s%s", part_names[w->part], name);
    if (w->declare)
        return declare_one(w, full, weight);
    return count == 0 ? FM_OK
                      : fm_base_safetensors_put(w->writer, full, offset * sizeof(float),
                                                part_of(w->trainer, w->part, &piece), count * sizeof(float));
}

static fm_status write_parts(struct writing *w)
{
    struct fm_model_weights weights = w->trainer->model.weights; // visitors take what they may change
    for (w->part = 0; w->part < PARTS; w->part++)
        FM_TRY(fm_model_weights_each(&w->trainer->model.config, &weights, 1, write_one, w));
    return FM_OK;
}

/** What the state's own file says: `step`, the caller's notes and, where there are ranks, where their files are. */
struct heading {
    int64_t step;
    const char *const *notes;
    int ranks;                          // that have files; 0: all lies here
    char generation;                    // of their files' names, 'a' or 'b'
    const struct fm_model_rank *placed; // where experts lie; NULL: every one in the slot of its number
    char shard[SHARD_BYTES]; // "2 of 2 x 2, 1f1b": of which rank this holds the pieces; empty: no rank's
};

// The expert in each slot of each layer, as numbers and blanks. It decides the order of sums, so resuming needs it.
static fm_status note_placement(fm_safetensors_writer *writer, const struct fm_model_rank *rank)
{
    size_t count = rank->map_count, length = 0;
    char *text = fm_base_mem_alloc(count * NUMBER_BYTES + 1);
    if (!text)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a map of experts");
    for (size_t i = 0; i < count; i++)
        length += (size_t)snprintf(text + length, NUMBER_BYTES + 1, "%d ", (int)rank->expert_in[i]);
    text[length] = 0;
    fm_status status = fm_base_safetensors_note(writer, "placement", text);
    fm_base_mem_free(text);
    return status;
}

static fm_status write_notes(fm_safetensors_writer *writer, const struct heading *heading)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, heading->step);
    FM_TRY(fm_base_safetensors_note(writer, "step", text));
    for (const char *const *note = heading->notes; note && note[0]; note += 2)
        FM_TRY(fm_base_safetensors_note(writer, note[0], note[1]));
    if (heading->shard[0])
        FM_TRY(fm_base_safetensors_note(writer, "shard", heading->shard));
    if (heading->placed)
        FM_TRY(note_placement(writer, heading->placed));
    if (heading->ranks == 0)
        return FM_OK;
    snprintf(text, sizeof text, "%d%c", heading->ranks, heading->generation);
    return fm_base_safetensors_note(writer, "ranks", text);
}

// The pieces of `count` trainers: none, one's alone, or all, which make wholes.
static fm_status write_all(struct fm_trainer *const *trainers, int count, int whole,
                           fm_safetensors_writer *writer, const struct heading *heading)
{
    struct writing writing = {.writer = writer, .whole = whole};
    FM_TRY(write_notes(writer, heading));
    if (count > 0) {
        writing.trainer = trainers[0];
        writing.declare = 1;
        FM_TRY(write_parts(&writing));
        writing.declare = 0;
    }
    FM_TRY(fm_base_safetensors_start(writer));
    for (int i = 0; i < count; i++) {
        writing.trainer = trainers[i];
        FM_TRY(write_parts(&writing));
    }
    return FM_OK;
}

static fm_status write_file(struct fm_trainer *trainer, int whole, const char *path,
                            const struct heading *heading)
{
    fm_safetensors_writer *writer;
    FM_TRY(fm_base_safetensors_create(path, &writer));
    fm_status status = write_all(&trainer, trainer != NULL, whole, writer, heading);
    if (status == FM_OK)
        return fm_base_safetensors_finish(writer);
    fm_base_safetensors_abandon(writer);
    return status;
}

static void rank_path(const char *path, int rank, const struct heading *heading, char out[static 4096])
{
    snprintf(out, 4096, "%s.%c%d-of-%d", path, heading->generation, rank + 1, heading->ranks);
}

static fm_status read_heading(const fm_safetensors *file, struct heading *out_heading)
{
    const fm_doc *notes = fm_base_safetensors_metadata(file), *ranks = fm_base_doc_get(notes, "ranks"),
                 *shard = fm_base_doc_get(notes, "shard");
    struct heading heading = {0};
    const char *text;
    char *end;
    FM_TRY(fm_base_doc_string(fm_base_doc_get(notes, "step"), "step", &text));
    heading.step = strtoll(text, &end, 10);
    if (end == text || *end || heading.step < 0)
        return fm_base_error_set(FM_ERR_FORMAT, "step is \"%s\"; expected a number of steps", text);
    if (shard) {
        FM_TRY(fm_base_doc_string(shard, "shard", &text));
        snprintf(heading.shard, sizeof heading.shard, "%s", text);
    }
    if (ranks) {
        FM_TRY(fm_base_doc_string(ranks, "ranks", &text));
        long count = strtol(text, &end, 10);
        if (count < 1 || count > RANKS_MAX || (strcmp(end, "a") != 0 && strcmp(end, "b") != 0))
            return fm_base_error_set(FM_ERR_FORMAT, "ranks is \"%s\"; expected 1 to %d, and a or b", text,
                                     RANKS_MAX);
        heading.ranks = (int)count;
        heading.generation = *end;
    }
    *out_heading = heading;
    return FM_OK;
}

// The heading of the state that lies there; one without ranks where there is none that can be read.
static struct heading heading_at(const char *path)
{
    struct heading heading = {0};
    fm_safetensors *file;
    if (fm_base_safetensors_open(path, &file) < 0)
        return heading;
    if (read_heading(file, &heading) < 0)
        heading = (struct heading){0};
    fm_base_safetensors_close(file);
    return heading;
}

static void remove_ranks(const char *path, const struct heading *heading)
{
    char name[4096];
    for (int r = 0; r < heading->ranks; r++) {
        rank_path(path, r, heading, name);
        (void)unlink(name);
    }
}

struct saving {
    const char *path;
    const char *const *notes;
};

static fm_status save_rank(struct fm_trainer *trainer, void *context)
{
    const struct saving *saving = context;
    struct heading before = heading_at(saving->path);
    struct heading heading = {.step = trainer->step,
                              .notes = saving->notes,
                              .ranks = trainer->rank->layout.ranks,
                              .generation = before.generation == 'a' ? 'b' : 'a',
                              .placed = trainer->rank};
    char path[4096];
    rank_path(saving->path, trainer->rank->number, &heading, path);
    FM_TRY(fm_model_rank_agree(trainer, write_file(trainer, 0, path, &heading)));
    fm_status status = FM_OK;
    if (trainer->rank->number == 0)
        status = write_file(NULL, 0, saving->path, &heading);
    if (trainer->rank->number == 0 && status == FM_OK)
        remove_ranks(saving->path, &before);
    return fm_model_rank_agree(trainer, status);
}

fm_status fm_model_trainer_save(fm_trainer *trainer, const char *path, const char *const *notes)
{
    struct saving saving = {path, notes};
    if (trainer->front)
        return fm_model_front_save(trainer, path, notes);
    if (trainer->crew || trainer->rank)
        return fm_model_ranks_run(trainer, save_rank, &saving);
    struct heading before = heading_at(path), heading = {.step = trainer->step, .notes = notes};
    FM_TRY(write_file(trainer, 1, path, &heading));
    remove_ranks(path, &before);
    return FM_OK;
}

static void name_shard(const struct fm_trainer *trainer, char shard[static SHARD_BYTES])
{
    const struct fm_model_layout *layout = &trainer->rank->layout;
    snprintf(shard, SHARD_BYTES, "%d of %d x %d, %s", trainer->rank->number + 1, layout->pipe,
             layout->experts, fm_pipe_schedule_name(layout->program.schedule));
}

fm_status fm_model_trainer_pack(fm_trainer *trainer, const char *const *notes, void **out_bytes,
                                size_t *out_length)
{
    struct heading heading = {.step = fm_model_trainer_steps(trainer), .notes = notes};
    struct fm_model_crew *crew = trainer->crew;
    fm_safetensors_writer *writer;
    if (trainer->front)
        return fm_model_front_pack(trainer, notes, out_bytes, out_length);
    heading.placed = crew ? crew->ranks[0]->rank : trainer->rank;
    if (trainer->rank)
        name_shard(trainer, heading.shard);
    FM_TRY(fm_base_safetensors_create_memory("the state", &writer));
    fm_status status = crew ? write_all(crew->ranks, crew->layout.ranks, 1, writer, &heading)
                            : write_all(&trainer, 1, !trainer->rank, writer, &heading);
    if (status == FM_OK)
        return fm_base_safetensors_take(writer, out_bytes, out_length);
    fm_base_safetensors_abandon(writer);
    return status;
}

/** Files that hold a state together. */
struct reading {
    fm_safetensors **files;
    int count;
    struct fm_trainer *trainer;
    int is_shard; // of this rank, which has all that it updates, and no more
    int copy;     // else check alone
};

// Where the cells of a tensor begin in their parameter; all of it, or a piece that says so.
static fm_status begin_of(const fm_safetensors *file, const char *name, const struct fm_model_weight *weight,
                          const fm_tensor *tensor, int64_t *out_begin, int64_t *out_count)
{
    int ndim = weight->rows ? 2 : 1;
    char key[NAME_MAX_BYTES];
    const char *text;
    *out_begin = 0;
    *out_count = fm_model_weight_cells(weight);
    if (tensor->dtype == FM_DTYPE_F32 && tensor->ndim == ndim && tensor->shape[ndim - 1] == weight->columns &&
        (ndim == 1 || tensor->shape[0] == weight->rows))
        return FM_OK;
    snprintf(key, sizeof key, "begin.%s", name);
    const fm_doc *note = fm_base_doc_get(fm_base_safetensors_metadata(file), key);
    if (!note || tensor->dtype != FM_DTYPE_F32 || tensor->ndim != 1)
        return fm_base_error_set(FM_ERR_FORMAT, "%s of the state is no F32 [%" PRId64 ", %" PRId64 "]", name,
                                 weight->rows, weight->columns);
    FM_TRY(fm_base_doc_string(note, key, &text));
    int64_t begin = strtoll(text, NULL, 10);
    if (begin < 0 || begin > *out_count || tensor->shape[0] > *out_count - begin)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s of the state has cells %" PRId64 " to %" PRId64 "; expected %" PRId64
                                 " at most",
                                 name, begin, begin + tensor->shape[0], *out_count);
    *out_begin = begin;
    *out_count = tensor->shape[0];
    return FM_OK;
}

// Values go to whoever holds the parameter, moments to who updates it.
static void copy_cells(const struct fm_trainer *trainer, int part, const struct fm_model_weight *weight,
                       int64_t begin, int64_t count, const float *from)
{
    struct piece piece = piece_of(trainer, weight);
    if (part == 0) {
        memcpy(weight->values + begin, from, (size_t)count * sizeof *from);
        return;
    }
    int64_t first = begin > piece.begin ? begin : piece.begin,
            last = begin + count < piece.end ? begin + count : piece.end;
    float *moments = (part == 1 ? trainer->mean : trainer->square) + piece.moments;
    if (first < last)
        memcpy(moments + (first - piece.begin), from + (first - begin),
               (size_t)(last - first) * sizeof *from);
}

static fm_status read_part(const struct reading *r, int part, const char *name,
                           const struct fm_model_weight *weight)
{
    int64_t found = 0;
    for (int i = 0; i < r->count; i++) {
        const fm_tensor *tensor = fm_base_safetensors_get(r->files[i], name);
        int64_t begin, count;
        if (!tensor)
            continue;
        FM_TRY(begin_of(r->files[i], name, weight, tensor, &begin, &count));
        if (r->copy)
            copy_cells(r->trainer, part, weight, begin, count, tensor->data);
        found += count;
    }
    struct piece piece = piece_of(r->trainer, weight);
    if (r->is_shard && found == piece.end - piece.begin)
        return FM_OK;
    if (found == 0)
        return fm_base_error_set(FM_ERR_FORMAT, "the state has no tensor %s, which the model asks for", name);
    if (found != fm_model_weight_cells(weight))
        return fm_base_error_set(FM_ERR_FORMAT, "the state has %" PRId64 " cells of %s; expected %" PRId64,
                                 found, name, fm_model_weight_cells(weight));
    return FM_OK;
}

static fm_status read_one(void *context, const char *name, struct fm_model_weight *weight)
{
    const struct reading *r = context;
    char full[NAME_MAX_BYTES];
    for (int part = 0; weight->values && part < PARTS; part++) {
        snprintf(full, sizeof full, "%s%s", part_names[part], name);
        FM_TRY(read_part(r, part, full, weight));
    }
    return FM_OK;
}

/** Where a state lies: in files, or in one that is open already and stays so. */
struct source {
    const char *name;
    fm_safetensors *open;
};

// The map that a state was saved under: expert_in [count].
static fm_status read_placement(const fm_safetensors *file, const fm_model_config *c, size_t count,
                                int32_t *expert_in)
{
    const fm_doc *note = fm_base_doc_get(fm_base_safetensors_metadata(file), "placement");
    const char *text = NULL;
    for (size_t i = 0; i < count; i++)
        expert_in[i] = (int32_t)(i % (size_t)c->experts);
    if (!note)
        return FM_OK;
    FM_TRY(fm_base_doc_string(note, "placement", &text));
    for (size_t i = 0; i < count; i++) {
        char *end;
        long expert = strtol(text, &end, 10);
        int twice = end == text || expert < 0 || expert >= c->experts;
        for (size_t before = i - i % (size_t)c->experts; before < i && !twice; before++)
            twice = expert_in[before] == expert;
        if (twice)
            return fm_base_error_set(FM_ERR_FORMAT,
                                     "placement has \"%.8s\" as number %zu; expected experts 0 "
                                     "to %d, each once in a layer",
                                     text, i, c->experts - 1);
        expert_in[i] = (int32_t)expert;
        text = end;
    }
    return FM_OK;
}

// Where ranks had their experts, they have them again.
static fm_status take_placement(struct fm_trainer *trainer, const fm_safetensors *file, int32_t **out_before)
{
    size_t count = trainer->rank->map_count;
    int32_t *expert_in = fm_base_mem_alloc(count * sizeof *expert_in + 1);
    int32_t *before = fm_base_mem_alloc(count * sizeof *before + 1);
    fm_status status = expert_in && before
                           ? read_placement(file, &trainer->model.config, count, expert_in)
                           : fm_base_error_set(FM_ERR_NOMEM, "no memory for a map of experts");
    if (status == FM_OK) {
        memcpy(before, trainer->rank->expert_in, count * sizeof *before);
        status = fm_model_rank_map(trainer, expert_in);
    }
    fm_base_mem_free(expert_in);
    if (status == FM_OK)
        *out_before = before;
    else
        fm_base_mem_free(before);
    return status;
}

// The files of ranks, if there are any.
static fm_status open_files(const struct source *source, struct reading *reading, struct heading *out_heading)
{
    char name[4096];
    fm_safetensors *file = source->open;
    if (!file)
        FM_TRY(fm_base_safetensors_open(source->name, &file));
    fm_status status = read_heading(file, out_heading);
    int files = status == FM_OK && out_heading->ranks > 0 ? out_heading->ranks : 1;
    reading->files = status == FM_OK ? fm_base_mem_zalloc((size_t)files, sizeof(fm_safetensors *)) : NULL;
    if (status == FM_OK && !reading->files)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for the list of %d files", files);
    if (status == FM_OK && out_heading->ranks == 0)
        reading->files[reading->count++] = file;
    else if (!source->open)
        fm_base_safetensors_close(file);
    while (status == FM_OK && reading->count < files) {
        rank_path(source->name, reading->count, out_heading, name);
        status = fm_base_safetensors_open(name, &reading->files[reading->count]);
        reading->count += status == FM_OK;
    }
    return status;
}

// A rank's pieces are good for that rank alone.
static fm_status check_shard(const struct fm_trainer *trainer, const struct heading *heading)
{
    char shard[SHARD_BYTES] = "";
    if (trainer->rank)
        name_shard(trainer, shard);
    if (heading->shard[0] && strcmp(heading->shard, shard) != 0)
        return fm_base_error_set(FM_ERR_FORMAT, "these are the pieces of rank %s; expected those of %s",
                                 heading->shard, shard[0] ? shard : "all ranks");
    return FM_OK;
}

static fm_status agree(struct fm_trainer *trainer, fm_status status)
{
    return trainer->rank ? fm_model_rank_agree(trainer, status) : status;
}

// Checked whole, on all ranks, before anything changes.
static fm_status load(struct fm_trainer *trainer, void *context)
{
    const struct source *source = context;
    struct reading reading = {.trainer = trainer};
    struct heading heading = {0};
    int32_t *before = NULL;
    fm_status status = open_files(source, &reading, &heading);
    if (status == FM_OK)
        status = check_shard(trainer, &heading);
    if (status == FM_OK && trainer->rank)
        status = take_placement(trainer, reading.files[0], &before);
    reading.is_shard = heading.shard[0] != 0;
    for (; reading.copy < 2; reading.copy++) {
        if (status == FM_OK)
            status =
                fm_model_weights_each(&trainer->model.config, &trainer->model.weights, 1, read_one, &reading);
        if (status < 0 && reading.copy == 0)
            status = fm_base_error_prefix(status, "%s", source->name);
        status = agree(trainer, status);
    }
    if (status == FM_OK && reading.is_shard)
        status = fm_model_rank_spread(trainer);
    if (status == FM_OK)
        trainer->step = heading.step;
    else if (before && fm_model_rank_map(trainer, before) < 0)
        trainer->rank->is_broken = 1;
    fm_base_mem_free(before);
    for (int i = 0; i < reading.count; i++)
        if (reading.files[i] != source->open)
            fm_base_safetensors_close(reading.files[i]);
    fm_base_mem_free(reading.files);
    return status;
}

static fm_status load_from(fm_trainer *trainer, struct source source)
{
    return trainer->crew || trainer->rank ? fm_model_ranks_run(trainer, load, &source)
                                          : load(trainer, &source);
}

fm_status fm_model_trainer_load(fm_trainer *trainer, const char *path)
{
    return trainer->front ? fm_model_front_load(trainer, path)
                          : load_from(trainer, (struct source){path, NULL});
}

fm_status fm_model_trainer_unpack(fm_trainer *trainer, const void *bytes, size_t length, const char *name)
{
    fm_safetensors *file;
    if (trainer->front)
        return fm_model_front_unpack(trainer, bytes, length, name);
    FM_TRY(fm_base_safetensors_open_memory(bytes, length, name, &file));
    fm_status status = load_from(trainer, (struct source){name, file});
    fm_base_safetensors_close(file);
    return status;
}
