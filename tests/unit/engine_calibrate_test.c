/* engine_calibrate_test.c - is the faster kernel found to be faster, soon enough for a start, and
 * does engine_open heed it? */
#include "tests/unit/engine_support.h"

#include <time.h>

#include "engine/calibrate.h"
#include "engine/cpu.h"
#include "engine/instance.h"

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* The same numbers in thirty times the time. */
static void multiply_slowly(const struct engine_left *left, int64_t row0, int64_t rows,
                            const struct engine_right *right, int64_t column0, int64_t columns,
                            int64_t depth, float *c, int64_t c_stride, bool add, const void *next,
                            size_t next_bytes, void *scratch)
{
    for (int i = 0; i < 30; i++)
        engine_kernel_sgemm()->multiply(left, row0, rows, right, column0, columns, depth, c,
                                        c_stride, add, next, next_bytes, scratch);
}

static double speed(const struct engine_kernel *kernel, const struct engine_kernel *usual)
{
    struct engine_error err = {0};
    double ret = -1;
    assert_int_equal(engine_calibrate_speed(kernel, usual, &ret, &err), ENGINE_OK);
    return ret;
}

/* The open engine told oneDNN one thread and had it generate its code. */
static void a_kernel_of_a_thirtieth_of_the_speed_is_found_slower_and_the_other_faster(void **unused)
{
    struct engine *engine = support_open(1);
    struct engine_kernel slow = *engine_kernel_sgemm();
    (void)unused;
    slow.multiply = multiply_slowly;
    double slower = speed(&slow, engine_kernel_sgemm());
    double faster = speed(engine_kernel_sgemm(), &slow);
    printf("a thirtieth of the speed measures %.2f, thirty times the speed %.2f\n", slower, faster);
    assert_true(slower > 0 && slower < 1 / ENGINE_CALIBRATE_FASTER);
    assert_true(faster > ENGINE_CALIBRATE_FASTER);
    engine_close(engine);
}

static void every_kernel_can_be_timed(void **unused)
{
    const struct engine_kernel *kernels[] = {engine_kernel_avx512(), engine_kernel_avx512_bf16(),
                                             engine_kernel_amx_bf16(), engine_kernel_amx_x6()};
    struct engine *engine = support_open(1);
    (void)unused;
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        if (kernels[i] == NULL)
            continue;
        double before = now_ms(), found = speed(kernels[i], engine->kernels[ENGINE_PRECISION_F32]);
        printf("%s: %.2f times as fast as f32, found in %.2f ms\n", kernels[i]->name, found,
               now_ms() - before);
        assert_true(found > 0);
    }
    engine_close(engine);
}

/* AMX goes first; without it the slower kernel is off, and the notes name it. */
static void bf16_is_served_by_the_kernel_that_the_facts_name(void **unused)
{
    struct engine *engine = support_open(1);
    const struct engine_facts *facts = engine_facts(engine);
    const struct engine_kernel *kernel = engine->kernels[ENGINE_PRECISION_BF16];
    bool noted = strstr(facts->notes, "bf16: avx512_bf16 is ") != NULL;
    (void)unused;
    printf("bf16 by %s; notes: \"%s\"\n", facts->kernel_bf16, facts->notes);
    if (engine_kernel_amx_bf16() != NULL) {
        assert_string_equal(facts->kernel_bf16, "amx_bf16");
        assert_false(noted);
    } else if (engine_kernel_avx512_bf16() != NULL) {
        assert_true(noted == (kernel == NULL));
        assert_true(kernel == NULL || kernel == engine_kernel_avx512_bf16());
    } else {
        assert_null(kernel);
    }
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kernel_of_a_thirtieth_of_the_speed_is_found_slower_and_the_other_faster),
        cmocka_unit_test(every_kernel_can_be_timed),
        cmocka_unit_test(bf16_is_served_by_the_kernel_that_the_facts_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
