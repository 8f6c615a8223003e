/* weights.h - the variables of a layer: which must exist, their shapes, their values as float32.
 *
 * Names and order are Keras' (engine/README.md, "Weights"). Under policy float64 the double
 * values are kept too. Under a 16-bit policy the position table is of that type, as in Keras; the
 * other weights are float32 variables and cast where they are used. Not here: packing for speed
 * (model.c). Ownership: everything inside belongs to the struct; engine_weights_reset frees it.
 * Threads: immutable once made. */
#ifndef ENGINE_WEIGHTS_H
#define ENGINE_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/layer.h"
#include "engine/tensor.h"

enum engine_weight {
    ENGINE_WEIGHT_POSITIONS, /* relative_position_embeddings [1,N-R,2L-1] */
    ENGINE_WEIGHT_QUERY_KERNEL,
    ENGINE_WEIGHT_QUERY_BIAS,
    ENGINE_WEIGHT_KEY_KERNEL,
    ENGINE_WEIGHT_KEY_BIAS,
    ENGINE_WEIGHT_VALUE_REUSE_KERNEL,
    ENGINE_WEIGHT_VALUE_REUSE_BIAS,
    ENGINE_WEIGHT_VALUE_NEW_KERNEL,
    ENGINE_WEIGHT_VALUE_NEW_BIAS,
    ENGINE_WEIGHT_OUTPUT_REUSE_KERNEL,
    ENGINE_WEIGHT_OUTPUT_REUSE_BIAS,
    ENGINE_WEIGHT_OUTPUT_NEW_KERNEL,
    ENGINE_WEIGHT_OUTPUT_NEW_BIAS,
    ENGINE_WEIGHT_COUNT
};

struct engine_weights {
    struct engine_tensor tensors[ENGINE_WEIGHT_COUNT]; /* F32; data NULL: the layer has none */
    double *wide[ENGINE_WEIGHT_COUNT];                 /* policy float64 only */
    int64_t query_width, key_width, value_width;       /* -1: no such kernel */
    int output_rank;                                   /* dimensions after the positions */
    int64_t output_shape[ENGINE_MAX_INPUT_RANK];
    size_t bytes;
};

/* "query/kernel". Never NULL. */
const char *engine_weights_name(enum engine_weight weight);

/* true if a layer so configured has this weight. */
bool engine_weights_expected(const struct engine_layer_config *config, enum engine_weight weight);

/* Takes each expected weight from the named tensors (weight_names.h says how names are read; a
 * prefix of NULL is ""), checks shapes, converts.
 * Errors: INVALID_ARGUMENT (missing, ambiguous, unknown, wrong type), SHAPE_MISMATCH,
 * OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code engine_weights_load(struct engine_weights *ret,
                                                       const struct engine_layer_config *config,
                                                       const struct engine_named_tensor *tensors,
                                                       size_t count, const char *prefix,
                                                       struct engine_error *err);

/* Makes them by the layer's own initializers; widths from the config's query_shape, key_shape,
 * value_shape. Errors: INVALID_ARGUMENT, TOO_LARGE, OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code engine_weights_draw(struct engine_weights *ret,
                                                       const struct engine_layer_config *config,
                                                       uint64_t seed, struct engine_error *err);

void engine_weights_reset(struct engine_weights *weights);

#endif
