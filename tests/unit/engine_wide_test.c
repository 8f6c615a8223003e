/* engine_wide_test.c - policy float64: outputs are FP64 unless asked otherwise, have its digits,
 * and a long unit still stops when it is cancelled or late. */
#include "tests/unit/engine_support.h"

#include <semaphore.h>
#include <time.h>

static void configure(struct engine_layer_config *config, enum engine_policy policy)
{
    engine_layer_defaults(config);
    config->policy = policy;
    config->num_heads = 4;
    config->key_dim = 16;
    config->query_shape = config->key_shape = config->value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, 24}};
}

static void outputs_are_double_unless_asked_otherwise(void **unused)
{
    struct engine *engine = support_open(2);
    struct support_random r = {1};
    struct engine_layer_config config;
    struct engine_call call;
    struct support_answer wide, narrow;
    (void)unused;
    configure(&config, ENGINE_POLICY_FLOAT64);
    struct engine_model *model = support_draw(engine, &config);
    engine_call_init(&call);
    call.wanted[ENGINE_ATTENTION_SCORES] = true;
    call.inputs[ENGINE_QUERY] = support_random_tensor(&r, ENGINE_F64, 3, (int64_t[]){2, 7, 24});
    support_run(engine, model, &call, false, &wide);
    call.dtype[0] = call.dtype[1] = ENGINE_F32;
    support_run(engine, model, &call, false, &narrow);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(wide.outputs[i].dtype, ENGINE_F64);
        assert_int_equal(narrow.outputs[i].dtype, ENGINE_F32);
        for (size_t j = 0; j < support_count(&wide.outputs[i]); j++)
            assert_true((float)((double *)wide.outputs[i].data)[j] ==
                        ((float *)narrow.outputs[i].data)[j]);
    }
    for (int64_t row = 0; row < 2 * 4 * 7; row++) { /* only double keeps the sum to 1e-15 */
        double sum = 0;
        for (int64_t j = 0; j < 7; j++)
            sum += ((double *)wide.outputs[1].data)[row * 7 + j];
        assert_true(fabs(sum - 1) < 1e-14);
    }
    support_answer_reset(&wide);
    support_answer_reset(&narrow);
    support_call_reset(&call);
    engine_model_release(model);
    engine_close(engine);
}

/* ---- stopping ------------------------------------------------------------------------------- */

struct waiter {
    sem_t ended;
    enum engine_code code;
};

static void end(void *argument, enum engine_code code, const struct engine_error *err)
{
    struct waiter *waiter = argument;
    (void)err;
    waiter->code = code;
    sem_post(&waiter->ended);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* One unit of minutes: 30,000 queries and keys. Stopped by a deadline of 20 ms, or cancelled. */
static enum engine_code stop_long_job(bool cancel)
{
    struct engine *engine = support_open(1);
    struct support_random r = {1};
    struct engine_layer_config config;
    struct engine_call call;
    struct engine_plan *plan = NULL;
    struct engine_job *job = NULL;
    struct engine_error err = {0};
    struct waiter waiter;
    configure(&config, ENGINE_POLICY_FLOAT64);
    struct engine_model *model = support_draw(engine, &config);
    engine_call_init(&call);
    call.inputs[ENGINE_QUERY] = support_random_tensor(&r, ENGINE_F32, 3, (int64_t[]){1, 30000, 24});
    if (engine_plan_create(engine, model, &call, &plan, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    void *output = support_memory(engine_plan_facts(plan)->output_bytes[0]);
    engine_plan_output(plan, ENGINE_ATTENTION_OUTPUT, output);
    sem_init(&waiter.ended, 0, 0);
    const struct engine_job_options options = {
        .deadline_ns = cancel ? 0 : now_ns() + 20000000, .done = end, .argument = &waiter};
    engine_submit(engine, plan, &options, &job);
    if (cancel)
        engine_job_cancel(job);
    sem_wait(&waiter.ended);
    engine_plan_destroy(plan);
    free(output);
    support_call_reset(&call);
    engine_model_release(model);
    engine_close(engine);
    return waiter.code;
}

static void a_long_unit_stops_at_its_deadline(void **unused)
{
    int64_t before = now_ns();
    (void)unused;
    assert_int_equal(stop_long_job(false), ENGINE_DEADLINE);
    printf("stopped after %.0f ms\n", (double)(now_ns() - before) * 1e-6);
}

static void a_long_unit_stops_when_cancelled(void **unused)
{
    (void)unused;
    assert_int_equal(stop_long_job(true), ENGINE_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_are_double_unless_asked_otherwise),
        cmocka_unit_test(a_long_unit_stops_at_its_deadline),
        cmocka_unit_test(a_long_unit_stops_when_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
