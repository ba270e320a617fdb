#include <float.h>
#include <math.h>
#include <string.h>

#include "eplb_check.h"

#include "fathom/mem.h"

struct fm_eplb_history {
    int layers;
    int experts;
    int window;
    int count; /* samples in the window */
    int next;  /* place of the next one */
    double alpha;
    size_t width;    /* layers * experts */
    float *sample;   /* [window][width], a ring */
    double *average; /* [width] */
    float *column;   /* [window] one expert's samples, for the quantile */
};

fm_status fm_eplb_history_new(int layers, int experts, int window, double alpha,
                              fm_eplb_history **out_history)
{
    if (layers < 1 || experts < 1 || window < 1)
        return fm_base_error_set(FM_ERR_ARG,
                                 "history of %d layers, %d experts, %d samples; expected at least 1 of each",
                                 layers, experts, window);
    if (!(alpha > 0 && alpha <= 1))
        return fm_base_error_set(FM_ERR_ARG, "alpha is %g; expected above 0, at most 1", alpha);
    size_t width = 0;
    size_t bytes = 0;
    FM_TRY(fm_mul_size((size_t)layers, (size_t)experts, &width));
    FM_TRY(fm_mul_size(width, sizeof(double), &bytes));
    FM_TRY(fm_mul_size(width * sizeof(float), (size_t)window, &bytes));
    fm_eplb_history *history = fm_base_mem_zalloc(1, sizeof *history);
    if (history) {
        *history = (fm_eplb_history){
            .layers = layers, .experts = experts, .window = window, .alpha = alpha, .width = width};
        history->sample = fm_base_mem_alloc(bytes);
        history->average = fm_base_mem_zalloc(width, sizeof(double));
        history->column = fm_base_mem_alloc((size_t)window * sizeof(float));
    }
    if (!history || !history->sample || !history->average || !history->column) {
        fm_eplb_history_free(history);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d samples of %d layers, %d experts", window,
                                 layers, experts);
    }
    *out_history = history;
    return FM_OK;
}

void fm_eplb_history_free(fm_eplb_history *history)
{
    if (!history)
        return;
    fm_base_mem_free(history->sample);
    fm_base_mem_free(history->average);
    fm_base_mem_free(history->column);
    fm_base_mem_free(history);
}

fm_status fm_eplb_history_push(fm_eplb_history *history, const float *loads)
{
    FM_TRY(fm_eplb_check_loads(history->layers, history->experts, loads, "load"));
    memcpy(history->sample + (size_t)history->next * history->width, loads, history->width * sizeof *loads);
    // The first sample is the average; from then on it decays.
    double alpha = history->count == 0 ? 1 : history->alpha;
    for (size_t i = 0; i < history->width; i++)
        history->average[i] += alpha * ((double)loads[i] - history->average[i]);
    history->next = (history->next + 1) % history->window;
    history->count += history->count < history->window;
    return FM_OK;
}

int fm_eplb_history_count(const fm_eplb_history *history)
{
    return history->count;
}

static fm_status check_samples(const fm_eplb_history *history)
{
    if (history->count == 0)
        return fm_base_error_set(FM_ERR_STATE, "the load history has no sample yet");
    return FM_OK;
}

fm_status fm_eplb_history_sum(const fm_eplb_history *history, float *out_weight)
{
    enum { BLOCK = 512 }; // accumulators that stay in the first-level cache while the samples stream by
    FM_TRY(check_samples(history));
    // Summed anew each time: a running sum would keep the rounding of samples long gone.
    for (size_t first = 0; first < history->width; first += BLOCK) {
        size_t width = history->width - first < BLOCK ? history->width - first : BLOCK;
        double sum[BLOCK] = {0};
        for (int k = 0; k < history->count; k++)
            for (size_t i = 0; i < width; i++)
                sum[i] += (double)history->sample[(size_t)k * history->width + first + i];
        for (size_t i = 0; i < width; i++)
            out_weight[first + i] = (float)fmin(sum[i], (double)FLT_MAX);
    }
    return FM_OK;
}

fm_status fm_eplb_history_average(const fm_eplb_history *history, float *out_weight)
{
    FM_TRY(check_samples(history));
    for (size_t i = 0; i < history->width; i++)
        out_weight[i] = (float)history->average[i];
    return FM_OK;
}

// Partitions so that value[at] is the one that a sort would put there, none before it is larger and none
// after it smaller.
static void select_value(float *value, int count, int at)
{
    for (int low = 0, high = count - 1; low < high;) {
        float pivot = value[low + (high - low) / 2];
        int i = low;
        int j = high;
        while (i <= j) {
            while (value[i] < pivot)
                i++;
            while (value[j] > pivot)
                j--;
            if (i <= j) {
                float swap = value[i];
                value[i++] = value[j];
                value[j--] = swap;
            }
        }
        if (at <= j)
            high = j;
        else if (at >= i)
            low = i;
        else
            return;
    }
}

fm_status fm_eplb_history_quantile(fm_eplb_history *history, double q, float *out_weight)
{
    if (!(q >= 0 && q <= 1))
        return fm_base_error_set(FM_ERR_ARG, "quantile is %g; expected 0 to 1", q);
    FM_TRY(check_samples(history));
    double at = q * (history->count - 1);
    int low = (int)at;
    float *column = history->column;
    for (size_t i = 0; i < history->width; i++) {
        for (int k = 0; k < history->count; k++)
            column[k] = history->sample[(size_t)k * history->width + i];
        select_value(column, history->count, low);
        double from = (double)column[low];
        double to = from;
        for (int k = low + 1; k < history->count; k++)
            to = k == low + 1 || (double)column[k] < to ? (double)column[k] : to;
        out_weight[i] = (float)(from + (at - low) * (to - from));
    }
    return FM_OK;
}
