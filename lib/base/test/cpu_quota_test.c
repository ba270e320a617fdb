#include "fm_test.h"

#include <sys/stat.h>

#include "cpu_quota.h"

// Writes `text` to <tmpdir>/<path>, making its folders.
static void put(const char *path, const char *text)
{
    char full[5000];
    snprintf(full, sizeof full, "%s/%s", fm_test_tmpdir(), path);
    for (char *slash = strchr(full + strlen(fm_test_tmpdir()) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(full, 0777);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static double quota(const char *mount, const char *list)
{
    char path[5000];
    snprintf(path, sizeof path, "%s/%s", fm_test_tmpdir(), mount);
    return fm_base_cpu_quota_read(fm_test_file("list", list, strlen(list)), path);
}

static void close_to(double got, double want)
{
    if (got < want - 1e-12 || got > want + 1e-12)
        fail_msg("quota is %g, expected %g", got, want);
}

static void unified_hierarchy(void **state)
{
    (void)state;
    put("v2/cpu.max", "max 100000\n");
    put("v2/a/cpu.max", "400000 100000\n");
    put("v2/a/b/cpu.max", "150000 100000\n");
    put("v2/a/c/cpu.max", "max 100000\n");
    close_to(quota("v2", "0::/a/b\n"), 1.5);
    close_to(quota("v2", "0::/a/c\n"), 4); // an ancestor's limit binds too
    close_to(quota("v2", "0::/\n"), 0);
    close_to(quota("v2", "0::/a/gone/deeper\n"), 4); // what is not mounted here is passed over
}

static void legacy_hierarchy(void **state)
{
    (void)state;
    put("v1/cpu/cpu.cfs_quota_us", "250000\n");
    put("v1/cpu/cpu.cfs_period_us", "100000\n");
    put("v1/cpu/x/cpu.cfs_quota_us", "-1\n");
    put("v1/cpu/x/cpu.cfs_period_us", "100000\n");
    put("v1/cpu/y/cpu.cfs_quota_us", "50000\n");
    put("v1/cpu/y/cpu.cfs_period_us", "100000\n");
    close_to(quota("v1", "9:memory:/y\n4:cpu,cpuacct:/x\n0::/\n"), 2.5);
    close_to(quota("v1", "4:cpuacct,cpu:/y\n"), 0.5);
    close_to(quota("v1", "4:cpuset:/y\n3:cpuacct:/y\n"), 0);
}

static void what_cannot_be_read_is_no_limit(void **state)
{
    (void)state;
    put("bad/cpu.max", "many 0\n");
    put("bad/z/cpu.max", "100000 0\n");
    close_to(quota("bad", "0::/z\n"), 0);
    close_to(quota("bad", "no colons\n:\n::\n0:\n"), 0);
    close_to(fm_base_cpu_quota_read("/nonexistent/cgroup", "/sys/fs/cgroup"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unified_hierarchy),
        cmocka_unit_test(legacy_hierarchy),
        cmocka_unit_test(what_cannot_be_read_is_no_limit),
    };
    return fm_test_run("base.cpu_quota", tests);
}
