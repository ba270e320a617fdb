/**
 * @file gemm_fences.h
 * Calls with every operand and result between pages that nobody may touch, at every level: nothing is read or written
 * outside of a matrix, and all give the same.
 */
#ifndef GEMM_FENCES_H
#define GEMM_FENCES_H

#include "gemm_cases.h"

#include "gemm_private.h"

#include "fm_test.h"

#include <sys/mman.h>
#include <unistd.h>

enum { POISON = 0xFF, FENCES_MAX = 32, EXPECTED_MAX = 8 };

/* Every piece of memory of a call, each between two pages of no access, at the beginning or at the end of what lies
   between them. */
struct fences {
    int at_end;
    int count;
    struct {
        uint8_t *pages;
        size_t bytes;
    } list[FENCES_MAX];
};

static inline void *fence(struct fences *fences, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    assert_true(fences->count < FENCES_MAX);
    uint8_t *pages = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    if (inner)
        assert_int_equal(mprotect(pages + page, inner, PROT_READ | PROT_WRITE), 0);
    fences->list[fences->count].pages = pages;
    fences->list[fences->count++].bytes = inner + 2 * page;
    uint8_t *at = pages + page + (fences->at_end ? inner - bytes : 0);
    if (bytes)
        memset(at, POISON, bytes);
    return at;
}

static inline void *fence_copy(struct fences *fences, const void *from, size_t bytes)
{
    void *to = fence(fences, bytes);
    if (bytes)
        memcpy(to, from, bytes);
    return to;
}

static inline void fences_free(struct fences *fences)
{
    for (int i = 0; i < fences->count; i++)
        munmap(fences->list[i].pages, fences->list[i].bytes);
}

// Bytes from the first element to the last one of `lines` lines.
static inline size_t extent(fm_dtype dtype, int64_t lines, int64_t inner, int64_t stride)
{
    int64_t bits = fm_base_dtype_bits(dtype);
    return lines && inner ? (size_t)((((lines - 1) * stride + inner) * bits + 7) / 8) : 0;
}

static inline fm_dtype scale_dtype(const fm_gemm_operand *operand)
{
    return operand->scale_dtype == FM_DTYPE_F8_UE8M0 ? FM_DTYPE_F8_UE8M0 : FM_DTYPE_F32;
}

// `across` columns of scales; 0: as many as k needs.
static inline fm_gemm_operand fence_matrix(struct fences *fences, const struct gemm_matrix *matrix, int64_t k,
                                           int64_t across)
{
    fm_gemm_operand operand = matrix->operand;
    int64_t lines = operand.transposed ? k : matrix->rows, inner = operand.transposed ? matrix->rows : k;
    operand.data = fence_copy(fences, matrix->data, extent(operand.dtype, lines, inner, operand.stride));
    if (operand.dtype == FM_DTYPE_BF16)
        return operand;
    int64_t scale_k = operand.scale_k ? operand.scale_k : 128;
    int64_t down = (matrix->rows + operand.scale_rows - 1) / operand.scale_rows;
    across = across ? across : (k + scale_k - 1) / scale_k;
    operand.scales =
        fence_copy(fences, matrix->scales, extent(scale_dtype(&operand), down, across, operand.scale_stride));
    return operand;
}

static inline fm_gemm_weights fence_weights(struct fences *fences, fm_gemm_context *context,
                                            const struct gemm_matrix *b, int packed)
{
    fm_gemm_weights weights;
    fm_gemm_operand operand = fence_matrix(fences, b, b->k, 0);
    if (!packed) {
        assert_ok(fm_gemm_weights_plain(b->rows, b->k, &operand, &weights));
        return weights;
    }
    size_t bytes;
    assert_ok(fm_gemm_weights_pack_size(b->rows, b->k, &operand, &bytes));
    assert_true(bytes % FM_GEMM_BLOB_ALIGN == 0); // so that it can end where a page does
    void *blob = fence(fences, bytes);
    assert_ok(fm_gemm_weights_pack(context, b->rows, b->k, &operand, blob, bytes));
    assert_ok(fm_gemm_weights_open(blob, bytes, &weights));
    return weights;
}

static inline fm_gemm_result fence_output(struct fences *fences, const struct gemm_output *like)
{
    fm_gemm_result result = like->result;
    size_t bytes = extent(result.dtype, like->rows, like->n, result.stride);
    result.data = fence(fences, bytes);
    if (like->c)
        result.c = fence_copy(fences, like->c, bytes);
    return result;
}

// The first result is what all others have to be.
struct expected {
    void *bytes;
    size_t size;
};

static inline void check_same(struct expected *expected, const void *bytes, size_t size)
{
    if (!expected->bytes) {
        *expected = (struct expected){fm_base_mem_alloc(size + 1), size};
        assert_non_null(expected->bytes);
        memcpy(expected->bytes, bytes, size);
    }
    assert_true(size == expected->size);
    if (size)
        assert_memory_equal(bytes, expected->bytes, size);
}

/* A call that is made at every level and at both ends of its pages. */

struct call {
    void (*run)(struct call *call, fm_gemm_context *context, struct fences *fences);
    const void *of;
    int packs; // made once more, with packed weights
    int packed;
    struct expected expected[EXPECTED_MAX];
};

#if defined(__x86_64__)
void fm_gemm_test_install_emulated(struct fm_gemm_kernels *kernels);
#endif

// The kernel for AMX runs over emulated tiles where there are no others.
static inline fm_gemm_context *open_level(fm_isa isa)
{
    fm_gemm_context *context = gemm_open(isa, 2);
#if defined(__x86_64__)
    if (isa == FM_ISA_AMX && fm_gemm_context_isa(context) == FM_ISA_AVX512)
        fm_gemm_test_install_emulated(&context->kernels);
#endif
    return context;
}

static inline void everywhere(struct call *call)
{
    for (int isa = FM_ISA_REF; isa <= FM_ISA_AMX; isa++) {
        fm_gemm_context *context = open_level((fm_isa)isa);
        for (int i = 0; i < (call->packs ? 4 : 2); i++) {
            struct fences fences = {.at_end = i % 2};
            call->packed = i / 2;
            call->run(call, context, &fences);
            fences_free(&fences);
        }
        fm_gemm_context_close(context);
    }
    for (int i = 0; i < EXPECTED_MAX; i++)
        fm_base_mem_free(call->expected[i].bytes);
}

#endif
