/* kernel_avx512.c - float32 products for AVX-512: left operands are plain rows, right operands
 * packed panels of 64 columns, [columns/64][depth][64], the last panel as narrow as a multiple of
 * 16 allows.
 * Tiles, blocking and order of summation: kernel_avx512_tile.h.
 * Refuses to pack left operands, to know more than one precision, to start threads. */
#include "engine/kernel.h"

#include <string.h>

#include "engine/cpu.h"
#include "engine/kernel_avx512_tile.h"
#include "engine/kernel_vectors.h"

/* ---- operands ----------------------------------------------------------------------------- */

static size_t left_init(struct engine_left *left, int64_t rows, int64_t depth)
{
    left->depth = left->stride = depth;
    return (size_t)rows * (size_t)depth * sizeof(float);
}

static void left_write(const struct engine_left *left, int64_t row0, int64_t rows, int64_t column0,
                       int64_t columns, const float *tile, int64_t tile_stride)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy((float *)left->data + (row0 + i) * left->stride + column0, tile + i * tile_stride,
               (size_t)columns * sizeof(float));
}

static size_t right_init(struct engine_right *right, int64_t depth, int64_t columns,
                         bool transposed)
{
    right->depth = depth;
    right->columns = columns;
    right->transposed = transposed;
    return (size_t)depth * (size_t)padded16(columns) * sizeof(float);
}

static void right_write_rows(const struct engine_right *right, int64_t k0, int64_t rows,
                             int64_t column0, int64_t columns, const float *tile,
                             int64_t tile_stride)
{
    for (int64_t j = 0; j < columns; j += 16) {
        __mmask16 lanes = engine_kernel_vectors_lanes16(columns - j);
        int64_t width = panel_width(right, column0 + j);
        float *to = panel_at(right, right->depth, k0, column0 + j);
        for (int64_t i = 0; i < rows; i++)
            _mm512_storeu_ps(to + i * width,
                             _mm512_maskz_loadu_ps(lanes, tile + i * tile_stride + j));
    }
}

/* 16 columns (fewer: the others become 0) of up to 16 rows of R from rows of the tile. */
static void write_keys(float *to, int64_t width, const float *tile, int64_t tile_stride,
                       int64_t count, int64_t depth)
{
    __mmask16 lanes = engine_kernel_vectors_lanes16(depth);
    __m512i r[16];
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < 16; i++)
        r[i] = i < count ? _mm512_maskz_loadu_epi32(lanes, tile + i * tile_stride)
                         : _mm512_setzero_si512();
    write_square(to, width, r, depth);
}

static void right_write_columns(const struct engine_right *right, int64_t n0, int64_t count,
                                const float *tile, int64_t tile_stride)
{
    for (int64_t i = 0; i < count; i += 16)
        for (int64_t k = 0; k < right->depth; k += 16)
            write_keys(panel_at(right, right->depth, k, n0 + i), panel_width(right, n0 + i),
                       tile + i * tile_stride + k, tile_stride, count - i, right->depth - k);
}

/* ---- the product ---------------------------------------------------------------------------- */

ENGINE_KERNEL_AVX512_TILE_SET(float_tiles, false);

static void multiply(const struct engine_left *left, int64_t row0, int64_t rows,
                     const struct engine_right *right, int64_t column0, int64_t columns,
                     int64_t depth, float *c, int64_t c_stride, bool add, const void *next,
                     size_t next_bytes, void *scratch)
{
    (void)scratch;
    struct step panel = {
        .a = (const float *)left->data + row0 * left->stride,
        .c = c,
        .a_stride = left->stride,
        .c_stride = c_stride,
        .depth = depth,
        .add = add,
    };
    engine_kernel_avx512_tile_multiply(&float_tiles, &panel, rows, right, right->depth, column0,
                                       columns, next, next_bytes);
}

const struct engine_kernel *engine_kernel_avx512(void)
{
    static const struct engine_kernel kernel = {
        .name = "avx512",
        .left_is_plain = true,
        .left_init = left_init,
        .left_write = left_write,
        .right_init = right_init,
        .right_write_rows = right_write_rows,
        .right_write_columns = right_write_columns,
        .multiply = multiply,
        .finish = engine_kernel_vectors_finish,
        .scale = engine_kernel_vectors_scale,
    };
    return engine_cpu()->avx512 ? &kernel : NULL;
}
