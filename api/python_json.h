/* python_json.h - JSON as Python writes it, and the values that Python has and JSON has not.
 *
 * json.dump() writes bare NaN and Infinity; with default=str it writes what str() makes of a value
 * that JSON has not ("(None, 40, 80)" of a TensorShape, "12" of a numpy.int64); Keras'
 * serializations write {"class_name": "TensorShape", "items": [...]} and the like. All of these
 * are read as what was meant. Everything is bounded: the input may be hostile. Threads: any. */
#ifndef API_PYTHON_JSON_H
#define API_PYTHON_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "engine/error.h"

/* Parses; a byte order mark before is skipped, bare NaN, Infinity and -Infinity become texts. what
 * names the document in messages. *ret is new. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code api_python_json_load(const char *what, const char *text,
                                                        size_t size, json_t **ret,
                                                        struct engine_error *err);

/* The value that a text or an object stands for: null, true, false, a number or a list. *ret is
 * new: the value itself where it stands for nothing else. NaN and infinities stay texts,
 * "NaN", "Infinity", "-Infinity". Error: OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code api_python_json_value(const json_t *value, json_t **ret,
                                                         struct engine_error *err);

/* A number, or one of the three texts. false: neither. */
bool api_python_json_number(const json_t *value, double *ret);

/* The other way: a number, or one of the three texts for what JSON has no number for. New. */
json_t *api_python_json_real(double value);

#endif
