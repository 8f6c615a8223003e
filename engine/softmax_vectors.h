/* softmax_vectors.h - the first pass over a row of softmax.h, and exp, for files compiled for
 * AVX-512 only. */
#ifndef ENGINE_SOFTMAX_VECTORS_H
#define ENGINE_SOFTMAX_VECTORS_H

#include <immintrin.h>
#include <math.h>

#include "engine/kernel_vectors.h"
#include "engine/softmax.h"

/* 2^(j/32) as float bits, less j << 18: what n << 18 adds to it, n = 32 k + j, is then k << 23. */
static const uint32_t engine_softmax_vectors_powers[32] __attribute__((aligned(64))) = {
    0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
    0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
    0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
    0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3,
};

/* exp(x) for x <= 0, to 1.9 ulp; 0 below -86, where parts of a result would be denormal (slow, and
 * short of bits); NaN stays.
 * n = round(32 x / ln 2), by adding 1.5 * 2^23, which leaves it in the low bits; r = x - n ln 2 /
 * 32 with ln 2 / 32 in two parts; e^r = 1 + r (c1 + r / 2) for |r| <= ln 2 / 64, the cubic term
 * taken into c1 as Chebyshev has it, which leaves 2^-24. */
static inline __m512 engine_softmax_vectors_exp(__m512 x, __m512i low, __m512i high)
{
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(46.166241308f), magic);
    __m512 n = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(2.166084945e-02f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-5.952044413e-11f), r);
    __m512i bits = _mm512_castps_si512(t);
    __m512 power = _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_slli_epi32(bits, 18), _mm512_permutex2var_epi32(low, bits, high)));
    __m512 q = _mm512_fmadd_ps(r, _mm512_set1_ps(0.5f), _mm512_set1_ps(1.0000146623f));
    __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-86.0f), _CMP_NLT_UQ);
    return _mm512_maskz_fmadd_ps(normal, _mm512_maskz_mul_ps(normal, power, r), q, power);
}

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
