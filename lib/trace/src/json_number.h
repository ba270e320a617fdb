/* Numbers of JSON, read several digits at a time. */
#ifndef FM_TRACE_JSON_NUMBER_H
#define FM_TRACE_JSON_NUMBER_H

#include <stdint.h>
#include <string.h>

#include "event.h"

/* What reads events is one loop; the parts that it is made of must not become calls. */
#define FM_TRACE_INLINE static inline __attribute__((always_inline))

/* The first `length` <= 8 bytes of a text as one number, so that texts are told apart by one comparison. Eight bytes are
 * readable. */
FM_TRACE_INLINE uint64_t fm_trace_key_of(const char *bytes, size_t length)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return length >= 8 ? value : value & ((UINT64_C(1) << (8 * length)) - 1);
}

/* Whether a number or a word (true, null, NaN) may hold this. */
FM_TRACE_INLINE int fm_trace_is_scalar(char c)
{
    static const uint8_t of_scalar[256] = {
        ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1};
    return of_scalar[(unsigned char)c];
}

/* A bit in every byte of eight that is no digit, after Mula and Lemire: a byte is a digit when its high half is 3 and stays
 * so with 6 added. Bytes behind the first that is none may be wrong. */
FM_TRACE_INLINE uint64_t fm_trace_other_digits(uint64_t eight)
{
    uint64_t others = (eight ^ 0x3030303030303030) | ((eight + 0x0606060606060606) ^ 0x3030303030303030);
    return others & 0xF0F0F0F0F0F0F0F0;
}

/* The value of eight digits, the first byte the highest. Bytes of 0x30 and of 0 are zeros in front. */
FM_TRACE_INLINE uint64_t fm_trace_eight_digits(uint64_t eight)
{
    eight = (eight & 0x0F0F0F0F0F0F0F0F) * 10 + ((eight & 0x0F0F0F0F0F0F0F0F) >> 8);
    return ((eight & 0x000000FF000000FF) * 0x000F424000000064 +
            ((eight >> 16) & 0x000000FF000000FF) * 0x0000271000000001) >>
           32;
}

/* The same of the `count` < 8 digits in front. */
FM_TRACE_INLINE uint64_t fm_trace_few_digits(uint64_t eight, int count)
{
    return count ? fm_trace_eight_digits(eight << (64 - 8 * count)) : 0;
}

/* Digits into *out_value; -1 on overflow, else how many. What decides on how far to go is a branch, which is predicted, and
 * not the count itself, so that what comes behind a number of usual length need not wait for it. */
FM_TRACE_INLINE int fm_trace_digits(const char **p, uint64_t *out_value)
{
    static const uint32_t powers[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};
    const char *q = *p;
    uint64_t eight = fm_trace_key_of(q, 8), others = fm_trace_other_digits(eight), sum = 0;
    if (others) {
        int count = __builtin_ctzll(others) >> 3;
        *out_value = fm_trace_few_digits(eight, count);
        *p = q + count;
        return count;
    }
    sum = fm_trace_eight_digits(eight);
    q += 8;
    eight = fm_trace_key_of(q, 8);
    others = fm_trace_other_digits(eight);
    if (others) {
        int count = __builtin_ctzll(others) >> 3;
        sum = sum * powers[count] + fm_trace_few_digits(eight, count);
        q += count;
    } else {
        sum = sum * 100000000 + fm_trace_eight_digits(eight);
        q += 8;
        for (; *q >= '0' && *q <= '9'; q++)
            if (__builtin_mul_overflow(sum, 10, &sum) ||
                __builtin_add_overflow(sum, (uint64_t)(*q - '0'), &sum))
                return -1;
    }
    int count = (int)(q - *p);
    *p = q;
    *out_value = sum;
    return count;
}

/* -? digits, without fraction and exponent. */
FM_TRACE_INLINE int fm_trace_whole(const char **p, int *out_negative, uint64_t *out_value)
{
    const char *q = *p;
    *out_negative = *q == '-';
    if (*out_negative)
        q++;
    if (fm_trace_digits(&q, out_value) <= 0)
        return -1;
    *p = q;
    return 0;
}

/* A number with an exponent, which no profiler is known to write: exact as far as a double is. */
int fm_trace_scientific(const char *text, const char *exponent, int64_t *out_ns, const char **out_end);

/* As fm_trace_microseconds(). */
FM_TRACE_INLINE int fm_trace_take_microseconds(const char *text, int64_t *out_ns, const char **out_end)
{
    const char *p = text;
    int negative;
    uint64_t value, fraction = 0;
    if (fm_trace_whole(&p, &negative, &value) < 0)
        return -1;
    if (*p == '.') {
        const char *first = ++p;
        uint64_t unit = 100000000; // of the first digit, in 10^-9 microseconds
        for (; *p >= '0' && *p <= '9'; p++, unit /= 10)
            fraction += unit * (uint64_t)(*p - '0');
        if (p == first)
            return -1;
    }
    if ((*p | 0x20) == 'e')
        return fm_trace_scientific(text, p, out_ns, out_end);
    if (value > FM_TRACE_TIME_MAX / 1000 - 1)
        return -1;
    value = value * 1000 + (fraction + 500000) / 1000000;
    *out_ns = negative ? -(int64_t)value : (int64_t)value;
    *out_end = p;
    return 0;
}

/* As fm_trace_integer(). */
FM_TRACE_INLINE int fm_trace_take_integer(const char *text, int64_t *out_value, const char **out_end)
{
    const char *p = text;
    int negative;
    uint64_t value;
    if (fm_trace_whole(&p, &negative, &value) < 0 || value > INT64_MAX)
        return -1;
    if (*p == '.')
        for (p++; *p >= '0' && *p <= '9'; p++)
            ;
    *out_value = negative ? -(int64_t)value : (int64_t)value;
    *out_end = p;
    return 0;
}

/* The product of a grid's sizes so far and one more, saturated at 2^31 - 1. */
FM_TRACE_INLINE int64_t fm_trace_product(int64_t product, int64_t factor)
{
    return factor > INT32_MAX || product * factor > INT32_MAX ? INT32_MAX : product * factor;
}

#endif
