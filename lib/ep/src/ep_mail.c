// Messages between nodes, over MPI: to each other node one message an operation, which is its mirror there; and the ring's.
#include <inttypes.h>
#include <string.h>

#include "ep_private.h"
#include "fathom/span.h"

enum { TAG_RING = FM_EP_IN_FLIGHT_MAX }; // tags below it are slots

/** Messages of the ring one way: those sent wait in boxes until the receiver has come for them, and as many may have
 * arrived before anyone asks. */
typedef struct wire {
    char *boxes; /**< [ring_depth] */
    fm_ep_mpi_request *requests;
    uint64_t next; /**< number of the message that is sent, or taken, next */
    int is_started;
} wire;

struct fm_ep_mail {
    const fm_ep_mpi *mpi;
    fm_ep_mpi_party *party;
    char *outbox;                 /**< [in_flight][nodes] mirrors on their way */
    fm_ep_mpi_request *sending;   /**< [in_flight][nodes] */
    fm_ep_mpi_request *receiving; /**< [in_flight][ranks] kept from one operation to the next of the slot */
    wire out[2], in[2];
    fm_ep_mpi_request rejoin;
    uint64_t epoch, *epochs; /**< what rejoining gathers */
};

static size_t boxes_of(const fm_ep_group *group)
{
    return (size_t)group->plan.in_flight * (size_t)group->plan.nodes;
}

static fm_status make_wire(const fm_ep_group *group, wire *made)
{
    size_t depth = (size_t)group->options.ring_depth;
    made->boxes = fm_base_mem_aligned(depth * group->plan.ring_message_bytes, FM_EP_ALIGN);
    made->requests = fm_base_mem_zalloc(depth, sizeof *made->requests);
    return made->boxes && made->requests ? FM_OK : FM_ERR_NOMEM;
}

fm_status fm_ep_mail_create(fm_ep_group *group)
{
    struct fm_ep_mail *mail = fm_base_mem_zalloc(1, sizeof *mail);
    if (!mail)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for messages between nodes");
    group->mail = mail;
    mail->mpi = group->world->mpi;
    mail->party = group->world->party;
    size_t bytes = 0, ranks = (size_t)group->ranks;
    FM_TRY(fm_mul_size(boxes_of(group), group->plan.mirror_bytes, &bytes));
    mail->outbox = fm_base_mem_aligned(bytes, FM_EP_ALIGN);
    mail->sending = fm_base_mem_zalloc(boxes_of(group), sizeof *mail->sending);
    mail->receiving = fm_base_mem_zalloc((size_t)group->plan.in_flight * ranks, sizeof *mail->receiving);
    mail->epochs = fm_base_mem_zalloc(ranks, sizeof *mail->epochs);
    int failed = !mail->outbox || !mail->sending || !mail->receiving || !mail->epochs;
    for (int which = 0; which < 2 && group->options.ring_bytes_max > 0; which++)
        failed |= make_wire(group, &mail->out[which]) < 0 || make_wire(group, &mail->in[which]) < 0;
    return failed ? fm_base_error_set(FM_ERR_NOMEM, "no memory for messages between nodes") : FM_OK;
}

/** Gives up `count` requests and frees the memory that they name, unless some rank may still write there. */
static void free_boxes(const struct fm_ep_mail *mail, fm_ep_mpi_request *requests, size_t count, char *boxes)
{
    int is_free = 1;
    for (size_t i = 0; requests && i < count; i++)
        is_free &= mail->mpi->cancel(&requests[i]);
    if (is_free)
        fm_base_mem_free(boxes);
    fm_base_mem_free(requests);
}

void fm_ep_mail_free(fm_ep_group *group)
{
    struct fm_ep_mail *mail = group->mail;
    if (!mail)
        return;
    free_boxes(mail, mail->sending, boxes_of(group), mail->outbox);
    free_boxes(mail, mail->receiving, (size_t)group->plan.in_flight * (size_t)group->ranks, NULL);
    for (int which = 0; which < 2; which++) {
        size_t depth = (size_t)group->options.ring_depth;
        free_boxes(mail, mail->out[which].requests, depth, mail->out[which].boxes);
        free_boxes(mail, mail->in[which].requests, depth, mail->in[which].boxes);
    }
    if (!mail->rejoin.is_active)
        fm_base_mem_free(mail->epochs);
    fm_base_mem_free(mail);
    group->mail = NULL;
}

static fm_status mpi_failed(int peer, const char *why)
{
    return fm_base_error_set(FM_ERR_IO, "message to or from rank %d: MPI: %s", peer, why);
}

/* ---- mirrors ---- */

/** Packs and sends what a node needs. A box whose last message was never taken is not free: then nothing is sent yet. */
static void send_mirror(fm_ep_op *op, int node, int rail)
{
    FM_SPAN_ARGS(span, "send", "ep", "node", "bytes");
    const fm_ep_group *group = op->group;
    struct fm_ep_mail *mail = group->mail;
    size_t box = (size_t)op->slot * (size_t)group->plan.nodes + (size_t)node, ignored = 0;
    char why[FM_EP_MPI_WHY_BYTES] = "", *to = mail->outbox + box * group->plan.mirror_bytes;
    if (mail->sending[box].is_active && mail->mpi->test(&mail->sending[box], &ignored, why) == 0)
        return;
    const fm_ep_publication *publication = fm_ep_slot_at(op, 0);
    size_t bytes = fm_ep_mirror_build(group, group->base[group->rank], publication, node, to, 0);
    op->mailed[node] = FM_EP_MAIL_SENT;
    if (mail->mpi->send(mail->party, rail, op->slot, to, bytes, 0, &mail->sending[box], why) < 0) {
        op->mailed[node] = FM_EP_MAIL_TAKEN;
        fm_ep_op_fail(op, mpi_failed(rail, why));
    }
    span.args[0] = node;
    span.args[1] = (int64_t)bytes;
}

void fm_ep_mail_send(fm_ep_op *op)
{
    const fm_ep_group *group = op->group;
    struct fm_ep_mail *mail = group->mail;
    for (int node = 0; mail && node < group->plan.nodes; node++) {
        int rail = fm_ep_rail(&group->plan, node, group->rank);
        if (node == group->node || op->mailed[node] == FM_EP_MAIL_TAKEN || group->masked[rail])
            continue;
        if (op->mailed[node] == FM_EP_MAIL_WAITING)
            send_mirror(op, node, rail);
        if (op->mailed[node] != FM_EP_MAIL_SENT)
            continue;
        size_t box = (size_t)op->slot * (size_t)group->plan.nodes + (size_t)node, ignored = 0;
        char why[FM_EP_MPI_WHY_BYTES] = "";
        int ended = mail->mpi->test(&mail->sending[box], &ignored, why);
        if (ended != 0)
            op->mailed[node] = FM_EP_MAIL_TAKEN;
        if (ended < 0)
            fm_ep_op_fail(op, mpi_failed(rail, why));
    }
}

/** Offsets of a message count from its beginning; here they count from the segment's. */
static void settle(fm_ep_publication *mirror, size_t at)
{
    mirror->begin_offset += (int64_t)at;
    mirror->list_offset += (int64_t)at;
    mirror->origin_offset += (int64_t)at;
    if (mirror->check_offset)
        mirror->check_offset += (int64_t)at;
    for (int p = 0; p < FM_EP_PARTS; p++)
        mirror->parts[p].offset += (int64_t)at;
}

int fm_ep_mail_receive(fm_ep_op *op, int source)
{
    const fm_ep_group *group = op->group;
    struct fm_ep_mail *mail = group->mail;
    fm_ep_mpi_request *request = &mail->receiving[(size_t)op->slot * (size_t)group->ranks + (size_t)source];
    size_t at = fm_ep_mirror_offset(group, op->slot, source), bytes = 0;
    fm_ep_publication *mirror = (fm_ep_publication *)(void *)(group->base[group->rank] + at);
    char why[FM_EP_MPI_WHY_BYTES] = "";
    for (;;) {
        if (!request->is_active && mail->mpi->receive(mail->party, source, op->slot, mirror,
                                                      group->plan.mirror_bytes, request, why) < 0)
            break;
        int ended = mail->mpi->test(request, &bytes, why);
        if (ended == 0)
            return 0;
        if (ended < 0 || bytes < sizeof *mirror)
            break;
        if (mirror->epoch < op->epoch) // of an operation that this rank has given up
            continue;
        settle(mirror, at);
        return 1;
    }
    fm_ep_op_fail(op, mpi_failed(source, why));
    return 0;
}

/* ---- rejoining ---- */

fm_status fm_ep_mail_rejoin(fm_ep_group *group, uint64_t *out_epoch)
{
    struct fm_ep_mail *mail = group->mail;
    char why[FM_EP_MPI_WHY_BYTES] = "";
    size_t ignored = 0;
    // A call after one that timed out goes on with the same gathering.
    if (!mail->rejoin.is_active) {
        mail->epoch = group->epoch;
        if (mail->mpi->gather(mail->party, &mail->epoch, sizeof mail->epoch, mail->epochs, &mail->rejoin,
                              why) < 0)
            return fm_base_error_set(FM_ERR_IO, "rejoining: MPI: %s", why);
    }
    fm_wait wait = fm_base_wait_begin(group->options.timeout_ms);
    for (int ended = 0; ended == 0;) {
        ended = mail->mpi->test(&mail->rejoin, &ignored, why);
        if (ended < 0)
            return fm_base_error_set(FM_ERR_IO, "rejoining: MPI: %s", why);
        if (ended == 0 && fm_base_wait_step(&wait) < 0)
            return fm_base_error_set(FM_ERR_TIMEOUT,
                                     "rejoining: not all ranks have come within %" PRId64 " ms",
                                     group->options.timeout_ms);
    }
    *out_epoch = 0;
    for (int rank = 0; rank < group->ranks; rank++)
        *out_epoch = mail->epochs[rank] > *out_epoch ? mail->epochs[rank] : *out_epoch;
    return FM_OK;
}

/* ---- the ring ---- */

static char *box_of(const fm_ep_group *group, const wire *of, fm_ep_mpi_request **out_request)
{
    size_t slot = (size_t)(of->next % (uint64_t)group->options.ring_depth);
    *out_request = &of->requests[slot];
    return of->boxes + slot * group->plan.ring_message_bytes;
}

/** FM_ERR_BUSY while a box's message is under way. */
static fm_status end_request(const struct fm_ep_mail *mail, int peer, fm_ep_mpi_request *request)
{
    char why[FM_EP_MPI_WHY_BYTES] = "";
    size_t ignored = 0;
    int ended = request->is_active ? mail->mpi->test(request, &ignored, why) : 1;
    return ended > 0 ? FM_OK : ended == 0 ? FM_ERR_BUSY : mpi_failed(peer, why);
}

fm_status fm_ep_mail_ring_slot(fm_ep_group *group, int which, int peer, void **out_message)
{
    fm_ep_mpi_request *request;
    char *box = box_of(group, &group->mail->out[which], &request);
    FM_TRY(end_request(group->mail, peer, request));
    *out_message = box;
    return FM_OK;
}

fm_status fm_ep_mail_ring_post(fm_ep_group *group, int which, int peer, size_t bytes)
{
    struct fm_ep_mail *mail = group->mail;
    fm_ep_mpi_request *request;
    const char *box = box_of(group, &mail->out[which], &request);
    char why[FM_EP_MPI_WHY_BYTES] = "";
    // Synchronous: else messages would pile up at a receiver that does not take them.
    if (mail->mpi->send(mail->party, peer, TAG_RING + which, box, fm_round_up(bytes, FM_EP_MPI_LINE), 1,
                        request, why) < 0)
        return mpi_failed(peer, why);
    mail->out[which].next++;
    return FM_OK;
}

static fm_status expect(struct fm_ep_mail *mail, const fm_ep_group *group, int which, int peer, size_t slot)
{
    char why[FM_EP_MPI_WHY_BYTES] = "";
    wire *in = &mail->in[which];
    size_t bytes = group->plan.ring_message_bytes;
    if (mail->mpi->receive(mail->party, peer, TAG_RING + which, in->boxes + slot * bytes, bytes,
                           &in->requests[slot], why) < 0)
        return mpi_failed(peer, why);
    return FM_OK;
}

fm_status fm_ep_mail_ring_peek(fm_ep_group *group, int which, int peer, void **out_message)
{
    struct fm_ep_mail *mail = group->mail;
    wire *in = &mail->in[which];
    for (size_t slot = 0; !in->is_started && slot < (size_t)group->options.ring_depth; slot++)
        FM_TRY(expect(mail, group, which, peer, slot));
    in->is_started = 1;
    fm_ep_mpi_request *request;
    char *box = box_of(group, in, &request);
    FM_TRY(end_request(mail, peer, request));
    *out_message = box;
    return FM_OK;
}

fm_status fm_ep_mail_ring_take(fm_ep_group *group, int which, int peer)
{
    wire *in = &group->mail->in[which];
    size_t slot = (size_t)(in->next++ % (uint64_t)group->options.ring_depth);
    return expect(group->mail, group, which, peer, slot);
}
