/* softmax_avx512.c - softmax.h for AVX-512: three passes over a row that lies in the nearest
 * caches; 16-bit policies and several axes are rare and left to the portable form.
 *
 * Per 16 elements the first pass takes 3 operations of the two vector ports, the second 14, the
 * third 1. Four accumulators hide the latency of max and add. */
#include "engine/softmax.h"

#include <immintrin.h>

#include "engine/kernel_vectors.h"
#include "engine/softmax_vectors.h"

static float exponentiate(float *x, int64_t count, float maximum)
{
    const __m512i low = _mm512_load_si512(engine_softmax_vectors_powers),
                  high = _mm512_load_si512(engine_softmax_vectors_powers + 16);
    const __m512 zero = _mm512_setzero_ps(), top = _mm512_set1_ps(maximum);
    __m512 sums[4] = {zero, zero, zero, zero};
    int64_t j = 0;
    for (; j + 64 <= count; j += 64) {
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 4; u++) {
            float *at = x + j + 16 * u;
            __m512 e =
                engine_softmax_vectors_exp(_mm512_sub_ps(_mm512_loadu_ps(at), top), low, high);
            _mm512_storeu_ps(at, e);
            sums[u] = _mm512_add_ps(sums[u], e);
        }
    }
    for (; j < count; j += 16) {
        __mmask16 k = engine_kernel_vectors_lanes16(count - j);
        __m512 e = engine_softmax_vectors_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(k, x + j), top),
                                              low, high);
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
