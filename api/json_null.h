/* json_null.h - a member that is null is one left out: the rule of all requests and of model.json.
 *
 * Clients that write all members of a type write null for those they do not mean. Elements of lists
 * are values and stay. A layer's configuration is not treated so: there null is Python's None.
 * Threads: one at a time for each document. */
#ifndef API_JSON_NULL_H
#define API_JSON_NULL_H

#include <jansson.h>

/* Removes every member that is null, down to API_MAX_NESTING levels; nothing reads deeper ones. */
void api_json_null_drop(json_t *document);

#endif
