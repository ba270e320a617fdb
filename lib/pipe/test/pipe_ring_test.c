#include "pipe_cases.h"

#include <pthread.h>
#include <sched.h>

static fm_pipe_ring *make_ring(int ranks, int depth, size_t bytes_max)
{
    size_t bytes;
    fm_pipe_ring *ring;
    assert_ok(fm_pipe_ring_bytes(ranks, depth, bytes_max, &bytes));
    void *memory = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    assert_ok(fm_pipe_ring_init(memory, ranks, depth, bytes_max, &ring));
    return ring;
}

static void messages_come_out_in_order_up_to_depth(void **state)
{
    (void)state;
    fm_pipe_ring *ring = make_ring(3, 2, 8);
    fm_pipe_link at_0 = fm_pipe_ring_link(ring, 0);
    fm_pipe_link at_1 = fm_pipe_ring_link(ring, 1);
    fm_pipe_tag tag;
    uint64_t value = 0;
    assert_int_equal(at_1.receive(at_1.context, 0, 8, &tag, &value), FM_ERR_BUSY);
    uint64_t sent = 0;
    uint64_t received = 0;
    for (int round = 0; round < 10; round++) {
        for (;;) {
            tag = (fm_pipe_tag){.bytes = 8, .step = sent};
            if (at_0.send(at_0.context, 1, &tag, &sent) == FM_ERR_BUSY)
                break;
            sent++;
        }
        assert_int_equal(sent - received, 2);
        assert_ok(at_1.receive(at_1.context, 0, 8, &tag, &value));
        assert_int_equal(tag.step, received);
        assert_int_equal(value, received++);
    }
    fm_base_mem_free(ring);
}

static void limits_are_kept(void **state)
{
    (void)state;
    fm_pipe_ring *ring = make_ring(4, 1, 100);
    fm_pipe_link at_0 = fm_pipe_ring_link(ring, 0);
    fm_pipe_link at_3 = fm_pipe_ring_link(ring, 3);
    char payload[100] = "text";
    char out[100] = "";
    fm_pipe_tag tag = {.bytes = 101};
    assert_fails(at_0.send(at_0.context, 1, &tag, payload), FM_ERR_LIMIT,
                 "101 bytes; the ring was made for 100");
    tag.bytes = 100;
    assert_fails(at_0.send(at_0.context, 2, &tag, payload), FM_ERR_ARG,
                 "no neighbour of rank 0; expected 3 or 1");
    assert_fails(at_0.receive(at_0.context, 2, 100, &tag, out), FM_ERR_ARG, "no neighbour");
    assert_ok(at_0.send(at_0.context, 3, &tag, payload));
    tag.bytes = 0;
    assert_fails(at_3.receive(at_3.context, 0, 99, &tag, out), FM_ERR_LIMIT,
                 "100 bytes; expected at most 99");
    assert_int_equal(tag.bytes, 100);
    assert_ok(at_3.receive(at_3.context, 0, 100, &tag, out));
    assert_string_equal(out, "text");
    fm_base_mem_free(ring);

    size_t bytes = 7;
    assert_fails(fm_pipe_ring_bytes(0, 1, 1, &bytes), FM_ERR_ARG, "ranks is 0");
    assert_fails(fm_pipe_ring_bytes(2, 0, 1, &bytes), FM_ERR_ARG, "depth is 0");
    assert_fails(fm_pipe_ring_bytes(2, INT32_MAX, SIZE_MAX / 4, &bytes), FM_ERR_LIMIT, "overflows");
    assert_fails(fm_pipe_ring_bytes(2, 1, SIZE_MAX, &bytes), FM_ERR_LIMIT, "overflows");
    assert_fails(fm_pipe_ring_init(NULL, 2, 1, 1, &ring), FM_ERR_ARG, "aligned");
    _Alignas(FM_CACHE_LINE) char nothing[256] = {0};
    assert_fails(fm_pipe_ring_init(nothing + 8, 2, 1, 1, &ring), FM_ERR_ARG, "aligned");
    assert_fails(fm_pipe_ring_open(nothing, &ring), FM_ERR_FORMAT, "no ring begins here");
    assert_int_equal(bytes, 7);
}

enum { MESSAGES = 20000 };

static void *send_all(void *context)
{
    fm_pipe_link link = fm_pipe_ring_link(context, 0);
    for (uint64_t i = 0; i < MESSAGES; i++) {
        uint64_t payload[4] = {i, i + 1, i + 2, i + 3};
        fm_pipe_tag tag = {.bytes = i % 2 ? sizeof payload : 8, .step = i};
        while (link.send(link.context, 1, &tag, payload) == FM_ERR_BUSY)
            sched_yield();
    }
    return NULL;
}

static void a_writer_and_a_reader_need_no_lock(void **state)
{
    (void)state;
    fm_pipe_ring *ring = make_ring(2, 3, 32);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_all, ring), 0);
    fm_pipe_link link = fm_pipe_ring_link(ring, 1);
    int wrong = 0;
    for (uint64_t i = 0; i < MESSAGES; i++) {
        uint64_t payload[4];
        fm_pipe_tag tag;
        while (link.receive(link.context, 0, sizeof payload, &tag, payload) == FM_ERR_BUSY)
            sched_yield();
        wrong += tag.step != i || payload[0] != i || (i % 2 && payload[3] != i + 3);
    }
    pthread_join(thread, NULL);
    assert_int_equal(wrong, 0);
    fm_base_mem_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_come_out_in_order_up_to_depth),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(a_writer_and_a_reader_need_no_lock),
    };
    return fm_test_run("pipe.pipe_ring", tests);
}
