/* engine_support.h - what the engine's tests share: random tensors, a run with fresh outputs, and
 * the same call by the reference. Deterministic: each test says its seed. */
#ifndef TESTS_UNIT_ENGINE_SUPPORT_H
#define TESTS_UNIT_ENGINE_SUPPORT_H

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

#define SUPPORT __attribute__((unused)) static

struct support_random {
    uint64_t state;
};

SUPPORT int64_t support_below(struct support_random *r, int64_t n)
{
    r->state = r->state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((r->state >> 33) % (uint64_t)n);
}

/* In [-2, 2]. */
SUPPORT float support_value(struct support_random *r)
{
    return (float)(support_below(r, 20001) - 10000) / 5000.0f;
}

SUPPORT void *support_memory(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
    assert_non_null(memory);
    return memory;
}

SUPPORT size_t support_count(const struct engine_tensor *t)
{
    size_t count = 0;
    assert_true(engine_tensor_count(t, &count));
    return count;
}

SUPPORT void support_set(struct engine_tensor *t, size_t i, double value)
{
    float narrow = (float)value;
    switch (t->dtype) {
    case ENGINE_F16:
        ((uint16_t *)t->data)[i] = engine_tensor_f16_bits(narrow);
        return;
    case ENGINE_BF16:
        ((uint16_t *)t->data)[i] = engine_tensor_bf16_bits(narrow);
        return;
    case ENGINE_F32:
        ((float *)t->data)[i] = narrow;
        return;
    case ENGINE_F64:
        ((double *)t->data)[i] = value;
        return;
    default:
        memset((char *)t->data + i * engine_tensor_element_bytes(t->dtype), 0,
               engine_tensor_element_bytes(t->dtype));
        *((char *)t->data + i * engine_tensor_element_bytes(t->dtype)) = (char)value;
    }
}

SUPPORT struct engine_tensor support_tensor(enum engine_dtype dtype, int rank, const int64_t *shape)
{
    struct engine_tensor t = {.dtype = dtype, .rank = rank};
    memcpy(t.shape, shape, (size_t)rank * sizeof *shape);
    t.data = support_memory(support_count(&t) * engine_tensor_element_bytes(dtype));
    return t;
}

SUPPORT struct engine_tensor support_random_tensor(struct support_random *r,
                                                   enum engine_dtype dtype, int rank,
                                                   const int64_t *shape)
{
    struct engine_tensor t = support_tensor(dtype, rank, shape);
    size_t count = support_count(&t);
    for (size_t i = 0; i < count; i++)
        support_set(&t, i, (double)support_value(r));
    return t;
}

SUPPORT struct engine *support_open(int threads)
{
    struct engine_error err = {0};
    struct engine *engine = NULL;
    if (engine_open(&(struct engine_options){.threads = threads}, &engine, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    return engine;
}

SUPPORT struct engine_model *support_draw(struct engine *engine,
                                          const struct engine_layer_config *config)
{
    struct engine_error err = {0};
    struct engine_model *model = NULL;
    const struct engine_model_source source = {.config = config, .initialize = true, .seed = 3};
    if (engine_model_create(engine, &source, &model, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    return model;
}

struct support_answer {
    struct engine_tensor outputs[ENGINE_OUTPUT_COUNT]; /* data NULL: not wanted */
};

/* Outputs are filled with 0xff before: what is not written is NaN. */
SUPPORT void support_run(struct engine *engine, struct engine_model *model,
                         const struct engine_call *call, bool is_inline, struct support_answer *ret)
{
    struct engine_error err = {0};
    struct engine_plan *plan = NULL;
    memset(ret, 0, sizeof *ret);
    if (engine_plan_create(engine, model, call, &plan, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    const struct engine_plan_facts *facts = engine_plan_facts(plan);
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        if (!call->wanted[i])
            continue;
        void *data = support_memory(facts->output_bytes[i]);
        memset(data, 0xff, facts->output_bytes[i]);
        engine_plan_output(plan, (enum engine_output)i, data);
        ret->outputs[i] = facts->outputs[i];
    }
    enum engine_code code =
        is_inline ? engine_run_inline(engine, plan, &err) : engine_run(engine, plan, &err);
    if (code != ENGINE_OK)
        fail_msg("%s", err.message);
    engine_plan_destroy(plan);
}

SUPPORT void support_answer_reset(struct support_answer *answer)
{
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        free(answer->outputs[i].data);
    memset(answer, 0, sizeof *answer);
}

SUPPORT void support_call_reset(struct engine_call *call)
{
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++)
        free(call->inputs[i].data);
}

SUPPORT void support_same_bits(const struct support_answer *a, const struct support_answer *b)
{
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        size_t bytes = 0;
        if (a->outputs[i].data == NULL)
            continue;
        assert_true(engine_tensor_bytes(&a->outputs[i], &bytes));
        assert_memory_equal(a->outputs[i].data, b->outputs[i].data, bytes);
    }
}

/* The whole answer in double; caller frees both. */
struct support_reference {
    struct engine_geometry geometry;
    double *output, *scores;
};

SUPPORT void support_define(const struct engine_model *model, const struct engine_call *call,
                            struct support_reference *ret)
{
    struct engine_error err = {0};
    struct engine_mask mask;
    const struct engine_tensor *given = &call->inputs[ENGINE_ATTENTION_MASK];
    bool masked = given->data != NULL && engine_layer_heads_new(&model->config) > 0;
    if (engine_geometry_init(&ret->geometry, &model->config, &model->weights, call, &err) !=
            ENGINE_OK ||
        (masked &&
         engine_mask_init(&mask, given, &ret->geometry, model->config.policy, &err) != ENGINE_OK))
        fail_msg("%s", err.message);
    ret->output = support_memory(8 * support_count(&ret->geometry.output));
    ret->scores = support_memory(8 * support_count(&ret->geometry.scores));
    const struct engine_reference reference = {.config = &model->config,
                                               .weights = &model->weights,
                                               .geometry = &ret->geometry,
                                               .call = call,
                                               .mask = masked ? &mask : NULL,
                                               .output = ret->output,
                                               .scores = ret->scores};
    assert_int_equal(engine_reference_run(&reference, 0, ret->geometry.outer, NULL, NULL, &err),
                     ENGINE_OK);
}

#endif
