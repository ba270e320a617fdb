#include "fm_test.h"

#include <sys/wait.h>
#include <unistd.h>

#include "fathom/run_id.h"

static void own_run_is_alive(void **state)
{
    (void)state;
    const char *id = fm_base_run_id();
    assert_true(fm_base_run_alive(id));
    assert_string_equal(getenv("FM_RUN_ID"), id);
}

static void names_carry_the_run(void **state)
{
    (void)state;
    char name[128];
    char id[FM_RUN_ID_BYTES];
    assert_ok(fm_base_run_name("ring.3", name, sizeof name));
    assert_ok(fm_base_run_of_name(name, id));
    assert_string_equal(id, fm_base_run_id());
    assert_fails(fm_base_run_name("x", name, 5), FM_ERR_LIMIT, "needs");
    const char *const strangers[] = {"",
                                     "fathom",
                                     "fathom.",
                                     "fathom.12.x",
                                     "fathom.12-.x",
                                     "fathom.a-b.c",
                                     "other.12-13.x",
                                     "fathom.-1-5.x",
                                     "fathom.12-13",
                                     "fathom.99999999999999999999-111111111111111111111111111111111.x"};
    for (size_t i = 0; i < sizeof strangers / sizeof strangers[0]; i++)
        assert_fails(fm_base_run_of_name(strangers[i], id), FM_ERR_FORMAT, "is not the name");
}

static void a_dead_run_is_dead(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        // The parent's id is cached in this process's memory, so the child computes what a fresh process
        // would.
        char line[64];
        FILE *file = fopen("/proc/self/stat", "r");
        char stat[1024] = {0};
        if (!file || !fread(stat, 1, sizeof stat - 1, file))
            _exit(1);
        char *field = strrchr(stat, ')');
        for (int i = 2; i < 22; i++)
            field = strchr(field + 1, ' ');
        int length = snprintf(line, sizeof line, "%d-%lld", (int)getpid(), strtoll(field + 1, NULL, 10));
        _exit(write(ends[1], line, (size_t)length + 1) == length + 1 && fm_base_run_alive(line) ? 0 : 1);
    }
    char id[64];
    assert_true(read(ends[0], id, sizeof id) > 0);
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    assert_false(fm_base_run_alive(id));
    assert_false(fm_base_run_alive("garbage"));
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_run_is_alive),
        cmocka_unit_test(names_carry_the_run),
        cmocka_unit_test(a_dead_run_is_dead),
    };
    return fm_test_run("base.run_id", tests);
}
