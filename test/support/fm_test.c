#include "fm_test.h"

#include <errno.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t live_before;
static const char *group_name;

static int begin(void **state)
{
    (void)state;
    live_before = fm_base_mem_live();
    return 0;
}

static int end(void **state)
{
    (void)state;
    fm_base_mem_set_gate(NULL, NULL);
    size_t live = fm_base_mem_live();
    if (live > live_before) {
        print_error("leak: %zu blocks that the test allocated are still live\n", live - live_before);
        return -1;
    }
    return 0;
}

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif

#ifdef UNDER_TSAN
// DuckDB comes compiled without ThreadSanitizer, which does not see its locks: what its threads hand each other looks like
// races, often in libstdc++, which nothing else here uses.
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "called_from_lib:libduckdb.so\ncalled_from_lib:libstdc++.so\nrace:libduckdb.so\nrace:libstdc++."
           "so\n"
           "deadlock:libduckdb.so\n";
}
#endif

int fm_test_run_group(const char *name, const struct CMUnitTest *tests, size_t count)
{
    struct CMUnitTest *wrapped = calloc(count, sizeof *wrapped);
    group_name = name;
    for (size_t i = 0; i < count; i++) {
        wrapped[i] = tests[i];
        if (!wrapped[i].setup_func)
            wrapped[i].setup_func = begin;
        if (!wrapped[i].teardown_func)
            wrapped[i].teardown_func = end;
    }
    int failures = _cmocka_run_group_tests(name, wrapped, count, NULL, NULL);
    free(wrapped);
    return failures;
}

void fm_test_say_skip(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("SKIP %s: %s\n", group_name ? group_name : "?", text);
    fflush(stdout);
}

const char *fm_test_shared(const char *relative)
{
    static char path[4096];
    const char *shared = getenv("FM_SHARED_DIR");
    const char *source = getenv("FM_SOURCE_DIR");
    if (shared)
        snprintf(path, sizeof path, "%s/%s", shared, relative);
    else
        snprintf(path, sizeof path, "%s/../shared/%s", source ? source : ".", relative);
    if (access(path, R_OK) != 0)
        fm_test_skip("%s is not on this machine (set FM_SHARED_DIR)", relative);
    return path;
}

static char tmpdir[4096];

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where)
{
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

static void remove_tmpdir(void)
{
    nftw(tmpdir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *fm_test_tmpdir(void)
{
    if (tmpdir[0])
        return tmpdir;
    const char *base = getenv("TMPDIR");
    snprintf(tmpdir, sizeof tmpdir, "%s/fathom-test-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(tmpdir)) {
        fprintf(stderr, "cannot make %s: %s\n", tmpdir, strerror(errno));
        exit(1);
    }
    atexit(remove_tmpdir);
    return tmpdir;
}

const char *fm_test_file(const char *name, const void *bytes, size_t size)
{
    static char paths[16][4200];
    static int next;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", fm_test_tmpdir(), name);
    FILE *file = fopen(path, "wb");
    if (!file || (size && fwrite(bytes, 1, size, file) != size) || fclose(file) != 0)
        fail_msg("cannot write %s: %s", path, strerror(errno));
    return path;
}

unsigned fm_test_mappings(pid_t process, const char *name)
{
    char path[64];
    char line[5000];
    unsigned count = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)process);
    FILE *maps = fopen(path, "re");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps))
        count += strstr(line, name) != NULL;
    fclose(maps);
    return count;
}

struct gate {
    size_t refuse_at; // 1-based; the allocation that is refused
    size_t seen;
};

static int refuse_nth(void *context, size_t size)
{
    (void)size;
    struct gate *gate = context;
    return __atomic_add_fetch(&gate->seen, 1, __ATOMIC_RELAXED) == gate->refuse_at;
}

void fm_test_each_alloc_fails(fm_status (*body)(void *context), void *context)
{
    for (size_t n = 1;; n++) {
        struct gate gate = {.refuse_at = n};
        size_t live = fm_base_mem_live();
        fm_base_mem_set_gate(refuse_nth, &gate);
        fm_status status = body(context);
        fm_base_mem_set_gate(NULL, NULL);
        if (fm_base_mem_live() != live)
            fail_msg("allocation %zu refused: %zu blocks left over", n, fm_base_mem_live() - live);
        if (gate.seen < n) {
            if (status < 0)
                fail_msg("no allocation refused, yet: %s", fm_error_message());
            return;
        }
        if (status < 0 && status != FM_ERR_NOMEM)
            fail_msg("allocation %zu refused: %s (%s), expected FM_ERR_NOMEM", n, fm_base_status_name(status),
                     fm_error_message());
    }
}
