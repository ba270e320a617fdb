#include "fm_test.h"

#include "fathom/file.h"
#include "space.h"

#include <libgen.h>

static void real_room_is_plausible(void **state)
{
    (void)state;
    uint64_t bytes = 0;
    assert_ok(fm_base_space_disk(fm_test_tmpdir(), &bytes));
    assert_true(bytes > 1 << 20 && bytes < UINT64_C(1) << 60);
    assert_ok(fm_base_space_disk("/dev/shm", &bytes));
    assert_ok(fm_base_space_memory(&bytes));
    assert_true(bytes > 16 << 20 && bytes < UINT64_C(1) << 50);
    bytes = 7;
    assert_fails(fm_base_space_disk("/nonexistent", &bytes), FM_ERR_NOT_FOUND, "/nonexistent");
    assert_int_equal(bytes, 7);
}

/* Writes a file below the made root. */
static void put(const char *root, const char *path, const char *text)
{
    char full[4300], folder[4300];
    snprintf(full, sizeof full, "%s%s", root, path);
    memcpy(folder, full, sizeof folder);
    assert_ok(fm_base_dir_create(dirname(folder)));
    assert_ok(fm_base_file_save(full, text, strlen(text)));
}

static uint64_t memory_below(const char *root)
{
    uint64_t bytes = 0;
    assert_ok(fm_base_space_memory_below(root, &bytes));
    return bytes;
}

static const char *made_root(const char *name)
{
    static char root[4200];
    snprintf(root, sizeof root, "%s/%s", fm_test_tmpdir(), name);
    put(root, "/proc/meminfo",
        "MemTotal:       2000 kB\nMemFree:  5 kB\nMemAvailable:   1000 kB\nBuffers: 1 kB\n");
    return root;
}

static void without_a_limit_it_is_what_the_kernel_says(void **state)
{
    (void)state;
    const char *root = made_root("plain");
    assert_int_equal(memory_below(root), 1000 * 1024);
    put(root, "/proc/self/cgroup", "0::/\n");
    assert_int_equal(memory_below(root), 1000 * 1024); // no such files in the real root group
    uint64_t bytes;
    assert_fails(fm_base_space_memory_below("/nonexistent", &bytes), FM_ERR_UNAVAILABLE, "MemAvailable");
}

static void the_tightest_group_of_version_2_counts(void **state)
{
    (void)state;
    const char *root = made_root("version_2");
    put(root, "/proc/self/cgroup", "0::/user/job\n");
    put(root, "/sys/fs/cgroup/user/job/memory.max", "max\n");
    put(root, "/sys/fs/cgroup/user/job/memory.current", "4096\n");
    assert_int_equal(memory_below(root), 1000 * 1024);
    put(root, "/sys/fs/cgroup/user/memory.max", "500000\n");
    put(root, "/sys/fs/cgroup/user/memory.current", "400000\n");
    assert_int_equal(memory_below(root), 100000);
    // "inactive_file" is the line of that name, not the end of another.
    put(root, "/sys/fs/cgroup/user/memory.stat", "anon 1\nworkingset_inactive_file 7\ninactive_file 50000\n");
    assert_int_equal(memory_below(root), 150000);
    put(root, "/sys/fs/cgroup/user/job/memory.max", "4000\n"); // below what is in use
    assert_int_equal(memory_below(root), 0);
}

static void the_tightest_group_of_version_1_counts(void **state)
{
    (void)state;
    const char *root = made_root("version_1");
    put(root, "/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/outer/inner\n1:name=systemd:/y\n0::/z\n");
    put(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n");
    assert_int_equal(memory_below(root), 1000 * 1024);
    put(root, "/sys/fs/cgroup/memory/outer/inner/memory.limit_in_bytes", "300000\n");
    put(root, "/sys/fs/cgroup/memory/outer/inner/memory.usage_in_bytes", "100000\n");
    put(root, "/sys/fs/cgroup/memory/outer/inner/memory.stat",
        "inactive_file 1\ntotal_inactive_file 20000\n");
    assert_int_equal(memory_below(root), 220000);
}

static void a_container_sees_its_own_group_as_the_mount(void **state)
{
    (void)state;
    const char *root = made_root("container");
    put(root, "/proc/self/cgroup", "0::/not/visible/here\n");
    put(root, "/sys/fs/cgroup/memory.max", "600000\n");
    put(root, "/sys/fs/cgroup/memory.current", "100000\n");
    assert_int_equal(memory_below(root), 500000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_room_is_plausible),
        cmocka_unit_test(without_a_limit_it_is_what_the_kernel_says),
        cmocka_unit_test(the_tightest_group_of_version_2_counts),
        cmocka_unit_test(the_tightest_group_of_version_1_counts),
        cmocka_unit_test(a_container_sees_its_own_group_as_the_mount),
    };
    return fm_test_run("base.space", tests);
}
