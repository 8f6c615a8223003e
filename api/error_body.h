/* error_body.h - a failure as the client sees it: status and {"error": "..."}; nowhere else. */
#ifndef API_ERROR_BODY_H
#define API_ERROR_BODY_H

#include <stddef.h>

#include "engine/error.h"

/* HTTP status of a code: 400 INVALID_ARGUMENT and SHAPE_MISMATCH, 401, 403, 404, 405, 408, 411,
 * 413, 415, 429 OVERLOADED, 500 INTERNAL, 501, 503 UNAVAILABLE and OUT_OF_MEMORY, 504. */
int api_error_body_status(enum engine_code code);

/* Writes the JSON body (always valid UTF-8, control characters escaped, at most size bytes,
 * terminated); an INTERNAL error shows no detail. Returns its length. */
size_t api_error_body_write(const struct engine_error *err, char *text, size_t size);

#endif
