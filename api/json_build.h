/* json_build.h - JSON documents that are whole or not there, also when memory is short.
 *
 * jansson reports a failed append by a code that is easily dropped, and its json_dumps() loses
 * keys that it has no room for without a word. Threads: any. */
#ifndef API_JSON_BUILD_H
#define API_JSON_BUILD_H

#include <jansson.h>

/* Add an item, which is taken. Return the array or object; NULL, and it is gone, where that
 * failed. NULL given is NULL returned. */
json_t *api_json_build_append(json_t *array, json_t *item);
json_t *api_json_build_set(json_t *object, const char *key, json_t *value);

/* Takes the document. Its text, malloc'd and terminated; NULL when memory is short. */
char *api_json_build_text(json_t *document, size_t flags);

#endif
