/* kernel.h - one way of multiplying: the operations under the layer's schedule.
 *
 * projection.c and attention.c are written once; what differs between sgemm, own AVX-512 code,
 * AMX and oneDNN's bf16 matmul lies behind this table. A product C = L * R takes a left operand
 * (rows x depth: inputs, queries, attention weights) and a right operand (depth x columns:
 * layer weights, keys, values), each stored in the kernel's own format: float32 rows,
 * bfloat16 planes (one to three), packed panels.
 *
 * A kernel refuses to know about heads, batches, masks or threads. Every operation works on
 * memory its caller owns, is safe on any thread, and is deterministic: an element of C has the
 * same bits whatever rows and columns are computed beside it. */
#ifndef ENGINE_KERNEL_H
#define ENGINE_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/softmax.h"

/* rows x depth. */
struct engine_left {
    void *data;
    int64_t depth;  /* columns of the operand */
    int64_t stride; /* elements between rows, as the kernel chose it */
    int planes;     /* bfloat16 kernels: parts of a number, the greatest first */
    size_t plane;   /* bytes from one plane to the next */
};

/* depth x columns. */
struct engine_right {
    void *data;
    int64_t depth, columns;
    int planes;
    size_t plane;
    size_t bytes;      /* of data; set by who owns the memory */
    bool transposed;   /* made by right_write_columns: some kernels keep it so */
    const float *bias; /* where kernels take it: a value for each column, NULL for zeros */
};

struct engine_kernel {
    const char *name;

    /* Once per thread before its first product (tile configuration and the like); may be NULL.
     * release() after the last one of a unit of work; may be NULL. */
    void (*acquire)(void);
    void (*release)(void);

    /* Left operands. left_init says how rows x depth are laid out and returns the bytes of
     * memory needed (64-byte aligned, to be put in ->data). A kernel that multiplies plain
     * float32 rows (left_is_plain) accepts any float32 matrix as it lies: data, depth, stride. */
    bool left_is_plain;
    size_t (*left_init)(struct engine_left *left, int64_t rows, int64_t depth);
    /* Writes rows row0.. and columns column0.. from a float32 tile, any of either. Whoever writes
     * the last column of a row (column0 + columns == depth) also zeroes the padding behind it. */
    void (*left_write)(const struct engine_left *left, int64_t row0, int64_t rows, int64_t column0,
                       int64_t columns, const float *tile, int64_t tile_stride);

    /* Right operands: as above. right_write_rows: R[k0 + i][column0 + j] = tile[i][j].
     * right_write_columns: R[k][n0 + i] = tile[i][k], k < depth (used for keys: tile rows are
     * keys). An operand is written by one of the two throughout, "transposed" says which.
     * Rows must be written from multiples of 2 (bfloat16 pairs) unless they are the first;
     * columns from multiples of 16. Parts not written count as garbage: right_init's caller
     * writes everything. Padding inside the format is zeroed by whoever writes beside it: the
     * last row zeroes the rows after it, the last column the columns after it. */
    size_t (*right_init)(struct engine_right *right, int64_t depth, int64_t columns,
                         bool transposed);
    void (*right_write_rows)(const struct engine_right *right, int64_t k0, int64_t rows,
                             int64_t column0, int64_t columns, const float *tile,
                             int64_t tile_stride);
    void (*right_write_columns)(const struct engine_right *right, int64_t n0, int64_t count,
                                const float *tile, int64_t tile_stride);

    /* c[i][j] = sum over k < depth of L[row0 + i][k] * R[k][column0 + j], for i < rows,
     * j < columns; c is float32 with c_stride elements a row. column0 is a multiple of 64 (or 0).
     * With "add", c += instead of c =. A kernel that takes_bias begins its sums (those without
     * "add") with R's bias. depth may be less than the operands' (dead keys: the
     * rest of R is not read), then a multiple of 2.
     * next, if not NULL, is memory the caller will need soon (the following weight block):
     * next_bytes of it may be prefetched to L2 meanwhile.
     * scratch: scratch_bytes of the calling thread's, 64-byte aligned. */
    size_t scratch_bytes;
    bool takes_bias;
    void (*multiply)(const struct engine_left *left, int64_t row0, int64_t rows,
                     const struct engine_right *right, int64_t column0, int64_t columns,
                     int64_t depth, float *c, int64_t c_stride, bool add, const void *next,
                     size_t next_bytes, void *scratch);

    /* What went wrong in the calling thread's products since it was last asked; NULL: nothing can.
     * After a failure C holds garbage: whoever multiplies asks before anybody reads an answer.
     * Errors: OUT_OF_MEMORY, INTERNAL. */
    enum engine_code (*outcome)(struct engine_error *err);

    /* Optional, NULL where a kernel has none; then the caller does the same plainly. Adds bias[j]
     * (NULL: none) to every row of a product just made, in place, and returns the greatest absolute
     * value of the result as float bits (their order is that of the values, NaN the greatest). */
    uint32_t (*finish)(float *tile, int64_t stride, int64_t rows, int64_t columns,
                       const float *bias);

    /* Optional, as above. Multiplies row i of a tile by factors[i]. */
    void (*scale)(float *tile, int64_t stride, int64_t rows, int64_t columns, const float *factors);

    /* Optional: the softmax of one axis under the float32 policy, written as this kernel's left
     * operand (rows of left_init's stride) and as scores at once. */
    void (*softmax)(const struct engine_softmax_rows *rows,
                    const struct engine_softmax_results *results);
    /* There if softmax is: the same with rows that are scores already, which it only reads. */
    void (*copy)(const struct engine_softmax_rows *rows,
                 const struct engine_softmax_results *results);
};

/* The kernels; NULL where the processor (or oneDNN) cannot. Ask after engine_cpu was read.
 * sgemm: oneDNN's, everywhere. avx512: own float32 panels. amx bf16, x3, x6: own tiles, of which x6
 * has the exactness of float32. avx512 bf16: own panels of bfloat16 pairs, wherever there is
 * AVX512_BF16; whether it pays depends on the processor (calibrate.h). */
const struct engine_kernel *engine_kernel_sgemm(void);
const struct engine_kernel *engine_kernel_avx512(void);
const struct engine_kernel *engine_kernel_avx512_bf16(void);
const struct engine_kernel *engine_kernel_amx_bf16(void);
const struct engine_kernel *engine_kernel_amx_x3(void);
const struct engine_kernel *engine_kernel_amx_x6(void);

#endif
