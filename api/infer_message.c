/* infer_message.c - decoders and encoders, whatever the protocol. See infer_message.h. */
#include "api/infer_message.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/protocol.h"
#include "engine/formats/json.h"

enum { HINT_BYTES = 1 << 20, LEAST_ROOM = 1 << 16 };

static const char safetensors_type[] = "application/safetensors";

struct api_decoder {
    struct api_request_state *state;
    enum api_protocol protocol;
    struct api_inflate *inflate; /* NULL: the body comes as it is */
    size_t limit;
    size_t received;   /* bytes of the body, inflated */
    size_t json_bytes; /* of it that are JSON; SIZE_MAX: all */
    size_t tail_room;  /* bytes the tail will have, if known */
    struct api_body body;
};

/* ---- the request's memory --------------------------------------------------------------- */

void api_state_own(struct api_request_state *state, struct engine_buffer *buffer)
{
    if (buffer->data == NULL)
        return;
    state->buffers[state->buffers_count++] = *buffer;
    *buffer = (struct engine_buffer){NULL, 0};
}

enum engine_code api_state_view(struct api_request_state *state, struct engine_tensor *t,
                                const void *bytes, size_t size, struct engine_error *err)
{
    size_t element = engine_tensor_element_bytes(t->dtype);
    static double nothing; /* a tensor without elements is given all the same */
    t->data = size == 0 ? (void *)&nothing : (void *)(uintptr_t)bytes;
    if ((uintptr_t)t->data % element == 0)
        return ENGINE_OK;
    struct engine_buffer copy;
    t->data = NULL;
    ENGINE_TRY(engine_buffer_take(state->engine, size, &copy, err));
    memcpy(copy.data, bytes, size);
    t->data = copy.data;
    api_state_own(state, &copy);
    return ENGINE_OK;
}

static void state_destroy(struct api_request_state *state)
{
    if (state == NULL)
        return;
    for (int i = 0; i < state->buffers_count; i++)
        engine_buffer_give(state->engine, &state->buffers[i]);
    free(state->request.call.heads.indices);
    free(state->request.call.query_rows.indices);
    free(state->id);
    engine_model_release(state->model);
    free(state);
}

void api_infer_request_destroy(struct api_infer_request *request)
{
    if (request != NULL)
        state_destroy(request->state);
}

/* ---- reading the headers ---------------------------------------------------------------- */

/* The media type without its parameters. */
static bool is_type(const char *header, const char *type)
{
    size_t length = strlen(type);
    return header != NULL && strncasecmp(header, type, length) == 0 &&
           (header[length] == '\0' || header[length] == ';' || header[length] == ' ' ||
            header[length] == '\t' || header[length] == ',');
}

static bool accepts(const char *header, const char *type)
{
    for (const char *at = header; at != NULL && *at != '\0';) {
        at += strspn(at, " ,\t");
        if (is_type(at, type))
            return true;
        at += strcspn(at, ",");
    }
    return false;
}

/* Clients of the Open Inference Protocol send any type or none. */
static enum engine_code check_type(const struct api_request_head *head, struct engine_error *err)
{
    static const char *const types[] = {"application/json",
                                        "application/octet-stream",
                                        "application/x-www-form-urlencoded",
                                        "text/json",
                                        "text/plain",
                                        "application/vnd.kserve+json"};
    if (head->content_type == NULL || *head->content_type == '\0' ||
        head->protocol == API_PROTOCOL_TFSERVING)
        return ENGINE_OK;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (is_type(head->content_type, types[i]))
            return ENGINE_OK;
    return engine_error_set(err, ENGINE_MEDIA_TYPE,
                            "Content-Type is \"%.60s\", it must be application/json, "
                            "application/octet-stream or application/safetensors",
                            head->content_type);
}

static enum engine_code read_header_length(const struct api_request_head *head,
                                           enum api_coding coding, size_t *ret,
                                           struct engine_error *err)
{
    const char *text = head->header_content_length;
    size_t length = 0;
    *ret = SIZE_MAX;
    if (text == NULL)
        return ENGINE_OK;
    if (*text == '\0' || strspn(text, "0123456789") != strlen(text) || strlen(text) > 18)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Inference-Header-Content-Length is \"%.40s\", it must be the "
                                "number of bytes of JSON",
                                text);
    for (const char *c = text; *c != '\0'; c++)
        length = 10 * length + (size_t)(*c - '0');
    if (length == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Inference-Header-Content-Length is 0: a raw request needs a model "
                                "of one input, this one has several; send their JSON header");
    if (coding == API_CODING_IDENTITY && head->content_length >= 0 &&
        length > (size_t)head->content_length)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Inference-Header-Content-Length is %zu, the whole body has %lld "
                                "bytes",
                                length, (long long)head->content_length);
    *ret = length;
    return ENGINE_OK;
}

static enum engine_code check_length(const struct api_request_head *head, struct engine_error *err)
{
    if (head->content_length >= 0 && (uint64_t)head->content_length > head->max_body_bytes)
        return engine_error_set(err, ENGINE_TOO_LARGE,
                                "Content-Length is %lld, at most %zu bytes are accepted",
                                (long long)head->content_length, head->max_body_bytes);
    return ENGINE_OK;
}

static enum api_form form_of(const struct api_request_head *head, enum api_protocol protocol)
{
    if (protocol == API_PROTOCOL_TFSERVING)
        return API_FORM_TF_ROWS; /* the reader says which */
    if (accepts(head->accept, safetensors_type))
        return API_FORM_SAFETENSORS;
    bool asks_json = accepts(head->accept, "application/json") ||
                     accepts(head->accept, "application/octet-stream");
    return protocol == API_PROTOCOL_SAFETENSORS && !asks_json ? API_FORM_SAFETENSORS : API_FORM_OIP;
}

static struct api_request_state *make_state(const struct api_request_head *head,
                                            enum api_protocol protocol)
{
    struct api_request_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return NULL;
    engine_call_init(&state->request.call);
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        state->request.call.wanted[i] = false;
    state->request.state = state;
    state->engine = head->engine;
    state->model = head->model;
    engine_model_retain(state->model);
    if (head->defaults != NULL)
        state->defaults = *head->defaults;
    state->form = form_of(head, protocol);
    state->coding = api_compression_preferred(head->accept_encoding);
    snprintf(state->model_name, sizeof state->model_name, "%s", head->model_name);
    snprintf(state->model_version, sizeof state->model_version, "%s", head->model_version);
    return state;
}

/* Bytes that the JSON can have, as far as the headers tell. */
static size_t json_limit(const struct api_decoder *decoder, const struct api_request_head *head,
                         bool is_known)
{
    size_t limit = is_known ? (size_t)head->content_length : head->max_body_bytes;
    return limit < decoder->json_bytes ? limit : decoder->json_bytes;
}

/* Number buffers and binary tensors together stay under twice the largest body, or 64 KB if that is
 * more. A tail of unknown length takes one and a half of it while it grows (keep_tail). */
static size_t json_room(const struct api_decoder *decoder, const struct api_request_head *head,
                        bool is_known)
{
    size_t most = head->max_body_bytes, room = 2 * most - decoder->tail_room;
    if (decoder->body.has_tail && !is_known)
        room = most / 2;
    return room > LEAST_ROOM ? room : LEAST_ROOM;
}

/* Text under policy float64 keeps all its digits. */
static enum engine_dtype untold_type(const struct api_decoder *decoder,
                                     const struct api_request_head *head)
{
    bool is_wide = engine_model_config(head->model)->policy == ENGINE_POLICY_FLOAT64;
    return decoder->protocol == API_PROTOCOL_OIP || is_wide ? ENGINE_F64 : ENGINE_F32;
}

static enum engine_code open_body(struct api_decoder *decoder, const struct api_request_head *head,
                                  enum api_coding coding, struct engine_error *err)
{
    bool is_known = coding == API_CODING_IDENTITY && head->content_length >= 0;
    if (coding != API_CODING_IDENTITY)
        ENGINE_TRY(api_inflate_create(coding, head->max_body_bytes, &decoder->inflate, err));
    else if (is_known)
        decoder->tail_room = (size_t)head->content_length -
                             (decoder->json_bytes == SIZE_MAX ? 0 : decoder->json_bytes);
    if (decoder->protocol == API_PROTOCOL_SAFETENSORS)
        return ENGINE_OK;
    decoder->tail_room = decoder->json_bytes == SIZE_MAX ? 0 : decoder->tail_room;
    decoder->body.has_tail = decoder->json_bytes != SIZE_MAX;
    return api_json_envelope_create(
        head->engine, decoder->protocol == API_PROTOCOL_OIP ? API_JSON_OIP : API_JSON_TFSERVING,
        untold_type(decoder, head), json_limit(decoder, head, is_known),
        json_room(decoder, head, is_known), &decoder->body.envelope, err);
}

static enum engine_code read_head(struct api_decoder *decoder, const struct api_request_head *head,
                                  struct engine_error *err)
{
    enum api_coding coding;
    ENGINE_TRY(api_compression_read(head->content_encoding, &coding, err));
    ENGINE_TRY(check_length(head, err));
    if (decoder->protocol == API_PROTOCOL_SAFETENSORS) {
        decoder->json_bytes = 0;
    } else {
        ENGINE_TRY(check_type(head, err));
        decoder->json_bytes = SIZE_MAX;
        if (decoder->protocol == API_PROTOCOL_OIP)
            ENGINE_TRY(read_header_length(head, coding, &decoder->json_bytes, err));
    }
    decoder->state = make_state(head, decoder->protocol);
    if (decoder->state == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a request");
    return open_body(decoder, head, coding, err);
}

enum engine_code api_decoder_create(const struct api_request_head *head, struct api_decoder **ret,
                                    struct engine_error *err)
{
    struct api_decoder *decoder = calloc(1, sizeof *decoder);
    if (decoder == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a request");
    decoder->limit = head->max_body_bytes;
    decoder->protocol = head->protocol;
    if (head->protocol == API_PROTOCOL_OIP && is_type(head->content_type, safetensors_type))
        decoder->protocol = API_PROTOCOL_SAFETENSORS;
    enum engine_code code = read_head(decoder, head, err);
    if (code != ENGINE_OK) {
        api_decoder_destroy(decoder);
        return code;
    }
    *ret = decoder;
    return ENGINE_OK;
}

void api_decoder_destroy(struct api_decoder *decoder)
{
    if (decoder == NULL)
        return;
    if (decoder->state != NULL)
        engine_buffer_give(decoder->state->engine, &decoder->body.tail);
    api_json_envelope_destroy(decoder->body.envelope);
    api_inflate_destroy(decoder->inflate);
    state_destroy(decoder->state);
    free(decoder);
}

size_t api_decoder_memory(const struct api_decoder *decoder)
{
    size_t bytes = sizeof *decoder + sizeof *decoder->state + decoder->body.tail.bytes;
    if (decoder->body.envelope != NULL)
        bytes += api_json_envelope_memory(decoder->body.envelope);
    return bytes;
}

/* ---- taking the body -------------------------------------------------------------------- */

static enum engine_code keep_tail(struct api_decoder *decoder, const char *bytes, size_t size,
                                  struct engine_error *err)
{
    struct api_body *body = &decoder->body;
    struct engine *engine = decoder->state->engine;
    if (body->tail_bytes + size > body->tail.bytes) {
        size_t need = body->tail_bytes + size, room = 2 * need;
        room = room > decoder->limit / 2 ? decoder->limit : room;
        room = decoder->tail_room >= need ? decoder->tail_room : room;
        struct engine_buffer larger;
        ENGINE_TRY(engine_buffer_take(engine, room, &larger, err));
        if (body->tail_bytes > 0)
            memcpy(larger.data, body->tail.data, body->tail_bytes);
        engine_buffer_give(engine, &body->tail);
        body->tail = larger;
    }
    memcpy((char *)body->tail.data + body->tail_bytes, bytes, size);
    body->tail_bytes += size;
    return ENGINE_OK;
}

static enum engine_code take(void *argument, const void *bytes, size_t size,
                             struct engine_error *err)
{
    struct api_decoder *decoder = argument;
    const char *at = bytes;
    if (size > decoder->limit - decoder->received)
        return engine_error_set(err, ENGINE_TOO_LARGE, "the body has more than %zu bytes",
                                decoder->limit);
    if (decoder->received < decoder->json_bytes) {
        size_t json = decoder->json_bytes - decoder->received;
        json = json < size ? json : size;
        decoder->received += json;
        ENGINE_TRY(api_json_envelope_feed(decoder->body.envelope, at, json, err));
        at += json;
        size -= json;
    }
    decoder->received += size;
    return size > 0 ? keep_tail(decoder, at, size, err) : ENGINE_OK;
}

void api_hint(struct engine_error *err, const char *text)
{
    size_t used = strlen(err->message);
    if (used + strlen(text) < sizeof err->message)
        memcpy(err->message + used, text, strlen(text) + 1);
}

/* Who sends so many numbers as JSON and is refused learns of the faster way. */
static enum engine_code hint(const struct api_decoder *decoder, enum engine_code code,
                             struct engine_error *err)
{
    static const char text[] = " (large tensors go faster as binary data, see "
                               "Inference-Header-Content-Length)";
    bool is_large_json = decoder->protocol == API_PROTOCOL_OIP && !decoder->body.has_tail &&
                         decoder->received > HINT_BYTES;
    if (is_large_json && (code == ENGINE_INVALID_ARGUMENT || code == ENGINE_TOO_LARGE))
        api_hint(err, text);
    return code;
}

enum engine_code api_decoder_feed(struct api_decoder *decoder, const void *bytes, size_t size,
                                  struct engine_error *err)
{
    enum engine_code code = decoder->inflate == NULL ? take(decoder, bytes, size, err)
                                                     : api_inflate_feed(decoder->inflate, bytes,
                                                                        size, take, decoder, err);
    return hint(decoder, code, err);
}

/* Says what belongs there: empty is also what curl sends of a file that is not there. */
static enum engine_code refuse_empty(const struct api_decoder *decoder, struct engine_error *err)
{
    static const char *const forms[] = {
        [API_PROTOCOL_OIP] = "JSON, as in {\"inputs\": [{\"name\": \"query\", \"shape\": [1, 1, "
                             "2], \"datatype\": \"FP32\", \"data\": [1, 2]}]}",
        [API_PROTOCOL_SAFETENSORS] =
            "a safetensors file, which curl sends with --data-binary @FILE",
        [API_PROTOCOL_TFSERVING] = "JSON, as in {\"instances\": [{\"query\": [[1, 2]]}]}"};
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "the body is empty; it must be %s",
                            forms[decoder->protocol]);
}

static enum engine_code finish(struct api_decoder *decoder, struct api_infer_request **ret,
                               struct engine_error *err)
{
    struct api_request_state *state = decoder->state;
    if (decoder->inflate != NULL)
        ENGINE_TRY(api_inflate_finish(decoder->inflate, err));
    if (decoder->body.has_tail && decoder->received < decoder->json_bytes)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Inference-Header-Content-Length is %zu, the whole body has %zu "
                                "bytes",
                                decoder->json_bytes, decoder->received);
    if (decoder->received == 0)
        return refuse_empty(decoder, err);
    switch (decoder->protocol) {
    case API_PROTOCOL_OIP:
        ENGINE_TRY(api_oip_request_read(state, &decoder->body, err));
        break;
    case API_PROTOCOL_TFSERVING:
        ENGINE_TRY(api_tfserving_request_read(state, &decoder->body, err));
        break;
    case API_PROTOCOL_SAFETENSORS:
        ENGINE_TRY(api_safetensors_message_read(state, &decoder->body, err));
        break;
    }
    ENGINE_TRY(api_parameters_settle(state, err));
    engine_buffer_give(state->engine, &decoder->body.tail);
    decoder->state = NULL;
    *ret = &state->request;
    return ENGINE_OK;
}

enum engine_code api_decoder_finish(struct api_decoder *decoder, struct api_infer_request **ret,
                                    struct engine_error *err)
{
    enum engine_code code = finish(decoder, ret, err);
    return code == ENGINE_OK ? code : hint(decoder, code, err);
}

/* ---- writing the answer ----------------------------------------------------------------- */

static void fail(struct api_writer *writer, enum engine_code code)
{
    if (writer->code == ENGINE_OK)
        writer->code = code;
}

void api_writer_text(struct api_writer *writer, const char *format, ...)
{
    va_list arguments;
    if (writer->code != ENGINE_OK)
        return;
    size_t room = writer->text.bytes - writer->used;
    va_start(arguments, format);
    int length = vsnprintf((char *)writer->text.data + writer->used, room, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= room)
        fail(writer,
             engine_error_set(writer->err, ENGINE_INTERNAL, "an answer's JSON is too long"));
    else
        writer->used += (size_t)length;
}

void api_writer_string(struct api_writer *writer, const char *text)
{
    char *dumped = engine_json_text(json_string(text), JSON_ENCODE_ANY | JSON_COMPACT);
    if (dumped == NULL)
        fail(writer,
             engine_error_set(writer->err, ENGINE_OUT_OF_MEMORY, "no memory for an answer"));
    else
        api_writer_text(writer, "%s", dumped);
    free(dumped);
}

static void add_part(struct api_writer *writer, void *bytes, size_t size)
{
    struct api_reply *reply = writer->reply;
    if (writer->code != ENGINE_OK || size == 0)
        return;
    reply->parts[reply->parts_count++] = (struct iovec){bytes, size};
    reply->bytes += size;
}

void api_writer_flush(struct api_writer *writer)
{
    add_part(writer, (char *)writer->text.data + writer->flushed, writer->used - writer->flushed);
    writer->flushed = writer->used;
}

static void own_buffer(struct api_writer *writer, struct engine_buffer *buffer)
{
    struct api_reply *reply = writer->reply;
    if (buffer->data == NULL)
        return;
    reply->buffers[reply->buffers_count++] = *buffer;
    *buffer = (struct engine_buffer){NULL, 0};
}

void api_writer_bytes(struct api_writer *writer, enum engine_output output)
{
    if (writer->code != ENGINE_OK)
        return;
    add_part(writer, writer->outputs[output].data, writer->facts->output_bytes[output]);
    own_buffer(writer, &writer->outputs[output]);
}

void api_writer_numbers(struct api_writer *writer, const struct engine_tensor *tensor,
                        const struct api_json_numbers_style *style)
{
    struct api_json_text text = {.count = 0};
    if (writer->code != ENGINE_OK)
        return;
    api_writer_flush(writer);
    fail(writer, api_json_numbers_write(writer->engine, tensor, style, &text, writer->err));
    for (int i = 0; i < text.count; i++) {
        add_part(writer, text.buffers[i].data, text.lengths[i]);
        own_buffer(writer, &text.buffers[i]);
    }
}

static void compress(struct api_writer *writer, enum api_coding coding)
{
    struct api_reply *reply = writer->reply;
    struct engine_buffer buffer = {NULL, 0};
    size_t bytes = 0;
    if (writer->code != ENGINE_OK || coding == API_CODING_IDENTITY)
        return;
    fail(writer, api_compression_deflate(writer->engine, coding, reply->parts, reply->parts_count,
                                         reply->bytes, &buffer, &bytes, writer->err));
    if (writer->code != ENGINE_OK || bytes == 0)
        return;
    for (int i = 0; i < reply->buffers_count; i++)
        engine_buffer_give(writer->engine, &reply->buffers[i]);
    reply->buffers_count = 0;
    own_buffer(writer, &buffer);
    reply->parts[0] = (struct iovec){reply->buffers[0].data, bytes};
    reply->parts_count = 1;
    reply->bytes = bytes;
    reply->content_encoding = api_compression_name(coding);
}

static void write_form(struct api_writer *writer, const struct api_request_state *state)
{
    switch (state->form) {
    case API_FORM_OIP:
        api_oip_response_write(writer, state);
        break;
    case API_FORM_TF_ROWS:
    case API_FORM_TF_COLUMNS:
        api_tfserving_response_write(writer, state);
        break;
    case API_FORM_SAFETENSORS:
        api_safetensors_message_write(writer, state);
        break;
    }
}

enum engine_code api_infer_encode(struct engine *engine, const struct api_infer_request *request,
                                  const struct engine_plan_facts *facts,
                                  struct engine_buffer outputs[ENGINE_OUTPUT_COUNT],
                                  struct api_reply *ret, struct engine_error *err)
{
    const struct api_request_state *state = request->state;
    struct api_reply reply = {
        .content_type = "application/json",
        .header_content_length = -1,
        .precision = engine_model_precision_name(state->model, facts->precision),
        .has_seed = request->call.training,
        .seed = request->call.seed,
    };
    struct api_writer writer = {
        .engine = engine, .reply = &reply, .facts = facts, .outputs = outputs, .err = err};
    size_t id_bytes = state->id != NULL ? 6 * strlen(state->id) : 0;
    writer.code = engine_buffer_take(engine, 8192 + id_bytes, &writer.text, err);
    if (writer.code == ENGINE_OK) {
        write_form(&writer, state);
        own_buffer(&writer, &writer.text);
        compress(&writer, state->coding);
    }
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        engine_buffer_give(engine, &outputs[i]);
    if (writer.code != ENGINE_OK) {
        api_reply_reset(engine, &reply);
        return writer.code;
    }
    *ret = reply;
    return ENGINE_OK;
}

void api_reply_reset(struct engine *engine, struct api_reply *reply)
{
    for (int i = 0; i < reply->buffers_count; i++)
        engine_buffer_give(engine, &reply->buffers[i]);
    memset(reply, 0, sizeof *reply);
    reply->header_content_length = -1;
}
