/* protocol.h - what the protocols share: a request being read, an answer being written, and the
 * table of protocols. Internal to api/: the server sees infer_message.h.
 *
 * Adding a protocol is one pair of files and one row in infer_message.c. */
#ifndef API_PROTOCOL_H
#define API_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "api/compression.h"
#include "api/infer_message.h"
#include "api/json_envelope.h"
#include "api/json_numbers.h"
#include "api/limits.h"

/* How the answer is written. */
enum api_form { API_FORM_OIP, API_FORM_SAFETENSORS, API_FORM_TF_ROWS, API_FORM_TF_COLUMNS };

enum { API_STATE_BUFFERS = 3 * ENGINE_INPUT_COUNT };

struct api_request_state {
    struct api_infer_request request; /* what the server sees; its state points back here */
    struct engine *engine;
    struct engine_model *model; /* retained */
    struct api_model_defaults defaults;
    enum api_form form;
    enum api_coding coding; /* preferred for the answer */
    char model_name[API_MAX_NAME_BYTES + 1];
    char model_version[API_MAX_NAME_BYTES + 1];
    char *id; /* NULL: none */
    bool outputs_listed;
    bool binary[ENGINE_OUTPUT_COUNT];
    bool binary_default; /* binary_data_output */
    bool has_scores_parameter, scores_parameter;
    bool has_seed;
    enum api_non_finite non_finite;                  /* NaN and infinities in a JSON answer */
    struct engine_buffer buffers[API_STATE_BUFFERS]; /* hold the inputs */
    int buffers_count;
};

/* ---- parameters (parameters.c) ------------------------------------------------------------- */

/* One request parameter. Errors: INVALID_ARGUMENT, UNSUPPORTED. */
ENGINE_MUST_CHECK enum engine_code api_parameters_request(struct api_request_state *state,
                                                          const char *name, const json_t *value,
                                                          struct engine_error *err);
/* One parameter of an output. */
ENGINE_MUST_CHECK enum engine_code api_parameters_output(struct api_request_state *state,
                                                         enum engine_output output,
                                                         const char *name, const json_t *value,
                                                         struct engine_error *err);
/* Each member of an object of parameters; NULL is none. */
ENGINE_MUST_CHECK enum engine_code api_parameters_request_all(struct api_request_state *state,
                                                              json_t *parameters,
                                                              struct engine_error *err);
/* Names an output as wanted. Errors: INVALID_ARGUMENT (no such output, or twice). */
ENGINE_MUST_CHECK enum engine_code api_parameters_want(struct api_request_state *state,
                                                       const char *name, enum engine_output *ret,
                                                       struct engine_error *err);
/* After all parameters: what is wanted when nothing was listed, what follows from top_k, and a seed
 * for training without one. Errors: INVALID_ARGUMENT (nothing is left), INTERNAL. */
ENGINE_MUST_CHECK enum engine_code api_parameters_settle(struct api_request_state *state,
                                                         struct engine_error *err);

/* Finds an input by name that was not given yet. Errors: INVALID_ARGUMENT. */
ENGINE_MUST_CHECK enum engine_code api_parameters_input(const struct api_request_state *state,
                                                        const char *name, enum engine_input *ret,
                                                        struct engine_error *err);

/* ---- memory (infer_message.c) ---------------------------------------------------------------- */

/* Lets the request own a buffer; *buffer is emptied. The state has room for all there can be. */
void api_state_own(struct api_request_state *state, struct engine_buffer *buffer);
/* Adds to the sentence of a failure what may have led to it, if there is room. */
void api_hint(struct engine_error *err, const char *text);

/* Makes t a tensor of the bytes given, copied into a buffer of the state's when they do not lie
 * at a multiple of the element's size. */
ENGINE_MUST_CHECK enum engine_code api_state_view(struct api_request_state *state,
                                                  struct engine_tensor *t, const void *bytes,
                                                  size_t size, struct engine_error *err);

/* ---- the protocols ------------------------------------------------------------------------- */

/* A complete body: the JSON envelope (NULL for safetensors) and what follows it. The tail's
 * buffer is the reader's to own. */
struct api_body {
    struct api_json_envelope *envelope;
    struct engine_buffer tail;
    size_t tail_bytes;
    bool has_tail; /* the header that announces binary tensors was there */
};

ENGINE_MUST_CHECK enum engine_code api_oip_request_read(struct api_request_state *state,
                                                        struct api_body *body,
                                                        struct engine_error *err);
ENGINE_MUST_CHECK enum engine_code api_tfserving_request_read(struct api_request_state *state,
                                                              struct api_body *body,
                                                              struct engine_error *err);
ENGINE_MUST_CHECK enum engine_code api_safetensors_message_read(struct api_request_state *state,
                                                                struct api_body *body,
                                                                struct engine_error *err);

/* An answer being put together. Text goes into one buffer; outputs go beside it. */
struct api_writer {
    struct engine *engine;
    struct api_reply *reply;
    const struct engine_plan_facts *facts;
    struct engine_buffer *outputs;
    struct engine_buffer text; /* becomes the reply's */
    size_t used, flushed;
    enum engine_code code; /* the first failure; later calls do nothing */
    struct engine_error *err;
};

/* Text, formatted; text as a JSON string; the outputs' shape; what was said so far as a part. */
void api_writer_text(struct api_writer *writer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void api_writer_string(struct api_writer *writer, const char *text);
void api_writer_flush(struct api_writer *writer);
/* An output's bytes as they lie: no copy. */
void api_writer_bytes(struct api_writer *writer, enum engine_output output);
/* A tensor as number text. */
void api_writer_numbers(struct api_writer *writer, const struct engine_tensor *tensor,
                        const struct api_json_numbers_style *style);

void api_oip_response_write(struct api_writer *writer, const struct api_request_state *state);
void api_tfserving_response_write(struct api_writer *writer, const struct api_request_state *state);
void api_safetensors_message_write(struct api_writer *writer,
                                   const struct api_request_state *state);

#endif
