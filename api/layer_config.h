/* layer_config.h - Keras configuration JSON to and from engine_layer_config.
 *
 * Accepts what Python writes of a layer: json.dump(layer.get_config(), default=str), whose shapes
 * are texts; serializations of the layer or of a model that holds it (layer_search.h); hand-written
 * files with only the needed keys; all spellings of initializers, regularizers and constraints
 * (class name, snake case, aliases, legacy and v3 objects), and "max_sequence_length" for
 * "pe_max_seq_length". Unknown keys are an error that names the key. Names have at most 65,535
 * bytes (ENGINE_LAYER_NAME_BYTES).
 *
 * What is written is JSON: an infinite parameter, which Python writes as a bare Infinity, is the
 * text "Infinity". */
#ifndef API_LAYER_CONFIG_H
#define API_LAYER_CONFIG_H

#include <stddef.h>

#include "engine/error.h"
#include "engine/layer.h"

/* Parses and checks (engine_layer_check). Errors: INVALID_ARGUMENT, UNSUPPORTED. */
ENGINE_MUST_CHECK enum engine_code api_layer_config_read(const char *json, size_t size,
                                                         struct engine_layer_config *ret,
                                                         struct engine_error *err);

/* The same of a parsed document (jansson's json_t), which may hold several layers: layer names the
 * one, NULL where there is only one. */
struct json_t;
ENGINE_MUST_CHECK enum engine_code api_layer_config_read_document(const struct json_t *document,
                                                                  const char *layer,
                                                                  struct engine_layer_config *ret,
                                                                  struct engine_error *err);

/* get_config() as Keras writes it: from_config(json.loads(text)) takes it. Returns malloc'd,
 * terminated text (caller frees), NULL when memory is short. */
char *api_layer_config_write(const struct engine_layer_config *config);

/* The same as a document for others to hold (jansson's json_t; the caller has its reference). */
struct json_t *api_layer_config_write_document(const struct engine_layer_config *config);

#endif
