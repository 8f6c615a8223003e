/* kernel_transpose.h - what the own kernels share: a 16 x 16 transpose of 32-bit elements in
 * registers, and loop unrolling. For files compiled for AVX-512 only. */
#ifndef ENGINE_KERNEL_TRANSPOSE_H
#define ENGINE_KERNEL_TRANSPOSE_H

#include <immintrin.h>

/* Arrays of vectors stay in registers only if every index is a constant: the loops over them are
 * unrolled whole. */
#ifdef __clang__
#define ENGINE_KERNEL_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ENGINE_KERNEL_UNROLL _Pragma("GCC unroll 16")
#endif

/* r[i] lane j becomes r[j] lane i: 4 x 4 inside the 128-bit lanes, then the lanes themselves. */
static inline __attribute__((always_inline)) void engine_kernel_transpose(__m512i r[16])
{
    __m512i t[16];
    ENGINE_KERNEL_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    ENGINE_KERNEL_UNROLL
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    ENGINE_KERNEL_UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    ENGINE_KERNEL_UNROLL
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* The first "left" of 16 lanes; of 32. */
static inline __mmask16 engine_kernel_lanes16(int64_t left)
{
    return left >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1);
}

static inline __mmask32 engine_kernel_lanes32(int64_t left)
{
    return left >= 32 ? ~(__mmask32)0 : left <= 0 ? 0 : ((__mmask32)1 << left) - 1;
}

#endif
