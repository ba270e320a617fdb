// The corpus: documents, cleaned, and split by document into what is trained on and what is held out.
#include <dirent.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "corpus_gcide.h"
#include "corpus_text.h"
#include "fathom/gzip.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "stage.h"
#include "stage_files.h"

struct corpus_options {
    const char *corpus;
    int64_t bytes_max, seed;
    double held_out;
};

#define FIELD(name) offsetof(struct corpus_options, name)
static const fm_option corpus_schema[] = {
    {"corpus", FM_OPTION_STRING, FIELD(corpus), .value = "dict-gcide", .metavar = "DIR|FILE",
     .help = "text files, plain or gzip, documents ending at blank lines; or the dictionary of Debian's "
             "dict-gcide"},
    {"bytes-max", FM_OPTION_SIZE, FIELD(bytes_max), .value = "64MiB", .min = 1, .max = (double)(1ll << 30),
     .help = "read no more than this of it"},
    {"held-out", FM_OPTION_REAL, FIELD(held_out), .value = "0.02", .min = 0.0001, .max = 0.5,
     .help = "share of documents that is not trained on"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 1e15, .help = "of the split"},
    {0},
};

static const char gcide_path[] = "/usr/share/dictd/gcide.dict.dz";

static int is_dictionary(const char *corpus)
{
    return strcmp(corpus, "dict-gcide") == 0;
}

/** A text that grows. */
struct text {
    char *bytes;
    size_t length, capacity;
};

struct corpus {
    const struct corpus_options *options;
    struct text raw, train, held_out;
    int64_t documents, held_documents;
    int cut; // more was there than bytes_max
};

static fm_status reserve(struct text *text, size_t more)
{
    if (more <= text->capacity - text->length)
        return FM_OK;
    size_t capacity = 2 * text->capacity + more;
    char *grown = fm_base_mem_realloc(text->bytes, capacity, 1);
    if (!grown)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes of text", capacity);
    text->bytes = grown;
    text->capacity = capacity;
    return FM_OK;
}

// Documents end with the token that ends a text.
static fm_status take_document(void *context, const char *bytes, size_t length)
{
    struct corpus *corpus = context;
    size_t blank = strspn(bytes, " \n\r\t\f");
    if (blank >= length) // which the text after this document may begin, too
        return FM_OK;
    uint64_t drawn = fm_base_rng_at((uint64_t)corpus->options->seed, 1, (uint64_t)corpus->documents++);
    int held = fm_rng_to_double(drawn) < corpus->options->held_out;
    struct text *to = held ? &corpus->held_out : &corpus->train;
    static const char end[] = FM_DOCUMENT_END;
    FM_TRY(reserve(to, length + sizeof end));
    memcpy(to->bytes + to->length, bytes, length);
    memcpy(to->bytes + to->length + length, end, sizeof end - 1);
    to->length += length + sizeof end - 1;
    corpus->held_documents += held;
    return FM_OK;
}

static fm_status append(struct text *text, const char *bytes, size_t length)
{
    FM_TRY(reserve(text, length + 1));
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = '\0';
    return FM_OK;
}

// Reads a file's bytes, as far as the limit on the whole corpus allows.
static fm_status read_bytes(struct corpus *corpus, const char *path, struct text *out)
{
    fm_gzip *stream;
    size_t limit = (size_t)corpus->options->bytes_max - corpus->raw.length, got = 1;
    FM_TRY(fm_base_gzip_open(path, &stream));
    fm_status status = FM_OK;
    while (status == FM_OK && got > 0 && !corpus->cut) {
        status = reserve(out, 1 << 20);
        if (status == FM_OK)
            status = fm_base_gzip_read(stream, out->bytes + out->length, 1 << 20, &got);
        if (status == FM_OK)
            out->length += got;
        corpus->cut = out->length > limit;
    }
    if (corpus->cut)
        out->length = limit;
    fm_base_gzip_close(stream);
    return status < 0 ? fm_base_error_prefix(status, "%s", path) : FM_OK;
}

// Appends a file's text.
static fm_status read_file(struct corpus *corpus, const char *path)
{
    struct text bytes = {0};
    char *repaired = NULL;
    size_t length = 0;
    fm_status status = read_bytes(corpus, path, &bytes);
    if (status == FM_OK && !is_dictionary(corpus->options->corpus)) // its reader mends it, by its own rules
        status = fm_app_text_repair(path, bytes.bytes, bytes.length, &repaired, &length);
    if (status == FM_OK)
        status = repaired ? append(&corpus->raw, repaired, length)
                          : append(&corpus->raw, bytes.bytes ? bytes.bytes : "", bytes.length);
    fm_base_mem_free(repaired);
    fm_base_mem_free(bytes.bytes);
    return status;
}

static int by_name(const struct dirent **left, const struct dirent **right)
{
    return strcmp((*left)->d_name, (*right)->d_name);
}

static fm_status read_folder(struct corpus *corpus, const char *folder)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, by_name);
    fm_status status = count < 0 ? fm_base_error_set(FM_ERR_IO, "%s: cannot list the folder", folder) : FM_OK;
    for (int i = 0; i < count; i++) {
        char path[4096];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (status == FM_OK && !corpus->cut && entries[i]->d_name[0] != '.' && stat(path, &info) == 0 &&
            S_ISREG(info.st_mode)) {
            status = read_file(corpus, path);
            if (status == FM_OK)
                status = append(&corpus->raw, "\n\n", 2);
        }
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    return status;
}

// Paragraphs, joined until a document has some 400 bytes.
static fm_status plain_documents(struct corpus *corpus)
{
    if (corpus->raw.length == 0)
        return FM_OK;
    const char *at = corpus->raw.bytes, *end = at + corpus->raw.length;
    while (at < end) {
        const char *stop = at;
        do {
            const char *blank = memmem(stop, (size_t)(end - stop), "\n\n", 2);
            stop = blank ? blank + 2 : end;
        } while (stop < end && stop - at < 400);
        FM_TRY(take_document(corpus, at, (size_t)(stop - at)));
        at = stop;
    }
    return FM_OK;
}

static fm_status read_corpus(struct corpus *corpus)
{
    const char *path = corpus->options->corpus;
    struct stat info;
    if (is_dictionary(path)) {
        fm_status status = read_file(corpus, gcide_path);
        if (status == FM_ERR_NOT_FOUND)
            return fm_base_error_set(
                status, "%s is not there: install the package dict-gcide, or name a corpus", gcide_path);
        FM_TRY(status);
        return fm_app_gcide_entries(corpus->raw.bytes, corpus->raw.length, take_document, corpus);
    }
    if (stat(path, &info) != 0)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s is not there", path);
    if (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode))
        return fm_base_error_set(FM_ERR_ARG, "%s is neither a file nor a folder", path);
    FM_TRY(S_ISDIR(info.st_mode) ? read_folder(corpus, path) : read_file(corpus, path));
    FM_TRY(plain_documents(corpus));
    if (corpus->documents == 0)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s: the corpus is empty; expected text files, plain or gzip%s", path,
                                 S_ISDIR(info.st_mode) ? " (those of subfolders are not read)" : "");
    return FM_OK;
}

static fm_status save(struct fm_stage_run *run, const struct corpus *corpus)
{
    fm_fs *fs;
    FM_TRY(fm_app_stage_fs(run, &fs));
    fm_status status = fm_app_shards_write(fs, run->name, "train", corpus->train.bytes, corpus->train.length);
    if (status == FM_OK)
        status =
            fm_app_shards_write(fs, run->name, "held_out", corpus->held_out.bytes, corpus->held_out.length);
    fm_fs_close(fs);
    return status;
}

static fm_status run_corpus(struct fm_stage_run *run, const void *given)
{
    struct corpus corpus = {.options = given};
    fm_status status = read_corpus(&corpus);
    if (status == FM_OK && (corpus.held_documents == 0 || corpus.held_documents == corpus.documents))
        status = fm_base_error_set(FM_ERR_FORMAT,
                                   "%lld documents, %lld of them held out; expected some of both: the corpus "
                                   "is too small for this share (raise held-out)",
                                   (long long)corpus.documents, (long long)corpus.held_documents);
    if (status == FM_OK)
        status = save(run, &corpus);
    if (status == FM_OK) {
        fm_app_stage_text(run, "corpus", "%s%s",
                          is_dictionary(corpus.options->corpus) ? gcide_path : corpus.options->corpus,
                          corpus.cut ? " (its beginning: bytes-max)" : "");
        fm_app_stage_number(run, "documents", (double)corpus.documents, NULL);
        fm_app_stage_number(run, "held out", (double)corpus.held_documents, NULL);
        fm_app_stage_number(run, "text, cleaned", (double)(corpus.train.length + corpus.held_out.length),
                            "B");
    }
    fm_base_mem_free(corpus.raw.bytes);
    fm_base_mem_free(corpus.train.bytes);
    fm_base_mem_free(corpus.held_out.bytes);
    return status;
}

const struct fm_stage fm_stage_corpus = {
    .name = "corpus",
    .summary = "text, cleaned and split: a dictionary, or your files",
    .schema = corpus_schema,
    .options_size = sizeof(struct corpus_options),
    .run = run_corpus,
};
