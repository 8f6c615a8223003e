/* engine_onednn_test.c - does a product that oneDNN could not compute end the call with an error,
 * whoever computed it, and never with an answer?
 *
 * The program defines dnnl_sgemm and posix_memalign: the engine and libdnnl find these before the
 * true ones, which they call unless they are to fail. */
#include "tests/unit/engine_support.h"

#include <dlfcn.h>
#include <errno.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "engine/instance.h"

/* ---- what fails ------------------------------------------------------------------------- */

/* The n-th from now on fails, and all after it; 0: none. */
static atomic_int products_left, allocations_left;
static _Atomic dnnl_status_t product_status;
static atomic_int products, allocations; /* counted since they were last set to 0 */
static _Thread_local bool in_product;

static bool is_due(atomic_int *left)
{
    int now = atomic_load(left);
    while (now > 1 && !atomic_compare_exchange_weak(left, &now, now - 1))
        continue;
    return now == 1;
}

static void *true_one(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    return found;
}

dnnl_status_t dnnl_sgemm(char transa, char transb, dnnl_dim_t M, dnnl_dim_t N, dnnl_dim_t K,
                         float alpha, const float *A, dnnl_dim_t lda, const float *B,
                         dnnl_dim_t ldb, float beta, float *C, dnnl_dim_t ldc)
{
    static __typeof__(dnnl_sgemm) *_Atomic next;
    if (next == NULL)
        next = (__typeof__(dnnl_sgemm) *)true_one("dnnl_sgemm");
    atomic_fetch_add(&products, 1);
    if (is_due(&products_left))
        return product_status;
    in_product = true;
    dnnl_status_t status = next(transa, transb, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc);
    in_product = false;
    return status;
}

static bool refuses_memory(void)
{
    if (!in_product)
        return false;
    atomic_fetch_add(&allocations, 1);
    return is_due(&allocations_left);
}

int posix_memalign(void **ret, size_t alignment, size_t bytes)
{
    static __typeof__(posix_memalign) *_Atomic next;
    if (next == NULL)
        next = (__typeof__(posix_memalign) *)true_one("posix_memalign");
    return refuses_memory() ? ENOMEM : next(ret, alignment, bytes);
}

/* ---- a call ----------------------------------------------------------------------------- */

enum { TOKENS = 40, WIDTH = 48 };

struct fixture {
    struct engine *engine;
    struct engine_model *model;
    struct engine_call call;
    struct support_answer right;
};

struct ended {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ended;
    enum engine_code code;
    struct engine_error err;
};

static void end(void *argument, enum engine_code code, const struct engine_error *err)
{
    struct ended *ended = argument;
    pthread_mutex_lock(&ended->lock);
    ended->code = code;
    ended->err = *err;
    ended->ended = true;
    pthread_cond_signal(&ended->changed);
    pthread_mutex_unlock(&ended->lock);
}

enum way { INLINE, SUBMITTED, HELPED, RUN, WAYS };

static enum engine_code run_plan(struct engine *engine, struct engine_plan *plan, enum way way,
                                 struct engine_error *err)
{
    struct ended ended = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0, {0}};
    struct engine_job_options options = {.done = end, .argument = &ended};
    struct engine_job *job = NULL;
    if (way == INLINE)
        return engine_run_inline(engine, plan, err);
    if (way == RUN)
        return engine_run(engine, plan, err);
    if (way == SUBMITTED)
        engine_submit(engine, plan, &options, NULL);
    else if (engine_submit_helped(engine, plan, &options, &job))
        engine_help(engine, job);
    pthread_mutex_lock(&ended.lock);
    while (!ended.ended)
        pthread_cond_wait(&ended.changed, &ended.lock);
    pthread_mutex_unlock(&ended.lock);
    *err = ended.err;
    return ended.code;
}

/* The answer is there only if the code is OK. */
static enum engine_code run(struct fixture *f, enum way way, struct support_answer *ret,
                            struct engine_error *err)
{
    struct engine_plan *plan = NULL;
    *ret = (struct support_answer){0};
    *err = (struct engine_error){0};
    assert_int_equal(engine_plan_create(f->engine, f->model, &f->call, &plan, err), ENGINE_OK);
    for (int i = 0; i < ENGINE_ATTENTION_SCORES_INDICES; i++) {
        size_t bytes = engine_plan_facts(plan)->output_bytes[i];
        void *data = support_memory(bytes);
        memset(data, 0xff, bytes);
        engine_plan_output(plan, (enum engine_output)i, data);
        ret->outputs[i] = engine_plan_facts(plan)->outputs[i];
    }
    enum engine_code code = run_plan(f->engine, plan, way, err);
    engine_plan_destroy(plan);
    return code;
}

static void answers_rightly(struct fixture *f, enum way way)
{
    struct support_answer answer;
    struct engine_error err;
    if (run(f, way, &answer, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    support_same_bits(&f->right, &answer);
    support_answer_reset(&answer);
}

/* Every machine has this kernel; not every one computes with it. */
static void use_sgemm(struct engine *engine)
{
    engine->kernels[ENGINE_PRECISION_F32] = engine_kernel_sgemm();
    engine->long_f32 = NULL;
}

static int open_fixture(void **state)
{
    static struct fixture f;
    struct support_random random = {7};
    struct engine_layer_config config;
    struct engine_error err;
    engine_layer_defaults(&config);
    config.num_heads = 3;
    config.key_dim = 17;
    config.use_bias = false; /* nothing but products writes the output */
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, WIDTH}};
    f.engine = support_open(2);
    use_sgemm(f.engine);
    f.model = support_draw(f.engine, &config);
    engine_call_init(&f.call);
    f.call.wanted[ENGINE_ATTENTION_SCORES] = true;
    for (int i = ENGINE_QUERY; i <= ENGINE_VALUE; i++)
        f.call.inputs[i] =
            support_random_tensor(&random, ENGINE_F32, 3, (int64_t[]){2, TOKENS, WIDTH});
    assert_int_equal(run(&f, INLINE, &f.right, &err), ENGINE_OK);
    *state = &f;
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *f = *state;
    support_answer_reset(&f->right);
    support_call_reset(&f->call);
    engine_model_release(f->model);
    engine_close(f->engine);
    return 0;
}

/* ---- tests ------------------------------------------------------------------------------ */

/* Its n-th product and all later ones fail. */
static void fail_from(struct fixture *f, enum way way, int n, dnnl_status_t status,
                      enum engine_code wanted)
{
    struct support_answer answer;
    struct engine_error err;
    product_status = status;
    products_left = n;
    enum engine_code code = run(f, way, &answer, &err);
    products_left = 0;
    support_answer_reset(&answer);
    if (code != wanted || err.code != wanted || strstr(err.message, "oneDNN") == NULL)
        fail_msg("way %d, product %d, status %d: code %d, \"%s\"", (int)way, n, (int)status,
                 (int)code, err.message);
}

static void a_product_that_fails_is_an_error_and_never_an_answer(void **state)
{
    static const struct {
        dnnl_status_t status;
        enum engine_code code;
    } cases[] = {
        {dnnl_out_of_memory, ENGINE_OUT_OF_MEMORY},
        {dnnl_runtime_error, ENGINE_INTERNAL},
        {dnnl_unimplemented, ENGINE_INTERNAL},
        {dnnl_invalid_arguments, ENGINE_INTERNAL},
    };
    struct fixture *f = *state;
    products = 0;
    answers_rightly(f, INLINE);
    int all = products;
    assert_true(all > 12); /* projections, keys and values of 2 x 3 heads, output */
    for (int way = 0; way < WAYS; way++)
        for (int n = 1; n <= all; n++) {
            size_t i = (size_t)n % (sizeof cases / sizeof cases[0]);
            fail_from(f, (enum way)way, n, cases[i].status, cases[i].code);
            answers_rightly(f, (enum way)way); /* the next call does not suffer */
        }
}

static void memory_that_runs_out_within_a_product_is_said_or_does_no_harm(void **state)
{
    struct fixture *f = *state;
    struct support_answer answer;
    struct engine_error err;
    int refused = 0;
    allocations = 0;
    answers_rightly(f, INLINE);
    int all = allocations;
    for (int n = 1; n <= all; n++) {
        allocations_left = n;
        enum engine_code code = run(f, n % 2 == 0 ? INLINE : RUN, &answer, &err);
        allocations_left = 0;
        if (code == ENGINE_OK)
            support_same_bits(&f->right, &answer);
        else
            assert_int_equal(code, ENGINE_OUT_OF_MEMORY);
        refused += code != ENGINE_OK;
        support_answer_reset(&answer);
        answers_rightly(f, RUN);
    }
    printf("%d allocations within products, of which %d ended the call\n", all, refused);
}

static void multiply_nothing(const struct engine_left *left, int64_t row0, int64_t rows,
                             const struct engine_right *right, int64_t column0, int64_t columns,
                             int64_t depth, float *c, int64_t c_stride, bool add, const void *next,
                             size_t next_bytes, void *scratch)
{
    (void)left, (void)row0, (void)rows, (void)right, (void)column0, (void)columns, (void)depth,
        (void)c, (void)c_stride, (void)add, (void)next, (void)next_bytes, (void)scratch;
}

/* What a kernel forgets to write is what the buffer held; in builds with ATTND_POISON it is NaN, so
 * that no test can take an earlier answer for this one. */
static void builds_with_sanitizers_poison_what_is_not_written(void **state)
{
    struct fixture *f = *state;
    struct engine_kernel nothing = *engine_kernel_sgemm();
    struct engine_call call = f->call;
    struct engine_plan *plan = NULL;
    float output[2 * TOKENS * WIDTH] __attribute__((aligned(64)));
    nothing.multiply = multiply_nothing;
    call.wanted[ENGINE_ATTENTION_SCORES] = false;
    for (int i = 0; i < 2 * TOKENS * WIDTH; i++)
        output[i] = 0.25f;
    f->engine->kernels[ENGINE_PRECISION_F32] = &nothing;
    assert_int_equal(engine_plan_create(f->engine, f->model, &call, &plan, NULL), ENGINE_OK);
    engine_plan_output(plan, ENGINE_ATTENTION_OUTPUT, output);
    assert_int_equal(engine_run_inline(f->engine, plan, NULL), ENGINE_OK);
    engine_plan_destroy(plan);
    use_sgemm(f->engine);
    for (int i = 0; i < 2 * TOKENS * WIDTH; i++)
#ifdef ATTND_POISON
        assert_true(isnan(output[i]));
#else
        assert_true(output[i] == 0.25f);
#endif
}

/* Wherever sgemm computes float32. */
static void a_start_whose_products_fail_is_refused_and_says_why(void **unused)
{
    static const struct {
        dnnl_status_t status;
        enum engine_code code;
        const char *word;
    } cases[] = {{dnnl_unimplemented, ENGINE_INTERNAL, "unimplemented"},
                 {dnnl_out_of_memory, ENGINE_OUT_OF_MEMORY, "memory"}};
    (void)unused;
    for (int i = 0; i < 2; i++) {
        struct engine_error err = {0};
        struct engine *engine = NULL;
        product_status = cases[i].status;
        products_left = 1;
        enum engine_code code = engine_open(&(struct engine_options){.threads = 1}, &engine, &err);
        products_left = 0;
        if (code == ENGINE_OK) {
            assert_null(strstr(engine_facts(engine)->kernel_f32, "sgemm"));
            engine_close(engine);
            continue;
        }
        assert_int_equal(code, cases[i].code);
        if (strstr(err.message, "oneDNN") == NULL || strstr(err.message, cases[i].word) == NULL)
            fail_msg("%s", err.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product_that_fails_is_an_error_and_never_an_answer),
        cmocka_unit_test(memory_that_runs_out_within_a_product_is_said_or_does_no_harm),
        cmocka_unit_test(builds_with_sanitizers_poison_what_is_not_written),
        cmocka_unit_test(a_start_whose_products_fail_is_refused_and_says_why),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
