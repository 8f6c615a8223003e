/* model.c - see model.h and engine.h. */
#include "engine/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/instance.h"
#include "engine/penalties.h"

/* Columns of a block: own kernels prefetch the next block while this one (768 x 64 floats are
 * 196 KB) stays in L2; sgemm packs its left operand anew for each call and wants them wide. */
enum { BLOCK_COLUMNS = 64, BLOCK_COLUMNS_SGEMM = 256, HUGE_PAGE_BYTES = 2 << 20 };

/* ---- packing ------------------------------------------------------------------------------ */

static void lay_out(struct engine_model_projection *p, const struct engine_kernel *kernel,
                    int64_t depth, int64_t heads, int64_t width)
{
    int64_t columns = kernel == engine_kernel_sgemm() ? BLOCK_COLUMNS_SGEMM : BLOCK_COLUMNS;
    *p = (struct engine_model_projection){.depth = depth, .heads = heads, .width = width};
    if (heads == 0 || width == 0)
        return;
    p->block_heads = width >= columns ? 1 : columns / width;
    p->block_heads = p->block_heads < heads ? p->block_heads : heads;
    p->blocks = (heads + p->block_heads - 1) / p->block_heads;
}

/* Sizes of the operands, with *memory as the first one's place (NULL to count only). */
static size_t place(struct engine_model_projection *p, const struct engine_kernel *kernel,
                    char *memory)
{
    size_t bytes = 0;
    for (int64_t b = 0; b < p->blocks; b++) {
        int64_t heads = p->heads - b * p->block_heads;
        heads = heads < p->block_heads ? heads : p->block_heads;
        struct engine_right right = {0};
        size_t size = kernel->right_init(&right, p->depth, heads * p->width, false);
        size = (size + 63) & ~(size_t)63;
        if (memory != NULL) {
            right.data = memory + bytes;
            right.bytes = size;
            p->rights[b] = right;
        }
        bytes += size;
    }
    return bytes;
}

/* A kernel of `heads` heads from head0 on, [depth][heads][width], or for the output
 * [heads * dim][columns] at depth k0; each column block gets its rows. */
struct source {
    const float *data;
    int64_t k0, depth, head0, heads;
    float factor;
};

static enum engine_code write_block(const struct engine_kernel *kernel,
                                    const struct engine_model_projection *p, int64_t b,
                                    const struct source *sources, int count,
                                    enum engine_dtype dtype, struct engine_error *err)
{
    const struct engine_right *right = &p->rights[b];
    int64_t first = b * p->block_heads * p->width, columns = right->columns;
    float *tile = calloc((size_t)(p->depth * columns) + 1, sizeof *tile);
    if (tile == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory to pack the weights");
    for (int i = 0; i < count; i++) {
        const struct source *s = &sources[i];
        int64_t column0 = s->head0 * p->width, stride = s->heads * p->width;
        for (int64_t k = 0; k < s->depth; k++)
            for (int64_t j = 0; j < columns; j++)
                if (first + j >= column0 && first + j < column0 + stride)
                    tile[(s->k0 + k) * columns + j] =
                        s->data[k * stride + first + j - column0] * s->factor;
    }
    engine_tensor_round(dtype, tile, (size_t)(p->depth * columns));
    kernel->right_write_rows(right, 0, p->depth, 0, columns, tile, columns);
    free(tile);
    return ENGINE_OK;
}

/* Two output layers whose sums are rounded one by one. */
static bool has_two_outputs(const struct engine_layer_config *config)
{
    return engine_layer_rounds(config->policy) && engine_layer_heads_new(config) > 0 &&
           engine_layer_heads_reused(config) > 0;
}

static float query_factor(const struct engine_layer_config *config)
{
    return engine_layer_rounds(config->policy) ? 1.0f
                                               : (float)(1.0 / sqrt((double)config->key_dim));
}

static const float *weight(const struct engine_model *model, enum engine_weight index)
{
    return model->weights.tensors[index].data;
}

/* The one or two layers that a merged projection is made of. */
static int part_sources(const struct engine_model *model, enum engine_model_part part,
                        struct source ret[2])
{
    int64_t fresh = engine_layer_heads_new(&model->config);
    int64_t reused = engine_layer_heads_reused(&model->config);
    int64_t dim = engine_layer_value_dim(&model->config);
    const struct engine_weights *w = &model->weights;
    int count = 0;
    switch (part) {
    case ENGINE_MODEL_QUERY:
        ret[count++] = (struct source){weight(model, ENGINE_WEIGHT_QUERY_KERNEL),
                                       0,
                                       w->query_width,
                                       0,
                                       fresh,
                                       query_factor(&model->config)};
        return count;
    case ENGINE_MODEL_KEY:
        ret[count++] = (struct source){
            weight(model, ENGINE_WEIGHT_KEY_KERNEL), 0, w->key_width, 0, fresh, 1.0f};
        return count;
    case ENGINE_MODEL_VALUE:
        if (reused > 0)
            ret[count++] = (struct source){weight(model, ENGINE_WEIGHT_VALUE_REUSE_KERNEL),
                                           0,
                                           w->value_width,
                                           0,
                                           reused,
                                           1.0f};
        if (fresh > 0)
            ret[count++] = (struct source){weight(model, ENGINE_WEIGHT_VALUE_NEW_KERNEL),
                                           0,
                                           w->value_width,
                                           reused,
                                           fresh,
                                           1.0f};
        return count;
    default:
        break;
    }
    int64_t columns = engine_model_output_width(model);
    bool both = !has_two_outputs(&model->config);
    if (reused > 0 && (both || part == ENGINE_MODEL_OUTPUT))
        ret[count++] = (struct source){
            weight(model, ENGINE_WEIGHT_OUTPUT_REUSE_KERNEL), 0, reused * dim, 0, columns, 1.0f};
    if (fresh > 0 && (both || part == ENGINE_MODEL_OUTPUT_NEW))
        ret[count++] = (struct source){weight(model, ENGINE_WEIGHT_OUTPUT_NEW_KERNEL),
                                       both ? reused * dim : 0,
                                       fresh * dim,
                                       0,
                                       columns,
                                       1.0f};
    return count;
}

static void part_sizes(const struct engine_model *model, enum engine_model_part part,
                       int64_t *depth, int64_t *heads, int64_t *width)
{
    const struct engine_layer_config *config = &model->config;
    int64_t fresh = engine_layer_heads_new(config), dim = engine_layer_value_dim(config);
    switch (part) {
    case ENGINE_MODEL_QUERY:
        *depth = model->weights.query_width, *heads = fresh, *width = config->key_dim;
        return;
    case ENGINE_MODEL_KEY:
        *depth = model->weights.key_width, *heads = fresh, *width = config->key_dim;
        return;
    case ENGINE_MODEL_VALUE:
        *depth = model->weights.value_width, *heads = config->num_heads, *width = dim;
        return;
    case ENGINE_MODEL_OUTPUT_NEW:
        if (!has_two_outputs(config))
            return;
        *depth = fresh * dim, *heads = engine_model_output_width(model), *width = 1;
        return;
    default:
        *depth = (has_two_outputs(config) ? config->num_heads - fresh : config->num_heads) * dim;
        *heads = engine_model_output_width(model), *width = 1;
    }
}

/* Bias of a merged projection: absent, one vector, or two end to end. */
static enum engine_code part_bias(const struct engine_model *model, enum engine_model_part part,
                                  int64_t columns, float **ret, struct engine_error *err)
{
    static const enum engine_weight pairs[ENGINE_MODEL_PARTS][2] = {
        {ENGINE_WEIGHT_QUERY_BIAS, ENGINE_WEIGHT_QUERY_BIAS},
        {ENGINE_WEIGHT_KEY_BIAS, ENGINE_WEIGHT_KEY_BIAS},
        {ENGINE_WEIGHT_VALUE_REUSE_BIAS, ENGINE_WEIGHT_VALUE_NEW_BIAS},
        {ENGINE_WEIGHT_OUTPUT_REUSE_BIAS, ENGINE_WEIGHT_OUTPUT_NEW_BIAS},
        {ENGINE_WEIGHT_OUTPUT_NEW_BIAS, ENGINE_WEIGHT_OUTPUT_NEW_BIAS},
    };
    const float *first = weight(model, pairs[part][0]);
    const float *second = pairs[part][1] != pairs[part][0] ? weight(model, pairs[part][1]) : NULL;
    *ret = NULL;
    if ((first == NULL && second == NULL) || columns == 0)
        return ENGINE_OK;
    float *bias = calloc((size_t)columns, sizeof *bias);
    if (bias == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory to pack the biases");
    int64_t at = 0;
    for (int i = 0; i < 2; i++) {
        const float *from = i == 0 ? first : second;
        size_t count = 0;
        if (from == NULL || !engine_tensor_count(&model->weights.tensors[pairs[part][i]], &count))
            continue;
        memcpy(bias + at, from, count * sizeof *bias);
        at += (int64_t)count;
    }
    if (part == ENGINE_MODEL_QUERY)
        for (int64_t i = 0; i < columns; i++)
            bias[i] *= query_factor(&model->config);
    engine_tensor_round(engine_layer_dtype(model->config.policy), bias, (size_t)columns);
    *ret = bias;
    return ENGINE_OK;
}

static void reset_packed(struct engine_model_packed *packed)
{
    for (int i = 0; i < ENGINE_MODEL_PARTS; i++) {
        free(packed->parts[i].rights);
        free(packed->biases[i]);
    }
    free(packed->memory);
    *packed = (struct engine_model_packed){0};
}

static enum engine_code pack_part(const struct engine_model *model, struct engine_model_packed *ret,
                                  enum engine_model_part part, char *memory,
                                  struct engine_error *err)
{
    struct engine_model_projection *p = &ret->parts[part];
    struct source sources[2];
    int count = p->heads > 0 ? part_sources(model, part, sources) : 0;
    (void)place(p, ret->kernel, memory);
    for (int64_t b = 0; b < p->blocks; b++)
        ENGINE_TRY(write_block(ret->kernel, p, b, sources, count,
                               engine_layer_dtype(model->config.policy), err));
    ENGINE_TRY(part_bias(model, part, p->heads * p->width, &ret->biases[part], err));
    p->bias = ret->biases[part];
    return ENGINE_OK;
}

/* A block is read from end to end for every rows that pass: with small pages that is a miss in the
 * translation cache every 64 lines. */
static void *alloc_weights(size_t bytes)
{
    size_t page = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 64;
    size_t rounded = (bytes + page - 1) / page * page;
    void *memory = aligned_alloc(page, rounded);
    if (memory != NULL && page == HUGE_PAGE_BYTES)
        (void)madvise(memory, rounded, MADV_HUGEPAGE); /* a wish; slower without, not wrong */
    return memory;
}

static enum engine_code pack(const struct engine_model *model, const struct engine_kernel *kernel,
                             struct engine_model_packed *ret, struct engine_error *err)
{
    size_t sizes[ENGINE_MODEL_PARTS], offset = 0;
    struct engine_model_packed packed = {.kernel = kernel};
    enum engine_code code = ENGINE_OK;
    for (int i = 0; i < ENGINE_MODEL_PARTS; i++) {
        int64_t depth = 0, heads = 0, width = 0;
        part_sizes(model, (enum engine_model_part)i, &depth, &heads, &width);
        lay_out(&packed.parts[i], kernel, depth, heads, width);
        sizes[i] = place(&packed.parts[i], kernel, NULL);
        packed.bytes += sizes[i];
        packed.parts[i].rights =
            calloc((size_t)packed.parts[i].blocks + 1, sizeof *packed.parts[i].rights);
        if (packed.parts[i].rights == NULL)
            code = ENGINE_OUT_OF_MEMORY;
    }
    packed.memory = alloc_weights(packed.bytes + 64);
    if (code != ENGINE_OK || packed.memory == NULL) {
        reset_packed(&packed);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory to pack the weights");
    }
    memset(packed.memory, 0, packed.bytes + 64);
    for (int i = 0; i < ENGINE_MODEL_PARTS && code == ENGINE_OK; i++) {
        code = pack_part(model, &packed, (enum engine_model_part)i, (char *)packed.memory + offset,
                         err);
        offset += sizes[i];
    }
    if (code != ENGINE_OK)
        reset_packed(&packed);
    else
        *ret = packed;
    return code;
}

enum engine_code engine_model_pack(struct engine_model *model, const struct engine_kernel *kernel,
                                   const struct engine_model_packed **ret, struct engine_error *err)
{
    struct engine_model_packed *packed = model->packed;
    enum engine_code code = ENGINE_OK;
    pthread_mutex_lock(&model->lock);
    while (packed->kernel != NULL && packed->kernel != kernel)
        packed++;
    if (packed->kernel == NULL)
        code = pack(model, kernel, packed, err);
    pthread_mutex_unlock(&model->lock);
    *ret = packed;
    return code;
}

/* ---- models --------------------------------------------------------------------------------- */

int64_t engine_model_output_width(const struct engine_model *model)
{
    int64_t width = 1;
    for (int i = 0; i < model->weights.output_rank; i++)
        width *= model->weights.output_shape[i];
    return width;
}

static void bound_positions(struct engine_model *model)
{
    const struct engine_tensor *t = &model->weights.tensors[ENGINE_WEIGHT_POSITIONS];
    size_t count = 0;
    if (t->data == NULL || !engine_tensor_count(t, &count))
        return;
    for (size_t i = 0; i < count; i++) {
        float size = fabsf(((const float *)t->data)[i]);
        if (!(size <= model->position_bound)) /* NaN stays, and is no bound */
            model->position_bound = size;
    }
}

static enum engine_code fill(struct engine_model *model, const struct engine_model_source *source,
                             struct engine_error *err)
{
    const struct engine_model_packed *packed;
    ENGINE_TRY(engine_layer_check(&model->config, err));
    if (source->initialize)
        ENGINE_TRY(engine_weights_draw(&model->weights, &model->config, source->seed, err));
    else
        ENGINE_TRY(engine_weights_load(&model->weights, &model->config, source->weights,
                                       source->weights_count,
                                       source->prefix != NULL ? source->prefix : "", err));
    bound_positions(model);
    if (model->config.policy == ENGINE_POLICY_FLOAT64)
        return ENGINE_OK; /* the reference reads the weights as they are */
    enum engine_precision precision = engine_instance_precision(model->engine, model->precision);
    ENGINE_TRY(engine_model_pack(model, engine_instance_kernel(model->engine, precision, 0),
                                 &packed, err));
    if (engine_layer_rounds(model->config.policy))
        return ENGINE_OK; /* no other kernel serves it */
    return engine_model_pack(model, engine_instance_kernel(model->engine, precision, INT64_MAX),
                             &packed, err);
}

enum engine_code engine_model_create(struct engine *engine,
                                     const struct engine_model_source *source,
                                     struct engine_model **ret, struct engine_error *err)
{
    struct engine_model *model = calloc(1, sizeof *model);
    if (model == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a model");
    atomic_store(&model->references, 1);
    pthread_mutex_init(&model->lock, NULL);
    model->engine = engine;
    model->config = *source->config;
    model->precision = source->precision;
    enum engine_code code = fill(model, source, err);
    if (code != ENGINE_OK) {
        engine_model_release(model);
        return code;
    }
    *ret = model;
    return ENGINE_OK;
}

void engine_model_retain(struct engine_model *model)
{
    atomic_fetch_add(&model->references, 1);
}

void engine_model_release(struct engine_model *model)
{
    if (model == NULL || atomic_fetch_sub(&model->references, 1) != 1)
        return;
    for (int i = 0; i < ENGINE_MODEL_PACKINGS; i++)
        reset_packed(&model->packed[i]);
    engine_weights_reset(&model->weights);
    pthread_mutex_destroy(&model->lock);
    free(model);
}

const struct engine_layer_config *engine_model_config(const struct engine_model *model)
{
    return &model->config;
}

enum engine_precision engine_model_precision(const struct engine_model *model)
{
    return engine_instance_precision(model->engine, model->precision);
}

enum engine_precision engine_model_precision_wished(const struct engine_model *model)
{
    return model->precision != ENGINE_PRECISION_DEFAULT ? model->precision
                                                        : model->engine->precision;
}

const char *engine_model_precision_name(const struct engine_model *model,
                                        enum engine_precision precision)
{
    bool is_wide = model->config.policy == ENGINE_POLICY_FLOAT64;
    return is_wide ? "f64" : engine_precision_name(precision);
}

size_t engine_model_bytes(const struct engine_model *model)
{
    size_t bytes = model->weights.bytes;
    for (int i = 0; i < ENGINE_MODEL_PACKINGS; i++)
        bytes += model->packed[i].bytes;
    return bytes;
}

int64_t engine_model_width(const struct engine_model *model, int input)
{
    switch (input) {
    case ENGINE_QUERY:
        return model->weights.query_width;
    case ENGINE_VALUE:
        return model->weights.value_width;
    case ENGINE_KEY:
        return model->weights.key_width;
    default:
        return -1;
    }
}

bool engine_model_weight(const struct engine_model *model, size_t i,
                         struct engine_named_tensor *ret)
{
    for (int w = 0; w < ENGINE_WEIGHT_COUNT; w++) {
        if (model->weights.tensors[w].data == NULL || i-- != 0)
            continue;
        ret->name = engine_weights_name((enum engine_weight)w);
        ret->tensor = model->weights.tensors[w];
        return true;
    }
    return false;
}

void engine_model_penalties(const struct engine_model *model, struct engine_penalties *ret)
{
    const struct engine_layer_config *config = &model->config;
    *ret = (struct engine_penalties){.kernel_constraint_satisfied = true,
                                     .bias_constraint_satisfied = true};
    for (int i = ENGINE_WEIGHT_QUERY_KERNEL; i < ENGINE_WEIGHT_COUNT; i++) {
        const struct engine_tensor *t = &model->weights.tensors[i];
        bool is_bias = (i - ENGINE_WEIGHT_QUERY_KERNEL) % 2 == 1;
        bool *satisfied =
            is_bias ? &ret->bias_constraint_satisfied : &ret->kernel_constraint_satisfied;
        if (t->data == NULL)
            continue;
        ret->regularization_loss += engine_penalties_loss(
            is_bias ? &config->bias_regularizer : &config->kernel_regularizer, t);
        if (!engine_penalties_satisfied(
                is_bias ? &config->bias_constraint : &config->kernel_constraint, t))
            *satisfied = false;
    }
}
