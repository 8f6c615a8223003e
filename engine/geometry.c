/* geometry.c - see geometry.h. */
#include "engine/geometry.h"

#include <string.h>

/* Sizes that would overflow index arithmetic; far above any machine's memory. */
#define COUNT_LIMIT (INT64_C(1) << 48)

/* Attended axes as input axes, and the free ones between batch and features. */
struct axes {
    int rank; /* of the inputs */
    int count, free_count;
    int attended[ENGINE_MAX_INPUT_RANK], free[ENGINE_MAX_INPUT_RANK];
};

/* ---- axes ------------------------------------------------------------------------------- */

static enum engine_code refuse_axis(int64_t axis, int rank, const char *why,
                                    struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "attention_axes names axis %lld, %s; inputs of %d dimensions can be "
                            "attended over axes 1 to %d",
                            (long long)axis, why, rank, rank - 2);
}

/* Negative axes count on the projected rank, one more than the input's. */
static enum engine_code check_axis(int64_t given, int64_t axis, int rank, struct engine_error *err)
{
    if (axis < 0 || axis > rank)
        return refuse_axis(given, rank, "which does not exist", err);
    if (axis == 0)
        return refuse_axis(given, rank, "the batch", err);
    if (axis == rank - 1)
        return refuse_axis(given, rank, "the heads of the projected inputs", err);
    if (axis == rank)
        return refuse_axis(given, rank, "the features", err);
    return ENGINE_OK;
}

static enum engine_code find_axes(const struct engine_layer_config *config, int rank,
                                  struct axes *ret, struct engine_error *err)
{
    bool taken[ENGINE_MAX_INPUT_RANK] = {false};
    memset(ret, 0, sizeof *ret);
    ret->rank = rank;
    for (int i = 0; i < config->axes_rank; i++) {
        int64_t axis = engine_layer_axis(config, i, rank);
        ENGINE_TRY(check_axis(config->attention_axes[i], axis, rank, err));
        if (taken[axis])
            return refuse_axis(config->attention_axes[i], rank, "twice", err);
        taken[axis] = true;
        ret->attended[ret->count++] = (int)axis;
    }
    for (int axis = 1; axis < rank - 1; axis++) {
        if (config->axes_rank == 0)
            ret->attended[ret->count++] = axis;
        else if (!taken[axis])
            ret->free[ret->free_count++] = axis;
    }
    return ENGINE_OK;
}

/* ---- inputs ----------------------------------------------------------------------------- */

static bool is_given(const struct engine_tensor *t)
{
    return t->data != NULL;
}

static enum engine_code check_count(const char *name, const struct engine_tensor *t,
                                    struct engine_error *err)
{
    size_t count;
    char shape[128];
    if (!engine_tensor_count(t, &count) || count > (size_t)COUNT_LIMIT)
        return engine_error_set(err, ENGINE_TOO_LARGE, "%s has shape %s, which is too large", name,
                                engine_tensor_shape_text(t, shape, sizeof shape));
    return ENGINE_OK;
}

static enum engine_code check_query(const struct engine_tensor *query, struct engine_error *err)
{
    char shape[128];
    if (!is_given(query))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "input query is missing");
    if (query->rank < 3 || query->rank > ENGINE_MAX_INPUT_RANK)
        return engine_error_set(err, ENGINE_SHAPE_MISMATCH,
                                "input query has %d dimensions %s, it must have 3 to %d: batch, "
                                "positions, features",
                                query->rank, engine_tensor_shape_text(query, shape, sizeof shape),
                                ENGINE_MAX_INPUT_RANK);
    return check_count("input query", query, err);
}

static enum engine_code check_width(const char *name, const struct engine_tensor *t, int64_t width,
                                    struct engine_error *err)
{
    char shape[128];
    if (width < 0 || t->shape[t->rank - 1] == width)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_SHAPE_MISMATCH,
                            "input %s has shape %s, its last dimension must be %lld", name,
                            engine_tensor_shape_text(t, shape, sizeof shape), (long long)width);
}

/* value against query, or key against value: same rank, same sizes where "same" says so. */
static enum engine_code check_beside(const char *name, const struct engine_tensor *t,
                                     const char *other_name, const struct engine_tensor *other,
                                     const bool *may_differ, struct engine_error *err)
{
    char shape[128], other_shape[128];
    if (t->rank != other->rank)
        return engine_error_set(
            err, ENGINE_SHAPE_MISMATCH, "input %s has %d dimensions %s, it must have %d as %s %s",
            name, t->rank, engine_tensor_shape_text(t, shape, sizeof shape), other->rank,
            other_name, engine_tensor_shape_text(other, other_shape, sizeof other_shape));
    ENGINE_TRY(check_count(name, t, err));
    for (int i = 0; i < t->rank - 1; i++)
        if (!may_differ[i] && t->shape[i] != other->shape[i])
            return engine_error_set(
                err, ENGINE_SHAPE_MISMATCH,
                "input %s has shape %s, its dimension %d must be %lld as that of %s %s", name,
                engine_tensor_shape_text(t, shape, sizeof shape), i, (long long)other->shape[i],
                other_name, engine_tensor_shape_text(other, other_shape, sizeof other_shape));
    return ENGINE_OK;
}

static enum engine_code check_floats(const struct engine_call *call, struct engine_error *err)
{
    static const enum engine_input floats[] = {ENGINE_QUERY, ENGINE_VALUE, ENGINE_KEY,
                                               ENGINE_REUSE_ATTENTION_SCORES};
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        const struct engine_tensor *t = &call->inputs[floats[i]];
        if (is_given(t) && !engine_tensor_dtype_is_float(t->dtype))
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "input %s has datatype %s, it must be FP16, BF16, FP32 or FP64",
                                    engine_input_name(floats[i]),
                                    engine_tensor_dtype_name(t->dtype));
    }
    return ENGINE_OK;
}

static enum engine_code check_inputs(const struct engine_layer_config *config,
                                     const struct engine_weights *weights,
                                     const struct engine_call *call, struct axes *ret,
                                     struct engine_error *err)
{
    const struct engine_tensor *query = &call->inputs[ENGINE_QUERY];
    const struct engine_tensor *value =
        is_given(&call->inputs[ENGINE_VALUE]) ? &call->inputs[ENGINE_VALUE] : query;
    const struct engine_tensor *key =
        is_given(&call->inputs[ENGINE_KEY]) ? &call->inputs[ENGINE_KEY] : value;
    bool may_differ[ENGINE_MAX_INPUT_RANK] = {false};
    const bool none[ENGINE_MAX_INPUT_RANK] = {false};
    ENGINE_TRY(check_query(query, err));
    ENGINE_TRY(check_floats(call, err));
    ENGINE_TRY(find_axes(config, query->rank, ret, err));
    for (int i = 0; i < ret->count; i++)
        may_differ[ret->attended[i]] = true;
    ENGINE_TRY(check_width("query", query, weights->query_width, err));
    ENGINE_TRY(check_beside("value", value, "query", query, may_differ, err));
    ENGINE_TRY(check_width("value", value, weights->value_width, err));
    if (engine_layer_heads_new(config) == 0)
        return ENGINE_OK; /* a full reuse looks at no key */
    ENGINE_TRY(check_beside("key", key, "value", value, none, err));
    return check_width("key", key, weights->key_width, err);
}

/* ---- the canonical problem -------------------------------------------------------------- */

static void make_rows(const struct engine_tensor *t, const struct axes *axes,
                      struct engine_rows *ret)
{
    int64_t strides[ENGINE_MAX_INPUT_RANK] = {0};
    int64_t stride = 1;
    for (int i = t->rank - 2; i >= 0; i--) {
        strides[i] = stride;
        stride *= t->shape[i];
    }
    memset(ret, 0, sizeof *ret);
    ret->count[ret->rank] = t->shape[0];
    ret->stride[ret->rank++] = strides[0];
    for (int i = 0; i < axes->free_count; i++) {
        ret->count[ret->rank] = t->shape[axes->free[i]];
        ret->stride[ret->rank++] = strides[axes->free[i]];
    }
    for (int i = 0; i < axes->count; i++) {
        ret->count[ret->rank] = t->shape[axes->attended[i]];
        ret->stride[ret->rank++] = strides[axes->attended[i]];
    }
    ret->identity = true;
    stride = 1;
    for (int i = ret->rank - 1; i >= 0; i--) {
        if (ret->count[i] != 1 && ret->stride[i] != stride)
            ret->identity = false;
        stride *= ret->count[i];
    }
}

int64_t engine_geometry_row(const struct engine_rows *rows, int64_t row)
{
    int64_t memory = 0;
    if (rows->identity)
        return row;
    for (int i = rows->rank - 1; i >= 0; i--) {
        memory += row % rows->count[i] * rows->stride[i];
        row /= rows->count[i];
    }
    return memory;
}

static void make_outputs(struct engine_geometry *g, const struct engine_weights *weights,
                         const struct engine_tensor *query, const struct engine_tensor *value,
                         const struct axes *axes)
{
    struct engine_tensor *scores = &g->scores, *output = &g->output;
    scores->dtype = output->dtype = ENGINE_F32;
    scores->shape[scores->rank++] = query->shape[0];
    for (int i = 0; i < axes->free_count; i++)
        scores->shape[scores->rank++] = query->shape[axes->free[i]];
    scores->shape[scores->rank++] = g->heads;
    for (int i = 0; i < axes->count; i++)
        scores->shape[scores->rank++] = query->shape[axes->attended[i]];
    for (int i = 0; i < axes->count; i++)
        scores->shape[scores->rank++] = value->shape[axes->attended[i]];
    for (int i = 0; i < query->rank - 1; i++)
        output->shape[output->rank++] = query->shape[i];
    for (int i = 0; i < weights->output_rank; i++)
        output->shape[output->rank++] = weights->output_shape[i];
}

static void make_sizes(struct engine_geometry *g, const struct engine_layer_config *config,
                       const struct engine_weights *weights, const struct engine_tensor *query,
                       const struct engine_tensor *value, const struct axes *axes)
{
    g->heads = config->num_heads;
    g->heads_reused = engine_layer_heads_reused(config);
    g->heads_new = engine_layer_heads_new(config);
    g->key_dim = config->key_dim;
    g->value_dim = engine_layer_value_dim(config);
    g->query_width = query->shape[query->rank - 1];
    g->value_width = weights->value_width;
    g->key_width = weights->key_width;
    g->output_width = 1;
    for (int i = 0; i < weights->output_rank; i++)
        g->output_width *= weights->output_shape[i];
    g->several_axes = axes->count > 1;
    g->axes = axes->count;
    g->free_axes = axes->free_count;
    g->batch = query->shape[0];
    g->outer = g->batch;
    for (int i = 0; i < axes->free_count; i++)
        g->outer *= query->shape[axes->free[i]];
    g->queries = 1;
    g->keys = 1;
    for (int i = 0; i < axes->count; i++) {
        g->queries *= query->shape[axes->attended[i]];
        g->keys *= value->shape[axes->attended[i]];
    }
}

/* ---- what depends on options ------------------------------------------------------------ */

static enum engine_code check_reused(struct engine_geometry *g, const struct engine_tensor *given,
                                     struct engine_error *err)
{
    char shape[128], wanted[128];
    struct engine_tensor expected = g->scores;
    int heads_at = 1 + g->free_axes;
    if (g->heads_reused == 0)
        return ENGINE_OK; /* given scores are ignored, as TensorFlow does */
    if (!is_given(given))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "input reuse_attention_scores is missing; this layer reuses %lld "
                                "of %lld heads",
                                (long long)g->heads_reused, (long long)g->heads);
    if (g->heads_new > 0 && g->free_axes > 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "reuse_attention is %lld of %lld heads and %d axis is not attended:"
                                " partial reuse needs all axes between batch and features in "
                                "attention_axes",
                                (long long)g->heads_reused, (long long)g->heads, g->free_axes);
    if (given->rank == expected.rank) {
        g->reuse_heads_given = given->shape[heads_at];
        bool enough = g->heads_new == 0 ? g->reuse_heads_given == g->heads
                                        : g->reuse_heads_given >= g->heads_reused;
        expected.shape[heads_at] = g->reuse_heads_given;
        if (enough && engine_tensor_same_shape(&expected, given))
            return check_count("input reuse_attention_scores", given, err);
    }
    expected.shape[heads_at] = g->heads_reused;
    return engine_error_set(err, ENGINE_SHAPE_MISMATCH,
                            "input reuse_attention_scores has shape %s, it must be %s%s",
                            engine_tensor_shape_text(given, shape, sizeof shape),
                            engine_tensor_shape_text(&expected, wanted, sizeof wanted),
                            g->heads_new == 0 ? "" : ", or have more heads");
}

static enum engine_code check_positions(const struct engine_geometry *g,
                                        const struct engine_weights *weights,
                                        const struct axes *axes, struct engine_error *err)
{
    if (weights->tensors[ENGINE_WEIGHT_POSITIONS].data == NULL ||
        (axes->count == 1 && axes->attended[0] == 1))
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "use_relative_pe is true and %d axes of %d-dimensional inputs are "
                            "attended: relative positions are defined for attention over axis 1 "
                            "alone",
                            g->axes, axes->rank);
}

enum engine_code engine_geometry_init(struct engine_geometry *ret,
                                      const struct engine_layer_config *config,
                                      const struct engine_weights *weights,
                                      const struct engine_call *call, struct engine_error *err)
{
    const struct engine_tensor *query = &call->inputs[ENGINE_QUERY];
    const struct engine_tensor *value =
        is_given(&call->inputs[ENGINE_VALUE]) ? &call->inputs[ENGINE_VALUE] : query;
    struct engine_geometry g = {0};
    struct axes axes;
    ENGINE_TRY(check_inputs(config, weights, call, &axes, err));
    make_sizes(&g, config, weights, query, value, &axes);
    make_outputs(&g, weights, query, value, &axes);
    ENGINE_TRY(check_count("attention_output", &g.output, err));
    ENGINE_TRY(check_count("attention_scores", &g.scores, err));
    make_rows(query, &axes, &g.query_rows);
    make_rows(value, &axes, &g.value_rows);
    ENGINE_TRY(check_reused(&g, &call->inputs[ENGINE_REUSE_ATTENTION_SCORES], err));
    ENGINE_TRY(check_positions(&g, weights, &axes, err));
    *ret = g;
    return ENGINE_OK;
}
