/* layer_config.c - reads Keras' configuration JSON of the layer into engine_layer_config.
 *
 * The parts that are objects of their own (initializers, regularizers, constraints) are read by
 * layer_objects.c, which layer of a document is meant by layer_search.c. A plain dtype "float16" or
 * "bfloat16" is refused: Keras then rounds only the query and computes in the global policy, which
 * the file does not say; the mixed policies are what people mean. Values that Python spelt as texts
 * or objects are turned into what they stand for first (python_json.c). Refuses unknown keys; never
 * guesses a type (1.5 is no integer). */
#include "api/layer_config.h"

#include <stddef.h>
#include <string.h>

#include "api/layer_objects.h"
#include "api/layer_search.h"
#include "api/python_json.h"

enum field_kind {
    FIELD_NAME,
    FIELD_POLICY,
    FIELD_BOOL,
    FIELD_INT,
    FIELD_INT_OR_NULL, /* null is 0: not given */
    FIELD_NUMBER,
    FIELD_REUSE,
    FIELD_AXES,
    FIELD_OUTPUT,
    FIELD_SHAPE,
    FIELD_INITIALIZER,
    FIELD_REGULARIZER,
    FIELD_CONSTRAINT
};

struct field {
    const char *key;
    enum field_kind kind;
    size_t offset;
};

#define FIELD(key, kind, member)                                                                   \
    {                                                                                              \
        key, kind, offsetof(struct engine_layer_config, member)                                    \
    }

static const struct field fields[] = {
    FIELD("name", FIELD_NAME, name),
    FIELD("trainable", FIELD_BOOL, trainable),
    FIELD("dtype", FIELD_POLICY, policy),
    FIELD("num_heads", FIELD_INT, num_heads),
    FIELD("key_dim", FIELD_INT, key_dim),
    FIELD("value_dim", FIELD_INT_OR_NULL, value_dim),
    FIELD("dropout", FIELD_NUMBER, dropout),
    FIELD("use_bias", FIELD_BOOL, use_bias),
    FIELD("output_shape", FIELD_OUTPUT, output_shape),
    FIELD("attention_axes", FIELD_AXES, attention_axes),
    FIELD("reuse_attention", FIELD_REUSE, reuse_attention),
    FIELD("use_relative_pe", FIELD_BOOL, use_relative_pe),
    FIELD("pe_max_seq_length", FIELD_INT, pe_max_seq_length),
    FIELD("max_sequence_length", FIELD_INT, pe_max_seq_length),
    FIELD("kernel_initializer", FIELD_INITIALIZER, kernel_initializer),
    FIELD("bias_initializer", FIELD_INITIALIZER, bias_initializer),
    FIELD("kernel_regularizer", FIELD_REGULARIZER, kernel_regularizer),
    FIELD("bias_regularizer", FIELD_REGULARIZER, bias_regularizer),
    FIELD("activity_regularizer", FIELD_REGULARIZER, activity_regularizer),
    FIELD("kernel_constraint", FIELD_CONSTRAINT, kernel_constraint),
    FIELD("bias_constraint", FIELD_CONSTRAINT, bias_constraint),
    FIELD("query_shape", FIELD_SHAPE, query_shape),
    FIELD("key_shape", FIELD_SHAPE, key_shape),
    FIELD("value_shape", FIELD_SHAPE, value_shape),
    FIELD("batch_input_shape", FIELD_SHAPE, batch_input_shape),
};

static enum engine_code bad(const char *key, const char *rule, struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "configuration key %s must be %s", key,
                            rule);
}

static enum engine_code read_int(const char *key, const json_t *value, int64_t *ret,
                                 struct engine_error *err)
{
    if (!json_is_integer(value))
        return bad(key, "an integer", err);
    *ret = json_integer_value(value);
    return ENGINE_OK;
}

/* A list of integers; null entries become -1 where a shape may hold them. */
static enum engine_code read_list(const char *key, const json_t *value, bool nulls, int *ret_rank,
                                  int64_t *ret, struct engine_error *err)
{
    if (!json_is_array(value) || json_array_size(value) > ENGINE_MAX_INPUT_RANK)
        return bad(key, "an integer or a list of at most 8 integers, or null", err);
    *ret_rank = (int)json_array_size(value);
    for (int i = 0; i < *ret_rank; i++) {
        const json_t *item = json_array_get(value, (size_t)i);

        ret[i] = -1;
        if (!(nulls && json_is_null(item)))
            ENGINE_TRY(read_int(key, item, &ret[i], err));
    }
    return ENGINE_OK;
}

static enum engine_code read_output(const json_t *value, struct engine_layer_config *ret,
                                    struct engine_error *err)
{
    ret->output_rank = 0;
    ret->output_is_zero = false;
    ret->output_is_list = json_is_array(value);
    if (json_is_null(value))
        return ENGINE_OK;
    if (ret->output_is_list)
        return read_list("output_shape", value, false, &ret->output_rank, ret->output_shape, err);
    ENGINE_TRY(read_int("output_shape", value, &ret->output_shape[0], err));
    ret->output_is_zero = ret->output_shape[0] == 0;
    ret->output_rank = ret->output_is_zero ? 0 : 1;
    return ENGINE_OK;
}

static enum engine_code read_axes(const json_t *value, struct engine_layer_config *ret,
                                  struct engine_error *err)
{
    ret->axes_rank = 0;
    if (json_is_null(value))
        return ENGINE_OK;
    if (!json_is_integer(value)) {
        ENGINE_TRY(
            read_list("attention_axes", value, false, &ret->axes_rank, ret->attention_axes, err));
        /* Not null: without an axis there is nothing to attend over. */
        return ret->axes_rank > 0 ? ENGINE_OK : bad("attention_axes", "null or name an axis", err);
    }
    ret->axes_rank = 1;
    return read_int("attention_axes", value, &ret->attention_axes[0], err);
}

static enum engine_code read_shape(const char *key, const json_t *value,
                                   struct engine_layer_shape *ret, struct engine_error *err)
{
    ret->rank = -1;
    if (json_is_null(value))
        return ENGINE_OK;
    ENGINE_TRY(read_list(key, value, true, &ret->rank, ret->shape, err));
    for (int i = 0; i < ret->rank; i++)
        if (ret->shape[i] < 0 && !json_is_null(json_array_get(value, (size_t)i)))
            return bad(key, "a list of sizes of at least 0, null where one is not known", err);
    return ENGINE_OK;
}

static enum engine_code read_reuse(const json_t *value, struct engine_layer_config *ret,
                                   struct engine_error *err)
{
    ret->reuse_attention_true = json_is_true(value);
    if (json_is_boolean(value)) {
        ret->reuse_attention = json_is_true(value) ? 1 : 0;
        return ENGINE_OK;
    }
    return read_int("reuse_attention", value, &ret->reuse_attention, err);
}

/* The name in "<Policy "mixed_float16">", which str() makes of a policy; NULL: there is none. */
static const char *quoted(const char *text, char name[48])
{
    const char *begin = strpbrk(text, "\"'");
    const char *end = begin != NULL ? strchr(begin + 1, *begin) : NULL;
    if (end == NULL || end - begin > 40)
        return NULL;
    memcpy(name, begin + 1, (size_t)(end - begin - 1));
    name[end - begin - 1] = '\0';
    return name;
}

/* A name, or {"class_name": "Policy" or "DTypePolicy", "config": {"name": ...}}; null is Keras'
 * default. */
static enum engine_code read_policy(const json_t *value, struct engine_layer_config *ret,
                                    struct engine_error *err)
{
    static const char *const names[] = {"float32", "mixed_float16", "mixed_bfloat16", "float64"};
    const char *class_name = json_string_value(json_object_get(value, "class_name"));
    const char *name = json_is_null(value) ? names[0] : json_string_value(value);
    char inside[48];

    if (class_name && strstr(class_name, "Policy") != NULL)
        name = json_string_value(json_object_get(json_object_get(value, "config"), "name"));
    if (name && name[0] == '<')
        name = quoted(name, inside);
    if (!name)
        return bad("dtype", "a name or a Policy object", err);
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) {
            ret->policy = (enum engine_policy)i;
            return ENGINE_OK;
        }
    return engine_error_set(err, ENGINE_UNSUPPORTED,
                            "configuration key dtype is %.40s; served are float32, mixed_float16, "
                            "mixed_bfloat16 and float64",
                            name);
}

/* Python's True is 1. */
static bool take_bool(const json_t *value, bool *ret)
{
    bool is_bit = json_is_integer(value) &&
                  (json_integer_value(value) == 0 || json_integer_value(value) == 1);

    *ret = json_is_true(value) || (is_bit && json_integer_value(value) == 1);
    return json_is_boolean(value) || is_bit;
}

static enum engine_code read_scalar(const struct field *field, const json_t *value, void *at,
                                    struct engine_error *err)
{
    if (field->kind == FIELD_BOOL) {
        if (!take_bool(value, at))
            return bad(field->key, "true or false", err);
        return ENGINE_OK;
    }
    if (field->kind == FIELD_NUMBER) {
        if (!api_python_json_number(value, at))
            return bad(field->key, "a number", err);
        return ENGINE_OK;
    }
    *(int64_t *)at = 0;
    if (field->kind == FIELD_INT_OR_NULL && json_is_null(value))
        return ENGINE_OK;
    return read_int(field->key, value, at, err);
}

static enum engine_code read_name(const json_t *value, struct engine_layer_config *ret,
                                  struct engine_error *err)
{
    if (json_is_null(value))
        return ENGINE_OK; /* the default's */
    if (!json_is_string(value) || json_string_length(value) >= sizeof ret->name)
        return bad("name", "a text of at most 65535 bytes", err);
    memcpy(ret->name, json_string_value(value), json_string_length(value) + 1);
    return ENGINE_OK;
}

static enum engine_code read_value(const struct field *field, const json_t *value,
                                   struct engine_layer_config *ret, struct engine_error *err)
{
    void *at = (char *)ret + field->offset;

    switch (field->kind) {
    case FIELD_REUSE:
        return read_reuse(value, ret, err);
    case FIELD_AXES:
        return read_axes(value, ret, err);
    case FIELD_OUTPUT:
        return read_output(value, ret, err);
    case FIELD_SHAPE:
        return read_shape(field->key, value, at, err);
    default:
        return read_scalar(field, value, at, err);
    }
}

static enum engine_code read_field(const struct field *field, const json_t *value,
                                   struct engine_layer_config *ret, struct engine_error *err)
{
    void *at = (char *)ret + field->offset;
    json_t *meant;

    switch (field->kind) {
    case FIELD_NAME:
        return read_name(value, ret, err);
    case FIELD_POLICY:
        return read_policy(value, ret, err);
    case FIELD_INITIALIZER:
        return api_layer_objects_initializer(field->key, value, at, err);
    case FIELD_REGULARIZER:
        return api_layer_objects_regularizer(field->key, value, at, err);
    case FIELD_CONSTRAINT:
        return api_layer_objects_constraint(field->key, value, at, err);
    default:
        ENGINE_TRY(api_python_json_value(value, &meant, err));
        enum engine_code code = read_value(field, meant, ret, err);
        json_decref(meant);
        return code;
    }
}

static enum engine_code read_all(const json_t *config, struct engine_layer_config *ret,
                                 struct engine_error *err)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)config, key, value)
    {
        size_t i = 0;

        while (i < sizeof fields / sizeof fields[0] && strcmp(key, fields[i].key) != 0)
            i++;
        if (i == sizeof fields / sizeof fields[0])
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "configuration key %.80s is unknown", key);
        ENGINE_TRY(read_field(&fields[i], value, ret, err));
    }
    return engine_layer_check(ret, err);
}

enum engine_code api_layer_config_read_document(const json_t *document, const char *layer,
                                                struct engine_layer_config *ret,
                                                struct engine_error *err)
{
    const json_t *config;

    engine_layer_defaults(ret);
    ENGINE_TRY(api_layer_search_find(document, layer, &config, err));
    return read_all(config, ret, err);
}

enum engine_code api_layer_config_read(const char *json, size_t size,
                                       struct engine_layer_config *ret, struct engine_error *err)
{
    json_t *root;

    ENGINE_TRY(api_python_json_load("the configuration", json, size, &root, err));
    enum engine_code code = api_layer_config_read_document(root, NULL, ret, err);
    json_decref(root);
    return code;
}
