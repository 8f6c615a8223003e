/* safetensors_message.c - requests and answers as safetensors files. See protocol.h.
 *
 * Tensors stand under the names of inputs and outputs; request parameters are texts in
 * __metadata__, and so are id, outputs ("attention_output,attention_scores") and the parameters
 * of outputs (heads, query_rows, top_k, and datatype for all of them). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/protocol.h"
#include "engine/formats/safetensors.h"

/* ---- requests ------------------------------------------------------------------------------ */

static const char *const request_names[] = {"timeout",   "priority",  "training",
                                            "seed",      "precision", "return_attention_scores",
                                            "non_finite"};
static const char *const score_names[] = {"heads", "query_rows", "top_k"};

static enum engine_code read_text(struct api_request_state *state, const char *name,
                                  const char *text, int output, struct engine_error *err)
{
    json_t *value = json_string(text); /* it was parsed: it is UTF-8 */
    if (value == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for parameter %s", name);
    enum engine_code code =
        output < 0 ? api_parameters_request(state, name, value, err)
                   : api_parameters_output(state, (enum engine_output)output, name, value, err);
    json_decref(value);
    return code;
}

static enum engine_code read_outputs(struct api_request_state *state, const char *text,
                                     struct engine_error *err)
{
    char name[64];
    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        enum engine_output output;
        if (length >= sizeof name)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "__metadata__ outputs must be output names, by commas");
        memcpy(name, text, length);
        name[length] = '\0';
        ENGINE_TRY(api_parameters_want(state, name, &output, err));
        state->outputs_listed = true;
        text += length + (text[length] == ',' ? 1 : 0);
    }
    return ENGINE_OK;
}

static enum engine_code read_datatype(struct api_request_state *state, const char *text,
                                      struct engine_error *err)
{
    ENGINE_TRY(read_text(state, "datatype", text, ENGINE_ATTENTION_OUTPUT, err));
    return read_text(state, "datatype", text, ENGINE_ATTENTION_SCORES, err);
}

static enum engine_code read_metadata(struct api_request_state *state,
                                      const struct engine_safetensors *file,
                                      struct engine_error *err)
{
    const char *text;
    for (size_t i = 0; i < sizeof request_names / sizeof request_names[0]; i++)
        if ((text = engine_safetensors_metadata(file, request_names[i])) != NULL)
            ENGINE_TRY(read_text(state, request_names[i], text, -1, err));
    for (size_t i = 0; i < sizeof score_names / sizeof score_names[0]; i++)
        if ((text = engine_safetensors_metadata(file, score_names[i])) != NULL)
            ENGINE_TRY(read_text(state, score_names[i], text, ENGINE_ATTENTION_SCORES, err));
    if ((text = engine_safetensors_metadata(file, "datatype")) != NULL)
        ENGINE_TRY(read_datatype(state, text, err));
    if ((text = engine_safetensors_metadata(file, "outputs")) != NULL)
        ENGINE_TRY(read_outputs(state, text, err));
    text = engine_safetensors_metadata(file, "id");
    if (text == NULL)
        return ENGINE_OK;
    if (strlen(text) > API_MAX_ID_BYTES)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "__metadata__ id must have at most %d bytes", API_MAX_ID_BYTES);
    state->id = strdup(text);
    return state->id != NULL ? ENGINE_OK
                             : engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for an id");
}

static enum engine_code read_tensors(struct api_request_state *state,
                                     const struct engine_safetensors *file,
                                     struct engine_error *err)
{
    const struct engine_named_tensor *tensors = engine_safetensors_tensors(file);
    for (size_t i = 0; i < engine_safetensors_count(file); i++) {
        struct engine_tensor tensor = tensors[i].tensor;
        enum engine_input input;
        size_t bytes = 0;
        ENGINE_TRY(api_parameters_input(state, tensors[i].name, &input, err));
        if (tensors[i].foreign != NULL)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "input %.80s has the type %s, which is not read",
                                    tensors[i].name, tensors[i].foreign);
        (void)engine_tensor_bytes(&tensor, &bytes);
        ENGINE_TRY(api_state_view(state, &tensor, tensor.data, bytes, err));
        state->request.call.inputs[input] = tensor;
    }
    return ENGINE_OK;
}

/* What may have happened to a body that is no safetensors file. */
static void hint_origin(const struct api_body *body, struct engine_error *err)
{
    const char *bytes = body->tail.data;
    size_t size = body->tail_bytes;
    if (size > 1 && bytes[0] == '{' && strchr("\" \t\r\n", bytes[1]) != NULL && bytes[1] != '\0')
        api_hint(err, "; a JSON body needs Content-Type: application/json");
    else if (size > 0 && memchr(bytes, '\n', size) == NULL && memchr(bytes, '\r', size) == NULL)
        api_hint(err, "; if curl sent it: --data-binary keeps a file as it is, -d drops line ends");
}

enum engine_code api_safetensors_message_read(struct api_request_state *state,
                                              struct api_body *body, struct engine_error *err)
{
    struct engine_safetensors *file = NULL;
    enum engine_code code = engine_safetensors_parse(body->tail.data, body->tail_bytes, &file, err);
    if (code != ENGINE_OK)
        hint_origin(body, err);
    ENGINE_TRY(code);
    code = read_metadata(state, file, err);
    if (code == ENGINE_OK)
        code = read_tensors(state, file, err);
    engine_safetensors_destroy(file);
    api_state_own(state, &body->tail);
    return code;
}

/* ---- answers ------------------------------------------------------------------------------- */

void api_safetensors_message_write(struct api_writer *writer, const struct api_request_state *state)
{
    struct engine_named_tensor tensors[ENGINE_OUTPUT_COUNT];
    enum engine_output order[ENGINE_OUTPUT_COUNT];
    char seed[24];
    const char *metadata[11] = {"model_name",         state->model_name, "model_version",
                                state->model_version, "precision",       writer->reply->precision};
    int pairs = 3;
    size_t count = 0, size = 0;
    char *header = NULL;
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)writer->reply->seed);
    if (writer->reply->has_seed) {
        metadata[2 * pairs] = "seed";
        metadata[2 * pairs++ + 1] = seed;
    }
    if (state->id != NULL) {
        metadata[2 * pairs] = "id";
        metadata[2 * pairs++ + 1] = state->id;
    }
    /* By descending element size, so that every tensor lies at a multiple of it. */
    for (size_t element = 8; element >= 2; element /= 2)
        for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
            const struct engine_tensor *tensor = &writer->facts->outputs[i];
            if (!state->request.call.wanted[i] ||
                engine_tensor_element_bytes(tensor->dtype) != element)
                continue;
            order[count] = (enum engine_output)i;
            tensors[count++] = (struct engine_named_tensor){
                .name = engine_output_name((enum engine_output)i), .tensor = *tensor};
        }
    if (writer->code == ENGINE_OK)
        writer->code =
            engine_safetensors_header(tensors, count, metadata, &header, &size, writer->err);
    if (writer->code == ENGINE_OK && size > writer->text.bytes)
        writer->code =
            engine_error_set(writer->err, ENGINE_INTERNAL, "an answer's header is too long");
    if (writer->code == ENGINE_OK) {
        memcpy(writer->text.data, header, size);
        writer->used = size;
    }
    free(header);
    api_writer_flush(writer);
    for (size_t i = 0; i < count; i++)
        api_writer_bytes(writer, order[i]);
    writer->reply->content_type = "application/safetensors";
}
