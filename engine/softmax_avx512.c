/* softmax_avx512.c - softmax.h for AVX-512: three passes over a row that lies in the nearest
 * caches. Four accumulators hide the latency of max and add. 16-bit policies and several axes are
 * rare and left to the portable form. */
#include "engine/softmax.h"

#include <immintrin.h>
#include <math.h>

/* exp(x) for x <= 0 as 2^t, t = x log2 e: the fraction of t by vreduce, 2^fraction by the
 * polynomial of degree 5 with the least relative error on [0,1) (7.5e-8, by Remez), the whole part
 * by vscalef, which takes the floor itself. t is rounded once, so the relative error grows with
 * |t|: 2^-25 |t| ln 2 on top, on values of 2^t. -inf reduces to 0 and scales to 0; NaN stays. */
static inline __m512 exp_vector(__m512 x)
{
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f));
    __m512 r = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(1.877578804816e-03f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.989333443728e-03f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.582632535675e-02f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.401536138396e-01f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931530736288e-01f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.999999250737e-01f));
    return _mm512_scalef_ps(p, t);
}

static inline __mmask16 tail_of(int64_t left)
{
    return (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1);
}

/* v = x + positions + adder, stored; returns the running maximum. positions are a slice, or one
 * value for all when slice is NULL. */
static __m512 prepare(float *x, int64_t count, const float *slice, float value, const float *adder,
                      __m512 maximum)
{
    __m512 accumulators[4] = {maximum, maximum, maximum, maximum};
    __m512 same = _mm512_set1_ps(value);
    int64_t j = 0;
    for (; j + 64 <= count; j += 64) {
        for (int u = 0; u < 4; u++) {
            int64_t at = j + 16 * u;
            __m512 v = _mm512_loadu_ps(x + at);
            v = _mm512_add_ps(v, slice != NULL ? _mm512_loadu_ps(slice + at) : same);
            if (adder != NULL)
                v = _mm512_add_ps(v, _mm512_loadu_ps(adder + at));
            _mm512_storeu_ps(x + at, v);
            accumulators[u] = _mm512_max_ps(accumulators[u], v);
        }
    }
    for (; j < count; j += 16) {
        __mmask16 k = tail_of(count - j);
        __m512 v = _mm512_maskz_loadu_ps(k, x + j);
        v = _mm512_add_ps(v, slice != NULL ? _mm512_maskz_loadu_ps(k, slice + j) : same);
        if (adder != NULL)
            v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(k, adder + j));
        _mm512_mask_storeu_ps(x + j, k, v);
        accumulators[0] = _mm512_mask_max_ps(accumulators[0], k, accumulators[0], v);
    }
    return _mm512_max_ps(_mm512_max_ps(accumulators[0], accumulators[1]),
                         _mm512_max_ps(accumulators[2], accumulators[3]));
}

static float exponentiate(float *x, int64_t count, float maximum)
{
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                      _mm512_setzero_ps()};
    __m512 top = _mm512_set1_ps(maximum);
    int64_t j = 0;
    for (; j + 64 <= count; j += 64) {
        for (int u = 0; u < 4; u++) {
            __m512 e = exp_vector(_mm512_sub_ps(_mm512_loadu_ps(x + j + 16 * u), top));
            _mm512_storeu_ps(x + j + 16 * u, e);
            sums[u] = _mm512_add_ps(sums[u], e);
        }
    }
    for (; j < count; j += 16) {
        __mmask16 k = tail_of(count - j);
        __m512 e = exp_vector(_mm512_sub_ps(_mm512_maskz_loadu_ps(k, x + j), top));
        _mm512_mask_storeu_ps(x + j, k, e);
        sums[0] = _mm512_mask_add_ps(sums[0], k, sums[0], e);
    }
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

static void scale(float *x, int64_t count, float factor)
{
    __m512 f = _mm512_set1_ps(factor);
    for (int64_t j = 0; j < count; j += 16) {
        __mmask16 k = tail_of(count - j);
        _mm512_mask_storeu_ps(x + j, k, _mm512_mul_ps(_mm512_maskz_loadu_ps(k, x + j), f));
    }
}

static float prepare_row(const struct engine_softmax_rows *rows, int64_t row)
{
    float *x = rows->tile + row * rows->stride;
    const float *adder = rows->adder != NULL ? rows->adder + row * rows->adder_stride : NULL;
    __m512 maximum = _mm512_set1_ps(-INFINITY);
    if (rows->position == NULL)
        return _mm512_reduce_max_ps(prepare(x, rows->keys, NULL, 0.0f, adder, maximum));
    struct engine_softmax_runs runs;
    engine_softmax_split(rows, row, &runs);
    maximum = prepare(x, runs.low, NULL, runs.first, adder, maximum);
    int64_t at = runs.low;
    maximum =
        prepare(x + at, runs.middle, runs.slice, 0.0f, adder != NULL ? adder + at : NULL, maximum);
    at += runs.middle;
    maximum = prepare(x + at, rows->keys - at, NULL, runs.last, adder != NULL ? adder + at : NULL,
                      maximum);
    return _mm512_reduce_max_ps(maximum);
}

void engine_softmax_avx512_rows(const struct engine_softmax_rows *rows)
{
    if (rows->several_axes || rows->policy != ENGINE_POLICY_FLOAT32 || rows->keys == 0) {
        engine_softmax_portable(rows);
        return;
    }
    for (int64_t row = 0; row < rows->rows; row++) {
        float *x = rows->tile + row * rows->stride;
        float sum = exponentiate(x, rows->keys, prepare_row(rows, row));
        if (rows->defer)
            rows->factors[row] = 1.0f / sum;
        else
            scale(x, rows->keys, 1.0f / sum);
    }
}
