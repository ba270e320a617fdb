// A service that echoes and a caller, over TCP on this machine, proved by a shared key. Both live in one loop here; in two
// processes each would have its own, and read the key by fm_net_key_read().
#include <stdio.h>
#include <string.h>

#include "fathom/net.h"

// A request with its args has arrived: its answer carries the same.
static void serve(void *context, fm_net_request *request)
{
    (void)context;
    const fm_net_answer answer = {.body = {.args = request->args, .args_bytes = request->args_bytes}};
    fm_status status = fm_net_request_reply(request, &answer);
    if (status < 0)
        fm_net_request_fail(request, status);
}

static void done(void *context, const fm_net_reply *reply)
{
    fm_net_loop *loop = context;
    if (reply->status < 0)
        printf("the call failed: %s\n", fm_error_message());
    else
        printf("the service says: %.*s\n", (int)reply->args_bytes, (const char *)reply->args);
    fm_net_loop_stop(loop);
}

static fm_status echo(fm_net_loop *loop, const char *text)
{
    fm_net_key key;
    FM_TRY(fm_net_key_generate(&key));
    const fm_net_service service = {.size = sizeof service, .serve = serve};
    const fm_net_listen_options listening = {
        .size = sizeof listening, .service = &service, .security = {.mode = FM_NET_KEYED, .key = &key}};
    fm_net_listener *listener;
    FM_TRY(fm_net_loop_listen(loop, "127.0.0.1:0", &listening, &listener));

    const fm_net_connect_options connecting = {.size = sizeof connecting,
                                               .security = {.mode = FM_NET_KEYED, .key = &key}};
    fm_net_conn *conn;
    FM_TRY(fm_net_loop_connect(loop, fm_net_listener_address(listener), &connecting, &conn));
    const fm_net_call call = {
        .body = {.args = text, .args_bytes = strlen(text)}, .done = done, .context = loop};
    FM_TRY(fm_net_conn_call(conn, &call)); // waits until the connection is up
    return fm_net_loop_run(loop);
}

int main(void)
{
    fm_net_loop *loop;
    fm_status status = fm_net_loop_new(NULL, &loop);
    if (status == FM_OK) {
        status = echo(loop, "hello");
        fm_net_loop_free(loop);
    }
    if (status < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    return status < 0;
}
