/* engine_pool_memory_test.c - a thread that finds no memory when it first computes: is that an
 * error of the start or of the call, and does the process live on?
 *
 * The linker calls __wrap_malloc where the engine calls malloc (Makefile). It refuses on threads
 * that are told so; libgomp would end the process if it were asked on one of them. */
#include "tests/unit/engine_support.h"

#include <pthread.h>
#include <stdatomic.h>

static _Thread_local bool is_refused, is_spared;
static atomic_bool others_are_refused;

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes)
{
    bool refused = is_refused || (others_are_refused && !is_spared);
    return refused ? NULL : __real_malloc(bytes);
}

static void workers_without_memory_are_a_start_that_fails(void **unused)
{
    struct engine_error err = {0};
    struct engine *engine = NULL;
    (void)unused;
    engine_close(support_open(2)); /* what is made once per process */
    is_spared = true;
    others_are_refused = true;
    enum engine_code code = engine_open(&(struct engine_options){.threads = 2}, &engine, &err);
    others_are_refused = false;
    assert_int_equal(code, ENGINE_OUT_OF_MEMORY);
    assert_string_equal(err.message, "no memory for 2 threads");
    engine_close(support_open(2)); /* and the next one does not */
}

/* ---- a thread of the caller's ----------------------------------------------------------- */

struct caller {
    struct engine *engine;
    struct engine_plan *plan;
    enum engine_code inline_code, run_code;
    struct engine_error err;
};

static void *compute(void *argument)
{
    struct caller *caller = argument;
    is_refused = true;
    caller->inline_code = engine_run_inline(caller->engine, caller->plan, &caller->err);
    struct engine_error err = {0};
    caller->run_code = engine_run(caller->engine, caller->plan, &err);
    is_refused = false;
    return NULL;
}

static void a_caller_without_memory_is_refused_or_does_not_help(void **unused)
{
    struct support_random random = {5};
    struct engine_layer_config config;
    struct engine_call call;
    struct caller caller = {.engine = support_open(2)};
    float output[3 * 8] __attribute__((aligned(64)));
    pthread_t thread;
    (void)unused;
    engine_layer_defaults(&config);
    config.num_heads = config.key_dim = 2;
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, 8}};
    struct engine_model *model = support_draw(caller.engine, &config);
    engine_call_init(&call);
    for (int i = ENGINE_QUERY; i <= ENGINE_VALUE; i++)
        call.inputs[i] = support_random_tensor(&random, ENGINE_F32, 3, (int64_t[]){1, 3, 8});
    assert_int_equal(engine_plan_create(caller.engine, model, &call, &caller.plan, NULL),
                     ENGINE_OK);
    engine_plan_output(caller.plan, ENGINE_ATTENTION_OUTPUT, output);
    assert_int_equal(pthread_create(&thread, NULL, compute, &caller), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(caller.inline_code, ENGINE_OUT_OF_MEMORY);
    assert_non_null(strstr(caller.err.message, "memory"));
    assert_int_equal(caller.run_code, ENGINE_OK); /* the workers did it */
    engine_plan_destroy(caller.plan);
    support_call_reset(&call);
    engine_model_release(model);
    engine_close(caller.engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workers_without_memory_are_a_start_that_fails),
        cmocka_unit_test(a_caller_without_memory_is_refused_or_does_not_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
