/* bench_request.h - the request that attn bench sends again and again: a query of the model's
 * width, value and key where they have to be others, and for a layer that reuses scores, scores.
 *
 * Values are made up, always the same. A score is one over the number of keys: every row is what a
 * softmax could have given. */
#ifndef API_CLIENT_BENCH_REQUEST_H
#define API_CLIENT_BENCH_REQUEST_H

#include <stdbool.h>

#include "api/client/client.h"

struct api_bench_request_wishes {
    const char *model;
    long batch, tokens;
    bool json;   /* numbers as JSON text, else safetensors */
    bool scores; /* ask for the attention scores too */
};

struct api_bench_request {
    char path[API_CLIENT_PATH_BYTES];
    char *body; /* request.body, owned */
    struct api_client_request request;
};

/* Asks the server for the model's shapes, makes the request; to be reset. It points into itself:
 * not to be copied. Errors: those of api_client_ask; UNSUPPORTED for a model without a query
 * [B,T,C] of known width, TOO_LARGE. */
ENGINE_MUST_CHECK enum engine_code
api_bench_request_make(struct api_client *client, const struct api_bench_request_wishes *wishes,
                       struct api_bench_request *ret, struct engine_error *err);
void api_bench_request_reset(struct api_bench_request *request); /* of zeros, or reset: fine */

#endif
