/* engine_forward_test.c - does a run compute what the reference defines? Random layers and calls:
 * T and S different, some, all or no heads reused, one head, one token, odd sizes, masks, relative
 * positions, dropout, tiles cut in blocks. And are the bits the same on one thread, on two, and
 * inline? Fixed seed: a failure repeats. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/model.h"
#include "engine/reference.h"

#define TOLERANCE 2e-5

struct state {
    uint64_t random;
    double worst;
};

static int64_t below(struct state *s, int64_t n)
{
    s->random = s->random * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((s->random >> 33) % (uint64_t)n);
}

static struct engine_tensor random_tensor(struct state *s, int rank, const int64_t *shape)
{
    struct engine_tensor t = {.dtype = ENGINE_F32, .rank = rank};
    size_t count = 0;
    memcpy(t.shape, shape, (size_t)rank * sizeof *shape);
    assert_true(engine_tensor_count(&t, &count));
    float *values = malloc((count + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(below(s, 20001) - 10000) / 5000.0f;
    t.data = values;
    return t;
}

static void random_config(struct state *s, struct engine_layer_config *config, int64_t width)
{
    engine_layer_defaults(config);
    config->num_heads = 1 + below(s, 4);
    config->key_dim = 1 + below(s, 40);
    config->value_dim = below(s, 2) ? 0 : 1 + below(s, 40);
    config->reuse_attention = below(s, 3) ? 0 : below(s, config->num_heads + 2) - 1;
    config->use_relative_pe = below(s, 2) != 0;
    config->pe_max_seq_length = 1 + below(s, 200);
    config->dropout = 0.25;
    config->use_bias = below(s, 4) != 0;
    config->bias_initializer.kind = ENGINE_INITIALIZER_RANDOM_NORMAL;
    config->bias_initializer.stddev = 0.5;
    config->query_shape = config->key_shape = config->value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, width}};
}

struct answer {
    float *outputs[2];
    size_t bytes[2];
};

static void run(struct engine *engine, struct engine_model *model, const struct engine_call *call,
                bool is_inline, struct answer *ret)
{
    struct engine_error err = {0};
    struct engine_plan *plan;
    if (engine_plan_create(engine, model, call, &plan, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < 2; i++) {
        ret->bytes[i] = engine_plan_facts(plan)->output_bytes[i];
        ret->outputs[i] = aligned_alloc(64, (ret->bytes[i] + 64) / 64 * 64);
        assert_non_null(ret->outputs[i]);
        memset(ret->outputs[i], 0xff, ret->bytes[i]);
        engine_plan_output(plan, (enum engine_output)i, ret->outputs[i]);
    }
    enum engine_code code =
        is_inline ? engine_run_inline(engine, plan, &err) : engine_run(engine, plan, &err);
    if (code != ENGINE_OK)
        fail_msg("%s", err.message);
    engine_plan_destroy(plan);
}

static void compare(struct state *s, const char *what, const float *got, const double *wanted,
                    size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof *got; i++) {
        double error = fabs((double)got[i] - wanted[i]) / (1 + fabs(wanted[i]));
        if (!(error <= TOLERANCE))
            fail_msg("%s[%zu] is %.9g, the reference says %.9g", what, i, (double)got[i],
                     wanted[i]);
        s->worst = error > s->worst ? error : s->worst;
    }
}

static void check_reference(struct state *s, struct engine_model *model,
                            const struct engine_call *call, const struct answer *answer)
{
    struct engine_error err = {0};
    struct engine_geometry g;
    struct engine_mask mask;
    const struct engine_tensor *given = &call->inputs[ENGINE_ATTENTION_MASK];
    assert_int_equal(engine_geometry_init(&g, &model->config, &model->weights, call, &err), 0);
    if (given->data != NULL)
        assert_int_equal(engine_mask_init(&mask, given, &g, model->config.policy, &err), 0);
    double *output = malloc(2 * answer->bytes[0] + 8), *scores = malloc(2 * answer->bytes[1] + 8);
    const struct engine_reference reference = {.config = &model->config,
                                               .weights = &model->weights,
                                               .geometry = &g,
                                               .call = call,
                                               .mask = given->data != NULL ? &mask : NULL,
                                               .output = output,
                                               .scores = scores};
    assert_int_equal(engine_reference_run(&reference, 0, g.outer, NULL, NULL, &err), 0);
    compare(s, "scores", answer->outputs[1], scores, answer->bytes[1]);
    compare(s, "output", answer->outputs[0], output, answer->bytes[0]);
    free(output);
    free(scores);
}

static void random_call(struct state *s, const struct engine_layer_config *config, int64_t width,
                        struct engine_call *call)
{
    static const int64_t sizes[] = {1, 2, 7, 16, 33, 130, 300};
    int64_t batch = 1 + below(s, 3), queries = sizes[below(s, 7)];
    int64_t keys = below(s, 2) ? queries : sizes[below(s, 7)];
    engine_call_init(call);
    call->wanted[ENGINE_ATTENTION_SCORES] = true;
    call->training = below(s, 4) == 0;
    call->inputs[ENGINE_QUERY] = random_tensor(s, 3, (int64_t[]){batch, queries, width});
    call->inputs[ENGINE_VALUE] = random_tensor(s, 3, (int64_t[]){batch, keys, width});
    call->inputs[ENGINE_REUSE_ATTENTION_SCORES] =
        random_tensor(s, 4, (int64_t[]){batch, config->num_heads, queries, keys});
    if (below(s, 3) == 0)
        return;
    int64_t live = below(s, 2) ? keys : 1 + below(s, keys);
    struct engine_tensor mask =
        random_tensor(s, 3, (int64_t[]){batch, below(s, 2) ? 1 : queries, keys});
    for (int64_t i = 0; i < batch * mask.shape[1] * keys; i++)
        ((float *)mask.data)[i] = i % keys < live ? 1.0f : 0.0f;
    call->inputs[ENGINE_ATTENTION_MASK] = mask;
}

static void one_case(struct state *s, struct engine *const engines[2])
{
    struct engine_layer_config config;
    struct engine_error err = {0};
    struct engine_model *models[2];
    struct engine_call call;
    struct answer answers[3];
    int64_t width = 1 + below(s, 70);
    random_config(s, &config, width);
    random_call(s, &config, width, &call);
    const struct engine_model_source source = {
        .config = &config, .initialize = true, .seed = (uint64_t)below(s, 1000)};
    for (int i = 0; i < 2; i++)
        if (engine_model_create(engines[i], &source, &models[i], &err) != ENGINE_OK)
            fail_msg("%s", err.message);
    run(engines[0], models[0], &call, false, &answers[0]);
    run(engines[1], models[1], &call, false, &answers[1]);
    run(engines[0], models[0], &call, true, &answers[2]);
    for (int i = 1; i < 3; i++)
        for (int j = 0; j < 2; j++)
            assert_memory_equal(answers[0].outputs[j], answers[i].outputs[j], answers[0].bytes[j]);
    check_reference(s, models[0], &call, &answers[0]);
    for (int i = 0; i < 6; i++)
        free(answers[i / 2].outputs[i % 2]);
    for (int i = 0; i < 2; i++)
        engine_model_release(models[i]);
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++)
        free(call.inputs[i].data);
}

static void random_layers_agree_with_the_reference(void **unused)
{
    struct state s = {.random = 7};
    struct engine_error err = {0};
    struct engine *engines[2];
    (void)unused;
    for (int i = 0; i < 2; i++)
        assert_int_equal(engine_open(&(struct engine_options){.threads = i + 1}, &engines[i], &err),
                         ENGINE_OK);
    for (int i = 0; i < 200; i++)
        one_case(&s, engines);
    printf("worst error, relative to 1 + |wanted|: %.2g\n", s.worst);
    for (int i = 0; i < 2; i++)
        engine_close(engines[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_layers_agree_with_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
