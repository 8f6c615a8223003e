/* softmax_avx512.c - softmax.h for AVX-512: three passes over a row that lies in the nearest
 * caches; 16-bit policies and several axes are rare and left to the portable form.
 *
 * Per 16 elements the first pass takes 3 operations of the two vector ports, the second 14, the
 * third 1. Four accumulators hide the latency of max and add. */
#include "engine/softmax.h"

#include <immintrin.h>

#include "engine/kernel_vectors.h"
#include "engine/softmax_vectors.h"

/* 2^(j/32) as float bits, less j << 18: what n << 18 adds to it, n = 32 k + j, is then k << 23. */
static const uint32_t powers[32] __attribute__((aligned(64))) = {
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
static inline __m512 exp_vector(__m512 x, __m512i low, __m512i high)
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

static float exponentiate(float *x, int64_t count, float maximum)
{
    const __m512i low = _mm512_load_si512(powers), high = _mm512_load_si512(powers + 16);
    const __m512 zero = _mm512_setzero_ps(), top = _mm512_set1_ps(maximum);
    __m512 sums[4] = {zero, zero, zero, zero};
    int64_t j = 0;
    for (; j + 64 <= count; j += 64) {
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 4; u++) {
            float *at = x + j + 16 * u;
            __m512 e = exp_vector(_mm512_sub_ps(_mm512_loadu_ps(at), top), low, high);
            _mm512_storeu_ps(at, e);
            sums[u] = _mm512_add_ps(sums[u], e);
        }
    }
    for (; j < count; j += 16) {
        __mmask16 k = engine_kernel_vectors_lanes16(count - j);
        __m512 e = exp_vector(_mm512_sub_ps(_mm512_maskz_loadu_ps(k, x + j), top), low, high);
        _mm512_mask_storeu_ps(x + j, k, e);
        sums[0] = _mm512_mask_add_ps(sums[0], k, sums[0], e);
    }
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

static void scale(float *x, int64_t count, float factor)
{
    __m512 f = _mm512_set1_ps(factor);
    int64_t j = 0;
    for (; j + 64 <= count; j += 64) {
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 4; u++)
            _mm512_storeu_ps(x + j + 16 * u, _mm512_mul_ps(_mm512_loadu_ps(x + j + 16 * u), f));
    }
    for (; j < count; j += 16) {
        __mmask16 k = engine_kernel_vectors_lanes16(count - j);
        _mm512_mask_storeu_ps(x + j, k, _mm512_mul_ps(_mm512_maskz_loadu_ps(k, x + j), f));
    }
}

static void finish_row(const struct engine_softmax_rows *rows, int64_t row, float sum)
{
    if (rows->defer)
        rows->factors[row] = 1.0f / sum;
    else
        scale(rows->tile + row * rows->stride, rows->keys, 1.0f / sum);
}

/* The passes of a row wait for one maximum and one sum: the first pass of the next row and the last
 * one of the row before are put in between. */
void engine_softmax_avx512_rows(const struct engine_softmax_rows *rows)
{
    if (rows->several_axes || rows->policy != ENGINE_POLICY_FLOAT32 || rows->keys == 0) {
        engine_softmax_portable(rows);
        return;
    }
    float top = rows->rows > 0 ? engine_softmax_vectors_prepare(rows, 0) : 0.0f, sum = 0.0f;
    for (int64_t row = 0; row < rows->rows; row++) {
        float next_top =
            row + 1 < rows->rows ? engine_softmax_vectors_prepare(rows, row + 1) : 0.0f;
        float next_sum = exponentiate(rows->tile + row * rows->stride, rows->keys, top);
        if (row > 0)
            finish_row(rows, row - 1, sum);
        top = next_top;
        sum = next_sum;
    }
    if (rows->rows > 0)
        finish_row(rows, rows->rows - 1, sum);
}
