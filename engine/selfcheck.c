/* selfcheck.c - see selfcheck.h. */
#include "engine/selfcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model.h"
#include "engine/plan.h"
#include "engine/reference.h"

/* No dimension is a multiple of a vector; T is longer than a block of rows of any kernel, S longer
 * than two tiles of 16 keys. */
enum {
    BATCH = 2,
    QUERIES = 35,
    KEYS = 37,
    WIDTH = 19,
    HEADS = 3,
    REUSED = 1,
    KEY_DIM = 5,
    VALUE_DIM = 7,
    POSITIONS = 11,
    LIVE_KEYS = 23, /* in the first batch row; all in the second */
    OUTPUTS = BATCH * QUERIES * WIDTH,
    SCORES = BATCH * HEADS * QUERIES * KEYS
};

static const double bounds[] = {
    [ENGINE_PRECISION_F32] = 2e-5, [ENGINE_PRECISION_X3] = 2e-4, [ENGINE_PRECISION_BF16] = 4e-2};

struct data {
    float query[BATCH * QUERIES * WIDTH], value[BATCH * KEYS * WIDTH];
    float mask[BATCH * KEYS], reused[BATCH * REUSED * QUERIES * KEYS];
    float output[OUTPUTS] __attribute__((aligned(64))), scores[SCORES] __attribute__((aligned(64)));
    double wanted_output[OUTPUTS], wanted_scores[SCORES];
};

static void configure(struct engine_layer_config *config)
{
    engine_layer_defaults(config);
    config->num_heads = HEADS;
    config->reuse_attention = REUSED;
    config->key_dim = KEY_DIM;
    config->value_dim = VALUE_DIM;
    config->use_relative_pe = true;
    config->pe_max_seq_length = POSITIONS;
    config->bias_initializer.kind = ENGINE_INITIALIZER_RANDOM_NORMAL;
    config->bias_initializer.stddev = 0.1;
    config->query_shape = config->key_shape = config->value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, WIDTH}};
}

static void fill(float *values, int count, float least, float range, uint32_t *random)
{
    for (int i = 0; i < count; i++) {
        *random = *random * 1664525u + 1013904223u;
        values[i] = least + range * (float)(*random >> 8) * 0x1p-24f;
    }
}

static void prepare(struct data *data, struct engine_call *call)
{
    uint32_t random = 1;
    fill(data->query, BATCH * QUERIES * WIDTH, -2, 4, &random);
    fill(data->value, BATCH * KEYS * WIDTH, -2, 4, &random);
    fill(data->reused, BATCH * REUSED * QUERIES * KEYS, 0, 2.0f / KEYS, &random);
    for (int i = 0; i < BATCH * KEYS; i++)
        data->mask[i] = i < LIVE_KEYS || i >= KEYS ? 1 : 0;
    engine_call_init(call);
    call->wanted[ENGINE_ATTENTION_SCORES] = true;
    call->inputs[ENGINE_QUERY] =
        (struct engine_tensor){ENGINE_F32, 3, {BATCH, QUERIES, WIDTH}, data->query};
    call->inputs[ENGINE_VALUE] =
        (struct engine_tensor){ENGINE_F32, 3, {BATCH, KEYS, WIDTH}, data->value};
    call->inputs[ENGINE_ATTENTION_MASK] =
        (struct engine_tensor){ENGINE_F32, 3, {BATCH, 1, KEYS}, data->mask};
    call->inputs[ENGINE_REUSE_ATTENTION_SCORES] =
        (struct engine_tensor){ENGINE_F32, 4, {BATCH, REUSED, QUERIES, KEYS}, data->reused};
}

static enum engine_code define(struct engine_model *model, const struct engine_call *call,
                               struct data *data, struct engine_error *err)
{
    struct engine_geometry geometry;
    struct engine_mask mask;
    ENGINE_TRY(engine_geometry_init(&geometry, &model->config, &model->weights, call, err));
    ENGINE_TRY(engine_mask_init(&mask, &call->inputs[ENGINE_ATTENTION_MASK], &geometry,
                                model->config.policy, err));
    const struct engine_reference reference = {.config = &model->config,
                                               .weights = &model->weights,
                                               .geometry = &geometry,
                                               .call = call,
                                               .mask = &mask,
                                               .output = data->wanted_output,
                                               .scores = data->wanted_scores};
    return engine_reference_run(&reference, 0, geometry.outer, NULL, NULL, err);
}

static enum engine_code compute(struct engine *engine, struct engine_model *model,
                                const struct engine_call *call, struct data *data,
                                struct engine_error *err)
{
    struct engine_plan *plan;
    ENGINE_TRY(engine_plan_create(engine, model, call, &plan, err));
    engine_plan_output(plan, ENGINE_ATTENTION_OUTPUT, data->output);
    engine_plan_output(plan, ENGINE_ATTENTION_SCORES, data->scores);
    enum engine_code code = engine_run_inline(engine, plan, err);
    engine_plan_destroy(plan);
    return code;
}

/* NaN anywhere is an infinite error. */
static double greatest_error(const float *got, const double *wanted, int count)
{
    double worst = 0;
    for (int i = 0; i < count; i++) {
        double error = fabs((double)got[i] - wanted[i]) / (1 + fabs(wanted[i]));
        if (!(error <= worst))
            worst = isnan(error) ? (double)INFINITY : error;
    }
    return worst;
}

bool engine_selfcheck_run(struct engine *engine, enum engine_precision precision, double *ret_error,
                          struct engine_error *err)
{
    struct engine_layer_config config;
    struct engine_call call;
    struct engine_model *model = NULL;
    struct data *data = aligned_alloc(64, (sizeof *data + 63) & ~(size_t)63);
    *ret_error = (double)INFINITY;
    if (data == NULL) {
        engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the self-check");
        return false;
    }
    configure(&config);
    prepare(data, &call);
    const struct engine_model_source source = {
        .config = &config, .initialize = true, .seed = 1, .precision = precision};
    if (engine_model_create(engine, &source, &model, err) == ENGINE_OK &&
        define(model, &call, data, err) == ENGINE_OK &&
        compute(engine, model, &call, data, err) == ENGINE_OK) {
        double of_output = greatest_error(data->output, data->wanted_output, OUTPUTS);
        double of_scores = greatest_error(data->scores, data->wanted_scores, SCORES);
        *ret_error = of_output > of_scores ? of_output : of_scores;
    }
    engine_model_release(model);
    free(data);
    return *ret_error <= bounds[precision];
}
