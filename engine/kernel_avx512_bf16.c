/* kernel_avx512_bf16.c - bfloat16 products with VDPBF16PS, for processors with AVX512_BF16 and
 * without AMX: both operands rounded to bfloat16, ties to even, float32 sums.
 *
 * Left: rows of bfloat16, the depth padded to an even number with a zero. Right: pairs of depth in
 * panels of 64 columns, [columns/64][depth/2][64][2], the last panel as narrow as a multiple of 16
 * allows. A pair is a 32-bit lane as a float is: tiles, blocking and order of summation are those
 * of kernel_avx512_tile.h, at twice the depth.
 *
 * Worth having only where the instruction has the throughput of an FMA, as on Zen 4 and 5; where it
 * takes several (Intel) the float32 kernel is faster: engine/calibrate.h measures which it is.
 * Refuses denormals, as the instruction does (they count as 0), and more than one plane. */
#include "engine/kernel.h"

#include "engine/cpu.h"
#include "engine/kernel_avx512_tile.h"
#include "engine/kernel_planes.h"
#include "engine/kernel_vectors.h"

/* Pairs that hold so much depth. */
static int64_t pairs_of(int64_t depth)
{
    return (depth + 1) / 2;
}

/* ---- operands ----------------------------------------------------------------------------- */

static size_t left_init(struct engine_left *left, int64_t rows, int64_t depth)
{
    left->depth = depth;
    left->stride = 2 * pairs_of(depth);
    left->planes = 1;
    left->plane = (size_t)rows * (size_t)left->stride * sizeof(uint16_t);
    return left->plane;
}

static void write_left_row(uint16_t *to, const float *from, int64_t columns)
{
    for (int64_t j = 0; j < columns; j += 32) {
        __mmask32 lanes = engine_kernel_vectors_lanes32(columns - j);
        __m512 first = _mm512_maskz_loadu_ps((__mmask16)lanes, from + j);
        __m512 second = _mm512_maskz_loadu_ps((__mmask16)(lanes >> 16), from + j + 16);
        _mm512_mask_storeu_epi16(to + j, lanes, engine_kernel_planes_to_bf16(first, second));
    }
}

static void left_write(const struct engine_left *left, int64_t row0, int64_t rows, int64_t column0,
                       int64_t columns, const float *tile, int64_t tile_stride)
{
    bool pads = column0 + columns == left->depth && left->depth < left->stride;
    for (int64_t i = 0; i < rows; i++) {
        uint16_t *to = (uint16_t *)left->data + (row0 + i) * left->stride + column0;
        write_left_row(to, tile + i * tile_stride, columns);
        if (pads)
            to[columns] = 0;
    }
}

static size_t right_init(struct engine_right *right, int64_t depth, int64_t columns,
                         bool transposed)
{
    right->depth = depth;
    right->columns = columns;
    right->transposed = transposed;
    right->planes = 1;
    right->plane = (size_t)pairs_of(depth) * (size_t)padded16(columns) * 2 * sizeof(uint16_t);
    return right->plane;
}

/* Two rows of R as pairs. */
static inline __m512i interleave(__m512 row, __m512 second_row)
{
    __m512i both = engine_kernel_planes_to_bf16(row, second_row);
    __m512i lower = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
    __m512i upper = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1));
    return _mm512_or_epi32(lower, _mm512_slli_epi32(upper, 16));
}

/* Rows come from an even k0 on; the partner of an odd last one is 0. */
static void right_write_rows(const struct engine_right *right, int64_t k0, int64_t rows,
                             int64_t column0, int64_t columns, const float *tile,
                             int64_t tile_stride)
{
    for (int64_t j = 0; j < columns; j += 16) {
        __mmask16 lanes = engine_kernel_vectors_lanes16(columns - j);
        int64_t width = panel_width(right, column0 + j);
        float *to = panel_at(right, pairs_of(right->depth), k0 / 2, column0 + j);
        for (int64_t i = 0; i < rows; i += 2) {
            const float *row = tile + i * tile_stride + j;
            __m512 second = i + 1 < rows ? _mm512_maskz_loadu_ps(lanes, row + tile_stride)
                                         : _mm512_setzero_ps();
            _mm512_storeu_si512(to + i / 2 * width,
                                interleave(_mm512_maskz_loadu_ps(lanes, row), second));
        }
    }
}

/* 16 columns (fewer: the others become 0) of up to 16 pairs of R from rows of the tile. */
static void write_keys(float *to, int64_t width, const float *tile, int64_t tile_stride,
                       int64_t count, int64_t depth)
{
    __mmask32 lanes = engine_kernel_vectors_lanes32(depth);
    __m512i r[16];
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < 16; i++) {
        __mmask32 k = i < count ? lanes : 0;
        const float *row = tile + (i < count ? i : 0) * tile_stride;
        r[i] = engine_kernel_planes_to_bf16(_mm512_maskz_loadu_ps((__mmask16)k, row),
                                            _mm512_maskz_loadu_ps((__mmask16)(k >> 16), row + 16));
    }
    write_square(to, width, r, pairs_of(depth));
}

static void right_write_columns(const struct engine_right *right, int64_t n0, int64_t count,
                                const float *tile, int64_t tile_stride)
{
    for (int64_t i = 0; i < count; i += 16)
        for (int64_t k = 0; k < right->depth; k += 32)
            write_keys(panel_at(right, pairs_of(right->depth), k / 2, n0 + i),
                       panel_width(right, n0 + i), tile + i * tile_stride + k, tile_stride,
                       count - i, right->depth - k);
}

/* ---- the product ---------------------------------------------------------------------------- */

ENGINE_KERNEL_AVX512_TILE_SET(pair_tiles, true);

static void multiply(const struct engine_left *left, int64_t row0, int64_t rows,
                     const struct engine_right *right, int64_t column0, int64_t columns,
                     int64_t depth, float *c, int64_t c_stride, bool add, const void *next,
                     size_t next_bytes, void *scratch)
{
    (void)scratch;
    struct step panel = {
        .a = (const float *)left->data + row0 * (left->stride / 2),
        .c = c,
        .a_stride = left->stride / 2,
        .c_stride = c_stride,
        .depth = pairs_of(depth),
        .add = add,
    };
    engine_kernel_avx512_tile_multiply(&pair_tiles, &panel, rows, right, pairs_of(right->depth),
                                       column0, columns, next, next_bytes);
}

const struct engine_kernel *engine_kernel_avx512_bf16(void)
{
    static const struct engine_kernel kernel = {
        .name = "avx512_bf16",
        .left_init = left_init,
        .left_write = left_write,
        .right_init = right_init,
        .right_write_rows = right_write_rows,
        .right_write_columns = right_write_columns,
        .multiply = multiply,
        .finish = engine_kernel_vectors_finish,
        .scale = engine_kernel_vectors_scale,
    };
    return engine_cpu()->avx512_bf16 ? &kernel : NULL;
}
