/* softmax.h - the row epilogue of attention: bias, mask, softmax, in place.
 *
 *   v[j] = x[j] + position[clip(j + position_shift)] + adder[j]       (each part optional)
 *   one axis:      y[j] = exp(v[j] - max v) / sum exp(v - max v)
 *   several axes:  y[j] = exp(v[j] - (max v + log sum exp(v - max v))), rounded to float32 in
 *                  between as TensorFlow does, so that a fully masked row is all ones.
 * Under a 16-bit policy every step is rounded to that type, x first: it is a product's plain sum.
 *
 * Full-precision exp (<= 2 ulp; what would be under 5e-38 may be 0). NaN in a row makes the whole
 * row NaN; -inf is a masked key; a row of only -inf gives NaN; +inf gives NaN for the whole row
 * with one axis, and with several NaN where it is and 0 elsewhere (logsumexp is inf): as in
 * TensorFlow. Source: notes in engine/README.md; tf_keras/layers/activation/softmax.py. */
#ifndef ENGINE_SOFTMAX_H
#define ENGINE_SOFTMAX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/layer.h"

struct engine_softmax_rows {
    float *tile; /* rows x keys, in and out */
    int64_t stride;
    int64_t rows, keys;

    /* Relative positions: table of 2L-1 values of this head; row i, key j reads
     * table[clip(j - (query0 + i) + L - 1, 0, 2L-2)], without a copy. NULL: none. */
    const float *position;
    int64_t position_length; /* L */
    int64_t query0;          /* index of the tile's first query */

    /* Additive mask: row i reads adder + i * adder_stride (0: one row for all). NULL: none. */
    const float *adder;
    int64_t adder_stride;

    bool several_axes;
    enum engine_policy policy;

    /* true: leave e = exp(v - max) unscaled in the tile and write 1/sum to factors[i] instead,
     * so that the product with the values is scaled (rows not returned). One axis only. */
    bool defer;
    float *factors;
};

typedef void engine_softmax_function(const struct engine_softmax_rows *rows);

/* The best form for this processor; all forms agree within 4 ulp. */
engine_softmax_function *engine_softmax_best(void);

engine_softmax_function engine_softmax_portable;
engine_softmax_function engine_softmax_avx2_rows;   /* only where the processor has AVX2 and FMA */
engine_softmax_function engine_softmax_avx512_rows; /* only where it has AVX-512 F, BW, DQ, VL */

/* Where rows go besides the tile, whose values are then undefined unless it is "scores" itself.
 * Keys up to the next multiple of 32 are written to "left" as 0. "streamed" stores pass the caches:
 * scores begin on lines of 64 bytes, their rows are whole ones, and values up to the end of the
 * last line are 0. */
struct engine_softmax_results {
    float *scores; /* NULL: none */
    int64_t scores_stride;
    bool streamed;
    /* The scores, or the unscaled rows if deferred, as planes (kernel.h); NULL: none. */
    uint16_t *left;
    int64_t left_stride;
    int planes;   /* 1 to 3, also without left: it says how exact the results are to be */
    size_t plane; /* bytes from one to the next */
};

/* The form for products on tiles: with one plane results to 2e-4 of each, else as the other forms;
 * one axis, float32 policy only. */
void engine_softmax_amx_rows(const struct engine_softmax_rows *rows,
                             const struct engine_softmax_results *results);
/* Scores that were given, put where they go; of rows only the tile and its sizes count. */
void engine_softmax_amx_copy(const struct engine_softmax_rows *rows,
                             const struct engine_softmax_results *results);

/* Row i's positions as three runs: "low" keys read the first value, "middle" keys a contiguous
 * slice, the rest the last value. */
struct engine_softmax_runs {
    int64_t low, middle;
    const float *slice; /* of the first middle key */
    float first, last;
};
void engine_softmax_split(const struct engine_softmax_rows *rows, int64_t row,
                          struct engine_softmax_runs *ret);

#endif
