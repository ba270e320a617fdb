// The state of training: taken up from the newest checkpoint that is whole, and saved as training goes.
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fathom/fs_checkpoint.h"
#include "fathom/log.h"
#include "fathom/mem.h"
#include "fathom/span.h"
#include "train_job.h"

// Checkpoints of other options, or of other data, are of no use to anybody.
static fm_status drop_checkpoints(fm_fs *fs, const char *folder, const char *kept)
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    fm_status status = fm_fs_list_open(fs, folder, &list);
    if (status == FM_ERR_NOT_FOUND)
        return FM_OK;
    FM_TRY(status);
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        char path[FM_STAGE_PATH_BYTES];
        snprintf(path, sizeof path, "%s/%s", folder, entry->name);
        if (strcmp(entry->name, kept) != 0 && (status = fm_fs_remove_all(fs, path)) < 0)
            break;
    }
    fm_fs_list_close(list);
    return status;
}

static fm_status take_losses(struct fm_train_job *job, uint64_t step)
{
    void *losses;
    size_t length;
    fm_status status = FM_OK;
    FM_TRY(fm_app_checkpoint_read(job->store, job->checkpoints, step, "losses.f32", &losses, &length));
    if (length == (size_t)step * sizeof *job->losses && step <= (uint64_t)job->options->steps)
        memcpy(job->losses, losses, length);
    else
        status = fm_base_error_set(FM_ERR_FORMAT, "step %llu has %zu bytes of losses",
                                   (unsigned long long)step, length);
    fm_base_mem_free(losses);
    return status;
}

static fm_status take_loads(struct fm_train_job *job, uint64_t step)
{
    void *loads;
    size_t length;
    if (!job->rebalance)
        return FM_OK;
    FM_TRY(fm_app_checkpoint_read(job->store, job->checkpoints, step, "loads.bin", &loads, &length));
    fm_status status = fm_model_rebalance_unpack(job->rebalance, loads, length, "loads.bin");
    fm_base_mem_free(loads);
    return status;
}

static fm_status take_version(struct fm_train_job *job, uint64_t step)
{
    void *state;
    size_t length;
    FM_TRY(take_losses(job, step));
    FM_TRY(take_loads(job, step));
    FM_TRY(fm_app_checkpoint_read(job->store, job->checkpoints, step, "state.safetensors", &state, &length));
    fm_status status = fm_model_trainer_unpack(job->trainer, state, length, "state.safetensors");
    fm_base_mem_free(state);
    return status;
}

// Takes up the newest checkpoint; one that is damaged leaves the trainer as it was and goes: the one before it is as good.
static fm_status resume(struct fm_train_job *job)
{
    uint64_t step = UINT64_MAX;
    fm_status status;
    while ((status = fm_fs_checkpoint_find(job->store, job->checkpoints, step, &step)) == FM_OK) {
        status = take_version(job, step);
        if (status != FM_ERR_FORMAT && status != FM_ERR_NOT_FOUND)
            return status;
        fm_log_warn("train", "the checkpoint of step %llu is dropped: %s", (unsigned long long)step,
                    fm_error_message());
        char path[FM_FS_PATH_MAX + 1];
        FM_TRY(fm_fs_checkpoint_path(job->checkpoints, step, path));
        FM_TRY(fm_fs_remove_all(job->store, path)); // its step will be saved again
        if (step-- == 0)
            break;
    }
    return status == FM_ERR_NOT_FOUND ? FM_OK : status;
}

// Where a store is shared, each run's folder has a place of its own there.
static fm_status open_store(struct fm_train_job *job, char *out_prefix, size_t size)
{
    char folder[PATH_MAX];
    out_prefix[0] = '\0';
    job->store = job->fs;
    if (!job->options->store[0])
        return FM_OK;
    job->store = NULL;
    FM_TRY(fm_fs_open(job->options->store, FM_FS_CREATE, &job->store));
    FM_TRY(fm_fs_local_path(job->fs, ".", folder, sizeof folder));
    snprintf(out_prefix, size, "run-%08x/", (unsigned)fm_base_crc32c(0, folder, strlen(folder)));
    return FM_OK;
}

fm_status fm_app_train_resume(struct fm_train_job *job)
{
    char prefix[32], folder[160], own[16];
    FM_TRY(open_store(job, prefix, sizeof prefix));
    snprintf(folder, sizeof folder, "%s%s/checkpoints", prefix, job->run->name);
    snprintf(own, sizeof own, "%08x", (unsigned)job->run->key);
    snprintf(job->checkpoints, sizeof job->checkpoints, "%s/%s", folder, own);
    FM_TRY(drop_checkpoints(job->store, folder, job->run->fresh ? "" : own));
    if (job->store != job->fs) { // of a time when the run's folder took them
        snprintf(folder, sizeof folder, "%s/checkpoints", job->run->name);
        FM_TRY(drop_checkpoints(job->fs, folder, ""));
    }
    FM_TRY(resume(job));
    return fm_app_checkpoint_open(job->store, job->checkpoints, &job->checkpointer);
}

fm_status fm_app_train_save(struct fm_train_job *job)
{
    FM_SPAN_ARGS(span, "copy state", "train", "step", "bytes");
    fm_checkpoint_file files[3] = {
        {.name = "state.safetensors"}, {.name = "losses.f32"}, {.name = "loads.bin"}};
    uint64_t begin = fm_base_clock_ns();
    size_t done = (size_t)fm_model_trainer_steps(job->trainer);
    files[1].length = done * sizeof *job->losses;
    files[1].bytes = fm_base_mem_alloc(files[1].length + 1);
    if (!files[1].bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to save %zu losses", done);
    memcpy(files[1].bytes, job->losses, files[1].length);
    fm_status status = fm_model_trainer_pack(job->trainer, NULL, &files[0].bytes, &files[0].length);
    if (status == FM_OK && job->rebalance)
        status = fm_model_rebalance_pack(job->rebalance, &files[2].bytes, &files[2].length);
    if (status < 0) {
        fm_base_mem_free(files[0].bytes);
        fm_base_mem_free(files[1].bytes);
        return status;
    }
    span.args[0] = (int64_t)done;
    span.args[1] = (int64_t)files[0].length;
    job->pack_ns += fm_base_clock_ns() - begin;
    return fm_app_checkpoint_put(job->checkpointer, done, files, job->rebalance ? 3 : 2);
}
