/* softmax_vectors.h - the first pass over a row of softmax.h, for files compiled for AVX-512 only.
 */
#ifndef ENGINE_SOFTMAX_VECTORS_H
#define ENGINE_SOFTMAX_VECTORS_H

#include <immintrin.h>
#include <math.h>

#include "engine/kernel_vectors.h"
#include "engine/softmax.h"

/* v = x + positions + adder, stored; returns the running maximum. positions are a slice, or one
 * value for all; the flags are constants of the caller. */
static inline __attribute__((always_inline)) __m512
engine_softmax_vectors_part(float *x, int64_t count, const bool sliced, const float *slice,
                            float value, const bool added, const float *adder, __m512 maximum)
{
    __m512 tops[4] = {maximum, maximum, maximum, maximum};
    __m512 same = _mm512_set1_ps(value);
    int64_t j = 0;
    for (; j + 64 <= count; j += 64) {
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 4; u++) {
            int64_t at = j + 16 * u;
            __m512 v =
                _mm512_add_ps(_mm512_loadu_ps(x + at), sliced ? _mm512_loadu_ps(slice + at) : same);
            if (added)
                v = _mm512_add_ps(v, _mm512_loadu_ps(adder + at));
            _mm512_storeu_ps(x + at, v);
            tops[u] = _mm512_max_ps(tops[u], v);
        }
    }
    for (; j < count; j += 16) {
        __mmask16 k = engine_kernel_vectors_lanes16(count - j);
        __m512 v = _mm512_add_ps(_mm512_maskz_loadu_ps(k, x + j),
                                 sliced ? _mm512_maskz_loadu_ps(k, slice + j) : same);
        if (added)
            v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(k, adder + j));
        _mm512_mask_storeu_ps(x + j, k, v);
        tops[0] = _mm512_mask_max_ps(tops[0], k, tops[0], v);
    }
    return _mm512_max_ps(_mm512_max_ps(tops[0], tops[1]), _mm512_max_ps(tops[2], tops[3]));
}

static inline __m512 engine_softmax_vectors_add(float *x, int64_t count, const float *slice,
                                                float value, const float *adder, __m512 maximum)
{
    if (slice != NULL)
        return adder != NULL
                   ? engine_softmax_vectors_part(x, count, true, slice, 0.0f, true, adder, maximum)
                   : engine_softmax_vectors_part(x, count, true, slice, 0.0f, false, NULL, maximum);
    return adder != NULL
               ? engine_softmax_vectors_part(x, count, false, NULL, value, true, adder, maximum)
               : engine_softmax_vectors_part(x, count, false, NULL, value, false, NULL, maximum);
}

/* The first pass over a row: positions and mask added in place; returns the maximum. */
static inline float engine_softmax_vectors_prepare(const struct engine_softmax_rows *rows,
                                                   int64_t row)
{
    float *x = rows->tile + row * rows->stride;
    const float *adder = rows->adder != NULL ? rows->adder + row * rows->adder_stride : NULL;
    __m512 maximum = _mm512_set1_ps(-INFINITY);
    if (rows->position == NULL)
        return _mm512_reduce_max_ps(
            engine_softmax_vectors_add(x, rows->keys, NULL, 0.0f, adder, maximum));
    struct engine_softmax_runs runs;
    engine_softmax_split(rows, row, &runs);
    maximum = engine_softmax_vectors_add(x, runs.low, NULL, runs.first, adder, maximum);
    int64_t at = runs.low;
    maximum = engine_softmax_vectors_add(x + at, runs.middle, runs.slice, 0.0f,
                                         adder != NULL ? adder + at : NULL, maximum);
    at += runs.middle;
    maximum = engine_softmax_vectors_add(x + at, rows->keys - at, NULL, runs.last,
                                         adder != NULL ? adder + at : NULL, maximum);
    return _mm512_reduce_max_ps(maximum);
}

#endif
