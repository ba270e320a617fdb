#include "fm_test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "fathom/net.h"

static const char *path_of(const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", fm_test_tmpdir(), name);
    return path;
}

static void keys_are_written_once_and_read_back(void **state)
{
    (void)state;
    fm_net_key key;
    fm_net_key other;
    fm_net_key back;
    assert_ok(fm_net_key_generate(&key));
    assert_ok(fm_net_key_generate(&other));
    assert_memory_not_equal(&key, &other, sizeof key);
    const char *path = path_of("key");
    assert_ok(fm_net_key_write(path, &key));
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_fails(fm_net_key_write(path, &other), FM_ERR_EXISTS, path);
    assert_ok(fm_net_key_read(path, &back));
    assert_memory_equal(&key, &back, sizeof key);
    fm_net_key_clear(&key);
    for (size_t i = 0; i < sizeof key.secret; i++)
        assert_int_equal(key.secret[i], 0);
    assert_fails(fm_net_key_write(path_of("no/such/folder"), &other), FM_ERR_IO, "no/such/folder");
}

static void keys_that_others_may_read_are_refused(void **state)
{
    (void)state;
    fm_net_key key = {0};
    fm_net_key out = {.secret = {42}};
    const char *path = path_of("open");
    assert_ok(fm_net_key_write(path, &key));
    static const mode_t wide[] = {0640, 0604, 0620, 0777};
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        assert_int_equal(chmod(path, wide[i]), 0);
        assert_fails(fm_net_key_read(path, &out), FM_ERR_PERM, "chmod it to 600");
    }
    assert_int_equal(chmod(path, 0400), 0);
    assert_int_equal(out.secret[0], 42);
    assert_ok(fm_net_key_read(path, &out));
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 12345, 12345), 0);
        assert_int_equal(seteuid(54321), 0);
        fm_status status = fm_net_key_read(path, &out);
        assert_int_equal(seteuid(0), 0);
        assert_true(status == FM_ERR_PERM || status == FM_ERR_IO);
    }
}

static void broken_files_are_refused(void **state)
{
    (void)state;
    fm_net_key out = {.secret = {42}};
    assert_fails(fm_net_key_read(path_of("missing"), &out), FM_ERR_NOT_FOUND, "missing");
    assert_fails(fm_net_key_read(fm_test_tmpdir(), &out), FM_ERR_FORMAT, "is not a file");
    char good[111 + 1];
    snprintf(good, sizeof good, "fathom-key-1 %032x %064x\n", 0, 0);
    for (size_t i = 0; i < 111; i++) {
        char bad[112];
        memcpy(bad, good, sizeof bad);
        bad[i] = 'G';
        const char *path = fm_test_file("bad", bad, 111);
        assert_int_equal(chmod(path, 0600), 0);
        assert_fails(fm_net_key_read(path, &out), FM_ERR_FORMAT, "is no key file");
    }
    for (size_t size = 0; size < 113; size += 7) {
        const char *path = fm_test_file("short", good, size < 111 ? size : 110);
        assert_int_equal(chmod(path, 0600), 0);
        assert_fails(fm_net_key_read(path, &out), FM_ERR_FORMAT, "is no key file");
    }
    char lengthened[113];
    snprintf(lengthened, sizeof lengthened, "%s\n", good);
    const char *path = fm_test_file("long", lengthened, 112);
    assert_int_equal(chmod(path, 0600), 0);
    assert_fails(fm_net_key_read(path, &out), FM_ERR_FORMAT, "is no key file");
    assert_int_equal(out.secret[0], 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_written_once_and_read_back),
        cmocka_unit_test(keys_that_others_may_read_are_refused),
        cmocka_unit_test(broken_files_are_refused),
    };
    return fm_test_run("net.key", tests);
}
