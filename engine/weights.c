/* weights.c - see weights.h. */
#include "engine/weights.h"

#include <stdlib.h>
#include <string.h>

#include "engine/initializers.h"
#include "engine/weight_names.h"

/* One letter a dimension: C the input's width, N and R heads computed and reused, H key_dim,
 * V value_dim, O the output's dimensions (any number), 1 one, P 2L-1. */
static const struct {
    const char *name, *shape;
} weights_table[ENGINE_WEIGHT_COUNT] = {
    [ENGINE_WEIGHT_POSITIONS] = {"relative_position_embeddings", "1NP"},
    [ENGINE_WEIGHT_QUERY_KERNEL] = {"query/kernel", "CNH"},
    [ENGINE_WEIGHT_QUERY_BIAS] = {"query/bias", "NH"},
    [ENGINE_WEIGHT_KEY_KERNEL] = {"key/kernel", "CNH"},
    [ENGINE_WEIGHT_KEY_BIAS] = {"key/bias", "NH"},
    [ENGINE_WEIGHT_VALUE_REUSE_KERNEL] = {"value_reuse/kernel", "CRV"},
    [ENGINE_WEIGHT_VALUE_REUSE_BIAS] = {"value_reuse/bias", "RV"},
    [ENGINE_WEIGHT_VALUE_NEW_KERNEL] = {"value_new/kernel", "CNV"},
    [ENGINE_WEIGHT_VALUE_NEW_BIAS] = {"value_new/bias", "NV"},
    [ENGINE_WEIGHT_OUTPUT_REUSE_KERNEL] = {"attention_output_reuse/kernel", "RVO"},
    [ENGINE_WEIGHT_OUTPUT_REUSE_BIAS] = {"attention_output_reuse/bias", "O"},
    [ENGINE_WEIGHT_OUTPUT_NEW_KERNEL] = {"attention_output_new/kernel", "NVO"},
    [ENGINE_WEIGHT_OUTPUT_NEW_BIAS] = {"attention_output_new/bias", "O"},
};

const char *engine_weights_name(enum engine_weight weight)
{
    return weights_table[weight].name;
}

static bool is_bias(enum engine_weight weight)
{
    return weight != ENGINE_WEIGHT_POSITIONS && weight % 2 == 0;
}

bool engine_weights_expected(const struct engine_layer_config *config, enum engine_weight weight)
{
    bool has_new = engine_layer_heads_new(config) > 0;
    bool has_reused = engine_layer_heads_reused(config) > 0;
    if (is_bias(weight) && !config->use_bias)
        return false;
    switch (weight) {
    case ENGINE_WEIGHT_POSITIONS:
        return config->use_relative_pe && has_new;
    case ENGINE_WEIGHT_VALUE_REUSE_KERNEL:
    case ENGINE_WEIGHT_VALUE_REUSE_BIAS:
    case ENGINE_WEIGHT_OUTPUT_REUSE_KERNEL:
    case ENGINE_WEIGHT_OUTPUT_REUSE_BIAS:
        return has_reused;
    case ENGINE_WEIGHT_OUTPUT_NEW_BIAS:
        return has_new && !has_reused; /* one output bias in all */
    default:
        return has_new;
    }
}

/* ---- shapes ----------------------------------------------------------------------------- */

/* What is known before a kernel is seen; -1: not known. */
struct known {
    int64_t width;
    int output_rank; /* -1: not known */
    int64_t output[ENGINE_MAX_INPUT_RANK];
};

static int64_t dimension(const struct engine_layer_config *config, const struct known *known,
                         char letter)
{
    switch (letter) {
    case '1':
        return 1;
    case 'P':
        return 2 * config->pe_max_seq_length - 1;
    case 'N':
        return engine_layer_heads_new(config);
    case 'R':
        return engine_layer_heads_reused(config);
    case 'H':
        return config->key_dim;
    case 'V':
        return engine_layer_value_dim(config);
    default:
        return known->width;
    }
}

/* The shape a weight must have. Unknown dimensions are -1. */
static void expected_shape(const struct engine_layer_config *config, const struct known *known,
                           enum engine_weight weight, struct engine_tensor *ret)
{
    *ret = (struct engine_tensor){.dtype = ENGINE_F32};
    for (const char *letter = weights_table[weight].shape; *letter != '\0'; letter++) {
        if (*letter != 'O') {
            ret->shape[ret->rank++] = dimension(config, known, *letter);
            continue;
        }
        if (known->output_rank < 0)
            ret->shape[ret->rank++] = -1;
        for (int i = 0; i < known->output_rank; i++)
            ret->shape[ret->rank++] = known->output[i];
    }
}

static enum engine_code check_shape(const char *name, const struct engine_tensor *given,
                                    const struct engine_tensor *wanted, struct engine_error *err)
{
    char given_text[128], wanted_text[128];
    bool same = given->rank == wanted->rank;
    for (int i = 0; same && i < given->rank; i++)
        same =
            given->shape[i] >= 1 && (wanted->shape[i] == -1 || given->shape[i] == wanted->shape[i]);
    if (same)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_SHAPE_MISMATCH,
                            "weight %s has shape %s, the configuration needs %s (-1: any)", name,
                            engine_tensor_shape_text(given, given_text, sizeof given_text),
                            engine_tensor_shape_text(wanted, wanted_text, sizeof wanted_text));
}

/* ---- converting ------------------------------------------------------------------------- */

static enum engine_code allocate(struct engine_weights *weights, enum engine_weight weight,
                                 const struct engine_tensor *shape, bool wide,
                                 struct engine_error *err)
{
    struct engine_tensor *t = &weights->tensors[weight];
    size_t count, bytes, padded;
    *t = *shape;
    t->dtype = ENGINE_F32;
    t->data = NULL;
    if (!engine_tensor_count(t, &count) || !engine_tensor_mul(count, sizeof(double), &bytes) ||
        !engine_tensor_add(bytes, 63, &padded))
        return engine_error_set(err, ENGINE_TOO_LARGE, "weight %s is too large",
                                weights_table[weight].name);
    bytes = count * sizeof(float);
    t->data = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (wide && t->data != NULL)
        weights->wide[weight] = malloc((count + 1) * sizeof(double));
    if (t->data == NULL || (wide && weights->wide[weight] == NULL))
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for weight %s",
                                weights_table[weight].name);
    weights->bytes += bytes + (wide ? count * sizeof(double) : 0);
    return ENGINE_OK;
}

static enum engine_code load_one(struct engine_weights *weights,
                                 const struct engine_layer_config *config,
                                 const struct known *known, enum engine_weight weight,
                                 const struct engine_named_tensor *named, struct engine_error *err)
{
    struct engine_tensor wanted;
    const struct engine_tensor *given = &named->tensor;
    const char *name = weights_table[weight].name;
    bool wide = config->policy == ENGINE_POLICY_FLOAT64;
    if (named->foreign != NULL || !engine_tensor_dtype_is_float(given->dtype))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "weight %s has datatype %s, it must be F16, BF16, F32 or F64", name,
                                named->foreign != NULL ? named->foreign
                                                       : engine_tensor_dtype_name(given->dtype));
    expected_shape(config, known, weight, &wanted);
    ENGINE_TRY(check_shape(name, given, &wanted, err));
    ENGINE_TRY(allocate(weights, weight, given, wide, err));
    struct engine_tensor *t = &weights->tensors[weight];
    size_t count = 0;
    (void)engine_tensor_count(t, &count);
    engine_tensor_to_f32(given->dtype, given->data, t->data, count);
    if (weight == ENGINE_WEIGHT_POSITIONS)
        engine_tensor_round(engine_layer_dtype(config->policy), t->data, count);
    for (size_t i = 0; wide && i < count; i++)
        weights->wide[weight][i] = engine_tensor_get(given, i);
    return ENGINE_OK;
}

/* ---- widths ----------------------------------------------------------------------------- */

static int64_t width_of(const struct engine_weights *weights, enum engine_weight weight)
{
    return weights->tensors[weight].data != NULL ? weights->tensors[weight].shape[0] : -1;
}

/* What is known about a weight from those before it. */
static void look_back(const struct engine_weights *weights,
                      const struct engine_layer_config *config, enum engine_weight weight,
                      struct known *known)
{
    known->width = -1;
    if (weight == ENGINE_WEIGHT_VALUE_NEW_KERNEL)
        known->width = width_of(weights, ENGINE_WEIGHT_VALUE_REUSE_KERNEL);
    if (config->output_rank > 0 || known->output_rank > 0)
        return;
    int64_t query = width_of(weights, ENGINE_WEIGHT_QUERY_KERNEL);
    if (query < 0)
        return;
    known->output_rank = 1; /* not given: the query's width */
    known->output[0] = query;
}

/* After an output kernel: its trailing dimensions hold for the others. */
static void learn_output(const struct engine_tensor *kernel, struct known *known)
{
    known->output_rank = kernel->rank - 2;
    memcpy(known->output, kernel->shape + 2, (size_t)known->output_rank * sizeof known->output[0]);
}

static void start_known(const struct engine_layer_config *config, struct known *ret)
{
    *ret = (struct known){.width = -1, .output_rank = -1};
    if (config->output_rank == 0)
        return;
    ret->output_rank = config->output_rank;
    memcpy(ret->output, config->output_shape, sizeof ret->output);
}

static void finish(struct engine_weights *weights, const struct known *known)
{
    weights->query_width = width_of(weights, ENGINE_WEIGHT_QUERY_KERNEL);
    weights->key_width = width_of(weights, ENGINE_WEIGHT_KEY_KERNEL);
    weights->value_width = width_of(weights, ENGINE_WEIGHT_VALUE_REUSE_KERNEL);
    if (weights->value_width < 0)
        weights->value_width = width_of(weights, ENGINE_WEIGHT_VALUE_NEW_KERNEL);
    weights->output_rank = known->output_rank;
    memcpy(weights->output_shape, known->output, sizeof weights->output_shape);
}

/* ---- loading ---------------------------------------------------------------------------- */

static enum engine_code load_all(struct engine_weights *weights,
                                 const struct engine_layer_config *config,
                                 const struct engine_named_tensor *tensors, size_t count,
                                 const char *prefix, struct engine_error *err)
{
    const struct engine_named_tensor *found[ENGINE_WEIGHT_COUNT];
    struct known known;
    ENGINE_TRY(engine_weight_names_find(config, tensors, count, prefix, found, err));
    start_known(config, &known);
    for (int i = 0; i < ENGINE_WEIGHT_COUNT; i++) {
        enum engine_weight weight = (enum engine_weight)i;
        if (found[i] == NULL)
            continue;
        look_back(weights, config, weight, &known);
        ENGINE_TRY(load_one(weights, config, &known, weight, found[i], err));
        if (weight == ENGINE_WEIGHT_OUTPUT_REUSE_KERNEL ||
            weight == ENGINE_WEIGHT_OUTPUT_NEW_KERNEL)
            learn_output(&weights->tensors[weight], &known);
    }
    finish(weights, &known);
    return ENGINE_OK;
}

enum engine_code engine_weights_load(struct engine_weights *ret,
                                     const struct engine_layer_config *config,
                                     const struct engine_named_tensor *tensors, size_t count,
                                     const char *prefix, struct engine_error *err)
{
    struct engine_weights weights = {0};
    enum engine_code code =
        load_all(&weights, config, tensors, count, prefix != NULL ? prefix : "", err);
    if (code != ENGINE_OK) {
        engine_weights_reset(&weights);
        return code;
    }
    *ret = weights;
    return ENGINE_OK;
}

/* ---- drawing ---------------------------------------------------------------------------- */

static int64_t shape_width(const struct engine_layer_shape *shape)
{
    return shape->rank > 0 ? shape->shape[shape->rank - 1] : -1;
}

static enum engine_code find_width(const struct engine_layer_config *config,
                                   enum engine_weight weight, int64_t *ret,
                                   struct engine_error *err)
{
    bool is_query = weight == ENGINE_WEIGHT_QUERY_KERNEL;
    bool is_key = weight == ENGINE_WEIGHT_KEY_KERNEL;
    const char *name = is_query ? "query_shape" : is_key ? "key_shape" : "value_shape";
    int64_t width = shape_width(is_query ? &config->query_shape
                                : is_key ? &config->key_shape
                                         : &config->value_shape);
    if (is_key && width < 1)
        width = shape_width(&config->value_shape);
    if (width < 1)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "%s gives no width; its last dimension is needed to initialize a "
                                "layer without a weight file",
                                name);
    *ret = width;
    return ENGINE_OK;
}

/* The position table: truncated_normal(stddev 0.2), whatever the kernels' initializer is. */
static const struct engine_initializer positions_initializer = {
    .kind = ENGINE_INITIALIZER_TRUNCATED_NORMAL, .stddev = 0.2};

static enum engine_code draw_one(struct engine_weights *weights,
                                 const struct engine_layer_config *config, struct known *known,
                                 enum engine_weight weight, uint64_t seed, struct engine_error *err)
{
    struct engine_tensor shape;
    bool wide = config->policy == ENGINE_POLICY_FLOAT64;
    if (strchr(weights_table[weight].shape, 'C') != NULL)
        ENGINE_TRY(find_width(config, weight, &known->width, err));
    expected_shape(config, known, weight, &shape);
    ENGINE_TRY(allocate(weights, weight, &shape, wide, err));
    const struct engine_initializer *initializer = weight == ENGINE_WEIGHT_POSITIONS
                                                       ? &positions_initializer
                                                   : is_bias(weight) ? &config->bias_initializer
                                                                     : &config->kernel_initializer;
    struct engine_tensor *t = &weights->tensors[weight];
    ENGINE_TRY(engine_initializers_fill(initializer, seed, (uint32_t)weight, t, err));
    size_t count = 0;
    (void)engine_tensor_count(t, &count);
    if (weight == ENGINE_WEIGHT_POSITIONS)
        engine_tensor_round(engine_layer_dtype(config->policy), t->data, count);
    for (size_t i = 0; wide && i < count; i++)
        weights->wide[weight][i] = (double)((const float *)t->data)[i];
    return ENGINE_OK;
}

static enum engine_code draw_all(struct engine_weights *weights,
                                 const struct engine_layer_config *config, uint64_t seed,
                                 struct engine_error *err)
{
    struct known known;
    start_known(config, &known);
    if (known.output_rank < 0) {
        ENGINE_TRY(find_width(config, ENGINE_WEIGHT_QUERY_KERNEL, &known.output[0], err));
        known.output_rank = 1;
    }
    for (int i = 0; i < ENGINE_WEIGHT_COUNT; i++)
        if (engine_weights_expected(config, (enum engine_weight)i))
            ENGINE_TRY(draw_one(weights, config, &known, (enum engine_weight)i, seed, err));
    finish(weights, &known);
    return ENGINE_OK;
}

enum engine_code engine_weights_draw(struct engine_weights *ret,
                                     const struct engine_layer_config *config, uint64_t seed,
                                     struct engine_error *err)
{
    struct engine_weights weights = {0};
    enum engine_code code = draw_all(&weights, config, seed, err);
    if (code != ENGINE_OK) {
        engine_weights_reset(&weights);
        return code;
    }
    *ret = weights;
    return ENGINE_OK;
}

void engine_weights_reset(struct engine_weights *weights)
{
    for (int i = 0; i < ENGINE_WEIGHT_COUNT; i++) {
        free(weights->tensors[i].data);
        free(weights->wide[i]);
    }
    memset(weights, 0, sizeof *weights);
}
