#include "fm_test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "metrics.h"

static struct {
    fm_net_loop *loop;
    fm_fs_metrics *metrics;
    uint16_t port;
    int scrapes;
} world;

static void write_two(void *context, struct fm_fs_metrics_text *text)
{
    world.scrapes++;
    assert_ptr_equal(context, &world);
    fm_fs_metrics_one(text, "answers_total", "counter", "What was answered.", 42);
    fm_fs_metrics_begin(text, "size", "gauge", "Sizes.");
    fm_fs_metrics_value(text, "size", "of", "a", 0.5);
    fm_fs_metrics_value(text, "size", "of", "b", 1e18);
    fm_fs_metrics_begin(text, "wait", "histogram", "Waits.");
    fm_fs_metrics_histogram(text, "wait", "for", "c", (double[]){0.25, 1}, (uint64_t[]){3, 0, 4}, 2, 8.5);
}

static void open_world(void)
{
    memset(&world, 0, sizeof world);
    assert_ok(fm_net_loop_new(NULL, &world.loop));
    assert_ok(fm_fs_metrics_open(world.loop, "127.0.0.1:0", write_two, &world, &world.metrics));
    assert_int_equal(sscanf(fm_fs_metrics_address(world.metrics), "127.0.0.1:%hu", &world.port), 1);
    assert_true(world.port > 0);
}

static void close_world(void)
{
    fm_fs_metrics_close(world.metrics);
    fm_net_loop_free(world.loop);
}

static int connect_to(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(world.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

// All that comes until the other end closes; the loop runs meanwhile.
static const char *hear(int fd)
{
    static char text[65536];
    size_t size = 0;
    for (;;) {
        ssize_t got = recv(fd, text + size, sizeof text - 1 - size, 0);
        if (got == 0 || (got < 0 && errno == ECONNRESET))
            break;
        if (got > 0)
            size += (size_t)got;
        else
            assert_ok(fm_net_loop_progress(world.loop, 10000000));
        assert_true(size < sizeof text - 1);
    }
    text[size] = 0;
    close(fd);
    return text;
}

static void scrapes_are_answered(void **state)
{
    (void)state;
    open_world();
    for (int i = 1; i <= 3; i++) {
        int fd = connect_to();
        say(fd, "GET /metrics HTTP/1.1\r\nHost: x\r\n");
        assert_ok(fm_net_loop_progress(world.loop, 0));
        say(fd, "Accept: */*\r\n\r\n"); // in two pieces
        const char *text = hear(fd);
        assert_memory_equal(text, "HTTP/1.1 200 OK\r\n", 17);
        assert_non_null(strstr(text, "Content-Type: text/plain; version=0.0.4"));
        assert_non_null(strstr(text, "# TYPE fathom_fs_answers_total counter\nfathom_fs_answers_total 42\n"));
        assert_non_null(strstr(text, "fathom_fs_size{of=\"a\"} 0.5\nfathom_fs_size{of=\"b\"} 1e+18\n"));
        assert_non_null(strstr(text,
                               "# TYPE fathom_fs_wait histogram\n"
                               "fathom_fs_wait_bucket{for=\"c\",le=\"0.25\"} 3\n"
                               "fathom_fs_wait_bucket{for=\"c\",le=\"1\"} 3\n"
                               "fathom_fs_wait_bucket{for=\"c\",le=\"+Inf\"} 7\n"
                               "fathom_fs_wait_sum{for=\"c\"} 8.5\nfathom_fs_wait_count{for=\"c\"} 7\n"));
        assert_non_null(strstr(text, "process_resident_memory_bytes "));
        const char *body = strstr(text, "\r\n\r\n");
        size_t length = 0;
        assert_non_null(body);
        assert_int_equal(sscanf(strstr(text, "Content-Length: "), "Content-Length: %zu", &length), 1);
        assert_int_equal(strlen(body + 4), length);
        assert_int_equal(world.scrapes, i);
    }
    close_world();
}

static void other_requests_get_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *says, *gets;
    } cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404"},
        {"GET /metricsx HTTP/1.1\r\n\r\n", "HTTP/1.1 404"},
        {"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405"},
        {"\r\n\r\n", "HTTP/1.1 405"},
        {"GET /metrics?x=1 HTTP/1.1\r\n\r\n", "HTTP/1.1 200"},
    };
    static char large[9000];
    open_world();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = connect_to();
        say(fd, cases[i].says);
        assert_memory_equal(hear(fd), cases[i].gets, 12);
    }
    memset(large, 'x', sizeof large - 1);
    int fd = connect_to();
    say(fd, large);
    assert_string_equal(hear(fd), "");
    assert_int_equal(world.scrapes, 1);
    close_world();
}

// Peers that say nothing take the places, and those beyond are turned away; whoever leaves makes room.
static void idle_peers_are_few(void **state)
{
    (void)state;
    int idle[8];
    open_world();
    for (int i = 0; i < 8; i++) {
        idle[i] = connect_to();
        assert_ok(fm_net_loop_progress(world.loop, 1000000000));
    }
    assert_string_equal(hear(connect_to()), "");
    close(idle[3]);
    assert_ok(fm_net_loop_progress(world.loop, 1000000000));
    int fd = connect_to();
    say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
    assert_memory_equal(hear(fd), "HTTP/1.1 200", 12);
    close_world(); // the others are closed with it
    for (int i = 0; i < 8; i++)
        if (i != 3)
            close(idle[i]);
}

static void wrong_addresses_are_refused(void **state)
{
    (void)state;
    fm_fs_metrics *other;
    open_world();
    assert_fails(fm_fs_metrics_open(world.loop, "unix:/tmp/x", write_two, NULL, &other), FM_ERR_ARG,
                 "host:port");
    assert_fails(fm_fs_metrics_open(world.loop, "nonsense", write_two, NULL, &other), FM_ERR_ARG, "nonsense");
    assert_int_equal(
        fm_fs_metrics_open(world.loop, fm_fs_metrics_address(world.metrics), write_two, NULL, &other) < 0, 1);
    assert_non_null(strstr(fm_error_message(), "listening for scrapers"));
    close_world();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scrapes_are_answered),
        cmocka_unit_test(other_requests_get_nothing),
        cmocka_unit_test(idle_peers_are_few),
        cmocka_unit_test(wrong_addresses_are_refused),
    };
    return fm_test_run("metrics", tests);
}
