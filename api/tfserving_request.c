/* tfserving_request.c - TensorFlow Serving's and KServe v1's predict requests. See protocol.h.
 *
 *     {"signature_name": S, "instances": [row, ...]}    rows: values of query, or objects
 *     {"signature_name": S, "inputs": value | {name: value, ...}}
 *
 * Shapes follow from the nesting, which must be regular. Numbers are float32; true and false are
 * 1 and 0. Signatures: serving_default (attention_output), with_scores (both outputs). */
#include <string.h>

#include "api/protocol.h"

static enum engine_code shape_of(const struct api_json_value *value, const char *name,
                                 struct engine_tensor *ret, struct engine_error *err)
{
    size_t count = 0;
    *ret = (struct engine_tensor){.dtype = value->dtype, .rank = value->rank};
    memcpy(ret->shape, value->shape, (size_t)value->rank * sizeof ret->shape[0]);
    /* All later readers go by the shape: it must not tell more than the buffer holds. */
    if (value->regular && !value->is_bytes && engine_tensor_count(ret, &count) &&
        count == value->count)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "%s is nested irregularly: lists of one level must be equally long",
                            name);
}

/* A whole tensor from one array. */
static enum engine_code take_value(struct api_request_state *state, struct api_body *body,
                                   const char *name, const json_t *placeholder,
                                   struct engine_error *err)
{
    struct api_json_value *value = api_json_envelope_value(body->envelope, placeholder);
    enum engine_input input;
    struct engine_tensor tensor;
    size_t bytes = 0;
    if (value == NULL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "%.64s must be a list of numbers",
                                name);
    ENGINE_TRY(api_parameters_input(state, name, &input, err));
    ENGINE_TRY(shape_of(value, name, &tensor, err));
    (void)engine_tensor_bytes(&tensor, &bytes);
    ENGINE_TRY(api_state_view(state, &tensor, value->buffer.data, bytes, err));
    api_state_own(state, &value->buffer);
    state->request.call.inputs[input] = tensor;
    return ENGINE_OK;
}

/* ---- columns ------------------------------------------------------------------------------- */

static bool is_input(const char *name)
{
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++)
        if (strcmp(name, engine_input_name((enum engine_input)i)) == 0)
            return true;
    return false;
}

/* Names that are no input are ignored, as TensorFlow Serving does. */
static enum engine_code read_columns(struct api_request_state *state, struct api_body *body,
                                     json_t *inputs, struct engine_error *err)
{
    const char *name;
    json_t *value;
    state->form = API_FORM_TF_COLUMNS;
    if (!json_is_object(inputs))
        return take_value(state, body, "query", inputs, err);
    json_object_foreach(inputs, name, value) if (is_input(name))
        ENGINE_TRY(take_value(state, body, name, value, err));
    return ENGINE_OK;
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* Puts row "index" of an input behind the rows before it. */
static enum engine_code add_row(struct api_request_state *state, struct engine_tensor *all,
                                const struct api_json_value *value, size_t index, size_t rows,
                                const char *name, struct engine_error *err)
{
    struct engine_tensor row, expected;
    size_t bytes = 0, total = 0;
    ENGINE_TRY(shape_of(value, name, &row, err));
    (void)engine_tensor_bytes(&row, &bytes);
    if (index == 0) {
        struct engine_buffer buffer;
        if (row.rank == API_MAX_RANK || !engine_tensor_mul(bytes, rows, &total))
            return engine_error_set(err, ENGINE_TOO_LARGE, "%s has too many dimensions", name);
        *all = (struct engine_tensor){.dtype = row.dtype, .rank = row.rank + 1};
        all->shape[0] = (int64_t)rows;
        memcpy(all->shape + 1, row.shape, (size_t)row.rank * sizeof row.shape[0]);
        ENGINE_TRY(engine_buffer_take(state->engine, total + 1, &buffer, err));
        all->data = buffer.data;
        api_state_own(state, &buffer);
    }
    expected = (struct engine_tensor){.dtype = all->dtype, .rank = all->rank - 1};
    memcpy(expected.shape, all->shape + 1, (size_t)expected.rank * sizeof expected.shape[0]);
    if (!engine_tensor_same_shape(&row, &expected))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "instances[%zu].%s has another shape than the rows before it",
                                index, name);
    if (bytes > 0)
        memcpy((char *)all->data + index * bytes, value->buffer.data, bytes);
    return ENGINE_OK;
}

static enum engine_code read_row(struct api_request_state *state, struct api_body *body,
                                 json_t *row, size_t index, size_t rows,
                                 struct engine_tensor *inputs, struct engine_error *err)
{
    const char *name;
    json_t *placeholder;
    size_t given = 0, first = 0;
    if (!json_is_object(row))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "instances[%zu] must be an object of inputs, as the first is",
                                index);
    json_object_foreach(row, name, placeholder)
    {
        const struct api_json_value *value = api_json_envelope_value(body->envelope, placeholder);
        enum engine_input input;
        ENGINE_TRY(api_parameters_input(state, name, &input, err));
        if (value == NULL)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "instances[%zu].%s must be a list of numbers", index, name);
        if (index > 0 && inputs[input].data == NULL)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "instances[%zu].%s is not in the rows before it", index, name);
        ENGINE_TRY(add_row(state, &inputs[input], value, index, rows, name, err));
        given++;
    }
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++)
        first += inputs[i].data != NULL ? 1 : 0;
    if (given != first)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "instances[%zu] has fewer inputs than the rows before it", index);
    return ENGINE_OK;
}

static enum engine_code read_rows(struct api_request_state *state, struct api_body *body,
                                  json_t *instances, struct engine_error *err)
{
    struct engine_tensor inputs[ENGINE_INPUT_COUNT] = {0};
    size_t rows = json_array_size(instances);
    state->form = API_FORM_TF_ROWS;
    if (api_json_envelope_value(body->envelope, instances) != NULL)
        return take_value(state, body, "query", instances, err);
    if (!json_is_array(instances) || rows == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "instances must be a list of at least one row");
    for (size_t i = 0; i < rows; i++)
        ENGINE_TRY(read_row(state, body, json_array_get(instances, i), i, rows, inputs, err));
    memcpy(state->request.call.inputs, inputs, sizeof inputs);
    return ENGINE_OK;
}

/* ---- the request --------------------------------------------------------------------------- */

static enum engine_code read_signature(struct api_request_state *state, json_t *root,
                                       struct engine_error *err)
{
    json_t *value = json_object_get(root, "signature_name");
    const char *name = value == NULL ? "serving_default" : json_string_value(value);
    bool with_scores = name != NULL && strcmp(name, "with_scores") == 0;
    if (name == NULL || (!with_scores && strcmp(name, "serving_default") != 0))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Serving signature name: \"%.64s\" not found in signature def; "
                                "there are serving_default and with_scores",
                                name != NULL ? name : "(no text)");
    state->outputs_listed = true;
    state->request.call.wanted[ENGINE_ATTENTION_OUTPUT] = true;
    state->request.call.wanted[ENGINE_ATTENTION_SCORES] = with_scores;
    return ENGINE_OK;
}

static enum engine_code read_root(struct api_request_state *state, struct api_body *body,
                                  json_t *root, struct engine_error *err)
{
    json_t *instances = json_object_get(root, "instances");
    json_t *inputs = json_object_get(root, "inputs");
    if (!json_is_object(root))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "the body must be a JSON object with instances or inputs");
    if ((instances == NULL) == (inputs == NULL))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "the body must have either instances or inputs");
    ENGINE_TRY(read_signature(state, root, err));
    ENGINE_TRY(api_parameters_request_all(state, json_object_get(root, "parameters"), err));
    if (instances != NULL)
        return read_rows(state, body, instances, err);
    return read_columns(state, body, inputs, err);
}

enum engine_code api_tfserving_request_read(struct api_request_state *state, struct api_body *body,
                                            struct engine_error *err)
{
    json_t *root = NULL;
    ENGINE_TRY(api_json_envelope_finish(body->envelope, &root, err));
    enum engine_code code = read_root(state, body, root, err);
    json_decref(root);
    return code;
}
