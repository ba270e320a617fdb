// Rows in the forms in which they travel: BF16, FP8 with a scale for each 128 channels, LogFMT-10.
#include <string.h>

#include "ep_private.h"

size_t fm_ep_row_bytes(fm_ep_format format, int hidden)
{
    if (format == FM_EP_LOGFMT10)
        return fm_ep_log_bytes(hidden);
    if (format == FM_EP_F32)
        return (size_t)hidden * sizeof(float);
    return (size_t)hidden * (format == FM_EP_BF16 ? sizeof(fm_bf16) : sizeof(fm_e4m3));
}

size_t fm_ep_scale_bytes(fm_ep_format format, int hidden)
{
    static const size_t bytes[] = {[FM_EP_BF16] = 0,
                                   [FM_EP_FP8_F32] = sizeof(float),
                                   [FM_EP_FP8_UE8M0] = sizeof(fm_ue8m0),
                                   [FM_EP_LOGFMT10] = 2 * sizeof(fm_bf16),
                                   [FM_EP_F32] = 0};
    return (size_t)fm_ep_scales(hidden) * bytes[format];
}

/** The largest finite magnitude of a block. BF16 magnitudes order as their bits do. */
static float block_amax(const fm_bf16 *block, int n)
{
    int most = 0;
    for (int i = 0; i < n; i++) {
        int magnitude = block[i] & 0x7FFF;
        most = magnitude > most && magnitude < 0x7F80 ? magnitude : most;
    }
    return fm_bf16_to_f32((fm_bf16)most);
}

static void cast_fp8(const fm_bf16 *row, int hidden, fm_ep_format format, fm_e4m3 *out_row, void *out_scales)
{
    for (int b = 0; b < fm_ep_scales(hidden); b++) {
        int first = b * FM_EP_SCALE_BLOCK;
        int n = hidden - first < FM_EP_SCALE_BLOCK ? hidden - first : FM_EP_SCALE_BLOCK;
        float amax = block_amax(row + first, n);
        amax = amax > 1e-4f ? amax : 1e-4f; // DeepEP's floor: a block of zeros has a scale, too
        float factor = FM_E4M3_MAX / amax;
        if (format == FM_EP_FP8_UE8M0) {
            fm_ue8m0 code = fm_f32_to_ue8m0_ceil(amax / FM_E4M3_MAX);
            ((fm_ue8m0 *)out_scales)[b] = code;
            factor = 1.0f / fm_ue8m0_to_f32(code); // exact: both are powers of two, and normal
        } else {
            ((float *)out_scales)[b] = amax / FM_E4M3_MAX;
        }
        float scaled[FM_EP_SCALE_BLOCK];
        fm_base_bf16_to_f32(row + first, (size_t)n, scaled);
        for (int i = 0; i < n; i++) {
            float value = scaled[i] * factor;
            // An infinity would saturate, and look like an honest 448.
            scaled[i] = (row[first + i] & 0x7FFF) == 0x7F80 ? fm_f32_from_bits(0x7FC00000) : value;
        }
        fm_base_f32_to_e4m3(scaled, (size_t)n, out_row + first);
    }
}

void fm_ep_cast_row(const fm_bf16 *row, int hidden, fm_ep_format format, void *out_row, void *out_scales)
{
    if (format == FM_EP_BF16)
        memcpy(out_row, row, (size_t)hidden * sizeof *row);
    else if (format == FM_EP_F32)
        fm_base_bf16_to_f32(row, (size_t)hidden, out_row);
    else if (format == FM_EP_LOGFMT10)
        fm_ep_log_encode(row, hidden, out_row, out_scales);
    else
        cast_fp8(row, hidden, format, out_row, out_scales);
}

void fm_ep_uncast_block(const void *row, const void *scales, fm_ep_format format, int first, int n,
                        float *out)
{
    size_t block = (size_t)first / FM_EP_SCALE_BLOCK;
    if (format == FM_EP_BF16) {
        fm_base_bf16_to_f32((const fm_bf16 *)row + first, (size_t)n, out);
    } else if (format == FM_EP_F32) {
        memcpy(out, (const float *)row + first, (size_t)n * sizeof *out);
    } else if (format == FM_EP_LOGFMT10) {
        fm_ep_log_decode(row, (const fm_bf16 *)scales + 2 * block, first, n, out);
    } else {
        float scale = format == FM_EP_FP8_F32 ? ((const float *)scales)[block]
                                              : fm_ue8m0_to_f32(((const fm_ue8m0 *)scales)[block]);
        fm_base_e4m3_to_f32((const fm_e4m3 *)row + first, (size_t)n, out);
        for (int i = 0; i < n; i++)
            out[i] *= scale;
    }
}

void fm_ep_uncast_row(const void *row, const void *scales, int hidden, fm_ep_format format, float *out)
{
    for (int first = 0; first < hidden; first += FM_EP_SCALE_BLOCK) {
        int n = hidden - first < FM_EP_SCALE_BLOCK ? hidden - first : FM_EP_SCALE_BLOCK;
        fm_ep_uncast_block(row, scales, format, first, n, out + first);
    }
}
