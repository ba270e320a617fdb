#include "fm_test.h"

#include <errno.h>
#include <pthread.h>

static void codes_have_names(void **state)
{
    (void)state;
    assert_string_equal(fm_base_status_name(FM_OK), "FM_OK");
    assert_string_equal(fm_base_status_name(FM_ERR_NET_AUTH), "FM_ERR_NET_AUTH");
    assert_string_equal(fm_base_status_name(-99999), "FM_ERR_?");
    assert_string_equal(fm_base_status_text(FM_ERR_TIMEOUT), "timed out");
    // Two codes with one number would make the second name unreachable.
    const fm_status codes[] = {
#define CODE(name, code, text) name,
        FM_STATUS_LIST(CODE)
#undef CODE
    };
    const char *names[] = {
#define NAME(name, code, text) #name,
        FM_STATUS_LIST(NAME)
#undef NAME
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        assert_string_equal(fm_base_status_name(codes[i]), names[i]);
}

static void message_is_set_and_prefixed(void **state)
{
    (void)state;
    assert_int_equal(fm_base_error_set(FM_ERR_ARG, "n is %d", 3), FM_ERR_ARG);
    assert_string_equal(fm_error_message(), "n is 3");
    assert_int_equal(fm_base_error_prefix(FM_ERR_ARG, "%s:%d", "a.yaml", 7), FM_ERR_ARG);
    assert_string_equal(fm_error_message(), "a.yaml:7: n is 3");
    fm_base_error_set_errno(FM_ERR_IO, ENOENT, "open %s", "x");
    assert_string_equal(fm_error_message(), "open x: No such file or directory");
    fm_base_error_set(FM_ERR_IO, "again: %s", fm_error_message());
    assert_string_equal(fm_error_message(), "again: open x: No such file or directory");
}

static void long_message_is_cut(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    fm_base_error_set(FM_ERR_IO, "%s", text);
    assert_int_equal(strlen(fm_error_message()), 1023);
    fm_base_error_prefix(FM_ERR_IO, "head");
    assert_int_equal(strlen(fm_error_message()), 1023);
    assert_memory_equal(fm_error_message(), "head: x", 7);
}

static void *other_thread(void *context)
{
    fm_base_error_set(FM_ERR_IO, "other");
    *(int *)context = strcmp(fm_error_message(), "other");
    return NULL;
}

static void message_belongs_to_the_thread(void **state)
{
    (void)state;
    fm_base_error_set(FM_ERR_IO, "mine");
    pthread_t thread;
    int differs = 1;
    assert_int_equal(pthread_create(&thread, NULL, other_thread, &differs), 0);
    pthread_join(thread, NULL);
    assert_int_equal(differs, 0);
    assert_string_equal(fm_error_message(), "mine");
}

static fm_status passes_on(fm_status status, int *reached)
{
    FM_TRY(status);
    *reached = 1;
    return FM_OK;
}

static void try_returns_failures_only(void **state)
{
    (void)state;
    int reached = 0;
    assert_int_equal(passes_on(FM_ERR_BUSY, &reached), FM_ERR_BUSY);
    assert_int_equal(reached, 0);
    assert_int_equal(passes_on(FM_OK, &reached), FM_OK);
    assert_int_equal(reached, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_have_names),          cmocka_unit_test(message_is_set_and_prefixed),
        cmocka_unit_test(long_message_is_cut),       cmocka_unit_test(message_belongs_to_the_thread),
        cmocka_unit_test(try_returns_failures_only),
    };
    return fm_test_run("base.status", tests);
}
