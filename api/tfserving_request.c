/* tfserving_request.c - TensorFlow Serving's and KServe v1's predict requests. See protocol.h.
 *
 *     {"signature_name": S, "instances": [row, ...]}    rows: values of query, or objects
 *     {"signature_name": S, "inputs": value | {name: value, ...}}
 *
 * Shapes follow from the nesting, which must be regular. Numbers are float32, float64 for a model
 * of that policy; a mask may be true and false throughout. Signatures: serving_default
 * (attention_output), with_scores (both outputs). */
#include <string.h>

#include "api/protocol.h"

/* A mask may be all true and false. */
static enum engine_code check_truths(const struct api_json_value *value, const char *name,
                                     struct engine_error *err)
{
    if (value->truths == 0)
        return ENGINE_OK;
    if (value->truths != value->count)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "%s holds true or false among its numbers; it must be one or the "
                                "other throughout",
                                name);
    if (strcmp(name, engine_input_name(ENGINE_ATTENTION_MASK)) == 0)
        return ENGINE_OK;
    return engine_error_set(
        err, ENGINE_INVALID_ARGUMENT,
        "%s holds true and false; it must hold numbers, only attention_mask may "
        "be true and false",
        name);
}

static enum engine_code shape_of(const struct api_json_value *value, const char *name,
                                 struct engine_tensor *ret, struct engine_error *err)
{
    size_t count = 0;
    ENGINE_TRY(check_truths(value, name, err));
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

/* Rows are objects of inputs: all of the same inputs, all of the same shapes. */
struct rows {
    json_t *list;
    size_t count;
    struct engine_tensor inputs[ENGINE_INPUT_COUNT]; /* rank 0: not in the rows */
};

/* The first row decides what the others must be. */
static enum engine_code check_member(struct rows *rows, size_t index, const char *name,
                                     enum engine_input input, const struct engine_tensor *row,
                                     struct engine_error *err)
{
    struct engine_tensor *all = &rows->inputs[input], expected = {.dtype = row->dtype};
    if (index == 0) {
        if (row->rank == API_MAX_RANK)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "instances[0].%s has %d dimensions, at most %d are served",
                                    name, row->rank, API_MAX_RANK - 1);
        *all = (struct engine_tensor){.dtype = row->dtype, .rank = row->rank + 1};
        all->shape[0] = (int64_t)rows->count;
        memcpy(all->shape + 1, row->shape, (size_t)row->rank * sizeof row->shape[0]);
        return ENGINE_OK;
    }
    if (all->rank == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "instances[%zu].%s is not in the rows before it", index, name);
    expected.rank = all->rank - 1;
    memcpy(expected.shape, all->shape + 1, (size_t)expected.rank * sizeof expected.shape[0]);
    if (!engine_tensor_same_shape(row, &expected))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "instances[%zu].%s has another shape than the rows before it",
                                index, name);
    return ENGINE_OK;
}

static enum engine_code check_row(const struct api_request_state *state, struct api_body *body,
                                  struct rows *rows, size_t index, struct engine_error *err)
{
    const char *name;
    json_t *row = json_array_get(rows->list, index), *placeholder;
    size_t wanted = 0;
    if (!json_is_object(row))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "instances[%zu] must be an object of inputs, as the first is",
                                index);
    json_object_foreach(row, name, placeholder)
    {
        const struct api_json_value *value = api_json_envelope_value(body->envelope, placeholder);
        enum engine_input input;
        struct engine_tensor tensor;
        ENGINE_TRY(api_parameters_input(state, name, &input, err));
        if (value == NULL)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "instances[%zu].%s must be a list of numbers", index, name);
        ENGINE_TRY(shape_of(value, name, &tensor, err));
        ENGINE_TRY(check_member(rows, index, name, input, &tensor, err));
    }
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++)
        wanted += rows->inputs[i].rank > 0 ? 1 : 0;
    if (json_object_size(row) != wanted)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "instances[%zu] has fewer inputs than the rows before it", index);
    return ENGINE_OK;
}

static struct api_json_value *row_value(struct api_body *body, const struct rows *rows,
                                        size_t index, const char *name)
{
    const json_t *row = json_array_get(rows->list, index);
    return api_json_envelope_value(body->envelope, json_object_get(row, name));
}

/* Lays the rows of one input behind each other; each row's own buffer goes back. */
static enum engine_code join(struct api_request_state *state, struct api_body *body,
                             const struct rows *rows, const char *name, size_t bytes,
                             struct engine_buffer *ret, struct engine_error *err)
{
    size_t room = api_json_envelope_room(body->envelope), row_bytes = bytes / rows->count;
    if (bytes > room)
        return engine_error_set(err, ENGINE_TOO_LARGE,
                                "the rows of %s need more memory than the %zu bytes left to this "
                                "body; the columnar form, inputs, needs half of it",
                                name, room);
    ENGINE_TRY(engine_buffer_take(state->engine, bytes, ret, err));
    for (size_t i = 0; i < rows->count && bytes > 0; i++) {
        struct api_json_value *value = row_value(body, rows, i, name);
        memcpy((char *)ret->data + i * row_bytes, value->buffer.data, row_bytes);
        engine_buffer_give(state->engine, &value->buffer);
    }
    return ENGINE_OK;
}

static enum engine_code take_rows(struct api_request_state *state, struct api_body *body,
                                  const struct rows *rows, int input, struct engine_error *err)
{
    const char *name = engine_input_name((enum engine_input)input);
    struct engine_tensor *tensor = &state->request.call.inputs[input];
    struct engine_buffer joined, *buffer = &joined;
    size_t bytes = 0;
    *tensor = rows->inputs[input];
    if (!engine_tensor_bytes(tensor, &bytes))
        return engine_error_set(err, ENGINE_TOO_LARGE, "the rows of %s are too large", name);
    if (rows->count == 1)
        buffer = &row_value(body, rows, 0, name)->buffer;
    else
        ENGINE_TRY(join(state, body, rows, name, bytes, &joined, err));
    enum engine_code code = api_state_view(state, tensor, buffer->data, bytes, err);
    api_state_own(state, buffer);
    return code;
}

static enum engine_code read_rows(struct api_request_state *state, struct api_body *body,
                                  json_t *instances, struct engine_error *err)
{
    struct rows rows = {.list = instances, .count = json_array_size(instances)};
    state->form = API_FORM_TF_ROWS;
    if (api_json_envelope_value(body->envelope, instances) != NULL)
        return take_value(state, body, "query", instances, err);
    if (!json_is_array(instances) || rows.count == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "instances must be a list of at least one row");
    for (size_t i = 0; i < rows.count; i++)
        ENGINE_TRY(check_row(state, body, &rows, i, err));
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++)
        if (rows.inputs[i].rank > 0)
            ENGINE_TRY(take_rows(state, body, &rows, i, err));
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
                                "the body must have either instances or inputs, as in "
                                "{\"instances\": [{\"query\": [[1, 2]]}]}");
    if (json_is_array(inputs))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "inputs must be values, or an object of them by name; tensors with "
                                "name, datatype and shape go to /v2/models/%.60s/infer",
                                state->model_name);
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
