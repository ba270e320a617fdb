#include "stage_checkpoint.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/fs_checkpoint.h"
#include "fathom/mem.h"
#include "fathom/span.h"

// The one before the newest stays for a newest that a disk has spoilt.
enum { VERSIONS_KEPT = 2 };

struct fm_checkpointer {
    fm_fs *fs;
    char folder[512];
    pthread_t thread;
    // Shared:
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t step;
    fm_checkpoint_file files[FM_CHECKPOINT_FILES_MAX];
    int count;
    int busy, stop; // busy: from a put until its version is published
    fm_status status;
    char message[512];
    fm_checkpoint_figures figures;
};

static fm_status write_files(const fm_checkpointer *w)
{
    char folder[FM_FS_PATH_MAX + 1], path[FM_FS_PATH_MAX + 1];
    FM_TRY(fm_fs_checkpoint_staging_path(w->folder, w->step, folder));
    for (int i = 0; i < w->count; i++) {
        if (snprintf(path, sizeof path, "%s/%s", folder, w->files[i].name) >= (int)sizeof path)
            return fm_base_error_set(FM_ERR_LIMIT, "%s is too long a name", folder);
        // Publishing syncs all of it.
        FM_TRY(fm_fs_write_all(w->fs, path, w->files[i].bytes, w->files[i].length, FM_FS_NO_SYNC));
    }
    return fm_fs_checkpoint_publish(w->fs, w->folder, w->step);
}

static fm_status write_version(const fm_checkpointer *w)
{
    FM_SPAN_ARGS(span, "write checkpoint", "fs", "step", "bytes");
    for (int i = 0; i < w->count; i++)
        span.args[1] += (int64_t)w->files[i].length;
    span.args[0] = (int64_t)w->step;
    fm_status status = fm_fs_checkpoint_begin(w->fs, w->folder, w->step);
    if (status == FM_ERR_EXISTS)
        return FM_OK; // published by the run before, which was stopped at this very step
    FM_TRY(status);
    FM_TRY(write_files(w));
    return fm_fs_checkpoint_prune(w->fs, w->folder, VERSIONS_KEPT);
}

static void *run(void *context)
{
    fm_checkpointer *w = context;
    fm_base_span_set_thread(-1, "checkpoints");
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->busy && !w->stop)
            pthread_cond_wait(&w->changed, &w->lock);
        if (!w->busy)
            break;
        pthread_mutex_unlock(&w->lock); // while busy, what was handed over is this thread's
        uint64_t begin = fm_base_clock_ns();
        fm_status status = write_version(w);
        uint64_t took = fm_base_clock_ns() - begin;
        pthread_mutex_lock(&w->lock);
        for (int i = 0; i < w->count; i++) {
            w->figures.bytes += w->files[i].length;
            fm_base_mem_free(w->files[i].bytes);
        }
        w->figures.written++;
        w->figures.write_ns += took;
        if (status < 0 && w->status == FM_OK) {
            w->status = status;
            snprintf(w->message, sizeof w->message, "%s", fm_error_message());
        }
        w->busy = w->count = 0;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

fm_status fm_app_checkpoint_open(fm_fs *fs, const char *folder, fm_checkpointer **out_writer)
{
    fm_checkpointer *w = fm_base_mem_zalloc(1, sizeof *w);
    if (!w)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to write checkpoints");
    *w = (fm_checkpointer){.fs = fs, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    fm_status status = FM_OK;
    if (snprintf(w->folder, sizeof w->folder, "%s", folder) >= (int)sizeof w->folder)
        status = fm_base_error_set(FM_ERR_LIMIT, "%s is too long a name", folder);
    int err = status == FM_OK ? pthread_create(&w->thread, NULL, run, w) : 0;
    if (err)
        status = fm_base_error_set_errno(FM_ERR_LIMIT, err, "a thread that writes checkpoints");
    if (status < 0)
        fm_base_mem_free(w);
    else
        *out_writer = w;
    return status;
}

// With the lock held. The failure of what was written last, as this thread's own.
static fm_status wait_idle(fm_checkpointer *w)
{
    uint64_t begin = fm_base_clock_ns();
    while (w->busy)
        pthread_cond_wait(&w->changed, &w->lock);
    w->figures.waited_ns += fm_base_clock_ns() - begin;
    return w->status < 0 ? fm_base_error_set(w->status, "%s", w->message) : FM_OK;
}

fm_status fm_app_checkpoint_put(fm_checkpointer *w, uint64_t step, const fm_checkpoint_file *files, int count)
{
    pthread_mutex_lock(&w->lock);
    fm_status status = wait_idle(w);
    if (status == FM_OK && count > FM_CHECKPOINT_FILES_MAX)
        status =
            fm_base_error_set(FM_ERR_ARG, "%d files; expected at most %d", count, FM_CHECKPOINT_FILES_MAX);
    if (status == FM_OK) {
        memcpy(w->files, files, (size_t)count * sizeof *files);
        w->count = count;
        w->step = step;
        w->busy = 1;
        pthread_cond_broadcast(&w->changed);
    } else {
        for (int i = 0; i < count; i++)
            fm_base_mem_free(files[i].bytes);
    }
    pthread_mutex_unlock(&w->lock);
    return status;
}

fm_status fm_app_checkpoint_flush(fm_checkpointer *w)
{
    pthread_mutex_lock(&w->lock);
    fm_status status = wait_idle(w);
    pthread_mutex_unlock(&w->lock);
    return status;
}

fm_checkpoint_figures fm_app_checkpoint_figures(fm_checkpointer *w)
{
    pthread_mutex_lock(&w->lock);
    fm_checkpoint_figures figures = w->figures;
    pthread_mutex_unlock(&w->lock);
    return figures;
}

void fm_app_checkpoint_close(fm_checkpointer *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    fm_base_mem_free(w);
}

fm_status fm_app_checkpoint_read(fm_fs *fs, const char *folder, uint64_t step, const char *name,
                                 void **out_bytes, size_t *out_length)
{
    char version[FM_FS_PATH_MAX + 1], path[FM_FS_PATH_MAX + 1];
    FM_TRY(fm_fs_checkpoint_path(folder, step, version));
    if (snprintf(path, sizeof path, "%s/%s", version, name) >= (int)sizeof path)
        return fm_base_error_set(FM_ERR_LIMIT, "%s is too long a name", version);
    return fm_fs_read_all(fs, path, SIZE_MAX, out_bytes, out_length);
}
