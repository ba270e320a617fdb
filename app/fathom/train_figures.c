// What the run's table says of training's parts: storage, the balance of experts, the pipeline.
#include <math.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "pipeline_figures.h"
#include "train_job.h"

// What moved between fs and training, and how much of it while training computed.
static void report_storage(struct fm_train_job *job)
{
    fm_sampler_figures samples = fm_app_sampler_figures(job->sampler);
    fm_checkpoint_figures saved = fm_app_checkpoint_figures(job->checkpointer);
    struct fm_stage_run *run = job->run;
    if (samples.read_ns > 0) {
        fm_app_stage_number(run, "samples read from fs", (double)samples.bytes, "B");
        fm_app_stage_number(run, "samples, fs bandwidth",
                            (double)samples.bytes * 1e3 / (double)samples.read_ns, "MB/s");
    }
    if (saved.write_ns > 0) {
        fm_app_stage_number(run, "checkpoints written to fs", (double)saved.bytes, "B");
        fm_app_stage_number(run, "checkpoints, fs bandwidth",
                            (double)saved.bytes * 1e3 / (double)saved.write_ns, "MB/s");
        fm_app_stage_number(run, "standing still for checkpoints",
                            (double)(job->pack_ns + saved.waited_ns) * 1e-6, "ms");
    }
    if (job->seconds > 0 && samples.bytes > 0) {
        double waited = (double)(samples.waited_ns + saved.waited_ns + job->pack_ns) * 1e-9;
        // The thread's time that training did not wait for, at the rate that the thread had.
        double hidden =
            saved.write_ns > 0 ? fmax(0, 1 - (double)saved.waited_ns / (double)saved.write_ns) : 0;
        fm_app_stage_number(run, "moved while computing",
                            (double)samples.ahead_bytes + hidden * (double)saved.bytes, "B");
        fm_app_stage_number(run, "waiting for storage", 100 * waited / job->seconds, "% of training");
    }
}

// How unevenly ranks were loaded with experts, and what moving them has done about it.
static void report_experts(const struct fm_train_job *job)
{
    if (!job->rebalance)
        return;
    fm_model_rebalance_figures figures = fm_model_rebalance_figures_of(job->rebalance);
    double mean = (double)figures.load / (double)job->options->expert_ranks;
    if (figures.load == 0)
        return;
    fm_app_stage_number(job->run, "experts moved while training", (double)figures.moved, NULL);
    fm_app_stage_number(job->run, "busiest rank over the mean, experts in order",
                        (double)figures.busiest_in_order / mean, NULL);
    fm_app_stage_number(job->run, "busiest rank over the mean, rebalanced", (double)figures.busiest / mean,
                        NULL);
}

// The bubble of the steps that were recorded, and their schedule drawn with their own times.
static fm_status report_pipeline(struct fm_train_job *job)
{
    const struct fm_train_options *o = job->options;
    char path[FM_TRAIN_PATH_BYTES];
    fm_pipe_schedule schedule;
    fm_pipeline_figures figures;
    if (o->pipe_ranks < 2)
        return FM_OK;
    fm_app_train_path(job, "trace.json", path);
    FM_TRY(fm_pipe_schedule_parse(o->schedule, &schedule));
    fm_status status =
        fm_app_pipeline_measure(path, schedule, (int)o->pipe_ranks, (int)o->expert_ranks, &figures);
    if (status == FM_ERR_NOT_FOUND) // nothing was recorded
        return FM_OK;
    FM_TRY(status);
    fm_app_train_path(job, "schedule.svg", path);
    status = fm_base_file_save(path, figures.drawing.text, figures.drawing.length);
    fm_base_mem_free(figures.drawing.text);
    fm_app_stage_text(job->run, "pipeline", "%s on %lld x %lld ranks, %d micro-batches",
                      fm_pipe_schedule_name(schedule), (long long)o->pipe_ranks, (long long)o->expert_ranks,
                      figures.micro_batches);
    fm_app_stage_number(job->run, "bubble, simulated", 100 * figures.simulated, "%");
    fm_app_stage_number(job->run, "bubble, measured", 100 * figures.measured, "%");
    if (figures.sent_bytes > 0) {
        fm_app_stage_number(job->run, "pipeline, bytes sent a step", figures.sent_bytes / figures.steps, "B");
        fm_app_stage_number(job->run, "pipeline, bytes moved while computing",
                            100 * figures.hidden_bytes / figures.sent_bytes, "%");
    }
    return status;
}

fm_status fm_app_train_figures(struct fm_train_job *job)
{
    report_storage(job);
    report_experts(job);
    return report_pipeline(job);
}
