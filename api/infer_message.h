/* infer_message.h - one decoded inference request and one encoded reply, whatever the protocol.
 *
 * The way of a request through this layer:
 *
 *     api_decoder_create (headers) -> feed (body as it arrives) -> finish -> api_infer_request
 *     ... the server makes a plan of request->call, runs it into buffers ...
 *     api_infer_encode -> api_reply (an iovec; outputs are not copied when they go out binary)
 *
 * A decoder turns bytes into tensor views and wishes; it checks everything that can be known
 * without the layer's shapes (names, types, counts, parameters). Which tensors fit each other
 * is the plan's business. One pair of files a protocol (oip_*, tfserving_*, safetensors_*)
 * registers itself in the table of infer_message.c; nothing else knows the protocols.
 *
 * Threads: one at a time for each object; feed on the I/O thread, encode on a worker. */
#ifndef API_INFER_MESSAGE_H
#define API_INFER_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine/engine.h"

enum api_protocol {
    API_PROTOCOL_OIP,         /* POST /v2/models/M/infer, JSON or JSON + binary tensors */
    API_PROTOCOL_SAFETENSORS, /* the same route with Content-Type: application/safetensors */
    API_PROTOCOL_TFSERVING    /* POST /v1/models/M:predict */
};

/* What a model directory's model.json says about requests. */
struct api_model_defaults {
    bool has_outputs; /* "outputs" was given: these are meant when a request names none */
    bool outputs[ENGINE_OUTPUT_COUNT];
};

/* What is known when the headers are in. Strings are NULL where the header is absent; borrowed
 * for the call of api_decoder_create only. */
struct api_request_head {
    enum api_protocol protocol;
    struct engine *engine;
    struct engine_model *model; /* retained by the decoder, then by the request */
    const struct api_model_defaults *defaults;
    const char *model_name;
    const char *model_version;
    const char *content_type;
    const char *content_encoding;
    const char *accept;
    const char *accept_encoding;
    const char *header_content_length; /* Inference-Header-Content-Length */
    int64_t content_length;            /* -1: chunked */
    size_t max_body_bytes;             /* also of an inflated body */
};

struct api_infer_request {
    struct engine_call call;         /* tensors are views of this request's memory */
    uint64_t timeout_us;             /* 0: none */
    int priority;                    /* 0: default, 1 highest */
    bool compressible;               /* the client prefers gzip or deflate: see infer_message.c */
    struct api_request_state *state; /* the decoder's own: protocol, id, output forms, memory */
};

struct api_decoder;

/* Reads the headers. Errors: INVALID_ARGUMENT, MEDIA_TYPE (415), TOO_LARGE (declared length over
 * the cap), UNSUPPORTED. Takes buffers from the engine. */
ENGINE_MUST_CHECK enum engine_code api_decoder_create(const struct api_request_head *head,
                                                      struct api_decoder **ret,
                                                      struct engine_error *err);
/* The next bytes of the body, in any pieces. After a failure only destroy may follow. */
ENGINE_MUST_CHECK enum engine_code api_decoder_feed(struct api_decoder *decoder, const void *bytes,
                                                    size_t size, struct engine_error *err);
/* The body is complete. Returns the request; the decoder is empty afterwards (destroy it). */
ENGINE_MUST_CHECK enum engine_code api_decoder_finish(struct api_decoder *decoder,
                                                      struct api_infer_request **ret,
                                                      struct engine_error *err);
void api_decoder_destroy(struct api_decoder *decoder); /* NULL is fine */
void api_infer_request_destroy(struct api_infer_request *request);

/* Bytes of memory the decoder holds now (buffers and scanner state), for admission and tests. */
size_t api_decoder_memory(const struct api_decoder *decoder);

/* Three outputs of four pieces of number text each, and the text between them. */
enum { API_REPLY_PARTS = 32, API_REPLY_BUFFERS = 20 };

/* An answer ready to be sent. Owns its buffers. */
struct api_reply {
    const char *content_type;      /* static text */
    const char *content_encoding;  /* static text; NULL: identity */
    int64_t header_content_length; /* of the JSON before binary tensors; -1: no such header */
    const char *precision;         /* static text: what the call was computed in */
    bool has_seed;                 /* dropout was drawn from this seed */
    uint64_t seed;
    struct iovec parts[API_REPLY_PARTS];
    int parts_count;
    size_t bytes; /* sum of the parts */
    struct engine_buffer buffers[API_REPLY_BUFFERS];
    int buffers_count;
};

/* Renders the answer. outputs[i] holds what the plan wrote for each wanted output; they are
 * taken (moved into the reply when sent as they are, given back otherwise), also on failure.
 * Uses idle workers for long number arrays. Errors: OUT_OF_MEMORY, OVERLOADED, INTERNAL. */
ENGINE_MUST_CHECK enum engine_code
api_infer_encode(struct engine *engine, const struct api_infer_request *request,
                 const struct engine_plan_facts *facts,
                 struct engine_buffer outputs[ENGINE_OUTPUT_COUNT], struct api_reply *ret,
                 struct engine_error *err);
void api_reply_reset(struct engine *engine, struct api_reply *reply);

#endif
