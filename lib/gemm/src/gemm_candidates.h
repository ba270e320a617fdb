/**
 * @file gemm_candidates.h
 * The best of a stream of scores, in bounded memory: a buffer that takes what beats a threshold and is cut to the best
 * `topk` whenever it is full.
 */
#ifndef GEMM_CANDIDATES_H
#define GEMM_CANDIDATES_H

#include <stdint.h>
#include <stddef.h>

/** Of a score and a key's number: the greater the better, and no two alike. 0: none. */
static inline uint64_t fm_gemm_candidate(float score, int32_t index)
{
    uint32_t bits;
    __builtin_memcpy(&bits, &score, sizeof bits);
    uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u; // in the order of floats
    return (uint64_t)rising << 32 | (uint32_t) ~(uint32_t)index;
}

static inline int32_t fm_gemm_candidate_index(uint64_t candidate)
{
    return (int32_t) ~(uint32_t)candidate;
}

static inline float fm_gemm_candidate_score(uint64_t candidate)
{
    uint32_t rising = (uint32_t)(candidate >> 32), bits = rising >> 31 ? rising & 0x7FFFFFFF : ~rising;
    float score;
    __builtin_memcpy(&score, &bits, sizeof score);
    return score;
}

struct fm_gemm_candidates {
    uint64_t *list; // room for `room`
    size_t count, room;
    uint64_t least; // what does not beat it need not come
};

/** Takes a candidate. room is above topk. */
void fm_gemm_candidates_add(struct fm_gemm_candidates *candidates, size_t topk, uint64_t candidate);
/** Leaves the best topk, best first. */
void fm_gemm_candidates_sort(struct fm_gemm_candidates *candidates, size_t topk);

#endif
