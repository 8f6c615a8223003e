/* kernel_planes.h - float32 numbers as sums of bfloat16 ones, which the products on tiles and the
 * softmax before them share. For files compiled for AVX-512 and AVX512_BF16 only. */
#ifndef ENGINE_KERNEL_PLANES_H
#define ENGINE_KERNEL_PLANES_H

#include <immintrin.h>

enum { ENGINE_KERNEL_PLANES = 3 }; /* at most */

/* 32 values in order; ties to even, denormals to 0. */
static inline __m512i engine_kernel_planes_to_bf16(__m512 first, __m512 second)
{
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

/* The upper halves of 32 values in order: rounded towards 0. */
static inline __m512i engine_kernel_planes_upper_halves(__m512 first, __m512 second)
{
    const __m512i odd =
        _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                         25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(_mm512_castps_si512(first), odd, _mm512_castps_si512(second));
}

/* x - its upper half, exactly. */
static inline __m512 engine_kernel_planes_lower_half(__m512 x)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    __m512i bits = _mm512_and_epi32(_mm512_castps_si512(x), upper);
    return _mm512_sub_ps(x, _mm512_castsi512_ps(bits));
}

/* x - high; NaN for an infinity, which times a low plane of 0 would be NaN anyway. */
static inline __m512 engine_kernel_planes_rest_of(__m512 x, __m256i high)
{
    __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
    return _mm512_sub_ps(x, _mm512_castsi512_ps(bits));
}

static inline __m512i engine_kernel_planes_low_plane(__m512 first, __m512 second, __m512i high)
{
    return engine_kernel_planes_to_bf16(
        engine_kernel_planes_rest_of(first, _mm512_castsi512_si256(high)),
        engine_kernel_planes_rest_of(second, _mm512_extracti64x4_epi64(high, 1)));
}

/* 32 values as so many planes. Two are rounded; three are cut, 8 bits of the 24 to each, which is
 * exact, also where rounding the greatest floats would give infinity. */
static inline __attribute__((always_inline)) void
engine_kernel_planes_split(const int planes, __m512 first, __m512 second,
                           __m512i parts[ENGINE_KERNEL_PLANES])
{
    if (planes < 3) {
        parts[0] = engine_kernel_planes_to_bf16(first, second);
        if (planes == 2)
            parts[1] = engine_kernel_planes_low_plane(first, second, parts[0]);
        return;
    }
    parts[0] = engine_kernel_planes_upper_halves(first, second);
    first = engine_kernel_planes_lower_half(first),
    second = engine_kernel_planes_lower_half(second);
    parts[1] = engine_kernel_planes_upper_halves(first, second);
    parts[2] = engine_kernel_planes_upper_halves(engine_kernel_planes_lower_half(first),
                                                 engine_kernel_planes_lower_half(second));
}

#endif
