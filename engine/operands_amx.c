/* operands_amx.c - see operands_amx.h. Who writes an operand's last column or row writes the zeros
 * behind it. It multiplies nothing. */
#include "engine/operands_amx.h"

#include <string.h>

#include "engine/kernel_planes.h"
#include "engine/kernel_vectors.h"

enum {
    TILE = ENGINE_OPERANDS_AMX_TILE,
    DEPTH = ENGINE_OPERANDS_AMX_DEPTH,
    LINE = 64,
    MAX_PLANES = ENGINE_KERNEL_PLANES
};

/* ---- left operands -------------------------------------------------------------------------- */

/* Strides of whole kilobytes would put all rows of a tile into a few sets of L1: one line more. */
static int64_t left_stride(int64_t depth)
{
    int64_t stride = engine_operands_amx_padded(depth);
    return stride % 512 == 0 ? stride + DEPTH : stride;
}

size_t engine_operands_amx_left(struct engine_left *left, int64_t rows, int64_t depth, int planes)
{
    left->depth = depth;
    left->stride = left_stride(depth);
    left->planes = planes;
    left->plane = (size_t)(rows + TILE - 1) * (size_t)left->stride * sizeof(uint16_t);
    return (size_t)planes * left->plane;
}

static inline __attribute__((always_inline)) void
write_left_row(const int planes, uint16_t *to, size_t plane, const float *from, int64_t columns)
{
    for (int64_t j = 0; j < columns; j += 32) {
        __mmask32 lanes = engine_kernel_vectors_lanes32(columns - j);
        __m512i parts[MAX_PLANES];
        engine_kernel_planes_split(planes, _mm512_maskz_loadu_ps((__mmask16)lanes, from + j),
                                   _mm512_maskz_loadu_ps((__mmask16)(lanes >> 16), from + j + 16),
                                   parts);
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int i = 0; i < planes; i++)
            _mm512_mask_storeu_epi16((char *)(to + j) + (size_t)i * plane, lanes, parts[i]);
    }
}

static inline __attribute__((always_inline)) void
write_left(const int planes, const struct engine_left *left, int64_t row0, int64_t rows,
           int64_t column0, int64_t columns, const float *tile, int64_t tile_stride)
{
    size_t tail = 0;
    if (column0 + columns == left->depth)
        tail = (size_t)(engine_operands_amx_padded(left->depth) - left->depth) * sizeof(uint16_t);
    for (int64_t i = 0; i < rows; i++) {
        uint16_t *to = (uint16_t *)left->data + (row0 + i) * left->stride + column0;
        write_left_row(planes, to, left->plane, tile + i * tile_stride, columns);
        for (int p = 0; p < planes && tail > 0; p++)
            memset((char *)(to + columns) + (size_t)p * left->plane, 0, tail);
    }
}

void engine_operands_amx_write_left(const struct engine_left *left, int64_t row0, int64_t rows,
                                    int64_t column0, int64_t columns, const float *tile,
                                    int64_t tile_stride)
{
    if (left->planes == 1)
        write_left(1, left, row0, rows, column0, columns, tile, tile_stride);
    else if (left->planes == 2)
        write_left(2, left, row0, rows, column0, columns, tile, tile_stride);
    else
        write_left(3, left, row0, rows, column0, columns, tile, tile_stride);
}

/* ---- right operands ------------------------------------------------------------------------- */

size_t engine_operands_amx_right(struct engine_right *right, int64_t depth, int64_t columns,
                                 bool transposed, int planes)
{
    right->depth = depth;
    right->columns = columns;
    right->transposed = transposed;
    right->planes = planes;
    right->plane = (size_t)engine_operands_amx_padded(depth) *
                   (size_t)((columns + TILE - 1) / TILE * TILE) * sizeof(uint16_t);
    return (size_t)planes * right->plane;
}

/* Pairs of 16 columns: two rows of R, the second NULL for zeros, interleaved. */
static inline __attribute__((always_inline)) void write_pair(const int planes, char *to,
                                                             size_t plane, const float *row,
                                                             const float *second_row,
                                                             __mmask16 lanes)
{
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i parts[MAX_PLANES];
    engine_kernel_planes_split(
        planes, _mm512_maskz_loadu_ps(lanes, row),
        second_row != NULL ? _mm512_maskz_loadu_ps(lanes, second_row) : _mm512_setzero_ps(), parts);
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < planes; i++)
        _mm512_storeu_si512(to + (size_t)i * plane, _mm512_permutexvar_epi16(order, parts[i]));
}

/* The pairs from depth k on up to the padded depth become zero, for the 16 columns from n on. */
static void clear_right_tail(const struct engine_right *right, int64_t k, int64_t n)
{
    for (; k < engine_operands_amx_padded(right->depth); k += 2) {
        char *to = engine_operands_amx_right_at(right, k / DEPTH * DEPTH, n) + k % DEPTH / 2 * LINE;
        for (int i = 0; i < right->planes; i++)
            memset(to + (size_t)i * right->plane, 0, LINE);
    }
}

static inline __attribute__((always_inline)) void
write_rows(const int planes, const struct engine_right *right, int64_t k0, int64_t rows,
           int64_t column0, int64_t columns, const float *tile, int64_t tile_stride)
{
    for (int64_t j = 0; j < columns; j += TILE) {
        __mmask16 lanes = engine_kernel_vectors_lanes16(columns - j);
        for (int64_t i = 0; i < rows; i += 2) {
            int64_t k = k0 + i;
            const float *row = tile + i * tile_stride + j;
            write_pair(planes,
                       engine_operands_amx_right_at(right, k / DEPTH * DEPTH, column0 + j) +
                           k % DEPTH / 2 * LINE,
                       right->plane, row, i + 1 < rows ? row + tile_stride : NULL, lanes);
        }
        if (k0 + rows == right->depth)
            clear_right_tail(right, k0 + ((rows + 1) & ~(int64_t)1), column0 + j);
    }
}

void engine_operands_amx_write_rows(const struct engine_right *right, int64_t k0, int64_t rows,
                                    int64_t column0, int64_t columns, const float *tile,
                                    int64_t tile_stride)
{
    if (right->planes == 1)
        write_rows(1, right, k0, rows, column0, columns, tile, tile_stride);
    else if (right->planes == 2)
        write_rows(2, right, k0, rows, column0, columns, tile, tile_stride);
    else
        write_rows(3, right, k0, rows, column0, columns, tile, tile_stride);
}

/* One tile of each plane from 16 keys (fewer: the others become 0) by up to 32 of depth. */
static inline __attribute__((always_inline)) void
write_tile_of_keys(const int planes, char *to, size_t plane, const float *tile, int64_t tile_stride,
                   int64_t count, int64_t depth)
{
    __mmask32 lanes = engine_kernel_vectors_lanes32(depth);
    __m512i parts[MAX_PLANES][16];
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < 16; i++) {
        __mmask32 k = i < count ? lanes : 0;
        const float *row = tile + (i < count ? i : 0) * tile_stride;
        __m512i of_row[MAX_PLANES];
        engine_kernel_planes_split(planes, _mm512_maskz_loadu_ps((__mmask16)k, row),
                                   _mm512_maskz_loadu_ps((__mmask16)(k >> 16), row + 16), of_row);
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int p = 0; p < planes; p++)
            parts[p][i] = of_row[p];
    }
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int p = 0; p < planes; p++) {
        engine_kernel_vectors_transpose(parts[p]);
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int i = 0; i < 16; i++)
            _mm512_storeu_si512(to + (size_t)p * plane + i * LINE, parts[p][i]);
    }
}

void engine_operands_amx_write_columns(const struct engine_right *right, int64_t n0, int64_t count,
                                       const float *tile, int64_t tile_stride)
{
    for (int64_t i = 0; i < count; i += TILE)
        for (int64_t k = 0; k < right->depth; k += DEPTH) {
            char *to = engine_operands_amx_right_at(right, k, n0 + i);
            const float *from = tile + i * tile_stride + k;
            int64_t depth = right->depth - k;
            if (right->planes == 1)
                write_tile_of_keys(1, to, right->plane, from, tile_stride, count - i, depth);
            else if (right->planes == 2)
                write_tile_of_keys(2, to, right->plane, from, tile_stride, count - i, depth);
            else
                write_tile_of_keys(3, to, right->plane, from, tile_stride, count - i, depth);
        }
}
