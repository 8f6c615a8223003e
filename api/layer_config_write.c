/* layer_config_write.c - get_config() as Keras writes it, v3 objects, Keras' order of keys.
 * Declared in layer_config.h. Judges nothing: the configuration was checked when read. */
#include <stdbool.h>
#include <string.h>

#include "api/layer_config.h"
#include "api/python_json.h"
#include "engine/formats/json.h"

static json_t *named(const char *module, const char *name, json_t *config)
{
    return json_pack("{s:s,s:s,s:o,s:n}", "module", module, "class_name", name, "config", config,
                     "registered_name");
}

static json_t *list(const int64_t *values, int rank)
{
    json_t *ret = json_array();

    for (int i = 0; i < rank; i++)
        ret = engine_json_append(ret, values[i] < 0 ? json_null() : json_integer(values[i]));
    return ret;
}

static json_t *signed_list(const int64_t *values, int rank)
{
    json_t *ret = json_array();

    for (int i = 0; i < rank; i++)
        ret = engine_json_append(ret, json_integer(values[i]));
    return ret;
}

static json_t *shape(const struct engine_layer_shape *s)
{
    return s->rank < 0 ? json_null() : list(s->shape, s->rank);
}

static json_t *initializer(const struct engine_initializer *x)
{
    static const char *const modes[] = {"fan_in", "fan_out", "fan_avg"};
    static const char *const laws[] = {"truncated_normal", "untruncated_normal", "uniform"};
    enum engine_initializer_kind kind = x->kind;
    json_t *c = json_object();

    if (kind == ENGINE_INITIALIZER_CONSTANT)
        c = engine_json_set(c, "value", api_python_json_real(x->value));
    if (kind == ENGINE_INITIALIZER_RANDOM_UNIFORM) {
        c = engine_json_set(c, "minval", api_python_json_real(x->minimum));
        c = engine_json_set(c, "maxval", api_python_json_real(x->maximum));
    }
    if (kind == ENGINE_INITIALIZER_RANDOM_NORMAL || kind == ENGINE_INITIALIZER_TRUNCATED_NORMAL) {
        c = engine_json_set(c, "mean", api_python_json_real(x->mean));
        c = engine_json_set(c, "stddev", api_python_json_real(x->stddev));
    }
    if (strcmp(x->class_name, "VarianceScaling") == 0) {
        c = engine_json_set(c, "scale", api_python_json_real(x->scale));
        c = engine_json_set(c, "mode", json_string(modes[x->mode]));
        c = engine_json_set(c, "distribution", json_string(laws[x->distribution]));
    }
    if (kind >= ENGINE_INITIALIZER_ORTHOGONAL)
        c = engine_json_set(c, "gain", api_python_json_real(x->gain));
    if (kind >= ENGINE_INITIALIZER_RANDOM_UNIFORM && kind != ENGINE_INITIALIZER_IDENTITY)
        c = engine_json_set(c, "seed", x->has_seed ? json_integer(x->seed) : json_null());
    return named("keras.initializers", x->class_name, c);
}

static json_t *regularizer(const struct engine_regularizer *x)
{
    static const char *const names[] = {"", "L1", "L2", "L1L2", "OrthogonalRegularizer"};
    json_t *c = json_object();

    if (x->kind == ENGINE_REGULARIZER_L1 || x->kind == ENGINE_REGULARIZER_L1L2)
        c = engine_json_set(c, "l1", api_python_json_real(x->l1));
    if (x->kind == ENGINE_REGULARIZER_L2 || x->kind == ENGINE_REGULARIZER_L1L2)
        c = engine_json_set(c, "l2", api_python_json_real(x->l2));
    if (x->kind == ENGINE_REGULARIZER_ORTHOGONAL) {
        c = engine_json_set(c, "factor", api_python_json_real(x->factor));
        c = engine_json_set(c, "mode", json_string(x->columns ? "columns" : "rows"));
    }
    if (x->kind != ENGINE_REGULARIZER_NONE)
        return named("keras.regularizers", names[x->kind], c);
    json_decref(c);
    return json_null();
}

static json_t *constraint(const struct engine_constraint *x)
{
    static const char *const names[] = {"",         "MaxNorm",    "NonNeg",
                                        "UnitNorm", "MinMaxNorm", "RadialConstraint"};
    bool range = x->kind == ENGINE_CONSTRAINT_MIN_MAX_NORM;
    json_t *c = json_object();

    if (range)
        c = engine_json_set(c, "min_value", api_python_json_real(x->min_value));
    if (range || x->kind == ENGINE_CONSTRAINT_MAX_NORM)
        c = engine_json_set(c, "max_value", api_python_json_real(x->max_value));
    if (range)
        c = engine_json_set(c, "rate", api_python_json_real(x->rate));
    if (x->axis_rank > 0)
        c = engine_json_set(c, "axis",
                            x->axis_is_list ? signed_list(x->axis, x->axis_rank)
                                            : json_integer(x->axis[0]));
    if (x->kind != ENGINE_CONSTRAINT_NONE)
        return named("keras.constraints", names[x->kind], c);
    json_decref(c);
    return json_null();
}

static json_t *policy(enum engine_policy p)
{
    if (p == ENGINE_POLICY_FLOAT32 || p == ENGINE_POLICY_FLOAT64)
        return json_string(p == ENGINE_POLICY_FLOAT32 ? "float32" : "float64");
    return named("keras.mixed_precision", "Policy",
                 json_pack("{s:s}", "name",
                           p == ENGINE_POLICY_MIXED_FLOAT16 ? "mixed_float16" : "mixed_bfloat16"));
}

/* As it was given: null, 0 and [] all mean the query's width. */
static json_t *output_shape(const struct engine_layer_config *c)
{
    if (c->output_is_list)
        return list(c->output_shape, c->output_rank);
    if (c->output_rank == 0)
        return c->output_is_zero ? json_integer(0) : json_null();
    return json_integer(c->output_shape[0]);
}

json_t *api_layer_config_write_document(const struct engine_layer_config *c)
{
    json_t *root = json_pack(
        "{s:s,s:b,s:o,s:I,s:I,s:I,s:f,s:b,s:o,s:o,s:o,s:b,s:I}", "name", c->name, "trainable",
        c->trainable, "dtype", policy(c->policy), "num_heads", (json_int_t)c->num_heads, "key_dim",
        (json_int_t)c->key_dim, "value_dim", (json_int_t)engine_layer_value_dim(c), "dropout",
        c->dropout, "use_bias", c->use_bias, "output_shape", output_shape(c), "attention_axes",
        c->axes_rank ? signed_list(c->attention_axes, c->axes_rank) : json_null(),
        "reuse_attention",
        c->reuse_attention_true ? json_true() : json_integer(engine_layer_heads_reused(c)),
        "use_relative_pe", c->use_relative_pe, "pe_max_seq_length",
        (json_int_t)c->pe_max_seq_length);
    json_t *rest = json_pack(
        "{s:o,s:o,s:o,s:o,s:n,s:o,s:o,s:o,s:o,s:o}", "kernel_initializer",
        initializer(&c->kernel_initializer), "bias_initializer", initializer(&c->bias_initializer),
        "kernel_regularizer", regularizer(&c->kernel_regularizer), "bias_regularizer",
        regularizer(&c->bias_regularizer), "activity_regularizer", "kernel_constraint",
        constraint(&c->kernel_constraint), "bias_constraint", constraint(&c->bias_constraint),
        "query_shape", shape(&c->query_shape), "key_shape", shape(&c->key_shape), "value_shape",
        shape(&c->value_shape));
    bool whole = root && rest && json_object_update(root, rest) == 0;

    if (whole && c->batch_input_shape.rank >= 0)
        whole = json_object_set_new(root, "batch_input_shape", shape(&c->batch_input_shape)) == 0;

    json_decref(rest);
    if (whole)
        return root;
    json_decref(root);
    return NULL;
}

char *api_layer_config_write(const struct engine_layer_config *config)
{
    return engine_json_text(api_layer_config_write_document(config), 0);
}
