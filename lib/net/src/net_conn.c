#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"
#include "fathom/span.h"

#include "net_rpc.h"

static struct net_call *take_call(fm_net_loop *loop)
{
    struct net_call *call = loop->free_calls;
    if (call)
        loop->free_calls = call->next_free;
    else
        call = fm_base_mem_alloc(sizeof *call);
    return call;
}

static void release_call(struct net_call *call)
{
    fm_net_loop *loop = call->conn->loop;
    fm_net_timers_unset(&loop->timers, &call->timer);
    fm_base_mem_free(call->held);
    call->next_free = loop->free_calls;
    loop->free_calls = call;
}

// The call is given back first, so that done() may call again.
static void complete(struct net_call *call, const fm_net_reply *reply)
{
    void (*done)(void *context, const fm_net_reply *reply) = call->done;
    void *context = call->context;
    FM_SPAN_ARGS(span, "done", "net", "method", "bytes");
    span.args[0] = call->method;
    span.args[1] = (int64_t)reply->payload_bytes;
    release_call(call);
    done(context, reply);
}

static void complete_unsent(struct net_call *call, fm_status status)
{
    fm_net_conn *conn = call->conn;
    if (net_link_listed(&call->link)) {
        net_link_remove(&call->link);
        conn->waiting_count--;
    }
    complete(call, &(fm_net_reply){.status = status, .fate = FM_NET_UNSENT});
}

static fm_status send_call(struct net_call *call, const fm_net_body *body)
{
    fm_net_conn *conn = call->conn;
    fm_net_head head = {
        .method = call->method,
        .timeout_ns = FM_NET_FOREVER,
        .args = body->args,
        .args_bytes = (uint32_t)body->args_bytes,
        .payload_crc_known = body->payload_crc != NULL,
        .payload_crc = body->payload_crc ? *body->payload_crc : 0,
    };
    if (call->timeout_ns != FM_NET_FOREVER) {
        // What is left of it, when it had to wait.
        int64_t left = net_link_listed(&call->link) ? call->timer.due_ns - fm_net_loop_now_ns(conn->loop)
                                                    : call->timeout_ns;
        head.timeout_ns = left > 0 ? left : 1;
    }
    FM_TRY(conn->loop->transport->call(conn->ep, &head, body->payload, body->payload_count,
                                       call->reply_buffer, call->reply_bytes, call));
    conn->in_flight++;
    call->sent = 1;
    return FM_OK;
}

// Sends what waits, as far as the peer's window goes.
static void pump(fm_net_conn *conn)
{
    while (conn->up && !conn->ended && conn->in_flight < conn->window && !net_list_empty(&conn->waiting)) {
        struct net_call *call = NET_OF(conn->waiting.next, struct net_call, link);
        fm_status status = send_call(call, &call->held->body);
        if (status < 0) {
            complete_unsent(call, status);
            continue;
        }
        net_link_remove(&call->link);
        conn->waiting_count--;
    }
}

static fm_status hold_call(struct net_call *call, const fm_net_body *body)
{
    fm_net_conn *conn = call->conn;
    if (conn->waiting_count >= conn->loop->limits.queue_max)
        return fm_base_error_set(FM_ERR_NET_CREDIT, "%u calls wait for %s already, which takes %u at once",
                                 conn->waiting_count, conn->name, conn->window);
    struct net_held *held = fm_base_mem_alloc(sizeof *held + body->args_bytes);
    if (!held)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a call that waits");
    held->body = *body;
    if (body->args_bytes)
        memcpy(held->args, body->args, body->args_bytes);
    held->body.args = held->args;
    if (body->payload_count)
        memcpy(held->payload, body->payload, body->payload_count * sizeof *body->payload);
    held->body.payload = held->payload;
    if (body->payload_crc) {
        held->payload_crc = *body->payload_crc;
        held->body.payload_crc = &held->payload_crc;
    }
    call->held = held;
    net_list_append(&conn->waiting, &call->link);
    conn->waiting_count++;
    return FM_OK;
}

static void call_expired(void *context)
{
    struct net_call *call = context;
    fm_net_conn *conn = call->conn;
    if (!call->sent) {
        complete_unsent(call, fm_base_error_set(FM_ERR_TIMEOUT, "%s %s within %lld ms", conn->name,
                                                conn->up ? "took no further call" : "could not be reached",
                                                (long long)(call->timeout_ns / 1000000)));
        return;
    }
    // Its reply buffer may be written to as long as the connection lives.
    call->expired = 1;
    conn->timed_out = 1;
    conn->loop->transport->close(conn->ep, FM_ERR_TIMEOUT);
}

static fm_status check_call(const fm_net_conn *conn, const fm_net_call *call)
{
    if (!conn->options.size)
        return fm_base_error_set(FM_ERR_ARG, "%s connected to this end; calls go the other way", conn->name);
    if (!call->done || call->timeout_ns < 0)
        return fm_base_error_set(FM_ERR_ARG, "a call needs done(), and a timeout that is not negative");
    if (conn->ended)
        return fm_base_error_set(FM_ERR_NET_CLOSED, "the connection to %s is closing", conn->name);
    if (call->body.payload_count > FM_NET_PIECES_MAX || call->body.args_bytes > UINT32_MAX)
        return fm_base_error_set(FM_ERR_ARG, "a payload of %zu pieces, args of %zu bytes; at most %d pieces",
                                 call->body.payload_count, call->body.args_bytes, FM_NET_PIECES_MAX);
    return FM_OK;
}

fm_status fm_net_conn_call(fm_net_conn *conn, const fm_net_call *call)
{
    FM_SPAN_ARGS(span, "call", "net", "method", "bytes");
    FM_TRY(check_call(conn, call));
    span.args[0] = call->method;
    for (size_t i = 0; i < call->body.payload_count; i++)
        span.args[1] += (int64_t)call->body.payload[i].iov_len;
    fm_net_loop *loop = conn->loop;
    struct net_call *own = take_call(loop);
    if (!own)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a call");
    *own = (struct net_call){
        .conn = conn,
        .timer = {.fire = call_expired, .context = own},
        .timeout_ns = call->timeout_ns ? call->timeout_ns : loop->call_timeout_ns,
        .method = call->method,
        .reply_buffer = call->reply_buffer,
        .reply_bytes = call->reply_bytes,
        .done = call->done,
        .context = call->context,
    };
    fm_status status = FM_OK;
    if (own->timeout_ns != FM_NET_FOREVER)
        status = fm_net_timer_start(loop, &own->timer, own->timeout_ns);
    if (status == FM_OK && conn->up && conn->in_flight < conn->window && net_list_empty(&conn->waiting))
        status = send_call(own, &call->body);
    else if (status == FM_OK)
        status = hold_call(own, &call->body);
    if (status < 0)
        release_call(own);
    return status;
}

// The peer's text becomes ours; what a terminal would obey does not.
static fm_status peer_message(const fm_net_conn *conn, const fm_net_head *head)
{
    char text[256];
    const uint8_t *from = head->args;
    size_t size = head->args_bytes < sizeof text ? head->args_bytes : sizeof text - 1;
    for (size_t i = 0; i < size; i++)
        text[i] = from[i] < ' ' || from[i] == 0x7F ? '?' : (char)from[i];
    text[size] = 0;
    return fm_base_error_set(head->status, "%s: %s", conn->name, text);
}

static void fill_answered(const fm_net_conn *conn, const fm_net_head *head, fm_net_reply *reply)
{
    reply->status = head->status;
    reply->fate = FM_NET_ANSWERED;
    if (head->status < 0 && head->message)
        (void)peer_message(conn, head);
    else if (head->status < 0)
        (void)fm_base_error_set(head->status, "%s answered: %s", conn->name,
                                fm_base_status_text(head->status));
    reply->args = head->args;
    reply->args_bytes = head->args_bytes;
    reply->payload_bytes = head->payload_bytes;
    reply->payload_crc = head->payload_crc;
}

void fm_net_conn_on_done(void *context, fm_status status, const fm_net_head *head)
{
    struct net_call *call = context;
    fm_net_conn *conn = call->conn;
    conn->in_flight--;
    fm_net_reply reply = {.status = status, .fate = FM_NET_UNKNOWN};
    if (status == FM_OK)
        fill_answered(conn, head, &reply);
    else if (status == FM_ERR_LIMIT && head)
        reply.fate = FM_NET_ANSWERED;
    else if (call->expired)
        reply.status = fm_base_error_set(FM_ERR_TIMEOUT, "%s did not answer within %lld ms", conn->name,
                                         (long long)(call->timeout_ns / 1000000));
    else if (conn->timed_out)
        reply.status = fm_base_error_set(
            FM_ERR_NET_CLOSED, "closed, because %s did not answer another call in time", conn->name);
    complete(call, &reply);
    if (status == FM_OK || status == FM_ERR_LIMIT) // else the connection ends, and what waits ends with it
        pump(conn);
}

static fm_net_conn *new_conn(fm_net_loop *loop)
{
    fm_net_conn *conn = fm_base_mem_zalloc(1, sizeof *conn);
    if (!conn)
        return NULL;
    conn->loop = loop;
    net_list_init(&conn->waiting);
    net_list_init(&conn->requests);
    return conn;
}

fm_status fm_net_loop_connect(fm_net_loop *loop, const char *address, const fm_net_connect_options *options,
                              fm_net_conn **out_conn)
{
    if (loop->closing)
        return fm_base_error_set(FM_ERR_STATE, "the loop is being freed");
    if (strlen(address) >= FM_NET_ADDRESS_BYTES)
        return fm_base_error_set(FM_ERR_ARG, "an address of %zu bytes", strlen(address));
    fm_net_conn *conn = new_conn(loop);
    if (!conn)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a connection");
    memcpy(&conn->options, options, options->size < sizeof *options ? options->size : sizeof *options);
    snprintf(conn->address, sizeof conn->address, "%s", address);
    conn->name = conn->address;
    fm_status status =
        loop->transport->connect(loop->worker, address, &conn->options.security, conn, &conn->ep);
    conn->options.security = (fm_net_security){0}; // the caller's, only during the call
    if (status < 0) {
        fm_base_mem_free(conn);
        return status;
    }
    *out_conn = conn;
    return FM_OK;
}

fm_status fm_net_conn_on_accepted(void *context, fm_net_ep *ep, const fm_net_peer *peer, void **out_conn)
{
    const fm_net_listener *listener = context;
    fm_net_conn *conn = new_conn(listener->loop);
    if (!conn)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a connection");
    conn->ep = ep;
    conn->name = peer->address;
    conn->up = 1;
    conn->args_bytes_max = peer->args_bytes_max;
    conn->service = listener->service;
    *out_conn = conn;
    if (conn->service.opened)
        conn->service.opened(conn->service.context, conn);
    return FM_OK;
}

void fm_net_conn_on_up(void *context, const fm_net_peer *peer)
{
    fm_net_conn *conn = context;
    conn->up = 1;
    conn->window = peer->window ? peer->window : 1;
    if (conn->options.up)
        conn->options.up(conn->options.context, conn);
    pump(conn);
}

static void end_waiting(fm_net_conn *conn, fm_status status)
{
    char why[256];
    snprintf(why, sizeof why, "%s", fm_error_message());
    if (conn->timed_out) {
        status = FM_ERR_NET_CLOSED;
        snprintf(why, sizeof why, "closed, because %s did not answer another call in time", conn->name);
    }
    while (!net_list_empty(&conn->waiting))
        complete_unsent(NET_OF(conn->waiting.next, struct net_call, link),
                        fm_base_error_set(status, "%s", why));
}

void fm_net_conn_on_down(void *context, fm_status status)
{
    fm_net_conn *conn = context;
    char why[256];
    snprintf(why, sizeof why, "%s", fm_error_message());
    conn->ended = 1;
    end_waiting(conn, status);
    fm_net_request_orphan_all(conn);
    (void)fm_base_error_set(status, "%s", why);
    if (conn->options.down)
        conn->options.down(conn->options.context, conn, status);
    if (conn->service.closed)
        conn->service.closed(conn->service.context, conn, status);
    fm_base_mem_free(conn);
}

void fm_net_conn_close(fm_net_conn *conn)
{
    conn->ended = 1;
    conn->loop->transport->close(conn->ep, FM_ERR_CANCELLED);
}

const char *fm_net_conn_peer(const fm_net_conn *conn)
{
    return conn->name;
}

size_t fm_net_conn_calls(const fm_net_conn *conn)
{
    return (size_t)conn->in_flight + conn->waiting_count;
}

void fm_net_conn_set_user(fm_net_conn *conn, void *user)
{
    conn->user = user;
}

void *fm_net_conn_user(const fm_net_conn *conn)
{
    return conn->user;
}
