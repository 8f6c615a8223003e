/* kernel_vectors.h - what the own kernels share: lane masks, a 16 x 16 transpose of 32-bit elements
 * in registers, the pass over a finished tile. For files compiled for AVX-512 only. */
#ifndef ENGINE_KERNEL_VECTORS_H
#define ENGINE_KERNEL_VECTORS_H

#include <immintrin.h>

/* Arrays of vectors stay in registers only if every index is a constant: the loops over them are
 * unrolled whole. */
#ifdef __clang__
#define ENGINE_KERNEL_VECTORS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ENGINE_KERNEL_VECTORS_UNROLL _Pragma("GCC unroll 16")
#endif

/* r[i] lane j becomes r[j] lane i: 4 x 4 inside the 128-bit lanes, then the lanes themselves. */
static inline __attribute__((always_inline)) void engine_kernel_vectors_transpose(__m512i r[16])
{
    __m512i t[16];
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* The first "left" of 16 lanes; of 32. */
static inline __mmask16 engine_kernel_vectors_lanes16(int64_t left)
{
    return (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1);
}

static inline __mmask32 engine_kernel_vectors_lanes32(int64_t left)
{
    return left >= 32 ? ~(__mmask32)0 : left <= 0 ? 0 : ((__mmask32)1 << left) - 1;
}

/* kernel.h's "finish", 64 columns at a time. Absolute values compare as integers, NaN greatest. */
static inline uint32_t engine_kernel_vectors_finish(float *tile, int64_t stride, int64_t rows,
                                                    int64_t columns, const float *bias)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i greatest = _mm512_setzero_si512();
    for (int64_t j = 0; j < columns; j += 64) {
        __m512 b[4];
        __mmask16 k[4];
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < 4; u++) {
            int64_t left = columns - j - 16 * u;
            k[u] = left > 0 ? engine_kernel_vectors_lanes16(left) : 0;
            b[u] = bias != NULL ? _mm512_maskz_loadu_ps(k[u], bias + j + 16 * u)
                                : _mm512_set1_ps(-0.0f); /* which changes nothing */
        }
        for (int64_t i = 0; i < rows; i++) {
            float *at = tile + i * stride + j;
            ENGINE_KERNEL_VECTORS_UNROLL
            for (int u = 0; u < 4; u++) {
                __m512 v = _mm512_maskz_loadu_ps(k[u], at + 16 * u);
                v = _mm512_maskz_add_ps(k[u], v, b[u]);
                _mm512_mask_storeu_ps(at + 16 * u, k[u], v);
                __m512i size = _mm512_and_epi32(_mm512_castps_si512(v), magnitude);
                greatest = _mm512_max_epu32(greatest, size);
            }
        }
    }
    return _mm512_reduce_max_epu32(greatest);
}

/* kernel.h's "scale". */
static inline void engine_kernel_vectors_scale(float *tile, int64_t stride, int64_t rows,
                                               int64_t columns, const float *factors)
{
    for (int64_t i = 0; i < rows; i++) {
        float *row = tile + i * stride;
        __m512 factor = _mm512_set1_ps(factors[i]);
        for (int64_t j = 0; j < columns; j += 16) {
            __mmask16 k = engine_kernel_vectors_lanes16(columns - j);
            __m512 v = _mm512_maskz_loadu_ps(k, row + j);
            _mm512_mask_storeu_ps(row + j, k, _mm512_mul_ps(v, factor));
        }
    }
}

#endif
