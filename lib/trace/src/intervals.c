#include "intervals.h"

void fm_trace_set_add(struct fm_trace_set *set, int64_t begin, int64_t end)
{
    if (end <= begin)
        return;
    struct fm_trace_interval *last = set->count ? &set->at[set->count - 1] : NULL;
    if (last && begin <= last->end)
        last->end = end > last->end ? end : last->end;
    else
        set->at[set->count++] = (struct fm_trace_interval){begin, end};
}

int64_t fm_trace_set_measure(const struct fm_trace_set *set)
{
    int64_t measure = 0;
    for (size_t i = 0; i < set->count; i++)
        measure += set->at[i].end - set->at[i].begin;
    return measure;
}

size_t fm_trace_set_find(const struct fm_trace_set *set, int64_t time)
{
    size_t low = 0, high = set->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (set->at[middle].end <= time)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int64_t fm_trace_set_common(const struct fm_trace_set *a, const struct fm_trace_set *b)
{
    int64_t common = 0;
    size_t j = a->count ? fm_trace_set_find(b, a->at[0].begin) : 0;
    for (size_t i = 0; i < a->count; i++) {
        while (j < b->count && b->at[j].end <= a->at[i].begin)
            j++;
        // The last interval of `b` here may reach into the next of `a`: it is not stepped over.
        for (size_t k = j; k < b->count && b->at[k].begin < a->at[i].end; k++) {
            int64_t begin = b->at[k].begin > a->at[i].begin ? b->at[k].begin : a->at[i].begin;
            int64_t end = b->at[k].end < a->at[i].end ? b->at[k].end : a->at[i].end;
            common += end - begin;
            j = k;
        }
    }
    return common;
}
