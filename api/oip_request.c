/* oip_request.c - an inference request of the Open Inference Protocol v2, with the binary tensor
 * extension. See protocol.h and PROTOCOL.md.
 *
 * Unknown members of the request are ignored, as clients add their own; unknown inputs, outputs
 * and contradictory sizes are not. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/protocol.h"

/* What is known of one member of "inputs". */
struct item {
    const char *name;
    size_t index;
    enum engine_input input;
    struct engine_tensor tensor;
    json_t *data;  /* NULL: none */
    bool has_size; /* binary_data_size was given */
    size_t binary_size;
};

struct reading {
    struct api_request_state *state;
    struct api_body *body;
    size_t used; /* of the tail */
};

static enum engine_code refuse(const struct item *item, const char *field, const char *rule,
                               struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "inputs[%zu].%s %s", item->index, field,
                            rule);
}

/* ---- the members of an input --------------------------------------------------------------- */

static enum engine_code read_name(const struct api_request_state *state, json_t *value,
                                  struct item *item, struct engine_error *err)
{
    const char *name = json_string_value(json_object_get(value, "name"));
    if (name == NULL)
        return refuse(item, "name", "must be a text", err);
    item->name = name;
    return api_parameters_input(state, name, &item->input, err);
}

static enum engine_code read_datatype(json_t *value, struct item *item, struct engine_error *err)
{
    const json_t *datatype = json_object_get(value, "datatype");
    const char *name = json_string_value(datatype);
    char rule[160];
    if (name != NULL && engine_tensor_dtype_from_name(name, strlen(name), &item->tensor.dtype))
        return ENGINE_OK;
    if (datatype == NULL)
        return refuse(item, "datatype",
                      "is missing; it is \"FP32\", or BOOL, [U]INT8 to [U]INT64, FP16, BF16, FP64",
                      err);
    snprintf(rule, sizeof rule,
             "is \"%.20s\", it must be BOOL, [U]INT8 to [U]INT64, FP16, BF16, FP32 or FP64",
             name != NULL ? name : "(no text)");
    return refuse(item, "datatype", rule, err);
}

static enum engine_code read_shape(json_t *value, struct item *item, struct engine_error *err)
{
    json_t *shape = json_object_get(value, "shape");
    char field[64];
    size_t count = 0;
    if (shape == NULL)
        return refuse(item, "shape", "is missing; it is a list: [batch, positions, features]", err);
    if (!json_is_array(shape) || json_array_size(shape) > API_MAX_RANK)
        return refuse(item, "shape", "must be a list of at most 16 dimensions, as in [1, 4, 384]",
                      err);
    item->tensor.rank = (int)json_array_size(shape);
    for (int i = 0; i < item->tensor.rank; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        snprintf(field, sizeof field, "shape[%d]", i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return refuse(item, field, "must be an integer of at least 0", err);
        item->tensor.shape[i] = json_integer_value(size);
    }
    if (!engine_tensor_bytes(&item->tensor, &count))
        return refuse(item, "shape", "has a product that is too large", err);
    return ENGINE_OK;
}

static enum engine_code read_parameter(struct item *item, const char *name, const json_t *value,
                                       struct engine_error *err)
{
    if (strcmp(name, "binary_data_size") == 0) {
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return refuse(item, "parameters.binary_data_size", "must be an integer of at least 0",
                          err);
        item->has_size = true;
        item->binary_size = (size_t)json_integer_value(value);
        return ENGINE_OK;
    }
    if (strncmp(name, "shared_memory", 13) == 0)
        return refuse(item, "parameters",
                      "names a shared memory region; shared memory is not served here", err);
    if (strcmp(name, "handle") == 0)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "inputs[%zu].parameters.handle is given; scores are not stored by "
                                "this server",
                                item->index);
    if (json_is_object(value) || json_is_array(value))
        return refuse(item, "parameters", "must hold texts, booleans and numbers", err);
    return ENGINE_OK;
}

static enum engine_code read_parameters(json_t *value, struct item *item, struct engine_error *err)
{
    json_t *parameters = json_object_get(value, "parameters");
    const char *name;
    json_t *member;
    if (parameters == NULL)
        return ENGINE_OK;
    if (!json_is_object(parameters) || json_object_size(parameters) > API_MAX_PARAMETERS)
        return refuse(item, "parameters", "must be an object of at most 64 members", err);
    json_object_foreach(parameters, name, member)
        ENGINE_TRY(read_parameter(item, name, member, err));
    return ENGINE_OK;
}

/* ---- its data ------------------------------------------------------------------------------ */

/* Values that were read as float64 because "datatype" came after "data", put into their type. */
static bool convert(const struct api_json_value *value, enum engine_dtype dtype)
{
    const double *from = value->buffer.data;
    char *to = value->buffer.data;
    size_t element = engine_tensor_element_bytes(dtype);
    bool is_float = engine_tensor_dtype_is_float(dtype);
    double least = dtype == ENGINE_BOOL || dtype <= ENGINE_U64 ? 0.0 : -0x1p63;
    double most = dtype == ENGINE_BOOL ? 1.0 : ldexp(1.0, 8 * (int)element);
    if (dtype >= ENGINE_I8 && dtype <= ENGINE_I64) {
        most = ldexp(1.0, 8 * (int)element - 1);
        least = -most;
    }
    for (size_t i = 0; i < value->count; i++) {
        if (is_float) {
            float narrow = (float)from[i];
            memcpy(to + i * 4, &narrow, 4);
            continue;
        }
        bool fits = from[i] >= least && (dtype == ENGINE_BOOL ? from[i] <= most : from[i] < most) &&
                    from[i] == trunc(from[i]);
        if (!fits)
            return false;
        int64_t whole = from[i] >= 0x1p63 ? (int64_t)(uint64_t)from[i] : (int64_t)from[i];
        memcpy(to + i * element, &whole, element);
    }
    return true;
}

/* Numbers are stored as wide as the scanner knew; FP16 and BF16 as float32. In place: the type
 * that is wanted is never wider. */
static enum engine_code fit_numbers(const struct item *item, struct api_json_value *value,
                                    struct engine_error *err)
{
    enum engine_dtype dtype = item->tensor.dtype;
    bool half = dtype == ENGINE_F16 || dtype == ENGINE_BF16;
    if (value->truths > 0 && dtype != ENGINE_BOOL)
        return refuse(item, "data", "holds true or false; only a BOOL tensor may", err);
    if (value->dtype == ENGINE_F64 && dtype != ENGINE_F64 && !convert(value, dtype))
        return refuse(item, "data", "holds a number that does not fit its datatype", err);
    if (half)
        engine_tensor_from_f32(dtype, value->buffer.data, value->buffer.data, value->count);
    return ENGINE_OK;
}

/* Row-major data may be flat or nested: each level's lists are as long as the product of one or
 * more consecutive dimensions. Any other nesting, a transposed one above all, is another tensor. */
static bool fits_nesting(const struct api_json_value *value, const struct engine_tensor *tensor)
{
    int d = 0;
    for (int level = 0; level < value->rank; level++) {
        int64_t product = 1;
        if (d == tensor->rank)
            return tensor->rank == 0 && value->count == 1 && value->rank == 1;
        do
            product *= tensor->shape[d++];
        while (product != value->shape[level] && d < tensor->rank);
        if (product != value->shape[level])
            return false;
    }
    while (d < tensor->rank && tensor->shape[d] == 1)
        d++;
    return d == tensor->rank;
}

static enum engine_code refuse_nesting(const struct item *item, const struct api_json_value *value,
                                       struct engine_error *err)
{
    char is[64] = "irregular", wanted[64], rule[240];
    struct engine_tensor nesting = {.rank = value->rank};
    memcpy(nesting.shape, value->shape, sizeof nesting.shape);
    if (value->regular)
        engine_tensor_shape_text(&nesting, is, sizeof is);
    snprintf(rule, sizeof rule,
             "is nested %s%s, its shape is %s: flat, or lists whose lengths are products of "
             "consecutive dimensions are expected",
             value->regular ? "as " : "", is,
             engine_tensor_shape_text(&item->tensor, wanted, sizeof wanted));
    return refuse(item, "data", rule, err);
}

static enum engine_code read_numbers(struct reading *r, struct item *item,
                                     struct api_json_value *value, struct engine_error *err)
{
    char rule[160];
    size_t count = 0;
    (void)engine_tensor_count(&item->tensor, &count);
    if (value->count != count) {
        snprintf(rule, sizeof rule, "has %zu elements, its shape tells %zu", value->count, count);
        return refuse(item, "data", rule, err);
    }
    if (count > 0 && !(value->regular && fits_nesting(value, &item->tensor)))
        return refuse_nesting(item, value, err);
    ENGINE_TRY(fit_numbers(item, value, err));
    size_t bytes = count * engine_tensor_element_bytes(item->tensor.dtype);
    ENGINE_TRY(api_state_view(r->state, &item->tensor, value->buffer.data, bytes, err));
    api_state_own(r->state, &value->buffer);
    return ENGINE_OK;
}

static enum engine_code read_base64(struct reading *r, struct item *item,
                                    struct api_json_value *value, struct engine_error *err)
{
    char rule[160];
    size_t bytes = 0;
    (void)engine_tensor_bytes(&item->tensor, &bytes);
    if (value->count != bytes) {
        snprintf(rule, sizeof rule, "has %zu bytes, its shape and datatype tell %zu", value->count,
                 bytes);
        return refuse(item, "data.b64", rule, err);
    }
    ENGINE_TRY(api_state_view(r->state, &item->tensor, value->buffer.data, bytes, err));
    api_state_own(r->state, &value->buffer);
    return ENGINE_OK;
}

static enum engine_code read_data(struct reading *r, struct item *item, struct engine_error *err)
{
    json_t *b64 = json_is_object(item->data) ? json_object_get(item->data, "b64") : NULL;
    struct api_json_value *value =
        api_json_envelope_value(r->body->envelope, b64 != NULL ? b64 : item->data);
    size_t count = 0;
    (void)engine_tensor_count(&item->tensor, &count);
    if (value == NULL && count == 0) /* data of an empty tensor are not looked at */
        return api_state_view(r->state, &item->tensor, NULL, 0, err);
    if (value == NULL || value->is_bytes != (b64 != NULL))
        return refuse(item, "data", "must be a list of numbers, or {\"b64\": \"...\"}", err);
    return b64 != NULL ? read_base64(r, item, value, err) : read_numbers(r, item, value, err);
}

static enum engine_code read_tail(struct reading *r, struct item *item, struct engine_error *err)
{
    char rule[200];
    size_t bytes = 0, left = r->body->tail_bytes - r->used;
    (void)engine_tensor_bytes(&item->tensor, &bytes);
    if (item->has_size && item->binary_size != bytes) {
        snprintf(rule, sizeof rule, "is %zu, shape and datatype tell %zu bytes", item->binary_size,
                 bytes);
        return refuse(item, "parameters.binary_data_size", rule, err);
    }
    if (bytes > left) {
        snprintf(rule, sizeof rule, "needs %zu bytes of binary data, %zu are left in the body%s",
                 bytes, left,
                 r->body->has_tail ? "; curl sends files unchanged with --data-binary, not with -d"
                                   : "; is the header Inference-Header-Content-Length missing?");
        return refuse(item, "shape", rule, err);
    }
    const char *at = (const char *)r->body->tail.data + r->used;
    r->used += bytes;
    return api_state_view(r->state, &item->tensor, at, bytes, err);
}

static enum engine_code read_item(struct reading *r, json_t *value, size_t index,
                                  struct engine_error *err)
{
    struct item item = {.index = index};
    if (!json_is_object(value))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "inputs[%zu] must be an object",
                                index);
    ENGINE_TRY(read_name(r->state, value, &item, err));
    ENGINE_TRY(read_datatype(value, &item, err));
    ENGINE_TRY(read_shape(value, &item, err));
    ENGINE_TRY(read_parameters(value, &item, err));
    item.data = json_object_get(value, "data");
    if (item.data != NULL && item.has_size)
        return refuse(&item, "data", "and parameters.binary_data_size are both given", err);
    if (item.data == NULL && !item.has_size && !r->body->has_tail)
        return refuse(&item, "data", "is missing, and so is parameters.binary_data_size", err);
    if (item.data != NULL)
        ENGINE_TRY(read_data(r, &item, err));
    else
        ENGINE_TRY(read_tail(r, &item, err));
    r->state->request.call.inputs[item.input] = item.tensor;
    return ENGINE_OK;
}

/* What is sent in place of "inputs" tells what was meant. */
static enum engine_code refuse_inputs(const struct api_request_state *state, json_t *root,
                                      struct engine_error *err)
{
    static const char form[] = "{\"inputs\": [{\"name\": \"query\", \"shape\": [1, 1, 2], "
                               "\"datatype\": \"FP32\", \"data\": [1, 2]}]}";
    if (json_object_get(root, "instances") != NULL ||
        json_is_object(json_object_get(root, "inputs")))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "inputs must be a list of tensors, as in %s; instances, and inputs "
                                "by name, go to /v1/models/%.40s:predict",
                                form, state->model_name);
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "inputs is missing; it is a list of tensors, as in %s", form);
}

static enum engine_code read_inputs(struct reading *r, json_t *root, struct engine_error *err)
{
    json_t *inputs = json_object_get(root, "inputs");
    if (inputs == NULL || json_is_object(inputs))
        return refuse_inputs(r->state, root, err);
    if (!json_is_array(inputs) || json_array_size(inputs) > API_MAX_INPUTS)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "inputs must be a list of at most %d tensors", API_MAX_INPUTS);
    for (size_t i = 0; i < json_array_size(inputs); i++)
        ENGINE_TRY(read_item(r, json_array_get(inputs, i), i, err));
    if (r->used != r->body->tail_bytes)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "%zu bytes of binary data are left over after the inputs",
                                r->body->tail_bytes - r->used);
    return ENGINE_OK;
}

/* ---- outputs ------------------------------------------------------------------------------- */

static enum engine_code read_output(struct api_request_state *state, json_t *value, size_t index,
                                    struct engine_error *err)
{
    const char *wanted = json_string_value(json_object_get(value, "name")), *name;
    json_t *parameters = json_object_get(value, "parameters"), *member;
    enum engine_output output = ENGINE_ATTENTION_OUTPUT;
    if (wanted == NULL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "outputs[%zu].name must be a text",
                                index);
    ENGINE_TRY(api_parameters_want(state, wanted, &output, err));
    state->binary[output] = state->binary_default;
    if (parameters == NULL)
        return ENGINE_OK;
    if (!json_is_object(parameters) || json_object_size(parameters) > API_MAX_PARAMETERS)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "outputs[%zu].parameters must be an object of at most %d members",
                                index, API_MAX_PARAMETERS);
    json_object_foreach(parameters, name, member)
        ENGINE_TRY(api_parameters_output(state, output, name, member, err));
    return ENGINE_OK;
}

static enum engine_code read_outputs(struct api_request_state *state, json_t *root,
                                     struct engine_error *err)
{
    json_t *outputs = json_object_get(root, "outputs");
    if (outputs == NULL)
        return ENGINE_OK;
    if (!json_is_array(outputs) || json_array_size(outputs) > API_MAX_OUTPUTS)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "outputs must be a list of at most %d outputs", API_MAX_OUTPUTS);
    state->outputs_listed = json_array_size(outputs) > 0;
    for (size_t i = 0; i < json_array_size(outputs); i++)
        ENGINE_TRY(read_output(state, json_array_get(outputs, i), i, err));
    return ENGINE_OK;
}

static enum engine_code read_id(struct api_request_state *state, json_t *root,
                                struct engine_error *err)
{
    json_t *id = json_object_get(root, "id");
    if (id == NULL)
        return ENGINE_OK;
    if (!json_is_string(id) || json_string_length(id) > API_MAX_ID_BYTES)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "id must be a text of at most %d bytes", API_MAX_ID_BYTES);
    state->id = strdup(json_string_value(id));
    if (state->id == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a request");
    return ENGINE_OK;
}

static enum engine_code read_root(struct reading *r, json_t *root, struct engine_error *err)
{
    if (!json_is_object(root))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "the body must be a JSON object with inputs");
    ENGINE_TRY(read_id(r->state, root, err));
    ENGINE_TRY(api_parameters_request_all(r->state, json_object_get(root, "parameters"), err));
    ENGINE_TRY(read_outputs(r->state, root, err));
    return read_inputs(r, root, err);
}

enum engine_code api_oip_request_read(struct api_request_state *state, struct api_body *body,
                                      struct engine_error *err)
{
    struct reading reading = {.state = state, .body = body};
    json_t *root = NULL;
    enum engine_code code = api_json_envelope_finish(body->envelope, &root, err);
    if (code != ENGINE_OK && body->has_tail)
        api_hint(err, "; is Inference-Header-Content-Length right?");
    ENGINE_TRY(code);
    code = read_root(&reading, root, err);
    api_state_own(state, &body->tail);
    json_decref(root);
    return code;
}
