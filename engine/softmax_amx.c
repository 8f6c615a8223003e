/* softmax_amx.c - softmax.h's rows for the kernels on tiles: one axis, float32 policy, and results
 * put straight where they are wanted: returned scores, and the left operand of the values.
 *
 * With one plane exp is good to 8.6e-5 of a result, a twentieth of what rounding to bfloat16 costs;
 * with more it is that of the other forms. What would be denormal is 0. Three passes over a row, as
 * in softmax_avx512.c; the last one of the row before runs beside the second, so that streamed
 * stores drain while exponentials are computed.
 * It refuses several axes and 16-bit policies: they are the other forms'. */
#include "engine/softmax.h"

#include <immintrin.h>
#include <string.h>

#include "engine/kernel_planes.h"
#include "engine/kernel_vectors.h"
#include "engine/softmax_vectors.h"

enum { CHUNK = 64, HALF_CHUNK = 32, LANES = 16, FLUSH_TO_ZERO = 0x8000 };

/* exp(x) for x <= 0: 2^t = 2^floor(t) p(t - floor(t)), p the cubic of
 * least relative error among those with p(0) = 1. NaN stays. */
static inline __m512 exp_of_few_bits(__m512 x)
{
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    __m512 r = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.07706704f), r, _mm512_set1_ps(0.22764499f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69511679f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, t);
}

/* The table of the exact exp, in registers. */
struct powers {
    __m512i low, high;
};

static inline struct powers load_powers(void)
{
    return (struct powers){_mm512_load_si512(engine_softmax_vectors_powers),
                           _mm512_load_si512(engine_softmax_vectors_powers + LANES)};
}

static inline __attribute__((always_inline)) __m512 exp_vector(const int planes, __m512 x,
                                                               struct powers powers)
{
    return planes == 1 ? exp_of_few_bits(x)
                       : engine_softmax_vectors_exp(x, powers.low, powers.high);
}

static inline __attribute__((always_inline)) void
put_left(const int planes, uint16_t *to, size_t plane, __m512 first, __m512 second)
{
    __m512i parts[ENGINE_KERNEL_PLANES];
    engine_kernel_planes_split(planes, first, second, parts);
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < planes; i++)
        _mm512_storeu_si512((char *)to + (size_t)i * plane, parts[i]);
}

static inline float sum_of(const __m512 sums[4])
{
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

/* A row whose exponentials are in the tile, and where its results go. */
struct row {
    const float *from;
    float factor;
    float *scores; /* NULL: nowhere */
    uint16_t *left;
    size_t plane;
};

/* Results of 32 keys; the lanes that are not keys count as 0. */
static inline __attribute__((always_inline)) void
give(const int planes, const struct row *row, int64_t j, __mmask32 lanes, const bool streamed)
{
    __mmask16 low = (__mmask16)lanes, high = (__mmask16)(lanes >> LANES);
    __m512 factor = _mm512_set1_ps(row->factor);
    __m512 first = _mm512_maskz_mul_ps(low, _mm512_maskz_loadu_ps(low, row->from + j), factor);
    __m512 second =
        _mm512_maskz_mul_ps(high, _mm512_maskz_loadu_ps(high, row->from + j + LANES), factor);
    if (row->left != NULL)
        put_left(planes, row->left + j, row->plane, first, second);
    if (row->scores == NULL)
        return;
    if (streamed) {
        _mm512_stream_ps(row->scores + j, first);
        if (high != 0)
            _mm512_stream_ps(row->scores + j + LANES, second);
    } else {
        _mm512_mask_storeu_ps(row->scores + j, low, first);
        _mm512_mask_storeu_ps(row->scores + j + LANES, high, second);
    }
}

/* The tile's row becomes its exponentials; returns their sum. Beside it "before" is given out. */
static inline __attribute__((always_inline)) float exponentiate(const int planes, float *x,
                                                                int64_t keys, float maximum,
                                                                const struct row *before,
                                                                const bool streamed)
{
    const __m512 zero = _mm512_setzero_ps(), top = _mm512_set1_ps(maximum);
    __m512 sums[4] = {zero, zero, zero, zero};
    struct powers powers = load_powers();
    int64_t j = 0;
    for (; j + CHUNK <= keys; j += CHUNK) {
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 4; u++) {
            float *at = x + j + LANES * u;
            __m512 e = exp_vector(planes, _mm512_sub_ps(_mm512_loadu_ps(at), top), powers);
            _mm512_storeu_ps(at, e);
            sums[u] = _mm512_add_ps(sums[u], e);
        }
        if (before != NULL) {
            give(planes, before, j, ~(__mmask32)0, streamed);
            give(planes, before, j + HALF_CHUNK, ~(__mmask32)0, streamed);
        }
    }
    for (; j < keys; j += HALF_CHUNK) {
        __mmask32 lanes = engine_kernel_vectors_lanes32(keys - j);
        for (int u = 0; u < 2; u++) {
            __mmask16 k = (__mmask16)(lanes >> (LANES * u));
            float *at = x + j + LANES * u;
            __m512 e = exp_vector(planes, _mm512_sub_ps(_mm512_maskz_loadu_ps(k, at), top), powers);
            _mm512_mask_storeu_ps(at, k, e);
            sums[u] = _mm512_mask_add_ps(sums[u], k, sums[u], e);
        }
        if (before != NULL)
            give(planes, before, j, lanes, streamed);
    }
    return sum_of(sums);
}

/* As above, into the left operand alone. */
static inline __attribute__((always_inline)) float exponentiate_left(const int planes,
                                                                     const float *x, int64_t keys,
                                                                     float maximum, uint16_t *left,
                                                                     size_t plane)
{
    const __m512 zero = _mm512_setzero_ps(), top = _mm512_set1_ps(maximum);
    __m512 sums[4] = {zero, zero, zero, zero};
    struct powers powers = load_powers();
    int64_t j = 0;
    for (; j + CHUNK <= keys; j += CHUNK) {
        __m512 e[4];
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 4; u++) {
            e[u] =
                exp_vector(planes, _mm512_sub_ps(_mm512_loadu_ps(x + j + LANES * u), top), powers);
            sums[u] = _mm512_add_ps(sums[u], e[u]);
        }
        put_left(planes, left + j, plane, e[0], e[1]);
        put_left(planes, left + j + HALF_CHUNK, plane, e[2], e[3]);
    }
    for (; j < keys; j += HALF_CHUNK) {
        __mmask32 lanes = engine_kernel_vectors_lanes32(keys - j);
        __m512 e[2];
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 2; u++) {
            __mmask16 k = (__mmask16)(lanes >> (LANES * u));
            __m512 v = _mm512_maskz_loadu_ps(k, x + j + LANES * u);
            e[u] = _mm512_maskz_mov_ps(k, exp_vector(planes, _mm512_sub_ps(v, top), powers));
            sums[u] = _mm512_add_ps(sums[u], e[u]);
        }
        put_left(planes, left + j, plane, e[0], e[1]);
    }
    return sum_of(sums);
}

static inline __attribute__((always_inline)) void give_row(const int planes, const struct row *row,
                                                           int64_t keys, const bool streamed)
{
    for (int64_t j = 0; j < keys; j += HALF_CHUNK)
        give(planes, row, j, engine_kernel_vectors_lanes32(keys - j), streamed);
}

static struct row row_of(const struct engine_softmax_rows *rows,
                         const struct engine_softmax_results *results, int64_t row, float sum)
{
    struct row ret = {
        .from = rows->tile + row * rows->stride, .factor = 1.0f / sum, .plane = results->plane};
    if (results->scores != NULL)
        ret.scores = results->scores + row * results->scores_stride;
    if (results->left != NULL)
        ret.left = results->left + row * results->left_stride;
    return ret;
}

static inline __attribute__((always_inline)) void
defer(const int planes, const struct engine_softmax_rows *rows,
      const struct engine_softmax_results *results)
{
    float top = engine_softmax_vectors_prepare(rows, 0);
    for (int64_t row = 0; row < rows->rows; row++) {
        float next = row + 1 < rows->rows ? engine_softmax_vectors_prepare(rows, row + 1) : 0.0f;
        float sum = exponentiate_left(planes, rows->tile + row * rows->stride, rows->keys, top,
                                      results->left + row * results->left_stride, results->plane);
        rows->factors[row] = 1.0f / sum;
        top = next;
    }
}

static inline __attribute__((always_inline)) void
give_rows(const int planes, const struct engine_softmax_rows *rows,
          const struct engine_softmax_results *results, const bool streamed)
{
    float top = engine_softmax_vectors_prepare(rows, 0);
    float sum = exponentiate(planes, rows->tile, rows->keys, top, NULL, streamed);
    for (int64_t row = 1; row < rows->rows; row++) {
        struct row before = row_of(rows, results, row - 1, sum);
        top = engine_softmax_vectors_prepare(rows, row);
        sum = exponentiate(planes, rows->tile + row * rows->stride, rows->keys, top, &before,
                           streamed);
    }
    struct row last = row_of(rows, results, rows->rows - 1, sum);
    give_row(planes, &last, rows->keys, streamed);
}

static inline __attribute__((always_inline)) void
compute(const int planes, const struct engine_softmax_rows *rows,
        const struct engine_softmax_results *results)
{
    if (rows->defer)
        defer(planes, rows, results);
    else if (results->streamed)
        give_rows(planes, rows, results, true);
    else
        give_rows(planes, rows, results, false);
}

void engine_softmax_amx_rows(const struct engine_softmax_rows *rows,
                             const struct engine_softmax_results *results)
{
    if (rows->rows == 0 || rows->keys == 0)
        return;
    unsigned state = _mm_getcsr();
    _mm_setcsr(state | FLUSH_TO_ZERO);
    if (results->planes == 1)
        compute(1, rows, results);
    else if (results->planes == 2)
        compute(2, rows, results);
    else
        compute(3, rows, results);
    if (results->streamed)
        _mm_sfence(); /* before another thread is told that they are there */
    _mm_setcsr(state);
}

static inline __attribute__((always_inline)) void copy(const int planes,
                                                       const struct engine_softmax_rows *rows,
                                                       const struct engine_softmax_results *results)
{
    for (int64_t i = 0; i < rows->rows; i++) {
        struct row row = row_of(rows, results, i, 1.0f);
        if (results->streamed)
            give_row(planes, &row, rows->keys, true);
        else
            give_row(planes, &row, rows->keys, false);
    }
}

void engine_softmax_amx_copy(const struct engine_softmax_rows *rows,
                             const struct engine_softmax_results *results)
{
    if (results->planes == 1)
        copy(1, rows, results);
    else if (results->planes == 2)
        copy(2, rows, results);
    else
        copy(3, rows, results);
    if (results->streamed)
        _mm_sfence();
}
