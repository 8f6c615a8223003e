/* weight_names.h - which tensor of a file is which weight of a layer.
 *
 * Names are what {w.name: w.numpy() for w in layer.weights} gives, or shorter: scopes before,
 * ":0" behind. A weight is known by its last two parts ("query/kernel"), in whatever scope or
 * none; the position table, which Keras names outside the layer's scope, by its last part alone.
 * Two tensors for one weight are an error that lists them; nothing is guessed.
 * Threads: any. */
#ifndef ENGINE_WEIGHT_NAMES_H
#define ENGINE_WEIGHT_NAMES_H

#include <stddef.h>

#include "engine/weights.h"

/* Sets found[w] to the tensor of each weight that the layer has, NULL for the others.
 *
 * prefix ("" for none) says where to look: names that begin with it, a scope as a whole
 * ("encoder/layer_1" is not the beginning of "encoder/layer_10/query/kernel"). The position table
 * is then looked for in the enclosing scopes too, the nearest first, and at last anywhere.
 *
 * INVALID_ARGUMENT: a weight is missing (the message lists the nearest names found), there are
 * several tensors for one, or a tensor in the scope of the layer's weights is none of them. */
ENGINE_MUST_CHECK enum engine_code engine_weight_names_find(
    const struct engine_layer_config *config, const struct engine_named_tensor *tensors,
    size_t count, const char *prefix, const struct engine_named_tensor *found[ENGINE_WEIGHT_COUNT],
    struct engine_error *err);

#endif
