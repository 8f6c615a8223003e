/* engine_selfcheck_test.c - is a kernel that computes wrongly found, and is the check quick? */
#include "tests/unit/engine_support.h"

#include <time.h>

#include "engine/instance.h"
#include "engine/selfcheck.h"

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* One element in a corner of each product is a little off. */
static void multiply_wrongly(const struct engine_left *left, int64_t row0, int64_t rows,
                             const struct engine_right *right, int64_t column0, int64_t columns,
                             int64_t depth, float *c, int64_t c_stride, bool add, const void *next,
                             size_t next_bytes, void *scratch)
{
    engine_kernel_sgemm()->multiply(left, row0, rows, right, column0, columns, depth, c, c_stride,
                                    add, next, next_bytes, scratch);
    c[(rows - 1) * c_stride + columns - 1] += 0.5f;
}

static void a_kernel_with_one_wrong_element_fails_the_check(void **unused)
{
    struct engine *engine = support_open(1);
    struct engine_kernel wrong = *engine_kernel_sgemm();
    double error = 0;
    (void)unused;
    wrong.multiply = multiply_wrongly;
    for (int i = ENGINE_PRECISION_F32; i <= ENGINE_PRECISION_BF16; i++) {
        engine->kernels[i] = &wrong;
        assert_false(engine_selfcheck_run(engine, (enum engine_precision)i, &error, NULL));
        printf("error of the wrong kernel as %s: %.2g\n",
               engine_precision_name((enum engine_precision)i), error);
    }
    engine_close(engine);
}

static void softmax_nan(const struct engine_softmax_rows *rows)
{
    engine_softmax_portable(rows);
    rows->tile[0] = NAN;
}

static void a_softmax_that_gives_nan_fails_the_check(void **unused)
{
    struct engine *engine = support_open(1);
    double error = 0;
    (void)unused;
    engine->softmax = softmax_nan;
    assert_false(engine_selfcheck_run(engine, ENGINE_PRECISION_F32, &error, NULL));
    assert_true(isinf(error));
    engine_close(engine);
}

static void each_kernel_of_this_machine_passes(void **unused)
{
    double before = now_ms(), error = 0;
    struct engine *engine = support_open(1);
    (void)unused;
    printf("engine_open took %.2f ms; f32 %s, x3 %s, bf16 %s; notes: \"%s\"\n", now_ms() - before,
           engine_facts(engine)->kernel_f32, engine_facts(engine)->kernel_x3,
           engine_facts(engine)->kernel_bf16, engine_facts(engine)->notes);
    for (int i = ENGINE_PRECISION_F32; i <= ENGINE_PRECISION_BF16; i++) {
        if (engine->kernels[i] == NULL)
            continue;
        before = now_ms();
        assert_true(engine_selfcheck_run(engine, (enum engine_precision)i, &error, NULL));
        printf("%s: error %.2g in %.2f ms\n", engine_precision_name((enum engine_precision)i),
               error, now_ms() - before);
    }
    assert_null(strstr(engine_facts(engine)->notes, ": off, the error is"));
    engine_close(engine);
}

/* Whether or not calibration or AMX leaves it unused here. */
static void the_avx512_bf16_kernel_passes_wherever_it_exists(void **unused)
{
    struct engine *engine = support_open(1);
    double error = 0;
    (void)unused;
    engine->kernels[ENGINE_PRECISION_BF16] = engine_kernel_avx512_bf16();
    if (engine_kernel_avx512_bf16() == NULL) {
        printf("avx512_bf16: not on this processor\n");
    } else {
        assert_true(engine_selfcheck_run(engine, ENGINE_PRECISION_BF16, &error, NULL));
        printf("avx512_bf16: error %.2g\n", error);
    }
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_kernel_of_this_machine_passes),
        cmocka_unit_test(the_avx512_bf16_kernel_passes_wherever_it_exists),
        cmocka_unit_test(a_kernel_with_one_wrong_element_fails_the_check),
        cmocka_unit_test(a_softmax_that_gives_nan_fails_the_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
