/* json_envelope.h - a JSON body split, as it arrives, into its envelope and its long values.
 *
 * Arrays of numbers where tensors stand, and base64 text, never reach the JSON library: they go
 * into typed buffers, and the envelope keeps a placeholder, a string that no client can guess.
 * What is left is bounded (API_MAX_ENVELOPE_BYTES, API_MAX_NESTING) and parsed by jansson, which
 * also judges its syntax. Nothing here recurses. What the fields mean is the protocols' business.
 * Threads: one at a time for each envelope. */
#ifndef API_JSON_ENVELOPE_H
#define API_JSON_ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "api/base64.h"
#include "api/json_numbers.h"
#include "api/limits.h"
#include "engine/engine.h"

/* One value taken out. */
struct api_json_value {
    bool is_bytes;           /* from base64: count bytes, dtype is not known */
    enum engine_dtype dtype; /* what the numbers are stored as */
    struct engine_buffer buffer;
    size_t count;
    size_t truths; /* how many of them are true or false, where the request told no datatype */
    int rank;      /* of the nesting */
    bool regular;
    int64_t shape[API_MAX_RANK];
};

enum api_json_style {
    API_JSON_OIP,      /* arrays under "data", text under "b64" */
    API_JSON_TFSERVING /* arrays anywhere under "instances" and "inputs" */
};

struct api_json_envelope;

/* untold: how numbers are stored while the request has not told their datatype, F32 or F64. limit:
 * bytes the JSON can have. room: bytes of buffers that its values may take together, while they
 * grow too. Errors: OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code
api_json_envelope_create(struct engine *engine, enum api_json_style style, enum engine_dtype untold,
                         size_t limit, size_t room, struct api_json_envelope **ret,
                         struct engine_error *err);
/* Errors: INVALID_ARGUMENT, TOO_LARGE, and memory. */
ENGINE_MUST_CHECK enum engine_code api_json_envelope_feed(struct api_json_envelope *envelope,
                                                          const char *bytes, size_t size,
                                                          struct engine_error *err);
/* Parses what is left; the caller owns *ret. Duplicate keys are refused, members that are null are
 * left out. */
ENGINE_MUST_CHECK enum engine_code api_json_envelope_finish(struct api_json_envelope *envelope,
                                                            json_t **ret, struct engine_error *err);
/* The value that a placeholder stands for; NULL: it is none. The caller may take its buffer. */
struct api_json_value *api_json_envelope_value(struct api_json_envelope *envelope,
                                               const json_t *placeholder);
void api_json_envelope_destroy(struct api_json_envelope *envelope); /* NULL is fine */
size_t api_json_envelope_memory(const struct api_json_envelope *envelope);
size_t api_json_envelope_room(const struct api_json_envelope *envelope); /* what is left of it */

#endif
