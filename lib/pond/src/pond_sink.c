/*
 * A sink's tasks leave their files in the work folder like all others. When all are done, links of them (copies, on another file
 * system) are made in a folder beside the target, which takes the target's name. The manifest in it says which tasks made it, so
 * that a sink that is there already is known for what it is.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fathom/file.h"
#include "fathom/log.h"
#include "pond_run.h"
#include "pond_target.h"
#include "pond_team.h"

#define MANIFEST "_manifest.json"

enum { WRITERS_MAX = 8 }; // that put files in place at a time: each waits for disks

static const char *const extensions[] = {"", "parquet", "csv", "json", "txt", "", "", "", "bin"};
static const char *const task_files[] = {"", "out.parquet", "out.csv", "out.json", "out.txt", "", "",
                                         "", "out.bin"};

struct sink {
    const fm_pond_run *run;
    int number; // of the stage
    fm_pond_target target;
    const char *folder; // where its files go
    size_t claimed;
    fm_pond_team team;
};

// The folder tree of a hive-partitioned task, with names that say which task made them.
static fm_status place_tree(const struct sink *sink, const char *from, const char *to, const char *prefix)
{
    DIR *folder = opendir(from);
    if (!folder)
        return errno == ENOENT ? FM_OK : fm_base_file_error(errno, "%s", from); // a task without rows
    fm_status status = fm_pond_target_make_folder(&sink->target, to);
    for (struct dirent *entry; status == FM_OK && (entry = readdir(folder));) {
        struct stat info;
        fm_pond_text source = {0}, target = {0};
        if (entry->d_name[0] == '.')
            continue;
        fm_pond_text_add(&source, "%s/%s", from, entry->d_name);
        status = fm_pond_text_status(&source);
        int is_folder = status == FM_OK && stat(source.text, &info) == 0 && S_ISDIR(info.st_mode);
        fm_pond_text_add(&target, is_folder ? "%s/%s%s" : "%s/%s-%s", to, is_folder ? "" : prefix,
                         entry->d_name);
        if (status == FM_OK)
            status = fm_pond_text_status(&target);
        if (status == FM_OK)
            status = is_folder ? place_tree(sink, source.text, target.text, prefix)
                               : fm_pond_target_put(&sink->target, source.text, target.text);
        fm_pond_text_clear(&source);
        fm_pond_text_clear(&target);
    }
    closedir(folder);
    return status < 0 ? status : fm_pond_target_sync_folder(&sink->target, to);
}

static fm_status place_task(const struct sink *sink, int task)
{
    const fm_pond_run *run = sink->run;
    const fm_pond_op *op = &run->plan->nodes[run->physical.stages[sink->number].node].op;
    const char *key = run->stages[sink->number].made[task].key;
    fm_pond_text from = {0}, to = {0}, prefix = {0};
    if (op->mode == FM_POND_APPEND)
        fm_pond_text_add(&prefix, "part-%.8s-%05d", key, task);
    else
        fm_pond_text_add(&prefix, "part-%05d", task);
    fm_pond_text_add(&from, "%s/%s/%s", run->tasks.text, key, op->schema ? "parts" : task_files[op->format]);
    if (op->schema)
        fm_pond_text_add(&to, "%s", sink->folder);
    else
        fm_pond_text_add(&to, "%s/%s.%s", sink->folder, prefix.text ? prefix.text : "",
                         extensions[op->format]);
    fm_status status = fm_pond_text_status(&from);
    if (status == FM_OK)
        status = fm_pond_text_status(&to);
    if (status == FM_OK)
        status = op->schema ? place_tree(sink, from.text, to.text, prefix.text)
                            : fm_pond_target_put(&sink->target, from.text, to.text);
    fm_pond_text_clear(&from);
    fm_pond_text_clear(&to);
    fm_pond_text_clear(&prefix);
    return status;
}

static fm_status place_tasks(void *context, int member)
{
    struct sink *sink = context;
    size_t count = (size_t)sink->run->physical.stages[sink->number].tasks;
    (void)member;
    for (size_t task; (task = __atomic_fetch_add(&sink->claimed, 1, __ATOMIC_RELAXED)) < count &&
                      !fm_pond_team_stopped(&sink->team);)
        FM_TRY(place_task(sink, (int)task));
    return FM_OK;
}

// {"sink": a digest of the keys of its tasks, "rows"}
static void write_manifest(const fm_pond_run *run, int number, char out_digest[33], fm_pond_text *out)
{
    const fm_pond_stage_run *stage = &run->stages[number];
    fm_pond_text keys = {0};
    uint64_t rows = 0;
    for (int i = 0; i < run->physical.stages[number].tasks; i++) {
        fm_pond_text_add(&keys, "%s", stage->made[i].key);
        rows += stage->made[i].rows;
    }
    fm_pond_text_digest(keys.text ? keys.text : "", keys.length, out_digest);
    fm_pond_text_add(out, "{\"sink\": \"%s\", \"files\": %d, \"rows\": %llu}\n", out_digest,
                     run->physical.stages[number].tasks, (unsigned long long)rows);
    out->failed |= keys.failed;
    fm_pond_text_clear(&keys);
}

static fm_status read_manifest(const fm_pond_target *target, char **out_text, size_t *out_length)
{
    fm_pond_text path = {0};
    fm_pond_text_add(&path, "%s/" MANIFEST, target->path.text);
    fm_status status = fm_pond_text_status(&path);
    if (status == FM_OK)
        status = fm_pond_target_read(target, path.text, out_text, out_length);
    fm_pond_text_clear(&path);
    return status;
}

static fm_status check_target(const fm_pond_op *op, const fm_pond_target *target)
{
    fm_pond_target_kind kind;
    int empty = 1;
    char *manifest = NULL;
    size_t length = 0;
    FM_TRY(fm_pond_target_look(target, target->path.text, &kind));
    if (kind == FM_POND_OTHER)
        return fm_base_error_set(FM_ERR_EXISTS, "%s is a file; a sink writes a folder", op->paths[0]);
    if (op->mode != FM_POND_ERROR || kind == FM_POND_NOTHING)
        return FM_OK;
    FM_TRY(fm_pond_target_is_empty(target, target->path.text, &empty));
    if (!empty)
        FM_TRY(read_manifest(target, &manifest, &length));
    int ours = manifest != NULL;
    fm_base_mem_free(manifest);
    return empty || ours
               ? FM_OK
               : fm_base_error_set(FM_ERR_EXISTS, "%s is not empty; expected mode overwrite or append",
                                   op->paths[0]);
}

fm_status fm_pond_sink_check(const fm_pond_run *run, int number)
{
    const fm_pond_op *op = &run->plan->nodes[run->physical.stages[number].node].op;
    fm_pond_target target;
    FM_TRY(fm_pond_target_open(op->paths[0], &target));
    fm_status status = check_target(op, &target);
    fm_pond_target_close(&target);
    return status;
}

static fm_status fill_folder(struct sink *sink, const fm_pond_text *manifest)
{
    fm_pond_text path = {0};
    int tasks = sink->run->physical.stages[sink->number].tasks;
    FM_TRY(fm_pond_target_make_folder(&sink->target, sink->folder));
    sink->team.members = tasks < WRITERS_MAX ? tasks : WRITERS_MAX;
    FM_TRY(fm_pond_team_run(&sink->team, place_tasks, sink));
    fm_pond_text_add(&path, "%s/" MANIFEST, sink->folder);
    fm_status status = fm_pond_text_status(&path);
    if (status == FM_OK)
        status = fm_pond_target_save(&sink->target, path.text, manifest->text, manifest->length);
    fm_pond_text_clear(&path);
    return status < 0 ? status : fm_pond_target_sync_folder(&sink->target, sink->folder);
}

// Fills a folder beside the target, which then takes its name. What a run that was killed has left there is removed first.
static fm_status replace(struct sink *sink, const char *digest, const fm_pond_text *manifest)
{
    fm_pond_text draft = {0};
    fm_pond_text_add(&draft, "%s.%.8s.tmp", sink->target.path.text, digest);
    fm_status status = fm_pond_text_status(&draft);
    if (status == FM_OK)
        status = fm_pond_target_remove(&sink->target, draft.text);
    sink->folder = draft.text;
    if (status == FM_OK)
        status = fill_folder(sink, manifest);
    if (status == FM_OK)
        status = fm_pond_target_replace(&sink->target, draft.text, sink->target.path.text);
    if (status < 0 && draft.text) {
        char message[1024];
        snprintf(message, sizeof message, "%s", fm_error_message());
        if (fm_pond_target_remove(&sink->target, draft.text) < 0)
            fm_log_warn("pond", "%s", fm_error_message());
        fm_base_error_set(status, "%s", message);
    }
    fm_pond_text_clear(&draft);
    return status;
}

static fm_status commit(struct sink *sink)
{
    const fm_pond_op *op = &sink->run->plan->nodes[sink->run->physical.stages[sink->number].node].op;
    fm_pond_text manifest = {0};
    char digest[33], *there = NULL;
    size_t length = 0;
    int empty = 1;
    write_manifest(sink->run, sink->number, digest, &manifest);
    fm_status status = fm_pond_text_status(&manifest);
    if (status == FM_OK)
        status = read_manifest(&sink->target, &there, &length);
    if (status == FM_OK)
        status = fm_pond_target_is_empty(&sink->target, sink->target.path.text, &empty);
    int same = there && length == manifest.length && memcmp(there, manifest.text, length) == 0;
    if (status == FM_OK && !same) {
        if (op->mode == FM_POND_APPEND) {
            sink->folder = sink->target.path.text;
            status = fill_folder(sink, &manifest);
        } else if (op->mode == FM_POND_ERROR && !empty) {
            status = fm_base_error_set(FM_ERR_EXISTS,
                                       "%s holds what another sink has written; expected mode overwrite "
                                       "or append",
                                       op->paths[0]);
        } else {
            status = replace(sink, digest, &manifest);
        }
    }
    fm_base_mem_free(there);
    fm_pond_text_clear(&manifest);
    return status;
}

fm_status fm_pond_sink_commit(fm_pond_run *run, int number)
{
    struct sink sink = {.run = run, .number = number};
    FM_TRY(
        fm_pond_target_open(run->plan->nodes[run->physical.stages[number].node].op.paths[0], &sink.target));
    fm_status status = commit(&sink);
    fm_pond_target_close(&sink.target);
    return status;
}
