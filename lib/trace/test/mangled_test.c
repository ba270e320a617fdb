#include "fm_test.h"

#include "mangled.h"

static void expect(const char *name, const char *readable)
{
    char text[256];
    assert_true(fm_trace_unmangle(name, text, sizeof text));
    assert_string_equal(text, readable);
}

static void scopes_and_arguments(void **state)
{
    (void)state;
    expect("_ZN4dpsk2ep9internode8dispatchILb0ELi8EEEvPi", "dpsk::ep::internode::dispatch<0, 8>");
    expect("_ZN7deep_ep9internode15notify_dispatchILb0ELin8EEEvPKiS2_",
           "deep_ep::internode::notify_dispatch<0, -8>");
    expect("_ZN7cutlass13device_kernelIN5flash12FlashAttnBwdILi1EEEEEvNT_6ParamsE",
           "cutlass::device_kernel<flash::FlashAttnBwd<1>>, Params");
    expect("_Z6kernelIfEvPT_", "kernel<>");
    expect("_Z3sum", "sum");
}

static void names_cut_anywhere(void **state)
{
    (void)state;
    static const char whole[] =
        "_ZN7cutlass13device_kernelIN5flash12FlashAttnBwdILi1ESt4pairIiS0_EEEEEvNT_6ParamsE";
    char text[256], cut[sizeof whole];
    for (size_t length = 2; length < sizeof whole; length++) {
        memcpy(cut, whole, length);
        cut[length] = 0;
        for (size_t room = 1; room < 120; room += 7) {
            memset(text, '#', sizeof text);
            assert_true(fm_trace_unmangle(cut, text, room));
            assert_true(strlen(text) < room && text[room] == '#');
        }
    }
}

static void what_is_not_mangled(void **state)
{
    (void)state;
    char text[8];
    assert_false(fm_trace_unmangle("void f<1>()", text, sizeof text));
    assert_false(fm_trace_unmangle("", text, sizeof text));
    assert_false(fm_trace_unmangle("_", text, sizeof text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scopes_and_arguments),
        cmocka_unit_test(names_cut_anywhere),
        cmocka_unit_test(what_is_not_mangled),
    };
    return fm_test_run("mangled", tests);
}
