#include "gemm_candidates.h"

#include <stdlib.h>

static void swap(uint64_t *a, uint64_t *b)
{
    uint64_t kept = *a;
    *a = *b;
    *b = kept;
}

// Puts the greatest `keep` of `count` first, by Hoare's selection: each pass halves what is left in the mean. The pivot is
// the median of three. No two values are alike.
static void select_greatest(uint64_t *list, size_t count, size_t keep)
{
    size_t low = 0, high = count;
    while (high - low > 1 && keep > low && keep < high) {
        size_t middle = low + (high - low) / 2;
        if (list[low] < list[middle])
            swap(&list[low], &list[middle]);
        if (list[middle] < list[high - 1])
            swap(&list[middle], &list[high - 1]);
        if (list[low] < list[middle])
            swap(&list[low], &list[middle]);
        uint64_t pivot = list[middle];
        size_t left = low, right = high - 1;
        for (;;) {
            while (list[left] > pivot)
                left++;
            while (list[right] < pivot)
                right--;
            if (left >= right)
                break;
            swap(&list[left], &list[right]); // one of them may be the pivot: both ends go on beyond it
            if (list[left] != pivot)
                left++;
            if (list[right] != pivot)
                right--;
        }
        // list[left] is the pivot: greater ones lie before it, lesser ones behind.
        if (keep <= left)
            high = left;
        else
            low = left + 1;
    }
}

void fm_gemm_candidates_add(struct fm_gemm_candidates *candidates, size_t topk, uint64_t candidate)
{
    if (candidate <= candidates->least)
        return;
    candidates->list[candidates->count++] = candidate;
    if (candidates->count < candidates->room)
        return;
    select_greatest(candidates->list, candidates->count, topk);
    candidates->count = topk;
    candidates->least = candidates->list[0];
    for (size_t i = 1; i < topk; i++)
        if (candidates->list[i] < candidates->least)
            candidates->least = candidates->list[i];
}

static int falling(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

void fm_gemm_candidates_sort(struct fm_gemm_candidates *candidates, size_t topk)
{
    if (candidates->count > topk) {
        select_greatest(candidates->list, candidates->count, topk);
        candidates->count = topk;
    }
    if (candidates->count)
        qsort(candidates->list, candidates->count, sizeof *candidates->list, falling);
}
