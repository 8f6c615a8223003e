/* layer_objects.c - one table of classes, one of parameters each. Names are compared without
 * case and underscores, which makes Keras' class and snake forms one. Draws nothing, and
 * does not judge whether a class fits a weight's rank: engine_layer_check does. */
#include "api/layer_objects.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "api/python_json.h"

/* A class by its spellings, and the values it starts from. */
struct initializer_class {
    const char *spelling;
    struct engine_initializer start;
};

#define SCALED(name, times, fan, law)                                                              \
    {                                                                                              \
        .kind = ENGINE_INITIALIZER_VARIANCE_SCALING, .class_name = name, .scale = times,           \
        .mode = ENGINE_FAN_##fan, .distribution = ENGINE_DISTRIBUTION_##law                        \
    }
#define PLAIN(kind_name, name, ...)                                                                \
    {                                                                                              \
        .kind = ENGINE_INITIALIZER_##kind_name, .class_name = name, ##__VA_ARGS__                  \
    }

/* Defaults: tf_keras 2.21 initializers. */
static const struct initializer_class initializers[] = {
    {"zeros", PLAIN(ZEROS, "Zeros")},
    {"zero", PLAIN(ZEROS, "Zeros")},
    {"ones", PLAIN(ONES, "Ones")},
    {"one", PLAIN(ONES, "Ones")},
    {"constant", PLAIN(CONSTANT, "Constant")},
    {"randomuniform", PLAIN(RANDOM_UNIFORM, "RandomUniform", .minimum = -0.05, .maximum = 0.05)},
    {"uniform", PLAIN(RANDOM_UNIFORM, "RandomUniform", .minimum = -0.05, .maximum = 0.05)},
    {"randomnormal", PLAIN(RANDOM_NORMAL, "RandomNormal", .stddev = 0.05)},
    {"normal", PLAIN(RANDOM_NORMAL, "RandomNormal", .stddev = 0.05)},
    {"truncatednormal", PLAIN(TRUNCATED_NORMAL, "TruncatedNormal", .stddev = 0.05)},
    {"orthogonal", PLAIN(ORTHOGONAL, "Orthogonal", .gain = 1)},
    {"identity", PLAIN(IDENTITY, "Identity", .gain = 1)},
    {"variancescaling", SCALED("VarianceScaling", 1, IN, TRUNCATED_NORMAL)},
    {"glorotuniform", SCALED("GlorotUniform", 1, AVG, UNIFORM)},
    {"glorotnormal", SCALED("GlorotNormal", 1, AVG, TRUNCATED_NORMAL)},
    {"heuniform", SCALED("HeUniform", 2, IN, UNIFORM)},
    {"henormal", SCALED("HeNormal", 2, IN, TRUNCATED_NORMAL)},
    {"lecununiform", SCALED("LecunUniform", 1, IN, UNIFORM)},
    {"lecunnormal", SCALED("LecunNormal", 1, IN, TRUNCATED_NORMAL)},
};

static enum engine_code bad(const char *key, const char *what, struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "configuration key %s: %.120s", key,
                            what);
}

/* A misspelt "config" would otherwise be a set of parameters that silently does nothing. */
static enum engine_code check_keys(const char *key, const json_t *value, struct engine_error *err)
{
    static const char *const names[] = {"class_name",      "config",       "module",
                                        "registered_name", "build_config", "shared_object_id"};
    enum { COUNT = sizeof names / sizeof names[0] };
    const char *name;
    json_t *item;

    json_object_foreach((json_t *)value, name, item)
    {
        int i = 0;

        while (i < COUNT && strcmp(name, names[i]) != 0)
            i++;
        if (i == COUNT)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "configuration key %s: key %.40s of the object is unknown", key,
                                    name);
    }
    return ENGINE_OK;
}

static enum engine_code bad_parameter(const char *key, const char *class_name, const char *name,
                                      struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "configuration key %s: %s has no parameter %.40s of this value", key,
                            class_name, name);
}

/* Splits a name or object into a folded class name and its config (NULL: a bare name). */
static enum engine_code fold(const char *key, const json_t *value, char name[48],
                             const json_t **ret_config, struct engine_error *err)
{
    const json_t *class_name = json_object_get(value, "class_name");
    const char *text = json_string_value(json_is_object(value) ? class_name : value);
    size_t n = 0;

    *ret_config = json_object_get(value, "config");
    if (!text || (*ret_config && !json_is_object(*ret_config) && !json_is_null(*ret_config)))
        return bad(key, "needs a name or an object with class_name and config", err);
    ENGINE_TRY(check_keys(key, value, err));
    for (; *text && n < 47; text++)
        if (*text != '_')
            name[n++] = *text >= 'A' && *text <= 'Z' ? (char)(*text - 'A' + 'a') : *text;
    name[n] = 0;
    if (n > 2 && strcmp(name + n - 2, "v2") == 0)
        name[n - 2] = 0;
    return ENGINE_OK;
}

static bool take_number(const json_t *value, double *ret)
{
    return api_python_json_number(value, ret);
}

static bool take_choice(const json_t *value, const char *const *names, int count, int *ret)
{
    for (int i = 0; json_is_string(value) && i < count; i++)
        if (strcmp(json_string_value(value), names[i]) == 0) {
            *ret = i;
            return true;
        }
    return false;
}

static bool take_seed(const json_t *value, struct engine_initializer *ret)
{
    ret->has_seed = json_is_integer(value);
    ret->seed = json_integer_value(value);
    return ret->has_seed || json_is_null(value);
}

static bool take_scaling(const char *name, const json_t *value, struct engine_initializer *ret)
{
    static const char *const modes[] = {"fan_in", "fan_out", "fan_avg"};
    static const char *const laws[] = {"truncated_normal", "untruncated_normal", "uniform"};
    int i = 0;

    if (strcmp(ret->class_name, "VarianceScaling") != 0)
        return false;
    if (strcmp(name, "scale") == 0)
        return take_number(value, &ret->scale);
    if (strcmp(name, "mode") == 0 && take_choice(value, modes, 3, &i)) {
        ret->mode = (enum engine_fan_mode)i;
        return true;
    }
    if (strcmp(name, "distribution") != 0)
        return false;
    if (json_is_string(value) && strcmp(json_string_value(value), "normal") == 0)
        i = 0; /* Keras' alias of truncated_normal */
    else if (!take_choice(value, laws, 3, &i))
        return false;
    ret->distribution = (enum engine_distribution)i;
    return true;
}

static bool take_parameter(const char *name, const json_t *value, struct engine_initializer *ret)
{
    enum engine_initializer_kind kind = ret->kind;
    bool normal =
        kind == ENGINE_INITIALIZER_RANDOM_NORMAL || kind == ENGINE_INITIALIZER_TRUNCATED_NORMAL;

    if (strcmp(name, "dtype") == 0)
        return json_is_string(value) || json_is_null(value); /* Keras drops it too */
    if (strcmp(name, "seed") == 0 && kind >= ENGINE_INITIALIZER_RANDOM_UNIFORM &&
        kind != ENGINE_INITIALIZER_IDENTITY)
        return take_seed(value, ret);
    if (kind == ENGINE_INITIALIZER_VARIANCE_SCALING)
        return take_scaling(name, value, ret);
    if (kind == ENGINE_INITIALIZER_CONSTANT && strcmp(name, "value") == 0)
        return take_number(value, &ret->value);
    if (kind == ENGINE_INITIALIZER_RANDOM_UNIFORM && strcmp(name, "minval") == 0)
        return take_number(value, &ret->minimum);
    if (kind == ENGINE_INITIALIZER_RANDOM_UNIFORM && strcmp(name, "maxval") == 0)
        return take_number(value, &ret->maximum);
    if (normal && strcmp(name, "mean") == 0)
        return take_number(value, &ret->mean);
    if (normal && strcmp(name, "stddev") == 0)
        return take_number(value, &ret->stddev);
    return kind >= ENGINE_INITIALIZER_ORTHOGONAL && strcmp(name, "gain") == 0 &&
           take_number(value, &ret->gain);
}

enum engine_code api_layer_objects_initializer(const char *key, const json_t *value,
                                               struct engine_initializer *ret,
                                               struct engine_error *err)
{
    const json_t *config;
    const char *name;
    json_t *item, *meant;
    char folded[48];
    size_t i = 0, count = sizeof initializers / sizeof initializers[0];

    ENGINE_TRY(fold(key, value, folded, &config, err));
    while (i < count && strcmp(folded, initializers[i].spelling) != 0)
        i++;
    if (i == count)
        return bad(key, "unknown initializer", err);
    *ret = initializers[i].start;
    json_object_foreach((json_t *)config, name, item)
    {
        ENGINE_TRY(api_python_json_value(item, &meant, err));
        bool is_taken = take_parameter(name, meant, ret);
        json_decref(meant);
        if (!is_taken)
            return bad_parameter(key, ret->class_name, name, err);
    }
    return ENGINE_OK;
}

static bool take_penalty(const char *name, const json_t *value, struct engine_regularizer *ret)
{
    static const char *const modes[] = {"rows", "columns"};
    enum engine_regularizer_kind kind = ret->kind;
    int i = 0;

    if (strcmp(name, "l1") == 0 &&
        (kind == ENGINE_REGULARIZER_L1 || kind == ENGINE_REGULARIZER_L1L2))
        return take_number(value, &ret->l1);
    if (strcmp(name, "l2") == 0 &&
        (kind == ENGINE_REGULARIZER_L2 || kind == ENGINE_REGULARIZER_L1L2))
        return take_number(value, &ret->l2);
    if (kind != ENGINE_REGULARIZER_ORTHOGONAL)
        return false;
    if (strcmp(name, "factor") == 0)
        return take_number(value, &ret->factor);
    if (strcmp(name, "mode") != 0 || !take_choice(value, modes, 2, &i))
        return false;
    ret->columns = i == 1;
    return true;
}

enum engine_code api_layer_objects_regularizer(const char *key, const json_t *value,
                                               struct engine_regularizer *ret,
                                               struct engine_error *err)
{
    static const char *const names[] = {"l1", "l2", "l1l2", "orthogonalregularizer"};
    const json_t *config;
    const char *name;
    json_t *item, *meant;
    char folded[48];
    int i = 0;

    memset(ret, 0, sizeof *ret);
    if (json_is_null(value))
        return ENGINE_OK;
    ENGINE_TRY(fold(key, value, folded, &config, err));
    while (i < 4 && strcmp(folded, names[i]) != 0)
        i++;
    if (i == 4)
        return bad(key, "unknown regularizer", err);
    ret->kind = (enum engine_regularizer_kind)(i + 1);
    /* The class L1L2 starts from 0, 0; the name "l1_l2" is a function with 0.01, 0.01. */
    ret->l1 = i == 0 || (i == 2 && json_is_string(value)) ? 0.01 : 0;
    ret->l2 = i == 1 || (i == 2 && json_is_string(value)) ? 0.01 : 0;
    ret->factor = i == 3 ? 0.01 : 0;
    json_object_foreach((json_t *)config, name, item)
    {
        ENGINE_TRY(api_python_json_value(item, &meant, err));
        bool is_taken = take_penalty(name, meant, ret);
        json_decref(meant);
        if (!is_taken)
            return bad_parameter(key, "the regularizer", name, err);
    }
    return ENGINE_OK;
}

static bool take_axis(const json_t *value, struct engine_constraint *ret)
{
    ret->axis_is_list = json_is_array(value);
    ret->axis_rank = ret->axis_is_list ? (int)json_array_size(value) : 1;
    if (json_array_size(value) > ENGINE_MAX_INPUT_RANK)
        return false;
    for (int i = 0; i < ret->axis_rank; i++) {
        const json_t *item = ret->axis_is_list ? json_array_get(value, (size_t)i) : value;

        if (!json_is_integer(item))
            return false;
        ret->axis[i] = json_integer_value(item);
    }
    return true;
}

static bool take_bound(const char *name, const json_t *value, struct engine_constraint *ret)
{
    bool range = ret->kind == ENGINE_CONSTRAINT_MIN_MAX_NORM;

    if (ret->axis_rank > 0 && strcmp(name, "axis") == 0)
        return take_axis(value, ret);
    if ((range || ret->kind == ENGINE_CONSTRAINT_MAX_NORM) && strcmp(name, "max_value") == 0)
        return take_number(value, &ret->max_value);
    if (range && strcmp(name, "min_value") == 0)
        return take_number(value, &ret->min_value);
    return range && strcmp(name, "rate") == 0 && take_number(value, &ret->rate);
}

enum engine_code api_layer_objects_constraint(const char *key, const json_t *value,
                                              struct engine_constraint *ret,
                                              struct engine_error *err)
{
    static const char *const names[] = {"maxnorm", "nonneg", "unitnorm", "minmaxnorm",
                                        "radialconstraint"};
    static const struct engine_constraint starts[] = {
        {.kind = ENGINE_CONSTRAINT_MAX_NORM, .max_value = 2, .axis_rank = 1},
        {.kind = ENGINE_CONSTRAINT_NON_NEG},
        {.kind = ENGINE_CONSTRAINT_UNIT_NORM, .axis_rank = 1},
        {.kind = ENGINE_CONSTRAINT_MIN_MAX_NORM, .max_value = 1, .rate = 1, .axis_rank = 1},
        {.kind = ENGINE_CONSTRAINT_RADIAL}};
    const json_t *config;
    const char *name;
    json_t *item, *meant;
    char folded[48];
    int i = 0;

    memset(ret, 0, sizeof *ret);
    if (json_is_null(value))
        return ENGINE_OK;
    ENGINE_TRY(fold(key, value, folded, &config, err));
    while (i < 5 && strcmp(folded, names[i]) != 0)
        i++;
    if (i == 5)
        return bad(key, "unknown constraint", err);
    *ret = starts[i];
    json_object_foreach((json_t *)config, name, item)
    {
        ENGINE_TRY(api_python_json_value(item, &meant, err));
        bool is_taken = take_bound(name, meant, ret);
        json_decref(meant);
        if (!is_taken)
            return bad_parameter(key, "the constraint", name, err);
    }
    return ENGINE_OK;
}
