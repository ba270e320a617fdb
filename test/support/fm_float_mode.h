/**
 * @file fm_float_mode.h
 * Kernels flush subnormals; their caller's floating-point mode stays.
 */
#ifndef FM_FLOAT_MODE_H
#define FM_FLOAT_MODE_H

#include "fm_test.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/** Fails where a call changes the mode that it finds. Skips where there is no MXCSR. */
static inline void fm_test_float_mode_stays(fm_status (*call)(void *context))
{
#if defined(__x86_64__)
    unsigned before = _mm_getcsr(), toward_zero = before | _MM_ROUND_TOWARD_ZERO;
    _mm_setcsr(toward_zero);
    fm_status status = call(NULL);
    unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    assert_ok(status);
    assert_int_equal(after & ~0x3Fu, toward_zero & ~0x3Fu); // flags aside
#else
    (void)call;
    fm_test_skip("MXCSR is x86's");
#endif
}

#endif
