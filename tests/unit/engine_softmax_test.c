/* engine_softmax_test.c - every form of the softmax that this processor runs, against softmax.h's
 * formula in double precision. */
#include "engine/softmax.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu.h"
#include "engine/kernel.h"
#include "engine/tensor.h"

enum { MOST_KEYS = 1000, STRIDE = MOST_KEYS + 3, ROWS = 5 };

static const struct form {
    const char *name;
    engine_softmax_function *function;
} forms[] = {{"portable", engine_softmax_portable},
             {"avx2", engine_softmax_avx2_rows},
             {"avx512", engine_softmax_avx512_rows}};

static int form_count(void)
{
    return engine_cpu()->avx512 ? 3 : engine_cpu()->avx2 ? 2 : 1;
}

static uint32_t state = 1;

static float number(float size)
{
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state / 2147483648.0f * size;
}

static float logits[ROWS * STRIDE], tile[ROWS * STRIDE], adder[ROWS * STRIDE];
static float positions[2 * MOST_KEYS], factors[ROWS];

static void fill(float *values, size_t count, float size)
{
    for (size_t i = 0; i < count; i++)
        values[i] = number(size);
}

static struct engine_softmax_rows rows_of(int64_t keys)
{
    memcpy(tile, logits, sizeof tile);
    return (struct engine_softmax_rows){.tile = tile,
                                        .stride = STRIDE,
                                        .rows = ROWS,
                                        .keys = keys,
                                        .policy = ENGINE_POLICY_FLOAT32,
                                        .factors = factors};
}

/* v[j] of softmax.h, summed in float32 as it is defined. */
static float value_of(const struct engine_softmax_rows *rows, int64_t i, int64_t j)
{
    float v = logits[i * rows->stride + j];
    if (rows->position != NULL) {
        int64_t most = 2 * rows->position_length - 2;
        int64_t at = j - (rows->query0 + i) + rows->position_length - 1;
        v += rows->position[at < 0 ? 0 : at > most ? most : at];
    }
    return rows->adder != NULL ? v + rows->adder[i * rows->adder_stride + j] : v;
}

/* Greatest error of the tile, as a share of each result; results under 1e-37 count as 0. */
static double worst(const struct engine_softmax_rows *rows)
{
    double ret = 0.0;
    for (int64_t i = 0; i < rows->rows; i++) {
        double top = -INFINITY, sum = 0.0;
        for (int64_t j = 0; j < rows->keys; j++)
            top = fmax(top, (double)value_of(rows, i, j));
        for (int64_t j = 0; j < rows->keys; j++)
            sum += exp((double)value_of(rows, i, j) - top);
        for (int64_t j = 0; j < rows->keys; j++) {
            double right = exp((double)value_of(rows, i, j) - top) / sum;
            double got = (double)rows->tile[i * rows->stride + j];
            if (rows->defer)
                got *= (double)rows->factors[i];
            double error = fabs(got - right) / fmax(right, 1e-37);
            ret = !(error <= ret) ? error : ret;
        }
    }
    return ret;
}

/* Runs a form; what lies beside the keys must stay. */
static void run(const struct form *form, const struct engine_softmax_rows *rows)
{
    form->function(rows);
    for (int64_t i = 0; i < rows->rows; i++)
        assert_memory_equal(tile + i * STRIDE + rows->keys, logits + i * STRIDE + rows->keys,
                            (size_t)(STRIDE - rows->keys) * sizeof *tile);
}

/* 2e-6: logits of 8 differ by 16 and so are rounded to 1e-6 when the maximum is taken off. */
#define TOLERANCE 2e-6

static double check_keys(const struct form *form, int64_t keys)
{
    double ret = 0.0;
    for (int variant = 0; variant < 16; variant++) {
        struct engine_softmax_rows rows = rows_of(keys);
        rows.defer = (variant & 1) != 0;
        rows.adder = (variant & 2) != 0 ? adder : NULL;
        rows.adder_stride = (variant & 4) != 0 ? STRIDE : 0;
        rows.position = (variant & 8) != 0 ? positions : NULL;
        rows.position_length = keys < 3 ? 3 : keys;
        rows.query0 = keys / 3;
        run(form, &rows);
        ret = fmax(ret, worst(&rows));
    }
    if (!(ret <= TOLERANCE))
        fail_msg("%s, %lld keys: error %g", form->name, (long long)keys, ret);
    return ret;
}

static void rows_of_any_length_are_those_of_the_formula(void **unused)
{
    (void)unused;
    for (int f = 0; f < form_count(); f++) {
        double error = 0.0;
        for (int64_t keys = 1; keys <= 70; keys++)
            error = fmax(error, check_keys(&forms[f], keys));
        error = fmax(error, check_keys(&forms[f], 257));
        error = fmax(error, check_keys(&forms[f], 1000));
        printf("    %s: worst error %.2g of a result\n", forms[f].name, error);
    }
}

/* Distances beyond the table read its first or last value. */
static void positions_are_clipped_at_both_ends(void **unused)
{
    (void)unused;
    static const struct {
        int64_t length, query0;
    } cases[] = {{1, 0}, {2, 0}, {5, 0}, {5, 40}, {5, 77}, {5, 78}, {5, 300}, {30, 20}, {200, 0}};
    for (int f = 0; f < form_count(); f++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            struct engine_softmax_rows rows = rows_of(77);
            rows.position = positions;
            rows.position_length = cases[i].length;
            rows.query0 = cases[i].query0;
            run(&forms[f], &rows);
            assert_true(worst(&rows) <= TOLERANCE);
        }
}

/* Deferred rows hold exp itself: one key at 0, the others below it. */
static void the_exponential_is_right_to_two_units_in_the_last_place(void **unused)
{
    (void)unused;
    for (int f = 0; f < form_count(); f++) {
        double error = 0.0;
        for (int round = 0; round < 400; round++) {
            struct engine_softmax_rows rows = rows_of(MOST_KEYS);
            float kept[MOST_KEYS];
            rows.rows = 1;
            rows.defer = true;
            for (int j = 1; j < MOST_KEYS; j++)
                tile[j] = -fabsf(number(round % 2 == 0 ? 90.0f : 2.0f));
            tile[0] = 0.0f;
            memcpy(kept, tile, sizeof kept);
            forms[f].function(&rows);
            assert_true(tile[0] == 1.0f);
            for (int j = 1; j < MOST_KEYS; j++) {
                double right = exp((double)kept[j]);
                int exponent;
                (void)frexp(right, &exponent);
                double unit = ldexp(1.0, exponent - 24);
                if (right < 5e-38)
                    assert_true((double)tile[j] < 5e-38);
                else
                    error = fmax(error, fabs((double)tile[j] - right) / unit);
            }
        }
        printf("    %s: %.2f units in the last place\n", forms[f].name, error);
        assert_true(error <= 2.0);
    }
}

static void a_masked_key_is_exactly_zero_and_a_fully_masked_row_uniform(void **unused)
{
    (void)unused;
    for (int f = 0; f < form_count(); f++) {
        float masked[70];
        struct engine_softmax_rows rows = rows_of(70);
        for (int j = 0; j < 70; j++)
            masked[j] = j < 23 ? 0.0f : -1e9f;
        rows.adder = masked;
        run(&forms[f], &rows);
        for (int i = 0; i < ROWS; i++)
            for (int j = 23; j < 70; j++)
                assert_true(tile[i * STRIDE + j] == 0.0f);
        assert_true(worst(&rows) <= TOLERANCE);
        rows = rows_of(64);
        for (int j = 0; j < 64; j++)
            masked[j] = -1e9f;
        rows.adder = masked;
        run(&forms[f], &rows);
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < 64; j++)
                assert_true(tile[i * STRIDE + j] == 1.0f / 64.0f);
    }
}

static void minus_infinity_is_a_masked_key(void **unused)
{
    (void)unused;
    for (int f = 0; f < form_count(); f++) {
        struct engine_softmax_rows rows = rows_of(40);
        for (int j = 0; j < 40; j++)
            tile[STRIDE + j] = j == 17 ? 3.0f : -INFINITY;
        for (int j = 0; j < 40; j++)
            tile[2 * STRIDE + j] = -INFINITY;
        forms[f].function(&rows);
        for (int j = 0; j < 40; j++) {
            assert_true(tile[STRIDE + j] == (j == 17 ? 1.0f : 0.0f));
            assert_true(isnan(tile[2 * STRIDE + j]));
            assert_true(isfinite(tile[j]) && isfinite(tile[3 * STRIDE + j]));
        }
    }
}

static void a_nan_makes_its_row_nan_and_no_other(void **unused)
{
    (void)unused;
    for (int f = 0; f < form_count(); f++)
        for (int at = 0; at < 70; at++) {
            struct engine_softmax_rows rows = rows_of(70);
            tile[2 * STRIDE + at] = NAN;
            forms[f].function(&rows);
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < 70; j++)
                    assert_true(isnan(tile[i * STRIDE + j]) == (i == 2));
        }
}

static void great_logits_do_not_overflow(void **unused)
{
    (void)unused;
    for (int f = 0; f < form_count(); f++) {
        struct engine_softmax_rows rows = rows_of(33);
        for (int j = 0; j < 33; j++) {
            tile[j] = j == 5 ? 3e38f : -3e38f;
            tile[STRIDE + j] = -3e38f;
        }
        forms[f].function(&rows);
        for (int j = 0; j < 33; j++) {
            assert_true(tile[j] == (j == 5 ? 1.0f : 0.0f));
            assert_true(fabsf(tile[STRIDE + j] - 1.0f / 33.0f) < 1e-8f);
        }
    }
}

/* One way only computes them; the others must lead there. */
static void several_axes_and_narrow_policies_are_the_same_in_all_forms(void **unused)
{
    (void)unused;
    static const enum engine_policy policies[] = {
        ENGINE_POLICY_FLOAT32, ENGINE_POLICY_MIXED_FLOAT16, ENGINE_POLICY_MIXED_BFLOAT16};
    for (int p = 1; p < 6; p++) {
        float first[ROWS * STRIDE];
        for (int f = 0; f < form_count(); f++) {
            struct engine_softmax_rows rows = rows_of(70);
            rows.several_axes = p % 2 == 1;
            rows.policy = policies[p / 2];
            rows.adder = adder;
            run(&forms[f], &rows);
            if (f == 0)
                memcpy(first, tile, sizeof first);
            assert_memory_equal(first, tile, sizeof first);
        }
    }
}

static void a_fully_masked_row_of_several_axes_is_all_ones(void **unused)
{
    (void)unused;
    float masked[20];
    struct engine_softmax_rows rows = rows_of(20);
    for (int j = 0; j < 20; j++)
        masked[j] = -1e9f;
    rows.adder = masked;
    rows.several_axes = true;
    engine_softmax_best()(&rows);
    for (int j = 0; j < 20; j++)
        assert_true(tile[j] == 1.0f);
}

/* One axis: NaN throughout. Several: logsumexp is infinite, which is NaN at the entry and 0
 * elsewhere; of -inf alone it is -inf, and everything NaN. Under every policy. */
static void infinities_are_those_of_the_layer(void **unused)
{
    (void)unused;
    for (int p = 0; p < 3; p++)
        for (int several = 0; several < 2; several++)
            for (int f = 0; f < form_count(); f++) {
                struct engine_softmax_rows rows = rows_of(40);
                rows.several_axes = several == 1;
                rows.policy = (enum engine_policy)p;
                for (int j = 0; j < 40; j++) {
                    tile[2 * STRIDE + j] = -INFINITY;
                    tile[3 * STRIDE + j] = j == 4 ? 2.0f : -INFINITY;
                }
                tile[7] = tile[9] = INFINITY;
                tile[STRIDE + 39] = NAN;
                forms[f].function(&rows);
                for (int j = 0; j < 40; j++) {
                    bool entry = j == 7 || j == 9;
                    assert_true(entry || several == 0 ? isnan(tile[j]) : tile[j] == 0.0f);
                    assert_true(isnan(tile[STRIDE + j]) && isnan(tile[2 * STRIDE + j]));
                    assert_true(tile[3 * STRIDE + j] == (j == 4 ? 1.0f : 0.0f));
                    assert_true(isfinite(tile[4 * STRIDE + j]));
                }
            }
}

/* x is a product: rounded before positions are added, and again before the mask is. */
static void results_of_narrow_policies_are_values_of_the_type(void **unused)
{
    static const float table[] = {0.0f, 4096.0f, 0.0f};
    (void)unused;
    for (int several = 0; several < 2; several++)
        for (int p = ENGINE_POLICY_MIXED_FLOAT16; p <= ENGINE_POLICY_MIXED_BFLOAT16; p++) {
            struct engine_softmax_rows rows = rows_of(70);
            rows.policy = (enum engine_policy)p;
            rows.several_axes = several == 1;
            rows.adder = adder;
            run(&forms[0], &rows);
            for (int j = 0; j < 70; j++) {
                float rounded = tile[j];
                engine_tensor_round(engine_layer_dtype(rows.policy), &rounded, 1);
                assert_true(rounded == tile[j]);
            }
        }
    struct engine_softmax_rows rows = rows_of(1);
    rows.policy = ENGINE_POLICY_MIXED_FLOAT16;
    rows.keys = 2;
    rows.rows = 1;
    rows.position = table;
    rows.position_length = 2;
    float adders[] = {0.0f, 4096.0f};
    rows.adder = adders;
    tile[0] = 2.0f; /* 4098 is none: 4096, as the other key */
    tile[1] = 1.0f / 8192.0f;
    engine_softmax_portable(&rows);
    assert_true(tile[0] == 0.5f && tile[1] == 0.5f);
}

/* ---- results where they are wanted ------------------------------------------------------------
 */

enum { LEFT_STRIDE = (MOST_KEYS + 31) / 32 * 32, SCORES_STRIDE = 1024 };
enum { PLANES = 3 };
static uint16_t left[PLANES][ROWS * LEFT_STRIDE];
static float scores[ROWS * SCORES_STRIDE] __attribute__((aligned(64)));

static double left_value(int planes, int64_t at)
{
    double sum = 0;
    for (int i = 0; i < planes; i++)
        sum += (double)engine_tensor_bf16_value(left[i][at]);
    return sum;
}

/* Left operands are what the rows hold: as bfloat16, to 16 bits, or exactly; and 0 up to the next
 * 32 keys. */
static void check_left(int planes, const struct engine_softmax_rows *rows, const float *values,
                       int64_t stride)
{
    static const double bounds[PLANES] = {0, 0x1p-16, 0};
    for (int64_t i = 0; i < rows->rows; i++)
        for (int64_t j = 0; j < (rows->keys + 31) / 32 * 32; j++) {
            double got = left_value(planes, i * LEFT_STRIDE + j);
            float value = j < rows->keys ? values[i * stride + j] : 0.0f;
            if (planes == 1)
                value = engine_tensor_bf16_value(engine_tensor_bf16_bits(value));
            double error = fabs(got - (double)value);
            assert_true(error <= bounds[planes - 1] * (double)value ||
                        (isnan(got) && isnan(value)));
        }
}

/* Greatest error; with "streamed" the scores are beside the tile, else in it. */
static double check_results(int planes, int64_t keys, bool defer, bool streamed, float *adders)
{
    struct engine_softmax_rows rows = rows_of(keys);
    struct engine_softmax_results results = {
        .left = left[0], .left_stride = LEFT_STRIDE, .planes = planes, .plane = sizeof left[0]};
    rows.defer = defer;
    rows.adder = adders;
    rows.position = positions;
    rows.position_length = keys < 3 ? 3 : keys;
    rows.query0 = keys / 3;
    memset(left, 0xff, sizeof left);
    memset(scores, 0xff, sizeof scores);
    if (!defer) {
        results.scores = streamed ? scores : tile;
        results.scores_stride = streamed ? SCORES_STRIDE : STRIDE;
        results.streamed = streamed;
    }
    engine_softmax_amx_rows(&rows, &results);
    if (defer) { /* the tile is undefined: the rows are what the operand holds */
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t j = 0; j < keys; j++)
                tile[i * STRIDE + j] = (float)left_value(planes, i * LEFT_STRIDE + j);
        return worst(&rows);
    }
    check_left(planes, &rows, results.scores, results.scores_stride);
    for (int64_t i = 0; i < ROWS && streamed; i++) {
        for (int64_t j = keys; j < (keys + 15) / 16 * 16; j++)
            assert_true(scores[i * SCORES_STRIDE + j] == 0.0f);
        assert_true(isnan(scores[i * SCORES_STRIDE + (keys + 15) / 16 * 16]));
        memcpy(tile + i * STRIDE, scores + i * SCORES_STRIDE, (size_t)keys * sizeof *tile);
    }
    return worst(&rows);
}

static void scores_and_left_operands_are_those_of_the_formula(void **unused)
{
    (void)unused;
    if (engine_kernel_amx_bf16() == NULL)
        return;
    static const double bounds[PLANES][2] = {{4e-4, 4.5e-3}, {2e-6, 2e-5}, {2e-6, 2e-6}};
    for (int planes = 1; planes <= PLANES; planes++) {
        double exact = 0.0, rounded = 0.0;
        for (int64_t keys = 1; keys <= MOST_KEYS; keys += keys < 140 ? 1 : 43)
            for (int variant = 0; variant < 4; variant++) {
                float *adders = (variant & 1) != 0 ? adder : NULL;
                bool streamed = (variant & 2) != 0;
                exact = fmax(exact, check_results(planes, keys, false, streamed, adders));
                rounded = fmax(rounded, check_results(planes, keys, true, false, adders));
            }
        printf("    amx, %d planes: worst error %.2g of a result, %.2g in the operand\n", planes,
               exact, rounded);
        assert_true(exact <= bounds[planes - 1][0] && rounded <= bounds[planes - 1][1]);
    }
}

/* Masked keys are exactly 0, a NaN stays in its row, great logits do not overflow. */
static void check_edges(int planes)
{
    struct engine_softmax_rows rows = rows_of(70);
    for (int j = 0; j < 70; j++) {
        tile[j] = j == 5 ? 3e38f : -3e38f;
        tile[STRIDE + j] = j == 17 ? 3.0f : -INFINITY;
        tile[2 * STRIDE + j] = -1e9f;
        tile[3 * STRIDE + j] = j == 1 ? 0.0f : -100.0f - (float)j;
    }
    tile[4 * STRIDE + 69] = NAN;
    struct engine_softmax_results results = {.scores = tile,
                                             .scores_stride = STRIDE,
                                             .left = left[0],
                                             .left_stride = LEFT_STRIDE,
                                             .planes = planes,
                                             .plane = sizeof left[0]};
    engine_softmax_amx_rows(&rows, &results);
    for (int j = 0; j < 70; j++) {
        assert_true(tile[j] == (j == 5 ? 1.0f : 0.0f));
        assert_true(tile[STRIDE + j] == (j == 17 ? 1.0f : 0.0f));
        assert_true(fabsf(tile[2 * STRIDE + j] - 1.0f / 70.0f) < 1e-8f);
        assert_true(tile[3 * STRIDE + j] == (j == 1 ? 1.0f : 0.0f) ||
                    tile[3 * STRIDE + j] > 1e-38f);
        assert_true(isnan(tile[4 * STRIDE + j]));
    }
    check_left(planes, &rows, tile, STRIDE);
}

static void direct_results_have_the_same_edges(void **unused)
{
    (void)unused;
    for (int planes = 1; planes <= PLANES && engine_kernel_amx_bf16() != NULL; planes++)
        check_edges(planes);
}

/* Given scores are copied bit by bit, small ones too, and packed. */
static void check_copy(int planes, int64_t keys, bool streamed)
{
    struct engine_softmax_rows rows = rows_of(keys);
    struct engine_softmax_results results = {.scores = scores,
                                             .scores_stride = SCORES_STRIDE,
                                             .streamed = streamed,
                                             .left = left[0],
                                             .left_stride = LEFT_STRIDE,
                                             .planes = planes,
                                             .plane = sizeof left[0]};
    for (int64_t i = 0; i < ROWS * STRIDE; i++)
        tile[i] = fabsf(tile[i]);
    memset(left, 0xff, sizeof left);
    memset(scores, 0xff, sizeof scores);
    engine_softmax_amx_copy(&rows, &results);
    for (int64_t i = 0; i < ROWS; i++)
        assert_memory_equal(scores + i * SCORES_STRIDE, tile + i * STRIDE,
                            (size_t)keys * sizeof *scores);
    check_left(planes, &rows, tile, STRIDE);
}

static void given_scores_are_copied_and_packed(void **unused)
{
    (void)unused;
    for (int planes = 1; planes <= PLANES && engine_kernel_amx_bf16() != NULL; planes++)
        for (int64_t keys = 1; keys <= MOST_KEYS; keys += 37) {
            check_copy(planes, keys, false);
            check_copy(planes, keys / 16 * 16, true);
        }
}

static void no_rows_and_no_keys_touch_nothing(void **unused)
{
    (void)unused;
    for (int f = 0; f < form_count(); f++) {
        struct engine_softmax_rows rows = rows_of(70);
        rows.rows = 0;
        forms[f].function(&rows);
        rows.rows = ROWS;
        rows.keys = 0;
        forms[f].function(&rows);
        assert_memory_equal(tile, logits, sizeof tile);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_any_length_are_those_of_the_formula),
        cmocka_unit_test(positions_are_clipped_at_both_ends),
        cmocka_unit_test(the_exponential_is_right_to_two_units_in_the_last_place),
        cmocka_unit_test(a_masked_key_is_exactly_zero_and_a_fully_masked_row_uniform),
        cmocka_unit_test(minus_infinity_is_a_masked_key),
        cmocka_unit_test(a_nan_makes_its_row_nan_and_no_other),
        cmocka_unit_test(great_logits_do_not_overflow),
        cmocka_unit_test(several_axes_and_narrow_policies_are_the_same_in_all_forms),
        cmocka_unit_test(a_fully_masked_row_of_several_axes_is_all_ones),
        cmocka_unit_test(infinities_are_those_of_the_layer),
        cmocka_unit_test(results_of_narrow_policies_are_values_of_the_type),
        cmocka_unit_test(scores_and_left_operands_are_those_of_the_formula),
        cmocka_unit_test(direct_results_have_the_same_edges),
        cmocka_unit_test(given_scores_are_copied_and_packed),
        cmocka_unit_test(no_rows_and_no_keys_touch_nothing),
    };
    fill(logits, ROWS * STRIDE, 6.0f);
    fill(adder, ROWS * STRIDE, 2.0f);
    fill(positions, 2 * MOST_KEYS, 1.0f);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
