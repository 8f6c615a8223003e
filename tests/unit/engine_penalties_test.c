/* engine_penalties_test.c - regularization losses and constraints against values by hand, and that
 * neither changes what the layer computes. */
#include "tests/unit/engine_support.h"

#include "engine/penalties.h"

static float values[] = {1, -2, 3, 0, 0.5f, -0.25f};
static struct engine_tensor weight = {
    .dtype = ENGINE_F32, .rank = 3, .shape = {3, 1, 2}, .data = values};

static void losses_are_keras_sums(void **unused)
{
    struct engine_regularizer r = {.kind = ENGINE_REGULARIZER_L1, .l1 = 0.1};
    (void)unused;
    assert_true(fabs(engine_penalties_loss(&r, &weight) - 0.1 * 6.75) < 1e-12);
    r = (struct engine_regularizer){.kind = ENGINE_REGULARIZER_L2, .l2 = 0.2};
    assert_true(fabs(engine_penalties_loss(&r, &weight) - 0.2 * 14.3125) < 1e-12);
    r = (struct engine_regularizer){.kind = ENGINE_REGULARIZER_L1L2, .l1 = 0.1, .l2 = 0.2};
    assert_true(fabs(engine_penalties_loss(&r, &weight) - 0.675 - 2.8625) < 1e-12);
    r.kind = ENGINE_REGULARIZER_NONE;
    assert_true(engine_penalties_loss(&r, &weight) == 0);
}

static bool satisfied(enum engine_constraint_kind kind, double least, double most, int64_t axis)
{
    const struct engine_constraint c = {.kind = kind,
                                        .min_value = least,
                                        .max_value = most,
                                        .rate = 1,
                                        .axis_rank = 1,
                                        .axis = {axis}};
    return engine_penalties_satisfied(&c, &weight);
}

/* Norms over axis 0 of [3][1][2]: columns (1, 3, 0.5) and (-2, 0, -0.25). */
static void constraints_look_at_norms_over_their_axes(void **unused)
{
    double first = sqrt(1 + 9 + 0.25), second = sqrt(4 + 0.0625);
    (void)unused;
    assert_true(satisfied(ENGINE_CONSTRAINT_NONE, 0, 0, 0));
    assert_true(satisfied(ENGINE_CONSTRAINT_MAX_NORM, 0, first * 1.0001, 0));
    assert_false(satisfied(ENGINE_CONSTRAINT_MAX_NORM, 0, first * 0.99, 0));
    assert_true(satisfied(ENGINE_CONSTRAINT_MAX_NORM, 0, 3.1, 2)); /* rows: at most (3, 0) */
    assert_true(satisfied(ENGINE_CONSTRAINT_MAX_NORM, 0, 3.1, -1));
    assert_true(satisfied(ENGINE_CONSTRAINT_MIN_MAX_NORM, second * 0.999, first * 1.001, 0));
    assert_false(satisfied(ENGINE_CONSTRAINT_MIN_MAX_NORM, second * 1.01, first * 1.001, 0));
    assert_false(satisfied(ENGINE_CONSTRAINT_UNIT_NORM, 0, 0, 0));
    assert_false(satisfied(ENGINE_CONSTRAINT_NON_NEG, 0, 0, 0));
}

static void good_weights_satisfy(void **unused)
{
    float unit[] = {0.6f, 0.8f};
    struct engine_tensor t = {.dtype = ENGINE_F32, .rank = 1, .shape = {2}, .data = unit};
    struct engine_constraint c = {.kind = ENGINE_CONSTRAINT_UNIT_NORM, .axis_rank = 1};
    (void)unused;
    assert_true(engine_penalties_satisfied(&c, &t));
    c.kind = ENGINE_CONSTRAINT_NON_NEG;
    assert_true(engine_penalties_satisfied(&c, &t));
}

/* Keras divides by 1e-7 + norm: of a norm of 1e-3 that moves a weight by 1e-4 of itself, and of the
 * smallest ones by all they are, though no rule is broken. */
static void norms_near_keras_guard_satisfy(void **unused)
{
    float small[] = {0.6f, 0.8f};
    struct engine_tensor t = {.dtype = ENGINE_F32, .rank = 1, .shape = {2}, .data = small};
    const struct engine_constraint most = {
        .kind = ENGINE_CONSTRAINT_MAX_NORM, .max_value = 2, .axis_rank = 1};
    const struct engine_constraint between = {
        .kind = ENGINE_CONSTRAINT_MIN_MAX_NORM, .max_value = 1, .rate = 1, .axis_rank = 1};
    const struct engine_constraint unit = {.kind = ENGINE_CONSTRAINT_UNIT_NORM, .axis_rank = 1};
    (void)unused;
    for (double norm = 1; norm > 1e-40; norm /= 10) {
        small[0] = (float)(0.6 * norm);
        small[1] = (float)(0.8 * norm);
        assert_true(engine_penalties_satisfied(&most, &t));
        assert_true(engine_penalties_satisfied(&between, &t));
        /* Nothing of 1e-13 is moved by as much as the guard is. */
        assert_int_equal(engine_penalties_satisfied(&unit, &t), norm > 0.5 || norm < 3e-14);
    }
    small[0] = small[1] = 0.0f;
    assert_true(engine_penalties_satisfied(&most, &t));
    assert_true(engine_penalties_satisfied(&unit, &t)); /* as Keras leaves it */
}

/* Kernels and biases each answer to their own; the output is that of the layer without. */
static void a_model_reports_them_and_computes_the_same(void **unused)
{
    struct engine *engine = support_open(1);
    struct engine_layer_config config;
    struct engine_penalties plain, with;
    struct support_random r = {2};
    struct support_answer before, after;
    struct engine_call call;
    (void)unused;
    engine_layer_defaults(&config);
    config.num_heads = config.key_dim = 2;
    config.bias_initializer.kind = ENGINE_INITIALIZER_CONSTANT;
    config.bias_initializer.value = -0.5;
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, 4}};
    engine_call_init(&call);
    call.inputs[ENGINE_QUERY] = support_random_tensor(&r, ENGINE_F32, 3, (int64_t[]){1, 3, 4});
    struct engine_model *model = support_draw(engine, &config);
    engine_model_penalties(model, &plain);
    support_run(engine, model, &call, false, &before);
    engine_model_release(model);
    config.bias_regularizer = (struct engine_regularizer){.kind = ENGINE_REGULARIZER_L1, .l1 = 2};
    config.bias_constraint.kind = ENGINE_CONSTRAINT_NON_NEG;
    model = support_draw(engine, &config);
    engine_model_penalties(model, &with);
    support_run(engine, model, &call, false, &after);
    engine_model_release(model);
    assert_true(plain.regularization_loss == 0);
    assert_true(plain.kernel_constraint_satisfied && plain.bias_constraint_satisfied);
    /* 3 biases of 2 x 2 and one of 4, each of 0.5. */
    assert_true(fabs(with.regularization_loss - 2 * 16 * 0.5) < 1e-9);
    assert_true(with.kernel_constraint_satisfied);
    assert_false(with.bias_constraint_satisfied);
    support_same_bits(&before, &after);
    support_answer_reset(&before);
    support_answer_reset(&after);
    support_call_reset(&call);
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_are_keras_sums),
        cmocka_unit_test(constraints_look_at_norms_over_their_axes),
        cmocka_unit_test(good_weights_satisfy),
        cmocka_unit_test(norms_near_keras_guard_satisfy),
        cmocka_unit_test(a_model_reports_them_and_computes_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
