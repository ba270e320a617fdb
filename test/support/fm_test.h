/**
 * @file fm_test.h
 * What every cmocka program of the house includes.
 *
 *     static void it_adds(void **state) { ... }
 *     int main(void)
 *     {
 *         const struct CMUnitTest tests[] = {cmocka_unit_test(it_adds)};
 *         return fm_test_run("sum", tests);
 *     }
 *
 * A test that ends with more live fm_base_mem blocks than it began with fails.
 */
#ifndef FM_TEST_H
#define FM_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <cmocka.h>

#include "fathom/mem.h"
#include "fathom/status.h"

/** Runs the array of tests with the leak check around each; returns the number of failures. */
#define fm_test_run(name, tests) fm_test_run_group(name, tests, sizeof(tests) / sizeof((tests)[0]))
int fm_test_run_group(const char *name, const struct CMUnitTest *tests, size_t count);

/** The expression is a success; prints the message when not. */
#define assert_ok(expression)                                                                      \
    do {                                                                                           \
        fm_status status_ = (expression);                                                          \
        if (status_ < 0)                                                                           \
            fail_msg("%s: %s: %s", #expression, fm_base_status_name(status_), fm_error_message()); \
    } while (0)

/** The expression fails with this code, and its message contains this text. */
#define assert_fails(expression, code, text)                                                      \
    do {                                                                                          \
        fm_status status_ = (expression);                                                         \
        if (status_ != (code))                                                                    \
            fail_msg("%s: %s, expected %s", #expression, fm_base_status_name(status_),            \
                     fm_base_status_name(code));                                                  \
        if (!strstr(fm_error_message(), (text)))                                                  \
            fail_msg("%s: message \"%s\" lacks \"%s\"", #expression, fm_error_message(), (text)); \
    } while (0)

/** Skips the running test and says why on a line that CI reads: "SKIP <test>: <reason>". */
#define fm_test_skip(...)              \
    do {                               \
        fm_test_say_skip(__VA_ARGS__); \
        skip();                        \
    } while (0)
void fm_test_say_skip(const char *format, ...) FM_PRINTF(1, 2);

/** Skips unless the file or folder exists; returns its path under the shared data folder (FM_SHARED_DIR or
 * ../shared beside the checkout). Valid until the next call. */
const char *fm_test_shared(const char *relative);

/** A fresh folder under TMPDIR, removed with what it holds when the program ends. Valid until the program
 * ends. */
const char *fm_test_tmpdir(void);

/**
 * Runs `body` with the 1st, 2nd, 3rd, ... allocation refused until a run needs no refusal. In each failing
 * run the body must return FM_ERR_NOMEM (or succeed without that allocation) and leave no live block behind.
 * `body` frees what it made.
 */
void fm_test_each_alloc_fails(fm_status (*body)(void *context), void *context);

/** A file of `size` bytes in fm_test_tmpdir(); returns its path (valid until the program ends). */
const char *fm_test_file(const char *name, const void *bytes, size_t size);

/** How many areas of a process's memory are mapped from something whose name has this in it. */
unsigned fm_test_mappings(pid_t process, const char *name);

#endif
