/* layer.h - a layer's configuration: every argument of the constructor, validated once.
 *
 * What Keras calls ReuseMultiHeadAttention's config, as plain values. api/layer_config.c reads
 * and writes its JSON; engine_layer_resolve() checks it and fills in what follows from it.
 * This file computes nothing and knows no weights.
 *
 * Source of names, defaults and rules: tensorflow/models
 * official/nlp/modeling/layers/reuse_attention.py at 0ca414d5 (v2.20.0), and tf_keras 2.21. */
#ifndef ENGINE_LAYER_H
#define ENGINE_LAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/tensor.h"

/* What the layer computes in: Keras' global dtype policy. */
enum engine_policy {
    ENGINE_POLICY_FLOAT32,
    ENGINE_POLICY_MIXED_FLOAT16,
    ENGINE_POLICY_MIXED_BFLOAT16,
    ENGINE_POLICY_FLOAT64
};

/* The type that a policy computes in. Under the 16-bit ones each operation's result is rounded to
 * it; the weights are kept as float32 and cast where they are used, as Keras does. */
enum engine_dtype engine_layer_dtype(enum engine_policy policy);
bool engine_layer_rounds(enum engine_policy policy); /* to 16 bits */

enum engine_initializer_kind {
    ENGINE_INITIALIZER_ZEROS,
    ENGINE_INITIALIZER_ONES,
    ENGINE_INITIALIZER_CONSTANT,         /* value                                   */
    ENGINE_INITIALIZER_RANDOM_UNIFORM,   /* minimum, maximum                        */
    ENGINE_INITIALIZER_RANDOM_NORMAL,    /* mean, stddev                            */
    ENGINE_INITIALIZER_TRUNCATED_NORMAL, /* mean, stddev                            */
    ENGINE_INITIALIZER_VARIANCE_SCALING, /* scale, mode, distribution: glorot_*,
                                            he_* and lecun_* are read as this, with
                                            their own class_name kept               */
    ENGINE_INITIALIZER_ORTHOGONAL,       /* gain                                    */
    ENGINE_INITIALIZER_IDENTITY          /* gain; rank 2 only                       */
};

enum engine_fan_mode { ENGINE_FAN_IN, ENGINE_FAN_OUT, ENGINE_FAN_AVG };

enum engine_distribution {
    ENGINE_DISTRIBUTION_TRUNCATED_NORMAL,
    ENGINE_DISTRIBUTION_UNTRUNCATED_NORMAL,
    ENGINE_DISTRIBUTION_UNIFORM
};

struct engine_initializer {
    enum engine_initializer_kind kind;
    char class_name[32]; /* as Keras writes it back: "GlorotUniform" */
    double value, minimum, maximum, mean, stddev, scale, gain;
    enum engine_fan_mode mode;
    enum engine_distribution distribution;
    bool has_seed;
    int64_t seed;
};

enum engine_regularizer_kind {
    ENGINE_REGULARIZER_NONE,
    ENGINE_REGULARIZER_L1,
    ENGINE_REGULARIZER_L2,
    ENGINE_REGULARIZER_L1L2,
    ENGINE_REGULARIZER_ORTHOGONAL
};

struct engine_regularizer {
    enum engine_regularizer_kind kind;
    double l1, l2, factor;
    bool columns; /* Orthogonal: mode "columns" instead of "rows" */
};

enum engine_constraint_kind {
    ENGINE_CONSTRAINT_NONE,
    ENGINE_CONSTRAINT_MAX_NORM,
    ENGINE_CONSTRAINT_NON_NEG,
    ENGINE_CONSTRAINT_UNIT_NORM,
    ENGINE_CONSTRAINT_MIN_MAX_NORM,
    ENGINE_CONSTRAINT_RADIAL
};

struct engine_constraint {
    enum engine_constraint_kind kind;
    double max_value, min_value, rate;
    int axis_rank; /* number of axes that follow; an int axis is rank 1 with axis_is_list false */
    bool axis_is_list;
    int64_t axis[ENGINE_MAX_INPUT_RANK];
};

/* A shape that may be unknown (rank -1) and may have unknown dimensions (-1). */
struct engine_layer_shape {
    int rank;
    int64_t shape[ENGINE_MAX_INPUT_RANK];
};

enum { ENGINE_LAYER_NAME_BYTES = 65536 }; /* with the terminator; Keras has no limit */

/* The arguments as given. */
struct engine_layer_config {
    char name[ENGINE_LAYER_NAME_BYTES];
    bool trainable;
    enum engine_policy policy;
    int64_t num_heads;
    int64_t key_dim;
    int64_t value_dim; /* 0: not given, that is key_dim */
    double dropout;
    int64_t reuse_attention;   /* -1: all heads */
    bool reuse_attention_true; /* was written "true": one head, as Python's True */
    bool use_relative_pe;
    int64_t pe_max_seq_length;
    bool use_bias;
    int output_rank; /* 0: not given, the width of the query; else 1 (int) or more (list) */
    bool output_is_list, output_is_zero; /* [] and 0 mean "not given" and come back as they are */
    int64_t output_shape[ENGINE_MAX_INPUT_RANK];
    int axes_rank; /* 0: not given, all but batch and features */
    int64_t attention_axes[ENGINE_MAX_INPUT_RANK];
    struct engine_initializer kernel_initializer, bias_initializer;
    struct engine_regularizer kernel_regularizer, bias_regularizer, activity_regularizer;
    struct engine_constraint kernel_constraint, bias_constraint;
    struct engine_layer_shape query_shape, key_shape, value_shape;
    struct engine_layer_shape
        batch_input_shape; /* of Keras' base layer; comes back, says nothing */
};

/* Fills "ret" with the constructor's defaults: num_heads and key_dim are 0, to be set. */
void engine_layer_defaults(struct engine_layer_config *ret);

/* Checks what can be checked without weights and inputs. Messages name the argument.
 * INVALID_ARGUMENT: num_heads, key_dim < 1, reuse_attention outside -1..num_heads, dropout
 * outside [0,1), pe_max_seq_length < 1, axes that no inputs could have, negative output dimensions,
 * identity on kernels, orthogonal on a bias, Radial constraint or Orthogonal regularizer on
 * kernels. */
ENGINE_MUST_CHECK enum engine_code engine_layer_check(const struct engine_layer_config *config,
                                                      struct engine_error *err);

/* The i-th attended axis of inputs of that rank, as a number from 0; negative ones count on the
 * projected rank, one more than the input's. It need not lie between batch and features. */
int64_t engine_layer_axis(const struct engine_layer_config *config, int i, int rank);

/* Heads whose scores come from outside (R), and heads computed here (N - R). */
int64_t engine_layer_heads_reused(const struct engine_layer_config *config);
int64_t engine_layer_heads_new(const struct engine_layer_config *config);

/* value_dim, or key_dim where none was given. */
int64_t engine_layer_value_dim(const struct engine_layer_config *config);

#endif
