// Training: a small model of the V3 architecture on the data's tokens. It goes on from its last saved state.
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/interrupt.h"
#include "fathom/mem.h"
#include "fathom/progress.h"
#include "fathom/span.h"
#include "fathom/tokenizer.h"
#include "generation.h"
#include "train_chart.h"
#include "train_job.h"

#define FIELD(name) offsetof(struct fm_train_options, name)
static const fm_option train_schema[] = {
    {"data", FM_OPTION_STRING, FIELD(data), .value = "data", .help = "name of the data stage"},
    {"dtype", FM_OPTION_CHOICE, FIELD(dtype), .value = "f32", .choices = "f32|bf16|fp8",
     .help = "what products with weights are computed in"},
    {"steps", FM_OPTION_INT, FIELD(steps), .value = "400", .min = 1, .max = 1e9,
     .help = "steps of the schedule"},
    {"batch", FM_OPTION_INT, FIELD(batch), .value = "8", .min = 1, .max = 65536,
     .help = "sequences of a step"},
    {"length", FM_OPTION_INT, FIELD(length), .value = "128", .unit = "tokens", .min = 2, .max = 65536,
     .help = "tokens of a sequence"},
    {"rate", FM_OPTION_REAL, FIELD(rate), .value = "0.003", .min = 0, .max = 1,
     .help = "learning rate at its highest"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 1e15,
     .help = "of weights and samples"},
    {"save-every", FM_OPTION_INT, FIELD(save_every), .value = "50", .unit = "steps", .min = 1, .max = 1e9,
     .help = "how often the state is saved"},
    {"checkpoint-store", FM_OPTION_STRING, FIELD(store), .value = "", .metavar = "SPEC",
     .help = "file system that takes the checkpoints: dir:PATH, or cluster:DIR of a cluster that is up; "
             "empty: the run's "
             "folder"},
    {"hidden", FM_OPTION_INT, FIELD(hidden), .value = "256", .min = 16, .max = 16384,
     .help = "channels of a token"},
    {"layers", FM_OPTION_INT, FIELD(layers), .value = "4", .min = 2, .max = 128,
     .help = "layers, the first dense"},
    {"heads", FM_OPTION_INT, FIELD(heads), .value = "4", .min = 1, .max = 256, .help = "attention heads"},
    {"experts", FM_OPTION_INT, FIELD(experts), .value = "8", .min = 4, .max = 1024,
     .help = "routed experts of a layer, a multiple of 4"},
    {"topk", FM_OPTION_INT, FIELD(topk), .value = "2", .min = 1, .max = 64, .help = "experts of a token"},
    {"expert-intermediate", FM_OPTION_INT, FIELD(expert_intermediate), .value = "128", .min = 8, .max = 16384,
     .help = "channels inside an expert"},
    {"predict", FM_OPTION_INT, FIELD(predict), .value = "0", .min = 0, .max = 4,
     .help = "heads for multi-token prediction"},
    {"pipe-ranks", FM_OPTION_INT, FIELD(pipe_ranks), .value = "1", .min = 1, .max = 64,
     .help = "ranks that share out the layers"},
    {"expert-ranks", FM_OPTION_INT, FIELD(expert_ranks), .value = "1", .min = 1, .max = 64,
     .help = "ranks that share out the experts and the sequences"},
    {"rebalance-every", FM_OPTION_INT, FIELD(rebalance_every), .value = "0", .unit = "steps", .min = 0,
     .max = 1e9,
     .help =
         "how often eplb places the experts anew on the expert ranks, from the loads since then; 0: never"},
    {"schedule", FM_OPTION_STRING, FIELD(schedule), .value = "dualpipev",
     .help = "of the pipeline; `fathom pipe --help` has them"},
    {"transport", FM_OPTION_CHOICE, FIELD(transport), .value = "threads", .choices = "threads|processes",
     .help = "what ranks are"},
    {"launcher", FM_OPTION_STRING, FIELD(launcher), .value = "mpirun -n",
     .help = "what starts MPI's processes; their number follows"},
    {"trace-steps", FM_OPTION_INT, FIELD(trace_steps), .value = "8", .min = 0, .max = 10000,
     .help = "last steps whose timeline is recorded: trace.json, and a part of the report"},
    {0},
};

static fm_status open_data(struct fm_train_job *job)
{
    const struct fm_train_options *o = job->options;
    char path[FM_TRAIN_PATH_BYTES];
    size_t bytes;
    fm_tokenizer *tokenizer;
    const fm_sampling sampling = {o->data, "train", (int)o->batch, (int)job->width, (uint64_t)o->seed};
    FM_TRY(fm_app_sampler_open(job->fs, &sampling, &job->sampler));
    FM_TRY(fm_app_shards_read(job->fs, o->data, "held_out", SIZE_MAX - 1, &job->held_bytes, &bytes));
    job->held_ids = (const int32_t *)(const void *)job->held_bytes;
    job->held_count = (int64_t)(bytes / sizeof(int32_t));
    if (job->held_count < job->width)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%lld tokens are held out; expected at least %lld for one sequence: use a "
                                 "larger corpus or a smaller length",
                                 (long long)job->held_count, (long long)job->width);
    snprintf(path, sizeof path, "%s/%s/tokenizer.json", job->run->run_folder, o->data);
    FM_TRY(fm_model_tokenizer_open(path, &tokenizer));
    job->vocab = fm_model_tokenizer_vocab(tokenizer);
    fm_model_tokenizer_close(tokenizer);
    return FM_OK;
}

static fm_model_config shape_of(const struct fm_train_options *o, int vocab)
{
    int experts = (int)o->experts;
    return (fm_model_config){
        .family = FM_MODEL_V3,
        .vocab = vocab,
        .hidden = (int)o->hidden,
        .intermediate = (int)o->hidden * 2,
        .layers = (int)o->layers,
        .dense_layers = 1,
        .heads = (int)o->heads,
        .q_lora = (int)o->hidden / 2,
        .kv_lora = (int)o->hidden / 4,
        .nope = 32,
        .rope = 16,
        .value = 32,
        .experts = experts,
        .expert_intermediate = (int)o->expert_intermediate,
        .shared_experts = 1,
        .topk = (int)o->topk,
        .groups = experts % 4 ? 1 : 4,
        .topk_groups = experts % 4 ? 1 : 2,
        .gate = FM_MODEL_SIGMOID,
        .correction_bias = 1,
        .normalise_topk = 1,
        .routed_scale = 1,
        .epsilon = 1e-6,
        .rope_theta = 10000,
        .context = (int)o->length > 1024 ? (int)o->length : 1024,
        .predict_layers = (int)o->predict,
        .bos = -1,
        .eos = 0,
    };
}

void fm_app_train_path(const struct fm_train_job *job, const char *name,
                       char out_path[static FM_TRAIN_PATH_BYTES])
{
    snprintf(out_path, FM_TRAIN_PATH_BYTES, "%s/%s", job->run->folder, name);
}

enum { LAUNCHER_WORDS = 32, LAUNCHER_BYTES = 1024 };

/** What starts the ranks, in words. */
struct rank_command {
    const char *words[LAUNCHER_WORDS + 4];
    char launcher[LAUNCHER_BYTES], count[16], program[4096];
};

static fm_status name_command(const struct fm_train_options *o, struct rank_command *out_command)
{
    int words = 0;
    char *left = NULL;
    ssize_t length = readlink("/proc/self/exe", out_command->program, sizeof out_command->program - 1);
    if (length < 0 || strlen(o->launcher) >= sizeof out_command->launcher)
        return fm_base_error_set(FM_ERR_ARG, "launcher has %zu characters; expected up to %d",
                                 strlen(o->launcher), LAUNCHER_BYTES - 1);
    out_command->program[length] = 0;
    snprintf(out_command->launcher, sizeof out_command->launcher, "%s", o->launcher);
    for (char *word = strtok_r(out_command->launcher, " ", &left); word && words < LAUNCHER_WORDS;
         word = strtok_r(NULL, " ", &left))
        out_command->words[words++] = word;
    if (words == 0)
        return fm_base_error_set(FM_ERR_ARG, "launcher is empty; expected a command as \"mpirun -n\"");
    snprintf(out_command->count, sizeof out_command->count, "%d", (int)(o->pipe_ranks * o->expert_ranks));
    out_command->words[words++] = out_command->count;
    out_command->words[words++] = out_command->program;
    out_command->words[words++] = "rank";
    out_command->words[words] = NULL;
    return FM_OK;
}

static fm_status make_trainer(struct fm_train_job *job)
{
    const struct fm_train_options *o = job->options;
    fm_model_config config = shape_of(o, job->vocab);
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    training.steps = o->steps;
    training.warmup_steps = o->steps / 10;
    training.rate = o->rate;
    training.rate_end = o->rate / 10;
    training.seed = (uint64_t)o->seed;
    training.dtype = fm_app_generation_dtype(o->dtype);
    training.pipe_ranks = (int)o->pipe_ranks;
    training.expert_ranks = (int)o->expert_ranks;
    FM_TRY(fm_pipe_schedule_parse(o->schedule, &training.schedule));
    struct rank_command command;
    if (strcmp(o->transport, "processes") == 0) {
        FM_TRY(name_command(o, &command));
        training.transport = FM_MODEL_PROCESSES;
        training.rank_command = command.words;
    }
    FM_TRY(fm_model_trainer_open(&config, &training, &job->trainer));
    if (o->rebalance_every == 1)
        return fm_base_error_set(FM_ERR_ARG, "rebalance-every is 1; expected 0 (never) or at least 2");
    if (o->rebalance_every == 0 || o->expert_ranks < 2)
        return FM_OK;
    return fm_model_rebalance_open(job->trainer, (int)o->expert_ranks, o->rebalance_every, &job->rebalance);
}

// Between two steps; a span tells where experts moved.
static fm_status rebalance(struct fm_train_job *job)
{
    FM_SPAN_ARGS(span, "rebalance experts", "train", "step", "moved");
    span.args[0] = fm_model_trainer_steps(job->trainer);
    return fm_model_rebalance_step(job->rebalance, job->trainer, &span.args[1]);
}

static fm_status train_step(struct fm_train_job *job, fm_progress *progress)
{
    FM_SPAN_ARGS(span, "step", "train", "step", "tokens");
    const struct fm_train_options *o = job->options;
    int64_t step = fm_model_trainer_steps(job->trainer), tokens = o->batch * o->length;
    fm_model_step_result result = {0};
    const int32_t *ids;
    char label[64];
    span.args[0] = step;
    span.args[1] = tokens;
    FM_TRY(fm_app_sampler_next(job->sampler, step, &ids));
    FM_TRY(fm_model_trainer_step(job->trainer, ids, (int)o->batch, (int)o->length, &result));
    if (job->rebalance)
        FM_TRY(rebalance(job));
    job->losses[step] = (float)result.loss;
    snprintf(label, sizeof label, "train: step %lld, loss %.3f", (long long)step + 1, result.loss);
    fm_base_progress_label(progress, label);
    fm_base_progress_update(progress, (uint64_t)((step + 1 - job->first) * tokens));
    return FM_OK;
}

static fm_status train(struct fm_train_job *job, uint64_t stage_begin)
{
    const struct fm_train_options *o = job->options;
    fm_progress progress;
    fm_status status = FM_OK;
    job->first = fm_model_trainer_steps(job->trainer);
    fm_base_progress_begin(&progress, "train", "tokens",
                           (uint64_t)((o->steps - job->first) * o->batch * o->length));
    uint64_t begin = fm_base_clock_ns();
    while (status == FM_OK && fm_model_trainer_steps(job->trainer) < o->steps) {
        if (!job->trace && o->steps - fm_model_trainer_steps(job->trainer) <= o->trace_steps)
            status = fm_app_train_record(job);
        if (status == FM_OK)
            status = train_step(job, &progress);
        if (status < 0)
            break;
        if (job->first_step_ns == 0)
            job->first_step_ns = fm_base_clock_ns() - stage_begin;
        int64_t done = fm_model_trainer_steps(job->trainer);
        int interrupted = fm_base_interrupted();
        if (done % o->save_every == 0 || done == o->steps || interrupted)
            status = fm_app_train_save(job);
        if (status == FM_OK && job->trace)
            status = fm_trace_writer_drain(job->trace);
        if (status == FM_OK && interrupted) {
            status = fm_app_checkpoint_flush(job->checkpointer);
            if (status == FM_OK)
                status = fm_base_interrupt_check();
        }
    }
    job->seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    fm_base_progress_finish(&progress, status);
    if (status == FM_OK)
        status = fm_app_checkpoint_flush(job->checkpointer);
    fm_status traced = fm_app_train_recorded(job);
    return status < 0 ? status : traced;
}

static fm_status copy_tokenizer(const struct fm_train_job *job)
{
    char path[FM_TRAIN_PATH_BYTES];
    char *bytes;
    size_t size;
    snprintf(path, sizeof path, "%s/%s/tokenizer.json", job->run->run_folder, job->options->data);
    FM_TRY(fm_base_file_read(path, (size_t)1 << 30, &bytes, &size));
    fm_app_train_path(job, "model/tokenizer.json", path);
    fm_status status = fm_base_file_save(path, bytes, size);
    fm_base_mem_free(bytes);
    return status;
}

static fm_status finish(struct fm_train_job *job)
{
    const struct fm_train_options *o = job->options;
    char path[FM_TRAIN_PATH_BYTES], losses[FM_TRAIN_PATH_BYTES];
    double held_out = 0;
    const fm_model_config *config = fm_model_config_of(fm_model_trainer_model(job->trainer));
    int64_t active, parameters = fm_model_config_parameters(config, &active);
    int64_t tail = o->steps < 50 ? o->steps : 50;
    FM_TRY(fm_app_train_judge(job, &held_out));
    fm_app_train_path(job, "model", path);
    FM_TRY(fm_model_trainer_export(job->trainer, FM_DTYPE_BF16, path));
    FM_TRY(copy_tokenizer(job));
    fm_app_train_path(job, "losses.f32", losses);
    FM_TRY(fm_base_file_save(losses, job->losses, (size_t)o->steps * sizeof *job->losses));
    FM_TRY(fm_app_train_chart(job->run->folder, job->losses, o->steps, held_out));
    double mean = 0;
    for (int64_t i = o->steps - tail; i < o->steps; i++)
        mean += (double)job->losses[i] / (double)tail;
    fm_app_stage_number(job->run, "parameters", (double)parameters, NULL);
    fm_app_stage_number(job->run, "parameters that a token meets", (double)active, NULL);
    fm_app_stage_number(job->run, "tokens trained on", (double)(o->steps * o->batch * o->length), NULL);
    if (o->steps > job->first) {
        fm_app_stage_number(job->run, "training",
                            (double)((o->steps - job->first) * o->batch * o->length) / job->seconds,
                            "tokens/s");
        fm_app_stage_number(job->run, "start to first step", (double)job->first_step_ns * 1e-9, "s");
    }
    if (job->first > 0)
        fm_app_stage_number(job->run, "taken up at step", (double)job->first, NULL);
    fm_app_stage_number(job->run, "loss, last 50 steps", mean, "nats/token");
    fm_app_stage_number(job->run, "loss, held out", held_out, "nats/token");
    fm_dtype dtype = fm_app_generation_dtype(o->dtype);
    if (dtype != FM_DTYPE_F32)
        fm_app_stage_number(job->run, dtype == FM_DTYPE_BF16 ? "products in BF16" : "products in FP8",
                            (double)fm_model_trainer_products(job->trainer, dtype), NULL);
    fm_app_stage_text(job->run, "model", "%s", path);
    return fm_app_train_figures(job);
}

static fm_status run_job(struct fm_train_job *job)
{
    const struct fm_train_options *o = job->options;
    uint64_t begin = fm_base_clock_ns();
    char trace[FM_TRAIN_PATH_BYTES];
    fm_app_train_path(job, "trace.json", trace); // an earlier one tells of other steps
    FM_TRY(fm_base_dir_remove(trace));
    FM_TRY(fm_app_stage_fs(job->run, &job->fs));
    FM_TRY(open_data(job));
    job->losses = fm_base_mem_zalloc((size_t)o->steps, sizeof *job->losses);
    if (!job->losses)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %lld losses", (long long)o->steps);
    FM_TRY(make_trainer(job));
    FM_TRY(fm_app_train_resume(job));
    FM_TRY(train(job, begin));
    return finish(job);
}

static fm_status run_train(struct fm_stage_run *run, const void *given)
{
    const struct fm_train_options *o = given;
    struct fm_train_job job = {.run = run, .options = o, .width = o->length + 1 + o->predict};
    fm_status status = run_job(&job);
    fm_app_sampler_close(job.sampler);
    fm_app_checkpoint_close(job.checkpointer);
    fm_model_rebalance_close(job.rebalance);
    fm_model_trainer_close(job.trainer);
    fm_base_mem_free(job.losses);
    fm_base_mem_free(job.held_bytes);
    if (job.store != job.fs)
        fm_fs_close(job.store);
    fm_fs_close(job.fs);
    return status;
}

const struct fm_stage fm_stage_train = {
    .name = "train",
    .summary = "a small mixture-of-experts model, trained from random weights",
    .schema = train_schema,
    .options_size = sizeof(struct fm_train_options),
    .run = run_train,
};
