/* softmax_avx2.c - softmax.h for AVX2 and FMA: the passes of softmax_avx512.c, eight at a time. */
#include "engine/softmax.h"

#include <immintrin.h>
#include <math.h>

/* exp(x) for x <= 0: as in softmax_avx512.c; 2^n is put together in the exponent field in two
 * steps, because n may lie below -126. */
static inline __m256 exp_vector(__m256 x)
{
    x = _mm256_max_ps(_mm256_set1_ps(-150.0f), x);
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, first), second);
}

/* The first "left" of eight lanes. */
static inline __m256i tail_of(int64_t left)
{
    static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i *)(lanes + (left >= 8 ? 0 : 8 - left)));
}

static inline float reduce_max(__m256 v)
{
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}

static inline float reduce_add(__m256 v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}

static __m256 prepare(float *x, int64_t count, const float *slice, float value, const float *adder,
                      __m256 maximum)
{
    __m256 other = maximum, same = _mm256_set1_ps(value);
    for (int64_t j = 0; j < count; j += 8) {
        __m256i k = tail_of(count - j);
        __m256 v = _mm256_maskload_ps(x + j, k);
        v = _mm256_add_ps(v, slice != NULL ? _mm256_maskload_ps(slice + j, k) : same);
        if (adder != NULL)
            v = _mm256_add_ps(v, _mm256_maskload_ps(adder + j, k));
        _mm256_maskstore_ps(x + j, k, v);
        v = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), v, _mm256_castsi256_ps(k));
        __m256 next = _mm256_max_ps(maximum, v);
        maximum = other;
        other = next;
    }
    return _mm256_max_ps(maximum, other);
}

static float exponentiate(float *x, int64_t count, float maximum)
{
    __m256 sum = _mm256_setzero_ps(), other = sum, top = _mm256_set1_ps(maximum);
    for (int64_t j = 0; j < count; j += 8) {
        __m256i k = tail_of(count - j);
        __m256 e = exp_vector(_mm256_sub_ps(_mm256_maskload_ps(x + j, k), top));
        _mm256_maskstore_ps(x + j, k, e);
        e = _mm256_and_ps(e, _mm256_castsi256_ps(k));
        __m256 next = _mm256_add_ps(sum, e);
        sum = other;
        other = next;
    }
    return reduce_add(_mm256_add_ps(sum, other));
}

static void scale(float *x, int64_t count, float factor)
{
    __m256 f = _mm256_set1_ps(factor);
    for (int64_t j = 0; j < count; j += 8) {
        __m256i k = tail_of(count - j);
        _mm256_maskstore_ps(x + j, k, _mm256_mul_ps(_mm256_maskload_ps(x + j, k), f));
    }
}

static float prepare_row(const struct engine_softmax_rows *rows, int64_t row)
{
    float *x = rows->tile + row * rows->stride;
    const float *adder = rows->adder != NULL ? rows->adder + row * rows->adder_stride : NULL;
    __m256 maximum = _mm256_set1_ps(-INFINITY);
    if (rows->position == NULL)
        return reduce_max(prepare(x, rows->keys, NULL, 0.0f, adder, maximum));
    struct engine_softmax_runs runs;
    engine_softmax_split(rows, row, &runs);
    maximum = prepare(x, runs.low, NULL, runs.first, adder, maximum);
    int64_t at = runs.low;
    maximum =
        prepare(x + at, runs.middle, runs.slice, 0.0f, adder != NULL ? adder + at : NULL, maximum);
    at += runs.middle;
    maximum = prepare(x + at, rows->keys - at, NULL, runs.last, adder != NULL ? adder + at : NULL,
                      maximum);
    return reduce_max(maximum);
}

void engine_softmax_avx2_rows(const struct engine_softmax_rows *rows)
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
