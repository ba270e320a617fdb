#include "fm_test.h"

#include "fathom/engine.h"

static void every_engine_answers(void **state)
{
    (void)state;
    for (int engine = 0; engine < FM_ENGINE_COUNT; engine++) {
        fm_engine_info info;
        fm_base_engine_probe((fm_engine)engine, &info);
        assert_non_null(info.name);
        if (info.found) {
            assert_true(info.version[0] && info.path[0] && !info.reason[0]);
        } else {
            assert_true(info.reason[0] && !info.version[0] && !info.path[0]);
        }
    }
    fm_engine_info info;
    fm_base_engine_probe((fm_engine)99, &info);
    assert_false(info.found);
    assert_non_null(strstr(info.reason, "99"));
}

static void skip_when_off(const fm_engine_info *info)
{
    if (strstr(info->reason, "FM_WITH_CUDA=OFF"))
        fm_test_skip("%s", info->reason);
}

static void a_named_library_is_not_replaced(void **state)
{
    (void)state;
    setenv("FM_NVRTC_LIB", "/nonexistent/libnvrtc.so", 1);
    fm_engine_info info;
    fm_base_engine_probe(FM_ENGINE_NVRTC, &info);
    unsetenv("FM_NVRTC_LIB");
    skip_when_off(&info);
    assert_false(info.found);
    assert_non_null(strstr(info.reason, "/nonexistent/libnvrtc.so"));
}

static void what_is_not_installed_is_not_found(void **state)
{
    (void)state;
    char path[1024];
    assert_false(fm_base_installed_find("no_such_file.so", path, sizeof path));
    char none[1];
    assert_false(fm_base_installed_find("no_such_file.so", none, sizeof none));
}

static void a_library_without_the_symbol_is_refused(void **state)
{
    (void)state;
    setenv("FM_NVRTC_LIB", "libm.so.6", 1);
    fm_engine_info info;
    fm_base_engine_probe(FM_ENGINE_NVRTC, &info);
    unsetenv("FM_NVRTC_LIB");
    skip_when_off(&info);
    assert_false(info.found);
    assert_non_null(strstr(info.reason, "lacks nvrtcVersion"));
}

static void gpus_are_listed_or_refused(void **state)
{
    (void)state;
    fm_gpu_info gpus[8];
    int count = -1;
    fm_status status = fm_base_gpu_list(gpus, 8, &count);
    if (status == FM_OK) {
        assert_true(count >= 0);
        for (int i = 0; i < count && i < 8; i++)
            assert_true(gpus[i].name[0] && gpus[i].memory_bytes > 0);
    } else {
        assert_int_equal(status, FM_ERR_UNAVAILABLE);
        assert_int_equal(count, -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_engine_answers),
        cmocka_unit_test(a_named_library_is_not_replaced),
        cmocka_unit_test(what_is_not_installed_is_not_found),
        cmocka_unit_test(a_library_without_the_symbol_is_refused),
        cmocka_unit_test(gpus_are_listed_or_refused),
    };
    return fm_test_run("base.engine", tests);
}
