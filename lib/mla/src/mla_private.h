/**
 * @file mla_private.h
 * How attention is cut up.
 *
 *     call -> units (rows that see the same list of keys: all queries and heads of a request that share a key head)
 *          -> splits of the list (decode) and blocks of up to FM_MLA_ROWS rows: a thread's, in one go
 *          -> chunks of FM_MLA_CHUNK keys, widened to f32 once for all rows of the block
 *          -> S^T = K Q^T, a vector being a key's logits with 16 rows; p; O += P V
 *
 * Q^T lies packed in strips, K and V as they come, and P^T is read where S^T was: nothing is transposed but Q, once.
 * Both products are one kernel, multiply(). So are those of the backward pass.
 */
#ifndef MLA_PRIVATE_H
#define MLA_PRIVATE_H

#include "fathom/mla.h"

enum {
    FM_MLA_STEP = 32,  // indices of a step of the order of sums: what TDPBF16PS adds at once
    FM_MLA_LANES = 16, // f32 of the widest vector; what dimensions and rows are multiples of
    FM_MLA_STRIP = 32, // columns that multiply() takes at once
    FM_MLA_ROWS =
        256, // of a block of the forward pass: what it needs leaves room in a 2 MiB second-level cache
    FM_MLA_BACK_ROWS = 128,              // of a block of the backward pass, which has more per row
    FM_MLA_Q_FLOATS = 576 * FM_MLA_ROWS, // of Q^T: rows are fewer where d_qk is larger
    FM_MLA_O_FLOATS = 512 * FM_MLA_ROWS, // of O, likewise
    FM_MLA_FEW_ROWS =
        8, // fewer than a vector has are a waste of S^T; from about 11 on it costs less all the same
    FM_MLA_DEPTH = 192, // indices of a dot that multiply() gets at once: a strip's part of B is then 24 KiB
    FM_MLA_LINE_MAX = FM_MLA_DIM_MAX + FM_MLA_LANES,
    FM_MLA_BACK_KEYS = 256, // of a block of the backward pass: keys are fewer where they are long
    FM_MLA_KV_FLOATS = FM_MLA_CHUNK * FM_MLA_LINE_MAX,
    FM_MLA_STRETCH =
        256, // keys that tiles take at once, a few chunks: O is loaded and stored only once for them
    FM_MLA_P_FLOATS = FM_MLA_STRETCH * (FM_MLA_ROWS + FM_MLA_LANES), // BACK_KEYS x BACK_ROWS, padded, fits
    FM_MLA_TILE_CODES = 512,                                         // BF16 numbers of a tile
    FM_MLA_KEY_CODES =
        FM_MLA_STRETCH * (576 + FM_MLA_STEP), // of a stretch of keys; fewer where they are longer
    FM_MLA_VALUE_CODES = FM_MLA_STRETCH * 512,
    FM_MLA_TILE_P_LINE = FM_MLA_STRETCH + FM_MLA_STEP,
};

/** Floats from row to row of a matrix of `columns`: an odd number of cache lines, so that rows use all cache sets. */
static inline size_t fm_mla_line(size_t columns)
{
    size_t lines = (columns + FM_MLA_LANES - 1) / FM_MLA_LANES;
    return (lines | 1) * FM_MLA_LANES;
}

/** Keys of the next chunk, whose bytes are asked for little by little while this one is computed: all at once would wait
 *  for the few lines that a core can have under way. */
struct fm_mla_ahead {
    const uint8_t *keys[FM_MLA_STRETCH];
    int count, bytes;
    int key, at; // the next line
};

static inline void fm_mla_ahead_ask(struct fm_mla_ahead *ahead, int lines)
{
    for (; lines > 0 && ahead->key < ahead->count; lines--) {
        __builtin_prefetch(ahead->keys[ahead->key] + ahead->at, 0, 2);
        ahead->at += 64;
        if (ahead->at >= ahead->bytes) {
            ahead->at = 0;
            ahead->key++;
        }
    }
}

/** C[rows, columns] += A B, or = A B: element (r, i) of A is a[r * a_row + i * a_index], one of the two strides being 1;
 *  row i of B is b + i * b_stride. columns is a multiple of 16. */
struct fm_mla_product {
    const float *a;
    size_t a_row, a_index;
    const float *b;
    size_t b_stride;
    float *c;
    size_t c_stride;
    int rows, columns, depth;
    int fresh;                  // C is not read
    struct fm_mla_ahead *ahead; // to ask for, so many lines with each step of a tile; or NULL
    int ahead_lines;
};

/** What p, and its gradient, are rounded to before they are multiplied. */
enum fm_mla_round {
    FM_MLA_ROUND_NONE,
    FM_MLA_ROUND_BF16,
    FM_MLA_ROUND_FP16,
};

/** Logits of a chunk, key by key, `rows` (a multiple of 16) to each; they become p. */
struct fm_mla_softmax {
    float *s;
    size_t stride;
    int keys, rows;
    const int32_t *visible; // keys of this chunk that each row sees; NULL: all
    float factor;           // softmax_scale * log2 e
    enum fm_mla_round round;
    float *max, *sum; // what p is relative to, and the sum of it, so far, in terms of x; updated
    float *peak;      // the largest x so far; updated
    float *alpha;     // out: what O must be multiplied by
};

/** The same in the backward pass: s becomes p, and dp, the gradient by p, becomes that by s / softmax_scale. */
struct fm_mla_softmax_back {
    float *s, *dp;
    size_t stride;
    int keys, rows;
    const int32_t *visible;
    float factor;
    enum fm_mla_round round;
    const float *lse2;  // log2 of the sums; +inf for a row that sees nothing
    const float *delta; // out . d_out
};

/** Few rows against a chunk of BF16 keys where they lie, bound by reading them. FP8 keys have become BF16. */
struct fm_mla_few {
    const uint8_t *const *keys; // FM_MLA_CHUNK addresses, those behind `count` of anything readable
    int count, rows;
    int depth;      // of a dot: d_qk; of a value: d_v
    const float *q; // rows of it
    size_t q_stride;
    float *p; // logits, written by few_dots(), or p, read by few_values(): key by key
    size_t p_stride;
    float *o;
    size_t o_stride;
    int fresh; // O is not read
    struct fm_mla_ahead *ahead;
    int ahead_lines; // to ask for with each step of 16 keys, or of 16 or 32 columns
};

/** C[rows, columns] += A B, or = A B, in BF16 on tiles; columns are 16 or 32, rows are taken in whole tiles. */
struct fm_mla_tile_product {
    const uint8_t *const *a; // each 16 rows of A
    const size_t *a_bytes;   // and how far they lie apart
    const uint16_t *b;       // a strip: step after step a tile of pairs of rows for each 16 columns
    float *c;
    size_t c_stride;
    const float *c_next; // of the next product
    int rows, columns, depth;
    int fresh; // C is not read
    struct fm_mla_ahead *ahead;
    int ahead_lines;
};

/** What a level with tiles provides for keys that are numbers of BF16; else NULL. What is packed is f32 that BF16 holds
 *  exactly, and filled up with zeros to a whole step. */
struct fm_mla_tile_kernels {
    /** Around all others' calls in a thread. */
    void (*enter)(void);
    void (*leave)(void);
    void (*multiply)(const struct fm_mla_tile_product *product);
    /** 16 columns of B, lines[c * stride + i]; out_step from step to step. */
    void (*pack_columns)(const float *lines, size_t stride, int depth, uint16_t *out, size_t out_step);
    /** Rows of A, lines[r * stride + i]; out_line from row to row. */
    void (*pack_lines)(const float *lines, size_t stride, int rows, int depth, uint16_t *out,
                       size_t out_line);
    /** 16 or 32 columns of B, b[i * stride + c]. */
    void (*pack_pairs)(const float *b, size_t stride, int depth, int columns, uint16_t *out);
    /** 16 rows of A, p[i * stride + r], of `count` i; out_line from row to row. */
    void (*pack_turned)(const float *p, size_t stride, int count, uint16_t *out, size_t out_line);
    /** B from `count` rows of BF16; out_strip from 32 columns to the next 32. `lines` are asked for with each 32 x 32. */
    void (*pack_rows)(const uint8_t *const *rows, int count, int columns, uint16_t *out, size_t out_strip,
                      struct fm_mla_ahead *ahead, int lines);
    /** Whether all of some rows of BF16 are numbers. */
    int (*finite)(const uint8_t *const *rows, int count, int columns);
};

/** What an ISA level provides. */
struct fm_mla_kernels {
    fm_isa isa;
    void (*multiply)(const struct fm_mla_product *product);
    void (*softmax)(const struct fm_mla_softmax *softmax);
    void (*softmax_back)(const struct fm_mla_softmax_back *softmax);
    /** Codes as f32, n a multiple of 16. */
    void (*widen_bf16)(const void *from, size_t n, float *out);
    void (*widen_fp16)(const void *from, size_t n, float *out);
    void (*widen_e4m3)(const void *from, size_t n, float *out);
    /** x[i] = x[i] * scale rounded to BF16, n a multiple of 16. */
    void (*scale_bf16)(float *x, size_t n, float scale);
    /** x[i] *= scale, n a multiple of 16. */
    void (*scale)(float *x, size_t n, float scale);
    /** out[i] = x[i] * scale + out[i], fused, n a multiple of 16. */
    void (*add_scaled)(const float *x, size_t n, float scale, float *out);
    /** out[i * out_stride + r] = x[r * x_stride + i], for 16 r and n (a multiple of 16) i. */
    void (*transpose)(const float *x, size_t x_stride, size_t n, float *out, size_t out_stride);
    /** For up to FM_MLA_FEW_ROWS rows, straight from BF16; NULL: a level has none. */
    void (*few_dots)(const struct fm_mla_few *few);
    /** E4M3 times a scale, rounded to BF16, n a multiple of 16: what FP8 keys become for the two. */
    void (*narrow_e4m3)(const uint8_t *codes, size_t n, float scale, uint16_t *out);
    void (*few_values)(const struct fm_mla_few *few);
    struct fm_mla_tile_kernels tiles;
};

void fm_mla_install_ref(struct fm_mla_kernels *kernels);
void fm_mla_install_avx2(struct fm_mla_kernels *kernels);
void fm_mla_install_avx512(struct fm_mla_kernels *kernels);
void fm_mla_install_amx(struct fm_mla_kernels *kernels);
/** Whether tiles give what `other` gives, bit for bit, in this thread's floating-point mode. */
int fm_mla_tiles_agree(const struct fm_mla_kernels *tiles, const struct fm_mla_kernels *other);
void fm_mla_few_dots_avx512(const struct fm_mla_few *few);
void fm_mla_few_values_avx512(const struct fm_mla_few *few);
void fm_mla_narrow_e4m3_avx512(const uint8_t *codes, size_t n, float scale, uint16_t *out);
/** The same for CPUs with GFNI. */
void fm_mla_narrow_e4m3_gfni(const uint8_t *codes, size_t n, float scale, uint16_t *out);

/** Keys and values as BF16: where they lie, or in a workspace. */
struct fm_mla_places {
    const uint8_t *keys[FM_MLA_STRETCH], *values[FM_MLA_STRETCH];
};

/** A thread's workspace. Rows of matrices have strides of fm_mla_line(). */
struct fm_mla_space {
    _Alignas(
        64) float q[FM_MLA_Q_FLOATS]; // strips of Q^T, 32 rows (the last may have 16) of all indices each
    _Alignas(64) float o[FM_MLA_O_FLOATS + FM_MLA_ROWS * FM_MLA_LANES];
    _Alignas(64) float k[FM_MLA_KV_FLOATS];
    _Alignas(64) float v[FM_MLA_KV_FLOATS];
    _Alignas(64) float p[FM_MLA_P_FLOATS];
    _Alignas(64) float max[FM_MLA_ROWS];
    _Alignas(64) float sum[FM_MLA_ROWS];
    _Alignas(64) float peak[FM_MLA_ROWS];
    _Alignas(64) float alpha[FM_MLA_ROWS];
    _Alignas(64) int32_t limit[FM_MLA_ROWS];   // keys of the list that a row sees
    _Alignas(64) int32_t visible[FM_MLA_ROWS]; // keys of the chunk
    struct fm_mla_ahead ahead;
    struct fm_mla_places places;
    _Alignas(64) uint16_t keys[FM_MLA_KEY_CODES]; // FP8 as BF16, and what tiles cannot be loaded from
    /* for tiles */
    _Alignas(64) uint16_t tile_q[FM_MLA_Q_FLOATS]; // strips of B
    _Alignas(64) uint16_t tile_v[FM_MLA_VALUE_CODES];
    _Alignas(64) uint16_t tile_p[FM_MLA_ROWS * FM_MLA_TILE_P_LINE];
    _Alignas(64) float lines[FM_MLA_LANES * FM_MLA_LINE_MAX]; // rows on their way to being transposed
    /* of the backward pass */
    _Alignas(64) float q_rows[FM_MLA_BACK_ROWS * FM_MLA_LINE_MAX];
    _Alignas(64) float do_rows[FM_MLA_BACK_ROWS * FM_MLA_LINE_MAX];
    _Alignas(64) float dp[FM_MLA_P_FLOATS];
    _Alignas(64) float dk[FM_MLA_KV_FLOATS];
    _Alignas(64) float dv[FM_MLA_KV_FLOATS];
};

struct fm_mla_context {
    struct fm_mla_kernels kernels;
    int threads;
    struct fm_mla_space *spaces; // one for each thread
};

/** Tasks of a call; those of one stage before those of the next. */
struct fm_mla_stage {
    int64_t tasks;
    void (*body)(void *arg, int64_t task, struct fm_mla_space *space);
};

/** Runs body(arg, task, space) for tasks 0 ... tasks - 1 of each stage, each in some thread, in the floating-point mode of
 *  kernels and with tiles where there are any. One team runs all stages: threads are woken once. */
void fm_mla_team_run(fm_mla_context *context, int stages, const struct fm_mla_stage *stage, void *arg);

/* ---- mla_args.c: checks, and access to rows of tensors ---- */

/** FM_OK when the tensor has these dimensions, a dtype of `dtypes` (bits 1 << fm_dtype), aligned data, strides that are
 *  not negative, and (`rows`) contiguous rows. */
FM_MUST_USE fm_status fm_mla_args_tensor(const char *name, const fm_tensor *tensor, uint32_t dtypes, int ndim,
                                         const int64_t *shape, int rows);
FM_MUST_USE fm_status fm_mla_args_extent(const char *name, int64_t value, int64_t least, int64_t most);
FM_MUST_USE fm_status fm_mla_args_heads(int h_q, int h_kv);
FM_MUST_USE fm_status fm_mla_args_dim(const char *name, int64_t dim);
/** FM_ERR_ARG when the output's memory overlaps the input's. Both have been checked; NULL overlaps nothing. */
FM_MUST_USE fm_status fm_mla_args_apart(const char *output_name, const fm_tensor *output,
                                        const char *input_name, const fm_tensor *input);
FM_MUST_USE fm_status fm_mla_args_apart_bytes(const char *output_name, const fm_tensor *output,
                                              const char *input_name, const void *input, size_t bytes);
FM_MUST_USE fm_status fm_mla_args_scale(float given, int d_qk, float *out_scale);

#define FM_MLA_DTYPE_BIT(dtype) (UINT32_C(1) << (dtype))
/** Of q, k, v and outputs. */
#define FM_MLA_FLOATS \
    (FM_MLA_DTYPE_BIT(FM_DTYPE_F32) | FM_MLA_DTYPE_BIT(FM_DTYPE_BF16) | FM_MLA_DTYPE_BIT(FM_DTYPE_F16))

/** n values (a multiple of 16) of a row of a tensor, element `at` on, as f32. */
void fm_mla_row_read(const struct fm_mla_kernels *kernels, const fm_tensor *tensor, int64_t at, size_t n,
                     float *out);
void fm_mla_row_write(const fm_tensor *tensor, int64_t at, size_t n, const float *row);

/* ---- mla_cache.c ---- */

/** Checks all that a cache says. */
FM_MUST_USE fm_status fm_mla_cache_check(const char *name, const fm_mla_cache *cache);
/** The dtype that q has with such a cache, and how p is rounded. */
fm_dtype fm_mla_cache_dtype(const fm_mla_cache *cache);
enum fm_mla_round fm_mla_round_of(fm_dtype dtype);

/** A checked cache, with what its fields imply. */
struct fm_mla_pages {
    uint8_t *data;
    fm_mla_form form;
    int page, d_qk, d_v, group, groups;
    int shift; // page is 1 << shift; -1 where it is no power of two
    int64_t slots;
    size_t block_bytes, head_bytes, token_bytes;
};
/** The page of a slot or place, and where in it. Each key asks: most pages spare it a division. */
static inline int64_t fm_mla_pages_split(const struct fm_mla_pages *pages, int64_t at, int64_t *out_offset)
{
    int64_t page = pages->shift >= 0 ? at >> pages->shift : at / pages->page;
    *out_offset = at - page * pages->page;
    return page;
}

struct fm_mla_pages fm_mla_pages_of(const fm_mla_cache *cache);
/** Bytes from the first of the cache to behind its last. */
size_t fm_mla_cache_span(const fm_mla_cache *cache);
/** Key `head` of a slot, as f32. */
void fm_mla_pages_read(const struct fm_mla_pages *pages, const struct fm_mla_kernels *kernels, int64_t slot,
                       int head, float *out);
/** Where it lies. */
const uint8_t *fm_mla_pages_key(const struct fm_mla_pages *pages, int64_t slot, int head);
/** Where a key's BF16 lies: in the cache, or at `out` where it is FP8; of such forms. */
const uint8_t *fm_mla_pages_bf16(const struct fm_mla_pages *pages, const struct fm_mla_kernels *kernels,
                                 int64_t slot, int head, uint16_t *out);

/* ---- mla_attend.c ---- */

/** Where a block's keys come from. */
struct fm_mla_source {
    /** Widens up to FM_MLA_CHUNK keys, the next ones, into space->k (and space->v where values lie apart); returns how
     *  many, 0 at the end. Sets space->ahead. */
    int (*next)(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                struct fm_mla_space *space);
    /** The same for keys that are numbers of BF16: leaves in space->places where up to `most` lie, and in space->ahead
     *  up to `ahead` that follow. */
    int (*next_bf16)(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                     struct fm_mla_space *space, int most, int ahead);
    int64_t at; // the next key's place in the list; moved by next()
};

/** A block of rows against a list of keys. */
struct fm_mla_block {
    int rows;      // up to FM_MLA_ROWS
    int d_qk, d_v; // of a key, of a value
    int apart;     // values lie in space->v, not at the start of keys
    int limited;   // space->limit says how many keys of the list each row sees, later rows no fewer
    float factor;
    enum fm_mla_round round;
};

/** Rows of a block for these dimensions, at most. */
int fm_mla_block_rows(const struct fm_mla_kernels *kernels, int d_qk, int d_v);
/** Packs rows `first` ... into space->q; `at(arg, row)` is the first element of a row of `q`. */
void fm_mla_block_pack(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                       const fm_tensor *q, int64_t (*at)(const void *arg, int row), const void *arg,
                       struct fm_mla_space *space);
/** Leaves max, sum and peak in space, and O not yet divided by the sum. */
void fm_mla_block_attend(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                         struct fm_mla_source *source, struct fm_mla_space *space);

/* What ways to attend share. `first` is the first row that takes part. */

/** Whole strips of rows before the first that sees a key of the chunk at `at`: later rows see more. */
int fm_mla_block_behind(const struct fm_mla_block *block, int64_t at, const struct fm_mla_space *space);
/** Fills space->visible; false when every row sees all keys of the chunk. */
int fm_mla_block_partly(const struct fm_mla_block *block, int64_t at, int keys, struct fm_mla_space *space);
/** A chunk's logits, p[key * p_line + row], become p. */
void fm_mla_block_softmax(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int first,
                          int keys, int partly, float *p, size_t p_line, struct fm_mla_space *space);
/** Multiplies what O is so far by alpha. */
void fm_mla_block_rescale(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int first,
                          struct fm_mla_space *space);
/** O += P V, each row with the keys alone that it sees. */
void fm_mla_block_add_alone(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int first,
                            const float *p, size_t p_line, const float *v, size_t v_line,
                            struct fm_mla_space *space);

/* ---- mla_attend_tiles.c ---- */

/** Whether a block's products are those of BF16, and on tiles. */
int fm_mla_block_on_tiles(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels);
/** 16 rows, from `first` on, of what fm_mla_block_pack() packs. */
void fm_mla_block_pack_tiles(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                             const float *lines, int first, struct fm_mla_space *space);
/** kernels->multiply() on tiles, of operands that BF16 holds exactly. `again`: with the same A as in the call before. */
void fm_mla_product_tiles(const struct fm_mla_product *product, int again,
                          const struct fm_mla_kernels *kernels, struct fm_mla_space *space);
/** Of fm_mla_block_attend(); true where there were no keys. */
int fm_mla_block_attend_tiles(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                              struct fm_mla_source *source, struct fm_mla_space *space);
/** Keys of a stretch for these dimensions, at most; and BF16 numbers from key to key in space->keys: an odd number of
 *  cache lines, so that they use all cache sets. */
int fm_mla_stretch(int d_qk, int d_v);
size_t fm_mla_key_line(int d_qk);

/* ---- mla_attend.c again ---- */

/** S^T or its like: c[keys, rows] = a B, B packed in strips as space->q is; of rows `first` (a multiple of
 *  FM_MLA_STRIP) on. */
void fm_mla_block_dots(const struct fm_mla_kernels *kernels, const float *a, size_t a_stride, int keys,
                       const float *strips, int first, int rows, int depth, float *c, size_t c_stride,
                       struct fm_mla_ahead *ahead, int ahead_lines);
/** Puts 16 rows, lines[r * line], into strips. */
void fm_mla_block_strip(const struct fm_mla_kernels *kernels, const float *lines, size_t line, int first,
                        int rows, int depth, float *strips);

/** Divides a row of O by its sum, or by that with the sink (NULL: none); returns lse. */
float fm_mla_block_finish(const struct fm_mla_kernels *kernels, float max, float sum, const float *sink,
                          size_t d_v, float *o);

/** Rows filled up to whole vectors. */
static inline int fm_mla_lanes(int rows)
{
    return (rows + FM_MLA_LANES - 1) / FM_MLA_LANES * FM_MLA_LANES;
}

static inline int64_t fm_mla_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t fm_mla_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

#endif
