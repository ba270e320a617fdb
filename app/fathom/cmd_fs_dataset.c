// `fathom fs dataset ...`: fixed lists of files, read at random.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd_fs.h"
#include "cmd_fs_spot.h"
#include "fathom/clock.h"
#include "fathom/fs_dataset.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "fathom/text.h"

struct dataset_options {
    const char *name, *suffix;
    int64_t length, count, ahead, seed;
    double work_us;
};

#define FIELD(name) offsetof(struct dataset_options, name)

/* build */

struct names {
    char **names; // below the top, directories that are still to be looked through, or files
    size_t count, capacity;
};

static fm_status keep(struct names *names, const char *name)
{
    if (names->count == names->capacity) {
        size_t capacity = names->capacity ? 2 * names->capacity : 64;
        char **moved = fm_base_mem_realloc(names->names, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu names", capacity);
        names->names = moved;
        names->capacity = capacity;
    }
    char *copy = fm_base_mem_strdup(name);
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a name");
    names->names[names->count++] = copy;
    return FM_OK;
}

static void forget(struct names *names)
{
    while (names->count)
        fm_base_mem_free(names->names[--names->count]);
    fm_base_mem_free(names->names);
}

static int is_wanted(const char *name, const struct dataset_options *options)
{
    size_t length = strlen(name);
    size_t suffix = options->suffix ? strlen(options->suffix) : 0;
    return strncmp(name, ".", 1) != 0 && strcmp(name, options->name) != 0 && length >= suffix &&
           strcmp(name + length - suffix, options->suffix ? options->suffix : "") == 0;
}

static fm_status look_through(const fm_cmd_spot *top, const char *dir, const struct dataset_options *options,
                              struct names *dirs, struct names *files)
{
    char path[FM_FS_PATH_MAX + 1];
    char below[FM_FS_PATH_MAX + 1];
    fm_fs_list *list;
    const fm_fs_entry *entry;
    FM_TRY(*dir ? fm_cmd_spot_join(top->path, dir, path) : fm_cmd_spot_join(".", top->path, path));
    FM_TRY(fm_fs_list_open(top->fs, path, &list));
    fm_status status;
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        status = fm_cmd_spot_join(*dir ? dir : ".", entry->name, below);
        if (status == FM_OK && entry->type == FM_FS_TYPE_DIR && *entry->name != '.')
            status = keep(dirs, below);
        else if (status == FM_OK && entry->type == FM_FS_TYPE_FILE && is_wanted(entry->name, options))
            status = keep(files, below);
        if (status < 0)
            break;
    }
    fm_fs_list_close(list);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static fm_status build(const fm_cmd_spot *top, const struct dataset_options *options)
{
    char manifest[FM_FS_PATH_MAX + 1];
    struct names dirs = {0};
    struct names files = {0};
    fm_status status = keep(&dirs, "");
    while (status == FM_OK && dirs.count) {
        char *dir = dirs.names[--dirs.count];
        status = look_through(top, dir, options, &dirs, &files);
        fm_base_mem_free(dir);
    }
    if (status == FM_OK && !files.count)
        status = fm_base_error_set(FM_ERR_NOT_FOUND, "%s has no file for a dataset", top->path);
    if (status == FM_OK)
        status = fm_cmd_spot_join(top->path, options->name, manifest);
    if (status == FM_OK) {
        qsort(files.names, files.count, sizeof *files.names, by_name);
        status = fm_fs_manifest_write(top->fs, manifest, (const char *const *)files.names, files.count);
    }
    if (status == FM_OK)
        fprintf(stderr, "fathom: %s lists %zu files\n", manifest, files.count);
    forget(&dirs);
    forget(&files);
    return status;
}

static fm_status run_build(const fm_invocation *invocation, const void *given, int *out_exit)
{
    fm_cmd_spot top;
    (void)out_exit;
    FM_TRY(fm_cmd_spot_open(&top, invocation->operands[0]));
    fm_status status = build(&top, given);
    fm_fs_close(top.fs);
    return status;
}

static const fm_option build_schema[] = {
    {"name", FM_OPTION_STRING, FIELD(name), .value = "dataset.manifest", .metavar = "NAME",
     .help = "of the manifest, in DIR"},
    {"suffix", FM_OPTION_STRING, FIELD(suffix), .metavar = "TEXT", .help = "only files whose names end so"},
    {0},
};

static const fm_command build_command = {
    .name = "build",
    .summary = "list the files below a directory in a manifest",
    .operands = "DIR",
    .details =
        "Files are numbered in the order of their paths' bytes; those that begin with '.' are left out. The\n"
        "dataset must not change afterwards. DIR is CLUSTER:/PATH, or of this machine.\n"
        "  fathom fs dataset build --suffix .bin /data/cluster:/corpus",
    .options = build_schema,
    .options_size = sizeof(struct dataset_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_build,
};

/* ls, read */

static fm_status with_dataset(const char *text, unsigned depth,
                              fm_status (*use)(fm_fs_dataset *dataset, void *context), void *context)
{
    fm_cmd_spot spot;
    fm_fs_dataset *dataset;
    FM_TRY(fm_cmd_spot_open(&spot, text));
    fm_status status = fm_fs_dataset_open(spot.fs, spot.path, depth, &dataset);
    if (status == FM_OK) {
        status = use(dataset, context);
        fm_fs_dataset_close(dataset);
    }
    fm_fs_close(spot.fs);
    return status;
}

static fm_status list(fm_fs_dataset *dataset, void *context)
{
    const int as_json = *(const int *)context;
    fm_json json = {0};
    uint64_t bytes = 0;
    fm_base_json_begin(&json, NULL, '[');
    for (size_t i = 0; i < fm_fs_dataset_count(dataset); i++) {
        bytes += fm_fs_dataset_size(dataset, i);
        if (!as_json) {
            printf("%8zu %14" PRIu64 " %s\n", i, fm_fs_dataset_size(dataset, i),
                   fm_fs_dataset_name(dataset, i));
            continue;
        }
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_int(&json, "file", (int64_t)i);
        fm_base_json_int(&json, "bytes", (int64_t)fm_fs_dataset_size(dataset, i));
        fm_base_json_string(&json, "name", fm_fs_dataset_name(dataset, i));
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    if (!as_json)
        printf("%zu files, %s\n", fm_fs_dataset_count(dataset), fm_base_text_bytes((double)bytes).text);
    return fm_base_json_finish(&json, as_json ? stdout : NULL);
}

static fm_status run_ls(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    (void)out_exit;
    int as_json = invocation->json;
    return with_dataset(invocation->operands[0], 1, list, &as_json);
}

static const fm_command ls_command = {
    .name = "ls",
    .summary = "list the files of a dataset with their numbers",
    .operands = "MANIFEST",
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_ls,
};

static fm_status number(const char *text, uint64_t *out_number)
{
    char *end;
    *out_number = strtoull(text, &end, 10);
    if (end == text || *text == '-' || *end)
        return fm_base_error_set(FM_ERR_ARG, "'%s' is no number", text);
    return FM_OK;
}

static fm_status read_part(fm_fs_dataset *dataset, void *context)
{
    fm_fs_range *range = context;
    uint64_t size = fm_fs_dataset_size(dataset, range->file);
    if (range->length > size) // before memory is asked for
        return fm_base_error_set(FM_ERR_ARG, "%zu bytes of file %zu, which has %" PRIu64, range->length,
                                 range->file, size);
    range->buffer = fm_base_mem_alloc(range->length ? range->length : 1);
    if (!range->buffer)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes", range->length);
    fm_status status = fm_fs_dataset_read(dataset, range, 1);
    if (status == FM_OK && fwrite(range->buffer, 1, range->length, stdout) != range->length)
        status = fm_base_error_set(FM_ERR_IO, "writing to standard output");
    fm_base_mem_free(range->buffer);
    return status;
}

static fm_status run_read(const fm_invocation *invocation, const void *options, int *out_exit)
{
    uint64_t numbers[3];
    (void)options;
    (void)out_exit;
    for (int i = 0; i < 3; i++)
        FM_TRY(number(invocation->operands[1 + i], &numbers[i]));
    fm_fs_range range = {.file = (size_t)numbers[0], .offset = numbers[1], .length = (size_t)numbers[2]};
    return with_dataset(invocation->operands[0], 1, read_part, &range);
}

static const fm_command read_command = {
    .name = "read",
    .summary = "write a part of a dataset's file to standard output",
    .operands = "MANIFEST FILE OFFSET LENGTH",
    .operands_min = 4,
    .operands_max = 4,
    .run = run_read,
};

/* bench */

struct bench {
    const struct dataset_options *options;
    uint64_t *begins; // of each file in the bytes of all
    fm_fs_dataset *dataset;
    fm_rng rng;
    size_t left;
    char *buffer;
};

// A place in all bytes, drawn; its file, and as much as it has from there.
static fm_fs_sample draw(struct bench *bench)
{
    size_t low = 0;
    size_t high = fm_fs_dataset_count(bench->dataset);
    uint64_t at = fm_base_rng_below(&bench->rng, bench->begins[high]);
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (bench->begins[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    uint64_t offset = at - bench->begins[low];
    uint64_t size = fm_fs_dataset_size(bench->dataset, low);
    uint64_t length = (uint64_t)bench->options->length;
    if (length > size)
        length = size;
    if (offset > size - length)
        offset = size - length;
    return (fm_fs_sample){low, offset, (size_t)length, 0};
}

static size_t next_samples(void *context, fm_fs_sample *samples, size_t max)
{
    struct bench *bench = context;
    size_t count = max < bench->left ? max : bench->left;
    for (size_t i = 0; i < count; i++)
        samples[i] = draw(bench);
    bench->left -= count;
    return count;
}

// What a trainer does with a sample, in its own time.
static void work(const struct bench *bench)
{
    uint64_t until = fm_base_clock_ns() + (uint64_t)(bench->options->work_us * 1000);
    while (bench->options->work_us > 0 && fm_base_clock_ns() < until)
        ;
}

static fm_status in_batches(struct bench *bench, size_t batch, uint64_t *out_bytes)
{
    fm_fs_range ranges[1024];
    fm_fs_sample samples[1024];
    size_t count;
    while ((count = next_samples(bench, samples, batch)) > 0) {
        for (size_t i = 0; i < count; i++)
            ranges[i] = (fm_fs_range){samples[i].file, samples[i].offset, samples[i].length,
                                      bench->buffer + i * (size_t)bench->options->length};
        FM_TRY(fm_fs_dataset_read(bench->dataset, ranges, count));
        for (size_t i = 0; i < count; i++) {
            *out_bytes += samples[i].length;
            work(bench);
        }
    }
    return FM_OK;
}

static fm_status in_a_stream(struct bench *bench, uint64_t *out_bytes)
{
    const fm_fs_stream_options options = {.size = sizeof options,
                                          .samples_ahead = (uint32_t)bench->options->ahead};
    const fm_fs_sample *sample = NULL;
    const void *bytes;
    fm_fs_stream *stream;
    FM_TRY(fm_fs_stream_open(bench->dataset, next_samples, bench, &options, &stream));
    fm_status status;
    while ((status = fm_fs_stream_next(stream, &sample, &bytes)) == FM_OK && sample) {
        *out_bytes += sample->length;
        work(bench);
    }
    fm_fs_stream_close(stream);
    return status;
}

static fm_status measure(struct bench *bench, fm_json *json, const char *way, size_t batch)
{
    uint64_t bytes = 0;
    bench->rng = fm_base_rng_begin((uint64_t)bench->options->seed, 0); // the same samples each way
    bench->left = (size_t)bench->options->count;
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(batch ? in_batches(bench, batch, &bytes) : in_a_stream(bench, &bytes));
    double seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    if (!json) {
        printf("%-24s %10.3f s %12.0f samples/s %10s/s\n", way, seconds,
               (double)bench->options->count / seconds, fm_base_text_bytes((double)bytes / seconds).text);
        return FM_OK;
    }
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "way", way);
    fm_base_json_real(json, "seconds", seconds);
    fm_base_json_real(json, "samples_per_s", (double)bench->options->count / seconds);
    fm_base_json_real(json, "bytes_per_s", (double)bytes / seconds);
    fm_base_json_end(json);
    return FM_OK;
}

struct bench_run {
    const struct dataset_options *options;
    int json;
};

static fm_status run_ways(fm_fs_dataset *dataset, void *context)
{
    const struct bench_run *run = context;
    struct bench bench = {.options = run->options, .dataset = dataset};
    size_t files = fm_fs_dataset_count(dataset);
    size_t ahead = (size_t)run->options->ahead;
    char batched[40];
    char streamed[40];
    fm_json json = {0};
    bench.begins = fm_base_mem_zalloc(files + 1, sizeof *bench.begins);
    bench.buffer = fm_base_mem_alloc(ahead * (size_t)run->options->length);
    fm_status status = bench.begins && bench.buffer
                           ? FM_OK
                           : fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu samples", ahead);
    for (size_t i = 0; i < files && status == FM_OK; i++)
        bench.begins[i + 1] = bench.begins[i] + fm_fs_dataset_size(dataset, i);
    if (status == FM_OK && !bench.begins[files])
        status = fm_base_error_set(FM_ERR_ARG, "the dataset's files are empty");
    snprintf(batched, sizeof batched, "batches of %zu", ahead);
    snprintf(streamed, sizeof streamed, "stream, %zu ahead", ahead);
    fm_base_json_begin(&json, NULL, '[');
    fm_json *to = run->json ? &json : NULL;
    if (status == FM_OK)
        status = measure(&bench, to, "one at a time", 1);
    if (status == FM_OK)
        status = measure(&bench, to, batched, ahead);
    if (status == FM_OK)
        status = measure(&bench, to, streamed, 0);
    fm_base_json_end(&json);
    fm_base_mem_free(bench.begins);
    fm_base_mem_free(bench.buffer);
    fm_status shown = fm_base_json_finish(&json, status == FM_OK && run->json ? stdout : NULL);
    return status < 0 ? status : shown;
}

static fm_status run_bench(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct dataset_options *options = given;
    struct bench_run run = {options, invocation->json};
    (void)out_exit;
    return with_dataset(invocation->operands[0], (unsigned)options->ahead, run_ways, &run);
}

static const fm_option bench_schema[] = {
    {"length", FM_OPTION_SIZE, FIELD(length), .value = "4K", .min = 1, .max = 0x1p26,
     .help = "bytes of a sample"},
    {"count", FM_OPTION_INT, FIELD(count), .value = "2000", .min = 1, .max = 0x1p40,
     .help = "samples, drawn at random"},
    {"ahead", FM_OPTION_INT, FIELD(ahead), .value = "64", .min = 1, .max = 1024,
     .help = "samples of a batch, and ahead of a stream"},
    {"work", FM_OPTION_REAL, FIELD(work_us), .value = "0", .unit = "us", .min = 0, .max = 1e6,
     .help = "that the reader computes for each sample, in microseconds"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 0x1p62, .help = "of the draws"},
    {0},
};

static const fm_command bench_command = {
    .name = "bench",
    .summary = "read random samples one at a time, in batches, and ahead of their taker",
    .operands = "MANIFEST",
    .details = "  fathom fs dataset bench --length 16K --work 50 /data/cluster:/corpus/dataset.manifest",
    .options = bench_schema,
    .options_size = sizeof(struct dataset_options),
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_bench,
};

static const fm_command *const children[] = {&build_command, &ls_command, &read_command, &bench_command,
                                             NULL};

const fm_command fm_cmd_fs_dataset = {
    .name = "dataset",
    .summary = "fixed lists of files, read at random",
    .children = children,
};
