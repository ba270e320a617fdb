/**
 * @file status.h
 * Status codes and the thread's last error message.
 *
 * Every function of the house that can fail returns an `fm_status`: 0 is success, a negative code says what
 * kind of failure it was. Outputs come last, are named `out_...`, and are untouched when a function fails.
 * The sentence for people (which argument, which value, what was expected) is kept per thread and read with
 * fm_error_message().
 *
 * A new code: add a line to FM_STATUS_LIST below, in the range of its library. Codes are never renumbered or
 * reused.
 */
#ifndef FATHOM_STATUS_H
#define FATHOM_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/** Marks what a shared library exports; everything else in it is hidden. */
#define FM_API __attribute__((visibility("default")))
/** The result must be looked at. */
#define FM_MUST_USE __attribute__((warn_unused_result))
/** Checks printf arguments; `f` and `a` are 1-based positions of the format and its first argument. */
#define FM_PRINTF(f, a) __attribute__((format(printf, f, a)))

/** 0 or a negative code of FM_STATUS_LIST. */
typedef int fm_status;

/*
 * X(name, code, text). Ranges: base -1..-99, net -100, trace -200, gemm -300, mla -400, eplb -500, pipe -600,
 * ep -700, fs -800, pond -900, model -1000, each 100 wide. The base codes serve all libraries; a library adds
 * one only where its callers act on the difference.
 */
#define FM_STATUS_LIST(X)                                              \
    X(FM_OK, 0, "success")                                             \
    X(FM_ERR_ARG, -1, "invalid argument")                              \
    X(FM_ERR_NOMEM, -2, "out of memory")                               \
    X(FM_ERR_IO, -3, "input/output error")                             \
    X(FM_ERR_FORMAT, -4, "malformed data")                             \
    X(FM_ERR_NOT_FOUND, -5, "not found")                               \
    X(FM_ERR_EXISTS, -6, "exists already")                             \
    X(FM_ERR_UNSUPPORTED, -7, "not supported")                         \
    X(FM_ERR_UNAVAILABLE, -8, "engine or device not available")        \
    X(FM_ERR_LIMIT, -9, "limit exceeded")                              \
    X(FM_ERR_TIMEOUT, -10, "timed out")                                \
    X(FM_ERR_CANCELLED, -11, "cancelled")                              \
    X(FM_ERR_BUSY, -12, "busy")                                        \
    X(FM_ERR_PERM, -13, "not permitted")                               \
    X(FM_ERR_STATE, -14, "called in the wrong state")                  \
    X(FM_ERR_VERSION, -15, "version mismatch")                         \
    X(FM_ERR_SPACE, -16, "no space left")                              \
    X(FM_ERR_INTERNAL, -17, "internal error (a bug in Fathom)")        \
    X(FM_ERR_NET_CLOSED, -100, "connection closed")                    \
    X(FM_ERR_NET_REFUSED, -101, "connection refused")                  \
    X(FM_ERR_NET_AUTH, -102, "peer failed to authenticate")            \
    X(FM_ERR_NET_CREDIT, -103, "no credit left on the connection")     \
    X(FM_ERR_FS_NOT_DIR, -800, "not a directory")                      \
    X(FM_ERR_FS_IS_DIR, -801, "is a directory")                        \
    X(FM_ERR_FS_NOT_EMPTY, -802, "directory not empty")                \
    X(FM_ERR_FS_CONFLICT, -803, "transactions conflict")               \
    X(FM_ERR_FS_MAYBE, -804, "outcome unknown")                        \
    X(FM_ERR_FS_ROT, -805, "stored bytes do not match their checksum") \
    X(FM_ERR_FS_CHAIN, -806, "the chain has changed")                  \
    X(FM_ERR_FS_ACCESS, -820, "access denied")                         \
    X(FM_ERR_FS_QUOTA, -821, "quota exceeded")                         \
    X(FM_ERR_FS_CROSS, -822, "between two quotas or file systems")

enum {
#define FM_STATUS_ENUM(name, code, text) name = code,
    FM_STATUS_LIST(FM_STATUS_ENUM)
#undef FM_STATUS_ENUM
};

/**
 * The detail of this thread's most recent failure, "" before the first. Valid until the thread's next
 * failure. A success does not clear it: look at it only after a negative status.
 */
FM_API const char *fm_base_error_message(void);

/** The name under which the whole house knows fm_base_error_message(). */
static inline const char *fm_error_message(void)
{
    return fm_base_error_message();
}

/** "FM_ERR_ARG" for -1, and so on; "FM_ERR_?" for a code that is not in the list. Never NULL. */
FM_API const char *fm_base_status_name(fm_status status);

/** A short text for a code: "invalid argument" for -1. Never NULL. */
FM_API const char *fm_base_status_text(fm_status status);

/**
 * Sets this thread's message and returns `status`, so that a failure is one statement:
 *
 *     return fm_base_error_set(FM_ERR_ARG, "replicas is %d; expected at least %d", replicas, experts);
 *
 * The one who first decides that something failed writes the message; callers pass the status on (FM_TRY), or
 * put context in front with fm_base_error_prefix(). Messages are cut at 1023 bytes. Never allocates.
 */
FM_API fm_status fm_base_error_set(fm_status status, const char *format, ...) FM_PRINTF(2, 3);

/** Like fm_base_error_set(), with ": <strerror(err)>" appended. `err` is an errno value. */
FM_API fm_status fm_base_error_set_errno(fm_status status, int err, const char *format, ...) FM_PRINTF(3, 4);

/** Puts "<text>: " in front of the thread's message and returns `status`: the file name in front of a parse
 * error. */
FM_API fm_status fm_base_error_prefix(fm_status status, const char *format, ...) FM_PRINTF(2, 3);

/** Returns from the calling function when `expression` (an fm_status) is a failure. */
#define FM_TRY(expression)                       \
    do {                                         \
        fm_status fm_try_status_ = (expression); \
        if (fm_try_status_ != FM_OK)             \
            return fm_try_status_;               \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
