/**
 * @file mla_kernels_body.h
 * The kernels of a vector level. Its file defines, before it includes this:
 *
 *     LANES               f32 of a vector
 *     V, I, M             vectors of f32 and of int32, and what a comparison gives
 *     v_*, i_*, m_*       operations on them, named for what they do
 *     TILE_ROWS_MAX, TILE_VECTORS_MAX    of a tile of multiply()
 *     TILE_PARITIES       2: registers hold the sums of even and of odd indices together; 1: one after the other
 *
 * and after it multiply() and transpose().
 */

// 2^x, as fm_mla_exp2().
FM_INLINE V exp2_of(V x)
{
    const V magic = v_set1(FM_MLA_EXP_MAGIC);
    V shifted = v_add(x, magic), n = v_sub(shifted, magic);
    V f = v_sub(x, n);
    V y = v_fma(v_set1(FM_MLA_EXP_C6), f, v_set1(FM_MLA_EXP_C5));
    y = v_fma(y, f, v_set1(FM_MLA_EXP_C4));
    y = v_fma(y, f, v_set1(FM_MLA_EXP_C3));
    y = v_fma(y, f, v_set1(FM_MLA_EXP_C2));
    y = v_fma(y, f, v_set1(FM_MLA_EXP_C1));
    y = v_fma(y, f, v_set1(1));
    return v_zero_where(m_less(x, v_set1(FM_MLA_EXP_LEAST)), v_times_power(y, n, shifted));
}

// To BF16. A NaN must have zeros where BF16 has nothing, as all that come from 16-bit numbers have: it could become a
// number by the carry.
FM_INLINE V bf16_of(V x)
{
    I bits = v_bits(x);
    I odd = i_and(i_shift_right(bits, 16), i_set1(1));
    return v_of_bits(i_and(i_add(bits, i_add(odd, i_set1(0x7FFF))), i_set1((int32_t)0xFFFF0000)));
}

FM_INLINE V rounded(V x, enum fm_mla_round round)
{
    if (round == FM_MLA_ROUND_BF16)
        return bf16_of(x);
    return round == FM_MLA_ROUND_FP16 ? v_fp16_of(x) : x;
}

FM_INLINE V any_rounded(V x, enum fm_mla_round round)
{
    return round == FM_MLA_ROUND_BF16 ? v_select(m_nan(x), x, bf16_of(x)) : rounded(x, round);
}

// LANES rows of a softmax.
FM_INLINE void softmax_lanes(const struct fm_mla_softmax *softmax, int row, int masked,
                             enum fm_mla_round round)
{
    enum { SUMS = FM_MLA_LANES };
    const V factor = v_set1(softmax->factor), none = v_set1(-INFINITY);
    const I visible = masked ? i_load(softmax->visible + row) : i_set1(0);
    float *s = softmax->s + row;
    size_t stride = softmax->stride;
    int keys = softmax->keys;
    V before = v_load(softmax->max + row), top = none;
    for (int t = 0; t < keys; t++) {
        V x = v_mul(v_load(s + (size_t)t * stride), factor);
        if (masked)
            x = v_select(i_greater(visible, i_set1(t)), x, none);
        top = v_larger(x, top);
    }
    v_store(softmax->peak + row, v_larger(top, v_load(softmax->peak + row)));
    const V max = v_select(m_less(v_add(before, v_set1(FM_MLA_SLACK)), top), top, before);
    const V base = v_zero_where(m_equal(max, none), max);
    V sums[SUMS];
    FM_UNROLL for (int j = 0; j < SUMS; j++) sums[j] = v_set1(0);
    for (int t = 0; t < keys; t += SUMS) {
        if (keys - t >= SUMS) {
            FM_UNROLL for (int j = 0; j < SUMS; j++)
            {
                float *at = s + (size_t)(t + j) * stride;
                V p = exp2_of(v_sub(v_mul(v_load(at), factor), base));
                if (masked)
                    p = v_zero_where(m_not(i_greater(visible, i_set1(t + j))), p);
                sums[j] = v_add(sums[j], p);
                v_store(at, rounded(p, round));
            }
            continue;
        }
        FM_UNROLL for (int j = 0; j < SUMS; j++)
        {
            if (t + j < keys) {
                float *at = s + (size_t)(t + j) * stride;
                V p = exp2_of(v_sub(v_mul(v_load(at), factor), base));
                if (masked)
                    p = v_zero_where(m_not(i_greater(visible, i_set1(t + j))), p);
                sums[j] = v_add(sums[j], p);
                v_store(at, rounded(p, round));
            }
        }
    }
    FM_UNROLL for (int j = 0; j < 8; j++) sums[j] = v_add(sums[j], sums[j + 8]);
    FM_UNROLL for (int j = 0; j < 4; j++) sums[j] = v_add(sums[j], sums[j + 4]);
    sums[0] = v_add(v_add(sums[0], sums[2]), v_add(sums[1], sums[3]));
    V alpha = exp2_of(v_sub(before, base));
    v_store(softmax->alpha + row, alpha);
    v_store(softmax->max + row, max);
    v_store(softmax->sum + row, v_fma(v_load(softmax->sum + row), alpha, sums[0]));
}

static void softmax(const struct fm_mla_softmax *softmax)
{
    for (int row = 0; row < softmax->rows; row += LANES) {
        if (softmax->visible)
            softmax_lanes(softmax, row, 1, softmax->round);
        else if (softmax->round == FM_MLA_ROUND_BF16)
            softmax_lanes(softmax, row, 0, FM_MLA_ROUND_BF16);
        else
            softmax_lanes(softmax, row, 0, softmax->round);
    }
}

static void softmax_back(const struct fm_mla_softmax_back *softmax)
{
    const V factor = v_set1(softmax->factor);
    for (int row = 0; row < softmax->rows; row += LANES) {
        const V lse2 = v_load(softmax->lse2 + row), delta = v_load(softmax->delta + row);
        const I visible = softmax->visible ? i_load(softmax->visible + row) : i_set1(softmax->keys);
        for (int t = 0; t < softmax->keys; t++) {
            float *s = softmax->s + (size_t)t * softmax->stride + row;
            float *dp = softmax->dp + (size_t)t * softmax->stride + row;
            M hidden = m_not(i_greater(visible, i_set1(t)));
            V p = v_zero_where(hidden, exp2_of(v_sub(v_mul(v_load(s), factor), lse2)));
            V ds = v_mul(p, v_sub(v_load(dp), delta));
            v_store(dp, v_zero_where(hidden, any_rounded(ds, softmax->round)));
            v_store(s, any_rounded(p, softmax->round));
        }
    }
}

static void widen_bf16(const void *from, size_t n, float *out)
{
    const uint16_t *codes = from;
    for (size_t i = 0; i < n; i += LANES)
        v_store(out + i, v_of_bits(i_shift_left(i_load_u16(codes + i), 16)));
}

static void widen_fp16(const void *from, size_t n, float *out)
{
    const uint16_t *codes = from;
    for (size_t i = 0; i < n; i += LANES)
        v_store(out + i, v_load_fp16(codes + i));
}

// Exponent and mantissa move to their places in an f32, the bias grows by 120; subnormal codes are integers times 2^-9.
static void widen_e4m3(const void *from, size_t n, float *out)
{
    const uint8_t *codes = from;
    const I magnitude = i_set1(0x7F);
    for (size_t i = 0; i < n; i += LANES) {
        I code = i_load_u8(codes + i), bits = i_and(code, magnitude);
        I normal = i_add(i_shift_left(bits, 20), i_set1(120 << 23));
        V value =
            v_select(i_greater(i_set1(8), bits), v_mul(v_of_int(bits), v_set1(0x1p-9F)), v_of_bits(normal));
        value = v_select(i_greater(bits, i_set1(0x7E)), v_set1(NAN), value);
        v_store(out + i, v_of_bits(i_or(v_bits(value), i_shift_left(i_and(code, i_set1(0x80)), 24))));
    }
}

static void scale_bf16(float *x, size_t n, float by)
{
    for (size_t i = 0; i < n; i += LANES)
        v_store(x + i, any_rounded(v_mul(v_load(x + i), v_set1(by)), FM_MLA_ROUND_BF16));
}

static void scale(float *x, size_t n, float by)
{
    for (size_t i = 0; i < n; i += LANES)
        v_store(x + i, v_mul(v_load(x + i), v_set1(by)));
}

static void add_scaled(const float *x, size_t n, float by, float *out)
{
    for (size_t i = 0; i < n; i += LANES)
        v_store(out + i, v_fma(v_load(x + i), v_set1(by), v_load(out + i)));
}

// Rows of A are found from every third one: a pointer for each would take more registers than there are. The compiler
// must not see that they are apart by multiples of one stride, or it makes one pointer and eleven distances of them.
enum { GROUP = 3, GROUPS = TILE_ROWS_MAX / GROUP };

FM_INLINE void tile_index(const float *const a[GROUPS], size_t offset, size_t a_row, const float *b, int rows,
                          int vectors, V sum[TILE_ROWS_MAX][TILE_VECTORS_MAX])
{
    V line[TILE_VECTORS_MAX];
    FM_UNROLL for (int v = 0; v < vectors; v++) line[v] = v_load(b + v * LANES);
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        V value = v_set1(a[r / GROUP][offset + (size_t)(r % GROUP) * a_row]);
        FM_UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = v_fma(value, line[v], sum[r][v]);
    }
}

FM_INLINE void tile_advance(const float *a[GROUPS], size_t by)
{
    FM_UNROLL for (int g = 0; g < GROUPS; g++) a[g] += by;
}

// sum = the even indices' sum + the odd ones' of a step.
FM_INLINE void tile_step(const float *first, size_t a_row, size_t a_index, int along, const float *b,
                         size_t b_stride, int depth, int rows, int vectors,
                         V sum[TILE_ROWS_MAX][TILE_VECTORS_MAX])
{
    V odd[TILE_ROWS_MAX][TILE_VECTORS_MAX];
    const int whole = depth == FM_MLA_STEP;
    const float *a[GROUPS];
    FM_UNROLL for (int g = 0; g < GROUPS; g++)
    {
        a[g] = GROUP * g < rows ? first + (size_t)(GROUP * g) * a_row : first;
        if (along)
            __asm__("" : "+r"(a[g]));
    }
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < vectors; v++)
        {
            sum[r][v] = v_set1(0);
            odd[r][v] = v_set1(0);
        }
    }
#if TILE_PARITIES == 2
    for (; depth > 1; depth -= 2) {
        tile_index(a, 0, a_row, b, rows, vectors, sum);
        tile_index(a, a_index, a_row, b + b_stride, rows, vectors, odd);
        tile_advance(a, 2 * a_index);
        b += 2 * b_stride;
    }
    if (depth)
        tile_index(a, 0, a_row, b, rows, vectors, sum);
#else
    for (int i = 0; i < depth; i += 2)
        tile_index(a, (size_t)i * a_index, a_row, b + (size_t)i * b_stride, rows, vectors, sum);
    for (int i = 1; i < depth; i += 2)
        tile_index(a, (size_t)i * a_index, a_row, b + (size_t)i * b_stride, rows, vectors, odd);
#endif
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        FM_UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = v_add(sum[r][v], odd[r][v]);
    }
    if (whole)
        return;
    FM_UNROLL for (int r = 0; r < rows; r++) // tiles add zeros: the sum is not -0
    {
        FM_UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = v_add(sum[r][v], v_set1(0));
    }
}

// C of `rows` rows and `vectors` vectors of columns. `along`: a row of A is contiguous, else a column is.
FM_INLINE void tile(const struct fm_mla_product *product, size_t row, size_t column, int rows, int vectors,
                    int along)
{
    size_t a_row = along ? product->a_row : 1, a_index = along ? 1 : product->a_index;
    const float *a = product->a + row * a_row, *b = product->b + column;
    float *c = product->c + row * product->c_stride + column;
    for (int step = 0; step < product->depth; step += FM_MLA_STEP) {
        int depth = product->depth - step < FM_MLA_STEP ? product->depth - step : FM_MLA_STEP;
        V sum[TILE_ROWS_MAX][TILE_VECTORS_MAX];
        tile_step(a, a_row, a_index, along, b, product->b_stride, depth, rows, vectors, sum);
        FM_UNROLL for (int r = 0; r < rows; r++)
        {
            FM_UNROLL for (int v = 0; v < vectors; v++)
            {
                float *at = c + (size_t)r * product->c_stride + v * LANES;
                V before = step || !product->fresh ? v_load(at) : v_set1(0);
                v_store(at, v_add(before, sum[r][v]));
            }
        }
        if (product->ahead)
            fm_mla_ahead_ask(product->ahead, product->ahead_lines);
        a += FM_MLA_STEP * a_index;
        b += FM_MLA_STEP * product->b_stride;
    }
    for (int r = 0; product->depth <= 0 && product->fresh && r < rows; r++)
        for (int v = 0; v < vectors; v++)
            v_store(c + (size_t)r * product->c_stride + v * LANES, v_set1(0));
}

// A switch, so that each height has its own registers. `full` rows, then what is left in lower tiles.
FM_INLINE void tiles(const struct fm_mla_product *product, size_t column, size_t full, int vectors, int along)
{
    size_t rows = (size_t)product->rows, height;
    for (size_t row = 0; row < rows; row += height) {
        size_t left = rows - row;
        height = left >= full ? full : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        switch (height) {
        case 1:
            tile(product, row, column, 1, vectors, along);
            break;
        case 2:
            tile(product, row, column, 2, vectors, along);
            break;
        case 4:
            tile(product, row, column, 4, vectors, along);
            break;
#if TILE_ROWS_MAX == 12
        case 8:
            if (full == 12) // a constant: low tiles of two vectors need no code for this
                tile(product, row, column, 8, vectors, along);
            break;
        case 12:
            if (full == 12)
                tile(product, row, column, 12, vectors, along);
            break;
#endif
        default:
            if (full == 6)
                tile(product, row, column, 6, vectors, along);
            break;
        }
    }
}
