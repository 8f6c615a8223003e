/* layer_search.h - the layer's own configuration in whatever document of Keras holds it.
 *
 * get_config() itself; {"class_name", "config", ...} round it, as keras.layers.serialize and
 * SavedModel's metadata write it; a model (model.to_json(), get_config(), models inside models).
 * Not here: what the configuration says (layer_config.c). Threads: any. */
#ifndef API_LAYER_SEARCH_H
#define API_LAYER_SEARCH_H

#include <stdbool.h>

#include <jansson.h>

#include "engine/error.h"

/* Finds the only ReuseMultiHeadAttention, or the one of a name (NULL: none given): its own, or its
 * path through models inside the model, "encoder/attn". *ret belongs to root. Errors:
 * INVALID_ARGUMENT (none of that name; several: the message lists them), UNSUPPORTED (other
 * classes, layers in wrappers, ReuseTransformer: the message says what to do). */
ENGINE_MUST_CHECK enum engine_code api_layer_search_find(const json_t *root, const char *name,
                                                         const json_t **ret,
                                                         struct engine_error *err);

/* true if a document is one that Keras writes of a layer or a model, not settings of serving. */
bool api_layer_search_is_keras(const json_t *root);

#endif
