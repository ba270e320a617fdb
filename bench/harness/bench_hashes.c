#include "bench_hashes.h"

#include "fathom/file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_BYTES = 256, // as the pattern of read_line() has it
    LINE_BYTES = 2 * NAME_BYTES + 32,
    FILE_BYTES_MAX = 16 << 20, // ten thousand benchmarks are 1 MiB
};

static int compare(const fm_bench_hash_line *line, const char *bench, const char *name)
{
    int order = strcmp(line->bench, bench);
    return order ? order : strcmp(line->name, name);
}

// The first line that is not before the given one.
static size_t place_of(const fm_bench_hashes *hashes, const char *bench, const char *name)
{
    size_t place = 0;
    while (place < hashes->count && compare(&hashes->lines[place], bench, name) < 0)
        place++;
    return place;
}

const fm_bench_hash_line *fm_bench_hashes_find(const fm_bench_hashes *hashes, const char *bench,
                                               const char *name)
{
    size_t place = place_of(hashes, bench, name);
    if (place == hashes->count || compare(&hashes->lines[place], bench, name) != 0)
        return NULL;
    return &hashes->lines[place];
}

fm_status fm_bench_hashes_set(fm_bench_hashes *hashes, const char *bench, const char *name, uint64_t hash)
{
    size_t place = place_of(hashes, bench, name);
    if (place < hashes->count && compare(&hashes->lines[place], bench, name) == 0) {
        hashes->lines[place].hash = hash;
        return FM_OK;
    }
    fm_bench_hash_line line = {fm_base_arena_strndup(&hashes->names, bench, strlen(bench)),
                               fm_base_arena_strndup(&hashes->names, name, strlen(name)), hash};
    fm_bench_hash_line *lines = fm_base_mem_realloc(hashes->lines, hashes->count + 1, sizeof *lines);
    if (lines)
        hashes->lines = lines;
    if (!lines || !line.bench || !line.name)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the hash of %s", name);
    memmove(lines + place + 1, lines + place, (hashes->count - place) * sizeof *lines);
    lines[place] = line;
    hashes->count++;
    return FM_OK;
}

static fm_status read_line(fm_bench_hashes *hashes, const char *text, const char *path, int number)
{
    char bench[NAME_BYTES];
    char name[NAME_BYTES];
    uint64_t hash;
    int end = 0;
    if (sscanf(text, "%255s %255s %16" SCNx64 " %n", bench, name, &hash, &end) != 3 || text[end])
        return fm_base_error_set(FM_ERR_FORMAT, "%s:%d: expected \"<bench> <case> <16 hexadecimal digits>\"",
                                 path, number);
    return fm_bench_hashes_set(hashes, bench, name, hash);
}

fm_status fm_bench_hashes_load(const char *path, fm_bench_hashes *out_hashes)
{
    char *bytes;
    size_t length;
    fm_status status = fm_base_file_read(path, FILE_BYTES_MAX, &bytes, &length);
    if (status == FM_ERR_NOT_FOUND) {
        *out_hashes = (fm_bench_hashes){0};
        return FM_OK;
    }
    FM_TRY(status);
    fm_bench_hashes hashes = {0};
    int number = 1;
    for (size_t at = 0; status == FM_OK && at < length; number++) {
        char line[LINE_BYTES];
        const char *end = memchr(bytes + at, '\n', length - at);
        size_t width = end ? (size_t)(end - bytes) - at : length - at;
        snprintf(line, sizeof line, "%.*s", (int)width, bytes + at);
        if (line[0] && line[0] != '#')
            status = read_line(&hashes, line, path, number);
        at += width + 1;
    }
    fm_base_mem_free(bytes);
    if (status < 0) {
        fm_bench_hashes_clear(&hashes);
        return status;
    }
    *out_hashes = hashes;
    return FM_OK;
}

fm_status fm_bench_hashes_save(const fm_bench_hashes *hashes, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    if (!file)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to write %s", path);
    fprintf(file, "# Hashes of what the benchmarks compute; written by bench_<library> --record-hashes.\n");
    for (size_t i = 0; i < hashes->count; i++)
        fprintf(file, "%s %s %016" PRIx64 "\n", hashes->lines[i].bench, hashes->lines[i].name,
                hashes->lines[i].hash);
    fm_status status = FM_OK;
    if (fclose(file) != 0)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to write %s", path);
    if (status == FM_OK)
        status = fm_base_file_save(path, text, size);
    free(text);
    return status;
}

void fm_bench_hashes_clear(fm_bench_hashes *hashes)
{
    fm_base_mem_free(hashes->lines);
    fm_base_arena_clear(&hashes->names);
    *hashes = (fm_bench_hashes){0};
}
