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

#include "api/limits.h"
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

/* A request made elsewhere, of any content type. */
struct api_client_request {
    const char *path;           /* begins with "/" */
    const char *const *headers; /* "Name: value", ..., NULL; or NULL */
    const void *body;           /* NULL: a GET */
    size_t size;
};

/* Sends it; returns the answer as malloc'd bytes, terminated, for the caller to free. Errors: what
 * the server said, by its status (NOT_FOUND, FORBIDDEN, OVERLOADED, UNAVAILABLE, ...); UNAVAILABLE
 * when there is no connection or it ended before an answer began, INTERNAL when an answer broke
 * off, TIMEOUT, OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code api_client_ask(struct api_client *client,
                                                  const struct api_client_request *request,
                                                  char **ret, size_t *ret_size,
                                                  struct engine_error *err);

/* The path of a model: before, the name with what is special in a path escaped, after; ret holds
 * API_CLIENT_PATH_BYTES, before and after are short. Errors: INVALID_ARGUMENT. */
enum { API_CLIENT_PATH_BYTES = 3 * API_MAX_NAME_BYTES + 64 };
ENGINE_MUST_CHECK enum engine_code api_client_path(char *ret, const char *before, const char *model,
                                                   const char *after, struct engine_error *err);

/* GET or POST (body not NULL) of a JSON document; path begins with "/". Returns malloc'd,
 * terminated text, for the caller to free. Errors: those of api_client_ask. */
ENGINE_MUST_CHECK enum engine_code api_client_document(struct api_client *client, const char *path,
                                                       const char *body, char **ret,
                                                       struct engine_error *err);

/* The safetensors body of an inference request: tensors under the names of inputs, by descending
 * element size; metadata (key, value, ..., NULL) are request parameters, or NULL. Returns malloc'd
 * bytes, for the caller to free. Errors: TOO_LARGE, OUT_OF_MEMORY, those of the format. */
ENGINE_MUST_CHECK enum engine_code api_client_body(const struct engine_named_tensor *tensors,
                                                   size_t count, const char *const *metadata,
                                                   char **ret, size_t *ret_size,
                                                   struct engine_error *err);

/* Inference with such a body. The answer owns its tensors. */
ENGINE_MUST_CHECK enum engine_code api_client_infer(struct api_client *client, const char *model,
                                                    const struct engine_named_tensor *tensors,
                                                    size_t count, const char *const *metadata,
                                                    struct api_client_answer **ret,
                                                    struct engine_error *err);

const struct engine_safetensors *api_client_answer_file(const struct api_client_answer *answer);
void api_client_answer_destroy(struct api_client_answer *answer); /* NULL is fine */

/* Load and unload; config is the model's configuration as JSON text, or NULL. */
ENGINE_MUST_CHECK enum engine_code api_client_load(struct api_client *client, const char *model,
                                                   const char *config, struct engine_error *err);
ENGINE_MUST_CHECK enum engine_code api_client_unload(struct api_client *client, const char *model,
                                                     struct engine_error *err);

#endif
