/* engine_softmax_test.c - every form of the row epilogue against double precision: all lengths to
 * 70, 257 and 1,000; positions clipped at both ends, masks of one row or many, deferred factors,
 * NaN, infinities, rows masked throughout; nothing beyond the row is written. */
#include "tests/unit/engine_support.h"

#include "engine/cpu.h"
#include "engine/softmax.h"

/* Relative to the value; a value e^-d is subject to the rounding of d, so small ones get more. */
#define TOLERANCE 1e-6

enum { ROWS = 5, GUARD = 3, MOST = 1000 };

struct form {
    const char *name;
    engine_softmax_function *function;
};

static int forms(struct form ret[3])
{
    const struct engine_cpu *cpu = engine_cpu();
    int count = 0;
    ret[count++] = (struct form){"portable", engine_softmax_portable};
    if (cpu->avx2)
        ret[count++] = (struct form){"avx2", engine_softmax_avx2_rows};
    if (cpu->avx512)
        ret[count++] = (struct form){"avx512", engine_softmax_avx512_rows};
    return count;
}

static double added(const struct engine_softmax_rows *rows, float x, int64_t row, int64_t key)
{
    int64_t last = 2 * rows->position_length - 2;
    int64_t at = key - (rows->query0 + row) + rows->position_length - 1;
    at = at < 0 ? 0 : at > last ? last : at;
    if (rows->position != NULL)
        x += rows->position[at];
    if (rows->adder != NULL)
        x += rows->adder[row * rows->adder_stride + key];
    return (double)x;
}

static void define(const struct engine_softmax_rows *rows, const float *x, int64_t row, double *ret)
{
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < rows->keys; j++) {
        ret[j] = added(rows, x[j], row, j);
        most = ret[j] > most ? ret[j] : most;
    }
    for (int64_t j = 0; j < rows->keys; j++)
        sum += exp(ret[j] - most);
    double total = (double)((float)most + (float)log(sum));
    for (int64_t j = 0; j < rows->keys; j++)
        ret[j] = rows->several_axes ? exp(ret[j] - total) : exp(ret[j] - most) / sum;
}

struct world {
    struct support_random random;
    double worst;
    float given[ROWS * (MOST + GUARD)], tile[ROWS * (MOST + GUARD)];
    float position[2 * MOST], adder[ROWS * MOST], factors[ROWS];
};

static void check(struct world *w, const struct form *form, struct engine_softmax_rows rows)
{
    double wanted[MOST];
    rows.tile = w->tile;
    rows.stride = rows.keys + GUARD;
    memcpy(w->tile, w->given, sizeof w->tile);
    form->function(&rows);
    for (int64_t i = 0; i < rows.rows; i++) {
        const float *row = w->tile + i * rows.stride;
        define(&rows, w->given + i * rows.stride, i, wanted);
        for (int64_t j = 0; j < rows.keys; j++) {
            double got = (double)row[j] * (rows.defer ? (double)w->factors[i] : 1);
            double error = fabs(got - wanted[j]) / (fabs(wanted[j]) + 1e-30);
            double allowed = wanted[j] > 0 ? TOLERANCE * fmax(1, -0.2 * log(wanted[j])) : 0;
            if (rows.several_axes)
                allowed += 2e-6; /* an ulp of the total, which is rounded to float */
            if (!(error <= allowed))
                fail_msg("%s, %lld keys, row %lld: element %lld is %.9g, should be %.9g",
                         form->name, (long long)rows.keys, (long long)i, (long long)j, got,
                         wanted[j]);
            w->worst = error > w->worst ? error : w->worst;
        }
        assert_memory_equal(row + rows.keys, w->given + i * rows.stride + rows.keys,
                            GUARD * sizeof *row);
    }
}

static void fill(struct world *w, int64_t keys)
{
    for (int i = 0; i < ROWS * (MOST + GUARD); i++)
        w->given[i] = support_value(&w->random) * 5;
    for (int i = 0; i < 2 * MOST; i++)
        w->position[i] = support_value(&w->random);
    for (int64_t i = 0; i < ROWS * keys; i++)
        w->adder[i] = support_below(&w->random, 3) == 0 ? -1e9f : 0.0f;
    for (int64_t i = 0; i < ROWS; i++)
        w->adder[i * keys + support_below(&w->random, keys)] = 0.0f;
}

static void check_length(struct world *w, const struct form *form, int64_t keys)
{
    fill(w, keys);
    for (int kind = 0; kind < 32; kind++) {
        struct engine_softmax_rows rows = {.rows = ROWS, .keys = keys, .factors = w->factors};
        rows.position = (kind & 1) != 0 ? w->position : NULL;
        rows.position_length = 1 + support_below(&w->random, keys + 3);
        rows.query0 = support_below(&w->random, keys + 5);
        rows.adder = (kind & 2) != 0 ? w->adder : NULL;
        rows.adder_stride = (kind & 4) != 0 ? keys : 0;
        rows.several_axes = (kind & 8) != 0;
        rows.defer = (kind & 16) != 0 && !rows.several_axes;
        check(w, form, rows);
    }
}

static void every_form_and_length_agrees_with_double_precision(void **unused)
{
    struct form all[3];
    int count = forms(all);
    struct world *w = support_memory(sizeof *w);
    (void)unused;
    memset(w, 0, sizeof *w);
    w->random.state = 4;
    for (int f = 0; f < count; f++) {
        w->worst = 0;
        for (int64_t keys = 1; keys <= 70; keys++)
            check_length(w, &all[f], keys);
        check_length(w, &all[f], 257);
        check_length(w, &all[f], MOST);
        printf("%-8s worst relative error %.2g\n", all[f].name, w->worst);
    }
    free(w);
}

static void run_row(const struct form *form, float *row, int64_t keys, const float *adder,
                    bool several_axes)
{
    const struct engine_softmax_rows rows = {.tile = row,
                                             .stride = keys,
                                             .rows = 1,
                                             .keys = keys,
                                             .adder = adder,
                                             .several_axes = several_axes};
    form->function(&rows);
}

static void nan_spreads_over_its_row_and_minus_infinity_is_a_masked_key(void **unused)
{
    struct form all[3];
    int count = forms(all);
    (void)unused;
    for (int f = 0; f < count; f++)
        for (int64_t keys = 1; keys <= 40; keys++)
            for (int64_t at = 0; at < keys; at++) {
                float row[40];
                for (int64_t j = 0; j < keys; j++)
                    row[j] = j == at ? NAN : (float)j * 0.1f;
                run_row(&all[f], row, keys, NULL, false);
                for (int64_t j = 0; j < keys; j++)
                    assert_true(isnan(row[j]));
                for (int64_t j = 0; j < keys; j++)
                    row[j] = j == at ? -INFINITY : 1;
                run_row(&all[f], row, keys, NULL, false);
                for (int64_t j = 0; j < keys; j++)
                    if (keys == 1)
                        assert_true(isnan(row[j])); /* a row of only -inf */
                    else
                        assert_true(
                            fabs((double)row[j] - (j == at ? 0 : 1.0 / (double)(keys - 1))) < 1e-7);
            }
}

static void a_row_masked_throughout_is_uniform_or_all_ones(void **unused)
{
    struct form all[3];
    int count = forms(all);
    (void)unused;
    for (int f = 0; f < count; f++)
        for (int64_t keys = 1; keys <= 70; keys++) {
            float row[70], adder[70];
            for (int several = 0; several < 2; several++) {
                for (int64_t j = 0; j < keys; j++) {
                    row[j] = (float)(j % 7) - 3;
                    adder[j] = -1e9f;
                }
                run_row(&all[f], row, keys, adder, several != 0);
                for (int64_t j = 0; j < keys; j++)
                    assert_true(fabs((double)row[j] - (several ? 1 : 1.0 / (double)keys)) < 1e-7);
            }
        }
}

static void masked_keys_get_exactly_zero(void **unused)
{
    struct form all[3];
    int count = forms(all);
    (void)unused;
    for (int f = 0; f < count; f++) {
        float row[50], adder[50];
        for (int j = 0; j < 50; j++) {
            row[j] = (float)(j % 11);
            adder[j] = j % 3 == 0 ? -1e9f : 0.0f;
        }
        run_row(&all[f], row, 50, adder, false);
        for (int j = 0; j < 50; j += 3)
            assert_true(row[j] == 0.0f);
    }
}

static void large_logits_neither_overflow_nor_vanish(void **unused)
{
    struct form all[3];
    int count = forms(all);
    (void)unused;
    for (int f = 0; f < count; f++) {
        float row[20] = {0};
        row[3] = row[17] = 3e38f;
        row[5] = -3e38f;
        run_row(&all[f], row, 20, NULL, false);
        for (int j = 0; j < 20; j++)
            assert_true(row[j] == (j == 3 || j == 17 ? 0.5f : 0.0f));
    }
}

static void rows_are_rounded_under_a_policy_of_16_bits(void **unused)
{
    struct form all[3];
    int count = forms(all);
    (void)unused;
    for (int f = 0; f < count; f++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            /* Both adders absorb small scores of their own type: uniform. */
            float row[9] = {-3, -2, -1, 0, 0.5f, 1, 2, 3, 3.5f}, adder[9];
            struct engine_softmax_rows rows = {.tile = row, .stride = 9, .rows = 1, .keys = 9};
            for (int j = 0; j < 9; j++)
                adder[j] = bf16 ? -998244352.0f : -32752.0f;
            rows.adder = adder;
            rows.policy = bf16 ? ENGINE_POLICY_MIXED_BFLOAT16 : ENGINE_POLICY_MIXED_FLOAT16;
            all[f].function(&rows);
            for (int j = 0; j < 9; j++)
                assert_true(fabs((double)row[j] - 1.0 / 9) < 1e-7);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_and_length_agrees_with_double_precision),
        cmocka_unit_test(nan_spreads_over_its_row_and_minus_infinity_is_a_masked_key),
        cmocka_unit_test(a_row_masked_throughout_is_uniform_or_all_ones),
        cmocka_unit_test(masked_keys_get_exactly_zero),
        cmocka_unit_test(large_logits_neither_overflow_nor_vanish),
        cmocka_unit_test(rows_are_rounded_under_a_policy_of_16_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
