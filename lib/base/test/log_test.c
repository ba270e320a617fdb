#include "fm_test.h"

#include "fathom/log.h"
#include "log_line.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs `body` with standard error going to a file; returns what was written, in a buffer of its own. */
static const char *captured(void (*body)(void))
{
    static char text[1 << 20];
    char path[4200];
    snprintf(path, sizeof path, "%s/stderr", fm_test_tmpdir());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    int saved = dup(STDERR_FILENO);
    assert_true(fd >= 0 && saved >= 0);
    dup2(fd, STDERR_FILENO);
    body();
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t length = pread(fd, text, sizeof text - 1, 0);
    close(fd);
    assert_true(length >= 0);
    text[length] = 0;
    return text;
}

/* In a child, for FM_LOG is read once in a process. */
static void log_in_a_child(const char *levels)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("FM_LOG", levels, 1);
        fm_base_error_set(FM_ERR_IO, "kept");
        fm_log_debug("net", "net debug, %s", fm_error_message());
        fm_log_debug("fs", "fs debug");
        fm_log_info("fs", "fs info");
        fm_log_warn("fs", "fs warn");
        fm_log_error("fs", "fs error");
        _exit(strcmp(fm_error_message(), "kept") != 0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void with_info_and_debug(void)
{
    log_in_a_child("info,net=debug,,");
}

static void with_off(void)
{
    log_in_a_child("off");
}

static void with_nonsense(void)
{
    log_in_a_child("info,net=loud");
}

static void with_nothing(void)
{
    log_in_a_child("");
}

static int count_lines(const char *text)
{
    int lines = 0;
    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

static void the_environment_sets_levels(void **state)
{
    (void)state;
    const char *text = captured(with_info_and_debug);
    assert_int_equal(count_lines(text), 4);
    assert_non_null(strstr(text, "Z debug net: net debug, kept\n"));
    assert_non_null(strstr(text, "Z info  fs: fs info\n"));
    assert_null(strstr(text, "fs debug"));

    assert_string_equal(captured(with_off), "");

    text = captured(with_nothing);
    assert_int_equal(count_lines(text), 2);
    assert_non_null(strstr(text, "Z warn  fs: fs warn\n"));
    assert_non_null(strstr(text, "Z error fs: fs error\n"));

    text = captured(with_nonsense);
    assert_int_equal(count_lines(text), 3);
    assert_non_null(
        strstr(text, "Z error base: FM_LOG: log level \"loud\"; expected off, error, warn, info or debug\n"));
}

struct kept {
    int count;
    fm_log_line last;
    char text[2048];
};

static void keep(void *context, const fm_log_line *line)
{
    struct kept *kept = context;
    kept->count++;
    kept->last = *line;
    snprintf(kept->text, sizeof kept->text, "%s", line->text);
}

static int evaluated;

static int evaluate(void)
{
    return ++evaluated;
}

static void a_sink_sees_what_is_on(void **state)
{
    (void)state;
    struct kept kept = {0};
    fm_base_log_set_sink(keep, &kept);
    assert_ok(fm_base_log_configure("error,mla=info,mla=warn,ep=info"));
    fm_log_info("mla", "off by the last word on mla: %d",
                evaluate()); // may be evaluated: some library has info on
    assert_int_equal(kept.count, 0);
    int before = evaluated;
    fm_log_debug("ep", "on nowhere: %d", evaluate());
    assert_int_equal(evaluated, before);
    errno = 99;
    fm_log_info("ep", "%d\ttokens\n%s", 5, "\033[31mred\177");
    assert_int_equal(errno, 99);
    assert_int_equal(kept.count, 1);
    assert_int_equal(kept.last.level, FM_LOG_INFO);
    assert_string_equal(kept.last.library, "ep");
    assert_string_equal(kept.text, "5 tokens  [31mred ");
    assert_true(kept.last.unix_ns > UINT64_C(1577836800000000000));

    char lengthy[3000];
    memset(lengthy, 'x', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = 0;
    fm_log_error("any", "%s", lengthy);
    assert_int_equal(strlen(kept.text), 1023);
    fm_base_log_set_sink(NULL, NULL);
}

static void wrong_levels_change_nothing(void **state)
{
    (void)state;
    struct kept kept = {0};
    fm_base_log_set_sink(keep, &kept);
    assert_ok(fm_base_log_configure("info"));
    assert_fails(fm_base_log_configure("debug,Warn"), FM_ERR_ARG, "\"Warn\"; expected off, error");
    assert_fails(fm_base_log_configure("net="), FM_ERR_ARG, "\"\"");
    assert_fails(fm_base_log_configure("=info"), FM_ERR_ARG, "before \"=\"");
    assert_fails(fm_base_log_configure("a_name_that_is_too_long=info"), FM_ERR_LIMIT,
                 "a_name_that_is_too_long");
    char many[33 * 8] = "";
    for (int i = 0; i < 33; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "l%d=off,", i);
    assert_fails(fm_base_log_configure(many), FM_ERR_LIMIT, "l32");
    fm_log_info("net", "shown");
    fm_log_debug("net", "not shown");
    assert_int_equal(kept.count, 1);
    fm_base_log_set_sink(NULL, NULL);
    assert_ok(fm_base_log_configure(NULL));
}

static void log_again(void *context, const fm_log_line *line)
{
    (void)line;
    ++*(int *)context;
    fm_log_error("sink", "from the sink");
}

static int sink_calls;

static void log_to_a_sink_that_logs(void)
{
    fm_base_log_set_sink(log_again, &sink_calls);
    fm_log_error("test", "first");
    fm_base_log_set_sink(NULL, NULL);
}

static void a_sink_that_logs_does_not_call_itself(void **state)
{
    (void)state;
    const char *text = captured(log_to_a_sink_that_logs);
    assert_int_equal(sink_calls, 1);
    assert_int_equal(count_lines(text), 1);
    assert_non_null(strstr(text, "error sink: from the sink\n"));
}

enum { THREADS = 4, LINES = 500 };

static void *log_many(void *context)
{
    char letter = *(const char *)context;
    char text[200];
    memset(text, letter, sizeof text - 1);
    text[sizeof text - 1] = 0;
    for (int i = 0; i < LINES; i++)
        fm_log_error("test", "%s", text);
    return NULL;
}

static void log_from_threads(void)
{
    static char letters[THREADS] = {'a', 'b', 'c', 'd'};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, log_many, &letters[i]) != 0)
            abort();
    for (int i = 0; i < 50; i++)
        if (fm_base_log_configure(i % 2 ? "error" : "error,net=debug") < 0)
            abort();
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void lines_of_threads_do_not_mix(void **state)
{
    (void)state;
    const char *text = captured(log_from_threads);
    int lines = 0;
    for (const char *line = text; *line; line = strchr(line, '\n') + 1, lines++) {
        const char *body = strstr(line, "error test: ") + strlen("error test: ");
        for (int i = 0; i < 199; i++)
            assert_int_equal(body[i], body[0]);
        assert_int_equal(body[199], '\n');
    }
    assert_int_equal(lines, THREADS * LINES);
    assert_ok(fm_base_log_configure(NULL));
}

static void log_over_a_bar(void)
{
    fm_base_log_bar(1);
    fm_log_error("test", "over");
    fm_base_log_bar(0);
    fm_log_error("test", "after");
}

static void a_bar_is_cleared_first(void **state)
{
    (void)state;
    const char *text = captured(log_over_a_bar);
    assert_int_equal(strncmp(text, "\r\033[K2", 5), 0);
    assert_int_equal(strchr(text, '\n')[1], '2');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_environment_sets_levels), // first: it needs a process that has not logged
        cmocka_unit_test(a_sink_sees_what_is_on),
        cmocka_unit_test(wrong_levels_change_nothing),
        cmocka_unit_test(a_sink_that_logs_does_not_call_itself),
        cmocka_unit_test(lines_of_threads_do_not_mix),
        cmocka_unit_test(a_bar_is_cleared_first),
    };
    return fm_test_run("base.log", tests);
}
