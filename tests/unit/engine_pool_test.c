/* engine_pool_test.c - the workers: order of phases and jobs, cancelling, deadlines, errors,
 * submitting from many threads, nested loops, closing with jobs pending. Workers are held at
 * semaphores, nothing sleeps. */
#include "tests/unit/engine_support.h"

#include <pthread.h>
#include <semaphore.h>
#include <time.h>

#include "engine/pool.h"

struct fixture {
    struct engine_buffers buffers;
    struct engine_pool *pool;
};

static void fixture_init(struct fixture *f, int threads)
{
    struct engine_error err = {0};
    engine_buffers_init(&f->buffers, (size_t)1 << 28);
    assert_int_equal(engine_pool_open(threads, &f->buffers, &f->pool, &err), ENGINE_OK);
}

static void fixture_reset(struct fixture *f)
{
    engine_pool_close(f->pool);
    engine_buffers_reset(&f->buffers);
}

/* A job that records what was run, and may wait in each unit. */
struct task {
    struct engine_pool_job job;
    sem_t entered, gate, ended;
    bool waits;
    atomic_int runs, phase_runs[ENGINE_POOL_PHASES], out_of_order;
    int64_t failing_unit; /* -1: none */
    int opens;            /* runs that open the gate for all; 0: never */
    atomic_int *clock;    /* when it first ran; NULL: not asked */
    int first_run;
    int dones;
    struct engine_error err;
};

static enum engine_code run_task(void *argument, const struct engine_pool_unit *at,
                                 struct engine_arena *arena, struct engine_error *err)
{
    struct task *t = argument;
    int phase = at->phase;
    int64_t unit = at->index;
    for (int i = 0; i < phase; i++)
        if (atomic_load(&t->phase_runs[i]) != (int)t->job.work.units[i])
            atomic_store(&t->out_of_order, 1);
    if (atomic_fetch_add(&t->runs, 1) == 0 && t->clock != NULL)
        t->first_run = atomic_fetch_add(t->clock, 1);
    if (t->job.work.scratch_bytes > 0)
        assert_non_null(engine_arena_alloc(arena, t->job.work.scratch_bytes));
    if (t->opens > 0 && atomic_load(&t->runs) == t->opens)
        for (int i = 0; i < t->opens; i++)
            sem_post(&t->gate);
    if (t->waits) {
        sem_post(&t->entered);
        sem_wait(&t->gate);
    }
    atomic_fetch_add(&t->phase_runs[phase], 1);
    if (unit == t->failing_unit)
        return engine_error_set(err, ENGINE_INTERNAL, "unit %d broke", (int)unit);
    return ENGINE_OK;
}

static void end_task(void *argument, enum engine_code code, const struct engine_error *err)
{
    struct task *t = argument;
    t->dones++;
    t->err = *err;
    t->err.code = code;
    sem_post(&t->ended);
}

static void task_init(struct task *t, int64_t units, bool waits)
{
    memset(t, 0, sizeof *t);
    sem_init(&t->entered, 0, 0);
    sem_init(&t->gate, 0, 0);
    sem_init(&t->ended, 0, 0);
    t->waits = waits;
    t->failing_unit = -1;
    t->job.work = (struct engine_pool_work){
        .units = {units}, .flops = 1e3 * (double)units, .run = run_task, .argument = t};
    t->job.options = (struct engine_job_options){.done = end_task, .argument = t};
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- order ---------------------------------------------------------------------------------- */

static void phases_run_one_after_the_other_and_every_unit_once(void **unused)
{
    struct fixture f;
    struct task t;
    (void)unused;
    fixture_init(&f, 4);
    for (int i = 0; i < 200; i++) {
        task_init(&t, 3, false);
        t.job.work.units[1] = 17;
        t.job.work.units[3] = 1;
        t.job.work.units[5] = 40;
        t.job.work.scratch_bytes = 5000;
        engine_pool_submit(f.pool, &t.job);
        sem_wait(&t.ended);
        assert_int_equal(t.err.code, ENGINE_OK);
        assert_int_equal(t.runs, 3 + 17 + 1 + 40);
        assert_int_equal(t.out_of_order, 0);
    }
    fixture_reset(&f);
}

static void higher_priority_runs_first_and_then_the_smaller_job(void **unused)
{
    struct fixture f;
    struct task blocker, tasks[5];
    static const int priorities[] = {0, 9, 1, 0, 0};
    static const double flops[] = {1e12, 1e3, 1e13, 1e14, 1e3};
    atomic_int clock = 0;
    (void)unused;
    fixture_init(&f, 1);
    task_init(&blocker, 1, true);
    engine_pool_submit(f.pool, &blocker.job);
    sem_wait(&blocker.entered);
    for (int i = 0; i < 5; i++) {
        task_init(&tasks[i], 1, false);
        tasks[i].clock = &clock;
        tasks[i].job.options.priority = priorities[i];
        tasks[i].job.work.flops = flops[i];
        engine_pool_submit(f.pool, &tasks[i].job);
    }
    sem_post(&blocker.gate);
    for (int i = 0; i < 5; i++)
        sem_wait(&tasks[i].ended);
    assert_int_equal(tasks[2].first_run, 0); /* priority 1 */
    assert_int_equal(tasks[4].first_run, 1); /* the smallest of the default */
    assert_int_equal(tasks[0].first_run, 2);
    assert_int_equal(tasks[3].first_run, 3); /* the largest */
    assert_int_equal(tasks[1].first_run, 4); /* priority 9, small as it is */
    sem_wait(&blocker.ended);
    fixture_reset(&f);
}

/* ---- helping -------------------------------------------------------------------------------- */

static void a_helper_alone_computes_all_units(void **unused)
{
    struct fixture f;
    struct task t;
    (void)unused;
    fixture_init(&f, 1);
    for (int i = 0; i < 200; i++) {
        task_init(&t, 3, false);
        t.job.work.units[2] = 5;
        t.job.work.scratch_bytes = 5000;
        assert_true(engine_pool_submit_helped(f.pool, &t.job));
        engine_pool_help(f.pool, &t.job);
        assert_int_equal(sem_trywait(&t.ended), 0); /* one thread: nobody else may have helped */
        assert_int_equal(t.err.code, ENGINE_OK);
        assert_int_equal(t.runs, 8);
        assert_int_equal(t.out_of_order, 0);
    }
    fixture_reset(&f);
}

static void who_would_help_is_told_when_all_threads_compute(void **unused)
{
    struct fixture f;
    struct task blocker, t;
    (void)unused;
    fixture_init(&f, 1);
    task_init(&blocker, 1, true);
    engine_pool_submit(f.pool, &blocker.job);
    sem_wait(&blocker.entered);
    task_init(&t, 7, false);
    assert_false(engine_pool_submit_helped(f.pool, &t.job));
    sem_post(&blocker.gate);
    sem_wait(&t.ended);
    assert_int_equal(t.runs, 7);
    sem_wait(&blocker.ended);
    fixture_reset(&f);
}

/* The other units wait for the gate, which opens when the helper's own unit has been entered too:
 * both threads are in the job at once. */
static void helper_and_worker_share_a_job(void **unused)
{
    struct fixture f;
    struct task t;
    (void)unused;
    fixture_init(&f, 2);
    task_init(&t, 2, true);
    t.opens = 2;
    assert_true(engine_pool_submit_helped(f.pool, &t.job));
    engine_pool_help(f.pool, &t.job);
    sem_wait(&t.ended);
    assert_int_equal(t.err.code, ENGINE_OK);
    assert_int_equal(t.runs, 2);
    fixture_reset(&f);
}

static void a_cancelled_job_is_over_for_its_helper(void **unused)
{
    struct fixture f;
    struct task t;
    (void)unused;
    fixture_init(&f, 1);
    task_init(&t, 1000, false);
    assert_true(engine_pool_submit_helped(f.pool, &t.job));
    engine_pool_cancel(f.pool, &t.job);
    engine_pool_help(f.pool, &t.job);
    sem_wait(&t.ended);
    assert_int_equal(t.err.code, ENGINE_CANCELLED);
    assert_int_equal(t.runs, 0);
    assert_int_equal(t.dones, 1);
    fixture_reset(&f);
}

/* ---- ending -----------------------------------------------------------------------------------
 */

static void a_cancelled_job_stops_between_units(void **unused)
{
    struct fixture f;
    struct task t;
    (void)unused;
    fixture_init(&f, 2);
    task_init(&t, 1000, true);
    engine_pool_submit(f.pool, &t.job);
    sem_wait(&t.entered);
    engine_pool_cancel(f.pool, &t.job);
    for (int i = 0; i < 1000; i++)
        sem_post(&t.gate);
    sem_wait(&t.ended);
    assert_int_equal(t.err.code, ENGINE_CANCELLED);
    assert_int_equal(t.dones, 1);
    assert_true(t.runs <= 4);
    fixture_reset(&f);
}

static void a_job_past_its_deadline_does_not_start(void **unused)
{
    struct fixture f;
    struct task t;
    (void)unused;
    fixture_init(&f, 2);
    task_init(&t, 10, false);
    t.job.options.deadline_ns = 1;
    engine_pool_submit(f.pool, &t.job);
    sem_wait(&t.ended);
    assert_int_equal(t.err.code, ENGINE_DEADLINE);
    assert_int_equal(t.runs, 0);
    fixture_reset(&f);
}

static void a_deadline_that_passes_ends_a_job_between_units(void **unused)
{
    struct fixture f;
    struct task t;
    (void)unused;
    fixture_init(&f, 1);
    task_init(&t, 1000, true);
    t.job.options.deadline_ns = now_ns() + 200000000;
    engine_pool_submit(f.pool, &t.job);
    sem_wait(&t.entered);
    while (now_ns() <= t.job.options.deadline_ns)
        continue; /* the unit runs over its time */
    for (int i = 0; i < 1000; i++)
        sem_post(&t.gate);
    sem_wait(&t.ended);
    assert_int_equal(t.err.code, ENGINE_DEADLINE);
    assert_int_equal(t.runs, 1);
    fixture_reset(&f);
}

static void the_error_of_a_unit_ends_the_job_with_its_message(void **unused)
{
    struct fixture f;
    struct task t;
    (void)unused;
    fixture_init(&f, 2);
    task_init(&t, 1000, false);
    t.failing_unit = 3;
    engine_pool_submit(f.pool, &t.job);
    sem_wait(&t.ended);
    assert_int_equal(t.err.code, ENGINE_INTERNAL);
    assert_string_equal(t.err.message, "unit 3 broke");
    assert_int_equal(t.dones, 1);
    fixture_reset(&f);
}

static void closing_ends_the_jobs_that_are_pending(void **unused)
{
    enum { JOBS = 50 };
    struct fixture f;
    struct task blocker, tasks[JOBS];
    (void)unused;
    fixture_init(&f, 1);
    task_init(&blocker, 1, true);
    engine_pool_submit(f.pool, &blocker.job);
    sem_wait(&blocker.entered);
    for (int i = 0; i < JOBS; i++) {
        task_init(&tasks[i], 3, false);
        engine_pool_submit(f.pool, &tasks[i].job);
    }
    struct engine_load load;
    engine_pool_load(f.pool, &load);
    assert_int_equal(load.jobs_queued, JOBS);
    assert_int_equal(load.jobs_running, 1);
    assert_int_equal(load.workers_busy, 1);
    sem_post(&blocker.gate);
    fixture_reset(&f);
    assert_int_equal(blocker.dones, 1);
    for (int i = 0; i < JOBS; i++) {
        assert_int_equal(tasks[i].dones, 1);
        assert_int_equal(tasks[i].err.code, ENGINE_OK);
        assert_int_equal(tasks[i].runs, 3);
    }
}

static void a_job_without_units_is_reported_at_once(void **unused)
{
    struct fixture f;
    struct task t;
    (void)unused;
    fixture_init(&f, 2);
    task_init(&t, 0, false);
    engine_pool_submit(f.pool, &t.job);
    sem_wait(&t.ended);
    assert_int_equal(t.err.code, ENGINE_OK);
    fixture_reset(&f);
}

/* ---- many -------------------------------------------------------------------------------------
 */

enum { CLIENTS = 8, JOBS_EACH = 1000 };

struct client {
    struct engine *engine;
    struct engine_model *model;
    const struct engine_call *call;
    const struct support_answer *wanted;
    sem_t ended;
    int good;
};

static void end_call(void *argument, enum engine_code code, const struct engine_error *err)
{
    struct client *client = argument;
    (void)err;
    client->good += code == ENGINE_OK;
    sem_post(&client->ended);
}

static void one_job(struct client *c, float *output, size_t bytes)
{
    struct engine_error err = {0};
    struct engine_plan *plan = NULL;
    const struct engine_job_options options = {.done = end_call, .argument = c};
    if (engine_plan_create(c->engine, c->model, c->call, &plan, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    engine_plan_output(plan, ENGINE_ATTENTION_OUTPUT, output);
    engine_submit(c->engine, plan, &options, NULL);
    sem_wait(&c->ended);
    assert_memory_equal(output, c->wanted->outputs[ENGINE_ATTENTION_OUTPUT].data, bytes);
    engine_plan_destroy(plan);
}

static void *run_client(void *argument)
{
    struct client *c = argument;
    size_t bytes = 0;
    assert_true(engine_tensor_bytes(&c->wanted->outputs[ENGINE_ATTENTION_OUTPUT], &bytes));
    float *output = support_memory(bytes);
    for (int i = 0; i < JOBS_EACH; i++)
        one_job(c, output, bytes);
    free(output);
    return NULL;
}

static void tiny_model(struct engine *engine, struct engine_model **model, struct engine_call *call,
                       struct support_answer *wanted)
{
    struct support_random r = {3};
    struct engine_layer_config config;
    engine_layer_defaults(&config);
    config.num_heads = 2;
    config.key_dim = 4;
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, 8}};
    *model = support_draw(engine, &config);
    engine_call_init(call);
    call->inputs[ENGINE_QUERY] = support_random_tensor(&r, ENGINE_F32, 3, (int64_t[]){2, 5, 8});
    support_run(engine, *model, call, true, wanted);
}

static void eight_threads_submit_a_thousand_jobs_each(void **unused)
{
    struct engine *engine = support_open(2);
    struct engine_model *model;
    struct engine_call call;
    struct support_answer wanted;
    struct client clients[CLIENTS];
    pthread_t threads[CLIENTS];
    (void)unused;
    tiny_model(engine, &model, &call, &wanted);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] =
            (struct client){.engine = engine, .model = model, .call = &call, .wanted = &wanted};
        sem_init(&clients[i].ended, 0, 0);
        assert_int_equal(pthread_create(&threads[i], NULL, run_client, &clients[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(clients[i].good, JOBS_EACH);
    }
    engine_model_release(model);
    support_answer_reset(&wanted);
    support_call_reset(&call);
    struct engine_memory_facts memory;
    engine_memory(engine, &memory);
    printf("%d jobs; memory taken from the system %llu times\n", CLIENTS * JOBS_EACH,
           (unsigned long long)memory.misses);
    engine_close(engine);
}

/* ---- loops ------------------------------------------------------------------------------------
 */

struct nest {
    struct engine *engine;
    atomic_int parts[20];
    atomic_int inner;
};

static void inner_part(void *argument, int i)
{
    struct nest *nest = argument;
    (void)i;
    atomic_fetch_add(&nest->inner, 1);
}

static void outer_part(void *argument, int i)
{
    struct nest *nest = argument;
    atomic_fetch_add(&nest->parts[i], 1);
    engine_parallel(nest->engine, 7, inner_part, nest);
}

static void nested_loops_run_each_part_once(void **unused)
{
    struct nest nest = {.engine = support_open(2)};
    (void)unused;
    for (int round = 0; round < 100; round++)
        engine_parallel(nest.engine, 20, outer_part, &nest);
    engine_parallel(nest.engine, 0, outer_part, &nest);
    for (int i = 0; i < 20; i++)
        assert_int_equal(nest.parts[i], 100);
    assert_int_equal(nest.inner, 100 * 20 * 7);
    engine_close(nest.engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phases_run_one_after_the_other_and_every_unit_once),
        cmocka_unit_test(higher_priority_runs_first_and_then_the_smaller_job),
        cmocka_unit_test(a_helper_alone_computes_all_units),
        cmocka_unit_test(who_would_help_is_told_when_all_threads_compute),
        cmocka_unit_test(helper_and_worker_share_a_job),
        cmocka_unit_test(a_cancelled_job_is_over_for_its_helper),
        cmocka_unit_test(a_cancelled_job_stops_between_units),
        cmocka_unit_test(a_job_past_its_deadline_does_not_start),
        cmocka_unit_test(a_deadline_that_passes_ends_a_job_between_units),
        cmocka_unit_test(the_error_of_a_unit_ends_the_job_with_its_message),
        cmocka_unit_test(closing_ends_the_jobs_that_are_pending),
        cmocka_unit_test(a_job_without_units_is_reported_at_once),
        cmocka_unit_test(eight_threads_submit_a_thousand_jobs_each),
        cmocka_unit_test(nested_loops_run_each_part_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
