/* parameters.c - request and output parameters, the same in every protocol. See protocol.h.
 *
 * Text from safetensors metadata ("true", "17") counts as the value it spells. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/protocol.h"
#include "engine/formats/json.h"

/* ---- values ----------------------------------------------------------------------------- */

/* What the value is, as JSON if it is plain. Where there is no memory for that, the rule has to do.
 */
static enum engine_code refuse(const char *name, const json_t *value, const char *rule,
                               struct engine_error *err)
{
    bool is_plain = !json_is_object(value) && !json_is_array(value);
    char *text =
        is_plain ? engine_json_text(json_incref((json_t *)value), JSON_COMPACT | JSON_ENCODE_ANY)
                 : NULL;
    const char *is = text != NULL            ? text
                     : json_is_object(value) ? "an object"
                     : json_is_array(value)  ? "a list"
                                             : "unfit";
    (void)engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                           "parameter %.64s is %.40s%s, it must be %s", name, is,
                           strlen(is) > 40 ? "..." : "", rule);
    free(text);
    return ENGINE_INVALID_ARGUMENT;
}

static enum engine_code read_bool(const char *name, const json_t *value, bool *ret,
                                  struct engine_error *err)
{
    const char *text = json_string_value(value);
    if (json_is_boolean(value))
        *ret = json_is_true(value);
    else if (text != NULL && (strcmp(text, "true") == 0 || strcmp(text, "false") == 0))
        *ret = text[0] == 't';
    else
        return refuse(name, value, "true or false", err);
    return ENGINE_OK;
}

static enum engine_code read_count(const char *name, const json_t *value, uint64_t *ret,
                                   struct engine_error *err)
{
    const char *text = json_string_value(value);
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        *ret = (uint64_t)json_integer_value(value);
        return ENGINE_OK;
    }
    if (text != NULL && text[0] >= '0' && text[0] <= '9') {
        char *end = NULL;
        errno = 0;
        *ret = strtoull(text, &end, 10);
        if (errno == 0 && *end == '\0')
            return ENGINE_OK;
    }
    return refuse(name, value, "an integer of at least 0", err);
}

/* "0,3-5", or one integer. */
static enum engine_code read_selection(const char *name, const json_t *value,
                                       struct engine_selection *ret, struct engine_error *err)
{
    static const char rule[] = "indices and ranges as in \"0,3-5\", at most 65536 of them";
    const char *at = json_string_value(value);
    int64_t *indices = malloc(API_MAX_SELECTION * sizeof *indices);
    size_t count = 0;
    if (indices == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for parameter %s", name);
    if (json_is_integer(value) && json_integer_value(value) >= 0)
        indices[count++] = json_integer_value(value);
    while (at != NULL && *at >= '0' && *at <= '9') {
        char *end = NULL;
        errno = 0;
        long long first = strtoll(at, &end, 10), last = first;
        if (*end == '-' && end[1] >= '0' && end[1] <= '9')
            last = strtoll(end + 1, &end, 10);
        if (errno != 0 || last < first || last - first >= API_MAX_SELECTION - (long long)count)
            break;
        for (; first <= last; first++)
            indices[count++] = first;
        at = end;
        if (*end != ',' || end[1] < '0' || end[1] > '9')
            break; /* the end, or what is no list */
        at++;
    }
    if (count == 0 || (at != NULL && *at != '\0') || ret->indices != NULL) {
        free(indices);
        return refuse(name, value, rule, err);
    }
    ret->indices = indices;
    ret->count = count;
    return ENGINE_OK;
}

static enum engine_code read_dtype(const char *name, const json_t *value, enum engine_dtype *ret,
                                   struct engine_error *err)
{
    const char *text = json_string_value(value);
    if (text == NULL || !engine_tensor_dtype_from_name(text, strlen(text), ret) ||
        !engine_tensor_dtype_is_float(*ret))
        return refuse(name, value, "FP32, FP16, BF16 or FP64", err);
    return ENGINE_OK;
}

static enum engine_code refuse_elsewhere(const char *name, struct engine_error *err)
{
    if (strncmp(name, "shared_memory", 13) == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameter %.64s is given; shared memory is not served here", name);
    if (strcmp(name, "classification") == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameter classification is given; these outputs are no classes");
    if (strcmp(name, "store") == 0 || strcmp(name, "handle") == 0)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "parameter %.64s is given; scores are not stored by this server",
                                name);
    return ENGINE_OK;
}

/* Parameters of other servers and of the client's own are accepted, if they are plain. The
 * sequence extension's are among them: a layer keeps nothing between calls, so a call that is part
 * of a sequence is a call like any other. */
static enum engine_code check_custom(const char *name, const json_t *value,
                                     struct engine_error *err)
{
    if (strncmp(name, "triton_", 7) == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameter %.64s begins with triton_, which is reserved", name);
    ENGINE_TRY(refuse_elsewhere(name, err));
    if (json_is_object(value) || json_is_array(value))
        return refuse(name, value, "a string, a boolean or a number", err);
    return ENGINE_OK;
}

/* ---- of a request ----------------------------------------------------------------------- */

static enum engine_code read_precision(const json_t *value, enum engine_precision *ret,
                                       struct engine_error *err)
{
    const char *text = json_string_value(value);
    if (text == NULL || !engine_precision_from_name(text, ret))
        return refuse("precision", value, "f32, x3 or bf16", err);
    return ENGINE_OK;
}

static enum engine_code read_non_finite(const json_t *value, enum api_non_finite *ret,
                                        struct engine_error *err)
{
    static const char *const names[] = {[API_NON_FINITE_LITERAL] = "literal",
                                        [API_NON_FINITE_NULL] = "null",
                                        [API_NON_FINITE_STRING] = "string"};
    const char *text = json_string_value(value);
    for (int i = 0; i < 3; i++)
        if (text != NULL && strcmp(text, names[i]) == 0) {
            *ret = (enum api_non_finite)i;
            return ENGINE_OK;
        }
    return refuse("non_finite", value, "literal, null or string", err);
}

static enum engine_code read_seed(struct api_request_state *state, const json_t *value,
                                  struct engine_error *err)
{
    state->has_seed = true;
    return read_count("seed", value, &state->request.call.seed, err);
}

enum engine_code api_parameters_request(struct api_request_state *state, const char *name,
                                        const json_t *value, struct engine_error *err)
{
    struct api_infer_request *request = &state->request;
    uint64_t count = 0;
    if (strcmp(name, "timeout") == 0)
        return read_count(name, value, &request->timeout_us, err);
    if (strcmp(name, "priority") == 0) {
        ENGINE_TRY(read_count(name, value, &count, err));
        request->priority = count > 1000000 ? 1000000 : (int)count;
        return ENGINE_OK;
    }
    if (strcmp(name, "binary_data_output") == 0)
        return read_bool(name, value, &state->binary_default, err);
    if (strcmp(name, "training") == 0)
        return read_bool(name, value, &request->call.training, err);
    if (strcmp(name, "seed") == 0)
        return read_seed(state, value, err);
    if (strcmp(name, "non_finite") == 0)
        return read_non_finite(value, &state->non_finite, err);
    if (strcmp(name, "precision") == 0)
        return read_precision(value, &request->call.precision, err);
    if (strcmp(name, "return_attention_scores") == 0) {
        state->has_scores_parameter = true;
        return read_bool(name, value, &state->scores_parameter, err);
    }
    return check_custom(name, value, err);
}

enum engine_code api_parameters_request_all(struct api_request_state *state, json_t *parameters,
                                            struct engine_error *err)
{
    const char *name;
    json_t *value;
    if (parameters == NULL)
        return ENGINE_OK;
    if (!json_is_object(parameters) || json_object_size(parameters) > API_MAX_PARAMETERS)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameters must be an object of at most %d members",
                                API_MAX_PARAMETERS);
    json_object_foreach(parameters, name, value)
        ENGINE_TRY(api_parameters_request(state, name, value, err));
    return ENGINE_OK;
}

/* ---- of an output ----------------------------------------------------------------------- */

/* The plan knows the number of keys and says the same of one that is larger. */
static enum engine_code read_top_k(const json_t *value, int64_t *ret, struct engine_error *err)
{
    static const char rule[] = "an integer from 1 to the number of keys";
    struct engine_error cause = {0};
    uint64_t count = 0;
    if (read_count("top_k", value, &count, &cause) != ENGINE_OK || count < 1)
        return refuse("top_k", value, rule, err);
    *ret = count < INT64_MAX ? (int64_t)count : INT64_MAX;
    return ENGINE_OK;
}

enum engine_code api_parameters_output(struct api_request_state *state, enum engine_output output,
                                       const char *name, const json_t *value,
                                       struct engine_error *err)
{
    struct engine_call *call = &state->request.call;
    bool selects =
        strcmp(name, "heads") == 0 || strcmp(name, "query_rows") == 0 || strcmp(name, "top_k") == 0;
    if (strcmp(name, "binary_data") == 0)
        return read_bool(name, value, &state->binary[output], err);
    if (strcmp(name, "datatype") == 0 && output != ENGINE_ATTENTION_SCORES_INDICES)
        return read_dtype(name, value, &call->dtype[output], err);
    if (!selects)
        return check_custom(name, value, err);
    if (output != ENGINE_ATTENTION_SCORES)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameter %s belongs to output attention_scores, not to %s", name,
                                engine_output_name(output));
    if (strcmp(name, "heads") == 0)
        return read_selection(name, value, &call->heads, err);
    if (strcmp(name, "query_rows") == 0)
        return read_selection(name, value, &call->query_rows, err);
    return read_top_k(value, &call->top_k, err);
}

enum engine_code api_parameters_want(struct api_request_state *state, const char *name,
                                     enum engine_output *ret, struct engine_error *err)
{
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        enum engine_output output = (enum engine_output)i;
        if (strcmp(name, engine_output_name(output)) != 0)
            continue;
        if (state->request.call.wanted[i])
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "output %s is asked for twice",
                                    name);
        state->request.call.wanted[i] = true;
        *ret = output;
        return ENGINE_OK;
    }
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "output %.64s does not exist; there are attention_output and "
                            "attention_scores",
                            name);
}

/* Below 2^53, so that a client whose numbers are all double can send it back. */
static enum engine_code draw_seed(struct engine_call *call, struct engine_error *err)
{
    if (getrandom(&call->seed, sizeof call->seed, 0) != (ssize_t)sizeof call->seed)
        return engine_error_set(err, ENGINE_INTERNAL, "the system gives no random numbers");
    call->seed >>= 11;
    return ENGINE_OK;
}

enum engine_code api_parameters_settle(struct api_request_state *state, struct engine_error *err)
{
    struct engine_call *call = &state->request.call;
    if (call->training && !state->has_seed)
        ENGINE_TRY(draw_seed(call, err));
    if (!state->outputs_listed) {
        call->wanted[ENGINE_ATTENTION_OUTPUT] =
            !state->defaults.has_outputs || state->defaults.outputs[ENGINE_ATTENTION_OUTPUT];
        call->wanted[ENGINE_ATTENTION_SCORES] =
            !state->defaults.has_outputs || state->defaults.outputs[ENGINE_ATTENTION_SCORES];
        for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
            state->binary[i] = state->binary_default;
    }
    if (state->has_scores_parameter) {
        if (state->scores_parameter && !call->wanted[ENGINE_ATTENTION_SCORES])
            state->binary[ENGINE_ATTENTION_SCORES] = state->binary_default;
        call->wanted[ENGINE_ATTENTION_SCORES] = state->scores_parameter;
    }
    if (!call->wanted[ENGINE_ATTENTION_OUTPUT] && !call->wanted[ENGINE_ATTENTION_SCORES] &&
        !call->wanted[ENGINE_ATTENTION_SCORES_INDICES])
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameter return_attention_scores is false, but outputs ask for "
                                "attention_scores alone: nothing is left to answer");
    if (call->top_k > 0 && call->wanted[ENGINE_ATTENTION_SCORES] &&
        !call->wanted[ENGINE_ATTENTION_SCORES_INDICES]) {
        call->wanted[ENGINE_ATTENTION_SCORES_INDICES] = true;
        state->binary[ENGINE_ATTENTION_SCORES_INDICES] = state->binary[ENGINE_ATTENTION_SCORES];
    }
    return ENGINE_OK;
}

/* ---- inputs ----------------------------------------------------------------------------- */

enum engine_code api_parameters_input(const struct api_request_state *state, const char *name,
                                      enum engine_input *ret, struct engine_error *err)
{
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++) {
        if (strcmp(name, engine_input_name((enum engine_input)i)) != 0)
            continue;
        if (state->request.call.inputs[i].data != NULL)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "input %s is given twice", name);
        *ret = (enum engine_input)i;
        return ENGINE_OK;
    }
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "input %.64s does not exist; there are query, value, key, "
                            "attention_mask and reuse_attention_scores",
                            name);
}
