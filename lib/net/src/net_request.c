#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"
#include "fathom/span.h"

#include "net_rpc.h"

fm_status fm_net_loop_listen(fm_net_loop *loop, const char *address, const fm_net_listen_options *options,
                             fm_net_listener **out_listener)
{
    if (loop->closing)
        return fm_base_error_set(FM_ERR_STATE, "the loop is being freed");
    fm_net_listen_options own = {0};
    fm_net_service service = {0};
    memcpy(&own, options, options->size < sizeof own ? options->size : sizeof own);
    if (own.service)
        memcpy(&service, own.service,
               own.service->size < sizeof service ? own.service->size : sizeof service);
    if (!service.serve || (service.land && !service.drop))
        return fm_base_error_set(FM_ERR_ARG, "a service needs serve(), and with land() also drop()");
    fm_net_listener *listener = fm_base_mem_zalloc(1, sizeof *listener);
    if (!listener)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to listen");
    listener->loop = loop;
    listener->service = service;
    fm_status status = loop->transport->listen(loop->worker, address, &own.security, own.shared_port,
                                               listener, &listener->acceptor);
    if (status < 0) {
        fm_base_mem_free(listener);
        return status;
    }
    net_list_append(&loop->listeners, &listener->link);
    *out_listener = listener;
    return FM_OK;
}

const char *fm_net_listener_address(const fm_net_listener *listener)
{
    return listener->loop->transport->acceptor_address(listener->acceptor);
}

void fm_net_listener_close(fm_net_listener *listener)
{
    listener->loop->transport->acceptor_close(listener->acceptor);
    net_link_remove(&listener->link);
    fm_base_mem_free(listener);
}

static struct net_request *take_request(fm_net_loop *loop)
{
    struct net_request *request = loop->free_requests;
    if (request)
        loop->free_requests = request->next_free;
    else
        request = fm_base_mem_alloc(sizeof *request);
    return request;
}

void fm_net_request_free(struct net_request *request)
{
    net_link_remove(&request->link);
    fm_base_mem_free(request->args_block);
    request->next_free = request->loop->free_requests;
    request->loop->free_requests = request;
}

static fm_status keep_args(struct net_request *request, const fm_net_head *head)
{
    uint8_t *args = request->args;
    if (head->args_bytes > sizeof request->args)
        args = request->args_block = fm_base_mem_alloc(head->args_bytes);
    if (!args)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %u bytes of args", head->args_bytes);
    if (head->args_bytes)
        memcpy(args, head->args, head->args_bytes);
    request->shown.args = args;
    request->shown.args_bytes = head->args_bytes;
    return FM_OK;
}

static fm_status land(struct net_request *request, void **out_payload)
{
    const fm_net_service *service = &request->conn->service;
    if (!service->land)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "this service takes no payloads");
    void *payload = NULL;
    FM_TRY(service->land(service->context, &request->shown, &payload));
    if (!payload)
        return fm_base_error_set(FM_ERR_NOMEM, "the service has no memory for the payload");
    request->landed = 1;
    request->shown.payload = payload;
    *out_payload = payload;
    return FM_OK;
}

fm_status fm_net_request_on_header(void *context, uint64_t id, const fm_net_head *head, void **out_request,
                                   void **out_payload)
{
    fm_net_conn *conn = context;
    fm_net_loop *loop = conn->loop;
    if (conn->request_count >= loop->limits.window)
        return fm_base_error_set(FM_ERR_FORMAT, "more than the %u requests at once that its window is",
                                 loop->limits.window);
    struct net_request *request = take_request(loop);
    if (!request)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a request");
    memset(request, 0, offsetof(struct net_request, args));
    request->loop = loop;
    request->conn = conn;
    request->id = id;
    request->shown = (fm_net_request){
        .conn = conn,
        .method = head->method,
        .payload_bytes = head->payload_bytes,
        .payload_crc = head->payload_crc,
        .deadline_ns = head->timeout_ns == FM_NET_FOREVER ? FM_NET_FOREVER
                                                          : fm_net_loop_after_ns(loop, head->timeout_ns),
    };
    request->refused = keep_args(request, head);
    if (request->refused == FM_OK && head->payload_bytes)
        request->refused = land(request, out_payload);
    if (request->refused < 0)
        snprintf(request->text, sizeof request->text, "%s", fm_error_message());
    conn->request_count++;
    net_list_append(&conn->requests, &request->link);
    *out_request = request;
    return FM_OK;
}

void fm_net_request_on_complete(void *context, fm_status status)
{
    struct net_request *request = context;
    const fm_net_service *service = &request->conn->service;
    if (status < 0) {
        if (request->landed)
            service->drop(service->context, &request->shown);
        request->conn->request_count--;
        fm_net_request_free(request);
    } else if (request->refused < 0) {
        fm_net_request_fail(&request->shown, fm_base_error_set(request->refused, "%s", request->text));
    } else {
        FM_SPAN_ARGS(span, "serve", "net", "method", "bytes");
        span.args[0] = request->shown.method;
        span.args[1] = (int64_t)request->shown.payload_bytes;
        service->serve(service->context, &request->shown);
    }
}

static fm_status send_answer(struct net_request *request, const fm_net_answer *answer, int message)
{
    const fm_net_body *body = &answer->body;
    fm_net_head head = {
        .status = answer->status,
        .message = message,
        .args = body->args,
        .args_bytes = (uint32_t)body->args_bytes,
        .payload_crc_known = body->payload_crc != NULL,
        .payload_crc = body->payload_crc ? *body->payload_crc : 0,
    };
    request->sent = answer->sent;
    request->context = answer->context;
    if (!request->conn) {
        net_list_append(&request->loop->answered, &request->link);
        return FM_OK;
    }
    FM_TRY(request->loop->transport->reply(request->conn->ep, request->id, &head, body->payload,
                                           body->payload_count, request));
    net_link_remove(&request->link);
    return FM_OK;
}

fm_status fm_net_request_reply(fm_net_request *request, const fm_net_answer *answer)
{
    if (answer->status > 0 || answer->body.args_bytes > UINT32_MAX)
        return fm_base_error_set(FM_ERR_ARG, "an answer of status %d with %zu bytes of args", answer->status,
                                 answer->body.args_bytes);
    return send_answer((struct net_request *)(void *)request, answer, 0);
}

void fm_net_request_fail(fm_net_request *request, fm_status status)
{
    struct net_request *own = (struct net_request *)(void *)request;
    const char *text = fm_error_message();
    size_t size = strlen(text);
    size = size < sizeof own->text ? size : sizeof own->text;
    if (own->conn && size > own->conn->args_bytes_max)
        size = own->conn->args_bytes_max;
    fm_net_answer answer = {
        .status = status < 0 ? status : FM_ERR_INTERNAL,
        .body = {.args = text, .args_bytes = size},
    };
    if (send_answer(own, &answer, 1) == FM_OK)
        return;
    // No memory for a small frame: the peer must not wait for an answer that will not come.
    fm_net_conn *conn = own->conn;
    conn->request_count--;
    fm_net_request_free(own);
    fm_net_conn_close(conn);
}

static void finish(struct net_request *request, fm_status status)
{
    void (*sent)(void *context, fm_status status) = request->sent;
    void *context = request->context;
    fm_net_request_free(request);
    if (sent)
        sent(context, status);
}

void fm_net_request_on_sent(void *context, fm_status status)
{
    struct net_request *request = context;
    request->conn->request_count--;
    finish(request, status);
}

void fm_net_request_orphan_all(fm_net_conn *conn)
{
    while (!net_list_empty(&conn->requests)) {
        struct net_request *request = NET_OF(conn->requests.next, struct net_request, link);
        request->shown.conn = NULL;
        request->conn = NULL;
        net_list_append(&conn->loop->orphans, &request->link);
    }
}

void fm_net_request_finish_answered(fm_net_loop *loop)
{
    while (!net_list_empty(&loop->answered))
        finish(NET_OF(loop->answered.next, struct net_request, link),
               fm_base_error_set(FM_ERR_NET_CLOSED, "the caller's connection is gone"));
}
