/* softmax_amx.c - softmax.h's rows for the bfloat16 kernel: one axis, float32 policy, and results
 * put straight where they are wanted: returned scores, and the left operand of the values.
 *
 * exp is good to 8.6e-5 of a result, a twentieth of what rounding to bfloat16 costs; what would be
 * denormal is 0. Three passes over a row, as in softmax_avx512.c; the last one of the row before
 * runs beside the second, so that streamed stores drain while exponentials are computed.
 * It refuses several axes and 16-bit policies: they are the other forms'. */
#include "engine/softmax.h"

#include <immintrin.h>
#include <string.h>

#include "engine/kernel_vectors.h"
#include "engine/softmax_vectors.h"

enum { CHUNK = 64, HALF_CHUNK = 32, LANES = 16, FLUSH_TO_ZERO = 0x8000 };

/* exp(x) for x <= 0: 2^t = 2^floor(t) p(t - floor(t)), p the cubic of
 * least relative error among those with p(0) = 1. NaN stays. */
static inline __m512 exp_vector(__m512 x)
{
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    __m512 r = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.07706704f), r, _mm512_set1_ps(0.22764499f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69511679f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, t);
}

static inline void put_left(uint16_t *to, __m512 first, __m512 second)
{
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(second, first));
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
};

/* Results of 32 keys; the lanes that are not keys count as 0. */
static inline __attribute__((always_inline)) void give(const struct row *row, int64_t j,
                                                       __mmask32 lanes, const bool streamed)
{
    __mmask16 low = (__mmask16)lanes, high = (__mmask16)(lanes >> LANES);
    __m512 factor = _mm512_set1_ps(row->factor);
    __m512 first = _mm512_maskz_mul_ps(low, _mm512_maskz_loadu_ps(low, row->from + j), factor);
    __m512 second =
        _mm512_maskz_mul_ps(high, _mm512_maskz_loadu_ps(high, row->from + j + LANES), factor);
    if (row->left != NULL)
        put_left(row->left + j, first, second);
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
static inline __attribute__((always_inline)) float exponentiate(float *x, int64_t keys,
                                                                float maximum, const bool gives,
                                                                const struct row *before,
                                                                const bool streamed)
{
    const __m512 zero = _mm512_setzero_ps(), top = _mm512_set1_ps(maximum);
    __m512 sums[4] = {zero, zero, zero, zero};
    int64_t j = 0;
    for (; j + CHUNK <= keys; j += CHUNK) {
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 4; u++) {
            float *at = x + j + LANES * u;
            __m512 e = exp_vector(_mm512_sub_ps(_mm512_loadu_ps(at), top));
            _mm512_storeu_ps(at, e);
            sums[u] = _mm512_add_ps(sums[u], e);
        }
        if (gives) {
            give(before, j, ~(__mmask32)0, streamed);
            give(before, j + HALF_CHUNK, ~(__mmask32)0, streamed);
        }
    }
    for (; j < keys; j += HALF_CHUNK) {
        __mmask32 lanes = engine_kernel_vectors_lanes32(keys - j);
        for (int u = 0; u < 2; u++) {
            __mmask16 k = (__mmask16)(lanes >> (LANES * u));
            float *at = x + j + LANES * u;
            __m512 e = exp_vector(_mm512_sub_ps(_mm512_maskz_loadu_ps(k, at), top));
            _mm512_mask_storeu_ps(at, k, e);
            sums[u] = _mm512_mask_add_ps(sums[u], k, sums[u], e);
        }
        if (gives)
            give(before, j, lanes, streamed);
    }
    return sum_of(sums);
}

/* As above, into the left operand alone. */
static float exponentiate_left(const float *x, int64_t keys, float maximum, uint16_t *left)
{
    const __m512 zero = _mm512_setzero_ps(), top = _mm512_set1_ps(maximum);
    __m512 sums[4] = {zero, zero, zero, zero};
    int64_t j = 0;
    for (; j + CHUNK <= keys; j += CHUNK) {
        __m512 e[4];
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 4; u++) {
            e[u] = exp_vector(_mm512_sub_ps(_mm512_loadu_ps(x + j + LANES * u), top));
            sums[u] = _mm512_add_ps(sums[u], e[u]);
        }
        put_left(left + j, e[0], e[1]);
        put_left(left + j + HALF_CHUNK, e[2], e[3]);
    }
    for (; j < keys; j += HALF_CHUNK) {
        __mmask32 lanes = engine_kernel_vectors_lanes32(keys - j);
        __m512 e[2];
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 2; u++) {
            __mmask16 k = (__mmask16)(lanes >> (LANES * u));
            __m512 v = _mm512_maskz_loadu_ps(k, x + j + LANES * u);
            e[u] = _mm512_maskz_mov_ps(k, exp_vector(_mm512_sub_ps(v, top)));
            sums[u] = _mm512_add_ps(sums[u], e[u]);
        }
        put_left(left + j, e[0], e[1]);
    }
    return sum_of(sums);
}

static void give_row(const struct row *row, int64_t keys, const bool streamed)
{
    for (int64_t j = 0; j < keys; j += HALF_CHUNK)
        give(row, j, engine_kernel_vectors_lanes32(keys - j), streamed);
}

static struct row row_of(const struct engine_softmax_rows *rows,
                         const struct engine_softmax_results *results, int64_t row, float sum)
{
    struct row ret = {.from = rows->tile + row * rows->stride, .factor = 1.0f / sum};
    if (results->scores != NULL)
        ret.scores = results->scores + row * results->scores_stride;
    if (results->left != NULL)
        ret.left = results->left + row * results->left_stride;
    return ret;
}

static void defer(const struct engine_softmax_rows *rows,
                  const struct engine_softmax_results *results)
{
    float top = engine_softmax_vectors_prepare(rows, 0);
    for (int64_t row = 0; row < rows->rows; row++) {
        float next = row + 1 < rows->rows ? engine_softmax_vectors_prepare(rows, row + 1) : 0.0f;
        float sum = exponentiate_left(rows->tile + row * rows->stride, rows->keys, top,
                                      results->left + row * results->left_stride);
        rows->factors[row] = 1.0f / sum;
        top = next;
    }
}

static inline __attribute__((always_inline)) void
give_rows(const struct engine_softmax_rows *rows, const struct engine_softmax_results *results,
          const bool streamed)
{
    float top = engine_softmax_vectors_prepare(rows, 0);
    float sum = exponentiate(rows->tile, rows->keys, top, false, NULL, streamed);
    for (int64_t row = 1; row < rows->rows; row++) {
        struct row before = row_of(rows, results, row - 1, sum);
        top = engine_softmax_vectors_prepare(rows, row);
        sum =
            exponentiate(rows->tile + row * rows->stride, rows->keys, top, true, &before, streamed);
    }
    struct row last = row_of(rows, results, rows->rows - 1, sum);
    give_row(&last, rows->keys, streamed);
}

void engine_softmax_amx_rows(const struct engine_softmax_rows *rows,
                             const struct engine_softmax_results *results)
{
    if (rows->rows == 0 || rows->keys == 0)
        return;
    unsigned state = _mm_getcsr();
    _mm_setcsr(state | FLUSH_TO_ZERO);
    if (rows->defer)
        defer(rows, results);
    else if (results->streamed)
        give_rows(rows, results, true);
    else
        give_rows(rows, results, false);
    if (results->streamed)
        _mm_sfence(); /* before another thread is told that they are there */
    _mm_setcsr(state);
}
