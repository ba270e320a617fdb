// What a trace shows of calls.
#include "net_peer.h"

#include "fathom/span.h"

enum { BULK = 100000 };

struct seen {
    int call, send, serve, receive, done;
    int64_t sent, received;
    uint64_t serve_begin_ns, serve_end_ns;
    int nested; // serve lies in a receive
};

static fm_status see(void *context, const fm_span_event *event)
{
    struct seen *seen = context;
    const char *name = event->site->name;
    if (strcmp(event->site->category, "net") != 0)
        return FM_OK;
    if (strcmp(name, "call") == 0) {
        seen->call++;
        assert_int_equal(event->args[0], NET_WRITE);
        assert_int_equal(event->args[1], BULK);
    } else if (strcmp(name, "serve") == 0) {
        seen->serve++;
        assert_int_equal(event->args[0], NET_WRITE);
        assert_int_equal(event->args[1], BULK);
        seen->serve_begin_ns = event->begin_ns;
        seen->serve_end_ns = event->end_ns;
    } else if (strcmp(name, "done") == 0) {
        seen->done++;
        assert_int_equal(event->args[0], NET_WRITE);
    } else if (strcmp(name, "send") == 0) {
        seen->send++;
        seen->sent += event->args[0];
    } else if (strcmp(name, "receive") == 0) {
        seen->receive++;
        seen->received += event->args[0];
        // Inner spans come first.
        seen->nested |=
            seen->serve && event->begin_ns <= seen->serve_begin_ns && seen->serve_end_ns <= event->end_ns;
    }
    return FM_OK;
}

static void calls_leave_spans(void **state)
{
    (void)state;
    struct seen seen = {0};
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    struct net_client client;
    struct net_outcome outcome;
    fm_net_listener *listener = net_service_listen(&service, loop, "127.0.0.1:0", &net_keyed);
    net_client_connect(&client, loop, fm_net_listener_address(listener), &net_keyed);
    net_until(loop, &client.up, 1);
    assert_ok(fm_base_span_enable(0));
    assert_ok(net_client_call(&client, &outcome, NET_WRITE, 0, BULK, 0));
    net_until(loop, &outcome.count, 1);
    fm_base_span_disable();
    fm_base_span_release_thread(); // the drain frees its ring
    assert_ok(fm_base_span_drain(see, &seen));
    assert_int_equal(seen.call, 1);
    assert_int_equal(seen.serve, 1);
    assert_int_equal(seen.done, 1);
    assert_true(seen.nested);
    assert_true(seen.send >= 2 && seen.receive >= 2);
    assert_true(seen.sent > BULK);
    assert_int_equal(seen.sent, seen.received);
    fm_net_loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(calls_leave_spans)};
    return fm_test_run("net.span", tests);
}
