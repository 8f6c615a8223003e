/* client.h - a client of attnd and of servers that speak the Open Inference Protocol, for C.
 *
 *     struct api_client *client;
 *     api_client_open("http://127.0.0.1:8080", NULL, &client, &err);
 *     api_client_infer(client, "minilm", tensors, count, NULL, &answer, &err);
 *     ... engine_safetensors_find(api_client_answer_file(answer), "attention_output") ...
 *
 * Requests are repeated when the server says 429 or 503, after as long as its Retry-After tells,
 * within the limits of the options. An error's message is the server's own sentence. Nothing is
 * written to stdout or stderr. libcurl is used here and nowhere else in api/.
 * Threads: a client is one thread's; open one for each. Call api_client_start once before. */
#ifndef API_CLIENT_CLIENT_H
#define API_CLIENT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/formats/safetensors.h"
#include "engine/tensor.h"

struct api_client;
struct api_client_answer;

struct api_client_options {
    long timeout_ms;  /* of one attempt; 0: 60,000 */
    int attempts;     /* in all; 0: 4 */
    long wait_ms_max; /* longest pause before another attempt; 0: 5,000 */
    /* Called during long transfers with bytes sent and received so far; may be NULL. */
    void (*progress)(void *argument, uint64_t sent, uint64_t received);
    void *argument;
};

/* Process-wide, before the first thread that uses clients. Errors: INTERNAL. */
ENGINE_MUST_CHECK enum engine_code api_client_start(struct engine_error *err);

/* url: http://HOST:PORT, https://HOST:PORT or unix:PATH. options may be NULL. Connects at the
 * first request. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code api_client_open(const char *url,
                                                   const struct api_client_options *options,
                                                   struct api_client **ret,
                                                   struct engine_error *err);
void api_client_close(struct api_client *client); /* NULL is fine */

/* GET or POST (body not NULL) of a JSON document; path begins with "/". Returns malloc'd,
 * terminated text, for the caller to free. Errors: what the server said, by its status
 * (NOT_FOUND, FORBIDDEN, OVERLOADED, UNAVAILABLE, ...), UNAVAILABLE when there is no connection,
 * TIMEOUT. */
ENGINE_MUST_CHECK enum engine_code api_client_document(struct api_client *client, const char *path,
                                                       const char *body, char **ret,
                                                       struct engine_error *err);

/* Inference: tensors under the names of inputs; metadata (key, value, ..., NULL) are request
 * parameters, or NULL. The answer owns its tensors. */
ENGINE_MUST_CHECK enum engine_code api_client_infer(struct api_client *client, const char *model,
                                                    const struct engine_named_tensor *tensors,
                                                    size_t count, const char *const *metadata,
                                                    struct api_client_answer **ret,
                                                    struct engine_error *err);
/* A body made elsewhere, of any content type; returns the answer's length and drops it. */
ENGINE_MUST_CHECK enum engine_code api_client_post(struct api_client *client, const char *path,
                                                   const char *content_type, const void *body,
                                                   size_t size, size_t *ret_size,
                                                   struct engine_error *err);

const struct engine_safetensors *api_client_answer_file(const struct api_client_answer *answer);
void api_client_answer_destroy(struct api_client_answer *answer); /* NULL is fine */

/* Load and unload; config is the model's configuration as JSON text, or NULL. */
ENGINE_MUST_CHECK enum engine_code api_client_load(struct api_client *client, const char *model,
                                                   const char *config, struct engine_error *err);
ENGINE_MUST_CHECK enum engine_code api_client_unload(struct api_client *client, const char *model,
                                                     struct engine_error *err);

#endif
