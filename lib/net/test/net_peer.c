#include "net_peer.h"

#include <dirent.h>

#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fathom/mem.h"

const fm_net_key net_test_key = {{7, 7, 7}, {1, 2, 3, 4, 5}};
const fm_net_security net_keyed = {.mode = FM_NET_KEYED, .key = &net_test_key};
const fm_net_security net_same_user = {.mode = FM_NET_SAME_USER};

uint8_t *net_pattern(void)
{
    static uint8_t bytes[NET_PATTERN_BYTES];
    static int filled;
    if (!filled++) {
        fm_gen gen = fm_gen_seeded(1);
        fm_gen_fill(&gen, bytes, sizeof bytes);
    }
    return bytes;
}

static fm_status land(void *context, fm_net_request *request, void **out_payload)
{
    struct net_service *service = context;
    service->landed++;
    request->user = *out_payload = fm_base_mem_alloc(request->payload_bytes);
    return request->user ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "landing");
}

static void drop(void *context, fm_net_request *request)
{
    struct net_service *service = context;
    service->dropped++;
    fm_base_mem_free(request->user);
}

static void sent(void *context, fm_status status)
{
    struct net_service *service = context;
    (void)status;
    service->sent++;
}

static fm_status check_write(const fm_net_request *request, struct net_slice slice)
{
    const uint8_t *expected = net_pattern() + slice.at;
    if (request->payload_bytes != slice.size)
        return fm_base_error_set(FM_ERR_INTERNAL, "size");
    if (slice.size && (memcmp(request->payload, expected, slice.size) != 0 ||
                       request->payload_crc != fm_base_crc32c(0, expected, slice.size)))
        return fm_base_error_set(FM_ERR_INTERNAL, "bytes");
    return FM_OK;
}

static void serve(void *context, fm_net_request *request)
{
    struct net_service *service = context;
    struct net_slice slice = {0, 0};
    service->served++;
    if (request->args_bytes == sizeof slice)
        memcpy(&slice, request->args, sizeof slice);
    if (request->method == NET_HOLD) {
        service->held[service->held_count++] = request;
        return;
    }
    fm_status status = FM_OK;
    if (request->method == NET_WRITE)
        status = check_write(request, slice);
    else if (request->method != NET_READ)
        status = fm_base_error_set(FM_ERR_UNSUPPORTED, "method %u", request->method);
    if (request->payload_bytes)
        fm_base_mem_free(request->user);
    // Half of the slices go out in two pieces.
    uint8_t *from = net_pattern() + slice.at;
    size_t cut = slice.at % 2 ? slice.size / 3 : slice.size;
    const struct iovec payload[] = {{from, cut}, {from + cut, slice.size - cut}};
    const fm_net_answer answer = {
        .body = {.payload = payload, .payload_count = request->method == NET_READ ? 2 : 0},
        .sent = sent,
        .context = service,
    };
    if (status == FM_OK)
        status = fm_net_request_reply(request, &answer);
    if (status < 0)
        fm_net_request_fail(request, status);
}

static void opened(void *context, fm_net_conn *conn)
{
    struct net_service *service = context;
    (void)conn;
    service->opened++;
}

static void closed(void *context, fm_net_conn *conn, fm_status status)
{
    struct net_service *service = context;
    (void)conn;
    service->closed++;
    service->closed_status = status;
}

fm_net_listen_options net_service_options(struct net_service *service, const fm_net_security *security)
{
    net_pattern();
    service->functions = (fm_net_service){sizeof(fm_net_service), land, serve, drop, opened, closed, service};
    return (fm_net_listen_options){
        .size = sizeof(fm_net_listen_options), .service = &service->functions, .security = *security};
}

fm_net_listener *net_service_listen(struct net_service *service, fm_net_loop *loop, const char *address,
                                    const fm_net_security *security)
{
    fm_net_listener *listener;
    const fm_net_listen_options options = net_service_options(service, security);
    assert_ok(fm_net_loop_listen(loop, address, &options, &listener));
    return listener;
}

void net_service_release(struct net_service *service)
{
    const fm_net_answer answer = {.sent = sent, .context = service};
    while (service->held_count)
        assert_ok(fm_net_request_reply(service->held[--service->held_count], &answer));
}

static void client_up(void *context, fm_net_conn *conn)
{
    struct net_client *client = context;
    (void)conn;
    client->up++;
}

static void client_down(void *context, fm_net_conn *conn, fm_status status)
{
    struct net_client *client = context;
    (void)conn;
    client->conn = NULL;
    client->down++;
    client->down_status = status;
    snprintf(client->down_message, sizeof client->down_message, "%s", fm_error_message());
}

void net_client_connect(struct net_client *client, fm_net_loop *loop, const char *address,
                        const fm_net_security *security)
{
    *client = (struct net_client){.loop = loop};
    const fm_net_connect_options options = {sizeof options, client_up, client_down, client, *security};
    assert_ok(fm_net_loop_connect(loop, address, &options, &client->conn));
}

static void call_done(void *context, const fm_net_reply *reply)
{
    struct net_outcome *outcome = context;
    const uint8_t *expected = net_pattern() + outcome->slice.at;
    outcome->count++;
    outcome->status = reply->status;
    outcome->fate = reply->fate;
    snprintf(outcome->message, sizeof outcome->message, "%s", reply->status < 0 ? fm_error_message() : "");
    if (reply->status == FM_OK && outcome->method == NET_READ) {
        if (reply->payload_bytes != outcome->slice.size ||
            memcmp(outcome->buffer, expected, outcome->slice.size) != 0 ||
            reply->payload_crc != fm_base_crc32c(0, expected, outcome->slice.size))
            outcome->status = FM_ERR_INTERNAL; // wrong bytes under a good status: what must never be
    }
    fm_base_mem_free(outcome->buffer);
    outcome->buffer = NULL;
}

fm_status net_client_call(struct net_client *client, struct net_outcome *outcome, enum net_method method,
                          uint32_t at, uint32_t size, int64_t timeout_ns)
{
    *outcome = (struct net_outcome){.method = method, .slice = {at, size}};
    if (!client->conn)
        return fm_base_error_set(FM_ERR_NET_CLOSED, "down already");
    const struct iovec payload = {net_pattern() + at, size};
    fm_net_call call = {
        .method = method,
        .body = {.args = &outcome->slice, .args_bytes = sizeof outcome->slice},
        .timeout_ns = timeout_ns,
        .done = call_done,
        .context = outcome,
    };
    if (method == NET_WRITE) {
        call.body.payload = &payload;
        call.body.payload_count = 1;
    } else if (method == NET_READ) {
        call.reply_buffer = outcome->buffer = fm_base_mem_alloc(size);
        call.reply_bytes = size;
        if (!outcome->buffer)
            return fm_base_error_set(FM_ERR_NOMEM, "reply buffer");
    }
    fm_status status = fm_net_conn_call(client->conn, &call);
    if (status < 0) {
        fm_base_mem_free(outcome->buffer);
        outcome->buffer = NULL;
    }
    return status;
}

fm_net_loop *net_test_loop(const fm_net_limits *limits)
{
    fm_net_loop_options options = {.size = sizeof options};
    if (limits)
        options.limits = *limits;
    if (!options.limits.handshake_timeout_ns) // a loaded machine may leave a process out for seconds
        options.limits.handshake_timeout_ns = 60000000000;
    fm_net_loop *loop;
    assert_ok(fm_net_loop_new(&options, &loop));
    return loop;
}

void net_pump(fm_net_loop *const *loops, size_t count, const int *condition, int value, int limit_ms)
{
    uint64_t end_ns = fm_base_clock_ns() + (uint64_t)limit_ms * 1000000;
    while (*condition < value) {
        for (size_t i = 0; i < count; i++)
            assert_ok(fm_net_loop_progress(loops[i], count == 1 ? 10 * 1000000 : 0));
        if (fm_base_clock_ns() > end_ns)
            fail_msg("after %d ms the count is %d; expected %d", limit_ms, *condition, value);
    }
}

void net_until(fm_net_loop *loop, const int *condition, int value)
{
    net_pump(&loop, 1, condition, value, 20000);
}

void net_rest(fm_net_loop *loop, int ms)
{
    uint64_t end_ns = fm_base_clock_ns() + (uint64_t)ms * 1000000;
    while (fm_base_clock_ns() < end_ns)
        assert_ok(fm_net_loop_progress(loop, 1000000));
}

const char *net_unix_address(const char *name)
{
    static char addresses[32][FM_NET_ADDRESS_BYTES];
    static int next;
    char *address = addresses[next++ % 32];
    snprintf(address, sizeof addresses[0], "unix:%s/%s", fm_test_tmpdir(), name);
    return address;
}

int net_count_fds(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

int net_count_areas(void)
{
    char line[512];
    int count = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        count += strstr(line, "memfd:fathom-net") != NULL;
    fclose(file);
    return count;
}
