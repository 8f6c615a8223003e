/* initializers.h - the layer's own weight initializers.
 *
 * Distributions as tf_keras 2.21 defines them (keras/initializers), with Keras' fans for kernels
 * of three dimensions: for a shape s of rank >= 3, fan_in = s[-2] * prod(s[:-2]), fan_out =
 * s[-1] * prod(s[:-2]). Values come from the counter-based generator of dropout.h: the same seed
 * gives the same weights everywhere, but not TensorFlow's. Threads: any. */
#ifndef ENGINE_INITIALIZERS_H
#define ENGINE_INITIALIZERS_H

#include <stdint.h>

#include "engine/error.h"
#include "engine/layer.h"
#include "engine/tensor.h"

/* Fills tensor (F32, data set). seed belongs to the layer and stream to the weight; an
 * initializer with a seed of its own uses that and no stream, so that equal shapes get equal
 * values, as Keras does. Errors: INVALID_ARGUMENT (identity or orthogonal on a shape they do not
 * fit), OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code
engine_initializers_fill(const struct engine_initializer *initializer, uint64_t seed,
                         uint32_t stream, struct engine_tensor *tensor, struct engine_error *err);

#endif
