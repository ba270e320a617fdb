/*
 * A process that is one rank, started by the one that speaks for all: the first rank hears what is wanted and tells the
 * others, all do it, and the first answers.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fathom/span.h"
#include "model_front.h"

enum { NOTES_MAX = 64, SHARD_MAGIC = 0x314b5246 }; // "FRK1"

struct worker {
    struct fm_trainer *trainer;
    int socket; // of the first rank; else -1
    struct fm_model_front_request request;
    char *payload;
    struct fm_model_front_reply reply;
    void *data;                             // that the reply carries
    const fm_model_rank_recorder *recorder; // or NULL
    int records;
};

static int is_first(const struct worker *worker)
{
    return worker->trainer->rank->number == 0;
}

// Bytes of the first rank, on all ranks.
static fm_status broadcast(struct worker *worker, void *bytes, size_t count)
{
    size_t part = fm_model_party_report_max(&worker->trainer->model.config);
    size_t ranks = (size_t)worker->trainer->rank->layout.ranks;
    char *all = fm_base_mem_alloc(part * ranks);
    fm_status status = all ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory to hear the first rank");
    for (size_t at = 0; at < count && status == FM_OK; at += part) {
        size_t size = count - at < part ? count - at : part;
        status = fm_model_party_report(worker->trainer, (char *)bytes + at, size, all);
        if (status == FM_OK)
            memcpy((char *)bytes + at, all, size);
    }
    fm_base_mem_free(all);
    return status;
}

// The next request. For it ranks wait as long as it takes: the process that they are for may have other things to do.
static fm_status hear(struct worker *worker)
{
    fm_ep_group *whole = worker->trainer->rank->parties[FM_MODEL_WHOLE].group;
    if (is_first(worker) &&
        fm_model_front_receive(worker->socket, &worker->request, sizeof worker->request) < 0)
        worker->request = (struct fm_model_front_request){.op = FM_MODEL_FRONT_QUIT}; // killed
    if (whole)
        fm_ep_group_set_timeout(whole, -1);
    fm_status status = broadcast(worker, &worker->request, sizeof worker->request);
    if (whole)
        fm_ep_group_set_timeout(whole, worker->trainer->training.timeout_ms);
    FM_TRY(status);
    worker->payload = fm_base_mem_zalloc((size_t)worker->request.bytes + 1, 1);
    if (!worker->payload)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a request of %zu bytes",
                                 (size_t)worker->request.bytes);
    if (is_first(worker))
        FM_TRY(fm_model_front_receive(worker->socket, worker->payload, (size_t)worker->request.bytes));
    return broadcast(worker, worker->payload, (size_t)worker->request.bytes);
}

static fm_status answer_loads(struct worker *worker)
{
    const fm_model_config *c = &worker->trainer->model.config;
    size_t bytes = (size_t)(c->layers + c->predict_layers) * (size_t)c->experts * sizeof(int64_t);
    worker->data = fm_base_mem_alloc(bytes + 1);
    if (!worker->data)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to answer");
    memcpy(worker->data, worker->trainer->loads, bytes);
    worker->reply.bytes = bytes;
    return FM_OK;
}

static fm_status answer_map(struct worker *worker)
{
    const struct fm_model_rank *rank = worker->trainer->rank;
    size_t bytes = rank->map_count * sizeof *rank->expert_in;
    worker->data = fm_base_mem_alloc(bytes + 1);
    if (!worker->data)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to answer");
    memcpy(worker->data, rank->expert_in, bytes);
    worker->reply.bytes = bytes;
    return FM_OK;
}

// Strings, one after the other, from `text` on: NULL-terminated notes.
static void split_notes(const char *text, const char *end, const char *notes[static NOTES_MAX + 1])
{
    int count = 0;
    for (; text < end && count < NOTES_MAX; text += strlen(text) + 1)
        notes[count++] = text;
    notes[count] = NULL;
}

/** What every rank packed, one after the other, behind their sizes. */
struct bundle {
    uint32_t magic, ranks;
};

// Gathers what all ranks have packed on the first.
static fm_status bundle_up(struct worker *worker, const void *own, size_t length)
{
    size_t part = fm_model_party_report_max(&worker->trainer->model.config), total = 0, most = 0;
    size_t ranks = (size_t)worker->trainer->rank->layout.ranks;
    uint64_t mine = length, *sizes = fm_base_mem_zalloc(ranks, sizeof *sizes);
    char *all = fm_base_mem_alloc(part * ranks), *padded = fm_base_mem_zalloc(part, 1);
    fm_status status = sizes && all && padded
                           ? fm_model_party_report(worker->trainer, &mine, sizeof mine, sizes)
                           : fm_base_error_set(FM_ERR_NOMEM, "no memory to pack");
    for (size_t r = 0; status == FM_OK && r < ranks; r++) {
        total += sizes[r];
        most = sizes[r] > most ? sizes[r] : most;
    }
    size_t head = sizeof(struct bundle) + ranks * sizeof *sizes;
    char *out = status == FM_OK ? fm_base_mem_alloc(head + total) : NULL;
    if (status == FM_OK && !out)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to pack %zu bytes", total);
    for (size_t at = 0; at < most && status == FM_OK; at += part) {
        size_t size = at < length ? (length - at < part ? length - at : part) : 0, begin = head;
        memcpy(padded, (const char *)own + (size ? at : 0), size);
        status = fm_model_party_report(worker->trainer, padded, part, all);
        for (size_t r = 0; status == FM_OK && r < ranks; begin += sizes[r++]) {
            size_t left = at < sizes[r] ? sizes[r] - at : 0;
            memcpy(out + begin + (left ? at : 0), all + r * part, left < part ? left : part);
        }
    }
    if (status == FM_OK) {
        struct bundle bundle = {SHARD_MAGIC, (uint32_t)ranks};
        memcpy(out, &bundle, sizeof bundle);
        memcpy(out + sizeof bundle, sizes, ranks * sizeof *sizes);
        worker->data = out;
        worker->reply.bytes = head + total;
    } else {
        fm_base_mem_free(out);
    }
    fm_base_mem_free(sizes);
    fm_base_mem_free(all);
    fm_base_mem_free(padded);
    return status;
}

static fm_status pack(struct worker *worker)
{
    const char *notes[NOTES_MAX + 1];
    void *own = NULL;
    size_t length = 0;
    split_notes(worker->payload, worker->payload + worker->request.bytes, notes);
    fm_status status = fm_model_trainer_pack(worker->trainer, notes, &own, &length);
    FM_TRY(fm_model_rank_agree(worker->trainer, status));
    status = bundle_up(worker, own, length);
    fm_base_mem_free(own);
    return status;
}

static fm_status unpack(struct worker *worker)
{
    const char *name = worker->payload, *from = worker->payload + worker->request.b;
    size_t bytes = (size_t)worker->request.bytes - (size_t)worker->request.b;
    uint32_t number = (uint32_t)worker->trainer->rank->number;
    struct bundle bundle = {0};
    uint64_t size = 0, at = sizeof bundle + (uint64_t)worker->trainer->rank->layout.ranks * sizeof size;
    if (bytes >= sizeof bundle)
        memcpy(&bundle, from, sizeof bundle);
    if (bundle.magic != SHARD_MAGIC) // of one trainer, or of ranks that are threads: whole
        return fm_model_trainer_unpack(worker->trainer, from, bytes, name);
    if (bundle.ranks != (uint32_t)worker->trainer->rank->layout.ranks || bytes < at)
        return fm_base_error_set(FM_ERR_FORMAT, "%s was packed by %u ranks; expected %d", name, bundle.ranks,
                                 worker->trainer->rank->layout.ranks);
    for (uint32_t r = 0; r <= number; r++) {
        at += size;
        memcpy(&size, from + sizeof bundle + r * sizeof size, sizeof size);
        if (at > bytes || size > bytes - at)
            return fm_base_error_set(FM_ERR_FORMAT, "%s has %zu bytes, which is too few for rank %u", name,
                                     bytes, r);
    }
    return fm_model_trainer_unpack(worker->trainer, from + at, (size_t)size, name);
}

// The sum of a number over all ranks.
static fm_status answer_sum(struct worker *worker, int64_t mine)
{
    int64_t all[FM_EP_RANKS_MAX];
    FM_TRY(fm_model_party_report(worker->trainer, &mine, sizeof mine, all));
    for (int r = 0; r < worker->trainer->rank->layout.ranks; r++)
        worker->reply.number += all[r];
    return FM_OK;
}

static fm_status place(struct worker *worker)
{
    const int32_t *expert_in = (const int32_t *)(const void *)worker->payload;
    int64_t moved = 0;
    FM_TRY(fm_model_rank_move(worker->trainer, expert_in, &moved));
    return answer_sum(worker, moved);
}

static fm_status record(struct worker *worker)
{
    const fm_model_rank_recorder *recorder = worker->recorder;
    char path[4096];
    if (!recorder)
        return FM_OK;
    if (worker->records) {
        worker->records = 0;
        FM_TRY(recorder->end(recorder->context));
    }
    if (worker->request.bytes == 0)
        return FM_OK;
    snprintf(path, sizeof path, "%s%d", worker->payload, worker->trainer->rank->number);
    FM_TRY(recorder->begin(recorder->context, path));
    worker->records = 1;
    return FM_OK;
}

static fm_status act(struct worker *worker)
{
    struct fm_trainer *trainer = worker->trainer;
    const struct fm_model_front_request *request = &worker->request;
    const char *text = worker->payload, *notes[NOTES_MAX + 1];
    switch (request->op) {
    case FM_MODEL_FRONT_STEP:
        FM_TRY(fm_model_trainer_step(trainer, (const int32_t *)(const void *)text, request->a, request->b,
                                     &worker->reply.result));
        return answer_loads(worker);
    case FM_MODEL_FRONT_EVALUATE:
        FM_TRY(fm_model_trainer_evaluate(trainer, (const int32_t *)(const void *)text, request->a, request->b,
                                         &worker->reply.loss));
        return answer_loads(worker);
    case FM_MODEL_FRONT_EXPORT:
        return fm_model_trainer_export(trainer, (fm_dtype)request->a, text);
    case FM_MODEL_FRONT_SAVE:
        split_notes(text + strlen(text) + 1, text + request->bytes, notes);
        return fm_model_trainer_save(trainer, text, notes);
    case FM_MODEL_FRONT_LOAD:
        FM_TRY(fm_model_trainer_load(trainer, text));
        return answer_map(worker);
    case FM_MODEL_FRONT_PACK:
        return pack(worker);
    case FM_MODEL_FRONT_UNPACK:
        FM_TRY(unpack(worker));
        return answer_map(worker);
    case FM_MODEL_FRONT_PLACE:
        FM_TRY(place(worker));
        return answer_map(worker);
    case FM_MODEL_FRONT_PRODUCTS:
        return answer_sum(worker, fm_model_trainer_products(trainer, (fm_dtype)request->a));
    case FM_MODEL_FRONT_RECORD:
        return fm_model_rank_agree(trainer, record(worker));
    default:
        return fm_base_error_set(FM_ERR_ARG, "request %u is none that ranks know", request->op);
    }
}

static fm_status reply(struct worker *worker, fm_status status)
{
    struct fm_model_front_reply *out = &worker->reply;
    out->status = status;
    if (status < 0) {
        out->bytes = 0;
        snprintf(out->message, sizeof out->message, "%s", fm_base_error_message());
    }
    out->steps = fm_model_trainer_steps(worker->trainer);
    FM_TRY(fm_model_front_send(worker->socket, out, sizeof *out));
    return fm_model_front_send(worker->socket, worker->data, (size_t)out->bytes);
}

static fm_status serve(struct worker *worker)
{
    fm_status status = FM_OK;
    for (; status == FM_OK; fm_base_mem_free(worker->data), fm_base_mem_free(worker->payload)) {
        worker->data = worker->payload = NULL;
        worker->reply = (struct fm_model_front_reply){0};
        status = hear(worker);
        if (status == FM_OK && worker->request.op == FM_MODEL_FRONT_QUIT) {
            fm_base_mem_free(worker->payload);
            return FM_OK;
        }
        if (status < 0)
            continue;
        fm_status done = act(worker);
        if (worker->records && worker->recorder->drain(worker->recorder->context) < 0)
            worker->records = 0; // what is lost is a drawing
        if (is_first(worker))
            status = reply(worker, done);
    }
    return status;
}

static fm_status read_start(const char *digits, struct fm_model_front_start *out_start)
{
    unsigned char *to = (unsigned char *)out_start;
    if (strlen(digits) != 2 * sizeof *out_start)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%zu digits; expected the %zu that a training's process gives its ranks",
                                 strlen(digits), 2 * sizeof *out_start);
    for (size_t i = 0; i < sizeof *out_start; i++) {
        char two[3] = {digits[2 * i], digits[2 * i + 1], 0};
        if (!isxdigit((unsigned char)two[0]) || !isxdigit((unsigned char)two[1]))
            return fm_base_error_set(FM_ERR_ARG, "\"%s\" among the digits; expected hexadecimal ones", two);
        to[i] = (unsigned char)strtoul(two, NULL, 16);
    }
    return FM_OK;
}

static fm_status call(const char *address, int *out_socket)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(address) >= sizeof to.sun_path)
        return fm_base_error_set(FM_ERR_ARG, "%s is too long for a socket's path", address);
    strcpy(to.sun_path, address);
    int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (socket_fd < 0 || connect(socket_fd, (struct sockaddr *)&to, sizeof to) != 0) {
        if (socket_fd >= 0)
            close(socket_fd);
        return fm_base_error_set(FM_ERR_IO, "%s: nobody hears there", address);
    }
    *out_socket = socket_fd;
    return FM_OK;
}

fm_status fm_model_rank_run(const char *address, const char *start, const fm_model_rank_recorder *recorder)
{
    struct fm_model_front_start given;
    struct worker worker = {.socket = -1, .recorder = recorder};
    FM_TRY(read_start(start, &given));
    FM_TRY(fm_model_trainer_open(&given.config, &given.training, &worker.trainer));
    fm_status status = FM_OK;
    fm_base_span_set_rank(worker.trainer->rank->number);
    fm_base_span_set_thread(-1, "rank");
    if (is_first(&worker))
        status = call(address, &worker.socket);
    status = fm_model_rank_agree(worker.trainer, status);
    if (is_first(&worker) && status == FM_OK)
        status = reply(&worker, FM_OK);
    if (status == FM_OK)
        status = serve(&worker);
    if (worker.socket >= 0)
        close(worker.socket);
    fm_model_trainer_close(worker.trainer);
    return status;
}
