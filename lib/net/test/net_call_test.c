// The call layer over a simulated network: no socket, no real time.
#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/crc.h"

#include "net_world.h"

static const int64_t ms = 1000000;

enum method {
    ECHO,   // answers with args and payload
    HOLD,   // keeps the request until release_held()
    REFUSE, // fails with a message
    ANSWER, // answers with the number of bytes that the args name
};

// A service and a caller in one world.
struct rig {
    struct net_world *world;
    fm_net_loop *loops[2]; // service, caller
    fm_net_listener *listener;
    fm_net_conn *conn;
    fm_gen gen;
    int never;

    // service
    fm_net_request *held[100];
    int held_count;
    int in_service, in_service_max;
    int opened, closed, dropped, sent;
    fm_status sent_status;
    fm_status refuse_with; // land() fails with it
    fm_net_service functions;

    // caller
    int up, down;
    fm_status down_status;
    uint64_t trace; // of all that happened, and when
};

static void trace(struct rig *rig, int64_t what)
{
    int64_t record[2] = {net_world_now_ns(rig->world), what};
    rig->trace =
        (rig->trace << 32 | rig->trace >> 32) ^ fm_base_crc32c((uint32_t)rig->trace, record, sizeof record);
}

static fm_status land(void *context, fm_net_request *request, void **out_payload)
{
    struct rig *rig = context;
    if (rig->refuse_with)
        return fm_base_error_set(rig->refuse_with, "no room for %zu bytes", request->payload_bytes);
    request->user = *out_payload = fm_base_mem_alloc(request->payload_bytes);
    return FM_OK;
}

static void drop(void *context, fm_net_request *request)
{
    struct rig *rig = context;
    rig->dropped++;
    fm_base_mem_free(request->user);
}

struct sending {
    struct rig *rig;
    void *memory;
};

static void answer_sent(void *context, fm_status status)
{
    struct sending *sending = context;
    sending->rig->sent++;
    sending->rig->sent_status = status;
    fm_base_mem_free(sending->memory);
    fm_base_mem_free(sending);
}

static void answer(struct rig *rig, fm_net_request *request, void *memory, size_t bytes)
{
    struct sending *sending = fm_base_mem_alloc(sizeof *sending);
    *sending = (struct sending){rig, memory};
    const struct iovec payload = {memory, bytes};
    const fm_net_answer reply = {
        .body = {request->args, request->args_bytes, &payload, bytes != 0, NULL},
        .sent = answer_sent,
        .context = sending,
    };
    rig->in_service--;
    assert_ok(fm_net_request_reply(request, &reply));
}

static void serve(void *context, fm_net_request *request)
{
    struct rig *rig = context;
    trace(rig, request->method);
    rig->in_service++;
    rig->in_service_max = rig->in_service > rig->in_service_max ? rig->in_service : rig->in_service_max;
    if (request->payload_bytes)
        assert_int_equal(request->payload_crc ==
                                 fm_base_crc32c(0, request->payload, request->payload_bytes) ||
                             request->payload_crc == 0, // the simulated network computes none
                         1);
    switch (request->method) {
    case ECHO:
        answer(rig, request, request->user, request->payload_bytes);
        return;
    case HOLD:
        rig->held[rig->held_count++] = request;
        return;
    case ANSWER:
        answer(rig, request, fm_base_mem_zalloc(1, 5000), 5000);
        return;
    default:
        rig->in_service--;
        fm_net_request_fail(request, fm_base_error_set(FM_ERR_SPACE, "the disk of target 17 is full"));
    }
}

static void release_held(struct rig *rig)
{
    while (rig->held_count)
        answer(rig, rig->held[--rig->held_count], NULL, 0);
}

static void opened(void *context, fm_net_conn *conn)
{
    struct rig *rig = context;
    assert_string_equal(fm_net_conn_peer(conn), "caller");
    rig->opened++;
}

static void closed(void *context, fm_net_conn *conn, fm_status status)
{
    struct rig *rig = context;
    (void)conn;
    assert_true(status < 0);
    rig->closed++;
}

static void up(void *context, fm_net_conn *conn)
{
    struct rig *rig = context;
    rig->conn = conn;
    rig->up++;
    trace(rig, 1000);
}

static void down(void *context, fm_net_conn *conn, fm_status status)
{
    struct rig *rig = context;
    (void)conn;
    rig->conn = NULL;
    rig->down++;
    rig->down_status = status;
    trace(rig, status);
}

static fm_net_connect_options connect_options(struct rig *rig)
{
    return (fm_net_connect_options){
        .size = sizeof(fm_net_connect_options), .up = up, .down = down, .context = rig};
}

static fm_net_listen_options listen_options(struct rig *rig)
{
    rig->functions = (fm_net_service){sizeof(fm_net_service), land, serve, drop, opened, closed, rig};
    return (fm_net_listen_options){.size = sizeof(fm_net_listen_options), .service = &rig->functions};
}

static void begin(struct rig *rig, uint64_t seed, uint32_t window, uint32_t queue_max)
{
    fm_net_loop_options options = {.size = sizeof options,
                                   .limits = {.window = window, .queue_max = queue_max}};
    *rig = (struct rig){.world = net_world_new(seed, 2 * ms), .gen = fm_gen_seeded(seed)};
    rig->loops[0] = net_world_loop(rig->world, &options);
    rig->loops[1] = net_world_loop(rig->world, &options);
    fm_net_listen_options listening = listen_options(rig);
    fm_net_connect_options connecting = connect_options(rig);
    assert_ok(fm_net_loop_listen(rig->loops[0], "service:1", &listening, &rig->listener));
    assert_string_equal(fm_net_listener_address(rig->listener), "service:1");
    assert_ok(fm_net_loop_connect(rig->loops[1], "service:1", &connecting, &rig->conn));
}

static int run(struct rig *rig, const int *condition, int64_t limit_ns)
{
    return net_world_run(rig->world, rig->loops, 2, condition, limit_ns);
}

static void settle(struct rig *rig)
{
    run(rig, &rig->never, 100 * ms);
}

static void end(struct rig *rig)
{
    fm_net_loop_free(rig->loops[1]);
    fm_net_loop_free(rig->loops[0]);
    net_world_free(rig->world);
}

// A call, and how it ended.
struct outcome {
    struct rig *rig;
    int count;
    int64_t at_ns;
    fm_net_reply reply;
    char message[200];
    uint8_t args[64];
    uint8_t buffer[6000];
};

static void done(void *context, const fm_net_reply *reply)
{
    struct outcome *outcome = context;
    outcome->count++;
    outcome->at_ns = net_world_now_ns(outcome->rig->world);
    outcome->reply = *reply;
    if (reply->status < 0)
        snprintf(outcome->message, sizeof outcome->message, "%s", fm_error_message());
    if (reply->args_bytes && reply->args_bytes <= sizeof outcome->args)
        memcpy(outcome->args, reply->args, reply->args_bytes);
    trace(outcome->rig, reply->status);
}

static fm_net_call call_of(struct rig *rig, struct outcome *outcome, enum method method, int64_t timeout_ns)
{
    *outcome = (struct outcome){.rig = rig};
    return (fm_net_call){.method = method,
                         .reply_buffer = outcome->buffer,
                         .reply_bytes = sizeof outcome->buffer,
                         .timeout_ns = timeout_ns,
                         .done = done,
                         .context = outcome};
}

static void call(struct rig *rig, struct outcome *outcome, enum method method, int64_t timeout_ns)
{
    fm_net_call it = call_of(rig, outcome, method, timeout_ns);
    assert_ok(fm_net_conn_call(rig->conn, &it));
}

static void expect(const struct outcome *outcome, fm_status status, fm_net_fate fate, const char *message)
{
    assert_int_equal(outcome->count, 1);
    assert_int_equal(outcome->reply.status, status);
    assert_int_equal(outcome->reply.fate, fate);
    if (status < 0 && !strstr(outcome->message, message))
        fail_msg("message \"%s\" lacks \"%s\"", outcome->message, message);
}

enum { CALLS = 60 };

struct echo {
    struct rig *rig;
    size_t args_bytes, payload_bytes;
    uint8_t args[300];
    uint8_t payload[20000];
    uint8_t back[20000];
    int count;
};

static void echoed(void *context, const fm_net_reply *reply)
{
    struct echo *echo = context;
    echo->count++;
    trace(echo->rig, (int64_t)reply->payload_bytes);
    assert_int_equal(reply->status, FM_OK);
    assert_int_equal(reply->args_bytes, echo->args_bytes);
    assert_int_equal(reply->payload_bytes, echo->payload_bytes);
    if (echo->args_bytes)
        assert_memory_equal(reply->args, echo->args, echo->args_bytes);
    if (echo->payload_bytes)
        assert_memory_equal(echo->back, echo->payload, echo->payload_bytes);
}

static uint64_t echo_run(uint64_t seed)
{
    struct rig rig;
    static struct echo echoes[CALLS];
    begin(&rig, seed, (uint32_t)(seed % 7 + 1), 0);
    fm_gen gen = fm_gen_seeded(seed);
    for (int i = 0; i < CALLS; i++) {
        struct echo *echo = &echoes[i];
        echo->rig = &rig;
        echo->count = 0;
        echo->args_bytes = (size_t)fm_gen_size(&gen, 0, sizeof echo->args);
        echo->payload_bytes = (size_t)fm_gen_size(&gen, 0, sizeof echo->payload);
        fm_gen_fill(&gen, echo->args, echo->args_bytes);
        fm_gen_fill(&gen, echo->payload, echo->payload_bytes);
        size_t cut = (size_t)fm_gen_int(&gen, 0, (int64_t)echo->payload_bytes);
        const struct iovec pieces[] = {{echo->payload, cut},
                                       {echo->payload + cut, echo->payload_bytes - cut}};
        const fm_net_call it = {.method = ECHO,
                                .body = {echo->args, echo->args_bytes, pieces, 2, NULL},
                                .reply_buffer = echo->back,
                                .reply_bytes = sizeof echo->back,
                                .done = echoed,
                                .context = echo};
        assert_ok(fm_net_conn_call(rig.conn, &it)); // args and pieces are gone after it
        if (fm_gen_chance(&gen, 0.3))
            run(&rig, &rig.never, fm_gen_int(&gen, 0, 5 * ms));
    }
    run(&rig, &rig.never, 1000 * ms);
    for (int i = 0; i < CALLS; i++)
        assert_int_equal(echoes[i].count, 1);
    assert_int_equal(rig.sent, CALLS);
    assert_true(rig.in_service_max <= (int)(seed % 7 + 1));
    assert_int_equal(fm_net_conn_calls(rig.conn), 0);
    uint64_t result = rig.trace;
    end(&rig);
    return result;
}

static void echo_property(fm_gen *gen)
{
    uint64_t seed = fm_gen_u64(gen);
    assert_true(echo_run(seed) == echo_run(seed)); // one seed, one history
}

static void calls_arrive_once_and_intact(void **state)
{
    (void)state;
    fm_gen_property(30, echo_property);
}

static void a_deadline_closes_the_connection(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, 1, 2, 0);
    assert_true(run(&rig, &rig.up, 100 * ms));
    int64_t start_ns = net_world_now_ns(rig.world);
    net_world_cut(rig.world, 1);
    struct outcome slow;
    struct outcome other;
    struct outcome waiting;
    call(&rig, &slow, ECHO, 50 * ms);
    call(&rig, &other, ECHO, 500 * ms);
    call(&rig, &waiting, ECHO, 500 * ms); // the window is 2
    assert_int_equal(fm_net_conn_calls(rig.conn), 3);
    assert_true(run(&rig, &rig.down, 1000 * ms));
    assert_int_equal(net_world_now_ns(rig.world) - start_ns, 50 * ms);
    expect(&slow, FM_ERR_TIMEOUT, FM_NET_UNKNOWN, "service:1 did not answer within 50 ms");
    expect(&other, FM_ERR_NET_CLOSED, FM_NET_UNKNOWN, "did not answer another call in time");
    expect(&waiting, FM_ERR_NET_CLOSED, FM_NET_UNSENT, "did not answer another call in time");
    assert_int_equal(rig.down_status, FM_ERR_TIMEOUT);
    end(&rig);
}

static void a_call_that_was_not_sent_expires_alone(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, 2, 1, 0);
    struct outcome held;
    struct outcome waiting;
    struct outcome last;
    call(&rig, &held, HOLD, 900 * ms);
    call(&rig, &waiting, ECHO, 30 * ms);
    call(&rig, &last, ECHO, 900 * ms);
    settle(&rig);
    expect(&waiting, FM_ERR_TIMEOUT, FM_NET_UNSENT, "took no further call within 30 ms");
    assert_int_equal(waiting.at_ns, 30 * ms);
    assert_int_equal(rig.down, 0);
    release_held(&rig);
    settle(&rig);
    expect(&held, FM_OK, FM_NET_ANSWERED, "");
    expect(&last, FM_OK, FM_NET_ANSWERED, "");
    end(&rig);

    // Nor does one that found nobody.
    begin(&rig, 3, 1, 0);
    net_world_cut(rig.world, 1);
    call(&rig, &waiting, ECHO, 30 * ms);
    settle(&rig);
    expect(&waiting, FM_ERR_TIMEOUT, FM_NET_UNSENT, "could not be reached within 30 ms");
    end(&rig);
}

static void the_queue_is_bounded(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, 4, 2, 3);
    settle(&rig);
    static struct outcome outcomes[6];
    for (int i = 0; i < 5; i++)
        call(&rig, &outcomes[i], HOLD, 0);
    fm_net_call it = call_of(&rig, &outcomes[5], HOLD, 0);
    assert_fails(fm_net_conn_call(rig.conn, &it), FM_ERR_NET_CREDIT,
                 "3 calls wait for service:1 already, which takes 2");
    settle(&rig);
    assert_int_equal(rig.held_count, 2);
    assert_int_equal(outcomes[5].count, 0);
    while (rig.held_count) {
        release_held(&rig);
        settle(&rig);
    }
    for (int i = 0; i < 5; i++)
        expect(&outcomes[i], FM_OK, FM_NET_ANSWERED, "");
    assert_int_equal(rig.in_service_max, 2);
    end(&rig);
}

static void failures_and_refusals_come_with_their_message(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, 5, 0, 0);
    struct outcome failed;
    struct outcome refused;
    struct outcome large;
    call(&rig, &failed, REFUSE, 0);
    rig.refuse_with = FM_ERR_BUSY;
    uint8_t bytes[10] = {0};
    const struct iovec payload = {bytes, sizeof bytes};
    fm_net_call it = call_of(&rig, &refused, ECHO, 0);
    it.body.payload = &payload;
    it.body.payload_count = 1;
    assert_ok(fm_net_conn_call(rig.conn, &it));
    it = call_of(&rig, &large, ANSWER, 0);
    it.reply_bytes = 4999;
    assert_ok(fm_net_conn_call(rig.conn, &it));
    settle(&rig);
    expect(&failed, FM_ERR_SPACE, FM_NET_ANSWERED, "service:1: the disk of target 17 is full");
    expect(&refused, FM_ERR_BUSY, FM_NET_ANSWERED, "no room for 10 bytes");
    expect(&large, FM_ERR_LIMIT, FM_NET_ANSWERED, "");
    assert_int_equal(rig.down, 0);
    end(&rig);
}

static void closing_completes_every_call_once(void **state)
{
    (void)state;
    for (int64_t when = 0; when < 12 * ms; when += ms / 2) {
        struct rig rig;
        begin(&rig, 6, 3, 0);
        static struct outcome outcomes[8];
        uint8_t bytes[5000] = {0};
        const struct iovec payload = {bytes, sizeof bytes};
        for (int i = 0; i < 8; i++) {
            fm_net_call it = call_of(&rig, &outcomes[i], ECHO, 0);
            it.body.payload = &payload;
            it.body.payload_count = 1;
            assert_ok(fm_net_conn_call(rig.conn, &it));
        }
        run(&rig, &rig.never, when);
        fm_net_conn_close(rig.conn);
        struct outcome late;
        fm_net_call it = call_of(&rig, &late, ECHO, 0);
        assert_fails(fm_net_conn_call(rig.conn, &it), FM_ERR_NET_CLOSED, "is closing");
        settle(&rig);
        assert_int_equal(late.count, 0);
        for (int i = 0; i < 8; i++) {
            assert_int_equal(outcomes[i].count, 1);
            if (outcomes[i].reply.status < 0)
                assert_int_equal(outcomes[i].reply.status, FM_ERR_CANCELLED);
        }
        assert_int_equal(rig.down, 1);
        assert_int_equal(rig.down_status, FM_ERR_CANCELLED);
        assert_int_equal(rig.opened, rig.closed);
        end(&rig);
    }
}

static void requests_outlive_their_connection(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, 7, 0, 0);
    struct outcome first;
    struct outcome second;
    call(&rig, &first, HOLD, 0);
    call(&rig, &second, HOLD, 0);
    settle(&rig);
    assert_int_equal(rig.held_count, 2);
    assert_non_null(rig.held[0]->conn);
    fm_net_conn_close(rig.conn);
    settle(&rig);
    expect(&first, FM_ERR_CANCELLED, FM_NET_UNKNOWN, "simulated");
    assert_int_equal(rig.closed, 1);
    assert_null(rig.held[0]->conn);
    assert_int_equal(rig.sent, 0);
    rig.held_count = 1;
    release_held(&rig);
    settle(&rig);
    assert_int_equal(rig.sent, 1);
    assert_int_equal(rig.sent_status, FM_ERR_NET_CLOSED);
    end(&rig); // the other one was never answered
    assert_int_equal(rig.sent, 1);
}

static void freeing_a_loop_completes_its_calls(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, 8, 2, 0);
    static struct outcome outcomes[4];
    for (int i = 0; i < 4; i++)
        call(&rig, &outcomes[i], HOLD, 0);
    settle(&rig);
    fm_net_loop_free(rig.loops[1]);
    for (int i = 0; i < 4; i++)
        expect(&outcomes[i], FM_ERR_CANCELLED, i < 2 ? FM_NET_UNKNOWN : FM_NET_UNSENT, "");
    assert_int_equal(rig.down, 1);
    assert_ok(fm_net_loop_progress(rig.loops[0], 0));
    fm_net_loop_free(rig.loops[0]);
    net_world_free(rig.world);
}

static void bad_arguments_are_explained(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, 9, 0, 0);
    struct outcome outcome;
    fm_net_call it = call_of(&rig, &outcome, ECHO, 0);
    it.done = NULL;
    assert_fails(fm_net_conn_call(rig.conn, &it), FM_ERR_ARG, "needs done()");
    it = call_of(&rig, &outcome, ECHO, -1);
    assert_fails(fm_net_conn_call(rig.conn, &it), FM_ERR_ARG, "not negative");
    it = call_of(&rig, &outcome, ECHO, 0);
    it.body.payload_count = FM_NET_PIECES_MAX + 1;
    assert_fails(fm_net_conn_call(rig.conn, &it), FM_ERR_ARG, "9 pieces");
    fm_net_listener *listener;
    fm_net_listen_options listening = listen_options(&rig);
    rig.functions.drop = NULL;
    assert_fails(fm_net_loop_listen(rig.loops[0], "service:2", &listening, &listener), FM_ERR_ARG, "drop()");
    fm_net_watch watch = {.fd = 0};
    assert_fails(fm_net_watch_start(rig.loops[0], &watch), FM_ERR_UNSUPPORTED, "simulated");
    fm_net_region *region;
    assert_ok(fm_net_region_new(rig.loops[0], &rig, sizeof rig, &region));
    fm_net_region_free(rig.loops[0], region);
    assert_int_equal(fm_net_loop_fd(rig.loops[0]), -1);
    settle(&rig);
    call(&rig, &outcome, HOLD, 0);
    settle(&rig);
    assert_fails(fm_net_conn_call(rig.held[0]->conn, &it), FM_ERR_ARG, "calls go the other way");
    fm_net_answer positive = {.status = 1};
    assert_fails(fm_net_request_reply(rig.held[0], &positive), FM_ERR_ARG, "status 1");
    release_held(&rig);
    settle(&rig);
    end(&rig);
    fm_net_loop *loop;
    fm_net_loop_options options = {.size = sizeof options, .limits = {.args_bytes_max = 1 << 20}};
    assert_fails(fm_net_loop_new(&options, &loop), FM_ERR_ARG, "args_bytes_max is 1048576; at most 32768");
    options = (fm_net_loop_options){.size = sizeof options, .limits = {.payload_bytes_max = 2000000000}};
    assert_fails(fm_net_loop_new(&options, &loop), FM_ERR_ARG, "payload_bytes_max");
    options = (fm_net_loop_options){.size = sizeof options, .call_timeout_ns = -1};
    assert_fails(fm_net_loop_new(&options, &loop), FM_ERR_ARG, "call_timeout_ns");
}

static void backoff_doubles_within_bounds(void **state)
{
    (void)state;
    fm_net_backoff one = {.first_ns = 10 * ms, .limit_ns = 75 * ms, .seed = 1};
    fm_net_backoff same = one;
    fm_net_backoff other = {.first_ns = 10 * ms, .limit_ns = 75 * ms, .seed = 2};
    static const int64_t spans[] = {10, 20, 40, 75, 75, 75, 75, 75};
    int differ = 0;
    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
        int64_t wait = fm_net_backoff_next_ns(&one);
        assert_true(wait >= spans[i] * ms / 2 && wait <= spans[i] * ms);
        assert_true(wait == fm_net_backoff_next_ns(&same));
        differ += wait != fm_net_backoff_next_ns(&other);
    }
    assert_int_equal(differ, 8);
    one.attempt = UINT32_MAX - 1;
    assert_true(fm_net_backoff_next_ns(&one) <= 75 * ms);
    fm_net_backoff standard = {0};
    int64_t wait = fm_net_backoff_next_ns(&standard);
    assert_true(wait >= 25 * ms && wait <= 50 * ms);
}

static void a_dialer_finds_its_service_again(void **state)
{
    (void)state;
    struct rig rig = {.world = net_world_new(10, 2 * ms)};
    rig.loops[0] = net_world_loop(rig.world, NULL);
    rig.loops[1] = net_world_loop(rig.world, NULL);
    fm_net_connect_options connecting = connect_options(&rig);
    const fm_net_backoff backoff = {.first_ns = 20 * ms, .limit_ns = 200 * ms};
    fm_net_dialer *dialer;
    assert_fails(fm_net_dialer_new(rig.loops[1], "nowhere", &connecting, &backoff, &dialer), FM_ERR_ARG,
                 "no port");
    assert_ok(fm_net_dialer_new(rig.loops[1], "service:1", &connecting, &backoff, &dialer));
    run(&rig, &rig.never, 1000 * ms); // nobody listens yet
    assert_true(rig.down >= 6 && rig.down <= 14);
    assert_int_equal(rig.down_status, FM_ERR_NET_REFUSED);
    fm_net_listen_options listening = listen_options(&rig);
    assert_ok(fm_net_loop_listen(rig.loops[0], "service:1", &listening, &rig.listener));
    assert_true(run(&rig, &rig.up, 300 * ms));
    assert_ptr_equal(fm_net_dialer_conn(dialer), rig.conn);
    struct outcome outcome;
    call(&rig, &outcome, ECHO, 0);
    settle(&rig);
    expect(&outcome, FM_OK, FM_NET_ANSWERED, "");
    rig.down = rig.up = 0;
    fm_net_conn_close(rig.conn);
    settle(&rig);
    assert_int_equal(rig.down, 1); // told, and up again after one short wait, as after the first failure
    assert_int_equal(rig.up, 1);
    fm_net_dialer_free(dialer);
    settle(&rig);
    assert_int_equal(rig.down, 2);
    assert_int_equal(rig.up, 1);
    assert_ok(fm_net_dialer_new(rig.loops[1], "service:1", &connecting, &backoff, &dialer));
    assert_null(fm_net_dialer_conn(dialer));
    fm_net_dialer_free(dialer); // before its first attempt
    fm_net_dialer_free(NULL);
    end(&rig);
}

struct ticker {
    fm_net_loop *loop;
    fm_net_timer timer;
    fm_net_task task;
    int fired;
    int ran;
};

static void tick(void *context)
{
    struct ticker *ticker = context;
    ticker->fired++;
    assert_ok(fm_net_timer_start(ticker->loop, &ticker->timer, 0)); // again, at once
}

static void ran(void *context)
{
    struct ticker *ticker = context;
    if (++ticker->ran < 3)
        fm_net_loop_post(ticker->loop, &ticker->task); // a task may post itself
}

static void timers_and_tasks(void **state)
{
    (void)state;
    struct net_world *world = net_world_new(1, ms);
    fm_net_loop *loop = net_world_loop(world, NULL);
    struct ticker ticker = {.loop = loop};
    ticker.timer = (fm_net_timer){.fire = tick, .context = &ticker};
    ticker.task = (fm_net_task){.run = ran, .context = &ticker};
    assert_true(fm_net_loop_wait_ns(loop) == FM_NET_FOREVER);
    assert_ok(fm_net_timer_start(loop, &ticker.timer, 5 * ms));
    assert_true(fm_net_loop_wait_ns(loop) == 5 * ms);
    assert_ok(fm_net_loop_progress(loop, 0));
    assert_int_equal(ticker.fired, 0);
    assert_false(net_world_run(world, &loop, 1, &ticker.fired, 4 * ms));
    assert_true(net_world_run(world, &loop, 1, &ticker.fired, ms));
    int before = ticker.fired;
    assert_ok(fm_net_loop_progress(loop, 0));
    assert_int_equal(ticker.fired, before + 2); // once on each side of the network, not for ever
    fm_net_timer_stop(loop, &ticker.timer);
    fm_net_timer_stop(loop, &ticker.timer);
    assert_true(fm_net_loop_wait_ns(loop) == FM_NET_FOREVER);
    fm_net_loop_post(loop, &ticker.task);
    assert_true(fm_net_loop_wait_ns(loop) == 0);
    for (int i = 0; i < 5; i++)
        assert_ok(fm_net_loop_progress(loop, 0));
    assert_int_equal(ticker.ran, 3);
    fm_net_loop_stop(loop);
    assert_ok(fm_net_loop_run(loop)); // stopped before it ran
    assert_ok(fm_net_timer_start(loop, &ticker.timer, FM_NET_FOREVER));
    fm_net_loop_free(loop);
    net_world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_arrive_once_and_intact),
        cmocka_unit_test(a_deadline_closes_the_connection),
        cmocka_unit_test(a_call_that_was_not_sent_expires_alone),
        cmocka_unit_test(the_queue_is_bounded),
        cmocka_unit_test(failures_and_refusals_come_with_their_message),
        cmocka_unit_test(closing_completes_every_call_once),
        cmocka_unit_test(requests_outlive_their_connection),
        cmocka_unit_test(freeing_a_loop_completes_its_calls),
        cmocka_unit_test(bad_arguments_are_explained),
        cmocka_unit_test(backoff_doubles_within_bounds),
        cmocka_unit_test(a_dialer_finds_its_service_again),
        cmocka_unit_test(timers_and_tasks),
    };
    return fm_test_run("net.call", tests);
}
