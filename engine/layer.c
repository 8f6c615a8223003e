/* layer.c - see layer.h. */
#include "engine/layer.h"

#include <string.h>

static const struct engine_initializer glorot_uniform = {
    .kind = ENGINE_INITIALIZER_VARIANCE_SCALING,
    .class_name = "GlorotUniform",
    .scale = 1.0,
    .mode = ENGINE_FAN_AVG,
    .distribution = ENGINE_DISTRIBUTION_UNIFORM,
};

void engine_layer_defaults(struct engine_layer_config *ret)
{
    memset(ret, 0, sizeof *ret);
    strcpy(ret->name, "reuse_multi_head_attention");
    ret->trainable = true;
    ret->policy = ENGINE_POLICY_FLOAT32;
    ret->pe_max_seq_length = 512;
    ret->use_bias = true;
    ret->kernel_initializer = glorot_uniform;
    ret->bias_initializer =
        (struct engine_initializer){.kind = ENGINE_INITIALIZER_ZEROS, .class_name = "Zeros"};
    ret->query_shape.rank = -1;
    ret->key_shape.rank = -1;
    ret->value_shape.rank = -1;
    ret->batch_input_shape.rank = -1;
}

enum engine_dtype engine_layer_dtype(enum engine_policy policy)
{
    switch (policy) {
    case ENGINE_POLICY_MIXED_FLOAT16:
        return ENGINE_F16;
    case ENGINE_POLICY_MIXED_BFLOAT16:
        return ENGINE_BF16;
    case ENGINE_POLICY_FLOAT64:
        return ENGINE_F64;
    case ENGINE_POLICY_FLOAT32:
        break;
    }
    return ENGINE_F32;
}

bool engine_layer_rounds(enum engine_policy policy)
{
    return policy == ENGINE_POLICY_MIXED_FLOAT16 || policy == ENGINE_POLICY_MIXED_BFLOAT16;
}

int64_t engine_layer_heads_reused(const struct engine_layer_config *config)
{
    if (config->reuse_attention_true)
        return 1;
    return config->reuse_attention == -1 ? config->num_heads : config->reuse_attention;
}

int64_t engine_layer_heads_new(const struct engine_layer_config *config)
{
    return config->num_heads - engine_layer_heads_reused(config);
}

int64_t engine_layer_value_dim(const struct engine_layer_config *config)
{
    return config->value_dim != 0 ? config->value_dim : config->key_dim;
}

/* Dimensions above this cannot be served and only invite overflow. */
enum { DIMENSION_LIMIT = 1 << 24 };

static enum engine_code check_range(const char *name, int64_t value, int64_t least,
                                    struct engine_error *err)
{
    if (value < least || value > DIMENSION_LIMIT)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "%s is %lld, it must be an integer from %lld to %d", name,
                                (long long)value, (long long)least, DIMENSION_LIMIT);
    return ENGINE_OK;
}

static enum engine_code check_heads(const struct engine_layer_config *config,
                                    struct engine_error *err)
{
    ENGINE_TRY(check_range("num_heads", config->num_heads, 1, err));
    ENGINE_TRY(check_range("key_dim", config->key_dim, 1, err));
    ENGINE_TRY(check_range("value_dim", config->value_dim, 0, err));
    if (!config->reuse_attention_true &&
        (config->reuse_attention < -1 || config->reuse_attention > config->num_heads))
        return engine_error_set(
            err, ENGINE_INVALID_ARGUMENT,
            "reuse_attention is %lld, it must be between -1 and num_heads (%lld)",
            (long long)config->reuse_attention, (long long)config->num_heads);
    if (!(config->dropout >= 0.0 && config->dropout < 1.0))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "dropout is %g, it must be at least 0 and below 1",
                                config->dropout);
    return check_range("pe_max_seq_length", config->pe_max_seq_length, 1, err);
}

int64_t engine_layer_axis(const struct engine_layer_config *config, int i, int rank)
{
    int64_t given = config->attention_axes[i];
    return given < 0 ? given + rank + 1 : given;
}

static bool axes_fit(const struct engine_layer_config *config, int rank)
{
    bool taken[ENGINE_MAX_INPUT_RANK] = {false};
    for (int i = 0; i < config->axes_rank; i++) {
        int64_t axis = engine_layer_axis(config, i, rank);
        if (axis < 1 || axis > rank - 2 || taken[axis])
            return false;
        taken[axis] = true;
    }
    return true;
}

/* What fits with relative positions or partial reuse depends on a call's dimensions: geometry.c. */
static enum engine_code check_ranks(const struct engine_layer_config *config,
                                    struct engine_error *err)
{
    for (int rank = 3; rank <= ENGINE_MAX_INPUT_RANK; rank++)
        if (axes_fit(config, rank))
            return ENGINE_OK;
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "attention_axes fits no inputs: of 3 to %d dimensions each must name "
                            "another one between batch and features",
                            ENGINE_MAX_INPUT_RANK);
}

static enum engine_code check_axes(const struct engine_layer_config *config,
                                   struct engine_error *err)
{
    for (int i = 0; i < config->axes_rank; i++)
        for (int j = 0; j < i; j++)
            if (config->attention_axes[i] == config->attention_axes[j])
                return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                        "attention_axes names axis %lld twice",
                                        (long long)config->attention_axes[i]);
    for (int i = 0; i < config->output_rank; i++)
        ENGINE_TRY(check_range("output_shape", config->output_shape[i], 1, err));
    return check_ranks(config, err);
}

static enum engine_code check_training(const struct engine_layer_config *config,
                                       struct engine_error *err)
{
    if (config->kernel_initializer.kind == ENGINE_INITIALIZER_IDENTITY)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "kernel_initializer is Identity, which makes matrices; the kernels "
                                "have three dimensions");
    if (config->use_bias && config->bias_initializer.kind == ENGINE_INITIALIZER_ORTHOGONAL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "bias_initializer is Orthogonal, which needs two dimensions; the "
                                "output bias has one");
    if (config->use_bias && config->bias_initializer.kind == ENGINE_INITIALIZER_IDENTITY)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "bias_initializer is Identity, which needs two dimensions; the "
                                "output bias has one");
    if (config->kernel_constraint.kind == ENGINE_CONSTRAINT_RADIAL ||
        config->bias_constraint.kind == ENGINE_CONSTRAINT_RADIAL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "a RadialConstraint needs weights of four dimensions; this layer "
                                "has none");
    if (config->kernel_regularizer.kind == ENGINE_REGULARIZER_ORTHOGONAL ||
        config->bias_regularizer.kind == ENGINE_REGULARIZER_ORTHOGONAL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "an OrthogonalRegularizer needs weights of two dimensions; this "
                                "layer's kernels have three");
    return ENGINE_OK;
}

enum engine_code engine_layer_check(const struct engine_layer_config *config,
                                    struct engine_error *err)
{
    ENGINE_TRY(check_heads(config, err));
    ENGINE_TRY(check_axes(config, err));
    return check_training(config, err);
}
