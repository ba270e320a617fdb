/**
 * What kernels ask of the compiler.
 *
 *     FM_INLINE   a function that becomes part of its caller, so that constant arguments select its code
 *     FM_UNROLL   before a loop whose counter indexes registers: up to 16 turns become straight code
 *
 * Under a sanitizer neither is asked for: every access is checked there, and the checks of unrolled kernels take the compiler
 * many minutes. The results are the same.
 */
#ifndef FATHOM_KERNEL_H
#define FATHOM_KERNEL_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FM_KERNEL_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FM_KERNEL_SANITIZED 1
#endif
#endif

#if defined(FM_KERNEL_SANITIZED)
#define FM_INLINE static inline
#define FM_UNROLL
#elif defined(__clang__)
#define FM_INLINE static inline __attribute__((always_inline))
#define FM_UNROLL _Pragma("unroll")
#else
#define FM_INLINE static inline __attribute__((always_inline))
#define FM_UNROLL _Pragma("GCC unroll 16")
#endif

#endif
