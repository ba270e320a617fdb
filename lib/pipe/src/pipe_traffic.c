// The executor's messages: posted at boundaries, moved whenever the rank stands at one, waited for when an op needs them.
//
// The plan (and the proof that it cannot deadlock) has each rank stop at a boundary until all that is posted there has
// passed. The executor stops for less: until the next op's own inputs are there, and its output slots are free of earlier
// sends. Waiting for less, later, cannot close a circle that was open.
#include <inttypes.h>
#include <stdio.h>

#include "fathom/clock.h"
#include "fathom/span.h"
#include "pipe_execute_internal.h"

// What DeepEP's host side allows a peer: far above any op, far below the patience of a job.
static const int64_t timeout_ms_default = 100000;

void fm_pipe_streams_fill(fm_pipe_executor *executor)
{
    int ranks = executor->program->ranks;
    int rank = executor->options.rank;
    const struct fm_pipe_post **next = executor->posts;
    for (int way = 0; way < FM_PIPE_WAYS; way++) {
        const struct fm_pipe_post *posts =
            way == FM_PIPE_SENDS ? executor->options.plan->sends + executor->mine->first_send
                                 : executor->options.plan->receives + executor->mine->first_receive;
        size_t count = way == FM_PIPE_SENDS ? executor->mine->needs.sends : executor->mine->needs.receives;
        for (int side = 0; side < FM_PIPE_SIDES; side++) {
            struct fm_pipe_stream *stream = &executor->streams[way][side];
            stream->posts = next;
            for (size_t i = 0; i < count; i++)
                if ((posts[i].peer != (rank + 1) % ranks) == side)
                    *next++ = &posts[i];
            stream->count = (size_t)(next - stream->posts);
        }
    }
}

void fm_pipe_streams_rewind(fm_pipe_executor *executor)
{
    for (int way = 0; way < FM_PIPE_WAYS; way++)
        for (int side = 0; side < FM_PIPE_SIDES; side++)
            executor->streams[way][side].posted = executor->streams[way][side].done = 0;
}

static struct fm_pipe_slot *slot_of(fm_pipe_executor *executor, const struct fm_pipe_post *post)
{
    return &executor->slots[post->kind][post->slot];
}

static const char *kind_text(int kind)
{
    return kind == FM_PIPE_ACTIVATION ? "activation" : "gradient";
}

// "rank 1, op 7 (B lane 0 chunk 3)"
enum { PLACE_BYTES = 160 };
static const char *place_text(const fm_pipe_executor *executor, char text[PLACE_BYTES])
{
    char name[FM_PIPE_OP_TEXT_BYTES];
    int rank = executor->options.rank;
    if (executor->op < fm_pipe_count_of(executor->program, rank))
        snprintf(text, PLACE_BYTES, "rank %d, step %" PRIu64 ", op %zu (%s)", rank, executor->step,
                 executor->op, fm_pipe_op_text(&fm_pipe_ops_of(executor->program, rank)[executor->op], name));
    else
        snprintf(text, PLACE_BYTES, "rank %d, step %" PRIu64 ", after its last op", rank, executor->step);
    return text;
}

static fm_status link_failed(const fm_pipe_executor *executor, int way, const struct fm_pipe_post *post,
                             fm_status status)
{
    char place[PLACE_BYTES];
    return fm_base_error_prefix(status, "%s: %s rank %d, %s of stage %d chunk %d",
                                place_text(executor, place),
                                way == FM_PIPE_SENDS ? "send to" : "receive from", post->peer,
                                kind_text(post->kind), post->stage, post->chunk);
}

static fm_pipe_tag tag_of(const fm_pipe_executor *executor, const struct fm_pipe_post *post)
{
    const fm_pipe_message_type *type = &executor->types[post->kind][post->stage];
    return (fm_pipe_tag){.step = executor->step,
                         .bytes = type->bytes,
                         .type = type->type,
                         .program = executor->checksum,
                         .chunk = post->chunk,
                         .stage = post->stage,
                         .kind = post->kind,
                         .direction = post->direction};
}

static fm_status wrong_message(const fm_pipe_executor *executor, const struct fm_pipe_post *post,
                               const fm_pipe_tag *wanted, const fm_pipe_tag *came)
{
    char place[PLACE_BYTES];
    place_text(executor, place);
    if (came->program != wanted->program)
        return fm_base_error_set(FM_ERR_FORMAT, "%s: rank %d runs another program (checksum %08x, here %08x)",
                                 place, post->peer, came->program, wanted->program);
    return fm_base_error_set(
        FM_ERR_FORMAT,
        "%s: from rank %d came the %s of direction %d stage %d chunk %d step %" PRIu64 " (%" PRIu64
        " bytes of type %u); expected the %s of direction %d stage %d chunk %d step %" PRIu64 " (%" PRIu64
        " bytes of type %u)",
        place, post->peer, kind_text(came->kind), came->direction, came->stage, came->chunk, came->step,
        came->bytes, came->type, kind_text(wanted->kind), wanted->direction, wanted->stage, wanted->chunk,
        wanted->step, wanted->bytes, wanted->type);
}

static int same_tag(const fm_pipe_tag *a, const fm_pipe_tag *b)
{
    return a->step == b->step && a->bytes == b->bytes && a->type == b->type && a->program == b->program &&
           a->chunk == b->chunk && a->stage == b->stage && a->kind == b->kind && a->direction == b->direction;
}

// Arrows of a trace from send to receive: the same number at both ends, different for every message of a run. A step has
// fewer than 2^23 messages: activations and gradients of FM_PIPE_VISITS_MAX visits.
static int64_t flow_id(const fm_pipe_executor *executor, const struct fm_pipe_post *post)
{
    const fm_pipe_program *program = executor->program;
    int rank;
    int lane = fm_pipe_locate(program, post->direction, post->stage, &rank);
    uint64_t visit = fm_pipe_visit(program, rank, lane, post->chunk);
    return (int64_t)(executor->step << 23 | visit << 1 | post->kind);
}

// Ended only when the message has moved; a span that is not ended leaves no record.
static const fm_span_site send_site = {FM_SPAN_KIND_SPAN, "send", "pipe", {"peer", "bytes"}};
static const fm_span_site receive_site = {FM_SPAN_KIND_SPAN, "receive", "pipe", {"peer", "bytes"}};

static fm_status move_sends(fm_pipe_executor *executor, struct fm_pipe_stream *stream)
{
    const fm_pipe_link *link = &executor->options.link;
    while (stream->done < stream->posted) {
        const struct fm_pipe_post *post = stream->posts[stream->done];
        fm_pipe_tag tag = tag_of(executor, post);
        fm_span span = fm_span_begin(&send_site);
        span.args[0] = post->peer;
        span.args[1] = (int64_t)tag.bytes;
        fm_status status =
            link->send(link->context, post->peer, &tag, fm_pipe_buffer(executor, post->kind, post->slot));
        if (status == FM_ERR_BUSY)
            return FM_OK;
        if (status != FM_OK)
            return link_failed(executor, FM_PIPE_SENDS, post, status);
        FM_SPAN_FLOW_BEGIN("message", "pipe", flow_id(executor, post));
        fm_span_end(&span);
        slot_of(executor, post)->leaving = 0;
        stream->done++;
    }
    return FM_OK;
}

static fm_status move_receives(fm_pipe_executor *executor, struct fm_pipe_stream *stream)
{
    const fm_pipe_link *link = &executor->options.link;
    while (stream->done < stream->posted) {
        const struct fm_pipe_post *post = stream->posts[stream->done];
        if (slot_of(executor, post)->leaving)
            return FM_OK;
        fm_pipe_tag wanted = tag_of(executor, post);
        fm_pipe_tag came = {0};
        fm_span span = fm_span_begin(&receive_site);
        span.args[0] = post->peer;
        span.args[1] = (int64_t)wanted.bytes;
        fm_status status = link->receive(link->context, post->peer, wanted.bytes, &came,
                                         fm_pipe_buffer(executor, post->kind, post->slot));
        if (status == FM_ERR_BUSY)
            return FM_OK;
        if (status != FM_OK && status != FM_ERR_LIMIT)
            return link_failed(executor, FM_PIPE_RECEIVES, post, status);
        if (!same_tag(&came, &wanted))
            return wrong_message(executor, post, &wanted, &came);
        FM_SPAN_FLOW_END("message", "pipe", flow_id(executor, post));
        fm_span_end(&span);
        slot_of(executor, post)->filled = 1;
        stream->done++;
    }
    return FM_OK;
}

static fm_status move_all(fm_pipe_executor *executor)
{
    for (int side = 0; side < FM_PIPE_SIDES; side++) {
        FM_TRY(move_sends(executor, &executor->streams[FM_PIPE_SENDS][side]));
        FM_TRY(move_receives(executor, &executor->streams[FM_PIPE_RECEIVES][side]));
    }
    return FM_OK;
}

fm_status fm_pipe_boundary_post(fm_pipe_executor *executor)
{
    for (int side = 0; side < FM_PIPE_SIDES; side++) {
        struct fm_pipe_stream *sends = &executor->streams[FM_PIPE_SENDS][side];
        for (; sends->posted < sends->count && sends->posts[sends->posted]->boundary == executor->op;
             sends->posted++)
            slot_of(executor, sends->posts[sends->posted])->leaving = 1;
        struct fm_pipe_stream *receives = &executor->streams[FM_PIPE_RECEIVES][side];
        for (; receives->posted < receives->count &&
               receives->posts[receives->posted]->boundary == executor->op;
             receives->posted++)
            slot_of(executor, receives->posts[receives->posted])->filled = 0;
    }
    return move_all(executor);
}

static int is_leaving(const fm_pipe_executor *executor, int kind, int32_t slot)
{
    return slot >= 0 && executor->slots[kind][slot].leaving;
}

static int is_missing(const fm_pipe_executor *executor, int kind, int32_t slot)
{
    return slot >= 0 && !executor->slots[kind][slot].filled;
}

static int is_ready(const fm_pipe_executor *executor, const struct fm_pipe_slots *needed)
{
    return !is_missing(executor, FM_PIPE_ACTIVATION, needed->x) &&
           !is_missing(executor, FM_PIPE_GRADIENT, needed->dy) &&
           !is_leaving(executor, FM_PIPE_ACTIVATION, needed->y) &&
           !is_leaving(executor, FM_PIPE_GRADIENT, needed->dx);
}

static int is_drained(const fm_pipe_executor *executor)
{
    for (int way = 0; way < FM_PIPE_WAYS; way++)
        for (int side = 0; side < FM_PIPE_SIDES; side++)
            if (executor->streams[way][side].done < executor->streams[way][side].posted)
                return 0;
    return 1;
}

// The oldest message under way that `needed` (NULL: anything) waits for.
static const struct fm_pipe_post *blocking_post(const fm_pipe_executor *executor,
                                                const struct fm_pipe_slots *needed, int *out_way)
{
    const struct fm_pipe_post *any = NULL;
    for (int way = 0; way < FM_PIPE_WAYS; way++)
        for (int side = 0; side < FM_PIPE_SIDES; side++) {
            const struct fm_pipe_stream *stream = &executor->streams[way][side];
            for (size_t i = stream->done; i < stream->posted; i++) {
                const struct fm_pipe_post *post = stream->posts[i];
                int activation = post->kind == FM_PIPE_ACTIVATION;
                int32_t wanted = -1;
                if (needed && way == FM_PIPE_SENDS)
                    wanted = activation ? needed->y : needed->dx;
                else if (needed)
                    wanted = activation ? needed->x : needed->dy;
                if (!needed || post->slot == wanted) {
                    *out_way = way;
                    return post;
                }
                any = post;
                *out_way = way;
            }
        }
    return any;
}

static fm_status timed_out(const fm_pipe_executor *executor, const struct fm_pipe_slots *needed,
                           uint64_t waited_ns)
{
    int way = FM_PIPE_SENDS;
    const struct fm_pipe_post *post = blocking_post(executor, needed, &way);
    char place[PLACE_BYTES];
    place_text(executor, place);
    if (!post)
        return fm_base_error_set(FM_ERR_INTERNAL, "%s: waits for a message that is not under way", place);
    return fm_base_error_set(
        FM_ERR_TIMEOUT,
        way == FM_PIPE_SENDS ? "%s: waited %" PRIu64 " ms for rank %d to take the %s of stage %d chunk %d"
                             : "%s: waited %" PRIu64 " ms for rank %d to send the %s of stage %d chunk %d",
        place, waited_ns / 1000000, post->peer, kind_text(post->kind), post->stage, post->chunk);
}

// Waits for `needed`, or for all that is under way when it is NULL.
static fm_status wait_for(fm_pipe_executor *executor, const struct fm_pipe_slots *needed)
{
    if (needed ? is_ready(executor, needed) : is_drained(executor))
        return FM_OK;
    int64_t timeout_ms = executor->options.timeout_ms;
    FM_SPAN_ARGS(span, "wait", "pipe", "op", NULL);
    span.args[0] = (int64_t)executor->op;
    uint64_t begin = fm_base_clock_ns();
    fm_wait wait = fm_base_wait_begin(timeout_ms == 0 ? timeout_ms_default : timeout_ms);
    fm_status status = FM_OK;
    do {
        status = fm_base_wait_step(&wait);
        if (status == FM_ERR_TIMEOUT) {
            status = timed_out(executor, needed, fm_base_clock_ns() - begin);
            break;
        }
        if (status == FM_OK)
            status = move_all(executor);
    } while (status == FM_OK && !(needed ? is_ready(executor, needed) : is_drained(executor)));
    executor->last.wait += fm_base_clock_ns() - begin;
    return status;
}

fm_status fm_pipe_boundary_wait(fm_pipe_executor *executor, const struct fm_pipe_slots *needed)
{
    return wait_for(executor, needed);
}

fm_status fm_pipe_boundary_drain(fm_pipe_executor *executor)
{
    return wait_for(executor, NULL);
}
