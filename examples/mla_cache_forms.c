// Puts a sequence into a paged cache, in BF16 and in FP8, and decodes one token against both.
#include <math.h>
#include <stdio.h>

#include "fathom/mem.h"
#include "fathom/mla.h"
#include "fathom/numfmt.h"

enum { KEYS = 100, PAGE = 64, PAGES = 2, HEADS = 4, D_QK = 576, D_V = 512 };

// Attention of one query with the cache; its first result.
static fm_status decode(fm_mla_context *mla, fm_mla_plan *plan, fm_mla_form form, const fm_tensor *rows,
                        const fm_tensor *q, float *out_value)
{
    static float values[HEADS * D_V];
    static const int32_t block_table[PAGES] = {1, 0}; // key 0 lies on page 1
    fm_mla_cache cache = {.form = form, .page = PAGE, .h_kv = 1, .d_qk = D_QK, .d_v = D_V, .blocks = PAGES};
    fm_tensor out;
    size_t bytes;
    FM_TRY(fm_base_tensor_init(&out, FM_DTYPE_F32, 4, (int64_t[]){1, 1, HEADS, D_V}, values));
    FM_TRY(fm_mla_cache_page_bytes(&cache, &bytes));
    cache.data = fm_base_mem_aligned(PAGES * bytes, 64);
    if (!cache.data)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the cache");

    int64_t slots[KEYS];
    for (int i = 0; i < KEYS; i++)
        slots[i] = (int64_t)block_table[i / PAGE] * PAGE + i % PAGE;
    fm_status status = fm_mla_cache_append(mla, &cache, slots, rows);
    if (status == FM_OK)
        status = fm_mla_decode(
            mla, plan,
            &(fm_mla_decode_args){
                .q = q, .cache = &cache, .block_table = block_table, .max_blocks = PAGES, .out = &out});
    fm_base_mem_free(cache.data);
    if (status == FM_OK)
        *out_value = values[0];
    return status;
}

static fm_status compare(fm_mla_context *mla)
{
    static float rows_memory[KEYS * D_QK];
    static fm_bf16 q_memory[HEADS * D_QK];
    for (int i = 0; i < KEYS * D_QK; i++)
        rows_memory[i] = sinf((float)i);
    for (int i = 0; i < HEADS * D_QK; i++)
        q_memory[i] = fm_f32_to_bf16(cosf((float)i));
    fm_tensor rows, q;
    FM_TRY(fm_base_tensor_init(&rows, FM_DTYPE_F32, 3, (int64_t[]){KEYS, 1, D_QK}, rows_memory));
    FM_TRY(fm_base_tensor_init(&q, FM_DTYPE_BF16, 4, (int64_t[]){1, 1, HEADS, D_QK}, q_memory));

    const int32_t cache_seqlens[] = {KEYS};
    fm_mla_plan *plan;
    FM_TRY(fm_mla_plan_dense(&(fm_mla_shape){.batch = 1, .s_q = 1, .h_q = HEADS, .h_kv = 1, .d_v = D_V},
                             cache_seqlens, &(fm_mla_split){0}, &plan));
    float bf16 = 0, fp8 = 0;
    fm_status status = decode(mla, plan, FM_MLA_FORM_BF16, &rows, &q, &bf16);
    if (status == FM_OK)
        status = decode(mla, plan, FM_MLA_FORM_FP8, &rows, &q, &fp8);
    fm_mla_plan_free(plan);
    if (status == FM_OK)
        printf("out[0] is %.4f with BF16 keys, 1152 bytes each, and %.4f with FP8 keys of 656\n",
               (double)bf16, (double)fp8);
    return status;
}

int main(void)
{
    fm_mla_context *mla;
    fm_status status = fm_mla_context_open(NULL, &mla);
    if (status == FM_OK) {
        status = compare(mla);
        fm_mla_context_close(mla);
    }
    if (status < 0)
        fprintf(stderr, "mla_cache_forms: %s\n", fm_error_message());
    return status < 0;
}
