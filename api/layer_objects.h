/* layer_objects.h - Keras' initializers, regularizers and constraints, from JSON.
 *
 * Each is a name ("glorot_uniform", "GlorotUniform", an alias), or an object {"class_name",
 * "config"} with or without "module" and "registered_name"; null where none is allowed. key is
 * the configuration's key, for messages. Errors: INVALID_ARGUMENT. Threads: any. */
#ifndef API_LAYER_OBJECTS_H
#define API_LAYER_OBJECTS_H

#include <jansson.h>

#include "engine/layer.h"

ENGINE_MUST_CHECK enum engine_code api_layer_objects_initializer(const char *key,
                                                                 const json_t *value,
                                                                 struct engine_initializer *ret,
                                                                 struct engine_error *err);
ENGINE_MUST_CHECK enum engine_code api_layer_objects_regularizer(const char *key,
                                                                 const json_t *value,
                                                                 struct engine_regularizer *ret,
                                                                 struct engine_error *err);
ENGINE_MUST_CHECK enum engine_code api_layer_objects_constraint(const char *key,
                                                                const json_t *value,
                                                                struct engine_constraint *ret,
                                                                struct engine_error *err);

#endif
