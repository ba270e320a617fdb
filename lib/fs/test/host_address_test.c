#include "fm_test.h"
#include "fm_gen.h"

#include "host_address.h"

static void who_is_on_the_machine_gets_both(void **state)
{
    (void)state;
    char text[FM_FS_ADDRESS_MAX + 1];
    struct fm_fs_host_address address;
    fm_fs_host_announce("10.0.0.5:7000", "unix:/data/c/socket-101", text);
    if (!strchr(text, '@'))
        fm_test_skip("the system does not tell which machine this is");
    fm_fs_host_announced(text, &address);
    assert_string_equal(address.anywhere, "10.0.0.5:7000");
    assert_string_equal(address.local, "unix:/data/c/socket-101");
    text[strlen(text) - 1] ^= 1; // another machine
    fm_fs_host_announced(text, &address);
    assert_string_equal(address.anywhere, "10.0.0.5:7000");
    assert_string_equal(address.local, "");
}

static void without_room_there_is_one(void **state)
{
    (void)state;
    char text[FM_FS_ADDRESS_MAX + 1];
    char path[FM_FS_ADDRESS_MAX + 1];
    memset(path, 'x', sizeof path);
    memcpy(path, "unix:/", 6);
    path[107] = 0;
    fm_fs_host_announce("some.host.with.a.name:7000", path, text);
    assert_string_equal(text, "some.host.with.a.name:7000");
    fm_fs_host_announce("some.host:7000", NULL, text);
    assert_string_equal(text, "some.host:7000");
}

// Others say what they like.
static void any_text(fm_gen *gen)
{
    static const char letters[] = "a1:@ /unix.[]";
    char text[FM_FS_ADDRESS_MAX + 1];
    struct fm_fs_host_address address;
    size_t size = (size_t)fm_gen_int(gen, 0, FM_FS_ADDRESS_MAX);
    for (size_t i = 0; i < size; i++)
        text[i] = letters[fm_gen_int(gen, 0, sizeof letters - 2)];
    text[size] = 0;
    fm_fs_host_announced(text, &address);
    assert_int_equal(strncmp(text, address.anywhere, strlen(address.anywhere)), 0);
    assert_null(strchr(address.anywhere, ' '));
    assert_string_equal(address.local, ""); // the machine is 16 digits, of which these have one
}

static void any_text_is_taken(void **state)
{
    (void)state;
    fm_gen_property(500, any_text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_is_on_the_machine_gets_both),
        cmocka_unit_test(without_room_there_is_one),
        cmocka_unit_test(any_text_is_taken),
    };
    return fm_test_run("fs.host_address", tests);
}
