#include "fm_test.h"

#include "fathom/log.h"
#include "fathom/progress.h"
#include "fathom/text.h"

#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* A progress whose clock the test sets and whose output it reads. */
struct rig {
    fm_progress_output output;
    uint64_t ns;
    char text[20000];
};

static uint64_t read_clock(void *clock)
{
    return *(uint64_t *)clock;
}

static void rig_open(struct rig *rig, int bar, int columns)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/output", fm_test_tmpdir());
    *rig = (struct rig){.ns = 12345};
    rig->output.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(rig->output.fd >= 0);
    rig->output.bar = bar;
    rig->output.columns = columns;
    rig->output.clock_ns = read_clock;
    rig->output.clock = &rig->ns;
}

static void rig_pass(struct rig *rig, double seconds)
{
    rig->ns += (uint64_t)(seconds * 1e9);
}

/* What was written since the last call. */
static const char *rig_read(struct rig *rig)
{
    off_t end = lseek(rig->output.fd, 0, SEEK_CUR);
    assert_true(end >= 0 && end < (off_t)sizeof rig->text);
    assert_int_equal(pread(rig->output.fd, rig->text, (size_t)end, 0), end);
    rig->text[end] = 0;
    assert_int_equal(ftruncate(rig->output.fd, 0), 0);
    lseek(rig->output.fd, 0, SEEK_SET);
    return rig->text;
}

static void lines_are_rare(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, 0, 0);
    fm_progress progress;
    fm_base_progress_begin_on(&progress, &rig.output, "count", "tokens", 1000);
    for (int i = 0; i < 1000; i++)
        fm_base_progress_update(&progress, 50);
    assert_string_equal(rig_read(&rig), "");
    rig_pass(&rig, 0.9);
    fm_base_progress_update(&progress, 100); // a tenth, but not yet a second
    assert_string_equal(rig_read(&rig), "");
    rig_pass(&rig, 1.1);
    fm_base_progress_update(&progress, 120);
    assert_string_equal(rig_read(&rig), "count: 12 %, ETA 14.7 s, 120/1.00 k tokens, 60 tokens/s\n");
    rig_pass(&rig, 9.9);
    fm_base_progress_update(&progress, 199);
    assert_string_equal(rig_read(&rig), "");
    rig_pass(&rig, 0.1);
    fm_base_progress_update(&progress, 199); // the same tenth, after 10 s
    assert_non_null(strstr(rig_read(&rig), "count: 19 %, ETA"));
    fm_base_progress_label(&progress, "count 2/2");
    rig_pass(&rig, 1);
    fm_base_progress_update(&progress, 199);
    assert_non_null(strstr(rig_read(&rig), "count 2/2: 19 %, "));
    rig_pass(&rig, 8);
    fm_base_progress_update(&progress, 999);
    assert_non_null(strstr(rig_read(&rig), "count 2/2: 99 %, "));
    fm_base_progress_finish(&progress, FM_OK);
    assert_string_equal(rig_read(&rig), "count 2/2: done, 999 tokens in 21.0 s (47.6 tokens/s)\n");
    close(rig.output.fd);
}

static void a_bar_moves_ten_times_a_second(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, 1, 90);
    fm_progress progress;
    fm_base_progress_begin_on(&progress, &rig.output, "read", "B", 1 << 30);
    fm_base_progress_update(&progress, 0); // at once
    assert_string_equal(rig_read(&rig), "\rread |                              |   0 %  0 B/1.00 GiB\033[K");
    int frames = 0;
    for (int i = 0; i < 10000; i++) {
        rig_pass(&rig, 1e-4);
        fm_base_progress_update(&progress, (uint64_t)i << 15);
        frames += *rig_read(&rig) != 0;
    }
    assert_true(frames >= 9 && frames <= 10);
    rig_pass(&rig, 1);
    fm_base_progress_update(&progress, 1 << 29);
    const char *text = rig_read(&rig);
    assert_non_null(strstr(text, "\rread |███████████████               |  50 %  ETA "));
    assert_non_null(strstr(text, "  512 MiB/1.00 GiB  "));
    assert_non_null(strstr(text, " MiB/s\033[K"));
    fm_base_progress_finish(&progress, FM_OK);
    assert_string_equal(rig_read(&rig), "\r\033[Kread: done, 512 MiB in 2.00 s (256 MiB/s)\n");
    close(rig.output.fd);
}

static void failures_and_unknown_totals(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, 1, 60);
    fm_progress progress;
    fm_base_progress_begin_on(&progress, &rig.output, "scan\n\033", "files", 0);
    rig_pass(&rig, 2);
    fm_base_progress_update(&progress, 1234567);
    assert_string_equal(rig_read(&rig), "\rscan    1.23 M files  617 k files/s\033[K");
    fm_base_progress_finish(&progress, FM_ERR_CANCELLED);
    assert_string_equal(rig_read(&rig), "\r\033[Kscan  : cancelled, 1.23 M files in 2.00 s\n");

    rig.output.bar = 0;
    fm_base_progress_begin_on(&progress, &rig.output, "scan", "files", 3);
    fm_base_progress_update(&progress, 1);
    fm_base_progress_finish(&progress, FM_ERR_IO);
    assert_string_equal(rig_read(&rig), "scan: input/output error, 1 files in 0 ns, at 33 %\n");
    close(rig.output.fd);
}

static void a_bar_fits_any_width(void **state)
{
    (void)state;
    struct rig rig;
    for (int columns = 1; columns < 150; columns++) {
        rig_open(&rig, 1, columns);
        fm_progress progress;
        fm_base_progress_begin_on(&progress, &rig.output, "模型模型 with a label of many words", "tokens",
                                  3000000);
        rig_pass(&rig, 1);
        fm_base_progress_update(&progress, 1234567);
        char *text = rig.text;
        rig_read(&rig);
        assert_int_equal(text[0], '\r');
        char *end = strstr(text, "\033[K");
        assert_non_null(end);
        *end = 0;
        assert_true(fm_base_text_columns(text + 1) < (size_t)columns);
        close(rig.output.fd);
    }
}

static void colour_takes_no_columns(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, 1, 100);
    rig.output.colour = 1;
    fm_progress progress;
    fm_base_progress_begin_on(&progress, &rig.output, "read", "blocks", 2);
    fm_base_progress_update(&progress, 1);
    assert_string_equal(rig_read(&rig),
                        "\rread |\033[32m███████████████               \033[0m|  50 %  1/2 blocks\033[K");
    close(rig.output.fd);
}

static void text_beyond_its_room_is_cut(void **state)
{
    (void)state;
    char lengthy[500];
    memset(lengthy, 'x', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = 0;
    struct rig rig;
    rig_open(&rig, 1, 2000);
    fm_progress progress;
    fm_base_progress_begin_on(&progress, &rig.output, lengthy, lengthy, UINT64_MAX);
    rig_pass(&rig, 1e6);
    fm_base_progress_update(&progress, UINT64_MAX / 3);
    fm_base_progress_label(&progress, lengthy);
    fm_base_progress_finish(&progress, FM_OK);
    assert_int_equal(strspn(strstr(rig_read(&rig), "\r\033[K") + 4, "x"), 63);
    close(rig.output.fd);
}

/* Reads what a pseudo-terminal shows, which arrives in pieces, to the line that ends a progress. */
static void pty_read(int fd, char *out_text, size_t size)
{
    size_t length = 0;
    const char *summary;
    do {
        ssize_t got = read(fd, out_text + length, size - 1 - length);
        assert_true(got > 0);
        length += (size_t)got;
        out_text[length] = 0;
        summary = strstr(out_text, ": done, ");
    } while (!summary || !strchr(summary, '\n'));
}

static void standard_error_decides(void **state)
{
    (void)state;
    int master, slave, saved = dup(STDERR_FILENO);
    struct winsize size = {.ws_row = 24, .ws_col = 70};
    if (openpty(&master, &slave, NULL, NULL, &size) != 0) {
        close(saved);
        fm_test_skip("there are no pseudo-terminals here");
    }
    dup2(slave, STDERR_FILENO);
    fm_progress progress;

    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    fm_base_progress_begin(&progress, "bar", "steps", 4);
    fm_base_progress_update(&progress, 2);
    fm_log_error("test", "above");
    fm_base_progress_finish(&progress, FM_OK);
    char text[20000];
    pty_read(master, text, sizeof text);

    setenv("NO_COLOR", "1", 1);
    fm_base_progress_begin(&progress, "grey", "steps", 4);
    fm_base_progress_update(&progress, 2);
    size.ws_col = 30; // too narrow for a bar now
    ioctl(master, TIOCSWINSZ, &size);
    usleep(110000);
    fm_base_progress_update(&progress, 3);
    fm_base_progress_finish(&progress, FM_OK);
    char grey[20000];
    pty_read(master, grey, sizeof grey);

    setenv("TERM", "dumb", 1);
    fm_base_progress_begin(&progress, "dumb", "steps", 4);
    fm_base_progress_update(&progress, 2);
    fm_base_progress_finish(&progress, FM_OK);
    char dumb[20000];
    pty_read(master, dumb, sizeof dumb);

    dup2(saved, STDERR_FILENO);
    close(saved);
    close(slave);
    close(master);
    assert_non_null(strstr(text, "\rbar |\033[32m"));
    assert_non_null(strstr(text, "\033[K\r\033[K2")); // the log line clears the bar and begins with its year
    assert_non_null(strstr(text, "\r\033[Kbar: done, 2 steps in "));
    assert_null(strstr(grey, "\033[32m"));
    assert_non_null(strstr(grey, "\rgrey |███"));
    assert_non_null(strstr(grey, "\rgrey   75 %  ETA "));
    assert_int_equal(strncmp(dumb, "dumb: done, 2 steps in ", 23), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_rare),
        cmocka_unit_test(a_bar_moves_ten_times_a_second),
        cmocka_unit_test(failures_and_unknown_totals),
        cmocka_unit_test(a_bar_fits_any_width),
        cmocka_unit_test(colour_takes_no_columns),
        cmocka_unit_test(text_beyond_its_room_is_cut),
        cmocka_unit_test(standard_error_decides),
    };
    return fm_test_run("base.progress", tests);
}
