// The executor between processes: forked ranks over rings in shared memory and over sockets, with ranks that stop and die.
#include "pipe_mlp.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS_MAX = 8, LANES_MAX = 2, DEPTH = 2 };

// What a rank leaves in shared memory.
struct report {
    fm_status status;
    char message[512];
    double loss;
    double gradients[LANES_MAX][MLP_WEIGHTS];
};

// Two ends of a neighbour's connection: sockets that keep messages whole.
struct socket_link {
    int fd[RANKS_MAX]; // by peer; -1: none
};

static fm_status socket_send(void *context, int peer, const fm_pipe_tag *tag, const void *payload)
{
    struct socket_link *link = context;
    struct {
        fm_pipe_tag tag;
        double payload[MLP_CELLS];
    } message = {.tag = *tag};
    memcpy(message.payload, payload, tag->bytes);
    if (send(link->fd[peer], &message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return FM_OK;
    if (errno == EAGAIN)
        return FM_ERR_BUSY;
    return fm_base_error_set_errno(FM_ERR_NET_CLOSED, errno, "send");
}

static fm_status socket_receive(void *context, int peer, size_t capacity, fm_pipe_tag *out_tag,
                                void *out_payload)
{
    struct socket_link *link = context;
    struct iovec parts[] = {{out_tag, sizeof *out_tag}, {out_payload, capacity}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t size = recvmsg(link->fd[peer], &message, MSG_DONTWAIT);
    if (size > 0)
        return message.msg_flags & MSG_TRUNC ? fm_base_error_set(FM_ERR_LIMIT, "truncated") : FM_OK;
    if (size < 0 && errno == EAGAIN)
        return FM_ERR_BUSY;
    return size < 0 ? fm_base_error_set_errno(FM_ERR_NET_CLOSED, errno, "recvmsg")
                    : fm_base_error_set(FM_ERR_NET_CLOSED, "the peer is gone");
}

// sockets[r]: between rank r and the next one.
static void make_sockets(int ranks, int (*sockets)[2])
{
    for (int rank = 0; rank < ranks; rank++)
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets[rank]), 0);
}

static struct socket_link take_ends(int rank, int ranks, int (*sockets)[2])
{
    struct socket_link link;
    for (int i = 0; i < RANKS_MAX; i++)
        link.fd[i] = -1;
    for (int i = 0; i < ranks; i++) {
        int next = (i + 1) % ranks;
        // With two ranks there are two pairs; the first one is the link.
        if (i == rank && link.fd[next] < 0)
            link.fd[next] = sockets[i][0];
        else
            close(sockets[i][0]);
        if (next == rank && link.fd[i] < 0)
            link.fd[i] = sockets[i][1];
        else
            close(sockets[i][1]);
    }
    return link;
}

struct group {
    fm_pipe_program *program;
    fm_pipe_plan *plan;
    int use_sockets;
    int sockets[RANKS_MAX][2];
    void *memory;
    size_t memory_bytes;
    struct report *reports; // shared
    pid_t pids[RANKS_MAX];
    int timeout_ms;
    int stall_rank; // -1: none
    int stall_op;
};

// A child's life; it must not return into cmocka.
static _Noreturn void be_rank(struct group *group, int rank)
{
    struct report *report = &group->reports[rank];
    struct socket_link sockets;
    fm_pipe_link link = {.context = &sockets, .send = socket_send, .receive = socket_receive};
    fm_pipe_ring *ring;
    if (group->use_sockets) {
        sockets = take_ends(rank, group->program->ranks, group->sockets);
    } else {
        report->status = fm_pipe_ring_open(group->memory, &ring);
        if (report->status != FM_OK)
            _exit(1);
        link = fm_pipe_ring_link(ring, rank);
    }
    struct mlp_rank mlp = mlp_rank_make(group->program, group->plan, rank);
    mlp.stall_op = rank == group->stall_rank ? group->stall_op : -1;
    fm_pipe_executor_options options = mlp_options(&mlp, group->plan, rank, link, 1);
    options.timeout_ms = group->timeout_ms;
    fm_pipe_executor *executor;
    report->status = fm_pipe_executor_create(&options, &executor);
    if (report->status == FM_OK)
        report->status = fm_pipe_executor_run(executor, 0);
    if (report->status != FM_OK)
        snprintf(report->message, sizeof report->message, "%s", fm_error_message());
    report->loss = mlp.loss;
    memcpy(report->gradients, mlp.gradients, (size_t)group->program->lanes * sizeof *mlp.gradients);
    _exit(0);
}

static struct group begin_group(fm_pipe_program *program, int use_sockets, int timeout_ms, int stall_rank,
                                int stall_op)
{
    struct group group = {.program = program,
                          .use_sockets = use_sockets,
                          .timeout_ms = timeout_ms,
                          .stall_rank = stall_rank,
                          .stall_op = stall_op};
    assert_ok(fm_pipe_plan_create(program, &group.plan));
    size_t ring_bytes;
    assert_ok(fm_pipe_ring_bytes(program->ranks, DEPTH, mlp_message.bytes, &ring_bytes));
    group.memory_bytes = ring_bytes + RANKS_MAX * sizeof(struct report);
    group.memory = mmap(NULL, group.memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(group.memory != MAP_FAILED);
    fm_pipe_ring *ring;
    assert_ok(fm_pipe_ring_init(group.memory, program->ranks, DEPTH, mlp_message.bytes, &ring));
    group.reports = (struct report *)((char *)group.memory + ring_bytes);
    if (use_sockets)
        make_sockets(program->ranks, group.sockets);
    fflush(NULL);
    for (int rank = 0; rank < program->ranks; rank++) {
        group.pids[rank] = fork();
        assert_true(group.pids[rank] >= 0);
        if (group.pids[rank] == 0)
            be_rank(&group, rank);
    }
    for (int rank = 0; rank < program->ranks && use_sockets; rank++) {
        close(group.sockets[rank][0]);
        close(group.sockets[rank][1]);
    }
    return group;
}

static void wait_for_rank(struct group *group, int rank)
{
    int status;
    assert_int_equal(waitpid(group->pids[rank], &status, 0), group->pids[rank]);
    group->pids[rank] = 0;
}

static void end_group(struct group *group)
{
    for (int rank = 0; rank < group->program->ranks; rank++)
        if (group->pids[rank])
            wait_for_rank(group, rank);
    munmap(group->memory, group->memory_bytes);
    fm_pipe_plan_free(group->plan);
    fm_pipe_program_free(group->program);
}

static void train_on_processes(fm_pipe_program *program, int use_sockets)
{
    struct group group = begin_group(program, use_sockets, 20000, -1, 0);
    double losses[RANKS_MAX];
    double gradients[RANKS_MAX * LANES_MAX][MLP_WEIGHTS];
    for (int rank = 0; rank < program->ranks; rank++) {
        wait_for_rank(&group, rank);
        const struct report *report = &group.reports[rank];
        if (report->status != FM_OK)
            fail_msg("rank %d: %s", rank, report->message);
        losses[rank] = report->loss;
        memcpy(gradients[rank * program->lanes], report->gradients,
               (size_t)program->lanes * sizeof *gradients);
    }
    mlp_compare(program, losses, gradients);
    end_group(&group);
}

static void every_schedule_trains_over_shared_memory(void **state)
{
    (void)state;
    for (int schedule = 1; schedule < FM_PIPE_SCHEDULE_COUNT; schedule++)
        for (int ranks = 2; ranks <= 8; ranks *= 2)
            train_on_processes(pipe_case((fm_pipe_schedule)schedule, ranks, 2 * ranks, 0), 0);
}

static void every_schedule_trains_over_sockets(void **state)
{
    (void)state;
    for (int schedule = 1; schedule < FM_PIPE_SCHEDULE_COUNT; schedule++)
        for (int ranks = 2; ranks <= 4; ranks *= 2)
            train_on_processes(pipe_case((fm_pipe_schedule)schedule, ranks, 2 * ranks + 1, 0), 1);
}

static void a_stalled_rank_is_named_by_its_neighbours(void **state)
{
    (void)state;
    struct group group = begin_group(pipe_case(FM_PIPE_DUALPIPE, 4, 8, 0), 0, 200, 2, 5);
    for (int rank = 0; rank < 4; rank++) {
        if (rank == 2)
            continue;
        wait_for_rank(&group, rank);
        assert_int_equal(group.reports[rank].status, FM_ERR_TIMEOUT);
    }
    assert_non_null(strstr(group.reports[1].message, "rank 1, step 0, op "));
    assert_non_null(strstr(group.reports[1].message, "for rank 2 to send the "));
    assert_non_null(strstr(group.reports[3].message, "for rank 2 to send the "));
    kill(group.pids[2], SIGKILL);
    end_group(&group);
}

static void a_killed_rank_is_named_by_its_neighbours(void **state)
{
    (void)state;
    struct group group = begin_group(pipe_case(FM_PIPE_1F1B, 3, 6, 0), 1, 20000, 1, 4);
    // Rank 1 stands still in its fifth op; its neighbours wait for it, and see their connections close.
    usleep(20000);
    kill(group.pids[1], SIGKILL);
    wait_for_rank(&group, 0);
    wait_for_rank(&group, 2);
    for (int rank = 0; rank < 3; rank += 2) {
        assert_int_equal(group.reports[rank].status, FM_ERR_NET_CLOSED);
        assert_non_null(strstr(group.reports[rank].message, "rank 1, "));
        assert_non_null(strstr(group.reports[rank].message, "op "));
    }
    end_group(&group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_trains_over_shared_memory),
        cmocka_unit_test(every_schedule_trains_over_sockets),
        cmocka_unit_test(a_stalled_rank_is_named_by_its_neighbours),
        cmocka_unit_test(a_killed_rank_is_named_by_its_neighbours),
    };
    return fm_test_run("pipe.pipe_process", tests);
}
