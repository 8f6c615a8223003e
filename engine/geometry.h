/* geometry.h - a call's shapes, turned into the one problem that is computed.
 *
 * Attention over any axes of inputs of 3 to 8 dimensions is attention over rows:
 *     outer = batch x free axes,  T = product of the attended axes of the query (in the order of
 *     attention_axes),  S = the same of value and key,
 * and in this canonical order the scores [outer][N][T][S] lie exactly as TensorFlow returns
 * them, [B, free..., N, T..., S...]. Inputs and output lie in memory as given; struct engine_rows
 * says where canonical row r is. In the common case that map is the identity.
 *
 * Here every shape a client sent is checked, each failure one sentence with input, shape, rule.
 * What TensorFlow accepts silently and nobody means (attention over batch or heads, masks that
 * grow the output) is refused. Zero-size tensors are computed.
 * Threads: any; a geometry is plain data. */
#ifndef ENGINE_GEOMETRY_H
#define ENGINE_GEOMETRY_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/weights.h"

/* Canonical rows as a counter over dimensions; memory row = sum of index x stride. */
struct engine_rows {
    bool identity;
    int rank;
    int64_t count[ENGINE_MAX_INPUT_RANK];
    int64_t stride[ENGINE_MAX_INPUT_RANK];
};

struct engine_geometry {
    int64_t batch, outer, queries, keys;
    int64_t heads, heads_reused, heads_new;
    int64_t key_dim, value_dim;
    int64_t query_width, key_width, value_width, output_width;
    bool several_axes;
    int free_axes, axes;           /* how many */
    int64_t reuse_heads_given;     /* heads of reuse_attention_scores, at least heads_reused */
    struct engine_rows query_rows; /* also of the output */
    struct engine_rows value_rows; /* also of the key */
    struct engine_tensor output;   /* shape only */
    struct engine_tensor scores;   /* shape only */
};

/* Errors: INVALID_ARGUMENT (something missing, or not to be had), SHAPE_MISMATCH, TOO_LARGE. */
ENGINE_MUST_CHECK enum engine_code engine_geometry_init(struct engine_geometry *ret,
                                                        const struct engine_layer_config *config,
                                                        const struct engine_weights *weights,
                                                        const struct engine_call *call,
                                                        struct engine_error *err);

/* Memory row of canonical row "row". */
int64_t engine_geometry_row(const struct engine_rows *rows, int64_t row);

#endif
