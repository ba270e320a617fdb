// Training: a small model of the V3 architecture on the data's tokens. It goes on from its last saved state.
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/cpu.h"
#include "fathom/crc.h"
#include "fathom/file.h"
#include "fathom/fs_checkpoint.h"
#include "fathom/interrupt.h"
#include "fathom/log.h"
#include "fathom/mem.h"
#include "fathom/model_train.h"
#include "fathom/progress.h"
#include "fathom/span.h"
#include "fathom/tokenizer.h"
#include "fathom/trace_report.h"
#include "fathom/trace_write.h"
#include "generation.h"
#include "pipeline_figures.h"
#include "stage.h"
#include "stage_checkpoint.h"
#include "stage_files.h"
#include "train_chart.h"

struct train_options {
    const char *data, *dtype, *schedule, *transport, *launcher, *store;
    int64_t steps, batch, length, seed, save_every;
    int64_t trace_steps, hidden, layers, heads, experts, topk, expert_intermediate, predict;
    int64_t pipe_ranks, expert_ranks, rebalance_every;
    double rate;
};

#define FIELD(name) offsetof(struct train_options, name)
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

enum { CHECKPOINT_FOLDER_BYTES = 256 };

/** What the stage works with. */
struct job {
    struct fm_stage_run *run;
    const struct train_options *options;
    fm_fs *fs, *store; // the run's; the one that takes checkpoints, which may be the same
    fm_sampler *sampler;
    fm_checkpointer *checkpointer;
    char checkpoints[CHECKPOINT_FOLDER_BYTES]; // in fs
    char *held_bytes;
    const int32_t *held_ids;
    int64_t held_count;
    fm_trainer *trainer;
    fm_rebalance *rebalance; // NULL: experts stay
    float *losses;           // of the steps done, and of those that a state before them had
    int vocab;
    fm_trace_writer *trace; // NULL: nothing is recorded now
    int64_t first;          // the step that this run began at
    double seconds;         // of its steps
    uint64_t pack_ns;       // that training stood still to copy its state
    uint64_t first_step_ns; // from the beginning of the stage to the end of its first step
};

static int64_t width_of(const struct train_options *o)
{
    return o->length + 1 + o->predict;
}

static fm_status open_data(struct job *job)
{
    const struct train_options *o = job->options;
    char path[4096];
    size_t bytes;
    fm_tokenizer *tokenizer;
    const fm_sampling sampling = {o->data, "train", (int)o->batch, (int)width_of(o), (uint64_t)o->seed};
    FM_TRY(fm_app_sampler_open(job->fs, &sampling, &job->sampler));
    FM_TRY(fm_app_shards_read(job->fs, o->data, "held_out", SIZE_MAX - 1, &job->held_bytes, &bytes));
    job->held_ids = (const int32_t *)(const void *)job->held_bytes;
    job->held_count = (int64_t)(bytes / sizeof(int32_t));
    if (job->held_count < width_of(o))
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%lld tokens are held out; expected at least %lld for one sequence: use a "
                                 "larger corpus or a smaller length",
                                 (long long)job->held_count, (long long)width_of(o));
    snprintf(path, sizeof path, "%s/%s/tokenizer.json", job->run->run_folder, o->data);
    FM_TRY(fm_model_tokenizer_open(path, &tokenizer));
    job->vocab = fm_model_tokenizer_vocab(tokenizer);
    fm_model_tokenizer_close(tokenizer);
    return FM_OK;
}

static fm_model_config shape_of(const struct train_options *o, int vocab)
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

static void path_in(const struct job *job, const char *name, char path[static 4096])
{
    snprintf(path, 4096, "%s/%s", job->run->folder, name);
}

enum { LAUNCHER_WORDS = 32, LAUNCHER_BYTES = 1024 };

/** What starts the ranks, in words. */
struct rank_command {
    const char *words[LAUNCHER_WORDS + 4];
    char launcher[LAUNCHER_BYTES], count[16], program[4096];
};

static fm_status name_command(const struct train_options *o, struct rank_command *out_command)
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

static fm_status make_trainer(struct job *job)
{
    const struct train_options *o = job->options;
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

static fm_status take_losses(struct job *job, uint64_t step)
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

static fm_status take_loads(struct job *job, uint64_t step)
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

static fm_status take_version(struct job *job, uint64_t step)
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
static fm_status resume(struct job *job)
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
static fm_status open_store(struct job *job, char *out_prefix, size_t size)
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

static fm_status open_checkpoints(struct job *job)
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

// Copies the state and hands it to the thread that writes it.
static fm_status save_state(struct job *job)
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

// Ranks that are processes write what they did to files that begin so.
#define RANK_TRACES "trace.rank"

// Records what every thread does from here on.
static fm_status begin_trace(struct job *job)
{
    char path[4096];
    path_in(job, "trace.json", path);
    FM_TRY(fm_trace_writer_open(path, &job->trace));
    FM_TRY(fm_base_span_enable(0));
    path_in(job, RANK_TRACES, path);
    return fm_model_trainer_record(job->trainer, path);
}

// The traces of all ranks and of this process become one, by one clock.
static fm_status join_traces(const struct job *job)
{
    const fm_trace_read_options reading = {.size = sizeof reading, .keep_args = 1};
    int count = 1 + (int)(job->options->pipe_ranks * job->options->expert_ranks);
    char(*names)[4096] = fm_base_mem_zalloc((size_t)count, sizeof *names);
    const char **paths = fm_base_mem_zalloc((size_t)count, sizeof *paths);
    fm_trace *trace = NULL;
    fm_trace_rules *rules = NULL;
    fm_status status =
        names && paths ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory to join %d traces", count);
    for (int i = 0; i < count && status == FM_OK; i++) {
        path_in(job, i ? RANK_TRACES : "trace.json", names[i]);
        if (i > 0)
            snprintf(names[i] + strlen(names[i]), 16, "%d", i - 1);
        paths[i] = names[i];
    }
    if (status == FM_OK)
        status = fm_trace_data_read(paths, (size_t)count, &reading, &trace);
    if (status == FM_OK)
        status = fm_trace_rules_load(NULL, &rules);
    if (status == FM_OK)
        status = fm_trace_clocks_align(trace, rules);
    if (status == FM_OK)
        status = fm_trace_data_save(trace, names[0]);
    for (int i = 1; i < count && names; i++)
        if (names[i][0])
            (void)!fm_base_dir_remove(names[i]); // whatever is left is removed with the stage's folder
    fm_trace_rules_free(rules);
    fm_trace_data_free(trace);
    fm_base_mem_free(paths);
    fm_base_mem_free(names);
    return status;
}

static fm_status end_trace(struct job *job)
{
    fm_trace_writer *trace = job->trace;
    if (!trace)
        return FM_OK;
    fm_base_span_disable();
    job->trace = NULL;
    fm_status recorded = fm_model_trainer_record(job->trainer, NULL), closed = fm_trace_writer_close(trace);
    FM_TRY(closed);
    if (strcmp(job->options->transport, "processes") != 0)
        return recorded;
    // What ranks did is a drawing in the report; a run is not lost for it.
    if (recorded == FM_OK)
        recorded = join_traces(job);
    if (recorded < 0)
        fm_log_warn("train", "the timeline lacks what ranks did: %s", fm_error_message());
    return FM_OK;
}

// Between two steps; a span tells where experts moved.
static fm_status rebalance(struct job *job)
{
    FM_SPAN_ARGS(span, "rebalance experts", "train", "step", "moved");
    span.args[0] = fm_model_trainer_steps(job->trainer);
    return fm_model_rebalance_step(job->rebalance, job->trainer, &span.args[1]);
}

static fm_status train_step(struct job *job, fm_progress *progress)
{
    FM_SPAN_ARGS(span, "step", "train", "step", "tokens");
    const struct train_options *o = job->options;
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

static fm_status train(struct job *job, uint64_t stage_begin)
{
    const struct train_options *o = job->options;
    fm_progress progress;
    fm_status status = FM_OK;
    job->first = fm_model_trainer_steps(job->trainer);
    fm_base_progress_begin(&progress, "train", "tokens",
                           (uint64_t)((o->steps - job->first) * o->batch * o->length));
    uint64_t begin = fm_base_clock_ns();
    while (status == FM_OK && fm_model_trainer_steps(job->trainer) < o->steps) {
        if (!job->trace && o->steps - fm_model_trainer_steps(job->trainer) <= o->trace_steps)
            status = begin_trace(job);
        if (status == FM_OK)
            status = train_step(job, &progress);
        if (status < 0)
            break;
        if (job->first_step_ns == 0)
            job->first_step_ns = fm_base_clock_ns() - stage_begin;
        int64_t done = fm_model_trainer_steps(job->trainer);
        int interrupted = fm_base_interrupted();
        if (done % o->save_every == 0 || done == o->steps || interrupted)
            status = save_state(job);
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
    fm_status traced = end_trace(job);
    return status < 0 ? status : traced;
}

enum { HELD_OUT_SEQUENCES = 160, HALVES = 2 };

/** What each expert of each layer of experts got of the held-out sequences: [HALVES][layers][experts], the even and the odd
 * sequences apart, so that a placement planned from the ones is judged on the others. */
struct loads {
    const fm_model_config *config;
    int64_t *tokens;
};

static int64_t *loads_of(const struct loads *loads, int half, int layer)
{
    const fm_model_config *c = loads->config;
    return loads->tokens + ((int64_t)half * c->layers + layer) * c->experts;
}

static void add_loads(const struct job *job, int half, const struct loads *loads)
{
    for (int layer = loads->config->dense_layers; layer < loads->config->layers; layer++) {
        const int64_t *more = fm_model_trainer_loads(job->trainer, layer);
        for (int e = 0; e < loads->config->experts; e++)
            loads_of(loads, half, layer)[e] += more[e];
    }
}

// The mean over sequences that lie evenly in the held-out tokens.
static fm_status held_out_loss(struct job *job, const struct loads *loads, double *out_loss)
{
    FM_SPAN(span, "held-out loss", "train");
    const struct train_options *o = job->options;
    int64_t width = width_of(o);
    double sum = 0;
    int count =
        job->held_count / width < HELD_OUT_SEQUENCES ? (int)(job->held_count / width) : HELD_OUT_SEQUENCES;
    for (int i = 0; i < count; i++) {
        double loss;
        int64_t at = (job->held_count - width) * i / (count > 1 ? count - 1 : 1);
        FM_TRY(fm_model_trainer_evaluate(job->trainer, job->held_ids + at, 1, (int)o->length, &loss));
        add_loads(job, i % HALVES, loads);
        sum += loss;
    }
    *out_loss = sum / count;
    return FM_OK;
}

// For the stage that balances: {"plan": [[tokens of each expert], ... for each layer], "judge": ...}.
static fm_status save_loads(const struct job *job, const struct loads *loads)
{
    static const char *const names[HALVES] = {"plan", "judge"};
    const fm_model_config *config = loads->config;
    char path[4096];
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    for (int half = 0; half < HALVES; half++) {
        fm_base_json_begin(&json, names[half], '[');
        for (int layer = config->dense_layers; layer < config->layers; layer++) {
            fm_base_json_begin(&json, NULL, '[');
            for (int e = 0; e < config->experts; e++)
                fm_base_json_int(&json, NULL, loads_of(loads, half, layer)[e]);
            fm_base_json_end(&json);
        }
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    path_in(job, "loads.json", path);
    fm_status status = json.status == FM_OK ? fm_base_file_save(path, json.text, json.length) : FM_OK;
    fm_status finished = fm_base_json_finish(&json, NULL);
    return finished < 0 ? finished : status;
}

static fm_status judge(struct job *job, double *out_loss)
{
    const fm_model_config *config = fm_model_config_of(fm_model_trainer_model(job->trainer));
    size_t count = (size_t)HALVES * (size_t)config->layers * (size_t)config->experts;
    struct loads loads = {config, fm_base_mem_zalloc(count, sizeof *loads.tokens)};
    if (!loads.tokens)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu loads", count);
    fm_status status = held_out_loss(job, &loads, out_loss);
    if (status == FM_OK)
        status = save_loads(job, &loads);
    fm_base_mem_free(loads.tokens);
    return status;
}

static fm_status copy_tokenizer(const struct job *job)
{
    char path[4096];
    char *bytes;
    size_t size;
    snprintf(path, sizeof path, "%s/%s/tokenizer.json", job->run->run_folder, job->options->data);
    FM_TRY(fm_base_file_read(path, (size_t)1 << 30, &bytes, &size));
    path_in(job, "model/tokenizer.json", path);
    fm_status status = fm_base_file_save(path, bytes, size);
    fm_base_mem_free(bytes);
    return status;
}

// What moved between fs and training, and how much of it while training computed.
static void report_storage(struct job *job)
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
static void report_experts(const struct job *job)
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
static fm_status report_pipeline(struct job *job)
{
    const struct train_options *o = job->options;
    char path[4096];
    fm_pipe_schedule schedule;
    fm_pipeline_figures figures;
    if (o->pipe_ranks < 2)
        return FM_OK;
    path_in(job, "trace.json", path);
    FM_TRY(fm_pipe_schedule_parse(o->schedule, &schedule));
    fm_status status =
        fm_app_pipeline_measure(path, schedule, (int)o->pipe_ranks, (int)o->expert_ranks, &figures);
    if (status == FM_ERR_NOT_FOUND) // nothing was recorded
        return FM_OK;
    FM_TRY(status);
    path_in(job, "schedule.svg", path);
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

static fm_status finish(struct job *job)
{
    const struct train_options *o = job->options;
    char path[4096], losses[4096];
    double held_out = 0;
    const fm_model_config *config = fm_model_config_of(fm_model_trainer_model(job->trainer));
    int64_t active, parameters = fm_model_config_parameters(config, &active);
    int64_t tail = o->steps < 50 ? o->steps : 50;
    FM_TRY(judge(job, &held_out));
    path_in(job, "model", path);
    FM_TRY(fm_model_trainer_export(job->trainer, FM_DTYPE_BF16, path));
    FM_TRY(copy_tokenizer(job));
    path_in(job, "losses.f32", losses);
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
    report_storage(job);
    report_experts(job);
    return report_pipeline(job);
}

static fm_status run_job(struct job *job)
{
    const struct train_options *o = job->options;
    uint64_t begin = fm_base_clock_ns();
    char trace[4096];
    path_in(job, "trace.json", trace); // an earlier one tells of other steps
    FM_TRY(fm_base_dir_remove(trace));
    FM_TRY(fm_app_stage_fs(job->run, &job->fs));
    FM_TRY(open_data(job));
    job->losses = fm_base_mem_zalloc((size_t)o->steps, sizeof *job->losses);
    if (!job->losses)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %lld losses", (long long)o->steps);
    FM_TRY(make_trainer(job));
    FM_TRY(open_checkpoints(job));
    FM_TRY(train(job, begin));
    return finish(job);
}

static fm_status run_train(struct fm_stage_run *run, const void *given)
{
    struct job job = {.run = run, .options = given};
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
    .options_size = sizeof(struct train_options),
    .run = run_train,
};
