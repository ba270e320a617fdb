#include "fathom/model.h"

#include <math.h>
#include <stdlib.h>

#include "fathom/mem.h"
#include "fathom/rng.h"

// Keeps draws of tokens apart from whatever else is drawn with the same seed.
enum { SAMPLE_STREAM = 0x73616d };

struct candidate {
    float logit;
    int32_t id;
    double weight;
};

static int by_logit(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    if (a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static fm_status check(const fm_model_sampling *s)
{
    if (!(s->temperature >= 0) || isinf(s->temperature))
        return fm_base_error_set(FM_ERR_ARG, "temperature is %g; expected 0 or more", s->temperature);
    if (!(s->top_p >= 0 && s->top_p <= 1))
        return fm_base_error_set(FM_ERR_ARG, "top_p is %g; expected 0 to 1", s->top_p);
    if (s->top_k < 0)
        return fm_base_error_set(FM_ERR_ARG, "top_k is %d; expected 0 or more", s->top_k);
    return FM_OK;
}

// Finite ones only: NaN has no place in an order, and a token of minus infinity is never drawn.
static int gather(const float *logits, int vocab, struct candidate *out)
{
    int count = 0;
    for (int i = 0; i < vocab; i++)
        if (isfinite(logits[i]))
            out[count++] = (struct candidate){logits[i], i, 0};
    return count;
}

static int32_t draw(struct candidate *candidates, int count, const fm_model_sampling *s, int position)
{
    double total = 0, kept = 0;
    qsort(candidates, (size_t)count, sizeof *candidates, by_logit);
    if (s->top_k > 0 && s->top_k < count)
        count = s->top_k;
    for (int i = 0; i < count; i++) {
        candidates[i].weight =
            exp(((double)candidates[i].logit - (double)candidates[0].logit) / s->temperature);
        total += candidates[i].weight;
    }
    int last = 0;
    for (; last < count; last++) {
        kept += candidates[last].weight;
        if (s->top_p > 0 && kept >= s->top_p * total)
            break;
    }
    double left = fm_rng_to_double(fm_base_rng_at(s->seed, SAMPLE_STREAM, (uint64_t)position)) * kept;
    int chosen = 0;
    while (chosen < count - 1 && chosen < last && left >= candidates[chosen].weight)
        left -= candidates[chosen++].weight;
    return candidates[chosen].id;
}

fm_status fm_model_sample(const float *logits, int vocab, const fm_model_sampling *sampling, int position,
                          int32_t *out_id)
{
    int32_t best = -1;
    FM_TRY(check(sampling));
    for (int i = 0; i < vocab; i++)
        if (isfinite(logits[i]) && (best < 0 || logits[i] > logits[best]))
            best = i;
    if (best < 0)
        return fm_base_error_set(FM_ERR_ARG, "none of %d logits is finite", vocab);
    if (sampling->temperature > 0) {
        struct candidate *candidates = fm_base_mem_alloc((size_t)vocab * sizeof *candidates);
        if (!candidates)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory to sort %d logits", vocab);
        int count = gather(logits, vocab, candidates);
        best = draw(candidates, count, sampling, position);
        fm_base_mem_free(candidates);
    }
    *out_id = best;
    return FM_OK;
}
