/* json.h - JSON documents that are whole or not there, also when memory is short.
 *
 * jansson 2.14 is careless there: its parser drops the bytes of a text or a number that it finds
 * no room for, or ends the process (an assertion), json_dumps() drops keys, and a failed append is
 * a code that is easily dropped. All parsing and writing of JSON goes through these instead.
 * Threads: any. */
#ifndef ENGINE_FORMATS_JSON_H
#define ENGINE_FORMATS_JSON_H

#include <jansson.h>

#include "engine/error.h"

/* Parses as json_loadb(). OK with *ret NULL: it is no JSON, and ret_where says why. Errors:
 * OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code engine_json_load(const char *bytes, size_t size, size_t flags,
                                                    json_t **ret, json_error_t *ret_where,
                                                    struct engine_error *err);

/* Add an item, which is taken. Return the array or object; NULL, and it is gone, where that
 * failed. NULL given is NULL returned. */
json_t *engine_json_append(json_t *array, json_t *item);
json_t *engine_json_set(json_t *object, const char *key, json_t *value);

/* Takes the document. Its text, malloc'd and terminated; NULL when memory is short, or when the
 * document is NULL. */
char *engine_json_text(json_t *document, size_t flags);

#endif
