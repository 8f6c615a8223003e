/* operands_amx.h - the operands of products on AMX tiles, in memory; for kernel_amx.c.
 *
 * A number is the sum of its parts in one to three planes of bfloat16 (kernel_planes.h).
 * Left: rows of bfloat16, the depth padded to 32 with zeros, and room for 15 more rows, which are
 * read with the last one. Right: panels of 32 columns (the last one of 16 if that is enough),
 * [columns/32][depth/32][2][16][16][2]: each 1 KB tile holds 16 pairs of depth by 16 columns, as
 * TDPBF16PS wants them; also padded with zeros.
 * The functions are those of struct engine_kernel, which says who may write what. */
#ifndef ENGINE_OPERANDS_AMX_H
#define ENGINE_OPERANDS_AMX_H

#include "engine/kernel.h"

enum {
    ENGINE_OPERANDS_AMX_TILE = 16,
    ENGINE_OPERANDS_AMX_PANEL = 32,
    ENGINE_OPERANDS_AMX_DEPTH = 32,
    ENGINE_OPERANDS_AMX_TILE_BYTES = 1024
};

static inline int64_t engine_operands_amx_padded(int64_t depth)
{
    return (depth + ENGINE_OPERANDS_AMX_DEPTH - 1) / ENGINE_OPERANDS_AMX_DEPTH *
           ENGINE_OPERANDS_AMX_DEPTH;
}

/* Tiles side by side in the panel of column n: 2, or 1 in a narrow last one. */
static inline int64_t engine_operands_amx_tiles(const struct engine_right *right, int64_t n)
{
    int64_t left = right->columns - n / ENGINE_OPERANDS_AMX_PANEL * ENGINE_OPERANDS_AMX_PANEL;
    return left > ENGINE_OPERANDS_AMX_TILE ? 2 : 1;
}

/* The tile of depth k and column n, k a multiple of 32, n of 16. */
static inline char *engine_operands_amx_right_at(const struct engine_right *right, int64_t k,
                                                 int64_t n)
{
    int64_t first = n / ENGINE_OPERANDS_AMX_PANEL * ENGINE_OPERANDS_AMX_PANEL;
    int64_t tile = k / ENGINE_OPERANDS_AMX_DEPTH * engine_operands_amx_tiles(right, n) +
                   (n - first) / ENGINE_OPERANDS_AMX_TILE;
    return (char *)right->data +
           first * engine_operands_amx_padded(right->depth) * (int64_t)sizeof(uint16_t) +
           tile * ENGINE_OPERANDS_AMX_TILE_BYTES;
}

size_t engine_operands_amx_left(struct engine_left *left, int64_t rows, int64_t depth, int planes);
void engine_operands_amx_write_left(const struct engine_left *left, int64_t row0, int64_t rows,
                                    int64_t column0, int64_t columns, const float *tile,
                                    int64_t tile_stride);

size_t engine_operands_amx_right(struct engine_right *right, int64_t depth, int64_t columns,
                                 bool transposed, int planes);
void engine_operands_amx_write_rows(const struct engine_right *right, int64_t k0, int64_t rows,
                                    int64_t column0, int64_t columns, const float *tile,
                                    int64_t tile_stride);
void engine_operands_amx_write_columns(const struct engine_right *right, int64_t n0, int64_t count,
                                       const float *tile, int64_t tile_stride);

#endif
